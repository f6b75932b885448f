// SPDX-License-Identifier: GPL-2.0

//! [`UserReturnMsrs`]: guest values in MSRs that only user mode looks at.
//!
//! The kernel does not use the system call MSRs until it returns to user space, so a guest's values
//! may stay in them between exits. When this CPU returns to user space (with any task) the host's
//! values are written back, by a notifier.

use core::cell::UnsafeCell;
use core::mem::ManuallyDrop;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::bindings;
use kernel::ffi::c_void;
use kernel::prelude::*;

use crate::module::ModuleRef;
use crate::msr::{rdmsr_safe, wrmsr_safe};
use crate::percpu::PerCpu;
use crate::pin::{with_preempt_off, PinnedCpu};
use crate::shim;

/// The MSRs that are treated so. SDM: vol 4, table 2-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum UretMsr {
    /// `IA32_STAR`.
    Star,
    /// `IA32_LSTAR`.
    Lstar,
    /// `IA32_CSTAR`.
    Cstar,
    /// `IA32_FMASK`.
    SyscallMask,
    /// `IA32_TSC_AUX`.
    TscAux,
    /// `IA32_TSX_CTRL`.
    TsxCtrl,
}

/// All of them, in the order of their declaration.
const ALL: [UretMsr; 6] = [
    UretMsr::Star,
    UretMsr::Lstar,
    UretMsr::Cstar,
    UretMsr::SyscallMask,
    UretMsr::TscAux,
    UretMsr::TsxCtrl,
];

impl UretMsr {
    /// The MSR's number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Star => 0xc000_0081,
            Self::Lstar => 0xc000_0082,
            Self::Cstar => 0xc000_0083,
            Self::SyscallMask => 0xc000_0084,
            Self::TscAux => 0xc000_0103,
            Self::TsxCtrl => 0x122,
        }
    }

    /// The MSR's bit in a set.
    const fn bit(self) -> u8 {
        1u8.wrapping_shl(self as u32)
    }
}

/// One MSR on one CPU.
struct Slot {
    host: AtomicU64,
    current: AtomicU64,
}

/// One CPU. The kernel calls with the address of the first field.
#[repr(C)]
struct Cpu {
    notifier: UnsafeCell<shim::user_return_notifier>,
    registered: AtomicBool,
    /// Whether the host's values have been read on this CPU.
    known: AtomicBool,
    slots: [Slot; 6],
}

// SAFETY: The notifier is used on its own CPU only, with interrupts off or by the one CPU that is
// pinned there; the rest is atomics.
unsafe impl Sync for Cpu {}
// SAFETY: As above.
unsafe impl Send for Cpu {}

/// The guest values on all CPUs. Dropping it brings the host's values back everywhere.
///
/// Owned by the module's root object. There may be several, but one in use on a CPU: a second would take
/// the first one's guest values for the host's.
///
/// # Invariants
///
/// On a CPU where the host's values are `known` the MSRs are this one's (`kvmrs_uret_claim`).
pub struct UserReturnMsrs {
    cpus: ManuallyDrop<KBox<PerCpu<Cpu>>>,
    /// The MSRs that exist.
    present: u8,
}

impl UserReturnMsrs {
    /// Finds out which of the MSRs exist.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        let cpus = PerCpu::new(|_| {
            Ok(Cpu {
                notifier: UnsafeCell::new(shim::user_return_notifier {
                    on_user_return: Some(on_user_return),
                    link: bindings::hlist_node {
                        next: ptr::null_mut(),
                        pprev: ptr::null_mut(),
                    },
                }),
                registered: AtomicBool::new(false),
                known: AtomicBool::new(false),
                slots: [const {
                    Slot {
                        host: AtomicU64::new(0),
                        current: AtomicU64::new(0),
                    }
                }; 6],
            })
        })?;
        let mut present = 0;
        with_preempt_off(|_| {
            for msr in ALL {
                let number = msr.number();
                // SAFETY: Writes back what was read, on the same CPU.
                let rewrite = |value| unsafe { wrmsr_safe(number, value) };
                if rdmsr_safe(number).and_then(rewrite).is_ok() {
                    present |= msr.bit();
                }
            }
        });
        Ok(Self {
            cpus: ManuallyDrop::new(KBox::new(cpus, GFP_KERNEL)?),
            present,
        })
    }

    /// Whether the CPU has the MSR (and lets it be written).
    #[inline]
    pub fn exists(&self, msr: UretMsr) -> bool {
        self.present & msr.bit() != 0
    }

    /// Puts the bits of `mask` of a guest value into an MSR of this CPU until it returns to user
    /// space; the other bits stay the host's.
    ///
    /// # Errors
    ///
    /// `EIO` if the MSR does not exist or refuses the value; `EBUSY` if another [`UserReturnMsrs`] was
    /// used on this CPU and has not left it.
    #[inline]
    pub fn set(&self, cpu: &PinnedCpu<'_>, msr: UretMsr, value: u64, mask: u64) -> Result {
        let here = self.cpus.here(cpu);
        if here.known.load(Ordering::Relaxed) {
            // PANIC: The array has an element for each variant; the check is optimized away.
            if let Some(slot) = here.slots.get(msr as usize) {
                let host = slot.host.load(Ordering::Relaxed);
                if slot.current.load(Ordering::Relaxed) == value & mask | host & !mask {
                    return Ok(());
                }
            }
        }
        self.set_slow(cpu, here, msr, value, mask)
    }

    #[inline(never)]
    fn set_slow(
        &self,
        cpu: &PinnedCpu<'_>,
        here: &Cpu,
        msr: UretMsr,
        value: u64,
        mask: u64,
    ) -> Result {
        if !self.exists(msr) {
            return Err(EIO);
        }
        let slot = here.slots.get(msr as usize).ok_or(EIO)?;
        cpu.with_irqs_off(|_| {
            if !here.known.load(Ordering::Relaxed) {
                // SAFETY: Compares and sets a word of this CPU.
                if !unsafe { shim::kvmrs_uret_claim(self.who()) } {
                    return Err(EBUSY);
                }
                self.learn(here);
            }
            let value = value & mask | slot.host.load(Ordering::Relaxed) & !mask;
            // SAFETY: Only user mode looks at these registers, and before this CPU returns to it
            // the notifier registered below writes the host's value back.
            unsafe { wrmsr_safe(msr.number(), value) }?;
            slot.current.store(value, Ordering::Relaxed);
            if !here.registered.swap(true, Ordering::Relaxed) {
                // SAFETY: The notifier is in no list (the flag), does not move, and is taken out
                // before it is freed (see `drop`). Atomic context, on its own CPU.
                unsafe { shim::user_return_notifier_register(here.notifier.get()) };
            }
            Ok(())
        })
    }

    /// What stands for this one where a CPU's owner is kept: an address that is only compared.
    fn who(&self) -> *const c_void {
        ptr::from_ref(&**self.cpus).cast()
    }

    /// Reads the host's values on this CPU, which is ours and has no guest values in it yet.
    fn learn(&self, here: &Cpu) {
        for (slot, msr) in here.slots.iter().zip(ALL) {
            if !self.exists(msr) {
                continue;
            }
            if let Ok(value) = rdmsr_safe(msr.number()) {
                slot.host.store(value, Ordering::Relaxed);
                slot.current.store(value, Ordering::Relaxed);
            }
        }
        // INVARIANT: The CPU was claimed before.
        here.known.store(true, Ordering::Relaxed);
    }

    /// The value an MSR has on this CPU now, if a guest value was ever set here.
    pub fn current(&self, cpu: &PinnedCpu<'_>, msr: UretMsr) -> Option<u64> {
        let here = self.cpus.here(cpu);
        if !here.known.load(Ordering::Relaxed) {
            return None;
        }
        let slot = here.slots.get(msr as usize)?;
        Some(slot.current.load(Ordering::Relaxed))
    }

    /// Brings the host's values back on this CPU, and forgets them: the CPU may come back from
    /// being offline with others.
    pub fn leave_cpu(&self, cpu: &PinnedCpu<'_>) {
        let here = self.cpus.here(cpu);
        cpu.with_irqs_off(|_| here.leave(self.who()));
    }
}

impl Cpu {
    /// Writes the host's values back, forgets them, and leaves the CPU to others. On this CPU, with
    /// interrupts off.
    fn leave(&self, who: *const c_void) {
        self.restore();
        self.known.store(false, Ordering::Relaxed);
        // SAFETY: Compares and sets a word of this CPU.
        unsafe { shim::kvmrs_uret_release(who) };
    }

    /// Writes the host's values back. On this CPU, with interrupts off.
    fn restore(&self) {
        if !self.registered.swap(false, Ordering::Relaxed) {
            return;
        }
        // SAFETY: Registered on this CPU; interrupts are off.
        unsafe { shim::user_return_notifier_unregister(self.notifier.get()) };
        for (slot, msr) in self.slots.iter().zip(ALL) {
            let host = slot.host.load(Ordering::Relaxed);
            if slot.current.swap(host, Ordering::Relaxed) != host {
                // SAFETY: The value the register had before the guest's.
                let _ = unsafe { wrmsr_safe(msr.number(), host) };
            }
        }
    }
}

unsafe extern "C" fn on_user_return(notifier: *mut shim::user_return_notifier) {
    // SAFETY: The notifier is the first field of the `Cpu` of this CPU, and registered. The kernel
    // calls this right before it returns to user space, with interrupts off.
    unsafe { (*notifier.cast::<Cpu>()).restore() };
}

unsafe extern "C" fn leave_here(info: *mut c_void) {
    // SAFETY: `drop` passes its slots and waits; this runs on each CPU with interrupts off.
    unsafe {
        let cpus = &*info.cast::<PerCpu<Cpu>>();
        cpus.here(&PinnedCpu::assume()).leave(info);
    }
}

impl Drop for UserReturnMsrs {
    fn drop(&mut self) {
        let cpus = ptr::from_ref(&**self.cpus).cast_mut();
        // SAFETY: The function runs on every online CPU before this returns.
        unsafe { shim::kvmrs_on_each_cpu(Some(leave_here), cpus.cast()) };
        if self
            .cpus
            .iter()
            .any(|c| c.registered.load(Ordering::Relaxed))
        {
            // A CPU went offline without `leave_cpu`. Its list still has our entry, so the memory
            // and the code must stay.
            pr_err!("user-return hook left on an offline CPU\n");
            core::mem::forget(ModuleRef::pin());
            return;
        }
        // SAFETY: No list has an entry of ours, and the box is not used again.
        unsafe { ManuallyDrop::drop(&mut self.cpus) };
    }
}
