// SPDX-License-Identifier: GPL-2.0

//! Intel VMX: VMCS fields, control words, exit decoding and the EPT entry format.

pub mod ept;
