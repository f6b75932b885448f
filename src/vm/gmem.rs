// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: files of a VM that back its memory slots.
//!
//! A file keeps its VM; a slot does not keep the file. What the two share is [`Gmem`]: the way to
//! the file while it is open, and the *bindings*, which of its pages back which guest pages. A slot
//! is bound before it is published, and unbound when it is gone, so that the bindings have every
//! guest page that can be mapped from the file: they are what a hole goes by.
//!
//! In a slot whose file can be mapped the guest's memory is the file's. Without that flag it is the
//! slot's user memory: only private memory would come from the file, and no VM here has any.

use super::memslot::Shared;
use super::memslot::Space;
use super::Vm;
use super::VmCore;
use crate::backend::Backend;
use crate::mmu;
use crate::mmu::Tables;
use host::gmem;
use host::gmem::Backs;
use host::gmem::Handle;
use host::gmem_fs::GmemFs;
use host::gup::FaultIn;
use host::mmu::InvalidateSeq;
use host::mmu::MmuLock;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use model::abi;
use model::addr::Gfn;
use model::addr::PAGE_SHIFT;
use model::slots;
use model::slots::gmem::Binding;
use model::slots::gmem::Bindings;
use model::slots::SlotError;

/// What a file and the slots that it backs share.
#[pin_data]
pub(crate) struct Gmem {
    handle: Handle,
    /// Changed under `slots_lock` besides, so that who has that may prepare a change.
    #[pin]
    bindings: Mutex<Bindings<Shared>>,
}

/// What a file belongs to.
pub(crate) struct OfVm<V: Backend> {
    vm: Arc<Vm<V>>,
    gmem: Arc<Gmem>,
}

impl<V: Backend> Backs for OfVm<V> {
    type Data = Tables<V>;

    fn mmu(&self) -> &MmuLock<Tables<V>> {
        &self.vm.core().mmu
    }

    fn handle(&self) -> &Handle {
        &self.gmem.handle
    }

    fn zap(&self, start: u64, end: u64) {
        self.gmem
            .bindings
            .lock()
            .for_each(start, end, |space, first, last| {
                mmu::zap::zap_range(self.vm.core(), Space::of(space), first, last, true);
            });
    }
}

/// Mounts what the files are on. EBUSY if it is mounted, ENOMEM.
pub(crate) fn file_system() -> Result<GmemFs> {
    GmemFs::mount()
}

/// KVM_CREATE_GUEST_MEMFD. EINVAL for a size or a flag that there is not.
pub(crate) fn create<V: Backend>(vm: &Arc<Vm<V>>, r: &abi::KvmCreateGuestMemfd) -> Result<isize> {
    if !slots::gmem::may_create(r) {
        return Err(EINVAL);
    }
    let gmem = Arc::pin_init(
        pin_init!(Gmem {
            handle: Handle::new(),
            bindings <- new_mutex!(Bindings::new(), "gmem->bindings"),
        }),
        GFP_KERNEL_ACCOUNT,
    )?;
    let vm = vm.clone();
    let owner = Arc::new(OfVm { vm, gmem }, GFP_KERNEL_ACCOUNT)?;
    // CAST: a descriptor number.
    Ok(gmem::create(owner, r.size, r.flags)? as isize)
}

/// What a slot has of the file that was given for it.
#[derive(Clone)]
pub(crate) struct Backing {
    gmem: Arc<Gmem>,
    /// The page of the file where the slot begins.
    start: u64,
    /// The file's pages are the guest's memory.
    serves: bool,
}

impl Backing {
    /// The file of a new slot, `offset` bytes into it. EBADF for no file, EINVAL for one that is no
    /// guest_memfd of this VM or too small. EEXIST and the slot's own place are for later. `asked` is to be
    /// dropped when no lock is held any more: it may be the last that is left of another VM.
    pub(crate) fn find<V: Backend>(
        vm: &VmCore<V>,
        slot: &slots::Slot,
        fd: u32,
        offset: u64,
        asked: &mut Option<Arc<OfVm<V>>>,
    ) -> Result<Self> {
        let (owner, size, flags) = gmem::from_fd::<OfVm<V>>(fd)?;
        let owner = asked.insert(owner);
        let fits = slots::gmem::holds(size, offset, slot.pages.wrapping_shl(PAGE_SHIFT));
        if !core::ptr::eq(owner.vm.core(), vm) || !fits {
            return Err(EINVAL);
        }
        Ok(Self {
            gmem: owner.gmem.clone(),
            start: offset >> PAGE_SHIFT,
            serves: flags & abi::GUEST_MEMFD_FLAG_MMAP != 0,
        })
    }

    /// Binds a slot that is not published yet. `slots_lock` is held. EEXIST if a page of the file
    /// backs another one, ENOMEM.
    pub(crate) fn bind(&self, slot: &slots::Slot) -> Result {
        let mut bindings = self.gmem.bindings.lock();
        let new = bindings.with(Binding::of(slot, self.start));
        *bindings = new.map_err(|e| match e {
            SlotError::Invalid => EINVAL,
            SlotError::Exists => EEXIST,
            SlotError::NoMemory => ENOMEM,
        })?;
        Ok(())
    }

    /// What is bound without the slot, to be [`put`](Self::put) when it is gone. `slots_lock` is
    /// held in between. ENOMEM.
    pub(crate) fn without(&self) -> Result<Bindings<Shared>> {
        let bindings = self.gmem.bindings.lock();
        bindings.without(self.start).map_err(|_| ENOMEM)
    }

    /// Unbinds the slot, which is gone.
    pub(crate) fn put(&self, rest: Bindings<Shared>) {
        let mut bindings = self.gmem.bindings.lock();
        let before = core::mem::replace(&mut *bindings, rest);
        drop(bindings);
        drop(before);
    }

    /// Are the file's pages the guest's memory?
    pub(crate) fn serves(&self) -> bool {
        self.serves
    }

    /// Finds the page behind `gfn` of `slot`. EFAULT if the file is closed, EHWPOISON, ENOMEM.
    pub(crate) fn fault_in<'l, V: Backend>(
        &self,
        vm: &'l VmCore<V>,
        seq: InvalidateSeq<'l>,
        slot: &slots::Slot,
        gfn: Gfn,
    ) -> Result<FaultIn<'l>> {
        let index = self.start.wrapping_add(slot.offset(gfn));
        vm.mmu.fault_in_file(seq, &self.gmem.handle, index)
    }
}

/// KVM_SET_MEMORY_ATTRIBUTES. EINVAL for an attribute, as there is no private memory here, and for a
/// range that cannot be.
pub(crate) fn set_attributes(r: &abi::KvmMemoryAttributes) -> Result<isize> {
    if slots::gmem::may_set_attributes(r) {
        // No page has any.
        Ok(0)
    } else {
        Err(EINVAL)
    }
}
