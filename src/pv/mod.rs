// SPDX-License-Identifier: GPL-2.0

//! Time and paravirtual features.

pub(crate) mod clock;
pub(crate) mod steal;
pub(crate) mod tsc;

use core::sync::atomic::AtomicI64;
use core::sync::atomic::AtomicU64;
/// The time of a VM.
pub(crate) struct VmClock {
    /// Added to the host's boot-time clock to get the VM's clock, ns.
    pub(super) offset_ns: AtomicI64,
    /// The TSC offset that a vCPU got at its creation; all start with the same.
    pub(super) tsc_offset: AtomicU64,
    /// A vCPU has taken it.
    pub(super) tsc_known: core::sync::atomic::AtomicBool,
}

impl VmClock {
    /// A clock that starts at 0 now.
    pub(crate) fn new() -> Self {
        // CAST: nanoseconds since boot fit 63 bits for 292 years.
        let now = host::clock::boot_ns() as i64;
        Self {
            offset_ns: AtomicI64::new(now.wrapping_neg()),
            tsc_offset: AtomicU64::new(0),
            tsc_known: core::sync::atomic::AtomicBool::new(false),
        }
    }
}

/// The paravirtual state of a vCPU.
pub(crate) struct PvState {
    /// TSC frequency of the guest, kHz.
    pub(crate) tsc_khz: u32,
    /// Guest TSC = host TSC + this.
    pub(super) tsc_offset: u64,
    /// The version of the clock page last written; even.
    pub(super) clock_version: u32,
    /// The guest was stopped by user space and is to be told.
    pub(super) paused: bool,
}

impl PvState {
    /// Nothing set up.
    pub(crate) fn new(tsc_khz: u32, tsc_offset: u64) -> Self {
        Self {
            tsc_khz,
            tsc_offset,
            clock_version: 0,
            paused: false,
        }
    }

    /// RESET or INIT: the guest's pages are not ours to write any more.
    pub(crate) fn reset(&mut self) {
        self.paused = false;
    }
}
