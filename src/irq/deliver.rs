// SPDX-License-Identifier: GPL-2.0

//! From a message to the mailboxes of the vCPUs it addresses. Any context.

use crate::vcpu::shared::VcpuShared;
use crate::vm::VmBase;
use model::irqchip::lapic::ipi::Post;
use model::irqchip::lapic::published::Rules;
use model::irqchip::lapic::published::Sender;
use model::irqchip::targets;
use model::x86::apic::Ipi;
use model::x86::apic::Message;

fn rules(vm: &VmBase) -> Rules {
    Rules {
        ids32: vm.caps.x2apic_32bit_ids(),
        no_broadcast_quirk: vm.caps.no_broadcast_quirk(),
        arbitrate: !host::params::vector_hashing(),
    }
}

/// Delivers a message of a device. The number of local APICs that took it, or -1 if it addressed
/// none.
pub(crate) fn message(vm: &VmBase, m: &Message) -> i32 {
    deliver(vm, m, targets::resolve_message(m, &vm.vcpus, rules(vm)))
}

/// Delivers a fixed interrupt or NMI to whoever has the physical id, which never means everyone. The
/// number of local APICs that took it.
pub(crate) fn to_id(vm: &VmBase, m: &Message) -> i32 {
    targets::having_id(m.dest, &vm.vcpus, rules(vm))
        .filter_map(|v| vm.vcpus.get(v))
        .filter(|v| post(v, m))
        .fold(0, |n: i32, _| n.wrapping_add(1))
}

/// Delivers an IPI.
pub(crate) fn ipi(vm: &VmBase, i: &Ipi, from: Sender) -> i32 {
    let to = targets::resolve(i, Some(from), &vm.vcpus, rules(vm));
    deliver(vm, &i.message, to)
}

fn deliver(vm: &VmBase, m: &Message, to: impl Iterator<Item = u32>) -> i32 {
    let mut taken = -1i32;
    for v in to {
        let Some(v) = vm.vcpus.get(v) else { continue };
        taken = taken.max(0).wrapping_add(i32::from(post(v, m)));
    }
    taken
}

/// Delivers an edge at pin LINT0 of a vCPU's local APIC.
pub(crate) fn lint0(v: &VcpuShared) {
    if let Some(m) = v.published.at_lint0() {
        post(v, &m);
    }
}

/// Posts to one vCPU; false if its APIC does not take it.
fn post(v: &VcpuShared, m: &Message) -> bool {
    match Post::of(m, &v.published) {
        Some(p) => {
            v.act(p.into_mailbox(&v.pending));
            true
        }
        None => false,
    }
}
