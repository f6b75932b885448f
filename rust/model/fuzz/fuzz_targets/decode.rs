// SPDX-License-Identifier: GPL-2.0

//! The decoder on any bytes, in all three code sizes, against iced-x86.

#![no_main]

use iced_x86::{Decoder, DecoderError, DecoderOptions};
use libfuzzer_sys::fuzz_target;
use model::emul::decode::{decode, CodeSize, DecodeError, MAX_LEN};

fn check(data: &[u8], mode: CodeSize, bits: u32) {
    let ours = decode(data, mode);
    if let Ok(insn) = ours {
        let len = usize::from(insn.len);
        assert!((1..=MAX_LEN).contains(&len) && len <= data.len());
        assert!(matches!(insn.op_size, 1 | 2 | 4 | 8));
        assert!(matches!(insn.addr_size, 2 | 4 | 8));
        // The instruction alone is the same, and nothing shorter is one.
        assert_eq!(decode(&data[..len], mode), ours);
        for n in 0..len {
            assert_eq!(decode(&data[..n], mode), Err(DecodeError::Truncated));
        }
    }
    let mut theirs = Decoder::with_ip(bits, data, 0, DecoderOptions::MPX);
    let insn = theirs.decode();
    if theirs.last_error() == DecoderError::None {
        assert_eq!(
            ours.map(|i| usize::from(i.len)),
            Ok(insn.len()),
            "{:?}",
            insn.code()
        );
    }
}

fuzz_target!(|data: &[u8]| {
    check(data, CodeSize::Bits16, 16);
    check(data, CodeSize::Bits32, 32);
    check(data, CodeSize::Bits64, 64);
});
