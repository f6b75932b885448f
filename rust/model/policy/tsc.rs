// SPDX-License-Identifier: GPL-2.0

//! The rate of a guest's TSC, compared with the host's.
//!
//! Hardware multiplies the host's TSC by a fixed-point number and adds an offset
//! (`SDM: vol 3, 26.3`; `APM: vol 2, 15.30.5`).

/// A rate: guest TSC = host TSC * ratio / 2^frac, before the offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    ratio: u64,
    frac: u32,
}

impl Rate {
    /// The host's rate, for hardware with this many fraction bits; 0 if it does not scale.
    pub const fn host(frac: u8) -> Self {
        // CAST: widening.
        let frac = frac as u32 & 63;
        Self {
            ratio: 1u64.wrapping_shl(frac),
            frac,
        }
    }

    /// The rate at which a guest counts `khz` on a host that counts `host` kHz. `None` if hardware
    /// with this many fraction bits (32 or more) cannot do it: it has 8 bits before the point with
    /// 32 behind it, and 64 in all with more.
    pub fn new(khz: u32, host: u32, frac: u8) -> Option<Self> {
        let (khz, host) = (u64::from(khz), u64::from(host));
        let more = u32::from(frac).checked_sub(32)?;
        let whole = khz.checked_div(host)?;
        let rest = khz.checked_rem(host)?;
        // Below 2^32 each.
        let high = (rest << 32).checked_div(host)?;
        let rest = (rest << 32).checked_rem(host)?;
        let low = rest.checked_shl(more)?.checked_div(host)?;
        let whole_bits = if more == 0 {
            8
        } else {
            32u32.checked_sub(more)?
        };
        if whole.wrapping_shr(whole_bits) != 0 {
            return None;
        }
        let ratio = whole.wrapping_shl(u32::from(frac)) | high.wrapping_shl(more) | low;
        (ratio != 0).then_some(Self {
            ratio,
            frac: u32::from(frac),
        })
    }

    /// What hardware multiplies by.
    pub const fn ratio(self) -> u64 {
        self.ratio
    }

    /// The guest's TSC, before the offset, when the host's is `tsc`.
    #[inline]
    pub const fn scale(self, tsc: u64) -> u64 {
        if self.ratio == 1u64.wrapping_shl(self.frac) {
            return tsc;
        }
        // CAST: the TSC has 64 bits, and wraps.
        (tsc as u128)
            .wrapping_mul(self.ratio as u128)
            .wrapping_shr(self.frac) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rate_of_the_host() {
        for frac in [0, 32, 48] {
            assert_eq!(Rate::host(frac).scale(u64::MAX), u64::MAX);
            assert_eq!(Rate::host(frac).ratio(), 1 << frac);
        }
        assert_eq!(Rate::new(1_000_000, 1_000_000, 48), Some(Rate::host(48)));
        assert_eq!(
            Rate::new(2_000_000, 1_000_000, 32).unwrap().ratio(),
            2 << 32
        );
        assert_eq!(Rate::new(500_000, 1_000_000, 48).unwrap().ratio(), 1 << 47);
    }

    #[test]
    fn what_cannot_be() {
        assert_eq!(Rate::new(1, 0, 48), None);
        assert_eq!(Rate::new(1, 1, 0), None, "no scaling");
        assert_eq!(Rate::new(256, 1, 32), None, "8 bits before the point");
        assert!(Rate::new(255, 1, 32).is_some());
        assert_eq!(Rate::new(1 << 16, 1, 48), None);
        assert!(Rate::new((1 << 16) - 1, 1, 48).is_some());
        assert_eq!(Rate::new(0, 1_000_000, 48), None, "time would stand still");
    }

    proptest! {
        #[test]
        fn close_to_the_quotient(khz in 1000u32.., host in 1000u32.., tsc: u64) {
            let tsc = tsc >> 16;
            if let Some(r) = Rate::new(khz, host, 48) {
                let exact = u128::from(tsc) * u128::from(khz) / u128::from(host);
                let got = u128::from(r.scale(tsc));
                // The ratio is rounded down in its last bit, and so is the product.
                prop_assert!(got <= exact && exact - got <= (u128::from(tsc) >> 48) + 1);
            }
        }
    }
}
