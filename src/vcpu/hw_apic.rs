// SPDX-License-Identifier: GPL-2.0

//! A local APIC that hardware has a share in (APICv): it delivers what the IRR requests, and carries
//! out the guest's writes of the task priority and of EOI. It reads and writes most other registers
//! in the page; what a write means is ours to carry out.
//!
//! The registers are in a page that both reach. What is posted goes from the mailbox to the IRR as
//! without hardware; while the guest runs, hardware may do that, too.

use super::Cx;
use crate::backend::Backend;
use crate::mmu::apic;
use model::irqchip::lapic::Effects;
use model::irqchip::lapic::Mode;
use virt::vendor::VirtualApic;

impl<V: Backend> Cx<'_, '_, V> {
    /// The mode of the local APIC changed, or the hardware's state was reset, or user space keeps
    /// interrupts from the guest, or no longer. As long as it does, hardware must not deliver what
    /// the guest sends to itself, nor what is posted.
    pub(crate) fn update_virtual_apic(&mut self) {
        let Some(apic) = self.st.apic.as_ref().filter(|a| a.is_accelerated()) else {
            return;
        };
        let mode = match apic.mode() {
            _ if self.st.debug.blocks_interrupts() => VirtualApic::Off,
            Mode::Disabled => VirtualApic::Off,
            Mode::XApic => VirtualApic::XApic,
            Mode::X2Apic => VirtualApic::X2Apic,
        };
        let vcpu = self.vcpu;
        let mailbox = &vcpu.shared.pending;
        let posts = V::share_mailbox(self.l, mailbox);
        V::set_virtual_apic(self.l, mode);
        apic::follow(self);
        mailbox.set_hardware(posts && mode != VirtualApic::Off);
        self.update_eoi_exits();
    }

    /// Has the EOIs exit that somebody may wait for. A vector stays one of them: interrupts from
    /// before the IOAPIC was programmed anew may be in service.
    pub(crate) fn update_eoi_exits(&mut self) {
        if self.st.apic.as_ref().is_some_and(|a| a.is_accelerated()) {
            let now = self.vm.base.irq.eoi_vectors();
            for (all, now) in self.st.heard_eois.iter_mut().zip(now) {
                *all |= now;
            }
            V::set_eoi_exits(self.l, &self.st.heard_eois);
        }
    }

    /// Tells hardware what it has to deliver. Before each entry.
    #[inline]
    pub(crate) fn give_requests(&mut self) {
        if let Some(apic) = &mut self.st.apic {
            if apic.is_accelerated() {
                let requested = apic.highest_requested().unwrap_or(0);
                let in_service = apic.highest_in_service().unwrap_or(0);
                V::set_interrupt_status(self.l, requested, in_service);
            }
        }
    }

    /// The guest wrote the register at `offset` of the page, and what follows is left to us.
    pub(crate) fn register_written(&mut self, offset: u16) {
        let register = u32::from(offset) & !0xf;
        let now = self.now_for(register);
        if let Some(apic) = &mut self.st.apic {
            let e = apic.written(register, now);
            self.apply(&e);
        }
    }

    /// Hardware has carried out an EOI that somebody waits for.
    pub(crate) fn ended_by_hardware(&mut self, vector: u8) {
        let shared = self.vcpu.shared.clone();
        if let Some(apic) = &mut self.st.apic {
            let eoi = apic.eoi_accelerated(vector, &shared.pending);
            self.apply(&Effects {
                eoi: Some(eoi),
                ..Effects::NONE
            });
        }
    }
}
