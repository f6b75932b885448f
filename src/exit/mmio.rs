// SPDX-License-Identifier: GPL-2.0

//! Device memory: the local APIC, the IOAPIC, registered devices, else user space.

use super::emulate;
use super::plain;
use crate::backend::Backend;
use crate::irq::chips;
use crate::mmu::marker;
use crate::vcpu::fetch;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use crate::vm::memslot::hva;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::addr::Gpa;
use model::exit::NestedFault;
use model::irqchip::lapic::Mode;
use model::x86::apic::reg;

/// Bytes of the local APIC's window that have registers.
const APIC_WINDOW: u64 = 0x1000;

/// A fault on an address without memory, or a write to read-only memory.
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>, f: &NestedFault) -> Flow {
    if cx.st.events.reinjects() {
        return undeliverable(cx, f.gpa);
    }
    match plain::access(cx, f) {
        Some(flow) => flow,
        None => emulate::instruction(cx),
    }
}

/// The access was not an instruction's but part of the delivery of an event, which cannot be
/// emulated: the descriptor table or the stack lies in device memory.
#[inline(never)]
fn undeliverable<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: Gpa) -> Flow {
    let raw = V::raw_exit(cx.l);
    let cpu = u64::from(host::pin::some_cpu_id());
    UserExit::Internal {
        suberror: abi::KVM_INTERNAL_ERROR_DELIVERY_EV,
        ndata: 5,
        data: [raw.info2, raw.reason, raw.info1, gpa.0, cpu, 0],
    }
    .leave(cx)
}

/// An access to a page that is marked as device memory. What it was is not told.
///
/// KVM: where an event for any length is registered it counts as a write.
pub(crate) fn fast<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: Gpa) -> Flow {
    if !cx.st.events.reinjects()
        && marker::holds(cx, gpa.gfn())
        && cx.vm.base.bus.write_any_length(gpa.0)
    {
        return fetch::skip(cx);
    }
    // The guest does it again and gets a fault that tells more.
    marker::unmark(cx, gpa.gfn());
    Continue(())
}

/// An access to the local APIC that hardware does not carry out.
pub(crate) fn apic<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.st.events.reinjects() {
        let at = cx.st.apic.as_ref().map_or(0, |a| a.window());
        return undeliverable(cx, Gpa(at));
    }
    emulate::instruction(cx)
}

impl<V: Backend> Cx<'_, '_, V> {
    /// Is there memory that can be read, or (`write`) written?
    pub(crate) fn is_ram(&self, gpa: Gpa, write: bool) -> bool {
        !self.is_apic(gpa)
            && hva(&self.vm.base.slots.space(self.space()), gpa.gfn(), write).is_some()
    }

    /// Is the address in the window of this vCPU's local APIC?
    fn is_apic(&self, gpa: Gpa) -> bool {
        self.apic_offset(gpa).is_some()
    }

    /// Is the local APIC at this address, but switched off or reached by MSRs only?
    fn is_hole(&self, gpa: Gpa) -> bool {
        // KVM: nothing is there then; a quirk lets it read as ones and swallow writes.
        let quirk = abi::KVM_X86_QUIRK_LAPIC_MMIO_HOLE;
        self.st.apic.as_ref().is_some_and(|a| {
            gpa.0.wrapping_sub(a.window()) < APIC_WINDOW && a.mode() != Mode::XApic
        }) && self.vm.base.caps.quirk(quirk)
    }

    /// Where in the window of this vCPU's local APIC the address is.
    fn apic_offset(&self, gpa: Gpa) -> Option<u32> {
        let a = self.st.apic.as_ref()?;
        let off = gpa.0.wrapping_sub(a.window());
        // CAST: below 4096.
        (off < APIC_WINDOW && a.mode() == Mode::XApic).then_some(off as u32)
    }
}

/// User space may have asked for accesses to the task priority, to patch the instructions.
fn report_tpr<V: Backend>(cx: &mut Cx<'_, '_, V>, off: u32, write: bool) {
    if cx.st.report_tpr && off & !0xf == reg::TPR {
        cx.st.tpr_access = Some((V::rip(cx.l), write));
    }
}

/// Reads a device in the kernel; false if there is none.
pub(crate) fn read<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: Gpa, buf: &mut [u8]) -> bool {
    if let Some(off) = cx.apic_offset(gpa) {
        let now = cx.now_for(off);
        if let Some(a) = &mut cx.st.apic {
            a.mmio_read(off, buf, now);
            report_tpr(cx, off, false);
        }
        host::trace::mmio(false, gpa.0, buf, true);
        return true;
    }
    if cx.is_hole(gpa) {
        buf.fill(0xff);
        return true;
    }
    let done = chips::mmio_read(&cx.vm.base, gpa.0, buf);
    host::trace::mmio(false, gpa.0, buf, done);
    done
}

/// Writes a device in the kernel; false if there is none.
pub(crate) fn write<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: Gpa, data: &[u8]) -> bool {
    host::trace::mmio(true, gpa.0, data, true);
    if let Some(off) = cx.apic_offset(gpa) {
        let now = cx.now_for(off);
        if let Some(a) = &mut cx.st.apic {
            let e = a.mmio_write(off, data, now);
            cx.apply(&e);
            report_tpr(cx, off, true);
        }
        return true;
    }
    cx.is_hole(gpa)
        || chips::mmio_write(&cx.vm.base, gpa.0, data)
        || cx.vm.base.bus.mmio_write(gpa.0, data)
}

impl<V: Backend> Cx<'_, '_, V> {
    /// Writes a port of a device in the kernel; false if there is none.
    #[inline]
    pub(crate) fn port_write(&mut self, port: u16, data: &[u8]) -> bool {
        host::trace::pio(true, port, data);
        chips::port_write(&self.vm.base, port, data)
            || self.vm.base.bus.port_write(u64::from(port), data)
    }

    /// Reads a port of a device in the kernel; false if there is none.
    #[inline]
    pub(crate) fn port_read(&mut self, port: u16, data: &mut [u8]) -> bool {
        let done = chips::port_read(&self.vm.base, port, data);
        host::trace::pio(false, port, data);
        done
    }

    /// Is the port a device's in the kernel?
    pub(crate) fn port_in_kernel(&self, port: u16) -> bool {
        chips::has_port(&self.vm.base, port) || self.vm.base.bus.has_port(u64::from(port))
    }
}
