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

use crate::vm::VmBase;
use chips::Chips;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU32;
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
use model::irqchip::line::IrqSource;
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
    /// The PIC's output, so that entries need not take the lock.
    pic_output: AtomicBool,
    #[pin]
    chips: IrqSpinLock<Option<KBox<Chips>>>,
    routes: SrcuBox<Routes>,
    /// The timer of the PIT, once there is one.
    pit_clock: SetOnce<pit::PitClock>,
    /// Registered irqfds.
    #[pin]
    irqfds: Mutex<KVec<irqfd::Entry>>,
    resamplers: SrcuBox<KVec<irqfd::Resampler>>,
    #[pin]
    lock: Mutex<()>,
}

impl Irq {
    /// No controllers.
    pub(crate) fn new(domain: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            mode: AtomicU8::new(NONE),
            split_pins: AtomicU32::new(0),
            pic_output: AtomicBool::new(false),
            chips <- IrqSpinLock::new(None, c"kvm->chips_lock", kernel::static_lock_class!()),
            resamplers: SrcuBox::new(domain.clone(), KBox::new(KVec::new(), GFP_KERNEL_ACCOUNT)?),
            routes: SrcuBox::new(domain, Routes::empty()?),
            pit_clock: SetOnce::new(),
            irqfds <- new_mutex!(KVec::new(), "kvm->irqfds"),
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

    /// Pins of user space's IOAPIC.
    pub(crate) fn split_pins(&self) -> u32 {
        self.split_pins.load(Ordering::Relaxed)
    }

    /// Does the PIC ask for an interrupt?
    #[inline]
    pub(crate) fn pic_output(&self) -> bool {
        self.pic_output.load(Ordering::Acquire)
    }
}

/// Default routing: GSI 0 to 15 to the PIC and the IOAPIC, 16 to 23 to the IOAPIC.
///
/// KVM: GSI 0 goes to the pin of the same number on both chips; the firmware's override to pin 2 is
/// user space's to install.
fn default_entry(i: u32, chip: u32) -> model::abi::KvmIrqRoutingEntry {
    let mut e = model::abi::KvmIrqRoutingEntry::zeroed();
    let (irqchip, pin) = match (chip, i) {
        (2, _) => (model::abi::KVM_IRQCHIP_IOAPIC, i),
        (_, 0..=7) => (model::abi::KVM_IRQCHIP_PIC_MASTER, i),
        _ => (model::abi::KVM_IRQCHIP_PIC_SLAVE, i & 7),
    };
    e.gsi = i;
    e.type_ = model::abi::KVM_IRQ_ROUTING_IRQCHIP;
    e.u = [irqchip, pin, 0, 0, 0, 0, 0, 0];
    e
}

/// The VM ends: timers and eventfds let go of it.
pub(crate) fn shutdown(vm: &VmBase) {
    irqfd::shutdown(vm);
    pit::shutdown(vm);
}

/// KVM_CREATE_IRQCHIP. EEXIST if there is one, EINVAL after a vCPU.
pub(crate) fn create(vm: &VmBase) -> Result<isize> {
    let _setup = vm.setup.lock();
    if vm.irq.in_kernel() {
        return Err(EEXIST);
    }
    if vm.vcpus.count() != 0 {
        return Err(EINVAL);
    }
    let chips = Chips::new()?;
    *vm.irq.chips.lock() = Some(chips);
    vm.irq.mode.store(FULL, Ordering::Release);
    let mut entries = KVec::with_capacity(40, GFP_KERNEL_ACCOUNT)?;
    for i in 0..24 {
        if i < 16 {
            entries.push(default_entry(i, 0), GFP_KERNEL_ACCOUNT)?;
        }
        entries.push(default_entry(i, 2), GFP_KERNEL_ACCOUNT)?;
    }
    if let Err(e) = routes::install(vm, &entries) {
        vm.irq.mode.store(NONE, Ordering::Release);
        *vm.irq.chips.lock() = None;
        return Err(e);
    }
    Ok(0)
}

/// KVM_CAP_SPLIT_IRQCHIP: the local APIC in the kernel, the rest in user space, whose IOAPIC has
/// `pins` pins.
pub(crate) fn enable_split(vm: &VmBase, pins: u64) -> Result<isize> {
    let _setup = vm.setup.lock();
    if pins > 24 {
        return Err(EINVAL);
    }
    if vm.irq.in_kernel() {
        return Err(EEXIST);
    }
    if vm.vcpus.count() != 0 {
        return Err(EINVAL);
    }
    routes::install(vm, &[])?;
    // CAST: at most 24.
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
