// SPDX-License-Identifier: GPL-2.0

//! All tests by name. `selftests/own.tsv` has their groups and limits.

mod basic;
mod emul;
mod hammer;
mod rng;

use crate::errno;
use crate::tap::Tap;

/// Name and function.
pub const ALL: &[(&str, fn(&mut Tap))] = &[
    ("guest_modes", basic::modes),
    ("guest_exceptions", basic::exceptions),
    ("port_io", basic::port_io),
    ("mmio", basic::mmio),
    ("kvm_ioctls", basic::library),
    ("vector_moves", emul::vector_moves),
    ("task_switches", emul::task_switches),
    ("umip", emul::umip),
    ("task_priority", emul::task_priority),
    ("hammer", hammer::hammer),
    ("errno_pointers", errno::pointers),
    ("errno_bits", errno::bits),
    ("errno_dispatch", errno::dispatch),
    ("errno_order", errno::order),
    ("errno_process", errno::process::process),
    ("errno_mmap", errno::process::mapping),
    ("errno_lists", errno::counts::lists),
    ("errno_limits", errno::counts::limits),
    ("errno_slots", errno::counts::slots),
    ("forced_emulation", emul::forced_emulation),
];
