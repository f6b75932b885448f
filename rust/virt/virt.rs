// SPDX-License-Identifier: GPL-2.0

//! The virtualization extensions: the only crate that touches VMCBs, VMCSs, nested page-table
//! memory and the entry assembly.
//!
//! It exports [`vendor::Vendor`] with its two implementations, the evidence types of
//! [`loaded`], and page-table memory in [`tdp`]. Nothing raw leaves it: a caller that gets
//! everything wrong can make its own guest misbehave, not the host.

/// What the printing macros put before a message.
const __LOG_PREFIX: &[u8] = b"kvm\0";

mod check;
pub mod entry;
pub mod hooks;
pub mod loaded;
pub mod presence;
pub mod regs;
pub mod svm;
pub mod tdp;
pub mod vendor;
pub mod vmx;

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
pub(crate) mod c {
    //! The C side of the border, generated from `include/shim.h`.

    use kernel::bindings::*;
    use kernel::ffi;
    include!(concat!(env!("KVM_OBJ"), "/rust/host/bindings_gen.rs"));
}
