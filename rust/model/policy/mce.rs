// SPDX-License-Identifier: GPL-2.0

//! Machine-check registers: what the guest reads, and how user space reports an error.
//!
//! `SDM: vol 3, chapter 16`, `APM: vol 2, chapter 9`. The banks belong to the caller, who keeps
//! [`MAX_BANKS`] of them and passes them in.

use super::msr::MsrError;
use crate::abi::KvmX86Mce;
use crate::nospec::clamp;
use crate::x86::msr::{self, mcg_cap, mci_status, HWCR_MC_STATUS_WR_EN};

/// How many banks a vCPU may have.
pub const MAX_BANKS: usize = 32;
/// MCi_CTL2 bits that exist: enable and threshold.
const CTL2_DEFINED: u64 = (1 << 30) | 0x7fff;
const CTL2_CMCI_EN: u64 = 1 << 30;
/// MCG_STATUS bit 2: a machine check is being handled.
const MCG_STATUS_MCIP: u64 = 1 << 2;

/// One bank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bank {
    /// Which errors are reported.
    pub ctl: u64,
    /// The error.
    pub status: u64,
    /// Where it happened.
    pub addr: u64,
    /// What else is known.
    pub misc: u64,
    /// When corrected errors interrupt.
    pub ctl2: u64,
}

/// The registers that exist once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mce {
    /// IA32_MCG_CAP.
    pub cap: u64,
    /// IA32_MCG_STATUS.
    pub status: u64,
    /// IA32_MCG_CTL.
    pub ctl: u64,
    /// IA32_MCG_EXT_CTL.
    pub ext_ctl: u64,
}

/// What a reported error does to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing beyond the registers.
    Logged,
    /// The corrected-machine-check interrupt of the local APIC is raised.
    Interrupt,
    /// `#MC` is queued.
    Exception,
    /// The vCPU shuts down: machine checks are off or one is being handled.
    TripleFault,
}

/// The value cannot be set up or reported (`EINVAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid;

impl Mce {
    /// Before `KVM_X86_SETUP_MCE`: all banks, no other feature.
    pub const RESET: Self = Self {
        cap: MAX_BANKS as u64,
        status: 0,
        ctl: 0,
        ext_ctl: 0,
    };

    fn count(&self) -> usize {
        // CAST: masked to 8 bits.
        (self.cap & 0xff) as usize
    }

    /// `KVM_X86_SETUP_MCE`. `supported` is what `KVM_X86_GET_MCE_CAP_SUPPORTED` answers.
    ///
    /// # Errors
    /// [`Invalid`] for no bank, too many, or an unsupported feature.
    pub fn setup(&mut self, cap: u64, supported: u64, banks: &mut [Bank]) -> Result<(), Invalid> {
        let count = cap & 0xff;
        if count == 0 || count > MAX_BANKS as u64 || cap & !(supported | 0xff_00ff) != 0 {
            return Err(Invalid);
        }
        self.cap = cap;
        if cap & mcg_cap::CTL_P != 0 {
            self.ctl = u64::MAX;
        }
        for bank in banks.iter_mut().take(self.count()) {
            bank.ctl = u64::MAX;
            if cap & mcg_cap::CMCI_P != 0 {
                bank.ctl2 = 0;
            }
        }
        Ok(())
    }

    /// Reads one of the registers. `by_user`: user space reads, not the guest.
    ///
    /// # Errors
    /// [`MsrError::Invalid`] if this vCPU has no such register.
    pub fn read(&self, index: u32, by_user: bool, banks: &[Bank]) -> Result<u64, MsrError> {
        let exists = |flag: u64| self.cap & flag != 0 || by_user;
        match index {
            msr::MCG_CAP => Ok(self.cap),
            msr::MCG_STATUS => Ok(self.status),
            msr::MCG_CTL if exists(mcg_cap::CTL_P) => Ok(self.ctl),
            _ => {
                let (bank, which) = place(index).ok_or(MsrError::Invalid)?;
                if bank >= self.count() {
                    return Err(MsrError::Invalid);
                }
                let bank = banks.get(clamp(bank, self.count()));
                let bank = bank.ok_or(MsrError::Invalid)?;
                match which {
                    Which::Ctl => Ok(bank.ctl),
                    Which::Status => Ok(bank.status),
                    Which::Addr => Ok(bank.addr),
                    Which::Misc => Ok(bank.misc),
                    Which::Ctl2 if exists(mcg_cap::CMCI_P) => Ok(bank.ctl2),
                    Which::Ctl2 => Err(MsrError::Invalid),
                }
            }
        }
    }

    /// Writes one of the registers. `hwcr` is AMD's HWCR, 0 on a processor of another make.
    ///
    /// # Errors
    /// [`MsrError::Invalid`] if this vCPU has no such register or it cannot take the value.
    pub fn write(
        &mut self,
        index: u32,
        value: u64,
        by_user: bool,
        hwcr: u64,
        banks: &mut [Bank],
    ) -> Result<(), MsrError> {
        let cap = self.cap;
        // User space may write 0 to a register that is not there.
        let exists = |flag: u64| cap & flag != 0 || (by_user && value == 0);
        match index {
            msr::MCG_STATUS => self.status = value,
            msr::MCG_CTL if exists(mcg_cap::CTL_P) && matches!(value, 0 | u64::MAX) => {
                self.ctl = value;
            }
            _ => {
                let (at, which) = place(index).ok_or(MsrError::Invalid)?;
                if at >= self.count() {
                    return Err(MsrError::Invalid);
                }
                let at = clamp(at, self.count());
                let bank = banks.get_mut(at).ok_or(MsrError::Invalid)?;
                match which {
                    Which::Ctl if ctl_valid(value) => bank.ctl = value,
                    // AMD lets software write an error once HWCR says so, others never.
                    Which::Status if value == 0 || by_user || hwcr & HWCR_MC_STATUS_WR_EN != 0 => {
                        bank.status = value;
                    }
                    Which::Addr => bank.addr = value,
                    Which::Misc => bank.misc = value,
                    Which::Ctl2 if exists(mcg_cap::CMCI_P) && value & !CTL2_DEFINED == 0 => {
                        bank.ctl2 = value;
                    }
                    Which::Ctl | Which::Status | Which::Ctl2 => return Err(MsrError::Invalid),
                }
            }
        }
        Ok(())
    }

    /// `KVM_X86_SET_MCE`: user space reports an error. `enabled`: the guest set CR4.MCE.
    /// `SDM: vol 3, 16.3.2.2.1` (overwrite rules).
    ///
    /// # Errors
    /// [`Invalid`] for a bank that is not there or a status that is no error.
    pub fn report(
        &mut self,
        mce: &KvmX86Mce,
        enabled: bool,
        banks: &mut [Bank],
    ) -> Result<Outcome, Invalid> {
        use mci_status::{AR, OVER, PCC, S, UC, VAL};

        let at = usize::from(mce.bank);
        if at >= self.count() || mce.status & VAL == 0 {
            return Err(Invalid);
        }
        let bank = banks.get_mut(clamp(at, self.count())).ok_or(Invalid)?;
        let uncorrected = mce.status & UC != 0;
        let record = |bank: &mut Bank, status: u64| {
            bank.status = status;
            bank.addr = mce.addr;
            bank.misc = mce.misc;
        };

        // Uncorrected, but no action is required: never a machine check, at most an interrupt.
        if uncorrected && mce.mcg_status == 0 && mce.status & (PCC | S | AR) == 0 {
            record(bank, mce.status);
            self.status = 0;
            let interrupts = self.cap & mcg_cap::CMCI_P != 0 && bank.ctl2 & CTL2_CMCI_EN != 0;
            return Ok(if interrupts {
                Outcome::Interrupt
            } else {
                Outcome::Logged
            });
        }
        let lost = if bank.status & VAL != 0 { OVER } else { 0 };
        if uncorrected {
            let reported = self.cap & mcg_cap::CTL_P == 0 || self.ctl == u64::MAX;
            if !reported || bank.ctl != u64::MAX {
                return Ok(Outcome::Logged);
            }
            if self.status & MCG_STATUS_MCIP != 0 || !enabled {
                return Ok(Outcome::TripleFault);
            }
            record(bank, mce.status | lost);
            self.status = mce.mcg_status;
            return Ok(Outcome::Exception);
        }
        if bank.status & (VAL | UC) == VAL | UC {
            // A corrected error does not overwrite an uncorrected one.
            bank.status |= OVER;
        } else {
            record(bank, mce.status | lost);
        }
        Ok(Outcome::Logged)
    }
}

/// A register of a bank.
#[derive(Clone, Copy)]
enum Which {
    Ctl,
    Status,
    Addr,
    Misc,
    Ctl2,
}

/// Which register of which bank an index names.
fn place(index: u32) -> Option<(usize, Which)> {
    match index {
        msr::MC0_CTL2..=0x29f => {
            // CAST: below 32.
            Some((index.wrapping_sub(msr::MC0_CTL2) as usize, Which::Ctl2))
        }
        msr::MC0_CTL..=0x47f => {
            let offset = index.wrapping_sub(msr::MC0_CTL);
            let which = match offset & 3 {
                0 => Which::Ctl,
                1 => Which::Status,
                2 => Which::Addr,
                _ => Which::Misc,
            };
            // CAST: below 32.
            Some(((offset >> 2) as usize, which))
        }
        _ => None,
    }
}

/// A control register takes 0 or all ones. KVM: some guests clear bit 10, to work around a fault of
/// AMD's GART, or bit 0, to ignore corrected errors.
const fn ctl_valid(value: u64) -> bool {
    value == 0 || value | (1 << 10) | 1 == u64::MAX
}

#[cfg(test)]
#[path = "tests/mce.rs"]
mod tests;
