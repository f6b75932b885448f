// SPDX-License-Identifier: GPL-2.0

//! From an address of the VMM to a page that may be mapped into a guest.
//!
//! [`MmuLock::fault_in`] finds the page (it may sleep, and the page may be gone again at once),
//! [`FaultIn::validate`] proves under the MMU lock that it is still the one, and the result, a
//! [`GuestPage`], is what the nested page tables accept. The order of calls is in
//! [`mmu`](crate::mmu).

use core::marker::PhantomData;
use core::ptr;

use kernel::bindings;
use kernel::prelude::*;
use model::addr::{Gfn, Hva, Pfn};

use crate::errno::hwpoison;
use crate::mm::current_mm;
use crate::mmu::{core_of, InvalidateSeq, MmuGuard, MmuLock};
use crate::shim;

/// How a page is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The guest writes: the page must be writable.
    pub write: bool,
    /// Find out whether the page could be mapped writable although the guest only reads.
    pub writable: bool,
    /// Any signal ends the wait, not only a fatal one.
    pub interruptible: bool,
    /// Do not wait for I/O: [`FaultErr::NeedsIo`] instead.
    pub nowait: bool,
    /// Find out the level at which the host maps the page.
    pub level: bool,
}

/// Why a page could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultErr {
    /// The state changed meanwhile: sample again and start over.
    Retry,
    /// A signal is pending.
    Interrupted,
    /// The page's memory is broken; the VMM gets a SIGBUS.
    HwPoison,
    /// The page has to be read in, and waiting was not wanted.
    NeedsIo,
    /// The page is read-only and was to be written.
    ReadOnly,
    /// Nothing (of the kind) is mapped there.
    Fault,
}

/// A page of the VMM or of a guest_memfd, found but not yet proven current. Holds a reference if it
/// has one to hold.
pub struct FaultIn<'l> {
    seq: InvalidateSeq<'l>,
    /// Where invalidations have it: the user address, or the place in a file ([`crate::gmem`]).
    at: u64,
    pfn: u64,
    /// The page referenced, or null for memory without page structures (or not counted by them).
    page: *mut bindings::page,
    writable: bool,
    level: u8,
}

/// A page that may be mapped into a guest as long as the guard it was validated under is held.
#[derive(Clone, Copy)]
pub struct GuestPage<'g> {
    pfn: u64,
    writable: bool,
    max_level: u8,
    has_page: bool,
    lock: *const (),
    _guard: PhantomData<&'g ()>,
}

impl<T> MmuLock<T> {
    /// Finds the page at `hva` in the current process, which must be the one whose changes are
    /// announced to this lock. Sleeps; hold no spinning lock.
    ///
    /// # Errors
    ///
    /// See [`FaultErr`]; `Fault` also for a process that is not the VM's.
    pub fn fault_in<'l>(
        &'l self,
        seq: InvalidateSeq<'l>,
        hva: Hva,
        want: Want,
    ) -> Result<FaultIn<'l>, FaultErr> {
        if !ptr::eq(seq.core, self.core()) {
            return Err(FaultErr::Retry);
        }
        fault_in(seq, hva.0 & !0xfff, want)
    }
}

/// The page at a page-aligned address; one copy for all `T`.
fn fault_in(seq: InvalidateSeq<'_>, hva: u64, want: Want) -> Result<FaultIn<'_>, FaultErr> {
    if !seq.core.announces(current_mm()) {
        return Err(FaultErr::Fault);
    }
    let found = if want.write || want.writable {
        get_fast(hva)
    } else {
        None
    };
    let (page, writable) = match found {
        Some(page) => (page, true),
        None => match get_slow(hva, want) {
            Ok(found) => found,
            Err(err) if err == EINTR || err == EAGAIN => return Err(FaultErr::Interrupted),
            Err(err) if err == hwpoison() => return Err(FaultErr::HwPoison),
            Err(_) => return unpaged(seq, hva, want),
        },
    };
    Ok(FaultIn {
        seq,
        at: hva,
        // SAFETY: `page` is a page we hold a reference to.
        pfn: unsafe { shim::kvmrs_page_to_pfn(page) } as u64,
        page,
        writable,
        level: host_level(hva, want),
    })
}

/// A referenced page that is mapped writable already; does not sleep.
fn get_fast(hva: u64) -> Option<*mut bindings::page> {
    let mut page = ptr::null_mut();
    // SAFETY: There is room for one page pointer.
    let n = unsafe {
        bindings::get_user_pages_fast_only(hva as usize, 1, bindings::FOLL_WRITE, &mut page)
    };
    (n == 1 && !page.is_null()).then_some(page)
}

/// A referenced page, faulted in if need be, and whether it is writable.
fn get_slow(hva: u64, want: Want) -> Result<(*mut bindings::page, bool)> {
    // The guest's access counts for NUMA balancing as the process's own would.
    let mut flags = bindings::FOLL_HWPOISON | bindings::FOLL_HONOR_NUMA_FAULT;
    if want.write {
        flags |= bindings::FOLL_WRITE;
    }
    if want.interruptible {
        flags |= bindings::FOLL_INTERRUPTIBLE;
    }
    if want.nowait {
        flags |= bindings::FOLL_NOWAIT;
    }
    let mut page = ptr::null_mut();
    // SAFETY: There is room for one page pointer; no lock is held.
    let n = unsafe { bindings::get_user_pages_unlocked(hva as usize, 1, &mut page, flags) };
    if n < 0 {
        return Err(Error::from_errno(n as i32));
    }
    if n != 1 || page.is_null() {
        return Err(EFAULT);
    }
    if want.writable && !want.write {
        // Now that it is present it may turn out to be writable as well.
        if let Some(writable) = get_fast(hva) {
            // SAFETY: We hold a reference to the first page.
            unsafe { shim::kvmrs_put_page(page) };
            return Ok((writable, true));
        }
    }
    Ok((page, want.write))
}

/// Memory that get_user_pages() does not do: device memory and raw page frames mapped by a driver.
fn unpaged(seq: InvalidateSeq<'_>, hva: u64, want: Want) -> Result<FaultIn<'_>, FaultErr> {
    let mm = current_mm();
    // SAFETY: A process in an ioctl has an mm, which stays while it runs.
    unsafe { bindings::mmap_read_lock(mm) };
    // The fault handler may drop the lock, and the area go meanwhile; start over then. In-tree KVM
    // repeats without bound; a driver cannot keep us here for longer than this.
    let mut result = Err(FaultErr::Retry);
    for _ in 0..8 {
        // SAFETY: The mmap lock is held, and released below.
        result = unsafe { pfnmap(mm, hva, want) };
        if !matches!(result, Err(FaultErr::Retry)) {
            break;
        }
    }
    // SAFETY: Locked above; fixup_user_fault() returns with it held.
    unsafe { bindings::mmap_read_unlock(mm) };
    let (pfn, writable) = result?;
    Ok(FaultIn {
        seq,
        at: hva,
        pfn,
        page: ptr::null_mut(),
        writable,
        level: host_level(hva, want),
    })
}

/// The frame a driver mapped at `hva`, and whether it is writable.
///
/// # Safety
///
/// `mm` must be the current mm, with its mmap lock held for reading.
unsafe fn pfnmap(
    mm: *mut bindings::mm_struct,
    hva: u64,
    want: Want,
) -> Result<(u64, bool), FaultErr> {
    // SAFETY: The mmap lock is held.
    let vma = unsafe { bindings::vma_lookup(mm, hva as usize) };
    if vma.is_null() {
        return Err(FaultErr::Fault);
    }
    // SAFETY: The area is live while the lock is held.
    let flags = unsafe { (*vma).__bindgen_anon_2.vm_flags };
    if flags & (bindings::VM_IO | bindings::VM_PFNMAP) == 0 {
        let readable = flags & bindings::VM_READ != 0;
        let enough = readable && (!want.write || flags & bindings::VM_WRITE != 0);
        return Err(if want.nowait && enough {
            FaultErr::NeedsIo
        } else {
            FaultErr::Fault
        });
    }
    // SAFETY: All zeros is a valid, unused argument structure.
    let mut args: bindings::follow_pfnmap_args = unsafe { core::mem::zeroed() };
    args.vma = vma;
    args.address = hva as usize;
    // SAFETY: The area and the address belong together, and the mmap lock is held.
    if unsafe { bindings::follow_pfnmap_start(&mut args) } != 0 {
        let mut unlocked = false;
        let kind = if want.write {
            bindings::fault_flag_FAULT_FLAG_WRITE
        } else {
            0
        };
        // SAFETY: The mmap lock is held; the function returns with it held.
        let code = unsafe { bindings::fixup_user_fault(mm, hva as usize, kind, &mut unlocked) };
        if unlocked {
            return Err(FaultErr::Retry);
        }
        // SAFETY: As above; the lock was not dropped, so the area is still the one.
        if code != 0 || unsafe { bindings::follow_pfnmap_start(&mut args) } != 0 {
            return Err(FaultErr::Fault);
        }
    }
    let found = (args.pfn as u64, args.writable);
    // SAFETY: Started above.
    unsafe { bindings::follow_pfnmap_end(&mut args) };
    if want.write && !found.1 {
        return Err(FaultErr::ReadOnly);
    }
    Ok(found)
}

/// The level (1 to 3) at which the host maps an address, 1 if not asked for.
fn host_level(hva: u64, want: Want) -> u8 {
    if !want.level {
        return 1;
    }
    // SAFETY: Walks the current mm's tables, if there is one, with interrupts off; the addresses in
    // it are user space's, or the function looks at nothing.
    match unsafe { shim::kvmrs_host_level(hva as usize) } {
        level @ 2..=3 => level as u8,
        _ => 1,
    }
}

/// The level (1 to 3) at which the current process maps an address now, 1 if it does not.
pub fn level_of(hva: Hva) -> u8 {
    let want = Want {
        level: true,
        ..Want::default()
    };
    host_level(hva.0, want)
}

impl<'l> FaultIn<'l> {
    /// A page of a file, at its place among the invalidations of the lock sampled. Takes over a
    /// reference to the page.
    pub(crate) fn of_file(seq: InvalidateSeq<'l>, at: u64, page: *mut bindings::page) -> Self {
        Self {
            seq,
            at,
            // SAFETY: The caller has a reference to the page.
            pfn: unsafe { shim::kvmrs_page_to_pfn(page) } as u64,
            page,
            writable: true,
            level: 1,
        }
    }
}

impl FaultIn<'_> {
    /// Whether the page may be mapped writable.
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The frame number; a number only: what may be mapped is a [`GuestPage`].
    pub fn pfn(&self) -> Pfn {
        Pfn(self.pfn)
    }

    /// Proves that the page is still the one at its address. `None`: it may not be, so start over
    /// with a new sample. Marks the page as used by the guest (and written to, if writable).
    pub fn validate<'g, G: MmuGuard>(&self, guard: &'g G) -> Option<GuestPage<'g>> {
        let core = core_of(guard);
        if !ptr::eq(core, self.seq.core) || self.seq.is_stale() {
            return None;
        }
        if core.invalidating(self.at, self.at.wrapping_add(0x1000)) {
            return None;
        }
        // A larger mapping must not cover anything that is being invalidated.
        let mut max_level = self.level;
        while max_level > 1 {
            let size = level_bytes(max_level);
            let start = self.at & !size.wrapping_sub(1);
            if !core.invalidating(start, start.wrapping_add(size)) {
                break;
            }
            max_level = max_level.wrapping_sub(1);
        }
        if !self.page.is_null() {
            // SAFETY: We hold a reference to the page. Under the lock, as an invalidation that
            // follows must find the marks.
            unsafe { shim::kvmrs_page_mark(self.page, self.writable) };
        }
        Some(GuestPage {
            pfn: self.pfn,
            writable: self.writable,
            max_level,
            has_page: !self.page.is_null(),
            lock: ptr::from_ref(core).cast(),
            _guard: PhantomData,
        })
    }
}

impl Drop for FaultIn<'_> {
    fn drop(&mut self) {
        if !self.page.is_null() {
            // SAFETY: We hold a reference to the page.
            unsafe { shim::kvmrs_put_page(self.page) };
        }
    }
}

/// Bytes mapped by an entry of a level (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
const fn level_bytes(level: u8) -> u64 {
    match level {
        2 => 1 << 21,
        3 => 1 << 30,
        _ => 1 << 12,
    }
}

impl GuestPage<'_> {
    /// The frame number of the 4 KiB page that was faulted in.
    #[inline]
    pub fn pfn(&self) -> Pfn {
        Pfn(self.pfn)
    }

    /// Whether it may be mapped writable.
    #[inline]
    pub fn writable(&self) -> bool {
        self.writable
    }

    /// The highest level (1 to 3) at which the host maps it, if asked for.
    #[inline]
    pub fn max_level(&self) -> u8 {
        self.max_level
    }

    /// The first frame for mapping `gfn` at `level`, or `None` if the host does not map the page
    /// that large, or frame and guest frame are not at the same place in the large page.
    #[inline]
    pub fn at_level(&self, gfn: Gfn, level: u8) -> Option<Pfn> {
        if level > self.max_level.max(1) {
            return None;
        }
        let mask = (level_bytes(level) >> 12).wrapping_sub(1);
        if (gfn.0 ^ self.pfn) & mask != 0 {
            return None;
        }
        Some(Pfn(self.pfn & !mask))
    }

    /// Whether the frame is device memory, to be mapped uncached.
    pub fn is_mmio(&self) -> bool {
        // SAFETY: Looks at the frame number only.
        unsafe { shim::kvmrs_pfn_is_mmio(self.pfn as usize) }
    }

    /// Whether the frame has a page structure that counts its users.
    pub fn has_page(&self) -> bool {
        self.has_page
    }

    /// Whether the page was validated under this guard's lock: the tables it goes into must be the
    /// ones that lock protects.
    #[inline]
    pub fn belongs_to<G: MmuGuard>(&self, guard: &G) -> bool {
        ptr::eq(self.lock, ptr::from_ref(core_of(guard)).cast())
    }
}
