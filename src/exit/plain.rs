// SPDX-License-Identifier: GPL-2.0

//! Plain moves to and from device memory, without the emulator.
//!
//! The hardware has translated the address and checked the access before it found nothing in the
//! nested tables. What is left of a MOV is its data. Neither here nor in the emulator do breakpoints on
//! data or alignment checks count.

use super::mmio;
use crate::backend::Backend;
use crate::mmu::marker;
use crate::vcpu::fetch;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::addr::PAGE_SIZE;
use model::emul::decode::Insn;
use model::emul::decode::Map;
use model::emul::plain::Plain;
use model::exit::NestedFault;
use model::stats::VcpuStat;

/// A plain move whose data user space has.
#[derive(Clone, Copy)]
pub(crate) struct Moved {
    plain: Plain,
    /// Linear address of the instruction.
    rip: u64,
    /// RIP behind it.
    next: u64,
}

/// The register and the displacement whose sum is the address of the operand, where it is no more
/// than that.
fn place(insn: &Insn) -> Option<(u8, u64)> {
    let offset_only = insn.map == Map::One && insn.opcode & 0xfc == 0xa0;
    let relative = insn.modrm & 7 == 5 && insn.md() == 0;
    let plain = insn.addr_size == 8 && insn.sib.is_none() && insn.seg.is_none();
    // CAST: sign-extended.
    let disp = i64::from(insn.disp) as u64;
    (plain && !offset_only && !relative).then_some((insn.rm(), disp))
}

/// Carries out the instruction that met with `f`, an address without memory, if it is a plain move.
/// None, and nothing has happened, if that is the emulator's to do.
pub(crate) fn access<V: Backend>(cx: &mut Cx<'_, '_, V>, f: &NestedFault) -> Option<Flow> {
    // Not the operand of the instruction at RIP: a table, the instruction itself, or an event's
    // delivery.
    if f.walk || f.fetch || cx.st.events.reinjects() {
        return None;
    }
    let insn = cx.instruction()?;
    let (plain, len) = (Plain::of(insn)?, insn.len);
    let place = place(insn);
    let next = cx.rip_behind(len);
    if f.write && plain.writes() && cx.vm.base.bus.write_any_length(f.gpa.0) {
        marker::mark(cx, f.gpa.gfn());
        return Some(fetch::advance(cx, next));
    }
    let n = usize::from(plain.size);
    if plain.writes() != f.write || f.gpa.offset().wrapping_add(n as u64) > PAGE_SIZE {
        return None;
    }
    if f.gpa.offset() == 0 && n > 1 {
        // The first byte of a page, or the second half of an operand that began in the page before.
        let (base, disp) = place?;
        if cx.gpr(base).wrapping_add(disp) & (PAGE_SIZE - 1) != 0 {
            return None;
        }
    }
    let mut data = [0u8; 8];
    if f.write {
        data = plain.data(|n| cx.gpr(n)).to_le_bytes();
    }
    let bytes = data.get_mut(..n)?;
    let done = if f.write {
        mmio::write(cx, f.gpa, bytes)
    } else {
        mmio::read(cx, f.gpa, bytes)
    };
    if done {
        finish(cx, &plain, u64::from_le_bytes(data));
        return Some(fetch::advance(cx, next));
    }
    for b in data.iter_mut().skip(n) {
        *b = 0;
    }
    cx.count(VcpuStat::MmioExits);
    let rip = cx.linear_rip();
    cx.st.pending = Pending::Move(Moved { plain, rip, next });
    Some(user_exit::leave_for_memory(
        cx, f.gpa.0, data, plain.size, f.write,
    ))
}

#[inline]
fn finish<V: Backend>(cx: &mut Cx<'_, '_, V>, plain: &Plain, data: u64) {
    if let Some((n, v)) = plain.loaded(data, |n| cx.gpr(n)) {
        cx.set_gpr(n, v);
    }
}

/// User space has finished the access; `data` is what it read.
pub(crate) fn finished<V: Backend>(cx: &mut Cx<'_, '_, V>, m: &Moved, data: u64) -> Flow {
    // It may have moved the vCPU elsewhere meanwhile.
    if cx.linear_rip() == m.rip {
        finish(cx, &m.plain, data);
        return fetch::advance(cx, m.next);
    }
    Continue(())
}
