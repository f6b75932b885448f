// SPDX-License-Identifier: GPL-2.0

//! Guest-physical memory as the module itself reads and writes it: through the slots, at the user
//! addresses behind them.

use super::memslot::hva;
use super::memslot::SlotSet;
use super::memslot::Space;
use super::VmBase;
use crate::host_caps;
use host::uaccess;
use host::uaccess::Swapped;
use kernel::prelude::*;
use model::addr::Gpa;
use model::addr::Hva;
use model::addr::PAGE_SIZE;
use model::walk::GuestMem;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// Bytes of a cache line.
const CACHE_LINE: u64 = 64;

/// Guest memory for the page walker. Holds one version of the slots.
pub(crate) struct Memory<'a> {
    base: &'a VmBase,
    set: &'a SlotSet,
}

impl<'a> Memory<'a> {
    /// Memory as these slots have it.
    pub(crate) fn new(base: &'a VmBase, set: &'a SlotSet) -> Self {
        Self { base, set }
    }

    /// The user address behind `gpa`. EFAULT without memory.
    #[inline]
    pub(crate) fn hva(&self, gpa: Gpa) -> Result<Hva> {
        let (hva, _) = hva(self.set, gpa.gfn(), false).ok_or(EFAULT)?;
        Ok(hva.wrapping_add(gpa.offset()))
    }

    /// Replaces a page-table entry with `swap`, and marks its page dirty if that stored something.
    fn update<T>(&self, gpa: Gpa, swap: impl FnOnce(Hva) -> Result<Swapped<T>>) -> Result<bool> {
        let Some((hva, slot)) = hva(self.set, gpa.gfn(), true) else {
            // Setting a bit in read-only memory has no effect.
            return Ok(true);
        };
        let stored = matches!(swap(hva.wrapping_add(gpa.offset()))?, Swapped::Stored);
        if stored {
            self.base.mark_dirty(slot, gpa.gfn());
        }
        Ok(stored)
    }
}

impl GuestMem for Memory<'_> {
    type Error = Error;

    #[inline]
    fn read_u32(&mut self, gpa: Gpa) -> Result<u32> {
        uaccess::read_hva(self.hva(gpa)?)
    }

    #[inline]
    fn read_u64(&mut self, gpa: Gpa) -> Result<u64> {
        uaccess::read_hva(self.hva(gpa)?)
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Result<bool> {
        self.update(gpa, |h| uaccess::cmpxchg_hva32(h, old, new))
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Result<bool> {
        self.update(gpa, |h| uaccess::cmpxchg_hva64(h, old, new))
    }
}

impl VmBase {
    /// Reads guest memory. EFAULT where there is none.
    pub(crate) fn read_guest(&self, gpa: Gpa, buf: &mut [u8]) -> Result {
        self.read_space(Space::Normal, gpa, buf)
    }

    /// Reads guest memory of an address space. EFAULT where there is none.
    pub(crate) fn read_space(&self, space: Space, gpa: Gpa, buf: &mut [u8]) -> Result {
        present(self.try_read(space, gpa, buf)?)
    }

    /// Reads guest memory of an address space; false where there is none. EFAULT if user space has
    /// nothing there.
    pub(crate) fn try_read(&self, space: Space, gpa: Gpa, buf: &mut [u8]) -> Result<bool> {
        let set = self.slots.space(space);
        let mut at = gpa;
        let mut rest = buf;
        while !rest.is_empty() {
            let n = in_page(at, rest.len());
            let (now, later) = rest.split_at_mut_checked(n).ok_or(EFAULT)?;
            let Some((hva, _)) = hva(&set, at.gfn(), false) else {
                return Ok(false);
            };
            uaccess::copy_from_hva(hva.wrapping_add(at.offset()), now)?;
            at = at.wrapping_add(n as u64);
            rest = later;
        }
        Ok(true)
    }

    /// Writes guest memory and marks it dirty. EFAULT where there is none, or only for reading.
    pub(crate) fn write_guest(&self, gpa: Gpa, data: &[u8]) -> Result {
        self.write_space(Space::Normal, gpa, data)
    }

    /// Writes guest memory of an address space and marks it dirty. EFAULT where there is none, or
    /// only for reading.
    pub(crate) fn write_space(&self, space: Space, gpa: Gpa, data: &[u8]) -> Result {
        present(self.try_write(space, gpa, data)?)
    }

    /// Writes guest memory of an address space and marks it dirty; false where there is none, or
    /// only for reading. EFAULT if user space has nothing there.
    pub(crate) fn try_write(&self, space: Space, gpa: Gpa, data: &[u8]) -> Result<bool> {
        let set = self.slots.space(space);
        let mut at = gpa;
        let mut rest = data;
        while !rest.is_empty() {
            let n = in_page(at, rest.len());
            let (now, later) = rest.split_at_checked(n).ok_or(EFAULT)?;
            let Some((hva, slot)) = hva(&set, at.gfn(), true) else {
                return Ok(false);
            };
            uaccess::copy_to_hva(hva.wrapping_add(at.offset()), now)?;
            self.mark_dirty(slot, at.gfn());
            at = at.wrapping_add(n as u64);
            rest = later;
        }
        Ok(true)
    }

    /// Writes a byte of guest memory, and marks it dirty, if that needs no sleep. EFAULT else.
    pub(crate) fn write_guest_now(&self, gpa: Gpa, byte: u8) -> Result {
        let set = self.slots.space(Space::Normal);
        let (hva, slot) = hva(&set, gpa.gfn(), true).ok_or(EFAULT)?;
        uaccess::copy_to_hva_nofault(hva.wrapping_add(gpa.offset()), &[byte])?;
        self.mark_dirty(slot, gpa.gfn());
        Ok(())
    }

    /// Can the four bytes at `gpa` be written?
    pub(crate) fn has_guest_word(&self, gpa: Gpa) -> bool {
        let set = self.slots.space(Space::Normal);
        let ends = [Some(gpa), gpa.0.checked_add(3).map(Gpa)];
        ends.iter()
            .all(|at| at.is_some_and(|at| hva(&set, at.gfn(), true).is_some()))
    }

    /// Reads a value from guest memory.
    pub(crate) fn read_guest_val<T: FromBytes + IntoBytes>(&self, gpa: Gpa) -> Result<T> {
        let mut v = T::new_zeroed();
        self.read_guest(gpa, v.as_mut_bytes())?;
        Ok(v)
    }

    /// Writes a value to guest memory.
    pub(crate) fn write_guest_val<T: IntoBytes + Immutable>(&self, gpa: Gpa, v: &T) -> Result {
        self.write_guest(gpa, v.as_bytes())
    }

    /// Replaces bytes of guest memory, all in one page, if they are `old`, in one atomic step;
    /// false if they are not. `None` where there is no memory, or only for reading. EINVAL if there
    /// is no such step for that length and place, EFAULT if user space has nothing there.
    pub(crate) fn cmpxchg_space(
        &self,
        space: Space,
        gpa: Gpa,
        old: &[u8],
        new: &[u8],
    ) -> Result<Option<bool>> {
        let set = self.slots.space(space);
        let Some((hva, slot)) = hva(&set, gpa.gfn(), true) else {
            return Ok(None);
        };
        let hva = hva.wrapping_add(gpa.offset());
        let done = match (old, new) {
            ([o], [n]) => matches!(uaccess::cmpxchg_hva8(hva, *o, *n)?, Swapped::Stored),
            _ if host_caps::traps_split_locks() && splits_line(gpa, old.len()) => {
                return Err(EINVAL);
            }
            _ => match old.len() {
                2 => {
                    let (o, n) = (word::<2>(old), word::<2>(new));
                    let r =
                        uaccess::cmpxchg_hva16(hva, u16::from_le_bytes(o), u16::from_le_bytes(n))?;
                    matches!(r, Swapped::Stored)
                }
                4 => {
                    let (o, n) = (word::<4>(old), word::<4>(new));
                    let r =
                        uaccess::cmpxchg_hva32(hva, u32::from_le_bytes(o), u32::from_le_bytes(n))?;
                    matches!(r, Swapped::Stored)
                }
                8 => {
                    let (o, n) = (word::<8>(old), word::<8>(new));
                    let r =
                        uaccess::cmpxchg_hva64(hva, u64::from_le_bytes(o), u64::from_le_bytes(n))?;
                    matches!(r, Swapped::Stored)
                }
                _ => return Err(EINVAL),
            },
        };
        if done {
            self.mark_dirty(slot, gpa.gfn());
        }
        Ok(Some(done))
    }
}

/// EFAULT without memory.
fn present(there: bool) -> Result {
    if there {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// Do these bytes lie in two cache lines?
fn splits_line(gpa: Gpa, len: usize) -> bool {
    let last = gpa.wrapping_add((len as u64).wrapping_sub(1));
    gpa.0 / CACHE_LINE != last.0 / CACHE_LINE
}

fn word<const N: usize>(b: &[u8]) -> [u8; N] {
    b.first_chunk::<N>().copied().unwrap_or([0; N])
}

/// How many of `len` bytes from `gpa` on lie in its page.
fn in_page(gpa: Gpa, len: usize) -> usize {
    // CAST: at most a page.
    len.min(PAGE_SIZE.wrapping_sub(gpa.offset()) as usize)
}
