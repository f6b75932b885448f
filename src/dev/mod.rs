// SPDX-License-Identifier: GPL-2.0

//! The three kinds of descriptors and their ioctls.
//!
//! Commands are dispatched on all 32 bits: numbers are reused with other sizes and directions. What
//! is copied in and out never follows from the direction bits, several of which are wrong.

pub(crate) mod system;
pub(crate) mod vcpu;
pub(crate) mod vm;
