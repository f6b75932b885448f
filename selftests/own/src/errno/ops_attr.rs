// SPDX-License-Identifier: GPL-2.0

//! What is asked for or set one by one, for `ops.rs`: registers by id, attributes, statistics, the
//! MSR filter, and what else is called with a number only.

use super::field;
use super::op;
use super::value;
use super::On;
use super::Op;
use super::World;
use crate::uapi as k;
use kvm_bindings::*;
use std::mem::offset_of;

/// `KVM_REG_X86 | KVM_REG_SIZE_U64`, of the type MSR: `IA32_SYSENTER_CS`.
const SYSENTER_CS: u64 = 0x2030_0002_0000_0174;
/// Bytes of `struct kvm_msr_filter_range`.
const RANGE: usize = size_of::<kvm_msr_filter_range>();

/// Numbers of 64 bits, the last one an address where the argument's value is.
fn pointing(w: &World, words: &[u64]) -> Vec<u8> {
    let at = (w.mem.addr() + 0x10_0000) as u64;
    let words = words.iter().chain(std::iter::once(&at));
    words.flat_map(|n| n.to_ne_bytes()).collect()
}

/// An attribute: flags and group, its number, the address.
fn attribute(w: &World) -> Vec<u8> {
    pointing(w, &[0, 0])
}

/// A filter of two ranges, the first one and the last.
fn filter(w: &World) -> Vec<u8> {
    let mut b = vec![0; size_of::<kvm_msr_filter>()];
    for (i, base) in [(0, 0x4000_0000u32), (15, 0x4000_0100)] {
        let at = 8 + i * RANGE;
        let flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
        b[at..at + 4].copy_from_slice(&flags.to_ne_bytes());
        b[at + 4..at + 8].copy_from_slice(&64u32.to_ne_bytes());
        b[at + 8..at + 12].copy_from_slice(&base.to_ne_bytes());
        b[at + 16..at + 24].copy_from_slice(&pointing(w, &[]));
    }
    b
}

/// All of them.
pub(super) fn all(list: &mut Vec<Op>) {
    system(list);
    vm(list);
    vcpu(list);
}

const ATTRIBUTE: &[super::Field] = &[
    field!(kvm_device_attr, flags, 32),
    field!(kvm_device_attr, group, 32),
    field!(kvm_device_attr, attr, 64),
];

const ADDR: usize = offset_of!(kvm_device_attr, addr);

fn system(list: &mut Vec<Op>) {
    use On::Dev;
    list.extend([
        op(
            "GET_DEVICE_ATTR/dev",
            Dev,
            k::GET_DEVICE_ATTR,
            attribute,
            ATTRIBUTE,
        )
        .pointing(&[("addr", ADDR)]),
        op(
            "HAS_DEVICE_ATTR/dev",
            Dev,
            k::HAS_DEVICE_ATTR,
            attribute,
            ATTRIBUTE,
        )
        .pointing(&[("addr", ADDR)]),
    ]);
}

fn vm(list: &mut Vec<Op>) {
    use On::Vm;
    list.extend([
        value("GET_STATS_FD/vm", Vm, k::GET_STATS_FD, 0),
        value("RESET_DIRTY_RINGS", Vm, k::RESET_DIRTY_RINGS, 0),
        op(
            "X86_SET_MSR_FILTER",
            Vm,
            k::X86_SET_MSR_FILTER,
            filter,
            &[
                ("flags", 0, 32),
                ("hole", 4, 32),
                ("range 0 flags", 8, 32),
                ("range 0 nmsrs", 12, 32),
                ("range 0 base", 16, 32),
                ("range 0 hole", 20, 32),
                ("range 1 flags", 8 + RANGE, 32),
                ("range 1 nmsrs", 12 + RANGE, 32),
                ("range 15 nmsrs", 12 + 15 * RANGE, 32),
            ],
        )
        .pointing(&[
            ("bitmap 0", 8 + 16),
            ("bitmap 1", 8 + RANGE + 16),
            ("bitmap 15", 8 + 15 * RANGE + 16),
        ]),
        // A type that no x86 has.
        op(
            "CREATE_DEVICE",
            Vm,
            k::CREATE_DEVICE,
            |_| {
                let mut b = vec![0; size_of::<kvm_create_device>()];
                b[0] = kvm_device_type_KVM_DEV_TYPE_FSL_MPIC_20 as u8;
                b
            },
            &[
                ("type", 0, 32),
                field!(kvm_create_device, fd, 32),
                field!(kvm_create_device, flags, 32),
            ],
        ),
    ]);
}

fn vcpu(list: &mut Vec<Op>) {
    use On::Vcpu;
    list.extend([
        value("GET_STATS_FD", Vcpu, k::GET_STATS_FD, 0),
        value("SMI", Vcpu, k::SMI, 0),
        op(
            "GET_ONE_REG",
            Vcpu,
            k::GET_ONE_REG,
            |w| pointing(w, &[SYSENTER_CS]),
            &[("id", 0, 64)],
        )
        .pointing(&[("addr", 8)]),
        op(
            "SET_ONE_REG",
            Vcpu,
            k::SET_ONE_REG,
            |w| pointing(w, &[SYSENTER_CS]),
            &[("id", 0, 64)],
        )
        .pointing(&[("addr", 8)]),
        op(
            "GET_REG_LIST",
            Vcpu,
            k::GET_REG_LIST,
            |_| {
                let mut b = vec![0; 8 + 8 * 8];
                b[0] = 8;
                b
            },
            &[("n", 0, 64)],
        ),
        op(
            "PRE_FAULT_MEMORY",
            Vcpu,
            k::PRE_FAULT_MEMORY,
            |_| {
                let mut b = vec![0; size_of::<kvm_pre_fault_memory>()];
                b[1] = 0x20;
                b[9] = 0x10;
                b
            },
            &[
                field!(kvm_pre_fault_memory, gpa, 64),
                field!(kvm_pre_fault_memory, size, 64),
                field!(kvm_pre_fault_memory, flags, 64),
                field!(kvm_pre_fault_memory, padding, 320),
            ],
        ),
        op(
            "GET_DEVICE_ATTR",
            Vcpu,
            k::GET_DEVICE_ATTR,
            attribute,
            ATTRIBUTE,
        )
        .pointing(&[("addr", ADDR)]),
        op(
            "SET_DEVICE_ATTR",
            Vcpu,
            k::SET_DEVICE_ATTR,
            attribute,
            ATTRIBUTE,
        )
        .pointing(&[("addr", ADDR)]),
        op(
            "HAS_DEVICE_ATTR",
            Vcpu,
            k::HAS_DEVICE_ATTR,
            attribute,
            ATTRIBUTE,
        )
        .pointing(&[("addr", ADDR)]),
    ]);
}
