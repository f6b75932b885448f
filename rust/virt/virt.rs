// SPDX-License-Identifier: GPL-2.0

//! The virtualization extensions: the only crate that touches VMCBs, VMCSs, nested page-table
//! memory and the entry assembly.
