// SPDX-License-Identifier: GPL-2.0

//! Slots while a guest runs, signals, and state that survives being read and written back.

use crate::guest::supported_cpuid;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::zeroed;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

guest_code! {
    // Reads RDI, reports it, writes ESI there, and once more from the start.
    touch,
    "2: mov eax, [rdi]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov [rdi], esi",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

/// What the guest sees and does at an address.
pub fn touched(g: &Guest, at: u64, v: u32) -> Vec<String> {
    let mut r = crate::guest::boot::regs(0, crate::guest::CODE);
    (r.rdi, r.rsi) = (at, u64::from(v));
    g.cpus[0].set_regs(&r);
    let mut seen = Vec::new();
    loop {
        match g.enter() {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => {
                seen.push(format!(
                    "{:x}",
                    u32::from_le_bytes(data.try_into().unwrap())
                ));
            }
            Ok(e @ Exit::MmioRead { .. }) => {
                seen.push("device read".into());
                g.cpus[0].answer(&e, &[0xcd; 4]);
            }
            Ok(Exit::MmioWrite { .. }) => seen.push("device write".into()),
            Ok(Exit::Out { port: PORT_END, .. }) => return seen,
            e => {
                seen.push(format!("{e:x?}"));
                return seen;
            }
        }
    }
}

/// Adding, deleting, moving, read-only memory, and the dirty log, in small and large mappings.
pub fn slots(t: &mut Tap) {
    let at = 0x4000_0000u64;
    let g = Guest::long_with(
        Plan {
            mem: 8 << 20,
            ..Plan::default()
        },
        touch(),
    );
    let words = |v: &[&str]| v.iter().map(|s| (*s).to_string()).collect::<Vec<_>>();
    t.same(
        "slot 0 smaller",
        (g.slot(0, 0, 0, 0, 0).ok(), g.slot(0, 0, 0, 1 << 20, 0).ok()),
        (Ok(0), Ok(0)),
    );
    t.same(
        "nothing there",
        touched(&g, at, 1),
        words(&["device read", "cdcdcdcd", "device write"]),
    );
    for (what, offset, len) in [
        ("small", 0x20_1000usize, 0x4000usize),
        ("large", 0x20_0000, 4 << 20),
    ] {
        g.mem.store::<u32>(offset, 0x1111);
        t.same(
            format!("{what}: added"),
            g.slot(3, at, offset, len, 0).ok(),
            Ok(0),
        );
        t.same("memory", touched(&g, at, 0x2222), words(&["1111"]));
        t.same("written", g.mem.load::<u32>(offset), 0x2222);
        // The log of writes: on, taken, taken again.
        t.same(
            "log",
            g.slot(3, at, offset, len, KVM_MEM_LOG_DIRTY_PAGES).ok(),
            Ok(0),
        );
        t.same("write", touched(&g, at + 0x2000, 0x33).len(), 1);
        let log = |g: &Guest| {
            let bits = vec![0u64; 16];
            let mut d: kvm_dirty_log = zeroed();
            d.slot = 3;
            d.__bindgen_anon_1.dirty_bitmap = bits.as_ptr() as *mut _;
            g.vm.set(k::GET_DIRTY_LOG, &d)
                .ok()
                .expect("KVM_GET_DIRTY_LOG");
            bits[0] & 0xf
        };
        t.same("the page is in the log", log(&g) & 4, 4);
        t.same("and then no more", log(&g), 0);
        t.same("write again", touched(&g, at + 0x1000, 0x33).len(), 1);
        t.same("another page", log(&g), 2);
        t.same(
            "read only: log off",
            g.slot(3, at, offset, len, 0).ok(),
            Ok(0),
        );
        // Moved: the old place is empty, the new one has the data.
        let to = at + 0x1000_0000;
        t.same("moved", g.slot(3, to, offset, len, 0).ok(), Ok(0));
        t.same(
            "old place",
            touched(&g, at, 1),
            words(&["device read", "cdcdcdcd", "device write"]),
        );
        t.same("new place", touched(&g, to, 0x4444), words(&["2222"]));
        t.same("deleted", g.slot(3, to, 0, 0, 0).ok(), Ok(0));
        t.same(
            "gone",
            touched(&g, to, 1)[0].clone(),
            "device read".to_string(),
        );
        t.same("its memory stays", g.mem.load::<u32>(offset), 0x4444);
        t.same(
            "read-only",
            g.slot(3, at, offset, len, KVM_MEM_READONLY).ok(),
            Ok(0),
        );
        t.same(
            "reads, and writes exit",
            touched(&g, at, 0x5555),
            words(&["4444", "device write"]),
        );
        t.same("unchanged", g.mem.load::<u32>(offset), 0x4444);
        // User space's view changes under the guest: a page given back reads as zeros.
        g.mem.discard(offset, 0x1000);
        t.same("given back", touched(&g, at, 0)[0].clone(), "0".to_string());
        t.same("end", g.slot(3, at, 0, 0, 0).ok(), Ok(0));
    }
}

/// immediate_exit, and signals while the guest runs or halts.
pub fn signals(t: &mut Tap) {
    for irqchip in [Irqchip::None, Irqchip::Full] {
        let plan = Plan {
            irqchip,
            ..Plan::default()
        };
        // jmp to itself
        let g = Guest::long_with(plan, &[0xeb, 0xfe]);
        g.cpus[0].immediate_exit(true);
        t.same(
            format!("{irqchip:?}: immediate_exit"),
            g.enter(),
            Err(libc::EINTR),
        );
        t.same(
            "no reason is given",
            g.cpus[0].run.load::<u32>(8),
            KVM_EXIT_UNKNOWN,
        );
        g.cpus[0].immediate_exit(false);
        // sti; jmp to itself
        g.load(crate::guest::CODE, &[0xfb, 0xeb, 0xfe]);
        t.same(
            "a signal ends a loop",
            sys::limited(100, || g.enter()),
            Err(libc::EINTR),
        );
        g.start_long(0, crate::guest::CODE);
        g.load(crate::guest::CODE, &[0xeb, 0xfe]);
        // Bochs lets no interrupt of the host exit before the guest's interrupts have once been on
        // (Documentation/testing.rst): the whole host would stand still.
        if !sys::host("intel") && !sys::host("ryzen") {
            t.same(
                "a signal ends a loop with interrupts off",
                sys::limited(100, || g.enter()),
                Err(libc::EINTR),
            );
        }
        if irqchip == Irqchip::Full {
            // hlt with interrupts off: nothing but a signal ends it.
            g.load(crate::guest::CODE, &[0xf4, 0xeb, 0xfd]);
            t.same(
                "a signal ends a halt",
                sys::limited(100, || g.enter()),
                Err(libc::EINTR),
            );
            t.same(
                "which is the vCPU's state",
                g.cpus[0].mp_state(),
                KVM_MP_STATE_HALTED,
            );
        }
    }
}

guest_code! {
    // Fills what a vCPU has with values that are not the defaults, and ends.
    fill_state,
    "mov rax, 0x0123456789abcdef",
    "movq xmm3, rax",
    "fldpi",
    "mov r8, rax",
    "mov dr0, rax",
    "mov ecx, 0xc0000102",
    "mov eax, 0x1234000",
    "xor edx, edx",
    "wrmsr",
    "mov ecx, 0x175",
    "wrmsr",
    "mov rax, 5",
    "mov cr8, rax",
    "stc",
    "mov edx, 0xe1",
    "out dx, al",
}

/// All state of a vCPU moves to a new VM and is read back the same.
pub fn round_trip(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let a = Guest::long_with(plan, fill_state());
    let end = a.enter();
    t.point(
        matches!(end, Ok(Exit::Out { port: PORT_END, .. })),
        "the guest filled its state",
    );
    let b = Guest::new(plan);
    let (v, w) = (&a.cpus[0].fd, &b.cpus[0].fd);
    for (name, get, set, len) in [
        (
            "sregs",
            k::GET_SREGS2,
            k::SET_SREGS2,
            size_of::<kvm_sregs2>(),
        ),
        ("regs", k::GET_REGS, k::SET_REGS, size_of::<kvm_regs>()),
        ("FPU", k::GET_FPU, k::SET_FPU, size_of::<kvm_fpu>()),
        ("XCRs", k::GET_XCRS, k::SET_XCRS, size_of::<kvm_xcrs>()),
        ("XSAVE", k::GET_XSAVE, k::SET_XSAVE, 4096),
        (
            "debug registers",
            k::GET_DEBUGREGS,
            k::SET_DEBUGREGS,
            size_of::<kvm_debugregs>(),
        ),
        ("events", k::GET_VCPU_EVENTS, k::SET_VCPU_EVENTS, 64),
        ("local APIC", k::GET_LAPIC, k::SET_LAPIC, 1024),
        ("state", k::GET_MP_STATE, k::SET_MP_STATE, 4),
    ] {
        let mut x = vec![0u8; len];
        t.same(format!("{name}: get"), v.bytes(get, &mut x).ok(), Ok(0));
        t.same(
            format!("{name}: set"),
            w.bytes(set, &mut x.clone()).ok(),
            Ok(0),
        );
        let mut y = vec![0u8; len];
        w.bytes(get, &mut y).ok().ok();
        let at = x.iter().zip(&y).position(|(p, q)| p != q);
        t.same(format!("{name}: the same"), at, None);
    }
    let r = b.cpus[0].regs();
    t.same("R8", r.r8, 0x0123_4567_89ab_cdef);
    t.same("CF", r.rflags & 1, 1);
    t.same("CR8", b.cpus[0].sregs().cr8, 5);
    let mut n = 0;
    let list = crate::errno::world::msr_list(&a.dev, k::GET_MSR_INDEX_LIST);
    for m in &list {
        // Clocks go on.
        if matches!(*m, 0x10 | 0x6e0 | 0x4000_0010 | 0x4000_0020 | 0xe7 | 0xe8) {
            continue;
        }
        let Some(x) = a.cpus[0].msr(*m) else { continue };
        if !b.cpus[0].set_msr(*m, x) || b.cpus[0].msr(*m) != Some(x) {
            t.point(
                false,
                format!("MSR {m:#x} = {x:#x}: refused, or {:x?}", b.cpus[0].msr(*m)),
            );
        }
        n += 1;
    }
    t.point(n > 20, format!("{n} MSRs moved"));
    t.same("MSR 0x175", b.cpus[0].msr(0x175), Some(0x123_4000));
}

/// KVM_GET_XSAVE shows state that the guest has, whatever else is in use in this thread, whose protection
/// keys are never all zeros.
pub fn xsave_shown(t: &mut Tap) {
    const STATE: u32 = 0xd;
    /// x87 and SSE.
    const LEAST: u64 = 3;
    let g = Guest::long(fill_state());
    let v = &g.cpus[0];
    let mut c = supported_cpuid(&g.dev);
    let leaf = c[8..].chunks_exact_mut(40).find(|e| {
        let word = |i: usize| u32::from_ne_bytes([e[i], e[i + 1], e[i + 2], e[i + 3]]);
        (word(0), word(4)) == (STATE, 0)
    });
    let Some(leaf) = leaf else {
        return t.skip("the host has no XSAVE");
    };
    leaf[12..16].copy_from_slice(&(LEAST as u32).to_ne_bytes());
    leaf[24..28].fill(0);
    let r = v.fd.bytes(k::SET_CPUID2, &mut c);
    t.same("a guest with less", r, Answer::Ok(0));
    let end = g.enter();
    let ended = matches!(end, Ok(Exit::Out { port: PORT_END, .. }));
    t.point(ended, "the guest runs");
    let mut x = vec![0u8; 4096];
    let r = v.fd.bytes(k::GET_XSAVE, &mut x);
    t.same("KVM_GET_XSAVE", r, Answer::Ok(0));
    let mut bits = [0; 8];
    bits.copy_from_slice(&x[512..520]);
    let more = u64::from_ne_bytes(bits) & !LEAST;
    t.same("XSTATE_BV: more than the guest has", more, 0);
}
