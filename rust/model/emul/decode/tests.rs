// SPDX-License-Identifier: GPL-2.0

//! Unit tests of the decoder.

use super::*;

fn d64(bytes: &[u8]) -> Insn {
    decode(bytes, CodeSize::Bits64).unwrap()
}

#[test]
fn an_instruction_is_small() {
    assert!(core::mem::size_of::<Insn>() <= 64);
}

#[test]
fn rex_counts_only_before_the_opcode() {
    assert_eq!(d64(&[0x48, 0x89, 0xc3]).op_size, 8);
    assert_eq!(d64(&[0x48, 0x66, 0x89, 0xc3]).op_size, 2);
    assert_eq!(d64(&[0x66, 0x48, 0x89, 0xc3]).op_size, 8);
    let i = d64(&[0x4d, 0x8b, 0x3c, 0x24]); // mov r15, [r12]
    assert_eq!((i.reg(), i.sib, i.rex & 1), (15, Some(0x24), 1));
}

#[test]
fn segment_overrides() {
    for (byte, seg) in [
        (0x26, 0),
        (0x2e, 1),
        (0x36, 2),
        (0x3e, 3),
        (0x64, 4),
        (0x65, 5),
    ] {
        let bytes = [byte, 0x8b, 0x00];
        let want = Some(Override(seg));
        assert_eq!(decode(&bytes, CodeSize::Bits16).unwrap().seg, want);
        let long = if seg < 4 { None } else { want };
        assert_eq!(d64(&bytes).seg, long);
    }
}

#[test]
fn immediates_are_extended() {
    assert_eq!(d64(&[0x83, 0xc0, 0xff]).imm, u64::MAX); // add eax, -1
    assert_eq!(
        d64(&[0x48, 0xc7, 0xc0, 0, 0, 0, 0x80]).imm,
        0xffff_ffff_8000_0000
    );
    assert_eq!(
        d64(&[0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8]).imm,
        0x0807_0605_0403_0201
    );
    let far = decode(&[0xea, 0x34, 0x12, 0x78, 0x56], CodeSize::Bits16).unwrap();
    assert_eq!((far.imm, far.imm2), (0x1234, 0x5678));
    let enter = d64(&[0xc8, 0x10, 0x00, 0x02]);
    assert_eq!((enter.imm, enter.imm2, enter.op_size), (0x10, 2, 8));
    // moffs follows the address size.
    let a = d64(&[0xa0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!((a.imm, a.len), (0x0807_0605_0403_0201, 9));
}

#[test]
fn displacements_of_all_address_sizes() {
    let i = decode(&[0x8b, 0x46, 0xfe], CodeSize::Bits16).unwrap(); // mov ax, [bp - 2]
    assert_eq!((i.disp, i.addr_size, i.len), (-2, 2, 3));
    let i = decode(&[0x8b, 0x06, 0x34, 0x12], CodeSize::Bits16).unwrap();
    assert_eq!((i.disp, i.len), (0x1234, 4));
    let i = decode(&[0x67, 0x8b, 0x05, 0, 0, 0, 0x80], CodeSize::Bits16).unwrap();
    assert_eq!((i.disp, i.addr_size, i.len), (i32::MIN, 4, 7));
}

#[test]
fn fifteen_bytes_and_no_more() {
    let mut s = [0x66u8; 16];
    s[14] = 0x90;
    assert_eq!(d64(&s).len, 15);
    s[14] = 0x66;
    s[15] = 0x90;
    assert_eq!(decode(&s, CodeSize::Bits64), Err(DecodeError::TooLong));
    assert_eq!(
        decode(&s[..14], CodeSize::Bits64),
        Err(DecodeError::Truncated)
    );
    assert_eq!(decode(&[], CodeSize::Bits64), Err(DecodeError::Truncated));
}

#[test]
fn lock_needs_a_lockable_memory_destination() {
    let ok: [&[u8]; 5] = [
        &[0xf0, 0x01, 0x03],
        &[0xf0, 0x0f, 0xb1, 0x0b],
        &[0xf0, 0x0f, 0xba, 0x2b, 1],
        &[0xf0, 0xf7, 0x1b],
        &[0xf0, 0x0f, 0xc7, 0x0b],
    ];
    for s in ok {
        assert!(decode(s, CodeSize::Bits64).is_ok(), "{s:02x?}");
    }
    let bad: [&[u8]; 5] = [
        &[0xf0, 0x01, 0xc3],
        &[0xf0, 0x03, 0x03],
        &[0xf0, 0x39, 0x03],
        &[0xf0, 0x0f, 0xba, 0x23, 1],
        &[0xf0, 0x90],
    ];
    for s in bad {
        assert_eq!(
            decode(s, CodeSize::Bits64),
            Err(DecodeError::Undefined),
            "{s:02x?}"
        );
    }
}
