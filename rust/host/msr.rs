// SPDX-License-Identifier: GPL-2.0

//! Model-specific registers.
//!
//! Reading is safe where it cannot fault unnoticed; writing never is, since an MSR can hold the
//! address of the system call handler. Only `virt` writes.

use core::arch::asm;

use kernel::error::to_result;
use kernel::prelude::*;

use crate::shim;

/// Reads an MSR of this CPU; slow.
///
/// # Errors
///
/// `EIO` if it does not exist.
pub fn rdmsr_safe(msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: Catches the fault of an MSR that does not exist. Reading has no effect on the kernel.
    to_result(unsafe { shim::kvmrs_rdmsr_safe(msr, &mut value) })?;
    Ok(value)
}

/// Reads an MSR of some CPU, which it interrupts; may sleep.
///
/// # Errors
///
/// `ENXIO` if the CPU is not online, `EIO` if the MSR does not exist there.
pub fn rdmsr_on(cpu: u32, msr: u32) -> Result<u64> {
    let mut value = 0;
    // SAFETY: As above; a number that is no CPU's is refused.
    to_result(unsafe { shim::kvmrs_rdmsr_on(cpu, msr, &mut value) })?;
    Ok(value)
}

/// Writes an MSR of this CPU; slow.
///
/// # Safety
///
/// The kernel must go on working with the new value.
///
/// # Errors
///
/// `EIO` if the MSR does not exist or refuses the value.
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> Result {
    // SAFETY: Catches the fault; the effect is the caller's to vouch for.
    to_result(unsafe { shim::kvmrs_wrmsr_safe(msr, value) })
}

/// IA32_PRED_CMD: forgets predictions, of indirect branches (bit 0) or of those that the processor
/// selects (bit 7). False if it has no such command.
pub fn predictor_command(commands: u64) -> bool {
    // SAFETY: Other bits are cut off; forgetting predictions changes nothing but speed.
    unsafe { wrmsr_safe(0x49, commands & 0x81) }.is_ok()
}

/// IA32_FLUSH_CMD: writes the level-1 data cache back and empties it. False if the processor has no
/// such command.
pub fn flush_l1d() -> bool {
    // SAFETY: Changes nothing but speed.
    unsafe { wrmsr_safe(0x10b, 1) }.is_ok()
}

/// Reads an MSR.
///
/// # Safety
///
/// The MSR must exist: nothing catches the fault.
#[inline(always)]
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The caller's.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Writes an MSR.
///
/// # Safety
///
/// The MSR must exist and take the value (nothing catches the fault), and the kernel must go on
/// working with it.
#[inline(always)]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: The caller's. Not `nomem`: a write may order or change memory accesses.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
