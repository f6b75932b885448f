// SPDX-License-Identifier: GPL-2.0

//! How many PAUSEs in a loop it takes before one exits (`APM: vol 2, 15.14.4`).
//!
//! The count grows at each such exit and shrinks when the scheduler had its thread switched out, by the
//! module parameters `pause_filter_count*`, which have the meaning and the defaults of the in-tree
//! module.

use super::vcpu::Vcpu;
use model::svm::vmcb::clean;

/// The parameters, as found at the probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct PauseFilter {
    pub(super) count: u16,
    pub(super) thresh: u16,
    pub(super) grow: u16,
    pub(super) shrink: u16,
    pub(super) max: u16,
}

impl PauseFilter {
    /// The next larger count.
    fn grown(&self, old: u16) -> u16 {
        let new = match self.grow {
            0 => self.count,
            g if g < self.count => old.saturating_mul(g),
            g => old.saturating_add(g),
        };
        new.min(self.max)
    }

    /// The next smaller count.
    fn shrunk(&self, old: u16) -> u16 {
        let new = match self.shrink {
            0 => self.count,
            s if s < self.count => old.checked_div(s).unwrap_or(old),
            s => old.saturating_sub(s),
        };
        new.max(self.count)
    }
}

impl Vcpu {
    fn set_pause_count(&mut self, new: impl FnOnce(&PauseFilter, u16) -> u16) {
        let Some(f) = self.m.pause_filter else {
            return;
        };
        let old = self.vmcb().control.pause_filter_count;
        let count = new(&f, old);
        if count != old {
            self.vmcb_mut().control.pause_filter_count = count;
            self.dirty(clean::INTERCEPTS);
        }
    }

    /// The guest spun through its count.
    pub(super) fn grow_pause_window(&mut self) {
        self.set_pause_count(PauseFilter::grown);
    }

    /// The scheduler took the thread off its CPU and brought it back: what the guest waited for may
    /// have happened. A return to user space does not count, as in the in-tree module; being away
    /// several times between two entries counts once.
    pub(super) fn shrink_pause_window(&mut self) {
        self.set_pause_count(PauseFilter::shrunk);
    }
}
