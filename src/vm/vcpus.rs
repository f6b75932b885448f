// SPDX-License-Identifier: GPL-2.0

//! The table of a VM's vCPUs: written once per vCPU, read by anyone without a lock.

use crate::vcpu::shared::VcpuShared;
use core::sync::atomic::AtomicU16;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use model::irqchip::lapic::published::Published;
use model::irqchip::targets::Census;
use model::irqchip::targets::Peers;
use model::nospec::clamp;

/// Most vCPUs that a VM can have: what the kernel was configured with.
pub(crate) const MAX_VCPUS: u32 = 4096;
/// vCPU ids are below this.
pub(crate) const MAX_VCPU_IDS: u32 = MAX_VCPUS * 4;

const CHUNK: usize = 64;

/// A chunk of the table, allocated with its first vCPU.
type Chunk = KVec<SetOnce<Arc<VcpuShared>>>;

/// Ids whose vCPUs' indices are in one allocation.
const IDS: usize = 256;
/// No vCPU has this id.
const NOBODY: u16 = u16::MAX;

/// The table.
pub(crate) struct Vcpus {
    chunks: KVec<SetOnce<Chunk>>,
    /// Where the vCPU with an id is, in chunks that are allocated with their first vCPU.
    by_id: KVec<SetOnce<KVec<AtomicU16>>>,
    census: Census,
    /// Entries below this are filled. Written under the VM's lock.
    count: AtomicU32,
}

impl Vcpus {
    /// An empty table.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            chunks: unset((MAX_VCPUS as usize).div_ceil(CHUNK))?,
            by_id: unset((MAX_VCPU_IDS as usize).div_ceil(IDS))?,
            census: Census::new(),
            count: AtomicU32::new(0),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// The one at `index`.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Arc<VcpuShared>> {
        if index >= self.count() {
            return None;
        }
        let index = index as usize;
        let chunk = self.chunks.get(index / CHUNK)?.as_ref()?;
        chunk.get(index % CHUNK)?.as_ref()
    }

    /// All of them, in order of creation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<VcpuShared>> {
        (0..self.count()).filter_map(|i| self.get(i))
    }

    /// The one with this id.
    pub(crate) fn by_id(&self, id: u32) -> Option<&Arc<VcpuShared>> {
        self.get(self.index_of(id)?)
    }

    #[inline]
    fn index_of(&self, id: u32) -> Option<u32> {
        if id >= MAX_VCPU_IDS {
            return None;
        }
        // Guests choose it.
        let id = clamp(id as usize, MAX_VCPU_IDS as usize);
        let chunk = self.by_id.get(id / IDS)?.as_ref()?;
        let index = chunk.get(id % IDS)?.load(Ordering::Acquire);
        (index != NOBODY).then_some(u32::from(index))
    }

    /// Adds a vCPU; its index must be the count, and its id new. The caller holds the VM's lock.
    pub(crate) fn push(&self, v: Arc<VcpuShared>) -> Result {
        let n = self.count.load(Ordering::Relaxed);
        let i = n as usize;
        let index = u16::try_from(n).map_err(|_| EINVAL)?;
        let id = v.id as usize;
        let chunk = filled(&self.chunks, i / CHUNK, CHUNK, SetOnce::new)?;
        let ids = filled(&self.by_id, id / IDS, IDS, || AtomicU16::new(NOBODY))?;
        let place = ids.get(id % IDS).ok_or(EINVAL)?;
        if !chunk.get(i % CHUNK).ok_or(EINVAL)?.populate(v) {
            return Err(EEXIST);
        }
        self.count.store(n.wrapping_add(1), Ordering::Release);
        place.store(index, Ordering::Release);
        Ok(())
    }
}

impl Peers for Vcpus {
    fn count(&self) -> u32 {
        self.count()
    }

    #[inline]
    fn published(&self, vcpu: u32) -> Option<&Published> {
        Some(&self.get(vcpu)?.published)
    }

    #[inline]
    fn by_id(&self, id: u32) -> Option<u32> {
        self.index_of(id)
    }

    fn census(&self) -> &Census {
        &self.census
    }
}

fn unset<T>(n: usize) -> Result<KVec<SetOnce<T>>> {
    let mut all = KVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
    for _ in 0..n {
        all.push(SetOnce::new(), GFP_KERNEL_ACCOUNT)?;
    }
    Ok(all)
}

/// A chunk of `n` entries, which are `new` if it is.
fn filled<T>(
    chunks: &[SetOnce<KVec<T>>],
    at: usize,
    n: usize,
    new: impl Fn() -> T,
) -> Result<&KVec<T>> {
    let slot = chunks.get(at).ok_or(EINVAL)?;
    if slot.as_ref().is_none() {
        let mut chunk = KVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            chunk.push(new(), GFP_KERNEL_ACCOUNT)?;
        }
        slot.populate(chunk);
    }
    slot.as_ref().ok_or(ENOMEM)
}
