// SPDX-License-Identifier: GPL-2.0

//! Register accesses in both modes.

use super::super::access::Raised;
use super::*;
use crate::irqchip::targets::Census;
use crate::x86::apic::lvt;
use crate::x86::apic::Delivery;
use crate::x86::apic::Trigger;
use crate::x86::apic::X2APIC_MSR_FIRST;

fn msr(offset: u32) -> u32 {
    X2APIC_MSR_FIRST + (offset >> 4)
}

#[test]
fn mmio_reads_stay_inside_a_register() {
    let (mut apic, _) = enabled(Config::new(0xab, true));
    let mut read = |offset, len: usize| {
        let mut data = [0xee; 16];
        apic.mmio_read(offset, &mut data[..len], at(0));
        data[..len].to_vec()
    };
    assert_eq!(read(reg::ID, 4), [0, 0, 0, 0xab]);
    assert_eq!(read(reg::ID + 3, 1), [0xab]);
    assert_eq!(read(reg::ID + 2, 2), [0, 0xab]);
    assert_eq!(read(reg::SVR + 1, 1), [1]);
    for (offset, len) in [
        (reg::ID + 3, 2),
        (reg::ID + 4, 4),
        (reg::ID, 8),
        (reg::EOI, 4),
        (0, 4),
        (0x3f0, 4),
        (0xff0, 4),
        (u32::MAX, 1),
    ] {
        assert_eq!(read(offset, len), vec![0; len], "{offset:#x}+{len}");
    }
}

#[test]
fn mmio_writes_must_be_aligned_words() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert_eq!(
        apic.mmio_write(reg::TPR, &[0x30, 0, 0], at(0)),
        Effects::NONE
    );
    assert_eq!(apic.mmio_write(reg::TPR, &[0x30; 8], at(0)), Effects::NONE);
    assert_eq!(
        apic.mmio_write(reg::TPR + 4, &[0x30, 0, 0, 0], at(0)),
        Effects::NONE
    );
    assert_eq!(apic.mmio_write(0x400, &[0; 4], at(0)), Effects::NONE);
    assert_eq!(read(&mut apic, reg::TPR), 0);
    let _ = apic.mmio_write(reg::TPR, &[0x30, 0, 0, 0], at(0));
    assert_eq!(read(&mut apic, reg::TPR), 0x30);
}

#[test]
fn what_each_mode_can_read_and_write() {
    // Offset, xAPIC read, xAPIC write, x2APIC read, x2APIC write (of 0).
    let table = [
        (0x000, "----"),
        (reg::ID, "rwr-"),
        (reg::VERSION, "r-r-"),
        (reg::TPR, "rwrw"),
        (reg::APR, "r---"),
        (reg::PPR, "r-r-"),
        (reg::EOI, "-w-w"),
        (reg::RRD, "----"),
        (reg::LDR, "rwr-"),
        (reg::DFR, "rw--"),
        (reg::SVR, "rwrw"),
        (reg::ISR, "r-r-"),
        (reg::ISR + 0x70, "r-r-"),
        (reg::TMR, "r-r-"),
        (reg::IRR, "r-r-"),
        (reg::IRR + 0x70, "r-r-"),
        (reg::ESR, "rwrw"),
        (0x290, "----"),
        (reg::LVT_CMCI, "rwrw"),
        (reg::ICR, "rwrw"),
        (reg::ICR2, "rw--"),
        (reg::LVT_TIMER, "rwrw"),
        (reg::LVT_THERMAL, "rwrw"),
        (reg::LVT_PERF, "rwrw"),
        (reg::LVT_LINT0, "rwrw"),
        (reg::LVT_LINT1, "rwrw"),
        (reg::LVT_ERROR, "rwrw"),
        (reg::TMICT, "rwrw"),
        (reg::TMCCT, "r-r-"),
        (0x3a0, "----"),
        (reg::TDCR, "rwrw"),
        (reg::SELF_IPI, "---w"),
    ];
    let mut cfg = Config::new(0, true);
    cfg.cmci = true;
    for (offset, expect) in table {
        let (mut x, _) = enabled(cfg);
        let (mut x2, _) = x2apic(cfg);
        let m = msr(offset);
        let sign = |ok, c| if ok { c } else { '-' };
        let got: String = [
            sign(x.read_reg(offset, at(0)).is_ok(), 'r'),
            sign(x.write_reg(offset, 0, at(0)).is_ok(), 'w'),
            sign(x2.read_msr(m, at(0)).is_ok(), 'r'),
            sign(x2.write_msr(m, 0, at(0)).is_ok(), 'w'),
        ]
        .iter()
        .collect();
        assert_eq!(got, expect, "register {offset:#x}");
        assert_eq!(
            (x2.readable() >> (offset >> 4)) & 1 == 1,
            &expect[2..3] == "r"
        );
        assert!(x.read_msr(m, at(0)).is_err() && x.write_msr(m, 0, at(0)).is_err());
    }
    let (mut x2, _) = x2apic(cfg);
    for m in [0x7ff, 0x840, 0x8ff, 0x900, 0, u32::MAX] {
        assert_eq!(x2.read_msr(m, at(0)), Err(Gp));
        assert_eq!(x2.write_msr(m, 0, at(0)), Err(Gp));
    }
}

#[test]
fn reserved_values_fault_in_x2apic_mode() {
    let (mut apic, _) = x2apic(Config::new(0, true));
    for (r, v) in [
        (reg::EOI, 1),
        (reg::ESR, 1),
        (reg::SELF_IPI, 0x100),
        (reg::TPR, 1 << 32),
        (reg::LVT_TIMER, 1 << 63),
        (reg::ICR, 1 << 13),
        (reg::ICR, 1 << 16),
        (reg::ICR, 1 << 31),
    ] {
        assert_eq!(apic.write_msr(msr(r), v, at(0)), Err(Gp), "{r:#x} = {v:#x}");
    }
}

#[test]
fn lvt_entries_keep_only_their_bits() {
    let mut cfg = Config::new(0, true);
    cfg.cmci = true;
    let (mut apic, _) = enabled(cfg);
    for (entry, bits) in [
        (Lvt::Timer, 0x0007_10ff),
        (Lvt::Thermal, 0x0001_17ff),
        (Lvt::Perf, 0x0001_17ff),
        (Lvt::Lint0, 0x0001_f7ff),
        (Lvt::Lint1, 0x0001_f7ff),
        (Lvt::Error, 0x0001_10ff),
        (Lvt::Cmci, 0x0001_17ff),
    ] {
        let e = write(&mut apic, entry.reg(), u32::MAX);
        assert_eq!(read(&mut apic, entry.reg()), bits, "{entry:?}");
        assert_eq!(e.publish, entry == Lvt::Lint0);
        assert_eq!(Lvt::at(entry.reg()), Some(entry));
    }
    cfg.tsc_deadline = false;
    apic.configure(cfg);
    let _ = write(&mut apic, reg::LVT_TIMER, 0x0006_0030);
    assert_eq!(read(&mut apic, reg::LVT_TIMER), 0x0002_0030);
}

#[test]
fn software_disabling_masks_the_lvt_and_keeps_it_masked() {
    let (mut apic, _) = enabled(Config::new(0, true));
    for entry in Lvt::ALL {
        let _ = apic.write_reg(entry.reg(), 0x44, at(0));
    }
    let e = write(&mut apic, reg::SVR, 0x2ff);
    assert!(e.publish && !e.enabled);
    assert_eq!(read(&mut apic, reg::SVR), 0x2ff);
    for entry in Lvt::ALL.into_iter().filter(|&e| e != Lvt::Cmci) {
        assert_eq!(read(&mut apic, entry.reg()), 0x1_0044, "{entry:?}");
        let _ = write(&mut apic, entry.reg(), 0x55);
        assert_eq!(read(&mut apic, entry.reg()), 0x1_0055);
    }
    let e = write(&mut apic, reg::SVR, 0x1ff);
    assert!(e.publish && e.enabled);
    assert!(!write(&mut apic, reg::SVR, 0x1f0).enabled, "it was");
    let _ = write(&mut apic, reg::LVT_LINT1, 0x66);
    assert_eq!(read(&mut apic, reg::LVT_LINT1), 0x66);
}

#[test]
fn the_xapic_can_be_readdressed_by_the_guest() {
    let (mut apic, _) = enabled(Config::new(3, false));
    for (r, expect) in [
        (reg::ID, 0xff00_0000),
        (reg::LDR, 0xff00_0000),
        (reg::DFR, 0xffff_ffff),
    ] {
        assert!(write(&mut apic, r, u32::MAX).publish);
        assert_eq!(read(&mut apic, r), expect);
    }
    let _ = write(&mut apic, reg::DFR, 0);
    assert_eq!(read(&mut apic, reg::DFR), 0x0fff_ffff);
}

#[test]
fn lvt_sources_become_events() {
    let mut cfg = Config::new(0, true);
    cfg.perf_masks_itself = true;
    let (mut apic, _) = enabled(cfg);
    let mut raise = |source: Lvt, entry| {
        let _ = write(&mut apic, source.reg(), entry);
        let raised = apic.raise(source);
        (
            raised,
            apic.highest_requested(),
            read(&mut apic, source.reg()),
        )
    };
    assert_eq!(raise(Lvt::Lint1, 0x400), (Raised::Nmi, None, 0x400));
    assert_eq!(raise(Lvt::Thermal, 0x200), (Raised::Smi, None, 0x200));
    assert_eq!(raise(Lvt::Lint1, 0x500), (Raised::Init, None, 0x500));
    assert_eq!(raise(Lvt::Lint0, 0x700), (Raised::Nothing, None, 0x700));
    assert_eq!(
        raise(Lvt::Lint0, 0x1_0041),
        (Raised::Nothing, None, 0x1_0041)
    );
    assert_eq!(
        raise(Lvt::Perf, 0x400),
        (Raised::Nmi, None, 0x1_0400),
        "masks itself"
    );
    assert_eq!(
        raise(Lvt::Perf, 0x41),
        (Raised::Interrupt, Some(0x41), 0x1_0041)
    );
    let level = lvt::LEVEL | 0x51;
    assert_eq!(
        raise(Lvt::Lint0, level),
        (Raised::Interrupt, Some(0x51), level)
    );
    apic.ack(0x51);
    assert!(apic.eoi().unwrap().level);
}

#[test]
fn lint0_is_published() {
    let (mut apic, _) = enabled(Config::new(0, false));
    let p = Published::new(0);
    assert!(p.accepts_pic(), "a disabled APIC does");
    for (entry, pic, nmi) in [
        (0x1_0700, false, false),
        (0x700, true, false),
        (0x400, false, true),
        (0x1_0400, false, false),
        (0x000, false, false),
    ] {
        assert!(write(&mut apic, reg::LVT_LINT0, entry).publish);
        apic.publish(&p, &Census::new());
        assert_eq!(
            (p.accepts_pic(), p.lint0_is_nmi()),
            (pic, nmi),
            "{entry:#x}"
        );
        assert_eq!(apic.accepts_pic(), pic);
        let masked = entry & 1 << 16 != 0;
        assert_eq!(p.at_lint0().is_none(), masked, "{entry:#x}");
        assert_eq!(
            p.at_lint0().is_some_and(|m| m.delivery == Delivery::Nmi),
            nmi
        );
    }
    let _ = write(&mut apic, reg::LVT_LINT0, lvt::LEVEL | 0x51);
    apic.publish(&p, &Census::new());
    let m = p.at_lint0().unwrap();
    assert_eq!((m.vector, m.delivery), (0x51, Delivery::Fixed));
    assert!(m.trigger.is_level() && m.assert);
    let off = Published::new(0);
    assert_eq!(off.at_lint0(), None, "a disabled APIC");
}

#[test]
fn writes_that_hardware_made_are_completed() {
    let (mut apic, _) = x2apic(Config::new(0, true));
    apic.page().write(reg::ICR, 0x0004_4041);
    apic.page().write(reg::ICR2, 9);
    let ipi = apic.written(reg::ICR, at(0)).ipi.unwrap();
    assert_eq!((ipi.message.vector, ipi.message.dest), (0x41, 9));
    let (mut apic, _) = enabled(Config::new(0, true));
    // The page has the new value already, the owner must still notice the change.
    apic.page().write(reg::SVR, 0xff);
    assert!(apic.written(reg::SVR, at(0)).publish);
    assert!(!apic.request(0x41, Trigger::Edge));
    apic.page().write(reg::LDR, 0x0200_1234);
    assert!(apic.written(reg::LDR, at(0)).publish);
    assert_eq!(read(&mut apic, reg::LDR), 0x0200_0000);
    apic.page().write(reg::VERSION, 1);
    assert_eq!(apic.written(reg::VERSION, at(0)), Effects::NONE);
}
