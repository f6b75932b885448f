// SPDX-License-Identifier: GPL-2.0

//! The two halves of a vCPU, and its state after RESET and INIT.

use super::bitmap::MsrMap;
use super::caps::own_page;
use super::caps::Module;
use super::caps::TSC_RATIO_ONE;
use super::check::Checked;
use super::inject::Nmi;
use super::inject::Soft;
use super::state::UpperHalf;
use super::Svm;
use crate::entry::Entry;
use crate::presence::Presence;
use crate::tdp::RootRef;
use crate::tdp::Tlb;
use crate::vendor::private::HasEntry;
use crate::vendor::private::Resident;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use host::pin::PinnedCpu;
use kernel::prelude::*;
use model::svm::vmcb::clean;
use model::svm::vmcb::int_ctl;
use model::svm::vmcb::intercept;
use model::svm::vmcb::intercept_bit;
use model::svm::vmcb::Vmcb;
use model::svm::vmcb::VmcbSeg;
use model::svm::vmcb::MISC_NP;
use model::svm::vmcb::PAT_RESET;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::efer;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::state::Segment;

/// What the vCPUs of a VM share: nothing yet, as AVIC is not used.
pub struct Vm;

/// What the scheduler hook reaches.
pub struct Cpu {
    /// Pairs the two halves; no other vCPU ever had it.
    pub(super) id: u64,
    pub(super) presence: Presence,
    /// This CPU's TSC_AUX is the guest's.
    pub(super) tsc_aux: AtomicBool,
}

impl Resident for Cpu {
    #[inline]
    fn presence(&self) -> &Presence {
        &self.presence
    }

    #[inline]
    fn load(&self, _: &PinnedCpu<'_>) {}

    #[inline]
    fn put(&self, _: &PinnedCpu<'_>) {
        if self.tsc_aux.load(Relaxed) {
            self.tsc_aux.store(false, Relaxed);
            // SAFETY: Preemption is off in the hook, and this is the CPU that was given the guest's.
            unsafe { crate::c::kvmrs_svm_restore_tsc_aux() };
        }
    }
}

/// The control block and the registers.
pub struct Vcpu {
    pub(super) entry: Entry,
    page: HwPage,
    pub(super) msrpm: MsrMap,
    pub(super) m: &'static Module,
    pub(super) id: u64,
    pub(super) root: RootRef<Svm>,
    pub(super) tlb: Tlb,
    /// Where the vCPU was entered last; `u32::MAX` before the first time.
    pub(super) last_cpu: u32,
    /// Generation of the ASID in the control block; 0 is none.
    pub(super) asid_generation: u64,
    /// The ASID was handed out since the last entry: it has no translations.
    pub(super) asid_new: bool,
    /// [`super::inject::work`]: what the next entry and exit have to do besides.
    pub(super) work: u8,
    /// CR0 bits that the guest sees set and hardware does not have.
    pub(super) cr0_hidden: u64,
    /// Those for caching are such bits.
    pub(super) hide_caching: bool,
    /// CR4 as the guest sees it.
    pub(super) cr4: u64,
    /// DR6 of the guest while debug registers trap.
    pub(super) dr6: u64,
    /// DR6 as the last `#DB` exit found it.
    pub(super) db_dr6: u64,
    pub(super) tsc_ratio: u64,
    pub(super) tsc_aux: u32,
    pub(super) sysenter_esp_hi: UpperHalf,
    pub(super) sysenter_eip_hi: UpperHalf,
    pub(super) nmi: Nmi,
    pub(super) soft: Soft,
    /// EXITINTINFO of the last exit.
    pub(super) aborted_info: u32,
    pub(super) checked: Option<KBox<Checked>>,
}

impl HasEntry for Vcpu {
    #[inline]
    fn entry(&self) -> &Entry {
        &self.entry
    }

    #[inline]
    fn entry_mut(&mut self) -> &mut Entry {
        &mut self.entry
    }

    #[inline]
    fn tlb(&self) -> &Tlb {
        &self.tlb
    }
}

/// Makes both halves.
pub(super) fn new(m: &'static Module) -> Result<(Vcpu, Cpu)> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Relaxed);
    let page = own_page()?;
    let mut vcpu = Vcpu {
        entry: Entry::new(page.as_ptr().cast(), page.hw_pa()),
        page,
        msrpm: MsrMap::new()?,
        m,
        id,
        root: m.empty.clone(),
        tlb: Tlb::new(),
        last_cpu: u32::MAX,
        asid_generation: 0,
        asid_new: false,
        work: 0,
        cr0_hidden: 0,
        hide_caching: true,
        cr4: 0,
        dr6: dr6::INIT,
        db_dr6: dr6::INIT,
        tsc_ratio: TSC_RATIO_ONE,
        tsc_aux: 0,
        sysenter_esp_hi: UpperHalf::default(),
        sysenter_eip_hi: UpperHalf::default(),
        nmi: Nmi::default(),
        soft: Soft::default(),
        aborted_info: 0,
        checked: None,
    };
    if m.checked {
        vcpu.checked = Some(Checked::new()?);
    }
    vcpu.reset(false);
    let cpu = Cpu {
        id,
        presence: Presence::new(),
        tsc_aux: AtomicBool::new(false),
    };
    Ok((vcpu, cpu))
}

/// What exits always: the host relies on it, or hardware insists, or a guest that was not given the
/// instruction must not have it.
const ALWAYS: [u32; 26] = [
    intercept::CR0_SEL_WRITE,
    intercept::CR4_READ,
    intercept::CR4_WRITE,
    intercept::INTR,
    intercept::NMI,
    intercept::SMI,
    intercept::INIT,
    intercept::RDPMC,
    intercept::CPUID,
    intercept::RSM,
    intercept::INVD,
    intercept::INVLPGA,
    intercept::IOIO,
    intercept::MSR,
    intercept::TASK_SWITCH,
    intercept::SHUTDOWN,
    intercept::VMRUN,
    intercept::VMMCALL,
    intercept::VMLOAD,
    intercept::VMSAVE,
    intercept::STGI,
    intercept::CLGI,
    intercept::SKINIT,
    // Through a task gate hardware would save the RIP of the instruction, which is a trap.
    intercept::ICEBP,
    intercept::WBINVD,
    intercept::XSETBV,
];

/// What exits until the code above switches it off.
const AT_FIRST: [u32; 8] = [
    intercept::CR8_WRITE,
    intercept::HLT,
    intercept::PAUSE,
    intercept::MONITOR,
    intercept::MWAIT,
    intercept::RDTSCP,
    intercept::INVPCID,
    intercept::RDPRU,
];

/// Exceptions that exit always. A guest can make the delivery of `#DB` and `#AC` go round for ever,
/// and nothing interrupts that; a machine check is the host's.
pub(super) const EXCEPTIONS: u32 = 1 << exception::DB | 1 << exception::AC | 1 << exception::MC;

/// All debug registers, reads and writes. Off only in [`Vcpu::set_trap`].
pub(super) const DEBUG_TRAPS: u32 = 0x00ff_00ff;

fn set_bit(words: &mut [u32; 6], i: u32) {
    let (word, mask) = intercept_bit(i);
    if let Some(w) = words.get_mut(word) {
        *w |= mask;
    }
}

impl Vcpu {
    /// The control block.
    #[inline]
    pub(super) fn vmcb(&self) -> &Vmcb {
        // SAFETY: The page is ours, aligned, and any bytes are a control block. Hardware writes to
        // it only inside the call in `enter`, during which no reference exists.
        unsafe { &*self.page.as_ptr().cast() }
    }

    /// The control block, to be changed.
    #[inline]
    pub(super) fn vmcb_mut(&mut self) -> &mut Vmcb {
        // SAFETY: As in `vmcb`; `&mut self` makes it exclusive.
        unsafe { &mut *self.page.as_ptr().cast() }
    }

    /// Some groups of fields have changed.
    #[inline]
    pub(super) fn dirty(&mut self, groups: u32) {
        self.vmcb_mut().control.clean &= !groups;
    }

    /// Switches an intercept.
    pub(super) fn set_intercept(&mut self, i: u32, on: bool) {
        if self.vmcb_mut().control.set_intercept(i, on) {
            self.dirty(clean::INTERCEPTS);
        }
    }

    /// Puts the control block and the registers into the state of RESET, or of INIT
    /// (`APM: vol 2, 14.1.3`), which keeps the MSRs and the caching bits of CR0.
    pub(super) fn reset(&mut self, init: bool) {
        let kept = init.then(|| self.kept());
        self.clear();
        self.reset_control();
        self.reset_save();
        self.entry.reset(init);
        self.work = 0;
        self.nmi = Nmi::default();
        self.soft = Soft::default();
        self.dr6 = dr6::INIT;
        let caching = match &kept {
            Some(k) => k.cr0 & (cr0::CD | cr0::NW),
            None => cr0::CD | cr0::NW,
        };
        self.hide_caching = true;
        self.set_cr0(caching | cr0::ET);
        self.set_cr4(0);
        match kept {
            Some(k) => self.put_back(&k),
            None => {
                self.msrpm.close();
                self.tsc_aux = 0;
                self.sysenter_esp_hi = UpperHalf::default();
                self.sysenter_eip_hi = UpperHalf::default();
                self.tsc_ratio = TSC_RATIO_ONE;
            }
        }
        self.tlb.forget();
    }

    /// The intercepts that are never off.
    pub(super) fn mandatory(&self) -> [u32; 6] {
        let mut words = [0u32; 6];
        for i in ALWAYS {
            set_bit(&mut words, i);
        }
        if self.m.invlpgb {
            set_bit(&mut words, intercept::INVLPGB);
            set_bit(&mut words, intercept::INVLPGB_ILLEGAL);
            set_bit(&mut words, intercept::TLBSYNC);
        }
        words[intercept::WORD_DR] = DEBUG_TRAPS;
        words[intercept::WORD_EXCEPTION] = EXCEPTIONS;
        words
    }

    /// Makes the control block zeros but for what belongs to the CPU where it was entered last.
    fn clear(&mut self) {
        let c = &self.vmcb().control;
        let (asid, tlb_ctl) = (c.asid, c.tlb_ctl);
        for word in self.page.words() {
            word.store(0, Relaxed);
        }
        let c = &mut self.vmcb_mut().control;
        (c.asid, c.tlb_ctl) = (asid, tlb_ctl);
    }

    /// Sets what is not 0 after RESET and INIT. To be called after [`clear`](Self::clear).
    fn reset_control(&mut self) {
        let mut words = self.mandatory();
        for i in AT_FIRST {
            set_bit(&mut words, i);
        }

        let mut int = int_ctl::V_INTR_MASKING;
        if self.m.vnmi {
            int |= int_ctl::V_NMI_ENABLE;
        }
        if self.m.vgif {
            // Set once and for all, as the guest has neither STGI nor CLGI.
            int |= int_ctl::V_GIF_ENABLE | int_ctl::V_GIF;
        }
        let (iopm, msrpm) = (self.m.iopm.hw_pa(), self.msrpm.hw_pa());
        let (pause_count, pause_thresh) =
            self.m.pause_filter.map_or((0, 0), |f| (f.count, f.thresh));
        let root = self.root.hw_pa();
        let c = &mut self.vmcb_mut().control;
        c.intercepts = words;
        c.pause_filter_count = pause_count;
        c.pause_filter_thresh = pause_thresh;
        c.iopm_base = iopm;
        c.msrpm_base = msrpm;
        c.int_ctl = int;
        c.misc_ctl = MISC_NP;
        c.nested_cr3 = root;
    }

    /// As [`reset_control`](Self::reset_control).
    fn reset_save(&mut self) {
        let data = VmcbSeg::pack(&Segment::real_mode(0, false));
        let table = VmcbSeg {
            limit: 0xffff,
            ..VmcbSeg::default()
        };
        let s = &mut self.vmcb_mut().save;
        (s.es, s.ss, s.ds, s.fs, s.gs) = (data, data, data, data, data);
        s.cs = VmcbSeg {
            selector: 0xf000,
            attr: 0x9b,
            limit: 0xffff,
            base: 0xffff_0000,
        };
        s.ldtr = VmcbSeg {
            attr: 0x82,
            ..table
        };
        s.tr = VmcbSeg {
            attr: 0x8b,
            ..table
        };
        (s.gdtr, s.idtr) = (table, table);
        s.efer = efer::SVME;
        s.dr6 = dr6::INIT;
        s.dr7 = dr7::INIT;
        s.rflags = rflags::FIXED;
        s.rip = 0xfff0;
        s.g_pat = PAT_RESET;
    }

    /// What INIT keeps.
    fn kept(&self) -> Kept {
        let Vmcb {
            control, save: s, ..
        } = self.vmcb();
        Kept {
            tsc_offset: control.tsc_offset,
            cr0: self.cr0(),
            sys: [
                s.star,
                s.lstar,
                s.cstar,
                s.sfmask,
                s.kernel_gs_base,
                s.sysenter_cs,
                s.sysenter_esp,
                s.sysenter_eip,
            ],
            pat: s.g_pat,
        }
    }

    fn put_back(&mut self, k: &Kept) {
        self.vmcb_mut().control.tsc_offset = k.tsc_offset;
        let s = &mut self.vmcb_mut().save;
        [
            s.star,
            s.lstar,
            s.cstar,
            s.sfmask,
            s.kernel_gs_base,
            s.sysenter_cs,
            s.sysenter_esp,
            s.sysenter_eip,
        ] = k.sys;
        s.g_pat = k.pat;
    }

    /// Hardware has from the guest's CR4 what makes no difference to it.
    pub(super) fn hw_cr4(&self, guest: u64) -> u64 {
        // A machine check is the host's, and must not shut the guest down instead.
        guest | if self.m.host_mce { cr4::MCE } else { 0 }
    }
}

struct Kept {
    tsc_offset: u64,
    cr0: u64,
    sys: [u64; 8],
    pat: u64,
}
