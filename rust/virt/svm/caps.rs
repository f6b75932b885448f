// SPDX-License-Identifier: GPL-2.0

//! What the processor offers (`APM: vol 3, E.4.9`, CPUID 8000_000Ah), what of it is used, and each
//! CPU's part of the backend.

use super::bitmap::IoMap;
use super::pause::PauseFilter;
use super::Svm;
use crate::c;
use crate::entry;
use crate::tdp::RootRef;
use crate::vendor::Features;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::Ordering;
use host::page::encryption_mask;
use host::page::HwPage;
use host::pin::PinnedCpu;
use kernel::prelude::*;
use model::svm::vmcb::clean;
use model::tdp::Config;

/// Module parameters of the backend, by the names they have in sysfs. To be set before the probe.
#[derive(Debug)]
pub struct Params {
    /// `npt`: use nested paging. Nothing works without.
    pub npt: AtomicBool,
    /// `nrips`: use the next RIP that hardware reports.
    pub nrips: AtomicBool,
    /// `vgif`: use the virtual global interrupt flag.
    pub vgif: AtomicBool,
    /// `vnmi`: let hardware track NMI blocking.
    pub vnmi: AtomicBool,
    /// `pause_filter_count`: PAUSEs in a loop before one exits; 0 is every one.
    pub pause_filter_count: AtomicU16,
    /// `pause_filter_count_grow`: by what the count grows when it is reached; a factor, or if
    /// larger than the count a summand.
    pub pause_filter_count_grow: AtomicU16,
    /// `pause_filter_count_shrink`: by what it shrinks when the thread has been away, likewise; 0 is
    /// back to the start.
    pub pause_filter_count_shrink: AtomicU16,
    /// `pause_filter_count_max`: the largest count.
    pub pause_filter_count_max: AtomicU16,
    /// `pause_filter_thresh`: cycles between two PAUSEs that end a loop.
    pub pause_filter_thresh: AtomicU16,
}

/// The parameters, with their defaults.
pub static PARAMS: Params = Params {
    npt: AtomicBool::new(true),
    nrips: AtomicBool::new(true),
    vgif: AtomicBool::new(true),
    vnmi: AtomicBool::new(true),
    pause_filter_count: AtomicU16::new(3000),
    pause_filter_count_grow: AtomicU16::new(2),
    pause_filter_count_shrink: AtomicU16::new(0),
    pause_filter_count_max: AtomicU16::new(u16::MAX),
    pause_filter_thresh: AtomicU16::new(128),
};

/// TSC multiplier of 1: 8 integer bits, 32 fraction bits (`APM: vol 2, 15.30.5`).
pub(super) const TSC_RATIO_ONE: u64 = 1 << 32;

/// What was found, and what all vCPUs share. Constant after the probe.
pub struct Module {
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

fn pause_filter(caps: u32) -> Option<PauseFilter> {
    let get = |p: &AtomicU16| p.load(Ordering::Relaxed);
    let count = get(&PARAMS.pause_filter_count);
    if caps & c::SVM_CAP_PAUSE_FILTER == 0 || count == 0 {
        return None;
    }
    Some(PauseFilter {
        count,
        thresh: if caps & c::SVM_CAP_PAUSE_THRESHOLD != 0 {
            get(&PARAMS.pause_filter_thresh)
        } else {
            0
        },
        grow: get(&PARAMS.pause_filter_count_grow),
        shrink: get(&PARAMS.pause_filter_count_shrink),
        max: get(&PARAMS.pause_filter_count_max),
    })
}

/// Is there anything to work with?
fn usable(caps: u32) -> Result {
    if caps & c::SVM_CAP_SVM == 0 {
        if caps & c::SVM_CAP_CPUID != 0 {
            pr_err!("SVM disabled by the firmware, or by the kernel's command line\n");
        } else {
            pr_err!("no SVM on this processor\n");
        }
        return Err(ENODEV);
    }
    if caps & c::SVM_CAP_NPT == 0 || !PARAMS.npt.load(Ordering::Relaxed) {
        pr_err!("SVM without nested paging is not supported\n");
        return Err(ENODEV);
    }
    Ok(())
}

impl Module {
    pub(super) fn probe() -> Result<Self> {
        // SAFETY: Reads what the kernel knows of the processor.
        let caps = unsafe { c::kvmrs_svm_caps() };
        let has = |bit: u32| caps & bit != 0;
        usable(caps)?;
        entry::probe();

        // SAFETY: As above.
        let phys_bits = unsafe { c::kvmrs_svm_phys_bits() };
        let five = has(c::SVM_CAP_LA57);
        let tdp = Config::new(five, phys_bits, encryption_mask(), true);

        let vnmi = has(c::SVM_CAP_VNMI) && PARAMS.vnmi.load(Ordering::Relaxed);
        let nrips = has(c::SVM_CAP_NRIPS) && PARAMS.nrips.load(Ordering::Relaxed);
        let scaling = has(c::SVM_CAP_TSC_RATIO);
        // SAFETY: Reads a variable set at boot.
        let cpus = unsafe { kernel::bindings::nr_cpu_ids } as usize;
        let mut save_pages = KVec::with_capacity(cpus, GFP_KERNEL)?;
        for _ in 0..cpus {
            save_pages.push(HwPage::new()?, GFP_KERNEL)?;
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
                pause_exits: true,
                mwait: has(c::SVM_CAP_MWAIT),
                rdtscp: has(c::SVM_CAP_RDTSCP),
                invpcid: has(c::SVM_CAP_INVPCID),
                xsaves: has(c::SVM_CAP_XSAVES),
                umip_by_exits: false,
                bus_lock_exit: has(c::SVM_CAP_BUS_LOCK),
            },
            tdp,
            nrips,
            assists: has(c::SVM_CAP_DECODE_ASSISTS),
            flush_by_asid: has(c::SVM_CAP_FLUSH_BY_ASID),
            vgif: has(c::SVM_CAP_VGIF) && PARAMS.vgif.load(Ordering::Relaxed),
            vnmi,
            v_spec_ctrl: has(c::SVM_CAP_V_SPEC_CTRL),
            spec_ctrl: has(c::SVM_CAP_SPEC_CTRL),
            ibpb: has(c::SVM_CAP_IBPB),
            flush_l1d: has(c::SVM_CAP_FLUSH_L1D),
            clean: if has(c::SVM_CAP_CLEAN) {
                clean::AFTER_EXIT
            } else {
                0
            },
            pause_filter: pause_filter(caps),
            invlpgb: has(c::SVM_CAP_INVLPGB),
            host_mce: has(c::SVM_CAP_HOST_MCE),
            checked: host::params::checked(),
            iopm: IoMap::new()?,
            empty: RootRef::empty(tdp)?,
            save_pages,
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

    pub(super) fn cpu_online(&self, cpu: &PinnedCpu<'_>) -> Result {
        let page = self.save_pages.get(cpu.cpu_id() as usize).ok_or(ENODEV)?;
        // SAFETY: The page lives as long as the module part, whose owner switches the extension off
        // on all CPUs before dropping it; no other CPU uses it. The kernel has switched SVM on here.
        unsafe { c::kvmrs_svm_online(page.hw_pa(), self.features.tsc_scaling) };
        Ok(())
    }

    pub(super) fn cpu_offline(&self, _: &PinnedCpu<'_>) {
        // SAFETY: No vCPU runs on a CPU that goes offline.
        unsafe { c::kvmrs_svm_offline(self.features.tsc_scaling) };
    }
}

pub(super) fn cpu_emergency() {
    // SAFETY: Writes one MSR; a fault is passed over.
    unsafe { c::kvmrs_svm_emergency() };
}
