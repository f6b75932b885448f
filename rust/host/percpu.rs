// SPDX-License-Identifier: GPL-2.0

//! [`PerCpu`]: a slot for each CPU.

use kernel::bindings;
use kernel::prelude::*;

use crate::pin::PinnedCpu;

/// A `T` for each possible CPU, each on cache lines of its own.
///
/// # Invariants
///
/// `slots` has one element for each CPU number below `nr_cpu_ids`, which is constant after boot.
pub struct PerCpu<T> {
    slots: KVVec<Slot<T>>,
}

#[repr(align(64))]
struct Slot<T>(T);

/// One more than the highest possible CPU number.
#[inline]
pub fn nr_cpu_ids() -> u32 {
    // SAFETY: Set at boot and constant after.
    unsafe { bindings::nr_cpu_ids }
}

impl<T> PerCpu<T> {
    /// Makes the slots, calling `init` with each CPU's number. Charged to the caller's memory cgroup.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, or the error of `init`.
    pub fn new(mut init: impl FnMut(u32) -> Result<T>) -> Result<Self> {
        let n = nr_cpu_ids();
        let mut slots = KVVec::with_capacity(n as usize, GFP_KERNEL_ACCOUNT)?;
        for cpu in 0..n {
            slots
                .push_within_capacity(Slot(init(cpu)?))
                .map_err(|_| ENOMEM)?;
        }
        Ok(Self { slots })
    }

    /// This CPU's slot. Interrupt handlers on this CPU may have it at the same time.
    #[inline(always)]
    pub fn here<'a>(&'a self, cpu: &'a PinnedCpu<'_>) -> &'a T
    where
        T: Sync,
    {
        // SAFETY: A CPU's number is below `nr_cpu_ids`, so there is a slot for it.
        unsafe { &self.slots.get_unchecked(cpu.cpu_id() as usize).0 }
    }

    /// A CPU's slot, from anywhere.
    #[inline]
    pub fn of(&self, cpu: u32) -> Option<&T>
    where
        T: Sync,
    {
        self.slots.get(cpu as usize).map(|slot| &slot.0)
    }

    /// All slots, by CPU number.
    pub fn iter(&self) -> impl Iterator<Item = &T>
    where
        T: Sync,
    {
        self.slots.iter().map(|slot| &slot.0)
    }
}
