// SPDX-License-Identifier: GPL-2.0

//! Checks of this crate's own bookkeeping, with the module parameter `checked` of `kvm`.
//!
//! The emulated hosts flush translations at every entry and look at every field of a control block, so
//! that there a flush that was forgotten, a clean bit that claims too much or a field that was not
//! written does no harm. With `checked=1` what is believed is compared with what is, at every entry.
//! `checked=2` seeds a difference into each comparison: it shows that all of them would be reported.

use crate::c;
use crate::tdp::RootRef;
use crate::tdp::Tlb;
use crate::vendor::Vendor;
use core::fmt::Arguments;
use kernel::prelude::*;

/// Is everything to be compared?
pub(crate) fn on() -> bool {
    host::params::checked() != 0
}

/// Is a difference to be seeded into each comparison?
fn seeded() -> bool {
    host::params::checked() > 1
}

/// Writes to the log what is wrong, and where we came from the first time.
#[cold]
#[inline(never)]
fn report(what: Arguments<'_>) {
    pr_err!("checked: {what}\n");
    // SAFETY: Writes to the log.
    unsafe { c::kvmrs_check_failed() };
}

/// Reports of one vCPU: each comparison that fails is reported once.
#[derive(Default)]
pub(crate) struct Reports {
    /// A bit for each.
    done: u64,
    /// The number of the next one.
    next: u32,
    seed: bool,
}

impl Reports {
    pub(crate) fn new() -> Self {
        Self {
            seed: seeded(),
            ..Self::default()
        }
    }

    /// The comparisons start again.
    pub(crate) fn begin(&mut self) {
        self.begin_at(0);
    }

    /// The next comparison is the one with this number.
    pub(crate) fn begin_at(&mut self, number: u32) {
        self.next = number;
    }

    /// What to distort an expectation with.
    pub(crate) fn seed(&self) -> bool {
        self.seed
    }

    /// `what` is `is`, and should be `want`. At most 64 of these follow a [`Self::begin`], always in
    /// the same order.
    #[inline]
    pub(crate) fn same(&mut self, what: &str, is: u64, want: u64) {
        if is ^ u64::from(self.seed) == want {
            self.skip();
        } else {
            self.differ(format_args!("{what} is {is:#x}, not {want:#x}"));
        }
    }

    /// The next comparison does not apply.
    #[inline]
    pub(crate) fn skip(&mut self) {
        self.next = self.next.wrapping_add(1);
    }

    /// The next comparison failed.
    #[cold]
    #[inline(never)]
    pub(crate) fn differ(&mut self, what: Arguments<'_>) {
        let bit = 1u64.wrapping_shl(self.next);
        if self.done & bit == 0 {
            self.done |= bit;
            report(what);
        }
        self.skip();
    }
}

/// What the translations depend on that a guest may have in the TLB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    cpu: u32,
    tag: u64,
    root: u64,
}

/// The flushes of a vCPU, followed independently of those who see to them.
#[derive(Default)]
pub(crate) struct Flushes {
    last: Place,
    count: u64,
}

impl Flushes {
    /// The vCPU enters on this CPU with this tag. The root's flush generation, which was `seen` before
    /// the entry looked at it, must have been acknowledged; and whatever differs from the entry before
    /// takes a flush, because translations of an earlier time may be left.
    pub(crate) fn check<V: Vendor>(
        &mut self,
        reports: &mut Reports,
        (tlb, root): (&Tlb, &RootRef<V>),
        seen: u64,
        (cpu, tag): (u32, u64),
    ) {
        let seed = reports.seed();
        let want = seen.wrapping_add(u64::from(seed));
        if tlb.has(want) {
            reports.skip();
        } else {
            reports.differ(format_args!("flush generation {want} is not acknowledged"));
        }
        let here = Place {
            cpu,
            tag,
            root: root.hw_pa(),
        };
        if here != self.last && (seed || tlb.flushes() == self.count) {
            reports.differ(format_args!(
                "no flush between {:x?} and {here:x?}",
                self.last
            ));
        } else {
            reports.skip();
        }
        self.last = here;
        self.count = tlb.flushes();
    }
}
