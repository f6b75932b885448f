// SPDX-License-Identifier: GPL-2.0

//! Eventfds: [`EventFd`] to signal one, [`Waiter`] to be told when one is signaled.

use core::ptr::NonNull;

use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::fs::file::LocalFile;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::types::Opaque;

use crate::fd::check;
use crate::module::ModuleRef;
use crate::pin::{IrqsOff, PinnedCpu};
use crate::shim;

/// `EPOLLIN`: the counter is not zero.
const EPOLLIN: usize = 1;

/// `EPOLLHUP`: the eventfd goes away.
const EPOLLHUP: usize = 0x10;

/// A reference to an eventfd.
pub struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: Eventfds may be used from any thread; the reference count is atomic.
unsafe impl Send for EventFd {}
// SAFETY: As above.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// The eventfd behind a descriptor of the current process.
    ///
    /// # Errors
    ///
    /// `EBADF`, `EINVAL` if it is not an eventfd.
    pub fn from_fd(fd: i32) -> Result<Self> {
        // SAFETY: Checks the descriptor.
        Self::adopt(unsafe { bindings::eventfd_ctx_fdget(fd) })
    }

    /// Takes over a reference that the kernel returned.
    fn adopt(raw: *mut bindings::eventfd_ctx) -> Result<Self> {
        Ok(Self(NonNull::new(from_err_ptr(raw)?).ok_or(EINVAL)?))
    }

    /// Adds one to the counter. Any context but a non-maskable interrupt, and not from a wakeup of
    /// the same eventfd.
    #[inline]
    pub fn signal(&self) {
        // SAFETY: We hold a reference.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) };
    }
}

impl PartialEq for EventFd {
    /// Whether both are the same eventfd.
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for EventFd {}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: We own a reference.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) };
    }
}

/// What happens to an eventfd that is watched. Both are called with the eventfd's lock held and
/// interrupts off: no sleeping, no signalling of the same eventfd, no dropping of the waiter.
pub trait WaiterOps: Send + Sync + 'static {
    /// The eventfd was signaled, once or several times.
    fn signaled(&self, irqs: &IrqsOff<'_>);

    /// The eventfd was closed by everybody else. The waiter should be dropped soon, from a thread.
    fn hangup(&self, irqs: &IrqsOff<'_>);
}

/// What the eventfd's list of waiters points into; called with the address of the first field.
#[repr(C)]
struct Node<T> {
    wait: Opaque<bindings::wait_queue_entry>,
    ops: Arc<T>,
    context: EventFd,
    _module: ModuleRef,
}

/// The one receiver of an eventfd's signals. While it exists, nobody who reads or polls the eventfd
/// sees them.
pub struct Waiter<T: WaiterOps> {
    node: KBox<Node<T>>,
}

// SAFETY: The node is used under the eventfd's lock; `T` is `Send + Sync`.
unsafe impl<T: WaiterOps> Send for Waiter<T> {}
// SAFETY: As above.
unsafe impl<T: WaiterOps> Sync for Waiter<T> {}

impl<T: WaiterOps> Waiter<T> {
    /// Watches the eventfd behind a descriptor of the current process. Callbacks may come before
    /// this returns. The flag is whether the eventfd had been signaled before.
    ///
    /// # Errors
    ///
    /// `EBADF`; `EINVAL` if it is not an eventfd; `EBUSY` if it has such a receiver already.
    pub fn attach(fd: u32, ops: Arc<T>) -> Result<(Self, bool)> {
        let file = LocalFile::fget(fd).map_err(|_| EBADF)?;
        // SAFETY: We hold the file; the function checks that it is an eventfd.
        let context = EventFd::adopt(unsafe { bindings::eventfd_ctx_fileget(file.as_ptr()) })?;
        let wait = bindings::wait_queue_entry {
            func: Some(wake::<T>),
            // SAFETY: All zeros is a valid entry that is in no list.
            ..unsafe { core::mem::zeroed() }
        };
        let node = Node {
            wait: Opaque::new(wait),
            ops,
            context,
            _module: ModuleRef::get()?,
        };
        let node = KBox::new(node, GFP_KERNEL_ACCOUNT)?;
        let mut signaled = false;
        // SAFETY: The file is an eventfd. The entry is in a box, and taken out of the list before
        // the box is freed; the list lives as long as the context, which the node holds.
        check(unsafe { shim::kvmrs_eventfd_watch(file.as_ptr(), node.wait.get(), &mut signaled) })?;
        Ok((Self { node }, signaled))
    }

    /// The eventfd.
    pub fn eventfd(&self) -> &EventFd {
        &self.node.context
    }

    /// What was attached.
    pub fn ops(&self) -> &Arc<T> {
        &self.node.ops
    }
}

impl<T: WaiterOps> Drop for Waiter<T> {
    fn drop(&mut self) {
        let mut count = 0;
        // SAFETY: The entry is in the list of this eventfd. The function takes the lock under which
        // callbacks run, so none is running when it returns, and none follows.
        unsafe {
            bindings::eventfd_ctx_remove_wait_queue(
                self.node.context.0.as_ptr(),
                self.node.wait.get(),
                &mut count,
            );
        }
    }
}

unsafe extern "C" fn wake<T: WaiterOps>(
    wait: *mut bindings::wait_queue_entry,
    _mode: c_uint,
    _flags: c_int,
    key: *mut c_void,
) -> c_int {
    // SAFETY: The entry is the first field of a live node; this runs under the eventfd's lock, with
    // interrupts off.
    let (node, cpu) = unsafe { (&*wait.cast::<Node<T>>(), PinnedCpu::assume()) };
    // SAFETY: As above.
    let irqs = unsafe { IrqsOff::assume(&cpu) };
    let events = key as usize;
    let mut taken = 0;
    if events & EPOLLIN != 0 {
        let mut count = 0;
        // SAFETY: The lock is held, as this function requires.
        unsafe { bindings::eventfd_ctx_do_read(node.context.0.as_ptr(), &mut count) };
        node.ops.signaled(&irqs);
        taken = 1;
    }
    if events & EPOLLHUP != 0 {
        node.ops.hangup(&irqs);
    }
    taken
}
