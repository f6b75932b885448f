// SPDX-License-Identifier: GPL-2.0

use super::mci_status::{AR, OVER, PCC, S, UC, VAL};
use super::*;
use crate::x86::msr::HWCR_MC_STATUS_WR_EN;

const SUPPORTED: u64 = mcg_cap::CTL_P | mcg_cap::SER_P | mcg_cap::CMCI_P;

fn set_up(cap: u64) -> (Mce, [Bank; MAX_BANKS]) {
    let mut banks = [Bank::default(); MAX_BANKS];
    let mut mce = Mce::RESET;
    mce.setup(cap, SUPPORTED, &mut banks).unwrap();
    (mce, banks)
}

fn error(bank: u8, status: u64) -> KvmX86Mce {
    let mut e = KvmX86Mce::zeroed();
    (e.bank, e.status, e.addr, e.misc) = (bank, status, 0x1000, 0x8c);
    e
}

#[test]
fn setting_up() {
    for (cap, ok) in [
        (0, false),
        (1, true),
        (32, true),
        (33, false),
        (10 | mcg_cap::CTL_P, true),
        (10 | mcg_cap::LMCE_P, false),
        (10 | 0xff_0000, true),
        (10 | 1 << 40, false),
    ] {
        let mut banks = [Bank::default(); MAX_BANKS];
        let mut mce = Mce::RESET;
        assert_eq!(
            mce.setup(cap, SUPPORTED, &mut banks).is_ok(),
            ok,
            "{cap:#x}"
        );
        if ok {
            let set = banks.iter().filter(|b| b.ctl == u64::MAX).count() as u64;
            assert_eq!(set, cap & 0xff);
        } else {
            assert_eq!(mce, Mce::RESET);
        }
    }
}

#[test]
fn registers_of_banks() {
    let (mut mce, mut banks) = set_up(2 | SUPPORTED);
    // (index, value, by user space, HWCR, taken)
    for (index, value, by_user, hwcr, ok) in [
        (0x400, 0, false, 0, true),
        (0x400, u64::MAX, false, 0, true),
        (0x400, !(1 << 10), false, 0, true),
        (0x400, !1, false, 0, true),
        (0x400, 5, false, 0, false),
        (0x401, 0, false, 0, true),
        (0x401, VAL, false, 0, false),
        (0x401, VAL, true, 0, true),
        (0x401, VAL, false, HWCR_MC_STATUS_WR_EN, true),
        (0x402, 7, false, 0, true),
        (0x407, 7, false, 0, true),
        (0x408, 0, false, 0, false),
        (0x408, 0, true, 0, false),
        (0x47f, 0, true, 0, false),
        (0x280, 0x4000_7fff, false, 0, true),
        (0x280, 1 << 15, false, 0, false),
        (0x282, 0, false, 0, false),
        (0x17b, 0, false, 0, true),
        (0x17b, 1, false, 0, false),
        (0x17a, 7, false, 0, true),
    ] {
        let before = (mce.clone(), banks);
        let result = mce.write(index, value, by_user, hwcr, &mut banks);
        assert_eq!(result.is_ok(), ok, "{index:#x} {value:#x}");
        if ok {
            assert_eq!(mce.read(index, false, &banks), Ok(value), "{index:#x}");
        } else {
            assert_eq!(before, (mce.clone(), banks));
        }
    }
    assert_eq!(mce.read(0x179, false, &banks), Ok(2 | SUPPORTED));
    assert_eq!(mce.read(0x408, true, &banks), Err(MsrError::Invalid));
}

#[test]
fn optional_registers_are_there_for_user_space_only() {
    let (mut mce, mut banks) = set_up(2);
    for index in [0x17b, 0x280] {
        assert_eq!(mce.read(index, false, &banks), Err(MsrError::Invalid));
        assert_eq!(mce.read(index, true, &banks), Ok(0));
        assert!(mce.write(index, 0, false, 0, &mut banks).is_err());
        assert!(mce.write(index, 0, true, 0, &mut banks).is_ok());
        assert!(mce.write(index, 1, true, 0, &mut banks).is_err());
    }
}

#[test]
fn a_caller_with_too_few_banks_is_no_danger() {
    let (mut mce, _) = set_up(32);
    let mut few = [Bank::default(); 1];
    assert_eq!(mce.read(0x404, true, &few), Err(MsrError::Invalid));
    assert!(mce.write(0x404, 0, true, 0, &mut few).is_err());
    assert!(mce.report(&error(1, VAL), true, &mut few).is_err());
}

#[test]
fn uncorrected_errors() {
    let fatal = VAL | UC | PCC | S;
    let (mut mce, mut banks) = set_up(4 | SUPPORTED);
    let mut e = error(1, fatal);
    e.mcg_status = 5;
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Exception));
    assert_eq!(
        (banks[1].status, banks[1].addr, mce.status),
        (fatal, 0x1000, 5)
    );
    // A second one while the first is handled, and one with machine checks off.
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::TripleFault));
    mce.status = 0;
    assert_eq!(mce.report(&e, false, &mut banks), Ok(Outcome::TripleFault));
    // The guest left the first in the bank.
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Exception));
    assert_eq!(banks[1].status, fatal | OVER);
    // Reporting is off, for the bank or altogether.
    banks[1] = Bank::default();
    mce.status = 0;
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Logged));
    assert_eq!(banks[1], Bank::default());
    banks[1].ctl = u64::MAX;
    mce.ctl = 0;
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Logged));
    assert_eq!(banks[1].status, 0);
}

#[test]
fn errors_that_need_no_action() {
    for (ctl2, outcome) in [(0, Outcome::Logged), (1 << 30, Outcome::Interrupt)] {
        let (mut mce, mut banks) = set_up(4 | SUPPORTED);
        banks[2].ctl2 = ctl2;
        // Even with machine checks off.
        assert_eq!(
            mce.report(&error(2, VAL | UC), false, &mut banks),
            Ok(outcome)
        );
        assert_eq!(banks[2].status, VAL | UC);
    }
    let (mut mce, mut banks) = set_up(4 | SUPPORTED);
    let action = error(2, VAL | UC | S | AR);
    assert_eq!(
        mce.report(&action, true, &mut banks),
        Ok(Outcome::Exception)
    );
}

#[test]
fn corrected_errors() {
    let (mut mce, mut banks) = set_up(4 | SUPPORTED);
    let e = error(0, VAL | 3);
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Logged));
    assert_eq!(banks[0].status, VAL | 3);
    assert_eq!(
        mce.report(&error(0, VAL | 4), true, &mut banks),
        Ok(Outcome::Logged)
    );
    assert_eq!(banks[0].status, VAL | OVER | 4);
    banks[0].status = VAL | UC;
    assert_eq!(mce.report(&e, true, &mut banks), Ok(Outcome::Logged));
    assert_eq!(banks[0].status, VAL | UC | OVER, "the worse error stays");
}

#[test]
fn what_is_no_error() {
    let (mut mce, mut banks) = set_up(4 | SUPPORTED);
    assert_eq!(mce.report(&error(0, UC), true, &mut banks), Err(Invalid));
    assert_eq!(mce.report(&error(4, VAL), true, &mut banks), Err(Invalid));
    assert_eq!(mce.report(&error(255, VAL), true, &mut banks), Err(Invalid));
}
