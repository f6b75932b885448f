// SPDX-License-Identifier: GPL-2.0

//! The instruction decoder: bytes in, [`Insn`] out.
//!
//! It takes apart every encoding form (legacy maps, VEX, EVEX, XOP, 3DNow!), so that the length is
//! right for any instruction, and extracts the operands of the legacy ones for the emulator. It
//! looks at nothing but the bytes and the code size. `emul::emulate` and `emul::len` call it.
//!
//! What counts as undefined: opcodes with no meaning, encodings that need memory or exclude it,
//! undefined members of the integer groups, LOCK where it is not allowed, and VEX-class prefixes
//! after 66, F2, F3, LOCK or REX. Undefined x87 and SIMD encodings decode successfully by their
//! form; whoever executes them refuses them. Two behaviours differ between vendors and follow
//! Intel: a near branch in 64-bit mode ignores 66, and UD0 has a ModRM byte.
//!
//! SDM: vol 2, chapter 2; APM: vol 3, chapter 1.

use super::table;
pub use crate::x86::state::CodeSize;

/// The longest instruction the architecture allows, bytes.
pub const MAX_LEN: usize = 15;

/// Why bytes are not an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The instruction goes on behind the last byte given.
    Truncated,
    /// It is longer than 15 bytes: #GP(0).
    TooLong,
    /// It has no meaning: #UD.
    Undefined,
}

/// The opcode map an instruction belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The one-byte map.
    One,
    /// 0F xx.
    Two,
    /// 0F 38 xx.
    Op38,
    /// 0F 3A xx.
    Op3a,
    /// 0F 0F: the opcode is the byte after the operands, held in `imm`.
    Now3d,
    /// A VEX encoding; `Insn::submap` is its map.
    Vex,
    /// An EVEX encoding; `Insn::submap` is its map.
    Evex,
    /// An XOP encoding; `Insn::submap` is its map.
    Xop,
}

/// F2 or F3, whichever came last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rep {
    /// Neither.
    None,
    /// F2.
    Ne,
    /// F3.
    E,
}

/// A segment override prefix, by its segment register number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override(pub u8);

/// A decoded instruction.
///
/// ```
/// use model::emul::decode::{decode, CodeSize};
///
/// let insn = decode(&[0x48, 0x8b, 0x44, 0x24, 0x08], CodeSize::Bits64).unwrap();
/// assert_eq!((insn.opcode, insn.len, insn.op_size), (0x8b, 5, 8)); // mov rax, [rsp + 8]
/// assert!(insn.is_mem());
/// assert_eq!(insn.disp, 8);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// The first immediate, sign-extended from its encoded size; a branch displacement; a far
    /// pointer's offset; or a memory offset, zero-extended.
    pub imm: u64,
    /// The ModRM displacement, sign-extended.
    pub disp: i32,
    /// The second immediate: nesting level of ENTER, selector of a far pointer, and the like.
    pub imm2: u16,
    /// Length, bytes: 1 to 15.
    pub len: u8,
    /// Opcode map.
    pub map: Map,
    /// Map number inside VEX, EVEX and XOP, otherwise 0.
    pub submap: u8,
    /// Opcode byte.
    pub opcode: u8,
    /// ModRM byte, 0 if the instruction has none.
    pub modrm: u8,
    /// SIB byte, if there is one.
    pub sib: Option<u8>,
    /// REX prefix, 0 if there is none. For VEX what its R, X and B bits amount to.
    pub rex: u8,
    /// W, vvvv, L and pp of a VEX prefix, as in its last byte, otherwise 0.
    pub vex: u8,
    /// F2 or F3.
    pub rep: Rep,
    /// Segment override; ES, CS, SS and DS are ignored in 64-bit mode and not recorded.
    pub seg: Option<Override>,
    /// F0 was there.
    pub lock: bool,
    /// 66 was there.
    pub opsize_prefix: bool,
    /// 67 was there.
    pub addrsize_prefix: bool,
    /// Operand size, bytes: 1, 2, 4 or 8.
    pub op_size: u8,
    /// Address size, bytes: 2, 4 or 8.
    pub addr_size: u8,
    /// The code size it was decoded for.
    pub mode: CodeSize,
}

impl Insn {
    /// No instruction: what decoding starts from.
    pub const fn none(mode: CodeSize) -> Self {
        Self {
            imm: 0,
            disp: 0,
            imm2: 0,
            len: 0,
            map: Map::One,
            submap: 0,
            opcode: 0,
            modrm: 0,
            sib: None,
            rex: 0,
            vex: 0,
            rep: Rep::None,
            seg: None,
            lock: false,
            opsize_prefix: false,
            addrsize_prefix: false,
            op_size: 0,
            addr_size: 0,
            mode,
        }
    }

    /// ModRM.mod.
    #[inline]
    pub const fn md(&self) -> u8 {
        self.modrm >> 6
    }

    /// ModRM.reg without REX.R: a group member, a segment register.
    #[inline]
    pub const fn reg3(&self) -> u8 {
        (self.modrm >> 3) & 7
    }

    /// The register ModRM.reg and REX.R name.
    #[inline]
    pub const fn reg(&self) -> u8 {
        self.reg3() | ((self.rex & 4) << 1)
    }

    /// The register ModRM.rm and REX.B name, if the operand is a register.
    #[inline]
    pub const fn rm(&self) -> u8 {
        (self.modrm & 7) | ((self.rex & 1) << 3)
    }

    /// The register the low opcode bits and REX.B name.
    #[inline]
    pub const fn opcode_reg(&self) -> u8 {
        (self.opcode & 7) | ((self.rex & 1) << 3)
    }

    /// Whether the ModRM operand is memory.
    #[inline]
    pub const fn is_mem(&self) -> bool {
        self.md() != 3
    }

    /// Whether REX.W is set.
    #[inline]
    pub const fn rex_w(&self) -> bool {
        self.rex & 8 != 0
    }
}

/// Reads the instruction stream, enforcing the length limit.
struct Reader<'a> {
    bytes: &'a [u8],
    pos: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Result<u8, DecodeError> {
        if self.pos >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.pos).ok_or(DecodeError::Truncated)?;
        self.pos = self.pos.wrapping_add(1);
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        if self.pos >= MAX_LEN {
            return Err(DecodeError::TooLong);
        }
        self.bytes
            .get(self.pos)
            .copied()
            .ok_or(DecodeError::Truncated)
    }

    /// Reads `size` bytes, little-endian.
    fn uint(&mut self, size: u8) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for i in 0..u32::from(size) {
            value |= u64::from(self.u8()?) << (i.wrapping_mul(8) & 63);
        }
        Ok(value)
    }

    /// Reads `size` bytes and sign-extends them.
    fn int(&mut self, size: u8) -> Result<u64, DecodeError> {
        Ok(sign_extend(self.uint(size)?, size))
    }
}

/// Sign-extends the low `size` bytes of `value`; 8 or more leave it as it is.
pub(super) const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as u8 as i8 as i64 as u64,
        2 => value as u16 as i16 as i64 as u64,
        4 => value as u32 as i32 as i64 as u64,
        _ => value,
    }
}

/// Decodes the instruction at the start of `bytes`.
///
/// More than 15 bytes may be given; the rest is ignored.
pub fn decode(bytes: &[u8], mode: CodeSize) -> Result<Insn, DecodeError> {
    let mut r = Reader { bytes, pos: 0 };
    let mut insn = Insn::none(mode);
    prefixes(&mut r, &mut insn)?;
    let attr = opcode(&mut r, &mut insn)?;
    sizes(&mut insn, attr);
    if attr & table::M != 0 {
        modrm(&mut r, &mut insn, attr)?;
    }
    let attr = refine(&mut insn, attr)?;
    immediate(&mut r, &mut insn, attr)?;
    if insn.lock && !(attr & table::L != 0 && (insn.is_mem() || attr & table::R != 0)) {
        return Err(DecodeError::Undefined);
    }
    // CAST: the reader stops at MAX_LEN.
    insn.len = r.pos as u8;
    Ok(insn)
}

/// Consumes legacy prefixes and REX, and leaves the opcode in `insn.opcode`.
fn prefixes(r: &mut Reader<'_>, insn: &mut Insn) -> Result<(), DecodeError> {
    let long = insn.mode == CodeSize::Bits64;
    loop {
        let byte = r.u8()?;
        match byte {
            0x26 | 0x2e | 0x36 | 0x3e => {
                if !long {
                    insn.seg = Some(Override((byte >> 3) & 3));
                }
            }
            0x64 => insn.seg = Some(Override(4)),
            0x65 => insn.seg = Some(Override(5)),
            0x66 => insn.opsize_prefix = true,
            0x67 => insn.addrsize_prefix = true,
            0xf0 => insn.lock = true,
            0xf2 => insn.rep = Rep::Ne,
            0xf3 => insn.rep = Rep::E,
            0x40..=0x4f if long => {
                insn.rex = byte;
                continue;
            }
            _ => {
                insn.opcode = byte;
                return Ok(());
            }
        }
        // REX counts only right before the opcode.
        insn.rex = 0;
    }
}

/// Follows escapes to the final opcode byte; returns its attributes.
fn opcode(r: &mut Reader<'_>, insn: &mut Insn) -> Result<u16, DecodeError> {
    let long = insn.mode == CodeSize::Bits64;
    match insn.opcode {
        0x0f => {
            insn.opcode = r.u8()?;
            match insn.opcode {
                0x0f => {
                    insn.map = Map::Now3d;
                    Ok(table::M | table::IB)
                }
                0x38 => {
                    insn.map = Map::Op38;
                    insn.opcode = r.u8()?;
                    Ok(table::M)
                }
                0x3a => {
                    insn.map = Map::Op3a;
                    insn.opcode = r.u8()?;
                    Ok(table::M | table::IB)
                }
                op => {
                    insn.map = Map::Two;
                    Ok(lookup(&table::TWO, op))
                }
            }
        }
        // Outside 64-bit mode these are LDS, LES and BOUND unless the next byte looks like ModRM
        // with mod = 3, which those do not allow.
        0xc4 | 0xc5 | 0x62 if long || r.peek()? >= 0xc0 => vex(r, insn),
        // POP, unless the map number is one that XOP defines.
        0x8f if r.peek()? & 0x1f >= 8 => xop(r, insn),
        op => {
            let attr = lookup(&table::ONE, op);
            if attr & table::U != 0 || (attr & table::X != 0 && long) {
                return Err(DecodeError::Undefined);
            }
            Ok(attr)
        }
    }
    .and_then(|attr| {
        if attr & table::U != 0 {
            Err(DecodeError::Undefined)
        } else {
            Ok(attr)
        }
    })
}

fn lookup(table: &[u16; 256], op: u8) -> u16 {
    table.get(usize::from(op)).copied().unwrap_or(table::U)
}

/// Prefixes that may not come before VEX, EVEX or XOP.
fn check_vex_prefixes(insn: &Insn) -> Result<(), DecodeError> {
    if insn.lock || insn.opsize_prefix || insn.rep != Rep::None || insn.rex != 0 {
        return Err(DecodeError::Undefined);
    }
    Ok(())
}

fn vex(r: &mut Reader<'_>, insn: &mut Insn) -> Result<u16, DecodeError> {
    check_vex_prefixes(insn)?;
    let first = r.u8()?;
    // R, X and B are inverted and above each other as in REX.
    let rex = 0x40 | (!first >> 5) & 7;
    match insn.opcode {
        0xc5 => {
            insn.map = Map::Vex;
            insn.submap = 1;
            insn.rex = rex & 0x44;
            insn.vex = first & 0x7f;
        }
        0xc4 => {
            insn.map = Map::Vex;
            insn.submap = first & 0x1f;
            insn.rex = rex;
            insn.vex = r.u8()?;
        }
        _ => {
            insn.map = Map::Evex;
            insn.submap = first & 7;
            r.u8()?;
            r.u8()?;
        }
    }
    if insn.mode != CodeSize::Bits64 {
        insn.rex = 0;
    }
    insn.opcode = r.u8()?;
    match (insn.map, insn.submap) {
        // VZEROUPPER and VZEROALL have no operands.
        (Map::Vex, 1) if insn.opcode == 0x77 => Ok(table::NO),
        // Shuffles, shifts by immediate, CMP, PINSRW, PEXTRW and SHUF as in the 0F map.
        (_, 1) => match insn.opcode {
            0x70..=0x73 | 0xc2 | 0xc4..=0xc6 => Ok(table::M | table::IB),
            _ => Ok(table::M),
        },
        (_, 2) => Ok(table::M),
        (_, 3) => Ok(table::M | table::IB),
        // AVX512-FP16.
        (Map::Evex, 5 | 6) => Ok(table::M),
        _ => Err(DecodeError::Undefined),
    }
}

fn xop(r: &mut Reader<'_>, insn: &mut Insn) -> Result<u16, DecodeError> {
    check_vex_prefixes(insn)?;
    insn.map = Map::Xop;
    insn.submap = r.u8()? & 0x1f;
    r.u8()?;
    insn.opcode = r.u8()?;
    match insn.submap {
        8 => Ok(table::M | table::IB),
        9 => Ok(table::M),
        // A four-byte immediate whatever the prefixes; `sizes` gives these operand size 4.
        10 => Ok(table::M | table::IZ),
        _ => Err(DecodeError::Undefined),
    }
}

/// Sets operand and address size from mode, prefixes and attributes.
fn sizes(insn: &mut Insn, attr: u16) {
    let p66 = insn.opsize_prefix;
    let p67 = insn.addrsize_prefix;
    (insn.op_size, insn.addr_size) = match insn.mode {
        CodeSize::Bits16 => (if p66 { 4 } else { 2 }, if p67 { 4 } else { 2 }),
        CodeSize::Bits32 => (if p66 { 2 } else { 4 }, if p67 { 2 } else { 4 }),
        CodeSize::Bits64 => (operand64(insn, attr), if p67 { 4 } else { 8 }),
    };
    if insn.map == Map::Xop {
        insn.op_size = 4;
    }
    if insn.map == Map::Two && attr & table::R != 0 && insn.mode != CodeSize::Bits64 {
        insn.op_size = 4;
    }
    if attr & table::B != 0 {
        insn.op_size = 1;
    }
}

/// Operand size in 64-bit mode.
fn operand64(insn: &Insn, attr: u16) -> u8 {
    if insn.rex_w() || attr & table::F != 0 {
        8
    } else if insn.opsize_prefix {
        2
    } else if attr & table::D != 0 {
        8
    } else {
        4
    }
}

/// Reads ModRM, SIB and displacement.
fn modrm(r: &mut Reader<'_>, insn: &mut Insn, attr: u16) -> Result<(), DecodeError> {
    insn.modrm = r.u8()?;
    if attr & table::R != 0 {
        insn.modrm |= 0xc0;
    }
    let (md, rm) = (insn.md(), insn.modrm & 7);
    if md == 3 {
        return Ok(());
    }
    let disp = if insn.addr_size == 2 {
        match (md, rm) {
            (0, 6) | (2, _) => 2,
            (1, _) => 1,
            _ => 0,
        }
    } else {
        let base = if rm == 4 {
            let sib = r.u8()?;
            insn.sib = Some(sib);
            sib & 7
        } else {
            rm
        };
        match (md, base) {
            (0, 5) | (2, _) => 4,
            (1, _) => 1,
            _ => 0,
        }
    };
    // CAST: sign-extended from at most four bytes.
    insn.disp = r.int(disp)? as i32;
    Ok(())
}

/// Applies what the ModRM byte and the mandatory prefix change: group members that are undefined,
/// that have other sizes, or that do not allow LOCK.
fn refine(insn: &mut Insn, attr: u16) -> Result<u16, DecodeError> {
    match insn.map {
        Map::One => refine_one(insn, attr),
        Map::Two => refine_two(insn, attr),
        _ => Ok(attr),
    }
}

fn refine_one(insn: &mut Insn, attr: u16) -> Result<u16, DecodeError> {
    let (reg, mem) = (insn.reg3(), insn.is_mem());
    let defined = match insn.opcode {
        0x80..=0x83 if reg == 7 => return Ok(attr & !table::L),
        0x8c => reg < 6,
        0x8d | 0xc4 | 0xc5 | 0x62 => mem,
        0x8e => reg < 6 && reg != 1,
        0x8f => reg == 0,
        // XABORT and XBEGIN sit at F8.
        0xc6 | 0xc7 => reg == 0 || insn.modrm == 0xf8,
        0xf6 | 0xf7 => {
            let kind = match (reg, insn.opcode) {
                (0 | 1, 0xf6) => table::IB,
                (0 | 1, _) => table::IZ,
                _ => table::NO,
            };
            let lock = if matches!(reg, 2 | 3) {
                attr & table::L
            } else {
                0
            };
            return Ok((attr & !(table::IMM | table::L)) | kind | lock);
        }
        0xfe if reg < 2 => return Ok(attr),
        0xfe => false,
        0xff => {
            let size = match reg {
                0 | 1 => return Ok(attr),
                2 | 4 => table::F,
                6 => table::D,
                _ => 0,
            };
            if insn.mode == CodeSize::Bits64 && size != 0 {
                insn.op_size = operand64(insn, size);
            }
            if reg == 7 || (matches!(reg, 3 | 5) && !mem) {
                return Err(DecodeError::Undefined);
            }
            return Ok(attr & !table::L);
        }
        _ => true,
    };
    if defined {
        Ok(attr)
    } else {
        Err(DecodeError::Undefined)
    }
}

fn refine_two(insn: &mut Insn, attr: u16) -> Result<u16, DecodeError> {
    let (reg, mem) = (insn.reg3(), insn.is_mem());
    let defined = match insn.opcode {
        // LKGS is F2 0F 00 /6.
        0x00 => reg < 6 || (reg == 6 && insn.rep == Rep::Ne),
        // AMD reaches CR8 outside 64-bit mode as LOCK MOV CR0.
        0x20 | 0x22 if insn.lock => insn.reg() == 0,
        0x20 | 0x22 => matches!(insn.reg(), 0 | 2 | 3 | 4 | 8),
        0x21 | 0x23 => insn.reg() < 8,
        // EXTRQ and INSERTQ with immediates; the plain opcode is VMREAD.
        0x78 if insn.rep == Rep::Ne || (insn.rep == Rep::None && insn.opsize_prefix) => {
            insn.op_size = 2;
            return Ok(attr | table::IW);
        }
        0xb2 | 0xb4 | 0xb5 => mem,
        0xb8 => insn.rep == Rep::E,
        0xba if reg == 4 => return Ok(attr & !table::L),
        0xba => reg > 4,
        0xc7 if reg != 1 => return Ok(attr & !table::L),
        _ => true,
    };
    if defined {
        Ok(attr)
    } else {
        Err(DecodeError::Undefined)
    }
}

/// Reads what follows the operands.
fn immediate(r: &mut Reader<'_>, insn: &mut Insn, attr: u16) -> Result<(), DecodeError> {
    let z = if insn.op_size == 2 { 2 } else { 4 };
    match attr & table::IMM {
        table::IB => insn.imm = r.int(1)?,
        table::IW => insn.imm = r.uint(2)?,
        table::IZ => insn.imm = r.int(z)?,
        table::IV => insn.imm = r.int(insn.op_size)?,
        table::OF => insn.imm = r.uint(insn.addr_size)?,
        table::AP => {
            insn.imm = r.uint(z)?;
            insn.imm2 = r.uint(2)? as u16;
        }
        table::JZ => insn.imm = r.int(z)?,
        table::EN => {
            insn.imm = r.uint(2)?;
            insn.imm2 = u16::from(r.u8()?);
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
