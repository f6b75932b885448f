// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_LAPIC and KVM_SET_LAPIC.

use super::*;
use crate::x86::apic::lvt;
use crate::x86::apic::Trigger;
use proptest::prelude::*;

type Image = [u8; STATE_SIZE];

fn get(image: &Image, offset: u32) -> u32 {
    let i = offset as usize;
    u32::from_le_bytes(image[i..i + 4].try_into().unwrap())
}

fn set(image: &mut Image, offset: u32, value: u32) {
    let i = offset as usize;
    image[i..i + 4].copy_from_slice(&value.to_le_bytes());
}

fn save(apic: &mut Apic, mailbox: &Pending, ns: u64) -> Image {
    let mut image = [0xee; STATE_SIZE];
    let _ = apic.save(&mut image, mailbox, at(ns));
    image
}

#[test]
fn nothing_that_happened_is_missing_from_the_image() {
    let (mut apic, mailbox) = enabled(Config::new(2, false));
    let _ = write(&mut apic, reg::LVT_TIMER, 0xec);
    let _ = write(&mut apic, reg::TDCR, 0xb);
    let _ = write(&mut apic, reg::TMICT, 1000);
    assert!(apic.request(0x91, Trigger::Edge));
    apic.ack(0x91);
    let _ = mailbox.post(0x45, Trigger::Level);
    let image = save(&mut apic, &mailbox, 600);
    assert_eq!(get(&image, reg::ID), 2 << 24);
    assert_eq!(get(&image, reg::IRR + 0x20), 1 << 5);
    assert_eq!(get(&image, reg::TMR + 0x20), 1 << 5);
    assert_eq!(get(&image, reg::ISR + 0x40), 1 << 17);
    assert_eq!(get(&image, reg::PPR), 0x90);
    assert_eq!(get(&image, reg::TMCCT), 400);
    assert_eq!(image[4..0x20], [0; 0x1c]);
    assert_eq!(image[0x3f0..], [0; 16]);
    let image = save(&mut apic, &mailbox, 1000);
    assert_eq!(get(&image, reg::IRR + 0x70), 1 << 12, "the timer was due");
    assert_eq!(get(&image, reg::TMCCT), 0);
}

#[test]
fn the_id_has_two_formats() {
    for (ids32, saved) in [(false, 0x07u32 << 24), (true, 0x107)] {
        let mut cfg = Config::new(0x107, false);
        cfg.ids32 = ids32;
        let (mut apic, mailbox) = x2apic(cfg);
        let mut image = save(&mut apic, &mailbox, 0);
        assert_eq!(get(&image, reg::ID), saved);
        set(&mut image, reg::LDR, 0x1234);
        set(&mut image, reg::TPR, 0x40);
        assert!(apic.restore(&image, &mailbox, at(0)).is_ok());
        assert_eq!(read(&mut apic, reg::ID), 0x107);
        assert_eq!(
            read(&mut apic, reg::LDR),
            0x0010_0080,
            "a function of the ID"
        );
        set(&mut image, reg::ID, 0x108);
        set(&mut image, reg::TPR, 0x50);
        let result = apic.restore(&image, &mailbox, at(0));
        assert_eq!(result.is_err(), ids32);
        let tpr = if ids32 { 0x40 } else { 0x50 };
        assert_eq!(read(&mut apic, reg::TPR), tpr, "all or nothing");
        assert_eq!(read(&mut apic, reg::ID), 0x107);
    }
}

#[test]
fn the_xapic_id_can_be_set() {
    let (mut apic, mailbox) = enabled(Config::new(3, false));
    let mut image = save(&mut apic, &mailbox, 0);
    set(&mut image, reg::ID, 0x4567_89ab);
    set(&mut image, reg::LDR, 0x0812_3456);
    let e = apic.restore(&image, &mailbox, at(0)).unwrap();
    assert!(e.publish && e.recheck && !e.enabled);
    assert_eq!(read(&mut apic, reg::ID), 0x4500_0000);
    assert_eq!(read(&mut apic, reg::LDR), 0x0800_0000);
}

#[test]
fn the_command_register_is_split_in_the_image() {
    for icr_split in [false, true] {
        let mut cfg = Config::new(3, false);
        cfg.icr_split = icr_split;
        let (mut apic, mailbox) = x2apic(cfg);
        let value = 0xdead_beef_0004_40f1;
        let _ = apic.write_msr(0x830, value, at(0)).unwrap();
        let image = save(&mut apic, &mailbox, 0);
        assert_eq!(get(&image, reg::ICR), 0x0004_40f1);
        assert_eq!(get(&image, reg::ICR2), 0xdead_beef);
        let (mut apic, mailbox) = x2apic(cfg);
        let _ = apic.restore(&image, &mailbox, at(0)).unwrap();
        assert_eq!(apic.read_msr(0x830, at(0)), Ok(value));
    }
}

#[test]
fn setting_replaces_what_was_pending() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    let mut image = save(&mut apic, &mailbox, 0);
    set(&mut image, reg::IRR + 0x30, 1 << 3);
    set(&mut image, reg::ISR + 0x10, 1 << 1);
    assert!(apic.request(0xd0, Trigger::Edge));
    let _ = mailbox.post(0xe0, Trigger::Edge);
    let _ = apic.restore(&image, &mailbox, at(0)).unwrap();
    assert!(!apic.pull(&mailbox));
    assert_eq!(apic.next_vector(), Some(0x63));
    assert_eq!(apic.highest_in_service(), Some(0x21));
    assert_eq!(read(&mut apic, reg::PPR), 0x20);
}

#[test]
fn software_enabling_and_reserved_bits() {
    let (mut apic, mailbox) = after_reset(Config::new(0, true));
    let mut image: Image = [0xff; STATE_SIZE];
    let e = apic.restore(&image, &mailbox, at(0)).unwrap();
    assert!(e.enabled);
    for (r, v) in [
        (reg::ID, 0xff00_0000),
        (reg::VERSION, 0x0005_0014),
        (reg::TPR, 0xff),
        (reg::SVR, 0x13ff),
        (reg::TDCR, 0xb),
        (reg::LVT_TIMER, 0x7_10ff),
        (reg::LVT_ERROR, 0x1_10ff),
        (reg::ICR2, 0xff00_0000),
        (reg::IRR, 0xffff_ffff),
    ] {
        assert_eq!(read(&mut apic, r), v, "{r:#x}");
    }
    set(&mut image, reg::SVR, 0);
    set(&mut image, reg::LVT_PERF, 0x41);
    let e = apic.restore(&image, &mailbox, at(0)).unwrap();
    assert!(!e.enabled && !apic.is_software_enabled());
    assert_eq!(read(&mut apic, reg::LVT_PERF), 0x41, "as it is");
}

#[test]
fn the_state_after_reset_lets_the_8259_through() {
    let (mut apic, mailbox) = after_reset(Config::new(0, true));
    let image = save(&mut apic, &mailbox, 0);
    let _ = apic.restore(&image, &mailbox, at(0)).unwrap();
    assert!(apic.accepts_pic() && !apic.is_software_enabled());
    assert_eq!(save(&mut apic, &mailbox, 0), image);
}

#[test]
fn errors_that_were_not_latched_are_forgotten() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    let image = save(&mut apic, &mailbox, 0);
    assert!(!apic.request(5, Trigger::Edge));
    let _ = apic.restore(&image, &mailbox, at(0)).unwrap();
    let _ = write(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 0);
}

/// The state of a timer with a divider of 1.
fn timer_image(mode: u32, initial: u32, current: u32) -> Image {
    let mut image = [0; STATE_SIZE];
    for (r, v) in [
        (reg::SVR, 0x1ff),
        (reg::LVT_TIMER, mode | 0xec),
        (reg::TDCR, 0xb),
        (reg::TMICT, initial),
        (reg::TMCCT, current),
    ] {
        set(&mut image, r, v);
    }
    image
}

#[test]
fn timers_go_on_from_where_they_were() {
    let periodic = lvt::TIMER_PERIODIC;
    for (mode, initial, current, expect) in [
        (0, 1000, 400, Some(5400)),
        (0, 1000, 1000, Some(6000)),
        (0, 1000, 5000, Some(6000)),
        (0, 1000, 0, Some(5000)),
        (0, 0, 0, None),
        (0, 0, 100, None),
        (periodic, 500_000, 400, Some(5400)),
        (periodic, 500_000, 0, Some(505_000)),
        (lvt::TIMER_TSC_DEADLINE, 1000, 400, None),
    ] {
        let (mut apic, mailbox) = after_reset(Config::new(0, true));
        let image = timer_image(mode, initial, current);
        let e = apic.restore(&image, &mailbox, at(5000)).unwrap();
        let ns = match e.timer {
            Some(TimerOp::Arm { ns, .. }) => Some(ns),
            _ => None,
        };
        assert_eq!(ns, expect, "{mode:#x} {initial} {current}");
        assert!(e.timer.is_some());
    }
    // And then periodically.
    let (mut apic, mailbox) = after_reset(Config::new(0, true));
    let image = timer_image(periodic, 500_000, 400);
    let _ = apic.restore(&image, &mailbox, at(0)).unwrap();
    let next = apic.timer_fired(at(400)).timer;
    assert_eq!(
        next,
        Some(TimerOp::Arm {
            ns: 500_400,
            tsc: 1_000_800
        })
    );
}

#[test]
fn a_deadline_outlives_the_other_registers() {
    let (mut apic, mailbox) = enabled(Config::new(0, true));
    let deadline = lvt::TIMER_TSC_DEADLINE;
    let _ = write(&mut apic, reg::LVT_TIMER, deadline | 0xec);
    let _ = apic.set_tsc_deadline(9000, at(0));
    let image = save(&mut apic, &mailbox, 10);
    let e = apic.restore(&image, &mailbox, at(20)).unwrap();
    assert_eq!(
        e.timer,
        Some(TimerOp::Arm {
            ns: 4500,
            tsc: 9000
        })
    );
    let e = apic
        .restore(&timer_image(0, 0, 0), &mailbox, at(20))
        .unwrap();
    assert_eq!(e.timer, Some(TimerOp::Disarm));
    assert_eq!(apic.tsc_deadline(), 0);
}

/// An APIC in some mode, and an image as user space could make it.
fn any_config() -> impl Strategy<Value = (Config, bool)> {
    (any::<u8>(), any::<[bool; 7]>(), 0..0x300u32).prop_map(|(bus, f, id)| {
        let mut cfg = Config::new(id, f[0]);
        cfg.cmci = f[1];
        cfg.tsc_deadline = f[2];
        cfg.directed_eoi_offered = f[3];
        cfg.icr_split = f[4];
        cfg.ids32 = f[5];
        cfg.bus_cycle_ns = u32::from(bus);
        (cfg, f[6])
    })
}

proptest! {
    #[test]
    fn images_survive_a_round_trip(
        (cfg, in_x2apic) in any_config(),
        words in prop::collection::vec(any::<u32>(), 256),
    ) {
        let make = || if in_x2apic { x2apic(cfg) } else { after_reset(cfg) };
        let mut image = [0; STATE_SIZE];
        for (i, w) in words.into_iter().enumerate() {
            set(&mut image, i as u32 * 4, w);
        }
        if in_x2apic {
            set(&mut image, reg::ID, if cfg.ids32 { cfg.id } else { cfg.id << 24 });
        }
        // No time passes; a timer that is due at once stays out of this.
        let count = get(&image, reg::TMICT);
        set(&mut image, reg::TMCCT, count);
        let (mut a, mailbox) = make();
        let _ = a.restore(&image, &mailbox, at(0)).unwrap();
        let first = save(&mut a, &mailbox, 0);
        let (mut b, mailbox) = make();
        let e = b.restore(&first, &mailbox, at(0)).unwrap();
        prop_assert!(e.timer.is_some());
        prop_assert_eq!(save(&mut b, &mailbox, 0), first);
        prop_assert_eq!(a.timer(), b.timer());
        prop_assert_eq!(a.next_vector(), b.next_vector());
        prop_assert_eq!(a.highest_in_service(), b.highest_in_service());
        prop_assert_eq!(a.is_software_enabled(), b.is_software_enabled());
    }

    #[test]
    fn no_access_panics(
        (cfg, in_x2apic) in any_config(),
        steps in prop::collection::vec(
            (0..0x40u32, any::<u32>(), any::<u64>(), 0..8u8, any::<u64>()), 1..60),
    ) {
        let (mut apic, mailbox) = if in_x2apic { x2apic(cfg) } else { enabled(cfg) };
        for (r, value, wide, what, ns) in steps {
            let now = at(ns);
            match what {
                0 => { let _ = apic.mmio_write(r << 4, &value.to_le_bytes(), now); }
                1 => { let _ = apic.write_msr(0x800 | r, u64::from(value), now); }
                2 => { let _ = apic.write_msr(0x830, wide, now); }
                3 => { let _ = apic.set_base(wide, 0, value & 1 != 0); }
                4 => { let _ = apic.set_tsc_deadline(wide, now); }
                5 => { let _ = mailbox.post(value as u8, Trigger::from_level(value & 256 != 0)); }
                6 => {
                    apic.pull(&mailbox);
                    if let Some(v) = apic.next_vector() {
                        apic.ack(v);
                    }
                }
                _ => { let _ = apic.timer_fired(now); }
            }
            let mut data = [0; 4];
            apic.mmio_read(r << 4, &mut data, now);
            let mut image = [0; STATE_SIZE];
            let _ = apic.save(&mut image, &mailbox, now);
            if value & 0xf00 == 0 {
                let _ = apic.restore(&image, &mailbox, now);
            }
        }
    }
}
