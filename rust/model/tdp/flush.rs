// SPDX-License-Identifier: GPL-2.0

//! Which translations must leave the TLBs, and the generation protocol by which they do.
//!
//! # Generations
//!
//! [`FlushGen`] belongs to a tree and counts flush requests. Each vCPU owns a [`TlbState`] that holds
//! the last generation it has acted on, on the CPU and with the address-space tag it uses now.
//!
//! ```text
//!   requester (mmu lock held)              vCPU, interrupts off
//!   -------------------------              --------------------
//!   change entries                         this CPU is in the tree  (full barrier)
//!   gen.bump()          (full barrier)     if let Some(g) = tlb.pending(&gen):
//!   for each CPU in the tree:                  flush in hardware
//!     send IPI                                 tlb.acknowledge(g)
//!   wait for the IPIs                      enter the guest
//! ```
//!
//! Both sides store one word and then load the other's, with full barriers between, so either the
//! vCPU sees the new generation and flushes, or the requester sees it in the guest and forces it
//! out, after which it sees the new generation at its next entry. No flag is ever cleared by
//! anyone but its owner, so no request can be lost between "seen" and "done".

use super::entry::Level;
use crate::addr::Gfn;
use crate::sync::store_then_load;
use crate::sync::AtomicU64;
use crate::sync::Ordering::SeqCst;

/// The translations an operation made stale. See the module documentation of [`super`] for when to
/// act on it.
#[must_use = "stale translations stay in the TLBs until they are flushed"]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// None.
    #[default]
    None,
    /// Those for the pages from `start` up to but not including `end`.
    Range {
        /// The first page.
        start: Gfn,
        /// One past the last page.
        end: Gfn,
    },
    /// All of them, or so many that it is not worth counting.
    All,
}

impl Flush {
    /// The flush for an entry of `level` that spans `gfn`.
    pub(super) fn entry(gfn: Gfn, level: Level) -> Flush {
        let start = level.base(gfn);
        Flush::Range {
            start,
            end: start.wrapping_add(level.pages()),
        }
    }

    /// Whether anything has to be flushed.
    pub fn is_needed(self) -> bool {
        self != Flush::None
    }

    /// One flush that does the work of both: the smallest range around two ranges.
    pub fn join(self, other: Flush) -> Flush {
        match (self, other) {
            (Flush::None, f) | (f, Flush::None) => f,
            (Flush::Range { start: a, end: b }, Flush::Range { start: c, end: d }) => {
                Flush::Range {
                    start: a.min(c),
                    end: b.max(d),
                }
            }
            _ => Flush::All,
        }
    }
}

/// The flush generation of a VM. Starts at 1, so that a fresh [`TlbState`] is always behind.
#[derive(Debug)]
pub struct FlushGen(AtomicU64);

impl FlushGen {
    /// The first generation.
    #[cfg(not(all(loom, test)))]
    pub const fn new() -> Self {
        FlushGen(AtomicU64::new(1))
    }

    /// The first generation.
    #[cfg(all(loom, test))]
    pub fn new() -> Self {
        FlushGen(AtomicU64::new(1))
    }

    /// Asks every vCPU to flush before it enters the guest again. Call it after the entries were
    /// changed and before looking at the vCPUs' modes; it is a full barrier. Returns the new
    /// generation.
    pub fn bump(&self) -> u64 {
        let gen = self.0.fetch_add(1, SeqCst).wrapping_add(1);
        store_then_load();
        gen
    }

    /// The generation now.
    #[inline]
    pub fn current(&self) -> u64 {
        self.0.load(SeqCst)
    }
}

impl Default for FlushGen {
    fn default() -> Self {
        Self::new()
    }
}

/// What one vCPU knows about the translations its current CPU may hold for its current address-space
/// tag (ASID, or EPTP).
#[derive(Debug, Default)]
pub struct TlbState {
    acknowledged: u64,
}

impl TlbState {
    /// Nothing is known: the first entry flushes.
    pub const fn new() -> Self {
        TlbState { acknowledged: 0 }
    }

    /// The vCPU runs on another CPU or uses another tag from now on, under which stale translations
    /// may be left from an earlier time: the next entry flushes.
    pub fn forget(&mut self) {
        self.acknowledged = 0;
    }

    /// The generation to acknowledge after flushing, `None` if there is nothing to flush. Call it
    /// with interrupts off, after a full barrier that follows the store of the vCPU's mode.
    #[inline]
    pub fn pending(&self, gen: &FlushGen) -> Option<u64> {
        let current = gen.current();
        (current != self.acknowledged).then_some(current)
    }

    /// Has a flush of `gen` or later been acknowledged, since the last [`forget`](Self::forget)?
    pub fn has(&self, gen: u64) -> bool {
        self.acknowledged >= gen
    }

    /// The flush for `gen`, a value from [`pending`](Self::pending), has been carried out, or the
    /// vCPU got a tag under which the CPU holds no translations.
    #[inline]
    pub fn acknowledge(&mut self, gen: u64) {
        self.acknowledged = gen;
    }
}

/// Explores the interleavings: `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::sync::AtomicU32;
    use loom::sync::Arc;
    use loom::thread;

    /// The requester sees the vCPU in the guest, or the vCPU sees the request.
    #[test]
    fn a_request_is_seen_or_the_vcpu_is() {
        loom::model(|| {
            let gen = Arc::new(FlushGen::new());
            let mode = Arc::new(AtomicU32::new(0));
            let (g, m) = (gen.clone(), mode.clone());
            let vcpu = thread::spawn(move || {
                let mut tlb = TlbState::new();
                tlb.acknowledge(1);
                m.store(1, SeqCst);
                store_then_load();
                tlb.pending(&g)
            });
            let wanted = gen.bump();
            let seen = mode.load(SeqCst) == 1;
            let flushed = vcpu.join().unwrap() == Some(wanted);
            assert!(seen || flushed);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicBool;
    use proptest::prelude::*;

    fn range(a: u64, b: u64) -> Flush {
        Flush::Range {
            start: Gfn(a),
            end: Gfn(b),
        }
    }

    #[test]
    fn joins() {
        assert_eq!(Flush::None.join(range(1, 2)), range(1, 2));
        assert_eq!(range(5, 9).join(range(1, 2)), range(1, 9));
        assert_eq!(range(5, 9).join(Flush::All), Flush::All);
        assert!(!Flush::None.join(Flush::None).is_needed());
        assert_eq!(Flush::entry(Gfn(0x3ff), Level::L2M), range(0x200, 0x400));
    }

    /// A CPU's TLB as far as this protocol goes: the generation of its oldest translation.
    #[derive(Clone, Debug)]
    enum Op {
        Bump,
        Enter { cpu: usize },
    }

    proptest! {
        /// Whatever the order of requests, entries and migrations, a vCPU never runs on a CPU that
        /// may hold a translation older than the last request.
        #[test]
        fn no_entry_with_stale_translations(ops in prop::collection::vec(
            prop_oneof![Just(Op::Bump), (0usize..3).prop_map(|cpu| Op::Enter { cpu })], 1..100)) {
            let gen = FlushGen::new();
            let mut tlb = TlbState::new();
            let mut last_cpu = usize::MAX;
            let mut oldest = [0u64; 3];
            for op in ops {
                match op {
                    Op::Bump => { gen.bump(); }
                    Op::Enter { cpu } => {
                        if cpu != last_cpu {
                            tlb.forget();
                            last_cpu = cpu;
                        }
                        if let Some(g) = tlb.pending(&gen) {
                            oldest[cpu] = g;
                            tlb.acknowledge(g);
                        }
                        prop_assert_eq!(oldest[cpu], gen.current());
                        prop_assert!(tlb.pending(&gen).is_none());
                    }
                }
            }
        }
    }

    /// The protocol of the module documentation with real threads: when the requester has finished,
    /// the vCPU is not in the guest with the old generation.
    #[test]
    fn requester_and_vcpu_never_miss_each_other() {
        use std::sync::Arc;
        struct Shared {
            gen: FlushGen,
            in_guest: AtomicBool,
            kick: AtomicBool,
            /// Generation the vCPU runs with, 0 outside the guest.
            runs_with: AtomicU64,
            stop: AtomicBool,
        }
        let s = Arc::new(Shared {
            gen: FlushGen::new(),
            in_guest: AtomicBool::new(false),
            kick: AtomicBool::new(false),
            runs_with: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let vcpu = std::thread::spawn({
            let s = s.clone();
            move || {
                let mut tlb = TlbState::new();
                while !s.stop.load(SeqCst) {
                    s.in_guest.store(true, SeqCst);
                    if let Some(g) = tlb.pending(&s.gen) {
                        tlb.acknowledge(g);
                    }
                    s.runs_with.store(tlb.acknowledged, SeqCst);
                    for _ in 0..50 {
                        if s.kick.swap(false, SeqCst) {
                            break;
                        }
                        std::hint::spin_loop();
                    }
                    s.runs_with.store(0, SeqCst);
                    s.in_guest.store(false, SeqCst);
                }
            }
        });
        for _ in 0..2_000 {
            let g = s.gen.bump();
            if s.in_guest.load(SeqCst) {
                s.kick.store(true, SeqCst);
                // The IPI is answered by leaving the guest, or finds the vCPU outside.
                let mut spins = 0u32;
                while s.in_guest.load(SeqCst) && s.kick.load(SeqCst) {
                    spins += 1;
                    if spins % 64 == 0 {
                        std::thread::yield_now();
                    }
                }
                // Wait for that visit to the guest to end; a later one runs with `g` or newer.
                while (1..g).contains(&s.runs_with.load(SeqCst)) {
                    std::thread::yield_now();
                }
            }
            let r = s.runs_with.load(SeqCst);
            assert!(r == 0 || r >= g, "runs with {r}, requested {g}");
        }
        s.stop.store(true, SeqCst);
        vcpu.join().unwrap();
    }
}
