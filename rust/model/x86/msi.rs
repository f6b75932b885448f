// SPDX-License-Identifier: GPL-2.0

//! Message-signalled interrupts: from address and data to an interrupt [`Message`].
//!
//! SDM: vol 3, 11.11. The destination has eight bits there. Two extensions widen it: KVM's
//! X2APIC_API capability takes bits 31:8 from bits 31:8 of the upper address word, and the
//! extended destination ID that KVM_FEATURE_MSI_EXT_DEST_ID announces puts bits 14:8 into address
//! bits 11:5. A VMM translates the second to the first before it calls KVM, so
//! [`Msi::decode`] knows only the first.

use super::apic::{Delivery, Message, Trigger};

/// An MSI as a device writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Msi {
    /// Bits 31:0 of the address.
    pub address_lo: u32,
    /// Bits 63:32 of the address.
    pub address_hi: u32,
    /// The data word.
    pub data: u32,
}

/// Destination of an MSI, and who may take it, in the low address word.
mod address {
    pub(super) const LOGICAL: u32 = 1 << 2;
    pub(super) const REDIRECTION_HINT: u32 = 1 << 3;
    pub(super) const DEST_SHIFT: u32 = 12;
}

/// The data word.
mod data {
    pub(super) const VECTOR: u32 = 0xff;
    pub(super) const DELIVERY_SHIFT: u32 = 8;
    pub(super) const LEVEL: u32 = 1 << 15;
}

impl Msi {
    /// Whether the message may be used. With 32-bit ids (`ids32`, KVM_X2APIC_API_USE_32BIT_IDS)
    /// bits 7:0 of the upper address word are reserved.
    #[inline]
    pub const fn is_valid(&self, ids32: bool) -> bool {
        !ids32 || self.address_hi & 0xff == 0
    }

    /// The interrupt message. With `ids32` the destination has 32 bits, its upper 24 in
    /// [`Msi::address_hi`], which is ignored otherwise.
    ///
    /// KVM: an MSI always asserts; the level bit of the data (bit 14) is not looked at.
    #[inline]
    pub const fn decode(&self, ids32: bool) -> Message {
        let low = (self.address_lo >> address::DEST_SHIFT) & 0xff;
        let high = if ids32 { self.address_hi & !0xff } else { 0 };
        Message {
            dest: high | low,
            logical: self.address_lo & address::LOGICAL != 0,
            vector: (self.data & data::VECTOR) as u8,
            delivery: Delivery::from_bits(self.data >> data::DELIVERY_SHIFT),
            trigger: Trigger::from_level(self.data & data::LEVEL != 0),
            assert: true,
            redirection_hint: self.address_lo & address::REDIRECTION_HINT != 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_decode() {
        let msi = Msi {
            address_lo: 0xfee1_200c,
            address_hi: 0x0001_0300,
            data: 0xc141,
        };
        let m = msi.decode(false);
        assert_eq!((m.dest, m.vector), (0x12, 0x41));
        assert_eq!(m.delivery, Delivery::LowestPriority);
        assert!(m.logical && m.redirection_hint && m.assert && m.trigger.is_level());
        assert_eq!(msi.decode(true).dest, 0x0001_0312);
    }

    #[test]
    fn low_byte_of_the_upper_word_is_reserved_with_wide_ids() {
        let msi = Msi {
            address_hi: 0x101,
            ..Msi::default()
        };
        assert!(msi.is_valid(false) && !msi.is_valid(true));
        assert_eq!(msi.decode(true).dest, 0x100);
    }
}
