// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC (82093AA): 24 pins, each with a redirection entry that says which message the pin
//! sends to the local APICs.
//!
//! Owns the register file and the levels of the pins. The caller holds one lock around every call
//! and, before it drops the lock, acts on the [`IoApicWork`] a call added to:
//!
//! 1. for each pin of `deliver`, sends [`IoApic::message`] and reports how many local APICs took it
//!    with [`IoApic::delivered`];
//! 2. the rest (notifiers, rescans, the deferred injection) may be done after unlocking.
//!
//! Version 0x11 has no EOI register: an EOI arrives as a broadcast from the local APICs.
//! KVM: the polarity bit is stored and ignored; a line is asserted when its source says so.

mod entry;

pub use entry::Destination;
pub use entry::RedirEntry;

use super::line::{IrqSource, LineStatus, Lines, Pins};
use crate::abi::KvmIoapicState;
use crate::x86::apic::{Delivery, Message};

/// Input pins.
pub const IOAPIC_PINS: u8 = 24;
/// Where the register window is after a reset.
pub const IOAPIC_DEFAULT_BASE: u64 = 0xfec0_0000;
/// Bytes of the register window.
pub const IOAPIC_WINDOW: u64 = 0x100;
/// The pin of the real-time clock, whose coalescing user space is told about.
pub const RTC_PIN: u8 = 8;

/// The version register: the highest entry in bits 23:16, the version in 7:0.
const VERSION: u32 = (23 << 16) | 0x11;
const IOREGSEL: u64 = 0x00;
const IOWIN: u64 = 0x10;
const REG_ID: u32 = 0;
const REG_VERSION: u32 = 1;
const REG_ARBITRATION: u32 = 2;
const REG_REDIRECTION: u32 = 0x10;

/// Redeliveries of one pin by successive EOIs after which it is given a rest.
const STORM: u16 = 10_000;
/// How long the rest is: the delay between `IoApicWork::defer` and [`IoApic::inject_deferred`].
pub const STORM_DELAY_NS: u64 = 10_000_000;

/// Which vCPUs have to recompute the EOIs that they must report ([`IoApic::eoi_routes`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rescan {
    /// None.
    #[default]
    None,
    /// The ones that either destination addresses: an entry moved from the first to the second.
    Targets(Destination, Destination),
    /// All of them.
    All,
}

impl Rescan {
    fn merge(&mut self, other: Rescan) {
        *self = match (*self, other) {
            (Rescan::None, one) | (one, Rescan::None) => one,
            (a, b) if a == b => a,
            _ => Rescan::All,
        };
    }
}

/// What the caller has to do after a call, by pin. Calls only add to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoApicWork {
    /// Pins whose message is to be sent under the same lock.
    pub deliver: u32,
    /// Pins that got an EOI: run the acknowledge notifiers of their GSIs. A resampling source of
    /// the pin has been lowered already.
    pub eoi: u32,
    /// Pins that were unmasked over a request that may be out of date: signal their resampler, do
    /// not touch the line. If the device still asks, the request comes back.
    pub resample: u32,
    /// Pins that became masked.
    pub masked: u32,
    /// Pins that became unmasked: the PIT starts counting missed ticks afresh.
    pub unmasked: u32,
    /// Routes of EOIs changed.
    pub rescan: Rescan,
    /// Call [`IoApic::inject_deferred`] after [`STORM_DELAY_NS`].
    pub defer: bool,
}

/// Bookkeeping of the real-time clock's EOIs (see [`IoApic::delivered`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rtc {
    /// A tick is on its way whose acceptance is to be counted.
    expecting: bool,
    /// EOIs outstanding.
    pending: u32,
    /// The vector that the tick was sent with.
    vector: u8,
}

/// The I/O APIC.
///
/// ```
/// use model::irqchip::ioapic::{IoApic, IoApicWork, IOAPIC_DEFAULT_BASE};
/// use model::irqchip::line::{IrqSource, LineStatus};
///
/// let mut ioapic = IoApic::new();
/// let mut work = IoApicWork::default();
/// for (offset, value) in [(0x00, 0x18u32), (0x10, 0x31)] {
///     ioapic.write(IOAPIC_DEFAULT_BASE + offset, &value.to_le_bytes(), &mut work);
/// }
/// let status = ioapic.set_line(4, IrqSource::User, true, false, &mut work);
/// assert_eq!(status, LineStatus::Delivered);
/// assert_eq!(work.deliver, 1 << 4);
/// assert_eq!(ioapic.message(4).vector, 0x31);
/// ioapic.delivered(4, 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    base_address: u64,
    ioregsel: u32,
    id: u32,
    pad: u32,
    /// Requests: the line of a level-triggered pin, an edge until its line falls.
    irr: u32,
    /// Edges in `irr` that were delivered, and must not be again after a migration.
    edge_done: u32,
    /// Longer than the 24 entries so that an index masked to 5 bits is in range, even for a CPU
    /// that speculates past the comparison.
    redirtbl: [RedirEntry; 32],
    /// EOIs in a row that found the line of the pin still asserted.
    storm: [u16; IOAPIC_PINS as usize],
    lines: Lines<{ IOAPIC_PINS as usize }>,
    /// Pins whose GSI has a resampling irqfd.
    resampled: u32,
    rtc: Rtc,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

const fn bit(pin: u8) -> u32 {
    1u32.wrapping_shl(pin as u32)
}

impl IoApic {
    /// The chip after a reset: everything masked.
    pub const fn new() -> Self {
        IoApic {
            base_address: IOAPIC_DEFAULT_BASE,
            ioregsel: 0,
            id: 0,
            pad: 0,
            irr: 0,
            edge_done: 0,
            redirtbl: [RedirEntry(RedirEntry::MASK); 32],
            storm: [0; IOAPIC_PINS as usize],
            lines: Lines::new(),
            resampled: 0,
            rtc: Rtc {
                expecting: false,
                pending: 0,
                vector: 0,
            },
        }
    }

    /// Whether the register window covers `gpa`.
    pub fn contains(&self, gpa: u64) -> bool {
        gpa.checked_sub(self.base_address)
            .is_some_and(|offset| offset < IOAPIC_WINDOW)
    }

    /// The redirection entry of `pin`; a masked one if there is no such pin.
    pub fn entry(&self, pin: u8) -> RedirEntry {
        match self.redirtbl.get(usize::from(pin & 31)) {
            Some(entry) if pin < IOAPIC_PINS => *entry,
            _ => RedirEntry(RedirEntry::MASK),
        }
    }

    /// The message that `pin` sends.
    pub fn message(&self, pin: u8) -> Message {
        self.entry(pin).message()
    }

    /// Names the pins (by bit) whose GSI has a resampling irqfd. The caller keeps this up to date
    /// when resamplers come and go and when routes change.
    pub fn set_resampled(&mut self, pins: u32) {
        self.resampled = pins;
    }

    /// Changes the request of `source` for `pin`.
    ///
    /// `want_status` is set for `KVM_IRQ_LINE_STATUS`, where ticks of the real-time clock coalesce
    /// until their EOI. If the answer is `Delivered` and the pin is in `work.deliver`, the number
    /// of CPUs that accepted the message takes the place of the answer.
    pub fn set_line(
        &mut self,
        pin: u8,
        source: IrqSource,
        level: bool,
        want_status: bool,
        work: &mut IoApicWork,
    ) -> LineStatus {
        match self.lines.set(pin, source, level) {
            Some(level) => self.set_input(pin, level, want_status, work),
            None => LineStatus::Ignored,
        }
    }

    /// Reports that `accepted` local APICs took the message of a pin in `IoApicWork::deliver`.
    ///
    /// A level-triggered message that nobody took expects no EOI: its request stays, and is tried
    /// again when the line or the entry changes.
    ///
    /// For a tick of the real-time clock this starts the count of outstanding EOIs. The count does
    /// not know which CPU owes one, so the EOI of an unrelated interrupt with the same vector on
    /// another CPU would count for it.
    pub fn delivered(&mut self, pin: u8, accepted: u32) {
        if accepted == 0 {
            if let Some(entry) = self.entry_mut(pin) {
                entry.clear(RedirEntry::REMOTE_IRR);
            }
        }
        if pin == RTC_PIN && self.rtc.expecting {
            self.rtc.expecting = false;
            self.set_rtc_pending(accepted);
        }
    }

    /// Whether the EOI of a clock tick is outstanding.
    pub fn rtc_pending(&self) -> bool {
        self.rtc.pending > 0
    }

    fn set_rtc_pending(&mut self, cpus: u32) {
        self.rtc.pending = cpus;
        self.rtc.vector = self.entry(RTC_PIN).vector();
    }

    /// A local APIC is about to lose its state; `pending` says what is in its IRR or ISR. The EOI of
    /// a clock tick in it will never come.
    pub fn rtc_lost(&mut self, pending: impl Fn(u8) -> bool) {
        if self.rtc_pending() && pending(self.rtc.vector) {
            self.rtc.pending = self.rtc.pending.saturating_sub(1);
        }
    }

    /// A local APIC has got another state, as after a migration. With a clock tick in it, it owes an
    /// EOI.
    pub fn rtc_found(&mut self, pending: impl Fn(u8) -> bool) {
        let entry = self.entry(RTC_PIN);
        if !entry.masked() && !entry.level() && pending(entry.vector()) {
            self.set_rtc_pending(self.rtc.pending.saturating_add(1));
        }
    }

    /// A local APIC broadcast the EOI of `vector`.
    ///
    /// `level` is the trigger mode that it had recorded, `suppressed` tells that it does not
    /// broadcast (SVR bit 12): then Remote IRR stays. Without both a pin whose line is still
    /// asserted sends again, unless it did so [`STORM`] times in a row: then the guest is not
    /// making progress and gets a pause (`IoApicWork::defer`).
    pub fn eoi(&mut self, vector: u8, level: bool, suppressed: bool, work: &mut IoApicWork) {
        if self.rtc.vector == vector {
            self.rtc.pending = self.rtc.pending.saturating_sub(1);
        }
        for pin in 0..IOAPIC_PINS {
            if self.entry(pin).vector() == vector {
                self.eoi_pin(pin, level && !suppressed, work);
            }
        }
    }

    /// Sends what a storm had put off.
    pub fn inject_deferred(&mut self, work: &mut IoApicWork) {
        for pin in Pins(self.irr) {
            if self.entry(pin).level() {
                self.service(pin, work);
            }
        }
    }

    /// Reads the register window; `false` if it does not cover `gpa`.
    ///
    /// Registers are 32 bits wide. Narrower reads get the low bytes, wider ones zeros above.
    pub fn read(&self, gpa: u64, data: &mut [u8]) -> bool {
        if !self.contains(gpa) {
            return false;
        }
        let value = match gpa & 0xff {
            IOREGSEL => self.ioregsel,
            IOWIN => self.read_register(),
            _ => 0,
        };
        data.fill(0);
        for (to, from) in data.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
        true
    }

    /// Writes the register window; `false` if it does not cover `gpa`.
    ///
    /// The low 32 bits count. Sizes other than 1, 2, 4 and 8 bytes are ignored.
    pub fn write(&mut self, gpa: u64, data: &[u8], work: &mut IoApicWork) -> bool {
        if !self.contains(gpa) {
            return false;
        }
        if !matches!(data.len(), 1 | 2 | 4 | 8) {
            return true;
        }
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        let value = u32::from_le_bytes(bytes);
        match gpa & 0xff {
            IOREGSEL => self.ioregsel = value & 0xff,
            IOWIN => self.write_register(value, work),
            _ => {}
        }
        true
    }

    /// The messages whose EOIs the local APICs must report: those of level-triggered pins, of pins
    /// in `notified` (with acknowledge notifiers), and of the real-time clock.
    pub fn eoi_routes(&self, notified: u32) -> impl Iterator<Item = Message> + '_ {
        (0..IOAPIC_PINS)
            .map(move |pin| (pin, self.entry(pin)))
            .filter(move |(pin, entry)| {
                entry.level() || notified & bit(*pin) != 0 || *pin == RTC_PIN
            })
            .map(|(_, entry)| entry.message())
    }

    /// The vectors whose EOIs one vCPU must report: of the messages of [`IoApic::eoi_routes`] those
    /// that address it, or that it still has pending from an earlier route, and of a clock tick.
    ///
    /// Bit `n` of word `w` is vector `64 * w + n`.
    pub fn eoi_vectors(&self, notified: u32, mut reports: impl FnMut(Message) -> bool) -> [u64; 4] {
        let mut vectors = [0; 4];
        if self.rtc_pending() {
            set_vector(&mut vectors, self.rtc.vector);
        }
        for message in self.eoi_routes(notified) {
            if reports(message) {
                set_vector(&mut vectors, message.vector);
            }
        }
        vectors
    }

    /// Copies the registers out, for `KVM_GET_IRQCHIP`. Delivered edges are not part of `irr`.
    pub fn save(&self, state: &mut KvmIoapicState) {
        state.base_address = self.base_address;
        state.ioregsel = self.ioregsel;
        state.id = self.id;
        state.irr = self.irr;
        for pin in Pins(self.edge_done) {
            // An entry that became level-triggered since then has a request again.
            if !self.entry(pin).level() {
                state.irr &= !bit(pin);
            }
        }
        state.pad = self.pad;
        for (to, from) in state.redirtbl.iter_mut().zip(&self.redirtbl) {
            *to = from.0;
        }
    }

    /// Replaces the registers, for `KVM_SET_IRQCHIP`, and raises the requests of `state.irr` anew.
    /// The levels of the lines stay. The outstanding EOIs of the clock count from here on: those that
    /// local APICs owe which get their state afterwards ([`IoApic::rtc_found`]).
    pub fn restore(&mut self, state: &KvmIoapicState, work: &mut IoApicWork) {
        self.base_address = state.base_address;
        self.ioregsel = state.ioregsel;
        self.id = state.id;
        self.pad = state.pad;
        for (to, from) in self.redirtbl.iter_mut().zip(&state.redirtbl) {
            to.0 = *from;
        }
        self.irr = 0;
        self.edge_done = 0;
        self.rtc = Rtc::default();
        work.rescan = Rescan::All;
        for pin in Pins(state.irr) {
            if pin < IOAPIC_PINS {
                self.set_input(pin, true, true, work);
            }
        }
    }

    fn entry_mut(&mut self, pin: u8) -> Option<&mut RedirEntry> {
        self.redirtbl
            .get_mut(usize::from(pin & 31))
            .filter(|_| pin < IOAPIC_PINS)
    }

    /// Applies the level of a pin.
    fn set_input(
        &mut self,
        pin: u8,
        level: bool,
        want_status: bool,
        work: &mut IoApicWork,
    ) -> LineStatus {
        if !level {
            self.irr &= !bit(pin);
            return LineStatus::Delivered;
        }
        let edge = !self.entry(pin).level();
        let count_rtc = pin == RTC_PIN && want_status && edge;
        if count_rtc && self.rtc_pending() {
            return LineStatus::Coalesced;
        }
        let asserted = self.irr & bit(pin) != 0;
        self.irr |= bit(pin);
        if edge {
            self.edge_done &= !bit(pin);
            if asserted {
                return LineStatus::Coalesced;
            }
        }
        let status = self.service(pin, work);
        if count_rtc && status == LineStatus::Delivered {
            self.rtc.expecting = true;
        }
        status
    }

    /// Sends the message of a pin, if its entry lets it.
    fn service(&mut self, pin: u8, work: &mut IoApicWork) -> LineStatus {
        let Some(entry) = self.entry_mut(pin).filter(|entry| !entry.blocked()) else {
            return LineStatus::Ignored;
        };
        if entry.level() {
            entry.set(RedirEntry::REMOTE_IRR);
        } else {
            self.edge_done |= bit(pin);
        }
        work.deliver |= bit(pin);
        LineStatus::Delivered
    }

    fn eoi_pin(&mut self, pin: u8, broadcast: bool, work: &mut IoApicWork) {
        work.eoi |= bit(pin);
        // A resampled level is down until its device asserts it anew, which the notifier leads to.
        if self.lines.asserts(pin, IrqSource::Resample)
            && self.lines.set(pin, IrqSource::Resample, false) == Some(false)
        {
            self.irr &= !bit(pin);
        }
        if !broadcast {
            return;
        }
        let asserted = self.irr & bit(pin) != 0;
        let Some(entry) = self.entry_mut(pin) else {
            return;
        };
        entry.clear(RedirEntry::REMOTE_IRR);
        let again = asserted && entry.level() && !entry.masked();
        let Some(count) = self.storm.get_mut(usize::from(pin)) else {
            return;
        };
        *count = if again { count.saturating_add(1) } else { 0 };
        if *count >= STORM {
            *count = 0;
            work.defer = true;
        } else if again {
            self.service(pin, work);
        }
    }

    fn read_register(&self) -> u32 {
        match self.ioregsel {
            REG_VERSION => VERSION,
            REG_ID | REG_ARBITRATION => (self.id & 0xf) << 24,
            _ => match self.selected_pin() {
                Some(pin) if self.ioregsel & 1 != 0 => (self.entry(pin).0 >> 32) as u32,
                Some(pin) => self.entry(pin).0 as u32,
                None => u32::MAX,
            },
        }
    }

    fn write_register(&mut self, value: u32, work: &mut IoApicWork) {
        match self.ioregsel {
            REG_ID => self.id = (value >> 24) & 0xf,
            // The version and the arbitration id are read-only.
            REG_VERSION | REG_ARBITRATION => {}
            _ => {
                if let Some(pin) = self.selected_pin() {
                    self.write_entry(pin, self.ioregsel & 1 != 0, value, work);
                }
            }
        }
    }

    /// The pin whose entry `ioregsel` shows half of.
    fn selected_pin(&self) -> Option<u8> {
        let index = self.ioregsel.checked_sub(REG_REDIRECTION)? >> 1;
        u8::try_from(index).ok().filter(|pin| *pin < IOAPIC_PINS)
    }

    fn write_entry(&mut self, pin: u8, high: bool, value: u32, work: &mut IoApicWork) {
        let Some(entry) = self.entry_mut(pin) else {
            return;
        };
        let old = *entry;
        let new = old.written(high, value);
        *entry = new;

        // A pin that becomes level-triggered requests what its line says, whatever became of the
        // edge.
        if new.level() && !old.level() && self.lines.level(pin) {
            self.irr |= bit(pin);
        }
        match (old.masked(), new.masked()) {
            (false, true) => {
                work.masked |= bit(pin);
                work.unmasked &= !bit(pin);
            }
            (true, false) => {
                work.unmasked |= bit(pin);
                work.masked &= !bit(pin);
            }
            _ => {}
        }
        if new.level() && !new.blocked() && self.irr & bit(pin) != 0 {
            // The request may be stale: a device behind a resampling irqfd can have withdrawn it
            // while the pin was masked, which nobody reports. Ask rather than inject, if there is
            // someone to ask.
            if self.resampled & bit(pin) != 0 {
                self.irr &= !bit(pin);
                work.resample |= bit(pin);
            } else {
                self.service(pin, work);
            }
        }
        if !old.same_route(new) {
            work.rescan.merge(if new.delivery() == Delivery::Fixed {
                Rescan::Targets(old.dest(), new.dest())
            } else {
                Rescan::All
            });
        }
    }
}

fn set_vector(vectors: &mut [u64; 4], vector: u8) {
    if let Some(word) = vectors.get_mut(usize::from(vector >> 6)) {
        *word |= 1u64.wrapping_shl(u32::from(vector & 63));
    }
}

#[cfg(test)]
mod tests;
