// SPDX-License-Identifier: GPL-2.0

//! Registers exchanged through the run page (KVM_CAP_SYNC_REGS).

use super::regs;
use super::sregs;
use super::Cx;
use crate::backend::Backend;
use core::mem::offset_of;
use kernel::prelude::*;
use model::abi;
use model::abi::run as at;
use model::abi::KvmSyncRegs;

/// Takes the registers that user space marked dirty. EINVAL for bits that do not exist.
pub(crate) fn load<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Result {
    let run = &cx.vcpu.run;
    let valid = run.read_u64(at::KVM_VALID_REGS);
    let dirty = run.read_u64(at::KVM_DIRTY_REGS);
    if (valid | dirty) & !abi::KVM_SYNC_X86_VALID_FIELDS != 0 {
        return Err(EINVAL);
    }
    if dirty == 0 {
        return Ok(());
    }
    load_dirty(cx, dirty)
}

#[inline(never)]
fn load_dirty<V: Backend>(cx: &mut Cx<'_, '_, V>, dirty: u64) -> Result {
    let vcpu = cx.vcpu;
    let done = |bit: u64| {
        // KVM: each bit is cleared once its registers were taken.
        let now = vcpu.run.read_u64(at::KVM_DIRTY_REGS);
        vcpu.run.write(at::KVM_DIRTY_REGS, &(now & !bit));
    };
    if dirty & abi::KVM_SYNC_X86_REGS != 0 {
        let r = vcpu.run.read(at::SYNC_REGS + offset_of!(KvmSyncRegs, regs));
        regs::set_regs(cx, &r);
        done(abi::KVM_SYNC_X86_REGS);
    }
    if dirty & abi::KVM_SYNC_X86_SREGS != 0 {
        let s = vcpu
            .run
            .read(at::SYNC_REGS + offset_of!(KvmSyncRegs, sregs));
        sregs::set(cx, &s)?;
        done(abi::KVM_SYNC_X86_SREGS);
    }
    if dirty & abi::KVM_SYNC_X86_EVENTS != 0 {
        let e = vcpu
            .run
            .read(at::SYNC_REGS + offset_of!(KvmSyncRegs, events));
        regs::set_events(cx, &e)?;
        done(abi::KVM_SYNC_X86_EVENTS);
    }
    Ok(())
}

/// Stores the registers that user space asked for.
#[inline]
pub(crate) fn store<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let valid = cx.vcpu.run.read_u64(at::KVM_VALID_REGS);
    if valid & abi::KVM_SYNC_X86_VALID_FIELDS != 0 {
        store_valid(cx, valid);
    }
}

#[inline(never)]
fn store_valid<V: Backend>(cx: &mut Cx<'_, '_, V>, valid: u64) {
    let vcpu = cx.vcpu;
    if valid & abi::KVM_SYNC_X86_REGS != 0 {
        let r = regs::get_regs(cx);
        vcpu.run
            .write(at::SYNC_REGS + offset_of!(KvmSyncRegs, regs), &r);
    }
    if valid & abi::KVM_SYNC_X86_SREGS != 0 {
        let s = sregs::get(cx);
        vcpu.run
            .write(at::SYNC_REGS + offset_of!(KvmSyncRegs, sregs), &s);
    }
    if valid & abi::KVM_SYNC_X86_EVENTS != 0 {
        let e = regs::get_events(cx);
        vcpu.run
            .write(at::SYNC_REGS + offset_of!(KvmSyncRegs, events), &e);
    }
}
