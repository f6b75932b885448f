// SPDX-License-Identifier: GPL-2.0

//! Memory of the guest, as an anonymous mapping of ours.

use std::io::Error;
use std::ptr::null_mut;

/// Bytes of a large page.
pub const LARGE: usize = 2 << 20;

/// A mapping; unmapped when dropped.
pub struct Memory {
    base: *mut libc::c_void,
    reserved: usize,
    start: *mut u8,
    len: usize,
}

impl Memory {
    /// `len` bytes of zeroes that are there already, in pages of 4 KiB or 2 MiB.
    pub fn new(len: usize, large: bool) -> Result<Self, Error> {
        let reserved = len + LARGE;
        // SAFETY: A new mapping where the kernel likes.
        let base = unsafe {
            libc::mmap(
                null_mut(),
                reserved,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = (base as usize).next_multiple_of(LARGE) as *mut u8;
        let advice = if large {
            libc::MADV_HUGEPAGE
        } else {
            libc::MADV_NOHUGEPAGE
        };
        let mut this = Self {
            base,
            reserved,
            start,
            len,
        };
        // SAFETY: Within the mapping.
        let r = unsafe { libc::madvise(start.cast(), len, advice) };
        if r != 0 {
            return Err(Error::last_os_error());
        }
        for i in (0..len).step_by(4096) {
            this.write(i, &[0]);
        }
        Ok(this)
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies bytes in. The guest does not run meanwhile.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: Within the mapping, which no reference of Rust's points into.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(at), bytes.len()) };
    }

    /// Reads a number. The guest does not run meanwhile.
    pub fn read(&self, at: usize) -> u64 {
        assert!(at + 8 <= self.len);
        // SAFETY: As above.
        unsafe { self.start.add(at).cast::<u64>().read_unaligned() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and the VM that used it is gone or loses it.
        unsafe { libc::munmap(self.base, self.reserved) };
    }
}
