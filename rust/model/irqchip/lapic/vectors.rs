// SPDX-License-Identifier: GPL-2.0

//! IRR, ISR, TMR and the priorities: the way of an interrupt from the mailbox to its end.
//!
//! An interrupt is deliverable if its class (the upper four bits of its vector) exceeds the class of
//! the processor priority, which is the higher of the task priority and of the highest vector in
//! service. SDM: vol 3, 11.8.

use super::regs::hint_bit;
use super::regs::Bank;
use super::regs::HINT_ALL;
use super::Effects;
use super::LocalApic;
use super::Lvt;
use super::Storage;
use crate::irqchip::pending::Pending;
use crate::irqchip::pending::Vectors;
use crate::x86::apic::esr;
use crate::x86::apic::lvt;
use crate::x86::apic::reg;
use crate::x86::apic::svr;
use crate::x86::apic::Trigger;
use crate::x86::apic::FIRST_LEGAL_VECTOR;
use core::sync::atomic::Ordering::Relaxed;

/// The end of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an IOAPIC or user space may wait for it"]
pub struct Eoi {
    /// Its vector.
    pub vector: u8,
    /// It was level-triggered: the IOAPICs must hear of it, unless `suppressed`.
    pub level: bool,
    /// The guest does not want EOIs broadcast, and tells the IOAPIC itself. SDM: vol 3, 11.8.5.
    pub suppressed: bool,
}

impl<P: Storage> LocalApic<P> {
    /// Moves posted interrupts into the IRR. Returns true if there were any. To be called before
    /// [`LocalApic::next_vector`], after [`Pending::work`] or a kick said that there are vectors.
    pub fn pull(&mut self, mailbox: &Pending) -> bool {
        match mailbox.take_vectors() {
            // Posted before the APIC was disabled.
            Some(_) if !self.is_enabled() => false,
            Some(v) => {
                self.request_all(&v);
                true
            }
            None => false,
        }
    }

    fn request_all(&mut self, v: &Vectors) {
        let page = self.page();
        let mut hint = 0;
        let mut illegal = false;
        for (i, (irr, level)) in (0u32..).zip(v.irr.iter().zip(&v.level)) {
            for half in 0..2u32 {
                let shift = half << 5;
                let mut new = (irr >> shift) as u32;
                let level = (level >> shift) as u32;
                let index = (i << 1) | half;
                if index == 0 {
                    let mask = (1 << FIRST_LEGAL_VECTOR) - 1;
                    illegal = new & mask != 0;
                    new &= !mask;
                }
                if new == 0 {
                    continue;
                }
                let tmr = page.bank_word(Bank::Tmr, index);
                let wrong = (tmr.load(Relaxed) ^ level) & new;
                if wrong & level != 0 {
                    tmr.fetch_or(wrong & level, Relaxed);
                }
                if wrong & !level != 0 {
                    tmr.fetch_and(!(wrong & !level), Relaxed);
                }
                page.bank_word(Bank::Irr, index).fetch_or(new, Relaxed);
                hint |= 1u8 << (index & 7);
            }
        }
        self.irr_hint |= hint;
        if illegal {
            self.error(esr::RECEIVE_ILLEGAL_VECTOR);
        }
    }

    /// Requests an interrupt that comes from this CPU itself: a self-IPI or an LVT entry. Returns
    /// false if the APIC does not accept it.
    pub fn request(&mut self, vector: u8, trigger: Trigger) -> bool {
        if !self.is_enabled() || !self.software_enabled {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.error(esr::RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        self.request_legal(vector, trigger);
        true
    }

    fn request_legal(&mut self, vector: u8, trigger: Trigger) {
        let page = self.page();
        if page.test(Bank::Tmr, vector) != trigger.is_level() {
            if trigger.is_level() {
                page.set(Bank::Tmr, vector);
            } else {
                page.clear(Bank::Tmr, vector);
            }
        }
        page.set(Bank::Irr, vector);
        self.irr_hint |= hint_bit(vector);
    }

    /// Records an error for the ESR, and interrupts if the error entry of the LVT is open. SDM: vol
    /// 3, 11.5.3.
    pub(super) fn error(&mut self, bits: u32) {
        let new = bits & !self.errors;
        self.errors |= bits;
        let entry = self.page().read(Lvt::Error.reg());
        let vector = (entry & lvt::VECTOR) as u8;
        if new != 0 && entry & lvt::MASKED == 0 && vector >= FIRST_LEGAL_VECTOR {
            self.request_legal(vector, Trigger::Edge);
        }
    }

    /// The interrupt to deliver next, if any is deliverable now.
    #[inline]
    pub fn next_vector(&mut self) -> Option<u8> {
        if !self.is_enabled() {
            return None;
        }
        if self.accelerated {
            self.update_ppr();
        }
        let vector = self.highest_requested()?;
        (u32::from(vector & 0xf0) > self.page().read(reg::PPR)).then_some(vector)
    }

    /// Is the IRR known to be empty without looking at it?
    #[inline]
    pub const fn is_quiet(&self) -> bool {
        !self.accelerated && self.irr_hint == 0
    }

    /// Is the ISR known to be empty without looking at it?
    #[inline]
    pub const fn serves_none(&self) -> bool {
        !self.accelerated && self.isr_hint == 0
    }

    /// The highest vector in the IRR, deliverable or not. RVI on APICv.
    #[inline]
    pub fn highest_requested(&mut self) -> Option<u8> {
        let mut hint = if self.accelerated {
            HINT_ALL
        } else {
            self.irr_hint
        };
        let vector = self.page().highest(Bank::Irr, &mut hint);
        self.irr_hint = hint;
        vector
    }

    /// The highest vector in service. SVI on APICv.
    #[inline]
    pub fn highest_in_service(&mut self) -> Option<u8> {
        let mut hint = if self.accelerated {
            HINT_ALL
        } else {
            self.isr_hint
        };
        let vector = self.page().highest(Bank::Isr, &mut hint);
        self.isr_hint = hint;
        vector
    }

    /// Is `vector` requested or in service? An IOAPIC whose routes change must still hear its EOI.
    pub fn is_pending(&self, vector: u8) -> bool {
        self.page().test(Bank::Irr, vector) || self.page().test(Bank::Isr, vector)
    }

    /// The CPU takes `vector`, which [`LocalApic::next_vector`] returned: from now on it is in service.
    #[inline]
    pub fn ack(&mut self, vector: u8) {
        let page = self.page();
        page.clear(Bank::Irr, vector);
        page.set(Bank::Isr, vector);
        self.isr_hint |= hint_bit(vector);
        self.update_ppr();
    }

    /// Undoes [`LocalApic::ack`] for an interrupt whose delivery did not get to its end: it is
    /// requested again. False, and nothing changes, if it is not the highest in service.
    pub fn unack(&mut self, vector: u8) -> bool {
        if self.highest_in_service() != Some(vector) {
            return false;
        }
        let page = self.page();
        page.clear(Bank::Isr, vector);
        page.set(Bank::Irr, vector);
        self.irr_hint |= hint_bit(vector);
        self.update_ppr();
        true
    }

    /// Ends the highest interrupt in service; `None` if there is none. Another one may be
    /// deliverable then.
    #[inline]
    pub fn eoi(&mut self) -> Option<Eoi> {
        let vector = self.highest_in_service()?;
        self.page().clear(Bank::Isr, vector);
        self.update_ppr();
        Some(self.ended(vector))
    }

    /// What follows from an EOI that hardware has carried out. Its trigger mode may still be in the
    /// mailbox if hardware also moved the request from there to the IRR.
    pub fn eoi_accelerated(&mut self, vector: u8, mailbox: &Pending) -> Eoi {
        if mailbox.is_level(vector) {
            self.page().set(Bank::Tmr, vector);
        } else {
            self.page().clear(Bank::Tmr, vector);
        }
        self.ended(vector)
    }

    fn ended(&self, vector: u8) -> Eoi {
        Eoi {
            vector,
            level: self.page().test(Bank::Tmr, vector),
            suppressed: self.cfg.directed_eoi_honoured
                && self.page().read(reg::SVR) & svr::DIRECTED_EOI != 0,
        }
    }

    /// Sets the task priority.
    #[inline]
    pub fn set_tpr(&mut self, tpr: u8) -> Effects {
        let page = self.page();
        let old = page.read(reg::PPR);
        page.write(reg::TPR, u32::from(tpr));
        self.update_ppr();
        let lowered = self.page().read(reg::PPR) < old;
        Effects {
            recheck: lowered && self.next_vector().is_some(),
            ..Effects::NONE
        }
    }

    /// The interrupt whose end the guest may signal through PV EOI, without an exit: there is
    /// nothing that its end would let through, and no IOAPIC waits for it because of its trigger
    /// mode. The caller asks the IOAPIC whether it wants EOIs of that vector nevertheless.
    ///
    /// None where hardware delivers interrupts: it ends them without an exit, and would go by the
    /// priority of one that was ended behind its back.
    pub fn pv_eoi_candidate(&mut self) -> Option<u8> {
        if self.accelerated || self.highest_requested().is_some() {
            return None;
        }
        let vector = self.highest_in_service()?;
        (!self.page().test(Bank::Tmr, vector)).then_some(vector)
    }

    /// Takes the task priority over from the word that a guest with KVM_SET_VAPIC_ADDR writes.
    pub fn sync_from_vapic(&mut self, word: u32) -> Effects {
        self.set_tpr(word as u8)
    }

    /// That word: the task priority, the class in service, and the highest request.
    pub fn vapic_word(&mut self) -> u32 {
        let tpr = self.page().read(reg::TPR) & 0xff;
        let irr = self.highest_requested().unwrap_or(0);
        let isr = self.highest_in_service().unwrap_or(0);
        tpr | (u32::from(isr & 0xf0) << 8) | (u32::from(irr) << 24)
    }

    /// Brings the processor priority up to date. SDM: vol 3, 11.8.3.1.
    pub(super) fn update_ppr(&mut self) {
        let isr = u32::from(self.highest_in_service().unwrap_or(0) & 0xf0);
        let page = self.page();
        let tpr = page.read(reg::TPR) & 0xff;
        // The class in service has no lower bits, so the greater class is the greater number.
        page.write(reg::PPR, tpr.max(isr));
    }
}
