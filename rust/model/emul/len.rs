// SPDX-License-Identifier: GPL-2.0

//! The length of an instruction, for a CPU that does not report where the next one starts.
//!
//! Exits that end with the instruction skipped (CPUID, RDMSR, HLT, VMMCALL, ...) need its length.
//! VMX always reports it and SVM does so with NRIPS; without that, the exit handler reads the
//! bytes at RIP and asks here.

use super::decode::{decode, CodeSize, DecodeError};

/// Why there is no length.
pub type LenError = DecodeError;

/// The length in bytes (1 to 15) of the instruction at the start of `bytes`.
///
/// Any instruction that a CPU accepts has a length here. Some byte strings that every CPU refuses
/// have one too, by the form of their encoding; see `decode.rs` for which.
///
/// ```
/// use model::emul::decode::CodeSize;
/// use model::emul::len::length;
///
/// assert_eq!(length(&[0x0f, 0xa2], CodeSize::Bits64), Ok(2)); // cpuid
/// assert_eq!(length(&[0xf3, 0x0f, 0x01, 0xd9], CodeSize::Bits64), Ok(4)); // rep vmmcall
/// ```
pub fn length(bytes: &[u8], mode: CodeSize) -> Result<u8, LenError> {
    decode(bytes, mode).map(|insn| insn.len)
}
