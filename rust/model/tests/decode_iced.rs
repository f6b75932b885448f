// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86 on random byte strings, in all three code sizes.
//!
//! `DECODE_CASES` sets the number of strings per code size (default 300000).

#[path = "decode/compare.rs"]
mod compare;

use compare::{check, Tally};
use model::emul::decode::CodeSize;

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

const MODES: [CodeSize; 3] = [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64];

#[test]
fn agrees_with_iced_on_random_bytes() {
    let cases = std::env::var("DECODE_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(300_000);
    for mode in MODES {
        let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
        let mut tally = Tally::default();
        for _ in 0..cases {
            check(&sample(&mut rng), mode, &mut tally);
        }
        println!("{mode:?}: {tally}");
        assert!(tally.same > cases / 3);
    }
}

#[test]
fn agrees_with_iced_on_every_opcode_and_modrm() {
    const HEADS: [&[u8]; 5] = [&[], &[0x66], &[0xf2], &[0xf3], &[0xf0]];
    for mode in MODES {
        let mut tally = Tally::default();
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
