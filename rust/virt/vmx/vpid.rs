// SPDX-License-Identifier: GPL-2.0

//! Virtual-processor identifiers, which tag translations (`SDM: vol 3, 29.1`), and their flushing.
//!
//! With extended page tables all translations a guest uses are *combined* mappings, tagged with the
//! VPID and the address of the root table. INVEPT forgets those of a root whatever the VPID, and the
//! guest-physical ones; INVVPID those of a VPID whatever the root. So a VPID needs no flush when it
//! is handed out again: the new owner brings another root, or one that is flushed before it is used
//! on a CPU for the first time. Running without a VPID is possible: then entries and exits flush.

use super::vcpu::Vcpu;
use crate::c;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;
use host::pin::IrqsOff;
use kernel::prelude::*;
use model::vmx::caps::FlushBy;

/// INVEPT and INVVPID types (`SDM: vol 3, 31.3`).
const SINGLE_CONTEXT: u64 = 1;
const ALL_CONTEXTS: u64 = 2;

/// Words of 64 identifiers.
const WORDS: usize = 1024;

/// The identifiers in use.
pub(super) struct Vpids {
    used: KVec<AtomicU64>,
    /// Where to look first: a number comes back as late as can be.
    next: AtomicUsize,
}

impl Vpids {
    /// None is in use but 0, which is the host's.
    pub(super) fn new() -> Result<Self> {
        let mut used = KVec::with_capacity(WORDS, GFP_KERNEL)?;
        for n in 0..WORDS {
            used.push(AtomicU64::new(u64::from(n == 0)), GFP_KERNEL)?;
        }
        Ok(Self {
            used,
            next: AtomicUsize::new(0),
        })
    }

    fn take(&self) -> Option<u16> {
        let start = self.next.load(Relaxed);
        for i in 0..WORDS {
            let n = start.wrapping_add(i) % WORDS;
            let word = self.used.get(n)?;
            let mut free = !word.load(Relaxed);
            while free != 0 {
                let bit = free & free.wrapping_neg();
                if word.fetch_or(bit, Relaxed) & bit == 0 {
                    let next = if free == bit { n.wrapping_add(1) } else { n };
                    self.next.store(next, Relaxed);
                    // CAST: below 65536.
                    return Some((n << 6) as u16 | bit.trailing_zeros() as u16);
                }
                free &= !bit;
            }
        }
        None
    }
}

/// An identifier that is one vCPU's.
pub(super) struct Vpid {
    number: u16,
    from: &'static Vpids,
}

impl Vpid {
    /// Takes one, if there is one left.
    pub(super) fn take(from: &'static Vpids) -> Option<Self> {
        from.take().map(|number| Self { number, from })
    }

    /// Its number, never 0.
    #[inline]
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for Vpid {
    fn drop(&mut self) {
        if let Some(word) = self.from.used.get(usize::from(self.number >> 6)) {
            word.fetch_and(!(1 << (self.number & 63)), Relaxed);
        }
    }
}

impl Vcpu {
    /// Forgets what this CPU knows through the guest's nested page tables.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_root(&mut self, gen: u64, _irqs: &IrqsOff<'_>) {
        let kind = match self.m.cfg.invept {
            FlushBy::Context => SINGLE_CONTEXT,
            FlushBy::All => ALL_CONTEXTS,
        };
        // SAFETY: Forgetting translations is always allowed; the type exists on this processor.
        unsafe { c::kvmrs_vmx_invept(kind, self.eptp) };
        self.tlb.done(gen);
        // Combined mappings went, too.
        self.flush_linear = false;
    }

    /// Forgets the linear translations of this vCPU.
    #[cold]
    #[inline(never)]
    pub(super) fn flush_vpid(&mut self, _irqs: &IrqsOff<'_>) {
        self.flush_linear = false;
        // Without a VPID every entry does it.
        let Some(vpid) = &self.vpid else { return };
        let kind = match self.m.cfg.invvpid {
            Some(FlushBy::Context) => SINGLE_CONTEXT,
            _ => ALL_CONTEXTS,
        };
        // SAFETY: As above.
        unsafe { c::kvmrs_vmx_invvpid(kind, vpid.number()) };
    }
}
