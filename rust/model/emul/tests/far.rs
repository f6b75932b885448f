// SPDX-License-Identifier: GPL-2.0

//! Far transfers, IRET, and interrupts in real mode.

use super::*;
use crate::emul::cpu::SoftInt;
use crate::x86::exception::{GP, NP};
use crate::x86::state::CodeSize;

fn ptr(off: u32, sel: u16) -> [u8; 7] {
    let (o, s) = (off.to_le_bytes(), sel.to_le_bytes());
    [0xea, o[0], o[1], o[2], o[3], s[0], s[1]]
}

#[test]
fn real_mode_jumps_and_calls() {
    let mut vm = Vm::real();
    vm.run(&[0x9a, 0x10, 0x00, 0x00, 0x10]).unwrap(); // call 1000:0010
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Cs).base), (0x10, 0x10000));
    assert_eq!(
        (vm.w.u16(STACK - 4), vm.w.u16(STACK - 2)),
        (CODE as u16 + 5, 0)
    );
    vm.run(&[0xca, 0x02, 0x00]).unwrap(); // retf 2
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (CODE + 5, STACK + 2));
    assert_eq!(vm.s.seg(SegReg::Cs).base, 0);
}

#[test]
fn into_protected_mode_and_back() {
    // The steps a boot loader takes.
    let mut vm = Vm::real();
    vm.w.put(0x500, &[0x87, 0, 0, 0x10, 0, 0]);
    vm.step(&[0x66, 0x0f, 0x01, 0x16, 0x00, 0x05]); // lgdt [0x500]
    assert_eq!(
        vm.s.gdtr,
        DescTable {
            base: GDT,
            limit: 0x87
        }
    );
    vm.s.gpr[RAX] = vm.s.cr0 | 1;
    vm.step(&[0x0f, 0x22, 0xc0]); // mov cr0, eax
    assert_eq!(vm.s.code_size(), CodeSize::Bits16);
    vm.run(&[0x66, 0xea, 0x00, 0x90, 0, 0, CODE32 as u8, 0])
        .unwrap(); // jmp 8:9000
    assert_eq!((vm.s.rip, vm.s.code_size()), (0x9000, CodeSize::Bits32));
    vm.s.gpr[RAX] = DATA32.into();
    vm.step(&[0x8e, 0xd0]); // mov ss, ax
    vm.step(&[0x8e, 0xd8]);
    vm.run(&ptr(0x9100, CODE16)).unwrap();
    assert_eq!(vm.s.code_size(), CodeSize::Bits16);
    vm.s.gpr[RAX] = vm.s.cr0 & !1;
    vm.step(&[0x0f, 0x22, 0xc0]);
    vm.run(&[0xea, 0x00, 0x92, 0x00, 0x00]).unwrap();
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Cs).selector), (0x9200, 0));
}

#[test]
fn protected_mode_checks() {
    let mut vm = Vm::protected(0);
    let gp = |s: u16| Exception::with_code(GP, s.into());
    assert_eq!(vm.fault(&ptr(0, 0)), GP0);
    assert_eq!(vm.fault(&ptr(0, DATA32)), gp(DATA32));
    assert_eq!(vm.fault(&ptr(0, USER_CODE)), gp(USER_CODE));
    assert_eq!(vm.fault(&ptr(0, 0x100)), gp(0x100));
    assert_eq!(vm.fault(&ptr(0x10000, CODE16)), GP0); // behind its limit
    vm.w.put(
        GDT + u64::from(ABSENT),
        &descriptor(0, 0xfffff, 0xc1a).to_le_bytes(),
    );
    assert_eq!(
        vm.fault(&ptr(0, ABSENT)),
        Exception::with_code(NP, ABSENT.into())
    );
    assert!(matches!(
        vm.run(&ptr(0, TSS_SEL)),
        Err(Stop::Unhandled { .. })
    ));

    let mut vm = Vm::protected(3);
    assert_eq!(vm.fault(&ptr(0, CODE32)), gp(CODE32));
    vm.run(&ptr(0x8100, CONFORMING)).unwrap();
    assert_eq!(
        (vm.s.cpl(), vm.s.seg(SegReg::Cs).selector),
        (3, CONFORMING | 3)
    );
}

#[test]
fn into_64_bit_code() {
    let mut vm = Vm::long(0);
    // Compatibility mode first.
    *vm.s.seg_mut(SegReg::Cs) = Segment {
        selector: CODE32,
        attr: 0xc9b,
        limit: u32::MAX,
        base: 0,
        unusable: false,
    };
    assert_eq!(vm.s.code_size(), CodeSize::Bits32);
    vm.run(&ptr(0x8200, CODE64)).unwrap();
    assert_eq!((vm.s.rip, vm.s.code_size()), (0x8200, CodeSize::Bits64));
    // L and D together are refused.
    vm.w.put(
        GDT + u64::from(CODE32),
        &descriptor(0, 0xfffff, 0xe9a).to_le_bytes(),
    );
    vm.w.put(0x4000, &[0, 0x90, 0, 0, CODE32 as u8, 0]);
    vm.s.gpr[RAX] = 0x4000;
    assert_eq!(
        vm.fault(&[0xff, 0x28]),
        Exception::with_code(GP, CODE32.into())
    );
}

#[test]
fn return_to_user_mode() {
    let mut vm = Vm::protected(0);
    let frame = [
        0x9000,
        u32::from(USER_CODE | 3),
        0x6000,
        u32::from(USER_DATA | 3),
    ];
    for (i, v) in frame.iter().enumerate() {
        vm.w.put(STACK + 4 * i as u64, &v.to_le_bytes());
    }
    vm.run(&[0xcb]).unwrap(); // retf
    assert_eq!((vm.s.rip, vm.s.cpl(), vm.s.gpr[RSP]), (0x9000, 3, 0x6000));
    // DS was a kernel segment.
    assert!(vm.s.seg(SegReg::Ds).unusable);
    // Inward is not allowed.
    vm.w.put(0x6000, &[0, 0x80, 0, 0, CODE32 as u8, 0, 0, 0]);
    assert_eq!(vm.fault(&[0xcb]), Exception::with_code(GP, CODE32.into()));
}

#[test]
fn iret_real_and_protected() {
    let mut vm = Vm::real();
    vm.s.rflags |= rflags::ID;
    vm.w.put(STACK, &[0x00, 0x90, 0x00, 0x00, 0xd7, 0x0f]);
    let done = vm.run(&[0xcf]).unwrap();
    assert!(done.unblock_nmi);
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (0x9000, STACK + 6));
    assert_eq!(vm.s.rflags, 0xfd7 | rflags::ID);

    let mut vm = Vm::protected(0);
    let eflags = (rflags::IF | rflags::RF | rflags::IOPL | rflags::CF) as u32;
    for (i, v) in [0x9000, CODE32.into(), eflags].iter().enumerate() {
        vm.w.put(STACK + 4 * i as u64, &u32::to_le_bytes(*v));
    }
    vm.run(&[0xcf]).unwrap();
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (0x9000, STACK + 12));
    assert_eq!(vm.s.rflags, u64::from(eflags) | rflags::FIXED); // RF is kept for the next one
    vm.step(&[0x90]);
    assert_eq!(vm.s.rflags & rflags::RF, 0);
    vm.s.rflags |= rflags::NT;
    assert!(matches!(vm.run(&[0xcf]), Err(Stop::Unhandled { .. })));

    let mut vm = Vm::long(0);
    vm.s.rflags |= rflags::NT;
    assert_eq!(vm.fault(&[0x48, 0xcf]), GP0);
    vm.s.rflags = rflags::FIXED;
    let frame = [
        0x9000,
        u64::from(USER_CODE64 | 3),
        0x202,
        0x1234_5678,
        u64::from(USER_DATA | 3),
    ];
    for (i, v) in frame.iter().enumerate() {
        vm.w.put(STACK + 8 * i as u64, &v.to_le_bytes());
    }
    vm.run(&[0x48, 0xcf]).unwrap();
    assert_eq!(
        (vm.s.rip, vm.s.cpl(), vm.s.gpr[RSP]),
        (0x9000, 3, 0x1234_5678)
    );
    assert_eq!(vm.s.code_size(), CodeSize::Bits64);
}

#[test]
fn iret_to_virtual_8086_mode() {
    let mut vm = Vm::protected(0);
    let frame: [u32; 9] = [0x1234, 0x800, 0x2_0202, 0xfffe, 0x900, 1, 2, 3, 4];
    for (i, v) in frame.iter().enumerate() {
        vm.w.put(STACK + 4 * i as u64, &v.to_le_bytes());
    }
    vm.run(&[0xcf]).unwrap();
    assert!(vm.s.v8086());
    assert_eq!((vm.s.rip, vm.s.gpr[RSP], vm.s.cpl()), (0x1234, 0xfffe, 3));
    assert_eq!(vm.s.seg(SegReg::Cs).base, 0x8000);
    assert_eq!(vm.s.seg(SegReg::Gs).base, 0x40);
    assert_eq!(vm.s.seg(SegReg::Ss).limit, 0xffff);
}

#[test]
fn software_interrupts() {
    let mut vm = Vm::real();
    vm.w.put(0x10 * 4, &[0x34, 0x12, 0x00, 0xf0]);
    vm.s.rflags |= rflags::IF | rflags::TF;
    let done = vm.run(&[0xcd, 0x10]).unwrap();
    assert!(!done.trap);
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Cs).base), (0x1234, 0xf0000));
    assert_eq!(vm.s.rflags & (rflags::IF | rflags::TF), 0);
    assert_eq!(
        vm.w.u16(STACK - 2),
        (rflags::IF | rflags::TF | rflags::FIXED) as u16
    );
    assert_eq!(vm.w.u16(STACK - 6), CODE as u16 + 2);

    let mut vm = Vm::protected(0);
    vm.s.idtr.limit = 0x7ff;
    vm.w.put(0x80 * 8, &gate(0x8f, 8));
    vm.w.put(3 * 8, &gate(0x8e, 8));
    let done = vm.run(&[0xcd, 0x80]).unwrap();
    assert_eq!(
        done.flow,
        Flow::Interrupt {
            vector: 0x80,
            kind: SoftInt::Int
        }
    );
    assert_eq!((done.len, vm.s.rip), (2, CODE));
    let done = vm.run(&[0xcc]).unwrap();
    assert_eq!(
        done.flow,
        Flow::Interrupt {
            vector: 3,
            kind: SoftInt::Exception
        }
    );
    vm.step(&[0xce]); // into without overflow
}

/// An IDT entry to code at 0x9000.
fn gate(attr: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0x00, 0x90, CODE32 as u8, 0, 0, attr, 0, 0];
    bytes.resize(len, 0);
    bytes
}

#[test]
fn gates_ask_for_the_privilege_of_an_int() {
    let idt = |n: u32, v: u8| Exception::with_code(n as u8, u32::from(v) << 3 | 2);
    for (long, len) in [(false, 8), (true, 16)] {
        let mut vm = if long { Vm::long(3) } else { Vm::protected(3) };
        vm.s.idtr.base = 0x3000;
        for (v, attr) in [
            (3, 0x8e),
            (4, 0x8e),
            (0x20, 0x8e),
            (0x21, 0xee),
            (0x22, 0x6e),
        ] {
            vm.w.put(0x3000 + v * len, &gate(attr, len as usize));
        }
        // A task gate, a call gate, a 16-bit trap gate.
        for (v, attr) in [(0x23, 0xe5), (0x24, 0xec), (0x25, 0xe7)] {
            vm.w.put(0x3000 + v * len, &gate(attr, len as usize));
        }
        vm.s.idtr.limit = (0x26 * len - 1) as u16;
        assert_eq!(vm.fault(&[0xcd, 0x20]), idt(GP.into(), 0x20));
        assert_eq!(vm.fault(&[0xcc]), idt(GP.into(), 3));
        assert_eq!(vm.fault(&[0xcd, 0x22]), idt(NP.into(), 0x22));
        assert_eq!(vm.fault(&[0xcd, 0x24]), idt(GP.into(), 0x24));
        assert_eq!(vm.fault(&[0xcd, 0x26]), idt(GP.into(), 0x26));
        for v in [0x23, 0x25] {
            if long {
                assert_eq!(vm.fault(&[0xcd, v]), idt(GP.into(), v));
            } else {
                vm.run(&[0xcd, v]).unwrap();
            }
        }
        vm.run(&[0xcd, 0x21]).unwrap();
        // INT1 is let through like an exception.
        vm.run(&[0xf1]).unwrap();
        // The table itself may be absent.
        vm.w.absent.push(3);
        assert_eq!(vm.fault(&[0xcd, 0x21]).vector, 14);
    }
    let mut vm = Vm::protected(3);
    vm.w.put(4 * 8, &gate(0x8e, 8));
    vm.s.rflags |= rflags::OF;
    assert_eq!(vm.fault(&[0xce]), idt(GP.into(), 4));
}

#[test]
fn an_outward_return_leaves_null_segments_alone() {
    let mut vm = Vm::long(0);
    for (r, selector, base) in [
        (SegReg::Fs, 0, 0x7fff_1234_5678),
        (SegReg::Gs, 3, 0x5555),
        (SegReg::Es, 0, 0),
    ] {
        *vm.s.seg_mut(r) = Segment {
            selector,
            base,
            unusable: true,
            ..Segment::default()
        };
    }
    let frame = [
        0x9000,
        u64::from(USER_CODE64 | 3),
        0x202,
        0x6000,
        u64::from(USER_DATA | 3),
    ];
    for (i, v) in frame.iter().enumerate() {
        vm.w.put(STACK + 8 * i as u64, &v.to_le_bytes());
    }
    vm.run(&[0x48, 0xcf]).unwrap();
    assert_eq!(vm.s.cpl(), 3);
    let seg = |r| (vm.s.seg(r).selector, vm.s.seg(r).base);
    assert_eq!(seg(SegReg::Fs), (0, 0x7fff_1234_5678));
    assert_eq!(seg(SegReg::Gs), (3, 0x5555));
    // DS was a kernel segment.
    assert_eq!(seg(SegReg::Ds), (0, 0));
    assert!(vm.s.seg(SegReg::Ds).unusable);
}

#[test]
fn real_mode_injection() {
    let mut vm = Vm::real();
    vm.w.put(8 * 4, &[0xa5, 0xfe, 0x00, 0xf0]);
    vm.s.rflags |= rflags::IF;
    vm.s.gpr[RSP] = 0xffff_0002; // the push wraps
    inject_realmode(&mut vm.s, 8, 0, &mut vm.w).unwrap();
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Cs).selector), (0xfea5, 0xf000));
    assert_eq!(vm.s.gpr[RSP], 0xffff_fffc);
    assert_eq!(vm.w.u16(0xfffc), CODE as u16);
    assert_eq!(vm.s.rflags & rflags::IF, 0);

    let mut vm = Vm::real();
    vm.s.idtr.limit = 0x1f;
    assert_eq!(inject_realmode(&mut vm.s, 8, 0, &mut vm.w), Err(Stop::GP0));
    let mut vm = Vm::real();
    vm.w.absent.push(6);
    vm.s.gpr[RSP] = 0x7002;
    let before = format!("{:?}", vm.s);
    assert!(inject_realmode(&mut vm.s, 8, 2, &mut vm.w).is_err());
    assert_eq!(format!("{:?}", vm.s), before);
}
