// SPDX-License-Identifier: GPL-2.0

//! KVM's hypercalls: VMCALL or VMMCALL with a number in RAX.

use crate::backend::Backend;
use crate::irq::deliver;
use crate::pv::clock;
use crate::pv::spin;
use crate::vcpu::fetch;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use model::policy::pv;
use model::stats::VcpuStat;
use model::x86::apic::Delivery;
use model::x86::apic::Message;
use model::x86::state::gpr;
use model::x86::state::CodeSize;

/// KVM_HC_VAPIC_POLL_IRQ: nothing to do; that it exits is the point.
const HC_VAPIC_POLL_IRQ: u64 = 1;
/// KVM_HC_KICK_CPU.
const HC_KICK_CPU: u64 = 5;
/// KVM_HC_CLOCK_PAIRING.
const HC_CLOCK_PAIRING: u64 = 9;
/// KVM_HC_SEND_IPI.
const HC_SEND_IPI: u64 = 10;
/// KVM_HC_SCHED_YIELD.
const HC_SCHED_YIELD: u64 = 11;
/// KVM_HC_MAP_GPA_RANGE.
const HC_MAP_GPA_RANGE: u64 = 12;
/// -KVM_ENOSYS.
const ENOSYS: u64 = (-1000i64) as u64;
/// -KVM_EPERM.
const EPERM: u64 = (-1i64) as u64;
/// -KVM_EINVAL.
const EINVAL: u64 = (-22i64) as u64;

/// Carries out a hypercall. Unknown numbers get -KVM_ENOSYS, callers outside the kernel -KVM_EPERM.
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    cx.count(VcpuStat::Hypercalls);
    let long = cx.code_size() == CodeSize::Bits64;
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    let r = &V::regs(cx.l).gpr;
    let [nr, a0, a1, a2, a3] = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI].map(|i| {
        // PANIC: constants below 16.
        r.get(i).copied().unwrap_or(0) & mask
    });
    if V::cpl(cx.l) != 0 {
        return answer(cx, EPERM, mask);
    }
    let has = cx.st.pv_features();
    let result = match nr {
        HC_VAPIC_POLL_IRQ => 0,
        HC_KICK_CPU if has & pv::PV_UNHALT != 0 => {
            kick(cx, a1);
            spin::yield_to(cx, a1);
            0
        }
        HC_SEND_IPI if has & pv::PV_SEND_IPI != 0 => send_ipi(cx, [a0, a1], a2, a3, long),
        HC_CLOCK_PAIRING => match clock::pairing(cx, a0, a1) {
            Ok(()) => 0,
            Err(e) => e.wrapping_neg(),
        },
        HC_SCHED_YIELD if has & pv::PV_SCHED_YIELD != 0 => {
            spin::yield_to(cx, a0);
            0
        }
        HC_MAP_GPA_RANGE if cx.vm.base.caps.hypercall_exits() & (1 << HC_MAP_GPA_RANGE) != 0 => {
            let first = a0 >> model::addr::PAGE_SHIFT;
            if a0 & (model::addr::PAGE_SIZE - 1) != 0 || a1 == 0 || first.checked_add(a1).is_none()
            {
                return answer(cx, EINVAL, mask);
            }
            cx.st.pending = Pending::Hypercall;
            return UserExit::Hypercall {
                nr,
                args: [a0, a1, a2],
                long,
            }
            .leave(cx);
        }
        _ => ENOSYS,
    };
    answer(cx, result, mask)
}

fn answer<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64, mask: u64) -> Flow {
    cx.set_gpr(0, v & mask);
    fetch::skip(cx)
}

/// Ends the halt of the vCPU with this APIC id.
fn kick<V: Backend>(cx: &Cx<'_, '_, V>, apic_id: u64) {
    let m = Message {
        // CAST: ids have 32 bits.
        delivery: Delivery::RemoteRead,
        ..Message::fixed(apic_id as u32, 0)
    };
    deliver::message(&cx.vm.base, &m);
}

/// Destination mode and shorthand in the command register: the bitmap takes their place.
const ICR_DESTINATION: u64 = 1 << 11 | 3 << 18;

/// Sends a fixed interrupt or NMI to the vCPUs of a bitmap, the first of which has the APIC id
/// `min`: the number of vCPUs it reached.
fn send_ipi<V: Backend>(
    cx: &Cx<'_, '_, V>,
    bitmap: [u64; 2],
    min: u64,
    icr: u64,
    long: bool,
) -> u64 {
    // CAST: the command register's low half, and ids of 32 bits.
    let command = model::x86::apic::Ipi::from_icr(icr as u32, 0).message;
    if !matches!(command.delivery, Delivery::Fixed | Delivery::Nmi) || icr & ICR_DESTINATION != 0 {
        return EINVAL;
    }
    let mut count = 0u64;
    // Registers have 32 bits outside 64-bit mode.
    let bits = if long { 64u32 } else { 32 };
    for (word, from) in bitmap.into_iter().zip([0, bits]) {
        for i in (0..bits).filter(|i| word.wrapping_shr(*i) & 1 != 0) {
            // CAST: ids have 32 bits, and none comes after the last.
            let Some(dest) = (min as u32).checked_add(from.wrapping_add(i)) else {
                break;
            };
            let m = Message {
                dest,
                logical: false,
                ..command
            };
            if deliver::to_id(&cx.vm.base, &m) > 0 {
                count = count.wrapping_add(1);
            }
        }
    }
    count
}
