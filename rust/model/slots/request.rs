// SPDX-License-Identifier: GPL-2.0

//! KVM_SET_USER_MEMORY_REGION: what it asks for, and whether it may have it.
//!
//! | request | answer |
//! |---|---|
//! | unaligned, wrapping, too large, unknown flag, bad number | `Invalid` |
//! | size 0 | deletes; `Invalid` if there is no such slot |
//! | unknown number | creates; `Exists` if it overlaps another slot |
//! | known number, only `gpa` or LOG_DIRTY differ | moves, or changes flags |
//! | known number, anything else differs | `Invalid`: delete it first |

use super::{Place, Slot, SlotSet, Storage};
use crate::abi::vm::{KVM_MEM_GUEST_MEMFD, KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY};
use crate::addr::{Gfn, Gpa, Hva, PAGE_SHIFT, PAGE_SIZE};

/// The largest slot in pages: dirty bitmaps are indexed with a signed 32-bit number.
pub const MAX_PAGES: u64 = (1 << 31) - 1;

/// Why a slot is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// EINVAL.
    Invalid,
    /// EEXIST: it overlaps another slot.
    Exists,
    /// ENOMEM.
    NoMemory,
}

/// What the VM allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Slots user space may use in each address space: numbers below this.
    pub user_slots: u16,
    /// Number of address spaces.
    pub spaces: u16,
    /// Flags the VM and this ioctl know; of KVM_MEM_*.
    pub flags: u32,
    /// The last guest page that can be mapped.
    pub last_gfn: Gfn,
    /// The highest user address plus one.
    pub hva_end: u64,
}

/// The arguments, as user space gave them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Address space in bits 31:16, number in bits 15:0.
    pub slot: u32,
    /// KVM_MEM_* flags.
    pub flags: u32,
    /// First guest address.
    pub gpa: u64,
    /// Size in bytes, 0 to delete.
    pub size: u64,
    /// User address.
    pub hva: u64,
    /// Offset into the guest_memfd; counts if KVM_MEM_GUEST_MEMFD is set.
    pub memfd_offset: u64,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is nothing to do.
    Nothing,
    /// Add the slot.
    Create(Slot),
    /// Remove the slot.
    Delete(Slot),
    /// Move the slot; the flags may change as well.
    Move {
        /// As it is.
        old: Slot,
        /// As it will be.
        new: Slot,
    },
    /// Turn dirty logging on or off.
    Flags {
        /// As it is.
        old: Slot,
        /// As it will be.
        new: Slot,
    },
}

impl Request {
    /// Number of the address space.
    pub const fn space(&self) -> u16 {
        (self.slot >> 16) as u16
    }

    /// Number of the slot in it.
    pub const fn id(&self) -> u16 {
        self.slot as u16
    }

    /// The checks that do not depend on the slots there are.
    pub fn validate(&self, limits: &Limits) -> Result<(), SlotError> {
        let memfd = self.flags & KVM_MEM_GUEST_MEMFD != 0;
        // KVM: private memory can be neither logged nor read-only.
        let known = if memfd {
            limits.flags & !(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)
        } else {
            limits.flags
        };
        let aligned = |x: u64| x & (PAGE_SIZE - 1) == 0;
        let user = self
            .hva
            .checked_add(self.size)
            .is_some_and(|end| end <= limits.hva_end);
        let memfd_ok = !memfd
            || aligned(self.memfd_offset) && self.memfd_offset.checked_add(self.size).is_some();
        let ok = self.flags & !known == 0
            && aligned(self.size)
            && aligned(self.gpa)
            && aligned(self.hva)
            && user
            && memfd_ok
            && self.space() < limits.spaces
            && self.id() < limits.user_slots
            && self.gpa.checked_add(self.size).is_some()
            && self.size >> PAGE_SHIFT <= MAX_PAGES;
        if ok {
            Ok(())
        } else {
            Err(SlotError::Invalid)
        }
    }

    /// What a request that passed [`validate`](Self::validate) does to `set`, the slots of its
    /// address space. [`Change::reachable`] is still to be asked.
    pub fn change<T: Place, S: Storage + 'static>(
        &self,
        set: &SlotSet<T, S>,
    ) -> Result<Change, SlotError> {
        let old = set.by_id(self.id()).map(|e| *e.slot());
        if self.size == 0 {
            return old.map(Change::Delete).ok_or(SlotError::Invalid);
        }
        let new = Slot {
            space: self.space(),
            id: self.id(),
            base: Gpa(self.gpa).gfn(),
            pages: self.size >> PAGE_SHIFT,
            hva: Hva(self.hva),
            flags: self.flags,
            invalid: false,
        };
        let change = match old {
            None => Change::Create(new),
            Some(old) => {
                let fixed = KVM_MEM_READONLY | KVM_MEM_GUEST_MEMFD;
                if self.flags & KVM_MEM_GUEST_MEMFD != 0
                    || new.hva != old.hva
                    || new.pages != old.pages
                    || (new.flags ^ old.flags) & fixed != 0
                {
                    return Err(SlotError::Invalid);
                }
                if new.base != old.base {
                    Change::Move { old, new }
                } else if new.flags != old.flags {
                    return Ok(Change::Flags { old, new });
                } else {
                    return Ok(Change::Nothing);
                }
            }
        };
        if set.overlaps(new.base, new.end(), new.id) {
            return Err(SlotError::Exists);
        }
        Ok(change)
    }
}

impl Change {
    /// `Invalid` if the new place is beyond what can be mapped: the last check, after that of a
    /// guest_memfd.
    pub fn reachable(&self, limits: &Limits) -> Result<(), SlotError> {
        match self {
            Self::Create(new) | Self::Move { new, .. }
                if new.end().0.wrapping_sub(1) > limits.last_gfn.0 =>
            {
                Err(SlotError::Invalid)
            }
            _ => Ok(()),
        }
    }
}
