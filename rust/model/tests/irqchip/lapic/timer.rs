// SPDX-License-Identifier: GPL-2.0

//! The timer: never early, no drift, no lost period.

use super::*;
use crate::x86::apic::lvt;
use proptest::prelude::*;

const VECTOR: u8 = 0xec;

/// An APIC with its timer entry open in the given mode, and a divider of 1.
fn timer(mode: u32) -> Apic {
    timer_with(mode, Config::new(0, true))
}

fn timer_with(mode: u32, cfg: Config) -> Apic {
    let (mut apic, _) = enabled(cfg);
    let _ = write(&mut apic, reg::LVT_TIMER, mode | u32::from(VECTOR));
    let _ = write(&mut apic, reg::TDCR, 0xb);
    apic
}

fn arm(ns: u64) -> Option<TimerOp> {
    Some(TimerOp::Arm { ns, tsc: ns * 2 })
}

fn start(apic: &mut Apic, count: u32, ns: u64) -> Effects {
    apic.write_reg(reg::TMICT, count, at(ns)).unwrap()
}

fn count(apic: &mut Apic, ns: u64) -> u32 {
    apic.read_reg(reg::TMCCT, at(ns)).unwrap()
}

/// Lets the timer fire; takes the interrupt if there is one.
fn fire(apic: &mut Apic, now: Now) -> (bool, Option<TimerOp>) {
    let e = apic.timer_fired(now);
    let got = apic.next_vector() == Some(VECTOR);
    assert_eq!(e.recheck, got);
    if got {
        apic.ack(VECTOR);
        let _ = apic.eoi();
    }
    (got, e.timer)
}

#[test]
fn one_shot() {
    let mut apic = timer(0);
    assert_eq!(start(&mut apic, 1000, 50).timer, arm(1050));
    assert_eq!(read(&mut apic, reg::TMICT), 1000);
    assert_eq!(
        [50, 51, 1049, 1050, 2000].map(|t| count(&mut apic, t)),
        [1000, 999, 1, 0, 0]
    );
    assert_eq!(fire(&mut apic, at(1049)), (false, arm(1050)), "too early");
    assert_eq!(fire(&mut apic, at(1060)), (true, Some(TimerOp::Disarm)));
    assert_eq!(fire(&mut apic, at(9000)), (false, Some(TimerOp::Disarm)));
    assert_eq!(count(&mut apic, 1060), 0);
    // Starting again, and stopping.
    assert_eq!(start(&mut apic, 10, 2000).timer, arm(2010));
    assert_eq!(start(&mut apic, 0, 2005).timer, Some(TimerOp::Disarm));
    assert_eq!(count(&mut apic, 2006), 0);
    assert!(!fire(&mut apic, at(2010)).0);
}

#[test]
fn periodic_keeps_its_phase_however_late_it_is_told() {
    let mut apic = timer(lvt::TIMER_PERIODIC);
    assert_eq!(start(&mut apic, 300_000, 1000).timer, arm(301_000));
    assert_eq!(fire(&mut apic, at(301_000)), (true, arm(601_000)));
    assert_eq!(fire(&mut apic, at(650_000)), (true, arm(901_000)));
    assert_eq!(count(&mut apic, 650_000), 251_000);
    // Three periods late, by a little more than that.
    assert_eq!(
        count(&mut apic, 1_801_001),
        299_999,
        "it has gone on, told or not"
    );
    assert_eq!(fire(&mut apic, at(1_801_001)), (true, arm(2_101_000)));
    assert_eq!(fire(&mut apic, at(1_801_001)), (false, arm(2_101_000)));
}

#[test]
fn short_periods_are_stretched() {
    let mut apic = timer(lvt::TIMER_PERIODIC);
    assert_eq!(start(&mut apic, 10, 0).timer, arm(200_000));
    assert_eq!(count(&mut apic, 0), 10, "not more than the initial count");
    // A one-shot of any length is fine, and becoming periodic it is stretched from then on.
    let mut apic = timer(0);
    assert_eq!(start(&mut apic, 10, 0).timer, arm(10));
    let _ = write(
        &mut apic,
        reg::LVT_TIMER,
        lvt::TIMER_PERIODIC | u32::from(VECTOR),
    );
    assert_eq!(fire(&mut apic, at(10)), (true, arm(200_010)));
}

#[test]
fn the_divider_scales_time() {
    for (tdcr, by) in [
        (0x0, 2),
        (0x1, 4),
        (0x2, 8),
        (0x3, 16),
        (0x8, 32),
        (0x9, 64),
        (0xa, 128),
        (0xb, 1),
        (0xffff_fff4, 2),
    ] {
        let mut cfg = Config::new(0, true);
        cfg.bus_cycle_ns = 10;
        let mut apic = timer_with(0, cfg);
        let _ = write(&mut apic, reg::TDCR, tdcr);
        assert_eq!(read(&mut apic, reg::TDCR), tdcr & 0xb);
        assert_eq!(
            start(&mut apic, 7, 0).timer,
            arm(70 * by),
            "divider {tdcr:#x}"
        );
        assert_eq!(count(&mut apic, 10 * by), 6);
    }
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let mut apic = timer(0);
    let _ = start(&mut apic, 1000, 0);
    // By 4 instead of 1: the remaining 600 take 2400 ns.
    let e = apic.write_reg(reg::TDCR, 1, at(400)).unwrap();
    assert_eq!(e.timer, arm(2800));
    assert_eq!(count(&mut apic, 400), 600);
    // And by 2.
    let e = apic.write_reg(reg::TDCR, 0, at(800)).unwrap();
    assert_eq!(e.timer, arm(1800));
    assert_eq!(count(&mut apic, 800), 500);
    assert_eq!(apic.write_reg(reg::TDCR, 0, at(900)), Ok(Effects::NONE));
    let _ = fire(&mut apic, at(1800));
    assert_eq!(
        apic.write_reg(reg::TDCR, 1, at(1900)),
        Ok(Effects::NONE),
        "nothing runs"
    );
}

#[test]
fn modes_change_while_it_runs() {
    let set = |apic: &mut Apic, mode| write(apic, reg::LVT_TIMER, mode | u32::from(VECTOR)).timer;
    let mut apic = timer(lvt::TIMER_PERIODIC);
    let _ = start(&mut apic, 400_000, 0);
    assert_eq!(set(&mut apic, 0), None);
    assert_eq!(count(&mut apic, 100_000), 300_000, "goes on as one-shot");
    assert_eq!(fire(&mut apic, at(400_000)), (true, Some(TimerOp::Disarm)));
    assert_eq!(set(&mut apic, lvt::TIMER_PERIODIC), None);
    assert_eq!(count(&mut apic, 500_000), 0, "what has ended stays so");
    assert_eq!(read(&mut apic, reg::TMICT), 400_000);
    let _ = start(&mut apic, 400_000, 600_000);
    assert_eq!(
        set(&mut apic, lvt::TIMER_TSC_DEADLINE),
        Some(TimerOp::Disarm)
    );
    assert_eq!(read(&mut apic, reg::TMICT), 0);
    assert!(!fire(&mut apic, at(9_000_000)).0);
    assert_eq!(start(&mut apic, 77, 0).timer, None, "ignored");
    assert_eq!(read(&mut apic, reg::TMICT), 0);
    let _ = apic.set_tsc_deadline(1 << 40, at(0));
    assert_eq!(set(&mut apic, 0), Some(TimerOp::Disarm));
    assert_eq!(apic.tsc_deadline(), 0);
    assert!(!fire(&mut apic, at(1 << 41)).0);
}

#[test]
fn the_reserved_mode_counts_nothing() {
    let mut apic = timer(lvt::TIMER_MODE);
    assert_eq!(start(&mut apic, 100, 0).timer, Some(TimerOp::Disarm));
    assert!(!fire(&mut apic, at(1000)).0);
}

#[test]
fn tsc_deadline() {
    let mut apic = timer(lvt::TIMER_TSC_DEADLINE);
    assert_eq!(
        apic.set_tsc_deadline(5001, at(100)).timer,
        Some(TimerOp::Arm {
            ns: 2501,
            tsc: 5001
        })
    );
    assert_eq!(apic.tsc_deadline(), 5001);
    assert_eq!(count(&mut apic, 200), 0);
    assert!(!fire(&mut apic, at(2500)).0, "the TSC is at 5000");
    assert_eq!(fire(&mut apic, at(2501)), (true, Some(TimerOp::Disarm)));
    assert_eq!(apic.tsc_deadline(), 0);
    // One that has passed fires at once; 0 disarms.
    assert_eq!(
        apic.set_tsc_deadline(10, at(100)).timer,
        Some(TimerOp::Arm { ns: 100, tsc: 10 })
    );
    assert_eq!(
        apic.set_tsc_deadline(0, at(100)).timer,
        Some(TimerOp::Disarm)
    );
    assert!(!fire(&mut apic, at(200)).0);
    // Very far away.
    let far = apic.set_tsc_deadline(u64::MAX, at(100)).timer;
    assert_eq!(
        far,
        Some(TimerOp::Arm {
            ns: 100 + (u64::MAX - 200) / 2 + 1,
            tsc: u64::MAX
        })
    );
}

#[test]
fn the_deadline_needs_its_mode() {
    let mut apic = timer(0);
    assert_eq!(apic.set_tsc_deadline(5000, at(0)), Effects::NONE);
    assert_eq!(apic.tsc_deadline(), 0);
    let mut apic = timer(lvt::TIMER_TSC_DEADLINE);
    let base = apic.base();
    let _ = apic.set_base(base & !base::ENABLE, 0, true);
    assert_eq!(apic.set_tsc_deadline(5000, at(0)), Effects::NONE);
}

#[test]
fn a_changed_tsc_moves_the_other_clock() {
    let mut apic = timer(lvt::TIMER_TSC_DEADLINE);
    let _ = apic.set_tsc_deadline(5000, at(0));
    let back = Now { tsc: 0, ..at(2400) };
    let e = apic.tsc_changed(back);
    assert_eq!(
        e.timer,
        Some(TimerOp::Arm {
            ns: 4900,
            tsc: 5000
        })
    );
    assert!(
        !fire(
            &mut apic,
            Now {
                tsc: 200,
                ..at(2500)
            }
        )
        .0
    );
    let mut apic = timer(0);
    assert_eq!(apic.tsc_changed(back), Effects::NONE);
    let _ = start(&mut apic, 1000, 2000);
    assert_eq!(
        apic.tsc_changed(back).timer,
        Some(TimerOp::Arm {
            ns: 3000,
            tsc: 1200
        })
    );
    assert_eq!(
        apic.timer(),
        TimerOp::Arm {
            ns: 3000,
            tsc: 1200
        }
    );
}

#[test]
fn an_unknown_tsc_frequency_stops_deadlines() {
    let mut apic = timer(lvt::TIMER_TSC_DEADLINE);
    let now = Now {
        tsc_khz: 0,
        ..at(0)
    };
    assert_eq!(
        apic.set_tsc_deadline(5000, now).timer,
        Some(TimerOp::Disarm)
    );
    assert_eq!(apic.tsc_deadline(), 5000);
    assert_eq!(apic.tsc_changed(at(0)).timer, arm(2500));
}

#[test]
fn a_masked_timer_counts_silently() {
    let mut apic = timer(0);
    let _ = write(&mut apic, reg::LVT_TIMER, lvt::MASKED | u32::from(VECTOR));
    let _ = start(&mut apic, 100, 0);
    assert_eq!(count(&mut apic, 40), 60);
    assert_eq!(fire(&mut apic, at(100)), (false, Some(TimerOp::Disarm)));
    assert_eq!(apic.highest_requested(), None);
}

#[test]
fn the_end_of_time_does_not_wrap() {
    let mut cfg = Config::new(0, true);
    cfg.bus_cycle_ns = u32::MAX;
    for mode in [0, lvt::TIMER_PERIODIC] {
        let mut apic = timer_with(mode, cfg);
        let _ = write(&mut apic, reg::TDCR, 0xa);
        let _ = start(&mut apic, u32::MAX, u64::MAX - 5);
        let _ = count(&mut apic, u64::MAX);
        let _ = apic.timer_fired(at(u64::MAX / 2));
        let _ = apic.write_reg(reg::TDCR, 0xb, at(3)).unwrap();
        let _ = apic.tsc_changed(at(7));
    }
}

/// What a guest and the host do to a timer.
#[derive(Clone, Copy, Debug)]
enum Step {
    Wait(u64),
    /// Waits for the host timer.
    Sleep(u64),
    Count(u32),
    Divide(u32),
    Mode(u32),
    Deadline(u64),
    Mask(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..3_000_000u64).prop_map(Step::Wait),
        4 => (0..100_000u64).prop_map(Step::Sleep),
        2 => (0..1_000_000u32).prop_map(Step::Count),
        1 => any::<u32>().prop_map(Step::Divide),
        2 => (0..4u32).prop_map(Step::Mode),
        2 => (0..4_000_000u64).prop_map(Step::Deadline),
        1 => any::<bool>().prop_map(Step::Mask),
    ]
}

/// Ticks of a countdown as the manual has it, without any target times.
#[derive(Default)]
struct Reference {
    /// Nanoseconds left, and the period that follows.
    left: Option<(u64, u64)>,
    count: u32,
    by: u64,
    mode: u32,
    deadline: u64,
}

impl Reference {
    /// Lets `ns` pass up to `now`; returns whether it expired.
    fn pass(&mut self, ns: u64, now: u64) -> bool {
        if self.mode == 2 {
            let due = self.deadline != 0 && now * 2 >= self.deadline;
            if due {
                self.deadline = 0;
            }
            return due;
        }
        match self.left {
            Some((left, _)) if ns < left => {
                self.left = self.left.map(|(l, p)| (l - ns, p));
                false
            }
            Some((left, period)) => {
                self.left = match self.mode {
                    1 => Some((period - (ns - left) % period, period)),
                    _ => None,
                };
                true
            }
            None => false,
        }
    }
}

proptest! {
    #[test]
    fn any_history_agrees_with_counting(steps in prop::collection::vec(step(), 1..80)) {
        let mut cfg = Config::new(0, true);
        cfg.min_period_ns = 1;
        let mut apic = timer_with(0, cfg);
        let mut r = Reference { by: 1, ..Reference::default() };
        let mut now = 0u64;
        let mut masked = false;
        let mut host = None;
        for s in steps {
            let op;
            match s {
                Step::Wait(ns) | Step::Sleep(ns) => {
                    let ns = match (s, host) {
                        // Woken by the host timer, a little late.
                        (Step::Sleep(late), Some(at)) if at >= now => at - now + late % 3,
                        _ => ns,
                    };
                    now += ns;
                    let expired = r.pass(ns, now);
                    let (fired, o) = fire(&mut apic, at(now));
                    prop_assert_eq!(fired, expired && !masked, "at {}", now);
                    op = o;
                }
                Step::Count(n) => {
                    let o = start(&mut apic, n, now).timer;
                    prop_assert_eq!(o.is_none(), r.mode == 2);
                    if r.mode != 2 {
                        let p = u64::from(n) * r.by;
                        r.count = n;
                        r.left = (n != 0 && r.mode != 3).then_some((p, p));
                    }
                    op = o;
                }
                Step::Divide(v) => {
                    op = apic.write_reg(reg::TDCR, v, at(now)).unwrap().timer;
                    let new = 1u64 << (((v & 3 | (v >> 1) & 4) + 1) & 7);
                    if r.mode != 2 && r.count != 0 {
                        let period = u64::from(r.count) * new;
                        // Remaining time scales in nanoseconds, as a tick can be under way.
                        r.left = r.left.map(|(l, _)| (l * new / r.by, period));
                    }
                    r.by = new;
                }
                Step::Mode(m) => {
                    let mask = if masked { lvt::MASKED } else { 0 };
                    let entry = (m << 17) | mask | u32::from(VECTOR);
                    op = write(&mut apic, reg::LVT_TIMER, entry).timer;
                    if m != r.mode && (m >= 2 || r.mode >= 2) {
                        r = Reference { by: r.by, ..Reference::default() };
                    }
                    r.mode = m;
                }
                Step::Deadline(d) => {
                    let d = if d == 0 { 0 } else { now * 2 + d };
                    op = apic.set_tsc_deadline(d, at(now)).timer;
                    if r.mode == 2 {
                        r.deadline = d;
                    }
                    prop_assert_eq!(apic.tsc_deadline(), r.deadline);
                }
                Step::Mask(m) => {
                    masked = m;
                    let mask = if masked { lvt::MASKED } else { 0 };
                    let entry = (r.mode << 17) | mask | u32::from(VECTOR);
                    op = write(&mut apic, reg::LVT_TIMER, entry).timer;
                }
            }
            match op {
                Some(TimerOp::Arm { ns, .. }) => host = Some(ns),
                Some(TimerOp::Disarm) => host = None,
                None => {}
            }
            if r.mode != 2 {
                let left = r.left.map_or(0, |(l, _)| l);
                prop_assert_eq!(u64::from(count(&mut apic, now)), left.div_ceil(r.by).min(u64::from(r.count)));
                prop_assert_eq!(host, r.left.map(|(l, _)| now + l));
            } else if r.mode == 2 {
                let target = (r.deadline != 0).then_some(now.max(r.deadline.div_ceil(2)));
                prop_assert_eq!(host.map(|h| h.max(now)), target);
            }
        }
    }
}
