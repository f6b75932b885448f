// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm`: a misc device with the fixed number 10:232.
//!
//! The kernel crate registers misc devices with dynamic numbers only.

use core::marker::PhantomData;

use kernel::bindings;
use kernel::ffi::{c_int, c_long, c_uint, c_ulong};
use kernel::prelude::*;
use kernel::sync::{Arc, ArcBorrow};
use kernel::types::Opaque;

use crate::fd::{check, this_module};

/// `KVM_MINOR`: the device number every VMM expects, see `Documentation/admin-guide/devices.txt`.
const KVM_MINOR: c_int = 232;

/// What the device can do.
pub trait DeviceOps: Send + Sync + 'static {
    /// An ioctl on an open `/dev/kvm`.
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize>;

    /// An ioctl of a 32-bit process. `arg` is already zero-extended.
    fn compat_ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        Self::ioctl(this, cmd, arg)
    }
}

/// What the kernel's list of misc devices points into.
#[repr(C)]
struct Node<T> {
    /// First, so that a pointer to the device is a pointer to the node.
    misc: Opaque<bindings::miscdevice>,
    object: Arc<T>,
}

/// The registered device. Dropping it removes the device; files that are open keep their object.
///
/// Owned by the module's root object: the module cannot be unloaded under a registration that is
/// dropped with it.
pub struct DevKvm<T: DeviceOps> {
    node: *mut Node<T>,
    _owns: PhantomData<Node<T>>,
}

// SAFETY: The registration is a handle; `T` is `Send + Sync`.
unsafe impl<T: DeviceOps> Send for DevKvm<T> {}
// SAFETY: As above.
unsafe impl<T: DeviceOps> Sync for DevKvm<T> {}

struct Table<T>(PhantomData<T>);

impl<T: DeviceOps> Table<T> {
    const FILE: bindings::file_operations = bindings::file_operations {
        owner: this_module(),
        llseek: Some(bindings::noop_llseek),
        open: Some(open::<T>),
        release: Some(release::<T>),
        unlocked_ioctl: Some(ioctl::<T>),
        compat_ioctl: Some(compat_ioctl::<T>),
        // SAFETY: All zeros is a valid `file_operations`: no flag and no operation.
        ..unsafe { core::mem::zeroed() }
    };
}

impl<T: DeviceOps> DevKvm<T> {
    /// Registers `/dev/kvm`. Ioctls may arrive before this returns.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another module has the number, `ENOMEM`.
    pub fn register(object: Arc<T>) -> Result<Self> {
        let misc = bindings::miscdevice {
            minor: KVM_MINOR,
            name: c"kvm".as_char_ptr(),
            fops: &Table::<T>::FILE,
            // SAFETY: All zeros is a valid `miscdevice` that is not registered.
            ..unsafe { core::mem::zeroed() }
        };
        let node = Node {
            misc: Opaque::new(misc),
            object,
        };
        let node = KBox::into_raw(KBox::new(node, GFP_KERNEL)?);
        // SAFETY: The node stays where it is until it is deregistered.
        let result = check(unsafe { bindings::misc_register((*node).misc.get()) });
        if let Err(err) = result {
            // SAFETY: Not registered, so the box is still ours alone.
            drop(unsafe { KBox::from_raw(node) });
            return Err(err);
        }
        Ok(Self {
            node,
            _owns: PhantomData,
        })
    }
}

impl<T: DeviceOps> Drop for DevKvm<T> {
    fn drop(&mut self) {
        // SAFETY: Registered in `register`. Opens run under the same mutex as this call, so none
        // can look at the node after it; open files hold the object, not the node.
        unsafe {
            bindings::misc_deregister((*self.node).misc.get());
            drop(KBox::from_raw(self.node));
        }
    }
}

unsafe extern "C" fn open<T: DeviceOps>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: misc_open() sets the private data to the device and holds its mutex, so the node is
    // live; the device is its first field.
    let object = unsafe { (*(*file).private_data.cast::<Node<T>>()).object.clone() };
    // SAFETY: The file is ours until it is open.
    unsafe { (*file).private_data = Arc::into_raw(object).cast_mut().cast() };
    0
}

unsafe extern "C" fn release<T: DeviceOps>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: `open` stored this reference; nobody uses the file after its release.
    drop(unsafe { Arc::from_raw((*file).private_data.cast::<T>().cast_const()) });
    0
}

/// The object of an open device file.
///
/// # Safety
///
/// `file` must have been opened by [`open::<T>`] and stay open for `'a`.
unsafe fn object<'a, T: DeviceOps>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
    // SAFETY: `open` stored the pointer of an `Arc`, which the file holds until its release.
    unsafe { ArcBorrow::from_raw((*file).private_data.cast::<T>().cast_const()) }
}

fn ioctl_result(result: Result<isize>) -> c_long {
    match result {
        Ok(value) => value,
        Err(err) => err.to_errno() as c_long,
    }
}

unsafe extern "C" fn ioctl<T: DeviceOps>(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The VFS keeps the file open during the call.
    ioctl_result(T::ioctl(unsafe { object::<T>(file) }, cmd, arg))
}

unsafe extern "C" fn compat_ioctl<T: DeviceOps>(
    file: *mut bindings::file,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: As above.
    ioctl_result(T::compat_ioctl(
        unsafe { object::<T>(file) },
        cmd,
        arg & 0xffff_ffff,
    ))
}
