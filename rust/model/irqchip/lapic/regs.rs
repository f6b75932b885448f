// SPDX-License-Identifier: GPL-2.0

//! The APIC register page.
//!
//! AVIC and APICv let hardware, and with AVIC other CPUs, write registers while the guest runs, so
//! the page is made of atomics from the start. Accesses are relaxed: registers order nothing, and
//! what is posted to a vCPU comes through [`crate::irqchip::pending::Pending`].
//!
//! Registers are 32 bits wide at a stride of 16 bytes in the first KiB. The request and trigger
//! words change with atomic read-modify-write operations, as hardware may set other bits of them
//! at the same time; everything else is written by the owner or by hardware that runs in its place.

use core::ops::Deref;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Relaxed;

/// The words of an APIC page: 4 KiB, which hardware wants aligned to its size.
pub type ApicWords = [AtomicU32; 1024];

/// Something that owns an APIC page. The kernel has a page of its own for it, tests a box.
pub trait Storage: Deref<Target = ApicWords> {}
impl<T: Deref<Target = ApicWords>> Storage for T {}

/// One of the three 256-bit registers, by the offset of its first word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bank {
    /// In service.
    Isr = 0x100,
    /// Trigger mode: set for level.
    Tmr = 0x180,
    /// Requested.
    Irr = 0x200,
}

/// A view of an APIC page.
#[derive(Clone, Copy, Debug)]
pub struct ApicPage<'a>(pub &'a ApicWords);

impl ApicPage<'_> {
    #[inline]
    fn word(&self, offset: u32) -> &AtomicU32 {
        let [first, ..] = self.0;
        // The mask keeps the index inside the page, so the alternative vanishes.
        self.0.get((offset >> 2) as usize & 1023).unwrap_or(first)
    }

    /// The 32-bit register at `offset`.
    #[inline]
    pub fn read(&self, offset: u32) -> u32 {
        self.word(offset).load(Relaxed)
    }

    /// Sets the 32-bit register at `offset`.
    #[inline]
    pub fn write(&self, offset: u32, value: u32) {
        self.word(offset).store(value, Relaxed);
    }

    /// Word `index` (0 to 7) of a bank.
    #[inline]
    pub fn bank_word(&self, bank: Bank, index: u32) -> &AtomicU32 {
        self.word((bank as u32).wrapping_add((index & 7) << 4))
    }

    /// Is the bit of `vector` set?
    #[inline]
    pub fn test(&self, bank: Bank, vector: u8) -> bool {
        self.bank_word(bank, u32::from(vector >> 5)).load(Relaxed) & bit(vector) != 0
    }

    /// Sets the bit of `vector`.
    #[inline]
    pub fn set(&self, bank: Bank, vector: u8) {
        self.bank_word(bank, u32::from(vector >> 5))
            .fetch_or(bit(vector), Relaxed);
    }

    /// Clears the bit of `vector`.
    #[inline]
    pub fn clear(&self, bank: Bank, vector: u8) {
        self.bank_word(bank, u32::from(vector >> 5))
            .fetch_and(!bit(vector), Relaxed);
    }

    /// Clears a whole bank.
    pub fn clear_bank(&self, bank: Bank) {
        for i in 0..8 {
            self.bank_word(bank, i).store(0, Relaxed);
        }
    }

    /// The highest vector whose bit is set. Bit `i` of `hint` is clear only if word `i` is known to
    /// be zero; bits of words found to be zero are cleared.
    #[inline]
    pub fn highest(&self, bank: Bank, hint: &mut u8) -> Option<u8> {
        while *hint != 0 {
            let index = (hint.leading_zeros() & 7) ^ 7;
            let word = self.bank_word(bank, index).load(Relaxed);
            if word != 0 {
                let low = (word.leading_zeros() & 31) ^ 31;
                return Some(((index << 5) | low) as u8);
            }
            *hint &= !(1u8 << (index & 7));
        }
        None
    }
}

/// The hint that says of every word of a bank that it may have bits.
pub(super) const HINT_ALL: u8 = 0xff;

/// The hint bit of the word that `vector` is in.
#[inline]
pub(super) fn hint_bit(vector: u8) -> u8 {
    1 << (vector >> 5)
}

#[inline]
fn bit(vector: u8) -> u32 {
    1 << (vector & 31)
}
