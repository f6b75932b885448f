// SPDX-License-Identifier: GPL-2.0

//! The timer of a local APIC: one-shot, periodic and TSC-deadline.
//!
//! [`Timer`] says when it wants to be woken ([`TimerOp::Arm`]) and is told when that has happened
//! ([`LocalApic::timer_fired`]). In between it needs nobody: the current count is a function of the
//! time.
//!
//! ```text
//!                 initial count, deadline
//!     Stopped ------------------------------> Armed --+
//!        ^                                     |  ^   | fired, periodic:
//!        +-- fired, one-shot or deadline ------+  +---+ target += n * period
//!        +-- count 0, deadline 0, mode other than between one-shot and periodic
//! ```
//!
//! A periodic timer keeps its phase: the next target is the last one plus a whole number of periods,
//! however late it was told. Periods that went by meanwhile are one interrupt, as the IRR holds
//! one. It never fires before its target, and in TSC-deadline mode not before the guest's TSC has
//! reached the deadline.
//!
//! SDM: vol 3, 11.5.4.

use super::Effects;
use super::LocalApic;
use super::Lvt;
use super::Now;
use super::Storage;
use crate::x86::apic::lvt;
use crate::x86::apic::reg;

/// What to do with the host timer behind this APIC's timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the host timer would fire at the wrong time"]
pub enum TimerOp {
    /// Fire at a time, both clocks of which mean the same moment. It replaces an earlier time.
    Arm {
        /// Monotonic clock, ns; may have passed.
        ns: u64,
        /// Guest's TSC, for timers in hardware that count it; may have passed.
        tsc: u64,
    },
    /// Do not fire.
    Disarm,
}

/// The clock divider: 1, 2, 4, to 128.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Divider {
    log2: u32,
}

impl Divider {
    /// From the divide configuration register, in which bits 3, 1 and 0 are log2 - 1, modulo 8.
    /// SDM: vol 3, figure 11-10.
    pub(super) const fn from_tdcr(tdcr: u32) -> Self {
        let field = tdcr & 3 | (tdcr >> 1) & 4;
        Self {
            log2: field.wrapping_add(1) & 7,
        }
    }

    /// Length of one count, ns.
    fn tick(self, bus_cycle: u64) -> u64 {
        bus_cycle.saturating_mul(1u64.wrapping_shl(self.log2))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OneShot,
    Periodic,
    Deadline,
    /// The reserved encoding, in which nothing counts.
    Reserved,
}

impl Kind {
    /// Counts down from the initial count.
    const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// The timer's state that is not in its registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    kind: Kind,
    divider: Divider,
    armed: bool,
    /// When it fires, by the monotonic clock, ns. Meaningful while armed.
    target: u64,
    /// The same by the guest's TSC; in TSC-deadline mode the deadline itself.
    target_tsc: u64,
    /// Length of a period, ns. 0 while nothing was started.
    period: u64,
}

impl Timer {
    /// Stopped, one-shot, dividing by 2: the state after RESET.
    pub(super) const fn new() -> Self {
        Self {
            kind: Kind::OneShot,
            divider: Divider::from_tdcr(0),
            armed: false,
            target: 0,
            target_tsc: 0,
            period: 0,
        }
    }

    /// The time it is armed for.
    fn op(&self) -> TimerOp {
        if self.armed {
            TimerOp::Arm {
                ns: self.target,
                tsc: self.target_tsc,
            }
        } else {
            TimerOp::Disarm
        }
    }

    fn stop(&mut self) {
        self.armed = false;
        self.period = 0;
        self.target_tsc = 0;
    }

    /// A write of the initial count: starts the countdown anew, or stops it. `None` in TSC-deadline
    /// mode, which ignores it.
    pub(super) fn set_count(
        &mut self,
        count: u32,
        bus_cycle: u64,
        min_period: u64,
        now: Now,
    ) -> Option<TimerOp> {
        if self.kind == Kind::Deadline {
            return None;
        }
        self.start(count, count, bus_cycle, min_period, now);
        Some(self.op())
    }

    /// Counts down from `current`, and in periodic mode from `count` thereafter.
    fn start(&mut self, count: u32, current: u32, bus_cycle: u64, min_period: u64, now: Now) {
        let tick = self.divider.tick(bus_cycle);
        self.stop();
        if count == 0 || self.kind == Kind::Reserved {
            return;
        }
        self.period = tick.saturating_mul(u64::from(count));
        self.limit(min_period);
        let first = if current >= count {
            self.period
        } else {
            tick.saturating_mul(u64::from(current)).min(self.period)
        };
        self.arm_in(first, now);
    }

    /// Arms `delta` ns from now.
    fn arm_in(&mut self, delta: u64, now: Now) {
        self.armed = true;
        self.target = now.ns.saturating_add(delta);
        self.target_tsc = now.tsc.wrapping_add(ns_to_cycles(delta, now.tsc_khz));
    }

    /// The host does not throttle timers, so the guest may not choose any period.
    fn limit(&mut self, min_period: u64) {
        if self.kind == Kind::Periodic && self.period != 0 {
            self.period = self.period.max(min_period).max(1);
        }
    }

    /// A write of the LVT entry. Between one-shot and periodic a countdown goes on; any other change
    /// of the mode stops the timer, and only then there is something to do.
    pub(super) fn set_mode(&mut self, entry: u32, min_period: u64) -> Option<TimerOp> {
        let kind = match entry & lvt::TIMER_MODE {
            0 => Kind::OneShot,
            lvt::TIMER_PERIODIC => Kind::Periodic,
            lvt::TIMER_TSC_DEADLINE => Kind::Deadline,
            _ => Kind::Reserved,
        };
        if kind == self.kind {
            return None;
        }
        let goes_on = kind.counts() && self.kind.counts();
        self.kind = kind;
        if !goes_on {
            self.stop();
            return Some(TimerOp::Disarm);
        }
        self.limit(min_period);
        None
    }

    /// A write of the divide configuration. What is left of a running countdown keeps its count and
    /// so changes its length. `None` if nothing runs.
    pub(super) fn set_divider(
        &mut self,
        divider: Divider,
        count: u32,
        bus_cycle: u64,
        min_period: u64,
        now: Now,
    ) -> Option<TimerOp> {
        let old = self.divider;
        self.divider = divider;
        let stopped = self.period == 0 || count == 0;
        if old == divider || self.kind == Kind::Deadline || stopped {
            return None;
        }
        self.period = divider.tick(bus_cycle).saturating_mul(u64::from(count));
        self.limit(min_period);
        if !self.armed {
            return None;
        }
        let left = self.target.saturating_sub(now.ns);
        let left = if divider.log2 >= old.log2 {
            left.saturating_mul(1 << (divider.log2.wrapping_sub(old.log2) & 7))
        } else {
            left >> (old.log2.wrapping_sub(divider.log2) & 7)
        };
        self.arm_in(left, now);
        Some(self.op())
    }

    /// The current count. It is 0 exactly if a one-shot countdown is over, so a part of a tick
    /// counts as a whole one.
    pub(super) fn current_count(&self, bus_cycle: u64, now: Now) -> u32 {
        if !self.armed || self.kind == Kind::Deadline {
            return 0;
        }
        let left = match self.target.checked_sub(now.ns) {
            Some(left) => left,
            // Nobody has told yet that it fired.
            None if self.kind == Kind::Periodic => {
                let late = now.ns.wrapping_sub(self.target);
                let into = late.checked_rem(self.period).unwrap_or(0);
                self.period.wrapping_sub(into)
            }
            None => 0,
        };
        let tick = self.divider.tick(bus_cycle);
        let count = left.checked_add(tick.wrapping_sub(1)).unwrap_or(left);
        u32::try_from(count.checked_div(tick).unwrap_or(0)).unwrap_or(u32::MAX)
    }

    /// IA32_TSC_DEADLINE.
    pub(super) fn deadline(&self) -> u64 {
        if self.kind == Kind::Deadline {
            self.target_tsc
        } else {
            0
        }
    }

    /// A write of IA32_TSC_DEADLINE. `None` in other modes, which ignore it.
    pub(super) fn set_deadline(&mut self, value: u64, now: Now) -> Option<TimerOp> {
        if self.kind != Kind::Deadline {
            return None;
        }
        self.target_tsc = value;
        self.arm_deadline(now);
        Some(self.op())
    }

    /// Finds the monotonic time of the deadline.
    fn arm_deadline(&mut self, now: Now) {
        self.armed = self.target_tsc != 0 && now.tsc_khz != 0;
        let left = self.target_tsc.saturating_sub(now.tsc);
        self.target = now.ns.saturating_add(cycles_to_ns(left, now.tsc_khz));
    }

    /// The guest's TSC was changed: the other clock's time of the target is a new one.
    fn tsc_changed(&mut self, now: Now) -> Option<TimerOp> {
        if self.kind == Kind::Deadline {
            if self.target_tsc == 0 {
                return None;
            }
            self.arm_deadline(now);
        } else {
            if !self.armed {
                return None;
            }
            self.arm_in(self.target.saturating_sub(now.ns), now);
        }
        Some(self.op())
    }

    fn is_due(&self, now: Now) -> bool {
        self.armed
            && match self.kind {
                Kind::Deadline => now.tsc >= self.target_tsc,
                Kind::OneShot | Kind::Periodic => now.ns >= self.target,
                Kind::Reserved => false,
            }
    }

    /// If it is time: moves on to what comes next, and returns true.
    fn expire(&mut self, now: Now) -> bool {
        if !self.is_due(now) {
            return false;
        }
        match self.kind {
            Kind::Periodic => {
                let late = now.ns.wrapping_sub(self.target);
                let into = late.checked_rem(self.period).unwrap_or(0);
                self.arm_in(self.period.wrapping_sub(into), now);
            }
            Kind::OneShot | Kind::Reserved => {
                self.armed = false;
                self.target_tsc = 0;
            }
            Kind::Deadline => self.stop(),
        }
        true
    }
}

impl<P: Storage> LocalApic<P> {
    /// The host timer has fired, or may have. If it is time the timer interrupt is requested; in any
    /// case the effects say what the host timer is to do now.
    pub fn timer_fired(&mut self, now: Now) -> Effects {
        let due = self.timer.expire(now);
        let raised = due && self.raise(Lvt::Timer) == super::access::Raised::Interrupt;
        Effects {
            timer: Some(self.timer.op()),
            recheck: raised,
            ..Effects::NONE
        }
    }

    /// The guest's TSC was written, or its offset or frequency changed.
    pub fn tsc_changed(&mut self, now: Now) -> Effects {
        Effects {
            timer: self.timer.tsc_changed(now),
            ..Effects::NONE
        }
    }

    /// What the host timer must be doing: to arm it again after the vCPU moved to another CPU.
    pub fn timer(&self) -> TimerOp {
        self.timer.op()
    }

    /// The current count, at most the initial one: a period that was too short is longer than it.
    pub(super) fn current_count(&self, now: Now) -> u32 {
        let count = self.page().read(reg::TMICT);
        self.timer.current_count(self.bus_cycle(), now).min(count)
    }

    /// Starts the timer from the registers, as KVM_SET_LAPIC has written them.
    pub(super) fn restart_timer(&mut self, current: u32, now: Now) -> TimerOp {
        let entry = self.page().read(reg::LVT_TIMER);
        let count = self.page().read(reg::TMICT);
        let divider = Divider::from_tdcr(self.page().read(reg::TDCR));
        let (bus_cycle, min_period) = (self.bus_cycle(), self.cfg.min_period_ns);
        let timer = &mut self.timer;
        let _ = timer.set_mode(entry, min_period);
        timer.divider = divider;
        if timer.kind == Kind::Deadline {
            timer.arm_deadline(now);
        } else {
            // KVM: an expired periodic countdown starts over; an expired one-shot fires once more,
            // because its interrupt may not have made it into the saved IRR.
            let current = match (timer.kind, current) {
                (Kind::Periodic, 0) => count,
                _ => current,
            };
            timer.start(count, current, bus_cycle, min_period, now);
        }
        timer.op()
    }
}

/// Cycles of a clock of `khz` in `ns`, rounded down; saturates.
pub fn ns_to_cycles(ns: u64, khz: u32) -> u64 {
    const MS: u64 = 1_000_000;
    let khz = u64::from(khz);
    let whole = (ns / MS).saturating_mul(khz);
    // Below 10^6 * 2^32.
    let part = (ns % MS).wrapping_mul(khz) / MS;
    whole.saturating_add(part)
}

/// Length in ns of `cycles` of a clock of `khz`, rounded up; saturates. 0 if `khz` is.
fn cycles_to_ns(cycles: u64, khz: u32) -> u64 {
    const MS: u64 = 1_000_000;
    let khz = u64::from(khz);
    let (Some(whole), Some(part)) = (cycles.checked_div(khz), cycles.checked_rem(khz)) else {
        return 0;
    };
    // Below 2^32 * 10^6.
    let part = part.wrapping_mul(MS);
    let up = part
        .checked_add(khz.wrapping_sub(1))
        .unwrap_or(part)
        .checked_div(khz)
        .unwrap_or(0);
    whole.saturating_mul(MS).saturating_add(up)
}
