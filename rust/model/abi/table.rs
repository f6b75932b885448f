// SPDX-License-Identifier: GPL-2.0

//! The whole ABI as a list of assertions in C, for `scripts/abi-check.c`.

use super::{cap, exit, irqchip, para, system, vcpu, vm};
use std::fmt::Write as _;

/// A structure and where its fields are. Fields that start with `_` have no name in C.
pub(super) struct Layout {
    pub(super) c: &'static str,
    pub(super) member: &'static str,
    pub(super) size: usize,
    pub(super) fields: &'static [(&'static str, usize)],
}

/// The name of a field in C: Rust's keywords carry a trailing underscore here.
fn c_name(field: &str) -> &str {
    match field {
        "type_" => "type",
        other => other,
    }
}

fn table() -> String {
    let mut out = String::new();
    let layouts = [
        system::LAYOUTS,
        vm::LAYOUTS,
        irqchip::LAYOUTS,
        vcpu::LAYOUTS,
        exit::LAYOUTS,
        para::LAYOUTS,
    ];
    for l in layouts.into_iter().flatten() {
        let named = l.fields.iter().filter(|(f, _)| !f.starts_with('_'));
        if l.member.is_empty() {
            writeln!(out, "STRUCT({}, {})", l.c, l.size).unwrap();
            for (f, at) in named {
                writeln!(out, "FIELD({}, {}, {at})", l.c, c_name(f)).unwrap();
            }
        } else {
            writeln!(out, "MEMBER({}, {}, {})", l.c, l.member, l.size).unwrap();
            for (f, at) in named {
                writeln!(
                    out,
                    "MEMBER_FIELD({}, {}, {}, {at})",
                    l.c,
                    l.member,
                    c_name(f)
                )
                .unwrap();
            }
        }
    }
    writeln!(out, "STRUCT(struct kvm_run, {})", exit::run::SIZE).unwrap();
    for (f, at) in exit::run::OFFSETS {
        writeln!(out, "FIELD(struct kvm_run, {f}, {at})").unwrap();
    }
    let values = [
        system::VALUES,
        system::IOCTLS,
        vm::VALUES,
        vm::IOCTLS,
        irqchip::VALUES,
        irqchip::IOCTLS,
        vcpu::VALUES,
        vcpu::IOCTLS,
        exit::VALUES,
        cap::VALUES,
        para::VALUES,
    ];
    for (name, value) in values.into_iter().flatten() {
        writeln!(out, "VALUE({name}, {value:#x})").unwrap();
    }
    out
}

/// Prints the table or, with `ABI_TABLE` set, writes it to that file.
#[test]
fn abi_table() {
    let table = table();
    match std::env::var_os("ABI_TABLE") {
        Some(path) => std::fs::write(path, &table).unwrap(),
        None => println!("{table}"),
    }
    for line in [
        "STRUCT(struct kvm_run, 2352)",
        "VALUE(KVM_GET_MSRS, 0xc008ae88)",
    ] {
        assert!(table.lines().any(|l| l == line), "{line} is missing");
    }
}

#[test]
fn numbers_seen_on_a_running_system() {
    // From strace of a VMM on x86-64.
    for (cmd, is) in [
        (system::KVM_CREATE_VM, 0xae01),
        (vm::KVM_SET_USER_MEMORY_REGION, 0x4020_ae46),
        (vcpu::KVM_GET_SREGS, 0x8138_ae83),
        (vcpu::KVM_SET_CPUID2, 0x4008_ae90),
        (irqchip::KVM_IRQ_LINE_STATUS, 0xc008_ae67),
        (vm::KVM_REGISTER_COALESCED_MMIO, 0x4010_ae67),
        (irqchip::KVM_SET_IRQCHIP, 0x8208_ae63),
    ] {
        assert_eq!(cmd, is);
        assert_eq!(super::ioc_type(cmd), super::KVMIO);
    }
}
