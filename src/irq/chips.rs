// SPDX-License-Identifier: GPL-2.0

//! The PICs, the IOAPIC and the PIT: lines, ports, registers, and what follows from them.
//!
//! One lock guards all chips. The models return what has to be done as values; messages are sent
//! under the lock, so that two changes of a line cannot overtake each other, everything else after.

use super::deliver;
use super::pit;
use super::storm;
use crate::vcpu::shared::Request;
use crate::vcpu::state::Apic;
use crate::vm::VmBase;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use model::irqchip::ioapic::IoApic;
use model::irqchip::ioapic::IoApicWork;
use model::irqchip::lapic::Eoi;
use model::irqchip::line;
use model::irqchip::line::IrqSource;
use model::irqchip::line::LineStatus;
use model::irqchip::line::Pins;
use model::irqchip::pic::Pic;
use model::irqchip::pic::PicWork;
use model::irqchip::pit::Pit;
use model::irqchip::pit::PitWork;
use model::irqchip::route::Route;

/// The chips of a VM.
pub(crate) struct Chips {
    pub(super) pic: Pic,
    pub(super) ioapic: IoApic,
    pub(super) pit: Option<Pit>,
    /// The PIT answers the speaker port too.
    pub(super) speaker: bool,
}

/// What is left to do after the lock was dropped.
#[derive(Default)]
pub(super) struct Work {
    pub(super) pic: PicWork,
    pub(super) ioapic: IoApicWork,
    pub(super) pit: PitWork,
}

impl Chips {
    /// The chips after a reset.
    pub(super) fn new() -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                pic: Pic::new(),
                ioapic: IoApic::new(),
                pit: None,
                speaker: false,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// Lets local APICs know which ends of interrupts matter, after the IOAPIC's entries changed.
    pub(super) fn publish_vectors(&self, vm: &VmBase) {
        let all = self.ioapic.eoi_vectors(u32::MAX, |_| true);
        let mut new = 0;
        for (to, from) in vm.irq.eoi_vectors.iter().zip(all) {
            new |= from & !to.swap(from, Ordering::AcqRel);
        }
        if new != 0 {
            vm.request_all(Request::EoiExits);
        }
    }

    /// Sends what the IOAPIC asked for; how many local APICs took the last message.
    pub(super) fn send(&mut self, vm: &VmBase, work: &IoApicWork) -> i32 {
        let mut taken = -1;
        for pin in Pins(work.deliver) {
            let m = self.ioapic.message(pin);
            taken = deliver::message(vm, &m);
            self.ioapic
                .delivered(pin, u32::try_from(taken).unwrap_or(0));
        }
        taken
    }
}

/// Runs `f` on the chips, if they are in the kernel, and does what it leaves to do.
pub(super) fn with<R>(vm: &VmBase, f: impl FnOnce(&mut Chips, &mut Work) -> R) -> Option<R> {
    let mut work = Work::default();
    let r = {
        let mut g = vm.irq.chips.lock();
        let chips = g.as_mut()?;
        let r = f(chips, &mut work);
        let out = chips.pic.output();
        vm.irq.pic_output.store(out, Ordering::Release);
        r
    };
    after(vm, &work);
    Some(r)
}

#[inline]
fn after(vm: &VmBase, work: &Work) {
    if work.pic.wake {
        for v in vm.vcpus.iter() {
            if v.published.accepts_pic() {
                v.request_and_kick(Request::Event);
            }
        }
    }
    let io = &work.ioapic;
    if work.pic.eoi | work.pic.unmasked != 0 || io.eoi | io.unmasked | io.resample != 0 {
        acknowledged(vm, work);
    }
    if io.defer {
        storm::start(vm);
    }
    pit::after(vm, &work.pit);
}

/// Tells the sources of interrupts that the guest took them.
#[inline(never)]
fn acknowledged(vm: &VmBase, work: &Work) {
    let routes = vm.irq.routes.read();
    let pins = &routes.pins;
    let pic = |set: u16| Pins(u32::from(set)).filter_map(|p| pins.pic_gsi(p));
    let ioapic = |set: u32| Pins(set).filter_map(|p| pins.ioapic_gsi(p));
    let ended = |gsi: u32| {
        super::irqfd::resample(vm, gsi);
        if gsi == pit::GSI {
            pit::acknowledged(vm);
        }
    };
    pic(work.pic.eoi).for_each(ended);
    ioapic(work.ioapic.eoi).for_each(ended);
    // Nothing was taken here: only the devices are asked.
    ioapic(work.ioapic.resample & !work.ioapic.eoi).for_each(|gsi| super::irqfd::resample(vm, gsi));
    let unmasked = pic(work.pic.unmasked).any(|gsi| gsi == pit::GSI)
        || ioapic(work.ioapic.unmasked).any(|gsi| gsi == pit::GSI);
    if unmasked {
        pit::unmasked(vm);
    }
}

/// Sets the line of a GSI on everything it is routed to.
pub(super) fn set_gsi(
    vm: &VmBase,
    source: IrqSource,
    gsi: u32,
    level: bool,
    want_status: bool,
) -> i32 {
    host::trace::set_irq(gsi, level);
    let routes = vm.irq.routes.read();
    let mut total = LineStatus::Ignored.value();
    for r in routes.table().lookup(gsi) {
        let one = match *r {
            Route::Pic(pin) => {
                let s = with(vm, |c, w| c.pic.set_line(pin, source, level, &mut w.pic));
                s.unwrap_or(LineStatus::Ignored).value()
            }
            Route::IoApic(pin) => set_ioapic(vm, source, pin, level, want_status),
            Route::Msi { msi, .. } if level => {
                host::trace::msi(msi.address_lo, msi.address_hi, msi.data);
                deliver::message(vm, &msi.decode(vm.caps.x2apic_32bit_ids()))
            }
            Route::Msi { .. } => LineStatus::Ignored.value(),
        };
        total = line::combine_status(total, one);
    }
    total
}

fn set_ioapic(vm: &VmBase, source: IrqSource, pin: u8, level: bool, want_status: bool) -> i32 {
    let r = with(vm, |c, w| {
        let s = c
            .ioapic
            .set_line(pin, source, level, want_status, &mut w.ioapic);
        let taken = c.send(vm, &w.ioapic);
        if s == LineStatus::Delivered && w.ioapic.deliver & (1 << (pin & 31)) != 0 {
            taken
        } else {
            s.value()
        }
    });
    r.unwrap_or(LineStatus::Ignored.value())
}

/// Does a pin of the IOAPIC send this vector?
#[inline]
pub(crate) fn wants_eoi(vm: &VmBase, vector: u8) -> bool {
    let word = vm.irq.eoi_vectors.get(usize::from(vector >> 6));
    word.is_some_and(|w| w.load(Ordering::Acquire) >> (vector & 63) & 1 != 0)
}

/// A local APIC broadcast an EOI.
pub(crate) fn eoi(vm: &VmBase, e: &Eoi) {
    if !wants_eoi(vm, e.vector) {
        return;
    }
    with(vm, |c, w| {
        c.ioapic.eoi(e.vector, e.level, e.suppressed, &mut w.ioapic);
        c.send(vm, &w.ioapic);
    });
}

/// A local APIC is about to lose its state. Ticks of the clock in it do not keep others back.
pub(crate) fn clock_lost(vm: &VmBase, apic: &Apic) {
    if vm.irq.is_full() {
        with(vm, |c, _| c.ioapic.rtc_lost(|v| apic.is_pending(v)));
    }
}

/// It has got another one.
pub(crate) fn clock_found(vm: &VmBase, apic: &Apic) {
    if vm.irq.is_full() {
        with(vm, |c, _| c.ioapic.rtc_found(|v| apic.is_pending(v)));
    }
}

/// Takes the PIC's interrupt: its vector.
pub(crate) fn acknowledge_pic(vm: &VmBase) -> Option<u8> {
    with(vm, |c, w| {
        c.pic.output().then(|| c.pic.acknowledge(&mut w.pic))
    })
    .flatten()
}

/// A port write; false if no chip has the port.
pub(crate) fn port_write(vm: &VmBase, port: u16, data: &[u8]) -> bool {
    if !may_have_ports(vm, port, data.len()) {
        return false;
    }
    let pic = is_pic_port(port);
    match data {
        &[value] if pic => with(vm, |c, w| c.pic.write(port, value, &mut w.pic)) == Some(true),
        // KVM: the PIT takes the first byte of a wider access, the PICs swallow it.
        &[value, ..] if !pic => pit::port_write(vm, port, value),
        _ => pic,
    }
}

/// A port read; false if no chip has the port.
pub(crate) fn port_read(vm: &VmBase, port: u16, data: &mut [u8]) -> bool {
    if !may_have_ports(vm, port, data.len()) {
        return false;
    }
    let pic = is_pic_port(port);
    let (v, to) = match data {
        [to] if pic => (with(vm, |c, w| c.pic.read(port, &mut w.pic)).flatten(), to),
        // KVM: a wider access to the PIT reads a byte, one to the PICs 0.
        [to, rest @ ..] if !pic => {
            let v = pit::port_read(vm, port);
            if v.is_some() {
                rest.fill(0);
            }
            (v, to)
        }
        wide => {
            wide.fill(0);
            return pic;
        }
    };
    match v {
        Some(v) => {
            *to = v;
            true
        }
        None => false,
    }
}

/// Could a chip have all ports of an access? No two chips are neighbours.
#[inline]
fn may_have_ports(vm: &VmBase, port: u16, len: usize) -> bool {
    // CAST: at most 4.
    let last = port.wrapping_add(len as u16).wrapping_sub(1);
    may_have_port(vm, port) && (last == port || may_have_port(vm, last))
}

/// Could a chip have this port? All but the two edge registers are below 0x100.
#[inline]
fn may_have_port(vm: &VmBase, port: u16) -> bool {
    /// 0x20, 0x21; 0x40 to 0x43, 0x61; 0xa0, 0xa1.
    const LOW: [u64; 4] = [3 << 0x20, 0xf | 1 << 0x21, 3 << 0x20, 0];
    let low = match LOW.get(usize::from(port >> 6)) {
        Some(bits) => bits >> (port & 63) & 1 != 0,
        None => port & !1 == 0x4d0,
    };
    low && vm.irq.is_full()
}

/// Does a chip have this port?
pub(crate) fn has_port(vm: &VmBase, port: u16) -> bool {
    may_have_port(vm, port) && (is_pic_port(port) || pit::has_port(vm, port))
}

/// Of the ports that a chip may have: is it the PICs'? The others are the PIT's.
#[inline]
fn is_pic_port(port: u16) -> bool {
    port & 0x40 == 0 || port & !1 == 0x4d0
}

/// A write to device memory; false if it is not the IOAPIC's.
pub(crate) fn mmio_write(vm: &VmBase, gpa: u64, data: &[u8]) -> bool {
    if !vm.irq.may_be_ioapic(gpa) {
        return false;
    }
    let done = with(vm, |c, w| {
        let done = c.ioapic.write(gpa, data, &mut w.ioapic);
        // Before anything is sent with a new vector.
        c.publish_vectors(vm);
        c.send(vm, &w.ioapic);
        done
    });
    done == Some(true)
}

/// A read of device memory; false if it is not the IOAPIC's.
pub(crate) fn mmio_read(vm: &VmBase, gpa: u64, data: &mut [u8]) -> bool {
    vm.irq.may_be_ioapic(gpa) && with(vm, |c, _| c.ioapic.read(gpa, data)) == Some(true)
}
