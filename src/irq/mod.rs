// SPDX-License-Identifier: GPL-2.0

//! Interrupts of a VM: which controllers are in the kernel, routing, and delivery to vCPUs.
//!
//! | part | guard |
//! |---|---|
//! | PICs, IOAPIC, PIT | one spinning lock, interrupts off: lines change in any context |
//! | routes | SRCU; replaced under `irq_lock` |
//! | a vCPU's local APIC | the vCPU mutex; others post to its mailbox |

pub(crate) mod chips;
pub(crate) mod deliver;
pub(crate) mod irqfd;
pub(crate) mod pit;
pub(crate) mod routes;
pub(crate) mod state;
mod storm;

use crate::vm::VmBase;
use chips::Chips;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering;
use host::irq_lock::IrqSpinLock;
use host::srcu_box::SrcuBox;
use host::srcu_box::SrcuDomain;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::sync::SetOnce;
use model::irqchip::ioapic::IOAPIC_DEFAULT_BASE;
use model::irqchip::ioapic::IOAPIC_WINDOW;
use model::irqchip::line::IrqSource;
use model::irqchip::route::DEFAULT_ROUTING;
use routes::Routes;

const NONE: u8 = 0;
const SPLIT: u8 = 1;
const FULL: u8 = 2;

/// The interrupt side of a VM.
#[pin_data]
pub(crate) struct Irq {
    /// Which controllers are in the kernel.
    mode: AtomicU8,
    /// Pins of the IOAPIC that user space has, with a split controller.
    split_pins: AtomicU32,
    /// Vectors that a pin of the IOAPIC sends, one bit each: it must hear of their ends.
    eoi_vectors: [AtomicU64; 4],
    /// The PIC's output, so that entries need not take the lock.
    pic_output: AtomicBool,
    /// Local APICs that are not in xAPIC mode at the usual address.
    pub(crate) apics_elsewhere: AtomicU32,
    /// Where the IOAPIC is, so that other accesses need not take the lock.
    ioapic_base: AtomicU64,
    #[pin]
    chips: IrqSpinLock<Option<KBox<Chips>>>,
    routes: SrcuBox<Routes>,
    /// The timer of the PIT, once there is one.
    pit_clock: SetOnce<pit::PitClock>,
    /// The end of an interrupt storm's pause, once there is an IOAPIC.
    storm: SetOnce<storm::Pause>,
    /// Registered irqfds.
    #[pin]
    irqfds: Mutex<KVVec<irqfd::Entry>>,
    resamplers: SrcuBox<KVVec<irqfd::Resampler>>,
    /// Removes irqfds whose eventfds are gone, once there is an irqfd.
    reaper: SetOnce<irqfd::Reaper>,
    #[pin]
    lock: Mutex<()>,
}

impl Irq {
    /// No controllers.
    pub(crate) fn new(domain: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            mode: AtomicU8::new(NONE),
            split_pins: AtomicU32::new(0),
            eoi_vectors: [const { AtomicU64::new(0) }; 4],
            pic_output: AtomicBool::new(false),
            apics_elsewhere: AtomicU32::new(0),
            ioapic_base: AtomicU64::new(IOAPIC_DEFAULT_BASE),
            chips <- IrqSpinLock::new(None, c"kvm->chips_lock", kernel::static_lock_class!()),
            resamplers: SrcuBox::new(domain.clone(), KBox::new(KVVec::new(), GFP_KERNEL_ACCOUNT)?),
            routes: SrcuBox::new(domain, Routes::empty()?),
            pit_clock: SetOnce::new(),
            storm: SetOnce::new(),
            reaper: SetOnce::new(),
            irqfds <- new_mutex!(KVVec::new(), "kvm->irqfds"),
            lock <- new_mutex!((), "kvm->irq_lock"),
        }? Error)
    }

    /// Is the local APIC in the kernel?
    #[inline]
    pub(crate) fn in_kernel(&self) -> bool {
        self.mode.load(Ordering::Acquire) != NONE
    }

    /// Are the PICs and the IOAPIC in the kernel too?
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.mode.load(Ordering::Acquire) == FULL
    }

    /// Is the local APIC in the kernel, and the rest in user space?
    pub(crate) fn is_split(&self) -> bool {
        self.mode.load(Ordering::Acquire) == SPLIT
    }

    /// Pins of user space's IOAPIC.
    pub(crate) fn split_pins(&self) -> u32 {
        self.split_pins.load(Ordering::Relaxed)
    }

    /// The vectors whose EOIs somebody may wait for. User space's IOAPIC may wait for any.
    pub(crate) fn eoi_vectors(&self) -> [u64; 4] {
        if !self.is_full() {
            return [u64::MAX; 4];
        }
        let mut all = [0; 4];
        for (to, from) in all.iter_mut().zip(&self.eoi_vectors) {
            *to = from.load(Ordering::Acquire);
        }
        all
    }

    /// Is there an IOAPIC in the kernel, and the address in its window? To be asked again under the
    /// lock.
    #[inline]
    pub(crate) fn may_be_ioapic(&self, gpa: u64) -> bool {
        self.is_full() && gpa.wrapping_sub(self.ioapic_base.load(Ordering::Acquire)) < IOAPIC_WINDOW
    }

    /// Does the PIC ask for an interrupt?
    #[inline]
    pub(crate) fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Acquire)
    }
}

/// The VM ends: timers, work and eventfds let go of it.
pub(crate) fn shutdown(vm: &VmBase) {
    irqfd::shutdown(vm);
    pit::shutdown(vm);
    storm::shutdown(vm);
}

/// KVM_CREATE_IRQCHIP. EEXIST if there is one, EINVAL after a vCPU.
pub(crate) fn create(vm: &Arc<VmBase>) -> Result<isize> {
    let _setup = vm.setup.lock();
    if vm.irq.in_kernel() {
        return Err(EEXIST);
    }
    if vm.vcpus.count() != 0 {
        return Err(EINVAL);
    }
    let chips = Chips::new()?;
    // False if an earlier attempt got this far: then there is one.
    let _ = vm.irq.storm.populate(storm::new(vm)?);
    *vm.irq.chips.lock() = Some(chips);
    vm.irq.mode.store(FULL, Ordering::Release);
    if let Err(e) = routes::install(vm, &DEFAULT_ROUTING) {
        vm.irq.mode.store(NONE, Ordering::Release);
        *vm.irq.chips.lock() = None;
        return Err(e);
    }
    Ok(0)
}

/// KVM_CAP_SPLIT_IRQCHIP: the local APIC in the kernel, the rest in user space, whose IOAPIC has
/// `pins` pins. EINVAL for more pins than there can be routes, EEXIST if there is a controller or a
/// vCPU.
pub(crate) fn enable_split(vm: &VmBase, pins: u64) -> Result<isize> {
    let _setup = vm.setup.lock();
    if pins > u64::from(crate::vm::caps::MAX_ROUTES) {
        return Err(EINVAL);
    }
    if vm.irq.in_kernel() || vm.vcpus.count() != 0 {
        return Err(EEXIST);
    }
    routes::install(vm, &[])?;
    // CAST: at most 4096.
    vm.irq.split_pins.store(pins as u32, Ordering::Relaxed);
    vm.irq.mode.store(SPLIT, Ordering::Release);
    Ok(0)
}

/// Does user space's IOAPIC wait for the end of this interrupt? Only level-triggered messages of the
/// first GSIs count, as many as it has pins.
pub(crate) fn user_waits_for(vm: &VmBase, vector: u8) -> bool {
    let routes = vm.irq.routes.read();
    let ids32 = vm.caps.x2apic_32bit_ids();
    let pins = vm.irq.split_pins();
    let mut level = routes.table().level_messages(pins, ids32);
    level.any(|(_, m)| m.vector == vector)
}

/// Sets the line of a GSI; what became of it, as KVM_IRQ_LINE_STATUS reports it. ENXIO without
/// controllers in the kernel.
pub(crate) fn set_line(
    vm: &VmBase,
    source: IrqSource,
    gsi: u32,
    level: bool,
    want_status: bool,
) -> Result<i32> {
    if !vm.irq.in_kernel() {
        return Err(ENXIO);
    }
    Ok(chips::set_gsi(vm, source, gsi, level, want_status))
}
