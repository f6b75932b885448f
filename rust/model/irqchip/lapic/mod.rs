// SPDX-License-Identifier: GPL-2.0

//! The local APIC of one vCPU.
//!
//! [`LocalApic`] belongs to the thread that runs the vCPU and needs `&mut`, so it has no lock.
//! Everyone else reaches it through [`Pending`] (what is sent to it) and [`Published`] (what senders
//! must know about it). The registers live in a page that the caller provides, because hardware
//! may have a share in it.
//!
//! ```text
//!   senders --> Pending --pull()--> IRR --next_vector(), ack()--> ISR --eoi()--> Effects
//! ```
//!
//! Nothing here calls out: what a register access means for the rest of the machine, an IPI to
//! deliver, a timer to arm, is returned as [`Effects`], and time comes in as [`Now`].
//!
//! | file | content |
//! |---|---|
//! | `regs` | the page |
//! | `vectors` | IRR, ISR, TMR, priorities: from the mailbox to the end of interrupt |
//! | `access` | register reads and writes, as MMIO and as x2APIC MSRs |
//! | `timer` | the timer |
//! | `ipi` | sending, and acceptance at the destination |
//! | `state` | KVM_GET_LAPIC and KVM_SET_LAPIC |
//! | `published` | what senders may know |
//!
//! SDM: vol 3, 11; APM: vol 2, 16.

mod access;
pub mod ipi;
pub mod published;
pub mod regs;
mod state;
pub mod timer;
mod vectors;

pub use access::Lvt;
pub use access::Raised;
pub use regs::ApicPage;
pub use regs::ApicWords;
pub use regs::Storage;
pub use state::InvalidState;
pub use state::STATE_SIZE;
pub use vectors::Eoi;

use crate::irqchip::pending::Pending;
use crate::irqchip::targets::Census;
use crate::x86::apic::base;
use crate::x86::apic::lvt;
use crate::x86::apic::reg;
use crate::x86::apic::version;
use crate::x86::apic::x2apic_ldr;
use crate::x86::apic::Ipi;
use crate::x86::apic::DEFAULT_BASE;
use crate::x86::apic::DFR_FLAT;
use published::Published;
use regs::Bank;
use regs::HINT_ALL;
use timer::Timer;
use timer::TimerOp;

/// The time, as the guest and as the host's monotonic clock see it at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic clock, ns.
    pub ns: u64,
    /// The guest's TSC.
    pub tsc: u64,
    /// Frequency of the guest's TSC, kHz; 0 if not known, which stops TSC deadlines.
    pub tsc_khz: u32,
}

/// What a vCPU's APIC is configured to be. Constant, or changed with [`LocalApic::configure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The x2APIC ID, which is the vCPU's ID; its low eight bits are the xAPIC ID after RESET.
    pub id: u32,
    /// This is the bootstrap processor.
    pub bsp: bool,
    /// CPUID offers x2APIC mode.
    pub x2apic: bool,
    /// CPUID offers the TSC-deadline timer.
    pub tsc_deadline: bool,
    /// There is a CMCI entry in the LVT (MCG_CAP.CMCI_P).
    pub cmci: bool,
    /// The performance entry of the LVT masks itself on delivery, as Intel's do.
    pub perf_masks_itself: bool,
    /// After INIT and RESET the BSP's LINT0 is open for the 8259 (KVM_X86_QUIRK_LINT0_REENABLED).
    pub lint0_reenabled: bool,
    /// The version register says that EOI broadcasts can be suppressed.
    pub directed_eoi_offered: bool,
    /// EOI broadcasts are suppressed if the guest asks for it.
    pub directed_eoi_honoured: bool,
    /// IDs are exchanged with user space in 32 bits (KVM_X2APIC_API_USE_32BIT_IDS).
    pub ids32: bool,
    /// In x2APIC mode the upper half of the ICR is at ICR2, as AMD's hardware has it, not in the
    /// word above the lower half, as Intel's.
    pub icr_split: bool,
    /// One cycle of the bus clock that drives the timer, ns; 0 counts as 1.
    pub bus_cycle_ns: u32,
    /// Periodic timers with a shorter period run at this one, ns.
    pub min_period_ns: u64,
}

impl Config {
    /// The in-tree module's defaults for the vCPU with ID `id`.
    pub const fn new(id: u32, bsp: bool) -> Self {
        Self {
            id,
            bsp,
            x2apic: true,
            tsc_deadline: true,
            cmci: false,
            perf_masks_itself: false,
            lint0_reenabled: true,
            directed_eoi_offered: false,
            directed_eoi_honoured: false,
            ids32: false,
            icr_split: true,
            bus_cycle_ns: 1,
            min_period_ns: 200_000,
        }
    }

    /// The number of LVT entries less one, as the version register has it.
    const fn max_lvt(&self) -> u32 {
        if self.cmci {
            6
        } else {
            5
        }
    }
}

/// Mode of an APIC. SDM: vol 3, 11.12.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Globally disabled.
    Disabled,
    /// xAPIC: registers in memory.
    XApic,
    /// x2APIC: registers in MSRs, 32-bit IDs.
    X2Apic,
}

impl Mode {
    /// The mode that IA32_APIC_BASE asks for; `None` for x2APIC without the enable bit.
    const fn of(base: u64) -> Option<Self> {
        match (base & base::ENABLE != 0, base & base::X2APIC != 0) {
            (false, false) => Some(Self::Disabled),
            (true, false) => Some(Self::XApic),
            (true, true) => Some(Self::X2Apic),
            (false, true) => None,
        }
    }
}

/// A general-protection fault with error code 0, or EINVAL if user space asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gp;

/// What an access means for the rest of the machine. The caller carries out all that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "the rest of the machine must learn of it"]
pub struct Effects {
    /// Deliver this.
    pub ipi: Option<Ipi>,
    /// An interrupt ended.
    pub eoi: Option<Eoi>,
    /// Set the timer.
    pub timer: Option<TimerOp>,
    /// Call [`LocalApic::publish`].
    pub publish: bool,
    /// An interrupt may have become deliverable: look at [`LocalApic::next_vector`] before entering.
    pub recheck: bool,
    /// The APIC became enabled: what waited for that (asynchronous page faults) may go.
    pub enabled: bool,
    /// The mode or the base address changed: hardware acceleration must follow.
    pub mode: bool,
}

impl Effects {
    /// No effects.
    pub const NONE: Self = Self {
        ipi: None,
        eoi: None,
        timer: None,
        publish: false,
        recheck: false,
        enabled: false,
        mode: false,
    };

    const PUBLISH: Self = Self {
        publish: true,
        ..Self::NONE
    };
}

/// The kinds of reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// Power-up or RESET.
    Power,
    /// INIT: the ID, the mode and the base address stay. SDM: vol 3, 11.4.7.3.
    Init,
}

/// A local APIC.
///
/// ```
/// use model::irqchip::lapic::{Config, LocalApic, Now, Reset};
/// use model::irqchip::pending::Pending;
/// use model::x86::apic::{reg, Trigger};
/// use core::sync::atomic::AtomicU32;
///
/// let page = Box::new([const { AtomicU32::new(0) }; 1024]);
/// let mailbox = Pending::new();
/// let mut apic = LocalApic::new(page, Config::new(0, true));
/// let _ = apic.reset(Reset::Power, &mailbox);
/// let effects = apic.write_reg(reg::SVR, 0x1ff, Now::default()).unwrap();
/// assert!(effects.publish);
///
/// let _ = mailbox.post(0x41, Trigger::Edge);
/// apic.pull(&mailbox);
/// assert_eq!(apic.next_vector(), Some(0x41));
/// apic.ack(0x41);
/// assert_eq!(apic.next_vector(), None);
/// assert_eq!(apic.eoi().unwrap().vector, 0x41);
/// ```
#[derive(Debug)]
pub struct LocalApic<P> {
    page: P,
    cfg: Config,
    /// IA32_APIC_BASE.
    base: u64,
    /// Enabled in the spurious-interrupt vector register. Kept beside the register because hardware
    /// may have written that before we hear of it.
    software_enabled: bool,
    timer: Timer,
    /// Errors not yet latched into ESR by a write to it.
    errors: u32,
    /// Words of the IRR that may have bits, see [`ApicPage::highest`].
    irr_hint: u8,
    /// The same of the ISR.
    isr_hint: u8,
    /// Hardware may set and clear IRR and ISR bits: the hints are void.
    accelerated: bool,
}

impl<P: Storage> LocalApic<P> {
    /// An APIC in its RESET state but for what [`LocalApic::reset`] does to the registers, which the
    /// caller runs next. `page` must be zero.
    pub fn new(page: P, cfg: Config) -> Self {
        Self {
            page,
            cfg,
            base: reset_base(&cfg),
            software_enabled: false,
            timer: Timer::new(),
            errors: 0,
            irr_hint: HINT_ALL,
            isr_hint: HINT_ALL,
            accelerated: false,
        }
    }

    /// The registers.
    #[inline]
    pub fn page(&self) -> ApicPage<'_> {
        ApicPage(&self.page)
    }

    /// The configuration.
    #[inline]
    pub fn config(&self) -> &Config {
        &self.cfg
    }

    /// Changes the configuration, after a change of CPUID, of MCG_CAP or of a capability.
    pub fn configure(&mut self, cfg: Config) {
        if cfg.cmci && !self.cfg.cmci {
            self.page().write(reg::LVT_CMCI, lvt::MASKED);
        }
        self.cfg = cfg;
        self.write_version();
    }

    /// Tells that hardware takes a share in IRR and ISR (AVIC, APICv), or no longer does.
    pub fn set_accelerated(&mut self, on: bool) {
        self.accelerated = on;
        self.irr_hint = HINT_ALL;
        self.isr_hint = HINT_ALL;
    }

    /// Has hardware a share in IRR and ISR?
    #[inline]
    pub fn is_accelerated(&self) -> bool {
        self.accelerated
    }

    /// IA32_APIC_BASE.
    #[inline]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// The mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        // The invalid combination never gets into `base`.
        Mode::of(self.base).unwrap_or(Mode::Disabled)
    }

    /// Enabled in IA32_APIC_BASE?
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.base & base::ENABLE != 0
    }

    /// Enabled in the spurious-interrupt vector register?
    #[inline]
    pub fn is_software_enabled(&self) -> bool {
        self.software_enabled
    }

    /// Guest-physical address of the register page.
    #[inline]
    pub fn window(&self) -> u64 {
        self.base & base::ADDRESS
    }

    /// Puts the registers into their state after `why`, and empties the mailbox of interrupts. The
    /// effects always publish and disarm the timer. SDM: vol 3, 11.4.7.
    pub fn reset(&mut self, why: Reset, mailbox: &Pending) -> Effects {
        if why == Reset::Power {
            self.base = reset_base(&self.cfg);
            self.write_id();
        }
        let _ = mailbox.take_vectors();
        self.write_version();
        self.errors = 0;
        self.software_enabled = false;
        let x2apic = self.mode() == Mode::X2Apic;
        let page = self.page();
        for entry in Lvt::ALL {
            page.write(entry.reg(), lvt::MASKED);
        }
        if !self.cfg.cmci {
            page.write(reg::LVT_CMCI, 0);
        }
        if self.cfg.bsp && self.cfg.lint0_reenabled {
            page.write(reg::LVT_LINT0, lvt::MODE);
        }
        for (register, value) in [
            (reg::DFR, DFR_FLAT),
            (reg::SVR, 0xff),
            (reg::TPR, 0),
            (reg::PPR, 0),
            (reg::ESR, 0),
            (reg::ICR, 0),
            (reg::ICR + 4, 0),
            (reg::ICR2, 0),
            (reg::TDCR, 0),
            (reg::TMICT, 0),
        ] {
            page.write(register, value);
        }
        if !x2apic {
            page.write(reg::LDR, 0);
        }
        page.clear_bank(Bank::Irr);
        page.clear_bank(Bank::Isr);
        page.clear_bank(Bank::Tmr);
        self.timer = Timer::new();
        self.set_accelerated(self.accelerated);
        Effects {
            timer: Some(TimerOp::Disarm),
            mode: why == Reset::Power,
            ..Effects::PUBLISH
        }
    }

    /// Writes IA32_APIC_BASE. `reserved` has the bits above the guest's physical address width. User
    /// space (`host`) may make any transition between valid modes; the guest may not go from x2APIC
    /// to xAPIC or from disabled to x2APIC (SDM: vol 3, 11.12.5).
    pub fn set_base(&mut self, value: u64, reserved: u64, host: bool) -> Result<Effects, Gp> {
        let old = self.base;
        if value == old {
            return Ok(Effects::NONE);
        }
        let no_x2apic = if self.cfg.x2apic { 0 } else { base::X2APIC };
        let new_mode = Mode::of(value).ok_or(Gp)?;
        if value & (reserved | base::RESERVED_LOW | no_x2apic) != 0 {
            return Err(Gp);
        }
        if !host {
            match (self.mode(), new_mode) {
                (Mode::X2Apic, Mode::XApic) | (Mode::Disabled, Mode::X2Apic) => return Err(Gp),
                _ => {}
            }
        }
        self.base = value;
        let changed = old ^ value;
        if changed & (base::ENABLE | base::X2APIC) == 0 {
            return Ok(Effects {
                mode: true,
                ..Effects::NONE
            });
        }
        // KVM: no register but the ID and what depends on it returns to its reset value, although
        // the SDM has disabling lose them all (vol 3, 11.4.3).
        self.write_id();
        if changed & base::X2APIC != 0 {
            self.change_format(new_mode);
        }
        Ok(Effects {
            enabled: changed & value & base::ENABLE != 0,
            mode: true,
            recheck: true,
            ..Effects::PUBLISH
        })
    }

    /// Lets senders know what they must know of this APIC; `census` is its VM's. Called after every
    /// access whose effects say so.
    pub fn publish(&self, to: &Published, census: &Census) {
        let page = self.page();
        let facts = published::Facts {
            mode: self.mode(),
            software_enabled: self.is_software_enabled(),
            xapic_id: (page.read(reg::ID) >> 24) as u8,
            ldr: page.read(reg::LDR),
            dfr: page.read(reg::DFR),
            lint0: page.read(reg::LVT_LINT0),
        };
        to.store(&facts, census);
    }

    /// Whether an interrupt of the 8259 pair gets through to this CPU: the APIC is disabled, or LINT0
    /// is open in ExtINT mode.
    pub fn accepts_pic(&self) -> bool {
        published::accepts_pic(self.is_enabled(), self.page().read(reg::LVT_LINT0))
    }

    /// The task priority class, as CR8 shows it.
    #[inline]
    pub fn cr8(&self) -> u8 {
        (self.page().read(reg::TPR) as u8) >> 4
    }

    /// Writes CR8; only the low four bits count.
    #[inline]
    pub fn set_cr8(&mut self, cr8: u8) -> Effects {
        self.set_tpr(cr8 << 4)
    }

    /// The ID register's content for the current mode.
    fn write_id(&self) {
        let id = match self.mode() {
            Mode::X2Apic => self.cfg.id,
            Mode::XApic | Mode::Disabled => self.cfg.id << 24,
        };
        self.page().write(reg::ID, id);
    }

    /// Entering or leaving x2APIC mode: what is not preserved besides the ID are the logical ID and the
    /// high half of the ICR. SDM: vol 3, 11.12.5.
    fn change_format(&self, mode: Mode) {
        let ldr = match mode {
            Mode::X2Apic => x2apic_ldr(self.cfg.id),
            Mode::XApic | Mode::Disabled => 0,
        };
        let page = self.page();
        page.write(reg::LDR, ldr);
        page.write(reg::ICR2, 0);
        page.write(reg::ICR + 4, 0);
    }

    fn write_version(&self) {
        let mut v = version::INTEGRATED | (self.cfg.max_lvt() << 16);
        if self.cfg.x2apic && self.cfg.directed_eoi_offered {
            v |= version::DIRECTED_EOI;
        }
        self.page().write(reg::VERSION, v);
    }
}

/// IA32_APIC_BASE after RESET.
fn reset_base(cfg: &Config) -> u64 {
    let bsp = if cfg.bsp { base::BSP } else { 0 };
    DEFAULT_BASE | base::ENABLE | bsp
}

#[cfg(test)]
#[path = "../../tests/irqchip/lapic/mod.rs"]
mod tests;
