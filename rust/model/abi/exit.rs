// SPDX-License-Identifier: GPL-2.0

//! `struct kvm_run`, the page a vCPU shares with user space, and why `KVM_RUN` returned.
//!
//! User space may write the page at any moment, so no reference to it exists and there is no Rust
//! type for it: [`run`] gives the offset of each field, and the payload of each exit is a structure
//! of its own that is built aside and copied to [`run::UNION`], or copied out of there before it is
//! looked at.

use super::{uapi, values};

/// Where the fields of `struct kvm_run` are, bytes from its start, and which type each one has.
pub mod run {
    /// Size of the structure.
    pub const SIZE: usize = 2352;
    /// `u8`, in: return as soon as the guest can take an interrupt.
    pub const REQUEST_INTERRUPT_WINDOW: usize = 0;
    /// `u8`, in: return with `-EINTR` before entering the guest.
    pub const IMMEDIATE_EXIT: usize = 1;
    /// `u32`, out.
    pub const EXIT_REASON: usize = 8;
    /// `u8`, out.
    pub const READY_FOR_INTERRUPT_INJECTION: usize = 12;
    /// `u8`, out.
    pub const IF_FLAG: usize = 13;
    /// `u16`, out: `KVM_RUN_X86_*`.
    pub const FLAGS: usize = 14;
    /// `u64`, in and out.
    pub const CR8: usize = 16;
    /// `u64`, in and out.
    pub const APIC_BASE: usize = 24;
    /// The exit's payload, [`UNION_SIZE`] bytes.
    pub const UNION: usize = 32;
    /// Size of the union of all payloads, bytes.
    pub const UNION_SIZE: usize = 256;
    /// `u64`, in: which registers to store at exit.
    pub const KVM_VALID_REGS: usize = 288;
    /// `u64`, in: which registers to load at entry.
    pub const KVM_DIRTY_REGS: usize = 296;
    /// `struct kvm_sync_regs` in 2048 bytes.
    pub const SYNC_REGS: usize = 304;

    /// Offset of `io.data_offset` from the start of the page.
    pub const IO_DATA_OFFSET: usize = 40;
    /// Offset of `mmio.data` from the start of the page, 8 bytes.
    pub const MMIO_DATA: usize = 40;
    /// Offset of `hypercall.ret` from the start of the page.
    pub const HYPERCALL_RET: usize = 88;
    /// Offset of `msr.error` from the start of the page.
    pub const MSR_ERROR: usize = 32;
    /// Offset of `msr.data` from the start of the page.
    pub const MSR_DATA: usize = 48;

    /// The fields above, for the comparison with the C header.
    #[cfg(test)]
    pub(in crate::abi) const OFFSETS: &[(&str, usize)] = &[
        ("request_interrupt_window", REQUEST_INTERRUPT_WINDOW),
        ("immediate_exit", IMMEDIATE_EXIT),
        ("exit_reason", EXIT_REASON),
        (
            "ready_for_interrupt_injection",
            READY_FOR_INTERRUPT_INJECTION,
        ),
        ("if_flag", IF_FLAG),
        ("flags", FLAGS),
        ("cr8", CR8),
        ("apic_base", APIC_BASE),
        ("hw", UNION),
        ("kvm_valid_regs", KVM_VALID_REGS),
        ("kvm_dirty_regs", KVM_DIRTY_REGS),
        ("s.regs", SYNC_REGS),
        ("io.data_offset", IO_DATA_OFFSET),
        ("mmio.data", MMIO_DATA),
        ("hypercall.ret", HYPERCALL_RET),
        ("msr.error", MSR_ERROR),
        ("msr.data", MSR_DATA),
    ];
}

uapi! {
    /// `KVM_EXIT_UNKNOWN`: the hardware's exit code.
    pub struct ExitHw("struct kvm_run" :: "hw", 8) {
        hardware_exit_reason: u64,
    }

    /// `KVM_EXIT_FAIL_ENTRY`: the hardware refused to enter.
    pub struct ExitFailEntry("struct kvm_run" :: "fail_entry", 16) {
        hardware_entry_failure_reason: u64,
        cpu: u32,
        _pad: u32,
    }

    /// `KVM_EXIT_EXCEPTION`: an exception nobody wanted.
    pub struct ExitException("struct kvm_run" :: "ex", 8) {
        exception: u32,
        error_code: u32,
    }

    /// `KVM_EXIT_IO`: `count` accesses of `size` bytes, data at `data_offset` from the page's start.
    pub struct ExitIo("struct kvm_run" :: "io", 16) {
        direction: u8,
        size: u8,
        port: u16,
        count: u32,
        data_offset: u64,
    }

    /// `KVM_EXIT_DEBUG`: a debug exception that belongs to user space.
    pub struct ExitDebug("struct kvm_debug_exit_arch", 32) {
        exception: u32,
        pad: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    }

    /// `KVM_EXIT_MMIO`: an access of `len` bytes, 8 at most.
    pub struct ExitMmio("struct kvm_run" :: "mmio", 24) {
        phys_addr: u64,
        data: [u8; 8],
        len: u32,
        is_write: u8,
        _pad: [u8; 3],
    }

    /// `KVM_EXIT_HYPERCALL`: user space sets `ret`.
    pub struct ExitHypercall("struct kvm_run" :: "hypercall", 72) {
        nr: u64,
        args: [u64; 6],
        ret: u64,
        flags: u64,
    }

    /// `KVM_EXIT_TPR_ACCESS`: the instruction at `rip` accessed the TPR.
    pub struct ExitTprAccess("struct kvm_run" :: "tpr_access", 16) {
        rip: u64,
        is_write: u32,
        pad: u32,
    }

    /// `KVM_EXIT_INTERNAL_ERROR`: the first `ndata` words of `data` count, 16 at most.
    pub struct ExitInternal("struct kvm_run" :: "internal", 136) {
        suberror: u32,
        ndata: u32,
        data: [u64; 16],
    }

    /// `KVM_EXIT_INTERNAL_ERROR` for an instruction that could not be emulated.
    pub struct ExitEmulationFailure("struct kvm_run" :: "emulation_failure", 32) {
        suberror: u32,
        ndata: u32,
        flags: u64,
        insn_size: u8,
        insn_bytes: [u8; 15],
    }

    /// `KVM_EXIT_SYSTEM_EVENT`: the guest asked for shutdown, reset and the like.
    pub struct ExitSystemEvent("struct kvm_run" :: "system_event", 136) {
        type_: u32,
        ndata: u32,
        data: [u64; 16],
    }

    /// `KVM_EXIT_IOAPIC_EOI`: a level interrupt of a user-space I/O APIC ended.
    pub struct ExitEoi("struct kvm_run" :: "eoi", 1) {
        vector: u8,
    }

    /// `KVM_EXIT_X86_RDMSR` and `KVM_EXIT_X86_WRMSR`: user space sets `error`, and `data` for reads.
    pub struct ExitMsr("struct kvm_run" :: "msr", 24) {
        error: u8,
        pad: [u8; 7],
        reason: u32,
        index: u32,
        data: u64,
    }

    /// `KVM_EXIT_NOTIFY`: the guest ran too long without taking an event.
    pub struct ExitNotify("struct kvm_run" :: "notify", 4) {
        flags: u32,
    }

    /// `KVM_EXIT_MEMORY_FAULT`: memory that user space must provide or convert.
    pub struct ExitMemoryFault("struct kvm_run" :: "memory_fault", 24) {
        flags: u64,
        gpa: u64,
        size: u64,
    }

    /// `KVM_EXIT_HYPERV`: `u` is a union that `type_` selects from.
    pub struct ExitHyperv("struct kvm_hyperv_exit", 56) {
        type_: u32,
        pad1: u32,
        u: [u64; 6],
    }

    /// `KVM_EXIT_HYPERV` for a change of the synthetic interrupt controller.
    pub struct ExitHypervSynic("struct kvm_hyperv_exit" :: "u.synic", 32) {
        msr: u32,
        pad2: u32,
        control: u64,
        evt_page: u64,
        msg_page: u64,
    }

    /// `KVM_EXIT_HYPERV` for a hypercall.
    pub struct ExitHypervHcall("struct kvm_hyperv_exit" :: "u.hcall", 32) {
        input: u64,
        result: u64,
        params: [u64; 2],
    }

    /// `KVM_EXIT_XEN` for a hypercall.
    pub struct ExitXenHcall("struct kvm_xen_exit" :: "u.hcall", 72) {
        longmode: u32,
        cpl: u32,
        input: u64,
        result: u64,
        params: [u64; 6],
    }
}

values! {
    u64 KVM_PIO_PAGE_OFFSET = 1;
    u64 KVM_COALESCED_MMIO_PAGE_OFFSET = 2;
    u64 KVM_DIRTY_LOG_PAGE_OFFSET = 64;
    u32 SYNC_REGS_SIZE_BYTES = 2048;

    u32 KVM_EXIT_UNKNOWN = 0;
    u32 KVM_EXIT_EXCEPTION = 1;
    u32 KVM_EXIT_IO = 2;
    u32 KVM_EXIT_HYPERCALL = 3;
    u32 KVM_EXIT_DEBUG = 4;
    u32 KVM_EXIT_HLT = 5;
    u32 KVM_EXIT_MMIO = 6;
    u32 KVM_EXIT_IRQ_WINDOW_OPEN = 7;
    u32 KVM_EXIT_SHUTDOWN = 8;
    u32 KVM_EXIT_FAIL_ENTRY = 9;
    u32 KVM_EXIT_INTR = 10;
    u32 KVM_EXIT_SET_TPR = 11;
    u32 KVM_EXIT_TPR_ACCESS = 12;
    u32 KVM_EXIT_NMI = 16;
    u32 KVM_EXIT_INTERNAL_ERROR = 17;
    u32 KVM_EXIT_WATCHDOG = 21;
    u32 KVM_EXIT_SYSTEM_EVENT = 24;
    u32 KVM_EXIT_IOAPIC_EOI = 26;
    u32 KVM_EXIT_HYPERV = 27;
    u32 KVM_EXIT_X86_RDMSR = 29;
    u32 KVM_EXIT_X86_WRMSR = 30;
    u32 KVM_EXIT_DIRTY_RING_FULL = 31;
    u32 KVM_EXIT_AP_RESET_HOLD = 32;
    u32 KVM_EXIT_X86_BUS_LOCK = 33;
    u32 KVM_EXIT_XEN = 34;
    u32 KVM_EXIT_NOTIFY = 37;
    u32 KVM_EXIT_MEMORY_FAULT = 39;
    u32 KVM_EXIT_TDX = 40;
    u32 KVM_EXIT_SNP_REQ_CERTS = 43;

    u32 KVM_INTERNAL_ERROR_EMULATION = 1;
    u32 KVM_INTERNAL_ERROR_SIMUL_EX = 2;
    u32 KVM_INTERNAL_ERROR_DELIVERY_EV = 3;
    u32 KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON = 4;
    u64 KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES = 1 << 0;

    u8 KVM_EXIT_IO_IN = 0;
    u8 KVM_EXIT_IO_OUT = 1;

    u16 KVM_RUN_X86_SMM = 1 << 0;
    u16 KVM_RUN_X86_BUS_LOCK = 1 << 1;
    u16 KVM_RUN_X86_GUEST_MODE = 1 << 2;

    u32 KVM_MSR_EXIT_REASON_INVAL = 1 << 0;
    u32 KVM_MSR_EXIT_REASON_UNKNOWN = 1 << 1;
    u32 KVM_MSR_EXIT_REASON_FILTER = 1 << 2;
    u32 KVM_MSR_EXIT_REASON_VALID_MASK = 7;

    u64 KVM_EXIT_HYPERCALL_LONG_MODE = 1 << 0;
    u64 KVM_MEMORY_EXIT_FLAG_PRIVATE = 1 << 3;
    u32 KVM_NOTIFY_CONTEXT_INVALID = 1 << 0;

    u32 KVM_SYSTEM_EVENT_SHUTDOWN = 1;
    u32 KVM_SYSTEM_EVENT_RESET = 2;
    u32 KVM_SYSTEM_EVENT_CRASH = 3;
    u32 KVM_SYSTEM_EVENT_SEV_TERM = 6;
    u32 KVM_SYSTEM_EVENT_TDX_FATAL = 7;

    u32 KVM_EXIT_HYPERV_SYNIC = 1;
    u32 KVM_EXIT_HYPERV_HCALL = 2;
    u32 KVM_EXIT_HYPERV_SYNDBG = 3;
    u32 KVM_EXIT_XEN_HCALL = 1;
}
