// SPDX-License-Identifier: GPL-2.0

//! The atomics of this crate: `core`'s, or loom's when a concurrency test explores interleavings.
//!
//! Code whose memory ordering is model-checked takes its atomics from here. A build with
//! `--cfg loom` is a test build only; its types are larger and their `new` is not `const`.

#[cfg(not(all(loom, test)))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(all(loom, test))]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Separates a `SeqCst` store from a `SeqCst` load that must not overtake it.
///
/// The language orders all `SeqCst` operations among themselves, so in a real build there is
/// nothing left to do (on x86 the store is an XCHG or a locked operation). Loom treats `SeqCst`
/// loads and stores as acquire and release only, but knows the fence.
#[inline(always)]
pub fn store_then_load() {
    #[cfg(all(loom, test))]
    loom::sync::atomic::fence(Ordering::SeqCst);
}
