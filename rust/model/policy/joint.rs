// SPDX-License-Identifier: GPL-2.0

//! What the TSCs of a VM's vCPUs have in common.
//!
//! All TSCs of a machine count from the same moment. User space gives them to the vCPUs one after
//! the other, by values that are each a little older than the one before; so a value that agrees
//! with the last one, up to the time this may have taken, joins what the VM's other vCPUs count.
//! Only user space's own values are compared: the first one says what the TSC is, however close to
//! what new vCPUs began with it is.
//!
//! KVM: which values join, the in-tree module decides by the same rules.

use super::tsc::Rate;
use crate::irqchip::lapic::timer::ns_to_cycles;

/// How far apart values may be that mean the same moment, ns.
const SAME_MOMENT_NS: u64 = 1_000_000_000;

/// The host's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Time since boot at the raw frequency of the host's clock.
    pub ns: u64,
    /// The host's TSC at that time.
    pub tsc: u64,
    /// The host's TSCs are a clock: they agree, and count at one rate.
    pub trusted: bool,
}

/// A value of a TSC and its time, ns: what a guest's TSC can be computed from without the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    tsc: u64,
    ns: u64,
}

impl Origin {
    /// A TSC shows `tsc` at this moment.
    pub const fn new(tsc: u64, now: Moment) -> Self {
        Self { tsc, ns: now.ns }
    }

    /// What a TSC of `khz` shows later.
    pub fn tsc_at(self, ns: u64, khz: u32) -> u64 {
        let since = ns.saturating_sub(self.ns);
        self.tsc.wrapping_add(ns_to_cycles(since, khz))
    }

    /// The TSC was moved by so many ticks.
    pub fn move_by(&mut self, ticks: u64) {
        self.tsc = self.tsc.wrapping_add(ticks);
    }

    /// What the TSC of a vCPU shows that comes to a CPU of a host whose TSCs are no clock: what the
    /// time says, but nothing below `last`, which the guest may have seen.
    pub fn go_on(self, last: u64, ns: u64, khz: u32) -> u64 {
        let by_time = self.tsc_at(ns, khz);
        // CAST: the distance either way.
        if (by_time.wrapping_sub(last) as i64) < 0 {
            last
        } else {
            by_time
        }
    }
}

/// How a vCPU counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// What user space wants its TSC to count, kHz.
    pub khz: u32,
    /// What hardware does for it.
    pub rate: Rate,
}

/// What a vCPU counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Guest TSC = host TSC at the vCPU's rate + this.
    pub offset: u64,
    /// The same by time.
    pub origin: Origin,
}

/// What the vCPUs of a VM count from.
#[derive(Clone, Copy, Debug)]
pub struct Joint {
    /// How those count that do; none before the first vCPU.
    speed: Option<Speed>,
    count: Count,
    /// The last value that one was given.
    last: Origin,
    /// A value came from user space.
    by_user: bool,
}

impl Joint {
    /// Without a vCPU.
    pub const fn new() -> Self {
        let never = Origin { tsc: 0, ns: 0 };
        Self {
            speed: None,
            count: Count {
                offset: 0,
                origin: never,
            },
            last: never,
            by_user: false,
        }
    }

    /// A new vCPU: counts what the others do, or from 0 if none counts at its speed.
    pub fn add(&mut self, s: Speed, now: Moment) -> Count {
        self.give(0, s, now)
    }

    /// User space writes a vCPU's TSC. 0 means what the others count.
    pub fn write(&mut self, tsc: u64, s: Speed, now: Moment) -> Count {
        let c = self.give(tsc, s, now);
        self.by_user = true;
        c
    }

    /// User space sets a vCPU's offset, which is taken as it is.
    pub fn set_offset(&mut self, offset: u64, s: Speed, now: Moment) -> Count {
        let tsc = s.rate.scale(now.tsc).wrapping_add(offset);
        let joins = self.counts_at(s) && self.count.offset == offset;
        self.by_user = true;
        self.last = Origin::new(tsc, now);
        if !joins {
            self.begin(
                s,
                Count {
                    offset,
                    origin: self.last,
                },
            );
        }
        self.count
    }

    /// The host's TSC went back by `ticks`, and the guests' go on.
    pub fn host_lost(&mut self, ticks: u64) {
        if let Some(s) = self.speed {
            self.count.offset = self.count.offset.wrapping_add(s.rate.scale(ticks));
        }
    }

    fn give(&mut self, tsc: u64, s: Speed, now: Moment) -> Count {
        let joins = self.counts_at(s) && (tsc == 0 || self.by_user && self.is_now(tsc, s, now));
        self.last = Origin::new(tsc, now);
        let new = Count {
            offset: tsc.wrapping_sub(s.rate.scale(now.tsc)),
            origin: self.last,
        };
        if !joins {
            self.begin(s, new);
        } else if !now.trusted {
            // An offset from another CPU's TSC would be worth nothing here.
            let tsc = self.count.origin.tsc_at(now.ns, s.khz);
            self.count.offset = tsc.wrapping_sub(s.rate.scale(now.tsc));
        }
        self.count
    }

    fn begin(&mut self, s: Speed, c: Count) {
        self.speed = Some(s);
        self.count = c;
    }

    fn counts_at(&self, s: Speed) -> bool {
        self.speed.is_some_and(|j| j.khz == s.khz)
    }

    /// Does a TSC that was given the last value show about this by now?
    fn is_now(&self, tsc: u64, s: Speed, now: Moment) -> bool {
        // CAST: the distance either way.
        let apart = tsc.wrapping_sub(self.last.tsc_at(now.ns, s.khz)) as i64;
        apart.unsigned_abs() < ns_to_cycles(SAME_MOMENT_NS, s.khz)
    }
}

impl Default for Joint {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
#[path = "tests/joint.rs"]
mod tests;
