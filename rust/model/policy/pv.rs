// SPDX-License-Identifier: GPL-2.0

//! Paravirtual features as masks: the bits of EAX of the feature leaf, 0x40000001 by default.
//!
//! A backend offers them in [`Caps::pv_features`](super::feature::Caps::pv_features); a guest has
//! those of its own CPUID, [`GuestFeatures::pv`](super::guest::GuestFeatures::pv).

use crate::abi::para;

/// kvmclock through the old MSRs.
pub const CLOCKSOURCE: u32 = 1 << para::KVM_FEATURE_CLOCKSOURCE;
/// No delay is needed on port I/O.
pub const NOP_IO_DELAY: u32 = 1 << para::KVM_FEATURE_NOP_IO_DELAY;
/// kvmclock through the new MSRs.
pub const CLOCKSOURCE2: u32 = 1 << para::KVM_FEATURE_CLOCKSOURCE2;
/// Asynchronous page faults.
pub const ASYNC_PF: u32 = 1 << para::KVM_FEATURE_ASYNC_PF;
/// Stolen time is reported.
pub const STEAL_TIME: u32 = 1 << para::KVM_FEATURE_STEAL_TIME;
/// End-of-interrupt without an exit.
pub const PV_EOI: u32 = 1 << para::KVM_FEATURE_PV_EOI;
/// A halted vCPU can be woken by hypercall.
pub const PV_UNHALT: u32 = 1 << para::KVM_FEATURE_PV_UNHALT;
/// TLB shootdowns spare preempted vCPUs.
pub const PV_TLB_FLUSH: u32 = 1 << para::KVM_FEATURE_PV_TLB_FLUSH;
/// Asynchronous page faults may be delivered as an exit of a nested guest.
pub const ASYNC_PF_VMEXIT: u32 = 1 << para::KVM_FEATURE_ASYNC_PF_VMEXIT;
/// IPIs by hypercall.
pub const PV_SEND_IPI: u32 = 1 << para::KVM_FEATURE_PV_SEND_IPI;
/// The guest may turn halt polling off.
pub const POLL_CONTROL: u32 = 1 << para::KVM_FEATURE_POLL_CONTROL;
/// Yielding by hypercall.
pub const PV_SCHED_YIELD: u32 = 1 << para::KVM_FEATURE_PV_SCHED_YIELD;
/// Asynchronous page faults by interrupt.
pub const ASYNC_PF_INT: u32 = 1 << para::KVM_FEATURE_ASYNC_PF_INT;
/// 15 bits of destination in MSIs (user space offers it).
pub const MSI_EXT_DEST_ID: u32 = 1 << para::KVM_FEATURE_MSI_EXT_DEST_ID;
/// Page encryption status by hypercall (user space offers it).
pub const HC_MAP_GPA_RANGE: u32 = 1 << para::KVM_FEATURE_HC_MAP_GPA_RANGE;
/// Migration control MSR (user space offers it).
pub const MIGRATION_CONTROL: u32 = 1 << para::KVM_FEATURE_MIGRATION_CONTROL;
/// The clock's flag for a stable TSC is valid.
pub const CLOCKSOURCE_STABLE: u32 = 1 << para::KVM_FEATURE_CLOCKSOURCE_STABLE_BIT;

/// Everything that needs nothing but the common code: what a module that implements all of it
/// offers. Stolen time is apart, because the host may not account for it.
pub const COMMON: u32 = CLOCKSOURCE
    | NOP_IO_DELAY
    | CLOCKSOURCE2
    | CLOCKSOURCE_STABLE
    | ASYNC_PF
    | ASYNC_PF_VMEXIT
    | ASYNC_PF_INT
    | PV_EOI
    | PV_UNHALT
    | PV_TLB_FLUSH
    | PV_SEND_IPI
    | POLL_CONTROL
    | PV_SCHED_YIELD;
