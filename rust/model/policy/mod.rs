// SPDX-License-Identifier: GPL-2.0

//! What a guest may see: CPUID and MSR tables with pure filters.
//!
//! [`feature`] decides once, when the module loads, which CPUID features can be offered on this
//! host. [`cpuid`] turns that into the answers of `KVM_GET_SUPPORTED_CPUID` and
//! `KVM_GET_EMULATED_CPUID`. [`guest`] works on what user space then gave to one vCPU: lookups for
//! the CPUID instruction, bits that change while the guest runs, and the compact
//! [`GuestFeatures`](guest::GuestFeatures) that other parts ask. [`msr`] does the same for the
//! model-specific registers, with [`mtrr`] and [`mce`] for the two groups that have rules of their
//! own, and [`clock`] computes the paravirtual clock's parameters. [`tsc`] is the rate
//! of a guest's TSC, [`joint`] what the TSCs of a VM count from. [`spin`] says how long a guest may
//! spin before it exits.

pub mod clock;
pub mod cpuid;
pub mod feature;
pub mod guest;
pub mod joint;
pub mod mce;
pub mod msr;
pub mod mtrr;
pub mod pv;
pub mod spin;
pub mod tsc;

#[cfg(test)]
#[path = "tests/mod.rs"]
mod hosts;

#[cfg(test)]
#[path = "tests/in_tree.rs"]
mod in_tree;
