// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const MASTER: PicChip = PicChip::Master;
const SLAVE: PicChip = PicChip::Slave;

/// A pair initialized as a PC does: vectors 0x30 and 0x38, everything unmasked.
struct Pc {
    pic: Pic,
    work: PicWork,
}

impl Pc {
    fn with_icw4(icw4: u8) -> Self {
        let mut pc = Pc {
            pic: Pic::new(),
            work: PicWork::default(),
        };
        for (port, icws) in [
            (0x20, [0x11, 0x30, 0x04, icw4]),
            (0xa0, [0x11, 0x38, 0x02, icw4]),
        ] {
            pc.out(port, icws[0]);
            for icw in &icws[1..] {
                pc.out(port + 1, *icw);
            }
        }
        pc.work = PicWork::default();
        pc
    }

    fn new() -> Self {
        Self::with_icw4(0x01)
    }

    fn out(&mut self, port: u16, value: u8) {
        assert!(self.pic.write(port, value, &mut self.work));
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.pic.read(port, &mut self.work).unwrap()
    }

    fn line(&mut self, pin: u8, level: bool) -> LineStatus {
        self.pic
            .set_line(pin, IrqSource::User, level, &mut self.work)
    }

    fn pulse(&mut self, pin: u8) -> LineStatus {
        let status = self.line(pin, true);
        self.line(pin, false);
        status
    }

    fn ack(&mut self) -> u8 {
        self.pic.acknowledge(&mut self.work)
    }

    fn isr(&mut self, port: u16) -> u8 {
        self.out(port, 0x0b);
        self.inb(port)
    }

    fn irr(&mut self, port: u16) -> u8 {
        self.out(port, 0x0a);
        self.inb(port)
    }

    fn take_work(&mut self) -> PicWork {
        std::mem::take(&mut self.work)
    }
}

#[test]
fn initialization_sets_the_vectors_and_resets_the_modes() {
    let mut pc = Pc::new();
    assert_eq!(pc.pic.state(MASTER).irq_base, 0x30);
    assert_eq!(pc.pic.state(SLAVE).irq_base, 0x38);
    pc.out(0x21, 0xfb);
    assert_eq!(pc.inb(0x21), 0xfb);
    pc.out(0x20, 0x68); // special mask mode
    pc.out(0x20, 0xc3); // lowest priority: 3
    pc.out(0x20, 0x0b); // read ISR
    pc.out(0x20, 0x11);
    let s = *pc.pic.state(MASTER);
    assert_eq!(
        (
            s.imr,
            s.priority_add,
            s.special_mask,
            s.read_reg_select,
            s.init_state
        ),
        (0, 0, 0, 0, 1)
    );
    // ICW2 keeps the upper five bits; without IC4 the sequence ends after ICW3.
    pc.out(0x20, 0x10);
    pc.out(0x21, 0x27);
    pc.out(0x21, 0x04);
    assert_eq!(pc.pic.state(MASTER).irq_base, 0x20);
    assert_eq!(pc.pic.state(MASTER).init_state, 0);
    pc.out(0x21, 0x55);
    assert_eq!(pc.inb(0x21), 0x55);
}

#[test]
fn icw1_without_ic4_clears_what_icw4_set() {
    let mut pc = Pc::with_icw4(0x13);
    assert_eq!(pc.pic.state(MASTER).auto_eoi, 1);
    assert_eq!(pc.pic.state(MASTER).special_fully_nested_mode, 1);
    pc.out(0x20, 0x10);
    assert_eq!(pc.pic.state(MASTER).auto_eoi, 0);
    assert_eq!(pc.pic.state(MASTER).special_fully_nested_mode, 0);
}

#[test]
fn icw1_ends_what_it_discards() {
    let mut pc = Pc::new();
    pc.pulse(1);
    assert_eq!(pc.ack(), 0x31);
    pc.pulse(4);
    pc.take_work();
    pc.out(0x20, 0x11);
    assert_eq!(pc.work.eoi, 1 << 1 | 1 << 4);
    assert!(!pc.pic.output());
    assert_eq!(pc.pic.state(MASTER).isr, 0);
}

#[test]
fn icw1_reports_the_unmasking_of_inputs() {
    let mut pc = Pc::new();
    pc.out(0xa1, 0x11);
    pc.take_work();
    pc.out(0xa0, 0x11);
    assert_eq!(pc.work.unmasked, 0x1100);
}

#[test]
fn only_the_ports_of_the_pair_answer() {
    let mut pic = Pic::new();
    let mut work = PicWork::default();
    for port in 0..=0xffffu16 {
        let ours = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1].contains(&port);
        assert_eq!(pic.read(port, &mut work).is_some(), ours, "{port:#x}");
        assert_eq!(pic.clone().write(port, 0, &mut work), ours, "{port:#x}");
    }
}

#[test]
fn fully_nested_mode_lets_only_more_urgent_inputs_through() {
    let mut pc = Pc::new();
    pc.pulse(5);
    assert_eq!(pc.ack(), 0x35);
    pc.pulse(6);
    assert!(!pc.pic.output());
    pc.pulse(5);
    assert!(!pc.pic.output());
    pc.pulse(1);
    assert!(pc.pic.output());
    assert_eq!(pc.ack(), 0x31);
    assert_eq!(pc.isr(0x20), 1 << 5 | 1 << 1);
    pc.out(0x20, 0x20); // non-specific EOI ends the most urgent one
    assert_eq!(pc.isr(0x20), 1 << 5);
    assert!(!pc.pic.output());
    pc.out(0x20, 0x20);
    assert_eq!(pc.ack(), 0x35);
    pc.out(0x20, 0x20);
    assert_eq!(pc.ack(), 0x36);
}

#[test]
fn the_slave_sits_between_inputs_1_and_3() {
    let mut pc = Pc::new();
    pc.pulse(3);
    pc.pulse(8);
    assert_eq!(pc.ack(), 0x38);
    assert_eq!(pc.isr(0x20), 1 << 2);
    assert_eq!(pc.isr(0xa0), 1 << 0);
    pc.pulse(0);
    assert_eq!(pc.ack(), 0x30);
    for port in [0x20, 0xa0, 0x20] {
        pc.out(port, 0x20);
    }
    assert_eq!(pc.ack(), 0x33);
}

#[test]
fn requests_wake_once_per_rise_of_the_output() {
    let mut pc = Pc::new();
    pc.line(4, true);
    assert!(pc.take_work().wake);
    pc.line(6, true);
    pc.line(1, true);
    assert!(!pc.work.wake);
    assert_eq!(pc.ack(), 0x31);
    assert!(!pc.work.wake);
    pc.out(0x20, 0x61);
    assert!(pc.take_work().wake);
    // A more urgent request during the acknowledge cycle's own service wakes again.
    assert_eq!(pc.ack(), 0x34);
    pc.line(0, true);
    assert!(pc.work.wake);
}

#[test]
fn an_edge_counts_once_and_a_level_until_it_falls() {
    let mut pc = Pc::new();
    assert_eq!(pc.line(1, true), LineStatus::Delivered);
    assert_eq!(pc.ack(), 0x31);
    pc.out(0x20, 0x61);
    assert!(!pc.pic.output(), "no second edge");
    pc.line(1, true);
    assert!(!pc.pic.output(), "still no second edge");

    pc.out(0x4d0, 0xff);
    assert_eq!(pc.inb(0x4d0), 0xf8);
    assert_eq!(pc.line(5, true), LineStatus::Delivered);
    assert_eq!(pc.line(5, true), LineStatus::Coalesced);
    assert_eq!(pc.ack(), 0x35);
    assert!(!pc.pic.output());
    pc.out(0x20, 0x65);
    assert!(pc.pic.output(), "the line still asks");
    pc.line(5, false);
    assert!(!pc.pic.output());
}

#[test]
fn the_line_status_tells_ignored_coalesced_and_delivered_apart() {
    let mut pc = Pc::new();
    assert_eq!(pc.pulse(9), LineStatus::Delivered);
    assert_eq!(pc.pulse(9), LineStatus::Coalesced);
    pc.out(0xa1, 0x02);
    assert_eq!(pc.pulse(9), LineStatus::Ignored);
    assert_eq!(pc.pulse(2), LineStatus::Ignored);
    assert_eq!(pc.pulse(16), LineStatus::Ignored);
    assert_eq!(pc.irr(0x20) & 4, 0, "the masked slave withdraws");
}

#[test]
fn the_elcr_takes_only_the_inputs_that_can_be_level() {
    let mut pc = Pc::new();
    pc.out(0x4d1, 0xff);
    assert_eq!(pc.inb(0x4d1), 0xde);
    // A line that is high when it becomes level-triggered asks at once, a stale edge stops asking.
    let mut pc = Pc::new();
    pc.line(10, true);
    assert_eq!(pc.ack(), 0x3a);
    pc.out(0xa0, 0x62);
    pc.out(0x20, 0x62);
    pc.pulse(11);
    pc.out(0x4d1, 0x0c);
    assert_eq!(pc.irr(0xa0), 1 << 2);
    assert_eq!(pc.ack(), 0x3a);
}

#[test]
fn a_vanished_request_gives_the_vector_of_input_7() {
    let mut pc = Pc::new();
    assert_eq!(pc.ack(), 0x37);
    assert_eq!(pc.isr(0x20), 0, "a spurious interrupt is not in service");

    pc.out(0x4d0, 0x20);
    pc.line(5, true);
    pc.line(5, false);
    assert_eq!(pc.ack(), 0x37);
}

#[test]
fn a_masked_input_waits_for_its_unmasking() {
    let mut pc = Pc::new();
    pc.out(0x21, 0x10);
    assert_eq!(pc.work.masked, 0x10);
    assert_eq!(pc.pulse(4), LineStatus::Ignored);
    assert!(!pc.pic.output());
    assert_eq!(pc.irr(0x20), 0x10);
    pc.out(0x21, 0x00);
    assert_eq!((pc.work.masked, pc.work.unmasked), (0, 0x10));
    assert_eq!(pc.ack(), 0x34);
}

#[test]
fn eois_name_the_pins_they_end() {
    let mut pc = Pc::new();
    pc.pulse(12);
    assert_eq!(pc.ack(), 0x3c);
    pc.take_work();
    pc.out(0xa0, 0x20);
    assert_eq!(pc.take_work().eoi, 1 << 12);
    pc.out(0xa0, 0x20);
    assert_eq!(pc.take_work().eoi, 0, "nothing left in service");
    pc.out(0x20, 0x62);
    assert_eq!(pc.take_work().eoi, 1 << 2);
}

#[test]
fn an_eoi_lowers_a_resampled_level_before_it_can_ask_again() {
    let mut pc = Pc::new();
    pc.out(0x4d1, 0x08);
    pc.pic.set_line(11, IrqSource::Resample, true, &mut pc.work);
    assert_eq!(pc.ack(), 0x3b);
    pc.take_work();
    pc.out(0xa0, 0x63);
    pc.out(0x20, 0x62);
    assert_eq!(pc.work.eoi, 1 << 11 | 1 << 2);
    assert!(!pc.pic.output() && !pc.work.wake);

    // Another source of the same pin is not lowered.
    pc.line(11, true);
    pc.pic.set_line(11, IrqSource::Resample, true, &mut pc.work);
    assert_eq!(pc.ack(), 0x3b);
    pc.out(0xa0, 0x63);
    pc.out(0x20, 0x62);
    assert!(pc.pic.output());
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pc = Pc::with_icw4(0x03);
    pc.pulse(3);
    pc.pulse(9);
    pc.pulse(10);
    pc.take_work();
    assert_eq!(pc.ack(), 0x39);
    assert_eq!(pc.isr(0x20) | pc.isr(0xa0), 0);
    assert_eq!(pc.work.eoi, 1 << 9 | 1 << 2);
    assert!(pc.work.wake);
    assert_eq!(pc.ack(), 0x3a);
    assert_eq!(pc.ack(), 0x33);
}

#[test]
fn rotation_makes_the_served_input_the_least_urgent() {
    let mut pc = Pc::new();
    pc.pulse(4);
    assert_eq!(pc.ack(), 0x34);
    pc.out(0x20, 0xa0); // rotate on non-specific EOI
    pc.pulse(4);
    pc.pulse(6);
    assert_eq!(pc.ack(), 0x36);
    pc.out(0x20, 0xe6); // rotate on specific EOI of 6
    pc.pulse(7);
    pc.pulse(6);
    assert_eq!(pc.ack(), 0x37);
    pc.out(0x20, 0x67);
    assert_eq!(pc.ack(), 0x34);
    pc.out(0x20, 0x64);
    assert_eq!(pc.ack(), 0x36);
    pc.out(0x20, 0x66);
    // Set priority without EOI: 0 becomes the lowest, 1 the highest.
    pc.out(0x20, 0xc0);
    pc.pulse(0);
    pc.pulse(7);
    assert_eq!(pc.ack(), 0x37);
}

#[test]
fn rotation_on_automatic_eoi_can_be_switched() {
    let mut pc = Pc::with_icw4(0x03);
    pc.out(0x20, 0x80);
    pc.pulse(3);
    assert_eq!(pc.ack(), 0x33);
    assert_eq!(pc.pic.state(MASTER).priority_add, 4);
    pc.out(0x20, 0x00);
    pc.pulse(5);
    assert_eq!(pc.ack(), 0x35);
    assert_eq!(pc.pic.state(MASTER).priority_add, 4);
}

#[test]
fn special_mask_mode_opens_the_inputs_below_a_masked_one() {
    let mut pc = Pc::new();
    pc.pulse(1);
    assert_eq!(pc.ack(), 0x31);
    pc.pulse(6);
    assert!(!pc.pic.output());
    pc.out(0x21, 0x02);
    assert!(!pc.pic.output());
    pc.out(0x20, 0x68);
    assert!(pc.pic.output());
    assert_eq!(pc.ack(), 0x36);
    // A non-specific EOI does not end the masked input.
    pc.out(0x20, 0x20);
    assert_eq!(pc.isr(0x20), 0x02);
    pc.out(0x20, 0x20);
    assert_eq!(pc.isr(0x20), 0x02);
    pc.out(0x20, 0x48);
    assert_eq!(pc.pic.state(MASTER).special_mask, 0);
    pc.out(0x20, 0x20);
    assert_eq!(pc.isr(0x20), 0x00);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    for (icw4, nests) in [(0x01, false), (0x11, true)] {
        let mut pc = Pc::with_icw4(icw4);
        pc.pulse(14);
        assert_eq!(pc.ack(), 0x3e);
        pc.pulse(9);
        assert_eq!(pc.pic.output(), nests);
        if nests {
            assert_eq!(pc.ack(), 0x39);
        }
    }
}

#[test]
fn a_poll_is_an_acknowledge_by_software() {
    let mut pc = Pc::new();
    pc.pulse(5);
    pc.out(0x20, 0x0c);
    assert_eq!(pc.inb(0x20), 0x85);
    assert_eq!(pc.isr(0x20), 0);
    assert!(!pc.pic.output());
    pc.out(0x20, 0x0c);
    assert_eq!(pc.inb(0x21) & 0x80, 0);
    assert_eq!(pc.inb(0x21), 0x00, "one read per poll command");
    pc.pulse(8);
    pc.out(0x20, 0x0c);
    assert_eq!(pc.inb(0x20), 0x82);
    pc.out(0xa0, 0x0c);
    assert_eq!(pc.inb(0xa0), 0x80);
    assert_eq!(pc.isr(0xa0), 0);
    assert_eq!(pc.irr(0x20), 0x00);
}

#[test]
fn polling_only_the_slave_withdraws_the_cascade() {
    let mut pc = Pc::new();
    pc.pulse(8);
    assert!(pc.pic.output());
    pc.out(0xa0, 0x0c);
    assert_eq!(pc.inb(0xa0), 0x80);
    assert!(!pc.pic.output());
}

#[test]
fn stored_state_is_read_back_and_recomputes_the_output() {
    let mut pc = Pc::new();
    let slave = KvmPicState {
        irr: 0x02,
        irq_base: 0x48,
        elcr_mask: 0xde,
        ..KvmPicState::zeroed()
    };
    pc.pic.set_state(SLAVE, &slave, &mut pc.work);
    assert_eq!(*pc.pic.state(SLAVE), slave);
    assert!(pc.work.wake);
    assert_eq!(pc.ack(), 0x49);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Line(u8, u8, bool),
    Out(u8, u8),
    In(u8),
    Ack,
}

const PORTS: [u16; 6] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1];
const SOURCES: [IrqSource; 3] = [IrqSource::User, IrqSource::Resample, IrqSource::Pit];

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..20u8, 0..3u8, any::<bool>()).prop_map(|(p, s, l)| Op::Line(p, s, l)),
        3 => (0..6u8, any::<u8>()).prop_map(|(p, v)| Op::Out(p, v)),
        2 => prop_oneof![Just(Op::Out(0, 0x20)), Just(Op::Out(2, 0x20)), Just(Op::Out(1, 0))],
        1 => (0..6u8).prop_map(Op::In),
        2 => Just(Op::Ack),
    ]
}

fn apply(pic: &mut Pic, op: Op, work: &mut PicWork) -> u32 {
    match op {
        Op::Line(pin, source, level) => pic
            .set_line(pin, SOURCES[usize::from(source)], level, work)
            .value() as u32,
        Op::Out(port, value) => pic.write(PORTS[usize::from(port)], value, work).into(),
        Op::In(port) => pic.read(PORTS[usize::from(port)], work).unwrap().into(),
        Op::Ack => pic.acknowledge(work).into(),
    }
}

/// The chip's choice, spelled as a walk down the priorities.
fn naive_request(s: &KvmPicState, master: bool) -> Option<u8> {
    for step in 0..8 {
        let irq = (step + u16::from(s.priority_add)) as u8 & 7;
        let mask = 1 << irq;
        let nests = master && s.special_fully_nested_mode != 0 && irq == 2;
        let hidden = s.special_mask != 0 && s.imr & mask != 0;
        if s.isr & mask != 0 && !nests && !hidden {
            return None;
        }
        if s.irr & !s.imr & mask != 0 {
            return Some(irq);
        }
    }
    None
}

proptest! {
    #[test]
    fn the_output_follows_the_registers(ops in proptest::collection::vec(op(), 1..200)) {
        let mut pic = Pc::new().pic;
        for op in ops {
            let before = pic.clone();
            let mut now = PicWork::default();
            apply(&mut pic, op, &mut now);
            let slave = naive_request(pic.state(SLAVE), false);
            prop_assert_eq!(pic.state(MASTER).irr & 4 != 0, slave.is_some());
            prop_assert_eq!(pic.output(), naive_request(pic.state(MASTER), true).is_some());
            if now.wake {
                prop_assert!(pic.output());
                prop_assert!(!before.output() || matches!(op, Op::Ack));
            }
            // Nothing leaves service unless it is reported.
            let gone = |old: u8, new: u8| old & !new;
            let left = u16::from(gone(before.state(MASTER).isr, pic.state(MASTER).isr))
                | u16::from(gone(before.state(SLAVE).isr, pic.state(SLAVE).isr)) << 8;
            prop_assert_eq!(left & !now.eoi, 0);
        }
    }

    #[test]
    fn any_state_is_read_back_and_behaves_the_same(
        ops in proptest::collection::vec(op(), 0..60),
        then in proptest::collection::vec(op(), 0..60),
    ) {
        let mut pic = Pc::new().pic;
        let mut work = PicWork::default();
        for op in ops {
            apply(&mut pic, op, &mut work);
        }
        let mut copy = Pic::new();
        copy.lines = pic.lines.clone();
        copy.set_state(SLAVE, pic.state(SLAVE), &mut work);
        copy.set_state(MASTER, pic.state(MASTER), &mut work);
        prop_assert_eq!(&copy, &pic);
        for op in then {
            let (mut a, mut b) = (PicWork::default(), PicWork::default());
            prop_assert_eq!(apply(&mut pic, op, &mut a), apply(&mut copy, op, &mut b));
            prop_assert_eq!(a, b);
        }
    }

    #[test]
    fn no_register_value_upsets_the_pair(
        states in any::<[[u8; 16]; 2]>(),
        ops in proptest::collection::vec(op(), 0..60),
    ) {
        let mut pic = Pic::new();
        let mut work = PicWork::default();
        for (chip, b) in [(MASTER, states[0]), (SLAVE, states[1])] {
            let state = KvmPicState {
                last_irr: b[0], irr: b[1], imr: b[2], isr: b[3], priority_add: b[4],
                irq_base: b[5], read_reg_select: b[6], poll: b[7], special_mask: b[8],
                init_state: b[9], auto_eoi: b[10], rotate_on_auto_eoi: b[11],
                special_fully_nested_mode: b[12], init4: b[13], elcr: b[14], elcr_mask: b[15],
            };
            pic.set_state(chip, &state, &mut work);
            let read = *pic.state(chip);
            // The cascade request is a function of the slave.
            prop_assert_eq!(KvmPicState { irr: read.irr & !4, ..read },
                KvmPicState { irr: read.irr & !4, ..state });
        }
        for op in ops {
            apply(&mut pic, op, &mut work);
            prop_assert_eq!(pic.output(), naive_request(pic.state(MASTER), true).is_some());
        }
    }

    /// A guest that serves and ends what it gets sees every asserted, unmasked level line.
    #[test]
    fn no_level_line_is_lost(
        ops in proptest::collection::vec(op(), 0..60),
        imr in any::<[u8; 2]>(),
        lines in any::<u16>(),
    ) {
        let mut pic = Pc::new().pic;
        let mut work = PicWork::default();
        for op in ops {
            apply(&mut pic, op, &mut work);
        }
        for (port, value) in [
            (0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01),
            (0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, 0x01),
            (0x4d0, 0xf8), (0x4d1, 0xde), (0x21, imr[0] & !4), (0xa1, imr[1]),
        ] {
            pic.write(port, value, &mut work);
        }
        let pins = lines & 0xdef8;
        for pin in 0..16 {
            for source in SOURCES {
                let level = pins & 1 << pin != 0 && source == IrqSource::User;
                pic.set_line(pin, source, level, &mut work);
            }
        }
        let mut seen = 0u16;
        let mut rounds = 0;
        while pic.output() {
            let vector = pic.acknowledge(&mut work);
            prop_assert!((0x30..0x40).contains(&vector));
            let pin = vector - 0x30;
            pic.set_line(pin, IrqSource::User, false, &mut work);
            if pin >= 8 {
                pic.write(0xa0, 0x60 | (pin & 7), &mut work);
                pic.write(0x20, 0x62, &mut work);
            } else {
                pic.write(0x20, 0x60 | pin, &mut work);
            }
            seen |= 1 << pin;
            rounds += 1;
            prop_assert!(rounds <= 32);
        }
        let unmasked = !(u16::from(imr[0] & !4) | u16::from(imr[1]) << 8);
        prop_assert_eq!(seen & pins, pins & unmasked);
    }
}
