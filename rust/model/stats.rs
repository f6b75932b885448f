// SPDX-License-Identifier: GPL-2.0

//! The statistics of VMs and vCPUs: names, kinds, and the file in which user space reads them
//! (KVM_GET_STATS_FD).
//!
//! Names, kinds and order are those of the in-tree module, so that tools find what they look for.
//! What only shadow paging would count is there and stays 0: there are no shadow pages.
//!
//! A file is a header, an id, a descriptor for each statistic, and the values; see [`Layout`].

use crate::abi::system as abi;
use core::mem::size_of;
use zerocopy_derive::{Immutable, IntoBytes};

/// What a statistic measures and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events since the beginning.
    Counter,
    /// How many there are now.
    Gauge,
    /// The most there ever were.
    Peak,
    /// Whether it is so now.
    Flag,
    /// Nanoseconds since the beginning.
    Nanoseconds,
    /// Events by duration: word `i` counts those of at least 2^(i-1) and less than 2^i ns.
    Histogram,
}

/// Words of a histogram.
pub const BUCKETS: usize = 32;

impl Kind {
    /// Words of values.
    pub const fn words(self) -> usize {
        match self {
            Kind::Histogram => BUCKETS,
            _ => 1,
        }
    }

    const fn flags(self) -> u32 {
        match self {
            Kind::Counter => abi::KVM_STATS_TYPE_CUMULATIVE | abi::KVM_STATS_UNIT_NONE,
            Kind::Gauge => abi::KVM_STATS_TYPE_INSTANT | abi::KVM_STATS_UNIT_NONE,
            Kind::Peak => abi::KVM_STATS_TYPE_PEAK | abi::KVM_STATS_UNIT_NONE,
            Kind::Flag => abi::KVM_STATS_TYPE_INSTANT | abi::KVM_STATS_UNIT_BOOLEAN,
            Kind::Nanoseconds => abi::KVM_STATS_TYPE_CUMULATIVE | abi::KVM_STATS_UNIT_SECONDS,
            Kind::Histogram => abi::KVM_STATS_TYPE_LOG_HIST | abi::KVM_STATS_UNIT_SECONDS,
        }
    }

    const fn exponent(self) -> i16 {
        match self {
            Kind::Nanoseconds | Kind::Histogram => -9,
            _ => 0,
        }
    }
}

/// The word of a histogram in which a duration counts.
pub const fn bucket(ns: u64) -> usize {
    let bits = 64u32.wrapping_sub(ns.leading_zeros()) as usize;
    if bits < BUCKETS {
        bits
    } else {
        BUCKETS.wrapping_sub(1)
    }
}

/// A descriptor with its name: `struct kvm_stats_desc` and `KVM_STATS_NAME_SIZE` bytes.
#[cfg_attr(not(MODULE), derive(Debug))]
#[derive(Clone, Copy, IntoBytes, Immutable)]
#[repr(C)]
pub struct Desc {
    flags: u32,
    exponent: i16,
    size: u16,
    offset: u32,
    bucket_size: u32,
    name: [u8; abi::KVM_STATS_NAME_SIZE],
}

const _: () = assert!(size_of::<Desc>() == 16 + abi::KVM_STATS_NAME_SIZE);

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which refuses what is out of range"
)]
const fn describe<const N: usize>(list: &[(Kind, &str); N]) -> [Desc; N] {
    let empty = Desc {
        flags: 0,
        exponent: 0,
        size: 0,
        offset: 0,
        bucket_size: 0,
        name: [0; abi::KVM_STATS_NAME_SIZE],
    };
    let mut out = [empty; N];
    let mut offset = 0;
    let mut i = 0;
    while i < N {
        let (kind, name) = list[i];
        let d = &mut out[i];
        d.flags = kind.flags();
        d.exponent = kind.exponent();
        d.size = kind.words() as u16;
        d.offset = offset;
        let bytes = name.as_bytes();
        let mut j = 0;
        // The last byte stays 0.
        while j < bytes.len() {
            assert!(j + 1 < abi::KVM_STATS_NAME_SIZE);
            d.name[j] = bytes[j];
            j += 1;
        }
        offset += 8 * kind.words() as u32;
        i += 1;
    }
    out
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which refuses what is out of range"
)]
const fn total_words<const N: usize>(list: &[(Kind, &str); N]) -> usize {
    let (mut n, mut i) = (0, 0);
    while i < N {
        n += list[i].0.words();
        i += 1;
    }
    n
}

macro_rules! stats {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $stat:ident = $kind:ident $text:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $name {
            $($(#[$doc])* #[doc = $text] $stat,)*
        }

        impl $name {
            const LIST: [(Kind, &'static str); [$($text),*].len()] = [$((Kind::$kind, $text)),*];
            /// All of them, as user space is told.
            pub const DESCS: &'static [Desc] = &describe(&Self::LIST);
            /// Words of values.
            pub const WORDS: usize = total_words(&Self::LIST);

            /// The first of its words.
            #[inline]
            pub const fn word(self) -> usize {
                const AT: [usize; $name::LIST.len()] = places(&$name::LIST);
                #[expect(clippy::indexing_slicing, reason = "the enum numbers the list")]
                AT[self as usize]
            }
        }
    };
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which refuses what is out of range"
)]
const fn places<const N: usize>(list: &[(Kind, &str); N]) -> [usize; N] {
    let mut out = [0; N];
    let (mut at, mut i) = (0, 0);
    while i < N {
        out[i] = at;
        at += list[i].0.words();
        i += 1;
    }
    out
}

stats! {
    /// Statistics of a VM.
    VmStat {
        /// Flushes that forced a CPU out of the guest:
        RemoteTlbFlush = Counter "remote_tlb_flush";
        /// Flushes asked for:
        RemoteTlbFlushRequests = Counter "remote_tlb_flush_requests";
        /// Shadow paging:
        MmuShadowZapped = Counter "mmu_shadow_zapped";
        /// Shadow paging:
        MmuPteWrite = Counter "mmu_pte_write";
        /// Shadow paging:
        MmuPdeZapped = Counter "mmu_pde_zapped";
        /// Shadow paging:
        MmuFlooded = Counter "mmu_flooded";
        /// Shadow paging:
        MmuRecycled = Counter "mmu_recycled";
        /// Shadow paging:
        MmuCacheMiss = Counter "mmu_cache_miss";
        /// Shadow paging:
        MmuUnsync = Gauge "mmu_unsync";
        /// Shadow paging:
        MmuShadowPages = Gauge "mmu_shadow_pages";
        /// Leaves of 4 KiB:
        Pages4k = Gauge "pages_4k";
        /// Leaves of 2 MiB:
        Pages2m = Gauge "pages_2m";
        /// Leaves of 1 GiB:
        Pages1g = Gauge "pages_1g";
        /// Tables that are there only because a large page must not be executable:
        NxLpageSplits = Gauge "nx_lpage_splits";
        /// Shadow paging:
        MaxMmuRmapSize = Peak "max_mmu_rmap_size";
        /// Shadow paging:
        MaxMmuPageHashCollisions = Peak "max_mmu_page_hash_collisions";
    }
}

stats! {
    /// Statistics of a vCPU.
    VcpuStat {
        /// Polls of a halted vCPU that ended with something to do:
        HaltSuccessfulPoll = Counter "halt_successful_poll";
        /// Polls:
        HaltAttemptedPoll = Counter "halt_attempted_poll";
        /// Polls that ended with nothing to do after all:
        HaltPollInvalid = Counter "halt_poll_invalid";
        /// Wake-ups from sleep:
        HaltWakeup = Counter "halt_wakeup";
        /// Time in successful polls:
        HaltPollSuccessNs = Nanoseconds "halt_poll_success_ns";
        /// Time in other polls:
        HaltPollFailNs = Nanoseconds "halt_poll_fail_ns";
        /// Time asleep:
        HaltWaitNs = Nanoseconds "halt_wait_ns";
        /// The same, each:
        HaltPollSuccessHist = Histogram "halt_poll_success_hist";
        /// The same, each:
        HaltPollFailHist = Histogram "halt_poll_fail_hist";
        /// The same, each:
        HaltWaitHist = Histogram "halt_wait_hist";
        /// It polls or sleeps:
        Blocking = Flag "blocking";
        /// Faults in the nested tables:
        PfTaken = Counter "pf_taken";
        /// Of these, those that changed an entry:
        PfFixed = Counter "pf_fixed";
        /// Of these, accesses to devices:
        PfEmulate = Counter "pf_emulate";
        /// Of these, those that somebody else had resolved:
        PfSpurious = Counter "pf_spurious";
        /// Of these, those resolved without looking for the page:
        PfFast = Counter "pf_fast";
        /// Device addresses noted in the nested tables:
        PfMmioSpteCreated = Counter "pf_mmio_spte_created";
        /// Page faults given to the guest by software:
        PfGuest = Counter "pf_guest";
        /// Flushes of the vCPU's translations:
        TlbFlush = Counter "tlb_flush";
        /// INVLPG carried out by software:
        Invlpg = Counter "invlpg";
        /// Exits:
        Exits = Counter "exits";
        /// Exits for ports:
        IoExits = Counter "io_exits";
        /// Device accesses that user space got:
        MmioExits = Counter "mmio_exits";
        /// Returns of KVM_RUN for a signal:
        SignalExits = Counter "signal_exits";
        /// Exits because interrupts can be taken:
        IrqWindowExits = Counter "irq_window_exits";
        /// Exits because NMIs can be taken:
        NmiWindowExits = Counter "nmi_window_exits";
        /// Flushes of the L1 data cache:
        L1dFlush = Counter "l1d_flush";
        /// HLT:
        HaltExits = Counter "halt_exits";
        /// Returns of KVM_RUN because user space waited for an interrupt window:
        RequestIrqExits = Counter "request_irq_exits";
        /// Exits for interrupts of the host:
        IrqExits = Counter "irq_exits";
        /// Times that the host's state had to be saved anew:
        HostStateReload = Counter "host_state_reload";
        /// Times that the guest's FPU was loaded:
        FpuReload = Counter "fpu_reload";
        /// Instructions emulated:
        InsnEmulation = Counter "insn_emulation";
        /// Instructions that could not be emulated:
        InsnEmulationFail = Counter "insn_emulation_fail";
        /// Hypercalls:
        Hypercalls = Counter "hypercalls";
        /// Interrupts injected:
        IrqInjections = Counter "irq_injections";
        /// NMIs injected:
        NmiInjections = Counter "nmi_injections";
        /// Looks for events that were asked for:
        ReqEvent = Counter "req_event";
        /// Entries into a nested guest:
        NestedRun = Counter "nested_run";
        /// Yields to another vCPU that the guest asked for:
        DirectedYieldAttempted = Counter "directed_yield_attempted";
        /// Of these, those that worked:
        DirectedYieldSuccessful = Counter "directed_yield_successful";
        /// Preemptions that the guest is told of:
        PreemptionReported = Counter "preemption_reported";
        /// Preemptions that it is not:
        PreemptionOther = Counter "preemption_other";
        /// It runs a nested guest:
        GuestMode = Flag "guest_mode";
        /// Exits because no interrupt window came for too long:
        NotifyWindowExits = Counter "notify_window_exits";
    }
}

/// What comes where in a statistics file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The header.
    Header,
    /// The id, `KVM_STATS_NAME_SIZE` bytes.
    Id,
    /// The descriptors.
    Descs,
    /// The values.
    Values,
}

/// The parts of a file with so many descriptors and words of values.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    descs: usize,
    words: usize,
}

impl Layout {
    /// The layout of files with `descs` descriptors and `words` words of values.
    pub const fn new(descs: usize, words: usize) -> Self {
        Self { descs, words }
    }

    /// The parts in order, each with its size in bytes.
    pub const fn parts(&self) -> [(Part, usize); 4] {
        [
            (Part::Header, size_of::<abi::KvmStatsHeader>()),
            (Part::Id, abi::KVM_STATS_NAME_SIZE),
            (Part::Descs, self.descs.wrapping_mul(size_of::<Desc>())),
            (Part::Values, self.words.wrapping_mul(8)),
        ]
    }

    /// The header.
    pub const fn header(&self) -> abi::KvmStatsHeader {
        let [(_, header), (_, id), (_, descs), _] = self.parts();
        let desc_offset = header.wrapping_add(id);
        abi::KvmStatsHeader {
            flags: 0,
            name_size: abi::KVM_STATS_NAME_SIZE as u32,
            num_desc: self.descs as u32,
            id_offset: header as u32,
            desc_offset: desc_offset as u32,
            data_offset: desc_offset.wrapping_add(descs) as u32,
        }
    }

    /// What a read of at most `len` bytes from `pos` on gets: of each part, where it begins in the
    /// part and how many bytes.
    pub fn read(&self, pos: u64, len: usize) -> impl Iterator<Item = (Part, usize, usize)> {
        let mut skip = pos;
        let mut left = len;
        self.parts().into_iter().filter_map(move |(part, size)| {
            let from = skip.min(size as u64) as usize;
            skip = skip.wrapping_sub(from as u64);
            let n = size.wrapping_sub(from).min(left);
            left = left.wrapping_sub(n);
            (n != 0).then_some((part, from, n))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes as _;

    #[test]
    fn buckets_are_powers_of_two() {
        let cases = [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 3),
            (1 << 29, 30),
            (1 << 30, 31),
        ];
        for (ns, want) in cases {
            assert_eq!(bucket(ns), want, "{ns}");
        }
        assert_eq!(bucket(u64::MAX), 31);
    }

    #[test]
    fn words_follow_each_other() {
        let mut next = 0;
        for (i, d) in VcpuStat::DESCS.iter().enumerate() {
            assert_eq!(d.offset as usize, next, "{i}");
            next += 8 * usize::from(d.size);
        }
        assert_eq!(next, 8 * VcpuStat::WORDS);
        assert_eq!(VcpuStat::HaltPollSuccessHist.word(), 7);
        assert_eq!(VcpuStat::HaltPollFailHist.word(), 7 + BUCKETS);
        assert_eq!(VcpuStat::Blocking.word(), 7 + 3 * BUCKETS);
        assert_eq!(VmStat::Pages4k.word(), 10);
        let name = &VmStat::DESCS[VmStat::Pages2m as usize].name;
        assert_eq!(&name[..9], b"pages_2m\0");
    }

    #[test]
    fn header_names_the_offsets() {
        let l = Layout::new(VmStat::DESCS.len(), VmStat::WORDS);
        let h = l.header();
        assert_eq!((h.id_offset, h.desc_offset), (24, 72));
        assert_eq!(h.data_offset, 72 + 64 * 16);
        assert_eq!(VmStat::DESCS.as_bytes().len(), 64 * 16);
    }

    /// Reads in pieces of any size give the whole file.
    #[test]
    fn reads_in_pieces() {
        let l = Layout::new(3, 5);
        let total: usize = l.parts().iter().map(|(_, n)| n).sum();
        for piece in [1, 7, 24, 25, 100, 1000] {
            let mut pos = 0;
            let mut seen = [0usize; 4];
            loop {
                let mut got = 0;
                for (part, from, n) in l.read(pos as u64, piece) {
                    assert_eq!(seen[part as usize], from);
                    seen[part as usize] += n;
                    got += n;
                }
                if got == 0 {
                    break;
                }
                assert!(got == piece || pos + got == total);
                pos += got;
            }
            assert_eq!(pos, total);
            assert_eq!(seen.to_vec(), l.parts().map(|(_, n)| n).to_vec());
        }
        assert_eq!(l.read(u64::MAX, 10).count(), 0);
    }
}
