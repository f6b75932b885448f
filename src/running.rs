// SPDX-License-Identifier: GPL-2.0

//! The module on a vendor's hardware: what exists from load to unload, and the change of parameters
//! in between.
//!
//! A thin module (`kvm-amd.ko`, `kvm-intel.ko`) may bring other parameters while there is no VM:
//! virtualization goes off, the backend is probed again, virtualization goes on. [`VmUse`] is what
//! keeps the two apart.

use crate::backend::Backend;
use crate::dev::system::System;
use crate::host_caps;
use crate::host_caps::HostCaps;
use crate::mmu::zap;
use crate::pv::clock::HostClock;
use crate::vm::all::AllVms;
use crate::vm::gmem;
use core::sync::atomic::AtomicIsize;
use core::sync::atomic::Ordering;
use host::errno::not_supported;
use host::gmem_fs::GmemFs;
use host::gtod::Gtod;
use host::handover::HandOver;
use host::handover::ParamOps;
use host::hwvirt::AllOff;
use host::hwvirt::HwVirt;
use host::hwvirt::X86Virt;
use host::kept::UntilUnload;
use host::misc::DevKvm;
use host::preempt::HooksEnabled;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use virt::hooks::Hooks;

/// How many VMs there are; negative while the backend changes.
static VMS: AtomicIsize = AtomicIsize::new(0);

/// There is a VM: the backend stays as it is.
pub(crate) struct VmUse(());

impl VmUse {
    /// Counts a VM. EBUSY while the backend changes.
    pub(crate) fn take() -> Result<Self> {
        VMS.fetch_update(Ordering::Acquire, Ordering::Relaxed, |n| {
            (n >= 0).then_some(n.wrapping_add(1))
        })
        .map(|_| Self(()))
        .map_err(|_| EBUSY)
    }
}

impl Drop for VmUse {
    fn drop(&mut self) {
        VMS.fetch_sub(1, Ordering::Release);
    }
}

/// There is no VM, and none can be made.
struct NoVms(());

impl NoVms {
    /// EBUSY if there is one.
    fn take() -> Result<Self> {
        VMS.compare_exchange(0, -1, Ordering::Acquire, Ordering::Relaxed)
            .map(|_| Self(()))
            .map_err(|_| EBUSY)
    }
}

impl Drop for NoVms {
    fn drop(&mut self) {
        VMS.store(0, Ordering::Release);
    }
}

/// Virtualization, on or (while the backend changes) off.
#[pin_data]
struct Switch<V: Backend> {
    #[pin]
    virt: Mutex<Option<HwVirt<Hooks<V>>>>,
    vms: Arc<AllVms<V>>,
}

fn on<V: Backend>() -> Result<HwVirt<Hooks<V>>> {
    HwVirt::enable(V::EXTENSION, Arc::new(Hooks::new(V::probed()), GFP_KERNEL)?)
}

/// Uses what was found out for the present parameters before, or finds it out.
fn probe<V: Backend>(off: &AllOff) -> Result {
    if V::probed().choose(V::probed_as_set).is_none() {
        V::probed().keep(V::probe(off)?)?;
    }
    host_caps::probe::<V>()?;
    V::install(V::module()?, off);
    Ok(())
}

impl<V: Backend> Switch<V> {
    fn new(vms: Arc<AllVms<V>>) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                virt <- new_mutex!(Some(on::<V>()?), "kvm->virt"),
                vms,
            }? Error),
            GFP_KERNEL,
        )
    }

    /// Probes while virtualization is off; goes back to the last backend if that fails.
    fn probe_again(&self) -> Result {
        let mut virt = self.virt.lock();
        let before: *const V::Module = V::module()?;
        *virt = None;
        let off = AllOff::claim()?;
        let probed = probe::<V>(&off);
        if probed.is_err() {
            V::probed().choose(|m| core::ptr::eq(m, before));
            host_caps::probe::<V>()?;
            V::install(V::module()?, &off);
        }
        drop(off);
        *virt = Some(on::<V>()?);
        probed
    }
}

impl<V: Backend> ParamOps for Switch<V> {
    fn reprobe(&self, extension: X86Virt) -> Result {
        if extension != V::EXTENSION {
            pr_err!("these parameters are for another vendor's processors\n");
            return Err(not_supported());
        }
        let Ok(none) = NoVms::take() else {
            pr_err!("parameters cannot change while there are virtual machines\n");
            return Err(EBUSY);
        };
        let done = self.probe_again();
        if self.virt.lock().is_none() {
            pr_err!("virtualization stays off: unload and load the module\n");
            // No VM can be made any more.
            core::mem::forget(none);
        }
        done
    }

    fn may_disable_nx(&self) -> Result {
        if self.vms.is_empty() {
            Ok(())
        } else {
            Err(EBUSY)
        }
    }

    fn nx_changed(&self) {
        // Whoever maps something later, under the MMU lock, goes by the new value.
        self.vms.for_each(zap::zap_all);
    }
}

/// What exists while the module is loaded. Dropped in the order of its fields: first nobody can open
/// the device or change parameters any more, then virtualization goes off.
pub(crate) struct Running<V: Backend> {
    _device: DevKvm<System<V>>,
    _hand_over: HandOver<Switch<V>>,
    _files: GmemFs,
    _clock: Gtod<HostClock>,
    _hooks: HooksEnabled,
    _probed: UntilUnload<V::Module>,
    _caps: UntilUnload<HostCaps>,
}

impl<V: Backend> Running<V> {
    pub(crate) fn start() -> Result<Self> {
        host::params::settle();
        let kept = (V::probed().until_unload(), host_caps::until_unload());
        probe::<V>(&AllOff::claim()?)?;
        // One text patch at load instead of one at each VM.
        let hooks = HooksEnabled::new();
        let clock = Gtod::start(Arc::new(HostClock, GFP_KERNEL)?)?;
        let vms = AllVms::new()?;
        let files = gmem::file_system()?;
        let hand_over = HandOver::start(Switch::new(vms.clone())?)?;
        let device = DevKvm::register(Arc::new(System(vms), GFP_KERNEL)?)?;
        pr_info!("running on {}\n", V::NAME);
        Ok(Self {
            _device: device,
            _hand_over: hand_over,
            _files: files,
            _clock: clock,
            _hooks: hooks,
            _probed: kept.0,
            _caps: kept.1,
        })
    }
}
