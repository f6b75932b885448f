// SPDX-License-Identifier: GPL-2.0

//! The identity map: a page of guest memory with a page directory that maps every address to itself.
//!
//! Hardware without unrestricted guests walks it while the guest has paging off. It is in a slot of the
//! kernel's own, where KVM_SET_IDENTITY_MAP_ADDR says; the memory is mapped into the VMM, like that of
//! the other slots, and goes with the VM.

use super::memslot;
use super::VmCore;
use crate::backend::Backend;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::mm::MmRef;
use kernel::prelude::*;
use model::addr::Gpa;
use model::addr::Hva;
use model::addr::PAGE_SIZE;
use zerocopy::IntoBytes;

/// Where it is unless user space says otherwise: below the BIOS.
const DEFAULT: u64 = 0xfffb_c000;

/// Where the identity map is.
pub(crate) struct Identity {
    /// In guest memory; 0 for the usual place.
    gpa: AtomicU64,
    /// In the VMM's memory; 0 before there is one.
    hva: AtomicU64,
}

impl Identity {
    /// There is none yet.
    pub(crate) const fn new() -> Self {
        Self {
            gpa: AtomicU64::new(0),
            hva: AtomicU64::new(0),
        }
    }

    /// KVM_SET_IDENTITY_MAP_ADDR; 0 is the usual place. Hardware would not take an address within a
    /// page: EINVAL where it is used.
    pub(crate) fn set_place(&self, gpa: u64) {
        self.gpa.store(gpa, Relaxed);
    }

    fn place(&self) -> Gpa {
        match self.gpa.load(Relaxed) {
            0 => Gpa(DEFAULT),
            a => Gpa(a),
        }
    }

    /// The VM ends. Another process that had the descriptor last has nothing to unmap.
    pub(crate) fn unmap(&self, mm: &MmRef) {
        let hva = self.hva.swap(0, Relaxed);
        if hva != 0 && mm.is_current() {
            host::mm::unmap_memory(Hva(hva), PAGE_SIZE as usize);
        }
    }
}

/// Makes the identity map, if the hardware needs one and there is none. Under `kvm->lock`. EEXIST if
/// user space has memory there, EINVAL for an address that is not a page's.
pub(crate) fn set_up<V: Backend>(vm: &VmCore<V>) -> Result {
    let Some(told) = V::identity_map(&vm.hw) else {
        return Ok(());
    };
    if told.load(Relaxed) != 0 {
        return Ok(());
    }
    let gpa = vm.base.identity.place();
    if gpa.offset() != 0 || gpa.0 >> 32 != 0 {
        return Err(EINVAL);
    }
    let hva = host::mm::map_memory(PAGE_SIZE as usize)?;
    if let Err(e) = memslot::add_private(vm, gpa.gfn(), 1, hva) {
        host::mm::unmap_memory(hva, PAGE_SIZE as usize);
        return Err(e);
    }
    vm.base.identity.hva.store(hva.0, Relaxed);
    write(vm, gpa)?;
    told.store(gpa.0, Relaxed);
    Ok(())
}

/// Writes 1024 entries of 4 MiB each.
#[inline(never)]
fn write<V: Backend>(vm: &VmCore<V>, gpa: Gpa) -> Result {
    /// Present, writable, user, accessed, dirty, 4 MiB (`SDM: vol 3, table 5-4`).
    const ENTRY: u32 = 0xe7;
    const BATCH: usize = 64;
    let mut entries = [0u32; BATCH];
    for at in (0u32..1024).step_by(BATCH) {
        for (n, e) in (at..).zip(entries.iter_mut()) {
            *e = n << 22 | ENTRY;
        }
        let to = gpa.wrapping_add(u64::from(at) << 2);
        vm.base.write_guest(to, entries.as_bytes())?;
    }
    Ok(())
}
