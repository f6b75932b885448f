// SPDX-License-Identifier: GPL-2.0

//! The PICs and the IOAPIC: lines, ports, registers, and what follows from them.
//!
//! One lock guards all chips. The models return what has to be done as values; messages are sent
//! under the lock, so that two changes of a line cannot overtake each other, everything else after.

use super::deliver;
use crate::vcpu::shared::Request;
use crate::vm::VmBase;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmIoapicState;
use model::abi::KvmIrqchip;
use model::abi::KvmPicState;
use model::irqchip::ioapic::IoApic;
use model::irqchip::ioapic::IoApicWork;
use model::irqchip::lapic::Eoi;
use model::irqchip::line;
use model::irqchip::line::IrqSource;
use model::irqchip::line::LineStatus;
use model::irqchip::line::Pins;
use model::irqchip::pic::Pic;
use model::irqchip::pic::PicChip;
use model::irqchip::pic::PicWork;
use model::irqchip::route::Route;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

/// The chips of a VM.
pub(crate) struct Chips {
    pic: Pic,
    ioapic: IoApic,
}

impl Chips {
    /// The chips after a reset.
    pub(super) fn new() -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                pic: Pic::new(),
                ioapic: IoApic::new(),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// Sends what the IOAPIC asked for. A delivery may ask for more.
    fn send(&mut self, vm: &VmBase, work: &IoApicWork) -> i32 {
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

/// Runs `f` on the chips, if they are in the kernel.
fn with<R>(vm: &VmBase, f: impl FnOnce(&mut Chips) -> R) -> Option<R> {
    let mut g = vm.irq.chips.lock();
    let chips = g.as_mut()?;
    let r = f(chips);
    let out = chips.pic.output();
    vm.irq.pic_output.store(out, Ordering::Release);
    Some(r)
}

/// What is left to do after the lock was dropped.
fn after_pic(vm: &VmBase, work: &PicWork) {
    if work.wake {
        for v in vm.vcpus.iter() {
            if v.published.accepts_pic() {
                v.request_and_kick(Request::Event);
            }
        }
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
    let routes = vm.irq.routes.read();
    let mut total = LineStatus::Ignored.value();
    for r in routes.table().lookup(gsi) {
        let one = match *r {
            Route::Pic(pin) => {
                let mut work = PicWork::default();
                let s = with(vm, |c| c.pic.set_line(pin, source, level, &mut work));
                after_pic(vm, &work);
                s.unwrap_or(LineStatus::Ignored).value()
            }
            Route::IoApic(pin) => set_ioapic(vm, source, pin, level, want_status),
            Route::Msi { msi, .. } if level => {
                deliver::message(vm, &msi.decode(vm.caps.x2apic_32bit_ids()))
            }
            Route::Msi { .. } => LineStatus::Ignored.value(),
        };
        total = line::combine_status(total, one);
    }
    total
}

fn set_ioapic(vm: &VmBase, source: IrqSource, pin: u8, level: bool, want_status: bool) -> i32 {
    let mut work = IoApicWork::default();
    let r = with(vm, |c| {
        let s = c
            .ioapic
            .set_line(pin, source, level, want_status, &mut work);
        let taken = c.send(vm, &work);
        if s == LineStatus::Delivered && work.deliver & (1 << (pin & 31)) != 0 {
            taken
        } else {
            s.value()
        }
    });
    r.unwrap_or(LineStatus::Ignored.value())
}

/// A local APIC broadcast an EOI.
pub(crate) fn eoi(vm: &VmBase, e: &Eoi) {
    let mut work = IoApicWork::default();
    with(vm, |c| {
        c.ioapic.eoi(e.vector, e.level, e.suppressed, &mut work);
        c.send(vm, &work);
    });
}

/// Takes the PIC's interrupt: its vector.
pub(crate) fn acknowledge_pic(vm: &VmBase) -> Option<u8> {
    let mut work = PicWork::default();
    let v = with(vm, |c| c.pic.output().then(|| c.pic.acknowledge(&mut work)));
    after_pic(vm, &work);
    v.flatten()
}

/// A port write; false if no chip has the port.
pub(crate) fn port_write(vm: &VmBase, port: u16, data: &[u8]) -> bool {
    if !vm.irq.is_full() || !is_pic_port(port) {
        return false;
    }
    let [value] = data else {
        // KVM: wider accesses are swallowed.
        return true;
    };
    let mut work = PicWork::default();
    let done = with(vm, |c| c.pic.write(port, *value, &mut work));
    after_pic(vm, &work);
    done == Some(true)
}

/// A port read; false if no chip has the port.
pub(crate) fn port_read(vm: &VmBase, port: u16, data: &mut [u8]) -> bool {
    if !vm.irq.is_full() || !is_pic_port(port) {
        return false;
    }
    data.fill(0);
    let [value] = data else {
        return true;
    };
    let mut work = PicWork::default();
    let v = with(vm, |c| c.pic.read(port, &mut work)).flatten();
    after_pic(vm, &work);
    match v {
        Some(v) => {
            *value = v;
            true
        }
        None => false,
    }
}

/// Does a chip have this port?
pub(crate) fn has_port(vm: &VmBase, port: u16) -> bool {
    vm.irq.is_full() && is_pic_port(port)
}

fn is_pic_port(port: u16) -> bool {
    matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
}

/// A write to device memory; false if it is not the IOAPIC's.
pub(crate) fn mmio_write(vm: &VmBase, gpa: u64, data: &[u8]) -> bool {
    let mut work = IoApicWork::default();
    let done = with(vm, |c| {
        let done = c.ioapic.write(gpa, data, &mut work);
        c.send(vm, &work);
        done
    });
    done == Some(true)
}

/// A read of device memory; false if it is not the IOAPIC's.
pub(crate) fn mmio_read(vm: &VmBase, gpa: u64, data: &mut [u8]) -> bool {
    with(vm, |c| c.ioapic.read(gpa, data)) == Some(true)
}

/// KVM_GET_IRQCHIP. ENXIO unless all chips are in the kernel, EINVAL for a chip that is not there.
pub(crate) fn get(vm: &VmBase, k: &mut KvmIrqchip) -> Result {
    if !vm.irq.is_full() {
        return Err(ENXIO);
    }
    let id = k.chip_id;
    let chip = &mut k.chip;
    chip.fill(0);
    let r = with(vm, |c| -> Result {
        match id {
            abi::KVM_IRQCHIP_PIC_MASTER => put(chip, c.pic.state(PicChip::Master)),
            abi::KVM_IRQCHIP_PIC_SLAVE => put(chip, c.pic.state(PicChip::Slave)),
            abi::KVM_IRQCHIP_IOAPIC => {
                let mut s = KvmIoapicState::zeroed();
                c.ioapic.save(&mut s);
                put(chip, &s)
            }
            _ => Err(EINVAL),
        }
    });
    r.unwrap_or(Err(ENXIO))
}

fn put<T: IntoBytes + zerocopy::Immutable>(to: &mut [u8; 512], v: &T) -> Result {
    v.write_to_prefix(to).map_err(|_| EINVAL)
}

/// KVM_SET_IRQCHIP.
pub(crate) fn set(vm: &VmBase, k: &KvmIrqchip) -> Result {
    if !vm.irq.is_full() {
        return Err(ENXIO);
    }
    let mut pic = PicWork::default();
    let mut ioapic = IoApicWork::default();
    let r = with(vm, |c| -> Result {
        let mut set_pic = |chip| -> Result {
            let (s, _) = KvmPicState::read_from_prefix(&k.chip).map_err(|_| EINVAL)?;
            c.pic.set_state(chip, &s, &mut pic);
            Ok(())
        };
        match k.chip_id {
            abi::KVM_IRQCHIP_PIC_MASTER => set_pic(PicChip::Master),
            abi::KVM_IRQCHIP_PIC_SLAVE => set_pic(PicChip::Slave),
            abi::KVM_IRQCHIP_IOAPIC => {
                let (s, _) = KvmIoapicState::read_from_prefix(&k.chip).map_err(|_| EINVAL)?;
                c.ioapic.restore(&s, &mut ioapic);
                c.send(vm, &ioapic);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    });
    after_pic(vm, &pic);
    r.unwrap_or(Err(ENXIO))
}
