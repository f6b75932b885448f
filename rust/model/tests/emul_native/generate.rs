// SPDX-License-Identifier: GPL-2.0

//! What to run: templates of instructions, and random cases made from them.

use crate::vector::Vectors;
use model::x86::ctrl::rflags;

/// xorshift64*: the cases are the same in every run.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A value that is often near a boundary.
    pub fn value(&mut self) -> u64 {
        let v = self.next();
        match self.below(8) {
            0 => v & 0xff,
            1 => (v & 3).wrapping_sub(1),
            2 => 0x80u64 << self.pick(&[0, 8, 24, 56]),
            3 => (0x80u64 << self.pick(&[0, 8, 24, 56])).wrapping_sub(1),
            4 => v >> self.below(64),
            5 => v as i8 as u64,
            6 => v as i32 as u64,
            _ => v,
        }
    }
}

pub const CF: u64 = rflags::CF;
pub const PF: u64 = rflags::PF;
pub const AF: u64 = rflags::AF;
pub const ZF: u64 = rflags::ZF;
pub const SF: u64 = rflags::SF;
pub const OF: u64 = rflags::OF;
/// The flags that are compared.
pub const ALL: u64 = rflags::STATUS;

/// Which flags an instruction leaves undefined.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Undef {
    Flags(u64),
    Shift,
    Rotate,
    Double,
}
use Undef::{Double, Flags, Rotate, Shift};

/// How the template goes on after the opcode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    /// Nothing; the low three bits of the opcode may name a register.
    Plain,
    OpReg,
    /// ModRM with any register in reg.
    Rm,
    /// ModRM with a fixed reg.
    Group(u8),
    /// ModRM, memory only.
    Mem,
    GroupMem(u8),
}
use Form::{Group, GroupMem, Mem, OpReg, Plain, Rm};

#[derive(Clone, Copy, Debug)]
pub struct Template {
    pub prefix: &'static [u8],
    pub op: &'static [u8],
    pub form: Form,
    /// Operates on bytes.
    pub byte: bool,
    /// Bytes of immediate; 4 means "operand size, at most 4", 9 "operand size"; 3 is ENTER's, 8 an
    /// address.
    pub imm: u8,
    pub undef: Undef,
    /// May take LOCK on memory.
    pub lock: bool,
}

pub const fn t(op: &'static [u8], form: Form, byte: bool, imm: u8, undef: Undef) -> Template {
    Template {
        prefix: &[],
        op,
        form,
        byte,
        imm,
        undef,
        lock: false,
    }
}

const fn p(prefix: &'static [u8], op: &'static [u8], form: Form, undef: Undef) -> Template {
    Template {
        prefix,
        op,
        form,
        byte: false,
        imm: 0,
        undef,
        lock: false,
    }
}

const fn l(op: &'static [u8], form: Form, byte: bool, imm: u8, undef: Undef) -> Template {
    Template {
        prefix: &[],
        op,
        form,
        byte,
        imm,
        undef,
        lock: true,
    }
}

pub const NONE: Undef = Flags(0);
const LOGIC: Undef = Flags(AF);
const MUL: Undef = Flags(SF | ZF | AF | PF);
const BT: Undef = Flags(OF | SF | AF | PF);
const SCAN: Undef = Flags(CF | OF | SF | AF | PF);
const CNT: Undef = Flags(OF | SF | AF | PF);

pub fn templates() -> Vec<Template> {
    let mut v = Vec::new();
    const ALU: [[&[u8]; 6]; 8] = [
        [&[0x00], &[0x01], &[0x02], &[0x03], &[0x04], &[0x05]],
        [&[0x08], &[0x09], &[0x0a], &[0x0b], &[0x0c], &[0x0d]],
        [&[0x10], &[0x11], &[0x12], &[0x13], &[0x14], &[0x15]],
        [&[0x18], &[0x19], &[0x1a], &[0x1b], &[0x1c], &[0x1d]],
        [&[0x20], &[0x21], &[0x22], &[0x23], &[0x24], &[0x25]],
        [&[0x28], &[0x29], &[0x2a], &[0x2b], &[0x2c], &[0x2d]],
        [&[0x30], &[0x31], &[0x32], &[0x33], &[0x34], &[0x35]],
        [&[0x38], &[0x39], &[0x3a], &[0x3b], &[0x3c], &[0x3d]],
    ];
    for (i, ops) in ALU.iter().enumerate() {
        let u = if matches!(i, 1 | 4 | 6) { LOGIC } else { NONE };
        let lock = i != 7;
        for (j, op) in ops.iter().enumerate() {
            let byte = j & 1 == 0;
            let (form, imm) = match j {
                0..=3 => (Rm, 0),
                _ => (Plain, if byte { 1 } else { 4 }),
            };
            v.push(Template {
                lock: lock && j < 2,
                ..t(op, form, byte, imm, u)
            });
        }
        let i = i as u8;
        v.push(Template {
            lock,
            ..t(&[0x80], Group(i), true, 1, u)
        });
        v.push(Template {
            lock,
            ..t(&[0x81], Group(i), false, 4, u)
        });
        v.push(Template {
            lock,
            ..t(&[0x83], Group(i), false, 1, u)
        });
    }
    for (op, byte) in [(&[0xf6u8][..], true), (&[0xf7], false)] {
        for g in 0..2 {
            v.push(t(op, Group(g), byte, if byte { 1 } else { 4 }, LOGIC));
        }
        v.push(l(op, Group(2), byte, 0, NONE));
        v.push(l(op, Group(3), byte, 0, NONE));
        v.push(t(op, Group(4), byte, 0, MUL));
        v.push(t(op, Group(5), byte, 0, MUL));
        for _ in 0..4 {
            v.push(t(op, Group(6), byte, 0, Flags(ALL)));
            v.push(t(op, Group(7), byte, 0, Flags(ALL)));
        }
    }
    for g in 0..2 {
        v.push(l(&[0xfe], Group(g), true, 0, NONE));
        v.push(l(&[0xff], Group(g), false, 0, NONE));
    }
    for g in 0..8 {
        let u = if g < 4 { Rotate } else { Shift };
        for (op, byte, imm) in [
            (&[0xc0u8][..], true, 1),
            (&[0xc1], false, 1),
            (&[0xd0], true, 0),
            (&[0xd1], false, 0),
            (&[0xd2], true, 0),
            (&[0xd3], false, 0),
        ] {
            v.push(t(op, Group(g), byte, imm, u));
        }
    }
    for (op, imm) in [
        (&[0x0fu8, 0xa4][..], 1),
        (&[0x0f, 0xac], 1),
        (&[0x0f, 0xa5], 0),
        (&[0x0f, 0xad], 0),
    ] {
        v.push(t(op, Rm, false, imm, Double));
    }
    v.extend([
        t(&[0x84], Rm, true, 0, LOGIC),
        t(&[0x85], Rm, false, 0, LOGIC),
        t(&[0xa8], Plain, true, 1, LOGIC),
        t(&[0xa9], Plain, false, 4, LOGIC),
        l(&[0x86], Rm, true, 0, NONE),
        l(&[0x87], Rm, false, 0, NONE),
        t(&[0x88], Rm, true, 0, NONE),
        t(&[0x89], Rm, false, 0, NONE),
        t(&[0x8a], Rm, true, 0, NONE),
        t(&[0x8b], Rm, false, 0, NONE),
        t(&[0xc6], Group(0), true, 1, NONE),
        t(&[0xc7], Group(0), false, 4, NONE),
        t(&[0xb0], OpReg, true, 1, NONE),
        t(&[0xb8], OpReg, false, 9, NONE),
        t(&[0xa0], Plain, true, 8, NONE),
        t(&[0xa1], Plain, false, 8, NONE),
        t(&[0xa2], Plain, true, 8, NONE),
        t(&[0xa3], Plain, false, 8, NONE),
        t(&[0x9b], Plain, false, 0, NONE),
        t(&[0x0f, 0xa0], Plain, false, 0, NONE),
        t(&[0x0f, 0xa8], Plain, false, 0, NONE),
        // Hints and fences.
        t(&[0x0f, 0x0d], Mem, false, 0, NONE),
        t(&[0x0f, 0x18], Mem, false, 0, NONE),
        t(&[0x0f, 0x19], Rm, false, 0, NONE),
        t(&[0x0f, 0x1c], Rm, false, 0, NONE),
        t(&[0x0f, 0x1d], Rm, false, 0, NONE),
        t(&[0x0f, 0x1e], Rm, false, 0, NONE),
        t(&[0x0f, 0x1f], Rm, false, 0, NONE),
        t(&[0x0f, 0xae, 0xe8], Plain, false, 0, NONE),
        t(&[0x0f, 0xae, 0xf0], Plain, false, 0, NONE),
        t(&[0x0f, 0xae, 0xf8], Plain, false, 0, NONE),
        t(&[0x0f, 0xae], GroupMem(7), false, 0, NONE),
        // What a program must not do: CPL 0 alone may, or nobody.
        t(&[0xf4], Plain, false, 0, NONE),
        t(&[0xfa], Plain, false, 0, NONE),
        t(&[0xfb], Plain, false, 0, NONE),
        t(&[0x0f, 0x06], Plain, false, 0, NONE),
        t(&[0x0f, 0x08], Plain, false, 0, NONE),
        t(&[0x0f, 0x09], Plain, false, 0, NONE),
        t(&[0x0f, 0x0b], Plain, false, 0, NONE),
        t(&[0x0f, 0x30], Plain, false, 0, NONE),
        t(&[0x0f, 0x32], Plain, false, 0, NONE),
        t(&[0x0f, 0xb9], Rm, false, 0, NONE),
        t(&[0x0f, 0xff], Rm, false, 0, NONE),
        t(&[0x90], OpReg, false, 0, NONE),
        // FS, which is null on both sides.
        t(&[0x8c], Group(4), false, 0, NONE),
        t(&[0x8d], Mem, false, 0, NONE),
        t(&[0x63], Rm, false, 0, NONE),
        t(&[0x69], Rm, false, 4, MUL),
        t(&[0x6b], Rm, false, 1, MUL),
        t(&[0x0f, 0xaf], Rm, false, 0, MUL),
        t(&[0x98], Plain, false, 0, NONE),
        t(&[0x99], Plain, false, 0, NONE),
        t(&[0x9e], Plain, false, 0, NONE),
        t(&[0x9f], Plain, false, 0, NONE),
        t(&[0xf5], Plain, false, 0, NONE),
        t(&[0xf8], Plain, false, 0, NONE),
        t(&[0xf9], Plain, false, 0, NONE),
        t(&[0xfc], Plain, false, 0, NONE),
        t(&[0xfd], Plain, false, 0, NONE),
        t(&[0x9d], Plain, false, 0, NONE),
        t(&[0xd7], Plain, false, 0, NONE),
        l(&[0x0f, 0xb0], Rm, true, 0, NONE),
        l(&[0x0f, 0xb1], Rm, false, 0, NONE),
        l(&[0x0f, 0xc0], Rm, true, 0, NONE),
        l(&[0x0f, 0xc1], Rm, false, 0, NONE),
        l(&[0x0f, 0xc7], GroupMem(1), false, 0, NONE),
        t(&[0x0f, 0xb6], Rm, false, 0, NONE),
        t(&[0x0f, 0xb7], Rm, false, 0, NONE),
        t(&[0x0f, 0xbe], Rm, false, 0, NONE),
        t(&[0x0f, 0xbf], Rm, false, 0, NONE),
        t(&[0x0f, 0xa3], Rm, false, 0, BT),
        l(&[0x0f, 0xab], Rm, false, 0, BT),
        l(&[0x0f, 0xb3], Rm, false, 0, BT),
        l(&[0x0f, 0xbb], Rm, false, 0, BT),
        t(&[0x0f, 0xba], Group(4), false, 1, BT),
        l(&[0x0f, 0xba], Group(5), false, 1, BT),
        l(&[0x0f, 0xba], Group(6), false, 1, BT),
        l(&[0x0f, 0xba], Group(7), false, 1, BT),
        t(&[0x0f, 0xbc], Rm, false, 0, SCAN),
        t(&[0x0f, 0xbd], Rm, false, 0, SCAN),
        p(&[0xf3], &[0x0f, 0xbc], Rm, CNT),
        p(&[0xf3], &[0x0f, 0xbd], Rm, CNT),
        p(&[0xf3], &[0x0f, 0xb8], Rm, NONE),
        t(&[0x0f, 0xc8], OpReg, false, 0, NONE),
        t(&[0x0f, 0x38, 0xf0], Mem, false, 0, NONE),
        t(&[0x0f, 0x38, 0xf1], Mem, false, 0, NONE),
        p(&[0xf2], &[0x0f, 0x38, 0xf0], Rm, NONE),
        p(&[0xf2], &[0x0f, 0x38, 0xf1], Rm, NONE),
        t(&[0x0f, 0xc3], Mem, false, 0, NONE),
        t(&[0x50], OpReg, false, 0, NONE),
        t(&[0x58], OpReg, false, 0, NONE),
        t(&[0x68], Plain, false, 4, NONE),
        t(&[0x6a], Plain, false, 1, NONE),
        t(&[0x8f], GroupMem(0), false, 0, NONE),
        t(&[0xff], Group(6), false, 0, NONE),
        t(&[0xc9], Plain, false, 0, NONE),
        t(&[0xc8], Plain, false, 3, NONE),
        t(&[0x9c], Plain, false, 0, NONE),
    ]);
    const SET: [[&[u8]; 2]; 16] = [
        [&[0x0f, 0x90], &[0x0f, 0x40]],
        [&[0x0f, 0x91], &[0x0f, 0x41]],
        [&[0x0f, 0x92], &[0x0f, 0x42]],
        [&[0x0f, 0x93], &[0x0f, 0x43]],
        [&[0x0f, 0x94], &[0x0f, 0x44]],
        [&[0x0f, 0x95], &[0x0f, 0x45]],
        [&[0x0f, 0x96], &[0x0f, 0x46]],
        [&[0x0f, 0x97], &[0x0f, 0x47]],
        [&[0x0f, 0x98], &[0x0f, 0x48]],
        [&[0x0f, 0x99], &[0x0f, 0x49]],
        [&[0x0f, 0x9a], &[0x0f, 0x4a]],
        [&[0x0f, 0x9b], &[0x0f, 0x4b]],
        [&[0x0f, 0x9c], &[0x0f, 0x4c]],
        [&[0x0f, 0x9d], &[0x0f, 0x4d]],
        [&[0x0f, 0x9e], &[0x0f, 0x4e]],
        [&[0x0f, 0x9f], &[0x0f, 0x4f]],
    ];
    for [set, cmov] in SET {
        v.push(t(set, Group(0), true, 0, NONE));
        v.push(t(cmov, Rm, false, 0, NONE));
    }
    for op in [
        &[0xa4u8][..],
        &[0xa5],
        &[0xa6],
        &[0xa7],
        &[0xaa],
        &[0xab],
        &[0xac],
        &[0xad],
        &[0xae],
        &[0xaf],
    ] {
        v.push(t(op, Plain, op[0] & 1 == 0, 0, NONE));
        v.push(Template {
            byte: op[0] & 1 == 0,
            ..p(&[0xf3], op, Plain, NONE)
        });
        v.push(Template {
            byte: op[0] & 1 == 0,
            ..p(&[0xf2], op, Plain, NONE)
        });
    }
    v
}

/// Size of the memory an instruction can reach, and where pointers into it start.
pub const MEM: usize = 2048;
pub const MID: u64 = 1024;

/// A generated case.
#[derive(Clone, Debug)]
pub struct Case {
    /// The opcode, for the table of what was covered.
    pub name: String,
    pub bytes: Vec<u8>,
    pub gpr: [u64; 16],
    pub flags: u64,
    pub undef: u64,
    /// The destination is undefined too (16-bit double shifts by more than 16).
    pub skip: bool,
    /// It goes to the next instruction or to the one after that.
    pub branch: bool,
    /// Offset and value of eight bytes that memory has to hold.
    pub patch: Option<(usize, u64)>,
    /// Vector registers, if they take part.
    pub vectors: Option<Box<Vectors>>,
}

/// How an opcode is called: its bytes, and the member of its group.
pub fn name(t: &Template, op: &[u8]) -> String {
    let mut s: String = t
        .prefix
        .iter()
        .chain(op)
        .map(|b| format!("{b:02x}"))
        .collect();
    if let Group(n) | GroupMem(n) = t.form {
        s += &format!("/{n}");
    }
    s
}

pub fn is_string(t: &Template) -> bool {
    t.op.len() == 1 && matches!(t.op[0], 0xa4..=0xa7 | 0xaa..=0xaf)
}

/// Makes an instruction of `t` and a state for it; `mem` is the address of the memory.
pub fn generate(t: &Template, rng: &mut Rng, mem: u64) -> Option<Case> {
    let mut gpr = [0u64; 16];
    for r in &mut gpr {
        *r = rng.value();
    }
    gpr[4] = mem + MID;
    let mut rex = match rng.below(3) {
        0 => 0,
        1 => 0x40 | rng.below(16) as u8,
        _ => 0x48 | rng.below(8) as u8,
    };
    let mut bytes = Vec::new();
    let p66 = rng.below(4) == 0;
    let string = is_string(t);
    let mut lock = false;
    let op_size: u8 = match (t.byte, rex & 8 != 0, p66) {
        (true, _, _) => 1,
        (_, true, _) => 8,
        (_, _, true) => 2,
        _ => 4,
    };
    // DIV of anything would nearly always overflow: help it a little.
    if matches!(t.op, [0xf6 | 0xf7]) && rng.below(2) == 0 {
        let negative = gpr[0] >> 63 != 0 && t.form == Group(7);
        gpr[2] = if negative { u64::MAX } else { 0 };
        if op_size == 1 {
            gpr[0] &= 0x7f;
        }
    }

    let mut tail = Vec::new();
    if !matches!(t.form, Plain | OpReg) {
        let mem_form = match t.form {
            Mem | GroupMem(_) => true,
            _ => rng.below(2) == 0,
        };
        let reg = match t.form {
            Group(n) | GroupMem(n) => n,
            _ => rng.below(8) as u8,
        };
        let full_reg = reg | ((rex & 4) << 1);
        if mem_form {
            lock = t.lock && rng.below(3) == 0;
            // [base + disp8] or [base + index*scale + disp32], all inside the memory.
            let sib = rng.below(3) == 0;
            let base = rng.below(8) as u8;
            let base_full = base | ((rex & 1) << 3);
            if base_full == 4 || (base == 4 && !sib) || base_full == full_reg {
                return None;
            }
            let mut at = mem + MID + rng.below(64);
            if t.op == [0x0f, 0xc7] {
                at &= !15;
            }
            if sib {
                let index = rng.below(8) as u8;
                let index_full = index | ((rex & 2) << 2);
                let scale = rng.below(4) as u8;
                if index_full == base_full || index_full == full_reg {
                    return None;
                }
                tail.push(0x84 | (reg << 3));
                tail.push((scale << 6) | (index << 3) | base);
                let disp = rng.below(64) as i32 & !15;
                tail.extend(disp.to_le_bytes());
                let mut b = at.wrapping_sub(disp as u64);
                if index_full != 4 {
                    gpr[index_full as usize] = rng.below(16) << 4;
                    b = b.wrapping_sub(gpr[index_full as usize] << scale);
                }
                gpr[base_full as usize] = b;
            } else {
                let disp = rng.below(32) as i8 & !15;
                tail.push(0x40 | (reg << 3) | base);
                tail.push(disp as u8);
                gpr[base_full as usize] = at.wrapping_sub(disp as u64);
            }
            // BT and friends reach beyond the operand.
            if t.op.len() == 2 && matches!(t.op[1], 0xa3 | 0xab | 0xb3 | 0xbb) {
                gpr[full_reg as usize] = rng.below(2048).wrapping_sub(1024);
            }
        } else {
            let rm = rng.below(8) as u8;
            let rm_full = rm | ((rex & 1) << 3);
            // The stack pointer stays out of it, except as AH's neighbour in byte forms.
            if rm_full == 4 && !(t.byte && rex == 0) {
                return None;
            }
            tail.push(0xc0 | (reg << 3) | rm);
        }
        if matches!(t.form, Rm | Mem) && full_reg == 4 && !(t.byte && rex == 0) {
            return None;
        }
    }
    let mut op = t.op.to_vec();
    if t.form == OpReg {
        let r = rng.below(8) as u8;
        if r | ((rex & 1) << 3) == 4 && !(t.byte && rex == 0) {
            return None;
        }
        *op.last_mut().unwrap() |= r;
    }
    match t.imm {
        0 => {}
        1 => tail.push(rng.value() as u8),
        3 => tail.extend([rng.below(64) as u8, 0, rng.below(4) as u8]),
        8 => tail.extend((mem + MID + rng.below(64)).to_le_bytes()),
        9 if op_size == 8 => tail.extend(rng.value().to_le_bytes()),
        _ => {
            let v = (rng.value() as i32).to_le_bytes();
            tail.extend(&v[..if op_size == 2 { 2 } else { 4 }]);
        }
    }
    let mut flags = rng.next() & ALL | rflags::FIXED;
    if string {
        rex &= 0x48;
        gpr[1] = rng.below(20);
        gpr[6] = mem + MID + rng.below(64);
        gpr[7] = mem + MID + 256 + rng.below(64);
        if rng.below(2) == 0 {
            flags |= rflags::DF;
        }
    }
    match t.op {
        [0xd7] => gpr[3] = mem + MID,
        [0xc9] | [0xc8] => gpr[5] = mem + MID + 128,
        // 16-bit BSWAP is undefined, 66 before MOVNTI an invalid opcode.
        [0x0f, 0xc8] if op_size == 2 => return None,
        [0x0f, 0xc3] if p66 => return None,
        // With 66 an instruction that not every processor has.
        [0x0f, 0xae, ..] if p66 => return None,
        _ => {}
    }
    if p66 {
        bytes.push(0x66);
    }
    if lock {
        bytes.push(0xf0);
    }
    bytes.extend(t.prefix);
    if rex != 0 {
        bytes.push(rex);
    }
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

/// What lies on the stack for POPF: flags that do not stop the test.
pub fn popped(t: &Template, rng: &mut Rng) -> Option<(usize, u64)> {
    let flags = rng.next() & (ALL | rflags::DF) | rflags::FIXED;
    (t.op == [0x9d]).then_some((MID as usize, flags))
}

/// Which flags are undefined afterwards, and whether the destination is: a matter of the count for
/// shifts, which is in CL or the last byte.
pub fn undefined(t: &Template, op_size: u8, cl: u64, last: u8) -> (u64, bool) {
    let width = u64::from(op_size) * 8;
    let count = match t.op {
        [0xd0] | [0xd1] => 1,
        [0xd2] | [0xd3] | [0x0f, 0xa5] | [0x0f, 0xad] => cl,
        _ => u64::from(last),
    } & if op_size == 8 { 63 } else { 31 };
    match t.undef {
        Flags(f) => (f, false),
        _ if count == 0 => (0, false),
        Rotate if count == 1 => (0, false),
        Rotate => (OF, false),
        Shift => {
            let mut f = AF;
            if count != 1 {
                f |= OF;
            }
            // SAR alone defines CF beyond the width.
            if count >= width && t.form != Group(7) {
                f |= CF;
            }
            (f, false)
        }
        Double if count > width => (ALL, true),
        Double if count == 1 => (AF, false),
        Double => (AF | OF, false),
    }
}
