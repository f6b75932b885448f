// SPDX-License-Identifier: GPL-2.0

//! A virtual CPU: its objects, and the context that its handlers work in.
//!
//! | part | guard |
//! |---|---|
//! | [`Vcpu::shared`] | atomics; any thread, any context |
//! | [`Vcpu::inner`] | the vCPU mutex: registers, events, everything an ioctl may change |
//! | [`Vcpu::run`], [`Vcpu::pio`] | shared with user space, read and written as bytes |
//! | [`Vcpu::hook`] | the scheduler; sees only atomics |

pub(crate) mod attr;
pub(crate) mod code;
pub(crate) mod cpuid;
pub(crate) mod deadline;
pub(crate) mod event;
pub(crate) mod fetch;
pub(crate) mod fpu;
pub(crate) mod halt;
pub(crate) mod hw_apic;
pub(crate) mod interrupt;
pub(crate) mod mem;
pub(crate) mod mp;
pub(crate) mod msr;
pub(crate) mod passthrough;
pub(crate) mod pending;
pub(crate) mod regs;
pub(crate) mod run;
pub(crate) mod shared;
pub(crate) mod smm;
pub(crate) mod sregs;
pub(crate) mod state;
pub(crate) mod sync;
pub(crate) mod user_exit;

use crate::backend::Backend;
use crate::host_caps;
use crate::pv;
use crate::vm::VmCore;
use host::lock::KillableMutex;
use host::run_page::SharedPage;
use host::timer::HardTimer;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::stats::VcpuStat;
use model::x86::ctrl::cr0;
use model::x86::msr::TSX_CTRL;
use model::x86::msr::TSX_CTRL_RTM_DISABLE;
use shared::ApicTimer;
use shared::Sched;
use shared::VcpuShared;
use state::State;
use virt::loaded::Loaded;
use virt::loaded::VcpuHook;

/// A virtual CPU.
#[pin_data]
pub(crate) struct Vcpu<V: Backend> {
    /// What other threads reach.
    pub(crate) shared: Arc<VcpuShared>,
    /// `struct kvm_run`.
    pub(crate) run: SharedPage,
    /// Data of port accesses that user space finishes.
    pub(crate) pio: SharedPage,
    /// The timer behind the local APIC.
    #[pin]
    pub(crate) timer: HardTimer<ApicTimer>,
    #[pin]
    hook: VcpuHook<V, Sched>,
    #[pin]
    inner: KillableMutex<Inner<V>>,
}

/// What the vCPU mutex guards.
pub(crate) struct Inner<V: Backend> {
    /// The hardware's part.
    hw: KBox<V::Vcpu>,
    /// Ours.
    pub(crate) st: KBox<State>,
}

/// What a handler works with: the VM, the vCPU's own state, and the evidence that it is loaded.
pub(crate) struct Cx<'a, 'l, V: Backend> {
    /// The VM.
    pub(crate) vm: &'a VmCore<V>,
    /// The vCPU's parts that need no lock.
    pub(crate) vcpu: &'a Vcpu<V>,
    /// The vCPU's own state.
    pub(crate) st: &'a mut State,
    /// The vCPU is loaded on this CPU.
    pub(crate) l: &'a mut Loaded<'l, V>,
}

impl<V: Backend> Cx<'_, '_, V> {
    /// It happened once more.
    #[inline]
    pub(crate) fn count(&self, stat: VcpuStat) {
        self.vcpu.shared.stats.count(stat);
    }

    /// Is CR0.PE set?
    pub(crate) fn protected_mode(&self) -> bool {
        V::cr0(self.l) & cr0::PE != 0
    }

    /// A general-purpose register by its encoding, 0 to 15.
    #[inline]
    pub(crate) fn gpr(&self, n: u8) -> u64 {
        if n == 4 {
            return V::rsp(self.l);
        }
        V::regs(self.l)
            .gpr
            .get(usize::from(n))
            .copied()
            .unwrap_or(0)
    }

    /// Sets a general-purpose register by its encoding.
    #[inline]
    pub(crate) fn set_gpr(&mut self, n: u8, v: u64) {
        if n == 4 {
            V::set_rsp(self.l, v);
        } else if let Some(r) = V::regs_mut(self.l).gpr.get_mut(usize::from(n)) {
            *r = v;
        }
    }
}

/// The vendor's halves, the larger one on the heap.
#[inline(never)]
fn hardware<V: Backend>(vm: &VmCore<V>) -> Result<(KBox<V::Vcpu>, V::Cpu)> {
    let place = KBox::<V::Vcpu>::new_uninit(GFP_KERNEL_ACCOUNT)?;
    // Not `?`, which would move the pair once more.
    match V::new_vcpu(V::module()?, &vm.hw) {
        Ok((hw, cpu)) => Ok((KBox::write(place, hw), cpu)),
        Err(e) => Err(e),
    }
}

// Nothing in here is ever borrowed in place for longer than the lock is held.
impl<V: Backend> Unpin for Inner<V> {}

impl<V: Backend> Vcpu<V> {
    /// Makes a vCPU in its reset state.
    #[inline(never)]
    pub(crate) fn new(
        vm: &VmCore<V>,
        shared: Arc<VcpuShared>,
        bsp: bool,
        tsc_khz: u32,
    ) -> Result<Arc<Self>> {
        let (mut hw, cpu) = hardware(vm)?;
        let st = State::new(vm, &mut hw, shared.id, bsp, tsc_khz)?;
        let sched = Sched {
            shared: shared.clone(),
            base: vm.base.clone(),
        };
        let timer = ApicTimer {
            shared: shared.clone(),
        };
        let this = Arc::pin_init(
            try_pin_init!(Self {
                shared,
                run: SharedPage::new()?,
                pio: SharedPage::new()?,
                timer <- HardTimer::new(timer),
                hook <- VcpuHook::new(cpu, sched),
                inner <- KillableMutex::new(Inner { hw, st }, c"vcpu->mutex", kernel::static_lock_class!()),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        this.with(vm, |cx| mp::power_on(cx))?;
        Ok(this)
    }

    /// Locks the vCPU and runs `f` with it loaded. EINTR if the task is killed while it waits.
    #[inline]
    pub(crate) fn with<R>(
        &self,
        vm: &VmCore<V>,
        f: impl FnOnce(&mut Cx<'_, '_, V>) -> R,
    ) -> Result<R> {
        let mut guard = self.inner.lock_killable()?;
        let Inner { hw, st } = &mut *guard;
        self.hook.with_loaded(hw, |l| {
            let mut cx = Cx {
                vm,
                vcpu: self,
                st,
                l,
            };
            if self.shared.must_follow_host() {
                pv::tsc::follow_host(&mut cx);
            }
            f(&mut cx)
        })
    }

    /// Locks the vCPU and runs `f` on the state that needs no hardware.
    pub(crate) fn with_state<R>(&self, f: impl FnOnce(&mut State) -> R) -> Result<R> {
        let mut guard = self.inner.lock_killable()?;
        Ok(f(&mut guard.st))
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    /// Control registers or EFER changed as a whole: what hangs on them follows.
    pub(crate) fn sregs_changed(&mut self) {
        self.cpuid_runtime();
    }

    /// Transactions abort in a guest that was not told of them. SDM: vol 1, 16.3.3.
    #[cold]
    fn tsx_offered(&mut self, rtm: bool) {
        let v = if rtm { 0 } else { TSX_CTRL_RTM_DISABLE };
        self.st.msrs.state.tsx_ctrl = v;
        self.st.cpuid.hide_tsx(false);
        V::set_msr(self.l, TSX_CTRL, v);
    }

    /// The guest has another CPUID now.
    pub(crate) fn cpuid_changed(&mut self) {
        use model::x86::cpuid::Feature;
        self.cpuid_runtime();
        let f = &self.st.cpuid.features;
        let (x2apic, deadline) = (f.has(Feature::X2APIC), f.has(Feature::TSC_DEADLINE));
        if let Some(a) = &mut self.st.apic {
            let mut cfg = *a.config();
            cfg.x2apic = x2apic;
            cfg.tsc_deadline = deadline;
            a.configure(cfg);
        }
        let rtm = f.has(Feature::RTM);
        if host_caps::get().is_some_and(|h| h.msrs.tsx_ctrl) {
            self.tsx_offered(rtm);
        }
        self.update_traps();
    }
}
