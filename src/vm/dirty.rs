// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a slot, and the ioctls that read and clear it.

use super::memslot::Slot;
use super::memslot::Space;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use core::sync::atomic::AtomicU64;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi;
use model::addr::Hva;
use model::dirty::bitmap::words_for;
use model::dirty::Bitmap;
use model::dirty::ClearRange;
use zerocopy::IntoBytes;

/// Words handled under one hold of the MMU lock, with one flush: 256 MiB of the guest's memory.
const BATCH: usize = 1024;

/// One bit per page of a slot.
pub(crate) struct DirtyLog {
    words: KVVec<AtomicU64>,
    npages: u64,
}

impl DirtyLog {
    /// A log for `npages` pages, clean or (`all`) dirty. ENOMEM.
    pub(crate) fn new(npages: u64, all: bool) -> Result<Arc<Self>> {
        let n = usize::try_from(words_for(npages)).map_err(|_| ENOMEM)?;
        let mut words = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            words.push(AtomicU64::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        let log = Self { words, npages };
        if all {
            log.bits().mark_all();
        }
        Ok(Arc::new(log, GFP_KERNEL_ACCOUNT)?)
    }

    #[inline]
    fn bits(&self) -> Bitmap<'_> {
        Bitmap::new(&self.words, self.npages)
    }

    /// Marks page `n` of the slot, after it was written or became writable.
    #[inline]
    pub(crate) fn mark(&self, n: u64) {
        self.bits().mark(n);
    }
}

/// The slot that a dirty-log ioctl names, with its log. EINVAL for a bad id, ENOENT without a log,
/// ENXIO if the VM has rings instead.
fn named<V: Backend>(vm: &VmCore<V>, id: u32) -> Result<(Slot, Arc<DirtyLog>)> {
    if vm.base.rings.as_ref().is_some() {
        return Err(ENXIO);
    }
    // CAST: the halves.
    let (space, id) = ((id >> 16) as u16, id as u16);
    if space >= Space::COUNT || u32::from(id) >= super::caps::USER_SLOTS {
        return Err(EINVAL);
    }
    let set = vm.base.slots.space(Space::of(space));
    let slot = set.by_id(id).ok_or(ENOENT)?.clone();
    let log = slot.dirty().ok_or(ENOENT)?.clone();
    Ok((slot, log))
}

/// KVM_GET_DIRTY_LOG. Without manual protection it also clears what it reports.
pub(crate) fn get<V: Backend>(vm: &VmCore<V>, d: &abi::KvmDirtyLog) -> Result<isize> {
    let _lock = vm.base.slots.lock();
    let (slot, log) = named(vm, d.slot)?;
    let manual = vm.base.caps.manual_dirty() != 0;
    mmu::log::collect(vm);
    let bits = log.bits();
    let mut failed = Ok(());
    let n = words_for(bits.pages());
    let mut buf = zeros(n.min(BATCH as u64))?;
    for first in (0..n).step_by(BATCH) {
        // CAST: at most a batch.
        let chunk = n.wrapping_sub(first).min(BATCH as u64) as usize;
        let Some(words) = buf.get_mut(..chunk) else {
            break;
        };
        let mut any = 0;
        for (i, w) in (first..).zip(words.iter_mut()) {
            *w = if manual { bits.peek(i) } else { bits.take(i) };
            any |= *w;
        }
        if !manual && any != 0 {
            mmu::log::clean(vm, &slot, first << 6, words);
        }
        failed = failed.and(host::uaccess::write_hva(at(d.padding2, first), &*words));
    }
    failed.map(|()| 0)
}

/// KVM_CLEAR_DIRTY_LOG: clears what user space names and makes the next writes to it noticeable.
/// EINVAL for a bad range, ENOMEM, EFAULT.
pub(crate) fn clear<V: Backend>(vm: &VmCore<V>, c: &abi::KvmClearDirtyLog) -> Result<isize> {
    let _lock = vm.base.slots.lock();
    let (slot, log) = named(vm, c.slot)?;
    let bits = log.bits();
    let range =
        ClearRange::new(c.first_page, u64::from(c.num_pages), bits.pages()).ok_or(EINVAL)?;
    // All of it before the first bit is cleared: a bitmap that cannot be read changes nothing.
    let mut named = zeros(range.words)?;
    host::uaccess::copy_from_hva(Hva(c.padding2), named.as_mut_bytes())?;
    let mut first = range.first_word;
    for words in named.chunks_mut(BATCH) {
        let (mut any, mut i) = (0, first);
        for w in words.iter_mut() {
            *w = bits.clear(i, *w);
            any |= *w;
            i = i.wrapping_add(1);
        }
        if any != 0 {
            mmu::log::clean(vm, &slot, first << 6, words);
        }
        first = i;
        host::task::cond_resched();
    }
    Ok(0)
}

/// `n` words, at most those of a slot. ENOMEM.
fn zeros(n: u64) -> Result<KVVec<u64>> {
    let n = usize::try_from(n).map_err(|_| ENOMEM)?;
    Ok(KVVec::from_elem(0, n, GFP_KERNEL_ACCOUNT)?)
}

/// The user address of word `i` of a bitmap at `base`.
fn at(base: u64, i: u64) -> Hva {
    Hva(base.wrapping_add(i.wrapping_mul(8)))
}
