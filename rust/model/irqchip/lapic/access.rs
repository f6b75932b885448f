// SPDX-License-Identifier: GPL-2.0

//! Register reads and writes: in memory as an xAPIC, in MSRs as an x2APIC.
//!
//! SDM: vol 3, 11.4.1 (access rules), table 11-1 (registers), 11.12.1.2 (x2APIC MSRs).

use super::timer::Divider;
use super::Effects;
use super::Gp;
use super::LocalApic;
use super::Mode;
use super::Now;
use super::Storage;
use crate::x86::apic::lvt;
use crate::x86::apic::reg;
use crate::x86::apic::svr;
use crate::x86::apic::version;
use crate::x86::apic::Delivery;
use crate::x86::apic::Trigger;
use crate::x86::apic::X2APIC_MSR_FIRST;
use crate::x86::apic::X2APIC_MSR_LAST;

/// An entry of the local vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lvt {
    /// The timer.
    Timer,
    /// The thermal sensor.
    Thermal,
    /// Performance counter overflow.
    Perf,
    /// Pin LINT0.
    Lint0,
    /// Pin LINT1.
    Lint1,
    /// An error of the APIC.
    Error,
    /// A corrected machine check.
    Cmci,
}

/// Bits of an LVT entry that every source has.
const COMMON: u32 = lvt::MASKED | lvt::SEND_PENDING | lvt::VECTOR;
/// The same for a pin.
const PIN: u32 = COMMON | lvt::MODE | lvt::ACTIVE_LOW | lvt::REMOTE_IRR | lvt::LEVEL;

impl Lvt {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Timer,
        Self::Thermal,
        Self::Perf,
        Self::Lint0,
        Self::Lint1,
        Self::Error,
        Self::Cmci,
    ];

    /// Offset of the entry.
    #[inline]
    pub const fn reg(self) -> u32 {
        match self {
            Self::Timer => reg::LVT_TIMER,
            Self::Thermal => reg::LVT_THERMAL,
            Self::Perf => reg::LVT_PERF,
            Self::Lint0 => reg::LVT_LINT0,
            Self::Lint1 => reg::LVT_LINT1,
            Self::Error => reg::LVT_ERROR,
            Self::Cmci => reg::LVT_CMCI,
        }
    }

    /// The entry at an offset.
    #[inline]
    pub const fn at(offset: u32) -> Option<Self> {
        Some(match offset {
            reg::LVT_TIMER => Self::Timer,
            reg::LVT_THERMAL => Self::Thermal,
            reg::LVT_PERF => Self::Perf,
            reg::LVT_LINT0 => Self::Lint0,
            reg::LVT_LINT1 => Self::Lint1,
            reg::LVT_ERROR => Self::Error,
            reg::LVT_CMCI => Self::Cmci,
            _ => return None,
        })
    }

    /// The bits that can be set. SDM: vol 3, figure 11-8.
    pub(super) const fn writable(self, tsc_deadline: bool) -> u32 {
        match self {
            Self::Timer if tsc_deadline => COMMON | lvt::TIMER_MODE,
            Self::Timer => COMMON | lvt::TIMER_PERIODIC,
            Self::Thermal | Self::Perf | Self::Cmci => COMMON | lvt::MODE,
            Self::Lint0 | Self::Lint1 => PIN,
            Self::Error => COMMON,
        }
    }
}

/// What an LVT entry made of its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "events other than interrupts are the caller's to deliver"]
pub enum Raised {
    /// Nothing: masked, or the APIC is disabled.
    Nothing,
    /// An interrupt, which is in the IRR now.
    Interrupt,
    /// An NMI.
    Nmi,
    /// A system management interrupt.
    Smi,
    /// An INIT.
    Init,
}

/// A register, or `count` in a row, in a mask with a bit for each 16 bytes.
const fn mask(first: u32, count: u32) -> u64 {
    (!u64::MAX.wrapping_shl(count)).wrapping_shl(first >> 4)
}

/// Registers that can be read in both modes.
const READABLE: u64 = mask(reg::ID, 2)
    | mask(reg::TPR, 1)
    | mask(reg::PPR, 1)
    | mask(reg::LDR, 1)
    | mask(reg::SVR, 1)
    | mask(reg::ISR, 8)
    | mask(reg::TMR, 8)
    | mask(reg::IRR, 8)
    | mask(reg::ESR, 1)
    | mask(reg::ICR, 1)
    | mask(reg::LVT_TIMER, 6)
    | mask(reg::TMICT, 2)
    | mask(reg::TDCR, 1);

impl<P: Storage> LocalApic<P> {
    /// Reads from the register page in xAPIC mode: `data.len()` bytes at `offset`. Reads that leave
    /// a register's four bytes, and reads of what is not there, give zeros.
    pub fn mmio_read(&mut self, offset: u32, data: &mut [u8], now: Now) {
        data.fill(0);
        let first = (offset & 0xf) as usize;
        let Some(room) = 4usize.checked_sub(first) else {
            return;
        };
        if data.len() > room {
            return;
        }
        if let Ok(value) = self.read_reg(offset & !0xf, now) {
            for (to, from) in data.iter_mut().zip(value.to_le_bytes().iter().skip(first)) {
                *to = *from;
            }
        }
    }

    /// Writes to the register page in xAPIC mode. Only aligned four-byte writes count.
    pub fn mmio_write(&mut self, offset: u32, data: &[u8], now: Now) -> Effects {
        match <[u8; 4]>::try_from(data) {
            Ok(bytes) if offset & 0xf == 0 => {
                let value = u32::from_le_bytes(bytes);
                self.write_reg(offset, value, now).unwrap_or(Effects::NONE)
            }
            _ => Effects::NONE,
        }
    }

    /// Does an access to the register at `offset` depend on the time? To others any may be given.
    #[inline]
    pub const fn needs_time(offset: u32) -> bool {
        matches!(offset & !0xf, reg::TMICT | reg::TMCCT | reg::TDCR)
    }

    /// Reads an x2APIC MSR, 0x800 to 0x8ff. The time matters only to the current count.
    pub fn read_msr(&mut self, index: u32, now: Now) -> Result<u64, Gp> {
        match self.msr_offset(index)? {
            reg::ICR => Ok(self.icr()),
            offset => Ok(u64::from(self.read_reg(offset, now)?)),
        }
    }

    /// Writes an x2APIC MSR, 0x800 to 0x8ff.
    pub fn write_msr(&mut self, index: u32, value: u64, now: Now) -> Result<Effects, Gp> {
        match self.msr_offset(index)? {
            reg::ICR => self.write_icr(value),
            offset => self.write_reg(offset, u32::try_from(value).map_err(|_| Gp)?, now),
        }
    }

    /// What follows from a register write that hardware has carried out in the page (AVIC, APICv).
    pub fn written(&mut self, offset: u32, now: Now) -> Effects {
        let result = if offset == reg::ICR && self.mode() == Mode::X2Apic {
            self.write_icr(self.icr())
        } else {
            self.write_reg(offset, self.page().read(offset), now)
        };
        result.unwrap_or(Effects::NONE)
    }

    /// The registers that can be read in this mode, bit `n` for the one at offset `16 * n`.
    pub fn readable(&self) -> u64 {
        let mut readable = READABLE;
        if self.cfg.cmci {
            readable |= mask(reg::LVT_CMCI, 1);
        }
        if self.mode() != Mode::X2Apic {
            readable |= mask(reg::APR, 1) | mask(reg::DFR, 1) | mask(reg::ICR2, 1);
        }
        readable
    }

    /// Reads the register at `offset`, a multiple of 16. `Err` if there is none to read.
    pub fn read_reg(&mut self, offset: u32, now: Now) -> Result<u32, Gp> {
        if offset & 0xf != 0
            || offset > reg::SELF_IPI
            || (self.readable() >> (offset >> 4)) & 1 == 0
        {
            return Err(Gp);
        }
        Ok(match offset {
            // Not on processors of this age. SDM: vol 3, 11.6.2.4.
            reg::APR => 0,
            reg::PPR => {
                self.update_ppr();
                self.page().read(reg::PPR)
            }
            reg::TMCCT => self.current_count(now),
            _ => self.page().read(offset),
        })
    }

    /// Writes the register at `offset`. `Err` if there is none to write, or not with this value.
    pub fn write_reg(&mut self, offset: u32, value: u32, now: Now) -> Result<Effects, Gp> {
        let x2apic = self.mode() == Mode::X2Apic;
        let page = self.page();
        match offset {
            reg::TPR => Ok(self.set_tpr(value as u8)),
            reg::EOI if x2apic && value != 0 => Err(Gp),
            reg::EOI => Ok(Effects {
                eoi: self.eoi(),
                recheck: true,
                ..Effects::NONE
            }),
            reg::ICR if !x2apic => Ok(self.write_xapic_icr(value)),
            reg::SELF_IPI if x2apic => self.write_self_ipi(value),
            reg::TMICT => Ok(self.write_initial_count(value, now)),
            reg::TDCR => Ok(self.write_divider(value, now)),
            reg::SVR => Ok(self.write_svr(value)),
            reg::ESR if x2apic && value != 0 => Err(Gp),
            reg::ESR => {
                page.write(reg::ESR, self.errors);
                self.errors = 0;
                Ok(Effects::NONE)
            }
            reg::ID if !x2apic => {
                page.write(reg::ID, value & 0xff00_0000);
                Ok(Effects::PUBLISH)
            }
            reg::LDR if !x2apic => {
                page.write(reg::LDR, value & 0xff00_0000);
                Ok(Effects::PUBLISH)
            }
            reg::DFR if !x2apic => {
                page.write(reg::DFR, value | 0x0fff_ffff);
                Ok(Effects::PUBLISH)
            }
            reg::ICR2 if !x2apic => {
                page.write(reg::ICR2, value & 0xff00_0000);
                Ok(Effects::NONE)
            }
            _ => match Lvt::at(offset) {
                Some(Lvt::Cmci) if !self.cfg.cmci => Err(Gp),
                Some(entry) => Ok(self.write_lvt(entry, value)),
                None => Err(Gp),
            },
        }
    }

    /// IA32_TSC_DEADLINE: 0 unless the timer is in that mode.
    pub fn tsc_deadline(&self) -> u64 {
        if self.is_enabled() {
            self.timer.deadline()
        } else {
            0
        }
    }

    /// Writes IA32_TSC_DEADLINE. Ignored unless the timer is in that mode. SDM: vol 3, 11.5.4.1.
    #[inline]
    pub fn set_tsc_deadline(&mut self, value: u64, now: Now) -> Effects {
        Effects {
            timer: if self.is_enabled() {
                self.timer.set_deadline(value, now)
            } else {
                None
            },
            ..Effects::NONE
        }
    }

    /// A local source of interrupts asserts its LVT entry.
    pub fn raise(&mut self, source: Lvt) -> Raised {
        let entry = self.page().read(source.reg());
        if !self.is_enabled() || entry & lvt::MASKED != 0 {
            return Raised::Nothing;
        }
        let delivery = match source {
            // These have no delivery mode field.
            Lvt::Timer | Lvt::Error => Delivery::Fixed,
            _ => Delivery::from_bits(entry >> 8),
        };
        let trigger = Trigger::from_level(entry & lvt::LEVEL != 0);
        let raised = match delivery {
            Delivery::Fixed => {
                if self.request((entry & lvt::VECTOR) as u8, trigger) {
                    Raised::Interrupt
                } else {
                    Raised::Nothing
                }
            }
            Delivery::Nmi => Raised::Nmi,
            Delivery::Smi => Raised::Smi,
            Delivery::Init => Raised::Init,
            // The 8259's interrupts do not come this way; the others are reserved.
            Delivery::ExtInt
            | Delivery::LowestPriority
            | Delivery::RemoteRead
            | Delivery::Startup => Raised::Nothing,
        };
        if source == Lvt::Perf && self.cfg.perf_masks_itself && raised != Raised::Nothing {
            self.page().write(reg::LVT_PERF, entry | lvt::MASKED);
        }
        raised
    }

    fn msr_offset(&self, index: u32) -> Result<u32, Gp> {
        if self.mode() != Mode::X2Apic || !(X2APIC_MSR_FIRST..=X2APIC_MSR_LAST).contains(&index) {
            return Err(Gp);
        }
        Ok((index & 0xff) << 4)
    }

    fn write_lvt(&mut self, entry: Lvt, value: u32) -> Effects {
        let mut value = value & entry.writable(self.cfg.tsc_deadline);
        if !self.software_enabled {
            value |= lvt::MASKED;
        }
        self.page().write(entry.reg(), value);
        Effects {
            timer: if entry == Lvt::Timer {
                self.update_timer_mode()
            } else {
                None
            },
            publish: entry == Lvt::Lint0,
            ..Effects::NONE
        }
    }

    /// SDM: vol 3, 11.4.7.2: software disabling masks all LVT entries.
    fn write_svr(&mut self, value: u32) -> Effects {
        let page = self.page();
        let mut writable = svr::WRITABLE;
        if page.read(reg::VERSION) & version::DIRECTED_EOI != 0 {
            writable |= svr::DIRECTED_EOI;
        }
        page.write(reg::SVR, value & writable);
        let enable = value & svr::ENABLE != 0;
        if !enable {
            for entry in Lvt::ALL {
                if entry != Lvt::Cmci || self.cfg.cmci {
                    page.write(entry.reg(), page.read(entry.reg()) | lvt::MASKED);
                }
            }
        }
        let changed = enable != self.software_enabled;
        self.software_enabled = enable;
        Effects {
            publish: true,
            enabled: changed && enable,
            ..Effects::NONE
        }
    }

    fn write_initial_count(&mut self, value: u32, now: Now) -> Effects {
        let timer = self
            .timer
            .set_count(value, self.bus_cycle(), self.cfg.min_period_ns, now);
        if timer.is_some() {
            self.page().write(reg::TMICT, value);
        } else {
            // Ignored in TSC-deadline mode; hardware may have written it.
            self.page().write(reg::TMICT, 0);
        }
        Effects {
            timer,
            ..Effects::NONE
        }
    }

    fn write_divider(&mut self, value: u32, now: Now) -> Effects {
        self.page().write(reg::TDCR, value & 0xb);
        let count = self.page().read(reg::TMICT);
        let divider = Divider::from_tdcr(value);
        Effects {
            timer: self.timer.set_divider(
                divider,
                count,
                self.bus_cycle(),
                self.cfg.min_period_ns,
                now,
            ),
            ..Effects::NONE
        }
    }

    /// Follows the mode field of the timer's LVT entry.
    pub(super) fn update_timer_mode(&mut self) -> Option<super::TimerOp> {
        let entry = self.page().read(reg::LVT_TIMER);
        let op = self.timer.set_mode(entry, self.cfg.min_period_ns);
        if op.is_some() {
            self.page().write(reg::TMICT, 0);
        }
        op
    }

    /// One cycle of the timer's clock before division, ns.
    pub(super) fn bus_cycle(&self) -> u64 {
        u64::from(self.cfg.bus_cycle_ns.max(1))
    }
}
