// SPDX-License-Identifier: GPL-2.0

//! Taking rights away without unmapping: dirty logging and ageing.

use core::sync::atomic::Ordering::{AcqRel, Acquire};

use super::cursor::{Step, Sweep};
use super::entry::{Config, Format, Level};
use super::flush::Flush;
use super::{Tables, Tdp};
use crate::addr::Gfn;

/// How writes are noticed while dirty logging is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Every page is write-protected, and the first write faults.
    WriteProtect,
    /// Hardware logs a page when it sets the D bit (page-modification logging). Large leaves are
    /// write-protected all the same, because hardware would log only the first write to any of
    /// their pages.
    DirtyBit,
}

impl LogMode {
    /// The leaf such that the next write to it is noticed, `None` if it is so already.
    fn armed<F: Format>(self, cfg: &Config, level: Level, entry: u64) -> Option<u64> {
        if self == LogMode::DirtyBit && level == Level::L4K && cfg.ad() {
            F::dirty(cfg, entry).then(|| F::cleaned(cfg, entry))
        } else {
            F::prot(entry).w.then(|| F::without_write(entry))
        }
    }
}

/// What [`Tdp::age`] does with pages that were used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Age {
    /// Finds out whether there is one, and stops there.
    Test,
    /// Marks all of them as not used.
    Clear,
}

impl<F: Format, T: Tables> Tdp<'_, F, T> {
    /// Makes the next write to every page of the sweep noticeable, as when logging is turned on.
    pub fn write_protect(&self, sweep: &mut Sweep, mode: LogMode, budget: u32) -> Flush {
        self.arm(sweep, mode, budget, |_, _| true)
    }

    /// Makes the next write to the pages `base + i` for each set bit `i` of `mask` noticeable, as
    /// when their dirty bits were harvested. A large leaf is armed as a whole.
    pub fn clean(&self, base: Gfn, mask: u64, mode: LogMode) -> Flush {
        if mask == 0 {
            return Flush::None;
        }
        let start = base.wrapping_add(u64::from(mask.trailing_zeros()));
        let last = base.wrapping_add(u64::from(63u32.wrapping_sub(mask.leading_zeros())));
        let mut sweep = Sweep::new(start, last.wrapping_add(1));
        self.arm(&mut sweep, mode, u32::MAX, |gfn, level| {
            let bit = gfn.0.wrapping_sub(base.0) as u32;
            level != Level::L4K || mask.wrapping_shr(bit) & 1 != 0
        })
    }

    fn arm(
        &self,
        sweep: &mut Sweep,
        mode: LogMode,
        budget: u32,
        chosen: impl Fn(Gfn, Level) -> bool,
    ) -> Flush {
        let mut flush = Flush::None;
        self.for_each_leaf(sweep, budget, |gfn, level, slot, entry| {
            if !chosen(gfn, level) {
                return Step::Next;
            }
            let Some(new) = mode.armed::<F>(&self.cfg, level, entry) else {
                return Step::Next;
            };
            if slot.compare_exchange(entry, new, AcqRel, Acquire).is_err() {
                return Step::Again;
            }
            flush = flush.join(Flush::entry(gfn, level));
            Step::Next
        });
        flush
    }

    /// Whether a page of the sweep (as far as it was processed) was used since it was last aged.
    ///
    /// No flush is asked for: a translation that stays in a TLB hides further uses from the next
    /// round, which makes a page look older than it is and is harmless. Without hardware A bits
    /// the leaf is parked, and a stale translation may go on writing through it; the page still
    /// counts as writable and dirty, and write protection of it asks for a flush.
    pub fn age(&self, sweep: &mut Sweep, how: Age, budget: u32) -> bool {
        let mut young = false;
        self.for_each_leaf(sweep, budget, |_, _, slot, entry| {
            if !F::accessed(&self.cfg, entry) {
                return Step::Next;
            }
            if how == Age::Test {
                young = true;
                return Step::Stop;
            }
            let new = F::aged(&self.cfg, entry);
            if slot.compare_exchange(entry, new, AcqRel, Acquire).is_err() {
                return Step::Again;
            }
            young = true;
            Step::Next
        });
        young
    }
}
