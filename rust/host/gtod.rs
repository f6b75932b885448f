// SPDX-License-Identifier: GPL-2.0

//! [`Gtod`]: the timekeeper's state, for pairs of TSC and time that belong together.
//!
//! A guest's paravirtual clock computes time from its TSC, with parameters that are right only
//! together with a pair taken at one moment. The kernel's clock functions return a time alone.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::error::to_result;
use kernel::ffi::c_void;
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::clock::rdtsc;
use crate::shim;

/// What happens when the timekeeper's state changes.
pub trait GtodEvents: Send + Sync + 'static {
    /// The state changed; `tsc` is whether the clock is the TSC, `stepped` whether the time was
    /// set. Called inside the update with interrupts off: no work may be queued
    /// from here.
    fn changed(&self, tsc: bool, stepped: bool);
    /// The machine is about to be suspended, or hibernated. In a thread, before all of them stop.
    fn suspending(&self);
}

/// The one receiver of the timekeeper's updates, or null.
static RECEIVER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Follows the timekeeper. Owned by the module's root object.
pub struct Gtod<T: GtodEvents> {
    events: Arc<T>,
}

/// A consistent copy of the timekeeper's state.
pub struct Snapshot(shim::kvmrs_gtod);

impl<T: GtodEvents> Gtod<T> {
    /// Starts to follow the timekeeper. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody does already.
    pub fn start(events: Arc<T>) -> Result<Self> {
        let raw: *mut c_void = Arc::as_ptr(&events).cast_mut().cast();
        RECEIVER
            .compare_exchange(ptr::null_mut(), raw, Ordering::AcqRel, Ordering::Relaxed)
            .map_err(|_| EBUSY)?;
        // SAFETY: The callbacks find the receiver, which the result holds until they have stopped.
        let started =
            to_result(unsafe { shim::kvmrs_gtod_start(Some(changed::<T>), Some(suspending::<T>)) });
        if let Err(err) = started {
            RECEIVER.store(ptr::null_mut(), Ordering::Release);
            return Err(err);
        }
        Ok(Self { events })
    }

    /// The receiver of the updates.
    pub fn events(&self) -> &Arc<T> {
        &self.events
    }
}

/// The timekeeper's state now. Before somebody follows it, the clock does not count as the TSC.
pub fn snapshot() -> Snapshot {
    // SAFETY: All zeros is a valid structure.
    let mut raw = unsafe { core::mem::zeroed() };
    // SAFETY: Valid for writing.
    unsafe { shim::kvmrs_gtod_read(&mut raw) };
    Snapshot(raw)
}

impl<T: GtodEvents> Drop for Gtod<T> {
    fn drop(&mut self) {
        // SAFETY: Started in `start`; returns when no callback runs.
        unsafe { shim::kvmrs_gtod_stop() };
        RECEIVER.store(ptr::null_mut(), Ordering::Release);
    }
}

unsafe extern "C" fn changed<T: GtodEvents>(tsc: bool, stepped: bool) {
    // SAFETY: `start::<T>` stored the receiver before it registered this function, and it is held
    // until this function cannot run any more.
    let events = unsafe { &*RECEIVER.load(Ordering::Acquire).cast::<T>() };
    events.changed(tsc, stepped);
}

unsafe extern "C" fn suspending<T: GtodEvents>() {
    // SAFETY: As in `changed`.
    let events = unsafe { &*RECEIVER.load(Ordering::Acquire).cast::<T>() };
    events.suspending();
}

/// A time and the TSC at the same moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimePair {
    /// The time, nanoseconds.
    pub ns: u64,
    /// The host's TSC.
    pub tsc: u64,
}

impl Snapshot {
    /// Time since boot (suspended time included) at the raw frequency of the clock, which is what
    /// paravirtual clocks count. `None` if the clock is not the TSC.
    pub fn boot_raw(&self) -> Option<TimePair> {
        let (ns, tsc) = self.read(&self.0.raw)?;
        let ns = ns
            .wrapping_add(self.0.raw.offset)
            .wrapping_add(self.0.offs_boot as u64);
        Some(TimePair { ns, tsc })
    }

    /// The same time alone, whatever the clock is.
    pub fn boot_raw_ns(&self) -> u64 {
        crate::clock::raw_ns().wrapping_add(self.0.offs_boot as u64)
    }

    /// Wall-clock time since 1970. `None` if the clock is not the TSC.
    pub fn realtime(&self) -> Option<TimePair> {
        let (ns, tsc) = self.read(&self.0.mono)?;
        let ns = self.0.wall_sec.wrapping_mul(1_000_000_000).wrapping_add(ns);
        Some(TimePair { ns, tsc })
    }

    /// Nanoseconds of a clock since its offset, and the TSC.
    fn read(&self, clock: &shim::kvmrs_clock) -> Option<(u64, u64)> {
        if !self.0.tsc {
            return None;
        }
        // The counters of two CPUs may differ by a little; time must not go backwards for that.
        let tsc = rdtsc().max(clock.cycle_last);
        let cycles = tsc.wrapping_sub(clock.cycle_last) & clock.mask;
        let scaled = cycles
            .wrapping_mul(u64::from(clock.mult))
            .wrapping_add(clock.base);
        Some((scaled.wrapping_shr(clock.shift), tsc))
    }
}
