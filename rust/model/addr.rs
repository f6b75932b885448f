// SPDX-License-Identifier: GPL-2.0

//! The five address spaces, each with a type of its own.
//!
//! | type | addresses | unit |
//! |---|---|---|
//! | [`Gva`] | what guest software uses, before the guest's own paging | bytes |
//! | [`Gpa`] | guest-physical, before nested paging | bytes |
//! | [`Gfn`] | guest-physical page number | 4 KiB pages |
//! | [`Hva`] | the VMM's virtual address space | bytes |
//! | [`Pfn`] | host-physical page number | 4 KiB pages |
//!
//! They convert only through named functions, and their arithmetic wraps: a guest chooses the
//! operands.

/// log2 of the size of a page, bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a page, bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The raw number.
            #[inline]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// Moves up by `n`, wrapping at 2^64.
            #[inline]
            pub const fn wrapping_add(self, n: u64) -> Self {
                Self(self.0.wrapping_add(n))
            }

            /// Moves down by `n`, wrapping at 0.
            #[inline]
            pub const fn wrapping_sub(self, n: u64) -> Self {
                Self(self.0.wrapping_sub(n))
            }
        }

        impl core::fmt::LowerHex for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address!(
    /// A guest-virtual (linear) address, bytes.
    Gva
);
address!(
    /// A guest-physical address, bytes.
    Gpa
);
address!(
    /// A guest frame number: a guest-physical address in units of 4 KiB.
    Gfn
);
address!(
    /// An address in the VMM's own virtual address space, bytes.
    Hva
);
address!(
    /// A host page frame number, in units of 4 KiB.
    Pfn
);

impl Gpa {
    /// The page this address lies in.
    #[inline]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// The offset within that page, bytes.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gva {
    /// The offset within its page, bytes.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl Gfn {
    /// The address of the first byte of the page.
    #[inline]
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}

impl Pfn {
    /// The host-physical address of the first byte of the page.
    #[inline]
    pub const fn hpa(self) -> u64 {
        self.0 << PAGE_SHIFT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_bytes_convert_both_ways() {
        assert_eq!(Gpa(0x1234).gfn(), Gfn(1));
        assert_eq!(Gpa(0x1234).offset(), 0x234);
        assert_eq!(Gfn(3).gpa(), Gpa(0x3000));
        assert_eq!(Pfn(2).hpa(), 0x2000);
    }

    #[test]
    fn arithmetic_wraps() {
        assert_eq!(Gpa(u64::MAX).wrapping_add(1), Gpa(0));
        assert_eq!(Gfn(0).wrapping_sub(1), Gfn(u64::MAX));
    }
}
