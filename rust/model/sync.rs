// SPDX-License-Identifier: GPL-2.0

//! The atomics of this crate: `core`'s, or loom's when a concurrency test explores interleavings.
//!
//! Code whose memory ordering is model-checked takes its atomics from here. A build with
//! `--cfg loom` is a test build only; its types are larger and their `new` is not `const`.

#[cfg(not(all(loom, test)))]
pub use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

#[cfg(all(loom, test))]
pub use loom::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};
