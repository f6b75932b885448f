// SPDX-License-Identifier: GPL-2.0

//! The user-space ABI: the structures, numbers and constants of `<linux/kvm.h>`.
//!
//! Everything keeps the name the header gives it, so that one `grep` finds a number on both sides:
//! constants as they are (`KVM_GET_REGS`), structures in camel case (`struct kvm_regs` is
//! [`KvmRegs`]), fields as they are. The files go by the file descriptor an item is used on:
//!
//! | file | what |
//! |---|---|
//! | [`system`] | `/dev/kvm`: version, VM creation, CPUID and MSR lists, device attributes, statistics |
//! | [`vm`] | the VM descriptor: memory, dirty log, clock, filters, eventfds, Xen |
//! | [`irqchip`] | the VM descriptor: interrupt controllers, PIT, routing, MSI |
//! | [`vcpu`] | the vCPU descriptor: register state and events |
//! | [`exit`] | the shared `struct kvm_run` page: field offsets, exit reasons, exit payloads |
//! | [`cap`] | capability numbers |
//! | [`compat`] | what differs for 32-bit processes |
//! | [`para`] | shared with guests: clocks, stolen time, hypercalls |
//!
//! Structures are plain old data without implicit padding: any bytes are a valid value and every
//! value is initialised bytes, which the `zerocopy` derives prove. A structure that the header ends
//! with a flexible array is only the header of it here; a union is an array of integers with typed
//! payloads next to it.
//!
//! Each definition states its size, checked when it is compiled. `scripts/abi-check.c` compares
//! every size, offset and number with a kernel's own headers.

pub mod cap;
pub mod compat;
pub mod exit;
pub mod irqchip;
pub mod para;
pub mod system;
pub mod vcpu;
pub mod vm;

#[cfg(test)]
mod table;

pub use cap::*;
pub use exit::*;
pub use irqchip::*;
pub use para::*;
pub use system::*;
pub use vcpu::*;
pub use vm::*;

/// The ioctl type (the magic number) of every KVM ioctl.
pub const KVMIO: u8 = 0xae;
/// What `KVM_GET_API_VERSION` answers.
pub const KVM_API_VERSION: u32 = 12;

/// The direction bits of an ioctl command. They describe intent only: several KVM commands carry
/// the wrong direction, so what to copy is never derived from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Dir {
    /// `_IO`: no structure.
    None = 0,
    /// `_IOW`: user space writes, the kernel reads.
    Write = 1,
    /// `_IOR`: user space reads, the kernel writes.
    Read = 2,
    /// `_IOWR`: both.
    ReadWrite = 3,
}

/// Composes an ioctl command as `<asm-generic/ioctl.h>` does: direction in bits 31:30, size in
/// bytes in 29:16, type in 15:8, number in 7:0. A size that does not fit its 14 bits is cut.
pub const fn ioc(dir: Dir, ty: u8, nr: u8, size: usize) -> u32 {
    // CAST: the enum is `repr(u32)`, the widenings lose nothing, and the size is masked first.
    ((dir as u32) << 30) | (((size & 0x3fff) as u32) << 16) | ((ty as u32) << 8) | nr as u32
}

/// The ioctl type of a command.
pub const fn ioc_type(cmd: u32) -> u8 {
    // CAST: cut to the field's 8 bits on purpose.
    (cmd >> 8) as u8
}

/// Defines structures of the header.
///
/// `pub struct Name("struct c_name", SIZE) { field: type, .. }` for a structure with a tag,
/// `pub struct Name("struct c_parent" :: "c.member", SIZE) { .. }` for one the header defines inside
/// another. Fields whose names start with `_` are padding without a name in the header.
macro_rules! uapi {
    ($(
        $(#[$doc:meta])*
        pub struct $name:ident($c:literal $(:: $member:literal)?, $size:literal) {
            $( $(#[$fdoc:meta])* $field:ident : $ty:ty ),* $(,)?
        }
    )*) => {
        $(
            $(#[$doc])*
            ///
            #[doc = concat!("The header's `", $c, $("::", $member,)? "`, ", $size, " bytes.")]
            #[cfg_attr(not(MODULE), derive(Debug))]
            #[derive(
                Clone,
                Copy,
                PartialEq,
                Eq,
                zerocopy_derive::FromBytes,
                zerocopy_derive::IntoBytes,
                zerocopy_derive::Immutable,
                zerocopy_derive::KnownLayout,
            )]
            #[repr(C)]
            pub struct $name {
                $(
                    $(#[$fdoc])*
                    #[doc = concat!("`", stringify!($field), "` of the header.")]
                    pub $field: $ty
                ),*
            }

            const _: () = assert!(core::mem::size_of::<$name>() == $size);

            impl $name {
                /// All bytes zero.
                #[inline]
                pub fn zeroed() -> Self {
                    zerocopy::FromZeros::new_zeroed()
                }
            }
        )*

        /// The layouts above, for the comparison with the C header.
        #[cfg(test)]
        pub(super) const LAYOUTS: &[super::table::Layout] = &[
            $(super::table::Layout {
                c: $c,
                member: concat!($($member)?),
                size: core::mem::size_of::<$name>(),
                fields: &[
                    $((stringify!($field), core::mem::offset_of!($name, $field))),*
                ],
            }),*
        ];
    };
}

/// Defines integer constants under the header's names.
macro_rules! values {
    ($( $(#[$doc:meta])* $ty:ident $name:ident = $value:expr; )*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("`", stringify!($name), "` of the header.")]
            pub const $name: $ty = $value;
        )*

        /// The constants above, for the comparison with the C header.
        #[cfg(test)]
        pub(super) const VALUES: &[(&str, u64)] = &[
            $((stringify!($name), $name as u64)),*
        ];
    };
}

/// Defines ioctl commands: `NAME = Direction number, Type;`, or `NAME = None number;` without one.
macro_rules! ioctls {
    ($( $(#[$doc:meta])* $name:ident = $dir:ident $nr:literal $(, $ty:ty)?; )*) => {
        $(
            $(#[$doc])*
            #[doc = concat!("`", stringify!($name), "` of the header, number ", stringify!($nr), ".")]
            pub const $name: u32 = $crate::abi::ioc(
                $crate::abi::Dir::$dir,
                $crate::abi::KVMIO,
                $nr,
                0 $(| core::mem::size_of::<$ty>())?,
            );
        )*

        /// The commands above, for the comparison with the C header.
        #[cfg(test)]
        pub(super) const IOCTLS: &[(&str, u64)] = &[
            $((stringify!($name), $name as u64)),*
        ];
    };
}

// Textual scoping: the macros must be visible to the files above, which `use` them by path.
use {ioctls, uapi, values};
