// SPDX-License-Identifier: GPL-2.0

//! [`SharedPage`]: a page that user space maps, such as the `kvm_run` page of a vCPU.
//!
//! User space may write to it at any moment. So there are no references into the page: every access
//! is a copy, made by volatile loads and stores of at most eight bytes or by a string instruction,
//! and what was read once must be checked on the copy. Offsets outside the page are harmless: reads
//! give zeros, writes do nothing.

use core::arch::asm;
use core::mem::{size_of, MaybeUninit};
use core::ptr::NonNull;

use kernel::bindings;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::page::{pa_of, page_of};
use crate::shim;

/// One zeroed page, charged to the caller's memory cgroup, to be shared with user space.
pub struct SharedPage {
    /// The page's address in the direct map. We own one reference to the page.
    kva: NonNull<u8>,
}

// SAFETY: The page is plain memory, reached only through volatile copies.
unsafe impl Send for SharedPage {}
// SAFETY: As above; racing copies may see torn data, nothing worse.
unsafe impl Sync for SharedPage {}

macro_rules! scalar {
    ($(#[$doc:meta])* $ty:ty, $read:ident, $write:ident) => {
        $(#[$doc])*
        ///
        /// One load; 0 outside the page. `off` need not be aligned.
        #[inline(always)]
        pub fn $read(&self, off: usize) -> $ty {
            match self.at(off, size_of::<$ty>()) {
                // SAFETY: `at` checked that the access lies in the page; x86 loads of up to eight
                // bytes need no alignment, and `asm!` gives the load volatile meaning.
                Some(p) => unsafe { p.cast::<Unaligned<$ty>>().as_ptr().read_volatile().0 },
                None => 0,
            }
        }

        $(#[$doc])*
        ///
        /// One store; ignored outside the page. `off` need not be aligned.
        #[inline(always)]
        pub fn $write(&self, off: usize, value: $ty) {
            if let Some(p) = self.at(off, size_of::<$ty>()) {
                // The compiler takes stores that may be unaligned by way of the stack.
                let aligned = off % align_of::<$ty>() == 0;
                // SAFETY: As above. The page is aligned, so that an aligned offset is an aligned
                // address.
                unsafe {
                    if aligned {
                        p.cast::<$ty>().as_ptr().write_volatile(value);
                    } else {
                        p.cast::<Unaligned<$ty>>().as_ptr().write_volatile(Unaligned(value));
                    }
                }
            }
        }
    };
}

/// Structures up to this size, bytes, are stored word by word.
const SMALL: usize = 24;

/// An integer at any address.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned<T>(T);

impl SharedPage {
    /// Allocates a zeroed page.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: No requirements.
        let kva = unsafe { bindings::get_zeroed_page_noprof(bindings::GFP_KERNEL_ACCOUNT) };
        let kva = NonNull::new(kva as *mut u8).ok_or(ENOMEM)?;
        Ok(Self { kva })
    }

    /// A pointer to `len` bytes at `off`, if they lie in the page.
    #[inline(always)]
    fn at(&self, off: usize, len: usize) -> Option<NonNull<u8>> {
        if len > PAGE_SIZE || off > PAGE_SIZE - len {
            return None;
        }
        // SAFETY: `off + len` is within the page that `kva` points to.
        Some(unsafe { self.kva.add(off) })
    }

    scalar!(
        /// The byte at `off`.
        u8, read_u8, write_u8
    );
    scalar!(
        /// The 16-bit word at `off`.
        u16, read_u16, write_u16
    );
    scalar!(
        /// The 32-bit word at `off`.
        u32, read_u32, write_u32
    );
    scalar!(
        /// The 64-bit word at `off`.
        u64, read_u64, write_u64
    );

    /// Copies bytes out of the page, from `off` on. Nothing is copied, and false returned, if they
    /// do not all lie in the page.
    pub fn read_bytes(&self, off: usize, out: &mut [u8]) -> bool {
        let Some(src) = self.at(off, out.len()) else {
            return false;
        };
        // SAFETY: `out.len()` bytes are readable at `src` and writable at `out`; they cannot
        // overlap, as no reference into the page exists.
        unsafe { copy(out.as_mut_ptr(), src.as_ptr(), out.len()) };
        true
    }

    /// Copies bytes into the page, from `off` on. Nothing is copied, and false returned, if they
    /// do not all lie in the page.
    pub fn write_bytes(&self, off: usize, bytes: &[u8]) -> bool {
        let Some(dst) = self.at(off, bytes.len()) else {
            return false;
        };
        // SAFETY: As in `read_bytes`, the other way round.
        unsafe { copy(dst.as_ptr(), bytes.as_ptr(), bytes.len()) };
        true
    }

    /// A copy of the structure at `off`; all zeros if it does not lie in the page.
    #[inline]
    pub fn read<T: FromBytes>(&self, off: usize) -> T {
        let mut value = MaybeUninit::<T>::zeroed();
        if let Some(src) = self.at(off, size_of::<T>()) {
            // SAFETY: `size_of::<T>()` bytes are readable at `src` and writable at `value`.
            unsafe { copy(value.as_mut_ptr().cast(), src.as_ptr(), size_of::<T>()) };
        }
        // SAFETY: All bytes are initialised, and any bytes are a `T` (`FromBytes`).
        unsafe { value.assume_init() }
    }

    /// Stores a copy of `value` at `off`; one that reaches beyond the page is cut, or ignored.
    #[inline]
    pub fn write<T: IntoBytes + Immutable>(&self, off: usize, value: &T) {
        let bytes = value.as_bytes();
        if size_of::<T>() > SMALL {
            self.write_bytes(off, bytes);
            return;
        }
        // The size is a constant: these are one to four stores.
        let mut rest = bytes;
        let mut at = off;
        while let Some((word, tail)) = rest.split_first_chunk() {
            self.write_u64(at, u64::from_ne_bytes(*word));
            (rest, at) = (tail, at.wrapping_add(8));
        }
        if let Some((word, tail)) = rest.split_first_chunk() {
            self.write_u32(at, u32::from_ne_bytes(*word));
            (rest, at) = (tail, at.wrapping_add(4));
        }
        if let Some((word, tail)) = rest.split_first_chunk() {
            self.write_u16(at, u16::from_ne_bytes(*word));
            (rest, at) = (tail, at.wrapping_add(2));
        }
        if let Some(byte) = rest.first() {
            self.write_u8(at, *byte);
        }
    }

    /// Fills `len` bytes from `off` on with zeros; ignored if they do not all lie in the page.
    pub fn clear(&self, off: usize, len: usize) {
        if let Some(dst) = self.at(off, len) {
            // SAFETY: `len` bytes are writable at `dst`.
            unsafe {
                asm!("rep stosb", inout("rcx") len => _, inout("rdi") dst.as_ptr() => _,
                    in("al") 0u8, options(nostack, preserves_flags));
            }
        }
    }

    /// The page's host-physical address, bytes.
    pub fn pa(&self) -> u64 {
        pa_of(self.kva)
    }

    /// The kernel's page structure.
    pub(crate) fn as_page(&self) -> *mut bindings::page {
        page_of(self.kva)
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: We own one reference to the page. User mappings hold references of their own, so
        // the page lives on until the last of them goes.
        unsafe { shim::kvmrs_put_page(self.as_page()) };
    }
}

/// Copies `len` bytes in a way that tolerates that somebody else writes one side meanwhile.
///
/// # Safety
///
/// `len` bytes must be readable at `src` and writable at `dst`, and must not overlap.
#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    // The bulk goes in words: a string instruction costs per element on an emulated host.
    // SAFETY: The two instructions together touch exactly `len` bytes on both sides.
    unsafe {
        asm!("rep movsq", "mov rcx, {tail}", "rep movsb",
            tail = in(reg) len & 7,
            inout("rcx") len >> 3 => _,
            inout("rdi") dst => _,
            inout("rsi") src => _,
            options(nostack, preserves_flags));
    }
}
