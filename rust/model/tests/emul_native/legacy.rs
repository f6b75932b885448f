// SPDX-License-Identifier: GPL-2.0

//! Instructions of 32-bit and 16-bit code.

use crate::generate::{
    self, is_string, name, popped, t, undefined, Case, Form, Rng, Template, Undef,
};
use crate::generate::{AF, ALL, CF, MID, NONE, OF, PF, SF, ZF};
use crate::machine::Mode;
use model::x86::ctrl::rflags;
use Form::{Group, GroupMem, Mem, OpReg, Plain, Rm};

const ASCII: Undef = Undef::Flags(OF | SF | ZF | PF);
const DIGITS: Undef = Undef::Flags(OF | AF | CF);

/// What exists in both, and what 64-bit mode has lost.
pub fn templates() -> Vec<Template> {
    let mut v = generate::templates();
    // MOVSXD is ARPL here.
    v.retain(|t| t.op != [0x63]);
    v.extend([
        t(&[0x40], OpReg, false, 0, NONE),
        t(&[0x48], OpReg, false, 0, NONE),
        t(&[0x27], Plain, true, 0, Undef::Flags(OF)),
        t(&[0x2f], Plain, true, 0, Undef::Flags(OF)),
        t(&[0x37], Plain, true, 0, ASCII),
        t(&[0x3f], Plain, true, 0, ASCII),
        t(&[0xd4], Plain, true, 1, DIGITS),
        t(&[0xd5], Plain, true, 1, DIGITS),
        t(&[0xd6], Plain, true, 0, NONE),
        t(&[0x60], Plain, false, 0, NONE),
        t(&[0x61], Plain, false, 0, NONE),
        t(&[0x62], Mem, false, 0, NONE),
        t(&[0x63], Rm, false, 0, NONE),
        t(&[0x06], Plain, false, 0, NONE),
        t(&[0x0e], Plain, false, 0, NONE),
        t(&[0x16], Plain, false, 0, NONE),
        t(&[0x1e], Plain, false, 0, NONE),
    ]);
    for g in 0..8 {
        let undef = if matches!(g, 1 | 4 | 6) { AF } else { 0 };
        v.push(t(&[0x82], Group(g), true, 1, Undef::Flags(undef)));
    }
    v
}

/// A memory operand at `at`: ModRM and what follows it, with the registers set for it. None if the
/// draw needs a register twice.
pub fn operand(
    rng: &mut Rng,
    at: u64,
    addr_size: u8,
    reg: u8,
    taken: Option<u8>,
    gpr: &mut [u64; 16],
) -> Option<Vec<u8>> {
    let busy = |r: u8| Some(r) == taken;
    if addr_size == 2 {
        let rm = rng.below(8) as u8;
        let (base, index): (Option<u8>, Option<u8>) = match rm {
            0 => (Some(3), Some(6)),
            1 => (Some(3), Some(7)),
            2 => (Some(5), Some(6)),
            3 => (Some(5), Some(7)),
            4 => (Some(6), None),
            5 => (Some(7), None),
            6 => (Some(5), None),
            _ => (Some(3), None),
        };
        if rm == 6 && rng.below(2) == 0 {
            let [a, b] = (at as u16).to_le_bytes();
            return Some(vec![reg << 3 | 6, a, b]);
        }
        if base.is_some_and(busy) || index.is_some_and(busy) {
            return None;
        }
        let mut left = at as u16;
        let mut out = Vec::new();
        if rng.below(2) == 0 {
            let disp = rng.next() as i8;
            left = left.wrapping_sub(disp as u16);
            out.extend([0x40 | reg << 3 | rm, disp as u8]);
        } else {
            let disp = rng.next() as u16;
            left = left.wrapping_sub(disp);
            out.push(0x80 | reg << 3 | rm);
            out.extend(disp.to_le_bytes());
        }
        // The upper halves do not take part.
        if let Some(r) = index {
            let v = rng.next() as u32;
            gpr[usize::from(r)] = v.into();
            left = left.wrapping_sub(v as u16);
        }
        if let Some(r) = base {
            gpr[usize::from(r)] = u64::from(rng.next() as u32 & 0xffff_0000 | u32::from(left));
        }
        return Some(out);
    }
    let base = rng.below(8) as u8;
    let sib = rng.below(3) == 0;
    if base == 4 || busy(base) {
        return None;
    }
    if !sib {
        let disp = rng.next() as i8;
        gpr[usize::from(base)] = at.wrapping_sub(disp as u64) & 0xffff_ffff;
        return Some(vec![0x40 | reg << 3 | base, disp as u8]);
    }
    let index = rng.below(8) as u8;
    let scale = rng.below(4) as u8;
    if index == base || busy(index) {
        return None;
    }
    let disp = rng.next() as i32;
    let mut b = at.wrapping_sub(disp as u64);
    if index != 4 {
        let v = rng.next() & 0xffff_ffff;
        gpr[usize::from(index)] = v;
        b = b.wrapping_sub(v << scale);
    }
    gpr[usize::from(base)] = b & 0xffff_ffff;
    let mut out = vec![0x84 | reg << 3, scale << 6 | index << 3 | base];
    out.extend(disp.to_le_bytes());
    Some(out)
}

/// Makes an instruction of `t` and a state for it; `mem` is the offset of the memory in its segment.
pub fn generate(t: &Template, rng: &mut Rng, mode: Mode, mem: u64) -> Option<Case> {
    let mut gpr = [0u64; 16];
    for r in gpr.iter_mut().take(8) {
        *r = rng.value() & 0xffff_ffff;
    }
    gpr[4] = mem + MID;
    let p66 = rng.below(3) == 0;
    // Other offsets than those of 16-bit code reach the memory of no 32-bit segment.
    let p67 = mode == Mode::Bits16 && rng.below(3) == 0;
    let wide = (mode == Mode::Bits32) != p66;
    let op_size: u8 = match (t.byte, wide) {
        (true, _) => 1,
        (_, true) => 4,
        _ => 2,
    };
    let addr_size: u8 = if mode == Mode::Bits32 || p67 { 4 } else { 2 };
    match t.op {
        // 16-bit BSWAP is undefined, 66 before MOVNTI an invalid opcode.
        [0x0f, 0xc8] if op_size == 2 => return None,
        [0x0f, 0xc3] if p66 => return None,
        // How much of a wider stack slot is written differs between processors.
        [0x06 | 0x0e | 0x16 | 0x1e] if op_size != 2 => return None,
        [0x0f, 0xa0 | 0xa8] if op_size != 2 => return None,
        // With 66 an instruction that not every processor has.
        [0x0f, 0xae, ..] if p66 => return None,
        _ => {}
    }
    if matches!(t.op, [0xf6 | 0xf7]) && rng.below(2) == 0 {
        gpr[2] = if gpr[0] >> 31 != 0 && t.form == Group(7) {
            0xffff_ffff
        } else {
            0
        };
        if op_size == 1 {
            gpr[0] &= 0x7f;
        }
    }
    let mut tail = Vec::new();
    let mut lock = false;
    if !matches!(t.form, Plain | OpReg) {
        let reg = match t.form {
            Group(n) | GroupMem(n) => n,
            _ => rng.below(8) as u8,
        };
        let register = matches!(t.form, Rm | Mem).then_some(reg);
        if register == Some(4) && !t.byte {
            return None;
        }
        if matches!(t.form, Mem | GroupMem(_)) || rng.below(2) == 0 {
            lock = t.lock && rng.below(3) == 0;
            let mut at = mem + MID + rng.below(64);
            if t.op == [0x0f, 0xc7] {
                at &= !15;
            }
            // AH and the like are parts of the first four.
            let taken = register.map(|r| if t.byte { r & 3 } else { r });
            tail = operand(rng, at, addr_size, reg, taken, &mut gpr)?;
            // BT and friends reach beyond the operand.
            if t.op.len() == 2 && matches!(t.op[1], 0xa3 | 0xab | 0xb3 | 0xbb) {
                let r = usize::from(reg);
                gpr[r] = rng.below(2048).wrapping_sub(1024) & 0xffff_ffff;
            }
        } else {
            let rm = rng.below(8) as u8;
            if rm == 4 && !t.byte {
                return None;
            }
            tail.push(0xc0 | reg << 3 | rm);
        }
    }
    let mut op = t.op.to_vec();
    if t.form == OpReg {
        let r = rng.below(8) as u8;
        if r == 4 && !t.byte {
            return None;
        }
        *op.last_mut().unwrap() |= r;
    }
    match t.imm {
        0 => {}
        1 => tail.push(rng.value() as u8),
        3 => tail.extend([rng.below(64) as u8, 0, rng.below(4) as u8]),
        8 => tail.extend(&(mem + MID + rng.below(64)).to_le_bytes()[..usize::from(addr_size)]),
        _ => tail.extend(&(rng.value() as i32).to_le_bytes()[..usize::from(op_size.max(2))]),
    }
    let mut flags = rng.next() & ALL | rflags::FIXED;
    if is_string(t) {
        let noise = if addr_size == 2 {
            rng.next() & 0xffff_0000
        } else {
            0
        };
        gpr[1] = rng.below(20) | noise;
        gpr[6] = (mem + MID + rng.below(64)) | noise;
        gpr[7] = (mem + MID + 256 + rng.below(64)) | noise;
        if rng.below(2) == 0 {
            flags |= rflags::DF;
        }
    }
    match t.op {
        [0xd7] => gpr[3] = mem + MID,
        [0xc9] | [0xc8] => gpr[5] = mem + MID + 128,
        _ => {}
    }
    let mut bytes = Vec::new();
    if p66 {
        bytes.push(0x66);
    }
    if p67 {
        bytes.push(0x67);
    }
    // All data segments are the same.
    if rng.below(4) == 0 {
        bytes.push(rng.pick(&[0x26, 0x36, 0x3e]));
    }
    if lock {
        bytes.push(0xf0);
    }
    bytes.extend(t.prefix);
    bytes.extend(&op);
    bytes.extend(&tail);
    let (undef, skip) = undefined(t, op_size, gpr[1], *bytes.last().unwrap());
    Some(Case {
        name: name(t, &op),
        bytes,
        gpr,
        flags,
        undef,
        skip,
        branch: false,
        patch: popped(t, rng),
        vectors: None,
    })
}
