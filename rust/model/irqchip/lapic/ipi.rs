// SPDX-License-Identifier: GPL-2.0

//! Inter-processor interrupts: the command register at the sender, acceptance at the destination.

use super::published::Published;
use super::published::Sender;
use super::Effects;
use super::Gp;
use super::LocalApic;
use super::Mode;
use super::Storage;
use crate::irqchip::pending::Pending;
use crate::irqchip::pending::Wake;
use crate::x86::apic::esr;
use crate::x86::apic::icr;
use crate::x86::apic::reg;
use crate::x86::apic::Delivery;
use crate::x86::apic::Ipi;
use crate::x86::apic::Message;
use crate::x86::apic::Trigger;
use crate::x86::apic::FIRST_LEGAL_VECTOR;

impl<P: Storage> LocalApic<P> {
    /// Writes the 64-bit interrupt command register: MSR 0x830 in x2APIC mode (SDM: vol 3, 11.12.9),
    /// in other modes Hyper-V's MSR, whose destination is where the xAPIC has it.
    #[inline]
    pub fn write_icr(&mut self, value: u64) -> Result<Effects, Gp> {
        if value & icr::X2APIC_RESERVED != 0 {
            return Err(Gp);
        }
        // KVM: Intel ignores the busy bit, AMD demands that it is 0; it is never set here.
        let value = value & !u64::from(icr::BUSY);
        let (low, high) = (value as u32, (value >> 32) as u32);
        let page = self.page();
        page.write(reg::ICR, low);
        page.write(self.icr_high(), high);
        let dest = match self.mode() {
            Mode::X2Apic => high,
            Mode::XApic | Mode::Disabled => high >> 24,
        };
        Ok(self.send(Ipi::from_icr(low, dest)))
    }

    /// The 64-bit interrupt command register.
    pub fn icr(&self) -> u64 {
        let page = self.page();
        u64::from(page.read(reg::ICR)) | (u64::from(page.read(self.icr_high())) << 32)
    }

    /// Where the upper half of the 64-bit ICR is in the page.
    pub(super) fn icr_high(&self) -> u32 {
        if self.cfg.icr_split || self.mode() != Mode::X2Apic {
            reg::ICR2
        } else {
            reg::ICR + 4
        }
    }

    /// Writes the low half of the xAPIC interrupt command register, which sends. There is no delay,
    /// so it never reads busy. SDM: vol 3, 11.6.1.
    pub(super) fn write_xapic_icr(&mut self, value: u32) -> Effects {
        let low = value & !icr::BUSY;
        let page = self.page();
        page.write(reg::ICR, low);
        let dest = page.read(reg::ICR2) >> 24;
        self.send(Ipi::from_icr(low, dest))
    }

    /// Writes the x2APIC self-IPI register. SDM: vol 3, 11.12.11.
    pub(super) fn write_self_ipi(&mut self, value: u32) -> Result<Effects, Gp> {
        match u8::try_from(value) {
            Ok(vector) => Ok(self.send(Ipi::to_self(vector))),
            Err(_) => Err(Gp),
        }
    }

    /// This APIC as the sender of an IPI; `vcpu` is the index of its vCPU.
    pub fn sender(&self, vcpu: u32) -> Sender {
        Sender {
            vcpu,
            x2apic: self.mode() == Mode::X2Apic,
        }
    }

    fn send(&mut self, ipi: Ipi) -> Effects {
        let m = &ipi.message;
        if matches!(m.delivery, Delivery::Fixed | Delivery::LowestPriority)
            && m.vector < FIRST_LEGAL_VECTOR
        {
            self.error(esr::SEND_ILLEGAL_VECTOR);
            return Effects {
                recheck: true,
                ..Effects::NONE
            };
        }
        Effects {
            ipi: Some(ipi),
            ..Effects::NONE
        }
    }
}

/// What a message becomes at a destination that accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the message is not delivered yet"]
pub enum Post {
    /// An interrupt. Hardware may be able to post it without the mailbox's help.
    Vector(u8, Trigger),
    /// An NMI.
    Nmi,
    /// An INIT.
    Init,
    /// A start-up IPI.
    Sipi(u8),
    /// A system management interrupt.
    Smi,
    /// A paravirtual kick.
    Unhalt,
}

impl Post {
    /// What `m` becomes at an APIC that it addresses; `None` if that does not accept it.
    #[inline]
    pub fn of(m: &Message, to: &Published) -> Option<Self> {
        match m.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                if m.trigger.is_level() && !m.assert || !to.accepts_fixed() {
                    return None;
                }
                if m.delivery == Delivery::LowestPriority {
                    to.count_arbitration();
                }
                Some(Self::Vector(m.vector, m.trigger))
            }
            Delivery::Smi => Some(Self::Smi),
            Delivery::Nmi => Some(Self::Nmi),
            // The INIT level de-assert of old systems has no effect. SDM: vol 3, 11.6.1.
            Delivery::Init if m.trigger.is_level() && !m.assert => None,
            Delivery::Init => Some(Self::Init),
            Delivery::Startup => Some(Self::Sipi(m.vector)),
            Delivery::RemoteRead => Some(Self::Unhalt),
            // Only LINT0 and the IOAPIC could ask for it, and the 8259 has its own way to the CPU.
            Delivery::ExtInt => None,
        }
    }

    /// Puts it into the destination's mailbox.
    #[inline]
    pub fn into_mailbox(self, mailbox: &Pending) -> Wake {
        match self {
            Self::Vector(vector, trigger) => mailbox.post(vector, trigger),
            Self::Nmi => mailbox.post_nmi(),
            Self::Init => mailbox.post_init(),
            Self::Sipi(vector) => mailbox.post_sipi(vector),
            Self::Smi => mailbox.post_smi(),
            Self::Unhalt => mailbox.post_unhalt(),
        }
    }
}
