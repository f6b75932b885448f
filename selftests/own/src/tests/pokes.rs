// SPDX-License-Identifier: GPL-2.0

//! A guest pokes every port and every MSR.

use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::table::Table;
use crate::tap::Tap;
use std::collections::BTreeMap;

guest_code! {
    // ECX ports from EDX on, accesses of the kind in EBX: 1, 2, 4 bytes in, +8: out.
    poke_ports,
    "2: cmp ebx, 1",
    "jne 3f",
    "in al, dx",
    "jmp 9f",
    "3: cmp ebx, 2",
    "jne 4f",
    "in ax, dx",
    "jmp 9f",
    "4: cmp ebx, 4",
    "jne 5f",
    "in eax, dx",
    "jmp 9f",
    "5: xor eax, eax",
    "cmp ebx, 9",
    "jne 6f",
    "out dx, al",
    "jmp 9f",
    "6: cmp ebx, 10",
    "jne 7f",
    "out dx, ax",
    "jmp 9f",
    "7: out dx, eax",
    "9: inc edx",
    "dec ecx",
    "jnz 2b",
    "mov eax, 0x600d600d",
    "out 0xe1, eax",
}

/// Every port takes a minute on the AMD host, and ten times that on the others: there only the low
/// ones, which are in the kernel, are poked, unless `POKE_ALL=1` asks for all.
fn all_ports() -> bool {
    let is = |name: &str| std::env::var(name).is_ok_and(|v| v == "1");
    is("POKE_ALL") || sys::host("amd") && !is("DEBUG")
}

/// Which ports reach user space, with all chips in the kernel and without.
pub fn ports(tap: &mut Tap) {
    let mut t = Table::new(tap, "poke_ports", include_str!("../../data/poke-ports.tsv"));
    let most = if all_ports() { 0x1_0000u64 } else { 0x600 };
    let mut ways = vec![
        (Irqchip::Full, 4u64, 0xfff0, 0x10u64),
        (Irqchip::None, 1, 0u64, 0x600),
        (Irqchip::None, 9, 0, 0x600),
    ];
    for irqchip in [Irqchip::Full, Irqchip::Split] {
        for kind in [1, 2, 4, 9, 10, 12] {
            let every = (irqchip, kind) == (Irqchip::Full, 1);
            ways.push((irqchip, kind, 0, if every { 0x1_0000 } else { most }));
        }
    }
    for (irqchip, kind, from, count) in ways {
        let g = Guest::long_with(
            Plan {
                irqchip,
                ..Plan::default()
            },
            poke_ports(),
        );
        let mut r = g.cpus[0].regs();
        (r.rbx, r.rdx, r.rcx) = (kind, from, count);
        g.cpus[0].set_regs(&r);
        let mut seen = vec![false; 0x1_0000];
        let size = (kind & 7) as u8;
        let mut odd = Vec::new();
        let end = loop {
            match g.enter() {
                Ok(Exit::Out {
                    port: PORT_END,
                    ref data,
                    ..
                }) if data[..] == [0x0d, 0x60, 0x0d, 0x60] => {
                    break "end".to_string();
                }
                Ok(Exit::Out {
                    port,
                    size: s,
                    count: 1,
                    ..
                }) if kind >= 8 && s == size => {
                    seen[port as usize] = true;
                }
                Ok(e @ Exit::In { .. }) => {
                    let Exit::In { port, size: s, .. } = e else {
                        break "no".into();
                    };
                    seen[port as usize] = true;
                    if s != size {
                        odd.push(format!("{port:x}/{s}"));
                    }
                    g.cpus[0].answer(&e, &[0xff; 4][..s as usize]);
                }
                e => break format!("{e:x?}"),
            }
        };
        let inside: Vec<_> = (from..from + count)
            .map(|p| if seen[p as usize] { "user" } else { "kernel" })
            .collect();
        // Runs of ports by where they end.
        let mut runs = Vec::new();
        let mut i = 0;
        while i < inside.len() {
            let j = (i..inside.len())
                .find(|j| inside[*j] != inside[i])
                .unwrap_or(inside.len());
            if inside[i] == "kernel" {
                runs.push(format!(
                    "{:x}-{:x}",
                    from as usize + i,
                    from as usize + j - 1
                ));
            }
            i = j;
        }
        let text = format!("kernel {} {} {end}", runs.join(" "), odd.join(" "));
        t.row(format_args!("{irqchip:?} kind {kind} from {from:x}"), text);
    }
    t.finish();
}

guest_code! {
    // Of ECX to EDI: what RDMSR, WRMSR of the value read, of 0, of all ones do. A byte each at RSI:
    // bit 0 RDMSR faults, bit 1 writing the same, bit 2 writing 0, bit 3 writing all ones. With
    // EBX = 0 nothing is written.
    poke_msrs,
    "2: xor ebp, ebp",
    "lea r15, [rip + 3f]",
    "rdmsr",
    "mov r8d, eax",
    "mov r9d, edx",
    "jmp 4f",
    "3: or ebp, 1",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "4: test ebx, ebx",
    "jz 9f",
    "lea r15, [rip + 5f]",
    "mov eax, r8d",
    "mov edx, r9d",
    "wrmsr",
    "jmp 6f",
    "5: or ebp, 2",
    "6: lea r15, [rip + 7f]",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "jmp 8f",
    "7: or ebp, 4",
    "8: lea r15, [rip + 10f]",
    "mov eax, -1",
    "mov edx, -1",
    "wrmsr",
    "jmp 11f",
    "10: or ebp, 8",
    // Back to what it was.
    "11: lea r15, [rip + 9f]",
    "mov eax, r8d",
    "mov edx, r9d",
    "wrmsr",
    "9: mov [rsi], bpl",
    "inc rsi",
    "inc ecx",
    "cmp ecx, edi",
    "jne 2b",
    "xor r15d, r15d",
    "out 0xe1, eax",
}

/// MSRs whose change would end the guest or move its ground: only read.
fn read_only(m: u32) -> bool {
    matches!(m, 0x1b | 0xc000_0080 | 0xc000_0100..=0xc000_0102)
}

/// The MSRs of the two bitmaps of SVM and of VMX, KVM's, some of Hyper-V's, and the last ones.
const RANGES: &[(u32, u32)] = &[
    (0, 0x2000),
    (0x4000_0000, 0x4000_0200),
    (0x4b56_4d00, 0x4b56_4e00),
    (0xc000_0000, 0xc000_2000),
    (0xc001_0000, 0xc001_2000),
    (0xffff_fff0, 0xffff_ffff),
];

/// What RDMSR and WRMSR of every MSR do, as the guest's bits.
fn poked(t: &mut Table<'_>, irqchip: Irqchip) -> BTreeMap<u32, u8> {
    let plan = Plan {
        irqchip,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, poke_msrs());
    let mut all = BTreeMap::new();
    for (from, to) in RANGES {
        let mut at = *from;
        while at < *to {
            // One at a time where writing is forbidden.
            let single = read_only(at);
            let end = if single {
                at + 1
            } else {
                (at..*to).find(|m| read_only(*m)).unwrap_or(*to)
            };
            g.start_long(0, CODE);
            let mut r = g.cpus[0].regs();
            (r.rcx, r.rdi, r.rsi) = (u64::from(at), u64::from(end), DATA);
            r.rbx = u64::from(!single);
            g.cpus[0].set_regs(&r);
            if g.values().is_none() {
                let text = format!("{irqchip:?}, MSRs {at:#x} to {end:#x}: the guest died");
                t.tap().point(false, text);
            }
            let result = g.mem.read(DATA as usize, (end - at) as usize);
            all.extend((at..end).zip(result));
            at = end;
        }
    }
    all
}

/// Every MSR that is not refused altogether has a line, and with controllers in the kernel one that
/// is answered otherwise with them.
pub fn msrs(tap: &mut Tap) {
    let mut t = Table::new(tap, "poke_msrs", include_str!("../../data/poke-msrs.tsv"));
    let without = poked(&mut t, Irqchip::None);
    for (m, b) in &without {
        report(&mut t, Irqchip::None, *m, *b, None);
    }
    for irqchip in [Irqchip::Split, Irqchip::Full] {
        for (m, b) in poked(&mut t, irqchip) {
            report(&mut t, irqchip, m, b, without.get(&m));
        }
    }
    t.finish();
}

/// A line about an MSR, unless its answer is the usual one and no line is expected.
fn report(t: &mut Table<'_>, irqchip: Irqchip, m: u32, b: u8, usual: Option<&u8>) {
    let word = |bit: u8, name: &str| {
        if b & (1 << bit) != 0 {
            format!("{name}=#GP")
        } else {
            format!("{name}=ok")
        }
    };
    let all = if read_only(m) {
        word(0, "read")
    } else {
        [(0, "read"), (1, "same"), (2, "zero"), (3, "ones")]
            .map(|(i, n)| word(i, n))
            .join(" ")
    };
    let usual = usual.map_or(!all.contains("ok"), |u| *u == b);
    let case = format!("{irqchip:?} {m:#x}");
    if !usual || t.expects(&case) {
        t.row(case, all);
    }
}
