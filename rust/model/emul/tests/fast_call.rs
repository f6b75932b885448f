// SPDX-License-Identifier: GPL-2.0

//! SYSCALL, SYSENTER, SYSEXIT.

use super::*;

const SYSCALL: [u8; 2] = [0x0f, 0x05];
const SYSENTER: [u8; 2] = [0x0f, 0x34];
const SYSEXIT: [u8; 2] = [0x0f, 0x35];

/// 32-bit user code of a long-mode guest.
fn compatibility(intel: bool) -> Vm {
    let mut vm = Vm::long(3);
    let cs = vm.s.seg_mut(SegReg::Cs);
    cs.attr = (cs.attr & !Segment::L) | Segment::DB;
    vm.s.efer |= efer::SCE;
    vm.w.intel = intel;
    for (index, value) in [
        (0xc000_0081, 0x0023_0010_0000_9100),
        (0xc000_0082, 0xffff_ffff_8100_0000),
        (0xc000_0083, 0xffff_ffff_8100_1000),
        (0xc000_0084, rflags::IF | rflags::CF),
        (0x174, 0x10),
        (0x175, 0xffff_c900_0000_1000),
        (0x176, 0xffff_ffff_8100_2000),
    ] {
        vm.w.msrs.insert(index, value);
    }
    vm.s.rflags |= rflags::IF | rflags::CF;
    vm
}

#[test]
fn syscall() {
    let mut vm = compatibility(false);
    let back = vm.s.rip + 2;
    let flags = vm.s.rflags;
    vm.run(&SYSCALL).unwrap();
    assert_eq!(vm.s.rip, 0xffff_ffff_8100_1000);
    assert_eq!((vm.s.gpr[RCX], vm.s.gpr[11]), (back, flags));
    assert_eq!(vm.s.rflags & (rflags::IF | rflags::CF), 0);
    let cs = vm.s.seg(SegReg::Cs);
    assert_eq!((cs.selector, cs.attr), (0x10, 0xa9b));
    assert_eq!((vm.s.seg(SegReg::Ss).selector, vm.s.cpl()), (0x18, 0));
    // From 64-bit code there is another way in, for both vendors.
    for intel in [false, true] {
        let mut vm = compatibility(intel);
        let cs = vm.s.seg_mut(SegReg::Cs);
        cs.attr = (cs.attr & !Segment::DB) | Segment::L;
        vm.run(&SYSCALL).unwrap();
        assert_eq!(vm.s.rip, 0xffff_ffff_8100_0000);
    }
    // Intel has none in 32-bit code.
    assert_eq!(compatibility(true).fault(&SYSCALL), Exception::ud());
    let mut vm = compatibility(false);
    vm.s.efer &= !efer::SCE;
    assert_eq!(vm.fault(&SYSCALL), Exception::ud());
    // Without long mode it goes where STAR says.
    let mut vm = Vm::protected(3);
    vm.s.efer |= efer::SCE;
    vm.w.msrs.insert(0xc000_0081, 0x0023_0010_0000_9100);
    vm.run(&SYSCALL).unwrap();
    assert_eq!((vm.s.rip, vm.s.seg(SegReg::Cs).attr), (0x9100, 0xc9b));
}

#[test]
fn sysenter_and_sysexit() {
    let mut vm = compatibility(true);
    vm.run(&SYSENTER).unwrap();
    assert_eq!(vm.s.rip, 0xffff_ffff_8100_2000);
    assert_eq!(vm.s.gpr[RSP], 0xffff_c900_0000_1000);
    assert_eq!(vm.s.rflags & rflags::IF, 0);
    assert_eq!((vm.s.seg(SegReg::Cs).attr, vm.s.cpl()), (0xa9b, 0));
    // Back to 32-bit code, and to 64-bit code.
    let mut two = vm.s.clone();
    vm.s.rip = CODE;
    (vm.s.gpr[RDX], vm.s.gpr[RCX]) = (0x1_0000_5000, 0x6000);
    vm.run(&SYSEXIT).unwrap();
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (0x5000, 0x6000));
    let cs = vm.s.seg(SegReg::Cs);
    assert_eq!((cs.selector, cs.attr, vm.s.cpl()), (0x23, 0xcfb, 3));
    two.rip = CODE;
    two.gpr[RDX] = 0x8000_0000_0000_0000;
    vm.s = two;
    assert_eq!(vm.fault(&[0x48, 0x0f, 0x35]), GP0);
    vm.s.gpr[RDX] = 0x7fff_0000_0000;
    vm.s.gpr[RCX] = 0x6000;
    vm.run(&[0x48, 0x0f, 0x35]).unwrap();
    let cs = vm.s.seg(SegReg::Cs);
    assert_eq!(
        (vm.s.rip, cs.selector, cs.attr),
        (0x7fff_0000_0000, 0x33, 0xafb)
    );
    assert_eq!(vm.s.seg(SegReg::Ss).selector, 0x3b);

    // AMD has neither in long mode; user mode has no SYSEXIT; the MSR must name a segment.
    assert_eq!(compatibility(false).fault(&SYSENTER), Exception::ud());
    assert_eq!(compatibility(true).fault(&SYSEXIT), GP0);
    let mut vm = compatibility(true);
    vm.w.msrs.insert(0x174, 3);
    assert_eq!(vm.fault(&SYSENTER), GP0);
    assert_eq!(Vm::real().fault(&SYSENTER), GP0);
    let mut vm = Vm::protected(3);
    vm.w.msrs.insert(0x174, 0x10);
    vm.w.msrs.insert(0x176, 0x9200);
    vm.w.msrs.insert(0x175, 0x7700);
    vm.run(&SYSENTER).unwrap();
    assert_eq!((vm.s.rip, vm.s.gpr[RSP]), (0x9200, 0x7700));
}
