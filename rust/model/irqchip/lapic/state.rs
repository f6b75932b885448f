// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_LAPIC and KVM_SET_LAPIC: the registers as a 1 KiB page image.
//!
//! The image has the layout of the register page. In x2APIC mode two things differ from it: the
//! ID is in bits 31:24 unless user space speaks 32-bit IDs, and the ICR is split in two registers.
//! What is reserved reads as 0 and is ignored when written.

use super::regs::Bank;
use super::Effects;
use super::LocalApic;
use super::Lvt;
use super::Mode;
use super::Now;
use super::Storage;
use crate::irqchip::pending::Pending;
use crate::x86::apic::reg;
use crate::x86::apic::svr;
use crate::x86::apic::x2apic_ldr;
use core::sync::atomic::Ordering::Relaxed;

/// Size of the image, bytes.
pub const STATE_SIZE: usize = 1024;

/// User space tried to give the APIC another x2APIC ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState;

/// Registers whose content is copied as it is when the state is read.
const SAVED: [u32; 20] = [
    reg::VERSION,
    reg::TPR,
    reg::PPR,
    reg::LDR,
    reg::DFR,
    reg::SVR,
    reg::ESR,
    reg::LVT_CMCI,
    reg::ICR,
    reg::ICR2,
    reg::LVT_TIMER,
    reg::LVT_THERMAL,
    reg::LVT_PERF,
    reg::LVT_LINT0,
    reg::LVT_LINT1,
    reg::LVT_ERROR,
    reg::TMICT,
    reg::TDCR,
    reg::ID,
    reg::APR,
];

const BANKS: [Bank; 3] = [Bank::Isr, Bank::Tmr, Bank::Irr];

impl<P: Storage> LocalApic<P> {
    /// Writes the registers into `image`. Posted interrupts are pulled first, and a timer that is
    /// due expires, so nothing that has happened is missing from it. The effects are the timer's.
    pub fn save(&mut self, image: &mut [u8; STATE_SIZE], mailbox: &Pending, now: Now) -> Effects {
        self.pull(mailbox);
        let effects = self.timer_fired(now);
        self.update_ppr();
        image.fill(0);
        let page = self.page();
        for offset in SAVED {
            put(image, offset, page.read(offset));
        }
        for bank in BANKS {
            for i in 0..8u32 {
                let value = page.bank_word(bank, i).load(Relaxed);
                put(image, bank_offset(bank, i), value);
            }
        }
        put(image, reg::TMCCT, self.current_count(now));
        if self.mode() == Mode::X2Apic {
            if !self.cfg.ids32 {
                put(image, reg::ID, self.cfg.id << 24);
            }
            put(image, reg::ICR2, page.read(self.icr_high()));
        }
        effects
    }

    /// Sets the registers from `image`, and empties the mailbox of interrupts: they belonged to the
    /// state that is replaced. The effects always publish and set the timer.
    ///
    /// Nothing is changed on error: with 32-bit IDs, an x2APIC ID other than this vCPU's. Without
    /// them the ID is ignored in x2APIC mode.
    pub fn restore(
        &mut self,
        image: &[u8; STATE_SIZE],
        mailbox: &Pending,
        now: Now,
    ) -> Result<Effects, InvalidState> {
        let x2apic = self.mode() == Mode::X2Apic;
        if x2apic && self.cfg.ids32 && get(image, reg::ID) != self.cfg.id {
            return Err(InvalidState);
        }
        let _ = mailbox.take_vectors();
        let was_enabled = self.software_enabled;
        self.restore_registers(image);
        self.restore_addressing(image, x2apic);
        self.set_accelerated(self.accelerated);
        self.errors = 0;
        self.update_ppr();
        let timer = self.restart_timer(get(image, reg::TMCCT), now);
        Ok(Effects {
            timer: Some(timer),
            recheck: true,
            enabled: self.software_enabled && !was_enabled,
            ..Effects::PUBLISH
        })
    }

    fn restore_registers(&mut self, image: &[u8; STATE_SIZE]) {
        let spurious = get(image, reg::SVR) & (svr::WRITABLE | svr::DIRECTED_EOI);
        self.software_enabled = spurious & svr::ENABLE != 0;
        let page = self.page();
        page.write(reg::SVR, spurious);
        page.write(reg::TPR, get(image, reg::TPR) & 0xff);
        page.write(reg::ESR, get(image, reg::ESR) & 0xff);
        page.write(reg::TMICT, get(image, reg::TMICT));
        page.write(reg::TDCR, get(image, reg::TDCR) & 0xb);
        for entry in Lvt::ALL {
            if entry == Lvt::Cmci && !self.cfg.cmci {
                continue;
            }
            // A software-disabled APIC may have an open entry: the BSP's LINT0 after RESET, through
            // which firmware gets its first timer interrupts.
            let value = get(image, entry.reg()) & entry.writable(self.cfg.tsc_deadline);
            page.write(entry.reg(), value);
        }
        for bank in BANKS {
            for i in 0..8u32 {
                let value = get(image, bank_offset(bank, i));
                page.bank_word(bank, i).store(value, Relaxed);
            }
        }
    }

    fn restore_addressing(&mut self, image: &[u8; STATE_SIZE], x2apic: bool) {
        let page = self.page();
        page.write(reg::ICR, get(image, reg::ICR));
        if x2apic {
            page.write(reg::ID, self.cfg.id);
            page.write(reg::LDR, x2apic_ldr(self.cfg.id));
            page.write(self.icr_high(), get(image, reg::ICR2));
        } else {
            page.write(reg::ID, get(image, reg::ID) & 0xff00_0000);
            page.write(reg::LDR, get(image, reg::LDR) & 0xff00_0000);
            page.write(reg::ICR2, get(image, reg::ICR2) & 0xff00_0000);
        }
        page.write(reg::DFR, get(image, reg::DFR) | 0x0fff_ffff);
        self.write_version();
    }
}

fn bank_offset(bank: Bank, index: u32) -> u32 {
    (bank as u32).wrapping_add((index & 7) << 4)
}

/// The register at `offset` of an image.
fn get(image: &[u8; STATE_SIZE], offset: u32) -> u32 {
    let offset = offset as usize;
    let bytes = image.get(offset..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |b| u32::from_le_bytes(*b))
}

/// Sets the register at `offset` of an image.
fn put(image: &mut [u8; STATE_SIZE], offset: u32, value: u32) {
    let offset = offset as usize;
    if let Some(bytes) = image
        .get_mut(offset..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    {
        *bytes = value.to_le_bytes();
    }
}
