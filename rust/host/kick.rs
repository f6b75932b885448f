// SPDX-License-Identifier: GPL-2.0

//! Interrupts to other CPUs, to make a vCPU leave its guest or look at its mailbox.

use crate::shim;

/// Makes a CPU leave guest mode, if it is online; does not wait. Any context.
#[inline]
pub fn kick_cpu(cpu: u32) {
    // SAFETY: Checks the number.
    unsafe { shim::kvmrs_kick_cpu(cpu as i32) };
}

/// The vector that hardware takes for the order to look for posted interrupts (the kernel's
/// POSTED_INTR_VECTOR, whose handler does nothing).
pub const NOTIFICATION: u16 = shim::KVMRS_NOTIFICATION as u16;

/// Sends [`NOTIFICATION`] to a CPU, if it is online. Any context.
#[inline]
pub fn notify_cpu(cpu: u32) {
    // SAFETY: Checks the number.
    unsafe { shim::kvmrs_notify_cpu(cpu as i32) };
}
