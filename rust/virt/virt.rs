// SPDX-License-Identifier: GPL-2.0

//! The virtualization extensions: the only crate that touches VMCBs, VMCSs, nested page-table
//! memory and the entry assembly.
//!
//! It exports [`vendor::Vendor`] with its two implementations, the evidence types of
//! [`loaded`], and page-table memory in [`tdp`]. Nothing raw leaves it: a caller that gets
//! everything wrong can make its own guest misbehave, not the host.

pub mod loaded;
pub mod regs;
pub mod svm;
pub mod tdp;
pub mod vendor;
