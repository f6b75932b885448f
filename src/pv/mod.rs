// SPDX-License-Identifier: GPL-2.0

//! Time and paravirtual features.

pub(crate) mod clock;
pub(crate) mod eoi;
pub(crate) mod spin;
pub(crate) mod steal;
pub(crate) mod tsc;

use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Mutex;
use model::policy::tsc::Rate;

/// The time of a VM.
#[pin_data]
pub(crate) struct VmClock {
    /// What kvmclock counts from.
    #[pin]
    base: Mutex<clock::Base>,
    /// The TSC offset that a vCPU got at its creation; all start with the same.
    tsc_offset: AtomicU64,
    /// [`host::clock::tsc_lost`] as the offset takes it into account.
    tsc_lost: AtomicU64,
    /// A vCPU has taken it.
    tsc_known: AtomicBool,
    /// The vCPU that a spinning one gave its turn to last.
    boosted: AtomicU32,
}

impl VmClock {
    /// A clock that starts at 0 now.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            base <- new_mutex!(clock::Base::new(), "kvm->clock"),
            tsc_offset: AtomicU64::new(0),
            tsc_lost: AtomicU64::new(host::clock::tsc_lost()),
            tsc_known: AtomicBool::new(false),
            boosted: AtomicU32::new(0),
        })
    }
}

/// The paravirtual state of a vCPU.
pub(crate) struct PvState {
    /// TSC frequency of the guest, kHz.
    pub(crate) tsc_khz: u32,
    /// The rate of the guest's TSC.
    rate: Rate,
    /// Guest TSC = host TSC at that rate + this.
    tsc_offset: u64,
    /// The guest was stopped by user space and is to be told.
    paused: bool,
    /// What the thread had waited for a CPU when stolen time was reported last, ns; none before the
    /// first time.
    waited: Option<u64>,
    /// The guest may end its interrupt by memory.
    pub(crate) eoi_offered: bool,
    /// The guest has only the features that its CPUID says.
    pub(crate) enforce: bool,
}

impl PvState {
    /// Nothing set up.
    pub(crate) fn new(tsc_khz: u32, rate: Rate, tsc_offset: u64) -> Self {
        Self {
            tsc_khz,
            rate,
            tsc_offset,
            paused: false,
            waited: None,
            eoi_offered: false,
            enforce: false,
        }
    }

    /// The frequency at which the guest's TSC counts, kHz: the host's, unless hardware scales. What
    /// user space asked for may differ from that within the tolerance.
    pub(crate) fn guest_khz(&self) -> u32 {
        if self.rate.scale(1 << 32) == 1 << 32 {
            host::cpu::tsc_khz()
        } else {
            self.tsc_khz
        }
    }

    /// The guest's TSC when the host's is `host`.
    #[inline]
    pub(crate) fn tsc_at(&self, host: u64) -> u64 {
        self.rate.scale(host).wrapping_add(self.tsc_offset)
    }

    /// RESET or INIT: the guest's pages are not ours to write any more.
    pub(crate) fn reset(&mut self) {
        self.paused = false;
        self.eoi_offered = false;
    }
}
