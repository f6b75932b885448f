// SPDX-License-Identifier: GPL-2.0

//! The dirty ring of a vCPU, in memory shared with user space.
//!
//! Each entry goes round through three states, kept in its flags:
//!
//! ```text
//!   empty (0) --push, by the vCPU--> dirty (1) --user space--> harvested (2 or 3)
//!       ^                                                            |
//!       +---------------- reset, by KVM_RESET_DIRTY_RINGS -----------+
//! ```
//!
//! The vCPU alone advances `dirty`, and the holder of the slots lock alone advances `reset`. All
//! fields of an entry are under the control of user space at all times: what is read back from
//! them is only a request to protect a page again, and the caller checks slot and offset.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::abi::vm::{KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET};
use crate::addr::PAGE_SIZE;

/// Bytes of an entry, `struct kvm_dirty_gfn`.
pub const ENTRY_SIZE: usize = 16;
/// Where an entry has KVM_DIRTY_GFN_F_*, 4 bytes.
pub const FLAGS: usize = 0;
/// Where it has the slot, 4 bytes: address space in bits 31:16, number in bits 15:0.
pub const SLOT: usize = 4;
/// Where it has the number of the page in the slot, 8 bytes.
pub const OFFSET: usize = 8;

/// The memory of the entries. Each access is one load or store for each field; an index out of
/// range reads zeros and writes nothing.
pub trait Entries {
    /// KVM_DIRTY_GFN_F_*; what is read after it is not older (acquire).
    fn flags(&self, index: u32) -> u32;
    /// Sets the flags; what was written before is seen by who sees them (release).
    fn set_flags(&self, index: u32, flags: u32);
    /// Slot, and number of the page in it.
    fn page(&self, index: u32) -> (u32, u64);
    /// Sets slot and page.
    fn set_page(&self, index: u32, slot: u32, offset: u64);
}

/// The largest number of entries.
pub const MAX_ENTRIES: u32 = 65536;
/// Entries kept free for pages dirtied on the way out of the guest; a hardware log comes on top.
pub const RESERVED_ENTRIES: u32 = 64;

/// Why a ring size is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// EINVAL: not a power of two, or too small.
    Invalid,
    /// E2BIG.
    TooBig,
}

/// Number of entries of a ring of `bytes` bytes, of which `hardware_log` have to be free for the
/// contents of a hardware log (0 without one).
pub const fn entries_for(bytes: u64, hardware_log: u32) -> Result<u32, RingError> {
    let reserved = (RESERVED_ENTRIES as u64).wrapping_add(hardware_log as u64);
    if !bytes.is_power_of_two() || bytes < PAGE_SIZE || bytes >> 4 < reserved {
        return Err(RingError::Invalid);
    }
    if bytes >> 4 > MAX_ENTRIES as u64 {
        return Err(RingError::TooBig);
    }
    Ok((bytes >> 4) as u32)
}

/// What became of a page that was pushed.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It is in the ring.
    Done,
    /// It is in the ring, and the vCPU must exit to user space before it enters the guest again.
    SoftFull,
    /// There was no room. Cannot happen to a vCPU that heeds `SoftFull`.
    Lost,
}

/// The two ends of a ring. The entries are passed to each call.
#[derive(Debug)]
pub struct Ring {
    dirty: AtomicU32,
    reset: AtomicU32,
    size: u32,
    soft_limit: u32,
}

impl Ring {
    /// An empty ring of `size` entries, a number from [`entries_for`] with the same
    /// `hardware_log`.
    pub const fn new(size: u32, hardware_log: u32) -> Self {
        let reserved = RESERVED_ENTRIES.saturating_add(hardware_log);
        Ring {
            dirty: AtomicU32::new(0),
            reset: AtomicU32::new(0),
            size,
            soft_limit: size.saturating_sub(reserved),
        }
    }

    /// Number of entries that were pushed and not reset.
    pub fn used(&self) -> u32 {
        // The order keeps the result from wrapping: `reset` never overtakes `dirty`.
        let reset = self.reset.load(Acquire);
        self.dirty.load(Acquire).wrapping_sub(reset)
    }

    /// Whether the vCPU has to exit with KVM_EXIT_DIRTY_RING_FULL.
    pub fn is_soft_full(&self) -> bool {
        self.used() >= self.soft_limit
    }

    fn index(&self, at: u32) -> u32 {
        at & self.size.wrapping_sub(1)
    }

    /// Adds a page. Only the vCPU the ring belongs to may call this.
    pub fn push(&self, entries: &impl Entries, slot: u32, offset: u64) -> Push {
        let at = self.dirty.load(Relaxed);
        if self.used() >= self.size {
            return Push::Lost;
        }
        entries.set_page(self.index(at), slot, offset);
        // Before the flag: what user space can have harvested is there for a reset to take back.
        self.dirty.store(at.wrapping_add(1), Release);
        // User space looks at the flags first.
        entries.set_flags(self.index(at), KVM_DIRTY_GFN_F_DIRTY);
        if self.is_soft_full() {
            Push::SoftFull
        } else {
            Push::Done
        }
    }

    /// Takes back up to `max` entries that user space has harvested, and returns how many.
    ///
    /// `protect` gets a slot, the number of a page in it, and a mask of pages from that one on,
    /// for up to 64 neighbours at a time. None of them is to be trusted. The caller holds the
    /// slots lock.
    pub fn reset(
        &self,
        entries: &impl Entries,
        max: u32,
        mut protect: impl FnMut(u32, u64, u64),
    ) -> u32 {
        let mut batch: Option<Batch> = None;
        let mut count = 0u32;
        while count < max {
            let at = self.reset.load(Relaxed);
            // User space may have marked entries that were never pushed. One that it marks while
            // it is pushed has its page already, and is lost to nobody else.
            if at == self.dirty.load(Acquire)
                || entries.flags(self.index(at)) & KVM_DIRTY_GFN_F_RESET == 0
            {
                break;
            }
            let (slot, offset) = entries.page(self.index(at));
            entries.set_flags(self.index(at), 0);
            self.reset.store(at.wrapping_add(1), Release);
            count = count.wrapping_add(1);
            if !batch.as_mut().is_some_and(|b| b.add(slot, offset)) {
                let new = Batch {
                    slot,
                    offset,
                    mask: 1,
                };
                if let Some(b) = batch.replace(new) {
                    protect(b.slot, b.offset, b.mask);
                }
            }
        }
        if let Some(b) = batch {
            protect(b.slot, b.offset, b.mask);
        }
        count
    }
}

/// Neighbouring pages of a slot that are protected together.
struct Batch {
    slot: u32,
    offset: u64,
    mask: u64,
}

impl Batch {
    /// Adds a page if it is near enough.
    fn add(&mut self, slot: u32, offset: u64) -> bool {
        if slot != self.slot {
            return false;
        }
        let ahead = offset.wrapping_sub(self.offset);
        if ahead < 64 {
            self.mask |= 1u64.wrapping_shl(ahead as u32);
            return true;
        }
        // Behind: the pages gathered so far must still fit into the mask.
        let behind = self.offset.wrapping_sub(offset);
        if behind < 64 && behind <= u64::from(self.mask.leading_zeros()) {
            self.mask = self.mask.wrapping_shl(behind as u32) | 1;
            self.offset = offset;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use core::sync::atomic::AtomicU64;

    #[derive(Debug, Default)]
    struct DirtyGfn {
        flags: AtomicU32,
        slot: AtomicU32,
        offset: AtomicU64,
    }

    impl Entries for Vec<DirtyGfn> {
        fn flags(&self, i: u32) -> u32 {
            self[i as usize].flags.load(Acquire)
        }

        fn set_flags(&self, i: u32, flags: u32) {
            self[i as usize].flags.store(flags, Release);
        }

        fn page(&self, i: u32) -> (u32, u64) {
            let e = &self[i as usize];
            (e.slot.load(Relaxed), e.offset.load(Relaxed))
        }

        fn set_page(&self, i: u32, slot: u32, offset: u64) {
            let e = &self[i as usize];
            e.slot.store(slot, Relaxed);
            e.offset.store(offset, Relaxed);
        }
    }

    fn entries(n: usize) -> Vec<DirtyGfn> {
        (0..n).map(|_| DirtyGfn::default()).collect()
    }

    /// What user space does.
    fn harvest(entries: &[DirtyGfn], at: usize) -> Option<(u32, u64)> {
        let e = &entries[at % entries.len()];
        (e.flags.load(Acquire) == KVM_DIRTY_GFN_F_DIRTY).then(|| {
            let got = (e.slot.load(Relaxed), e.offset.load(Relaxed));
            e.flags.store(KVM_DIRTY_GFN_F_RESET, Release);
            got
        })
    }

    #[test]
    fn sizes() {
        use RingError::{Invalid, TooBig};
        let cases = [
            (0, 0, Err(Invalid)),
            (4096, 0, Ok(256)),
            (2048, 0, Err(Invalid)),
            (4096 * 3, 0, Err(Invalid)),
            (4096, 512, Err(Invalid)),
            (8192, 512, Err(Invalid)),
            (16384, 512, Ok(1024)),
            (1 << 20, 512, Ok(65536)),
            (1 << 21, 512, Err(TooBig)),
            (1 << 63, 0, Err(TooBig)),
        ];
        for (bytes, log, want) in cases {
            assert_eq!(entries_for(bytes, log), want, "{bytes} {log}");
        }
    }

    #[test]
    fn fills_up_and_drains() {
        let e = entries(256);
        let r = Ring::new(256, 0);
        for i in 0..191 {
            assert_eq!(r.push(&e, 3, i), Push::Done);
        }
        assert_eq!(r.push(&e, 3, 191), Push::SoftFull);
        assert!(r.is_soft_full());
        for i in 192..256 {
            assert_eq!(r.push(&e, 3, i), Push::SoftFull);
        }
        assert_eq!(r.push(&e, 3, 256), Push::Lost);
        // Nothing was harvested: nothing to reset.
        assert_eq!(r.reset(&e, u32::MAX, |_, _, _| panic!()), 0);
        for i in 0..100 {
            assert_eq!(harvest(&e, i), Some((3, i as u64)));
        }
        let mut got = Vec::new();
        assert_eq!(r.reset(&e, 10, |s, o, m| got.push((s, o, m))), 10);
        assert_eq!(got, [(3, 0, 0x3ff)]);
        got.clear();
        assert_eq!(r.reset(&e, u32::MAX, |s, o, m| got.push((s, o, m))), 90);
        assert_eq!(got, [(3, 10, u64::MAX), (3, 74, (1 << 26) - 1)]);
        assert_eq!(r.used(), 156);
        assert!(!r.is_soft_full());
        assert_eq!(r.push(&e, 4, 9), Push::Done);
        assert_eq!(e[0].offset.load(Relaxed), 9);
    }

    /// Runs something once an entry can be seen to be dirty.
    struct Watched<'a, F>(&'a Vec<DirtyGfn>, F);

    impl<F: Fn(u32)> Entries for Watched<'_, F> {
        fn flags(&self, i: u32) -> u32 {
            self.0.flags(i)
        }

        fn set_flags(&self, i: u32, flags: u32) {
            self.0.set_flags(i, flags);
            (self.1)(i);
        }

        fn page(&self, i: u32) -> (u32, u64) {
            self.0.page(i)
        }

        fn set_page(&self, i: u32, slot: u32, offset: u64) {
            self.0.set_page(i, slot, offset);
        }
    }

    #[test]
    fn what_was_harvested_can_be_reset_at_once() {
        let e = entries(256);
        let r = Ring::new(256, 0);
        let total = AtomicU32::new(0);
        // User space on another CPU, as fast as can be.
        let w = Watched(&e, |i| {
            assert_eq!(harvest(&e, i as usize), Some((5, u64::from(i))));
            let n = r.reset(&e, u32::MAX, |s, o, m| {
                assert_eq!((s, o, m), (5, u64::from(i), 1));
            });
            total.fetch_add(n, Relaxed);
        });
        for i in 0..3 {
            assert_eq!(r.push(&w, 5, i), Push::Done);
            assert_eq!(total.load(Relaxed), i as u32 + 1);
        }
        assert_eq!(r.used(), 0);
    }

    #[test]
    fn an_entry_forged_while_it_is_pushed_is_taken_back_once() {
        let e = entries(256);
        let r = Ring::new(256, 0);
        // Marked beforehand: a reset may come between the two steps of the push.
        e[0].flags.store(KVM_DIRTY_GFN_F_RESET, Relaxed);
        e.set_page(0, 1, 2);
        r.dirty.store(1, Relaxed);
        assert_eq!(
            r.reset(&e, 9, |s, o, m| assert_eq!((s, o, m), (1, 2, 1))),
            1
        );
        e.set_flags(0, KVM_DIRTY_GFN_F_DIRTY);
        assert_eq!(harvest(&e, 0), Some((1, 2)));
        assert_eq!(r.reset(&e, 9, |_, _, _| panic!()), 0);
        assert_eq!(r.used(), 0);
    }

    #[test]
    fn hostile_entries_only_name_pages() {
        let e = entries(256);
        let r = Ring::new(256, 0);
        // Marked though nothing was pushed: there is nothing to take back.
        e[0].flags.store(u32::MAX, Relaxed);
        assert_eq!(r.reset(&e, 100, |_, _, _| panic!()), 0);
        for i in 0..6 {
            assert_eq!(r.push(&e, 9, i), Push::Done);
        }
        for (i, (slot, offset)) in [
            (1, u64::MAX),
            (1, 0),
            (1, 63),
            (2, 63),
            (2, 1 << 63),
            (2, 0),
        ]
        .into_iter()
        .enumerate()
        {
            e[i].slot.store(slot, Relaxed);
            e[i].offset.store(offset, Relaxed);
            e[i].flags.store(u32::MAX, Relaxed);
        }
        let mut got = Vec::new();
        assert_eq!(r.reset(&e, 100, |s, o, m| got.push((s, o, m))), 6);
        let want = [
            (1, u64::MAX, 3),
            (1, 63, 1),
            (2, 63, 1),
            (2, 1 << 63, 1),
            (2, 0, 1),
        ];
        assert_eq!(got, want);
    }

    proptest! {
        /// Whatever the order of pages, those protected are exactly those harvested.
        #[test]
        fn batches_lose_nothing(
            pages in prop::collection::vec((0..3u32, 0..200u64), 1..180),
            max in 1..50u32,
        ) {
            let e = entries(256);
            let r = Ring::new(256, 0);
            for (i, (s, o)) in pages.iter().enumerate() {
                let _ = r.push(&e, *s, *o);
                prop_assert_eq!(harvest(&e, i), Some((*s, *o)));
            }
            let mut got = Vec::new();
            loop {
                let n = r.reset(&e, max, |s, o, m| {
                    got.extend((0..64).filter(|k| m >> k & 1 != 0).map(|k| (s, o + k)));
                });
                if n == 0 {
                    break;
                }
            }
            let mut want = pages.clone();
            want.sort();
            want.dedup();
            got.sort();
            got.dedup();
            prop_assert_eq!(got, want);
            prop_assert_eq!(r.used(), 0);
        }
    }
}
