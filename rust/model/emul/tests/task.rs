// SPDX-License-Identifier: GPL-2.0

//! Task switches.

use super::*;
use crate::emul::task::{task_switch, Switched, TaskSwitch};
use crate::exit::TaskSwitchCause::{Call, Gate, Iret, Jmp};
use crate::x86::ctrl::dr6;
use crate::x86::exception::{DB, GP, NP, TS};

/// The second TSS, 32-bit, and a 16-bit one.
const NEW: u64 = 0x5000;
const NEW_SEL: u16 = 0x08;
const SMALL: u64 = 0x5100;
const SMALL_SEL: u16 = 0x10;
const OLD_SEL: u16 = 0x18;
const CODE_SEL: u16 = 0x20;
const DATA_SEL: u16 = 0x28;
const GATE_AT: u64 = GDT;

/// A protected-mode machine whose GDT holds three tasks; the old one is running.
fn machine() -> Vm {
    let mut vm = Vm::protected(0);
    for (sel, d) in [
        (NEW_SEL, descriptor(NEW as u32, 0x67, 0x089)),
        (SMALL_SEL, descriptor(SMALL as u32, 0x2b, 0x081)),
        (OLD_SEL, descriptor(TSS as u32, 0x67, 0x08b)),
        (CODE_SEL, descriptor(0, 0xfffff, 0xc9b)),
        (DATA_SEL, descriptor(0, 0xfffff, 0xc93)),
    ] {
        vm.w.put(GATE_AT + u64::from(sel), &d.to_le_bytes());
    }
    vm.s.gdtr.limit = 0x2f;
    let tr = vm.s.seg_mut(SegReg::Tr);
    (tr.selector, tr.limit) = (OLD_SEL, 0x67);
    // The new task: registers count up from 0x100.
    for (i, at) in (0x28..0x48).step_by(4).enumerate() {
        vm.w.put(NEW + at as u64, &(0x100 + i as u32).to_le_bytes());
    }
    vm.w.put(NEW + 0x20, &0x9000u32.to_le_bytes());
    vm.w.put(NEW + 0x24, &(rflags::CF as u32 | 2).to_le_bytes());
    vm.w.put(NEW + 0x38, &0x6000u32.to_le_bytes()); // ESP
    for (i, sel) in [DATA_SEL, CODE_SEL, DATA_SEL, DATA_SEL, 0, 0, 0]
        .iter()
        .enumerate()
    {
        vm.w.put(NEW + 0x48 + 4 * i as u64, &sel.to_le_bytes());
    }
    vm
}

fn busy(vm: &mut Vm, sel: u16) -> bool {
    vm.w.mem[(GDT + u64::from(sel)) as usize + 5] & 2 != 0
}

fn switch(vm: &mut Vm, sel: u16, cause: crate::exit::TaskSwitchCause) -> Result<Switched, Stop> {
    let want = TaskSwitch {
        selector: sel,
        cause,
        error_code: None,
        int_n: None,
    };
    task_switch(&mut vm.s, &want, &mut vm.w)
}

#[test]
fn jump() {
    let mut vm = machine();
    vm.s.gpr[RAX] = 0xaaaa;
    vm.s.gpr[RDI] = 0xdddd;
    assert_eq!(switch(&mut vm, NEW_SEL, Jmp), Ok(Switched { fault: None }));
    // The old task is saved and no longer busy.
    assert_eq!(vm.w.u32(TSS + 0x20), CODE as u32);
    assert_eq!(
        (vm.w.u32(TSS + 0x28), vm.w.u32(TSS + 0x44)),
        (0xaaaa, 0xdddd)
    );
    assert_eq!(vm.w.u16(TSS + 0x4c), CODE32);
    assert!(!busy(&mut vm, OLD_SEL) && busy(&mut vm, NEW_SEL));
    // The new one runs.
    assert_eq!(
        (vm.s.rip, vm.s.gpr[RSP], vm.s.gpr[RBX]),
        (0x9000, 0x6000, 0x103)
    );
    assert_eq!(vm.s.rflags, rflags::CF | rflags::FIXED);
    assert_eq!(vm.s.seg(SegReg::Cs).selector, CODE_SEL);
    assert_eq!(
        (vm.s.seg(SegReg::Tr).base, vm.s.seg(SegReg::Tr).attr),
        (NEW, 0x8b)
    );
    assert!(vm.s.seg(SegReg::Fs).unusable && vm.s.seg(SegReg::Ldtr).unusable);
    assert_ne!(vm.s.cr0 & cr0::TS, 0);
    vm.step(&[0x90]);
}

#[test]
fn call_and_return() {
    let mut vm = machine();
    switch(&mut vm, NEW_SEL, Call).unwrap();
    assert_eq!(vm.w.u16(NEW), OLD_SEL); // the back link
    assert!(busy(&mut vm, OLD_SEL) && busy(&mut vm, NEW_SEL));
    assert_ne!(vm.s.rflags & rflags::NT, 0);
    // The old task's CS must be found again.
    vm.w.put(TSS + 0x4c, &CODE_SEL.to_le_bytes());
    vm.w.put(TSS + 0x48, &[0; 2]);
    vm.w.put(TSS + 0x50, &DATA_SEL.to_le_bytes());
    for at in [0x54, 0x58, 0x5c] {
        vm.w.put(TSS + at, &[0; 2]);
    }
    switch(&mut vm, OLD_SEL, Iret).unwrap();
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (CODE, STACK));
    assert!(busy(&mut vm, OLD_SEL) && !busy(&mut vm, NEW_SEL));
    assert_eq!(vm.w.u32(NEW + 0x24) & rflags::NT as u32, 0); // cleared in what is saved
    assert_eq!(vm.s.rflags & rflags::NT, 0);
}

#[test]
fn sixteen_bits() {
    let mut vm = machine();
    vm.w.put(SMALL + 0x0e, &[0x00, 0x90, 0x02, 0x00]);
    vm.w.put(SMALL + 0x12, &[0x34, 0x12]);
    vm.w.put(SMALL + 0x24, &CODE_SEL.to_le_bytes());
    vm.w.put(SMALL + 0x26, &DATA_SEL.to_le_bytes());
    assert_eq!(
        switch(&mut vm, SMALL_SEL, Jmp),
        Ok(Switched { fault: None })
    );
    assert_eq!((vm.s.rip, vm.s.gpr[RAX]), (0x9000, 0xffff_1234));
    // And back to the 32-bit one: the 16-bit TSS gets sixteen bits.
    vm.s.gpr[RAX] = 0x5555_6666;
    vm.w.put(SMALL + 0x2c, &[0x77; 4]);
    switch(&mut vm, NEW_SEL, Jmp).unwrap();
    assert_eq!(vm.w.u16(SMALL + 0x12), 0x6666);
    assert_eq!(vm.w.u16(SMALL + 0x24), CODE_SEL);
    assert_eq!(vm.w.u32(SMALL + 0x2c), 0x7777_7777);
}

#[test]
fn error_code_and_debug_trap() {
    let mut vm = machine();
    vm.w.put(NEW + 0x64, &[1]);
    let want = TaskSwitch {
        selector: NEW_SEL,
        cause: Gate,
        error_code: Some(0x1234),
        int_n: None,
    };
    let r = task_switch(&mut vm.s, &want, &mut vm.w).unwrap();
    let e = r.fault.unwrap();
    assert_eq!((e.vector, e.payload), (DB, dr6::BT));
    assert_eq!((vm.s.gpr[RSP], vm.w.u32(0x5ffc)), (0x5ffc, 0x1234));
}

#[test]
fn int_through_a_task_gate_needs_its_privilege() {
    let want = TaskSwitch {
        selector: NEW_SEL,
        cause: Gate,
        error_code: None,
        int_n: Some(0x30),
    };
    let gate = |vm: &mut Vm, dpl: u8| {
        vm.s.idtr = DescTable {
            base: 0x3000,
            limit: 0x1ff,
        };
        vm.w.put(0x3000 + 0x30 * 8, &[0, 0, 8, 0, 0, 0x85 | dpl << 5, 0, 0]);
    };
    let mut vm = machine();
    gate(&mut vm, 0);
    vm.s.seg_mut(SegReg::Ss).attr |= 3 << Segment::DPL_SHIFT;
    let e = Exception::with_code(GP, 0x30 << 3 | 2);
    assert_eq!(
        task_switch(&mut vm.s, &want, &mut vm.w),
        Err(Stop::Fault(e))
    );
    gate(&mut vm, 3);
    assert!(task_switch(&mut vm.s, &want, &mut vm.w).is_ok());
    let mut vm = machine();
    gate(&mut vm, 0);
    assert!(task_switch(&mut vm.s, &want, &mut vm.w).is_ok());
    let mut vm = machine();
    gate(&mut vm, 0);
    vm.s.idtr.limit = 0x186;
    assert_eq!(
        task_switch(&mut vm.s, &want, &mut vm.w),
        Err(Stop::Fault(e))
    );
}

#[test]
fn local_breakpoints_end_with_the_task() {
    let mut vm = machine();
    vm.s.dr7 = 0x7ff;
    switch(&mut vm, NEW_SEL, Jmp).unwrap();
    assert_eq!(vm.s.dr7, 0x6aa);
}

#[test]
fn virtual_8086_task() {
    let mut vm = machine();
    vm.w.put(NEW + 0x24, &(rflags::VM as u32 | 2).to_le_bytes());
    vm.w.put(NEW + 0x4c, &0x1000u16.to_le_bytes());
    switch(&mut vm, NEW_SEL, Jmp).unwrap();
    assert!(vm.s.v8086());
    assert_eq!(vm.s.seg(SegReg::Cs).base, 0x10000);
}

#[test]
fn faults_of_the_old_task_change_nothing() {
    let check = |edit: &dyn Fn(&mut Vm), sel: u16, cause, want: Exception| {
        let mut vm = machine();
        edit(&mut vm);
        let before = format!("{:?}", vm.s);
        assert_eq!(switch(&mut vm, sel, cause), Err(Stop::Fault(want)));
        assert_eq!(format!("{:?}", vm.s), before);
        assert_eq!(vm.w.u32(TSS + 0x20), 0);
    };
    let with = |v, sel: u16| Exception::with_code(v, sel.into());
    let attr = |at: u16, v: u8| move |vm: &mut Vm| vm.w.put(GDT + u64::from(at) + 5, &[v]);
    let none = |_: &mut Vm| {};
    check(&none, OLD_SEL, Jmp, with(GP, OLD_SEL)); // busy
    check(&none, NEW_SEL, Iret, with(TS, NEW_SEL)); // not busy
    check(&none, CODE_SEL, Jmp, with(GP, CODE_SEL));
    check(&none, 0x30, Call, with(GP, 0x30));
    check(&none, NEW_SEL | 4, Iret, with(TS, NEW_SEL | 4));
    check(&attr(NEW_SEL, 0x09), NEW_SEL, Jmp, with(NP, NEW_SEL));
    let short = |vm: &mut Vm| vm.w.put(GDT + u64::from(NEW_SEL), &[0x66]);
    check(&short, NEW_SEL, Jmp, with(TS, NEW_SEL));
    let absent = |vm: &mut Vm| vm.w.absent.push(5);
    check(&absent, NEW_SEL, Jmp, Exception::page_fault(0, NEW));
    let readonly = |vm: &mut Vm| vm.w.readonly.push(2);
    let e = Exception::page_fault(pf::P | pf::W, TSS + 0x20);
    check(&readonly, NEW_SEL, Jmp, e);
}

#[test]
fn faults_of_the_new_task_come_after_the_switch() {
    let mut vm = machine();
    vm.w.put(NEW + 0x50, &CODE_SEL.to_le_bytes()); // SS: code
    let r = switch(&mut vm, NEW_SEL, Jmp).unwrap();
    assert_eq!(r.fault, Some(Exception::with_code(TS, CODE_SEL.into())));
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Tr).selector), (0x9000, NEW_SEL));

    let mut vm = Vm::long(0);
    assert!(switch(&mut vm, NEW_SEL, Jmp).is_err());
}
