// SPDX-License-Identifier: GPL-2.0

//! What depends on the mode: sizes, addressing, the stack, flags.

use super::*;

#[test]
fn real_mode_addresses() {
    let mut vm = Vm::real();
    vm.s.seg_mut(SegReg::Ds).base = 0x1000;
    vm.s.seg_mut(SegReg::Ss).base = 0x2000;
    vm.s.gpr[RBX] = 0xfff0;
    vm.s.gpr[RSI] = 0x20;
    vm.w.put(0x1010, &[0xcd, 0xab]);
    vm.step(&[0x8b, 0x00]); // mov ax, [bx + si]: wraps at 64 KiB
    assert_eq!(vm.s.gpr[RAX], 0xabcd);
    vm.s.gpr[RBP] = 0x10;
    vm.w.put(0x2012, &[0x34, 0x12]);
    vm.step(&[0x8b, 0x4e, 0x02]); // mov cx, [bp + 2]: SS
    assert_eq!(vm.s.gpr[RCX], 0x1234);
    vm.step(&[0x3e, 0x8b, 0x4e, 0x02]); // with DS override
    assert_eq!(vm.s.gpr[RCX], 0);
    vm.step(&[0x67, 0x66, 0x8d, 0x44, 0xb3, 0x01]); // lea eax, [ebx + esi * 4 + 1]
    assert_eq!(vm.s.gpr[RAX], 0xfff0 + 0x80 + 1);
}

#[test]
fn upper_halves() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RAX] = u64::MAX;
    vm.step(&[0xb0, 0x12]); // mov al, 12h
    assert_eq!(vm.s.gpr[RAX], 0xffff_ffff_ffff_ff12);
    vm.step(&[0xb4, 0x34]); // mov ah, 34h
    assert_eq!(vm.s.gpr[RAX], 0xffff_ffff_ffff_3412);
    vm.step(&[0x66, 0xb8, 1, 0]); // mov ax, 1
    assert_eq!(vm.s.gpr[RAX], 0xffff_ffff_ffff_0001);
    vm.step(&[0xb8, 2, 0, 0, 0]); // mov eax, 2
    assert_eq!(vm.s.gpr[RAX], 2);
    vm.s.gpr[RSP] = 0x1234;
    vm.step(&[0x40, 0x88, 0xe0]); // mov al, spl
    assert_eq!(vm.s.gpr[RAX], 0x34);
}

#[test]
fn rip_relative() {
    let mut vm = Vm::long(0);
    vm.w.put(CODE + 7 + 0x100, &[0xaa]);
    vm.step(&[0x48, 0x0f, 0xb6, 0x05, 0xff, 0, 0, 0]); // movzx rax, byte [rip + 0xff]
    assert_eq!(vm.s.gpr[RAX], 0xaa);
}

#[test]
fn fs_base_in_long_mode() {
    let mut vm = Vm::long(0);
    vm.s.seg_mut(SegReg::Fs).base = 0x5000;
    vm.s.seg_mut(SegReg::Ds).base = 0x9999; // ignored
    vm.w.put(0x5008, &[1]);
    vm.w.put(0x0008, &[2]);
    vm.step(&[0x64, 0x8a, 0x04, 0x25, 8, 0, 0, 0]); // mov al, fs:[8]
    assert_eq!(vm.s.gpr[RAX], 1);
    vm.step(&[0x3e, 0x8a, 0x04, 0x25, 8, 0, 0, 0]); // mov al, ds:[8]
    assert_eq!(vm.s.gpr[RAX], 2);
}

#[test]
fn stack_widths() {
    let mut vm = Vm::real();
    vm.s.gpr[RSP] = 0xabcd_0000;
    vm.s.gpr[RAX] = 0x1122_3344;
    vm.step(&[0x50]); // push ax: SP wraps, the upper half stays
    assert_eq!(vm.s.gpr[RSP], 0xabcd_fffe);
    assert_eq!(vm.w.u16(0xfffe), 0x3344);
    vm.step(&[0x66, 0x50]); // push eax
    assert_eq!(vm.s.gpr[RSP], 0xabcd_fffa);
    assert_eq!(vm.w.u32(0xfffa), 0x1122_3344);
    vm.step(&[0x66, 0x5b]); // pop ebx
    assert_eq!((vm.s.gpr[RBX], vm.s.gpr[RSP]), (0x1122_3344, 0xabcd_fffe));

    let mut vm = Vm::long(0);
    vm.step(&[0x6a, 0xff]); // push -1
    assert_eq!(vm.s.gpr[RSP], STACK - 8);
    assert_eq!(vm.w.u64(STACK - 8), u64::MAX);
    vm.step(&[0x66, 0x6a, 0x01]); // push word 1
    assert_eq!(vm.s.gpr[RSP], STACK - 10);
}

#[test]
fn pusha_and_popa() {
    let mut vm = Vm::real();
    for (i, r) in vm.s.gpr.iter_mut().take(8).enumerate() {
        *r = if i == RSP { STACK } else { 0x100 + i as u64 };
    }
    vm.step(&[0x60]);
    assert_eq!(vm.s.gpr[RSP], STACK - 16);
    assert_eq!(vm.w.u16(STACK - 2), 0x100); // AX first
    assert_eq!(vm.w.u16(STACK - 10), STACK as u16); // SP as it was
    for r in vm.s.gpr.iter_mut().take(8).filter(|r| **r < 0x1000) {
        *r = 0;
    }
    vm.w.put(STACK - 10, &[0xee, 0xee]); // ignored by POPA
    vm.step(&[0x61]);
    assert_eq!(vm.s.gpr[RSP], STACK);
    assert_eq!(vm.s.gpr[RDI], 0x107);
    assert_eq!(vm.s.gpr[RAX], 0x100);
}

#[test]
fn pop_to_memory_uses_the_new_stack_pointer() {
    let mut vm = Vm::protected(0);
    vm.w.put(STACK, &[1, 2, 3, 4]);
    vm.step(&[0x8f, 0x44, 0x24, 0x08]); // pop dword [esp + 8]
    assert_eq!(vm.s.gpr[RSP], STACK + 4);
    assert_eq!(vm.w.u32(STACK + 4 + 8), 0x0403_0201);
}

#[test]
fn flags_by_privilege() {
    let mut vm = Vm::protected(0);
    vm.w.put(STACK, &u32::MAX.to_le_bytes());
    vm.step(&[0x9d]); // popfd
    let all = rflags::STATUS | rflags::TF | rflags::IF | rflags::DF | rflags::IOPL | rflags::NT;
    assert_eq!(vm.s.rflags, all | rflags::AC | rflags::ID | rflags::FIXED);

    let mut vm = Vm::protected(3);
    vm.w.put(STACK, &u32::MAX.to_le_bytes());
    vm.step(&[0x9d]);
    assert_eq!(vm.s.rflags & (rflags::IF | rflags::IOPL), 0);
    vm.step(&[0x9c]); // pushfd
    assert_eq!(vm.w.u32(STACK), vm.s.rflags as u32);

    assert_eq!(vm.fault(&[0xfa]), GP0); // cli
    vm.s.rflags |= rflags::IOPL;
    vm.step(&[0xfb]); // sti with IOPL 3
    assert_eq!(vm.s.shadow, crate::x86::state::SHADOW_STI);
    vm.step(&[0x90]);
    assert_eq!(vm.s.shadow, 0);
}

#[test]
fn virtual_8086_mode() {
    let mut vm = Vm::real();
    vm.s.cr0 |= cr0::PE;
    vm.s.rflags |= rflags::VM;
    for r in &mut vm.s.seg {
        r.attr = 0xf3;
    }
    assert_eq!(vm.fault(&[0x9c]), GP0); // pushf with IOPL 0
    assert_eq!(vm.fault(&[0xcf]), GP0); // iret
    assert_eq!(vm.fault(&[0xf4]), GP0); // hlt
    assert_eq!(vm.fault(&[0x0f, 0x00, 0xc0]), Exception::ud()); // sldt
    vm.s.rflags |= rflags::IOPL;
    vm.step(&[0x9c]);
    vm.s.gpr[RAX] = 0x1234;
    vm.step(&[0x8e, 0xd8]); // mov ds, ax
    assert_eq!(vm.s.seg(SegReg::Ds).base, 0x12340);
    let accesses = &vm.w.accesses;
    assert!(accesses.iter().all(|(_, a, _)| a.user));
}

#[test]
fn conditional_branches() {
    let mut vm = Vm::protected(0);
    for code in 0..16u8 {
        for f in 0..64u64 {
            let bit = |n: u64, flag| if f >> n & 1 != 0 { flag } else { 0 };
            let flags = bit(0, rflags::CF)
                | bit(1, rflags::PF)
                | bit(2, rflags::AF)
                | bit(3, rflags::ZF)
                | bit(4, rflags::SF)
                | bit(5, rflags::OF);
            let has = |b| flags & b != 0;
            let (cf, pf, zf, sf, of) = (
                has(rflags::CF),
                has(rflags::PF),
                has(rflags::ZF),
                has(rflags::SF),
                has(rflags::OF),
            );
            let want = match code {
                0 => of,
                1 => !of,
                2 => cf,
                3 => !cf,
                4 => zf,
                5 => !zf,
                6 => cf || zf,
                7 => !cf && !zf,
                8 => sf,
                9 => !sf,
                10 => pf,
                11 => !pf,
                12 => sf != of,
                13 => sf == of,
                14 => zf || sf != of,
                _ => !zf && sf == of,
            };
            vm.s.rip = CODE;
            vm.s.rflags = rflags::FIXED | flags;
            vm.run(&[0x70 | code, 0x10]).unwrap();
            assert_eq!(
                vm.s.rip,
                CODE + 2 + if want { 0x10 } else { 0 },
                "{code:x} {flags:x}"
            );
        }
    }
}

#[test]
fn calls_and_returns() {
    let mut vm = Vm::real();
    vm.run(&[0xe8, 0xfd, 0xff]).unwrap(); // call $
    assert_eq!((vm.s.rip, vm.w.u16(STACK - 2)), (CODE, CODE as u16 + 3));
    vm.run(&[0xc2, 0x04, 0x00]).unwrap(); // ret 4
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (CODE + 3, STACK + 4));

    let mut vm = Vm::long(0);
    vm.s.gpr[RAX] = 0x12345;
    vm.run(&[0xff, 0xd0]).unwrap(); // call rax
    assert_eq!((vm.s.rip, vm.w.u64(STACK - 8)), (0x12345, CODE + 2));

    let mut vm = Vm::long(0);
    vm.s.gpr[RCX] = 1 << 63;
    assert_eq!(vm.fault(&[0xff, 0xe1]), GP0); // jmp to a non-canonical address

    let mut vm = Vm::real();
    vm.s.rip = 0xfff0;
    assert_eq!(vm.fault(&[0x66, 0xeb, 0x0d]), GP0); // behind the limit
    vm.run(&[0xeb, 0x0e]).unwrap(); // a 16-bit target wraps
    assert_eq!(vm.s.rip, 0);
}

#[test]
fn loops_count_at_address_size() {
    let mut vm = Vm::real();
    vm.s.gpr[RCX] = 0x1_0001;
    vm.run(&[0xe2, 0x10]).unwrap(); // loop: CX becomes 0
    assert_eq!((vm.s.rip, vm.s.gpr[RCX]), (CODE + 2, 0x1_0000));
    vm.run(&[0x67, 0xe2, 0x10]).unwrap(); // loop with ECX
    assert_eq!((vm.s.rip, vm.s.gpr[RCX]), (CODE + 2 + 3 + 0x10, 0xffff));
    vm.s.gpr[RCX] = 0;
    vm.s.rip = CODE;
    vm.run(&[0xe3, 0x10]).unwrap(); // jcxz
    assert_eq!(vm.s.rip, CODE + 0x12);
}

#[test]
fn decimal_instructions() {
    let mut vm = Vm::real();
    // The examples of the manual.
    vm.s.gpr[RAX] = 0x79;
    vm.s.gpr[RBX] = 0x35;
    vm.step(&[0x00, 0xd8]); // add al, bl
    vm.step(&[0x27]); // daa
    assert_eq!(vm.s.gpr[RAX], 0x14);
    assert_ne!(vm.s.rflags & rflags::CF, 0);
    vm.s.gpr[RAX] = 0x35;
    vm.s.gpr[RBX] = 0x47;
    vm.step(&[0x28, 0xd8]); // sub al, bl
    vm.step(&[0x2f]); // das
    assert_eq!(vm.s.gpr[RAX], 0x88);
    assert_ne!(vm.s.rflags & rflags::CF, 0);
    vm.s.gpr[RAX] = 0x000f;
    vm.s.rflags &= !rflags::AF;
    vm.step(&[0x37]); // aaa
    assert_eq!(vm.s.gpr[RAX], 0x0105);
    vm.s.gpr[RAX] = 0x0205;
    vm.s.rflags |= rflags::AF;
    vm.step(&[0x3f]); // aas
    assert_eq!(vm.s.gpr[RAX], 0x000f);
    vm.s.gpr[RAX] = 63;
    vm.step(&[0xd4, 0x0a]); // aam
    assert_eq!(vm.s.gpr[RAX], 0x0603);
    vm.step(&[0xd5, 0x0a]); // aad
    assert_eq!(vm.s.gpr[RAX], 63);
    assert_eq!(vm.fault(&[0xd4, 0x00]), Exception::new(0));
}
