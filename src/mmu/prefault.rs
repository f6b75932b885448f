// SPDX-License-Identifier: GPL-2.0

//! KVM_PRE_FAULT_MEMORY: maps guest memory before the guest asks for it.

use super::fault::attempt;
use super::fault::Outcome;
use crate::backend::Backend;
use crate::vcpu::Cx;
use core::sync::atomic::Ordering::Relaxed;
use kernel::prelude::*;
use model::abi::KvmPreFaultMemory;
use model::addr::Gpa;
use model::addr::PAGE_SIZE;
use model::tdp::Prot;

/// Maps the pages of `range` as if the guest had read them, and takes what was done off it.
///
/// EINVAL for a range that is empty, unaligned or wraps. If the first page cannot be mapped: ENOENT
/// without memory there, EAGAIN if the slot is just going, EFAULT, ENOMEM, EINTR, EIO for a dead VM.
pub(crate) fn pre_fault<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    range: &mut KvmPreFaultMemory,
) -> Result {
    let low = PAGE_SIZE - 1;
    let wraps = range
        .gpa
        .checked_add(range.size)
        .is_none_or(|e| e <= range.gpa);
    if range.flags != 0 || (range.gpa | range.size) & low != 0 || wraps {
        return Err(EINVAL);
    }
    let mut first = true;
    while range.size != 0 {
        match one(cx, Gpa(range.gpa)) {
            Ok(next) => {
                let n = range.size.min(next.wrapping_sub(range.gpa));
                range.gpa = range.gpa.wrapping_add(n);
                range.size = range.size.wrapping_sub(n);
            }
            Err(e) if first => return Err(e),
            Err(_) => break,
        }
        first = false;
        host::task::cond_resched();
    }
    Ok(())
}

/// Maps the page at `gpa`; the end of the leaf that maps it.
fn one<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: Gpa) -> Result<u64> {
    loop {
        if host::task::signal_pending() {
            return Err(EINTR);
        }
        if cx.vm.base.dead.load(Relaxed) {
            return Err(EIO);
        }
        let space = cx.space();
        let level = match attempt(cx.vm, space, &mut cx.st.tables, gpa.gfn(), Prot::R) {
            Outcome::Fixed(level) | Outcome::Spurious(level) => level,
            Outcome::Retry => {
                if going(cx, gpa) {
                    return Err(EAGAIN);
                }
                host::task::cond_resched();
                continue;
            }
            Outcome::Device => return Err(ENOENT),
            Outcome::Signal => return Err(EINTR),
            Outcome::Unbacked(e) => return Err(e),
            Outcome::NoMemory => return Err(ENOMEM),
        };
        let bytes = PAGE_SIZE.wrapping_shl(u32::from(level).wrapping_sub(1).wrapping_mul(9));
        return Ok((gpa.0 & !bytes.wrapping_sub(1)).wrapping_add(bytes));
    }
}

/// Is the slot of `gpa` about to be deleted or moved? KVM_RUN waits for that, this does not.
fn going<V: Backend>(cx: &Cx<'_, '_, V>, gpa: Gpa) -> bool {
    let slots = cx.vm.base.slots.space(cx.space());
    slots.find(gpa.gfn()).is_some_and(|s| s.invalid)
}
