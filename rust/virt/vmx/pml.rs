// SPDX-License-Identifier: GPL-2.0

//! Page-modification logging: the processor writes down the guest-physical address of each page whose
//! dirty flag it sets in the nested page tables (`SDM: vol 3, 30.3.6`).
//!
//! It fills a page from the last of its 512 entries to the first, and exits when there is none left.
//! What is written down is taken at every exit, so that asking a vCPU to exit is enough to learn what
//! it wrote.

use super::vcpu::Vcpu;
use super::vmcs;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use kernel::prelude::*;
use model::addr::Gfn;
use model::addr::Gpa;
use model::vmx::ctrl::proc2;
use model::vmx::field;

/// The entry that is written first.
const LAST: u16 = 511;

/// What hardware writes into.
pub(super) struct Log(HwPage);

impl Log {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(HwPage::new()?))
    }

    pub(super) fn hw_pa(&self) -> u64 {
        self.0.hw_pa()
    }

    /// Tells the VMCS where it is.
    pub(super) fn install(&self) {
        vmcs::write(field::PML_ADDRESS, self.hw_pa());
        vmcs::write(field::GUEST_PML_INDEX, LAST);
    }

    fn page(&self, index: u16) -> Option<Gfn> {
        let word = self.0.words().get(usize::from(index))?;
        Some(Gpa(word.load(Relaxed)).gfn())
    }
}

impl Vcpu {
    /// Switches logging on or off; false if there is none.
    pub(super) fn set_write_log(&mut self, on: bool) -> bool {
        let Some(log) = &self.pml else { return false };
        if on && self.proc2 & proc2::PML == 0 {
            log.install();
        }
        let bit = if on { proc2::PML } else { 0 };
        self.set_proc2(self.proc2 & !proc2::PML | bit);
        true
    }

    /// Hands over what was written down since the last time.
    #[inline]
    pub(super) fn take_written(&mut self, f: &mut dyn FnMut(Gfn)) {
        if self.proc2 & proc2::PML != 0 {
            self.empty_log(f);
        }
    }

    #[inline(never)]
    fn empty_log(&mut self, f: &mut dyn FnMut(Gfn)) {
        let Some(log) = &self.pml else { return };
        // The entry that would be written next; beyond the last one if none is left.
        let next = vmcs::read(field::GUEST_PML_INDEX);
        if next == LAST {
            return;
        }
        let first = if next > LAST { 0 } else { next.wrapping_add(1) };
        // In the order of the writes.
        for index in (first..=LAST).rev() {
            if let Some(gfn) = log.page(index) {
                f(gfn);
            }
        }
        vmcs::write(field::GUEST_PML_INDEX, LAST);
    }
}
