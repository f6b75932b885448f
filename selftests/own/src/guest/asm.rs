// SPDX-License-Identifier: GPL-2.0

//! Guest code: assembled with this program, copied into guests.
//!
//! Code runs at another address than it is linked for, so it refers to itself relative to RIP and
//! to guest memory by absolute addresses.

/// Defines a function that returns the bytes of a piece of code.
#[macro_export]
macro_rules! guest_code {
    ($(#[$m:meta])* $name:ident, $($line:expr),+ $(,)?) => {
        std::arch::global_asm!(
            ".pushsection .rodata.guest, \"a\"",
            concat!("\"guest_", module_path!(), "::", stringify!($name), "_start\":"),
            $($line,)+
            ".code64",
            concat!("\"guest_", module_path!(), "::", stringify!($name), "_end\":"),
            ".popsection",
        );
        $(#[$m])*
        pub fn $name() -> &'static [u8] {
            extern "C" {
                #[link_name = concat!("guest_", module_path!(), "::", stringify!($name), "_start")]
                static START: u8;
                #[link_name = concat!("guest_", module_path!(), "::", stringify!($name), "_end")]
                static END: u8;
            }
            // SAFETY: both labels are in one read-only section, the second after the first.
            unsafe {
                let (a, b) = (&raw const START, &raw const END);
                std::slice::from_raw_parts(a, b as usize - a as usize)
            }
        }
    };
}

guest_code! {
    /// The common end of all exception and interrupt handlers.
    ///
    /// R14 is the vCPU's mailbox. Exceptions: with R15 set, execution goes on there; without, the
    /// vector goes to port 0xe2 for user space to see. Interrupts: counted and acknowledged.
    trap_handler,
    // The stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
    "push rax",
    "push rcx",
    "push rdx",
    "mov rax, [rsp + 24]",
    "mov [r14], rax",
    "inc qword ptr [r14 + 40]",
    "inc word ptr [r14 + 128 + rax * 2]",
    "cmp rax, 32",
    "jae 2f",
    "cmp rax, 2",
    "je 9f",
    "mov rcx, [rsp + 32]",
    "mov [r14 + 8], rcx",
    "mov rcx, [rsp + 40]",
    "mov [r14 + 16], rcx",
    "mov rcx, cr2",
    "mov [r14 + 32], rcx",
    "test r15, r15",
    "jz 1f",
    "mov [rsp + 40], r15",
    "jmp 9f",
    "1:",
    "mov edx, 0xe2",
    "out dx, eax",
    "jmp 9f",
    "2:",
    "mov rcx, [r14 + 24]",
    "cmp rcx, 1",
    "jne 3f",
    "mov ecx, 0xfee000b0",
    "mov dword ptr [rcx], 0",
    "jmp 9f",
    "3:",
    "cmp rcx, 2",
    "jne 9f",
    "mov ecx, 0x80b",
    "xor eax, eax",
    "xor edx, edx",
    "wrmsr",
    "9:",
    "pop rdx",
    "pop rcx",
    "pop rax",
    "add rsp, 16",
    "iretq",
}

/// Offsets in a vCPU's mailbox. RIP of the last exception is at 16, CR2 at 32, for the guest.
pub mod mailbox {
    /// Last vector.
    pub const VECTOR: usize = 0;
    /// Its error code, or 0.
    pub const ERROR: usize = 8;
    /// How interrupts are acknowledged: 0 not at all, 1 xAPIC, 2 x2APIC.
    pub const EOI: usize = 24;
    /// How many exceptions and interrupts there were.
    pub const COUNT: usize = 40;
    /// How many per vector, 16 bits each.
    pub const COUNTS: usize = 128;
}
