// SPDX-License-Identifier: GPL-2.0

//! kvmclock: the system time that the guest computes from its TSC, and the wall clock.
//!
//! The guest gives the address of a `struct pvclock_vcpu_time_info` by MSR; the host writes there
//! how to get from TSC ticks to nanoseconds. A guest reads it under a version that is odd while it
//! is being written.

use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::Cx;
use crate::vm::VmBase;
use core::sync::atomic::fence;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmClockData;
use model::addr::Gpa;

/// `struct pvclock_vcpu_time_info`.
#[derive(
    Clone, Copy, zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes, zerocopy_derive::Immutable,
)]
#[repr(C)]
struct TimeInfo {
    version: u32,
    pad0: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad: [u8; 2],
}

/// `struct pvclock_wall_clock`.
#[derive(
    Clone, Copy, zerocopy_derive::FromBytes, zerocopy_derive::IntoBytes, zerocopy_derive::Immutable,
)]
#[repr(C)]
struct WallClock {
    version: u32,
    sec: u32,
    nsec: u32,
}

/// PVCLOCK_TSC_STABLE_BIT.
const TSC_STABLE: u8 = 1 << 0;
/// PVCLOCK_GUEST_STOPPED.
const GUEST_STOPPED: u8 = 1 << 1;
/// Bit 0 of the MSR: enabled.
const ENABLED: u64 = 1;

/// The VM's clock now, ns.
fn now_ns(vm: &VmBase) -> u64 {
    let offset = vm.clock.offset_ns.load(Ordering::Acquire);
    // CAST: modular arithmetic on nanoseconds.
    host::clock::boot_ns().wrapping_add(offset as u64)
}

/// The multiplier and shift that turn TSC ticks of `khz` into nanoseconds:
/// `ns = ((ticks << shift) * mul) >> 32`, a negative shift being one to the right.
fn scale(khz: u32) -> (u32, i8) {
    let mut rate = u64::from(khz).wrapping_mul(1000).max(1);
    let mut shift = 0i8;
    // Bring the rate between one and two billion, so that the multiplier has 32 good bits.
    while rate > 2_000_000_000 {
        rate >>= 1;
        shift = shift.saturating_sub(1);
    }
    while rate <= 1_000_000_000 {
        rate <<= 1;
        shift = shift.saturating_add(1);
    }
    let mul = (1_000_000_000u64 << 32).checked_div(rate).unwrap_or(0);
    // CAST: the rate is above a billion, so the quotient is below 2^32.
    (mul as u32, shift)
}

/// Is the clock page in use? Its address.
fn page<V: Backend>(cx: &Cx<'_, '_, V>) -> Option<Gpa> {
    let m = cx.st.msrs.state.system_time;
    (m & ENABLED != 0).then_some(Gpa(m & !ENABLED))
}

/// The guest set up its clock page.
pub(crate) fn enable<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    refresh(cx);
}

/// Writes the clock page before the next entry.
pub(crate) fn refresh<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if page(cx).is_some() {
        cx.vcpu.shared.request(Request::ClockUpdate);
    }
}

/// Writes the clock page.
pub(crate) fn update<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let Some(gpa) = page(cx) else {
        return;
    };
    let (mul, shift) = scale(cx.st.pv.tsc_khz);
    let (tsc, boot) = host::clock::tsc_and_boot_ns();
    let offset = cx.vm.base.clock.offset_ns.load(Ordering::Acquire);
    let mut flags = if host::cpu::tsc_unstable() {
        0
    } else {
        TSC_STABLE
    };
    if core::mem::take(&mut cx.st.pv.paused) {
        flags |= GUEST_STOPPED;
    }
    let version = cx.st.pv.clock_version.wrapping_add(2);
    cx.st.pv.clock_version = version;
    let mut info = TimeInfo {
        version: version.wrapping_sub(1),
        pad0: 0,
        tsc_timestamp: tsc.wrapping_add(cx.st.pv.tsc_offset),
        // CAST: modular arithmetic on nanoseconds.
        system_time: boot.wrapping_add(offset as u64),
        tsc_to_system_mul: mul,
        tsc_shift: shift,
        flags,
        pad: [0; 2],
    };
    let vm = &cx.vm.base;
    // Odd first, the rest, then even: a reader on another CPU notices.
    if vm.write_guest_val(gpa, &info.version).is_err() {
        return;
    }
    fence(Ordering::SeqCst);
    let _ = vm.write_guest_val(gpa, &info);
    fence(Ordering::SeqCst);
    info.version = version;
    let _ = vm.write_guest_val(gpa, &info.version);
}

/// Writes the time of day at which the VM's clock was 0.
pub(crate) fn write_wall_clock<V: Backend>(cx: &mut Cx<'_, '_, V>, gpa: u64) {
    if gpa == 0 {
        return;
    }
    let vm = &cx.vm.base;
    let Ok(old) = vm.read_guest_val::<u32>(Gpa(gpa)) else {
        return;
    };
    let odd = old | 1;
    let start = host::clock::real_ns().wrapping_sub(now_ns(vm));
    let mut w = WallClock {
        version: odd,
        // CAST: seconds of this century fit; the ABI has 32 bits.
        sec: (start / 1_000_000_000) as u32,
        nsec: (start % 1_000_000_000) as u32,
    };
    if vm.write_guest_val(Gpa(gpa), &w.version).is_err() {
        return;
    }
    fence(Ordering::SeqCst);
    let _ = vm.write_guest_val(Gpa(gpa), &w);
    fence(Ordering::SeqCst);
    w.version = odd.wrapping_add(1);
    let _ = vm.write_guest_val(Gpa(gpa), &w.version);
}

/// KVM_GET_CLOCK.
pub(crate) fn get(vm: &VmBase) -> KvmClockData {
    let mut d = KvmClockData::zeroed();
    let (tsc, boot) = host::clock::tsc_and_boot_ns();
    let offset = vm.clock.offset_ns.load(Ordering::Acquire);
    // CAST: modular arithmetic on nanoseconds.
    d.clock = boot.wrapping_add(offset as u64);
    d.realtime = host::clock::real_ns();
    d.host_tsc = tsc;
    d.flags = abi::KVM_CLOCK_REALTIME | abi::KVM_CLOCK_HOST_TSC;
    if !host::cpu::tsc_unstable() {
        d.flags |= abi::KVM_CLOCK_TSC_STABLE;
    }
    d
}

/// KVM_SET_CLOCK. EINVAL for flags that do not exist.
pub(crate) fn set(vm: &VmBase, d: &KvmClockData) -> Result<isize> {
    let known = abi::KVM_CLOCK_TSC_STABLE | abi::KVM_CLOCK_REALTIME | abi::KVM_CLOCK_HOST_TSC;
    if d.flags & !known != 0 {
        return Err(EINVAL);
    }
    let mut clock = d.clock;
    if d.flags & abi::KVM_CLOCK_REALTIME != 0 {
        // The clock went on while the VM was on its way; it never goes back.
        clock = clock.wrapping_add(host::clock::real_ns().saturating_sub(d.realtime));
    }
    // CAST: modular arithmetic on nanoseconds.
    let offset = clock.wrapping_sub(host::clock::boot_ns()) as i64;
    vm.clock.offset_ns.store(offset, Ordering::Release);
    vm.request_all(Request::ClockUpdate);
    Ok(0)
}

/// KVM_KVMCLOCK_CTRL: user space stopped the guest. EINVAL if it has no clock page.
pub(crate) fn guest_paused<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Result {
    if page(cx).is_none() {
        return Err(EINVAL);
    }
    cx.st.pv.paused = true;
    refresh(cx);
    Ok(())
}
