// SPDX-License-Identifier: GPL-2.0

//! The root of a tree as a vCPU holds it, and the protocol that flushes translations.
//!
//! A vCPU that is about to enter the guest marks its CPU as running on the root, then looks at the
//! root's flush generation. A flush moves the generation on, then looks which CPUs are marked, and
//! interrupts those until they have left the guest. Both sides have a full barrier between their
//! store and their load, so that one of them sees the other (`model::tdp::flush`).

use super::page::Table;
use crate::c;
use crate::vendor::Vendor;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use host::pin::IrqsOff;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::tdp::Config;
use model::tdp::FlushGen;
use model::tdp::Format;
use model::tdp::TlbState;

/// What a tree and the vCPUs that run on it share.
///
/// # Invariants
///
/// `table` is the root of a tree of the shape `cfg` in the format of `V`.
pub(super) struct Shared<V: Vendor> {
    pub(super) gen: FlushGen,
    /// Flushes that found a CPU on the tree.
    pub(super) forced: AtomicU64,
    pub(super) cfg: Config,
    /// The page that stands for the registers of the local APIC, which leaves may point to.
    pub(super) apic: Option<Arc<HwPage>>,
    table: Table,
    pa: u64,
    _vendor: PhantomData<fn() -> V>,
}

// SAFETY: The tables are reached by atomic operations only.
unsafe impl<V: Vendor> Send for Shared<V> {}
// SAFETY: As above.
unsafe impl<V: Vendor> Sync for Shared<V> {}

impl<V: Vendor> Shared<V> {
    pub(super) fn new(cfg: Config, apic: Option<Arc<HwPage>>) -> Result<Arc<Self>> {
        let new = Table::of(HwPage::new_table()?);
        let shared = Self {
            gen: FlushGen::new(),
            forced: AtomicU64::new(0),
            cfg,
            apic,
            table: new.table,
            pa: new.pa,
            _vendor: PhantomData,
        };
        // INVARIANT: An empty page is the root of an empty tree of any shape.
        Ok(Arc::new(shared, GFP_KERNEL_ACCOUNT)?)
    }

    #[inline]
    pub(super) fn table(&self) -> Table {
        self.table
    }

    /// What stands for this tree in the per-CPU marks.
    #[inline]
    fn mark(&self) -> usize {
        core::ptr::from_ref(self) as usize
    }

    /// Makes every CPU forget the translations of this tree before it uses it again, and returns
    /// when none is using old ones.
    pub(super) fn flush(&self) {
        self.gen.bump();
        // SAFETY: IRQs are on: flushes come from threads, which hold spinning locks at most.
        if unsafe { c::kvmrs_tdp_kick(self.mark()) } {
            self.forced.fetch_add(1, Relaxed);
        }
    }

    /// Frees the tables below `table`, which has this level.
    ///
    /// # Safety
    ///
    /// Nobody may use them any more, neither hardware nor software.
    unsafe fn free_below(table: Table, level: model::tdp::Level, cfg: &Config) {
        let Some(down) = level.down() else { return };
        for word in table.words() {
            let entry = word.load(core::sync::atomic::Ordering::Relaxed);
            if V::Format::is_present(entry) && !V::Format::is_leaf(entry, level) {
                // SAFETY: The entry points to a table that is freed below, not before.
                let child = unsafe { Table::at(cfg.address(entry)) };
                // SAFETY: The caller's promise covers it.
                unsafe { Self::free_below(child, down, cfg) };
                // SAFETY: As above; its parent is going to be freed and not looked at.
                unsafe { child.free() };
            }
        }
    }
}

impl<V: Vendor> Drop for Shared<V> {
    fn drop(&mut self) {
        // SAFETY: Neither a tree nor a vCPU holds the root. A vCPU that did was given another root,
        // which flushes before it runs again, or is gone together with its address-space tag, and a
        // tag is flushed before it is used for another guest.
        unsafe {
            Self::free_below(self.table, self.cfg.root(), &self.cfg);
            self.table.free();
        }
    }
}

/// A root as a vCPU holds it. It keeps the tables alive, not the mappings: dropping the
/// [`Root`](super::Root) empties it.
pub struct RootRef<V: Vendor> {
    pub(super) shared: Arc<Shared<V>>,
}

impl<V: Vendor> Clone for RootRef<V> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<V: Vendor> RootRef<V> {
    /// A root below which nothing is mapped, nor ever will be.
    pub(crate) fn empty(cfg: Config) -> Result<Self> {
        Ok(Self {
            shared: Shared::new(cfg, None)?,
        })
    }

    /// The physical address that hardware is told.
    pub(crate) fn hw_pa(&self) -> u64 {
        self.shared.pa | self.shared.cfg.enc()
    }

    /// How often everything had to be flushed so far.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.gen.current()
    }

    /// The shape of the tree.
    pub fn config(&self) -> &Config {
        &self.shared.cfg
    }

    /// Are these the same tables?
    #[inline]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

/// What a vCPU knows about the translations its CPU may hold under its address-space tag.
pub(crate) struct Tlb {
    state: TlbState,
    flushes: u64,
}

impl Tlb {
    pub(crate) const fn new() -> Self {
        Self {
            state: TlbState::new(),
            flushes: 0,
        }
    }

    /// The CPU, the tag or the root is another one: the next entry flushes.
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.state.forget();
    }

    /// Marks this CPU as running on `root` and says whether the tag has to be flushed first, and
    /// with what to [`Self::done`] it. Every entry begins with this.
    #[inline]
    pub(crate) fn begin<V: Vendor>(&self, root: &RootRef<V>, _irqs: &IrqsOff<'_>) -> Option<u64> {
        mark(root.shared.mark());
        self.state.pending(&root.shared.gen)
    }

    /// The flush has been carried out, or will be by the entry itself.
    #[inline]
    pub(crate) fn done(&mut self, gen: u64) {
        self.state.acknowledge(gen);
        self.flushes = self.flushes.wrapping_add(1);
    }

    /// Has a flush of this generation or a later one been [`Self::done`]?
    pub(crate) fn has(&self, gen: u64) -> bool {
        self.state.has(gen)
    }

    /// How often [`Self::done`] was called.
    pub(crate) fn flushes(&self) -> u64 {
        self.flushes
    }

    /// The guest was left, and this CPU runs on no tables.
    #[inline]
    pub(crate) fn end(&self, _irqs: &IrqsOff<'_>) {
        mark(0);
    }
}

/// Sets this CPU's mark; a full barrier.
#[inline]
fn mark(root: usize) {
    // SAFETY: The operand is this CPU's own word: GS holds the offset of its per-CPU memory, which
    // is what the kernel's per-CPU accessors add to a symbol, too. IRQs are off (the callers hold
    // evidence), so that mark and use are on one CPU. XCHG with memory is a full barrier.
    unsafe {
        core::arch::asm!(
            "xchg qword ptr gs:[rip + {mark}], {v}",
            mark = sym c::kvmrs_tdp_running,
            v = inout(reg) root => _,
            options(nostack, preserves_flags),
        );
    }
}
