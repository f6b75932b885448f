// SPDX-License-Identifier: GPL-2.0

//! The x86 instruction emulator and the length decoder.

pub mod decode;
pub mod len;
mod table;
