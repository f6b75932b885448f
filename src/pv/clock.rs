// SPDX-License-Identifier: GPL-2.0

//! kvmclock: the system time that the guest computes from its TSC, and the wall clock.
//!
//! The guest gives the address of a `struct pvclock_vcpu_time_info` by MSR; the host writes there
//! how to get from TSC ticks to nanoseconds. A guest reads it under a version that is odd while it
//! is being written.
//!
//! While the host's own clock is the TSC, a VM has one pair of time and TSC that the pages of all its
//! vCPUs are computed from: they then agree to the nanosecond, and the guest may compare times of
//! different vCPUs (PVCLOCK_TSC_STABLE_BIT). Else each page is computed from the time of its update,
//! which is repeated whenever the vCPU is loaded.

use super::VmClock;
use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::Cx;
use crate::vm::VmBase;
use core::sync::atomic::fence;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use host::gtod;
use host::gtod::GtodEvents;
use host::gtod::TimePair;
use host::pin::with_irqs_off;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmClockData;
use model::abi::KvmClockPairing;
use model::abi::PvclockVcpuTimeInfo;
use model::abi::PvclockWallClock;
use model::addr::Gpa;
use model::policy::clock::Scale;

/// How often the host's clock has begun or ceased to be its TSC; odd while it is. No vCPU is in the
/// guest while it does: the kernel stops all CPUs for that, so that they are loaded anew.
static SWITCHES: AtomicU64 = AtomicU64::new(0);

/// How often the host was about to be suspended. Every vCPU is loaded anew after that.
static SUSPENDS: AtomicU64 = AtomicU64::new(0);

/// Follows the host's timekeeper.
pub(crate) struct HostClock;

impl GtodEvents for HostClock {
    fn changed(&self, tsc: bool, _stepped: bool) {
        if drifts() == tsc {
            SWITCHES.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn suspending(&self) {
        SUSPENDS.fetch_add(1, Ordering::Relaxed);
    }
}

/// How often the host's clock has begun or ceased to be its TSC.
#[inline]
pub(crate) fn switches() -> u64 {
    SWITCHES.load(Ordering::Relaxed)
}

/// How often the host was about to be suspended.
#[inline]
pub(crate) fn suspends() -> u64 {
    SUSPENDS.load(Ordering::Relaxed)
}

/// Must the clock page of a vCPU be computed anew whenever the vCPU is loaded?
#[inline]
pub(crate) fn drifts() -> bool {
    switches() & 1 == 0
}

impl VmClock {
    /// Must the clock pages of this VM be?
    #[inline]
    pub(crate) fn drifts(&self) -> bool {
        drifts() || self.old_guest.load(Ordering::Relaxed)
    }
}

/// The clock of a VM.
pub(super) struct Base {
    /// The host's time (since boot, at the raw rate) and TSC of one moment; none if the host's clock
    /// was not the TSC.
    pair: Option<TimePair>,
    /// [`SWITCHES`] before that moment: the pair is worth nothing after another one.
    switches: u64,
    /// Added to the host's time to get the VM's, ns.
    offset: u64,
}

impl Base {
    /// A clock that is 0 now.
    pub(super) fn new() -> Self {
        Self::at(0)
    }

    /// A clock that is this many ns now.
    fn at(ns: u64) -> Self {
        let switches = switches();
        let (pair, now) = host_now();
        Self {
            pair,
            switches,
            offset: ns.wrapping_sub(now.ns),
        }
    }

    /// Goes on with another pair from now on.
    fn renew(&mut self) {
        self.switches = switches();
        self.pair = host_now().0;
    }
}

/// The pair that all vCPUs share, while the host can be trusted to keep it true and the guest can work
/// with it.
fn shared_pair(c: &VmClock, base: &mut Base) -> Option<TimePair> {
    if c.drifts() || host::cpu::tsc_unstable() {
        return None;
    }
    if base.switches != switches() {
        // Time went on by another clock meanwhile, and not just as the TSC would have it.
        base.renew();
    }
    base.pair
}

/// The host's time and TSC. The pair belongs together only if it is there twice.
fn host_now() -> (Option<TimePair>, TimePair) {
    let s = gtod::snapshot();
    match s.boot_raw() {
        Some(p) => (Some(p), p),
        None => {
            // Nothing may come in between.
            let pair = with_irqs_off(|_| TimePair {
                ns: s.boot_raw_ns(),
                tsc: host::clock::rdtsc(),
            });
            (None, pair)
        }
    }
}

/// The VM's clock goes on with the host's time from now on.
pub(super) fn renew(c: &VmClock) {
    c.base.lock().renew();
}

/// PVCLOCK_TSC_STABLE_BIT.
const TSC_STABLE: u8 = 1 << 0;
/// PVCLOCK_GUEST_STOPPED.
const GUEST_STOPPED: u8 = 1 << 1;
/// Bit 0 of the MSR: enabled.
const ENABLED: u64 = 1;

/// The VM's clock at the moment when the host's TSC is `tsc`, ns: what a guest would compute.
fn at_tsc(base: &Base, pair: TimePair, tsc: u64) -> u64 {
    let since = Scale::of(host::cpu::tsc_khz()).ns(tsc.wrapping_sub(pair.tsc));
    pair.ns.wrapping_add(base.offset).wrapping_add(since)
}

/// Is the clock page in use? Its address.
fn page<V: Backend>(cx: &Cx<'_, '_, V>) -> Option<Gpa> {
    let m = cx.st.msrs.state.system_time;
    (m & ENABLED != 0).then_some(Gpa(m & !ENABLED))
}

/// The guest set up its clock page, or user space for it; `old` by the register of the first version.
///
/// KVM: some guests that use that one take times from long ago for wrong. What the boot vCPU does
/// decides for all.
pub(crate) fn enable<V: Backend>(cx: &mut Cx<'_, '_, V>, old: bool, by_user: bool) {
    refresh(cx);
    let vm = &cx.vm.base;
    if cx.vcpu.shared.id == 0 && !by_user && vm.clock.old_guest.swap(old, Ordering::Relaxed) != old
    {
        // What the guest saw last may not be what the pair of before says.
        renew(&vm.clock);
        vm.request_all(Request::ClockUpdate);
    }
}

/// Writes the clock page before the next entry.
pub(crate) fn refresh<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    if page(cx).is_some() {
        cx.vcpu.shared.request(Request::ClockUpdate);
    }
}

/// Writes the clock page.
pub(crate) fn update<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let slept = cx.vcpu.shared.follows_clock(switches(), suspends());
    let Some(gpa) = page(cx) else {
        return;
    };
    let vm = &cx.vm.base;
    let Ok(old) = vm.read_guest_val::<PvclockVcpuTimeInfo>(gpa) else {
        return;
    };
    // A guest that has not seen the flag yet keeps it.
    let mut flags = old.flags & GUEST_STOPPED;
    if core::mem::take(&mut cx.st.pv.paused) || slept {
        flags |= GUEST_STOPPED;
    }
    let (pair, offset) = {
        let mut base = vm.clock.base.lock();
        let pair = match shared_pair(&vm.clock, &mut base) {
            Some(p) => {
                if super::tsc::all_match(vm) {
                    flags |= TSC_STABLE;
                }
                p
            }
            None => host_now().1,
        };
        (pair, base.offset)
    };
    let Scale { mul, shift } = Scale::of(cx.st.pv.guest_khz());
    let version = (old.version | 1).wrapping_add(1);
    let mut info = PvclockVcpuTimeInfo {
        version: version.wrapping_add(1),
        pad0: 0,
        tsc_timestamp: cx.st.pv.tsc_at(pair.tsc),
        system_time: pair.ns.wrapping_add(offset),
        tsc_to_system_mul: mul,
        tsc_shift: shift,
        flags,
        pad: [0; 2],
    };
    // Odd first, the rest, then even: a reader on another CPU notices.
    if vm.write_guest_val(gpa, &info.version).is_err() {
        return;
    }
    fence(Ordering::SeqCst);
    let _ = vm.write_guest_val(gpa, &info);
    fence(Ordering::SeqCst);
    info.version = version.wrapping_add(2);
    let _ = vm.write_guest_val(gpa, &info.version);
}

/// Where the guest wanted the time of day at which the VM's clock was 0.
pub(crate) fn wall_clock(vm: &VmBase) -> u64 {
    vm.clock.wall.load(Ordering::Relaxed)
}

/// Writes it there.
pub(crate) fn write_wall_clock(vm: &VmBase, gpa: u64) {
    vm.clock.wall.store(gpa, Ordering::Relaxed);
    if gpa == 0 {
        return;
    }
    let Ok(old) = vm.read_guest_val::<u32>(Gpa(gpa)) else {
        return;
    };
    let odd = old | 1;
    let d = get(vm);
    let real = match d.flags & abi::KVM_CLOCK_REALTIME {
        0 => host::clock::real_ns(),
        _ => d.realtime,
    };
    let start = real.wrapping_sub(d.clock);
    let mut w = PvclockWallClock {
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
    let mut base = vm.clock.base.lock();
    let pair = shared_pair(&vm.clock, &mut base);
    let real = gtod::snapshot().realtime();
    match (pair, real) {
        (Some(pair), Some(real)) => {
            d.clock = at_tsc(&base, pair, real.tsc);
            d.realtime = real.ns;
            d.host_tsc = real.tsc;
            d.flags = abi::KVM_CLOCK_REALTIME | abi::KVM_CLOCK_HOST_TSC;
            if super::tsc::all_match(vm) {
                d.flags |= abi::KVM_CLOCK_TSC_STABLE;
            }
        }
        _ => {
            d.clock = host_now().1.ns.wrapping_add(base.offset);
        }
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
    *vm.clock.base.lock() = Base::at(clock);
    vm.request_all(Request::ClockUpdate);
    Ok(0)
}

/// KVM_HC_CLOCK_PAIRING: writes the host's time of day and the guest's TSC of the same moment.
/// KVM_EOPNOTSUPP for another kind of clock, or while the host's clock is not the TSC; KVM_EFAULT.
pub(crate) fn pairing<V: Backend>(cx: &Cx<'_, '_, V>, gpa: u64, kind: u64) -> Result<(), u64> {
    let real = gtod::snapshot().realtime();
    let Some(real) = real.filter(|_| kind == abi::KVM_CLOCK_PAIRING_WALLCLOCK) else {
        return Err(abi::KVM_EOPNOTSUPP);
    };
    let mut p = KvmClockPairing::zeroed();
    // CAST: seconds fit 63 bits, their fraction is below a billion.
    p.sec = (real.ns / 1_000_000_000) as i64;
    p.nsec = (real.ns % 1_000_000_000) as i64;
    p.tsc = cx.st.pv.tsc_at(real.tsc);
    let done = cx.vm.base.write_guest_val(Gpa(gpa), &p);
    done.map_err(|_| abi::KVM_EFAULT)
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
