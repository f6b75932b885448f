// SPDX-License-Identifier: GPL-2.0

//! The module's parameters, `/sys/module/kvm/parameters`. Those that can be written to are read
//! anew at each use. Those without a reader here have no effect: Documentation/status.rst lists them.

use crate::shim;

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $var:ident;)*) => {
        $(
            $(#[$doc])*
            #[inline]
            pub fn $name() -> $ty {
                // SAFETY: A parameter is an aligned word that only the kernel's parameter code
                // writes, in one store.
                unsafe { (&raw const shim::$var).read_volatile() }
            }
        )*
    };
}

params! {
    /// Check internal invariants at run time; 2: with a fault seeded into each check.
    checked: i32 = kvmrs_param_checked;
    /// Let guests read (as 0) and write MSRs that are not known.
    ignore_msrs: bool = kvmrs_param_ignore_msrs;
    /// Shortest period of a guest's periodic timer, microseconds.
    min_timer_period_us: u32 = kvmrs_param_min_timer_period_us;
    /// Difference between TSC rates that is not worth scaling, parts per million.
    tsc_tolerance_ppm: u32 = kvmrs_param_tsc_tolerance_ppm;
    /// Emulate instructions with the forced-emulation prefix; bit 1: clear RFLAGS.RF before.
    force_emulation_prefix: i32 = kvmrs_param_force_emulation_prefix;
    /// Mitigate return predictions across threads of a core.
    mitigate_smt_rsb: bool = kvmrs_param_mitigate_smt_rsb;
    /// Hash vectors over the destinations of lowest-priority interrupts.
    vector_hashing: bool = kvmrs_param_vector_hashing;
    /// Split large pages when dirty logging starts.
    eager_page_split: bool = kvmrs_param_eager_page_split;
    /// Longest polling before a halted vCPU sleeps, nanoseconds.
    halt_poll_ns: u32 = kvmrs_param_halt_poll_ns;
    /// Factor by which polling grows.
    halt_poll_ns_grow: u32 = kvmrs_param_halt_poll_ns_grow;
    /// Where growing starts, nanoseconds.
    halt_poll_ns_grow_start: u32 = kvmrs_param_halt_poll_ns_grow_start;
    /// Divisor by which polling shrinks; 0: to nothing.
    halt_poll_ns_shrink: u32 = kvmrs_param_halt_poll_ns_shrink;
    /// One of so many split pages is made whole per period.
    nx_huge_pages_recovery_ratio: u32 = kvmrs_param_nx_huge_pages_recovery_ratio;
    /// That period, milliseconds; 0: derived from the ratio.
    nx_huge_pages_recovery_period_ms: u32 = kvmrs_param_nx_huge_pages_recovery_period_ms;
}

/// Whether large pages must not be executable: as the administrator says, or as the CPU needs.
pub fn nx_huge_pages() -> bool {
    // SAFETY: As for the other parameters.
    let word = unsafe { (&raw const shim::kvmrs_param_nx_huge_pages).read_volatile() };
    match word {
        0 | 2 => false,
        1 => true,
        _ => crate::cpu::itlb_multihit_mitigation(),
    }
}

/// Writes to the log that an access to an MSR was ignored, if that is wanted (`report_ignored_msrs`)
/// and not too often. `written` is the value of a write.
pub fn report_ignored_msr(index: u32, written: Option<u64>) {
    // SAFETY: Prints numbers, in any context.
    unsafe { shim::kvmrs_ignored_msr(written.is_some(), index, written.unwrap_or(0)) };
}

/// Whether a control block that hardware refused is to be written to the log.
pub fn dump_invalid() -> bool {
    // SAFETY: As for the other parameters.
    unsafe { (&raw const shim::kvmrs_dump_invalid).read_volatile() }
}

/// Shows what is in effect: a feature that this module lacks reads as off, whatever was asked for.
/// To be called once, when the module is loaded.
pub fn settle() {
    macro_rules! set {
        ($($var:ident = $value:expr;)*) => {
            // SAFETY: Aligned words, stored at once; of a write through sysfs at the same time one
            // of the two values stays.
            unsafe { $((&raw mut shim::$var).write_volatile($value);)* }
        };
    }
    set! {
        kvmrs_param_enable_vmware_backdoor = false;
        kvmrs_param_lapic_timer_advance = false;
        kvmrs_param_enable_pmu = false;
        kvmrs_param_allow_unsafe_mappings = false;
        kvmrs_param_tdp_mmu = true;
        kvmrs_param_enable_virt_at_load = true;
    }
}
