// SPDX-License-Identifier: GPL-2.0

//! The general-purpose registers that the entry assembly swaps.

/// RAX to R15 in encoding order. The assembly indexes it by the constants of `include/vmenter.h`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct GuestRegs {
    /// Indexed as in `model::x86::state::gpr`.
    pub gpr: [u64; 16],
}
