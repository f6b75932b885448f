// SPDX-License-Identifier: GPL-2.0

//! How many vCPUs a VM may have, and which ids.

use crate::guest;
use crate::guest::enable;
use crate::sys;
use crate::sys::Fd;
use crate::table::Table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::time::Instant;

/// The errno of one more vCPU, or "fd". It stays when its descriptor is closed.
fn create(vm: &Fd, id: usize) -> String {
    match vm.make(k::CREATE_VCPU, id) {
        Ok(_) => "fd".to_string(),
        Err(e) => sys::errno_name(e),
    }
}

/// As many vCPUs as a VM may have, and one more; a limit of ids that the VM was given.
pub fn vcpus(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_vcpus",
        include_str!("../../data/errno-vcpus.tsv"),
    );
    let dev = guest::dev();
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let max = guest::cap(&vm, KVM_CAP_MAX_VCPUS) as usize;
    let ids = guest::cap(&vm, KVM_CAP_MAX_VCPU_ID) as usize;
    t.row("vCPUs", max);
    t.row("ids", ids);
    let start = Instant::now();
    let made = (0..max)
        .take_while(|id| vm.make(k::CREATE_VCPU, *id).is_ok())
        .count();
    println!("# {made} vCPUs in {:?}", start.elapsed());
    t.row("made", made);
    for (what, id) in [
        ("one more", max),
        ("one more, the highest id", ids - 1),
        ("one more, an id too high", ids),
        ("one more, an id that is taken", max - 1),
    ] {
        t.row(what, create(&vm, id));
    }
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    t.row("another VM", create(&vm, 0));

    for limit in [ids as u64, ids as u64 + 1, 1 << 32, 1, 3] {
        let vm = dev.make(k::CREATE_VM, 0).expect("VM");
        let mut answers = Vec::new();
        for limit in [limit, limit, limit + 1, 2] {
            let a = enable(&vm, KVM_CAP_MAX_VCPU_ID, limit);
            answers.push(format!("{limit:#x}={a}"));
        }
        t.row(format_args!("limit of {limit:#x} ids"), answers.join(" "));
    }
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    enable(&vm, KVM_CAP_MAX_VCPU_ID, 3).ok().expect("limit");
    for id in [3usize, 4] {
        let a = vm.call(k::SET_BOOT_CPU_ID, id);
        t.row(format_args!("boot vCPU {id} of 3"), a);
    }
    for id in [0usize, 2, 3, ids - 1] {
        t.row(format_args!("vCPU {id} of 3"), create(&vm, id));
    }
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let first = create(&vm, 5);
    let late = enable(&vm, KVM_CAP_MAX_VCPU_ID, 3);
    t.row("a limit below a vCPU's id", format!("{first} {late}"));
    t.finish();
}
