// SPDX-License-Identifier: GPL-2.0

//! Faults: segment limits and types, canonical addresses, page faults, decode errors, and that
//! nothing is committed.

use super::*;
use crate::x86::exception::{GP, NM, SS};

#[test]
fn limits() {
    let mut vm = Vm::real();
    vm.s.gpr[RBX] = 0xffff;
    assert_eq!(vm.fault(&[0x8b, 0x07]), GP0); // mov ax, [bx]: crosses the limit
    vm.s.gpr[RBP] = 0xffff;
    assert_eq!(vm.fault(&[0x8b, 0x46, 0x00]), Exception::with_code(SS, 0));
    vm.s.gpr[RSP] = 1;
    assert_eq!(vm.fault(&[0x50]), Exception::with_code(SS, 0)); // push ax with SP = 1

    let mut vm = Vm::protected(0);
    vm.s.seg_mut(SegReg::Ds).limit = 0xfff;
    vm.step(&[0xa1, 0xfc, 0x0f, 0, 0]);
    assert_eq!(vm.fault(&[0xa1, 0xfd, 0x0f, 0, 0]), GP0);
    // Expand-down: the limit itself is outside.
    vm.s.seg_mut(SegReg::Ds).attr = 0xc97;
    assert_eq!(vm.fault(&[0xa1, 0xff, 0x0f, 0, 0]), GP0);
    vm.step(&[0xa1, 0x00, 0x10, 0, 0]);
    vm.s.seg_mut(SegReg::Ds).attr = 0x897;
    vm.step(&[0xa1, 0xfc, 0xff, 0, 0]);
    assert_eq!(vm.fault(&[0xa1, 0xfd, 0xff, 0, 0]), GP0);
}

#[test]
fn segment_types() {
    let mut vm = Vm::protected(0);
    vm.s.seg_mut(SegReg::Ds).attr = 0xc91; // read-only data
    vm.step(&[0xa1, 0, 0, 0, 0]);
    assert_eq!(vm.fault(&[0xa3, 0, 0, 0, 0]), GP0);
    assert_eq!(vm.fault(&[0xff, 0x05, 0, 0, 0, 0]), GP0); // inc
    assert_eq!(vm.fault(&[0x2e, 0xa3, 0, 0, 0, 0]), GP0); // code is not writable
    vm.step(&[0x2e, 0xa1, 0, 0, 0, 0]);
    vm.s.seg_mut(SegReg::Cs).attr = 0xc99; // execute-only
    assert_eq!(vm.fault(&[0x2e, 0xa1, 0, 0, 0, 0]), GP0);
    vm.s.seg_mut(SegReg::Es).unusable = true;
    assert_eq!(vm.fault(&[0x26, 0xa1, 0, 0, 0, 0]), GP0);
}

#[test]
fn canonical() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RAX] = 1 << 47;
    assert_eq!(vm.fault(&[0x8a, 0x00]), GP0);
    vm.s.gpr[RBP] = 1 << 47;
    assert_eq!(vm.fault(&[0x8a, 0x45, 0x00]), Exception::with_code(SS, 0));
    vm.s.gpr[RAX] = (1 << 47) - 1;
    assert_eq!(vm.fault(&[0x8b, 0x00]), GP0); // its last byte is not canonical
    vm.s.cr4 |= cr4::LA57;
    vm.s.gpr[RAX] = 1 << 56;
    assert_eq!(vm.fault(&[0x8a, 0x00]), GP0);
}

#[test]
fn page_faults() {
    let mut vm = Vm::long(3);
    vm.w.absent.push(5);
    vm.w.readonly.push(6);
    vm.s.gpr[RAX] = 0x5010;
    assert_eq!(
        vm.fault(&[0x8b, 0x00]),
        Exception::page_fault(pf::U, 0x5010)
    );
    assert_eq!(
        vm.fault(&[0x01, 0x18]),
        Exception::page_fault(pf::U | pf::W, 0x5010)
    );
    vm.s.gpr[RAX] = 0x4ffe;
    assert_eq!(
        vm.fault(&[0x89, 0x18]),
        Exception::page_fault(pf::U | pf::W, 0x5000)
    );
    vm.s.gpr[RAX] = 0x6000;
    // A read-modify-write asks for the write at once, even if CMPXCHG then would not write.
    let e = Exception::page_fault(pf::U | pf::W | pf::P, 0x6000);
    assert_eq!(vm.fault(&[0x0f, 0xb1, 0x18]), e);
    vm.step(&[0x8b, 0x00]);
}

#[test]
fn nothing_is_committed_in_the_middle() {
    // POPA whose fourth pop faults.
    let mut vm = Vm::protected(0);
    vm.w.absent.push(7);
    vm.s.gpr[RSP] = 0x6ff4;
    assert_eq!(vm.fault(&[0x61]).vector, 14);
    // LSS: the pointer is fine, the selector is not.
    let mut vm = Vm::protected(0);
    vm.w.put(0x4000, &[1, 0, 0, 0, 0x33, 0]);
    assert_eq!(vm.fault(&[0x0f, 0xb2, 0x1d, 0, 0x40, 0, 0]).vector, GP);
}

#[test]
fn fetching() {
    let mut vm = Vm::protected(0);
    // Only the next page holds the rest of the instruction, and it is absent.
    vm.s.rip = 0x8ffe;
    vm.w.absent.push(9);
    vm.w.put(0x8ffe, &[0xb8, 1]);
    let e = emulate(&mut vm.s, &mut Code::new(), &mut vm.w);
    assert_eq!(e, Err(Stop::Fault(Exception::page_fault(0, 0x9000))));
    // An instruction that ends with the page does not touch the next one.
    vm.s.rip = 0x8fff;
    vm.step(&[0x90]);
    // Bytes given are not fetched again.
    vm.s.rip = CODE;
    vm.w.fetches.clear();
    emulate(&mut vm.s, &mut Code::known(&[0x40]), &mut vm.w).unwrap();
    assert!(vm.w.fetches.is_empty());
    // Part of the bytes given: only the rest is.
    vm.w.put(vm.s.rip, &[0xb8, 1, 2, 3, 4]);
    let at = vm.s.rip;
    emulate(&mut vm.s, &mut Code::known(&[0xb8, 1]), &mut vm.w).unwrap();
    assert_eq!(vm.w.fetches, [(at + 2, 13)]);
    assert_eq!(vm.s.gpr[RAX], 0x0403_0201);
    // The end of the code segment.
    vm.s.rip = 0x8000;
    vm.s.seg_mut(SegReg::Cs).limit = 0x8001;
    assert_eq!(vm.fault(&[0xb8, 1, 2, 3, 4]), GP0);
    vm.step(&[0x40]);
    vm.step(&[0x40]);
    assert_eq!(vm.fault(&[0x40]), GP0);
}

#[test]
fn undefined_and_unhandled() {
    let mut vm = Vm::long(0);
    for code in [
        &[0x06u8][..],
        &[0x0f, 0x0b],
        &[0xf0, 0x90],
        &[0x0f, 0xff, 0xc0],
        &[0xfe, 0xf0],
    ] {
        assert_eq!(vm.fault(code), Exception::ud(), "{code:02x?}");
    }
    let mut long = [0x66; 16];
    long[15] = 0x90;
    assert_eq!(vm.fault(&long), GP0);
    // What is not emulated is reported with its bytes.
    match vm.run(&[0xc5, 0xf8, 0x58, 0xc0]) {
        Err(Stop::Unhandled { len, bytes }) => {
            assert!(len >= 4);
            assert_eq!(&bytes[..4], &[0xc5, 0xf8, 0x58, 0xc0]);
        }
        other => panic!("{other:?}"),
    }
    for code in [
        &[0xd9u8, 0xc0][..],
        &[0x0f, 0x58, 0xc0],
        &[0x0f, 0x01, 0xd8],
    ] {
        assert!(
            matches!(vm.run(code), Err(Stop::Unhandled { .. })),
            "{code:02x?}"
        );
    }
}

#[test]
fn locked_updates() {
    let mut vm = Vm::protected(0);
    vm.w.put(0x4000, &[1]);
    vm.step(&[0xf0, 0xff, 0x05, 0, 0x40, 0, 0]); // lock inc
    assert_eq!((vm.w.locked, vm.w.u32(0x4000)), (1, 2));
    vm.step(&[0xff, 0x05, 0, 0x40, 0, 0]);
    assert_eq!((vm.w.locked, vm.w.u32(0x4000)), (1, 3));
    vm.step(&[0x87, 0x05, 0, 0x40, 0, 0]); // xchg locks by itself
    assert_eq!((vm.w.locked, vm.s.gpr[RAX]), (2, 3));
    vm.w.contended = true;
    for code in [
        &[0xf0, 0xff, 0x05, 0, 0x40, 0, 0][..],
        &[0x0f, 0xc7, 0x0d, 0, 0x40, 0, 0],
    ] {
        let before = vm.s.gpr;
        vm.s.gpr[RAX] = vm.w.u64(0x4000);
        vm.s.gpr[RDX] = 0;
        assert_eq!(vm.run(code), Err(Stop::Retry));
        assert!(vm.w.log.is_empty()); // or the old value would be replayed
        vm.s.gpr = before;
    }
    assert_eq!(vm.s.rip, CODE + 7 + 6 + 6);
}

#[test]
fn sse_moves() {
    let mut vm = Vm::long(0);
    let value: [u8; 16] = core::array::from_fn(|i| i as u8 + 1);
    vm.w.put(0x4000, &value);
    vm.s.gpr[RAX] = 0x4000;
    vm.s.gpr[RBX] = 0x4104;
    vm.step(&[0x66, 0x44, 0x0f, 0x6f, 0x08]); // movdqa xmm9, [rax]
    assert_eq!(vm.w.ymm[9][..16], value);
    vm.step(&[0xf3, 0x44, 0x0f, 0x7f, 0x0b]); // movdqu [rbx], xmm9
    assert_eq!(vm.w.mem[0x4104..0x4114], value);
    assert_eq!(vm.fault(&[0x0f, 0x29, 0x0b]), GP0); // movaps to an unaligned address
    vm.step(&[0xf3, 0x0f, 0x7e, 0x08]); // movq xmm1, [rax]
    assert_eq!(vm.w.ymm[1][..8], value[..8]);
    assert_eq!(vm.w.ymm[1][8..16], [0; 8]);
    vm.step(&[0x0f, 0x16, 0x08]); // movhps xmm1, [rax]
    assert_eq!(vm.w.ymm[1][8..16], value[..8]);
    vm.step(&[0x66, 0x48, 0x0f, 0x7e, 0xc9]); // movq rcx, xmm1
    assert_eq!(vm.s.gpr[RCX], 0x0807_0605_0403_0201);
    vm.step(&[0xf3, 0x0f, 0x10, 0xd1]); // movss xmm2, xmm1: keeps the rest
    assert_eq!(vm.w.ymm[2][..5], [1, 2, 3, 4, 0]);
    vm.w.ymm[3] = [0xff; 32];
    vm.step(&[0xf3, 0x0f, 0x10, 0x18]); // movss xmm3, [rax]: clears it
    assert_eq!(
        vm.w.ymm[3][..17],
        [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]
    );
    vm.s.cr0 |= cr0::TS;
    assert_eq!(vm.fault(&[0x0f, 0x10, 0x00]), Exception::new(NM));
    vm.s.cr4 &= !cr4::OSFXSR;
    assert_eq!(vm.fault(&[0x0f, 0x10, 0x00]), Exception::ud());
}

#[test]
fn avx_moves() {
    let mut vm = Vm::long(0);
    let value: [u8; 32] = core::array::from_fn(|i| i as u8 + 1);
    vm.w.put(0x4000, &value);
    vm.s.gpr[RAX] = 0x4000;
    vm.s.gpr[RBX] = 0x4108;
    let load = [0xc5, 0xfd, 0x6f, 0x08]; // vmovdqa ymm1, [rax]
    assert_eq!(vm.fault(&load), Exception::ud());
    vm.s.cr4 |= cr4::OSXSAVE;
    vm.s.xcr0 = 7;
    vm.step(&load);
    assert_eq!(vm.w.ymm[1], value);
    vm.step(&[0xc5, 0x7c, 0x10, 0x10]); // vmovups ymm10, [rax]
    assert_eq!(vm.w.ymm[10], value);
    vm.step(&[0xc4, 0x41, 0x7e, 0x6f, 0xca]); // vmovdqu ymm9, ymm10
    assert_eq!(vm.w.ymm[9], value);
    vm.step(&[0xc5, 0x7e, 0x7f, 0x0b]); // vmovdqu [rbx], ymm9
    assert_eq!(vm.w.mem[0x4108..0x4128], value);
    vm.step(&[0xc5, 0xf8, 0x28, 0x08]); // vmovaps xmm1, [rax]: clears the rest
    assert_eq!(vm.w.ymm[1][..16], value[..16]);
    assert_eq!(vm.w.ymm[1][16..], [0; 16]);
    vm.step(&[0xc4, 0xe2, 0x7d, 0x2a, 0x10]); // vmovntdqa ymm2, [rax]
    assert_eq!(vm.w.ymm[2], value);
    assert_eq!(vm.fault(&[0xc5, 0xfd, 0x7f, 0x0b]), GP0); // vmovdqa to an unaligned address
    assert_eq!(vm.fault(&[0xc5, 0xed, 0x6f, 0x08]), Exception::ud()); // vvvv is not free
    assert!(matches!(
        vm.run(&[0xc5, 0xf1, 0xfe, 0xc2]),
        Err(Stop::Unhandled { .. })
    )); // vpaddd
    vm.s.cr0 |= cr0::TS;
    assert_eq!(vm.fault(&load), Exception::new(NM));
}

#[test]
fn mmx_moves() {
    let mut vm = Vm::protected(0);
    vm.w.put(0x4000, &[1, 2, 3, 4, 5, 6, 7, 8]);
    vm.s.gpr[RAX] = 0x4000;
    vm.step(&[0x0f, 0x6f, 0x10]); // movq mm2, [eax]
    assert_eq!(vm.w.mm[2], [1, 2, 3, 4, 5, 6, 7, 8]);
    vm.step(&[0x0f, 0x7f, 0x50, 0x08]); // movq [eax + 8], mm2
    vm.step(&[0x0f, 0xe7, 0x50, 0x10]); // movntq [eax + 16], mm2
    assert_eq!(vm.w.mem[0x4008..0x4010], [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(vm.w.mem[0x4010..0x4018], [1, 2, 3, 4, 5, 6, 7, 8]);
    vm.s.cr0 |= cr0::EM;
    assert_eq!(vm.fault(&[0x0f, 0x6f, 0x10]), Exception::ud());
}

#[test]
fn wide_compare_and_exchange() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RDI] = 0x4008;
    assert_eq!(vm.fault(&[0x48, 0x0f, 0xc7, 0x0f]), GP0); // cmpxchg16b, misaligned
    vm.s.gpr[RDI] = 0x4000;
    vm.w.put(0x4000, &5u128.to_le_bytes());
    vm.step(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]);
    assert_eq!(vm.s.gpr[RAX], 5);
    assert_eq!(vm.s.rflags & rflags::ZF, 0);
    vm.s.gpr[RBX] = 7;
    vm.s.gpr[RCX] = 8;
    vm.step(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]);
    assert_eq!((vm.w.u64(0x4000), vm.w.u64(0x4008)), (7, 8));
    assert_ne!(vm.s.rflags & rflags::ZF, 0);
}
