// SPDX-License-Identifier: GPL-2.0

//! A guest pokes every port and every MSR.

use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys::Area;
use crate::table::Table;
use crate::tap::Tap;

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

/// Which ports reach user space, with all chips in the kernel and without.
pub fn ports(tap: &mut Tap) {
    let mut t = Table::new(tap, "poke_ports", include_str!("../../data/poke-ports.tsv"));
    for (irqchip, kind, from, count) in [
        (Irqchip::Full, 1u64, 0u64, 0x1_0000u64),
        (Irqchip::Full, 2, 0, 0x600),
        (Irqchip::Full, 4, 0, 0x600),
        (Irqchip::Full, 9, 0, 0x1000),
        (Irqchip::Full, 10, 0, 0x600),
        (Irqchip::Full, 12, 0, 0x600),
        (Irqchip::Full, 4, 0xfff0, 0x10),
        (Irqchip::Split, 1, 0, 0x600),
        (Irqchip::Split, 9, 0, 0x600),
        (Irqchip::None, 1, 0, 0x600),
    ] {
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

/// Every MSR that is not refused altogether has a line.
pub fn msrs(tap: &mut Tap) {
    let mut t = Table::new(tap, "poke_msrs", include_str!("../../data/poke-msrs.tsv"));
    for irqchip in [Irqchip::None, Irqchip::Full] {
        let g = Guest::long_with(
            Plan {
                irqchip,
                ..Plan::default()
            },
            &[],
        );
        g.load(crate::guest::CODE, poke_msrs());
        let ranges: &[(u32, u32)] = if irqchip == Irqchip::None {
            &[
                (0, 0x1200),
                (0x4000_0000, 0x4000_0200),
                (0x4b56_4d00, 0x4b56_4d20),
                (0xc000_0000, 0xc000_0400),
                (0xc001_0000, 0xc001_0400),
                (0xc001_1000, 0xc001_1100),
                (0xffff_fff0, 0xffff_ffff),
            ]
        } else {
            &[(0, 0x40), (0x6d0, 0x900)]
        };
        for (from, to) in ranges {
            let mut at = *from;
            while at < *to {
                // One at a time where writing is forbidden.
                let single = read_only(at);
                let end = if single {
                    at + 1
                } else {
                    (at..*to).find(|m| read_only(*m)).unwrap_or(*to)
                };
                g.start_long(0, crate::guest::CODE);
                let mut r = g.cpus[0].regs();
                (r.rcx, r.rdi, r.rsi) = (u64::from(at), u64::from(end), DATA);
                r.rbx = u64::from(!single);
                g.cpus[0].set_regs(&r);
                let ok = g.values().is_some();
                if !ok {
                    t.tap()
                        .point(false, format!("MSRs {at:#x} to {end:#x}: the guest died"));
                }
                report(&mut t, &g.mem, irqchip, at, end, single);
                at = end;
            }
        }
    }
    t.finish();
}

fn report(t: &mut Table<'_>, mem: &Area, irqchip: Irqchip, from: u32, to: u32, single: bool) {
    let result = mem.read(DATA as usize, (to - from) as usize);
    for (m, b) in (from..to).zip(result) {
        let word = |bit: u8, name: &str| {
            if b & (1 << bit) != 0 {
                format!("{name}=#GP")
            } else {
                format!("{name}=ok")
            }
        };
        let all = if single {
            word(0, "read")
        } else {
            [(0, "read"), (1, "same"), (2, "zero"), (3, "ones")]
                .map(|(i, n)| word(i, n))
                .join(" ")
        };
        let case = format!("{irqchip:?} {m:#x}");
        // Refused in every way: a line only if another answer is expected.
        if !all.contains("ok") && !t.expects(&case) {
            continue;
        }
        t.row(case, all);
    }
}
