// SPDX-License-Identifier: GPL-2.0

//! System instructions.

use super::*;
use crate::x86::ctrl::{dr6, dr7};
use crate::x86::exception::{DB, NM};

#[test]
fn privileged_instructions_fault_at_cpl_3() {
    let table: [&[u8]; 16] = [
        &[0x0f, 0x20, 0xc0], // mov rax, cr0
        &[0x0f, 0x22, 0xc0], // mov cr0, rax
        &[0x0f, 0x21, 0xc0], // mov rax, dr0
        &[0x0f, 0x06],       // clts
        &[0x0f, 0x01, 0x10], // lgdt
        &[0x0f, 0x01, 0x18], // lidt
        &[0x0f, 0x01, 0xf0], // lmsw
        &[0x0f, 0x01, 0x38], // invlpg
        &[0x0f, 0x00, 0xd0], // lldt
        &[0x0f, 0x00, 0xd8], // ltr
        &[0x0f, 0x30],       // wrmsr
        &[0x0f, 0x32],       // rdmsr
        &[0xf4],             // hlt
        &[0x0f, 0x08],       // invd
        &[0x0f, 0x09],       // wbinvd
        &[0x0f, 0x01, 0xf8], // swapgs
    ];
    let mut vm = Vm::long(3);
    for code in table {
        assert_eq!(vm.fault(code), GP0, "{code:02x?}");
    }
    // These say #UD.
    for code in [[0x0f, 0x01, 0xca], [0x0f, 0x01, 0xc8], [0x0f, 0x01, 0xc9]] {
        assert_eq!(vm.fault(&code), Exception::ud());
    }
    assert!(vm.w.asked.is_empty() && vm.w.ops.is_empty());
}

#[test]
fn control_registers() {
    let mut vm = Vm::long(0);
    vm.s.cr3 = 0x1234_5000;
    vm.step(&[0x41, 0x0f, 0x20, 0xd8]); // mov r8, cr3
    assert_eq!(vm.s.gpr[8], 0x1234_5000);
    vm.s.gpr[RAX] = 0xf;
    vm.step(&[0x44, 0x0f, 0x22, 0xc0]); // mov cr8, rax
    assert_eq!(vm.s.cr8, 0xf);
    vm.s.gpr[RAX] = 1 << 40;
    assert_eq!(vm.fault(&[0x0f, 0x22, 0xc0]), GP0);
    vm.s.cr0 |= cr0::TS;
    vm.step(&[0x0f, 0x06]); // clts
    assert_eq!(vm.s.cr0 & cr0::TS, 0);
    vm.w.refuse = Some(Intercept::ReadCr(3));
    assert_eq!(vm.run(&[0x0f, 0x20, 0xd8]), Err(Stop::Retry));

    let mut vm = Vm::protected(0);
    vm.s.cr8 = 5;
    // LOCK MOV CR0 is CR8 where CPUID says so.
    for code in [[0xf0, 0x0f, 0x20, 0xc0], [0xf0, 0x0f, 0x22, 0xc0]] {
        assert_eq!(vm.fault(&code), Exception::ud());
    }
    vm.w.cr8_legacy = true;
    vm.step(&[0xf0, 0x0f, 0x20, 0xc0]); // lock mov eax, cr0
    assert_eq!(vm.s.gpr[RAX], 5);
    vm.s.gpr[RAX] = 6;
    vm.step(&[0xf0, 0x0f, 0x22, 0xc0]); // lock mov cr0, eax
    assert_eq!(vm.s.cr8, 6);
    vm.s.gpr[RAX] = 0;
    vm.s.gpr[RAX] = 0xe;
    vm.step(&[0x0f, 0x01, 0xf0]); // lmsw cannot clear PE
    assert_eq!(vm.s.cr0 & 0xf, 0xf);
    vm.step(&[0x0f, 0x01, 0xe3]); // smsw ebx
    assert_eq!(vm.s.gpr[RBX], vm.s.cr0);
}

#[test]
fn debug_registers() {
    let mut vm = Vm::protected(0);
    vm.s.dr[3] = 0x1234;
    vm.step(&[0x0f, 0x21, 0xd8]); // mov eax, dr3
    assert_eq!(vm.s.gpr[RAX], 0x1234);
    vm.step(&[0x0f, 0x21, 0xe0]); // dr4 is dr6
    assert_eq!(vm.s.gpr[RAX], vm.s.dr6);
    vm.step(&[0x0f, 0x23, 0xc8]); // mov dr1, eax
    assert_eq!(vm.s.dr[1], vm.s.dr6);
    vm.s.cr4 |= cr4::DE;
    assert_eq!(vm.fault(&[0x0f, 0x21, 0xe0]), Exception::ud());
    vm.s.dr7 |= dr7::GD;
    let e = vm.fault(&[0x0f, 0x21, 0xc0]);
    assert_eq!((e.vector, e.payload), (DB, dr6::BD));
}

#[test]
fn descriptor_tables() {
    let mut vm = Vm::real();
    vm.s.idtr = DescTable {
        base: 0x1234_5678,
        limit: 0xabc,
    };
    vm.step(&[0x0f, 0x01, 0x0e, 0x00, 0x40]); // sidt [0x4000]
    assert_eq!((vm.w.u16(0x4000), vm.w.u32(0x4002)), (0xabc, 0x34_5678));
    vm.step(&[0x66, 0x0f, 0x01, 0x0e, 0x00, 0x40]);
    assert_eq!(vm.w.u32(0x4002), 0x1234_5678);
    vm.w.put(0x4002, &[0xff; 4]);
    vm.step(&[0x0f, 0x01, 0x1e, 0x00, 0x40]); // lidt: 24 bits of base
    assert_eq!(
        vm.s.idtr,
        DescTable {
            base: 0xff_ffff,
            limit: 0xabc
        }
    );

    let mut vm = Vm::long(0);
    vm.s.gpr[RAX] = 0x4000;
    vm.w.put(0x4002, &(1u64 << 50).to_le_bytes());
    assert_eq!(vm.fault(&[0x0f, 0x01, 0x10]), GP0); // not canonical
    vm.w.base_bits = 57;
    vm.step(&[0x0f, 0x01, 0x10]); // but with bits that the processor has
    assert_eq!(vm.s.gdtr.base, 1 << 50);
    vm.w.put(0x4002, &(1u64 << 56).to_le_bytes());
    assert_eq!(vm.fault(&[0x0f, 0x01, 0x10]), GP0);
    let mut vm = Vm::long(3);
    vm.s.gpr[RAX] = 0x4000;
    vm.step(&[0x0f, 0x01, 0x00]); // sgdt is allowed
    assert_eq!(vm.w.u64(0x4002), GDT);
    vm.s.cr4 |= cr4::UMIP;
    for code in [
        &[0x0f, 0x01, 0x00][..],
        &[0x0f, 0x01, 0xe0],
        &[0x0f, 0x00, 0xc0],
    ] {
        assert_eq!(vm.fault(code), GP0);
    }
}

#[test]
fn msrs_and_counters() {
    let mut vm = Vm::long(0);
    vm.w.msrs.insert(0x10, 0x1111_2222_3333_4444);
    vm.s.gpr[RCX] = 0xffff_ffff_0000_0010;
    vm.step(&[0x0f, 0x32]);
    assert_eq!((vm.s.gpr[RAX], vm.s.gpr[RDX]), (0x3333_4444, 0x1111_2222));
    vm.s.gpr[RAX] = u64::MAX;
    vm.s.gpr[RDX] = 1;
    vm.step(&[0x0f, 0x30]);
    assert_eq!(vm.w.msrs[&0x10], 0x1_ffff_ffff);
    vm.s.gpr[RCX] = 0x11;
    assert_eq!(vm.fault(&[0x0f, 0x32]), GP0);
    vm.step(&[0x0f, 0x31]); // rdtsc
    assert_eq!((vm.s.gpr[RAX], vm.s.gpr[RDX]), (0x5566_7788, 0x1122_3344));
    vm.w.msrs.insert(0xc000_0103, 42);
    vm.step(&[0x0f, 0x01, 0xf9]); // rdtscp
    assert_eq!(vm.s.gpr[RCX], 42);
    vm.step(&[0xf3, 0x0f, 0xc7, 0xfb]); // rdpid rbx
    assert_eq!(vm.s.gpr[RBX], 42);
    vm.s.gpr[RAX] = 7;
    vm.step(&[0x0f, 0xa2]); // cpuid
    assert_eq!((vm.s.gpr[RAX], vm.s.gpr[RBX], vm.s.gpr[RDX]), (7, 42, 4));

    let mut vm = Vm::long(3);
    vm.step(&[0x0f, 0x31]);
    assert_eq!(vm.fault(&[0x0f, 0x33]), GP0); // rdpmc
    vm.s.cr4 |= cr4::TSD | cr4::PCE;
    assert_eq!(vm.fault(&[0x0f, 0x31]), GP0);
    vm.step(&[0x0f, 0x33]);
}

#[test]
fn gs_bases() {
    let mut vm = Vm::long(0);
    vm.w.msrs.insert(0xc000_0102, 0x1000);
    vm.s.seg_mut(SegReg::Gs).base = 0x2000;
    vm.step(&[0x0f, 0x01, 0xf8]);
    assert_eq!(
        (vm.s.seg(SegReg::Gs).base, vm.w.msrs[&0xc000_0102]),
        (0x1000, 0x2000)
    );
    assert_eq!(vm.fault(&[0xf3, 0x48, 0x0f, 0xae, 0xc8]), Exception::ud()); // rdgsbase
    vm.s.cr4 |= cr4::FSGSBASE;
    vm.step(&[0xf3, 0x48, 0x0f, 0xae, 0xc8]);
    assert_eq!(vm.s.gpr[RAX], 0x1000);
    vm.s.gpr[RAX] = 1 << 50;
    assert_eq!(vm.fault(&[0xf3, 0x48, 0x0f, 0xae, 0xd0]), GP0); // wrfsbase
}

#[test]
fn effects_on_the_vcpu() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RBX] = 0x4000;
    vm.step(&[0x0f, 0x01, 0x3b]); // invlpg [rbx]
    vm.step(&[0x0f, 0x09]);
    vm.step(&[0x0f, 0x08]);
    vm.step(&[0xf3, 0x90]);
    vm.step(&[0x0f, 0x01, 0xd9]); // vmmcall
    vm.step(&[0x0f, 0xae, 0xf0]); // mfence
    vm.step(&[0x0f, 0x1f, 0x40, 0x00]); // nop
    vm.step(&[0x0f, 0x18, 0x0b]); // prefetch
    vm.step(&[0x0f, 0xae, 0x3b]); // clflush
    let ops = [
        SystemOp::Invlpg(Gva(0x4000)),
        SystemOp::Wbinvd,
        SystemOp::Invd,
        SystemOp::Pause,
        SystemOp::Hypercall,
    ];
    assert_eq!(vm.w.ops, ops);
    let done = vm.run(&[0xf4]).unwrap();
    assert_eq!(done.flow, Flow::Halt);
    assert_eq!(vm.w.u16(vm.s.rip - 1) & 0xff, 0xf4);
}

#[test]
fn rsm_is_the_callers() {
    for mut vm in [Vm::real(), Vm::protected(0), Vm::long(3)] {
        for code in [&[0x0f, 0xaa][..], &[0x66, 0x0f, 0xaa], &[0xf3, 0x0f, 0xaa]] {
            vm.s.rflags |= rflags::TF;
            vm.s.shadow = 1;
            let before = vm.s.clone();
            let done = vm.run(code).unwrap();
            assert_eq!((done.flow, done.trap), (Flow::Resume, false));
            // Nothing is changed by it: outside of the mode it is a fault.
            assert_eq!(format!("{:?}", vm.s), format!("{before:?}"));
        }
        assert_eq!(vm.run(&[0xf0, 0x0f, 0xaa]), Err(Stop::UD));
    }
}

#[test]
fn xcr0_and_wait() {
    let mut vm = Vm::long(0);
    assert_eq!(vm.fault(&[0x0f, 0x01, 0xd1]), Exception::ud());
    vm.s.cr4 |= cr4::OSXSAVE;
    vm.s.gpr[RAX] = 7;
    vm.step(&[0x0f, 0x01, 0xd1]); // xsetbv
    assert_eq!(vm.s.xcr0, 7);
    vm.s.gpr[RAX] = 0;
    vm.step(&[0x0f, 0x01, 0xd0]); // xgetbv
    assert_eq!(vm.s.gpr[RAX], 7);
    vm.s.gpr[RAX] = 6;
    assert_eq!(vm.fault(&[0x0f, 0x01, 0xd1]), GP0);
    vm.step(&[0x9b]);
    vm.s.cr0 |= cr0::MP | cr0::TS;
    assert_eq!(vm.fault(&[0x9b]), Exception::new(NM));
}

#[test]
fn traps_and_shadows() {
    let mut vm = Vm::protected(0);
    assert!(!vm.run(&[0x90]).unwrap().trap);
    vm.s.rflags |= rflags::TF | rflags::RF;
    assert!(vm.run(&[0x90]).unwrap().trap);
    assert_eq!(vm.s.rflags & rflags::RF, 0);
    vm.s.gpr[RAX] = DATA32.into();
    assert!(!vm.run(&[0x8e, 0xd0]).unwrap().trap); // mov ss, ax delays it
    assert!(vm.run(&[0x90]).unwrap().trap);
}
