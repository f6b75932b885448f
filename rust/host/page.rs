// SPDX-License-Identifier: GPL-2.0

//! Memory that hardware uses: control blocks, bitmaps, nested page tables.
//!
//! [`HwPages`] owns physically contiguous zeroed pages, [`HwPage`] a single one. They are charged to
//! the caller's memory cgroup. Only `virt` hands their addresses to hardware, and it must take them
//! back before it drops them.

use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicU8};

use kernel::bindings;
use kernel::page::PAGE_SIZE;
use kernel::prelude::*;
use zerocopy::FromZeros;

use crate::shim;

/// Bytes of `struct page`, as x86 lays out its memory map.
const PAGE_STRUCT: usize = core::mem::size_of::<bindings::page>();

/// The physical address of a direct-map address, bytes.
#[inline]
pub(crate) fn pa_of(kva: NonNull<u8>) -> u64 {
    // SAFETY: The variable is set at boot and constant after.
    let base = unsafe { bindings::page_offset_base };
    (kva.as_ptr() as u64).wrapping_sub(base as u64)
}

/// The page structure of a direct-map address.
#[inline]
pub(crate) fn page_of(kva: NonNull<u8>) -> *mut bindings::page {
    let pfn = (pa_of(kva) >> 12) as usize;
    // SAFETY: The variable is set at boot and constant after.
    let base = unsafe { bindings::vmemmap_base };
    (base as usize).wrapping_add(pfn.wrapping_mul(PAGE_STRUCT)) as *mut bindings::page
}

/// The bit of a physical address that says "encrypted" (SME), or 0.
#[inline]
pub fn encryption_mask() -> u64 {
    #[cfg(CONFIG_AMD_MEM_ENCRYPT)]
    // SAFETY: The variable is set at boot and constant after.
    unsafe {
        bindings::sme_me_mask
    }
    #[cfg(not(CONFIG_AMD_MEM_ENCRYPT))]
    0
}

/// `1 << ORDER` contiguous zeroed pages.
pub struct HwPages<const ORDER: u32> {
    /// Address in the direct map. We own the allocation.
    kva: NonNull<u8>,
    /// Whether the pages are accounted as secondary page tables.
    table: bool,
}

/// One zeroed page.
pub type HwPage = HwPages<0>;

// SAFETY: The pages are plain memory, reached through atomics or by `virt`.
unsafe impl<const ORDER: u32> Send for HwPages<ORDER> {}
// SAFETY: As above.
unsafe impl<const ORDER: u32> Sync for HwPages<ORDER> {}

impl<const ORDER: u32> HwPages<ORDER> {
    /// Bytes in the allocation.
    pub const BYTES: usize = PAGE_SIZE << ORDER;

    /// Allocates zeroed pages; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        Self::with(bindings::GFP_KERNEL_ACCOUNT)
    }

    fn with(gfp: bindings::gfp_t) -> Result<Self> {
        // SAFETY: No requirements.
        let kva = unsafe { bindings::get_free_pages_noprof(gfp | bindings::__GFP_ZERO, ORDER) };
        Self::adopt(kva as usize)
    }

    fn adopt(kva: usize) -> Result<Self> {
        let kva = NonNull::new(kva as *mut u8).ok_or(ENOMEM)?;
        Ok(Self { kva, table: false })
    }

    /// The first byte. The memory lives as long as `self`; hardware may write to it.
    #[inline]
    pub fn as_ptr(&self) -> *mut u8 {
        self.kva.as_ptr()
    }

    /// The physical address, bytes.
    #[inline]
    pub fn pa(&self) -> u64 {
        pa_of(self.kva)
    }

    /// The physical address as hardware is told, with the encryption bit where the host uses one.
    #[inline]
    pub fn hw_pa(&self) -> u64 {
        self.pa() | encryption_mask()
    }

    /// All of it, as bytes that others may write to.
    #[inline]
    pub fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: The allocation has `BYTES` initialised bytes and lives as long as `self`; atomics
        // tolerate writes by others.
        unsafe { core::slice::from_raw_parts(self.kva.as_ptr().cast(), Self::BYTES) }
    }

    /// All of it, as 64-bit words that others may write to.
    #[inline]
    pub fn all_words(&self) -> &[AtomicU64] {
        // SAFETY: As in `bytes`; pages are aligned.
        unsafe { core::slice::from_raw_parts(self.kva.as_ptr().cast(), Self::BYTES / 8) }
    }
}

impl HwPage {
    /// Allocates a page for a nested page table, accounted as such (`SecPageTables`).
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new_table() -> Result<Self> {
        let mut page = Self::new()?;
        // SAFETY: The page is live and ours.
        unsafe { shim::kvmrs_account_table(page.kva.as_ptr() as usize, 1) };
        page.table = true;
        Ok(page)
    }

    /// The page as 64-bit words that others may write to.
    #[inline]
    pub fn words(&self) -> &[AtomicU64; 512] {
        // SAFETY: The page has 4096 initialised bytes, is aligned, and lives as long as `self`.
        unsafe { self.kva.cast::<[AtomicU64; 512]>().as_ref() }
    }

    /// The page as 32-bit words that others may write to.
    #[inline]
    pub fn words32(&self) -> &[AtomicU32; 1024] {
        // SAFETY: As in `words`.
        unsafe { self.kva.cast::<[AtomicU32; 1024]>().as_ref() }
    }

    /// Gives the page up without freeing it; its direct-map address. Take it back with
    /// [`HwPage::from_raw`].
    pub fn into_raw(self) -> NonNull<u8> {
        let raw = self.kva;
        core::mem::forget(self);
        raw
    }

    /// Takes back a page given up with [`HwPage::into_raw`].
    ///
    /// # Safety
    ///
    /// `raw` must come from `into_raw` of a page for which `table` is whether it was made by
    /// [`HwPage::new_table`], and must be taken back once only.
    pub unsafe fn from_raw(raw: NonNull<u8>, table: bool) -> Self {
        Self { kva: raw, table }
    }
}

impl<const ORDER: u32> Drop for HwPages<ORDER> {
    fn drop(&mut self) {
        let kva = self.kva.as_ptr() as usize;
        if self.table {
            // SAFETY: The page is live and was accounted by `new_table`.
            unsafe { shim::kvmrs_account_table(kva, -1) };
        }
        // SAFETY: We own the allocation of this order.
        unsafe { bindings::free_pages(kva, ORDER) };
    }
}

/// A page with a `T` at its start, for what hardware looks into and Rust code, too.
pub struct PageOf<T> {
    page: HwPage,
    _holds: PhantomData<T>,
}

impl<T: FromZeros> PageOf<T> {
    const FITS: () = assert!(size_of::<T>() <= 4096 && align_of::<T>() <= 4096);

    /// A `T` of zeros.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let () = Self::FITS;
        Ok(Self {
            page: HwPage::new()?,
            _holds: PhantomData,
        })
    }

    /// The physical address as hardware is told.
    pub fn hw_pa(&self) -> u64 {
        self.page.hw_pa()
    }
}

impl<T: FromZeros> Deref for PageOf<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: The page is large enough and aligned, and was zeroed, which is a legal `T`; it is
        // only handed out as this shared reference.
        unsafe { self.page.kva.cast::<T>().as_ref() }
    }
}
