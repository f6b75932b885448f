// SPDX-License-Identifier: GPL-2.0

//! [`Witness`]: words of the current process's memory as they were read, to see later whether they
//! still are what they were.
//!
//! What was concluded from memory that a guest may change at any time is valid again if a second look
//! at all of it finds the same. That is much cheaper than concluding anew.

use kernel::prelude::*;
use model::addr::Hva;

use crate::shim;
use crate::shim::kvmrs_seen;
use crate::uaccess;

/// Words that one can hold: five levels of page tables and two words of code.
pub const WORDS: usize = 7;

/// Words that were read, in order.
///
/// # Invariants
///
/// The first `n` of `seen`, as far as there are so many, are user addresses: they were read from.
pub struct Witness {
    seen: [kvmrs_seen; WORDS],
    /// How many of them are in use, or more than there are.
    n: usize,
}

impl Default for Witness {
    fn default() -> Self {
        Self::new()
    }
}

impl Witness {
    /// Nothing was read.
    pub const fn new() -> Self {
        // INVARIANT: None is in use.
        Self {
            seen: [const {
                kvmrs_seen {
                    hva: 0,
                    value: 0,
                    mask: 0,
                }
            }; WORDS],
            n: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.n = 0;
    }

    /// Did everything that was read find room?
    pub fn is_complete(&self) -> bool {
        self.n <= WORDS
    }

    /// What was read is not all that counts: [`Self::is_complete`] is false from now on.
    pub fn spoil(&mut self) {
        self.n = WORDS + 1;
    }

    /// Reads a word, of which the bits of `mask` will have to be the same. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub fn read(&mut self, hva: Hva, mask: u64) -> Result<u64> {
        let value = uaccess::read_hva(hva)?;
        match self.seen.get_mut(self.n) {
            // INVARIANT: It was just read from user space.
            Some(s) => {
                *s = kvmrs_seen {
                    hva: hva.0,
                    value,
                    mask,
                };
                self.n = self.n.wrapping_add(1);
            }
            None => self.spoil(),
        }
        Ok(value)
    }

    /// We replaced the word there by this.
    pub fn replaced(&mut self, hva: Hva, value: u64) {
        for s in self.seen.iter_mut().take(self.n) {
            if s.hva == hva.0 {
                s.value = value;
            }
        }
    }

    /// Are all words as they were? May sleep. False also if one cannot be read any more.
    #[inline]
    pub fn holds(&self) -> bool {
        self.is_complete()
            // SAFETY: `n` elements are initialised, and are user addresses by the invariant; the
            // function handles faults.
            && unsafe { shim::kvmrs_user_unchanged(self.seen.as_ptr(), self.n) }
    }
}
