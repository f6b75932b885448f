// SPDX-License-Identifier: GPL-2.0

//! The redirection entry of the IOAPIC and the message it describes (82093AA: 3.2.4).

use crate::x86::apic::{Delivery, Message, Trigger};

/// One redirection table entry, as the guest and `struct kvm_ioapic_state` see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedirEntry(pub u64);

/// Where a message goes: a physical APIC id or a logical set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// APIC id, or message destination address in logical mode.
    pub id: u8,
    /// `id` is a logical destination.
    pub logical: bool,
}

impl RedirEntry {
    /// Delivery status: never set here, messages leave at once.
    pub(crate) const DELIVERY_STATUS: u64 = 1 << 12;
    /// A level-triggered message was accepted and its EOI is outstanding.
    pub(crate) const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    pub(crate) const MASK: u64 = 1 << 16;
    /// What software cannot write.
    pub(crate) const READ_ONLY: u64 = Self::DELIVERY_STATUS | Self::REMOTE_IRR;
    /// What decides which vCPUs must report which EOIs: vector, delivery mode, destination mode,
    /// trigger mode, destination.
    const ROUTE: u64 = 0xff00_0000_0000_8fff;

    /// The vector.
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The delivery mode.
    pub const fn delivery(self) -> Delivery {
        Delivery::from_bits((self.0 >> 8) as u32)
    }

    /// The destination field and its mode.
    pub const fn dest(self) -> Destination {
        Destination {
            id: (self.0 >> 56) as u8,
            logical: self.0 & (1 << 11) != 0,
        }
    }

    /// Whether an EOI is outstanding.
    pub const fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }

    /// Whether the pin is level-triggered.
    pub const fn level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }

    /// Whether the pin is masked.
    pub const fn masked(self) -> bool {
        self.0 & Self::MASK != 0
    }

    /// The message that the pin sends.
    pub const fn message(self) -> Message {
        let dest = self.dest();
        Message {
            dest: dest.id as u32,
            logical: dest.logical,
            vector: self.vector(),
            delivery: self.delivery(),
            trigger: Trigger::from_level(self.level()),
            assert: true,
            redirection_hint: false,
        }
    }

    /// Whether `other` sends the same message.
    pub(crate) const fn same_route(self, other: RedirEntry) -> bool {
        (self.0 ^ other.0) & Self::ROUTE == 0
    }

    /// A masked entry lets nothing through; a level-triggered one waits for its EOI.
    pub(crate) const fn blocked(self) -> bool {
        self.masked() || (self.level() && self.remote_irr())
    }

    pub(crate) fn set(&mut self, bits: u64) {
        self.0 |= bits;
    }

    pub(crate) fn clear(&mut self, bits: u64) {
        self.0 &= !bits;
    }

    /// The entry after software wrote one half of it.
    pub(crate) const fn written(self, high: bool, value: u32) -> RedirEntry {
        let new = if high {
            (self.0 & 0xffff_ffff) | ((value as u64) << 32)
        } else {
            (self.0 & !0xffff_ffff) | value as u64
        };
        let mut new = (new & !Self::READ_ONLY) | (self.0 & Self::READ_ONLY);
        // Software without an EOI register ends an interrupt by making the entry edge-triggered
        // for a moment; hardware clears Remote IRR then.
        if new & Self::LEVEL == 0 {
            new &= !Self::REMOTE_IRR;
        }
        RedirEntry(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_where_the_data_sheet_has_them() {
        let e = RedirEntry(0xab00_0000_0001_d9c5);
        assert_eq!(e.vector(), 0xc5);
        assert_eq!(e.delivery(), Delivery::LowestPriority);
        assert!(e.remote_irr() && e.level() && e.masked());
        assert_eq!(
            e.message(),
            Message {
                logical: true,
                delivery: Delivery::LowestPriority,
                trigger: Trigger::Level,
                ..Message::fixed(0xab, 0xc5)
            }
        );
        let e = RedirEntry(!e.0);
        assert!(!e.remote_irr() && !e.level() && !e.masked() && !e.dest().logical);
    }

    #[test]
    fn the_two_halves_are_written_apart() {
        let e = RedirEntry(0x1122_3344_5566_f788);
        assert_eq!(e.written(true, 0xaabb_ccdd).0, 0xaabb_ccdd_5566_f788);
        assert_eq!(e.written(false, 0x0001_8030).0, 0x1122_3344_0001_d030);
    }

    #[test]
    fn software_cannot_write_the_read_only_bits() {
        let level = RedirEntry(1 << 15);
        assert_eq!(level.written(false, 0xffff_ffff).0, 0xffff_afff);
        let waiting = RedirEntry(RedirEntry::REMOTE_IRR | RedirEntry::DELIVERY_STATUS | 1 << 15);
        assert_eq!(waiting.written(false, 0x8000).0, waiting.0);
        assert!(!waiting.written(false, 0).remote_irr());
    }

    #[test]
    fn the_mask_is_no_part_of_the_route() {
        let e = RedirEntry(0x0100_0000_0000_8030);
        assert!(e.same_route(RedirEntry(e.0 | RedirEntry::MASK | RedirEntry::REMOTE_IRR)));
        for bit in [0, 7, 8, 10, 11, 15, 56, 63] {
            assert!(!e.same_route(RedirEntry(e.0 ^ 1 << bit)), "bit {bit}");
        }
    }
}
