// SPDX-License-Identifier: GPL-2.0

//! The local APIC in hardware: virtual interrupt delivery, virtual APIC registers and posted
//! interrupts (`SDM: vol 3, chapter 30`).
//!
//! The virtual-APIC page is the page of the local APIC's registers. Software sets a bit in its IRR and
//! says which the highest is; hardware delivers it when the guest can take it, and carries out what the
//! guest does to the task priority and to EOI. EOIs of vectors that an IOAPIC may wait for exit
//! afterwards.
//!
//! In x2APIC mode the registers are MSRs, some of which the MSR bitmap opens. In xAPIC mode they are
//! memory: hardware knows accesses to them by the host-physical address, which is that of a page with
//! nothing in it that all vCPUs of the VM share. Reads are carried out on the virtual-APIC page, and
//! so are writes, after which it exits unless it knows itself what follows.
//!
//! While the guest runs, others set bits in the descriptor that its mailbox begins with, and send an
//! interrupt that hardware takes for the order to look there.

use super::vcpu::Vcpu;
use super::vmcs;
use crate::vendor::MsrAccess;
use crate::vendor::Trap;
use crate::vendor::VirtualApic;
use host::page::HwPage;
use host::page::PageOf;
use kernel::sync::Arc;
use model::irqchip::pending::Pending;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc2;
use model::vmx::field;
use model::x86::apic::reg;

/// The first MSR of x2APIC mode; the others follow in the order of the registers.
const X2APIC_MSR: u32 = 0x800;

/// Registers that can be read without an exit: those that do not change by themselves. The current
/// count of the timer does, and the interrupt command has another layout in the page.
const READABLE: [u32; 5] = [reg::ID, reg::VERSION, reg::TPR, reg::LDR, reg::SVR];

const fn msr_of(register: u32) -> u32 {
    X2APIC_MSR + (register >> 4)
}

impl Vcpu {
    /// The virtual-APIC page, for the local APIC to have its registers there; `None` if hardware has
    /// no share in them.
    pub(super) fn share_apic_page(&mut self) -> Option<Arc<HwPage>> {
        if !self.m.cfg.apicv {
            return None;
        }
        self.apic_shared = true;
        Some(self.vapic.clone())
    }

    /// Lets others post into the mailbox while the guest runs; false if hardware does not look there.
    pub(super) fn share_mailbox(&mut self, mailbox: &Arc<PageOf<Pending>>) -> bool {
        if !self.apic_shared || !self.m.cfg.pin(pin::POSTED_INTERRUPTS) {
            return false;
        }
        vmcs::write(field::POSTED_INTR_DESC, mailbox.hw_pa());
        vmcs::write(field::POSTED_INTR_VECTOR, host::kick::NOTIFICATION);
        self.mailbox = Some(mailbox.clone());
        true
    }

    /// Follows the mode of the local APIC.
    pub(super) fn set_virtual_apic(&mut self, mode: VirtualApic) {
        if !self.apic_shared {
            return;
        }
        const BOTH: u32 = proc2::APIC_REGISTER_VIRT | proc2::VIRT_INTR_DELIVERY;
        const ALL: u32 = BOTH | proc2::X2APIC_MODE | proc2::APIC_ACCESSES;
        let x2apic = mode == VirtualApic::X2Apic;
        let on = match mode {
            VirtualApic::Off => 0,
            VirtualApic::XApic => BOTH | self.m.cfg.proc2 & proc2::APIC_ACCESSES,
            VirtualApic::X2Apic => BOTH | proc2::X2APIC_MODE,
        };
        let new = self.proc2 & !ALL | on;
        if (self.proc2 ^ new) & proc2::APIC_ACCESSES != 0 {
            // Translations may remember whether the page was the APIC's (`SDM: vol 3, 30.4.5`).
            self.tlb.forget();
            self.flush_linear = true;
        }
        self.set_proc2(new);
        let posted = if on != 0 && self.mailbox.is_some() {
            pin::POSTED_INTERRUPTS
        } else {
            0
        };
        self.set_pin(self.pin & !pin::POSTED_INTERRUPTS | posted);
        self.set_trap(Trap::Cr8Write, false);
        self.open_x2apic(x2apic);
    }

    /// Lets the guest at the MSRs of x2APIC mode that hardware redirects to the page, or at none.
    pub(super) fn open_x2apic(&self, x2apic: bool) {
        for r in READABLE {
            self.msr_map.set(
                msr_of(r),
                MsrAccess {
                    read: x2apic,
                    write: false,
                },
            );
        }
        let both = MsrAccess {
            read: x2apic,
            write: x2apic,
        };
        let write = MsrAccess {
            read: false,
            write: x2apic,
        };
        self.msr_map.set(msr_of(reg::TPR), both);
        self.msr_map.set(msr_of(reg::EOI), write);
        self.msr_map.set(msr_of(reg::SELF_IPI), write);
    }

    /// The vectors whose EOI exits, one bit each.
    pub(super) fn set_eoi_exits(&mut self, vectors: &[u64; 4]) {
        if self.m.cfg.apicv {
            vmcs::write(field::EOI_EXIT_BITMAP0, vectors[0]);
            vmcs::write(field::EOI_EXIT_BITMAP1, vectors[1]);
            vmcs::write(field::EOI_EXIT_BITMAP2, vectors[2]);
            vmcs::write(field::EOI_EXIT_BITMAP3, vectors[3]);
        }
    }

    /// The highest vectors that are requested and in service; 0 for none.
    #[inline]
    pub(super) fn set_interrupt_status(&mut self, requested: u8, in_service: u8) {
        vmcs::write(
            field::GUEST_INTR_STATUS,
            u16::from(in_service) << 8 | u16::from(requested),
        );
    }
}
