// SPDX-License-Identifier: GPL-2.0

//! The extended-page-table entry of Intel processors.
//!
//! SDM: vol 3, 30.3.2 (formats), 30.3.3.1 (misconfigurations), 30.3.5 (accessed and dirty flags).
//!
//! Bits 52 to 56 are ignored by hardware and used as follows.
//!
//! | bit | meaning |
//! |---|---|
//! | 52 | the host mapping is writable |
//! | 53 | only dirty logging forbids writes |
//! | 54, 55, 56 | parked R, W, X: the rights of a leaf aged on a processor without A/D flags |
//!
//! A leaf always has R, so an entry with W or X but not R is a misconfiguration whatever else it
//! says; the value 110b in bits 2:0 marks emulated MMIO and its lower address bits carry a tag. The
//! upper ones are all set: processors with the L1 terminal fault read what the level-1 cache has at
//! the address of an entry that is not valid, and at the end of what it can hold there is no memory.

use crate::addr::PAGE_SHIFT;
use crate::tdp::entry::{mmio_tag, Config, Format, LeafSpec, Level, Prot, MMIO_GEN_BITS};
use crate::x86::paging::PTE_ADDR;

/// Reads allowed.
pub const EPT_R: u64 = 1 << 0;
/// Writes allowed.
pub const EPT_W: u64 = 1 << 1;
/// Instruction fetches allowed.
pub const EPT_X: u64 = 1 << 2;
/// Lowest bit of the memory type, bits 5:3 of a leaf.
pub const EPT_MT_SHIFT: u32 = 3;
/// Ignore the guest's PAT.
pub const EPT_IPAT: u64 = 1 << 6;
/// The entry maps a page (levels 2 and 3).
pub const EPT_PS: u64 = 1 << 7;
/// Accessed.
pub const EPT_A: u64 = 1 << 8;
/// Dirty (leaf entries).
pub const EPT_D: u64 = 1 << 9;

const RWX: u64 = EPT_R | EPT_W | EPT_X;
const MMIO: u64 = EPT_W | EPT_X;
/// The address bits above an MMIO entry's tag.
const FAR: u64 = PTE_ADDR & (u64::MAX << (PAGE_SHIFT + MMIO_GEN_BITS));
const HOST_WRITABLE: u64 = 1 << 52;
const MMU_WRITABLE: u64 = 1 << 53;
const PARK_SHIFT: u32 = 54;
const PARKED: u64 = RWX << PARK_SHIFT;
const PARKED_W: u64 = EPT_W << PARK_SHIFT;

/// The EPT entry format.
#[derive(Clone, Copy, Debug)]
pub struct Ept;

const fn bit(on: bool, mask: u64) -> u64 {
    if on {
        mask
    } else {
        0
    }
}

const fn rights(rwx: u64) -> Prot {
    Prot {
        r: rwx & EPT_R != 0,
        w: rwx & EPT_W != 0,
        x: rwx & EPT_X != 0,
    }
}

const fn is_parked(entry: u64) -> bool {
    entry & RWX == 0 && entry & PARKED != 0
}

impl Format for Ept {
    #[inline]
    fn leaf(cfg: &Config, level: Level, s: &LeafSpec) -> u64 {
        let pfn = s.pfn.0 & !level.pages().wrapping_sub(1);
        let e = (pfn << PAGE_SHIFT) & cfg.addr_mask()
            | EPT_R
            | bit(s.encrypt, cfg.enc())
            | bit(s.prot.w, EPT_W)
            | bit(s.prot.x, EPT_X)
            | ((s.mem as u64) << EPT_MT_SHIFT)
            | bit(s.ignore_guest_pat, EPT_IPAT)
            | bit(level != Level::L4K, EPT_PS)
            | bit(cfg.ad() && s.accessed, EPT_A)
            | bit(cfg.ad() && s.dirty, EPT_D)
            | bit(s.host_writable, HOST_WRITABLE)
            | bit(s.mmu_writable, MMU_WRITABLE);
        if s.accessed {
            e
        } else {
            Self::aged(cfg, e)
        }
    }

    #[inline]
    fn table(cfg: &Config, pa: u64) -> u64 {
        pa & cfg.addr_mask() | cfg.enc() | RWX | bit(cfg.ad(), EPT_A)
    }

    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & RWX != MMIO && entry & (RWX | PARKED) != 0
    }

    #[inline]
    fn is_leaf(entry: u64, level: Level) -> bool {
        level == Level::L4K || level.may_be_leaf() && entry & EPT_PS != 0
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        if is_parked(entry) {
            rights(entry >> PARK_SHIFT)
        } else {
            rights(entry)
        }
    }

    #[inline]
    fn hw_prot(entry: u64) -> Prot {
        rights(entry)
    }

    #[inline]
    fn with_write(entry: u64) -> u64 {
        if is_parked(entry) {
            entry | PARKED_W
        } else {
            entry | EPT_W
        }
    }

    #[inline]
    fn without_write(entry: u64) -> u64 {
        entry & !(EPT_W | PARKED_W)
    }

    #[inline]
    fn accessed(cfg: &Config, entry: u64) -> bool {
        if cfg.ad() {
            entry & EPT_A != 0
        } else {
            !is_parked(entry)
        }
    }

    #[inline]
    fn dirty(cfg: &Config, entry: u64) -> bool {
        if cfg.ad() {
            entry & EPT_D != 0
        } else {
            Self::prot(entry).w
        }
    }

    #[inline]
    fn aged(cfg: &Config, entry: u64) -> u64 {
        if cfg.ad() {
            entry & !EPT_A
        } else if is_parked(entry) {
            entry
        } else {
            entry & !(RWX | PARKED) | ((entry & RWX) << PARK_SHIFT)
        }
    }

    #[inline]
    fn revived(cfg: &Config, entry: u64) -> u64 {
        if cfg.ad() {
            entry | EPT_A
        } else if is_parked(entry) {
            entry & !PARKED | ((entry & PARKED) >> PARK_SHIFT)
        } else {
            entry
        }
    }

    #[inline]
    fn cleaned(cfg: &Config, entry: u64) -> u64 {
        if cfg.ad() {
            entry & !EPT_D
        } else {
            entry
        }
    }

    #[inline]
    fn soiled(cfg: &Config, entry: u64) -> u64 {
        if cfg.ad() {
            entry | EPT_D
        } else {
            entry
        }
    }

    #[inline]
    fn host_writable(entry: u64) -> bool {
        entry & HOST_WRITABLE != 0
    }

    #[inline]
    fn mmu_writable(entry: u64) -> bool {
        entry & MMU_WRITABLE != 0
    }

    #[inline]
    fn part(cfg: &Config, entry: u64, level: Level, index: usize) -> u64 {
        let Some(down) = level.down() else { return 0 };
        // Bit 7 is ignored in the last level; clear it to keep one encoding per meaning.
        let e = if down == Level::L4K {
            entry & !EPT_PS
        } else {
            entry
        };
        let step = down.pages() << PAGE_SHIFT;
        let offset = (index as u64 & 511).wrapping_mul(step);
        e | offset & cfg.addr_mask()
    }

    #[inline]
    fn mmio(gen: u64) -> Option<u64> {
        Some(MMIO | FAR | (mmio_tag(gen) << PAGE_SHIFT))
    }

    #[inline]
    fn mmio_gen(entry: u64) -> Option<u64> {
        if entry & RWX == MMIO {
            Some(mmio_tag(entry >> PAGE_SHIFT))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Pfn;
    use crate::tdp::entry::MemType;

    const AD: Config = Config::new(false, 46, 0, true);
    const NO_AD: Config = Config::new(false, 46, 0, false);

    #[test]
    fn leaf_bits() {
        let s = LeafSpec {
            ignore_guest_pat: true,
            ..LeafSpec::ram(Pfn(0x12345), Prot::RWX)
        };
        let e = Ept::leaf(&AD, Level::L4K, &s);
        assert_eq!(e, 3 << 52 | 0x1234_5000 | 0x300 | 0x40 | 6 << 3 | 7);
        let e = Ept::leaf(&NO_AD, Level::L2M, &s);
        assert_eq!(e, 3 << 52 | 0x1220_0000 | 0x80 | 0x40 | 6 << 3 | 7);
        let s = LeafSpec {
            mem: MemType::Uc,
            ..LeafSpec::ram(Pfn(1), Prot::R)
        };
        assert_eq!(Ept::leaf(&AD, Level::L4K, &s), 0x1000 | 0x100 | 1);
    }

    #[test]
    fn parked_leaves_keep_their_rights() {
        let s = LeafSpec::ram(Pfn(7), Prot::RWX);
        let e = Ept::leaf(&NO_AD, Level::L4K, &s);
        let p = Ept::aged(&NO_AD, e);
        assert_eq!(p & 7, 0);
        assert!(Ept::is_present(p) && Ept::mmio_gen(p).is_none());
        assert!(!Ept::accessed(&NO_AD, p));
        assert_eq!(Ept::prot(p), Prot::RWX);
        assert_eq!(
            Ept::hw_prot(p),
            Prot {
                r: false,
                w: false,
                x: false
            }
        );
        assert!(Ept::dirty(&NO_AD, p), "a stale TLB entry may still write");
        assert_eq!(Ept::revived(&NO_AD, p), e);
        assert_eq!(Ept::aged(&NO_AD, p), p);
        let ro = Ept::without_write(p);
        assert_eq!(Ept::prot(ro), Prot::RX);
        assert_eq!(Ept::with_write(ro), p);
        // Mapped ahead of an access: parked from the start.
        let s = LeafSpec {
            accessed: false,
            ..s
        };
        assert_eq!(Ept::leaf(&NO_AD, Level::L4K, &s), p);
    }

    #[test]
    fn mmio_is_a_misconfiguration_with_a_tag() {
        let e = Ept::mmio(0xff_ffff_ffff_ffff).unwrap();
        assert_eq!(e & 7, 6);
        assert!(!Ept::is_present(e));
        assert_eq!(Ept::mmio_gen(e), Some((1 << MMIO_GEN_BITS) - 1));
        assert_eq!(Ept::mmio_gen(Ept::mmio(5).unwrap()), Some(5));
        assert_eq!(Ept::mmio_gen(0), None);
        assert_eq!(Ept::mmio_gen(Ept::table(&AD, 0x1000)), None);
    }

    /// Of no level-1 cache, which knows addresses of 36 bits at least, is it in the lower 31 of 32
    /// parts.
    #[test]
    fn mmio_is_out_of_the_caches_reach() {
        for gen in [0, 1, (1 << MMIO_GEN_BITS) - 1, 1 << 39, u64::MAX] {
            let e = Ept::mmio(gen).unwrap();
            assert_eq!(e & !PTE_ADDR, MMIO, "hardware may know the other bits");
            for width in 36..=52 {
                let known = e & PTE_ADDR & ((1 << width) - 1);
                assert_eq!(known >> (width - 5), 31, "{gen:#x} {width}");
            }
        }
    }

    #[test]
    fn parts_cover_the_whole() {
        let e = Ept::leaf(&AD, Level::L1G, &LeafSpec::ram(Pfn(0x40000), Prot::RW));
        let m = Ept::part(&AD, e, Level::L1G, 511);
        assert_eq!(AD.pfn(m, Level::L2M), Pfn(0x7fe00));
        let k = Ept::part(&AD, m, Level::L2M, 1);
        assert_eq!(AD.pfn(k, Level::L4K), Pfn(0x7fe01));
        assert_eq!(k & EPT_PS, 0);
        assert!(Ept::dirty(&AD, k));
    }
}
