// SPDX-License-Identifier: GPL-2.0

//! Control registers and EFER: the modes of the guest, and which of them hardware can run.
//!
//! An unrestricted guest runs in every mode. On processors without that, and with
//! `unrestricted_guest=0`, hardware insists on protection and paging:
//!
//! * While the guest has paging off, hardware has it on, with a page directory that maps every address
//!   to itself ([`Vm::identity_map`](super::vcpu::Vm)) in CR3. The guest's CR3 is kept here, and its
//!   accesses to that register exit.
//! * Real mode, and protected mode with segment registers as real mode leaves them, hardware does not
//!   run at all: [`Vcpu::must_emulate`] tells the code above, which emulates the guest until it is
//!   past that. With `emulate_invalid_guest_state=0` real mode alone is emulated, and segment registers
//!   are changed where the mode changes.

use super::vcpu::cached;
use super::vcpu::Vcpu;
use super::vcpu::CR0_OWNED;
use super::vcpu::CR4_OWNED;
use super::vmcs;
use model::vmx::ctrl::entry;
use model::vmx::ctrl::proc;
use model::vmx::field;
use model::vmx::legal::as_in_protected_mode;
use model::vmx::legal::as_in_real_mode;
use model::vmx::legal::segments_fit;
use model::vmx::legal::RawSeg;
use model::vmx::legal::CODE_AND_DATA;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::efer;
use model::x86::ctrl::rflags;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// What CR4 may not have while the page directory is not the guest's: entries would have another
/// format, or protect what the guest reaches.
const CR4_NOT_UNPAGED: u64 = cr4::PAE | cr4::SMEP | cr4::SMAP | cr4::PKE;

impl Vcpu {
    /// CR0 as the guest sees it.
    #[inline]
    pub(super) fn cr0(&self) -> u64 {
        let c = &self.cache;
        let hw = c.get(cached::CR0, &c.cr0, || vmcs::read(field::GUEST_CR0));
        self.cr0 & !CR0_OWNED | hw & CR0_OWNED
    }

    /// CR0 for hardware, which gets neither the caching bits nor reserved ones, as entries do not load
    /// them (`SDM: vol 3, 27.3.2.1`), and has what it insists on. The guest sees none of that.
    ///
    /// KVM: the quirk KVM_X86_QUIRK_CD_NW_CLEARED.
    pub(super) fn hardware_cr0(&self) -> u64 {
        let loaded = cr0::DEFINED & !(cr0::CD | cr0::NW);
        self.cr0 & loaded | cr0::ET | self.m.cfg.cr0_on
    }

    /// Sets CR0.
    pub(super) fn set_cr0(&mut self, v: u64) {
        // What hardware has in their place depends on CR0, if it cannot run without paging.
        let before = (!self.m.cfg.unrestricted).then(|| (self.cr0, self.cr3(), self.cr4()));
        self.cr0 = v;
        let hw = self.hardware_cr0();
        vmcs::write(field::CR0_SHADOW, v);
        vmcs::write(field::GUEST_CR0, hw);
        self.cache.put(cached::CR0, &self.cache.cr0, hw);
        if let Some((old, cr3, cr4)) = before {
            self.runnable.set(None);
            self.fit_segments(old, v);
            if (old ^ v) & cr0::PG != 0 || self.proc & proc::CR3_LOAD_EXITING == 0 {
                let exits = proc::CR3_LOAD_EXITING | proc::CR3_STORE_EXITING;
                self.set_proc_bit(exits, v & cr0::PG == 0);
                self.set_cr3(cr3);
                self.set_cr4(cr4);
            }
        }
    }

    /// Does hardware have the identity map in place of the guest's CR3?
    #[inline]
    fn is_identity_mapped(&self) -> bool {
        !self.m.cfg.unrestricted && self.cr0 & cr0::PG == 0
    }

    /// CR3 as the guest sees it.
    pub(super) fn cr3(&self) -> u64 {
        if self.is_identity_mapped() {
            self.cr3
        } else {
            vmcs::read(field::GUEST_CR3)
        }
    }

    /// Sets CR3.
    pub(super) fn set_cr3(&mut self, v: u64) {
        let hw = if self.is_identity_mapped() {
            self.cr3 = v;
            self.identity_map
        } else {
            v
        };
        vmcs::write(field::GUEST_CR3, hw);
    }

    /// CR4 as the guest sees it.
    #[inline]
    pub(super) fn cr4(&self) -> u64 {
        self.cr4 & !CR4_OWNED | vmcs::read(field::GUEST_CR4) & CR4_OWNED
    }

    /// CR4 for hardware: a machine check is the host's, VMXE is hardware's, and UMIP may have to be
    /// done by exits.
    pub(super) fn hardware_cr4(&self) -> u64 {
        let mut hw = self.cr4 & !cr4::MCE | self.m.cfg.cr4_on;
        if self.m.host_mce {
            hw |= cr4::MCE;
        }
        if !self.m.umip {
            hw &= !cr4::UMIP;
        }
        if self.is_identity_mapped() {
            hw = hw & !CR4_NOT_UNPAGED | cr4::PSE;
        }
        hw
    }

    /// Sets CR4.
    pub(super) fn set_cr4(&mut self, v: u64) {
        self.cr4 = v;
        let hw = self.hardware_cr4();
        vmcs::write(field::CR4_SHADOW, v);
        vmcs::write(field::GUEST_CR4, hw);
        self.update_table_trap();
        self.entry.set_cr4(v);
    }

    /// EFER for hardware. Where that has paging on and the guest has not, LME alone would not be legal.
    /// It has no effect before paging is on.
    pub(super) fn hardware_efer(&self) -> u64 {
        if self.efer & efer::LMA != 0 {
            self.efer
        } else {
            self.efer & !efer::LME
        }
    }

    /// Sets EFER. Hardware wants to know in a control that the guest is in IA-32e mode, where only a
    /// TSS of 64 bits will do.
    pub(super) fn set_efer(&mut self, v: u64) {
        self.efer = v;
        let on = v & efer::LMA != 0;
        vmcs::write(field::GUEST_EFER, self.hardware_efer());
        let controls = if on {
            self.entry_controls | entry::IA32E
        } else {
            self.entry_controls & !entry::IA32E
        };
        if controls != self.entry_controls {
            self.entry_controls = controls;
            vmcs::write(field::ENTRY_CONTROLS, controls);
        }
        self.runnable.set(None);
        if on {
            /// The type of a busy TSS: of 16 bits, and of 32 or 64.
            const BUSY_16: u32 = 3;
            const BUSY: u32 = 11;
            let rights = vmcs::read(field::GUEST_TR_RIGHTS);
            if rights & 0xf == BUSY_16 {
                vmcs::write(field::GUEST_TR_RIGHTS, rights & !0xf | BUSY);
            }
        }
    }

    /// Must the next instruction be emulated, because hardware does not run the guest as it is?
    #[inline]
    pub(super) fn must_emulate(&self) -> bool {
        !self.m.cfg.unrestricted && !self.is_runnable()
    }

    #[inline(never)]
    fn is_runnable(&self) -> bool {
        if let Some(known) = self.runnable.get() {
            return known;
        }
        let now = self.hardware_runs_it();
        self.runnable.set(Some(now));
        now
    }

    /// Whether hardware runs the guest as it is, asked anew.
    pub(super) fn hardware_runs_it(&self) -> bool {
        self.cr0 & cr0::PE != 0 && (!self.emulates_invalid() || self.segments_fit())
    }

    /// Is what hardware does not take emulated? Else real mode has only segments as virtual-8086 mode
    /// could have them, and hardware is given whatever there is in protected mode.
    pub(super) fn emulates_invalid(&self) -> bool {
        self.m.emulates_invalid()
    }

    /// CR0 changes: where what does not fit is not emulated, it is made to fit.
    fn fit_segments(&mut self, old: u64, new: u64) {
        if self.emulates_invalid() || (old & new & cr0::PE != 0) {
            return;
        }
        for r in CODE_AND_DATA {
            let s = self.seg(r);
            let fit = if new & cr0::PE == 0 {
                as_in_real_mode(s)
            } else {
                as_in_protected_mode(r, s)
            };
            if fit != s {
                self.set_seg(r, &fit);
            }
        }
    }

    /// The segment register that the guest gets for `s`.
    pub(super) fn fitting(&self, r: SegReg, s: &Segment) -> Segment {
        let real = self.cr0 & cr0::PE == 0 && !matches!(r, SegReg::Ldtr | SegReg::Tr);
        if real && !self.emulates_invalid() {
            return as_in_real_mode(*s);
        }
        *s
    }

    fn segments_fit(&self) -> bool {
        let seg = SegReg::ALL.map(|r| self.raw_segment(r));
        let vm86 = self.rflags() & rflags::VM != 0;
        segments_fit(&seg, vm86, self.efer & efer::LMA != 0)
    }

    /// A segment register as the VMCS has it.
    pub(super) fn raw_segment(&self, r: SegReg) -> RawSeg {
        let f = field::segment(r);
        RawSeg {
            selector: vmcs::read(f.selector),
            rights: vmcs::read(f.rights),
            limit: vmcs::read(f.limit),
            base: vmcs::read(f.base),
        }
    }
}
