// SPDX-License-Identifier: GPL-2.0

//! Reading the host's clocks. Any context.

use core::arch::x86_64::_mm_lfence;
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::bindings;

/// The monotonic clock, ns.
#[inline]
pub fn now_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get() as u64 }
}

/// The monotonic clock that also counts while the machine is suspended, ns.
#[inline]
pub fn boot_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get_boottime() as u64 }
}

/// The time of day, ns since 1970.
#[inline]
pub fn real_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get_real() as u64 }
}

/// The monotonic clock at the raw frequency of its hardware, ns.
#[inline]
pub fn raw_ns() -> u64 {
    // SAFETY: No requirements.
    unsafe { bindings::ktime_get_raw() as u64 }
}

/// This CPU's time-stamp counter. Not read before the instructions in front of it have completed.
#[inline]
pub fn rdtsc() -> u64 {
    // SAFETY: The kernel requires SSE2 and the TSC for a 64-bit CPU.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The time-stamp counter and the boot clock (ns) at nearly the same moment.
///
/// The pair is bracketed: of a few attempts the one that took the fewest ticks counts.
pub fn tsc_and_boot_ns() -> (u64, u64) {
    let mut best = (0, 0);
    let mut least = u64::MAX;
    for _ in 0..3 {
        let before = rdtsc();
        let ns = boot_ns();
        let took = rdtsc().wrapping_sub(before);
        if took < least {
            least = took;
            best = (before.wrapping_add(took / 2), ns);
        }
    }
    best
}

/// The TSC when the machine was suspended last.
static AT_SUSPEND: AtomicU64 = AtomicU64::new(0);
/// See [`tsc_lost`].
static LOST: AtomicU64 = AtomicU64::new(0);

/// By how many ticks the TSC has gone back since the module was loaded: it loses its count when the
/// machine loses power in a suspend. A time in ticks from before it changed means another one now.
#[inline]
pub fn tsc_lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// The machine is about to be suspended. On the last CPU.
pub(crate) fn suspend() {
    AT_SUSPEND.store(rdtsc(), Ordering::Relaxed);
}

/// It is back. On the first CPU, before any thread runs.
pub(crate) fn resume() {
    let lost = AT_SUSPEND.load(Ordering::Relaxed).saturating_sub(rdtsc());
    LOST.fetch_add(lost, Ordering::Relaxed);
}
