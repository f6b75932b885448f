// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86 on random byte strings, in all three code sizes.
//!
//! `DECODE_CASES` sets the number of strings per code size (default 300000). `DECODE_BLOB` names a
//! file, a kernel image say, whose every offset is decoded too.
//!
//! Where iced-x86 finds an instruction, the length must be the same. Where the decoder says
//! undefined, iced-x86 must say so too. The other direction holds only for integer instructions:
//! undefined x87 and SIMD encodings have a length by their form.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use model::emul::decode::{decode, CodeSize, DecodeError, Insn, Map, Rep};

/// xorshift64*: the cases are the same in every run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }
}

const PREFIXES: [u8; 14] = [
    0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x66, 0x67, 0x67, 0xf0, 0xf2, 0xf3, 0x48,
];

/// A random string that starts with a few prefixes and often an escape.
fn sample(rng: &mut Rng) -> [u8; 16] {
    let mut out = [0u8; 16];
    for b in &mut out {
        *b = rng.next() as u8;
    }
    let mut at = 0;
    while at < 14 && rng.below(5) < 2 {
        out[at] = PREFIXES[rng.below(PREFIXES.len() as u64) as usize];
        at += 1;
    }
    if rng.below(5) == 0 && at < 14 {
        out[at] = 0x40 | rng.below(16) as u8;
        at += 1;
    }
    let escape: &[u8] = match rng.below(10) {
        0..=3 => &[],
        4..=6 => &[0x0f],
        7 => &[0x0f, 0x38],
        8 => &[0x0f, 0x3a],
        _ => match rng.below(5) {
            0 => &[0xc4],
            1 => &[0xc5],
            2 => &[0x62],
            3 => &[0x8f],
            _ => &[0x0f, 0x0f],
        },
    };
    for &b in escape {
        if at < 16 {
            out[at] = b;
            at += 1;
        }
    }
    out
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

fn check(bytes: &[u8], mode: CodeSize, tally: &mut [u64; 4]) {
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
            tally[0] += 1;
            // Nothing shorter is an instruction.
            for n in 0..usize::from(a.len) {
                assert_eq!(
                    decode(&bytes[..n], mode),
                    Err(DecodeError::Truncated),
                    "{bytes:02x?}"
                );
            }
        }
        (Err(_), Err(_)) => tally[1] += 1,
        (Ok(a), Err(e)) => {
            assert!(
                by_form(a),
                "{mode:?} {bytes:02x?}: {a:?} but iced says {e:?}"
            );
            tally[2] += 1;
        }
        (Err(e), Ok((_, i))) => {
            panic!("{mode:?} {bytes:02x?}: {e:?} but iced says {:?}", i.code());
        }
    }
}

const MODES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

#[test]
fn agrees_with_iced_on_random_bytes() {
    let cases = std::env::var("DECODE_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(300_000);
    for mode in MODES {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
        let mut tally = [0; 4];
        for _ in 0..cases {
            check(&sample(&mut rng), mode, &mut tally);
        }
        println!(
            "{mode:?}: same {}, both refuse {}, by form {}",
            tally[0], tally[1], tally[2]
        );
        assert!(tally[0] > cases / 3);
    }
}

#[test]
fn agrees_with_iced_on_every_opcode_and_modrm() {
    const HEADS: [&[u8]; 5] = [&[], &[0x66], &[0xf2], &[0xf3], &[0xf0]];
    for mode in MODES {
        let mut tally = [0; 4];
        for head in HEADS {
            for escape in [&[][..], &[0x0f]] {
                for op in 0..=255u8 {
                    for modrm in 0..=255u8 {
                        let mut s = [0x11u8; 16];
                        let at = head.len() + escape.len();
                        s[..head.len()].copy_from_slice(head);
                        s[head.len()..at].copy_from_slice(escape);
                        s[at] = op;
                        s[at + 1] = modrm;
                        check(&s, mode, &mut tally);
                    }
                }
            }
        }
    }
}

#[test]
fn agrees_with_iced_on_a_blob() {
    let Ok(path) = std::env::var("DECODE_BLOB") else {
        return;
    };
    let blob = std::fs::read(path).unwrap();
    for mode in MODES {
        let mut tally = [0; 4];
        for at in 0..blob.len().saturating_sub(16) {
            check(&blob[at..at + 16], mode, &mut tally);
        }
        println!(
            "{mode:?}: same {}, both refuse {}, by form {}",
            tally[0], tally[1], tally[2]
        );
    }
}
