// SPDX-License-Identifier: GPL-2.0

//! Random instructions with an operand in device memory: the same accesses, faults and registers as
//! on the in-tree module.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Guest;
use crate::guest::CODE;
use crate::guest_code;
use crate::table::Table;
use crate::tap::Tap;
use crate::tests::bad_guest::story;
use crate::tests::rng::Rng;

guest_code! {
    // Where a fault goes on, and where a good instruction arrives after its NOPs.
    landing,
    "out 0xe1, eax",
}

/// Where the instruction is.
const AT: u64 = CODE + 0x1000;

/// An instruction: prefixes, opcode, a ModRM byte that means [rbx], [rsi] or [rbx + disp8].
fn instruction(rng: &mut Rng) -> Vec<u8> {
    let mut b = Vec::new();
    for p in [0x66u8, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x64] {
        if rng.one_in(10) {
            b.push(p);
        }
    }
    if rng.one_in(3) {
        b.push(0x40 | (rng.next() as u8 & 0x0c));
    }
    if rng.one_in(2) {
        b.push(0x0f);
        if rng.one_in(12) {
            b.push([0x38, 0x3a][rng.below(2)]);
        }
    }
    b.push(rng.next() as u8);
    let reg = (rng.next() as u8 & 7) << 3;
    match rng.below(3) {
        0 => b.push(reg | 3),
        1 => b.push(reg | 6),
        _ => b.extend([0x40 | reg | 3, 0x10]),
    }
    for _ in 0..4 {
        b.push(rng.next() as u8 & 0x3f);
    }
    b
}

/// Instructions that end the test of the emulator: they go elsewhere, or change the CPU's mode.
fn leaves(b: &[u8]) -> bool {
    let i = b.iter().position(|x| {
        !matches!(
            x,
            0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x64 | 0x40..=0x4f
        )
    });
    let Some(i) = i else { return true };
    let rest = &b[i..];
    match rest[0] {
        // Jumps, calls, returns, interrupts, loops, HLT, CLI and STI, group 5, ports, INT1, strings.
        0x70..=0x7f
        | 0x9a
        | 0xc2
        | 0xc3
        | 0xc8..=0xcf
        | 0xe0..=0xef
        | 0xf1
        | 0xf4
        | 0xfa
        | 0xfb => true,
        0xff => matches!((rest[1] >> 3) & 7, 2..=5),
        // x87 and WAIT: the state is not part of the test.
        0x9b | 0xd8..=0xdf => true,
        // POP to a segment, POPF, PUSH of RSP-relative things change the stack only.
        0x8e | 0x9d => true,
        0x0f => match rest.get(1) {
            // System instructions, moves to control and debug registers, MSRs, CPUID, RSM, jumps,
            // time-stamp counter, XSAVE and the like, segment loads.
            Some(
                0x00..=0x09
                | 0x0b
                | 0x0d
                | 0x18..=0x27
                | 0x30..=0x37
                | 0x80..=0x8f
                | 0xa0..=0xa2
                | 0xa8..=0xaa
                | 0xae
                | 0xb2
                | 0xb4
                | 0xb5
                | 0xc7,
            ) => true,
            Some(0x38 | 0x3a) => true,
            _ => false,
        },
        // VEX, EVEX, XOP.
        0xc4 | 0xc5 | 0x62 | 0x8f => true,
        _ => false,
    }
}

/// The test.
pub fn random(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "random_mmio",
        include_str!("../../data/random-mmio.tsv"),
    );
    let mut rng = Rng::new(7);
    let mut g = Guest::long(&[]);
    let mut n = 0;
    while n < 250 {
        let b = instruction(&mut rng);
        if leaves(&b) {
            continue;
        }
        n += 1;
        // The last instruction may have written anywhere.
        g.mem.discard(0, g.mem.len());
        boot::tables(&g.mem);
        g.load(CODE, landing());
        g.mem.write(AT as usize, &[0x90; 32]);
        g.load(AT, &b);
        // The end, behind all NOPs.
        g.mem.write(AT as usize + 32, &[0xe7, 0xe1]);
        g.start_long(0, AT);
        let v = &g.cpus[0];
        let mut r = v.regs();
        (r.rbx, r.rsi, r.rdi) = (0xe000_0000, 0xe000_0200, 0xe000_0300);
        (r.rax, r.rcx, r.rdx, r.rbp) = (0x1122_3344_5566_7788, 3, 0x99aa_bbcc_ddee_ff00, 0x9_8000);
        r.r15 = CODE;
        v.set_regs(&r);
        g.mem.store::<u64>(boot::mailbox(0) + mailbox::VECTOR, 0xff);
        let story = story(&g);
        // What an exit left to be finished must not meet the next instruction.
        let fresh = !story.ends_with("end");
        let r = v.regs();
        let vector: u64 = g.mem.load(boot::mailbox(0) + mailbox::VECTOR);
        // An exit that leaves the instruction half done says nothing about registers.
        let state = if story.ends_with("end") {
            let sum = [r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.rbx, r.rflags & 0x8d5]
                .iter()
                .fold(0u64, |s, v| {
                    s.rotate_left(9) ^ v.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                });
            format!(" {:08x}", sum >> 32)
        } else {
            String::new()
        };
        let fault = if vector != 0xff {
            format!(" #{vector}")
        } else {
            String::new()
        };
        let hex = b.iter().fold(String::new(), |s, x| format!("{s}{x:02x}"));
        if fresh {
            g = Guest::long(&[]);
        }
        t.row(
            format_args!("{n} {hex}"),
            format_args!("{story}{fault}{state}"),
        );
    }
    t.finish();
}
