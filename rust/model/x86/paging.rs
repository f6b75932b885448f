// SPDX-License-Identifier: GPL-2.0

//! Bits of the page-table entries. (The page-fault error code is [`super::exception::pf`].)
//!
//! One source for the guest page walker ([`crate::walk`]) and for the nested-page-table format of
//! AMD ([`crate::svm::npt`]), which reuses the ordinary long-mode entry.
//!
//! SDM: vol 3, 5.2 to 5.7; APM: vol 2, 5.3 and 5.4.

/// P: the entry is used for translation.
pub const PTE_P: u64 = 1 << 0;
/// R/W: writes are allowed.
pub const PTE_RW: u64 = 1 << 1;
/// U/S: user-mode accesses are allowed.
pub const PTE_US: u64 = 1 << 2;
/// PWT: bit 0 of the index into the PAT.
pub const PTE_PWT: u64 = 1 << 3;
/// PCD: bit 1 of the index into the PAT.
pub const PTE_PCD: u64 = 1 << 4;
/// A: the entry was used for a translation.
pub const PTE_A: u64 = 1 << 5;
/// D: the page was written (leaf entries only).
pub const PTE_D: u64 = 1 << 6;
/// PS: the entry maps a page rather than a table (not in the last level, where it is PAT).
pub const PTE_PS: u64 = 1 << 7;
/// NX: instruction fetches are not allowed.
pub const PTE_NX: u64 = 1 << 63;

/// Physical-address field of an entry in its widest form, bits 51:12.
pub const PTE_ADDR: u64 = 0x000f_ffff_ffff_f000;
/// Position of the 4-bit protection key, bits 62:59, in a leaf entry.
pub const PTE_PKEY_SHIFT: u32 = 59;

/// Number of entries in one table of 8-byte entries.
pub const TABLE_ENTRIES: usize = 512;
