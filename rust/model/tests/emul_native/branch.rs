// SPDX-License-Identifier: GPL-2.0

//! Near branches, in all modes. Each goes to the instruction behind a marker, or falls into it.

use crate::generate::{Case, Rng, ALL, MID};
use crate::machine::{Machine, Mode};
use model::x86::ctrl::rflags;

/// Makes a branch and a state for it.
pub fn generate(rng: &mut Rng, mode: Mode, machine: &Machine) -> Option<Case> {
    let registers = if mode == Mode::Bits64 { 16 } else { 8 };
    let width = machine.address_mask(mode);
    let mut gpr = [0u64; 16];
    for r in gpr.iter_mut().take(registers) {
        *r = rng.value()
            & if mode == Mode::Bits64 {
                u64::MAX
            } else {
                0xffff_ffff
            };
    }
    let mem = machine.mem(mode);
    gpr[4] = mem + MID;
    // LOOP and JCXZ look at the count.
    gpr[1] = rng.below(3);
    let marker = machine.marker(mode).len() as u64;
    let small = (mode == Mode::Bits16, rng.below(2) == 0);
    let mut bytes = Vec::new();
    let mut patch = None;
    let kind = rng.below(9);
    let rel = |bytes: &mut Vec<u8>, name: &mut String, op: &[u8]| {
        *name = op.iter().map(|b| format!("{b:02x}")).collect();
        bytes.extend(op);
    };
    let mut name = String::new();
    match kind {
        0 | 1 => {
            rel(&mut bytes, &mut name, &[0x70 | rng.below(16) as u8]);
            bytes.push(marker as u8);
        }
        2 => {
            // The count's width is the address size.
            if rng.below(3) == 0 {
                bytes.push(0x67);
                gpr[1] |= rng.below(2) << 16 | rng.below(2) << 32 * u64::from(registers == 16);
            }
            rel(&mut bytes, &mut name, &[0xe0 | rng.below(4) as u8]);
            bytes.push(marker as u8);
        }
        3 => {
            rel(&mut bytes, &mut name, &[0xeb]);
            bytes.push(marker as u8);
        }
        4 | 5 => {
            let cc = 0x80 | rng.below(16) as u8;
            let ops: [&[u8]; 3] = [&[0x0f, cc], &[0xe8], &[0xe9]];
            rel(&mut bytes, &mut name, rng.pick(&ops));
            let n = if small.0 { 2 } else { 4 };
            bytes.extend(&marker.to_le_bytes()[..n]);
        }
        6 => {
            // CALL and JMP to what a register holds.
            let member = rng.pick(&[2u8, 4]);
            let r = rng.below(8) as u8;
            if r == 4 {
                return None;
            }
            bytes.extend([0xff, 0xc0 | member << 3 | r]);
            name = format!("ff/{member}");
            gpr[usize::from(r)] = (machine.insn(mode) + 2 + marker) & width;
        }
        7 => {
            // The same to what memory holds: [base + disp8], base not a stack register.
            let member = rng.pick(&[2u8, 4]);
            let (rm, r) = if mode == Mode::Bits16 { (7, 3) } else { (3, 3) };
            bytes.extend([0xff, 0x40 | member << 3 | rm, 16]);
            name = format!("ff/{member}");
            gpr[r] = mem + MID + 48;
            let target = (machine.insn(mode) + 3 + marker) & width;
            patch = Some((MID as usize + 64, target));
        }
        _ => {
            let len = if rng.below(2) == 0 {
                bytes.push(0xc3);
                1
            } else {
                bytes.extend([0xc2, rng.below(64) as u8, 0]);
                3
            };
            name = format!("{:02x}", bytes[0]);
            let target = (machine.insn(mode) + len + marker) & width;
            patch = Some((MID as usize, target));
        }
    }
    Some(Case {
        name,
        bytes,
        gpr,
        flags: rng.next() & ALL | rflags::FIXED,
        undef: 0,
        skip: false,
        branch: true,
        patch,
        vectors: None,
    })
}
