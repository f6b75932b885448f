// SPDX-License-Identifier: GPL-2.0

//! From a message to the mailboxes of the vCPUs it addresses. Any context.

use crate::vcpu::shared::VcpuShared;
use crate::vm::VmBase;
use model::irqchip::lapic::ipi::Post;
use model::irqchip::lapic::published::Rules;
use model::irqchip::lapic::published::Sender;
use model::x86::apic::Ipi;
use model::x86::apic::Message;
use model::x86::apic::Shorthand;

fn rules(vm: &VmBase) -> Rules {
    Rules {
        ids32: vm.caps.x2apic_32bit_ids(),
        no_broadcast_quirk: vm.caps.no_broadcast_quirk(),
        arbitrate: true,
    }
}

/// Delivers a message of a device. The number of local APICs that took it, or -1 if it addressed
/// none.
pub(crate) fn message(vm: &VmBase, m: &Message) -> i32 {
    deliver(vm, m, Shorthand::None, None)
}

/// Delivers a fixed interrupt or NMI to whoever has the physical id, which never means everyone. The
/// number of local APICs that took it.
pub(crate) fn to_id(vm: &VmBase, m: &Message) -> i32 {
    let rules = rules(vm);
    vm.vcpus
        .iter()
        .filter(|v| v.published.address().has_id(m.dest, rules) && post(v, m))
        .fold(0, |n: i32, _| n.wrapping_add(1))
}

/// Delivers an IPI.
pub(crate) fn ipi(vm: &VmBase, i: &Ipi, from: Sender) -> i32 {
    deliver(vm, &i.message, i.shorthand, Some(from))
}

fn deliver(vm: &VmBase, m: &Message, shorthand: Shorthand, from: Option<Sender>) -> i32 {
    let rules = rules(vm);
    let matches = |v: &VcpuShared| {
        v.published
            .address()
            .matches(v.index, m, shorthand, from, rules)
    };
    if m.picks_one() && shorthand == Shorthand::None {
        let best = vm
            .vcpus
            .iter()
            .filter(|v| matches(v) && v.published.accepts_fixed())
            .min_by_key(|v| v.published.arbitration());
        return match best {
            Some(v) if post(v, m) => 1,
            _ => -1,
        };
    }
    let mut taken = -1;
    for v in vm.vcpus.iter().filter(|v| matches(v)) {
        let one = i32::from(post(v, m));
        taken = if taken < 0 {
            one
        } else {
            one.wrapping_add(taken)
        };
    }
    taken
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
