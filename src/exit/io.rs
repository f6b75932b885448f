// SPDX-License-Identifier: GPL-2.0

//! Port accesses: devices in the kernel first, else user space.

use super::emulate;
use crate::backend::Backend;
use crate::vcpu::fetch;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::exit::IoAccess;
use model::stats::VcpuStat;
use model::x86::state::gpr;

/// The port whose OUT is stepped over before the exit, for old firmware (KVM_X86_QUIRK_OUT_7E_INC_RIP).
const QUIRK_PORT: u16 = 0x7e;

/// IN and OUT; INS and OUTS go to the emulator.
#[inline(never)]
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let a = &V::port_access(cx.l);
    cx.count(VcpuStat::IoExits);
    if a.string {
        return emulate::instruction(cx);
    }
    let n = usize::from(a.size.min(4));
    if a.write {
        let value = V::regs(cx.l).gpr[gpr::RAX] as u32;
        let data = value.to_le_bytes();
        let bytes = data.get(..n).unwrap_or(&data);
        if cx.port_write(a.port, bytes) {
            return fetch::skip(cx);
        }
        let pio = &cx.vcpu.pio;
        match n {
            1 => pio.write_u8(0, value as u8),
            2 => pio.write_u16(0, value as u16),
            _ => pio.write_u32(0, value),
        }
    } else {
        let mut data = [0u8; 4];
        let bytes = data.get_mut(..n).unwrap_or(&mut []);
        if cx.port_read(a.port, bytes) {
            set_in_result(cx, a.size, u32::from_le_bytes(data));
            return fetch::skip(cx);
        }
    }
    to_user(cx, a)
}

/// Hands the access to user space, which finishes it before the next entry.
fn to_user<V: Backend>(cx: &mut Cx<'_, '_, V>, a: &IoAccess) -> Flow {
    let rip = cx.linear_rip();
    let early =
        a.write && a.port == QUIRK_PORT && cx.vm.base.caps.quirk(abi::KVM_X86_QUIRK_OUT_7E_INC_RIP);
    if early {
        fetch::skip(cx)?;
    } else {
        let Some(next) = cx.next_rip() else {
            return Continue(());
        };
        cx.st.pending = if a.write {
            Pending::Out { rip, next }
        } else {
            Pending::In {
                size: a.size,
                rip,
                next,
            }
        };
    }
    user_exit::leave_for_port(cx, a.write, a.size, a.port)
}

/// Puts what IN read into AL, AX or EAX.
pub(crate) fn set_in_result<V: Backend>(cx: &mut Cx<'_, '_, V>, size: u8, v: u32) {
    let rax = &mut V::regs_mut(cx.l).gpr[gpr::RAX];
    *rax = match size {
        1 => *rax & !0xff | u64::from(v) & 0xff,
        2 => *rax & !0xffff | u64::from(v) & 0xffff,
        // A 32-bit result clears the upper half.
        _ => u64::from(v),
    };
}
