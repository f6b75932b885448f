// SPDX-License-Identifier: GPL-2.0

//! What the scheduler's hook and the entry tell each other about a vCPU's being on a CPU.
//!
//! The hook runs on the thread that enters, so that relaxed accesses are enough.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::Relaxed;

/// Of one vCPU.
pub struct Presence {
    /// The next entry looks at what belongs to the CPU: the vCPU came to one, or changed it.
    fresh: AtomicBool,
    /// A guest was entered since the vCPU was loaded.
    entered: AtomicBool,
    /// The thread was switched out since the last entry.
    away: AtomicBool,
}

impl Presence {
    pub(crate) const fn new() -> Self {
        Self {
            fresh: AtomicBool::new(true),
            entered: AtomicBool::new(false),
            away: AtomicBool::new(false),
        }
    }

    /// The vCPU comes to a CPU; `back` if its thread was switched out in between. The work is left to
    /// the next entry, as many a load is not followed by one.
    #[inline]
    pub(crate) fn load(&self, back: bool) {
        if back {
            self.away.store(true, Relaxed);
        }
        self.entered.store(false, Relaxed);
        self.fresh.store(true, Relaxed);
    }

    /// The next entry does again what belongs to the CPU.
    #[inline]
    pub(crate) fn refresh(&self) {
        self.fresh.store(true, Relaxed);
    }

    /// Does it?
    #[inline(always)]
    pub(crate) fn is_fresh(&self) -> bool {
        self.fresh.load(Relaxed)
    }

    /// The entry does it now. True if the thread was switched out since the last entry.
    #[inline]
    pub(crate) fn arrive(&self) -> bool {
        self.fresh.store(false, Relaxed);
        self.entered.store(true, Relaxed);
        let away = self.away.load(Relaxed);
        self.away.store(false, Relaxed);
        away
    }

    /// Was the guest entered since the vCPU was loaded?
    #[inline]
    pub(crate) fn was_entered(&self) -> bool {
        self.entered.load(Relaxed)
    }
}
