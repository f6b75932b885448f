// SPDX-License-Identifier: GPL-2.0

//! Architectural definitions shared by both vendors.

pub mod apic;
pub mod cpuid;
pub mod ctrl;
pub mod exception;
pub mod msi;
pub mod msr;
pub mod paging;
pub mod smram;
pub mod state;
pub mod xsave;
