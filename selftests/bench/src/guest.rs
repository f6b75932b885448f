// SPDX-License-Identifier: GPL-2.0

//! The guest's code (`guest.S`) and where it lies in the guest's memory.

use std::ptr::addr_of;

core::arch::global_asm!(include_str!("guest.S"));

/// Where the code lies in the guest.
pub const CODE: u64 = 0x10000;

macro_rules! entries {
    ($($name:ident: $symbol:ident,)*) => {
        extern "C" {
            static bench_guest_start: u8;
            static bench_guest_end: u8;
            $(static $symbol: u8;)*
        }

        /// A loop or a handler of the guest.
        #[derive(Clone, Copy, Debug)]
        pub enum Entry {
            $(
                #[doc = concat!("`", stringify!($symbol), "`")]
                $name,
            )*
        }

        impl Entry {
            /// Its address in the guest.
            pub fn address(self) -> u64 {
                let start = addr_of!(bench_guest_start);
                let at = match self {
                    $(Entry::$name => addr_of!($symbol),)*
                };
                CODE + (at as u64 - start as u64)
            }
        }
    };
}

entries! {
    Empty: guest_empty,
    Cpuid: guest_cpuid,
    Rdmsr: guest_rdmsr,
    Wrmsr: guest_wrmsr,
    InKernel: guest_in_kernel,
    OutKernel: guest_out_kernel,
    InUser: guest_in_user,
    OutUser: guest_out_user,
    Load: guest_load,
    Store: guest_store,
    Notify: guest_notify,
    Touch: guest_touch,
    SelfIpi: guest_self,
    Hlt: guest_hlt,
    Ping: guest_ping,
    Pong: guest_pong,
    Arm: guest_arm,
    Deadline: guest_deadline,
    OneShot: guest_oneshot,
    Apic: guest_apic,
    Irq: guest_irq,
    IrqPong: guest_irq_pong,
}

/// The code, to be copied to [`CODE`].
pub fn code() -> &'static [u8] {
    // SAFETY: Both symbols belong to one read-only section of guest.S, the second behind the first.
    unsafe {
        let start = addr_of!(bench_guest_start);
        let len = addr_of!(bench_guest_end) as usize - start as usize;
        std::slice::from_raw_parts(start, len)
    }
}
