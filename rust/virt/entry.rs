// SPDX-License-Identifier: GPL-2.0

//! The part of a vCPU that the entry code of both vendors shares: general-purpose registers for the
//! assembly, and the state that C switches around every run (`include/enter.h`).
//!
//! What user space or the guest chooses among it must be legal before it is here: the entry code
//! loads it in the host, where an illegal value is a fault. The setters see to that.

use crate::c;
use crate::loaded::Loaded;
use crate::regs::GuestRegs;
use crate::vendor::private::HasEntry;
use crate::vendor::Vendor;
use core::mem::offset_of;
use core::mem::size_of;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::hwvirt::AllOff;
use kernel::ffi::c_void;
use model::x86::ctrl::cr4;
use model::x86::ctrl::dr7;
use model::x86::ctrl::xcr0;

/// `struct kvmrs_entry` of `include/vmenter.h`.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Entry {
    /// +0x00 General-purpose registers.
    pub(crate) regs: GuestRegs,
    /// +0x80 Physical address of the control block.
    pub(crate) control_pa: u64,
    /// +0x88 SPEC_CTRL of the guest.
    pub(crate) spec_ctrl: u64,
    /// +0x90 [`flags`].
    pub(crate) flags: u32,
    /// +0x94 Protection-key rights of the guest.
    pkru: u32,
    /// +0x98 The control block.
    pub(crate) control: *mut c_void,
    /// +0xa0 XCR0 of the guest.
    xcr0: u64,
    /// +0xa8 IA32_XSS of the guest.
    xss: u64,
    /// +0xb0 DR0 to DR3 of the guest.
    dr: [u64; 4],
    /// +0xd0 DEBUGCTL of the guest; with VMX what the VMCS has.
    pub(crate) debugctl: u64,
    /// +0xd8 Speculative store bypass, as old processors have it.
    pub(crate) virt_spec_ctrl: u64,
    /// +0xe0 The host's DEBUGCTL.
    host_debugctl: u64,
    /// +0xe8 The host's protection-key rights.
    host_pkru: u32,
    /// +0xec How often the L1 data cache was flushed before an entry; it wraps.
    l1d_flushes: u32,
    /// CR4 of the guest, which decides what of the above is in use. Not part of the C structure.
    cr4: u64,
}

/// Bits of [`Entry::flags`].
pub(crate) mod flags {
    use crate::c;

    pub(crate) const SAVE_SPEC_CTRL: u32 = c::ENTER_SAVE_SPEC_CTRL;
    pub(crate) const XCR0: u32 = c::ENTER_XCR0;
    pub(crate) const XSS: u32 = c::ENTER_XSS;
    pub(crate) const PKRU: u32 = c::ENTER_PKRU;
    pub(crate) const DEBUGREGS: u32 = c::ENTER_DEBUGREGS;
    pub(crate) const SAVE_DEBUGREGS: u32 = c::ENTER_SAVE_DEBUGREGS;
    pub(crate) const VMRESUME: u32 = c::ENTER_VMRESUME;
}

macro_rules! same_offset {
    ($($rust:ident: $c:ident,)*) => {
        $(assert!(offset_of!(Entry, $rust) == offset_of!(c::kvmrs_entry, $c));)*
    };
}

const _: () = {
    same_offset! {
        regs: gpr,
        control_pa: control_pa,
        spec_ctrl: spec_ctrl,
        flags: flags,
        pkru: pkru,
        control: control,
        xcr0: xcr0,
        xss: xss,
        dr: dr,
        debugctl: debugctl,
        virt_spec_ctrl: virt_spec_ctrl,
        host_debugctl: host_debugctl,
        host_pkru: host_pkru,
        l1d_flushes: l1d_flushes,
    }
    assert!(size_of::<Entry>() >= size_of::<c::kvmrs_entry>());
    assert!(size_of::<GuestRegs>() == c::ENTRY_CONTROL_PA as usize);
};

// SAFETY: `control` is the address of a page that the vCPU owns and that moves between threads
// together with this.
unsafe impl Send for Entry {}

/// Reads what of the host's state the entry code restores. The first call does it.
pub(crate) fn probe(_: &AllOff) {
    // SAFETY: There is one `AllOff` at a time, so that no two calls run at once; later ones do nothing.
    unsafe { c::kvmrs_entry_probe() };
}

/// XCR0 of the host; 0 without XSAVE, and before the first probe.
#[inline]
pub fn host_xcr0() -> u64 {
    // SAFETY: An aligned word that lives as long as the module. C writes it once.
    unsafe { AtomicU64::from_ptr(&raw mut c::kvmrs_host_xcr0) }.load(Relaxed)
}

/// IA32_XSS of the host; 0 without XSAVES, and before the first probe.
#[inline]
pub fn host_xss() -> u64 {
    // SAFETY: As above.
    unsafe { AtomicU64::from_ptr(&raw mut c::kvmrs_host_xss) }.load(Relaxed)
}

/// What of XCR0 a guest may have, where the host has it: the components that the swap of the FPU
/// switches, and PKRU, which the entry does.
pub const GUEST_XCR0: u64 = xcr0::FP | xcr0::SSE | xcr0::YMM | xcr0::AVX512 | xcr0::PKRU;

/// What of IA32_XSS a guest may have, where the host has it: nothing. The swap of the FPU does not
/// reach all that the host has there: a guest with architectural LBRs would read the host's branches.
pub const GUEST_XSS: u64 = 0;

/// Can a guest's XCR0 have this value on a processor where it can have `host`? `SDM: vol 1, 13.3`.
fn xcr0_legal(v: u64, host: u64) -> bool {
    v & !(host & GUEST_XCR0) == 0
        && v & xcr0::FP != 0
        && (v & xcr0::YMM == 0 || v & xcr0::SSE != 0)
        && (v & xcr0::AVX512 == 0 || v & xcr0::AVX512 == xcr0::AVX512 && v & xcr0::YMM != 0)
}

impl Entry {
    /// For the control block at this address.
    pub(crate) fn new(control: *mut c_void, control_pa: u64) -> Self {
        let mut this = Self {
            regs: GuestRegs::default(),
            control_pa,
            spec_ctrl: 0,
            flags: 0,
            pkru: 0,
            control,
            xcr0: xcr0::FP,
            xss: 0,
            dr: [0; 4],
            debugctl: 0,
            virt_spec_ctrl: 0,
            host_debugctl: 0,
            host_pkru: 0,
            l1d_flushes: 0,
            cr4: 0,
        };
        this.update();
        this
    }

    /// Sets or clears some of [`flags`].
    #[inline]
    pub(crate) fn set_flag(&mut self, flag: u32, on: bool) {
        self.flags = if on {
            self.flags | flag
        } else {
            self.flags & !flag
        };
    }

    fn set_xcr0(&mut self, v: u64) -> bool {
        let host = host_xcr0();
        // Without XSAVE there is no XCR0, and this is a number.
        let legal = if host == 0 {
            v == xcr0::FP
        } else {
            xcr0_legal(v, host)
        };
        if legal {
            self.xcr0 = v;
            self.update();
        }
        legal
    }

    fn set_xss(&mut self, v: u64) -> bool {
        let legal = v & !(host_xss() & GUEST_XSS) == 0;
        if legal {
            self.xss = v;
            self.update();
        }
        legal
    }

    /// The guest's CR4 has changed.
    pub(crate) fn set_cr4(&mut self, v: u64) {
        self.cr4 = v;
        self.update();
    }

    /// Finds out what has to be switched. Without CR4.OSXSAVE the guest has no XSAVE instruction
    /// that could tell the difference.
    fn update(&mut self) {
        let (host_xcr0, host_xss) = (host_xcr0(), host_xss());
        let osxsave = self.cr4 & cr4::OSXSAVE != 0 && host_xcr0 != 0;
        self.set_flag(flags::XCR0, osxsave && self.xcr0 != host_xcr0);
        self.set_flag(flags::XSS, osxsave && self.xss != host_xss);
        let keys = self.cr4 & cr4::PKE != 0 || self.xcr0 & xcr0::PKRU != 0;
        self.set_flag(flags::PKRU, keys && host_xcr0 & xcr0::PKRU != 0);
    }

    /// Breakpoints are armed in `dr7`, or not.
    pub(crate) fn update_breakpoints(&mut self, dr7: u64) {
        self.set_flag(flags::DEBUGREGS, dr7 & dr7::ENABLED != 0);
    }

    /// Back to the state of RESET, or of INIT, which keeps XCR0 and the like.
    pub(crate) fn reset(&mut self, init: bool) {
        self.regs = GuestRegs::default();
        self.dr = [0; 4];
        self.set_flag(flags::DEBUGREGS | flags::SAVE_DEBUGREGS, false);
        self.spec_ctrl = 0;
        self.virt_spec_ctrl = 0;
        self.debugctl = 0;
        if !init {
            // INIT leaves the register passed through, so that it has to be read back.
            self.set_flag(flags::SAVE_SPEC_CTRL, false);
            self.set_xcr0(xcr0::FP);
            self.set_xss(0);
            self.pkru = 0;
        }
        self.set_cr4(0);
    }
}

impl<V: Vendor> Loaded<'_, V> {
    fn entry(&self) -> &Entry {
        self.hw.entry()
    }

    fn entry_mut(&mut self) -> &mut Entry {
        self.hw.entry_mut()
    }

    /// XCR0.
    pub fn xcr0(&self) -> u64 {
        self.entry().xcr0
    }

    /// Sets XCR0; false, and nothing changes, if the host's processor would not take the value, or it
    /// has more than [`GUEST_XCR0`].
    pub fn set_xcr0(&mut self, v: u64) -> bool {
        self.entry_mut().set_xcr0(v)
    }

    /// IA32_XSS.
    pub fn xss(&self) -> u64 {
        self.entry().xss
    }

    /// Sets IA32_XSS; false, and nothing changes, if it has bits that the host does not use, or that
    /// are not in [`GUEST_XSS`].
    pub fn set_xss(&mut self, v: u64) -> bool {
        self.entry_mut().set_xss(v)
    }

    /// PKRU.
    pub fn pkru(&self) -> u32 {
        self.entry().pkru
    }

    /// How often the translations of the vCPU were flushed before an entry.
    pub fn tlb_flushes(&self) -> u64 {
        self.hw.tlb().flushes()
    }

    /// How often the L1 data cache was flushed before an entry, modulo 2 to the 32nd.
    pub fn l1d_flushes(&self) -> u32 {
        self.entry().l1d_flushes
    }

    /// Sets PKRU.
    pub fn set_pkru(&mut self, v: u32) {
        self.entry_mut().pkru = v;
    }

    /// Sets DR0 to DR3 as hardware gets them while DR7 enables one. Canonical addresses: others
    /// never match.
    pub fn set_breakpoints(&mut self, dr: [u64; 4]) {
        self.entry_mut().dr = dr;
    }
}
