// SPDX-License-Identifier: GPL-2.0

//! Interrupts to other CPUs: to make a vCPU leave its guest, or to be sure that it has.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use kernel::bindings;
use kernel::ffi::c_void;
use kernel::prelude::*;

use crate::percpu::nr_cpu_ids;
use crate::pin::{irqs_on, with_preempt_off};
use crate::shim;

/// Bits in a word of a set.
const WORD: usize = usize::BITS as usize;

/// Words in a set: as many as the kernel's `struct cpumask`.
const WORDS: usize = core::mem::size_of::<bindings::cpumask>() / 8;

/// Makes a CPU leave guest mode, if it is online; does not wait. Any context.
#[inline]
pub fn kick_cpu(cpu: u32) {
    // SAFETY: Checks the number.
    unsafe { shim::kvmrs_kick_cpu(cpu as i32) };
}

/// The vector that hardware takes for the order to look for posted interrupts (the kernel's
/// POSTED_INTR_VECTOR, whose handler does nothing).
pub const NOTIFICATION: u16 = shim::KVMRS_NOTIFICATION as u16;

/// Sends [`NOTIFICATION`] to a CPU, if it is online. Any context.
#[inline]
pub fn notify_cpu(cpu: u32) {
    // SAFETY: Checks the number.
    unsafe { shim::kvmrs_notify_cpu(cpu as i32) };
}

/// A set of CPUs, on the heap (a kernel `cpumask` is a kilobyte).
pub struct CpuSet {
    words: KBox<[AtomicUsize; WORDS]>,
}

impl CpuSet {
    /// The empty set.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let words = KBox::init(
            pin_init::init_array_from_fn(|_| AtomicUsize::new(0)),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self { words })
    }

    #[inline]
    fn word(&self, cpu: u32) -> Option<(&AtomicUsize, usize)> {
        if cpu >= nr_cpu_ids() {
            return None;
        }
        let bit = 1usize << (cpu as usize % WORD);
        Some((self.words.get(cpu as usize / WORD)?, bit))
    }

    /// Adds a CPU; numbers out of range are ignored.
    #[inline]
    pub fn insert(&self, cpu: u32) {
        if let Some((word, bit)) = self.word(cpu) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Takes a CPU out.
    #[inline]
    pub fn remove(&self, cpu: u32) {
        if let Some((word, bit)) = self.word(cpu) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether a CPU is in the set.
    #[inline]
    pub fn contains(&self, cpu: u32) -> bool {
        self.word(cpu)
            .is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
    }

    /// Takes all CPUs out.
    pub fn clear(&self) {
        for word in self.used() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.used()
            .iter()
            .all(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// The words that CPUs of this machine can be in.
    fn used(&self) -> &[AtomicUsize] {
        let used = (nr_cpu_ids() as usize).div_ceil(WORD);
        self.words.get(..used).unwrap_or(&*self.words)
    }
}

unsafe extern "C" fn acknowledge(_info: *mut c_void) {}

/// Interrupts all online CPUs of the set but this one. With `wait`, returns when each of them has
/// taken the interrupt: none of them is still in the guest it was in before.
///
/// Not with interrupts off (two CPUs could wait for each other): does nothing then but say so.
pub fn interrupt_cpus(cpus: &CpuSet, wait: bool) {
    if !irqs_on() {
        kernel::pr_warn_once!("IPI with interrupts off\n");
        return;
    }
    let mask = ptr::from_ref(&*cpus.words).cast::<bindings::cpumask>();
    with_preempt_off(|_| {
        // SAFETY: The set has the size of a `cpumask`; bits may change meanwhile, as in any mask
        // that is in use. Preemption is off and interrupts are on.
        unsafe { bindings::smp_call_function_many(mask, Some(acknowledge), ptr::null_mut(), wait) };
    });
}

/// [`interrupt_cpus`], waiting.
pub fn call_on_cpus_and_wait(cpus: &CpuSet) {
    interrupt_cpus(cpus, true);
}
