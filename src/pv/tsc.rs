// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter: host TSC, at another rate where the hardware can, plus an offset.

use super::VmClock;
use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::state::Apic;
use crate::vcpu::Cx;
use crate::vm::VmBase;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use model::irqchip::lapic::Now;
use model::policy::tsc::Rate;

/// Writes of the TSC that mean the same moment as the last one, ns: user space restores vCPUs one
/// after the other, and they shall not drift apart by that.
const SAME_MOMENT_NS: u64 = 1_000_000_000;

impl<V: Backend> Cx<'_, '_, V> {
    /// The guest's TSC now.
    #[inline]
    pub(crate) fn guest_tsc(&self) -> u64 {
        self.st.pv.tsc_at(host::clock::rdtsc())
    }

    /// Now, for an access to the local APIC's register at this offset, if it asks for the time.
    #[inline]
    pub(crate) fn now_for(&self, offset: u32) -> Now {
        if Apic::needs_time(offset) {
            self.now()
        } else {
            Now::default()
        }
    }

    /// Now, for the local APIC.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        Now {
            ns: host::clock::now_ns(),
            tsc: self.guest_tsc(),
            tsc_khz: self.st.pv.tsc_khz,
        }
    }
}

/// The offset that a new vCPU starts with: all vCPUs of a VM count from the same moment.
pub(crate) fn initial_offset(c: &VmClock, rate: Rate) -> u64 {
    if !c.tsc_known.swap(true, Ordering::AcqRel) {
        c.tsc_offset.store(
            rate.scale(host::clock::rdtsc()).wrapping_neg(),
            Ordering::Release,
        );
    }
    follow_vm(c, rate);
    c.tsc_offset.load(Ordering::Acquire)
}

/// The host's TSC lost its count in a suspend. The guests' go on from where they were.
///
/// KVM: so does the in-tree module.
pub(crate) fn follow_host<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let lost = cx.vcpu.shared.take_tsc_lost();
    if lost != 0 {
        let rate = cx.st.pv.rate;
        follow_vm(&cx.vm.base.clock, rate);
        set_offset(cx, cx.st.pv.tsc_offset.wrapping_add(rate.scale(lost)));
    }
    cx.renew_deadline();
}

/// The same for what the VM keeps for all vCPUs: once, by whichever comes first.
fn follow_vm(c: &VmClock, rate: Rate) {
    let now = host::clock::tsc_lost();
    let lost = now.wrapping_sub(c.tsc_lost.swap(now, Ordering::AcqRel));
    if lost != 0 {
        c.tsc_offset.fetch_add(rate.scale(lost), Ordering::AcqRel);
        super::clock::renew(c);
    }
}

/// Gives the offset to the hardware.
pub(crate) fn apply<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let offset = cx.st.pv.tsc_offset;
    cx.vcpu.shared.set_tsc_offset(offset);
    V::set_tsc(cx.l, offset, cx.st.pv.rate.ratio());
}

/// Do the TSCs of all vCPUs show the same?
pub(super) fn all_match(vm: &VmBase) -> bool {
    let mut all = vm.vcpus.iter().map(|v| v.tsc_offset());
    match all.next() {
        Some(first) => all.all(|o| o == first),
        None => true,
    }
}

fn set_offset<V: Backend>(cx: &mut Cx<'_, '_, V>, offset: u64) {
    let moved = offset != cx.st.pv.tsc_offset;
    cx.st.pv.tsc_offset = offset;
    apply(cx);
    if moved {
        // Whether all TSCs agree is in everybody's page.
        cx.vm.base.request_all(Request::ClockUpdate);
    }
    let now = cx.now();
    if let Some(a) = &mut cx.st.apic {
        let e = a.tsc_changed(now);
        cx.apply(&e);
    }
}

/// A write of IA32_TSC.
pub(crate) fn write<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64, by_user: bool) {
    let offset = v.wrapping_sub(cx.st.pv.rate.scale(host::clock::rdtsc()));
    if !by_user {
        let moved = offset.wrapping_sub(cx.st.pv.tsc_offset);
        cx.st.msrs.state.tsc_adjust = cx.st.msrs.state.tsc_adjust.wrapping_add(moved);
        set_offset(cx, offset);
        return;
    }
    // A write by user space that agrees with the VM's other vCPUs up to the time it took to get
    // here joins them exactly.
    let c = &cx.vm.base.clock;
    let shared = c.tsc_offset.load(Ordering::Acquire);
    // CAST: the distance either way.
    let apart = offset.wrapping_sub(shared) as i64;
    let khz = u64::from(cx.st.pv.tsc_khz);
    let limit = khz.wrapping_mul(SAME_MOMENT_NS / 1_000_000);
    if v == 0 || apart.unsigned_abs() < limit {
        set_offset(cx, shared);
    } else {
        c.tsc_offset.store(offset, Ordering::Release);
        set_offset(cx, offset);
    }
}

/// The offset, for user space (KVM_VCPU_TSC_OFFSET).
pub(crate) fn offset<V: Backend>(cx: &Cx<'_, '_, V>) -> u64 {
    cx.st.pv.tsc_offset
}

/// User space sets the offset; vCPUs that come later join this one.
pub(crate) fn set_user_offset<V: Backend>(cx: &mut Cx<'_, '_, V>, offset: u64) {
    let c = &cx.vm.base.clock;
    c.tsc_offset.store(offset, Ordering::Release);
    set_offset(cx, offset);
}

/// A write of IA32_TSC_ADJUST that moves the TSC by `d`.
pub(crate) fn adjust<V: Backend>(cx: &mut Cx<'_, '_, V>, d: u64) {
    let offset = cx.st.pv.tsc_offset.wrapping_add(d);
    set_offset(cx, offset);
}

/// The rate of a TSC that counts `khz`; the host's if that is close enough.
pub(crate) fn rate<V: Backend>(khz: u32) -> Rate {
    let f = V::host_features();
    let host = host::cpu::tsc_khz();
    if is_close(khz, host) {
        return Rate::host(f.tsc_frac_bits);
    }
    Rate::new(khz, host, f.tsc_frac_bits).unwrap_or(Rate::host(f.tsc_frac_bits))
}

/// KVM_SET_TSC_KHZ on a vCPU. 0 means the host's. EINVAL for a frequency that the hardware cannot
/// give the guest.
pub(crate) fn set_khz<V: Backend>(cx: &mut Cx<'_, '_, V>, khz: usize) -> Result {
    cx.st.pv.tsc_khz = check::<V>(khz)?;
    cx.st.pv.rate = rate::<V>(cx.st.pv.tsc_khz);
    apply(cx);
    cx.vcpu.shared.request(Request::ClockUpdate);
    Ok(())
}

/// KVM_SET_TSC_KHZ on a VM: for vCPUs to come. EINVAL after a vCPU.
pub(crate) fn set_vm_khz<V: Backend>(vm: &VmBase, khz: usize) -> Result<isize> {
    let mut setup = vm.setup.lock();
    let khz = check::<V>(khz)?;
    if vm.vcpus.count() != 0 {
        return Err(EINVAL);
    }
    setup.tsc_khz = khz;
    Ok(0)
}

/// Frequencies within this of the host's count as the host's (module parameter
/// `tsc_tolerance_ppm`).
fn is_close(khz: u32, host: u32) -> bool {
    let slack = u64::from(host).wrapping_mul(u64::from(host::params::tsc_tolerance_ppm()));
    let apart = u64::from(khz.abs_diff(host)).wrapping_mul(1_000_000);
    apart <= slack
}

/// A frequency that a guest can have, kHz; the host's for 0.
fn check<V: Backend>(khz: usize) -> Result<u32> {
    let host = host::cpu::tsc_khz();
    let khz = u32::try_from(khz).map_err(|_| EINVAL)?;
    if khz == 0 {
        return Ok(host);
    }
    let frac = V::host_features().tsc_frac_bits;
    if is_close(khz, host) || Rate::new(khz, host, frac).is_some() {
        Ok(khz)
    } else {
        Err(EINVAL)
    }
}
