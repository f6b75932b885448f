// SPDX-License-Identifier: GPL-2.0

//! That a vCPU is loaded on this CPU, and the scheduler hook that keeps it so.

use crate::vendor::private::Resident;
use crate::vendor::Vendor;
use core::marker::PhantomData;
use host::pin::PinnedCpu;
use host::preempt::SchedHook;
use host::preempt::SchedOps;
use kernel::prelude::*;

/// What the code above wants to hear of the scheduler, beside the vendor's own reloading.
pub trait SchedObserver: Send + Sync + 'static {
    /// The vCPU's task starts to run on this CPU, after the vendor loaded it.
    fn sched_in(&self, cpu: &PinnedCpu<'_>);
    /// The task leaves the CPU, before the vendor puts it; `entered` if a guest ran since it came.
    fn sched_out(&self, cpu: &PinnedCpu<'_>, preempted: bool, entered: bool);
}

/// The part of a vCPU that the scheduler hook sees.
pub struct Residency<V: Vendor, S: SchedObserver> {
    cpu: V::Cpu,
    observer: S,
}

impl<V: Vendor, S: SchedObserver> SchedOps for Residency<V, S> {
    #[inline]
    fn sched_in(&self, cpu: &PinnedCpu<'_>, back: bool) {
        self.cpu.load(cpu);
        self.cpu.presence().load(back);
        self.observer.sched_in(cpu);
    }

    #[inline]
    fn sched_out(&self, cpu: &PinnedCpu<'_>, preempted: bool) {
        let entered = self.cpu.presence().was_entered();
        self.observer.sched_out(cpu, preempted, entered);
        self.cpu.put(cpu);
    }
}

/// The scheduler hook of one vCPU.
#[pin_data]
pub struct VcpuHook<V: Vendor, S: SchedObserver> {
    #[pin]
    hook: SchedHook<Residency<V, S>>,
}

impl<V: Vendor, S: SchedObserver> VcpuHook<V, S> {
    /// A hook for the vCPU whose other half was made together with `cpu`.
    pub fn new(cpu: V::Cpu, observer: S) -> impl PinInit<Self> {
        pin_init!(Self {
            hook <- SchedHook::new(Residency { cpu, observer }),
        })
    }

    /// The observer.
    pub fn observer(&self) -> &S {
        &self.hook.ops().observer
    }

    /// Runs `f` with the vCPU loaded. EINVAL if `hw` is another vCPU's, EBUSY if it is loaded or this
    /// thread has one loaded: so what is loaded is the one that the CPU has.
    pub fn with_loaded<R>(
        &self,
        hw: &mut V::Vcpu,
        f: impl FnOnce(&mut Loaded<'_, V>) -> R,
    ) -> Result<R> {
        if !V::paired(hw, &self.hook.ops().cpu) {
            return Err(EINVAL);
        }
        self.hook.with_loaded(|| {
            f(&mut Loaded {
                hw,
                cpu: &self.hook.ops().cpu,
                _not_send: PhantomData,
            })
        })
    }
}

/// Evidence that this vCPU is loaded on the CPU the task runs on.
///
/// # Invariants
///
/// Exists only inside [`VcpuHook::with_loaded`]; `hw` and `cpu` are of the same vCPU.
pub struct Loaded<'a, V: Vendor> {
    pub(crate) hw: &'a mut V::Vcpu,
    pub(crate) cpu: &'a V::Cpu,
    _not_send: PhantomData<*mut ()>,
}

impl<V: Vendor> Loaded<'_, V> {
    /// The half that only this vCPU's thread touches.
    #[inline]
    pub fn hw(&self) -> &V::Vcpu {
        self.hw
    }
}
