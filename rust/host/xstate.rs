// SPDX-License-Identifier: GPL-2.0

//! XCR0, IA32_XSS and PKRU around a guest entry.
//!
//! The guest's values are in the registers inside closures only: with the wrong XCR0 the kernel's
//! own XSAVE would go wrong. A value that hardware refuses faults where nothing catches it, so
//! values are checked when they are set, against what this machine has.

use core::arch::asm;

use kernel::bindings;
use kernel::prelude::*;

use crate::cpu::{cpuid, has};
use crate::msr::{rdmsr_safe, wrmsr};
use crate::pin::IrqsOff;

/// `IA32_XSS`. SDM: vol 4, table 2-2.
const MSR_XSS: u32 = 0xda0;

/// Supervisor components that a guest may use: shadow stacks. SDM: vol 1, 13.1.
const GUEST_XSS: u64 = 3 << 11;

/// What the host has in these registers; the same on all CPUs, and constant.
#[derive(Clone, Copy, Debug)]
pub struct HostXstate {
    xcr0: u64,
    xss: u64,
    /// What a guest may have in IA32_XSS.
    guest_xss: u64,
    has_xsave: bool,
    has_xsaves: bool,
    has_pku: bool,
}

impl HostXstate {
    /// Reads the registers of this CPU.
    pub fn capture() -> Self {
        let has_xsave = has(bindings::X86_FEATURE_XSAVE);
        let xss = if has(bindings::X86_FEATURE_XSAVES) {
            rdmsr_safe(MSR_XSS).ok()
        } else {
            None
        };
        let leaf = cpuid(0xd, 1);
        let supported = u64::from(leaf.ecx) | u64::from(leaf.edx) << 32;
        Self {
            xcr0: if has_xsave { xgetbv() } else { 0 },
            xss: xss.unwrap_or(0),
            guest_xss: supported & GUEST_XSS,
            has_xsave,
            has_xsaves: xss.is_some(),
            has_pku: has(bindings::X86_FEATURE_OSPKE),
        }
    }

    /// The host's XCR0; 0 without XSAVE.
    pub fn xcr0(&self) -> u64 {
        self.xcr0
    }

    /// The host's IA32_XSS.
    pub fn xss(&self) -> u64 {
        self.xss
    }

    /// What a guest may have in IA32_XSS.
    pub fn guest_xss(&self) -> u64 {
        self.guest_xss
    }

    /// Whether a guest may have this value in XCR0: no more than the host, and consistent.
    /// SDM: vol 1, 13.3.
    pub fn allows_xcr0(&self, value: u64) -> bool {
        const X87: u64 = 1 << 0;
        const SSE: u64 = 1 << 1;
        const AVX: u64 = 1 << 2;
        const MPX: u64 = 3 << 3;
        const AVX512: u64 = 7 << 5;
        const AMX: u64 = 3 << 17;
        const APX: u64 = 1 << 19;
        let whole = |set: u64| value & set == 0 || value & set == set;
        value & !self.xcr0 == 0
            && value & X87 != 0
            && (value & AVX == 0 || value & SSE != 0)
            && (value & AVX512 == 0 || value & AVX != 0)
            && whole(MPX)
            && whole(AVX512)
            && whole(AMX)
            && (value & APX == 0 || value & MPX == 0)
    }
}

/// What a guest has in these registers.
#[derive(Clone, Copy, Debug)]
pub struct GuestXstate {
    /// Loaded while the guest runs; the host's if the guest has not enabled XSAVE.
    xcr0: u64,
    xss: u64,
    pkru: u32,
    switch_pkru: bool,
    host: HostXstate,
}

impl GuestXstate {
    /// A guest that uses none of it: the host's values stay.
    pub fn new(host: HostXstate) -> Self {
        Self {
            xcr0: host.xcr0,
            xss: host.xss,
            pkru: 0,
            switch_pkru: false,
            host,
        }
    }

    /// Sets what is loaded while the guest runs. `None`: the guest cannot use XSAVE now
    /// (CR4.OSXSAVE is clear).
    ///
    /// # Errors
    ///
    /// `EINVAL` for values the guest may not have.
    pub fn set_xsave(&mut self, values: Option<(u64, u64)>) -> Result {
        let (xcr0, xss) = values.unwrap_or((self.host.xcr0, self.host.xss));
        if values.is_some() && (!self.host.allows_xcr0(xcr0) || xss & !self.host.guest_xss != 0) {
            return Err(EINVAL);
        }
        self.xcr0 = xcr0;
        self.xss = if self.host.has_xsaves { xss } else { 0 };
        Ok(())
    }

    /// Whether PKRU is the guest's while it runs: if it has enabled protection keys or saves them
    /// by XSAVE.
    pub fn set_switch_pkru(&mut self, switch: bool) {
        self.switch_pkru = switch && self.host.has_pku;
    }

    /// The guest's PKRU, as of the last exit.
    pub fn pkru(&self) -> u32 {
        self.pkru
    }

    /// Sets the guest's PKRU.
    pub fn set_pkru(&mut self, pkru: u32) {
        self.pkru = pkru;
    }

    /// Runs `f` with the guest's XCR0 and IA32_XSS.
    #[inline(always)]
    pub fn with_xsave<R>(
        &mut self,
        irqs: &mut IrqsOff<'_>,
        f: impl FnOnce(&mut Self, &mut IrqsOff<'_>) -> R,
    ) -> R {
        let (xcr0, xss) = (self.xcr0, self.xss);
        if self.host.has_xsave && xcr0 != self.host.xcr0 {
            // SAFETY: Checked when it was set; the host's value comes back below.
            unsafe { xsetbv(xcr0) };
        }
        if self.host.has_xsaves && xss != self.host.xss {
            // SAFETY: As above.
            unsafe { wrmsr(MSR_XSS, xss) };
        }
        let result = f(self, irqs);
        if self.host.has_xsave && xcr0 != self.host.xcr0 {
            // SAFETY: The host's own value.
            unsafe { xsetbv(self.host.xcr0) };
        }
        if self.host.has_xsaves && xss != self.host.xss {
            // SAFETY: As above.
            unsafe { wrmsr(MSR_XSS, self.host.xss) };
        }
        result
    }

    /// Runs `f` with the guest's PKRU, which may come back changed.
    #[inline(always)]
    pub fn with_pkru<R>(&mut self, _irqs: &IrqsOff<'_>, f: impl FnOnce() -> R) -> R {
        if !self.switch_pkru {
            return f();
        }
        // SAFETY: The host has CR4.PKE set. PKRU does not concern the kernel's own pages, and user
        // pages are not touched before it is back.
        let host = unsafe { rdpkru() };
        if self.pkru != host {
            // SAFETY: As above.
            unsafe { wrpkru(self.pkru) };
        }
        let result = f();
        // SAFETY: As above.
        self.pkru = unsafe { rdpkru() };
        if self.pkru != host {
            // SAFETY: As above.
            unsafe { wrpkru(host) };
        }
        result
    }
}

/// XCR0 of this CPU. CR4.OSXSAVE must be set, which the callers know from the feature.
fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: The kernel sets CR4.OSXSAVE where it uses XSAVE.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Sets XCR0.
///
/// # Safety
///
/// The value must be one that hardware takes, and the host's must be back before anything uses
/// XSAVE.
#[inline(always)]
unsafe fn xsetbv(value: u64) {
    // SAFETY: The caller's.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// # Safety
///
/// CR4.PKE must be set.
#[inline(always)]
unsafe fn rdpkru() -> u32 {
    let value: u32;
    // SAFETY: The caller's.
    unsafe {
        asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _,
            options(nomem, nostack, preserves_flags));
    }
    value
}

/// # Safety
///
/// CR4.PKE must be set, and the host's value be back before user pages are touched.
#[inline(always)]
unsafe fn wrpkru(value: u32) {
    // SAFETY: The caller's.
    unsafe {
        asm!("wrpkru", in("ecx") 0, in("edx") 0, in("eax") value,
            options(nostack, preserves_flags));
    }
}
