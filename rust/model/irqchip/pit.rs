// SPDX-License-Identifier: GPL-2.0

//! The 8254 programmable interval timer, with the speaker port of the PC.
//!
//! Owns the three counters and the accounting of channel 0's ticks. Time comes in as nanoseconds of
//! one monotonic clock. The caller holds one lock around every call, runs one timer as
//! [`PitWork::timer`] asks and calls [`Pit::expired`] from it, and turns a [`PitWork::tick`] into a
//! rise and a fall of GSI 0 by [`super::line::IrqSource::Pit`].
//!
//! Reinjection makes up for ticks that the guest was too slow to take: the next one is sent when
//! the guest has acknowledged the last. For that the caller reports each EOI of GSI 0
//! ([`Pit::acknowledged`]) and its unmasking ([`Pit::unmasked`]).
//!
//! ```
//! use model::irqchip::pit::{Pit, PitTimer, PitWork};
//!
//! let mut pit = Pit::new(0, 200_000);
//! let mut work = PitWork::default();
//! for (port, value) in [(0x43, 0x34), (0x40, 0xa9), (0x40, 0x04)] {
//!     pit.write(port, value, 1_000, &mut work);
//! }
//! let period_ns = 999_847;
//! let at_ns = 1_000 + period_ns;
//! assert_eq!(work.timer, Some(PitTimer::Arm { at_ns, period_ns }));
//! work = PitWork::default();
//! pit.expired(at_ns, &mut work);
//! assert!(work.tick);
//! ```

mod counter;

pub use counter::PIT_HZ;

use crate::abi::{KvmPitChannelState, KvmPitState2};
use crate::abi::{KVM_PIT_FLAGS_HPET_LEGACY, KVM_PIT_FLAGS_SPEAKER_DATA_ON};

/// The first of the four ports: three counters and the control word.
pub const PIT_BASE: u16 = 0x40;
/// The port of the speaker, which shows channel 2.
pub const SPEAKER_PORT: u16 = 0x61;

const CONTROL: u16 = 0x43;
const CHANNELS: usize = 3;
/// The channel that the speaker port gates and shows.
const SPEAKER: usize = 2;

/// What the caller's timer has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PitTimer {
    /// Stop. An expiry that is already under way does no harm.
    Disarm,
    /// Expire at `at_ns`, and from then on every `period_ns` unless that is 0.
    Arm {
        /// The next expiry on the clock of the calls.
        at_ns: u64,
        /// The period, or 0 for a single expiry.
        period_ns: u64,
    },
}

/// What the caller has to do after a call. Calls only add to it, a later timer replaces an earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PitWork {
    /// Raise and lower GSI 0, and deliver NMIs through the LINT0 pins that are set up for it.
    pub tick: bool,
    /// Change the timer.
    pub timer: Option<PitTimer>,
}

/// The timer of channel 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Timer {
    /// The next expiry; `None` if stopped.
    next_ns: Option<u64>,
    /// 0 for a single expiry.
    period_ns: u64,
}

/// The interval timer.
#[cfg_attr(not(MODULE), derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Pit {
    channels: [KvmPitChannelState; CHANNELS],
    flags: u32,
    timer: Timer,
    min_period_ns: u64,
    reinject: bool,
    /// Ticks not acknowledged yet, the one under way included; 0 without reinjection.
    pending: u32,
    /// The guest has taken the last tick.
    acknowledged: bool,
}

impl Pit {
    /// The timer after a reset, with reinjection. Periods of channel 0 are lengthened to
    /// `min_period_ns`, because the host pays for each expiry.
    pub fn new(now_ns: u64, min_period_ns: u64) -> Self {
        let mut channel = KvmPitChannelState::zeroed();
        channel.count = 0x1_0000;
        // No mode until the first control word.
        channel.mode = 0xff;
        channel.gate = 1;
        channel.count_load_time = stamp(now_ns);
        let mut channels = [channel; CHANNELS];
        let [_, _, speaker] = &mut channels;
        speaker.gate = 0;
        Pit {
            channels,
            flags: 0,
            timer: Timer::default(),
            min_period_ns,
            reinject: true,
            pending: 0,
            acknowledged: true,
        }
    }

    /// Reads ports 0x40 to 0x43; `None` for others. The control word cannot be read back.
    pub fn read(&mut self, port: u16, now_ns: u64) -> Option<u8> {
        if port == CONTROL {
            return Some(0);
        }
        let index = channel_at(port)?;
        let elapsed = self.elapsed(index, now_ns);
        self.channels.get_mut(index).map(|c| c.read(elapsed))
    }

    /// Writes ports 0x40 to 0x43; `false` for others.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64, work: &mut PitWork) -> bool {
        if port == CONTROL {
            self.write_control(value, now_ns, work);
            return true;
        }
        let Some(index) = channel_at(port) else {
            return false;
        };
        let complete = self.channels.get_mut(index).and_then(|c| c.write(value));
        if let Some(count) = complete {
            self.load(index, u32::from(count), now_ns, work);
        }
        true
    }

    /// Reads the speaker port: gate and data as written, the refresh clock, and OUT of channel 2.
    pub fn read_speaker(&self, now_ns: u64) -> u8 {
        let Some(c) = self.channels.get(SPEAKER) else {
            return 0;
        };
        let data = self.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON != 0;
        // Refresh toggles about every 15 us.
        let refresh = now_ns & (1 << 14) != 0;
        let out = c.out_at(self.elapsed(SPEAKER, now_ns));
        let [gate, data, refresh, out] = [c.gate != 0, data, refresh, out].map(u8::from);
        gate | (data << 1) | (refresh << 4) | (out << 5)
    }

    /// Writes the speaker port: bit 0 is the gate of channel 2, bit 1 the speaker's data.
    pub fn write_speaker(&mut self, value: u8, now_ns: u64) {
        if value & 2 != 0 {
            self.flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        } else {
            self.flags &= !KVM_PIT_FLAGS_SPEAKER_DATA_ON;
        }
        let Some(c) = self.channels.get_mut(SPEAKER) else {
            return;
        };
        let gate = value & 1;
        // A rising gate starts these modes over.
        if matches!(c.mode, 1 | 2 | 3 | 5) && c.gate < gate {
            c.count_load_time = stamp(now_ns);
        }
        c.gate = gate;
    }

    /// The caller's timer expired. Counts every period that has passed, so it may be late; an
    /// expiry that is early or out of date only arms the timer again.
    pub fn expired(&mut self, now_ns: u64, work: &mut PitWork) {
        let Some(next) = self.timer.next_ns else {
            return;
        };
        let mut ticks = 0u64;
        if let Some(late) = now_ns.checked_sub(next) {
            // Periods that ended after the expiry that was due.
            let more = late.checked_div(self.timer.period_ns);
            ticks = more.unwrap_or(0).saturating_add(1);
            self.timer.next_ns =
                more.map(|_| next.saturating_add(ticks.saturating_mul(self.timer.period_ns)));
        }
        if let Some(at_ns) = self.timer.next_ns {
            work.timer = Some(PitTimer::Arm {
                at_ns,
                period_ns: self.timer.period_ns,
            });
        }
        if ticks == 0 {
            return;
        }
        if self.reinject {
            let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
            self.pending = self.pending.saturating_add(ticks);
        }
        self.tick(work);
    }

    /// The guest ended the interrupt of GSI 0: sends the next missed tick, if any.
    pub fn acknowledged(&mut self, work: &mut PitWork) {
        if !self.reinject {
            return;
        }
        self.acknowledged = true;
        self.pending = self.pending.saturating_sub(1);
        if self.pending > 0 {
            self.tick(work);
        }
    }

    /// The guest unmasked GSI 0: ticks that nobody could take are forgotten.
    pub fn unmasked(&mut self) {
        self.forget_ticks();
    }

    /// Turns reinjection on or off (`KVM_REINJECT_CONTROL`). Without it a tick is sent when it is
    /// due, once for all periods that have passed, whatever became of the last.
    pub fn set_reinject(&mut self, reinject: bool) {
        if self.reinject != reinject {
            self.forget_ticks();
            self.reinject = reinject;
        }
    }

    /// Whether missed ticks are sent again, which needs every EOI of GSI 0.
    pub fn reinject(&self) -> bool {
        self.reinject
    }

    /// When the timer expires next, if it runs.
    pub fn next_expiry(&self) -> Option<u64> {
        self.timer.next_ns
    }

    /// The counters, for `KVM_GET_PIT`.
    pub fn channels(&self) -> &[KvmPitChannelState; CHANNELS] {
        &self.channels
    }

    /// Replaces the counters, for `KVM_SET_PIT`. Each starts over.
    pub fn set_channels(
        &mut self,
        channels: &[KvmPitChannelState; CHANNELS],
        now_ns: u64,
        work: &mut PitWork,
    ) {
        self.channels = *channels;
        for (index, channel) in channels.iter().enumerate() {
            self.load(index, channel.count, now_ns, work);
        }
    }

    /// Copies the state out, for `KVM_GET_PIT2`.
    pub fn save(&self, state: &mut KvmPitState2) {
        state.channels = self.channels;
        state.flags = self.flags;
        state.reserved = [0; 9];
    }

    /// Replaces the state, for `KVM_SET_PIT2`. Each counter starts over; with the flag
    /// `KVM_PIT_FLAGS_HPET_LEGACY` channel 0 makes no ticks, the HPET does in its stead.
    pub fn restore(&mut self, state: &KvmPitState2, now_ns: u64, work: &mut PitWork) {
        self.flags = state.flags;
        self.set_channels(&state.channels, now_ns, work);
    }

    /// Nanoseconds since the counter was loaded. Those of a ticking channel 0 start over with each
    /// tick, so that the count agrees with the ticks although the period is not a whole number of
    /// nanoseconds.
    fn elapsed(&self, index: usize, now_ns: u64) -> u64 {
        let Some(c) = self.channels.get(index) else {
            return 0;
        };
        let since = stamp(now_ns).saturating_sub(c.count_load_time);
        let elapsed = u64::try_from(since).unwrap_or(0);
        if index == 0 && self.timer.next_ns.is_some() {
            elapsed.checked_rem(self.timer.period_ns).unwrap_or(elapsed)
        } else {
            elapsed
        }
    }

    fn write_control(&mut self, word: u8, now_ns: u64, work: &mut PitWork) {
        let select = usize::from(word >> 6);
        if select == CHANNELS {
            self.read_back(word, now_ns);
            return;
        }
        let elapsed = self.elapsed(select, now_ns);
        let Some(c) = self.channels.get_mut(select) else {
            return;
        };
        if word & 0x30 == 0 {
            c.latch_count(elapsed);
            return;
        }
        c.control(word);
        // A counter that was given a mode waits for its count, with OUT as at the start.
        c.count_load_time = stamp(now_ns);
        if select == 0 {
            self.disarm(work);
        }
    }

    /// The read-back command: latches counts (bit 5 clear) and status (bit 4 clear) of the channels
    /// that bits 3:1 select.
    fn read_back(&mut self, word: u8, now_ns: u64) {
        for (index, select) in [2, 4, 8].into_iter().enumerate() {
            let elapsed = self.elapsed(index, now_ns);
            if let Some(c) = self.channels.get_mut(index).filter(|_| word & select != 0) {
                if word & 0x20 == 0 {
                    c.latch_count(elapsed);
                }
                if word & 0x10 == 0 {
                    c.latch_status(elapsed);
                }
            }
        }
    }

    /// Starts a counter with an initial count, 0 standing for 0x10000.
    fn load(&mut self, index: usize, count: u32, now_ns: u64, work: &mut PitWork) {
        let count = if count == 0 { 0x1_0000 } else { count };
        let Some(c) = self.channels.get_mut(index) else {
            return;
        };
        c.count = count;
        c.count_load_time = stamp(now_ns);
        if index != 0 {
            return;
        }
        let interval = counter::duration_ns(count);
        match c.mode {
            _ if self.flags & KVM_PIT_FLAGS_HPET_LEGACY != 0 => self.disarm(work),
            // KVM: mode 4 ticks with the end of the count, where its strobe begins.
            0 | 1 | 4 => self.arm(interval, 0, now_ns, work),
            2 | 3 => {
                let period = interval.max(self.min_period_ns).max(1);
                self.arm(period, period, now_ns, work);
            }
            _ => self.disarm(work),
        }
    }

    fn arm(&mut self, interval: u64, period_ns: u64, now_ns: u64, work: &mut PitWork) {
        let at_ns = now_ns.saturating_add(interval);
        self.timer = Timer {
            next_ns: Some(at_ns),
            period_ns,
        };
        self.forget_ticks();
        work.timer = Some(PitTimer::Arm { at_ns, period_ns });
    }

    fn disarm(&mut self, work: &mut PitWork) {
        self.timer = Timer::default();
        work.timer = Some(PitTimer::Disarm);
    }

    fn forget_ticks(&mut self) {
        self.pending = 0;
        self.acknowledged = true;
    }

    /// Sends a tick, unless reinjection waits for the guest to take the last one.
    fn tick(&mut self, work: &mut PitWork) {
        if self.reinject && !self.acknowledged {
            return;
        }
        self.acknowledged = false;
        work.tick = true;
    }
}

/// A point in time as `count_load_time` has it.
fn stamp(now_ns: u64) -> i64 {
    i64::try_from(now_ns).unwrap_or(i64::MAX)
}

fn channel_at(port: u16) -> Option<usize> {
    port.checked_sub(PIT_BASE)
        .map(usize::from)
        .filter(|index| *index < CHANNELS)
}

#[cfg(test)]
mod tests;
