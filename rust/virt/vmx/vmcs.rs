// SPDX-License-Identifier: GPL-2.0

//! The VMCS: where it is resident, and its fields.
//!
//! Fields are read and written by instructions that work on the current VMCS of the CPU. Everything
//! that does so runs while the vCPU is loaded, or inside [`Vmcs::with_current`].

use crate::c;
use core::arch::asm;
use core::cell::UnsafeCell;
use host::page::HwPage;
use host::pin::with_preempt_off;
use host::pin::PinnedCpu;
use host::preempt::has_no_hook;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::vmx::field::Access;
use model::vmx::field::Field;
use model::vmx::field::ReadWrite;
use model::vmx::field::Width;

/// A VMCS in memory, shared by the two halves of a vCPU.
pub(super) struct Vmcs {
    raw: UnsafeCell<c::kvmrs_vmx_vmcs>,
    _page: HwPage,
}

// SAFETY: The C code touches `raw` on the CPU where the VMCS is resident, or from the one thread that
// has the vCPU loaded; see the methods.
unsafe impl Send for Vmcs {}
// SAFETY: As above.
unsafe impl Sync for Vmcs {}

impl Vmcs {
    /// An empty VMCS that is resident nowhere.
    pub(super) fn new(revision: u32) -> Result<Arc<Self>> {
        let page = HwPage::new()?;
        if let Some(first) = page.words32().first() {
            first.store(revision, core::sync::atomic::Ordering::Relaxed);
        }
        let pa = page.hw_pa();
        let this = Arc::new(
            Self {
                // SAFETY: Zeros are a legal value of the plain C structure.
                raw: UnsafeCell::new(unsafe { core::mem::zeroed() }),
                _page: page,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: The structure has its final address and is used by nobody else yet.
        unsafe { c::kvmrs_vmx_vmcs_init(this.raw.get(), pa) };
        Ok(this)
    }

    fn raw(&self) -> *mut c::kvmrs_vmx_vmcs {
        self.raw.get()
    }

    /// Makes it the current one of this CPU; true if it was not resident here.
    #[inline]
    pub(super) fn load(&self, _cpu: &PinnedCpu<'_>) -> bool {
        // SAFETY: Preemption is off. Only the thread that loads the vCPU calls this, so that no two
        // CPUs want the VMCS at once. The page holds a VMCS of this processor's revision.
        unsafe { c::kvmrs_vmx_load(self.raw()) }
    }

    /// Runs `f` with the VMCS current, before the vCPU exists. EBUSY if a vCPU is loaded: its VMCS
    /// stays the current one.
    pub(super) fn with_current<R>(&self, f: impl FnOnce() -> R) -> Result<R> {
        if !has_no_hook() {
            return Err(EBUSY);
        }
        Ok(with_preempt_off(|cpu| {
            self.load(cpu);
            f()
        }))
    }

    /// The thread leaves the CPU.
    #[inline]
    pub(super) fn put(&self, _cpu: &PinnedCpu<'_>) {
        // SAFETY: Preemption is off, and the VMCS is resident on this CPU since `load`.
        unsafe { c::kvmrs_vmx_guest_out(self.raw()) };
    }

    /// The C side, for calls that say themselves what they need.
    #[inline]
    pub(super) fn as_raw(&self) -> *mut c::kvmrs_vmx_vmcs {
        self.raw()
    }

    /// Has it been launched since it was cleared? Interrupts are off, or it may be cleared any time.
    #[inline]
    pub(super) fn launched(&self, _irqs: &host::pin::IrqsOff<'_>) -> bool {
        // SAFETY: The field is written by this CPU, where the VMCS is resident, and not while
        // interrupts are off.
        unsafe { (*self.raw()).launched }
    }

    /// It has.
    #[inline]
    pub(super) fn set_launched(&self, _irqs: &host::pin::IrqsOff<'_>) {
        // SAFETY: As above.
        unsafe { (*self.raw()).launched = true };
    }
}

impl Drop for Vmcs {
    fn drop(&mut self) {
        // SAFETY: Nobody else uses it. After this no CPU keeps anything of the page, nor is the
        // structure in a list.
        unsafe { c::kvmrs_vmx_clear(self.raw()) };
    }
}

#[cold]
#[inline(never)]
fn failed(field: u32, write: bool) {
    // SAFETY: Writes to the log at most.
    unsafe { c::kvmrs_vmx_access_failed(field, write) };
}

/// Reads a field of the current VMCS; 0 if that fails, after a line in the log.
#[inline]
pub(super) fn read<W: Width, A: Access>(f: Field<W, A>) -> W::Value {
    let mut value = 0u64;
    let encoding = f.encoding();
    // SAFETY: Stores to `value` at most. Without a current VMCS or such a field the instruction sets
    // a flag; where VMX is off it faults, and the table of the kernel knows where to go on.
    unsafe {
        asm!(
            "2: vmread qword ptr [{value}], {field}",
            "jbe {failed}",
            ".pushsection __ex_table, \"aM\", @progbits, 12",
            ".balign 4",
            ".long 2b - .",
            ".long {failed} - .",
            // EX_TYPE_DEFAULT
            ".long 1",
            ".popsection",
            value = in(reg) &raw mut value,
            field = in(reg) u64::from(encoding),
            failed = label { failed(encoding, false) },
            options(nostack),
        );
    }
    W::narrow(value)
}

/// Writes a field of the current VMCS.
#[inline]
pub(super) fn write<W: Width>(f: Field<W, ReadWrite>, value: W::Value) {
    let encoding = f.encoding();
    // SAFETY: As in `read`. What the fields may hold is for the callers to see to: this is where the
    // crate's promise not to let a guest at the host begins.
    unsafe {
        asm!(
            "2: vmwrite {field}, {value}",
            "jbe {failed}",
            ".pushsection __ex_table, \"aM\", @progbits, 12",
            ".balign 4",
            ".long 2b - .",
            ".long {failed} - .",
            // EX_TYPE_DEFAULT
            ".long 1",
            ".popsection",
            field = in(reg) u64::from(encoding),
            value = in(reg) W::widen(value),
            failed = label { failed(encoding, true) },
            options(nostack),
        );
    }
}
