// SPDX-License-Identifier: GPL-2.0

//! One counter of the 8254: its modes as functions of the time since it was loaded, and the latches
//! in front of it.
//!
//! A counter does not run. What it would show is computed from `count` and the time that has
//! passed. KVM: the binary counter stands in for BCD, and the gate of channel 2 does not stop the
//! count in modes 0 and 4.

use crate::abi::KvmPitChannelState;

/// The input clock of the 8254 in hertz: 105/88 MHz, rounded.
pub const PIT_HZ: u64 = 1_193_182;

const NS_PER_SEC: u64 = 1_000_000_000;

/// Bytes of a count that are read or written: the RW field of the control word, and for a word the
/// byte that is next. Anything else is the low byte.
mod access {
    pub(super) const HIGH: u8 = 2;
    pub(super) const WORD_LOW: u8 = 3;
    pub(super) const WORD_HIGH: u8 = 4;
}

/// Input clocks in `ns` nanoseconds.
pub(super) fn clocks(ns: u64) -> u64 {
    // In two steps, so that no product exceeds 64 bits: the seconds give at most 2^55 clocks.
    let whole = (ns / NS_PER_SEC).wrapping_mul(PIT_HZ);
    let rest = (ns % NS_PER_SEC).wrapping_mul(PIT_HZ) / NS_PER_SEC;
    whole.wrapping_add(rest)
}

/// Nanoseconds that `count` input clocks take.
pub(super) fn duration_ns(count: u32) -> u64 {
    u64::from(count).wrapping_mul(NS_PER_SEC) / PIT_HZ
}

impl KvmPitChannelState {
    /// The initial count. Only a state from user space that was not loaded yet has 0.
    fn initial(&self) -> u64 {
        if self.count == 0 {
            0x1_0000
        } else {
            u64::from(self.count)
        }
    }

    /// The counting element `ns` nanoseconds after the load; 0x10000 reads as 0.
    pub(super) fn count_at(&self, ns: u64) -> u16 {
        let (n, d) = (self.initial(), clocks(ns));
        let phase = d.checked_rem(n).unwrap_or(0);
        let value = match self.mode {
            0 | 1 | 4 | 5 => n.wrapping_sub(d),
            3 => square_wave(n, phase),
            _ => n.wrapping_sub(phase),
        };
        // CAST: the counter has 16 bits.
        value as u16
    }

    /// The OUT pin `ns` nanoseconds after the load (8254: "Mode Definitions").
    pub(super) fn out_at(&self, ns: u64) -> bool {
        let (n, d) = (self.initial(), clocks(ns));
        let phase = d.checked_rem(n).unwrap_or(0);
        match self.mode {
            // Low for the last clock of each period.
            2 => phase.wrapping_add(1) != n,
            3 => phase < high_half(n),
            // A strobe of one clock.
            4 | 5 => d != n,
            _ => d >= n,
        }
    }

    /// The counter latch command: holds the count until it is read.
    pub(super) fn latch_count(&mut self, ns: u64) {
        if self.count_latched == 0 {
            self.latched_count = self.count_at(ns);
            self.count_latched = self.rw_mode;
        }
    }

    /// The status half of the read-back command. KVM: the null count bit is never set, a count is
    /// in effect as soon as it is written.
    pub(super) fn latch_status(&mut self, ns: u64) {
        if self.status_latched == 0 {
            let out = u8::from(self.out_at(ns));
            self.status =
                (out << 7) | ((self.rw_mode & 3) << 4) | ((self.mode & 7) << 1) | (self.bcd & 1);
            self.status_latched = 1;
        }
    }

    /// A control word for this counter, other than a latch command.
    pub(super) fn control(&mut self, word: u8) {
        let rw = (word >> 4) & 3;
        self.rw_mode = rw;
        self.read_state = rw;
        self.write_state = rw;
        // Modes 6 and 7 are 2 and 3.
        self.mode = match (word >> 1) & 7 {
            6 => 2,
            7 => 3,
            mode => mode,
        };
        self.bcd = word & 1;
    }

    /// Reads the counter's port: a latched status, else a latched count, else the count.
    pub(super) fn read(&mut self, ns: u64) -> u8 {
        if self.status_latched != 0 {
            self.status_latched = 0;
            return self.status;
        }
        if self.count_latched != 0 {
            let [low, high] = self.latched_count.to_le_bytes();
            let (value, left) = match self.count_latched {
                access::HIGH => (high, 0),
                access::WORD_LOW => (low, access::HIGH),
                _ => (low, 0),
            };
            self.count_latched = left;
            return value;
        }
        let [low, high] = self.count_at(ns).to_le_bytes();
        let (value, next) = match self.read_state {
            access::HIGH => (high, access::HIGH),
            access::WORD_LOW => (low, access::WORD_HIGH),
            access::WORD_HIGH => (high, access::WORD_LOW),
            same => (low, same),
        };
        self.read_state = next;
        value
    }

    /// Writes the counter's port; returns the initial count once it is complete.
    pub(super) fn write(&mut self, value: u8) -> Option<u16> {
        match self.write_state {
            access::HIGH => Some(u16::from_le_bytes([0, value])),
            access::WORD_LOW => {
                self.write_latch = value;
                self.write_state = access::WORD_HIGH;
                None
            }
            access::WORD_HIGH => {
                self.write_state = access::WORD_LOW;
                Some(u16::from_le_bytes([self.write_latch, value]))
            }
            // The low byte only; also before the first control word.
            _ => Some(u16::from(value)),
        }
    }
}

/// Clocks for which OUT is high in each period of mode 3.
fn high_half(n: u64) -> u64 {
    n.wrapping_add(1) >> 1
}

/// The counting element in mode 3: it counts down by two, once for each half of the wave. For an
/// odd count it starts from one less, and the high half has one clock more.
fn square_wave(n: u64, phase: u64) -> u64 {
    let high = high_half(n);
    let step = if phase < high {
        phase
    } else {
        phase.wrapping_sub(high)
    };
    (n & !1).wrapping_sub(step.wrapping_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(mode: u8, count: u32) -> KvmPitChannelState {
        KvmPitChannelState {
            mode,
            count,
            ..KvmPitChannelState::zeroed()
        }
    }

    /// The first moment at which `d` clocks have passed.
    fn ns(d: u64) -> u64 {
        (d * NS_PER_SEC).div_ceil(PIT_HZ)
    }

    #[test]
    fn time_converts_without_overflow_or_loss() {
        assert_eq!(clocks(0), 0);
        assert_eq!(clocks(NS_PER_SEC), PIT_HZ);
        assert_eq!(clocks(NS_PER_SEC - 1), PIT_HZ - 1);
        for ns in [838, 839, 54_925_401, 1 << 40, u64::MAX / 3, u64::MAX] {
            let exact = u128::from(ns) * u128::from(PIT_HZ) / u128::from(NS_PER_SEC);
            assert_eq!(u128::from(clocks(ns)), exact);
        }
        assert_eq!(duration_ns(0x1_0000), 54_925_401);
        for count in [1, 2, 1193, 0xffff, u32::MAX] {
            let exact = u128::from(count) * u128::from(NS_PER_SEC) / u128::from(PIT_HZ);
            assert_eq!(u128::from(duration_ns(count)), exact);
        }
        for d in 0..100_000 {
            assert_eq!(clocks(ns(d)), d);
        }
    }

    #[test]
    fn each_mode_counts_as_the_data_sheet_draws_it() {
        // Counts and OUT from the load on, one clock apart.
        type Wave = [(u16, bool); 9];
        let down = |out: [bool; 9]| -> Wave {
            let mut wave = [(0, false); 9];
            for (d, out) in out.into_iter().enumerate() {
                wave[d] = (4u16.wrapping_sub(d as u16), out);
            }
            wave
        };
        let (l, h) = (false, true);
        let cases: [(u8, u32, Wave); 7] = [
            (0, 4, down([l, l, l, l, h, h, h, h, h])),
            (1, 4, down([l, l, l, l, h, h, h, h, h])),
            (4, 4, down([h, h, h, h, l, h, h, h, h])),
            (5, 4, down([h, h, h, h, l, h, h, h, h])),
            (
                2,
                4,
                [
                    (4, h),
                    (3, h),
                    (2, h),
                    (1, l),
                    (4, h),
                    (3, h),
                    (2, h),
                    (1, l),
                    (4, h),
                ],
            ),
            (
                3,
                4,
                [
                    (4, h),
                    (2, h),
                    (4, l),
                    (2, l),
                    (4, h),
                    (2, h),
                    (4, l),
                    (2, l),
                    (4, h),
                ],
            ),
            (
                3,
                5,
                [
                    (4, h),
                    (2, h),
                    (0, h),
                    (4, l),
                    (2, l),
                    (4, h),
                    (2, h),
                    (0, h),
                    (4, l),
                ],
            ),
        ];
        for (mode, count, wave) in cases {
            let c = counter(mode, count);
            for (d, want) in wave.into_iter().enumerate() {
                let ns = ns(d as u64);
                assert_eq!(
                    (c.count_at(ns), c.out_at(ns)),
                    want,
                    "mode {mode} clock {d}"
                );
            }
        }
    }

    #[test]
    fn the_largest_count_is_written_as_zero() {
        for mode in 0..6 {
            assert_eq!(counter(mode, 0x1_0000).count_at(0), 0);
            assert_eq!(counter(mode, 0).count_at(0), 0);
        }
        assert_eq!(counter(2, 0x1_0000).count_at(ns(1)), 0xffff);
        assert_eq!(counter(3, 0x1_0000).count_at(ns(1)), 0xfffe);
    }

    #[test]
    fn control_words_select_mode_and_bytes() {
        let mut c = counter(0xff, 1);
        for word in 0..=0x3fu8 {
            c.control(word);
            let rw = word >> 4;
            assert_eq!((c.rw_mode, c.read_state, c.write_state), (rw, rw, rw));
            assert_eq!(c.mode, [0, 1, 2, 3, 4, 5, 2, 3][usize::from(word >> 1 & 7)]);
            assert_eq!(c.bcd, word & 1);
        }
    }

    #[test]
    fn counts_are_written_by_bytes_or_words() {
        let mut c = counter(0, 1);
        c.control(0x10);
        assert_eq!(c.write(0x34), Some(0x34));
        c.control(0x20);
        assert_eq!(c.write(0x12), Some(0x1200));
        c.control(0x30);
        for _ in 0..2 {
            assert_eq!(c.write(0x34), None);
            assert_eq!(c.write(0x12), Some(0x1234));
        }
        // A control word starts over in the middle.
        assert_eq!(c.write(0x55), None);
        c.control(0x30);
        assert_eq!(c.write(0x34), None);
        assert_eq!(c.write(0x12), Some(0x1234));
    }

    #[test]
    fn counts_are_read_by_bytes_or_words() {
        let mut c = counter(0, 0x1234);
        c.control(0x10);
        assert_eq!([c.read(0), c.read(0)], [0x34, 0x34]);
        c.control(0x20);
        assert_eq!([c.read(0), c.read(0)], [0x12, 0x12]);
        c.control(0x30);
        assert_eq!([c.read(0), c.read(0), c.read(0)], [0x34, 0x12, 0x34]);
    }

    #[test]
    fn a_latch_holds_until_it_is_read() {
        let mut c = counter(2, 0x1234);
        c.control(0x34);
        c.latch_count(0);
        c.latch_count(ns(0x100));
        assert_eq!([c.read(ns(0x200)), c.read(ns(0x300))], [0x34, 0x12]);
        assert_eq!(c.read(ns(0x234)), 0x00);
        for (word, want) in [(0x14, 0x34), (0x24, 0x12)] {
            let mut c = counter(2, 0x1234);
            c.control(word);
            c.latch_count(0);
            assert_eq!(c.read(ns(0x234)), want);
            assert_eq!(c.count_latched, 0);
        }
    }

    #[test]
    fn a_latched_status_is_read_before_a_latched_count() {
        let mut c = counter(0, 0x1234);
        c.control(0x35);
        c.latch_status(0);
        c.latch_count(0);
        c.latch_status(ns(0x1233));
        assert_eq!([c.read(0), c.read(0), c.read(0)], [0xb5, 0x34, 0x12]);
        c.control(0x30);
        c.latch_status(ns(0x1233));
        assert_eq!(c.read(0), 0x30);
        c.latch_status(ns(0x1234));
        assert_eq!(c.read(0), 0xb0);
    }
}
