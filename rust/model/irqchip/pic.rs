// SPDX-License-Identifier: GPL-2.0

//! The two cascaded 8259A interrupt controllers of a PC, with the ELCR of its chipset.
//!
//! Owns the registers of both chips, the levels of their 15 usable inputs, and the INT output of the
//! master. The caller holds one lock around every call, wires [`Pic::output`] to LINT0 of the local
//! APICs that accept it, and acts on the [`PicWork`] a call adds to.
//!
//! The slave's INT output is the master's input 2, which therefore has no line of its own.
//! Chip and command names are those of the 8259A data sheet (ICW: initialization command word,
//! OCW: operation command word, IRR/ISR/IMR: request, in-service and mask registers).

use super::line::{IrqSource, LineStatus, Lines};
use crate::abi::KvmPicState;

/// Input lines of the pair, the cascade input included.
pub const PIC_PINS: u8 = 16;

/// The master input that the slave's output drives.
const CASCADE: u8 = 2;
/// The input whose vector stands for a request that vanished before its acknowledge.
const SPURIOUS: u8 = 7;

/// One chip of the pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PicChip {
    /// Inputs 0 to 7, ports 0x20, 0x21 and 0x4d0: `KVM_IRQCHIP_PIC_MASTER`.
    Master,
    /// Inputs 8 to 15, ports 0xa0, 0xa1 and 0x4d1: `KVM_IRQCHIP_PIC_SLAVE`.
    Slave,
}

impl PicChip {
    /// The pin number of input `irq` of this chip.
    const fn pin(self, irq: u8) -> u8 {
        match self {
            PicChip::Master => irq & 7,
            PicChip::Slave => (irq & 7) | 8,
        }
    }

    /// Eight inputs of this chip as bits of the 16 pins.
    const fn pins(self, irqs: u8) -> u16 {
        match self {
            PicChip::Master => irqs as u16,
            PicChip::Slave => (irqs as u16) << 8,
        }
    }
}

/// What the caller has to do after a call, by pin (0 to 15). Calls only add to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PicWork {
    /// Pins that were ended (EOI, automatic EOI or reset): run the acknowledge notifiers of their
    /// GSIs. A resampling source of the pin has been lowered already.
    pub eoi: u16,
    /// Pins that became masked.
    pub masked: u16,
    /// Pins that became unmasked: the PIT starts counting missed ticks afresh.
    pub unmasked: u16,
    /// The output rose: kick a vCPU whose LAPIC accepts PIC interrupts.
    pub wake: bool,
}

const fn bit8(irq: u8) -> u8 {
    1u8.wrapping_shl(irq as u32 & 7)
}

/// The rules of one chip.
///
/// User space may store any byte in any register. Flags are true if not 0, and what was stored is
/// what is read back. `priority_add` is the most urgent input, `init_state` the command word
/// expected next (0 none, 1 ICW2, 2 ICW3, 3 ICW4).
impl KvmPicState {
    /// The priority of the most urgent input in `set` (0 is most urgent).
    fn highest(&self, set: u8) -> Option<u8> {
        let rotated = set.rotate_right(u32::from(self.priority_add & 7));
        u8::try_from(rotated.trailing_zeros())
            .ok()
            .filter(|p| *p < 8)
    }

    /// The input at `priority`.
    fn input_at(&self, priority: u8) -> u8 {
        priority.wrapping_add(self.priority_add) & 7
    }

    /// The input the chip would have acknowledged now: the most urgent unmasked request, if it is
    /// more urgent than everything in service (8259A: "Fully Nested Mode").
    fn request(&self, chip: PicChip) -> Option<u8> {
        let wanted = self.highest(self.irr & !self.imr)?;
        let mut blocking = self.isr;
        if self.special_mask != 0 {
            blocking &= !self.imr;
        }
        // The slave's own priorities decide among its inputs, so one in service must not hold back
        // a more urgent one (8259A: "The Special Fully Nested Mode").
        if self.special_fully_nested_mode != 0 && chip == PicChip::Master {
            blocking &= !bit8(CASCADE);
        }
        match self.highest(blocking) {
            Some(current) if current <= wanted => None,
            _ => Some(self.input_at(wanted)),
        }
    }

    /// Applies a new level to an input and says what became of it.
    fn set_input(&mut self, irq: u8, level: bool) -> LineStatus {
        let mask = bit8(irq);
        let mut status = LineStatus::Delivered;
        if level {
            // An edge needs a low line before it; a level asks as long as it lasts.
            if self.elcr & mask != 0 || self.last_irr & mask == 0 {
                if self.irr & mask != 0 {
                    status = LineStatus::Coalesced;
                }
                self.irr |= mask;
            }
            self.last_irr |= mask;
        } else {
            // KVM: an edge stays requested after the line falls, although the 8259A would drop it;
            // sources raise and lower at once.
            if self.elcr & mask != 0 {
                self.irr &= !mask;
            }
            self.last_irr &= !mask;
        }
        if self.imr & mask != 0 {
            LineStatus::Ignored
        } else {
            status
        }
    }
}

/// The pair of interrupt controllers.
///
/// ```
/// use model::irqchip::line::IrqSource;
/// use model::irqchip::pic::{Pic, PicWork};
///
/// let mut pic = Pic::new();
/// let mut work = PicWork::default();
/// for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, 0x01)] {
///     pic.write(port, value, &mut work);
/// }
/// pic.set_line(1, IrqSource::User, true, &mut work);
/// assert!(work.wake && pic.output());
/// assert_eq!(pic.acknowledge(&mut work), 0x31);
/// ```
#[cfg_attr(not(MODULE), derive(Debug))]
#[derive(Clone, PartialEq, Eq)]
pub struct Pic {
    master: KvmPicState,
    slave: KvmPicState,
    lines: Lines<16>,
    output: bool,
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}

impl Pic {
    /// The pair as it is at power-on. Inputs 0, 1, 2, 8 and 13 are edge-triggered for good.
    pub const fn new() -> Self {
        const ZERO: KvmPicState = KvmPicState {
            last_irr: 0,
            irr: 0,
            imr: 0,
            isr: 0,
            priority_add: 0,
            irq_base: 0,
            read_reg_select: 0,
            poll: 0,
            special_mask: 0,
            init_state: 0,
            auto_eoi: 0,
            rotate_on_auto_eoi: 0,
            special_fully_nested_mode: 0,
            init4: 0,
            elcr: 0,
            elcr_mask: 0,
        };
        Pic {
            master: KvmPicState {
                elcr_mask: 0xf8,
                ..ZERO
            },
            slave: KvmPicState {
                elcr_mask: 0xde,
                ..ZERO
            },
            lines: Lines::new(),
            output: false,
        }
    }

    /// The level of the master's INT output.
    pub fn output(&self) -> bool {
        self.output
    }

    /// Changes the request of `source` for `pin` (0 to 15).
    ///
    /// Pin 2 is the cascade and is ignored, as are pins that do not exist.
    pub fn set_line(
        &mut self,
        pin: u8,
        source: IrqSource,
        level: bool,
        work: &mut PicWork,
    ) -> LineStatus {
        if pin == CASCADE {
            return LineStatus::Ignored;
        }
        let Some(level) = self.lines.set(pin, source, level) else {
            return LineStatus::Ignored;
        };
        let status = self.state_mut(Self::chip_of(pin)).set_input(pin & 7, level);
        self.update(work);
        status
    }

    /// The CPU's interrupt acknowledge cycle: returns the vector and puts its input in service.
    ///
    /// A request that vanished gives the vector of input 7 (8259A: "Default IR7"), of the slave if
    /// the master had already chosen the cascade.
    pub fn acknowledge(&mut self, work: &mut PicWork) -> u8 {
        // INT falls with the acknowledge, so another request is a rise that wakes again.
        self.output = false;
        let vector = match self.master.request(PicChip::Master) {
            Some(CASCADE) => {
                self.take(PicChip::Master, CASCADE, work);
                let irq = match self.slave.request(PicChip::Slave) {
                    Some(irq) => {
                        self.take(PicChip::Slave, irq, work);
                        irq
                    }
                    None => SPURIOUS,
                };
                self.slave.irq_base.wrapping_add(irq)
            }
            Some(irq) => {
                self.take(PicChip::Master, irq, work);
                self.master.irq_base.wrapping_add(irq)
            }
            None => self.master.irq_base.wrapping_add(SPURIOUS),
        };
        self.update(work);
        vector
    }

    /// Reads a port of the pair; `None` if `port` is not one of them.
    pub fn read(&mut self, port: u16, work: &mut PicWork) -> Option<u8> {
        let chip = Self::chip_at(port)?;
        if port >= 0x4d0 {
            return Some(self.state(chip).elcr);
        }
        let s = self.state_mut(chip);
        let value = if s.poll != 0 {
            s.poll = 0;
            self.poll(chip, work)
        } else if port & 1 != 0 {
            s.imr
        } else if s.read_reg_select != 0 {
            s.isr
        } else {
            s.irr
        };
        Some(value)
    }

    /// Writes a port of the pair; `false` if `port` is not one of them.
    pub fn write(&mut self, port: u16, value: u8, work: &mut PicWork) -> bool {
        let Some(chip) = Self::chip_at(port) else {
            return false;
        };
        if port >= 0x4d0 {
            self.write_elcr(chip, value);
        } else if port & 1 != 0 {
            self.write_data(chip, value, work);
        } else if value & 0x10 != 0 {
            self.initialize(chip, value, work);
        } else if value & 0x08 != 0 {
            self.write_ocw3(chip, value);
        } else {
            self.write_ocw2(chip, value, work);
        }
        self.update(work);
        true
    }

    /// The registers of one chip, for `KVM_GET_IRQCHIP`.
    pub fn state(&self, chip: PicChip) -> &KvmPicState {
        match chip {
            PicChip::Master => &self.master,
            PicChip::Slave => &self.slave,
        }
    }

    /// Replaces the registers of one chip, for `KVM_SET_IRQCHIP`. The levels of the inputs stay.
    pub fn set_state(&mut self, chip: PicChip, state: &KvmPicState, work: &mut PicWork) {
        *self.state_mut(chip) = *state;
        self.update(work);
    }

    fn state_mut(&mut self, chip: PicChip) -> &mut KvmPicState {
        match chip {
            PicChip::Master => &mut self.master,
            PicChip::Slave => &mut self.slave,
        }
    }

    const fn chip_of(pin: u8) -> PicChip {
        if pin < 8 {
            PicChip::Master
        } else {
            PicChip::Slave
        }
    }

    const fn chip_at(port: u16) -> Option<PicChip> {
        match port {
            0x20 | 0x21 | 0x4d0 => Some(PicChip::Master),
            0xa0 | 0xa1 | 0x4d1 => Some(PicChip::Slave),
            _ => None,
        }
    }

    /// Recomputes the cascade and the output.
    ///
    /// The slave drops INT with each acknowledge, so a further request of its is a new edge on the
    /// master's input even when nothing lowered it in between; a request that is withdrawn takes
    /// the master's along.
    fn update(&mut self, work: &mut PicWork) {
        if self.slave.request(PicChip::Slave).is_some() {
            self.master.irr |= bit8(CASCADE);
        } else {
            self.master.irr &= !bit8(CASCADE);
        }
        let output = self.master.request(PicChip::Master).is_some();
        work.wake |= output && !self.output;
        self.output = output;
    }

    /// Puts an input in service, and ends it at once in automatic EOI mode.
    fn take(&mut self, chip: PicChip, irq: u8, work: &mut PicWork) {
        let s = self.state_mut(chip);
        let mask = bit8(irq);
        s.isr |= mask;
        if s.elcr & mask == 0 {
            s.irr &= !mask;
        }
        if s.auto_eoi != 0 {
            if s.rotate_on_auto_eoi != 0 {
                s.priority_add = irq.wrapping_add(1) & 7;
            }
            self.end(chip, irq, work);
        }
    }

    /// Ends the service of an input.
    fn end(&mut self, chip: PicChip, irq: u8, work: &mut PicWork) {
        self.state_mut(chip).isr &= !bit8(irq);
        work.eoi |= chip.pins(bit8(irq));
        // A resampled level is down until its device asserts it anew. Lowered here, before the
        // output is recomputed, so that no acknowledge sees the old request again.
        let pin = chip.pin(irq);
        if self.lines.asserts(pin, IrqSource::Resample) {
            if let Some(level) = self.lines.set(pin, IrqSource::Resample, false) {
                self.state_mut(chip).set_input(irq, level);
            }
        }
    }

    /// A read after the poll command: the acknowledge of one chip by software (8259A: "Poll
    /// Command").
    // KVM: that ends its service, too.
    fn poll(&mut self, chip: PicChip, work: &mut PicWork) -> u8 {
        let value = match self.state(chip).request(chip) {
            Some(irq) => {
                self.take(chip, irq, work);
                self.end(chip, irq, work);
                irq | 0x80
            }
            None => SPURIOUS,
        };
        self.update(work);
        value
    }

    /// ICW1: resets the chip and starts the initialization sequence. Single mode and level mode do
    /// not exist on a PC: the pair is wired, and the ELCR decides (bits 1 and 3 are ignored).
    fn initialize(&mut self, chip: PicChip, icw1: u8, work: &mut PicWork) {
        let s = self.state_mut(chip);
        let ended = s.isr | (s.irr & !s.elcr);
        let unmasked = s.imr;
        s.init4 = icw1 & 1;
        s.last_irr = 0;
        s.irr &= s.elcr;
        s.imr = 0;
        s.isr = 0;
        s.priority_add = 0;
        s.special_mask = 0;
        s.read_reg_select = 0;
        s.poll = 0;
        if s.init4 == 0 {
            s.special_fully_nested_mode = 0;
            s.auto_eoi = 0;
        }
        s.init_state = 1;
        work.unmasked |= chip.pins(unmasked);
        work.masked &= !chip.pins(unmasked);
        // Whoever waits for the end of an interrupt that the reset discarded must hear of it.
        for irq in 0..8 {
            if ended & bit8(irq) != 0 {
                self.end(chip, irq, work);
            }
        }
    }

    fn write_ocw3(&mut self, chip: PicChip, value: u8) {
        let s = self.state_mut(chip);
        if value & 0x04 != 0 {
            s.poll = 1;
        }
        if value & 0x02 != 0 {
            s.read_reg_select = value & 1;
        }
        if value & 0x40 != 0 {
            s.special_mask = (value >> 5) & 1;
        }
    }

    /// OCW2: EOI and rotation (8259A: table of the R, SL and EOI bits).
    fn write_ocw2(&mut self, chip: PicChip, value: u8, work: &mut PicWork) {
        let s = self.state_mut(chip);
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        let irq = if specific {
            Some(value & 7)
        } else if eoi {
            // A masked input stays in service in special mask mode, or it would block again.
            let endable = if s.special_mask != 0 {
                s.isr & !s.imr
            } else {
                s.isr
            };
            s.highest(endable).map(|priority| s.input_at(priority))
        } else {
            s.rotate_on_auto_eoi = u8::from(rotate);
            None
        };
        let Some(irq) = irq else {
            return;
        };
        if rotate {
            s.priority_add = irq.wrapping_add(1) & 7;
        }
        if eoi {
            self.end(chip, irq, work);
        }
    }

    /// A write to the odd port: OCW1 (the mask), or the next word of the initialization.
    fn write_data(&mut self, chip: PicChip, value: u8, work: &mut PicWork) {
        let s = self.state_mut(chip);
        match s.init_state {
            0 => {
                let masked = chip.pins(value & !s.imr);
                let unmasked = chip.pins(s.imr & !value);
                s.imr = value;
                work.masked = (work.masked & !unmasked) | masked;
                work.unmasked = (work.unmasked & !masked) | unmasked;
            }
            1 => {
                s.irq_base = value & 0xf8;
                s.init_state = 2;
            }
            // ICW3 names the cascade input, which is wired.
            2 => s.init_state = if s.init4 != 0 { 3 } else { 0 },
            3 => {
                s.special_fully_nested_mode = (value >> 4) & 1;
                s.auto_eoi = (value >> 1) & 1;
                s.init_state = 0;
            }
            _ => {}
        }
    }

    /// Chooses edge or level for each input. An input that becomes level-triggered requests what
    /// its line says.
    fn write_elcr(&mut self, chip: PicChip, value: u8) {
        let old = self.state(chip).elcr;
        let new = value & self.state(chip).elcr_mask;
        self.state_mut(chip).elcr = new;
        for irq in 0..8 {
            if new & !old & bit8(irq) != 0 {
                let level = self.lines.level(chip.pin(irq));
                self.state_mut(chip).set_input(irq, level);
            }
        }
    }
}

#[cfg(test)]
mod tests;
