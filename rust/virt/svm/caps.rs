// SPDX-License-Identifier: GPL-2.0

//! What the processor offers (`APM: vol 3, E.4.9`, CPUID 8000_000Ah), what of it is used, and each
//! CPU's part of the backend.

use super::bitmap::IoMap;
use super::params::Params;
use super::pause::PauseFilter;
use super::Svm;
use crate::c;
use crate::entry;
use crate::tdp::RootRef;
use crate::vendor::private::OnCpus;
use crate::vendor::Features;
use host::errno::not_supported;
use host::hwvirt::AllOff;
use host::page::encryption_mask;
use host::page::HwPage;
use host::pin::PinnedCpu;
use kernel::prelude::*;
use model::svm::vmcb::clean;
use model::tdp::Config;

/// TSC multiplier of 1: 8 integer bits, 32 fraction bits (`APM: vol 2, 15.30.5`).
pub(super) const TSC_RATIO_ONE: u64 = 1 << 32;

/// Bytes of a large page of the host.
const LARGE: u64 = 2 << 20;

/// What was found, and what all vCPUs share. Constant after the probe.
pub struct Module {
    /// The parameters it was probed with.
    pub(super) asked: Params,
    pub(super) features: Features,
    /// The shape of nested page tables.
    tdp: Config,
    /// Hardware reports the RIP after an intercepted instruction.
    pub(super) nrips: bool,
    /// Hardware reports operands and instruction bytes.
    pub(super) assists: bool,
    /// One ASID can be flushed alone.
    pub(super) flush_by_asid: bool,
    /// The virtual global interrupt flag exists and is used.
    pub(super) vgif: bool,
    /// Virtual NMIs exist and are used.
    pub(super) vnmi: bool,
    /// SPEC_CTRL is switched by hardware.
    pub(super) v_spec_ctrl: bool,
    /// SPEC_CTRL exists.
    pub(super) spec_ctrl: bool,
    /// IBPB exists (PRED_CMD).
    pub(super) ibpb: bool,
    /// FLUSH_CMD exists.
    pub(super) flush_l1d: bool,
    /// Clean bits to claim after an exit.
    pub(super) clean: u32,
    /// `None` if PAUSEs cannot be counted.
    pub(super) pause_filter: Option<PauseFilter>,
    /// INVLPGB and its like can be intercepted.
    pub(super) invlpgb: bool,
    /// CR4.MCE of the host.
    pub(super) host_mce: bool,
    /// Compare what is claimed to be clean.
    pub(super) checked: bool,
    /// All ports exit.
    pub(super) iopm: IoMap,
    /// What a vCPU runs on before it is given anything.
    pub(super) empty: RootRef<Svm>,
    /// Where each CPU saves its state; indexed by CPU number.
    save_pages: KVec<HwPage>,
}

fn pause_filter(caps: u32, asked: &Params) -> Option<PauseFilter> {
    let count = asked.pause_filter_count;
    if caps & c::SVM_CAP_PAUSE_FILTER == 0 || count == 0 {
        return None;
    }
    Some(PauseFilter {
        count,
        thresh: if caps & c::SVM_CAP_PAUSE_THRESHOLD != 0 {
            asked.pause_filter_thresh
        } else {
            0
        },
        grow: asked.pause_filter_count_grow,
        shrink: asked.pause_filter_count_shrink,
        max: asked.pause_filter_count_max,
    })
}

/// A page that the processor takes for itself while a guest runs: a control block, or where the
/// host's state is saved.
///
/// None that begins 2 MiB. On processors with SEV-SNP switched on, be it by a module that was loaded
/// before, such a page makes others' writes through the kernel's large mapping of it fault (KVM:
/// `snp_safe_alloc_page()`).
///
/// # Errors
///
/// `ENOMEM`.
pub(super) fn own_page() -> Result<HwPage> {
    // Held until there is a better one, else they would come again.
    let mut refused = KVec::new();
    loop {
        let page = HwPage::new()?;
        if page.hw_pa() & (LARGE - 1) != 0 {
            return Ok(page);
        }
        refused.push(page, GFP_KERNEL)?;
    }
}

/// Is there anything to work with?
fn usable(caps: u32, asked: &Params) -> Result {
    if caps & c::SVM_CAP_SVM == 0 {
        if caps & c::SVM_CAP_CPUID != 0 {
            pr_err!("SVM disabled by the firmware, or by the kernel's command line\n");
        } else {
            pr_err!("no SVM on this processor\n");
        }
        return Err(not_supported());
    }
    if caps & c::SVM_CAP_NPT == 0 {
        pr_err!("SVM without nested paging is not supported\n");
        return Err(not_supported());
    }
    if !asked.npt {
        pr_err!("npt=0 is not supported: there are no shadow page tables\n");
        return Err(not_supported());
    }
    Ok(())
}

impl Module {
    pub(super) fn probe(off: &AllOff) -> Result<Self> {
        // SAFETY: Reads what the kernel knows of the processor.
        let caps = unsafe { c::kvmrs_svm_caps() };
        let has = |bit: u32| caps & bit != 0;
        let asked = Params::now();
        usable(caps, &asked)?;
        entry::probe(off);

        // SAFETY: As above.
        let phys_bits = unsafe { c::kvmrs_svm_phys_bits() };
        let five = has(c::SVM_CAP_LA57);
        let tdp = Config::new(five, phys_bits, encryption_mask(), true);

        let vgif = has(c::SVM_CAP_VGIF) && asked.vgif != 0;
        // Virtual NMIs are blocked and unblocked by the virtual flag (`APM: vol 2, 15.21.10`).
        let vnmi = has(c::SVM_CAP_VNMI) && vgif && asked.vnmi;
        let nrips = has(c::SVM_CAP_NRIPS) && asked.nrips != 0;
        let scaling = has(c::SVM_CAP_TSC_RATIO) && asked.tsc_scaling != 0;
        // SAFETY: Reads a variable set at boot.
        let cpus = unsafe { kernel::bindings::nr_cpu_ids } as usize;
        let mut save_pages = KVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            save_pages.push(own_page()?, GFP_KERNEL)?;
        }

        Ok(Self {
            features: Features {
                tdp_levels: if five { 5 } else { 4 },
                tdp_max_level: if has(c::SVM_CAP_GBPAGES) { 3 } else { 2 },
                tdp_ad: true,
                insn_length: nrips,
                virtual_nmi: vnmi,
                tsc_scaling: scaling,
                tsc_frac_bits: if scaling { 32 } else { 0 },
                unrestricted_guest: true,
                big_real_mode: true,
                deadline_timer: false,
                write_log: false,
                virtual_apic: false,
                icr_split: true,
                pause_exits: true,
                guest_pat: true,
                mwait: has(c::SVM_CAP_MWAIT),
                rdtscp: has(c::SVM_CAP_RDTSCP),
                invpcid: has(c::SVM_CAP_INVPCID),
                xsaves: has(c::SVM_CAP_XSAVES),
                umip_by_exits: false,
                l1d_flushed: true,
                bus_lock_exit: has(c::SVM_CAP_BUS_LOCK),
            },
            tdp,
            nrips,
            assists: has(c::SVM_CAP_DECODE_ASSISTS),
            flush_by_asid: has(c::SVM_CAP_FLUSH_BY_ASID),
            vgif,
            vnmi,
            v_spec_ctrl: has(c::SVM_CAP_V_SPEC_CTRL),
            spec_ctrl: has(c::SVM_CAP_SPEC_CTRL),
            ibpb: has(c::SVM_CAP_IBPB),
            flush_l1d: has(c::SVM_CAP_FLUSH_L1D),
            // Without the feature the claims are not looked at, but checked all the same.
            clean: if has(c::SVM_CAP_CLEAN) || crate::check::on() {
                clean::AFTER_EXIT
            } else {
                0
            },
            pause_filter: pause_filter(caps, &asked),
            invlpgb: has(c::SVM_CAP_INVLPGB),
            host_mce: has(c::SVM_CAP_HOST_MCE),
            checked: crate::check::on(),
            iopm: IoMap::new()?,
            empty: RootRef::empty(tdp)?,
            save_pages,
            asked,
        })
    }

    /// The tables must have as many levels as the host's own (`APM: vol 2, 15.25.3`).
    pub(super) fn tdp_config(&self, levels: u8) -> Result<Config> {
        if levels != self.features.tdp_levels {
            return Err(EINVAL);
        }
        Ok(self.tdp)
    }

    /// Can hardware walk tables of this shape?
    #[inline]
    pub(super) fn accepts(&self, cfg: &Config) -> bool {
        *cfg == self.tdp
    }
}

impl OnCpus for Module {
    fn cpu_online(&'static self, cpu: &PinnedCpu<'_>) -> Result {
        let page = self.save_pages.get(cpu.cpu_id() as usize).ok_or(ENODEV)?;
        // SAFETY: The page lives as long as the module part, for good; no other CPU uses it. The kernel
        // has switched SVM on here: `crate::hooks` alone calls this.
        unsafe { c::kvmrs_svm_online(page.hw_pa()) };
        Ok(())
    }

    fn cpu_offline(&self, _: &PinnedCpu<'_>) {
        // SAFETY: SVM is still on here, and no vCPU runs on a CPU that goes offline.
        unsafe { c::kvmrs_svm_offline() };
    }

    fn cpu_emergency(&self) {
        // SAFETY: Writes one MSR; a fault is passed over.
        unsafe { c::kvmrs_svm_emergency() };
    }
}
