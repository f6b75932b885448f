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
use model::policy::joint::Count;
use model::policy::joint::Origin;
use model::policy::joint::Speed;

/// The time of a VM.
#[pin_data]
pub(crate) struct VmClock {
    /// What kvmclock counts from.
    #[pin]
    base: Mutex<clock::Base>,
    /// What its TSCs count from.
    #[pin]
    tscs: Mutex<tsc::Tscs>,
    /// Where the wall clock is to be written.
    wall: AtomicU64,
    /// The guest's boot vCPU uses the clock's register of the first version.
    old_guest: AtomicBool,
    /// The vCPU that a spinning one gave its turn to last.
    boosted: AtomicU32,
}

impl VmClock {
    /// A clock that starts at 0 now.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            base <- new_mutex!(clock::Base::new(), "kvm->clock"),
            tscs <- new_mutex!(tsc::Tscs::new(), "kvm->tsc"),
            wall: AtomicU64::new(0),
            old_guest: AtomicBool::new(false),
            boosted: AtomicU32::new(0),
        })
    }
}

/// The paravirtual state of a vCPU.
pub(crate) struct PvState {
    /// How the guest's TSC counts.
    speed: Speed,
    /// Guest TSC = host TSC at that rate + this.
    tsc_offset: u64,
    /// What it shows by time.
    origin: Origin,
    /// [`host::clock::tsc_lost`] as the offset takes it into account.
    tsc_lost: u64,
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
    fn new(speed: Speed, count: Count, tsc_lost: u64) -> Self {
        Self {
            speed,
            tsc_offset: count.offset,
            origin: count.origin,
            tsc_lost,
            paused: false,
            waited: None,
            eoi_offered: false,
            enforce: false,
        }
    }

    /// The frequency that user space wants the guest's TSC to have, kHz.
    pub(crate) fn tsc_khz(&self) -> u32 {
        self.speed.khz
    }

    /// The frequency at which the guest's TSC counts, kHz: the host's, unless hardware scales. What
    /// user space asked for may differ from that within the tolerance.
    pub(crate) fn guest_khz(&self) -> u32 {
        if self.speed.rate.scale(1 << 32) == 1 << 32 {
            host::cpu::tsc_khz()
        } else {
            self.speed.khz
        }
    }

    /// The guest's TSC when the host's is `host`.
    #[inline]
    pub(crate) fn tsc_at(&self, host: u64) -> u64 {
        self.speed.rate.scale(host).wrapping_add(self.tsc_offset)
    }

    /// RESET or INIT: the guest's pages are not ours to write any more.
    pub(crate) fn reset(&mut self) {
        self.paused = false;
        self.eoi_offered = false;
    }
}
