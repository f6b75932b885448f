// SPDX-License-Identifier: GPL-2.0

//! The parts of KVM that are a function of their inputs.
//!
//! Nothing here touches hardware, the kernel or guest memory directly: callers hand in storage and
//! small traits for the outside world and get effects back as values. That is what lets the same
//! source be linked into `kvm.ko` and be unit-tested, fuzzed and model-checked in user space.
//!
//! The crate has no `alloc` and no unsafe code, and it must not be able to panic: arithmetic on
//! values a guest or a caller controls is `wrapping_*` or `checked_*`, and slices are read with
//! `get()`. `scripts/object-check.py` looks for panics in the finished module.

#![cfg_attr(not(any(test, MODULE)), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![deny(unreachable_pub)]
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::todo,
        clippy::unimplemented,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod abi;
pub mod addr;
pub mod dirty;
pub mod emul;
pub mod exit;
pub mod irqchip;
pub mod nospec;
pub mod policy;
pub mod slots;
pub mod stats;
pub mod svm;
pub mod sync;
pub mod tdp;
pub mod vmx;
pub mod walk;
pub mod x86;
