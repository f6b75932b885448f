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
