// SPDX-License-Identifier: GPL-2.0

//! Debug registers and DEBUGCTL around a guest entry.
//!
//! The guest's breakpoint addresses may sit in DR0 to DR3 while DR7 disables them; a guest exit
//! leaves DR7 disabled, and [`restore_host`] brings the host's breakpoints back if it has any.
//! Everything happens with interrupts off on one CPU.

use core::arch::asm;

use crate::msr::{rdmsr, wrmsr};
use crate::pin::IrqsOff;
use crate::shim;

extern "C" {
    /// The value of DR7 this CPU should have: a per-CPU word of the kernel's, reached only with GS.
    static cpu_dr7: usize;
}

/// DR7 with every breakpoint disabled: the one bit that is always set. SDM: vol 3, 19.2.4.
const DR7_DISABLED: u64 = 0x400;

/// The bits of DR7 with which the kernel enables breakpoints (G0 to G3).
const DR7_GLOBAL_ENABLE: u64 = 0xaa;

/// `IA32_DEBUGCTL`. SDM: vol 3, 19.4.1; APM: vol 2, 13.1.1.6.
const MSR_DEBUGCTL: u32 = 0x1d9;

/// The breakpoint addresses of a guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestDr {
    /// DR0 to DR3.
    pub db: [u64; 4],
}

/// Whether the host has breakpoints set on this CPU.
#[inline(always)]
pub fn host_active(_irqs: &IrqsOff<'_>) -> bool {
    let dr7: u64;
    // SAFETY: Reads this CPU's word.
    unsafe {
        asm!("mov {}, qword ptr gs:[rip + {}]", out(reg) dr7, sym cpu_dr7,
            options(readonly, nostack, preserves_flags));
    }
    dr7 & DR7_GLOBAL_ENABLE != 0
}

/// Disables all breakpoints on this CPU.
#[inline]
fn disable() {
    // SAFETY: A valid value; `restore_host` undoes it where it matters.
    unsafe { asm!("mov dr7, {}", in(reg) DR7_DISABLED, options(nostack, preserves_flags)) };
}

/// Disables the host's breakpoints if it has any, for a guest that has none of its own in the
/// registers.
#[inline(always)]
pub fn disable_host(irqs: &IrqsOff<'_>) {
    if host_active(irqs) {
        disable();
    }
}

/// Puts the guest's breakpoint addresses into the registers, disabled.
pub fn load_guest(_irqs: &IrqsOff<'_>, guest: &GuestDr) {
    let [a, b, c, d] = guest.db;
    disable();
    // SAFETY: Any address may be written, and none of them is enabled.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}",
            in(reg) a, in(reg) b, in(reg) c, in(reg) d,
            options(nostack, preserves_flags));
    }
}

/// The guest's breakpoint addresses, after an exit of a guest that could write them.
pub fn read_guest(_irqs: &IrqsOff<'_>) -> GuestDr {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: Reading has no effect (DR7.GD is clear).
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3",
            out(reg) a, out(reg) b, out(reg) c, out(reg) d,
            options(nomem, nostack, preserves_flags));
    }
    GuestDr { db: [a, b, c, d] }
}

/// DR6.
pub fn read_dr6(_irqs: &IrqsOff<'_>) -> u64 {
    let value: u64;
    // SAFETY: As in `read_guest`.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Sets DR6, for hardware that does not switch it. Bits 63:32 must be zero and are dropped.
pub fn write_dr6(_irqs: &IrqsOff<'_>, value: u64) {
    // SAFETY: The upper half is zero, the rest is status bits.
    unsafe {
        asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nostack, preserves_flags));
    }
}

/// Brings the host's breakpoints back, if it has any.
#[inline(always)]
pub fn restore_host(irqs: &IrqsOff<'_>) {
    if host_active(irqs) {
        // SAFETY: On this CPU with interrupts off.
        unsafe { shim::hw_breakpoint_restore() };
    }
}

/// The host's DEBUGCTL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostDebugctl(u64);

impl HostDebugctl {
    /// Reads it. To be done at each entry: a function call from another CPU may change it.
    #[inline(always)]
    pub fn capture(_irqs: &IrqsOff<'_>) -> Self {
        // SAFETY: Every CPU with SVM or VMX has the register.
        Self(unsafe { rdmsr(MSR_DEBUGCTL) })
    }

    /// The value.
    #[inline]
    pub fn get(self) -> u64 {
        self.0
    }

    /// Writes it back after an exit that cleared or changed it.
    #[inline]
    pub fn restore(self, _irqs: &IrqsOff<'_>) {
        // SAFETY: The value was in the register of this machine before.
        unsafe { wrmsr(MSR_DEBUGCTL, self.0) };
    }

    /// Writes it back if it is not zero: what a VM exit leaves is zero. SDM: vol 3, 29.5.1.
    #[inline(always)]
    pub fn restore_from_zero(self, irqs: &IrqsOff<'_>) {
        if self.0 != 0 {
            self.restore(irqs);
        }
    }
}
