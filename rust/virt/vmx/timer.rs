// SPDX-License-Identifier: GPL-2.0

//! The preemption timer, which ends a run at a TSC value (`SDM: vol 3, 26.5.1`).
//!
//! It counts down while the guest runs, at a fraction of the TSC's rate, from a value that every entry
//! loads. So each entry works out anew what is left. A deadline beyond its 32 bits, and the rounding,
//! make it expire early: whoever set the deadline looks at the time again and sets it once more.

use super::vcpu::Vcpu;
use super::vmcs;
use model::vmx::ctrl::pin;
use model::vmx::field;

/// No deadline.
pub(super) const NEVER: u64 = u64::MAX;

impl Vcpu {
    /// Ends the run when the host's TSC reaches `tsc`; false if there is no such timer.
    pub(super) fn set_deadline(&mut self, tsc: Option<u64>) -> bool {
        if !self.m.cfg.pin(pin::PREEMPTION_TIMER) {
            return false;
        }
        // The last value is taken: that one cannot be waited for anyway.
        self.deadline = tsc.map_or(NEVER, |t| t.min(NEVER - 1));
        let on = if tsc.is_some() {
            pin::PREEMPTION_TIMER
        } else {
            0
        };
        self.set_pin(self.pin & !pin::PREEMPTION_TIMER | on);
        true
    }

    /// Loads the timer with what is left.
    #[inline(never)]
    pub(super) fn load_timer(&mut self) {
        let left = self.deadline.saturating_sub(host::clock::rdtsc());
        let count = left.wrapping_shr(self.m.timer_shift);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        vmcs::write(field::PREEMPTION_TIMER, count);
    }
}
