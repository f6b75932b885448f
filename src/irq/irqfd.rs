// SPDX-License-Identifier: GPL-2.0

//! KVM_IRQFD: an eventfd whose signal is an interrupt.
//!
//! The signal comes in the context of whoever writes to the eventfd, with interrupts off and the
//! eventfd's lock held. Everything on the way to a vCPU's mailbox can be done there, so no thread is
//! involved.

use super::chips;
use crate::vm::VmBase;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use host::eventfd::EventFd;
use host::eventfd::Waiter;
use host::eventfd::WaiterOps;
use host::irq_lock::IrqSpinLock;
use host::pin::IrqsOff;
use host::work::Work;
use host::work::WorkOps;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi;
use model::abi::KvmIrqfd;
use model::irqchip::ioapic::IOAPIC_PINS;
use model::irqchip::line::IrqSource;

/// An irqfd as the eventfd sees it.
pub(super) struct Irqfd {
    vm: Arc<VmBase>,
    gsi: u32,
    /// With a resampler: whether it still counts.
    resampled: Option<Arc<AtomicBool>>,
    /// Everybody else closed the eventfd.
    gone: AtomicBool,
}

impl Irqfd {
    fn fire(&self) {
        if self.resampled.is_some() {
            // The line stays up until the guest's EOI.
            chips::set_gsi(&self.vm, IrqSource::Resample, self.gsi, true, false);
        } else {
            chips::set_gsi(&self.vm, IrqSource::User, self.gsi, true, false);
            chips::set_gsi(&self.vm, IrqSource::User, self.gsi, false, false);
        }
    }
}

impl WaiterOps for Irqfd {
    fn signaled(&self, _irqs: &IrqsOff<'_>) {
        self.fire();
    }

    fn hangup(&self, _irqs: &IrqsOff<'_>) {
        self.gone.store(true, Ordering::Release);
        // Taking it off the list needs a lock that sleeps.
        if let Some(r) = self.vm.irq.reaper.as_ref() {
            r.queue();
        }
    }
}

/// What the removal of irqfds reaches: the VM, until it ends.
pub(super) struct Reap {
    vm: Pin<KBox<IrqSpinLock<Option<Arc<VmBase>>>>>,
}

/// The removal of irqfds whose eventfds were closed by everybody else.
pub(super) type Reaper = Pin<KBox<Work<Reap>>>;

impl WorkOps for Reap {
    fn run(&self) {
        let vm = self.vm.lock().clone();
        if let Some(vm) = vm {
            prune(&vm);
        }
    }
}

/// Makes the work item of a VM. ENOMEM, ENODEV while the module is being unloaded.
fn reaper(vm: &Arc<VmBase>) -> Result<Reaper> {
    let link = KBox::pin_init(
        IrqSpinLock::new(
            Some(vm.clone()),
            c"kvm->reaper_link",
            kernel::static_lock_class!(),
        ),
        GFP_KERNEL_ACCOUNT,
    )?;
    KBox::pin_init(Work::new(Reap { vm: link }), GFP_KERNEL_ACCOUNT)
}

/// A registered irqfd; without a waiter it is about to leave the list.
pub(super) struct Entry {
    waiter: Option<Waiter<Irqfd>>,
    /// It is among those that are being removed.
    going: bool,
}

impl Entry {
    fn is_of(&self, fd: &EventFd) -> bool {
        self.waiter.as_ref().is_some_and(|w| w.eventfd() == fd)
    }

    fn owner(&self) -> Option<&Arc<Irqfd>> {
        self.waiter.as_ref().map(|w| w.ops())
    }
}

/// A resampler: told when the guest ended the interrupt of its GSI.
pub(super) struct Resampler {
    gsi: u32,
    /// Set until its irqfd is removed. Not the irqfd itself: that holds the VM, which has the list of
    /// resamplers, and one may stay in the list.
    live: Arc<AtomicBool>,
    fd: Arc<EventFd>,
}

impl Resampler {
    fn is_of(&self, gsi: u32) -> bool {
        self.gsi == gsi && self.is_live()
    }

    fn is_live(&self) -> bool {
        self.live.load(Ordering::Acquire)
    }
}

impl Clone for Resampler {
    fn clone(&self) -> Self {
        Self {
            gsi: self.gsi,
            live: self.live.clone(),
            fd: self.fd.clone(),
        }
    }
}

/// KVM_IRQFD. EINVAL for a line without controllers in the kernel.
pub(crate) fn ioctl(vm: &Arc<VmBase>, k: &KvmIrqfd) -> Result<isize> {
    let known = abi::KVM_IRQFD_FLAG_DEASSIGN | abi::KVM_IRQFD_FLAG_RESAMPLE;
    if k.flags & !known != 0 {
        return Err(EINVAL);
    }
    prune(vm);
    if k.flags & abi::KVM_IRQFD_FLAG_DEASSIGN != 0 {
        return deassign(vm, k);
    }
    assign(vm, k)
}

fn assign(vm: &Arc<VmBase>, k: &KvmIrqfd) -> Result<isize> {
    if !vm.irq.in_kernel() {
        return Err(EINVAL);
    }
    let resample = k.flags & abi::KVM_IRQFD_FLAG_RESAMPLE != 0;
    if resample && !vm.irq.is_full() {
        return Err(EINVAL);
    }
    let live = if resample {
        Some(Arc::new(AtomicBool::new(true), GFP_KERNEL_ACCOUNT)?)
    } else {
        None
    };
    let irqfd = Arc::new(
        Irqfd {
            vm: vm.clone(),
            gsi: k.gsi,
            resampled: live.clone(),
            gone: AtomicBool::new(false),
        },
        GFP_KERNEL_ACCOUNT,
    )?;
    let resampler = if let Some(live) = live {
        // CAST: a descriptor number.
        Some(Resampler {
            gsi: k.gsi,
            live,
            fd: Arc::new(EventFd::from_fd(k.resamplefd as i32)?, GFP_KERNEL_ACCOUNT)?,
        })
    } else {
        None
    };
    let mut list = vm.irq.irqfds.lock();
    if vm.irq.reaper.as_ref().is_none() {
        // Under the lock, so that nobody else does it meanwhile.
        let _ = vm.irq.reaper.populate(reaper(vm)?);
    }
    list.reserve(1, GFP_KERNEL_ACCOUNT)?;
    // CAST: a descriptor number.
    let fd = EventFd::from_fd(k.fd as i32)?;
    if list.iter().any(|e| e.is_of(&fd)) {
        return Err(EBUSY);
    }
    if let Some(r) = resampler {
        update_resamplers(vm, |v| Ok(v.push(r, GFP_KERNEL_ACCOUNT)?))?;
    }
    let (waiter, signaled) = match Waiter::attach(k.fd, irqfd.clone()) {
        Ok(w) => w,
        Err(e) => {
            if let Some(live) = &irqfd.resampled {
                live.store(false, Ordering::Release);
                forget_resamplers(vm);
            }
            return Err(e);
        }
    };
    let entry = Entry {
        waiter: Some(waiter),
        going: false,
    };
    list.push(entry, GFP_KERNEL_ACCOUNT)?;
    if signaled {
        // Under the lock: who removes it lowers the line after this.
        irqfd.fire();
    }
    Ok(0)
}

fn deassign(vm: &Arc<VmBase>, k: &KvmIrqfd) -> Result<isize> {
    // CAST: a descriptor number.
    let fd = EventFd::from_fd(k.fd as i32)?;
    remove(vm, |e| {
        e.is_of(&fd) && e.owner().is_some_and(|o| o.gsi == k.gsi)
    });
    Ok(0)
}

/// Removes the irqfds whose eventfds are gone.
fn prune(vm: &VmBase) {
    remove(vm, |e| {
        e.owner().is_some_and(|o| o.gone.load(Ordering::Acquire))
    });
}

/// The VM ends: no eventfd reaches it any more.
pub(super) fn shutdown(vm: &VmBase) {
    remove(vm, |_| true);
    if let Some(r) = vm.irq.reaper.as_ref() {
        // First the link, then the wait: the work must not be the last to let go of the VM.
        let link = r.ops().vm.lock().take();
        r.cancel();
        drop(link);
    }
}

fn remove(vm: &VmBase, which: impl Fn(&Entry) -> bool) {
    let mut list = vm.irq.irqfds.lock();
    let mut found = false;
    let mut resampled = false;
    for e in list.iter_mut() {
        // Asked once: an eventfd may go at any time.
        e.going = which(e);
        found |= e.going;
        if let Some(live) = e.owner().and_then(|o| o.resampled.as_ref()) {
            if e.going {
                live.store(false, Ordering::Release);
                resampled = true;
            }
        }
    }
    if !found {
        return;
    }
    if resampled {
        forget_resamplers(vm);
    }
    for e in list.iter_mut().filter(|e| e.going) {
        let Some(owner) = e.owner().cloned() else {
            continue;
        };
        // Detaches it.
        drop(e.waiter.take());
        // Another irqfd of the GSI may still hold the line up.
        let others = || vm.irq.resamplers.read().iter().any(|r| r.is_of(owner.gsi));
        if owner.resampled.is_some() && !others() {
            chips::set_gsi(vm, IrqSource::Resample, owner.gsi, false, false);
        }
    }
    let mut kept = 0usize;
    for i in 0..list.len() {
        let Some(waiter) = list.get_mut(i).and_then(|e| e.waiter.take()) else {
            continue;
        };
        if let Some(to) = list.get_mut(kept) {
            to.waiter = Some(waiter);
            to.going = false;
            kept = kept.wrapping_add(1);
        }
    }
    list.truncate(kept);
}

fn update_resamplers(vm: &VmBase, f: impl FnOnce(&mut KVVec<Resampler>) -> Result) -> Result {
    let mut new = KVVec::new();
    {
        let old = vm.irq.resamplers.read();
        for r in old.iter().filter(|r| r.is_live()) {
            new.push(r.clone(), GFP_KERNEL_ACCOUNT)?;
        }
    }
    f(&mut new)?;
    let old = vm
        .irq
        .resamplers
        .replace(KBox::new(new, GFP_KERNEL_ACCOUNT)?);
    drop(old);
    update_pins(vm);
    Ok(())
}

/// Tells the IOAPIC which of its pins have a resampler, after resamplers or routes were replaced.
pub(super) fn update_pins(vm: &VmBase) {
    // Whoever computes last has seen every change before.
    let _lock = vm.irq.lock.lock();
    let pins = {
        let list = vm.irq.resamplers.read();
        let routes = vm.irq.routes.read();
        let resampled = |pin: &u8| {
            let gsi = routes.pins.ioapic_gsi(*pin);
            gsi.is_some_and(|g| list.iter().any(|r| r.is_of(g)))
        };
        (0..IOAPIC_PINS)
            .filter(resampled)
            .fold(0u32, |m, pin| m | 1 << pin)
    };
    chips::with(vm, |c, _| c.ioapic.set_resampled(pins));
}

/// Takes those off the list that no longer count.
fn forget_resamplers(vm: &VmBase) {
    if update_resamplers(vm, |_| Ok(())).is_err() {
        // Memory is lacking: they stay in the list until the next change, and count no more.
        update_pins(vm);
    }
}

/// The guest ended the interrupt of a GSI: its device looks whether it still asks.
pub(super) fn resample(vm: &VmBase, gsi: u32) {
    let list = vm.irq.resamplers.read();
    for r in list.iter().filter(|r| r.is_of(gsi)) {
        r.fd.signal();
    }
}
