// SPDX-License-Identifier: GPL-2.0

//! The pause of a level-triggered interrupt that comes back with every EOI: its guest gets some
//! time without it, or it would make no progress.

use super::chips;
use crate::vm::VmBase;
use host::irq_lock::IrqSpinLock;
use host::work::DelayedOps;
use host::work::DelayedWork;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::irqchip::ioapic::STORM_DELAY_NS;

/// Length of the pause.
// CAST: some milliseconds.
const DELAY_MS: u32 = (STORM_DELAY_NS / 1_000_000) as u32;

/// What the end of the pause reaches: the VM, until it ends.
pub(super) struct Resume {
    vm: Pin<KBox<IrqSpinLock<Option<Arc<VmBase>>>>>,
}

/// The end of the pause.
pub(super) type Pause = Pin<KBox<DelayedWork<Resume>>>;

impl DelayedOps for Resume {
    fn run(&self) -> Option<u32> {
        let vm = self.vm.lock().clone()?;
        chips::with(&vm, |c, w| {
            c.ioapic.inject_deferred(&mut w.ioapic);
            c.send(&vm, &w.ioapic);
        });
        None
    }
}

/// Makes the item for a VM. ENOMEM, ENODEV while the module is being unloaded.
pub(super) fn new(vm: &Arc<VmBase>) -> Result<Pause> {
    let link = KBox::pin_init(
        IrqSpinLock::new(
            Some(vm.clone()),
            c"kvm->storm_link",
            kernel::static_lock_class!(),
        ),
        GFP_KERNEL_ACCOUNT,
    )?;
    KBox::pin_init(DelayedWork::new(Resume { vm: link }), GFP_KERNEL_ACCOUNT)
}

/// Starts the pause. Any context.
#[cold]
pub(super) fn start(vm: &VmBase) {
    if let Some(p) = vm.irq.storm.as_ref() {
        p.queue_after(DELAY_MS);
    }
}

/// The VM ends: the work lets go of it.
pub(super) fn shutdown(vm: &VmBase) {
    if let Some(p) = vm.irq.storm.as_ref() {
        // First the link, then the wait: the work must not be the last to let go of the VM, for it
        // would then wait for itself.
        let link = p.ops().vm.lock().take();
        p.cancel();
        drop(link);
    }
}
