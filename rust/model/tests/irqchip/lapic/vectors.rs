// SPDX-License-Identifier: GPL-2.0

//! Requests, priorities and ends of interrupts, against the manual's definitions.

use super::*;
use crate::x86::apic::esr;
use crate::x86::apic::lvt;
use crate::x86::apic::svr;
use crate::x86::apic::Trigger;
use proptest::prelude::*;
use std::collections::BTreeSet;

#[test]
fn the_highest_class_goes_first_and_nests() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    for v in [0x31, 0x35, 0x62, 0x90] {
        let _ = mailbox.post(v, Trigger::Edge);
    }
    assert!(apic.pull(&mailbox));
    assert_eq!(apic.next_vector(), Some(0x90));
    apic.ack(0x90);
    assert_eq!(read(&mut apic, reg::PPR), 0x90);
    assert_eq!(apic.next_vector(), None);
    let _ = mailbox.post(0x9f, Trigger::Edge);
    let _ = mailbox.post(0xa0, Trigger::Edge);
    assert!(apic.pull(&mailbox));
    assert_eq!(apic.next_vector(), Some(0xa0), "0x9f is of the same class");
    apic.ack(0xa0);
    for expect in [0xa0, 0x90] {
        assert_eq!(apic.eoi().unwrap().vector, expect);
    }
    for expect in [0x9f, 0x62, 0x35, 0x31] {
        assert_eq!(apic.next_vector(), Some(expect));
        apic.ack(expect);
        assert_eq!(apic.eoi().unwrap().vector, expect);
    }
    assert_eq!(apic.next_vector(), None);
    assert_eq!(apic.eoi(), None);
}

#[test]
fn what_was_taken_can_be_put_back() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    for (v, t) in [(0x31, Trigger::Edge), (0x62, Trigger::Level)] {
        let _ = mailbox.post(v, t);
        assert!(apic.pull(&mailbox));
        apic.ack(v);
    }
    assert!(!apic.unack(0x31), "another one is being served");
    assert!(!apic.unack(0x70), "nobody serves it");
    assert!(apic.unack(0x62));
    assert_eq!(read(&mut apic, reg::PPR), 0x30);
    assert_eq!(apic.highest_in_service(), Some(0x31));
    assert_eq!(apic.next_vector(), Some(0x62));
    // The priority may hold it back now, and its trigger mode is what it was.
    let _ = apic.set_cr8(7);
    assert_eq!(apic.next_vector(), None);
    let _ = apic.set_cr8(0);
    apic.ack(0x62);
    assert!(apic.eoi().unwrap().level);
    // One that came meanwhile is the same.
    assert!(apic.unack(0x31));
    let _ = mailbox.post(0x31, Trigger::Edge);
    assert!(apic.pull(&mailbox));
    apic.ack(0x31);
    assert_eq!(apic.eoi().unwrap().vector, 0x31);
    assert_eq!((apic.next_vector(), apic.eoi()), (None, None));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert!(apic.request(0x45, Trigger::Edge));
    for (tpr, open) in [
        (0x3f, true),
        (0x40, false),
        (0x4f, false),
        (0x50, false),
        (0, true),
    ] {
        let _ = apic.set_tpr(tpr);
        assert_eq!(apic.next_vector().is_some(), open, "TPR {tpr:#x}");
        assert_eq!(apic.cr8(), tpr >> 4);
        assert_eq!(read(&mut apic, reg::PPR), u32::from(tpr));
    }
}

#[test]
fn lowering_the_priority_asks_for_another_look() {
    let (mut apic, _) = enabled(Config::new(0, true));
    let _ = apic.set_cr8(0xf);
    assert!(apic.request(0x45, Trigger::Edge));
    assert!(!apic.set_cr8(5).recheck);
    assert!(!apic.set_cr8(9).recheck);
    assert!(apic.set_cr8(3).recheck);
    assert!(!apic.set_cr8(3).recheck, "nothing was lowered");
}

#[test]
fn cr8_and_tpr_are_one_register() {
    let (mut apic, _) = enabled(Config::new(0, true));
    let _ = apic.set_cr8(0xf7);
    assert_eq!(read(&mut apic, reg::TPR), 0x70);
    let _ = write(&mut apic, reg::TPR, 0xffff_ffa5);
    assert_eq!((apic.cr8(), read(&mut apic, reg::TPR)), (0xa, 0xa5));
}

#[test]
fn trigger_modes_reach_the_eoi() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    for (v, t) in [
        (0x41, Trigger::Level),
        (0x62, Trigger::Edge),
        (0x41, Trigger::Edge),
    ] {
        let _ = mailbox.post(v, t);
        assert!(apic.pull(&mailbox));
        apic.ack(v);
        let e = write(&mut apic, reg::EOI, 0);
        let eoi = e.eoi.unwrap();
        assert_eq!((eoi.vector, eoi.level), (v, t.is_level()));
        assert!(!eoi.suppressed && e.recheck);
    }
    assert_eq!(write(&mut apic, reg::EOI, 0).eoi, None);
}

#[test]
fn eoi_broadcasts_can_be_suppressed_where_offered_and_honoured() {
    for (offered, honoured) in [(false, false), (true, false), (true, true)] {
        let mut cfg = Config::new(0, true);
        cfg.directed_eoi_offered = offered;
        cfg.directed_eoi_honoured = honoured;
        let (mut apic, _) = enabled(cfg);
        let _ = write(&mut apic, reg::SVR, 0x1ff | svr::DIRECTED_EOI);
        assert_eq!(read(&mut apic, reg::SVR) & svr::DIRECTED_EOI != 0, offered);
        assert!(apic.request(0x41, Trigger::Level));
        apic.ack(0x41);
        assert_eq!(apic.eoi().unwrap().suppressed, offered && honoured);
    }
}

#[test]
fn a_software_disabled_apic_keeps_what_it_has_and_takes_no_more() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert!(apic.request(0x41, Trigger::Edge));
    let _ = write(&mut apic, reg::SVR, 0xff);
    assert!(!apic.request(0x51, Trigger::Edge));
    assert_eq!(apic.next_vector(), Some(0x41));
}

#[test]
fn illegal_vectors_are_errors() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    let _ = write(&mut apic, reg::LVT_ERROR, 0xfe);
    let _ = mailbox.post(0x0f, Trigger::Edge);
    let _ = mailbox.post(0x33, Trigger::Edge);
    assert!(apic.pull(&mailbox));
    assert_eq!(read(&mut apic, reg::IRR), 0);
    assert_eq!(apic.next_vector(), Some(0xfe), "the error interrupt");
    apic.ack(0xfe);
    // The register shows an error only after it was written.
    assert_eq!(read(&mut apic, reg::ESR), 0);
    let _ = write(&mut apic, reg::ESR, 0x5a);
    assert_eq!(read(&mut apic, reg::ESR), esr::RECEIVE_ILLEGAL_VECTOR);
    let _ = write(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 0);
    assert!(!apic.request(5, Trigger::Edge));
    assert!(apic.is_pending(0xfe));
    let _ = write(&mut apic, reg::LVT_ERROR, lvt::MASKED | 0xfe);
    let _ = apic.eoi();
    let _ = write(&mut apic, reg::ICR, 0x0000_4003);
    apic.ack(0xfe);
    let _ = write(&mut apic, reg::ESR, 0);
    let both = esr::RECEIVE_ILLEGAL_VECTOR | esr::SEND_ILLEGAL_VECTOR;
    assert_eq!(read(&mut apic, reg::ESR), both);
}

#[test]
fn hardware_may_set_bits_behind_our_back() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    assert_eq!(apic.next_vector(), None);
    apic.set_accelerated(true);
    apic.page().set(regs::Bank::Irr, 0x77);
    assert_eq!(apic.next_vector(), Some(0x77));
    // Delivered and ended by hardware, which asks for the rest.
    apic.page().clear(regs::Bank::Irr, 0x77);
    let _ = mailbox.post(0x77, Trigger::Level);
    assert!(apic.eoi_accelerated(0x77, &mailbox).level);
    let _ = mailbox.post(0x77, Trigger::Edge);
    assert!(!apic.eoi_accelerated(0x77, &mailbox).level);
    apic.page().set(regs::Bank::Isr, 0x88);
    apic.set_accelerated(false);
    assert_eq!(apic.highest_in_service(), Some(0x88));
}

#[test]
fn pv_eoi_only_when_nothing_waits() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert_eq!(apic.pv_eoi_candidate(), None);
    assert!(apic.request(0x41, Trigger::Edge));
    assert_eq!(apic.pv_eoi_candidate(), None, "requested, not in service");
    apic.ack(0x41);
    assert_eq!(apic.pv_eoi_candidate(), Some(0x41));
    assert!(apic.request(0x31, Trigger::Edge));
    assert_eq!(apic.pv_eoi_candidate(), None);
    apic.ack(0x31);
    let _ = apic.eoi();
    let _ = apic.eoi();
    assert!(apic.request(0x51, Trigger::Level));
    apic.ack(0x51);
    assert_eq!(apic.pv_eoi_candidate(), None, "level-triggered");
    let _ = apic.eoi();
    assert!(apic.request(0x41, Trigger::Edge));
    apic.ack(0x41);
    apic.set_accelerated(true);
    assert_eq!(apic.pv_eoi_candidate(), None, "hardware ends it");
}

#[test]
fn the_vapic_word_has_three_priorities() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert_eq!(apic.vapic_word(), 0);
    for v in [0x52, 0x93] {
        assert!(apic.request(v, Trigger::Edge));
    }
    apic.ack(0x93);
    let _ = apic.sync_from_vapic(0xffff_ff35);
    assert_eq!(apic.vapic_word(), 0x5200_9035);
    assert_eq!(read(&mut apic, reg::TPR), 0x35);
}

#[test]
fn any_bit_of_a_bank_is_found() {
    let words = page();
    let p = ApicPage(&words);
    for bank in [regs::Bank::Irr, regs::Bank::Isr, regs::Bank::Tmr] {
        for v in 0..=255u8 {
            let mut hint = 0xff;
            assert_eq!(p.highest(bank, &mut hint), None);
            assert_eq!(hint, 0);
            p.set(bank, v);
            p.set(bank, v / 2);
            hint = 0xff;
            assert_eq!(p.highest(bank, &mut hint), Some(v));
            p.clear(bank, v);
            p.clear(bank, v / 2);
        }
    }
    assert!(words
        .iter()
        .all(|w| w.load(core::sync::atomic::Ordering::Relaxed) == 0));
}

#[derive(Clone, Debug)]
enum Op {
    Post(u8, bool),
    Pull,
    SelfRequest(u8),
    Take,
    Eoi,
    Tpr(u8),
    SoftwareEnable(bool),
    Accelerate(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(v, l)| Op::Post(v, l)),
        3 => Just(Op::Pull),
        1 => any::<u8>().prop_map(Op::SelfRequest),
        4 => Just(Op::Take),
        3 => Just(Op::Eoi),
        1 => any::<u8>().prop_map(Op::Tpr),
        1 => any::<bool>().prop_map(Op::SoftwareEnable),
        1 => any::<bool>().prop_map(Op::Accelerate),
    ]
}

/// The same with sets of vectors.
#[derive(Default)]
struct Reference {
    posted: BTreeSet<u8>,
    irr: BTreeSet<u8>,
    isr: BTreeSet<u8>,
    mailbox_level: BTreeSet<u8>,
    level: BTreeSet<u8>,
    tpr: u8,
    enabled: bool,
}

impl Reference {
    fn ppr(&self) -> u8 {
        let isr = self.isr.last().map_or(0, |v| v & 0xf0);
        if self.tpr & 0xf0 >= isr {
            self.tpr
        } else {
            isr
        }
    }

    fn next(&self) -> Option<u8> {
        let v = *self.irr.last()?;
        (v >> 4 > self.ppr() >> 4).then_some(v)
    }
}

fn set_level(set: &mut BTreeSet<u8>, vector: u8, level: bool) {
    if level {
        set.insert(vector);
    } else {
        set.remove(&vector);
    }
}

proptest! {
    #[test]
    fn any_history_agrees_with_sets(ops in prop::collection::vec(op(), 1..200)) {
        let (mut apic, mailbox) = enabled(Config::new(0, true));
        let mut r = Reference { enabled: true, ..Reference::default() };
        for op in ops {
            match op {
                Op::Post(v, level) => {
                    let _ = mailbox.post(v, Trigger::from_level(level));
                    r.posted.insert(v);
                    set_level(&mut r.mailbox_level, v, level);
                }
                Op::Pull => {
                    prop_assert_eq!(apic.pull(&mailbox), !r.posted.is_empty());
                    for v in std::mem::take(&mut r.posted) {
                        if v >= 16 {
                            r.irr.insert(v);
                            let level = r.mailbox_level.contains(&v);
                            set_level(&mut r.level, v, level);
                        }
                    }
                }
                Op::SelfRequest(v) => {
                    let taken = apic.request(v, Trigger::Edge);
                    prop_assert_eq!(taken, r.enabled && v >= 16);
                    if taken {
                        r.irr.insert(v);
                        r.level.remove(&v);
                    }
                }
                Op::Take => {
                    let next = apic.next_vector();
                    prop_assert_eq!(next, r.next());
                    if let Some(v) = next {
                        apic.ack(v);
                        r.irr.remove(&v);
                        r.isr.insert(v);
                    }
                }
                Op::Eoi => {
                    let expect = r.isr.pop_last();
                    let eoi = apic.eoi();
                    prop_assert_eq!(eoi.map(|e| e.vector), expect);
                    if let Some(e) = eoi {
                        prop_assert_eq!(e.level, r.level.contains(&e.vector));
                    }
                }
                Op::Tpr(v) => {
                    let before = r.ppr();
                    r.tpr = v;
                    let lowered = r.ppr() < before;
                    prop_assert_eq!(apic.set_tpr(v).recheck, lowered && r.next().is_some());
                }
                Op::SoftwareEnable(on) => {
                    let e = write(&mut apic, reg::SVR, if on { 0x1ff } else { 0xff });
                    prop_assert!(e.publish);
                    prop_assert_eq!(e.enabled, on && !r.enabled);
                    r.enabled = on;
                }
                Op::Accelerate(on) => apic.set_accelerated(on),
            }
            prop_assert_eq!(apic.next_vector(), r.next());
            prop_assert_eq!(read(&mut apic, reg::PPR), u32::from(r.ppr()));
            prop_assert_eq!(apic.highest_requested(), r.irr.last().copied());
            prop_assert_eq!(apic.highest_in_service(), r.isr.last().copied());
        }
        for v in 0..=255u8 {
            let p = apic.page();
            prop_assert_eq!(p.test(regs::Bank::Irr, v), r.irr.contains(&v));
            prop_assert_eq!(p.test(regs::Bank::Isr, v), r.isr.contains(&v));
            prop_assert_eq!(p.test(regs::Bank::Tmr, v), r.level.contains(&v));
            prop_assert_eq!(mailbox.has_vector(v), r.posted.contains(&v));
        }
    }
}
