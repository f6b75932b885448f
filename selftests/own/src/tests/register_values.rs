// SPDX-License-Identifier: GPL-2.0

//! What a guest can write to MSRs and to the local APIC, value by value, and what it reads then.

use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::table::Table;
use crate::tap::Tap;

/// Where the guest finds its steps, and where it leaves the answers: 16 bytes each.
const STEPS: usize = 0x10_0000;
const ANSWERS: usize = 0x14_0000;

guest_code! {
    // A step: what to do, an index, a value. An answer: the vector of a fault or 0, what was read.
    carries_out,
    "mov esi, 0x100000",
    "mov edi, 0x140000",
    "1: mov dword ptr [r14], 0",
    "mov ecx, [rsi + 4]",
    "mov eax, [rsi + 8]",
    "mov edx, [rsi + 12]",
    "lea r15, [rip + 8f]",
    "mov ebp, [rsi]",
    "cmp ebp, 1",
    "je 2f",
    "cmp ebp, 2",
    "je 3f",
    "cmp ebp, 3",
    "je 4f",
    "cmp ebp, 4",
    "je 5f",
    "cmp ebp, 5",
    "je 6f",
    "mov edx, 0xe1",
    "out dx, al",
    "2: wrmsr",
    "xor eax, eax",
    "xor edx, edx",
    "jmp 8f",
    "3: rdmsr",
    "jmp 8f",
    "4: mov [rcx], eax",
    "xor edx, edx",
    "xor eax, eax",
    "jmp 8f",
    "5: mov eax, [rcx]",
    "xor edx, edx",
    "jmp 8f",
    "6: mov eax, ecx",
    "xor ecx, ecx",
    "cpuid",
    "mov eax, ecx",
    "8: mov ecx, [r14]",
    "mov [rdi], rcx",
    "mov [rdi + 8], eax",
    "mov [rdi + 12], edx",
    "add esi, 16",
    "add edi, 16",
    "jmp 1b",
}

/// What the guest does.
#[derive(Clone, Copy)]
enum Step {
    /// WRMSR.
    Write(u32, u64),
    /// RDMSR.
    Read(u32),
    /// A word to device memory.
    Put(u32, u32),
    /// A word from device memory.
    Get(u32),
    /// CPUID: ECX and EDX of a leaf.
    Cpuid(u32),
}
use Step::*;

/// Carries out the steps on vCPU 0; the answers in a few characters each.
fn run(g: &Guest, steps: &[Step]) -> Vec<String> {
    for (i, s) in steps.iter().enumerate() {
        let (op, index, value) = match *s {
            Write(m, v) => (1u32, m, v),
            Read(m) => (2, m, 0),
            Put(a, v) => (3, a, v.into()),
            Get(a) => (4, a, 0),
            Cpuid(l) => (5, l, 0),
        };
        let at = STEPS + 16 * i;
        g.mem.store::<u32>(at, op);
        g.mem.store::<u32>(at + 4, index);
        g.mem.store::<u64>(at + 8, value);
    }
    g.mem.store::<u32>(STEPS + 16 * steps.len(), 0);
    g.start_long(0, crate::guest::CODE);
    let end = sys::limited(4000, || loop {
        match g.enter() {
            Ok(e @ Exit::MmioRead { .. }) => g.cpus[0].answer(&e, &[0xcd; 8]),
            Ok(Exit::MmioWrite { .. }) => {}
            Ok(Exit::Out { port: PORT_END, .. }) => break None,
            e => break Some(format!("{e:x?}")),
        }
    });
    if let Some(end) = end {
        return vec![end];
    }
    let answer = |i: usize| {
        let at = ANSWERS + 16 * i;
        let (fault, value): (u64, u64) = (g.mem.load(at), g.mem.load(at + 8));
        match (steps[i], fault) {
            (_, 13) => "#GP".to_string(),
            (_, f) if f != 0 => format!("#{f}"),
            (Write(..) | Put(..), _) => "ok".to_string(),
            _ => format!("{value:x}"),
        }
    };
    (0..steps.len()).map(answer).collect()
}

fn guest(irqchip: Irqchip) -> Guest {
    let plan = Plan {
        irqchip,
        ..Plan::default()
    };
    Guest::long_with(plan, carries_out())
}

/// Canonical with 48 bits, with 57, and not at all.
const ADDRESSES: [u64; 5] = [
    0x0000_7fff_ffff_ffff,
    0xffff_8000_1234_5678,
    0x00ff_1234_5678_9abc,
    0x7fff_1234_5678_9abc,
    0xaaaa_aaaa_aaaa_aaaa,
];

/// MSRs: a value is written, and what is there then is read.
pub fn msr_values(tap: &mut Tap) {
    let mut t = Table::new(tap, "msr_values", include_str!("../../data/msr-values.tsv"));
    let some = [0, 1, 0x1234, u64::MAX, 0x8000_0000_0000_0000];
    let mut cases: Vec<(u32, &[u64])> = Vec::new();
    // QEMU's processor takes any address, and makes it canonical now and then.
    let addresses = if sys::host("amd") {
        &ADDRESSES[..3]
    } else {
        &ADDRESSES
    };
    // SYSENTER_ESP and EIP, FS.base, GS.base, KERNEL_GS_BASE, LSTAR, CSTAR.
    for m in [
        0x175,
        0x176,
        0xc000_0100,
        0xc000_0101,
        0xc000_0102,
        0xc000_0082,
        0xc000_0083,
    ] {
        cases.push((m, addresses));
    }
    cases.extend([
        // SYSENTER_CS, STAR, SYSCALL_MASK.
        (0x174, &some[..]),
        (0xc000_0081, &some),
        (0xc000_0084, &[0, 0xffff_ffff, 0x1_0000_0000]),
        // MISC_ENABLE: read-only bits 7, 11 and 12.
        (
            0x1a0,
            &[
                0x4_00c5_0809,
                0x1800,
                0x1880,
                0x1,
                0x5_1801,
                0x6_1801,
                0x800,
            ],
        ),
        // PAT: types 2 and 3 do not exist.
        (
            0x277,
            &[
                0x0707_0707,
                0x0007_0406_0007_0406,
                0x0202_0202,
                0x3,
                0x8,
                0x0706_0504_0100_0706,
            ],
        ),
        // EFER: SCE, NXE; what may not change with paging on; what does not exist.
        (
            0xc000_0080,
            &[
                0x501,
                0xd01,
                0xd00,
                0x500,
                0x400,
                0x100,
                0x502,
                0x1_0000_0500,
            ],
        ),
        // The machine-check banks: control, status, address, miscellany; one behind the last.
        (0x400, &[0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa, 1, !(1 << 10)]),
        (0x401, &[0, 1, u64::MAX]),
        (0x402, &[0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa]),
        (0x403, &[0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa]),
        (0x410, &[0, u64::MAX, 0xaaaa_aaaa_aaaa_aaaa, !(1 << 10), !1]),
        (0x411, &[0, 1]),
        (0x47c, &[0, u64::MAX]),
        // MCG_STATUS, MCG_CTL.
        (0x17a, &[0, 4, 7]),
        (0x17b, &[0, u64::MAX, 1]),
        // MTRRs: default type, a variable range, a fixed one.
        (0x2ff, &[0x806, 0xc06, 0x802, 0x1806]),
        (0x200, &[6, 0x1_0000_0006, 0x2, 0x106]),
        (0x201, &[0x8_0000_0800, 0x8_0000_0000, 0x801]),
        (0x250, &[0x0606_0606_0606_0606, 0x0202_0202_0202_0202]),
        // DEBUGCTL, HWCR, the patch level, the spectre controls.
        (0x1d9, &[0, 1, 2, 3, 4, 0x40, 0x8000]),
        (
            0xc001_0015,
            &[0, 8, 0x40, 0x100, 0x100_0000, 0x4_0000, 1, 0x100_0010],
        ),
        (0x8b, &[0, 0x1234_0000_0000]),
        (0x48, &[0, 1]),
        (0x49, &[0, 1]),
        (0x140, &[0, 1, 2]),
        // XSS, TSC_AUX, TSC_ADJUST.
        (0xda0, &[0, 1, 0x100]),
        (0xc000_0103, &[0, 0x100, 0x1_0000_0000]),
    ]);
    for (m, values) in &cases {
        let g = guest(Irqchip::Full);
        // Ten banks.
        let r = g.cpus[0]
            .fd
            .set(crate::uapi::X86_SETUP_MCE, &(10u64 | 1 << 8));
        t.tap().point(r.is_ok(), "KVM_X86_SETUP_MCE");
        let each = values.iter().flat_map(|v| [Write(*m, *v), Read(*m)]);
        let before = run(&g, &[Read(*m)]).concat();
        let answers = run(&g, &each.collect::<Vec<_>>());
        let each = values.iter().zip(answers.chunks(2));
        let text = each.map(|(v, a)| match a {
            [w, r] if w == "ok" => format!("{v:x}={r}"),
            [w, _] => format!("{v:x}={w}"),
            other => other.join(" "),
        });
        let text = text.collect::<Vec<_>>().join(" ");
        t.row(format_args!("{m:#x}"), format!("{before}: {text}"));
    }
    t.finish();
}

/// IA32_APIC_BASE with the page at its usual place, of the boot processor.
const BASE: u64 = 0xfee0_0100;
const DISABLED: u64 = BASE;
const XAPIC: u64 = BASE | 0x800;
const X2APIC: u64 = BASE | 0xc00;
const INVALID: u64 = BASE | 0x400;

/// The local APIC: every register in both modes, the ways between modes and what they leave.
pub fn apic_values(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "apic_values",
        include_str!("../../data/apic-values.tsv"),
    );
    let page = 0xfee0_0000;
    for chips in [Irqchip::Split, Irqchip::Full] {
        for reg in (0..0x400).step_by(0x10) {
            // Not the current count, which counts, nor what sends, nor ISR, TMR and IRR word by word.
            // Where the other chips are matters to the version alone, and to what follows from it.
            let all = chips == Irqchip::Full && !matches!(reg, 0x300 | 0x390 | 0x3f0);
            let alike = matches!(reg, 0x110..=0x170 | 0x190..=0x1f0 | 0x210..=0x270);
            if alike || !all && !matches!(reg, 0x30 | 0xf0) {
                continue;
            }
            let at = page + reg;
            let steps = [Get(at), Put(at, u32::MAX), Get(at), Put(at, 0), Get(at)];
            let a = run(&guest(chips), &steps);
            if a.iter().any(|w| w != "0" && w != "ok") {
                t.row(format_args!("{chips:?} xAPIC {reg:x}"), a.join(" "));
            }
            let msr = 0x800 + (reg >> 4);
            let steps = [
                Write(0x1b, X2APIC),
                Read(msr),
                Write(msr, 1),
                Write(msr, 0xffff_ffff),
                Write(msr, 1 << 32),
                Read(msr),
                Write(msr, 0),
                Read(msr),
            ];
            let a = run(&guest(chips), &steps);
            if a[1..].iter().any(|w| w != "#GP") {
                t.row(format_args!("{chips:?} x2APIC {msr:x}"), a[1..].join(" "));
            }
        }
    }
    let chips = Irqchip::Full;
    // Commands to nobody: bits that are reserved.
    for bit in (11..18).chain(20..33) {
        let icr = 0x1234_0000_00fb ^ 1u64 << bit;
        let a = run(
            &guest(chips),
            &[Write(0x1b, X2APIC), Write(0x830, icr), Read(0x830)],
        );
        t.row(format_args!("command bit {bit}"), a[1..].join(" "));
    }
    let ways: [(&str, &[u64]); 3] = [
        ("disabled", &[DISABLED]),
        ("xAPIC", &[XAPIC]),
        ("x2APIC", &[X2APIC]),
    ];
    for (from, way) in ways {
        for (to, value) in [
            ("disabled", DISABLED),
            ("xAPIC", XAPIC),
            ("x2APIC", X2APIC),
            ("invalid", INVALID),
            ("reserved bit 0", XAPIC | 1),
            ("reserved bit 9", XAPIC | 1 << 9),
            ("reserved bit 52", XAPIC | 1 << 52),
            ("elsewhere", XAPIC + 0x1_0000),
            ("without BSP", XAPIC & !0x100),
        ] {
            let mut steps: Vec<_> = way.iter().map(|v| Write(0x1b, *v)).collect();
            steps.extend([
                Write(0x1b, value),
                Read(0x1b),
                Cpuid(1),
                Get(page + 0x30),
                Read(0x803),
            ]);
            let mut a = run(&guest(chips), &steps);
            // Of the features only APIC, bit 9 of EDX.
            if let Some(w) = a.get_mut(way.len() + 2) {
                let v = u64::from_str_radix(w, 16).unwrap_or(0);
                *w = format!("apic={}", v >> (32 + 9) & 1);
            }
            t.row(format_args!("{from} to {to}"), a.join(" "));
        }
    }
    // What is kept.
    let set = [
        0x80, 0xd0, 0xe0, 0xf0, 0x310, 0x320, 0x350, 0x370, 0x380, 0x3e0, 0x20,
    ];
    let values = [
        0x20,
        0x1200_0000,
        0xfff_ffff,
        0x1ff,
        0x3400_0000,
        0x1_0041,
        0x1_0042,
        0x43,
        0x1000_0000,
        0xb,
        0x500_0000,
    ];
    let put = || set.iter().zip(values).map(|(r, v)| Put(page + r, v));
    let get = || set.iter().map(|r| Get(page + r));
    let read = || set.iter().map(|r| Read(0x800 + (r >> 4)));
    let mut kept = |name: &str, steps: Vec<Step>| {
        let a = run(&guest(chips), &steps);
        t.row(name, a[set.len()..].join(" "));
    };
    kept("kept, xAPIC", put().chain(get()).collect());
    let x2 = || put().chain([Write(0x1b, X2APIC)]).chain(read());
    kept("kept, to x2APIC", x2().collect());
    let back = [Write(0x1b, DISABLED), Write(0x1b, XAPIC)];
    kept(
        "kept, through x2APIC",
        x2().chain(back).chain(get()).collect(),
    );
    kept("kept, disabled", put().chain(back).chain(get()).collect());
    kept(
        "kept, software-disabled",
        put().chain([Put(page + 0xf0, 0xff)]).chain(get()).collect(),
    );
    // Modes of the timer: the initial count, the deadline.
    let (lvt, count, deadline) = (page + 0x320, page + 0x380, 0x6e0);
    let look = [Get(count), Read(deadline), Get(lvt)];
    let mut steps = vec![Put(page + 0xf0, 0x1ff), Put(count, 0x1000_0000)];
    for mode in [0x3_0040, 0x1_0040, 0x3_0040, 0x5_0040, 0x1_0040] {
        steps.push(Put(lvt, mode));
        steps.extend(look);
        steps.extend([Write(deadline, u64::MAX >> 1), Put(count, 0x2000_0000)]);
        steps.extend(look);
    }
    let a = run(&guest(chips), &steps);
    t.row("modes of the timer", a[2..].join(" "));
    t.finish();
}
