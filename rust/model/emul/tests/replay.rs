// SPDX-License-Identifier: GPL-2.0

//! Accesses that user space completes: nothing is committed until the replay.

use super::*;

/// Answers reads with the low byte of the address, repeated and counted up.
fn serve(calls: &mut Vec<UserIo>) -> impl FnMut(&UserIo) -> Vec<u8> + '_ {
    |io| {
        calls.push(io.clone());
        (0..io.key.size).map(|i| i + 0x10).collect()
    }
}

fn mem(addr: u64, size: u8, write: bool) -> IoKey {
    IoKey::new(IoKind::Mem, addr, size, write)
}

#[test]
fn a_read_asks_once_and_commits_on_replay() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RBX] = MMIO + 8;
    let before = vm.s.gpr;
    assert_eq!(vm.run(&[0x8b, 0x03]), Err(Stop::NeedUser)); // mov eax, [rbx]
    assert_eq!((vm.s.gpr, vm.s.rip), (before, CODE));
    let mut calls = Vec::new();
    vm.run_with_user(&[0x8b, 0x03], &mut serve(&mut calls))
        .unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].key, mem(MMIO + 8, 4, false));
    assert_eq!(vm.s.gpr[RAX], 0x1312_1110);
    assert!(vm.w.log.is_empty());
}

#[test]
fn read_modify_write_reads_once_and_writes_once() {
    for lock in [false, true] {
        let mut vm = Vm::long(0);
        vm.s.gpr[RBX] = MMIO;
        vm.s.gpr[RCX] = 1;
        let mut calls = Vec::new();
        let code = [0xf0, 0x01, 0x0b]; // lock add [rbx], ecx
        let code = if lock { &code[..] } else { &code[1..] };
        vm.run_with_user(code, &mut serve(&mut calls)).unwrap();
        assert_eq!(calls.len(), 2);
        assert_eq!(calls[0].key, mem(MMIO, 4, false));
        assert_eq!(calls[1].key, mem(MMIO, 4, true));
        assert_eq!(calls[1].data, 0x1312_1111u32.to_le_bytes());
    }
}

#[test]
fn push_of_device_memory_does_not_read_twice() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RBX] = MMIO;
    let mut calls = Vec::new();
    vm.run_with_user(&[0xff, 0x33], &mut serve(&mut calls))
        .unwrap(); // push [rbx]
    assert_eq!(calls.len(), 1);
    assert_eq!(vm.s.gpr[RSP], STACK - 8);
    assert_eq!(vm.w.u64(STACK - 8), 0x1716_1514_1312_1110);
}

#[test]
fn rep_commits_each_element() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RSI] = MMIO;
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 3;
    let mut calls = Vec::new();
    // The replay of element n starts with element n, so each is asked for once.
    vm.run_with_user(&[0xf3, 0xa5], &mut serve(&mut calls))
        .unwrap();
    let addrs: Vec<u64> = calls.iter().map(|c| c.key.addr).collect();
    assert_eq!(addrs, [MMIO, MMIO + 4, MMIO + 8]);
    assert_eq!(vm.w.u32(0x4008), 0x1312_1110);
    assert_eq!((vm.s.gpr[RCX], vm.s.gpr[RSI]), (0, MMIO + 12));
}

#[test]
fn the_bytes_of_the_first_time_count() {
    // Those known beforehand and those fetched, which end in the next page.
    for known in [0, 1, 2] {
        let mut vm = Vm::long(0);
        vm.s.rip = 0x8fff;
        vm.s.gpr[RBX] = MMIO;
        vm.s.gpr[RAX] = 100;
        vm.w.put(0x8fff, &[0x03, 0x03]); // add eax, [rbx]
        let mut code = Code::known(&[0x03, 0x03][..known]);
        let r = emulate(&mut vm.s, &mut code, &mut vm.w);
        assert_eq!(r, Err(Stop::NeedUser));
        let io = vm.w.pending.take().unwrap();
        vm.w.log.record(io.key, &[5, 0, 0, 0]).unwrap();
        vm.w.log.rewind();
        vm.w.put(0x8fff, &[0x2b, 0x03]); // sub eax, [rbx]
        emulate(&mut vm.s, &mut code, &mut vm.w).unwrap();
        assert_eq!((vm.s.gpr[RAX], vm.s.rip), (105, 0x9001));
    }
}

#[test]
fn registers_changed_by_user_space_are_used() {
    let mut vm = Vm::long(0);
    vm.s.gpr[RBX] = MMIO;
    vm.w.put(CODE, &[0x8b, 0x03]);
    assert_eq!(
        emulate(&mut vm.s, &mut Code::new(), &mut vm.w),
        Err(Stop::NeedUser)
    );
    let io = vm.w.pending.take().unwrap();
    vm.w.log.record(io.key, &[1, 2, 3, 4]).unwrap();
    vm.w.log.rewind();
    vm.s.gpr[RBX] = MMIO + 0x20; // user space set registers
    assert_eq!(
        emulate(&mut vm.s, &mut Code::new(), &mut vm.w),
        Err(Stop::NeedUser)
    );
    assert_eq!(vm.w.pending.take().unwrap().key.addr, MMIO + 0x20);
}

#[test]
fn port_input_to_memory() {
    let mut vm = Vm::protected(0);
    vm.w.user_ports = true;
    vm.s.gpr[RDX] = 0x1f0;
    vm.s.gpr[RDI] = 0x4000;
    vm.s.gpr[RCX] = 2;
    let mut calls = Vec::new();
    vm.run_with_user(&[0xf3, 0x66, 0x6d], &mut serve(&mut calls))
        .unwrap(); // rep insw
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].key, IoKey::new(IoKind::Port, 0x1f0, 2, false));
    assert_eq!(vm.w.u32(0x4000), 0x1110_1110);
}
