// SPDX-License-Identifier: GPL-2.0

//! AMD SVM: VMCB layout, exit decoding and the nested-page-table entry format.

pub mod exit;
pub mod npt;
pub mod vmcb;
