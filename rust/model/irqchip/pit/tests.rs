// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const MIN: u64 = 200_000;
const SECOND: u64 = 1_000_000_000;

/// A timer with a guest and a clock.
struct Bench {
    pit: Pit,
    work: PitWork,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Bench {
            pit: Pit::new(5 * SECOND, MIN),
            work: PitWork::default(),
            now: 5 * SECOND,
        }
    }

    fn out(&mut self, port: u16, value: u8) {
        assert!(self.pit.write(port, value, self.now, &mut self.work));
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.pit.read(port, self.now).unwrap()
    }

    /// Programs a channel with a mode and a 16-bit count.
    fn program(&mut self, channel: u8, mode: u8, count: u16) {
        self.out(0x43, channel << 6 | 0x30 | mode << 1);
        for byte in count.to_le_bytes() {
            self.out(0x40 + u16::from(channel), byte);
        }
    }

    fn timer(&mut self) -> Option<PitTimer> {
        self.work.timer.take()
    }

    /// Lets the timer expire now; whether a tick was sent.
    fn expire(&mut self) -> bool {
        self.pit.expired(self.now, &mut self.work);
        std::mem::take(&mut self.work.tick)
    }

    /// The guest's EOI; whether another tick was sent.
    fn ack(&mut self) -> bool {
        self.pit.acknowledged(&mut self.work);
        std::mem::take(&mut self.work.tick)
    }
}

#[test]
fn modes_of_channel_0_decide_the_timer() {
    let interval = counter::duration_ns(0x1234);
    for (mode, period_ns) in [
        (0, Some(0)),
        (1, Some(0)),
        (2, Some(interval)),
        (3, Some(interval)),
        (4, Some(0)),
        (5, None),
        (6, Some(interval)),
        (7, Some(interval)),
    ] {
        let mut b = Bench::new();
        b.program(0, mode, 0x1234);
        let at_ns = b.now + interval;
        let want = period_ns.map_or(PitTimer::Disarm, |period_ns| PitTimer::Arm {
            at_ns,
            period_ns,
        });
        assert_eq!(b.timer(), Some(want), "mode {mode}");
    }
    let mut b = Bench::new();
    b.program(1, 2, 100);
    b.program(2, 2, 100);
    assert_eq!(b.timer(), None, "only channel 0 has a timer");
}

#[test]
fn short_periods_are_lengthened_and_short_delays_are_not() {
    let mut b = Bench::new();
    b.program(0, 2, 100);
    let want = PitTimer::Arm {
        at_ns: b.now + MIN,
        period_ns: MIN,
    };
    assert_eq!(b.timer(), Some(want));
    b.program(0, 0, 100);
    let want = PitTimer::Arm {
        at_ns: b.now + 83_809,
        period_ns: 0,
    };
    assert_eq!(b.timer(), Some(want));
    // Not even without a limit is there a period of nothing.
    b.pit.min_period_ns = 0;
    b.out(0x43, 0x14);
    b.out(0x40, 1);
    assert_eq!(b.pit.timer.period_ns, 838);
}

#[test]
fn a_control_word_stops_channel_0_and_a_latch_does_not() {
    let mut b = Bench::new();
    b.program(0, 2, 0x8000);
    b.timer();
    b.out(0x43, 0x00);
    assert_eq!(b.timer(), None);
    b.out(0x43, 0x74);
    assert_eq!(b.timer(), None, "channel 1");
    b.out(0x43, 0x30);
    assert_eq!(b.timer(), Some(PitTimer::Disarm));
    b.now += SECOND;
    assert!(!b.expire(), "an expiry that was under way");
    assert_eq!(b.timer(), None);
}

#[test]
fn a_single_expiry_ticks_once() {
    let mut b = Bench::new();
    b.program(0, 0, 0);
    b.timer();
    b.now += 54_925_400;
    assert!(!b.expire(), "early");
    assert_eq!(b.timer().map(|t| t != PitTimer::Disarm), Some(true));
    b.now += 1;
    assert!(b.expire());
    assert_eq!(b.timer(), None);
    assert_eq!(b.pit.next_expiry(), None);
    assert!(!b.expire());
}

#[test]
fn missed_ticks_are_sent_one_acknowledge_at_a_time() {
    let mut b = Bench::new();
    b.program(0, 2, 0);
    let period = 54_925_401;
    b.now += 3 * period + 7;
    assert!(b.expire());
    assert_eq!(b.pit.next_expiry(), Some(5 * SECOND + 4 * period));
    assert!(b.ack());
    assert!(b.ack());
    assert!(!b.ack(), "all three were taken");
    b.now += period;
    assert!(b.expire());
    b.now += period;
    assert!(!b.expire(), "the guest has not taken the last one");
    assert!(b.ack());
    assert!(!b.ack());
}

#[test]
fn unmasking_forgets_the_ticks_of_the_masked_time() {
    let mut b = Bench::new();
    b.program(0, 2, 0);
    b.now += 10 * 54_925_401;
    assert!(b.expire());
    b.pit.unmasked();
    b.now += 54_925_401;
    assert!(
        b.expire(),
        "does not wait for an acknowledge of what was lost"
    );
    assert!(!b.ack());
}

#[test]
fn without_reinjection_late_ticks_are_dropped() {
    let mut b = Bench::new();
    assert!(b.pit.reinject());
    b.pit.set_reinject(false);
    b.program(0, 2, 0);
    b.now += 10 * 54_925_401;
    assert!(b.expire());
    assert!(!b.ack());
    for _ in 0..3 {
        b.now += 54_925_401;
        assert!(b.expire(), "whether the guest took the last or not");
    }
    b.pit.set_reinject(true);
    assert_eq!((b.pit.pending, b.pit.acknowledged), (0, true));
    b.now += 54_925_401;
    assert!(b.expire());
    b.pit.set_reinject(true);
    assert_eq!((b.pit.pending, b.pit.acknowledged), (1, false));
}

#[test]
fn loading_a_count_starts_the_accounting_over() {
    let mut b = Bench::new();
    b.program(0, 2, 0);
    b.now += 10 * 54_925_401;
    assert!(b.expire());
    b.program(0, 3, 0);
    assert_eq!((b.pit.pending, b.pit.acknowledged), (0, true));
}

#[test]
fn the_count_of_channel_0_agrees_with_its_ticks() {
    let mut b = Bench::new();
    b.program(0, 2, 11932);
    let period = counter::duration_ns(11932);
    // An hour later the rounding of the period has added up, but the count has not drifted.
    b.now += 360_000 * period;
    assert!(b.expire());
    b.out(0x43, 0);
    let count = u16::from_le_bytes([b.inb(0x40), b.inb(0x40)]);
    assert_eq!(count, 11932);
    b.now = b.pit.next_expiry().unwrap() - 1;
    b.out(0x43, 0);
    let count = u16::from_le_bytes([b.inb(0x40), b.inb(0x40)]);
    assert_eq!(count, 1);
}

#[test]
fn the_speaker_port_shows_channel_2() {
    let mut b = Bench::new();
    assert_eq!(b.pit.read_speaker(0) & 3, 0);
    b.pit.write_speaker(0x03, b.now);
    assert_eq!(b.pit.read_speaker(0) & 3, 3);
    b.pit.write_speaker(0x01, b.now);
    assert_eq!(b.pit.read_speaker(0) & 3, 1);
    assert_eq!(b.pit.read_speaker(1 << 14) & 0x10, 0x10);
    assert_eq!(b.pit.read_speaker(2 << 14) & 0x10, 0);
    // How a guest measures time: mode 0, and poll OUT.
    b.program(2, 0, 0x1000);
    assert_eq!(b.pit.read_speaker(b.now) & 0x20, 0);
    let end = b.now + counter::duration_ns(0x1000) + 1;
    assert_eq!(b.pit.read_speaker(end - 2) & 0x20, 0);
    assert_eq!(b.pit.read_speaker(end) & 0x20, 0x20);
    // A new control word takes OUT down before the count is written.
    b.now = end;
    b.out(0x43, 0xb0);
    assert_eq!(b.pit.read_speaker(b.now) & 0x20, 0);
}

#[test]
fn a_rising_gate_starts_over_where_the_mode_says_so() {
    for mode in 0..6 {
        let mut b = Bench::new();
        b.program(2, mode, 0x1000);
        b.now += SECOND;
        b.pit.write_speaker(1, b.now);
        let restarted = b.pit.channels[2].count_load_time == stamp(b.now);
        assert_eq!(restarted, [1, 2, 3, 5].contains(&mode), "mode {mode}");
        b.now += SECOND;
        b.pit.write_speaker(1, b.now);
        assert_ne!(b.pit.channels[2].count_load_time, stamp(b.now), "no edge");
    }
}

#[test]
fn read_back_latches_what_it_selects() {
    let mut b = Bench::new();
    for channel in 0..3 {
        b.program(channel, 2, 0x1234);
    }
    b.out(0x43, 0xe6); // status of channels 0 and 1
    let latched = |b: &Bench| b.pit.channels.map(|c| (c.status_latched, c.count_latched));
    assert_eq!(latched(&b), [(1, 0), (1, 0), (0, 0)]);
    b.out(0x43, 0xd8); // count of channel 2
    assert_eq!(latched(&b), [(1, 0), (1, 0), (0, 3)]);
    b.out(0x43, 0xc4); // both of channel 1
    assert_eq!(latched(&b), [(1, 0), (1, 3), (0, 3)]);
    assert_eq!([b.inb(0x41), b.inb(0x41), b.inb(0x41)], [0xb4, 0x34, 0x12]);
    assert_eq!(b.inb(0x40), 0xb4);
    assert_eq!(latched(&b), [(0, 0), (0, 0), (0, 3)]);
    b.out(0x43, 0xfe);
    assert_eq!(latched(&b), [(0, 0), (0, 0), (0, 3)]);
}

#[test]
fn only_the_four_ports_answer() {
    let mut b = Bench::new();
    for port in 0..=0xffff {
        let ours = (0x40..0x44).contains(&port);
        assert_eq!(b.pit.read(port, 0).is_some(), ours);
        assert_eq!(b.pit.clone().write(port, 0, 0, &mut b.work), ours);
    }
    assert_eq!(b.inb(0x43), 0);
}

#[test]
fn the_state_round_trips_and_restarts_the_counters() {
    let mut b = Bench::new();
    b.program(0, 2, 0x8000);
    b.program(2, 3, 0x4000);
    b.pit.write_speaker(3, b.now);
    let mut state = KvmPitState2::zeroed();
    state.reserved = [9; 9];
    b.pit.save(&mut state);
    assert_eq!(state.reserved, [0; 9]);
    assert_eq!(state.flags, KVM_PIT_FLAGS_SPEAKER_DATA_ON);

    let mut other = Bench::new();
    other.now += SECOND;
    other.pit.restore(&state, other.now, &mut other.work);
    let interval = counter::duration_ns(0x8000);
    let want = PitTimer::Arm {
        at_ns: other.now + interval,
        period_ns: interval,
    };
    assert_eq!(other.timer(), Some(want));
    let mut read = KvmPitState2::zeroed();
    other.pit.save(&mut read);
    for channel in &mut read.channels {
        assert_eq!(channel.count_load_time, stamp(other.now));
        channel.count_load_time = stamp(b.now);
    }
    assert_eq!(read, state);
    assert_eq!(other.pit.channels()[2].gate, 1);
}

#[test]
fn the_hpet_takes_the_place_of_channel_0() {
    let mut b = Bench::new();
    b.program(0, 2, 0x8000);
    let mut state = KvmPitState2::zeroed();
    b.pit.save(&mut state);
    state.flags |= KVM_PIT_FLAGS_HPET_LEGACY;
    b.pit.restore(&state, b.now, &mut b.work);
    assert_eq!(b.timer(), Some(PitTimer::Disarm));
    b.program(0, 2, 0x8000);
    assert_eq!(b.timer(), Some(PitTimer::Disarm));
    b.program(2, 0, 0x8000);
    // Leaving it, the counter is loaded again.
    b.pit.save(&mut state);
    state.flags = 0;
    b.pit.restore(&state, b.now, &mut b.work);
    assert!(matches!(b.timer(), Some(PitTimer::Arm { .. })));
    // The older call says nothing about the flag.
    b.pit.flags = KVM_PIT_FLAGS_HPET_LEGACY;
    b.pit.set_channels(&state.channels, b.now, &mut b.work);
    assert_eq!(b.timer(), Some(PitTimer::Disarm));
}

#[test]
fn a_clock_that_steps_back_does_no_harm() {
    let mut b = Bench::new();
    b.program(0, 2, 0x8000);
    b.program(2, 0, 0x8000);
    b.now -= SECOND;
    assert_eq!(b.inb(0x42), 0x00);
    assert_eq!(b.inb(0x42), 0x80);
    assert!(!b.expire());
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Wait(u64),
    Out(u8, u8),
    In(u8),
    Speaker(u8),
    Expire,
    Ack,
    Unmask,
    Reinject(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => prop_oneof![0..2000u64, 0..10_000_000u64, any::<u64>()].prop_map(Op::Wait),
        4 => (0..4u8, any::<u8>()).prop_map(|(p, v)| Op::Out(p, v)),
        2 => (0..4u8).prop_map(Op::In),
        1 => any::<u8>().prop_map(Op::Speaker),
        2 => Just(Op::Expire),
        2 => Just(Op::Ack),
        1 => Just(Op::Unmask),
        1 => any::<bool>().prop_map(Op::Reinject),
    ]
}

fn channel() -> impl Strategy<Value = KvmPitChannelState> {
    (any::<(u32, u16, [u8; 10], i64)>()).prop_map(|(count, latched_count, b, count_load_time)| {
        KvmPitChannelState {
            count,
            latched_count,
            count_latched: b[0],
            status_latched: b[1],
            status: b[2],
            read_state: b[3],
            write_state: b[4],
            write_latch: b[5],
            rw_mode: b[6],
            mode: b[7],
            bcd: b[8],
            gate: b[9],
            count_load_time,
        }
    })
}

fn apply(b: &mut Bench, op: Op) {
    match op {
        Op::Wait(ns) => b.now = b.now.wrapping_add(ns),
        Op::Out(port, value) => b.out(0x40 + u16::from(port), value),
        Op::In(port) => {
            b.inb(0x40 + u16::from(port));
        }
        Op::Speaker(value) => {
            b.pit.write_speaker(value, b.now);
            assert_eq!(b.pit.read_speaker(b.now) & 3, value & 3);
        }
        Op::Expire => {
            b.expire();
        }
        Op::Ack => {
            b.ack();
        }
        Op::Unmask => b.pit.unmasked(),
        Op::Reinject(on) => b.pit.set_reinject(on),
    }
}

proptest! {
    /// However late the timer is served, the ticks are those of the time that has passed, and a
    /// guest that takes them gets all of them.
    #[test]
    fn the_ticks_equal_the_periods(
        count in 1u16..,
        mode in 2u8..4,
        waits in prop::collection::vec(0u64..200_000_000, 1..100),
    ) {
        let mut b = Bench::new();
        b.program(0, mode, count);
        let start = b.now;
        let period = counter::duration_ns(count.into()).max(MIN);
        let mut ticks = 0u64;
        for wait in waits {
            b.now += wait;
            let mut sent = b.expire();
            while sent {
                ticks += 1;
                sent = b.ack();
            }
            prop_assert_eq!(ticks, (b.now - start) / period);
            prop_assert_eq!(b.pit.next_expiry(), Some(start + (ticks + 1) * period));
            prop_assert_eq!(b.pit.pending, 0);
        }
    }

    /// A slow guest gets no tick too many, and what it has not got yet is pending.
    #[test]
    fn no_tick_is_lost_or_made_up(
        events in prop::collection::vec((0u64..3_000_000, any::<bool>()), 1..200),
    ) {
        let mut b = Bench::new();
        b.program(0, 2, 1193);
        let period = counter::duration_ns(1193);
        let (start, mut sent, mut acked, mut due) = (b.now, 0u64, 0u64, 0u64);
        for (wait, ack) in events {
            b.now += wait;
            sent += u64::from(b.expire());
            due = (b.now - start) / period;
            if ack && acked < sent {
                acked += 1;
                sent += u64::from(b.ack());
            }
            prop_assert!(sent - acked <= 1, "one tick at a time");
            prop_assert_eq!(u64::from(b.pit.pending), due - acked);
            prop_assert_eq!(due > acked, sent > acked, "a due tick is on its way");
        }
        while acked < sent {
            acked += 1;
            sent += u64::from(b.ack());
        }
        prop_assert_eq!(sent, due);
    }

    #[test]
    fn no_state_and_no_access_upsets_it(
        channels in prop::array::uniform3(channel()),
        flags in any::<u32>(),
        ops in prop::collection::vec(op(), 0..100),
    ) {
        let mut b = Bench::new();
        let state = KvmPitState2 { channels, flags, reserved: [0; 9] };
        b.pit.restore(&state, b.now, &mut b.work);
        let mut read = KvmPitState2::zeroed();
        b.pit.save(&mut read);
        for (got, want) in read.channels.iter_mut().zip(&channels) {
            got.count_load_time = want.count_load_time;
            if want.count == 0 {
                prop_assert_eq!(got.count, 0x1_0000);
                got.count = 0;
            }
        }
        prop_assert_eq!(read, state);
        for op in ops {
            apply(&mut b, op);
            // The timer that the caller was told about is the timer there is.
            match b.timer() {
                Some(PitTimer::Arm { at_ns, period_ns }) => {
                    prop_assert_eq!(b.pit.next_expiry(), Some(at_ns));
                    prop_assert!(period_ns == 0 || period_ns >= MIN);
                }
                Some(PitTimer::Disarm) => prop_assert_eq!(b.pit.next_expiry(), None),
                None => {}
            }
        }
    }
}
