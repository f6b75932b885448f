// SPDX-License-Identifier: GPL-2.0

//! Reading the host's clocks. Any context.

use core::arch::x86_64::_mm_lfence;
use core::arch::x86_64::_rdtsc;
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
