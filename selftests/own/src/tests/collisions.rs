// SPDX-License-Identifier: GPL-2.0

//! An exception beside an interrupt or NMI that is to be delivered again: the exception comes first.
//! It is the instruction's, so it must not find the other's handler in its place.

use super::windows::again;
use super::windows::count;
use super::windows::interrupt;
use super::windows::value;
use crate::guest::boot;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_FAULT;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// RFLAGS with interrupts off, and the bit that lets them in.
const FLAGS: u64 = 2;
const IF: u64 = 1 << 9;
/// The vector of most interrupts here.
const VECTOR: u8 = 0x40;

/// Where the last exception found the guest.
fn place(g: &Guest) -> u64 {
    g.mem.load(boot::mailbox(0) + 16)
}

/// In the handler of exception `vector`, which nobody expected.
fn in_handler(g: &Guest, vector: u8) -> bool {
    let e = sys::limited(5000, || g.enter());
    let ok = matches!(&e, Ok(Exit::Out { port: PORT_FAULT, data, .. }) if data[0] == vector);
    if !ok {
        println!("# {e:x?}");
    }
    ok
}

fn inject_db(g: &Guest) -> Answer {
    let mut d: kvm_guest_debug = sys::zeroed();
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_INJECT_DB;
    g.cpus[0].fd.set(k::SET_GUEST_DEBUG, &d)
}

/// KVM_SET_VCPU_EVENTS with both.
fn set_at_once(t: &mut Tap) {
    for (nmi, flags) in [(false, 0), (false, IF), (true, 0), (true, IF)] {
        let what = format!(
            "{} with interrupts {}",
            if nmi { "an NMI" } else { "an interrupt" },
            if flags == 0 { "off" } else { "on" },
        );
        let g = Guest::long(again());
        let v = &g.cpus[0];
        let r = enable(&g.vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
        t.same("payloads", r, Answer::Ok(0));
        let mut r = v.regs();
        (r.rflags, r.r15) = (FLAGS | flags, CODE);
        v.set_regs(&r);
        let mut e = v.events();
        (e.exception.pending, e.exception.nr) = (1, 6);
        if nmi {
            e.nmi.injected = 1;
        } else {
            (e.interrupt.injected, e.interrupt.nr) = (1, VECTOR);
        }
        let r = v.fd.set(k::SET_VCPU_EVENTS, &e);
        t.same(format!("#UD and {what}"), r, Answer::Ok(0));
        let e = v.events();
        let seen = (e.exception.pending, e.interrupt.injected, e.nmi.injected);
        let want = (1, u8::from(!nmi), u8::from(nmi));
        t.same(format!("{what}: both are seen"), seen, want);
        // The window of this guest comes after the first value.
        let at_once = !table::stock() && (nmi || flags != 0);
        t.same(&what, value(&g), Ok(if at_once { 2 } else { 1 }));
        t.same(format!("{what}: #UD came first"), place(&g), CODE);
        let all = if table::stock() { 1 } else { 2 };
        t.same(format!("{what}: afterwards"), value(&g), Ok(all));
        let counts = (count(&g, 6), count(&g, 2), count(&g, VECTOR.into()));
        let other = u16::from(!table::stock());
        let want = if nmi { (1, other, 0) } else { (1, 0, other) };
        t.same(format!("{what}: how often"), counts, want);
        t.same(
            format!("{what}: no NMIs are blocked"),
            v.events().nmi.masked,
            0,
        );
    }
}

guest_code! {
    // The local APIC on, interrupts on, and how many events there were, again and again.
    open,
    "cmp dword ptr [0x80000], 0",
    "je 1f",
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "1: mov edx, 0xe0",
    "mov eax, 0x100",
    "out dx, eax",
    "sti",
    "nop",
    "2: mov eax, [r14 + 40]",
    "out dx, eax",
    "jmp 2b",
}

/// Registers of the local APIC: in service, requested.
const ISR: usize = 0x100;
const IRR: usize = 0x200;

/// Is the vector set in a bank of the local APIC's registers?
fn bit(g: &Guest, bank: usize) -> bool {
    let l: kvm_lapic_state = g.cpus[0].fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    let (word, bit) = (usize::from(VECTOR / 32), u32::from(VECTOR % 32));
    l.regs[bank + 16 * word + bit as usize / 8] as u8 >> (bit % 8) & 1 != 0
}

/// What is cut short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Nmi,
    /// From the local APIC.
    Message,
    /// From a PIC in user space, behind a local APIC in the kernel.
    Split,
    /// The same without one.
    Pic,
}

/// A delivery ends in user space, which then injects an exception.
fn cut_short(t: &mut Tap, kind: Kind) {
    let irqchip = match kind {
        Kind::Message => Irqchip::Full,
        Kind::Split => Irqchip::Split,
        Kind::Nmi | Kind::Pic => Irqchip::None,
    };
    let plan = Plan {
        irqchip,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, open());
    let v = &g.cpus[0];
    let ends = u64::from(kind == Kind::Message);
    g.mem.store::<u64>(boot::mailbox(0) + 24, ends);
    g.set_data(0, ends);
    t.same(format!("{kind:?}: the guest runs"), value(&g), Ok(0x100));
    let r = match kind {
        Kind::Nmi => v.fd.call(k::NMI, 0),
        Kind::Message => {
            let mut m: kvm_msi = sys::zeroed();
            (m.address_lo, m.data) = (0xfee0_0000, VECTOR.into());
            let r = g.vm.set(k::SIGNAL_MSI, &m);
            t.same("it is delivered", r, Answer::Ok(1));
            Answer::Ok(0)
        }
        Kind::Split => interrupt(&g, VECTOR.into()),
        Kind::Pic => Answer::Ok(0),
    };
    t.same(format!("{kind:?}: sent"), r, Answer::Ok(0));
    let mut r = v.regs();
    let stack = r.rsp;
    r.rsp = 0xe000_0800;
    if kind == Kind::Pic {
        // Without a window: interrupts are on as of now, behind the OUT.
        r.rip += 1;
        r.rflags |= IF;
        v.set_regs(&r);
        let r = interrupt(&g, VECTOR.into());
        t.same("an interrupt", r, Answer::Ok(0));
    } else {
        v.set_regs(&r);
    }
    let nmi = kind == Kind::Nmi;
    let e = sys::limited(5000, || g.enter());
    // With SVM the in-tree module does not see that it is an interrupt that meets the device, and
    // emulates instructions until one exits.
    if nmi || table::intel() || !table::stock() {
        t.same(
            format!("{kind:?}: the stack is a device"),
            e,
            Ok(Exit::Internal(KVM_INTERNAL_ERROR_DELIVERY_EV)),
        );
    }
    let mut r = v.regs();
    let at = r.rip;
    r.rsp = stack;
    v.set_regs(&r);
    let e = v.events();
    let seen = (e.interrupt.injected, e.nmi.injected);
    let want = (u8::from(!nmi), u8::from(nmi));
    t.same(format!("{kind:?}: is under way"), seen, want);
    t.same(format!("{kind:?}: #DB"), inject_db(&g), Answer::Ok(0));
    t.point(in_handler(&g, 1), format!("{kind:?}: in its handler"));
    t.same(format!("{kind:?}: it came first"), place(&g), at);
    if kind == Kind::Message {
        // The in-tree module forgets it where it is in service.
        let there = (bit(&g, ISR), bit(&g, IRR));
        t.same("the local APIC", there, (table::stock(), !table::stock()));
    }
    if table::stock() {
        return;
    }
    t.same(format!("{kind:?}: then the other"), value(&g), Ok(2));
    t.same(format!("{kind:?}: once"), value(&g), Ok(2));
    let which = if nmi { 2 } else { usize::from(VECTOR) };
    t.same(format!("{kind:?}: that one"), count(&g, which), 1);
    match kind {
        Kind::Message => {
            let there = (bit(&g, ISR), bit(&g, IRR));
            t.same("the local APIC", there, (false, false));
        }
        Kind::Nmi => {
            v.fd.call(k::NMI, 0).ok().expect("KVM_NMI");
            t.same("another NMI comes", value(&g), Ok(3));
        }
        Kind::Split | Kind::Pic => {
            let r = interrupt(&g, VECTOR.into());
            t.same("another interrupt", r, Answer::Ok(0));
            t.same("comes", value(&g), Ok(3));
        }
    }
}

/// By KVM_SET_VCPU_EVENTS, and by KVM_SET_GUEST_DEBUG while a delivery is cut short.
pub fn collisions(t: &mut Tap) {
    set_at_once(t);
    for kind in [Kind::Nmi, Kind::Message, Kind::Split, Kind::Pic] {
        cut_short(t, kind);
    }
}
