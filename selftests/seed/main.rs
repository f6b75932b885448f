// SPDX-License-Identifier: GPL-2.0

//! A module that does what kvm.ko must never do, so that the checks can be seen to find it:
//! a reachable panic and a large frame for the object checks, a warning for the host log check,
//! leaked memory for the leak check.

use kernel::prelude::*;

module! {
    type: Seed,
    name: "seed",
    authors: ["kvm-rs"],
    description: "Deliberate faults for the test harnesses",
    license: "GPL",
}

extern "C" {
    fn seed_fault(len: usize) -> usize;
}

struct Seed;

#[inline(never)]
fn indexes(table: &[u8], at: usize) -> u8 {
    table[at]
}

#[inline(never)]
fn unreached(table: &[u8], at: usize) -> u8 {
    table[at]
}

impl kernel::Module for Seed {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: the function takes a number and only touches memory of its own.
        let n = unsafe { seed_fault(16) };
        let table = core::hint::black_box([1u8; 64]);
        pr_info!("seed: {}\n", indexes(&table, n));
        Ok(Seed)
    }
}

/// Refers to a panic, but nothing calls it: the check must not report it.
pub fn never_called(n: usize) -> u8 {
    unreached(&[0; 8], n)
}
