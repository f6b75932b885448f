// SPDX-License-Identifier: GPL-2.0

//! The PIC, the IOAPIC, the PIT and the routing table as one machine: interleaved port and memory
//! accesses, lines, EOIs, time and migrations, chosen by bytes. A property test and a fuzz target
//! run it.
//!
//! The machine does with the chips' work what their module documentation asks of a caller, under a
//! guest that does anything. In the end the guest comes to its senses: it programs the chips anew
//! and serves what it gets, and then it must get everything that asks for it.

use model::abi::{KvmIoapicState, KvmIrqRoutingEntry, KvmPitState2};
use model::irqchip::ioapic::{IoApic, IoApicWork, IOAPIC_DEFAULT_BASE};
use model::irqchip::line::{combine_status, IrqSource, LineStatus, Pins};
use model::irqchip::pic::{Pic, PicChip, PicWork};
use model::irqchip::pit::{Pit, PitTimer, PitWork};
use model::irqchip::route::DEFAULT_ROUTING;
use model::irqchip::route::{build, measure, PinGsis, Route, RouteRules, RoutingTable};
use model::x86::apic::Trigger;
use std::collections::{BTreeMap, BTreeSet};

/// The bytes that decide; zeros when they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

/// GSIs 0 to 23. Devices on the first twelve drive their lines themselves, those on the others are
/// behind resampling irqfds.
const GSIS: u32 = 24;
const RESAMPLED: u32 = 0xff_f000;

struct Machine {
    pic: Pic,
    ioapic: IoApic,
    pit: Pit,
    ends: Vec<u16>,
    routes: Vec<Route>,
    pins: PinGsis,
    now: u64,
    timer: Option<u64>,
    /// GSIs whose device asks for service.
    wanted: u32,
    /// Vectors that the local APIC has not handed to the CPU, with their trigger mode.
    apic_irr: BTreeMap<u8, bool>,
    apic_isr: BTreeMap<u8, bool>,
    apic_on: bool,
}

impl Machine {
    fn new(entries: &[KvmIrqRoutingEntry]) -> Self {
        let size = measure(entries).unwrap();
        let mut ends = vec![0; size.gsis];
        let mut routes = vec![Route::default(); size.routes];
        let rules = RouteRules {
            chips: true,
            ids32: false,
        };
        let pins = build(entries, rules, &mut ends, &mut routes).unwrap();
        let mut m = Machine {
            pic: Pic::new(),
            ioapic: IoApic::new(),
            pit: Pit::new(0, 200_000),
            ends,
            routes,
            pins,
            now: 0,
            timer: None,
            wanted: 0,
            apic_irr: BTreeMap::new(),
            apic_isr: BTreeMap::new(),
            apic_on: true,
        };
        m.name_resampled();
        m
    }

    fn name_resampled(&mut self) {
        let resampled = |pin: &u8| {
            self.pins
                .ioapic_gsi(*pin)
                .is_some_and(|gsi| RESAMPLED & 1 << gsi != 0)
        };
        let pins = (0..24u8).filter(resampled).map(|pin| 1 << pin).sum();
        self.ioapic.set_resampled(pins);
    }

    /// `KVM_IRQ_LINE_STATUS`.
    fn set_gsi(&mut self, gsi: u32, source: IrqSource, level: bool, status: bool) -> i32 {
        let routes = RoutingTable::new(&self.ends, &self.routes)
            .lookup(gsi)
            .to_vec();
        let mut total = LineStatus::Ignored.value();
        for route in routes {
            let one = match route {
                Route::Pic(pin) => {
                    let mut work = PicWork::default();
                    let one = self.pic.set_line(pin, source, level, &mut work);
                    self.after_pic(work);
                    one.value()
                }
                Route::IoApic(pin) => {
                    let mut work = IoApicWork::default();
                    let one = self.ioapic.set_line(pin, source, level, status, &mut work);
                    match self.after_ioapic(work) {
                        Some(accepted) => accepted,
                        None => one.value(),
                    }
                }
                Route::Msi { .. } => LineStatus::Ignored.value(),
            };
            total = combine_status(total, one);
        }
        total
    }

    fn after_pic(&mut self, work: PicWork) {
        for pin in Pins(work.unmasked.into()) {
            if self.pins.pic_gsi(pin) == Some(0) {
                self.pit.unmasked();
            }
        }
        for pin in Pins(work.eoi.into()) {
            if let Some(gsi) = self.pins.pic_gsi(pin) {
                self.ended(gsi);
            }
        }
    }

    /// Returns how many accepted the last message, if there was one.
    fn after_ioapic(&mut self, work: IoApicWork) -> Option<i32> {
        let mut accepted = None;
        for pin in Pins(work.deliver) {
            let message = self.ioapic.message(pin);
            assert!(message.assert && !message.redirection_hint);
            if self.apic_on {
                let level = message.trigger == Trigger::Level;
                self.apic_irr.insert(message.vector, level);
            }
            self.ioapic.delivered(pin, self.apic_on.into());
            accepted = Some(self.apic_on.into());
        }
        for pin in Pins(work.unmasked) {
            if self.pins.ioapic_gsi(pin) == Some(0) {
                self.pit.unmasked();
            }
        }
        for pin in Pins(work.eoi) {
            if let Some(gsi) = self.pins.ioapic_gsi(pin) {
                self.ended(gsi);
            }
        }
        for pin in Pins(work.resample) {
            if let Some(gsi) = self.pins.ioapic_gsi(pin) {
                self.resample(gsi);
            }
        }
        if work.defer {
            let mut work = IoApicWork::default();
            self.ioapic.inject_deferred(&mut work);
            self.after_ioapic(work);
        }
        accepted
    }

    fn after_pit(&mut self, work: PitWork) {
        match work.timer {
            Some(PitTimer::Arm { at_ns, .. }) => self.timer = Some(at_ns),
            Some(PitTimer::Disarm) => self.timer = None,
            None => {}
        }
        assert_eq!(self.pit.next_expiry(), self.timer);
        if work.tick {
            self.set_gsi(0, IrqSource::Pit, true, false);
            self.set_gsi(0, IrqSource::Pit, false, false);
        }
    }

    /// The acknowledge notifiers of a GSI.
    fn ended(&mut self, gsi: u32) {
        if gsi == 0 {
            let mut work = PitWork::default();
            self.pit.acknowledged(&mut work);
            self.after_pit(work);
        }
        if RESAMPLED & 1 << gsi != 0 {
            self.set_gsi(gsi, IrqSource::Resample, false, false);
            self.resample(gsi);
        }
    }

    /// A resampler: the device asserts again if it still wants service.
    fn resample(&mut self, gsi: u32) {
        if self.wanted & 1 << gsi != 0 {
            self.set_gsi(gsi, IrqSource::Resample, true, false);
        }
    }

    /// A device starts to ask.
    fn want(&mut self, gsi: u32, status: bool) {
        self.wanted |= 1 << gsi;
        let source = if RESAMPLED & 1 << gsi != 0 {
            IrqSource::Resample
        } else {
            IrqSource::User
        };
        let result = self.set_gsi(gsi, source, true, status);
        assert!((-1..=2).contains(&result));
    }

    /// A device is content. One behind a resampler keeps that to itself.
    fn serve(&mut self, gsi: u32) {
        self.wanted &= !(1 << gsi);
        if RESAMPLED & 1 << gsi == 0 {
            self.set_gsi(gsi, IrqSource::User, false, false);
        }
    }

    fn out(&mut self, port: u16, value: u8) {
        let mut pic = PicWork::default();
        let mut pit = PitWork::default();
        if self.pic.write(port, value, &mut pic) {
            self.after_pic(pic);
        } else if self.pit.write(port, value, self.now, &mut pit) {
            self.after_pit(pit);
        } else {
            self.pit.write_speaker(value, self.now);
        }
    }

    fn inb(&mut self, port: u16) {
        let mut work = PicWork::default();
        if self.pic.read(port, &mut work).is_some() {
            self.after_pic(work);
        } else if self.pit.read(port, self.now).is_none() {
            self.pit.read_speaker(self.now);
        }
    }

    fn mmio(&mut self, offset: u64, value: u32) {
        let mut work = IoApicWork::default();
        let data = value.to_le_bytes();
        assert!(self
            .ioapic
            .write(IOAPIC_DEFAULT_BASE + offset, &data, &mut work));
        self.after_ioapic(work);
    }

    fn set_reg(&mut self, reg: u8, value: u32) {
        self.mmio(0, reg.into());
        self.mmio(0x10, value);
    }

    /// Lets time pass, and the timer expire if it is due.
    fn wait(&mut self, ns: u64) {
        self.now += ns;
        if self.timer.is_some_and(|at| at <= self.now) {
            let mut work = PitWork::default();
            self.timer = None;
            self.pit.expired(self.now, &mut work);
            self.after_pit(work);
        }
    }

    /// The CPU takes an interrupt from its local APIC, lowest vector first: any order will do.
    fn take_apic(&mut self) -> Option<u8> {
        let (vector, level) = self.apic_irr.pop_first()?;
        self.apic_isr.insert(vector, level);
        Some(vector)
    }

    fn eoi_apic(&mut self, vector: u8) {
        if let Some(level) = self.apic_isr.remove(&vector) {
            let mut work = IoApicWork::default();
            self.ioapic.eoi(vector, level, false, &mut work);
            self.after_ioapic(work);
        }
    }

    fn take_pic(&mut self) -> u8 {
        let mut work = PicWork::default();
        let vector = self.pic.acknowledge(&mut work);
        self.after_pic(work);
        vector
    }

    /// Moves the machine to new chips. Devices raise their lines again, as they do after a
    /// migration.
    fn migrate(&mut self) {
        let mut ioapic = KvmIoapicState::zeroed();
        let mut pit = KvmPitState2::zeroed();
        let (master, slave) = (
            *self.pic.state(PicChip::Master),
            *self.pic.state(PicChip::Slave),
        );
        self.ioapic.save(&mut ioapic);
        self.pit.save(&mut pit);
        self.pic = Pic::new();
        self.ioapic = IoApic::new();
        self.pit = Pit::new(self.now, 200_000);
        self.name_resampled();

        let mut work = PicWork::default();
        self.pic.set_state(PicChip::Master, &master, &mut work);
        self.pic.set_state(PicChip::Slave, &slave, &mut work);
        assert_eq!(*self.pic.state(PicChip::Master), master);
        self.after_pic(work);
        let mut work = IoApicWork::default();
        self.ioapic.restore(&ioapic, &mut work);
        self.after_ioapic(work);
        while self.ioapic.rtc_pending() {
            self.ioapic.rtc_lost(|_| true);
        }
        let mut work = PitWork::default();
        self.pit.restore(&pit, self.now, &mut work);
        self.after_pit(work);
        for gsi in Pins(self.wanted) {
            self.want(gsi.into(), false);
        }
    }

    fn step(&mut self, c: &mut Choices<'_>) {
        let op = c.below(16);
        match op {
            0 | 1 => {
                let gsi = u32::from(c.below(GSIS as u8));
                self.want(gsi, c.byte() & 1 != 0);
            }
            2 => {
                let gsi = u32::from(c.below(GSIS as u8));
                self.serve(gsi);
            }
            3 => {
                let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(c.below(6))];
                self.out(port, c.byte());
            }
            4 => {
                let port = [0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x61];
                self.inb(port[usize::from(c.below(9))]);
            }
            5 | 6 => {
                // An entry with one of few vectors, mostly unmasked.
                let low = c.word();
                let low = (low & 0xa007) | (low >> 16 & 0x1_0000 & (low >> 15));
                self.set_reg(0x10 + 2 * c.below(24), low);
            }
            7 => {
                let value = c.word();
                self.set_reg(c.byte(), value);
            }
            8 => {
                let port = [0x40, 0x41, 0x42, 0x43, 0x61][usize::from(c.below(5))];
                self.out(port, c.byte());
            }
            9 => self.wait(u64::from(c.word()) >> (c.byte() & 31)),
            10 => {
                self.take_apic();
            }
            11 => {
                if let Some(vector) = self.apic_isr.keys().next().copied() {
                    self.eoi_apic(vector);
                }
            }
            12 => {
                if self.pic.output() || c.byte() == 0 {
                    self.take_pic();
                }
            }
            13 => {
                self.out(0x20, 0x20);
                self.out(0xa0, 0x20);
            }
            14 => match c.below(4) {
                0 => self.apic_on = !self.apic_on,
                1 => self.pit.set_reinject(c.byte() & 1 != 0),
                _ => {}
            },
            _ => self.migrate(),
        }
    }

    /// The guest starts over with the IOAPIC: pin `n` is level-triggered with vector 0x30 + n,
    /// except that of the timer.
    fn use_ioapic(&mut self) {
        self.apic_on = true;
        self.out(0x21, 0xff);
        self.out(0xa1, 0xff);
        for pin in 0..24 {
            self.set_reg(0x10 + 2 * pin, 0x1_0000);
        }
        // What was under way before ends now.
        while let Some(vector) = self.take_apic() {
            self.eoi_apic(vector);
        }
        while let Some(vector) = self.apic_isr.keys().next().copied() {
            self.eoi_apic(vector);
        }
        for pin in 0..24 {
            let timer = self.pins.ioapic_gsi(pin) == Some(0);
            let level = if timer { 0 } else { 0x8000 };
            self.set_reg(0x10 + 2 * pin, level | (0x30 + u32::from(pin)));
        }
    }

    /// Serves every interrupt from the IOAPIC; the GSIs that were served.
    fn drain_ioapic(&mut self) -> BTreeSet<u32> {
        let mut served = BTreeSet::new();
        for round in 0.. {
            assert!(round < 1000, "interrupts without end");
            let Some(vector) = self.take_apic() else {
                break;
            };
            if let Some(gsi) = self.pins.ioapic_gsi(vector - 0x30) {
                if gsi != 0 {
                    self.serve(gsi);
                }
                served.insert(gsi);
            }
            self.eoi_apic(vector);
        }
        served
    }

    /// The guest starts over with the PIC, level-triggered where that is possible.
    fn use_pic(&mut self) {
        for pin in 0..24 {
            self.set_reg(0x10 + 2 * pin, 0x1_0000);
        }
        self.apic_irr.clear();
        self.apic_isr.clear();
        for (port, value) in [
            // No timer; and with its input masked once more, no missed ticks either.
            (0x43, 0x30),
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0x21, 0xff),
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x4d0, 0xff),
            (0x4d1, 0xff),
            (0x21, 0x00),
            (0xa1, 0x00),
        ] {
            self.out(port, value);
        }
    }

    /// Serves every interrupt from the PIC; the GSIs that were served.
    fn drain_pic(&mut self) -> BTreeSet<u32> {
        let mut served = BTreeSet::new();
        for round in 0.. {
            assert!(round < 1000, "interrupts without end");
            if !self.pic.output() {
                break;
            }
            let vector = self.take_pic();
            assert!((0x30..0x40).contains(&vector), "{vector:#x}");
            let pin = vector - 0x30;
            if let Some(gsi) = self.pins.pic_gsi(pin) {
                self.serve(gsi);
                served.insert(gsi);
            }
            if pin >= 8 {
                self.out(0xa0, 0x60 | (pin & 7));
                self.out(0x20, 0x62);
            } else {
                self.out(0x20, 0x60 | pin);
            }
        }
        served
    }
}

/// One run of the machine.
pub fn run(data: &[u8]) {
    let mut c = Choices(data);
    let flags = c.byte();
    let mut entries = DEFAULT_ROUTING.to_vec();
    if flags & 1 != 0 {
        // As PCs are wired: the timer is IOAPIC pin 2.
        entries.retain(|e| !(e.u[0] == 2 && e.gsi == 2));
        for entry in &mut entries {
            if entry.u[0] == 2 && entry.gsi == 0 {
                entry.u[1] = 2;
            }
        }
    }
    let mut m = Machine::new(&entries);
    while !c.0.is_empty() {
        m.step(&mut c);
    }

    let wanted = |m: &Machine, gsis: u32| -> BTreeSet<u32> {
        Pins(m.wanted & gsis).map(u32::from).collect()
    };
    if flags & 2 != 0 {
        m.use_pic();
        // Edge-triggered inputs may have had their edge already.
        let level = wanted(&m, 0xdef8);
        let served = m.drain_pic();
        assert!(served.is_superset(&level), "{level:?} {served:?}");
        assert_eq!(m.wanted & 0xdef8, 0);
        return;
    }
    m.use_ioapic();
    let timer_pin = if flags & 1 != 0 { 2 } else { 0 };
    let routed = if flags & 1 != 0 { !0b101 } else { !1 };
    let level = wanted(&m, routed);
    let served = m.drain_ioapic();
    assert!(served.is_superset(&level), "{level:?} {served:?}");
    assert_eq!(m.wanted & routed, 0);

    // The timer ticks, and none is lost.
    m.serve(0);
    m.pit.set_reinject(flags & 4 != 0);
    for (port, value) in [(0x43, 0x34), (0x40, 0x9c), (0x40, 0x2e)] {
        m.out(port, value);
    }
    m.drain_ioapic();
    for tick in 0..5 {
        let at = m.timer.expect("a periodic timer");
        m.wait(at - m.now);
        assert_eq!(m.take_apic(), Some(0x30 + timer_pin), "tick {tick}");
        m.eoi_apic(0x30 + timer_pin);
        assert!(m.apic_irr.is_empty());
    }
}
