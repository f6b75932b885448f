// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: the files, what system calls say of them, slots that they back.

use crate::sys::zeroed;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::sys::Plain;
use crate::uapi as k;
use kvm_bindings::*;

// SAFETY: the kernel's structures, made of integers.
unsafe impl Plain for kvm_create_guest_memfd {}
// SAFETY: as above.
unsafe impl Plain for kvm_memory_attributes {}
// SAFETY: as above.
unsafe impl Plain for kvm_pre_fault_memory {}

/// The bindings are older than these.
pub const FLAG_MMAP: u64 = 1;
/// The pages are user space's as well from the start.
pub const FLAG_INIT_SHARED: u64 = 2;
/// Both.
pub const SHARED: u64 = FLAG_MMAP | FLAG_INIT_SHARED;

/// fallocate: the size stays.
pub const KEEP: i32 = 1;
/// fallocate: a hole.
pub const HOLE: i32 = 3;

/// Makes a file; the descriptor's number, or an errno.
pub fn ask(vm: &Fd, size: u64, flags: u64) -> Answer {
    let mut r: kvm_create_guest_memfd = zeroed();
    (r.size, r.flags) = (size, flags);
    vm.set(k::CREATE_GUEST_MEMFD, &r)
}

/// The same, and its descriptor.
pub fn create(vm: &Fd, size: usize, flags: u64) -> Result<Fd, i32> {
    Fd::own(ask(vm, size as u64, flags).ok()?)
}

/// A slot: number, flags, guest address, bytes, user address.
#[derive(Clone, Copy)]
pub struct Slot {
    pub id: u32,
    pub flags: u32,
    pub gpa: u64,
    pub size: u64,
    pub hva: u64,
    pub fd: i32,
    pub offset: u64,
}

impl Slot {
    /// Sets it.
    pub fn set(&self, vm: &Fd) -> Answer {
        let mut r: kvm_userspace_memory_region2 = zeroed();
        (r.slot, r.flags, r.guest_phys_addr) = (self.id, self.flags, self.gpa);
        (r.memory_size, r.userspace_addr) = (self.size, self.hva);
        (r.guest_memfd, r.guest_memfd_offset) = (self.fd as u32, self.offset);
        vm.set(k::SET_USER_MEMORY_REGION2, &r)
    }
}

/// Backs guest memory at `gpa` by `size` bytes of a file.
pub fn bind(vm: &Fd, id: u32, gpa: u64, size: usize, fd: &Fd, offset: usize) -> Answer {
    Slot {
        id,
        flags: KVM_MEM_GUEST_MEMFD,
        gpa,
        size: size as u64,
        hva: 0,
        fd: fd.raw(),
        offset: offset as u64,
    }
    .set(vm)
}

/// Removes a slot.
pub fn unbind(vm: &Fd, id: u32) -> Answer {
    Slot {
        id,
        flags: 0,
        gpa: 0,
        size: 0,
        hva: 0,
        fd: 0,
        offset: 0,
    }
    .set(vm)
}

fn said(r: i64) -> Answer {
    if r < 0 {
        Answer::Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        Answer::Ok(r as i32)
    }
}

/// An errno, or 0.
fn advised(r: i32) -> Answer {
    if r == 0 {
        Answer::Ok(0)
    } else {
        Answer::Err(r)
    }
}

/// fallocate.
pub fn fallocate(fd: &Fd, mode: i32, offset: i64, len: i64) -> Answer {
    // SAFETY: integers only.
    said(i64::from(unsafe {
        libc::fallocate(fd.raw(), mode, offset, len)
    }))
}

/// What other system calls say of a file, by name.
pub fn other_calls(fd: &Fd) -> Vec<(&'static str, Answer)> {
    let n = fd.raw();
    let mut b = [0u8; 64];
    let at = b.as_mut_ptr().cast::<libc::c_void>();
    // SAFETY: 64 bytes of our own, and integers.
    unsafe {
        vec![
            ("read", said(libc::read(n, at, 64) as i64)),
            ("write", said(libc::write(n, at, 64) as i64)),
            ("pread", said(libc::pread(n, at, 64, 0) as i64)),
            ("pwrite", said(libc::pwrite(n, at, 64, 0) as i64)),
            ("lseek", said(libc::lseek(n, 0, libc::SEEK_END))),
            ("ftruncate", said(i64::from(libc::ftruncate(n, 0)))),
            ("fchmod", said(i64::from(libc::fchmod(n, 0o777)))),
            ("fchown", said(i64::from(libc::fchown(n, 1, 1)))),
            ("fsync", said(i64::from(libc::fsync(n)))),
            ("ioctl", said(i64::from(libc::ioctl(n, 0xae00, 0)))),
            (
                "fadvise willneed",
                advised(libc::posix_fadvise(n, 0, 4096, 3)),
            ),
            (
                "fadvise dontneed",
                advised(libc::posix_fadvise(n, 0, 4096, 4)),
            ),
            (
                "fcntl seals",
                said(i64::from(libc::fcntl(n, libc::F_GET_SEALS))),
            ),
            (
                "fcntl flags",
                said(i64::from(libc::fcntl(n, libc::F_GETFL))),
            ),
            (
                "fcntl descriptor flags",
                said(i64::from(libc::fcntl(n, libc::F_GETFD))),
            ),
        ]
    }
}

/// Type and permissions, size, block size, links; the file system's type.
pub fn stat(fd: &Fd) -> String {
    // SAFETY: two structures of integers, filled by the kernel.
    unsafe {
        let (mut s, mut f): (libc::stat, libc::statfs) = (std::mem::zeroed(), std::mem::zeroed());
        let (a, b) = (
            libc::fstat(fd.raw(), &mut s),
            libc::fstatfs(fd.raw(), &mut f),
        );
        format!(
            "{a} {b} mode={:o} size={} block={} links={} type={:x}",
            s.st_mode, s.st_size, s.st_blksize, s.st_nlink, f.f_type
        )
    }
}

/// Where the descriptor's link in /proc goes.
pub fn link(fd: &Fd) -> String {
    let to = std::fs::read_link(format!("/proc/self/fd/{}", fd.raw()));
    to.map_or_else(|e| e.to_string(), |p| p.display().to_string())
}

/// Sets the memory policy of pages (mode, nodes as bits).
pub fn mbind(a: &Area, at: usize, len: usize, mode: i32, nodes: u64) -> Answer {
    let mask = &raw const nodes;
    // SAFETY: a range of our own mapping and a mask of 64 bits.
    said(unsafe { libc::syscall(libc::SYS_mbind, a.addr() + at, len, mode, mask, 64, 0) })
}

/// The memory policy of a page: mode and nodes.
pub fn policy(a: &Area, at: usize) -> (Answer, i32, u64) {
    let (mut mode, mut nodes) = (-1i32, 0u64);
    let (m, n) = (&raw mut mode, &raw mut nodes);
    // SAFETY: a number, a mask of 64 bits, an address of our own. 2: MPOL_F_ADDR.
    let r = unsafe { libc::syscall(libc::SYS_get_mempolicy, m, n, 64, a.addr() + at, 2) };
    (said(r), mode, nodes)
}

/// The node of each page, which must be there.
pub fn nodes(a: &Area, at: usize, pages: usize) -> Vec<i32> {
    let node = |i: usize| {
        let mut n = -1i32;
        let to = &raw mut n;
        let page = a.addr() + at + i * crate::sys::PAGE;
        // SAFETY: a number and an address of our own. 3: MPOL_F_NODE and MPOL_F_ADDR.
        unsafe {
            libc::syscall(
                libc::SYS_get_mempolicy,
                to,
                std::ptr::null::<u64>(),
                0,
                page,
                3,
            )
        };
        n
    };
    (0..pages).map(node).collect()
}
