// SPDX-License-Identifier: GPL-2.0

//! File descriptors of our own objects: anonymous-inode files whose operations are a trait.
//!
//! A file owns one [`Arc`] of its object; the last `close` drops it. Files pin the module through
//! `file_operations::owner`. The VM, vCPU, device and statistics fds of `src/` are made here.

use core::any::TypeId;
use core::marker::PhantomData;
use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::ffi::{c_char, c_int, c_long, c_uint, c_ulong};
use kernel::fs::file::{File, FileDescriptorReservation, LocalFile};
use kernel::mm::virt::{flags as vma_flags, VmaRef};
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::{Arc, ArcBorrow};
use kernel::uaccess::{UserPtr, UserSlice, UserSliceWriter};

use crate::run_page::SharedPage;
use crate::shim;

#[expect(improper_ctypes, reason = "only the address is used")]
extern "C" {
    /// The module these crates are linked into (`THIS_MODULE`).
    static __this_module: bindings::module;
}

/// The `THIS_MODULE` pointer, for structures that name their owner.
pub(crate) const fn this_module() -> *mut bindings::module {
    (&raw const __this_module).cast_mut()
}

/// How user space asked to map a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmapRequest {
    /// First page of the file to be mapped.
    pub pgoff: usize,
    /// Number of pages.
    pub pages: usize,
    /// `MAP_SHARED`: writes reach the file.
    pub shared: bool,
    /// `PROT_EXEC`.
    pub exec: bool,
}

/// What can be done with a file of this kind.
///
/// All methods run in process context and may sleep, except where noted.
pub trait FileOps: Send + Sync + Sized + 'static {
    /// Whether the file can be mapped (through [`FileOps::page`]).
    const HAS_MMAP: bool = false;
    /// Whether the file can be read (through [`FileOps::read`]), also at an offset.
    const HAS_READ: bool = false;
    /// Whether the file takes ioctls.
    const HAS_IOCTL: bool = true;

    /// An ioctl; `arg` is the raw argument, often a user pointer. The value is returned to user
    /// space as it is.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let _ = (this, cmd, arg);
        Err(ENOTTY)
    }

    /// An ioctl of a 32-bit process. `arg` is already zero-extended.
    fn compat_ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        Self::ioctl(this, cmd, arg)
    }

    /// Decides about an mmap before it is set up.
    fn mmap_allowed(&self, request: MmapRequest) -> Result {
        let _ = request;
        Ok(())
    }

    /// The page at a page offset, when user space touches it; none is a SIGBUS.
    fn page(&self, pgoff: usize) -> Option<&SharedPage> {
        let _ = pgoff;
        None
    }

    /// Reads from `*pos` on into `buf` and advances `*pos`; the number of bytes.
    fn read(this: ArcBorrow<'_, Self>, buf: UserSliceWriter, pos: &mut i64) -> Result<usize> {
        let _ = (this, buf, pos);
        Err(EINVAL)
    }

    /// The last reference to the file went away; the file's `Arc` is dropped next.
    fn release(this: ArcBorrow<'_, Self>) {
        let _ = this;
    }
}

/// What `file::private_data` of our files points at. The type id comes first, at an offset that
/// does not depend on `T`.
#[repr(C)]
struct FileCell<T> {
    kind: TypeId,
    object: Arc<T>,
}

/// The kernel's operation tables for files of type `T`.
struct Table<T>(PhantomData<T>);

impl<T: FileOps> Table<T> {
    const FILE: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        llseek: Some(shim::kvmrs_llseek),
        release: Some(release::<T>),
        unlocked_ioctl: if T::HAS_IOCTL { Some(ioctl::<T>) } else { None },
        compat_ioctl: if T::HAS_IOCTL {
            Some(compat_ioctl::<T>)
        } else {
            None
        },
        mmap: if T::HAS_MMAP { Some(mmap::<T>) } else { None },
        read: if T::HAS_READ { Some(read::<T>) } else { None },
        // SAFETY: All zeros is a valid `file_operations`: no flag and no operation.
        ..unsafe { core::mem::zeroed() }
    };

    const VM: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(fault::<T>),
        // SAFETY: All zeros is a valid `vm_operations_struct`: no operation.
        ..unsafe { core::mem::zeroed() }
    };
}

/// The object of one of our files.
///
/// # Safety
///
/// `file` must be a live file made by [`NewFd::new::<T>`] that stays open for `'a`.
unsafe fn object<'a, T: FileOps>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
    // SAFETY: `NewFd::new` stored a `FileCell<T>` there, which lives until `release`; the caller
    // keeps the file open for `'a`.
    let cell: &'a FileCell<T> = unsafe { &*(*file).private_data.cast::<FileCell<T>>() };
    cell.object.as_arc_borrow()
}

/// The value an ioctl returns.
fn ioctl_result(result: Result<isize>) -> c_long {
    match result {
        Ok(value) => value,
        Err(err) => err.to_errno() as c_long,
    }
}

unsafe extern "C" fn ioctl<T: FileOps>(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The VFS calls this for a file with `Table<T>::FILE` and keeps it open meanwhile.
    ioctl_result(T::ioctl(unsafe { object::<T>(file) }, cmd, arg))
}

unsafe extern "C" fn compat_ioctl<T: FileOps>(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // A 32-bit pointer, zero-extended, as compat_ptr() does.
    let arg = arg & 0xffff_ffff;
    // SAFETY: As in `ioctl`.
    ioctl_result(T::compat_ioctl(unsafe { object::<T>(file) }, cmd, arg))
}

unsafe extern "C" fn read<T: FileOps>(
    file: *mut bindings::file,
    buf: *mut c_char,
    count: usize,
    pos: *mut bindings::loff_t,
) -> isize {
    // SAFETY: As in `ioctl`.
    let object = unsafe { object::<T>(file) };
    let out = UserSlice::new(UserPtr::from_ptr(buf.cast()), count).writer();
    // SAFETY: The VFS passes a valid position that is ours during the call.
    let pos = unsafe { &mut *pos };
    match T::read(object, out, pos) {
        Ok(n) => n as isize,
        Err(err) => err.to_errno() as isize,
    }
}

unsafe extern "C" fn mmap<T: FileOps>(
    file: *mut bindings::file,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    // SAFETY: As in `ioctl`.
    let object = unsafe { object::<T>(file) };
    // SAFETY: The VFS passes an area under construction, which nobody else can see yet.
    let (area, pgoff) = unsafe { (VmaRef::from_raw(vma), (*vma).vm_pgoff) };
    let request = MmapRequest {
        pgoff,
        pages: area.end().wrapping_sub(area.start()) >> kernel::page::PAGE_SHIFT,
        shared: area.flags() & vma_flags::SHARED != 0,
        exec: area.flags() & vma_flags::EXEC != 0,
    };
    match object.mmap_allowed(request) {
        Ok(()) => {
            // SAFETY: As above; the table is static.
            unsafe { (*vma).vm_ops = &Table::<T>::VM };
            0
        }
        Err(err) => err.to_errno(),
    }
}

unsafe extern "C" fn fault<T: FileOps>(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: The fault handler gets a valid description of a fault in an area that `mmap::<T>` set
    // up; the area holds the file open.
    let (object, pgoff) = unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        (object::<T>((*at.vma).vm_file), at.pgoff)
    };
    let Some(page) = object.page(pgoff) else {
        return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
    };
    let page = page.as_page();
    // SAFETY: `page` is a live page; the reference taken here is the one the fault handler owes its
    // caller, so the page outlives the mapping even if the object goes first.
    unsafe {
        shim::kvmrs_get_page(page);
        (*vmf).page = page;
    }
    0
}

unsafe extern "C" fn release<T: FileOps>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: As in `ioctl`; this is the last call for the file.
    T::release(unsafe { object::<T>(file) });
    // SAFETY: `NewFd::new` leaked the box into the file, which will not use it again.
    drop(unsafe { KBox::from_raw((*file).private_data.cast::<FileCell<T>>()) });
    0
}

/// A descriptor that is reserved, and its file, not yet visible to user space.
///
/// Dropping it leaves nothing behind: the number is given back and the file is closed.
#[must_use = "the descriptor exists only after commit()"]
pub struct NewFd {
    reservation: FileDescriptorReservation,
    file: ARef<File>,
}

impl NewFd {
    /// Reserves a descriptor and makes a file called `name` that owns `object`.
    ///
    /// `flags` are open flags: `O_RDWR` or `O_RDONLY`, and `O_CLOEXEC`. If this fails,
    /// [`FileOps::release`] is not called.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new<T: FileOps>(name: &CStr, object: Arc<T>, flags: u32) -> Result<Self> {
        let reservation =
            FileDescriptorReservation::get_unused_fd_flags(flags & bindings::O_CLOEXEC)?;
        let cell = FileCell {
            kind: TypeId::of::<T>(),
            object,
        };
        let cell = KBox::into_raw(KBox::new(cell, GFP_KERNEL_ACCOUNT)?);
        let mode = if T::HAS_READ {
            // SAFETY: Returns a constant.
            unsafe { shim::kvmrs_fmode_pread() }
        } else {
            0
        };
        // SAFETY: The name and the table are valid, the table for as long as the module, which the
        // file pins.
        let file = from_err_ptr(unsafe {
            shim::anon_inode_getfile_fmode(
                name.as_char_ptr(),
                &Table::<T>::FILE,
                cell.cast(),
                flags as c_int,
                mode,
            )
        });
        let file = match file {
            Ok(file) => file,
            Err(err) => {
                // SAFETY: No file was made, so the box is still ours.
                drop(unsafe { KBox::from_raw(cell) });
                return Err(err);
            }
        };
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        Ok(Self {
            reservation,
            // SAFETY: We own the file's only reference; no fdget_pos can exist for a file that has
            // no descriptor. `File` is transparent over `struct file`.
            file: unsafe { ARef::from_raw(file.cast::<File>()) },
        })
    }

    /// The number the descriptor will have.
    pub fn number(&self) -> u32 {
        self.reservation.reserved_fd()
    }

    /// Makes the descriptor visible and returns its number. Nothing may fail after this.
    pub fn commit(self) -> i32 {
        let number = self.reservation.reserved_fd();
        self.reservation.fd_install(self.file);
        number as i32
    }
}

/// The object behind a descriptor of the current process.
///
/// # Errors
///
/// `EBADF` if there is no such descriptor, `EINVAL` if it is not a file made for `T`.
pub fn from_fd<T: FileOps>(fd: u32) -> Result<Arc<T>> {
    let file = LocalFile::fget(fd).map_err(|_| EBADF)?;
    let raw = file.as_ptr();
    // SAFETY: We hold a reference to the file; `f_op` never changes and points to a live table.
    let llseek = unsafe { (*raw).f_op.as_ref() }.and_then(|ops| ops.llseek);
    let ours: unsafe extern "C" fn(
        *mut bindings::file,
        bindings::loff_t,
        c_int,
    ) -> bindings::loff_t = shim::kvmrs_llseek;
    if llseek.map(|f| f as usize) != Some(ours as usize) {
        return Err(EINVAL);
    }
    // SAFETY: Only `Table` uses `kvmrs_llseek`, so the file is one of ours and its private data is a
    // `FileCell` of some type. It is `repr(C)` and the type id is its first field.
    let kind = unsafe { *(*raw).private_data.cast::<TypeId>() };
    if kind != TypeId::of::<T>() {
        return Err(EINVAL);
    }
    // SAFETY: The type id says that the file was made by `NewFd::new::<T>`; our reference keeps it
    // open.
    Ok(unsafe { object::<T>(raw) }.into())
}

/// Turns a kernel return code into a result (`>= 0` is success).
pub(crate) fn check(code: c_int) -> Result {
    to_result(code)
}
