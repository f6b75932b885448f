// SPDX-License-Identifier: GPL-2.0

//! What the processor offers, what of it is used, and each CPU's part of the backend. The rules are
//! `model::vmx::caps`.

use super::params::Params;
use super::pause::PauseLoop;
use super::vpid::Vpids;
use super::Vmx;
use crate::c;
use crate::entry;
use crate::tdp::RootRef;
use crate::vendor::private::OnCpus;
use crate::vendor::Features;
use host::errno::not_supported;
use host::hwvirt::AllOff;
use host::msr::rdmsr_safe;
use host::page::encryption_mask;
use host::page::HwPages;
use host::pin::PinnedCpu;
use host::uret::UserReturnMsrs;
use kernel::prelude::*;
use model::tdp::Config as TdpConfig;
use model::vmx::caps::configure;
use model::vmx::caps::interchangeable;
use model::vmx::caps::Config;
use model::vmx::caps::Raw;
use model::vmx::caps::Refusal;
use model::vmx::caps::Switches;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc2;
use model::x86::msr;
use model::x86::msr::feat_ctl;

/// Fraction bits of the TSC multiplier (`SDM: vol 3, 25.6.5`).
pub(super) const TSC_FRAC_BITS: u8 = 48;

/// What was found, and what all vCPUs share. Constant after the probe.
pub struct Module {
    /// The parameters it was probed with.
    pub(super) asked: Params,
    pub(super) features: Features,
    /// What could be used, by them and by the kernel.
    switches: Switches,
    /// The controls in use.
    pub(super) cfg: Config,
    pub(super) raw: Raw,
    /// The preemption timer counts once in two to the power of this TSC cycles.
    pub(super) timer_shift: u32,
    /// Shapes of nested page tables: four levels, and five.
    tdp4: TdpConfig,
    tdp5: TdpConfig,
    /// SPEC_CTRL exists.
    pub(super) spec_ctrl: bool,
    /// IBPB exists (PRED_CMD).
    pub(super) ibpb: bool,
    /// FLUSH_CMD exists.
    pub(super) flush_l1d: bool,
    /// UMIP exists in hardware.
    pub(super) umip: bool,
    /// Transactional memory is on, and IA32_TSX_CTRL decides what a guest gets of it.
    pub(super) tsx_ctrl: bool,
    /// CR4.MCE of the host.
    pub(super) host_mce: bool,
    /// The host looks for split locks.
    pub(super) split_lock: bool,
    /// The host may use counters.
    pub(super) perf: bool,
    /// The processor is made by a hypervisor.
    pub(super) on_hypervisor: bool,
    /// Bits of a linear address on this host.
    pub(super) linear_bits: u32,
    /// When loops of PAUSE exit.
    pub(super) pause: PauseLoop,
    /// Guest values in MSRs that only user mode looks at.
    pub(super) uret: UserReturnMsrs,
    /// Translation tags.
    pub(super) vpids: Vpids,
    /// What a vCPU runs on before it is given anything.
    pub(super) empty: RootRef<Vmx>,
    l1d_pages: Option<HwPages<{ c::VMX_L1D_ORDER }>>,
}

fn nothing_there(caps: u32) -> Result {
    if caps & c::VMX_CAP_VMX != 0 {
        return Ok(());
    }
    if caps & c::VMX_CAP_CPUID == 0 {
        pr_err!("no VMX on this processor\n");
    } else if rdmsr_safe(msr::FEAT_CTL).is_ok_and(|v| v & feat_ctl::VMX == 0) {
        // The kernel allows it where the firmware left that open: here it is locked.
        pr_err!("VMX disabled by the firmware (IA32_FEATURE_CONTROL)\n");
    } else {
        pr_err!("VMX disabled by the kernel, as its command line may ask\n");
    }
    Err(not_supported())
}

#[inline(never)]
fn refuse(why: Refusal) -> Error {
    pr_err!("{}\n", core::format_args!("{why}"));
    not_supported()
}

fn read_raw() -> Result<Raw> {
    Raw::read(|i| rdmsr_safe(i).ok()).ok_or_else(|| {
        pr_err!("VMX capability MSRs cannot be read\n");
        not_supported()
    })
}

/// Does the preemption timer last for ten seconds, so that it seldom expires for nothing?
fn timer_lasts(raw: &Raw) -> bool {
    let per_second = u64::from(host::cpu::tsc_khz()).wrapping_mul(1000) >> raw.timer_shift();
    per_second <= u64::from(u32::MAX / 10)
}

/// The mode of flushing the L1 data cache that the parameters ask for.
fn wished_l1d(asked: &Params) -> u32 {
    asked.vmentry_l1d_flush.unsigned_abs()
}

impl Module {
    /// Are guest states that hardware does not take emulated? Unrestricted guests have none.
    pub(super) fn emulates_invalid(&self) -> bool {
        self.cfg.unrestricted || self.asked.emulate_invalid_guest_state
    }

    pub(super) fn probe(off: &AllOff) -> Result<Self> {
        // SAFETY: Reads what the kernel knows of the processor.
        let caps = unsafe { c::kvmrs_vmx_caps() };
        let has = |bit: u32| caps & bit != 0;
        nothing_there(caps)?;
        let raw = read_raw()?;
        let asked = Params::now();
        let pause = PauseLoop::of(&asked);
        let switches = Switches {
            ept: asked.ept,
            unrestricted_guest: asked.unrestricted_guest,
            eptad: asked.eptad,
            vpid: asked.vpid,
            vnmi: asked.vnmi,
            tpr_shadow: asked.flexpriority,
            preemption_timer: asked.preemption_timer
                && timer_lasts(&raw)
                && !has(c::VMX_CAP_TIMER_ERRATUM),
            pml: asked.pml,
            apicv: asked.enable_apicv,
            ple: pause.gap != 0,
            rdtscp: has(c::VMX_CAP_RDTSCP),
            invpcid: has(c::VMX_CAP_INVPCID),
            xsaves: has(c::VMX_CAP_XSAVES),
        };
        let cfg = configure(&raw, &switches).map_err(refuse)?;
        entry::probe(off);

        let phys_bits = u32::from(host::cpu::phys_bits());
        let shape = |five| TdpConfig::new(five, phys_bits, encryption_mask(), cfg.ad);
        let scaling = cfg.proc2(proc2::TSC_SCALING);
        let tdp4 = shape(false);
        Ok(Self {
            features: Features {
                // Five levels only where four do not reach.
                tdp_levels: if cfg.levels_5 && phys_bits > 48 { 5 } else { 4 },
                tdp_max_level: match (cfg.page_1g, cfg.page_2m) {
                    (true, _) => 3,
                    (_, true) => 2,
                    _ => 1,
                },
                tdp_ad: cfg.ad,
                insn_length: true,
                virtual_nmi: cfg.pin(pin::VIRTUAL_NMIS),
                tsc_scaling: scaling,
                tsc_frac_bits: if scaling { TSC_FRAC_BITS } else { 0 },
                unrestricted_guest: cfg.unrestricted,
                big_real_mode: cfg.unrestricted || asked.emulate_invalid_guest_state,
                virtual_apic: cfg.apicv,
                icr_split: false,
                write_log: cfg.proc2(proc2::PML),
                deadline_timer: cfg.pin(pin::PREEMPTION_TIMER),
                pause_exits: cfg.proc2(proc2::PAUSE_LOOP_EXITING),
                guest_pat: host::cpu::has(host::cpu::bit::SELFSNOOP),
                mwait: has(c::VMX_CAP_MWAIT),
                rdtscp: cfg.proc2(proc2::RDTSCP),
                invpcid: cfg.proc2(proc2::INVPCID),
                xsaves: cfg.proc2(proc2::XSAVES),
                umip_by_exits: !has(c::VMX_CAP_UMIP) && cfg.proc2(proc2::DESC_EXITING),
                // SAFETY: Reads what the kernel knows of the processor, and its settings.
                l1d_flushed: unsafe { c::kvmrs_vmx_l1d_flushes(wished_l1d(&asked)) },
                bus_lock_exit: cfg.proc2(proc2::BUS_LOCK_DETECTION),
            },
            switches,
            cfg,
            raw,
            timer_shift: raw.timer_shift(),
            tdp4,
            tdp5: shape(true),
            spec_ctrl: has(c::VMX_CAP_SPEC_CTRL),
            ibpb: has(c::VMX_CAP_IBPB),
            flush_l1d: has(c::VMX_CAP_FLUSH_L1D),
            umip: has(c::VMX_CAP_UMIP),
            tsx_ctrl: has(c::VMX_CAP_TSX_CTRL),
            host_mce: has(c::VMX_CAP_HOST_MCE),
            split_lock: has(c::VMX_CAP_SPLIT_LOCK),
            perf: has(c::VMX_CAP_PERF),
            on_hypervisor: has(c::VMX_CAP_HYPERVISOR),
            linear_bits: if has(c::VMX_CAP_LA57) { 57 } else { 48 },
            pause,
            uret: UserReturnMsrs::new()?,
            vpids: Vpids::new()?,
            empty: RootRef::empty(tdp4)?,
            l1d_pages: if has(c::VMX_CAP_FLUSH_L1D) {
                None
            } else {
                Some(HwPages::new()?)
            },
            asked,
        })
    }

    /// Flushes the L1 data cache as this module part says. Not before it is there for good, as entries
    /// read its pages.
    pub(super) fn set_l1d(&'static self) {
        let pages = self.l1d_pages.as_ref();
        let at = pages.map_or(core::ptr::null_mut(), |p| p.as_ptr().cast());
        // SAFETY: The pages live as long as the module. They are there if there is no command.
        unsafe { c::kvmrs_vmx_l1d_setup(wished_l1d(&self.asked), at) }
    }

    /// Four levels, or five where they exist.
    pub(super) fn tdp_config(&self, levels: u8) -> Result<TdpConfig> {
        match levels {
            4 => Ok(self.tdp4),
            5 if self.cfg.levels_5 => Ok(self.tdp5),
            _ => Err(EINVAL),
        }
    }

    /// Can hardware walk tables of this shape?
    pub(super) fn accepts(&self, cfg: &TdpConfig) -> bool {
        *cfg == self.tdp4 || self.cfg.levels_5 && *cfg == self.tdp5
    }

    /// Is this the shape with five levels?
    pub(super) fn is_five(&self, cfg: &TdpConfig) -> bool {
        *cfg == self.tdp5
    }

    /// What the first word of a VMCS must hold.
    pub(super) fn revision(&self) -> u32 {
        self.raw.revision()
    }
}

impl OnCpus for Module {
    fn cpu_online(&'static self, cpu: &PinnedCpu<'_>) -> Result {
        if !interchangeable(&self.raw, &read_raw()?, &self.switches) {
            pr_err!(
                "VMX of CPU {} differs from that of the first CPU\n",
                cpu.cpu_id()
            );
            return Err(EIO);
        }
        // SAFETY: The kernel has switched VMX on here: `crate::hooks` alone calls this.
        unsafe { c::kvmrs_vmx_online() };
        Ok(())
    }

    fn cpu_offline(&self, cpu: &PinnedCpu<'_>) {
        // SAFETY: VMX is still on here, and no vCPU runs on a CPU that goes offline.
        unsafe { c::kvmrs_vmx_offline() };
        self.uret.leave_cpu(cpu);
    }

    fn cpu_emergency(&self) {
        // SAFETY: Walks a list that is whole at every moment; faults are passed over.
        unsafe { c::kvmrs_vmx_emergency() };
    }
}
