// SPDX-License-Identifier: GPL-2.0

//! String instructions: batches, faults in the middle, single-stepping, batched port I/O.

use super::*;

#[test]
fn a_batch_ends_early() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 1000;
    vm.s.gpr[RAX] = 0x55;
    let done = vm.run(&[0xf3, 0xaa]).unwrap();
    assert_eq!(done.flow, Flow::Repeat);
    assert_ne!(vm.s.rflags & rflags::RF, 0);
    let did = 1000 - vm.s.gpr[RCX];
    assert!(did > 0 && did < 1000);
    assert_eq!((vm.s.gpr[RDI], vm.s.rip), (0x4000 + did, CODE));
    while vm.run(&[0xf3, 0xaa]).unwrap().flow == Flow::Repeat {}
    assert_eq!((vm.s.gpr[RCX], vm.s.rip), (0, CODE + 2));
    assert_eq!(vm.s.rflags & rflags::RF, 0);
    assert!(vm.w.mem[0x4000..0x4000 + 1000].iter().all(|b| *b == 0x55));
    assert_eq!(vm.w.mem[0x4000 + 1000], 0);
}

#[test]
fn a_fault_keeps_what_is_done() {
    let mut vm = Vm::long(0);
    vm.w.absent.push(5);
    vm.s.gpr[RDI] = 0x4ff8;
    vm.s.gpr[RCX] = 10;
    let e = vm.run(&[0xf3, 0xab]); // rep stosd
    assert_eq!(e, Err(Stop::Fault(Exception::page_fault(pf::W, 0x5000))));
    assert_eq!((vm.s.gpr[RDI], vm.s.gpr[RCX], vm.s.rip), (0x5000, 8, CODE));
}

#[test]
fn comparisons_stop() {
    let mut vm = Vm::real();
    vm.w.put(0x4000, b"hello\0");
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 0xffff;
    vm.step(&[0xf2, 0xae]); // repne scasb
    assert_eq!((vm.s.gpr[RDI], vm.s.gpr[RCX]), (0x4006, 0xffff - 6));
    vm.w.put(0x4100, b"help!\0");
    vm.s.gpr[RSI] = 0x4000;
    vm.s.gpr[RDI] = 0x4100;
    vm.s.gpr[RCX] = 6;
    vm.step(&[0xf3, 0xa6]); // repe cmpsb
    assert_eq!((vm.s.gpr[RSI], vm.s.gpr[RCX]), (0x4004, 2));
    assert_eq!(vm.s.rflags & (rflags::ZF | rflags::CF), rflags::CF);
}

#[test]
fn index_registers_wrap_at_address_size() {
    let mut vm = Vm::real();
    vm.s.gpr[RSI] = 0xabcd_ffff;
    vm.s.gpr[RDI] = 0x1_0000;
    vm.s.rflags |= rflags::DF;
    vm.step(&[0xa4]); // movsb, downward
    assert_eq!((vm.s.gpr[RSI], vm.s.gpr[RDI]), (0xabcd_fffe, 0x1_ffff));
    let mut vm = Vm::long(0);
    vm.s.gpr[RSI] = 0xffff_ffff_0000_4000;
    vm.s.gpr[RDI] = 0x4000;
    vm.step(&[0x67, 0xa5]); // with 32-bit addresses
    assert_eq!(vm.s.gpr[RSI], 0x4004);
}

#[test]
fn destination_ignores_overrides() {
    let mut vm = Vm::real();
    vm.s.seg_mut(SegReg::Es).base = 0x1000;
    vm.s.seg_mut(SegReg::Fs).base = 0x2000;
    vm.w.put(0x2010, &[0x77]);
    vm.s.gpr[RSI] = 0x10;
    vm.s.gpr[RDI] = 0x20;
    vm.step(&[0x64, 0xa4]); // movsb es:[di], fs:[si]
    assert_eq!(vm.w.mem[0x1020], 0x77);
}

#[test]
fn single_stepping_sees_each_element() {
    let mut vm = Vm::protected(0);
    vm.s.rflags |= rflags::TF;
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 2;
    let done = vm.run(&[0xf3, 0xaa]).unwrap();
    assert_eq!(
        (done.flow, done.trap, vm.s.gpr[RCX]),
        (Flow::Repeat, true, 1)
    );
    let done = vm.run(&[0xf3, 0xaa]).unwrap();
    assert_eq!((done.flow, done.trap, vm.s.gpr[RCX]), (Flow::Next, true, 0));
}

#[test]
fn port_strings_come_in_batches() {
    let mut vm = Vm::protected(0);
    vm.w.batch = u32::MAX;
    vm.s.gpr[RDX] = 0x3f8;
    vm.s.gpr[RSI] = 0x4ffe;
    vm.s.gpr[RCX] = 5;
    vm.w.put(0x4ffe, &[1, 2, 3, 4, 5]);
    vm.step(&[0xf3, 0x6e]); // rep outsb: split at the page
    let out: Vec<&[u8]> = vm.w.outputs.iter().map(|(_, d)| &d[..]).collect();
    assert_eq!(out, [&[1u8, 2][..], &[3, 4, 5]]);
    assert_eq!((vm.s.gpr[RSI], vm.s.gpr[RCX]), (0x5003, 0));

    vm.w.inputs = (0..8).collect();
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 8;
    vm.step(&[0xf3, 0x6d]); // rep insd
    assert_eq!(vm.w.u32(0x401c), 7);
    assert_eq!((vm.s.gpr[RDI], vm.s.gpr[RCX]), (0x4020, 0));

    // Downward goes one by one.
    vm.w.inputs = vec![9, 8];
    vm.s.rflags |= rflags::DF;
    vm.s.gpr[RCX] = 2;
    vm.step(&[0xf3, 0x6d]);
    assert_eq!(
        (vm.w.u32(0x4020), vm.w.u32(0x401c), vm.s.gpr[RDI]),
        (9, 8, 0x4018)
    );
}

#[test]
fn input_does_not_read_the_device_if_memory_faults() {
    let mut vm = Vm::protected(0);
    vm.w.inputs = vec![1];
    vm.w.readonly.push(4);
    vm.s.gpr[RDI] = 0x4000;
    assert_eq!(vm.fault(&[0x6d]).vector, 14);
    assert_eq!(vm.w.inputs, [1]);
}

#[test]
fn ports_and_permissions() {
    let mut vm = Vm::protected(3);
    vm.w.inputs = vec![0xaabb_ccdd; 4];
    // The permission bitmap starts at 0x68 and covers 0x18 bytes: ports 0 to 0xb7.
    vm.w.put(TSS + 102, &[0x68, 0]);
    vm.w.put(TSS + 0x68 + 2, &[0xfe, 0xff]);
    vm.s.gpr[RDX] = 0x10;
    vm.step(&[0xec]); // in al, dx
    assert_eq!(vm.s.gpr[RAX], 0xdd);
    assert_eq!(vm.fault(&[0xed]), GP0); // four ports
    vm.step(&[0xe6, 0x07]); // out 7, al
    assert_eq!(vm.fault(&[0xe6, 0xc8]), GP0); // beyond the limit
    vm.s.rflags |= rflags::IOPL;
    vm.step(&[0xed]);
    assert_eq!(vm.s.gpr[RAX], 0xaabb_ccdd);
    assert_eq!(vm.w.outputs, [(7, vec![0xdd])]);
    let last = vm.w.asked.last().copied();
    let want = Intercept::Io {
        port: 0x10,
        size: 4,
        input: true,
        string: false,
        rep: false,
    };
    assert_eq!(last, Some(want));
}

#[test]
fn a_shadow_lasts_for_one_element() {
    for rep in [[0xf3, 0xaa], [0xf3, 0xac]] {
        let mut vm = Vm::long(0);
        vm.s.shadow = 1;
        (vm.s.gpr[RSI], vm.s.gpr[RDI], vm.s.gpr[RCX]) = (0x4000, 0x4000, 9);
        let done = vm.run(&rep).unwrap();
        let seen = (done.flow, vm.s.gpr[RCX], vm.s.shadow);
        assert_eq!(seen, (Flow::Repeat, 8, 0));
        let done = vm.run(&rep).unwrap();
        assert_eq!((done.flow, vm.s.gpr[RCX]), (Flow::Next, 0));
    }
}
