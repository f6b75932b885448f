// SPDX-License-Identifier: GPL-2.0

//! Moves of MMX, SSE and AVX registers, as far as this CPU has them.

use crate::generate::{Case, Rng, ALL, MID};
use crate::legacy;
use crate::machine::Mode;
use model::x86::ctrl::rflags;

/// The registers: the low 256 bits of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Vectors {
    pub ymm: [[u8; 32]; 16],
    pub mm: [[u8; 8]; 8],
}

/// Is there AVX, that is, the upper half of the registers?
pub fn has_avx() -> bool {
    std::is_x86_feature_detected!("avx")
}

/// An instruction: the prefix that is part of the opcode (or 0), the opcode behind 0F.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    prefix: u8,
    op: &'static [u8],
    vex: bool,
    memory_only: bool,
    /// The register form's other register is a general one.
    general: bool,
}

const fn v(prefix: u8, op: &'static [u8]) -> Template {
    Template {
        prefix,
        op,
        vex: false,
        memory_only: false,
        general: false,
    }
}

const fn m(prefix: u8, op: &'static [u8]) -> Template {
    Template {
        memory_only: true,
        ..v(prefix, op)
    }
}

const fn g(prefix: u8, op: &'static [u8]) -> Template {
    Template {
        general: true,
        ..v(prefix, op)
    }
}

/// All that this CPU has.
pub fn templates() -> Vec<Template> {
    let mut all = vec![
        v(0, &[0x10]),
        v(0x66, &[0x10]),
        v(0xf3, &[0x10]),
        v(0xf2, &[0x10]),
        v(0, &[0x11]),
        v(0x66, &[0x11]),
        v(0xf3, &[0x11]),
        v(0xf2, &[0x11]),
        m(0, &[0x12]),
        m(0x66, &[0x12]),
        m(0, &[0x13]),
        m(0x66, &[0x13]),
        m(0, &[0x16]),
        m(0x66, &[0x16]),
        m(0, &[0x17]),
        m(0x66, &[0x17]),
        v(0, &[0x28]),
        v(0x66, &[0x28]),
        v(0, &[0x29]),
        v(0x66, &[0x29]),
        m(0, &[0x2b]),
        m(0x66, &[0x2b]),
        g(0x66, &[0x6e]),
        g(0x66, &[0x7e]),
        v(0xf3, &[0x7e]),
        v(0x66, &[0xd6]),
        v(0, &[0x6f]),
        v(0x66, &[0x6f]),
        v(0xf3, &[0x6f]),
        v(0, &[0x7f]),
        v(0x66, &[0x7f]),
        v(0xf3, &[0x7f]),
        m(0, &[0xe7]),
        m(0x66, &[0xe7]),
    ];
    if std::is_x86_feature_detected!("sse3") {
        all.push(m(0xf2, &[0xf0]));
    }
    if std::is_x86_feature_detected!("sse4.1") {
        all.push(m(0x66, &[0x38, 0x2a]));
    }
    let vex = |t: Template| Template { vex: true, ..t };
    if has_avx() {
        const SHARED: [Template; 15] = [
            v(0, &[0x10]),
            v(0x66, &[0x10]),
            v(0, &[0x11]),
            v(0x66, &[0x11]),
            v(0, &[0x28]),
            v(0x66, &[0x28]),
            v(0, &[0x29]),
            v(0x66, &[0x29]),
            m(0, &[0x2b]),
            m(0x66, &[0x2b]),
            m(0x66, &[0xe7]),
            v(0x66, &[0x6f]),
            v(0xf3, &[0x6f]),
            v(0x66, &[0x7f]),
            v(0xf3, &[0x7f]),
        ];
        all.extend(SHARED.map(vex));
    }
    if std::is_x86_feature_detected!("avx2") {
        all.push(vex(m(0x66, &[0x38, 0x2a])));
    }
    all
}

/// How an opcode is called: as elsewhere, with "vex." before it.
fn name(t: &Template) -> String {
    let vex = if t.vex { "vex." } else { "" };
    let mut s = vex.to_string();
    if t.prefix != 0 {
        s += &format!("{:02x}", t.prefix);
    }
    s += "0f";
    for b in t.op {
        s += &format!("{b:02x}");
    }
    s
}

/// Makes an instruction of `t` and a state for it; `mem` is the offset of the memory in its segment.
pub fn generate(t: &Template, rng: &mut Rng, mode: Mode, mem: u64) -> Option<Case> {
    let long = mode == Mode::Bits64;
    let mut gpr = [0u64; 16];
    for r in gpr.iter_mut().take(if long { 16 } else { 8 }) {
        *r = rng.value() & if long { u64::MAX } else { 0xffff_ffff };
    }
    gpr[4] = mem + MID;
    let rex = if long && rng.below(2) == 0 {
        0x40 | rng.below(16) as u8
    } else {
        0
    };
    let reg = rng.below(8) as u8;
    let mut at = mem + MID + rng.below(64);
    if rng.below(4) != 0 {
        at &= !31;
    }
    let in_memory = t.memory_only || rng.below(3) != 0;
    let tail = if !in_memory {
        let rm = rng.below(8) as u8;
        if t.general && rm == 4 {
            return None;
        }
        vec![0xc0 | reg << 3 | rm]
    } else if long {
        let base = rng.below(8) as u8;
        if base == 4 {
            return None;
        }
        let disp = rng.next() as i8;
        gpr[usize::from(base | (rex & 1) << 3)] = at.wrapping_sub(disp as u64);
        vec![0x40 | reg << 3 | base, disp as u8]
    } else {
        let addr_size = if mode == Mode::Bits32 { 4 } else { 2 };
        legacy::operand(rng, at, addr_size, reg, None, &mut gpr)?
    };
    let mut bytes = Vec::new();
    if t.vex {
        put_vex(t, rng, rex, long, &mut bytes);
    } else {
        if t.prefix > 0x66 && rng.below(4) == 0 {
            // Which counts for nothing beside them.
            bytes.push(0x66);
        }
        bytes.extend((t.prefix != 0).then_some(t.prefix));
        bytes.extend((rex != 0).then_some(rex));
        bytes.push(0x0f);
        bytes.extend(t.op);
    }
    bytes.extend(tail);
    let mut vectors = Vectors {
        ymm: [[0; 32]; 16],
        mm: [[0; 8]; 8],
    };
    let width = if has_avx() { 32 } else { 16 };
    for r in &mut vectors.ymm {
        r[..width].fill_with(|| rng.next() as u8);
    }
    for r in &mut vectors.mm {
        r.fill_with(|| rng.next() as u8);
    }
    Some(Case {
        name: name(t),
        bytes,
        gpr,
        flags: rng.next() & ALL | rflags::FIXED,
        undef: 0,
        skip: false,
        branch: false,
        patch: None,
        vectors: Some(Box::new(vectors)),
    })
}

/// VEX and the opcode, in two bytes or three, of either length; vvvv is now and then what it must
/// not be. Outside 64-bit mode R, X and the top of vvvv distinguish it from LES and LDS.
fn put_vex(t: &Template, rng: &mut Rng, rex: u8, long: bool, bytes: &mut Vec<u8>) {
    let pp = match t.prefix {
        0 => 0,
        0x66 => 1,
        _ => 2,
    };
    let mut last = 0x78 | (rng.below(2) as u8) << 2 | pp;
    if rng.below(16) == 0 {
        last ^= (1 + rng.below(if long { 15 } else { 7 }) as u8) << 3;
    }
    let (map, op) = match t.op {
        [op] => (1, *op),
        [_, op] => (2, *op),
        _ => unreachable!(),
    };
    if map == 1 && rex & 3 == 0 && rng.below(2) == 0 {
        let r = !(rex << 5) & 0x80;
        bytes.extend([0xc5, r | last, op]);
    } else {
        // W says nothing here.
        let w = rex << 4 & 0x80;
        bytes.extend([0xc4, !(rex << 5) & 0xe0 | map, w | last, op]);
    }
}
