// SPDX-License-Identifier: GPL-2.0

//! What a table entry says, apart from how a vendor encodes it.
//!
//! [`Format`] is the seam between the algorithms of this folder and the two encodings,
//! [`crate::svm::npt::Npt`] and [`crate::vmx::ept::Ept`]. An entry is always in one of these states:
//!
//! | state | software sees | hardware sees |
//! |---|---|---|
//! | empty | 0 | not present |
//! | MMIO | `mmio_gen` is `Some` | a misconfiguration (EPT only) |
//! | table | present, not leaf | a pointer to the next table |
//! | leaf | present, leaf | a mapping |
//! | parked leaf | present, leaf, not accessed | not present; used for ageing without an A bit |

use crate::addr::{Gfn, Pfn, PAGE_SHIFT};
use crate::x86::paging::PTE_ADDR;

/// The level of a table, named after what one of its entries spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Entries map 4 KiB pages.
    L4K = 1,
    /// Entries span 2 MiB.
    L2M = 2,
    /// Entries span 1 GiB.
    L1G = 3,
    /// Entries span 512 GiB and are never leaves; the root of a 4-level table.
    L512G = 4,
    /// Entries span 256 TiB and are never leaves; the root of a 5-level table.
    L256T = 5,
}

impl Level {
    /// log2 of the number of 4 KiB pages one entry spans.
    #[inline]
    pub const fn page_bits(self) -> u32 {
        match self {
            Level::L4K => 0,
            Level::L2M => 9,
            Level::L1G => 18,
            Level::L512G => 27,
            Level::L256T => 36,
        }
    }

    /// Number of 4 KiB pages one entry spans.
    #[inline]
    pub const fn pages(self) -> u64 {
        1u64.wrapping_shl(self.page_bits())
    }

    /// The index of the entry for `gfn` in a table of this level.
    #[inline]
    pub const fn index(self, gfn: Gfn) -> usize {
        (gfn.0.wrapping_shr(self.page_bits()) & 511) as usize
    }

    /// The first page of the entry that spans `gfn`.
    #[inline]
    pub const fn base(self, gfn: Gfn) -> Gfn {
        Gfn(gfn.0 & !self.pages().wrapping_sub(1))
    }

    /// The level below, `None` for the last one.
    #[inline]
    pub const fn down(self) -> Option<Level> {
        match self {
            Level::L4K => None,
            Level::L2M => Some(Level::L4K),
            Level::L1G => Some(Level::L2M),
            Level::L512G => Some(Level::L1G),
            Level::L256T => Some(Level::L512G),
        }
    }

    /// Whether an entry of this level may be a leaf.
    #[inline]
    pub const fn may_be_leaf(self) -> bool {
        matches!(self, Level::L4K | Level::L2M | Level::L1G)
    }

    /// Number of pages a root table of this level spans.
    #[inline]
    pub const fn root_pages(self) -> u64 {
        self.pages().wrapping_shl(9)
    }
}

/// Access rights of a mapping. An entry that allows anything allows reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prot {
    /// Reads are allowed.
    pub r: bool,
    /// Writes are allowed.
    pub w: bool,
    /// Instruction fetches are allowed.
    pub x: bool,
}

impl Prot {
    /// Reads only.
    pub const R: Prot = Prot {
        r: true,
        w: false,
        x: false,
    };
    /// Reads and writes.
    pub const RW: Prot = Prot {
        r: true,
        w: true,
        x: false,
    };
    /// Reads and instruction fetches.
    pub const RX: Prot = Prot {
        r: true,
        w: false,
        x: true,
    };
    /// Everything.
    pub const RWX: Prot = Prot {
        r: true,
        w: true,
        x: true,
    };

    /// Whether everything `want` asks for is allowed here.
    #[inline]
    pub const fn allows(self, want: Prot) -> bool {
        (self.r || !want.r) && (self.w || !want.w) && (self.x || !want.x)
    }
}

/// Memory types, numbered as in the EPT entry and the MTRRs (SDM: vol 3, 13.11.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum MemType {
    /// Uncacheable.
    Uc = 0,
    /// Write combining.
    Wc = 1,
    /// Write through.
    Wt = 4,
    /// Write protected.
    Wp = 5,
    /// Write back.
    #[default]
    Wb = 6,
}

/// Everything that goes into a new leaf entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafSpec {
    /// The host page; for a large leaf, the first of its pages.
    pub pfn: Pfn,
    /// The rights the guest gets. `r` is implied.
    pub prot: Prot,
    /// Memory type of the mapping.
    pub mem: MemType,
    /// Ignore the guest's PAT and use `mem` alone (EPT only).
    pub ignore_guest_pat: bool,
    /// The host mapping of the page is writable.
    pub host_writable: bool,
    /// Nothing but dirty logging forbids writes: a write fault may restore `w` on the spot.
    pub mmu_writable: bool,
    /// Set the accessed state at once; clear for pages mapped ahead of any access.
    pub accessed: bool,
    /// Set the dirty state at once.
    pub dirty: bool,
    /// Apply [`Config::enc`]; clear for device memory.
    pub encrypt: bool,
    /// The level the leaf would have, were it not that only small pages may be executed. Tables
    /// that this makes necessary are marked ([`Format::for_exec`]).
    pub instead_of: Level,
}

impl LeafSpec {
    /// An ordinary write-back RAM page that was just accessed: `host_writable` and `mmu_writable`
    /// follow `prot.w`.
    pub const fn ram(pfn: Pfn, prot: Prot) -> Self {
        LeafSpec {
            pfn,
            prot,
            mem: MemType::Wb,
            ignore_guest_pat: false,
            host_writable: prot.w,
            mmu_writable: prot.w,
            accessed: true,
            dirty: prot.w,
            encrypt: true,
            instead_of: Level::L4K,
        }
    }
}

/// What does not change during the life of a set of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    root: Level,
    addr: u64,
    enc: u64,
    ad: bool,
}

impl Config {
    /// Describes tables of four levels, or five if `five`, on a host with `maxphyaddr` physical
    /// address bits (clamped to 52). `enc` is or-ed into the address of every table and encrypted
    /// page (the SME C-bit, else 0). `ad`: hardware sets accessed and dirty bits.
    pub const fn new(five: bool, maxphyaddr: u32, enc: u64, ad: bool) -> Self {
        let bits = if maxphyaddr < 52 { maxphyaddr } else { 52 };
        let addr = 1u64.wrapping_shl(bits).wrapping_sub(1) & PTE_ADDR;
        let root = if five { Level::L256T } else { Level::L512G };
        Config {
            root,
            addr: addr & !enc,
            enc,
            ad,
        }
    }

    /// The level of the root table.
    #[inline]
    pub const fn root(&self) -> Level {
        self.root
    }

    /// Mask of the physical-address bits of an entry, without the encryption bit.
    #[inline]
    pub const fn addr_mask(&self) -> u64 {
        self.addr
    }

    /// The bits or-ed into encrypted addresses.
    #[inline]
    pub const fn enc(&self) -> u64 {
        self.enc
    }

    /// Whether hardware maintains accessed and dirty bits.
    #[inline]
    pub const fn ad(&self) -> bool {
        self.ad
    }

    /// Whether `gfn` can be translated by tables of this depth.
    #[inline]
    pub const fn covers(&self, gfn: Gfn) -> bool {
        gfn.0 < self.root.root_pages()
    }

    /// Number of pages the whole table spans: the end of the largest range.
    #[inline]
    pub const fn end(&self) -> Gfn {
        Gfn(self.root.root_pages())
    }

    /// The physical address of the table or page an entry points to.
    #[inline]
    pub const fn address(&self, entry: u64) -> u64 {
        entry & self.addr
    }

    /// The first host page a leaf of `level` maps.
    #[inline]
    pub const fn pfn(&self, entry: u64, level: Level) -> Pfn {
        Pfn(((entry & self.addr) >> PAGE_SHIFT) & !level.pages().wrapping_sub(1))
    }
}

const FOR_EXEC: u64 = 1 << 11;

/// How a vendor encodes the entries. All functions are pure; the implementors are zero-sized.
pub trait Format: Sized + 'static {
    /// A leaf of `level`. The pfn is truncated to the alignment of the level.
    fn leaf(cfg: &Config, level: Level, spec: &LeafSpec) -> u64;

    /// A pointer to the table at host-physical address `pa`, with all rights.
    fn table(cfg: &Config, pa: u64) -> u64;

    /// The pointer to a table, marked: the table stands where a large page could be, so that its
    /// pages can be executed. Hardware ignores bit 11 of a pointer to a table in both formats
    /// (`SDM: vol 3, table 30-3`, `APM: vol 2, 5.3.3`).
    #[inline]
    fn for_exec(table: u64) -> u64 {
        table | FOR_EXEC
    }

    /// Is the pointer to a table marked?
    #[inline]
    fn is_for_exec(table: u64) -> bool {
        table & FOR_EXEC != 0
    }

    /// Whether the entry is a table or a leaf (a parked leaf is one too).
    fn is_present(entry: u64) -> bool;

    /// Whether a present entry of a table of `level` is a leaf.
    fn is_leaf(entry: u64, level: Level) -> bool;

    /// The rights of a leaf, as granted by software: those of a parked leaf are the parked ones.
    fn prot(entry: u64) -> Prot;

    /// The rights hardware sees now.
    fn hw_prot(entry: u64) -> Prot;

    /// The leaf with writes allowed.
    fn with_write(entry: u64) -> u64;

    /// The leaf with writes forbidden, in its parked rights too.
    fn without_write(entry: u64) -> u64;

    /// Whether the leaf was used since it was last aged.
    fn accessed(cfg: &Config, entry: u64) -> bool;

    /// Whether the page may have been written since the leaf was last cleaned. Without a hardware
    /// D bit every writable leaf is.
    fn dirty(cfg: &Config, entry: u64) -> bool;

    /// The leaf as not accessed: A clear, or parked where hardware has no A bit.
    fn aged(cfg: &Config, entry: u64) -> u64;

    /// The leaf as accessed: A set, or its parked rights restored.
    fn revived(cfg: &Config, entry: u64) -> u64;

    /// The leaf with the D bit clear. Unchanged where hardware has none.
    fn cleaned(cfg: &Config, entry: u64) -> u64;

    /// The leaf with the D bit set, where hardware has one.
    fn soiled(cfg: &Config, entry: u64) -> u64;

    /// [`LeafSpec::host_writable`] of the leaf.
    fn host_writable(entry: u64) -> bool;

    /// [`LeafSpec::mmu_writable`] of the leaf.
    fn mmu_writable(entry: u64) -> bool;

    /// The `index`th of the 512 leaves of the level below `level` that together mean the same as
    /// this leaf.
    fn part(cfg: &Config, entry: u64, level: Level, index: usize) -> u64;

    /// An entry that makes hardware report an access as MMIO without a walk of the slots, tagged
    /// with [`mmio_tag`] of `gen`. `None` where the format has no such thing.
    fn mmio(gen: u64) -> Option<u64>;

    /// The tag of an MMIO entry, `None` for any other entry.
    fn mmio_gen(entry: u64) -> Option<u64>;
}

/// Number of bits of [`Format::mmio`]'s tag. The entry has address bits to spare above them, see
/// [`crate::vmx::ept`].
pub const MMIO_GEN_BITS: u32 = 19;

/// What an MMIO entry keeps of a generation: its tag.
#[inline]
pub const fn mmio_tag(gen: u64) -> u64 {
    gen & 1u64.wrapping_shl(MMIO_GEN_BITS).wrapping_sub(1)
}

/// Is this a generation whose tags begin anew? Before it is reached all MMIO entries must be removed:
/// theirs would mean generations to come.
#[inline]
pub const fn mmio_tag_wraps(gen: u64) -> bool {
    mmio_tag(gen) == 0
}
