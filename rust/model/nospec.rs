// SPDX-License-Identifier: GPL-2.0

//! Indices that a guest or a caller chooses, and processors that go on as if a comparison had come out
//! otherwise.
//!
//! A comparison with the length keeps an index in bounds, but not while the processor has only guessed
//! what it says: then a load may reach any address for a moment, and what it finds may be told by what
//! is in the cache afterwards. A value that arithmetic has brought into bounds is so at any time.

use core::hint::black_box;

/// The index, which was found to be below `len`; 0 where only a guess says so.
///
/// ```
/// use model::nospec::clamp;
/// assert_eq!(clamp(4, 5), 4);
/// assert_eq!(clamp(5, 5), 0);
/// ```
#[inline(always)]
pub fn clamp(index: usize, len: usize) -> usize {
    // The compiler must not conclude from the comparison before that nothing is left to do.
    let i = black_box(index);
    // The highest bit is set unless the index is below the length.
    let out = i | len.wrapping_sub(1).wrapping_sub(i);
    // CAST: for its sign. All ones if that bit is clear.
    let inside = !((out as isize) >> (isize::BITS - 1)) as usize;
    i & inside
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends() {
        const HIGH: usize = isize::MAX as usize;
        let cases = [
            (0, 0, 0),
            (0, 1, 0),
            (1, 1, 0),
            (usize::MAX, 1, 0),
            (HIGH - 1, HIGH, HIGH - 1),
            (HIGH, HIGH, 0),
            (HIGH + 1, HIGH, 0),
        ];
        for (index, len, want) in cases {
            assert_eq!(clamp(index, len), want, "{index:#x} {len:#x}");
        }
    }

    proptest! {
        /// What is in bounds stays, what is not is 0; no slice is longer than `isize::MAX`.
        #[test]
        fn clamps(index: usize, len in 1..=isize::MAX as usize) {
            let want = if index < len { index } else { 0 };
            prop_assert_eq!(clamp(index, len), want);
            prop_assert_eq!(clamp(index % len, len), index % len);
        }
    }
}
