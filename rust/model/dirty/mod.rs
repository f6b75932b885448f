// SPDX-License-Identifier: GPL-2.0

//! Dirty-page tracking: what user space reads to learn which pages the guest has written.
//!
//! A VM uses one of two forms: a [`Bitmap`] per slot, read and cleared by KVM_GET_DIRTY_LOG and
//! KVM_CLEAR_DIRTY_LOG, or a [`Ring`] per vCPU in memory shared with user space. How writes are
//! noticed is the business of [`crate::tdp`], whose documentation also gives the order in which
//! the log and the page tables are changed.

pub mod bitmap;
pub mod ring;

pub use bitmap::{Bitmap, ClearRange};
pub use ring::{Push, Ring, RingError};
