// SPDX-License-Identifier: GPL-2.0

//! From TSC ticks to nanoseconds, as a guest computes them from its clock page:
//! `ns = ((ticks << shift) * mul) >> 32`, a negative shift being one to the right.

/// How a guest turns ticks into nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `tsc_to_system_mul`: a fraction of 2^32, at least a half.
    pub mul: u32,
    /// `tsc_shift`: applied to the ticks first.
    pub shift: i8,
}

impl Scale {
    /// For a TSC of `khz`. A frequency of 0 counts as 1 Hz.
    ///
    /// ```
    /// use model::policy::clock::Scale;
    /// let s = Scale::of(2_000_000);
    /// assert_eq!(s.ns(2_000_000_000), 1_000_000_000);
    /// ```
    pub fn of(khz: u32) -> Self {
        let mut rate = u64::from(khz).wrapping_mul(1000).max(1);
        let mut shift = 0i8;
        // Between one and two billion the multiplier has all of its 32 bits.
        while rate > 2_000_000_000 {
            rate >>= 1;
            shift = shift.saturating_sub(1);
        }
        while rate <= 1_000_000_000 {
            rate <<= 1;
            shift = shift.saturating_add(1);
        }
        let mul = (1_000_000_000u64 << 32).checked_div(rate).unwrap_or(0);
        Self {
            // CAST: the rate is above a billion, so the quotient is below 2^32.
            mul: mul as u32,
            shift,
        }
    }

    /// The nanoseconds that `ticks` take. Modular, as the guest's arithmetic is.
    pub fn ns(self, ticks: u64) -> u64 {
        let by = u32::from(self.shift.unsigned_abs());
        let shifted = if self.shift < 0 {
            ticks.wrapping_shr(by)
        } else {
            ticks.wrapping_shl(by)
        };
        // CAST: the guest takes the low 64 bits, too.
        (u128::from(shifted).wrapping_mul(u128::from(self.mul)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Scale;

    /// From a slow emulator's to beyond what processors have.
    const RATES: [u32; 12] = [
        1, 999, 100_000, 999_999, 1_000_000, 1_000_001, 1_193_182, 1_999_999, 2_000_000, 2_400_013,
        3_999_999, 9_000_000,
    ];

    #[test]
    fn a_second_is_a_second() {
        for khz in RATES {
            let s = Scale::of(khz);
            assert!(s.mul >= 1 << 31, "{khz}: {s:?} wastes bits");
            for seconds in [1u64, 60, 86_400, 10 * 86_400] {
                let want = seconds * 1_000_000_000;
                let got = s.ns(u64::from(khz) * 1000 * seconds);
                // The multiplier is rounded down by less than one of 2^31.
                assert!(got <= want, "{khz}: {got} after {seconds} s");
                assert!(
                    want - got <= (want >> 31) + 1,
                    "{khz}: {got} after {seconds} s"
                );
            }
        }
    }

    #[test]
    fn time_does_not_go_back() {
        for khz in RATES {
            let s = Scale::of(khz);
            let mut last = 0;
            for ticks in (0..100_000u64).chain((1 << 40)..((1 << 40) + 1000)) {
                let ns = s.ns(ticks);
                assert!(ns >= last, "{khz}: {ns} after {last}");
                last = ns;
            }
        }
    }

    #[test]
    fn no_frequency_at_all() {
        // One tick a second.
        let s = Scale::of(0);
        assert!((999_999_998..=1_000_000_000).contains(&s.ns(1)), "{s:?}");
    }
}
