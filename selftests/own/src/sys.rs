// SPDX-License-Identifier: GPL-2.0

//! System calls: ioctls on raw descriptors, memory areas, eventfds, children.
//!
//! Everything unsafe that is not a guest's page is here.

use std::fmt;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// What an ioctl answered: a number, or an errno.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The result.
    Ok(i32),
    /// The errno.
    Err(i32),
}

impl Answer {
    /// The result, or the errno as an error.
    pub fn ok(self) -> Result<i32, i32> {
        match self {
            Answer::Ok(v) => Ok(v),
            Answer::Err(e) => Err(e),
        }
    }

    /// Did it succeed?
    pub fn is_ok(self) -> bool {
        matches!(self, Answer::Ok(_))
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Ok(v) => write!(f, "{v}"),
            Answer::Err(e) => write!(f, "{}", errno_name(*e)),
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The name of an errno.
pub fn errno_name(e: i32) -> String {
    let name = match e {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EINTR => "EINTR",
        libc::EIO => "EIO",
        libc::ENXIO => "ENXIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::EAGAIN => "EAGAIN",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EFAULT => "EFAULT",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::EINVAL => "EINVAL",
        libc::ENOTTY => "ENOTTY",
        libc::ENOSPC => "ENOSPC",
        libc::ESPIPE => "ESPIPE",
        libc::EROFS => "EROFS",
        libc::ERANGE => "ERANGE",
        libc::ENOSYS => "ENOSYS",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        133 => "EHWPOISON",
        _ => return format!("errno{e}"),
    };
    name.to_string()
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// An ioctl on any descriptor, with any argument: nothing is checked, that is the point.
pub fn ioctl(fd: RawFd, cmd: u32, arg: usize) -> Answer {
    // SAFETY: the callers pass addresses of areas that stay mapped and that nothing else borrows;
    // the kernel writes at most the structure of the command, and where it may not it says EFAULT.
    let r = unsafe { libc::ioctl(fd, libc::c_ulong::from(cmd), arg) };
    if r < 0 {
        Answer::Err(errno())
    } else {
        Answer::Ok(r)
    }
}

/// An ioctl as a 32-bit program makes it: by that kind of system call, all registers 32 bits wide.
pub fn ioctl_32(fd: RawFd, cmd: u32, arg: u32) -> Answer {
    /// The number of ioctl() there.
    const IOCTL: i64 = 54;
    let r: i64;
    // SAFETY: as in `ioctl`; RBX, which the compiler keeps for itself, is put back. The kernel may
    // clear R8 to R11.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) i64::from(fd) => _,
            inout("rax") IOCTL => r,
            in("rcx") u64::from(cmd),
            in("rdx") u64::from(arg),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    // A negative number of 32 bits.
    match r as i32 {
        e if e < 0 => Answer::Err(-e),
        n => Answer::Ok(n),
    }
}

/// A C structure of integers: any bytes are a value of it.
///
/// # Safety
///
/// The implementor has no invalid bit patterns and no pointers that safe code follows.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),* $(,)?) => {
        $(
            // SAFETY: bindgen's copy of a kernel structure, made of integers, or an integer.
            unsafe impl Plain for $t {}
        )*
    };
}

use kvm_bindings::*;
plain!(
    u8,
    u16,
    u32,
    u64,
    i32,
    kvm_regs,
    kvm_sregs,
    kvm_sregs2,
    kvm_fpu,
    kvm_lapic_state,
    kvm_irqchip,
    kvm_pit_state,
    kvm_pit_state2,
    kvm_pit_config,
    kvm_reinject_control,
    kvm_userspace_memory_region,
    kvm_userspace_memory_region2,
    kvm_dirty_log,
    kvm_device_attr,
    kvm_clear_dirty_log,
    kvm_coalesced_mmio_zone,
    kvm_translation,
    kvm_tpr_access_ctl,
    kvm_vapic_addr,
    kvm_guest_debug,
    kvm_ioeventfd,
    kvm_enable_cap,
    kvm_irqfd,
    kvm_clock_data,
    kvm_msi,
    kvm_x86_mce,
    kvm_vcpu_events,
    kvm_debugregs,
    kvm_xcrs,
    kvm_interrupt,
    kvm_mp_state,
    kvm_irq_level,
    kvm_irq_routing_entry,
    kvm_msr_entry,
    kvm_cpuid_entry2,
    kvm_coalesced_mmio,
    [u8; 4096],
    [u8; 264],
);

/// A structure of zeros.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: `Plain` says that any bytes are a value.
    unsafe { std::mem::zeroed() }
}

/// The bytes of a structure.
pub fn bytes_of<T: Plain>(t: &T) -> Vec<u8> {
    // SAFETY: the structures are declared by the kernel without implicit padding that matters:
    // they come from `zeroed()`, so that every byte is initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(t).cast::<u8>(), size_of::<T>()) }
        .to_vec()
}

/// A structure from bytes; missing ones are zero.
pub fn from_bytes<T: Plain>(b: &[u8]) -> T {
    let mut t = zeroed::<T>();
    let n = b.len().min(size_of::<T>());
    // SAFETY: `n` bytes fit both, and any bytes are a value of `T`.
    unsafe { std::ptr::copy_nonoverlapping(b.as_ptr(), std::ptr::from_mut(&mut t).cast(), n) };
    t
}

/// A descriptor and the ioctls on it.
pub struct Fd(OwnedFd);

impl Fd {
    /// Opens a file.
    pub fn open(path: &std::ffi::CStr, flags: i32) -> Result<Self, i32> {
        // SAFETY: the string ends with a zero.
        let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
        Self::own(fd)
    }

    /// Takes a descriptor that a system call returned.
    pub fn own(fd: RawFd) -> Result<Self, i32> {
        if fd < 0 {
            return Err(errno());
        }
        // SAFETY: it was returned just now and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A new eventfd.
    pub fn event() -> Self {
        // SAFETY: takes two integers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        Self::own(fd).expect("eventfd")
    }

    /// The number.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// An ioctl with a number or an address.
    pub fn call(&self, cmd: u32, arg: usize) -> Answer {
        ioctl(self.raw(), cmd, arg)
    }

    /// An ioctl that makes a descriptor.
    pub fn make(&self, cmd: u32, arg: usize) -> Result<Fd, i32> {
        Fd::own(self.call(cmd, arg).ok()?)
    }

    /// An ioctl that reads a structure of ours.
    pub fn set<T: Plain>(&self, cmd: u32, t: &T) -> Answer {
        let mut copy = *t;
        self.call(cmd, std::ptr::from_mut(&mut copy) as usize)
    }

    /// An ioctl that fills a structure.
    pub fn get<T: Plain>(&self, cmd: u32) -> Result<T, i32> {
        let mut t = zeroed::<T>();
        self.call(cmd, std::ptr::from_mut(&mut t) as usize).ok()?;
        Ok(t)
    }

    /// An ioctl that reads and fills a structure.
    pub fn exchange<T: Plain>(&self, cmd: u32, t: &mut T) -> Answer {
        self.call(cmd, std::ptr::from_mut(t) as usize)
    }

    /// An ioctl on raw bytes, which it may change.
    pub fn bytes(&self, cmd: u32, b: &mut [u8]) -> Answer {
        self.call(cmd, b.as_mut_ptr() as usize)
    }

    /// Writes to an eventfd.
    pub fn signal(&self, n: u64) {
        let b = n.to_ne_bytes();
        // SAFETY: 8 bytes of a live buffer.
        let r = unsafe { libc::write(self.raw(), b.as_ptr().cast(), 8) };
        assert_eq!(r, 8, "eventfd write");
    }

    /// Takes the count of an eventfd; 0 if it was not signalled.
    pub fn take(&self) -> u64 {
        let mut b = [0u8; 8];
        // SAFETY: 8 bytes of a live buffer.
        let r = unsafe { libc::read(self.raw(), b.as_mut_ptr().cast(), 8) };
        if r == 8 {
            u64::from_ne_bytes(b)
        } else {
            0
        }
    }

    /// Waits until an eventfd was signalled; its count, or 0 after `ms` milliseconds.
    pub fn wait(&self, ms: u64) -> u64 {
        let end = std::time::Instant::now() + std::time::Duration::from_millis(ms);
        loop {
            let n = self.take();
            if n != 0 || std::time::Instant::now() >= end {
                return n;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// A mapping of this process.
pub struct Area {
    at: *mut u8,
    len: usize,
}

// SAFETY: the memory is plain bytes; guests and threads write to it behind our back anyway, and all
// accesses are volatile copies.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// Anonymous memory, 2 MiB aligned.
    pub fn anonymous(len: usize) -> Self {
        let big = 2 << 20;
        // SAFETY: a new mapping anywhere.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len + big,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        // What lies before and after stays mapped; it is never touched.
        let at = (at as usize).next_multiple_of(big) as *mut u8;
        Self { at, len }
    }

    /// Anonymous memory that a 32-bit program could have.
    pub fn below_4g(len: usize) -> Self {
        // SAFETY: a new mapping anywhere.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        Self { at: at.cast(), len }
    }

    /// Memory of the host's pool of pages of 2^`shift` bytes; None if it has none.
    pub fn huge(len: usize, shift: i32) -> Option<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | shift << libc::MAP_HUGE_SHIFT;
        // SAFETY: a new mapping anywhere.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) };
        (at != libc::MAP_FAILED).then(|| Self { at: at.cast(), len })
    }

    /// Lets the host treat a page as broken; false if it cannot.
    pub fn poison(&self, at: usize) -> bool {
        assert!(at + PAGE <= self.len);
        // SAFETY: a page of our own mapping, which nobody reads until it is replaced.
        unsafe { libc::madvise(self.at.add(at).cast(), PAGE, libc::MADV_HWPOISON) == 0 }
    }

    /// A page of a descriptor.
    pub fn of_fd(fd: &Fd, len: usize, offset: usize) -> Result<Self, i32> {
        Self::of_fd_prot(
            fd,
            len,
            offset,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }

    /// The same with other protection and flags.
    pub fn of_fd_prot(fd: &Fd, len: usize, off: usize, prot: i32, flags: i32) -> Result<Self, i32> {
        // SAFETY: a new mapping anywhere.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                prot,
                flags,
                fd.raw(),
                off as libc::off_t,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(errno());
        }
        Ok(Self { at: at.cast(), len })
    }

    /// The address.
    pub fn addr(&self) -> usize {
        self.at as usize
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Changes the protection of a part: `PROT_*`.
    pub fn protect(&self, at: usize, len: usize, prot: i32) {
        assert!(at + len <= self.len);
        // SAFETY: a part of our own mapping; the callers do not read where they may not.
        let r = unsafe { libc::mprotect(self.at.add(at).cast(), len, prot) };
        assert_eq!(r, 0, "mprotect");
    }

    /// Gives a part back to the kernel: it reads as zeros afterwards.
    pub fn discard(&self, at: usize, len: usize) {
        assert!(at + len <= self.len);
        // SAFETY: a part of our own mapping.
        let r = unsafe { libc::madvise(self.at.add(at).cast(), len, libc::MADV_DONTNEED) };
        assert_eq!(r, 0, "madvise");
    }

    /// Removes a part of the mapping: `Drop` removes the rest.
    pub fn punch(&self, at: usize, len: usize) {
        assert!(at + len <= self.len);
        // SAFETY: a part of our own mapping; the callers do not touch it again.
        let r = unsafe { libc::munmap(self.at.add(at).cast(), len) };
        assert_eq!(r, 0, "munmap");
    }

    /// `madvise()` on a part; the errno if it refuses.
    pub fn advise(&self, at: usize, len: usize, advice: i32) -> Answer {
        assert!(at + len <= self.len);
        // SAFETY: a part of our own mapping, whose content nothing relies on behind the callers' back.
        match unsafe { libc::madvise(self.at.add(at).cast(), len, advice) } {
            0 => Answer::Ok(0),
            _ => Answer::Err(errno()),
        }
    }

    /// Maps new zeroed pages at a part, whatever is there.
    pub fn map_again(&self, at: usize, len: usize) {
        assert!(at + len <= self.len);
        let (prot, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
        );
        // SAFETY: replaces a part of our own mapping.
        let r = unsafe { libc::mmap(self.at.add(at).cast(), len, prot, flags, -1, 0) };
        assert_ne!(r, libc::MAP_FAILED, "mmap");
    }

    /// Moves the pages of a part of this mapping to the same offset of another one as large. With
    /// `keep` the part stays mapped, and empty; without, it is a hole.
    pub fn move_pages(&self, to: &Area, at: usize, len: usize, keep: bool) {
        assert!(at + len <= self.len && at + len <= to.len);
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let flags = flags | if keep { libc::MREMAP_DONTUNMAP } else { 0 };
        // SAFETY: parts of two mappings of ours.
        let r = unsafe {
            let (from, to) = (self.at.add(at), to.at.add(at));
            libc::mremap(from.cast(), len, len, flags, to)
        };
        assert_ne!(r, libc::MAP_FAILED, "mremap");
    }

    /// Copies bytes in.
    pub fn write(&self, at: usize, b: &[u8]) {
        assert!(at + b.len() <= self.len, "write at {at:#x}");
        for (i, v) in b.iter().enumerate() {
            // SAFETY: within the mapping, which lives as long as we do.
            unsafe { self.at.add(at + i).write_volatile(*v) };
        }
    }

    /// Copies bytes out.
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.len, "read at {at:#x}");
        // SAFETY: within the mapping, which lives as long as we do.
        (0..len)
            .map(|i| unsafe { self.at.add(at + i).read_volatile() })
            .collect()
    }

    /// Reads a structure or an integer.
    pub fn load<T: Plain>(&self, at: usize) -> T {
        assert!(at + size_of::<T>() <= self.len);
        // SAFETY: within the mapping; any bytes are a value.
        unsafe { self.at.add(at).cast::<T>().read_unaligned() }
    }

    /// Writes a structure or an integer.
    pub fn store<T: Plain>(&self, at: usize, v: T) {
        assert!(at + size_of::<T>() <= self.len);
        // SAFETY: within the mapping.
        unsafe { self.at.add(at).cast::<T>().write_unaligned(v) };
    }

    /// Replaces a byte in one step if it is `old`; false if it is not.
    pub fn replace_byte(&self, at: usize, old: u8, new: u8) -> bool {
        use std::sync::atomic::AtomicU8;
        use std::sync::atomic::Ordering::SeqCst;
        assert!(at < self.len);
        // SAFETY: within the mapping, which lives as long as we do.
        let byte = unsafe { AtomicU8::from_ptr(self.at.add(at)) };
        byte.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
    }

    /// An integer that somebody else changes meanwhile.
    pub fn watch(&self, at: usize) -> u32 {
        assert!(at % 4 == 0 && at + 4 <= self.len);
        // SAFETY: aligned, within the mapping.
        unsafe { self.at.add(at).cast::<u32>().read_volatile() }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nobody borrows from it.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

/// Moves pages of a mapping to a node of the host's memory; for each the node it is on, or an errno,
/// negative.
pub fn move_to_node(a: &Area, at: usize, pages: usize, node: i32) -> Vec<i32> {
    assert!(at + pages * PAGE <= a.len);
    let addresses: Vec<usize> = (0..pages).map(|i| a.addr() + at + i * PAGE).collect();
    let (nodes, mut status) = (vec![node; pages], vec![i32::MIN; pages]);
    // SAFETY: three arrays of `pages` entries; the pages are our own.
    unsafe {
        let (from, to, said) = (addresses.as_ptr(), nodes.as_ptr(), status.as_mut_ptr());
        libc::syscall(
            libc::SYS_move_pages,
            0,
            pages,
            from,
            to,
            said,
            2, /* MPOL_MF_MOVE */
        );
    }
    status
}

/// Runs `f` in a forked child and returns its exit code; 255 if it was killed.
pub fn in_child(f: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the tests that fork have one thread at that point.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        let code = f();
        // SAFETY: ends the child without running the parent's destructors.
        unsafe { libc::_exit(code) };
    }
    reap(pid)
}

/// Starts a child that runs `f` and then waits to be killed; its process id.
pub fn spawn_child(f: impl FnOnce()) -> i32 {
    // SAFETY: as above.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        f();
        loop {
            // SAFETY: waits for a signal.
            unsafe { libc::pause() };
        }
    }
    pid
}

/// Waits for a child; its exit code, 255 if a signal ended it.
pub fn reap(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a live integer.
    let r = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(r, pid, "waitpid");
    if libc::WIFEXITED(status) {
        libc::WEXITSTATUS(status)
    } else {
        255
    }
}

/// Kills a child of ours and waits for its end.
pub fn kill_child(pid: i32) {
    // SAFETY: two integers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    reap(pid);
}

/// A copy of another process's descriptor.
pub fn fd_of_process(pid: i32, fd: RawFd) -> Result<Fd, i32> {
    // SAFETY: integers only.
    let pidfd = Fd::own(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd)?;
    // SAFETY: integers only.
    Fd::own(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.raw(), fd, 0) } as RawFd)
}

extern "C" fn nothing(_: i32) {}

/// Makes SIGUSR1 interrupt system calls and do nothing else.
pub fn catch_usr1() {
    // SAFETY: the handler touches nothing.
    unsafe {
        let mut a: libc::sigaction = std::mem::zeroed();
        a.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &a, std::ptr::null_mut());
    }
}

/// This thread, for [`interrupt`].
pub fn this_thread() -> libc::pthread_t {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() }
}

/// Sends SIGUSR1 to a thread that has not been joined.
pub fn interrupt(t: libc::pthread_t) {
    // SAFETY: the callers hold the thread's handle.
    unsafe { libc::pthread_kill(t, libc::SIGUSR1) };
}

/// Keeps this thread, and those it starts, on one CPU of the host.
pub fn run_on_cpu(cpu: usize) {
    // SAFETY: a live set of the size given.
    let r = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    assert_eq!(r, 0, "sched_setaffinity");
}

/// Blocks (or unblocks) SIGUSR1 for this thread.
pub fn block_usr1(block: bool) {
    // SAFETY: a live set.
    unsafe {
        let mut s: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut s);
        libc::sigaddset(&mut s, libc::SIGUSR1);
        let how = if block {
            libc::SIG_BLOCK
        } else {
            libc::SIG_UNBLOCK
        };
        libc::pthread_sigmask(how, &s, std::ptr::null_mut());
    }
}

/// A file in memory that children share.
pub fn memory_file(len: usize) -> Fd {
    // SAFETY: the name ends with a zero.
    let fd = Fd::own(unsafe { libc::memfd_create(c"shared".as_ptr(), libc::MFD_CLOEXEC) });
    let fd = fd.expect("memfd_create");
    // SAFETY: integers only.
    let r = unsafe { libc::ftruncate(fd.raw(), len as libc::off_t) };
    assert_eq!(r, 0, "ftruncate");
    fd
}

/// Is this the test host of that name (`HOST=` of `scripts/vm.sh`)?
pub fn host(name: &str) -> bool {
    std::env::var("HOST").is_ok_and(|h| h == name)
}

/// Runs `f` and interrupts its system calls again and again if it takes longer than `ms`.
pub fn limited<T>(ms: u64, f: impl FnOnce() -> T) -> T {
    use std::sync::mpsc::channel;
    use std::time::Duration;
    let me = this_thread();
    let (tell, told) = channel::<()>();
    std::thread::scope(|s| {
        s.spawn(move || {
            let mut wait = Duration::from_millis(ms);
            // The sender is dropped when `f` is done; until then this thread may signal its parent.
            while told.recv_timeout(wait) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                interrupt(me);
                wait = Duration::from_millis(10);
            }
        });
        let r = f();
        drop(tell);
        r
    })
}
