// SPDX-License-Identifier: GPL-2.0

//! Intel VMX: VMCS fields, control words, exit decoding and the EPT entry format.

pub mod caps;
pub mod ctrl;
pub mod ept;
pub mod exit;
pub mod field;
pub mod legal;
