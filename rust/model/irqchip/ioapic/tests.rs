// SPDX-License-Identifier: GPL-2.0

use super::*;
use crate::x86::apic::Trigger;
use proptest::prelude::*;

const LEVEL: u32 = 1 << 15;
const MASK: u32 = 1 << 16;

/// A chip with a guest in front and one willing local APIC behind.
struct Bench {
    io: IoApic,
    work: IoApicWork,
    /// Messages that were delivered, in order.
    sent: Vec<(u8, Message)>,
    accepts: u32,
}

impl Bench {
    fn new() -> Self {
        Bench {
            io: IoApic::new(),
            work: IoApicWork::default(),
            sent: Vec::new(),
            accepts: 1,
        }
    }

    /// Does what the caller must do before it unlocks.
    fn deliver(&mut self) {
        let pins = std::mem::take(&mut self.work.deliver);
        for pin in Pins(pins) {
            self.sent.push((pin, self.io.message(pin)));
            self.io.delivered(pin, self.accepts);
        }
    }

    fn mmio(&mut self, offset: u64, value: u32) {
        let data = value.to_le_bytes();
        assert!(self
            .io
            .write(IOAPIC_DEFAULT_BASE + offset, &data, &mut self.work));
        self.deliver();
    }

    fn set_reg(&mut self, reg: u32, value: u32) {
        self.mmio(0, reg);
        self.mmio(0x10, value);
    }

    fn reg(&mut self, reg: u32) -> u32 {
        self.mmio(0, reg);
        let mut data = [0; 4];
        assert!(self.io.read(IOAPIC_DEFAULT_BASE + 0x10, &mut data));
        u32::from_le_bytes(data)
    }

    /// Programs the low half of an entry.
    fn program(&mut self, pin: u8, low: u32) {
        self.set_reg(0x10 + 2 * u32::from(pin), low);
    }

    fn line(&mut self, pin: u8, level: bool) -> LineStatus {
        self.source(pin, IrqSource::User, level)
    }

    fn source(&mut self, pin: u8, source: IrqSource, level: bool) -> LineStatus {
        let status = self.io.set_line(pin, source, level, false, &mut self.work);
        self.deliver();
        status
    }

    fn eoi(&mut self, vector: u8) {
        self.io.eoi(vector, true, false, &mut self.work);
        self.deliver();
    }

    fn sent(&mut self) -> Vec<u8> {
        self.sent.drain(..).map(|(pin, _)| pin).collect()
    }

    fn take_work(&mut self) -> IoApicWork {
        std::mem::take(&mut self.work)
    }
}

#[test]
fn the_indirect_registers() {
    let mut b = Bench::new();
    assert_eq!(b.reg(1), 0x0017_0011);
    b.set_reg(1, u32::MAX);
    assert_eq!(b.reg(1), 0x0017_0011);
    b.set_reg(0, 0xab00_0000);
    assert_eq!(b.reg(0), 0x0b00_0000);
    b.set_reg(2, 0);
    assert_eq!(b.reg(2), 0x0b00_0000);
    for reg in (3..0x10).chain(0x40..0x100) {
        b.set_reg(reg, 0);
        assert_eq!(b.reg(reg), u32::MAX, "register {reg:#x}");
    }
    for pin in 0..24 {
        assert_eq!(b.reg(0x10 + 2 * pin), MASK);
        b.set_reg(0x11 + 2 * pin, pin << 24);
        b.set_reg(0x10 + 2 * pin, MASK | 0x40 | pin);
    }
    for pin in 0..24u8 {
        let entry = b.io.entry(pin);
        assert_eq!(entry.vector(), 0x40 | pin);
        assert_eq!(entry.dest().id, pin);
        assert_eq!(b.reg(0x11 + 2 * u32::from(pin)), u32::from(pin) << 24);
    }
}

#[test]
fn the_window_takes_any_width() {
    let mut b = Bench::new();
    let base = IOAPIC_DEFAULT_BASE;
    assert!(b.io.write(base, &[0x10], &mut b.work));
    assert!(b.io.write(base + 0x10, &[0x34, 0x12], &mut b.work));
    assert_eq!(b.io.entry(0).0, 0x1234 & !RedirEntry::READ_ONLY);
    let wide = [0x78, 0x06, 0x01, 0, 0xff, 0xff, 0xff, 0xff];
    assert!(b.io.write(base + 0x10, &wide, &mut b.work));
    assert_eq!(b.io.entry(0).0, 0x0001_0678);
    assert!(b.io.write(base + 0x10, &[1, 2, 3], &mut b.work));
    assert_eq!(b.io.entry(0).0, 0x0001_0678);
    for len in [1usize, 2, 4, 8] {
        let mut data = [0xee; 8];
        assert!(b.io.read(base + 0x10, &mut data[..len]));
        let want = [0x78, 0x06, 0x01, 0, 0, 0, 0, 0];
        assert_eq!(data[..len], want[..len]);
        assert!(data[len..].iter().all(|b| *b == 0xee));
    }
    let mut data = [0xee; 4];
    assert!(b.io.read(base + 0x20, &mut data));
    assert_eq!(data, [0; 4]);
    assert!(!b.io.read(base + 0x100, &mut data));
    assert!(!b.io.write(base - 1, &data, &mut b.work));
}

#[test]
fn an_edge_sends_once() {
    let mut b = Bench::new();
    b.program(5, 0x35);
    assert_eq!(b.line(5, true), LineStatus::Delivered);
    assert_eq!(b.line(5, true), LineStatus::Coalesced);
    assert_eq!(b.line(5, false), LineStatus::Delivered);
    assert_eq!(b.line(5, true), LineStatus::Delivered);
    assert_eq!(b.sent(), [5, 5]);
    assert!(!b.io.entry(5).remote_irr());
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut b = Bench::new();
    b.program(5, MASK | 0x35);
    assert_eq!(b.line(5, true), LineStatus::Ignored);
    b.program(5, 0x35);
    assert_eq!(b.sent(), []);
}

#[test]
fn a_level_sends_until_it_falls() {
    let mut b = Bench::new();
    b.program(11, LEVEL | 0x51);
    assert_eq!(b.line(11, true), LineStatus::Delivered);
    assert!(b.io.entry(11).remote_irr());
    assert_eq!(b.line(11, true), LineStatus::Ignored, "waiting for the EOI");
    b.eoi(0x50);
    assert_eq!(b.sent(), [11]);
    b.eoi(0x51);
    assert_eq!(b.sent(), [11]);
    assert_eq!(b.take_work().eoi, 1 << 11);
    b.line(11, false);
    b.eoi(0x51);
    assert_eq!(b.sent(), []);
    assert!(!b.io.entry(11).remote_irr());
}

#[test]
fn a_level_on_a_masked_pin_waits() {
    let mut b = Bench::new();
    b.program(11, LEVEL | MASK | 0x51);
    assert_eq!(b.line(11, true), LineStatus::Ignored);
    b.take_work();
    b.program(11, LEVEL | 0x51);
    assert_eq!(b.sent(), [11]);
    assert_eq!(b.take_work().unmasked, 1 << 11);
    b.program(11, LEVEL | MASK | 0x51);
    assert_eq!(b.take_work().masked, 1 << 11);
    // Remote IRR outlives the masking, and an EOI of a masked pin does not send.
    assert!(b.io.entry(11).remote_irr());
    b.eoi(0x51);
    assert_eq!(b.sent(), []);
}

#[test]
fn two_sources_share_a_level() {
    let mut b = Bench::new();
    b.program(10, LEVEL | 0x40);
    b.line(10, true);
    b.source(10, IrqSource::Resample, true);
    b.line(10, false);
    assert_eq!(b.sent(), [10]);
    // The resampling source goes down with the EOI.
    b.eoi(0x40);
    assert_eq!(b.sent(), []);
    assert_eq!(
        b.source(10, IrqSource::Resample, true),
        LineStatus::Delivered
    );
    b.line(10, true);
    assert_eq!(b.sent(), [10]);
    b.eoi(0x40);
    assert_eq!(b.sent(), [10], "the other source still asks");
}

#[test]
fn making_an_entry_edge_triggered_ends_its_interrupt() {
    let mut b = Bench::new();
    b.program(9, LEVEL | 0x60);
    b.line(9, true);
    b.program(9, MASK | 0x60);
    assert!(!b.io.entry(9).remote_irr());
    b.program(9, LEVEL | 0x60);
    assert_eq!(b.sent(), [9, 9]);
}

#[test]
fn an_edge_eoi_or_a_suppressed_one_leaves_remote_irr() {
    let mut b = Bench::new();
    b.program(9, LEVEL | 0x60);
    b.line(9, true);
    b.io.eoi(0x60, false, false, &mut b.work);
    b.io.eoi(0x60, true, true, &mut b.work);
    assert_eq!(b.work.eoi, 1 << 9);
    assert_eq!(b.work.deliver, 0);
    assert!(b.io.entry(9).remote_irr());
}

#[test]
fn a_message_that_nobody_accepts_does_not_wait_for_an_eoi() {
    let mut b = Bench::new();
    b.accepts = 0;
    b.program(9, LEVEL | 0x60);
    b.line(9, true);
    assert!(!b.io.entry(9).remote_irr());
    b.accepts = 1;
    b.set_reg(0x11 + 18, 0x0100_0000);
    assert_eq!(b.sent(), [9, 9]);
    assert!(b.io.entry(9).remote_irr());
}

#[test]
fn pins_with_one_vector_end_together() {
    let mut b = Bench::new();
    for pin in [3, 4] {
        b.program(pin, LEVEL | 0x33);
    }
    b.program(5, 0x33);
    b.line(3, true);
    b.line(5, true);
    b.sent();
    b.eoi(0x33);
    assert_eq!(b.work.eoi, 0b11_1000);
    assert_eq!(b.sent(), [3], "an edge is not sent again");
}

#[test]
fn unmasking_asks_the_resampler_first() {
    let mut b = Bench::new();
    b.io.set_resampled(1 << 11);
    b.program(11, LEVEL | 0x51);
    b.source(11, IrqSource::Resample, true);
    b.program(11, LEVEL | MASK | 0x51);
    b.eoi(0x51);
    b.source(11, IrqSource::Resample, true);
    b.sent();
    b.take_work();
    b.program(11, LEVEL | 0x51);
    assert_eq!(b.work.resample, 1 << 11);
    assert_eq!(b.sent(), []);
    // The device still asks.
    b.source(11, IrqSource::Resample, true);
    assert_eq!(b.sent(), [11]);
}

#[test]
fn a_storm_gets_a_pause() {
    let mut b = Bench::new();
    b.program(11, LEVEL | 0x51);
    b.line(11, true);
    for _ in 0..STORM - 1 {
        b.eoi(0x51);
    }
    assert_eq!(b.sent().len(), usize::from(STORM));
    assert!(!b.work.defer);
    b.eoi(0x51);
    assert!(b.work.defer);
    assert_eq!(b.sent(), []);
    b.io.inject_deferred(&mut b.work);
    b.deliver();
    assert_eq!(b.sent(), [11]);
    // After the pause it starts over.
    b.take_work();
    b.eoi(0x51);
    assert_eq!(b.sent(), [11]);
    assert!(!b.work.defer);
    // It counts only successive EOIs.
    b.line(11, false);
    b.eoi(0x51);
    assert_eq!(b.io.storm[11], 0);
    // Nothing is left to inject.
    b.io.inject_deferred(&mut b.work);
    assert_eq!(b.work.deliver, 0);
}

#[test]
fn a_deferred_pin_can_be_withdrawn_or_masked() {
    for low in [LEVEL | MASK | 0x51, 0x51] {
        let mut b = Bench::new();
        b.program(11, LEVEL | 0x51);
        b.io.storm[11] = STORM - 1;
        b.line(11, true);
        b.eoi(0x51);
        assert!(b.work.defer);
        b.program(11, low);
        b.sent();
        b.io.inject_deferred(&mut b.work);
        assert_eq!(b.work.deliver, 0);
    }
}

#[test]
fn clock_ticks_coalesce_until_the_eoi() {
    let mut b = Bench::new();
    b.program(RTC_PIN, 0x70);
    let tick = |b: &mut Bench| {
        let set = |b: &mut Bench, level| {
            let status =
                b.io.set_line(RTC_PIN, IrqSource::User, level, true, &mut b.work);
            b.deliver();
            status
        };
        let status = set(b, true);
        set(b, false);
        status
    };
    b.accepts = 2;
    assert_eq!(tick(&mut b), LineStatus::Delivered);
    assert_eq!(tick(&mut b), LineStatus::Coalesced);
    assert_eq!(b.io.eoi_vectors(0, |_| false)[1], 1 << 0x30);
    b.io.eoi(0x70, false, false, &mut b.work);
    assert_eq!(tick(&mut b), LineStatus::Coalesced, "one CPU is not done");
    b.io.eoi(0x71, false, false, &mut b.work);
    assert!(b.io.rtc_pending());
    b.io.eoi(0x70, false, false, &mut b.work);
    assert_eq!(tick(&mut b), LineStatus::Delivered);
    // Who does not ask for the status is not held back.
    b.line(RTC_PIN, true);
    assert_eq!(b.sent(), [8, 8, 8]);
    b.io.set_rtc_pending(0);
    b.accepts = 0;
    b.line(RTC_PIN, false);
    assert_eq!(tick(&mut b), LineStatus::Delivered);
    assert!(!b.io.rtc_pending(), "nobody owes an EOI");
}

#[test]
fn restoring_forgets_the_ticks_of_the_clock() {
    let mut b = Bench::new();
    b.program(RTC_PIN, 0x70);
    b.io.set_rtc_pending(3);
    let mut state = KvmIoapicState::zeroed();
    b.io.save(&mut state);
    b.io.restore(&state, &mut b.work);
    assert!(!b.io.rtc_pending());
}

#[test]
fn ticks_come_and_go_with_local_apics() {
    let mut b = Bench::new();
    b.program(RTC_PIN, 0x70);
    b.accepts = 2;
    b.io.set_line(RTC_PIN, IrqSource::User, true, true, &mut b.work);
    b.deliver();
    // One that has nothing of it; one, whose EOI will not come; one after a migration.
    b.io.rtc_lost(|v| v == 0x71);
    assert_eq!(b.io.rtc.pending, 2);
    b.io.rtc_lost(|v| v == 0x70);
    assert_eq!(b.io.rtc.pending, 1);
    b.io.rtc_found(|v| v == 0x71);
    assert_eq!(b.io.rtc.pending, 1);
    b.io.rtc_found(|v| v == 0x70);
    assert_eq!(b.io.rtc.pending, 2);
    for left in [1, 0, 0] {
        b.io.rtc_lost(|_| true);
        assert_eq!(b.io.rtc.pending, left);
    }
    // Where no tick can have come from.
    for low in [MASK | 0x70, LEVEL | 0x70] {
        b.program(RTC_PIN, low);
        b.io.rtc_found(|_| true);
        assert!(!b.io.rtc_pending());
    }
}

#[test]
fn a_level_triggered_clock_does_not_coalesce() {
    let mut b = Bench::new();
    b.program(RTC_PIN, 0x70);
    let line = |b: &mut Bench, level| {
        let status =
            b.io.set_line(RTC_PIN, IrqSource::User, level, true, &mut b.work);
        b.deliver();
        status
    };
    line(&mut b, true);
    line(&mut b, false);
    // A tick that coalesces leaves no request, so that a raise after the EOI is a new edge,
    assert_eq!(line(&mut b, true), LineStatus::Coalesced);
    assert_eq!(b.io.irr, 0);
    // but its line is up, and a level would be seen.
    b.program(RTC_PIN, LEVEL | 0x70);
    assert_eq!(b.sent(), [8, 8]);
    b.program(RTC_PIN, 0x70);
    line(&mut b, false);
    b.program(RTC_PIN, LEVEL | 0x70);
    assert!(b.io.rtc_pending());
    assert_eq!(line(&mut b, true), LineStatus::Delivered);
    assert_eq!(b.sent(), [8]);
}

#[test]
fn only_routes_ask_for_a_rescan() {
    let mut b = Bench::new();
    let dest = |id, logical| Destination { id, logical };
    b.program(4, LEVEL | MASK | 0x44);
    assert_eq!(
        b.take_work().rescan,
        Rescan::Targets(dest(0, false), dest(0, false))
    );
    b.program(4, LEVEL | 0x44);
    b.line(4, true);
    assert_eq!(b.take_work().rescan, Rescan::None);
    b.set_reg(0x19, 0x0300_0000);
    assert_eq!(
        b.work.rescan,
        Rescan::Targets(dest(0, false), dest(3, false))
    );
    b.program(4, LEVEL | 0x844);
    assert_eq!(b.take_work().rescan, Rescan::All, "two different moves");
    b.program(4, LEVEL | 0x144);
    assert_eq!(b.take_work().rescan, Rescan::All, "lowest priority");
}

#[test]
fn eoi_vectors_lists_levels_notified_pins_and_the_clock() {
    let mut b = Bench::new();
    b.program(4, LEVEL | 0x44);
    b.program(5, 0x85);
    b.program(6, 0xc6);
    b.program(RTC_PIN, 0x28);
    let all = b.io.eoi_vectors(1 << 5, |_| true);
    assert_eq!(all, [1 << 0x28, 1 << 4, 1 << 5, 0]);
    assert_eq!(
        b.io.eoi_vectors(1 << 5, |m| m.trigger == Trigger::Level),
        [0, 1 << 4, 0, 0]
    );
}

#[test]
fn the_state_leaves_delivered_edges_out() {
    let mut b = Bench::new();
    b.program(5, 0x35);
    b.program(6, MASK | 0x36);
    b.program(7, LEVEL | MASK | 0x37);
    for pin in [5, 6, 7] {
        b.line(pin, true);
    }
    let mut state = KvmIoapicState::zeroed();
    b.io.save(&mut state);
    assert_eq!(state.irr, 1 << 6 | 1 << 7);
    // A new edge that cannot be delivered is pending again.
    b.line(5, false);
    b.program(5, MASK | 0x35);
    b.line(5, true);
    b.io.save(&mut state);
    assert_eq!(state.irr, 1 << 5 | 1 << 6 | 1 << 7);
}

#[test]
fn a_delivered_edge_that_became_a_level_is_in_the_state() {
    let mut b = Bench::new();
    b.program(5, 0x35);
    b.line(5, true);
    b.program(5, LEVEL | 0x35);
    let mut state = KvmIoapicState::zeroed();
    b.io.save(&mut state);
    assert_eq!(state.irr, 1 << 5);
}

#[test]
fn restoring_raises_the_requests() {
    let mut state = KvmIoapicState {
        base_address: IOAPIC_DEFAULT_BASE,
        irr: u32::MAX,
        redirtbl: [u64::from(MASK); 24],
        ..KvmIoapicState::zeroed()
    };
    state.redirtbl[4] = 0x34;
    state.redirtbl[5] = u64::from(LEVEL) | 0x35;
    state.redirtbl[6] = u64::from(LEVEL) | RedirEntry::REMOTE_IRR | 0x36;
    let mut b = Bench::new();
    b.io.restore(&state, &mut b.work);
    assert_eq!(b.work.rescan, Rescan::All);
    b.deliver();
    assert_eq!(b.sent(), [4, 5]);
    b.eoi(0x36);
    assert_eq!(b.sent(), [6]);
}

#[derive(Clone, Debug)]
enum Op {
    Line(u8, u8, bool, bool),
    Write(u8, u32),
    Entry(u8, u32),
    Eoi(u8, bool, bool),
    Defer,
    Resampled(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..26u8, 0..3u8, any::<bool>(), any::<bool>())
            .prop_map(|(p, s, l, w)| Op::Line(p, s, l, w)),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(r, v)| Op::Write(r, v)),
        // Few vectors, so that EOIs hit; mostly unmasked.
        3 => (0..24u8, 0..4u32, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
            |(p, v, level, mask)| {
                Op::Entry(p, v | if level { LEVEL } else { 0 } | if mask { MASK } else { 0 })
            }
        ),
        3 => (0..5u8, prop::bool::weighted(0.9), prop::bool::weighted(0.1))
            .prop_map(|(v, l, s)| Op::Eoi(v, l, s)),
        1 => Just(Op::Defer),
        1 => any::<u32>().prop_map(Op::Resampled),
    ]
}

const SOURCES: [IrqSource; 3] = [IrqSource::User, IrqSource::Resample, IrqSource::Pit];

fn apply(b: &mut Bench, op: &Op) {
    match *op {
        Op::Line(pin, source, level, status) => {
            let source = SOURCES[usize::from(source)];
            b.io.set_line(pin, source, level, status, &mut b.work);
        }
        Op::Write(reg, value) => b.set_reg(reg.into(), value),
        Op::Entry(pin, low) => b.program(pin, low),
        Op::Eoi(vector, level, suppressed) => b.io.eoi(vector, level, suppressed, &mut b.work),
        Op::Defer => b.io.inject_deferred(&mut b.work),
        Op::Resampled(pins) => b.io.set_resampled(pins),
    }
    b.deliver();
}

proptest! {
    /// Whatever happens, a request that its entry lets through is on its way (Remote IRR) or known
    /// to be put off.
    #[test]
    fn no_level_request_is_forgotten(ops in prop::collection::vec(op(), 1..200)) {
        let mut b = Bench::new();
        for op in &ops {
            let asserted: Vec<bool> = (0..24).map(|pin| b.io.lines.level(pin)).collect();
            apply(&mut b, op);
            for pin in 0..24u8 {
                let entry = b.io.entry(pin);
                if b.io.irr & bit(pin) != 0 && entry.level() && !entry.masked() {
                    prop_assert!(entry.remote_irr(), "pin {} after {:?}", pin, op);
                }
                if !entry.level() {
                    prop_assert!(!entry.remote_irr());
                }
                // A line that rises is recorded, unless the clock coalesces it.
                if pin != RTC_PIN && b.io.lines.level(pin) && !asserted[usize::from(pin)] {
                    prop_assert!(b.io.irr & bit(pin) != 0);
                }
                if !b.io.lines.level(pin) {
                    prop_assert!(b.io.irr & bit(pin) == 0);
                }
            }
            prop_assert_eq!(b.io.irr >> 24, 0);
            prop_assert_eq!(b.io.redirtbl[24..].iter().filter(|e| e.0 != u64::from(MASK)).count(), 0);
        }
    }

    #[test]
    fn every_state_is_read_back(
        regs in any::<(u64, u32, u32, u32, u32)>(),
        redirtbl in any::<[u64; 24]>(),
        ops in prop::collection::vec(op(), 0..50),
    ) {
        let (base_address, ioregsel, id, irr, pad) = regs;
        let state = KvmIoapicState { base_address, ioregsel, id, irr, pad, redirtbl };
        let mut b = Bench::new();
        b.accepts = 0;
        b.io.restore(&state, &mut b.work);
        b.deliver();
        let mut read = KvmIoapicState::zeroed();
        b.io.save(&mut read);
        for pin in 0..24usize {
            let entry = RedirEntry(redirtbl[pin]);
            // Delivered requests: edges leave irr, a level that nobody took is not waiting.
            let sent = irr & 1 << pin != 0 && !entry.blocked();
            let mut want = entry;
            if sent && entry.level() {
                want.clear(RedirEntry::REMOTE_IRR);
            }
            prop_assert_eq!(read.redirtbl[pin] & !(u64::from(sent) * RedirEntry::REMOTE_IRR),
                want.0 & !(u64::from(sent) * RedirEntry::REMOTE_IRR));
            let pending = irr & 1 << pin != 0 && !(sent && !entry.level());
            prop_assert_eq!(read.irr & 1 << pin != 0, pending);
        }
        prop_assert_eq!(
            (read.base_address, read.ioregsel, read.id, read.pad),
            (base_address, ioregsel, id, pad)
        );
        // And nothing in it upsets the chip.
        b.accepts = 1;
        for op in &ops {
            match op {
                Op::Write(_, value) => {
                    let data = value.to_le_bytes();
                    b.io.write(base_address.wrapping_add(0x10), &data, &mut b.work);
                    b.io.read(base_address.wrapping_add(0x10), &mut [0; 4]);
                }
                Op::Entry(..) => {}
                other => apply(&mut b, other),
            }
            b.deliver();
        }
    }

    /// Saving and restoring in the middle changes nothing that a guest or a caller can see later.
    #[test]
    fn a_migrated_chip_behaves_the_same(
        ops in prop::collection::vec(op(), 0..60),
        then in prop::collection::vec(op(), 0..60),
    ) {
        let mut a = Bench::new();
        for op in &ops {
            apply(&mut a, op);
        }
        // That an edge was delivered or lost while its line is still high is the one thing the
        // format cannot say.
        for pin in 0..24 {
            if a.io.irr & bit(pin) != 0 && !a.io.entry(pin).level() {
                for source in SOURCES {
                    a.io.set_line(pin, source, false, false, &mut a.work);
                }
            }
        }
        let mut state = KvmIoapicState::zeroed();
        a.io.save(&mut state);
        let mut b = Bench::new();
        b.io.lines = a.io.lines.clone();
        b.io.storm = a.io.storm;
        b.io.resampled = a.io.resampled;
        b.io.restore(&state, &mut b.work);
        b.deliver();
        prop_assert!(b.sent.is_empty(), "nothing is delivered twice");
        b.io.rtc = a.io.rtc.clone();
        a.sent();
        for op in &then {
            apply(&mut a, op);
            apply(&mut b, op);
            prop_assert_eq!(&a.sent, &b.sent);
        }
    }
}
