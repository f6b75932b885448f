// SPDX-License-Identifier: GPL-2.0

//! Opcode attributes of the one-byte and 0F maps.
//!
//! One word per opcode says what follows it in the instruction stream and how its operand size is
//! chosen. The 0F38 and 0F3A maps, VEX, EVEX, XOP and 3DNow! are regular enough to need no table.
//! The only reader is `decode.rs`. Each row holds eight opcodes.
//!
//! SDM: vol 2, appendix A; APM: vol 3, appendix A.

/// Mask of the immediate kind.
pub(super) const IMM: u16 = 0xf;
/// No immediate.
pub(super) const NO: u16 = 0;
/// One byte, sign-extended.
pub(super) const IB: u16 = 1;
/// Two bytes.
pub(super) const IW: u16 = 2;
/// Two or four bytes by operand size, sign-extended (an 8-byte operand has four).
pub(super) const IZ: u16 = 3;
/// Two, four or eight bytes by operand size (MOV r, imm).
pub(super) const IV: u16 = 4;
/// A far pointer: an offset of operand size, then a selector.
pub(super) const AP: u16 = 5;
/// A memory offset of address size, without ModRM.
pub(super) const OF: u16 = 6;
/// Branch displacement, two or four bytes; four in 64-bit mode whatever the prefixes.
pub(super) const JZ: u16 = 7;
/// ENTER: two bytes, then one.
pub(super) const EN: u16 = 8;
/// Group 3: TEST (reg 0 and 1) has an immediate of operand size, its siblings have none.
pub(super) const G3: u16 = 9;

/// Has a ModRM byte.
pub(super) const M: u16 = 0x10;
/// Operates on bytes.
pub(super) const B: u16 = 0x20;
/// Undefined in 64-bit mode.
pub(super) const X: u16 = 0x40;
/// Operand size is 64 bits in 64-bit mode unless 66 makes it 16.
pub(super) const D: u16 = 0x80;
/// Operand size is 64 bits in 64-bit mode whatever the prefixes.
pub(super) const F: u16 = 0x100;
/// May take LOCK when the destination is memory (groups narrow this further).
pub(super) const L: u16 = 0x200;
/// Undefined in every mode, or a prefix or escape that never gets here.
pub(super) const U: u16 = 0x400;
/// ModRM names registers whatever its mod field says (moves to and from CR and DR).
pub(super) const R: u16 = 0x800;

/// The one-byte map.
#[rustfmt::skip]
pub(super) static ONE: [u16; 256] = [
    /* 00 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      X,       X,
    /* 08 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      X,       U,
    /* 10 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      X,       X,
    /* 18 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      X,       X,
    /* 20 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      U,       X,
    /* 28 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      U,       X,
    /* 30 */ B|M|L,   M|L,     B|M,      M,       B|IB,    IZ,      U,       X,
    /* 38 */ B|M,     M,       B|M,      M,       B|IB,    IZ,      U,       X,
    /* 40 */ NO,      NO,      NO,       NO,      NO,      NO,      NO,      NO,
    /* 48 */ NO,      NO,      NO,       NO,      NO,      NO,      NO,      NO,
    /* 50 */ D,       D,       D,        D,       D,       D,       D,       D,
    /* 58 */ D,       D,       D,        D,       D,       D,       D,       D,
    /* 60 */ X,       X,       M|X,      M,       U,       U,       U,       U,
    /* 68 */ IZ|D,    M|IZ,    IB|D,     M|IB,    B,       NO,      B,       NO,
    /* 70 */ IB|F,    IB|F,    IB|F,     IB|F,    IB|F,    IB|F,    IB|F,    IB|F,
    /* 78 */ IB|F,    IB|F,    IB|F,     IB|F,    IB|F,    IB|F,    IB|F,    IB|F,
    /* 80 */ B|M|IB|L, M|IZ|L, B|M|IB|L|X, M|IB|L, B|M,    M,       B|M|L,   M|L,
    /* 88 */ B|M,     M,       B|M,      M,       M,       M,       M,       M|D,
    /* 90 */ NO,      NO,      NO,       NO,      NO,      NO,      NO,      NO,
    /* 98 */ NO,      NO,      AP|X,     NO,      D,       D,       NO,      NO,
    /* a0 */ B|OF,    OF,      B|OF,     OF,      B,       NO,      B,       NO,
    /* a8 */ B|IB,    IZ,      B,        NO,      B,       NO,      B,       NO,
    /* b0 */ B|IB,    B|IB,    B|IB,     B|IB,    B|IB,    B|IB,    B|IB,    B|IB,
    /* b8 */ IV,      IV,      IV,       IV,      IV,      IV,      IV,      IV,
    /* c0 */ B|M|IB,  M|IB,    IW|F,     F,       M|X,     M|X,     B|M|IB,  M|IZ,
    /* c8 */ EN|D,    D,       IW,       NO,      NO,      IB,      X,       NO,
    /* d0 */ B|M,     M,       B|M,      M,       B|IB|X,  B|IB|X,  B|X,     B,
    /* d8 */ M,       M,       M,        M,       M,       M,       M,       M,
    /* e0 */ IB|F,    IB|F,    IB|F,     IB|F,    B|IB,    IB,      B|IB,    IB,
    /* e8 */ JZ|F,    JZ|F,    AP|X,     IB|F,    B,       NO,      B,       NO,
    /* f0 */ U,       NO,      U,        U,       NO,      NO,      B|M|G3|L, M|G3|L,
    /* f8 */ NO,      NO,      NO,       NO,      NO,      NO,      B|M|L,   M|L,
];

/// The 0F map.
#[rustfmt::skip]
pub(super) static TWO: [u16; 256] = [
    /* 00 */ M,       M,       M,       M,       U,       NO,      NO,      NO,
    /* 08 */ NO,      NO,      U,       NO,      U,       M,       NO,      M|IB,
    /* 10 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 18 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 20 */ M|R|F|L, M|R|F,   M|R|F|L, M|R|F,   U,       U,       U,       U,
    /* 28 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 30 */ NO,      NO,      NO,      NO,      NO,      NO,      U,       NO,
    /* 38 */ U,       U,       U,       U,       U,       U,       U,       U,
    /* 40 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 48 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 50 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 58 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 60 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 68 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* 70 */ M|IB,    M|IB,    M|IB,    M|IB,    M,       M,       M,       NO,
    /* 78 */ M,       M,       U,       U,       M,       M,       M,       M,
    /* 80 */ JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,
    /* 88 */ JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,    JZ|F,
    /* 90 */ B|M,     B|M,     B|M,     B|M,     B|M,     B|M,     B|M,     B|M,
    /* 98 */ B|M,     B|M,     B|M,     B|M,     B|M,     B|M,     B|M,     B|M,
    /* a0 */ D,       D,       NO,      M,       M|IB,    M,       M,       M,
    /* a8 */ D,       D,       NO,      M|L,     M|IB,    M,       M,       M,
    /* b0 */ B|M|L,   M|L,     M,       M|L,     M,       M,       M,       M,
    /* b8 */ M,       M,       M|IB|L,  M|L,     M,       M,       M,       M,
    /* c0 */ B|M|L,   M|L,     M|IB,    M,       M|IB,    M|IB,    M|IB,    M|L,
    /* c8 */ NO,      NO,      NO,      NO,      NO,      NO,      NO,      NO,
    /* d0 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* d8 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* e0 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* e8 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* f0 */ M,       M,       M,       M,       M,       M,       M,       M,
    /* f8 */ M,       M,       M,       M,       M,       M,       M,       M,
];
