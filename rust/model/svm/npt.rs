// SPDX-License-Identifier: GPL-2.0

//! The nested-page-table entry of AMD processors.
//!
//! A nested page table is an ordinary long-mode page table, and every nested access counts as a
//! user access, so U/S is set in all entries (APM: vol 2, 15.25.5). Accessed and dirty bits are
//! always maintained. The memory type comes from the host's PAT through PWT and PCD and is combined
//! with the guest's (APM: vol 2, 15.25.8); Linux programs the PAT so that index 0 is WB, 1 is WC
//! and 3 is UC. Bits 9 and 10 are available to software (APM: vol 2, 5.4.1).

use crate::addr::PAGE_SHIFT;
use crate::tdp::entry::{Config, Format, LeafSpec, Level, MemType, Prot};
use crate::x86::paging::{PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PCD, PTE_PS, PTE_PWT, PTE_RW, PTE_US};

/// Software bit: the host mapping is writable.
const HOST_WRITABLE: u64 = 1 << 9;
/// Software bit: only dirty logging forbids writes.
const MMU_WRITABLE: u64 = 1 << 10;

/// The NPT entry format.
#[derive(Clone, Copy, Debug)]
pub struct Npt;

const fn bit(on: bool, mask: u64) -> u64 {
    if on {
        mask
    } else {
        0
    }
}

impl Format for Npt {
    #[inline]
    fn leaf(cfg: &Config, level: Level, s: &LeafSpec) -> u64 {
        let mem = match s.mem {
            // The host's MTRRs say that a device's memory is UC, and the guest may make it WC by its
            // PAT; UC here would win over that.
            MemType::Wb | MemType::Uc => 0,
            MemType::Wc => PTE_PWT,
            // WT and WP need the PAT bit, whose place depends on the level; UC is stricter.
            MemType::Wt | MemType::Wp => PTE_PWT | PTE_PCD,
        };
        let pfn = s.pfn.0 & !level.pages().wrapping_sub(1);
        (pfn << PAGE_SHIFT) & cfg.addr_mask()
            | PTE_P
            | PTE_US
            | mem
            | bit(s.encrypt, cfg.enc())
            | bit(s.prot.w, PTE_RW)
            | bit(!s.prot.x, PTE_NX)
            | bit(s.accessed, PTE_A)
            | bit(s.dirty, PTE_D)
            | bit(level != Level::L4K, PTE_PS)
            | bit(s.host_writable, HOST_WRITABLE)
            | bit(s.mmu_writable, MMU_WRITABLE)
    }

    #[inline]
    fn table(cfg: &Config, pa: u64) -> u64 {
        pa & cfg.addr_mask() | cfg.enc() | PTE_P | PTE_RW | PTE_US | PTE_A
    }

    #[inline]
    fn is_present(entry: u64) -> bool {
        entry & PTE_P != 0
    }

    #[inline]
    fn is_leaf(entry: u64, level: Level) -> bool {
        level == Level::L4K || level.may_be_leaf() && entry & PTE_PS != 0
    }

    #[inline]
    fn prot(entry: u64) -> Prot {
        Prot {
            r: entry & PTE_P != 0,
            w: entry & PTE_RW != 0,
            x: entry & PTE_NX == 0,
        }
    }

    #[inline]
    fn hw_prot(entry: u64) -> Prot {
        Self::prot(entry)
    }

    #[inline]
    fn with_write(entry: u64) -> u64 {
        entry | PTE_RW
    }

    #[inline]
    fn without_write(entry: u64) -> u64 {
        entry & !PTE_RW
    }

    #[inline]
    fn accessed(_: &Config, entry: u64) -> bool {
        entry & PTE_A != 0
    }

    #[inline]
    fn dirty(_: &Config, entry: u64) -> bool {
        entry & PTE_D != 0
    }

    #[inline]
    fn aged(_: &Config, entry: u64) -> u64 {
        entry & !PTE_A
    }

    #[inline]
    fn revived(_: &Config, entry: u64) -> u64 {
        entry | PTE_A
    }

    #[inline]
    fn cleaned(_: &Config, entry: u64) -> u64 {
        entry & !PTE_D
    }

    #[inline]
    fn soiled(_: &Config, entry: u64) -> u64 {
        entry | PTE_D
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
        // Bit 7 is PS above the last level and PAT in it; no leaf here selects a high PAT entry.
        let e = if down == Level::L4K {
            entry & !PTE_PS
        } else {
            entry
        };
        let step = down.pages() << PAGE_SHIFT;
        let offset = (index as u64 & 511).wrapping_mul(step);
        e | offset & cfg.addr_mask()
    }

    #[inline]
    fn mmio(_: u64) -> Option<u64> {
        None
    }

    #[inline]
    fn mmio_gen(_: u64) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Pfn;

    const CFG: Config = Config::new(false, 48, 1 << 47, true);

    #[test]
    fn leaf_bits() {
        let s = LeafSpec::ram(Pfn(0x12345), Prot::RW);
        let e = Npt::leaf(&CFG, Level::L4K, &s);
        assert_eq!(e, 1 << 63 | 1 << 47 | 0x1234_5000 | 0x600 | 0x67);
        // A large leaf is aligned down and has PS.
        let e = Npt::leaf(&CFG, Level::L2M, &s);
        assert_eq!(e & CFG.addr_mask(), 0x1220_0000);
        assert_eq!(e & PTE_PS, PTE_PS);
        assert_eq!(CFG.pfn(e, Level::L2M), Pfn(0x12200));
        // Device memory: no encryption bit, and the guest's own type within the host's MTRRs.
        let s = LeafSpec {
            mem: MemType::Uc,
            encrypt: false,
            ..s
        };
        let e = Npt::leaf(&CFG, Level::L4K, &s);
        assert_eq!(e & (1 << 47), 0);
        assert_eq!(e & (PTE_PWT | PTE_PCD), 0);
    }

    #[test]
    fn tables_are_user_writable_and_encrypted() {
        let e = Npt::table(&CFG, 0xabc000);
        assert_eq!(e, 1 << 47 | 0xabc000 | 0x27);
        assert_eq!(CFG.address(e), 0xabc000);
        assert!(!Npt::is_leaf(e, Level::L2M));
        assert!(!Npt::is_leaf(e | PTE_PS, Level::L512G));
    }

    #[test]
    fn parts_cover_the_whole() {
        let s = LeafSpec::ram(Pfn(0x40000), Prot::RX);
        let e = Npt::leaf(&CFG, Level::L1G, &s);
        let m = Npt::part(&CFG, e, Level::L1G, 3);
        assert_eq!(CFG.pfn(m, Level::L2M), Pfn(0x40600));
        assert!(Npt::is_leaf(m, Level::L2M));
        let k = Npt::part(&CFG, m, Level::L2M, 511);
        assert_eq!(CFG.pfn(k, Level::L4K), Pfn(0x407ff));
        assert_eq!(k & PTE_PS, 0);
        assert_eq!(Npt::prot(k), Prot::RX);
    }
}
