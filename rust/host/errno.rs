// SPDX-License-Identifier: GPL-2.0

//! Error numbers that the kernel crate has not had in all kernels.

use kernel::bindings;
use kernel::error::Error;
use kernel::ffi::c_int;

/// `EOPNOTSUPP`, which the kernel crate names from 7.3 on.
#[inline(never)]
pub fn not_supported() -> Error {
    // CAST: a number below 4096.
    Error::from_errno((bindings::EOPNOTSUPP as c_int).wrapping_neg())
}

/// `EHWPOISON`, which the kernel crate does not name.
#[inline(never)]
pub fn hwpoison() -> Error {
    // CAST: as above.
    Error::from_errno((bindings::EHWPOISON as c_int).wrapping_neg())
}
