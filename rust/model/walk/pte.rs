// SPDX-License-Identifier: GPL-2.0

//! The shape of the guest's tables in each mode: indices, addresses, page sizes, reserved bits.

use super::CpuTraits;
use crate::addr::Gva;
use crate::x86::ctrl::{cr0, cr4, efer};
use crate::x86::paging::{PTE_ADDR, PTE_NX, PTE_P, PTE_PS};

/// A mode of paging (SDM: vol 3, 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Paging is off.
    None,
    /// Two levels of 4-byte entries.
    Bits32,
    /// Four PDPTE registers and two levels of 8-byte entries.
    Pae,
    /// Four levels of 8-byte entries.
    Long4,
    /// Five levels of 8-byte entries.
    Long5,
}

impl Mode {
    /// The mode the control registers select.
    pub const fn of(cr0: u64, cr4: u64, efer: u64) -> Mode {
        if cr0 & cr0::PG == 0 {
            Mode::None
        } else if efer & efer::LMA != 0 {
            if cr4 & cr4::LA57 != 0 {
                Mode::Long5
            } else {
                Mode::Long4
            }
        } else if cr4 & cr4::PAE != 0 {
            Mode::Pae
        } else {
            Mode::Bits32
        }
    }

    /// Number of levels, that of the PDPTE registers included.
    pub(super) const fn levels(self) -> u32 {
        match self {
            Mode::None => 0,
            Mode::Bits32 => 2,
            Mode::Pae => 3,
            Mode::Long4 => 4,
            Mode::Long5 => 5,
        }
    }

    /// Size of an entry in bytes.
    pub(super) const fn entry_size(self) -> u64 {
        match self {
            Mode::Bits32 => 4,
            _ => 8,
        }
    }

    const fn index_bits(self) -> u32 {
        match self {
            Mode::Bits32 => 10,
            _ => 9,
        }
    }

    /// The part of an address that takes part in translation.
    pub(super) const fn linear(self, gva: Gva) -> u64 {
        match self {
            Mode::None | Mode::Bits32 | Mode::Pae => gva.0 & 0xffff_ffff,
            Mode::Long4 => gva.0 & 0x0000_ffff_ffff_ffff,
            Mode::Long5 => gva.0 & 0x01ff_ffff_ffff_ffff,
        }
    }

    /// log2 of the bytes an entry of `level` spans.
    pub(super) const fn page_bits(self, level: u32) -> u32 {
        self.index_bits()
            .wrapping_mul(level.wrapping_sub(1))
            .wrapping_add(12)
    }

    /// The index into the table of `level`.
    pub(super) const fn index(self, linear: u64, level: u32) -> u64 {
        let mask = 1u64.wrapping_shl(self.index_bits()).wrapping_sub(1);
        linear.wrapping_shr(self.page_bits(level)) & mask
    }

    /// The address of the top table.
    pub(super) const fn table(self, cr3: u64, maxphyaddr: u32) -> u64 {
        match self {
            Mode::Long4 | Mode::Long5 => address(cr3, maxphyaddr),
            _ => cr3 & 0xffff_f000,
        }
    }

    /// Whether `entry` of `level` maps a page.
    pub(super) const fn is_leaf(self, level: u32, entry: u64, pse: bool, gb_pages: bool) -> bool {
        match level {
            1 => true,
            2 => entry & PTE_PS != 0 && (pse || !matches!(self, Mode::Bits32)),
            3 => entry & PTE_PS != 0 && gb_pages,
            _ => false,
        }
    }

    /// The address of the page a leaf of `level` maps.
    pub(super) const fn page(self, entry: u64, level: u32, maxphyaddr: u32) -> u64 {
        if matches!(self, Mode::Bits32) && level == 2 {
            // Bits 20:13 are bits 39:32 of the address (SDM: vol 3, 5.3).
            return entry & 0xffc0_0000 | ((entry & 0x001f_e000) << 19);
        }
        let within = 1u64.wrapping_shl(self.page_bits(level)).wrapping_sub(1);
        address(entry, maxphyaddr) & !within
    }

    /// The bits that must be zero in a present entry.
    pub(super) const fn reserved(
        self,
        level: u32,
        is_leaf: bool,
        nx: bool,
        cpu: &CpuTraits,
    ) -> u64 {
        if matches!(self, Mode::None) {
            return 0;
        }
        if matches!(self, Mode::Bits32) {
            if level == 1 || !is_leaf {
                return 0;
            }
            // Bit 21, and those of bits 20:13 that stand for address bits the processor lacks.
            let high = address_mask(cpu.maxphyaddr) >> 19;
            let extra = if cpu.pse36 { high } else { 0 };
            return 0x003f_e000 & !(extra & 0x001f_e000);
        }
        let mut mask = PTE_ADDR & !address_mask(cpu.maxphyaddr);
        if matches!(self, Mode::Pae) {
            // Bits 62:52 are ignored only in long mode.
            mask |= 0x7ff0_0000_0000_0000;
        }
        if !nx {
            mask |= PTE_NX;
        }
        if is_leaf {
            // Between the PAT bit (12) and the address.
            let within = 1u64.wrapping_shl(self.page_bits(level)).wrapping_sub(1);
            mask |= within & !0x1fff;
        } else if level >= 3 {
            mask |= PTE_PS;
            if level >= 4 && cpu.upper_bit8_reserved {
                mask |= 1 << 8;
            }
        }
        mask
    }
}

/// Address bits 51:12 below `maxphyaddr`.
const fn address_mask(maxphyaddr: u32) -> u64 {
    let bits = if maxphyaddr < 52 { maxphyaddr } else { 52 };
    1u64.wrapping_shl(bits).wrapping_sub(1) & PTE_ADDR
}

/// The address field of an entry.
pub(super) const fn address(entry: u64, maxphyaddr: u32) -> u64 {
    entry & address_mask(maxphyaddr)
}

/// Whether a PDPTE may be loaded: not present, or bits 63:maxphyaddr, 8:5 and 2:1 clear.
pub(super) const fn pdpte_is_valid(pdpte: u64, maxphyaddr: u32) -> bool {
    pdpte & PTE_P == 0 || pdpte & !(address_mask(maxphyaddr) | 0xe19) == 0
}
