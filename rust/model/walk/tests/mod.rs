// SPDX-License-Identifier: GPL-2.0

//! Tests of the guest page walker.

mod cases;
mod oracle;

use std::collections::BTreeMap;

use super::*;

/// Guest memory of 8-byte words; an absent word cannot be reached.
#[derive(Clone, Debug, Default)]
struct Ram {
    words: BTreeMap<u64, u64>,
    /// Writes have no effect.
    rom: bool,
    /// Added to every address by the nested translation.
    nested: u64,
    /// How many exchanges fail because "another processor" was faster.
    interference: u32,
    purposes: Vec<Purpose>,
}

impl Ram {
    fn set(&mut self, at: u64, value: u64) {
        self.words.insert(at, value);
    }

    fn set32(&mut self, at: u64, value: u32) {
        let shift = (at & 4) * 8;
        let w = self.words.entry(at & !7).or_default();
        *w = *w & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }

    fn get32(&self, at: u64) -> Option<u32> {
        self.words
            .get(&(at & !7))
            .map(|w| (w >> ((at & 4) * 8)) as u32)
    }
}

impl GuestMem for Ram {
    type Error = Gpa;

    fn read_u32(&mut self, gpa: Gpa) -> Result<u32, Gpa> {
        assert_eq!(gpa.0 & 3, 0);
        self.get32(gpa.0).ok_or(gpa)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Result<u64, Gpa> {
        assert_eq!(gpa.0 & 7, 0);
        self.words.get(&gpa.0).copied().ok_or(gpa)
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Result<bool, Gpa> {
        let now = self.read_u32(gpa)?;
        if self.interference > 0 {
            self.interference -= 1;
            return Ok(false);
        }
        if now == old && !self.rom {
            self.set32(gpa.0, new);
        }
        Ok(now == old)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Result<bool, Gpa> {
        let now = self.read_u64(gpa)?;
        if self.interference > 0 {
            self.interference -= 1;
            return Ok(false);
        }
        if now == old && !self.rom {
            self.set(gpa.0, new);
        }
        Ok(now == old)
    }

    fn nested(&mut self, gpa: Gpa, purpose: Purpose) -> Result<Gpa, Gpa> {
        self.purposes.push(purpose);
        Ok(gpa.wrapping_add(self.nested))
    }
}

const CPU: CpuTraits = CpuTraits {
    maxphyaddr: 46,
    gb_pages: true,
    pse36: true,
    upper_bit8_reserved: false,
};
