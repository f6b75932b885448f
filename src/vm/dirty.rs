// SPDX-License-Identifier: GPL-2.0

//! The dirty log of a slot, and the ioctls that read and clear it.

use super::memslot::Slot;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi;

/// Pages per word.
const WORD: u64 = 64;

/// One bit per page of a slot.
pub(crate) struct DirtyLog {
    words: KVVec<AtomicU64>,
    npages: u64,
}

impl DirtyLog {
    /// A log for `npages` pages, clean or (`all`) dirty. ENOMEM.
    pub(crate) fn new(npages: u64, all: bool) -> Result<Arc<Self>> {
        let n = usize::try_from(npages.div_ceil(WORD)).map_err(|_| ENOMEM)?;
        let mut words = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        let fill = if all { u64::MAX } else { 0 };
        for _ in 0..n {
            words.push(AtomicU64::new(fill), GFP_KERNEL_ACCOUNT)?;
        }
        let log = Self { words, npages };
        if let (true, Some(last)) = (npages % WORD != 0, log.words.last()) {
            last.fetch_and((1u64 << (npages % WORD)).wrapping_sub(1), Ordering::Relaxed);
        }
        Ok(Arc::new(log, GFP_KERNEL_ACCOUNT)?)
    }

    /// Marks page `n` of the slot.
    #[inline]
    pub(crate) fn mark(&self, n: u64) {
        // CAST: the slot has at most 2^31 pages; a larger number finds no word.
        if let Some(w) = self.words.get((n / WORD) as usize) {
            let bit = 1u64 << (n % WORD);
            // Most marks repeat an earlier one: do not take the line away from others for it.
            if w.load(Ordering::Relaxed) & bit == 0 {
                w.fetch_or(bit, Ordering::Release);
            }
        }
    }

    /// How many pages it covers.
    pub(crate) fn npages(&self) -> u64 {
        self.npages
    }
}

/// The slot that a dirty-log ioctl names, with its log. EINVAL for a bad id, ENOENT without a log.
fn named<V: Backend>(vm: &VmCore<V>, id: u32) -> Result<(Slot, Arc<DirtyLog>)> {
    if id >> 16 != 0 || id >= super::caps::USER_SLOTS {
        return Err(EINVAL);
    }
    let set = vm.base.slots.read();
    let slot = set.by_id(id).ok_or(ENOENT)?.clone();
    let log = slot.dirty().ok_or(ENOENT)?.clone();
    Ok((slot, log))
}

/// KVM_GET_DIRTY_LOG. Without manual protection it also clears what it reports.
pub(crate) fn get<V: Backend>(vm: &VmCore<V>, d: &abi::KvmDirtyLog) -> Result<isize> {
    let _lock = vm.base.slots.lock();
    let (slot, log) = named(vm, d.slot)?;
    let manual = vm.base.caps.manual_dirty() != 0;
    let mut failed = Ok(());
    // In pieces that fit the stack.
    let mut buf = [0u64; 32];
    for (i, words) in log.words.chunks(buf.len()).enumerate() {
        let mut any = 0;
        for (b, w) in buf.iter_mut().zip(words) {
            *b = if manual {
                w.load(Ordering::Acquire)
            } else if w.load(Ordering::Relaxed) != 0 {
                w.swap(0, Ordering::AcqRel)
            } else {
                0
            };
            any |= *b;
        }
        let first = (i as u64).wrapping_mul(buf.len() as u64).wrapping_mul(WORD);
        if !manual && any != 0 {
            mmu::log::clean(vm, &slot, first, &buf);
        }
        let at = d
            .padding2
            .wrapping_add((i as u64).wrapping_mul(buf.len() as u64 * 8));
        if let Some(out) = buf.get(..words.len()) {
            // CAST: a user address.
            failed = failed.and(host::uaccess::write_user(at as usize, out));
        }
    }
    failed.map(|()| 0)
}

/// KVM_CLEAR_DIRTY_LOG: clears what user space names and makes the next writes to it noticeable.
pub(crate) fn clear<V: Backend>(vm: &VmCore<V>, c: &abi::KvmClearDirtyLog) -> Result<isize> {
    let _lock = vm.base.slots.lock();
    let (slot, log) = named(vm, c.slot)?;
    let n = u64::from(c.num_pages);
    if c.first_page % WORD != 0 {
        return Err(EINVAL);
    }
    if c.first_page > log.npages()
        || n > log.npages().wrapping_sub(c.first_page)
        || (n % WORD != 0 && n < log.npages().wrapping_sub(c.first_page))
    {
        return Err(EINVAL);
    }
    let first_word = (c.first_page / WORD) as usize;
    let count = n.div_ceil(WORD) as usize;
    let words = log.words.get(first_word..).unwrap_or(&[]);
    for (i, w) in words.iter().take(count).enumerate() {
        let at = c.padding2.wrapping_add((i as u64).wrapping_mul(8));
        // CAST: a user address.
        let mask: u64 = host::uaccess::read_user(at as usize)?;
        let cleared = w.fetch_and(!mask, Ordering::AcqRel) & mask;
        if cleared != 0 {
            let first = c.first_page.wrapping_add((i as u64).wrapping_mul(WORD));
            mmu::log::clean(vm, &slot, first, &[cleared]);
        }
    }
    Ok(0)
}
