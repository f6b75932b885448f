// SPDX-License-Identifier: GPL-2.0

//! The table of a VM's vCPUs: written once per vCPU, read by anyone without a lock.

use crate::vcpu::shared::VcpuShared;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::SetOnce;
use model::nospec::clamp;

/// Most vCPUs that a VM can have: what the kernel was configured with.
pub(crate) const MAX_VCPUS: u32 = 4096;
/// vCPU ids are below this.
pub(crate) const MAX_VCPU_IDS: u32 = MAX_VCPUS * 4;

const CHUNK: usize = 64;

/// A chunk of the table, allocated with its first vCPU.
type Chunk = KVec<SetOnce<Arc<VcpuShared>>>;

/// The table.
pub(crate) struct Vcpus {
    chunks: KVec<SetOnce<Chunk>>,
    /// Entries below this are filled. Written under the VM's lock.
    count: AtomicU32,
}

impl Vcpus {
    /// An empty table.
    pub(crate) fn new() -> Result<Self> {
        let n = (MAX_VCPUS as usize).div_ceil(CHUNK);
        let mut chunks = KVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..n {
            chunks.push(SetOnce::new(), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            chunks,
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
        // Usually ids are handed out in order.
        let n = self.count();
        // CAST: below the count.
        let first = if id < n {
            self.get(clamp(id as usize, n as usize) as u32)
        } else {
            None
        };
        match first {
            Some(v) if v.id == id => Some(v),
            _ => self.iter().find(|v| v.id == id),
        }
    }

    /// Adds a vCPU; its index must be the count. The caller holds the VM's lock.
    pub(crate) fn push(&self, v: Arc<VcpuShared>) -> Result {
        let n = self.count.load(Ordering::Relaxed);
        let i = n as usize;
        let slot = self.chunks.get(i / CHUNK).ok_or(EINVAL)?;
        if slot.as_ref().is_none() {
            let mut chunk = KVec::with_capacity(CHUNK, GFP_KERNEL_ACCOUNT)?;
            for _ in 0..CHUNK {
                chunk.push(SetOnce::new(), GFP_KERNEL_ACCOUNT)?;
            }
            slot.populate(chunk);
        }
        let chunk = slot.as_ref().ok_or(ENOMEM)?;
        if !chunk.get(i % CHUNK).ok_or(EINVAL)?.populate(v) {
            return Err(EEXIST);
        }
        self.count.store(n.wrapping_add(1), Ordering::Release);
        Ok(())
    }
}
