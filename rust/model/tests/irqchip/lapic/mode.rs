// SPDX-License-Identifier: GPL-2.0

//! Reset values, IA32_APIC_BASE and configuration.

use super::*;
use crate::x86::apic::Trigger;

const RESERVED: u64 = !0xf_ffff_ffff; // a 36-bit guest

#[test]
fn reset_values_are_the_manuals() {
    let (mut apic, _) = after_reset(Config::new(3, false));
    assert_eq!(apic.base(), 0xfee0_0800);
    assert_eq!(apic.window(), 0xfee0_0000);
    assert_eq!(apic.mode(), Mode::XApic);
    let expect = [
        (reg::ID, 3 << 24),
        (reg::VERSION, 0x0005_0014),
        (reg::TPR, 0),
        (reg::PPR, 0),
        (reg::LDR, 0),
        (reg::DFR, 0xffff_ffff),
        (reg::SVR, 0xff),
        (reg::ESR, 0),
        (reg::ICR, 0),
        (reg::ICR2, 0),
        (reg::LVT_TIMER, 0x1_0000),
        (reg::LVT_THERMAL, 0x1_0000),
        (reg::LVT_PERF, 0x1_0000),
        (reg::LVT_LINT0, 0x1_0000),
        (reg::LVT_LINT1, 0x1_0000),
        (reg::LVT_ERROR, 0x1_0000),
        (reg::TMICT, 0),
        (reg::TMCCT, 0),
        (reg::TDCR, 0),
    ];
    for (r, v) in expect {
        assert_eq!(read(&mut apic, r), v, "register {r:#x}");
    }
}

#[test]
fn the_bootstrap_processor_differs() {
    let (mut apic, _) = after_reset(Config::new(0, true));
    assert_eq!(apic.base(), 0xfee0_0900);
    assert_eq!(read(&mut apic, reg::LVT_LINT0), 0x700);
    assert!(apic.accepts_pic());
    let mut cfg = Config::new(0, true);
    cfg.lint0_reenabled = false;
    let (apic, _) = after_reset(cfg);
    assert!(!apic.accepts_pic());
}

#[test]
fn init_keeps_mode_and_id_and_clears_the_rest() {
    let (mut apic, mailbox) = x2apic(Config::new(0x123, false));
    assert!(apic.request(0x50, Trigger::Level));
    apic.ack(0x50);
    let _ = write(&mut apic, reg::TPR, 0x20);
    let _ = apic.write_msr(0x830, (5 << 32) | 0x40, at(0)).unwrap();
    let _ = mailbox.post(0x60, Trigger::Edge);
    let effects = apic.reset(Reset::Init, &mailbox);
    assert_eq!(effects.timer, Some(TimerOp::Disarm));
    assert!(effects.publish);
    assert_eq!(apic.mode(), Mode::X2Apic);
    assert_eq!(read(&mut apic, reg::ID), 0x123);
    assert_eq!(read(&mut apic, reg::LDR), 0x0012_0008);
    assert_eq!(apic.read_msr(0x830, at(0)), Ok(0));
    assert_eq!(read(&mut apic, reg::TPR), 0);
    assert!(!apic.is_software_enabled());
    assert_eq!(
        (apic.highest_requested(), apic.highest_in_service()),
        (None, None)
    );
    assert!(!apic.pull(&mailbox));
    assert_eq!(read(&mut apic, reg::TMR + 0x20), 0);
}

#[test]
fn reset_leaves_x2apic_mode() {
    let (mut apic, mailbox) = x2apic(Config::new(7, true));
    let _ = apic.reset(Reset::Power, &mailbox);
    assert_eq!(apic.mode(), Mode::XApic);
    assert_eq!(read(&mut apic, reg::ID), 7 << 24);
    assert_eq!(read(&mut apic, reg::LDR), 0);
}

#[test]
fn transitions_of_the_mode() {
    use Mode::{Disabled, X2Apic, XApic};
    let bits = |m| match m {
        Disabled => 0,
        XApic => base::ENABLE,
        X2Apic => base::ENABLE | base::X2APIC,
    };
    let all = [Disabled, XApic, X2Apic];
    for from in all {
        for to in all {
            for host in [false, true] {
                let (mut apic, _) = after_reset(Config::new(0x105, false));
                let _ = apic
                    .set_base(DEFAULT_BASE | bits(from), RESERVED, true)
                    .unwrap();
                assert_eq!(apic.mode(), from);
                let forbidden = matches!((from, to), (X2Apic, XApic) | (Disabled, X2Apic));
                let result = apic.set_base(DEFAULT_BASE | bits(to), RESERVED, host);
                assert_eq!(result.is_err(), forbidden && !host, "{from:?} to {to:?}");
                if let Ok(e) = result {
                    assert_eq!(apic.mode(), to);
                    assert_eq!(e.publish, from != to);
                    assert_eq!(e.enabled, from == Disabled && to != Disabled);
                }
                // The ID follows the mode.
                match apic.mode() {
                    XApic => assert_eq!(read(&mut apic, reg::ID), 0x05 << 24),
                    X2Apic => {
                        assert_eq!(read(&mut apic, reg::ID), 0x105);
                        assert_eq!(read(&mut apic, reg::LDR), 0x0010_0020);
                    }
                    Disabled => {}
                }
            }
        }
    }
}

#[test]
fn the_icrs_high_half_does_not_outlive_the_mode() {
    for icr_split in [false, true] {
        let mut cfg = Config::new(1, false);
        cfg.icr_split = icr_split;
        let (mut apic, _) = enabled(cfg);
        let _ = write(&mut apic, reg::ICR2, 0x0300_0000);
        let _ = write(&mut apic, reg::ICR, 0x4041);
        let wide = apic.base() | base::X2APIC;
        let _ = apic.set_base(wide, RESERVED, false).unwrap();
        assert_eq!(apic.icr(), 0x4041);
        let _ = apic.write_icr(5 << 32 | 0x4041).unwrap();
        let _ = apic.set_base(DEFAULT_BASE, RESERVED, false).unwrap();
        assert_eq!(apic.icr(), 0x4041);
        assert_eq!(apic.page().read(reg::ID), 1 << 24);
    }
}

#[test]
fn the_logical_id_does_not_outlive_x2apic_mode() {
    let (mut apic, _) = x2apic(Config::new(0x21, false));
    assert_eq!(read(&mut apic, reg::LDR), 0x0002_0002);
    let _ = apic.set_base(DEFAULT_BASE, RESERVED, false).unwrap();
    let on = DEFAULT_BASE | base::ENABLE;
    let _ = apic.set_base(on, RESERVED, false).unwrap();
    assert_eq!(read(&mut apic, reg::LDR), 0);
    let _ = write(&mut apic, reg::LDR, 0x0400_0000);
    let _ = apic.set_base(DEFAULT_BASE, RESERVED, false).unwrap();
    let _ = apic.set_base(on, RESERVED, false).unwrap();
    assert_eq!(
        read(&mut apic, reg::LDR),
        0x0400_0000,
        "KVM: nothing else is reset"
    );
}

#[test]
fn reserved_bits_of_the_base_fault() {
    let (mut apic, _) = after_reset(Config::new(0, true));
    let old = apic.base();
    for bad in [1, 1 << 7, 1 << 9, 1 << 36, 1 << 63] {
        assert_eq!(
            apic.set_base(old | bad, RESERVED, true),
            Err(Gp),
            "{bad:#x}"
        );
    }
    assert_eq!(
        apic.set_base(DEFAULT_BASE | base::X2APIC, RESERVED, true),
        Err(Gp)
    );
    assert_eq!(apic.base(), old);
    let mut cfg = Config::new(0, true);
    cfg.x2apic = false;
    let (mut apic, _) = after_reset(cfg);
    assert_eq!(apic.set_base(old | base::X2APIC, RESERVED, true), Err(Gp));
}

#[test]
fn moving_the_page_keeps_the_registers() {
    let (mut apic, _) = enabled(Config::new(1, false));
    let _ = write(&mut apic, reg::ID, 0x5500_0000);
    let e = apic
        .set_base(0x1000_0000 | base::ENABLE, RESERVED, false)
        .unwrap();
    assert!(e.mode && !e.publish);
    assert_eq!(apic.window(), 0x1000_0000);
    assert_eq!(read(&mut apic, reg::ID), 0x5500_0000);
    assert_eq!(
        apic.set_base(apic.base(), RESERVED, false),
        Ok(Effects::NONE)
    );
}

#[test]
fn a_disabled_apic_takes_nothing_but_the_8259s_interrupts() {
    let (mut apic, mailbox) = enabled(Config::new(1, false));
    assert!(!apic.accepts_pic());
    assert!(apic.request(0x40, Trigger::Edge));
    let _ = mailbox.post(0x50, Trigger::Edge);
    let _ = apic.set_base(DEFAULT_BASE, RESERVED, false).unwrap();
    assert!(apic.accepts_pic());
    assert_eq!(apic.next_vector(), None);
    assert!(!apic.pull(&mailbox));
    assert!(!apic.request(0x60, Trigger::Edge));
    assert_eq!(
        apic.raise(Lvt::Lint1),
        super::super::access::Raised::Nothing
    );
}

#[test]
fn configuration_shows_in_the_version_register() {
    let (mut apic, _) = after_reset(Config::new(0, false));
    assert_eq!(apic.read_reg(reg::LVT_CMCI, at(0)), Err(Gp));
    assert_eq!(apic.write_reg(reg::LVT_CMCI, 0x10, at(0)), Err(Gp));
    let mut cfg = *apic.config();
    cfg.cmci = true;
    cfg.directed_eoi_offered = true;
    apic.configure(cfg);
    assert_eq!(read(&mut apic, reg::VERSION), 0x0106_0014);
    assert_eq!(read(&mut apic, reg::LVT_CMCI), 0x1_0000);
    cfg.x2apic = false;
    apic.configure(cfg);
    assert_eq!(read(&mut apic, reg::VERSION), 0x0006_0014);
}
