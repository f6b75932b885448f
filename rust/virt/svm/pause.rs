// SPDX-License-Identifier: GPL-2.0

//! How many PAUSEs in a loop it takes before one exits (`APM: vol 2, 15.14.4`).
//!
//! The count grows at each such exit and shrinks when the scheduler had its thread switched out, by the
//! module parameters `pause_filter_count*`, which have the meaning and the defaults of the in-tree
//! module.

use super::vcpu::Vcpu;
use model::policy::spin::SpinRule;
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
    fn rule(&self) -> SpinRule {
        SpinRule {
            least: self.count.into(),
            grow: self.grow.into(),
            shrink: self.shrink.into(),
            most: self.max.into(),
        }
    }
}

impl Vcpu {
    fn set_pause_count(&mut self, new: impl FnOnce(&SpinRule, u32) -> u32) {
        let Some(f) = self.m.pause_filter else {
            return;
        };
        let old = self.vmcb().control.pause_filter_count;
        // Neither rule exceeds the larger of count and maximum, which are as wide.
        let count = u16::try_from(new(&f.rule(), old.into())).unwrap_or(u16::MAX);
        if count != old {
            self.vmcb_mut().control.pause_filter_count = count;
            self.dirty(clean::INTERCEPTS);
        }
    }

    /// The guest spun through its count.
    pub(super) fn grow_pause_window(&mut self) {
        self.set_pause_count(SpinRule::grown);
    }

    /// The scheduler took the thread off its CPU and brought it back: what the guest waited for may
    /// have happened. A return to user space does not count, as in the in-tree module; being away
    /// several times between two entries counts once.
    pub(super) fn shrink_pause_window(&mut self) {
        self.set_pause_count(SpinRule::shrunk);
    }
}
