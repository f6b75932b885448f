// SPDX-License-Identifier: GPL-2.0

//! Memory-type range registers: stored and checked, no more.
//!
//! `SDM: vol 3, 12.11`, `APM: vol 2, 7.7`. Under nested paging the guest's MTRRs have no effect on
//! the memory types of its accesses: they are what firmware and operating systems read back.

use crate::x86::msr;

/// How many variable ranges there are.
pub const VARIABLE_RANGES: usize = 8;

/// MTRRcap: write-combining and fixed ranges exist, no SMRR, and the number of variable ranges.
pub const CAP: u64 = 0x500 | VARIABLE_RANGES as u64;

/// The registers of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mtrr {
    /// Base and mask of each variable range, as the MSRs alternate.
    variable: [u64; 2 * VARIABLE_RANGES],
    /// Fixed ranges: one of 64 KiB blocks, two of 16 KiB, eight of 4 KiB.
    fixed: [u64; 11],
    /// Default type and enables.
    def_type: u64,
}

impl Mtrr {
    /// All zero, as after reset: everything is uncacheable and MTRRs are off.
    pub const RESET: Self = Self {
        variable: [0; 2 * VARIABLE_RANGES],
        fixed: [0; 11],
        def_type: 0,
    };

    /// Reads a register; `None` if there is no such one.
    pub fn read(&self, index: u32) -> Option<u64> {
        if index == msr::MTRR_CAP {
            return Some(CAP);
        }
        match place(index)? {
            Place::Variable(i) => self.variable.get(i).copied(),
            Place::Fixed(i) => self.fixed.get(i).copied(),
            Place::DefType => Some(self.def_type),
        }
    }

    fn slot(&mut self, index: u32) -> Option<&mut u64> {
        match place(index)? {
            Place::Variable(i) => self.variable.get_mut(i),
            Place::Fixed(i) => self.fixed.get_mut(i),
            Place::DefType => Some(&mut self.def_type),
        }
    }

    /// Writes a register. `reserved` holds the bits no guest-physical address may have. False, and
    /// nothing changes, if there is no such register or it cannot take the value.
    #[must_use]
    pub fn write(&mut self, index: u32, value: u64, reserved: u64) -> bool {
        let valid = match index {
            msr::MTRR_DEF_TYPE => value & !0xcff == 0 && valid_type(value),
            msr::MTRR_PHYS_BASE0..msr::MTRR_FIX64K_00000 if index & 1 == 0 => {
                value & (reserved | 0xf00) == 0 && valid_type(value)
            }
            msr::MTRR_PHYS_BASE0..msr::MTRR_FIX64K_00000 => value & (reserved | 0x7ff) == 0,
            _ => value
                .to_le_bytes()
                .into_iter()
                .all(|t| valid_type(u64::from(t))),
        };
        match self.slot(index) {
            Some(slot) if valid => {
                *slot = value;
                true
            }
            _ => false,
        }
    }
}

/// Where a register is kept.
enum Place {
    Variable(usize),
    Fixed(usize),
    DefType,
}

fn place(index: u32) -> Option<Place> {
    // CAST: all differences are below 112.
    let from = |first: u32| index.wrapping_sub(first) as usize;
    Some(match index {
        msr::MTRR_PHYS_BASE0..msr::MTRR_FIX64K_00000 => Place::Variable(from(msr::MTRR_PHYS_BASE0)),
        msr::MTRR_FIX64K_00000 => Place::Fixed(0),
        msr::MTRR_FIX16K_80000 => Place::Fixed(1),
        msr::MTRR_FIX16K_A0000 => Place::Fixed(2),
        msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000 => {
            Place::Fixed(from(msr::MTRR_FIX4K_C0000).wrapping_add(3))
        }
        msr::MTRR_DEF_TYPE => Place::DefType,
        _ => return None,
    })
}

/// Whether the low byte is a memory type an MTRR may have: UC, WC, WT, WP or WB.
/// `SDM: vol 3, table 12-8`.
const fn valid_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}

/// Whether a PAT has no reserved type: UC, WC, WT, WP, WB and UC- exist. `SDM: vol 3, 12.12.2`.
pub const fn pat_valid(value: u64) -> bool {
    // A type is 0, 1 or 4 to 7: no bit above the third, and none of 2 and 3, which have the second
    // but not the third.
    value & 0xf8f8_f8f8_f8f8_f8f8 == 0 && value & 0x0202_0202_0202_0202 & !(value >> 1) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RESERVED: u64 = !0u64 << 40;

    #[test]
    fn every_register_has_a_place_of_its_own() {
        let indices: Vec<u32> = (0x200..0x210)
            .chain([0x250, 0x258, 0x259])
            .chain(0x268..0x270)
            .chain([0x2ff])
            .collect();
        let mut m = Mtrr::RESET;
        for (i, index) in indices.iter().enumerate() {
            // A value every register takes: type 0 or 6 in the low byte, a high bit that differs.
            let value = match index {
                0x200..0x210 => (i as u64) << 12,
                0x2ff => 0xc06,
                _ => 0x0606_0606_0606_0606,
            };
            assert!(m.write(*index, value, RESERVED), "{index:#x}");
            assert_eq!(m.read(*index), Some(value), "{index:#x}");
        }
        for i in 0..16 {
            assert_eq!(m.read(0x200 + i), Some(u64::from(i) << 12));
        }
        for index in [
            0x1ff, 0x210, 0x24f, 0x251, 0x257, 0x25a, 0x267, 0x270, 0x2fe, 0x300,
        ] {
            assert_eq!(m.read(index), None, "{index:#x}");
            assert!(!m.write(index, 0, RESERVED), "{index:#x}");
        }
        assert_eq!(m.read(msr::MTRR_CAP), Some(0x508));
        assert!(!m.write(msr::MTRR_CAP, 0, RESERVED), "read-only");
    }

    #[test]
    fn values_are_checked() {
        for (index, value, ok) in [
            (msr::MTRR_DEF_TYPE, 0xc06, true),
            (msr::MTRR_DEF_TYPE, 0xc02, false),
            (msr::MTRR_DEF_TYPE, 0x100, false),
            (msr::MTRR_DEF_TYPE, 0x1000, false),
            (0x200, 0x8000_0006, true),
            (0x200, 0x8000_0106, false),
            (0x200, 0x8000_0003, false),
            (0x200, 1 << 40, false),
            (0x201, 0xff_8000_0800, true),
            (0x201, 0xff_8000_0001, false),
            (0x201, 1 << 40, false),
            (msr::MTRR_FIX64K_00000, 0x0605_0401_0006_0504, true),
            (msr::MTRR_FIX64K_00000, 0x0600_0000_0000_0002, false),
            (msr::MTRR_FIX4K_F8000, 0x0700_0000_0000_0000, false),
        ] {
            let mut m = Mtrr::RESET;
            assert_eq!(m.write(index, value, RESERVED), ok, "{index:#x} {value:#x}");
            let expect = if ok { value } else { 0 };
            assert_eq!(m.read(index), Some(expect), "{index:#x} {value:#x}");
        }
    }

    proptest! {
        #[test]
        fn a_pat_is_valid_if_each_of_its_types_is(value in any::<u64>(), mask in any::<u64>()) {
            // Mostly valid values are more interesting than mostly invalid ones.
            let value = value & (0x0707_0707_0707_0707 | (mask & mask.rotate_left(7) & mask.rotate_left(19)));
            let each = value.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7));
            prop_assert_eq!(pat_valid(value), each);
        }
    }
}
