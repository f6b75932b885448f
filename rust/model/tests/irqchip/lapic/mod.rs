// SPDX-License-Identifier: GPL-2.0

//! The local APIC, by the files it consists of.

use super::*;
use core::sync::atomic::AtomicU32;

mod access;
mod ipi;
mod mode;
mod state;
mod timer;
mod vectors;

pub(super) type Apic = LocalApic<Box<ApicWords>>;

/// A moment: ns and a 2 GHz TSC that started with it.
pub(super) fn at(ns: u64) -> Now {
    Now {
        ns,
        tsc: ns.wrapping_mul(2),
        tsc_khz: 2_000_000,
    }
}

pub(super) fn page() -> Box<ApicWords> {
    Box::new([const { AtomicU32::new(0) }; 1024])
}

/// An APIC after RESET and its mailbox.
pub(super) fn after_reset(cfg: Config) -> (Apic, Pending) {
    let mailbox = Pending::new();
    let mut apic = LocalApic::new(page(), cfg);
    let _ = apic.reset(Reset::Power, &mailbox);
    (apic, mailbox)
}

/// The same, software-enabled.
pub(super) fn enabled(cfg: Config) -> (Apic, Pending) {
    let (mut apic, mailbox) = after_reset(cfg);
    let _ = write(&mut apic, reg::SVR, 0x1ff);
    (apic, mailbox)
}

/// An enabled APIC in x2APIC mode.
pub(super) fn x2apic(cfg: Config) -> (Apic, Pending) {
    let (mut apic, mailbox) = enabled(cfg);
    let base = apic.base() | base::X2APIC;
    let _ = apic.set_base(base, 0, false).unwrap();
    (apic, mailbox)
}

pub(super) fn read(apic: &mut Apic, offset: u32) -> u32 {
    apic.read_reg(offset, at(0)).unwrap()
}

pub(super) fn write(apic: &mut Apic, offset: u32, value: u32) -> Effects {
    apic.write_reg(offset, value, at(0)).unwrap()
}
