// SPDX-License-Identifier: GPL-2.0

//! Statistics of VMs and vCPUs, and the files in which user space reads them.
//!
//! A vCPU's are counted by its own thread alone, some in the scheduler's hook and the rest outside of
//! it, so that counting is a load and a store.

use crate::backend::Backend;
use crate::vcpu::shared::VcpuShared;
use crate::vm::memslot::Space;
use crate::vm::Vm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::fd::FileOps;
use host::fd::NewFd;
use kernel::fs::file::flags::O_CLOEXEC;
use kernel::fs::file::flags::O_RDONLY;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use kernel::uaccess::UserSliceWriter;
use model::abi::KVM_STATS_NAME_SIZE;
use model::stats::bucket;
use model::stats::Desc;
use model::stats::Layout;
use model::stats::Part;
use model::stats::VcpuStat;
use model::stats::VmStat;
use model::tdp::Counts;
use zerocopy::IntoBytes;

/// The values, in the order of the descriptors. Inside of what they belong to, and of a constant
/// number, so that counting is one instruction.
struct Words<const N: usize> {
    all: [AtomicU64; N],
}

impl<const N: usize> Words<N> {
    fn new() -> impl Init<Self> {
        init!(Self {
            all <- pin_init::init_array_from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// Adds from any thread.
    #[inline]
    fn add(&self, at: usize, n: u64) {
        if let Some(w) = self.all.get(at) {
            w.fetch_add(n, Relaxed);
        }
    }

    /// Adds from the one thread that changes the word.
    #[inline]
    fn add_own(&self, at: usize, n: u64) {
        if let Some(w) = self.all.get(at) {
            w.store(w.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    #[inline]
    fn set(&self, at: usize, v: u64) {
        if let Some(w) = self.all.get(at) {
            w.store(v, Relaxed);
        }
    }
}

/// Statistics of a VM.
pub(crate) struct VmStats {
    words: Words<{ VmStat::WORDS }>,
}

impl VmStats {
    /// All zero.
    pub(crate) fn new() -> impl Init<Self> {
        init!(Self { words <- Words::new() })
    }

    /// Adds what an operation on the nested tables changed.
    pub(crate) fn add_counts(&self, c: &Counts) {
        for (stat, n) in [
            (VmStat::Pages4k, c.leaves_4k),
            (VmStat::Pages2m, c.leaves_2m),
            (VmStat::Pages1g, c.leaves_1g),
            (VmStat::NxLpageSplits, c.for_exec),
        ] {
            if n != 0 {
                // CAST: negative numbers subtract, modulo 2^64.
                self.words.add(stat.word(), n as u64);
            }
        }
    }

    /// A value.
    pub(crate) fn get(&self, stat: VmStat) -> u64 {
        let w = self.words.all.get(stat.word());
        w.map_or(0, |w| w.load(Relaxed))
    }

    fn set(&self, stat: VmStat, v: u64) {
        self.words.set(stat.word(), v);
    }
}

/// Statistics of a vCPU.
pub(crate) struct VcpuStats {
    words: Words<{ VcpuStat::WORDS }>,
}

impl VcpuStats {
    /// All zero.
    pub(crate) fn new() -> impl Init<Self> {
        init!(Self { words <- Words::new() })
    }

    /// It happened once more. A value is counted either by the owner or by the scheduler's hook, which
    /// interrupts the owner, not by both.
    #[inline]
    pub(crate) fn count(&self, stat: VcpuStat) {
        self.words.add_own(stat.word(), 1);
    }

    /// Owner: sets a value that is known otherwise.
    #[inline]
    pub(crate) fn set(&self, stat: VcpuStat, v: u64) {
        self.words.set(stat.word(), v);
    }

    /// Owner: adds a duration to a total and to its histogram.
    pub(crate) fn time(&self, total: VcpuStat, histogram: VcpuStat, ns: u64) {
        self.words.add_own(total.word(), ns);
        let at = histogram.word().wrapping_add(bucket(ns));
        self.words.add_own(at, 1);
    }
}

/// An open statistics file. It keeps its VM.
pub(crate) struct StatsFile<V: Backend> {
    vm: Arc<Vm<V>>,
    /// `None`: the VM's own statistics.
    vcpu: Option<Arc<VcpuShared>>,
    id: [u8; KVM_STATS_NAME_SIZE],
}

/// KVM_GET_STATS_FD: the new descriptor.
pub(crate) fn open<V: Backend>(vm: &Arc<Vm<V>>, vcpu: Option<Arc<VcpuShared>>) -> Result<isize> {
    let owner = vm.core().base.owner;
    let (id, name) = match &vcpu {
        None => (
            CString::try_from_fmt(fmt!("kvm-{owner}"))?,
            CString::try_from_fmt(fmt!("kvm-vm-stats"))?,
        ),
        Some(v) => (
            CString::try_from_fmt(fmt!("kvm-{owner}/vcpu-{}", v.id))?,
            CString::try_from_fmt(fmt!("kvm-vcpu-stats:{}", v.id))?,
        ),
    };
    let mut bytes = [0; KVM_STATS_NAME_SIZE];
    for (to, from) in bytes.iter_mut().zip(id.to_bytes_with_nul()) {
        *to = *from;
    }
    let file = StatsFile {
        vm: vm.clone(),
        vcpu,
        id: bytes,
    };
    let file = Arc::new(file, GFP_KERNEL_ACCOUNT)?;
    let fd = NewFd::new(&name, file, O_RDONLY | O_CLOEXEC)?;
    // CAST: a descriptor number.
    Ok(fd.commit() as isize)
}

impl<V: Backend> StatsFile<V> {
    fn descs(&self) -> &'static [Desc] {
        match self.vcpu {
            None => VmStat::DESCS,
            Some(_) => VcpuStat::DESCS,
        }
    }

    /// The values now.
    fn words(&self) -> &[AtomicU64] {
        match &self.vcpu {
            Some(v) => &v.stats.words.all,
            None => {
                let core = self.vm.core();
                let stats = &core.base.stats;
                let (mut asked, mut forced) = (0u64, 0u64);
                for space in Space::ALL {
                    let (a, f) = core.mmu.read().root(space).flushes();
                    asked = asked.wrapping_add(a);
                    forced = forced.wrapping_add(f);
                }
                stats.set(VmStat::RemoteTlbFlushRequests, asked);
                stats.set(VmStat::RemoteTlbFlush, forced);
                &stats.words.all
            }
        }
    }

    fn copy(&self, layout: &Layout, pos: u64, out: &mut UserSliceWriter) -> Result<usize> {
        let mut done = 0usize;
        for (part, from, n) in layout.read(pos, out.len()) {
            let end = from.wrapping_add(n);
            let piece = |b: &[u8], out: &mut UserSliceWriter| -> Result {
                out.write_slice(b.get(from..end).ok_or(EINVAL)?)
            };
            match part {
                Part::Header => piece(layout.header().as_bytes(), out)?,
                Part::Id => piece(&self.id, out)?,
                Part::Descs => piece(self.descs().as_bytes(), out)?,
                Part::Values => {
                    let words = self.words();
                    let mut copy = KVec::with_capacity(words.len(), GFP_KERNEL)?;
                    for w in words.iter() {
                        copy.push_within_capacity(w.load(Relaxed))
                            .map_err(|_| ENOMEM)?;
                    }
                    piece(copy.as_slice().as_bytes(), out)?;
                }
            }
            done = done.wrapping_add(n);
        }
        Ok(done)
    }
}

impl<V: Backend> FileOps for StatsFile<V> {
    const HAS_READ: bool = true;
    const HAS_IOCTL: bool = false;

    fn read(this: ArcBorrow<'_, Self>, mut out: UserSliceWriter, pos: &mut i64) -> Result<usize> {
        let at = u64::try_from(*pos).map_err(|_| EINVAL)?;
        let words = match this.vcpu {
            None => VmStat::WORDS,
            Some(_) => VcpuStat::WORDS,
        };
        let layout = Layout::new(this.descs().len(), words);
        let n = this.copy(&layout, at, &mut out)?;
        // CAST: at most the size of the file.
        *pos = pos.wrapping_add(n as i64);
        Ok(n)
    }
}
