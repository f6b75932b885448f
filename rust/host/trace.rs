// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of the system `kvm`, with the in-tree names and fields (`include/trace_kvm.h`).
//!
//! While a tracepoint is off, its function reads one word and goes on; what costs something to find
//! out is passed as a closure.

use crate::shim;

macro_rules! on {
    ($point:ident) => {
        // SAFETY: The word of the tracepoint's key, which only the kernel writes, in one store.
        unsafe { (&raw const shim::$point.key.key.enabled.counter).read_volatile() > 0 }
    };
}

/// An exit, as the vendor reports it.
pub type Exit = shim::kvmrs_trace_exit;

/// A vCPU enters the guest at the RIP that `rip` returns.
#[inline(always)]
pub fn entry(vcpu: u32, rip: impl FnOnce() -> u64) {
    if on!(__tracepoint_kvm_entry) {
        // SAFETY: Writes to a buffer of the tracer's.
        unsafe { shim::kvmrs_trace_entry(vcpu, rip()) };
    }
}

/// A vCPU left the guest.
#[inline(always)]
pub fn exit(what: impl FnOnce() -> Exit) {
    if on!(__tracepoint_kvm_exit) {
        let what = what();
        // SAFETY: As above; the value lives across the call.
        unsafe { shim::kvmrs_trace_exit(&raw const what) };
    }
}

/// Little-endian bytes as a number; what is beyond eight is left out.
#[cold]
#[inline(never)]
fn number(data: &[u8]) -> u64 {
    let low = data.iter().take(8).rev();
    low.fold(0, |v, &b| v << 8 | u64::from(b))
}

/// An access of one item to a port.
#[inline(always)]
pub fn pio(write: bool, port: u16, data: &[u8]) {
    if on!(__tracepoint_kvm_pio) {
        // CAST: at most four bytes.
        let (size, value) = (data.len() as u32, number(data) as u32);
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_pio(write, port.into(), size, 1, value) };
    }
}

/// An access to device memory; of a read that user space answers, the value is not known yet.
#[inline(always)]
pub fn mmio(write: bool, gpa: u64, data: &[u8], known: bool) {
    if on!(__tracepoint_kvm_mmio) {
        let kind = if write { 2 } else { u32::from(known) };
        // CAST: at most a vector register.
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_mmio(kind, data.len() as u32, gpa, number(data)) };
    }
}

/// A RDMSR or WRMSR; `None`: it was refused.
#[inline(always)]
pub fn msr(write: bool, index: u32, value: Option<u64>) {
    if on!(__tracepoint_kvm_msr) {
        let fault = value.is_none();
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_msr(write, index, value.unwrap_or(0), fault) };
    }
}

/// A CPUID and its answer.
#[inline(always)]
pub fn cpuid(leaf: u32, subleaf: u32, answer: [u32; 4]) {
    if on!(__tracepoint_kvm_cpuid) {
        cpuid_on(leaf, subleaf, answer);
    }
}

/// Apart, so that the answer stays in registers while nobody looks.
#[cold]
#[inline(never)]
fn cpuid_on(leaf: u32, subleaf: u32, answer: [u32; 4]) {
    // SAFETY: As above; four words.
    unsafe { shim::kvmrs_trace_cpuid(leaf, subleaf, answer.as_ptr()) };
}

/// An interrupt is injected.
#[inline(always)]
pub fn inject(vector: u8) {
    if on!(__tracepoint_kvm_inj_virq) {
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_inj_virq(vector.into(), false, false) };
    }
}

/// A fault of the nested page tables at `gpa`.
#[inline(always)]
pub fn page_fault(vcpu: u32, rip: impl FnOnce() -> u64, gpa: u64, code: u64) {
    if on!(__tracepoint_kvm_page_fault) {
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_page_fault(vcpu, rip(), gpa, code) };
    }
}

/// The line of a GSI is set.
#[inline(always)]
pub fn set_irq(gsi: u32, level: bool) {
    if on!(__tracepoint_kvm_set_irq) {
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_set_irq(gsi, level.into()) };
    }
}

/// A message-signalled interrupt.
#[inline(always)]
pub fn msi(address_lo: u32, address_hi: u32, data: u32) {
    if on!(__tracepoint_kvm_msi_set_irq) {
        let address = u64::from(address_hi) << 32 | u64::from(address_lo);
        // SAFETY: As above.
        unsafe { shim::kvmrs_trace_msi(address, data.into()) };
    }
}
