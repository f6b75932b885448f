// SPDX-License-Identifier: GPL-2.0

//! Access to the memory of the current process by address: guest memory and ioctl arguments.
//!
//! Guest memory is user memory, which guest and user space change at any moment: it is copied, never
//! referenced, and what has been checked is the copy. All functions check that the address is a user
//! address. `EFAULT` means that it is not, or that nothing is mapped there.

use core::mem::{size_of, MaybeUninit};

use kernel::bindings;
use kernel::prelude::*;
use model::addr::Hva;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::shim;

/// Copies from user memory. May sleep to fault pages in.
///
/// # Errors
///
/// `EFAULT`; `out` may then be overwritten in part.
#[inline]
pub fn copy_from_hva(hva: Hva, out: &mut [u8]) -> Result {
    // SAFETY: `out` is writable for its length; the function checks the user address and handles
    // faults.
    let left =
        unsafe { bindings::_copy_from_user(out.as_mut_ptr().cast(), hva.0 as *const _, out.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Copies to user memory. May sleep to fault pages in.
///
/// # Errors
///
/// `EFAULT`; part of the data may have been written.
#[inline]
pub fn copy_to_hva(hva: Hva, data: &[u8]) -> Result {
    // SAFETY: `data` is readable for its length; the function checks the user address and handles
    // faults.
    let left =
        unsafe { bindings::_copy_to_user(hva.0 as *mut _, data.as_ptr().cast(), data.len()) };
    if left == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Copies to user memory without sleeping: a page that is not present is a failure.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub fn copy_to_hva_nofault(hva: Hva, data: &[u8]) -> Result {
    // SAFETY: As in `copy_to_hva`.
    let code = unsafe {
        bindings::copy_to_user_nofault(hva.0 as *mut _, data.as_ptr().cast(), data.len())
    };
    if code == 0 {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Reads a structure from user memory. May sleep.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub fn read_hva<T: FromBytes>(hva: Hva) -> Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: The value is all zeros, so its bytes are initialised, and any bytes may be stored in
    // it (`FromBytes`).
    let bytes =
        unsafe { core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>()) };
    copy_from_hva(hva, bytes)?;
    // SAFETY: Initialised, and any bytes are a `T`.
    Ok(unsafe { value.assume_init() })
}

/// Writes a structure to user memory. May sleep.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub fn write_hva<T: IntoBytes + Immutable + ?Sized>(hva: Hva, value: &T) -> Result {
    copy_to_hva(hva, value.as_bytes())
}

/// Reads the structure an ioctl argument points at. May sleep.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub fn read_user<T: FromBytes>(arg: usize) -> Result<T> {
    read_hva(Hva(arg as u64))
}

/// Writes a structure to where an ioctl argument points. May sleep.
///
/// # Errors
///
/// `EFAULT`.
#[inline]
pub fn write_user<T: IntoBytes + Immutable + ?Sized>(arg: usize, value: &T) -> Result {
    write_hva(Hva(arg as u64), value)
}

/// Reads `count` structures from an ioctl argument into memory of the heap. May sleep.
///
/// # Errors
///
/// `EFAULT`, `ENOMEM`. The caller bounds `count`.
pub fn read_user_vec<T: FromBytes>(arg: usize, count: usize) -> Result<KVVec<T>> {
    let bytes = count.checked_mul(size_of::<T>()).ok_or(EINVAL)?;
    let mut out = KVVec::<T>::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: The vector has room for `bytes` bytes; the function checks the user address.
    let left =
        unsafe { bindings::_copy_from_user(out.as_mut_ptr().cast(), arg as *const _, bytes) };
    if left != 0 {
        return Err(EFAULT);
    }
    // SAFETY: `count` elements were written, and any bytes are a `T`.
    unsafe { out.inc_len(count) };
    Ok(out)
}

/// The outcome of a compare-exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped<T> {
    /// The new value was stored.
    Stored,
    /// Memory held this instead; nothing was stored.
    Found(T),
}

macro_rules! cmpxchg {
    ($(#[$doc:meta])* $name:ident, $or:ident, $ty:ty, $raw:ident) => {
        $(#[$doc])*
        ///
        /// One locked operation on the current process's memory. May sleep.
        ///
        /// # Errors
        ///
        /// `EFAULT`, also for read-only memory.
        #[inline]
        pub fn $name(hva: Hva, old: $ty, new: $ty) -> Result<Swapped<$ty>> {
            let mut found = old;
            // SAFETY: `found` is valid; the function checks the user address and handles faults.
            match unsafe { shim::$raw(hva.0 as usize, &mut found, new) } {
                0 => Ok(Swapped::Stored),
                1 => Ok(Swapped::Found(found)),
                _ => Err(EFAULT),
            }
        }

        /// Sets bits in the current process's memory by compare-exchange; the value before.
        /// May sleep.
        ///
        /// # Errors
        ///
        /// `EFAULT`; `EAGAIN` if other writers won many times over.
        pub fn $or(hva: Hva, bits: $ty) -> Result<$ty> {
            let mut old: $ty = read_hva(hva)?;
            for _ in 0..64 {
                match $name(hva, old, old | bits)? {
                    Swapped::Stored => return Ok(old),
                    Swapped::Found(value) => old = value,
                }
            }
            Err(EAGAIN)
        }
    };
}

cmpxchg!(
    /// Compares and exchanges a byte.
    cmpxchg_hva8, fetch_or_hva8, u8, kvmrs_cmpxchg_user8
);
cmpxchg!(
    /// Compares and exchanges a 16-bit word.
    cmpxchg_hva16, fetch_or_hva16, u16, kvmrs_cmpxchg_user16
);
cmpxchg!(
    /// Compares and exchanges a 32-bit word.
    cmpxchg_hva32, fetch_or_hva32, u32, kvmrs_cmpxchg_user32
);
cmpxchg!(
    /// Compares and exchanges a 64-bit word.
    cmpxchg_hva64, fetch_or_hva64, u64, kvmrs_cmpxchg_user64
);
