// SPDX-License-Identifier: GPL-2.0

//! Safe wrappers for the kernel services that the `kernel` crate lacks.
//!
//! Rust never spells the layout of a kernel structure that is absent from `kernel::bindings`: the C
//! functions of `shim/` do, and `include/shim.h` is the complete border.
//!
//! What is here can be used wrongly but not unsoundly: a function that is safe to call stays so
//! whatever its caller forgets, leaks or confuses. Objects the kernel calls back hold a reference to
//! the module.
//!
//! One thing is left to the module's root object: `misc::DevKvm`, `gmem_fs::GmemFs`, `hwvirt::HwVirt`, `gtod::Gtod`,
//! `handover::HandOver`, `kept::UntilUnload` and `uret::UserReturnMsrs` exist from load to unload, so
//! they cannot hold such a reference, and must be dropped with the root object. Nobody else owns one.

/// What the printing macros put before a message.
const __LOG_PREFIX: &[u8] = b"kvm\0";

pub mod clock;
pub mod cpu;
pub mod errno;
pub mod eventfd;
pub mod fd;
pub mod fpu;
pub mod gmem;
pub mod gmem_fs;
mod gmem_ops;
pub mod gtod;
pub mod gup;
pub mod handover;
pub mod hwvirt;
pub mod irq_lock;
pub mod kept;
pub mod kick;
pub mod lock;
pub mod misc;
pub mod mm;
pub mod mmu;
pub mod module;
pub mod msr;
pub mod notifier;
pub mod page;
pub mod params;
pub mod percpu;
pub mod pin;
pub mod preempt;
pub mod run_page;
mod srcu;
pub mod srcu_box;
pub mod task;
pub mod timer;
pub mod trace;
pub mod uaccess;
pub mod uret;
pub mod wait;
pub mod witness;
pub mod work;

#[allow(
    dead_code,
    unused_imports,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    improper_ctypes,
    unreachable_pub,
    clippy::all
)]
pub(crate) mod shim {
    use kernel::bindings::*;
    use kernel::ffi;
    include!(concat!(env!("KVM_OBJ"), "/rust/host/bindings_gen.rs"));
}
