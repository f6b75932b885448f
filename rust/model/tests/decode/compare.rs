// SPDX-License-Identifier: GPL-2.0

//! One instruction by our decoder and by iced-x86.
//!
//! Where iced-x86 finds an instruction, the length must be the same. Where the decoder says
//! undefined, iced-x86 must say so too. The other direction holds only for integer instructions:
//! undefined x87 and SIMD encodings have a length by their form.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use model::emul::decode::{decode, CodeSize, DecodeError, Insn, Map, Rep};
use std::fmt;

/// What comparisons came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Both find an instruction of the same length.
    pub same: u64,
    /// Both refuse.
    pub refused: u64,
    /// Only iced-x86 refuses, where the decoder goes by the form of the encoding.
    pub by_form: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            same,
            refused,
            by_form,
        } = self;
        write!(f, "same {same}, both refuse {refused}, by form {by_form}")
    }
}

fn bits(mode: CodeSize) -> u32 {
    match mode {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    }
}

/// What iced-x86 makes of `bytes`.
fn iced(bytes: &[u8], mode: CodeSize) -> Result<(u8, Instruction), DecoderError> {
    let mut d = Decoder::with_ip(bits(mode), bytes, 0, DecoderOptions::MPX);
    let insn = d.decode();
    match d.last_error() {
        DecoderError::None => Ok((insn.len() as u8, insn)),
        e => Err(e),
    }
}

/// Whether the decoder judges this encoding by form only, so that iced-x86 may be stricter.
fn by_form(insn: &Insn) -> bool {
    match insn.map {
        Map::One => {
            // x87. Also C6 and C7 with modrm F8, which are always valid, so they are not listed.
            matches!(insn.opcode, 0xd8..=0xdf)
        }
        // Most of the 0F map is picky about mandatory prefixes.
        Map::Two if insn.opsize_prefix || insn.rep != Rep::None => true,
        Map::Two => match insn.opcode {
            // Groups 6 and 7 hold system instructions keyed by mod, rm and prefix.
            0x00 | 0x01 => true,
            // SIMD and its groups, keyed by mandatory prefix.
            0x10..=0x17 | 0x28..=0x2f | 0x50..=0x7f | 0xc2..=0xc6 | 0xd0..=0xfe => true,
            // Hints, MPX and CET; VIA PadLock; groups 15 and 9.
            0x0d | 0x18..=0x1f | 0xa6 | 0xa7 | 0xae | 0xc7 => true,
            // LOCK MOV CR0 is CR8 on AMD, which iced-x86 knows only as an option.
            0x20 | 0x22 => insn.lock,
            _ => false,
        },
        _ => true,
    }
}

/// Compares the instruction at the start of `bytes`; its length, if both agree that there is one.
pub fn check(bytes: &[u8], mode: CodeSize, tally: &mut Tally) -> Option<u8> {
    let ours = decode(bytes, mode);
    let theirs = iced(bytes, mode);
    match (&ours, &theirs) {
        (Ok(a), Ok((len, i))) => {
            assert_eq!(
                a.len,
                *len,
                "{mode:?} {bytes:02x?}: {a:?} against {:?}",
                i.code()
            );
            tally.same += 1;
            // Nothing shorter is an instruction.
            for n in 0..usize::from(a.len) {
                assert_eq!(
                    decode(&bytes[..n], mode),
                    Err(DecodeError::Truncated),
                    "{bytes:02x?}"
                );
            }
            return Some(a.len);
        }
        (Err(_), Err(_)) => tally.refused += 1,
        (Ok(a), Err(e)) => {
            assert!(
                by_form(a),
                "{mode:?} {bytes:02x?}: {a:?} but iced says {e:?}"
            );
            tally.by_form += 1;
        }
        (Err(e), Ok((_, i))) => {
            panic!("{mode:?} {bytes:02x?}: {e:?} but iced says {:?}", i.code());
        }
    }
    None
}
