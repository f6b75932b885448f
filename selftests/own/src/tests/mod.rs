// SPDX-License-Identifier: GPL-2.0

//! All tests by name. `selftests/own.tsv` has their groups and limits.

mod bad_guest;
mod basic;
mod clock;
mod compat;
mod devices;
mod emul;
mod event_page;
mod faults;
mod hammer;
mod ipis;
mod memory;
mod notify;
mod offers;
mod pages;
mod pokes;
mod preempted;
mod random_mmio;
mod rng;
mod user_exits;
mod windows;

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
    ("cpuid_faulting", emul::cpuid_faulting),
    ("task_priority", emul::task_priority),
    ("user_tpr", user_exits::user_tpr),
    ("hammer", hammer::hammer),
    ("lapic_timer", devices::lapic_timer),
    ("irq_sources", devices::sources),
    ("startup_ipi", devices::startup),
    ("io_events", devices::events),
    ("event_page", event_page::event_page),
    ("slot_changes", memory::slots),
    ("run_signals", memory::signals),
    ("state_moves", memory::round_trip),
    ("bad_triple", bad_guest::triple),
    ("bad_tables", bad_guest::tables),
    ("bad_code", bad_guest::device_code),
    ("bad_selfmod", bad_guest::selfmod_slots),
    ("bad_apic", bad_guest::apic_base),
    ("poke_ports", pokes::ports),
    ("poke_msrs", pokes::msrs),
    ("preempted_mark", preempted::mark),
    ("random_mmio", random_mmio::random),
    ("statistics", pages::statistics),
    ("large_pages", pages::large_pages),
    ("table_accounts", pages::table_accounts),
    ("notify_unmap", notify::unmap),
    ("notify_fork", notify::fork),
    ("notify_merge", notify::merge),
    ("notify_huge", notify::huge),
    ("notify_migrate", notify::migrate),
    ("notify_swap", notify::swap),
    ("notify_storm", notify::storm),
    ("compat_ioctls", compat::ioctls),
    ("errno_pointers", errno::pointers),
    ("errno_bits", errno::bits),
    ("errno_dispatch", errno::dispatch),
    ("errno_order", errno::order),
    ("errno_process", errno::process::process),
    ("errno_mmap", errno::process::mapping),
    ("errno_lists", errno::counts::lists),
    ("errno_limits", errno::counts::limits),
    ("errno_slots", errno::counts::slots),
    ("fail_creation", faults::creation),
    ("fail_slots", faults::slots),
    ("fail_events", faults::events),
    ("fail_tables", faults::faults),
    ("forced_emulation", emul::forced_emulation),
    ("ipi_x2apic", ipis::x2apic),
    ("ipi_xapic", ipis::xapic),
    ("x2apic_timer", ipis::x2apic_timer),
    ("kvmclock", clock::kvmclock),
    ("steal_time", clock::steal_time),
    ("irq_windows", windows::interrupts),
    ("nmi_windows", windows::nmis),
    ("reinjection", windows::reinjection),
    ("debug_registers", windows::debug_registers),
    ("offers", offers::offers),
];
