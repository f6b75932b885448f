// SPDX-License-Identifier: GPL-2.0

//! Dirty rings: each vCPU lists the pages it dirties in memory that user space maps.
//!
//! Once rings are enabled they replace the bitmaps of all slots. What a page is pushed to is the
//! ring of the vCPU whose thread dirtied it; which one that is says [`Rings::here`], kept by the
//! scheduler's hook. What other threads write on behalf of a VM is in no ring, as in-tree.

use super::memslot::Slot;
use super::memslot::Space;
use super::VmBase;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use crate::vcpu::shared::Request;
use crate::vcpu::shared::VcpuShared;
use core::sync::atomic::fence;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::Ordering::Release;
use host::percpu::PerCpu;
use host::pin::PinnedCpu;
use host::run_page::SharedPage;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::addr::Gfn;
use model::addr::PAGE_SIZE;
use model::dirty::ring;
use model::dirty::ring::Entries;
use model::dirty::ring::Push;
use model::dirty::ring::Ring;
use model::dirty::ring::RingError;
use model::tdp::Flush;

/// Entries taken back before the MMU lock is given away.
const BATCH: u32 = 512;
/// Most pages that hardware writes down between two exits.
const HARDWARE_LOG: u32 = 512;

/// What all rings of a VM share.
pub(crate) struct Rings {
    entries: u32,
    /// Of these, entries kept free for the hardware's log.
    hardware_log: u32,
    /// For each CPU: one more than the index of the VM's vCPU that is loaded there, or 0.
    here: PerCpu<AtomicU32>,
}

/// The memory of one ring.
struct Pages(KVec<SharedPage>);

impl Pages {
    /// The page that has entry `i`, and where in it.
    #[inline]
    fn at(&self, i: u32) -> Option<(&SharedPage, usize)> {
        let off = (i as usize).wrapping_mul(ring::ENTRY_SIZE);
        let page = self.0.get(off / PAGE_SIZE as usize)?;
        Some((page, off % PAGE_SIZE as usize))
    }
}

impl Entries for Pages {
    fn flags(&self, i: u32) -> u32 {
        let v = self
            .at(i)
            .map_or(0, |(p, at)| p.read_u32(at.wrapping_add(ring::FLAGS)));
        fence(Acquire);
        v
    }

    fn set_flags(&self, i: u32, v: u32) {
        fence(Release);
        if let Some((p, at)) = self.at(i) {
            p.write_u32(at.wrapping_add(ring::FLAGS), v);
        }
    }

    fn page(&self, i: u32) -> (u32, u64) {
        self.at(i).map_or((0, 0), |(p, at)| {
            (
                p.read_u32(at.wrapping_add(ring::SLOT)),
                p.read_u64(at.wrapping_add(ring::OFFSET)),
            )
        })
    }

    fn set_page(&self, i: u32, slot: u32, offset: u64) {
        if let Some((p, at)) = self.at(i) {
            p.write_u32(at.wrapping_add(ring::SLOT), slot);
            p.write_u64(at.wrapping_add(ring::OFFSET), offset);
        }
    }
}

/// The ring of a vCPU.
pub(crate) struct VcpuRing {
    rings: Arc<Rings>,
    ring: Ring,
    pages: Pages,
}

impl VcpuRing {
    /// An empty ring. ENOMEM.
    fn new(rings: Arc<Rings>) -> Result<Self> {
        let n = (rings.entries as usize).wrapping_mul(ring::ENTRY_SIZE) / PAGE_SIZE as usize;
        let mut pages = KVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            pages
                .push_within_capacity(SharedPage::new()?)
                .map_err(|_| ENOMEM)?;
        }
        Ok(Self {
            ring: Ring::new(rings.entries, rings.hardware_log),
            rings,
            pages: Pages(pages),
        })
    }

    /// A page of it, for user space to map.
    pub(crate) fn page(&self, n: u64) -> Option<&SharedPage> {
        self.pages.0.get(usize::try_from(n).ok()?)
    }

    /// Must the vCPU return to user space before it enters the guest?
    pub(crate) fn is_soft_full(&self) -> bool {
        self.ring.is_soft_full()
    }

    /// Scheduler: the vCPU with this index is loaded on this CPU, or (`None`) no more.
    #[inline]
    pub(crate) fn loaded(&self, cpu: &PinnedCpu<'_>, index: Option<u32>) {
        let mark = index.map_or(0, |i| i.wrapping_add(1));
        self.rings.here.here(cpu).store(mark, Relaxed);
    }
}

impl VmBase {
    /// KVM_CAP_DIRTY_LOG_RING: rings of `bytes` bytes for the vCPUs to come, with room for what
    /// hardware writes down. EINVAL and E2BIG for the size, EINVAL if there are vCPUs or rings.
    pub(crate) fn enable_rings<V: Backend>(&self, bytes: u64) -> Result<isize> {
        let hardware_log = if V::host_features().write_log {
            HARDWARE_LOG
        } else {
            0
        };
        let entries = ring::entries_for(bytes, hardware_log).map_err(|e| match e {
            RingError::Invalid => EINVAL,
            RingError::TooBig => E2BIG,
        })?;
        let rings = Arc::new(
            Rings {
                entries,
                hardware_log,
                here: PerCpu::new(|_| Ok(AtomicU32::new(0)))?,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let _setup = self.setup.lock();
        if self.vcpus.count() != 0 || !self.rings.populate(rings) {
            return Err(EINVAL);
        }
        Ok(0)
    }

    /// The ring for a new vCPU, if the VM has rings. ENOMEM.
    pub(crate) fn new_ring(&self) -> Result<Option<VcpuRing>> {
        match self.rings.as_ref() {
            Some(r) => Ok(Some(VcpuRing::new(r.clone())?)),
            None => Ok(None),
        }
    }

    /// The vCPU that this thread runs, of a VM with rings.
    fn vcpu_here(&self, rings: &Rings) -> Option<&Arc<VcpuShared>> {
        let mark = host::pin::with_preempt_off(|cpu| rings.here.here(cpu).load(Relaxed));
        self.vcpus.get(mark.checked_sub(1)?)
    }

    /// Notes that a page of a slot was written, or became writable, if writes to it are logged.
    #[inline]
    pub(crate) fn mark_dirty(&self, slot: &Slot, gfn: Gfn) {
        if !slot.logging() {
            return;
        }
        let offset = gfn.0.wrapping_sub(slot.base.0);
        // A slot from before the rings has a bitmap, which nobody can read any more.
        if let Some(rings) = self.rings.as_ref() {
            self.push(rings, slot, offset);
        } else if let Some(log) = slot.dirty() {
            log.mark(offset);
        }
    }

    #[inline(never)]
    fn push(&self, rings: &Rings, slot: &Slot, offset: u64) {
        let Some(v) = self.vcpu_here(rings) else {
            return;
        };
        let Some(r) = &v.ring else {
            return;
        };
        if r.ring.push(&r.pages, slot.number(), offset) != Push::Done {
            v.request(Request::DirtyRing);
        }
    }
}

/// KVM_RESET_DIRTY_RINGS: takes back the entries that user space has harvested and makes the next
/// writes to their pages noticeable. The number of entries, not all of them if a signal came; EINVAL
/// without rings.
pub(crate) fn reset<V: Backend>(vm: &VmCore<V>) -> Result<isize> {
    if vm.base.rings.as_ref().is_none() {
        return Err(EINVAL);
    }
    let _lock = vm.base.slots.lock();
    let mut total = 0isize;
    for v in vm.base.vcpus.iter() {
        let Some(r) = &v.ring else { continue };
        loop {
            let n = reset_some(vm, r);
            total = total.wrapping_add(n as isize);
            if n < BATCH {
                break;
            }
            if host::task::signal_pending() {
                // What was taken back is counted now or never.
                return Ok(total);
            }
            host::task::cond_resched();
        }
    }
    Ok(total)
}

fn reset_some<V: Backend>(vm: &VmCore<V>, r: &VcpuRing) -> u32 {
    let normal = vm.base.slots.space(Space::Normal);
    let smm = vm.base.slots.space(Space::Smm);
    let g = vm.mmu.read();
    let (mut stale, mut stale_smm) = (Flush::None, Flush::None);
    let n = r.ring.reset(&r.pages, BATCH, |slot, offset, mask| {
        // User space may have written anything there.
        // CAST: the halves.
        let (space, id) = (Space::of((slot >> 16) as u16), slot as u16);
        let (slots, stale) = match space {
            Space::Normal => (&normal, &mut stale),
            Space::Smm => (&smm, &mut stale_smm),
        };
        let Some(s) = slots.by_id(id) else {
            return;
        };
        let highest = u64::from(63u32.wrapping_sub(mask.leading_zeros()));
        if offset
            .checked_add(highest)
            .is_some_and(|last| last < s.pages)
        {
            let base = s.base.wrapping_add(offset);
            let root = g.root(space);
            *stale = stale.join(root.clean(base, mask, mmu::log::mode::<V>()));
        }
    });
    for (space, stale) in [(Space::Normal, stale), (Space::Smm, stale_smm)] {
        if stale.is_needed() {
            g.root(space).flush();
        }
    }
    n
}
