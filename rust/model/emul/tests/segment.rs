// SPDX-License-Identifier: GPL-2.0

//! Segment register loads and descriptor checks.

use super::*;
use crate::x86::exception::{GP, NP, SS};

/// mov seg, ax
fn load(vm: &mut Vm, seg: SegReg, selector: u16) -> Result<Done, Stop> {
    vm.s.gpr[RAX] = selector.into();
    vm.run(&[0x8e, 0xc0 | (seg as u8) << 3])
}

fn refused(vm: &mut Vm, seg: SegReg, selector: u16) -> Exception {
    vm.s.gpr[RAX] = selector.into();
    vm.fault(&[0x8e, 0xc0 | (seg as u8) << 3])
}

#[test]
fn real_mode_keeps_the_limit() {
    let mut vm = Vm::real();
    vm.s.seg_mut(SegReg::Ds).limit = u32::MAX; // unreal mode
    load(&mut vm, SegReg::Ds, 0x1234).unwrap();
    let ds = *vm.s.seg(SegReg::Ds);
    assert_eq!(
        (ds.selector, ds.base, ds.limit),
        (0x1234, 0x12340, u32::MAX)
    );
}

#[test]
fn data_segments() {
    let mut vm = Vm::protected(0);
    load(&mut vm, SegReg::Es, DATA16).unwrap();
    let es = *vm.s.seg(SegReg::Es);
    assert_eq!(
        (es.base, es.limit, es.attr, es.unusable),
        (0x100, 0xffff, 0x93, false)
    );
    // The accessed bit went to memory, once.
    assert_eq!(vm.w.mem[(GDT + u64::from(DATA16)) as usize + 5], 0x93);
    let locked = vm.w.locked;
    load(&mut vm, SegReg::Es, DATA16).unwrap();
    assert_eq!(vm.w.locked, locked);
    load(&mut vm, SegReg::Es, DATA32).unwrap();
    assert_eq!(vm.s.seg(SegReg::Es).limit, u32::MAX);
    // Readable code will do for data.
    load(&mut vm, SegReg::Fs, CODE32).unwrap();
    load(&mut vm, SegReg::Gs, 3).unwrap(); // null
    assert!(vm.s.seg(SegReg::Gs).unusable);
    assert_eq!(
        refused(&mut vm, SegReg::Ds, ABSENT),
        Exception::with_code(NP, ABSENT.into())
    );
    assert_eq!(
        refused(&mut vm, SegReg::Ds, TSS_SEL),
        Exception::with_code(GP, TSS_SEL.into())
    );
    assert_eq!(
        refused(&mut vm, SegReg::Ds, 0x88 | 3),
        Exception::with_code(GP, 0x88)
    );
    assert_eq!(
        refused(&mut vm, SegReg::Ds, 0x0c),
        Exception::with_code(GP, 0x0c)
    ); // no LDT
}

#[test]
fn privilege() {
    let mut vm = Vm::protected(3);
    load(&mut vm, SegReg::Ds, USER_DATA | 3).unwrap();
    assert_eq!(
        refused(&mut vm, SegReg::Ds, DATA32),
        Exception::with_code(GP, DATA32.into())
    );
    load(&mut vm, SegReg::Ds, CONFORMING | 3).unwrap();
    // Descriptor reads are supervisor accesses even here.
    assert!(vm
        .w
        .accesses
        .iter()
        .any(|(at, a, _)| *at >= GDT && a.implicit && !a.user));
    let mut vm = Vm::protected(0);
    let rpl3 = DATA32 | 3;
    assert_eq!(
        refused(&mut vm, SegReg::Ds, rpl3),
        Exception::with_code(GP, DATA32.into())
    );
}

#[test]
fn stack_segments() {
    let mut vm = Vm::protected(0);
    load(&mut vm, SegReg::Ss, DATA16).unwrap();
    assert_eq!(vm.s.shadow, crate::x86::state::SHADOW_MOV_SS);
    load(&mut vm, SegReg::Ss, DATA32).unwrap();
    assert_eq!(vm.s.shadow, 0); // twice in a row does not extend it
    let code = |s: u16| Exception::with_code(GP, s.into());
    assert_eq!(refused(&mut vm, SegReg::Ss, 0), GP0);
    assert_eq!(refused(&mut vm, SegReg::Ss, CODE32), code(CODE32));
    assert_eq!(refused(&mut vm, SegReg::Ss, READONLY), code(READONLY));
    assert_eq!(refused(&mut vm, SegReg::Ss, USER_DATA | 3), code(USER_DATA));
    assert_eq!(
        refused(&mut vm, SegReg::Ss, ABSENT),
        Exception::with_code(SS, ABSENT.into())
    );
    load(&mut vm, SegReg::Ss, DOWN).unwrap();
    // 64-bit code may have no stack segment, but not at CPL 3.
    let mut vm = Vm::long(0);
    load(&mut vm, SegReg::Ss, 0).unwrap();
    assert_eq!((vm.s.cpl(), vm.s.seg(SegReg::Ss).unusable), (0, true));
    vm.step(&[0x50]);
    let mut vm = Vm::long(3);
    assert_eq!(refused(&mut vm, SegReg::Ss, 3), GP0);
}

#[test]
fn ldt() {
    let mut vm = Vm::protected(0);
    vm.s.gpr[RAX] = LDT_SEL.into();
    vm.step(&[0x0f, 0x00, 0xd0]); // lldt ax
    let ldt = *vm.s.seg(SegReg::Ldtr);
    assert_eq!((ldt.base, ldt.limit, ldt.unusable), (0x3000, 0xff, false));
    vm.w.put(0x3008, &descriptor(0x7000, 0xffff, 0x092).to_le_bytes());
    load(&mut vm, SegReg::Ds, 0x0c).unwrap();
    assert_eq!(vm.s.seg(SegReg::Ds).base, 0x7000);
    assert_eq!(
        refused(&mut vm, SegReg::Ds, 0x104),
        Exception::with_code(GP, 0x104)
    );
    vm.s.gpr[RAX] = DATA32.into();
    assert_eq!(
        vm.fault(&[0x0f, 0x00, 0xd0]),
        Exception::with_code(GP, DATA32.into())
    );
    vm.s.gpr[RAX] = 0;
    vm.step(&[0x0f, 0x00, 0xd0]);
    assert!(vm.s.seg(SegReg::Ldtr).unusable);
}

#[test]
fn task_register() {
    let mut vm = Vm::protected(0);
    vm.s.gpr[RAX] = TSS_SEL.into();
    vm.step(&[0x0f, 0x00, 0xd8]); // ltr ax
    assert_eq!(vm.s.seg(SegReg::Tr).attr, 0x8b);
    assert_eq!(vm.w.mem[(GDT + u64::from(TSS_SEL)) as usize + 5], 0x8b);
    assert_eq!(
        vm.fault(&[0x0f, 0x00, 0xd8]),
        Exception::with_code(GP, TSS_SEL.into())
    ); // busy

    let mut vm = Vm::long(0);
    vm.w.put(
        GDT + u64::from(TSS_SEL) + 8,
        &[0x78, 0x86, 0xff, 0xff, 0, 0, 0, 0],
    );
    vm.s.gpr[RAX] = TSS_SEL.into();
    vm.step(&[0x0f, 0x00, 0xd8]);
    assert_eq!(vm.s.seg(SegReg::Tr).base, 0xffff_8678_0000_2000);
    let mut vm = Vm::long(0);
    vm.w.put(GDT + u64::from(TSS_SEL) + 8, &[0, 0, 1, 0, 0, 0, 0, 0]);
    vm.s.gpr[RAX] = TSS_SEL.into();
    assert_eq!(vm.fault(&[0x0f, 0x00, 0xd8]).vector, GP); // base not canonical
}

#[test]
fn far_pointers_and_pops() {
    let mut vm = Vm::protected(0);
    vm.w.put(0x4000, &[0x78, 0x56, 0x34, 0x12, 0x10, 0x00]);
    vm.step(&[0xc4, 0x1d, 0, 0x40, 0, 0]); // les ebx, [0x4000]
    assert_eq!(
        (vm.s.gpr[RBX], vm.s.seg(SegReg::Es).selector),
        (0x1234_5678, 0x10)
    );
    vm.w.put(STACK, &[0x10, 0, 0xff, 0xff]);
    vm.step(&[0x1f]); // pop ds
    assert_eq!(
        (vm.s.gpr[RSP], vm.s.seg(SegReg::Ds).selector),
        (STACK + 4, 0x10)
    );
    vm.w.put(STACK, &[0xff; 4]);
    vm.step(&[0x06]); // push es: only two bytes are written
    assert_eq!(vm.w.u32(STACK), 0xffff_0010);
}

#[test]
fn looking_at_selectors() {
    let mut vm = Vm::protected(0);
    let zf = |vm: &Vm| vm.s.rflags & rflags::ZF != 0;
    vm.s.gpr[RAX] = DATA32.into();
    vm.step(&[0x0f, 0x02, 0xd8]); // lar ebx, eax
    assert!(zf(&vm));
    assert_eq!(vm.s.gpr[RBX], 0x00cf_9200 & 0x00ff_ff00);
    vm.step(&[0x0f, 0x03, 0xd8]); // lsl ebx, eax
    assert_eq!(vm.s.gpr[RBX], 0xffff_ffff);
    vm.step(&[0x0f, 0x00, 0xe8]); // verw ax
    assert!(zf(&vm));
    vm.s.gpr[RAX] = CODE32.into();
    vm.step(&[0x0f, 0x00, 0xe8]);
    assert!(!zf(&vm));
    vm.step(&[0x0f, 0x00, 0xe0]); // verr ax
    assert!(zf(&vm));
    vm.s.gpr[RAX] = 0;
    vm.step(&[0x0f, 0x02, 0xd8]);
    assert!(!zf(&vm));
}
