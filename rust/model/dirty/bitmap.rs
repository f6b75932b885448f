// SPDX-License-Identifier: GPL-2.0

//! The dirty bitmap of a slot, over words of the caller's.
//!
//! Bit `i % 64` of word `i / 64` stands for page `i` of the slot. Bits beyond the last page are
//! never set. Marking and harvesting run concurrently; every change is an atomic
//! read-modify-write, which also is the barrier that the order "write the page, then mark it"
//! relies on.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

/// A view of a dirty bitmap.
#[derive(Clone, Copy, Debug)]
pub struct Bitmap<'a> {
    words: &'a [AtomicU64],
    pages: u64,
}

/// The pages a KVM_CLEAR_DIRTY_LOG is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClearRange {
    /// Number of the first word.
    pub first_word: u64,
    /// Number of words, and of 64-bit words user space has to supply.
    pub words: u64,
}

impl ClearRange {
    /// Checks the arguments against a slot of `slot_pages` pages; `None` for EINVAL.
    ///
    /// The range starts at a multiple of 64 pages, lies in the slot, and has a multiple of 64
    /// pages unless it goes to the end of the slot.
    pub const fn new(first_page: u64, num_pages: u64, slot_pages: u64) -> Option<Self> {
        if first_page & 63 != 0 || first_page > slot_pages {
            return None;
        }
        let rest = slot_pages.wrapping_sub(first_page);
        if num_pages > rest || (num_pages < rest && num_pages & 63 != 0) {
            return None;
        }
        Some(ClearRange {
            first_word: first_page >> 6,
            words: words_for(num_pages),
        })
    }
}

/// Number of words of the bitmap for `pages` pages. User space's copy has as many.
pub const fn words_for(pages: u64) -> u64 {
    (pages >> 6).wrapping_add((pages & 63 != 0) as u64)
}

impl<'a> Bitmap<'a> {
    /// The bitmap of a slot of `pages` pages in `words`, at least [`words_for`]`(pages)` of them
    /// (pages without a word are not tracked).
    pub const fn new(words: &'a [AtomicU64], pages: u64) -> Self {
        Bitmap { words, pages }
    }

    /// Number of pages.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    fn word(&self, page: u64) -> Option<(&'a AtomicU64, u64)> {
        if page >= self.pages {
            return None;
        }
        let word = self.words.get((page >> 6) as usize)?;
        Some((word, 1 << (page & 63)))
    }

    /// Marks a page. Call it after the page was written, or became writable for the guest.
    pub fn mark(&self, page: u64) {
        if let Some((word, bit)) = self.word(page) {
            word.fetch_or(bit, SeqCst);
        }
    }

    /// Whether a page is marked.
    pub fn is_dirty(&self, page: u64) -> bool {
        self.word(page)
            .is_some_and(|(word, bit)| word.load(SeqCst) & bit != 0)
    }

    /// Marks all pages, as KVM_DIRTY_LOG_INITIALLY_SET wants it.
    pub fn mark_all(&self) {
        let mut left = self.pages;
        for word in self.words {
            let mask = match left {
                0 => return,
                1..64 => 1u64.wrapping_shl(left as u32).wrapping_sub(1),
                _ => u64::MAX,
            };
            word.fetch_or(mask, SeqCst);
            left = left.saturating_sub(64);
        }
    }

    /// Word `index`, as it is; for a KVM_GET_DIRTY_LOG that does not clear. 0 beyond the end.
    pub fn peek(&self, index: u64) -> u64 {
        let word = self.words.get(index as usize);
        word.map_or(0, |w| w.load(SeqCst))
    }

    /// Clears word `index` and returns what was set. The pages of these bits (`index * 64` up) are
    /// to be protected again.
    pub fn take(&self, index: u64) -> u64 {
        match self.words.get(index as usize) {
            // Most words are zero; do not pull their cache lines over.
            Some(w) if w.load(SeqCst) != 0 => w.swap(0, SeqCst),
            _ => 0,
        }
    }

    /// Clears the bits of `mask` in word `index` and returns those that were set. The pages of
    /// these are to be protected again.
    pub fn clear(&self, index: u64, mask: u64) -> u64 {
        match self.words.get(index as usize) {
            Some(w) if mask != 0 => w.fetch_and(!mask, SeqCst) & mask,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn words(n: usize) -> Vec<AtomicU64> {
        (0..n).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn clear_ranges() {
        let ok = |first_word, words| Some(ClearRange { first_word, words });
        // (first_page, num_pages, slot pages)
        let cases = [
            ((0, 64, 200), ok(0, 1)),
            ((64, 136, 200), ok(1, 3)),
            ((0, 200, 200), ok(0, 4)),
            ((192, 8, 200), ok(3, 1)),
            ((192, 7, 200), None),
            ((192, 9, 200), None),
            ((192, 64, 200), None),
            ((0, 63, 200), None),
            ((32, 64, 200), None),
            ((256, 0, 200), None),
            ((64, 0, 200), ok(1, 0)),
            ((64, 0, 64), ok(1, 0)),
            ((0, u64::MAX, 200), None),
            ((1 << 63, 64, 200), None),
        ];
        for ((first, num, pages), want) in cases {
            assert_eq!(
                ClearRange::new(first, num, pages),
                want,
                "{first} {num} {pages}"
            );
        }
    }

    #[test]
    fn all_means_all_and_no_more() {
        for pages in [1, 63, 64, 65, 128, 130] {
            let w = words(3);
            let b = Bitmap::new(&w, pages);
            b.mark_all();
            let set: u32 = (0..3).map(|i| b.peek(i).count_ones()).sum();
            assert_eq!(u64::from(set), pages);
            assert!(b.is_dirty(pages - 1) && !b.is_dirty(pages));
        }
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let w = words(2);
        let b = Bitmap::new(&w, 128);
        let mut seen = [0u32; 128];
        std::thread::scope(|s| {
            let markers: Vec<_> = (0..2)
                .map(|t| {
                    s.spawn(move || {
                        for i in 0..20_000u64 {
                            b.mark((i * 7 + t) % 128);
                        }
                    })
                })
                .collect();
            let mut harvest = || {
                for i in 0..2 {
                    let bits = b.take(i);
                    for k in 0..64 {
                        seen[(i * 64 + k) as usize] += (bits >> k & 1) as u32;
                    }
                }
            };
            while markers.iter().any(|m| !m.is_finished()) {
                harvest();
            }
            harvest();
        });
        assert!(seen.iter().all(|n| *n > 0));
        assert_eq!((b.peek(0), b.peek(1)), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Mark(u64),
        Take(u64),
        Clear(u64, u64),
        Peek(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (0..300u64).prop_map(Op::Mark),
            1 => (0..6u64).prop_map(Op::Take),
            1 => (0..6u64, any::<u64>()).prop_map(|(i, m)| Op::Clear(i, m)),
            1 => (0..6u64).prop_map(Op::Peek),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(
            pages in 1..280u64,
            ops in prop::collection::vec(op(), 1..100),
        ) {
            let w = words(words_for(pages) as usize);
            let b = Bitmap::new(&w, pages);
            let mut set = BTreeSet::new();
            let bits = |set: &BTreeSet<u64>, i: u64| {
                set.iter().filter(|p| *p / 64 == i).fold(0u64, |m, p| m | 1 << (p % 64))
            };
            for op in ops {
                match op {
                    Op::Mark(p) => {
                        b.mark(p);
                        if p < pages {
                            set.insert(p);
                        }
                    }
                    Op::Take(i) => {
                        prop_assert_eq!(b.take(i), bits(&set, i));
                        set.retain(|p| p / 64 != i);
                    }
                    Op::Clear(i, mask) => {
                        prop_assert_eq!(b.clear(i, mask), bits(&set, i) & mask);
                        set.retain(|p| p / 64 != i || mask >> (p % 64) & 1 == 0);
                    }
                    Op::Peek(i) => prop_assert_eq!(b.peek(i), bits(&set, i)),
                }
                for p in 0..300 {
                    prop_assert_eq!(b.is_dirty(p), set.contains(&p));
                }
            }
        }
    }
}
