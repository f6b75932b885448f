// SPDX-License-Identifier: GPL-2.0

//! The MSR filter: which accesses of a guest user space keeps for itself (KVM_X86_SET_MSR_FILTER).

use crate::abi;
use crate::abi::{KvmMsrFilter, KvmMsrFilterRange};
use crate::nospec::clamp;
use crate::x86::msr;

/// A range of MSRs with a decision for each.
#[derive(Clone, Copy, Debug)]
pub struct FilterRange<'a> {
    /// KVM_MSR_FILTER_READ and KVM_MSR_FILTER_WRITE: the accesses it decides about.
    pub flags: u32,
    /// The first MSR.
    pub base: u32,
    /// How many.
    pub count: u32,
    /// A bit for each; 0 denies. Bits beyond the end are 0.
    pub bitmap: &'a [u64],
}

impl FilterRange<'_> {
    /// The decision about an MSR, if the range has one.
    fn decide(&self, index: u32, access: u32) -> Option<bool> {
        let n = index.checked_sub(self.base)?;
        if n >= self.count || self.flags & access == 0 {
            return None;
        }
        let at = clamp((n / 64) as usize, self.bitmap.len());
        let word = self.bitmap.get(at).copied().unwrap_or(0);
        Some(word >> (n & 63) & 1 != 0)
    }
}

/// May the guest access an MSR? The first range that has it decides.
///
/// KVM: the registers of the local APIC are not filtered.
pub fn allowed<'a>(
    index: u32,
    write: bool,
    default_allow: bool,
    mut ranges: impl Iterator<Item = FilterRange<'a>>,
) -> bool {
    if matches!(index, msr::X2APIC_FIRST..=msr::X2APIC_LAST) {
        return true;
    }
    let access = if write {
        abi::KVM_MSR_FILTER_WRITE
    } else {
        abi::KVM_MSR_FILTER_READ
    };
    ranges
        .find_map(|r| r.decide(index, access))
        .unwrap_or(default_allow)
}

/// A filter that cannot be: `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadFilter;

/// Checks a filter as a whole; whether it allows what no range decides.
///
/// # Errors
/// [`BadFilter`] for unknown flags, or for one that denies everything without naming anything.
pub fn check(f: &KvmMsrFilter) -> Result<bool, BadFilter> {
    let allow = f.flags & abi::KVM_MSR_FILTER_DEFAULT_DENY == 0;
    let empty = f.ranges.iter().all(|r| r.nmsrs == 0);
    if f.flags & !abi::KVM_MSR_FILTER_VALID_MASK != 0 || (empty && !allow) {
        return Err(BadFilter);
    }
    Ok(allow)
}

/// Checks one range; how many words its bitmap has, 0 for a range that is not used.
///
/// # Errors
/// [`BadFilter`] for flags that are unknown or lacking, or for a bitmap that is too long.
pub fn words(r: &KvmMsrFilterRange) -> Result<usize, BadFilter> {
    if r.nmsrs == 0 {
        return Ok(0);
    }
    let unknown = r.flags & !abi::KVM_MSR_FILTER_RANGE_VALID_MASK != 0;
    let words = r.nmsrs.div_ceil(64);
    if unknown || r.flags == 0 || words > abi::KVM_MSR_FILTER_MAX_BITMAP_SIZE / 8 {
        return Err(BadFilter);
    }
    Ok(words as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RW: u32 = abi::KVM_MSR_FILTER_READ | abi::KVM_MSR_FILTER_WRITE;

    fn one(flags: u32, base: u32, count: u32, bitmap: &[u64]) -> FilterRange<'_> {
        FilterRange {
            flags,
            base,
            count,
            bitmap,
        }
    }

    #[test]
    fn the_first_range_that_has_the_register_decides() {
        let (none, all) = ([0u64], [u64::MAX]);
        let read_only = [
            one(abi::KVM_MSR_FILTER_READ, 0x10, 4, &all),
            one(RW, 0x10, 64, &none),
        ];
        let ask = |i, w| allowed(i, w, true, read_only.iter().copied());
        assert!(ask(0x10, false) && ask(0x13, false));
        assert!(!ask(0x10, true) && !ask(0x14, false) && !ask(0x4f, true));
        assert!(ask(0xf, true) && ask(0x50, false));
        assert!(!allowed(0xf, true, false, read_only.iter().copied()));
    }

    #[test]
    fn bits_are_per_register() {
        let map = [1u64 << 63, 1];
        let r = [one(RW, 0xc000_0000, 65, &map)];
        let ask = |i| allowed(i, false, true, r.iter().copied());
        assert!(!ask(0xc000_0000) && ask(0xc000_003f) && ask(0xc000_0040));
        // A bitmap that is too short denies the rest.
        let r = [one(RW, 0, 200, &map)];
        assert!(!allowed(190, false, true, r.iter().copied()));
    }

    #[test]
    fn a_range_at_the_end_of_the_numbers_does_not_wrap() {
        let all = [u64::MAX];
        let r = [one(RW, u32::MAX - 1, 64, &all)];
        assert!(allowed(u32::MAX, true, false, r.iter().copied()));
        assert!(!allowed(0, true, false, r.iter().copied()));
    }

    #[test]
    fn the_local_apic_is_not_filtered() {
        for i in [0x800, 0x80b, 0x8ff] {
            assert!(allowed(i, true, false, core::iter::empty()));
        }
        assert!(!allowed(0x900, true, false, core::iter::empty()));
    }

    #[test]
    fn checks() {
        let mut f = KvmMsrFilter::zeroed();
        assert_eq!(check(&f), Ok(true));
        f.flags = abi::KVM_MSR_FILTER_DEFAULT_DENY;
        assert_eq!(check(&f), Err(BadFilter));
        f.ranges[15].nmsrs = 1;
        assert_eq!(check(&f), Ok(false));
        f.flags = 2;
        assert_eq!(check(&f), Err(BadFilter));

        let mut r = KvmMsrFilterRange::zeroed();
        r.flags = 4;
        assert_eq!(words(&r), Ok(0));
        r.nmsrs = 1;
        assert_eq!(words(&r), Err(BadFilter));
        r.flags = 0;
        assert_eq!(words(&r), Err(BadFilter));
        r.flags = 3;
        assert_eq!(words(&r), Ok(1));
        r.nmsrs = 0x600 * 8;
        assert_eq!(words(&r), Ok(0x600 / 8));
        r.nmsrs += 1;
        assert_eq!(words(&r), Err(BadFilter));
        r.nmsrs = u32::MAX;
        assert_eq!(words(&r), Err(BadFilter));
    }
}
