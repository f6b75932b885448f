// SPDX-License-Identifier: GPL-2.0

//! System management interrupts from everything that can send one: another vCPU, the vCPU itself, an
//! MSI, a pin of the IOAPIC, an entry of the local vector table. For each, the handler runs.

use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::Vcpu;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::zeroed;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// What the handler says.
const HANDLED: u8 = 0x5a;
/// What a vCPU says that was woken from HLT.
const WOKEN: u8 = 0x17;
/// Delivery mode SMI, in an ICR, an MSI, an LVT entry and an IOAPIC's entry.
const SMI: u32 = 2 << 8;
const SVR: usize = 0xf0;
const LVT_CMCI: usize = 0x2f0;
const LVT_TIMER: usize = 0x320;
const LVT_LINT0: usize = 0x350;

guest_code! {
    // Sends what is in memory, over and over; it may be to itself.
    sender,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "2: mov eax, [0x80004]",
    "mov [rbx + 0x310], eax",
    "mov eax, [0x80000]",
    "mov [rbx + 0x300], eax",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

guest_code! {
    // Says 0 over and over.
    receiver,
    "2: xor eax, eax",
    "out 0xe0, al",
    "jmp 2b",
}

guest_code! {
    // Halts first.
    halted_receiver,
    "hlt",
    "mov eax, 0x17",
    "out 0xe0, al",
    "2: xor eax, eax",
    "out 0xe0, al",
    "jmp 2b",
}

guest_code! {
    // The handler begins in real mode: mov al, 0x5a; out 0xe0, al; rsm.
    handler,
    ".byte 0xb0, 0x5a, 0xe6, 0xe0, 0x0f, 0xaa",
}

/// Where the receiver's code is.
const RECEIVER: u64 = 0x1_1000;

/// Two vCPUs: one sends, the other is sent to.
fn pair() -> Guest {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, sender());
    g.slot(1 << 16, 0, 0, plan.mem, 0).ok().expect("memory");
    g.load(RECEIVER, receiver());
    g.load(0x3_8000, handler());
    g.start_long(1, RECEIVER);
    let v = &g.cpus[1];
    v.set_mp_state(KVM_MP_STATE_RUNNABLE).ok().expect("state");
    set_apic(v, SVR, 0x1ff);
    g
}

fn set_apic(v: &Vcpu, reg: usize, value: u32) {
    let mut l: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    for (to, from) in l.regs[reg..].iter_mut().zip(value.to_ne_bytes()) {
        *to = from as std::ffi::c_char;
    }
    v.fd.set(k::SET_LAPIC, &l).ok().expect("KVM_SET_LAPIC");
}

fn apic(v: &Vcpu, reg: usize) -> u32 {
    let l: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    let b: Vec<u8> = l.regs[reg..reg + 4].iter().map(|b| *b as u8).collect();
    u32::from_ne_bytes(b.try_into().unwrap())
}

/// What a vCPU says up to the first 0 or its end.
fn says(v: &Vcpu) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    loop {
        match sys::limited(5000, || v.enter()) {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) if data != [0] => {
                all.extend(data);
                if all.len() > 8 {
                    return Err(format!("{all:x?} and no end"));
                }
            }
            Ok(Exit::Out { port, .. }) if port == 0xe0 || port == PORT_END => return Ok(all),
            e => return Err(format!("{e:x?} after {all:x?}")),
        }
    }
}

/// One point each for: it waits, the handler runs, once.
fn handled(t: &mut Tap, what: &str, v: &Vcpu) {
    let waits = v.events().smi.pending;
    t.same(format!("{what}: it waits"), waits, 1);
    let said = says(v);
    t.same(format!("{what}: the handler runs"), said, Ok(vec![HANDLED]));
    let e = v.events().smi;
    t.same(
        format!("{what}: and has returned"),
        (e.smm, e.pending, says(v)),
        (0, 0, Ok(vec![])),
    );
}

/// None of it.
fn ignored(t: &mut Tap, what: &str, v: &Vcpu) {
    let e = v.events().smi;
    let got = (e.pending, says(v));
    t.same(format!("{what}: nothing"), got, (0, Ok(vec![])));
}

fn msi(g: &Guest, data: u32) -> Answer {
    let mut m: kvm_msi = zeroed();
    (m.address_lo, m.data) = (0xfee0_1000, data);
    g.vm.set(k::SIGNAL_MSI, &m)
}

fn line(g: &Guest, irq: u32, level: u32) -> Answer {
    let mut l: kvm_irq_level = zeroed();
    (l.__bindgen_anon_1.irq, l.level) = (irq, level);
    g.vm.set(k::IRQ_LINE, &l)
}

/// The vCPU that is sent to runs first, and once more after each SMI.
pub fn sources(t: &mut Tap) {
    let g = pair();
    let v = &g.cpus[1];
    t.same("it runs", says(v), Ok(vec![]));

    let send = |high: u32, icr: u32| {
        g.mem.store::<u32>(0x8_0000, icr);
        g.mem.store::<u32>(0x8_0004, high);
        says(&g.cpus[0])
    };
    for (what, high, icr) in [
        ("an IPI to its id", 1 << 24, 0x4000 | SMI),
        ("an IPI with a vector", 1 << 24, 0x4000 | SMI | 0x40),
        ("an IPI to all", 0xff << 24, 0x4000 | SMI),
        ("an IPI to all but itself", 0, 0xc_4000 | SMI),
    ] {
        let sent = send(high, icr);
        // The sender is one of all.
        let mine = if what == "an IPI to all" {
            vec![HANDLED]
        } else {
            vec![]
        };
        t.same(format!("{what}: sent"), sent, Ok(mine));
        handled(t, what, v);
    }
    let sent = send(0, 0x4_4000 | SMI);
    t.same("an IPI to itself", sent, Ok(vec![HANDLED]));
    ignored(t, "the other one", v);

    t.same("an MSI: sent", msi(&g, SMI), Answer::Ok(1));
    handled(t, "an MSI", v);
    t.same("two MSIs: one", msi(&g, SMI), Answer::Ok(1));
    t.same("two MSIs: two", msi(&g, SMI), Answer::Ok(1));
    handled(t, "two MSIs are one", v);

    let mut c: kvm_irqchip = zeroed();
    c.chip_id = 2;
    g.vm.exchange(k::GET_IRQCHIP, &mut c)
        .ok()
        .expect("KVM_GET_IRQCHIP");
    // SAFETY: any bits are a value of the union.
    unsafe { c.chip.ioapic.redirtbl[5].bits = u64::from(SMI) | 1 << 56 };
    t.same("IOAPIC set", g.vm.set(k::SET_IRQCHIP, &c), Answer::Ok(0));
    t.same("a pin: raised", line(&g, 5, 1), Answer::Ok(0));
    handled(t, "a pin", v);
    t.same("a pin: lowered", line(&g, 5, 0), Answer::Ok(0));
    ignored(t, "a pin that is lowered", v);

    // It wakes a vCPU that has halted, which goes on behind its HLT.
    g.load(RECEIVER, halted_receiver());
    v.set_regs(&boot::regs(1, RECEIVER));
    let r = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
    t.same("it halts: set", r, Answer::Ok(0));
    let halted = sys::limited(100, || v.enter());
    t.same("it halts", halted, Err(libc::EINTR));
    t.same("an MSI: sent", msi(&g, SMI), Answer::Ok(1));
    t.same("it is woken", says(v), Ok(vec![HANDLED, WOKEN]));
}

/// By an entry of the local vector table: a corrected machine check may be reported so. A timer has no
/// delivery mode. A pin delivers what the PICs have, or the PIT's NMIs, and no SMI.
pub fn local(t: &mut Tap) {
    let g = pair();
    let v = &g.cpus[1];
    t.same("it runs", says(v), Ok(vec![]));
    let cap: u64 = g
        .dev
        .get(k::X86_GET_MCE_CAP_SUPPORTED)
        .expect("KVM_X86_GET_MCE_CAP_SUPPORTED");
    let report = || {
        let mut m: kvm_x86_mce = zeroed();
        // Valid, uncorrected: no action.
        (m.bank, m.status) = (2, 1 << 63 | 1 << 61);
        v.fd.set(k::X86_SET_MCE, &m)
    };
    let cmci = cap & 1 << 10;
    println!("# machine checks by interrupt: {}", cmci != 0);
    let r = v.fd.set(k::X86_SETUP_MCE, &(10u64 | cmci));
    t.same("ten banks", r, Answer::Ok(0));
    t.same("to be told", v.set_msr(0x282, 1 << 30), cmci != 0);
    set_apic(v, LVT_CMCI, SMI);
    t.same("a machine check", report(), Answer::Ok(0));
    if cmci != 0 {
        handled(t, "a machine check", v);
        set_apic(v, LVT_CMCI, SMI | 1 << 16);
        t.same("masked", report(), Answer::Ok(0));
        ignored(t, "a machine check, masked", v);
    } else {
        ignored(t, "a machine check, without that entry", v);
    }

    set_apic(v, LVT_LINT0, SMI);
    for level in [1, 0] {
        t.same("line 0 of the PIC", line(&g, 0, level), Answer::Ok(0));
    }
    ignored(t, "pin LINT0", v);

    // Of what the guest writes the mode is not kept.
    g.load(CODE, timer());
    g.start_long(0, CODE);
    let values = g.values();
    t.same("LVT timer", values, Some(vec![0x1_0050]));
    let lvt = apic(&g.cpus[0], LVT_TIMER);
    t.same("LVT timer, as user space sees it", lvt, 0x1_0050);
}

guest_code! {
    timer,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x320], 0x10250",
    "mov eax, [rbx + 0x320]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}
