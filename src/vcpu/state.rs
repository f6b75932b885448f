// SPDX-License-Identifier: GPL-2.0

//! The part of a vCPU's state that is ours and not the hardware's. Guarded by the vCPU mutex.

use super::code::Code;
use super::cpuid::Cpuid;
use super::event::Events;
use super::fpu::Fpu;
use super::mp::MpState;
use super::msr::Msrs;
use super::pending::Pending;
use super::smm::Smm;
use crate::backend::Backend;
use crate::exit::emulate::Emul;
use crate::mmu::marker::Known;
use crate::pv::tsc;
use crate::pv::PvState;
use crate::vm::VmBase;
use crate::vm::VmCore;
use core::ops::Deref;
use host::page::HwPage;
use host::task::ThreadRef;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi;
use model::irqchip::lapic;
use model::irqchip::lapic::timer::TimerOp;
use model::irqchip::lapic::ApicWords;
use model::irqchip::lapic::Eoi;
use model::irqchip::lapic::LocalApic;
use model::x86::apic::base;
use model::x86::ctrl::dr7;
use model::x86::ctrl::xcr0;
use virt::tdp::TableCache;

/// The register page of a local APIC.
pub(crate) struct ApicMem(Arc<HwPage>);

impl Deref for ApicMem {
    type Target = ApicWords;

    #[inline]
    fn deref(&self) -> &ApicWords {
        self.0.words32()
    }
}

/// A local APIC with its page.
pub(crate) type Apic = LocalApic<ApicMem>;

/// Debug registers of the guest, and user space's debugging of it.
pub(crate) struct Debug {
    /// DR0 to DR3 as the guest has them.
    pub(crate) dr: [u64; 4],
    /// DR7 as the guest has it.
    pub(crate) dr7: u64,
    /// KVM_GUESTDBG_*; 0 when user space does not debug.
    pub(crate) control: u32,
    /// User space's own breakpoints: DR0 to DR3 and DR7.
    pub(crate) user_dr: [u64; 4],
    /// User space's DR7.
    pub(crate) user_dr7: u64,
    /// RFLAGS.TF was set by us for single-stepping.
    pub(crate) stepping: bool,
    /// The last INT3 that exited.
    pub(crate) int3: Int3,
}

/// Where an INT3 is, and how long it is with its prefixes, bytes; 0 if there was none.
#[derive(Clone, Copy, Default)]
pub(crate) struct Int3 {
    pub(crate) rip: u64,
    pub(crate) len: u8,
}

impl Debug {
    /// Does user space keep interrupts and NMIs from the guest (KVM_GUESTDBG_BLOCKIRQ)?
    #[inline]
    pub(crate) fn blocks_interrupts(&self) -> bool {
        self.control & abi::KVM_GUESTDBG_BLOCKIRQ != 0
    }
}

/// A set of vectors. One instruction can end several interrupts: a repeated store to the EOI
/// register.
#[derive(Default)]
pub(crate) struct EoiExits {
    any: bool,
    words: [u64; 4],
}

impl EoiExits {
    /// Adds a vector.
    pub(crate) fn add(&mut self, vector: u8) {
        if let Some(w) = self.words.get_mut(usize::from(vector >> 6)) {
            *w |= 1 << (vector & 63);
            self.any = true;
        }
    }

    /// Takes one out.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u8> {
        if self.any {
            self.lowest()
        } else {
            None
        }
    }

    #[inline(never)]
    fn lowest(&mut self) -> Option<u8> {
        let found = self.words.iter_mut().enumerate().find(|(_, w)| **w != 0);
        let Some((i, w)) = found else {
            self.any = false;
            return None;
        };
        let bit = w.trailing_zeros();
        *w &= w.wrapping_sub(1);
        // CAST: below 4 and below 64.
        Some((i as u8) << 6 | bit as u8)
    }
}

/// The state.
pub(crate) struct State {
    /// The bootstrap processor?
    pub(crate) is_bsp: bool,
    /// KVM_RUN was called once: CPUID is fixed now.
    pub(crate) ran: bool,
    /// Whether it runs.
    pub(crate) mp: MpState,
    /// An INIT that has not been acted on.
    pub(crate) init_latched: bool,
    /// A SIPI that has not been acted on.
    pub(crate) sipi_latched: Option<u8>,
    /// The vector that KVM_SET_VCPU_EVENTS brought.
    pub(crate) sipi_vector: u8,
    /// A paravirtual kick arrived. It ends one halt, also one that begins after it.
    pub(crate) unhalted: bool,
    /// How long HLT polls before it sleeps, ns.
    pub(crate) halt_poll_ns: u64,
    /// Events on their way to the guest.
    pub(crate) events: Events,
    /// System management mode.
    pub(crate) smm: Smm,
    /// What user space was asked to finish.
    pub(crate) pending: Pending,
    /// CPUID.
    pub(crate) cpuid: Cpuid,
    /// MSRs.
    pub(crate) msrs: Msrs,
    /// The local APIC, when it is in the kernel.
    pub(crate) apic: Option<Apic>,
    /// IA32_APIC_BASE, when it is not.
    pub(crate) plain_apic_base: u64,
    /// CR8 writes exit, as they do at first.
    pub(crate) cr8_trap: bool,
    /// XCR0.
    pub(crate) xcr0: u64,
    /// FPU registers.
    pub(crate) fpu: Fpu,
    /// Debugging.
    pub(crate) debug: Debug,
    /// Spare table pages.
    pub(crate) tables: TableCache,
    /// The page whose mark was looked at last.
    pub(crate) no_memory: Option<Known>,
    /// The hardware has the root of the nested tables.
    pub(crate) root_loaded: bool,
    /// The emulator's workspace.
    pub(crate) emul: Emul,
    /// Instructions that exited before.
    pub(crate) code: Code,
    /// Paravirtual features.
    pub(crate) pv: PvState,
    /// The thread that ran it last.
    pub(crate) thread: Option<Arc<ThreadRef>>,
    /// Signals blocked during KVM_RUN.
    pub(crate) signal_mask: Option<u64>,
    /// Vectors whose EOI user space's IOAPIC must hear of, to be reported one by one.
    pub(crate) eoi_exits: EoiExits,
    /// Where the guest's virtual APIC word is; 0 if it has none (KVM_SET_VAPIC_ADDR).
    pub(crate) vapic: u64,
    /// TPR accesses are reported to user space.
    pub(crate) report_tpr: bool,
    /// The one to be reported before the next entry: RIP, and whether it was a write.
    pub(crate) tpr_access: Option<(u64, bool)>,
    /// What the local APIC's timer waits for, while the hardware of the guest's runs counts to it.
    pub(crate) deadline: Option<TimerOp>,
    /// The vectors whose EOIs exit, where hardware carries out EOIs.
    pub(crate) heard_eois: [u64; 4],
    /// Hardware writes down the pages that the guest writes to.
    pub(crate) write_log: bool,
    /// A timer of the host does that instead, as the vCPU is halted.
    pub(crate) deadline_in_host: bool,
    /// Bus locks exit.
    pub(crate) bus_lock_exits: bool,
    /// One did, which the next return to user space says.
    pub(crate) bus_locked: bool,
    /// The local APIC is counted as one that is not where hardware looks for it in memory.
    pub(crate) apic_elsewhere: bool,
}

impl State {
    /// The state before RESET. On the heap from the start: it is too large for the stack.
    #[inline(never)]
    pub(crate) fn new<V: Backend>(
        vm: &VmCore<V>,
        hw: &mut V::Vcpu,
        id: u32,
        bsp: bool,
        tsc_khz: u32,
    ) -> Result<KBox<Self>> {
        let apic = if vm.base.irqchip_in_kernel() {
            let mut cfg = lapic::Config::new(id, bsp);
            cfg.ids32 = vm.base.caps.x2apic_32bit_ids();
            cfg.bus_cycle_ns = vm.base.caps.apic_bus_cycle_ns();
            let directed = vm.base.caps.directed_eoi(vm.base.irqchip_full());
            (cfg.directed_eoi_offered, cfg.directed_eoi_honoured) = directed;
            cfg.lint0_reenabled = vm.base.caps.quirk(abi::KVM_X86_QUIRK_LINT0_REENABLED);
            cfg.min_period_ns = u64::from(host::params::min_timer_period_us()).wrapping_mul(1000);
            cfg.icr_split = V::host_features().icr_split;
            let shared = V::share_apic_page(hw);
            let accelerated = shared.is_some();
            let page = match shared {
                Some(page) => page,
                None => Arc::new(HwPage::new()?, GFP_KERNEL_ACCOUNT)?,
            };
            let mut apic = LocalApic::new(ApicMem(page), cfg);
            apic.set_accelerated(accelerated);
            Some(apic)
        } else {
            None
        };
        let mut plain = base::ENABLE | model::x86::apic::DEFAULT_BASE;
        if bsp {
            plain |= base::BSP;
        }
        let quirk = vm.base.caps.quirk(abi::KVM_X86_QUIRK_STUFF_FEATURE_MSRS);
        let init = try_init!(Self {
            is_bsp: bsp,
            ran: false,
            mp: MpState::Uninitialized,
            init_latched: false,
            sipi_latched: None,
            sipi_vector: 0,
            unhalted: false,
            halt_poll_ns: 0,
            events: Events::default(),
            smm: Smm::default(),
            pending: Pending::None,
            cpuid: Cpuid::new(),
            msrs: Msrs::new()?,
            apic,
            plain_apic_base: plain,
            cr8_trap: true,
            xcr0: xcr0::FP,
            fpu: Fpu::new()?,
            debug: Debug {
                dr: [0; 4],
                dr7: dr7::INIT,
                control: 0,
                user_dr: [0; 4],
                user_dr7: 0,
                stepping: false,
                int3: Int3::default(),
            },
            tables: TableCache::new(),
            no_memory: None,
            root_loaded: false,
            emul: Emul::new()?,
            code: Code::new(),
            pv: tsc::new_state::<V>(&vm.base.clock, tsc_khz),
            thread: None,
            signal_mask: None,
            eoi_exits: EoiExits::default(),
            vapic: 0,
            report_tpr: false,
            tpr_access: None,
            deadline: None,
            deadline_in_host: false,
            bus_lock_exits: false,
            bus_locked: false,
            apic_elsewhere: false,
            write_log: false,
            heard_eois: [0; 4],
        }? Error);
        let mut st = KBox::try_init(init, GFP_KERNEL_ACCOUNT)?;
        st.msrs.tell_errata();
        if quirk {
            st.msrs.stuff_features();
        }
        Ok(st)
    }

    /// RESET or INIT of what is here. XCR0, the FPU and most MSRs survive INIT
    /// (`SDM: vol 3, table 9-1`).
    pub(crate) fn reset(&mut self, init: bool) {
        self.cr8_trap = true;
        self.root_loaded = false;
        self.debug.dr = [0; 4];
        self.debug.dr7 = dr7::INIT;
        self.pending = Pending::None;
        self.emul.reset();
        if !init {
            self.xcr0 = xcr0::FP;
        }
        self.msrs.reset(init);
        self.pv.reset();
    }

    /// It executes instructions from now on; the kick that may have led to that is used up.
    pub(crate) fn set_runnable(&mut self) {
        self.unhalted = false;
        self.mp = MpState::Runnable;
    }

    /// Which paravirtual features the guest may use, bits of the feature leaf.
    pub(crate) fn pv_features(&self) -> u32 {
        if self.pv.enforce {
            self.cpuid.features.pv
        } else {
            // KVM: without KVM_CAP_ENFORCE_PV_FEATURE_CPUID also what the guest's CPUID lacks.
            u32::MAX
        }
    }

    /// IA32_APIC_BASE.
    pub(crate) fn apic_base(&self) -> u64 {
        match &self.apic {
            Some(a) => a.base(),
            None => self.plain_apic_base,
        }
    }

    /// Could IA32_APIC_BASE have this value?
    pub(crate) fn valid_apic_base(&self, v: u64) -> bool {
        let mode = v & (base::ENABLE | base::X2APIC);
        v & self.cpuid.features.reserved_gpa_bits() == 0
            && v & base::RESERVED_LOW == 0
            && mode != base::X2APIC
            && (self.apic.is_some() || mode & base::X2APIC == 0 || v == self.plain_apic_base)
    }

    /// An EOI that user space's IOAPIC may wait for.
    pub(crate) fn user_eoi(&mut self, vm: &VmBase, e: &Eoi) {
        if e.level && !e.suppressed && crate::irq::user_waits_for(vm, e.vector) {
            self.eoi_exits.add(e.vector);
        }
    }
}
