// SPDX-License-Identifier: GPL-2.0

//! Interrupt input lines: who drives a pin of the PIC or the IOAPIC, and what became of a change.
//!
//! A pin is the OR of several sources, because user space, a resampling irqfd and the in-kernel PIT
//! may share a GSI and each lowers only its own request. Both chips own one [`Lines`]; the caller
//! names the source with every change.

/// Who drives a line. Each source raises and lowers its own request; the pin is their OR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqSource {
    /// User space (`KVM_IRQ_LINE`) and irqfds without resampling.
    User,
    /// Irqfds with `KVM_IRQFD_FLAG_RESAMPLE`. An EOI lowers this request without being asked.
    Resample,
    /// Channel 0 of the in-kernel PIT.
    Pit,
}

impl IrqSource {
    const fn bit(self) -> u8 {
        match self {
            IrqSource::User => 1,
            IrqSource::Resample => 2,
            IrqSource::Pit => 4,
        }
    }
}

/// The requests of all sources for each of `N` pins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lines<const N: usize>([u8; N]);

impl<const N: usize> Lines<N> {
    pub(crate) const fn new() -> Self {
        Lines([0; N])
    }

    /// Records the request of `source` and returns the level of the pin, `None` if there is no such
    /// pin.
    pub(crate) fn set(&mut self, pin: u8, source: IrqSource, level: bool) -> Option<bool> {
        let line = self.0.get_mut(usize::from(pin))?;
        if level {
            *line |= source.bit();
        } else {
            *line &= !source.bit();
        }
        Some(*line != 0)
    }

    /// Whether `source` asks for `pin`.
    pub(crate) fn asserts(&self, pin: u8, source: IrqSource) -> bool {
        self.0
            .get(usize::from(pin))
            .is_some_and(|line| line & source.bit() != 0)
    }

    /// Whether any source asks for `pin`.
    pub(crate) fn level(&self, pin: u8) -> bool {
        self.0.get(usize::from(pin)).is_some_and(|line| *line != 0)
    }
}

/// What a chip did with a change of an input line, as `KVM_IRQ_LINE_STATUS` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineStatus {
    /// The pin is masked, absent, or waiting for an EOI.
    Ignored,
    /// An earlier request of the same pin is still pending: this one adds nothing.
    Coalesced,
    /// The request was taken. For the IOAPIC the number of CPUs that accepted the message, known
    /// only to whoever delivers it, is the final answer.
    Delivered,
}

impl LineStatus {
    /// The number of the ABI: below 0 ignored, 0 coalesced, above 0 delivered.
    pub const fn value(self) -> i32 {
        match self {
            LineStatus::Ignored => -1,
            LineStatus::Coalesced => 0,
            LineStatus::Delivered => 1,
        }
    }
}

/// Adds the status of one more chip to that of a GSI: a chip that ignored the line does not count.
/// Start from `LineStatus::Ignored.value()`.
pub const fn combine_status(total: i32, one: i32) -> i32 {
    if one < 0 {
        total
    } else if total < 0 {
        one
    } else {
        total.saturating_add(one)
    }
}

/// The set bits of a pin mask, in ascending order.
///
/// ```
/// use model::irqchip::line::Pins;
/// assert_eq!(Pins(0x8005).collect::<Vec<u8>>(), [0, 2, 15]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins(pub u32);

impl Iterator for Pins {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let pin = self.0.trailing_zeros();
        // Clears the lowest set bit; stays 0 at the end.
        self.0 &= self.0.wrapping_sub(1);
        u8::try_from(pin).ok().filter(|pin| *pin < 32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_the_or_of_its_sources() {
        let mut lines = Lines::<2>::new();
        assert_eq!(lines.set(1, IrqSource::User, true), Some(true));
        assert_eq!(lines.set(1, IrqSource::Resample, true), Some(true));
        assert_eq!(lines.set(1, IrqSource::User, false), Some(true));
        assert!(lines.asserts(1, IrqSource::Resample));
        assert!(!lines.asserts(1, IrqSource::User));
        assert_eq!(lines.set(1, IrqSource::Resample, false), Some(false));
        assert!(!lines.level(1));
        assert!(!lines.level(0));
        assert_eq!(lines.set(2, IrqSource::User, true), None);
        assert!(!lines.level(2));
    }

    #[test]
    fn status_sums_ignore_chips_that_ignored_the_line() {
        assert_eq!(combine_status(-1, -1), -1);
        assert_eq!(combine_status(-1, 0), 0);
        assert_eq!(combine_status(0, -1), 0);
        assert_eq!(combine_status(1, 2), 3);
        assert_eq!(combine_status(0, 0), 0);
        assert_eq!(combine_status(i32::MAX, 1), i32::MAX);
    }

    #[test]
    fn pins_lists_every_bit_once() {
        assert_eq!(Pins(0).next(), None);
        assert_eq!(Pins(u32::MAX).count(), 32);
        assert_eq!(Pins(1 << 31).collect::<Vec<_>>(), [31]);
    }
}
