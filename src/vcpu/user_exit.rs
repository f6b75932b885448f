// SPDX-License-Identifier: GPL-2.0

//! Why KVM_RUN returns, and how it is written to the run page.
//!
//! Whoever decides that KVM_RUN returns writes the reason to the run page, and passes [`Leave`] down
//! the stack: it fits into a register, while the reason with its data would be copied by everybody on
//! the way.

use super::run::Flow;
use super::Cx;
use crate::backend::Backend;
use core::ops::ControlFlow::Break;
use host::run_page::SharedPage;
use kernel::prelude::*;
use model::abi;
use model::abi::run as at;
use model::stats::VcpuStat;

/// KVM_RUN returns. What user space has to know is in the run page; this is the ioctl's answer.
#[derive(Clone, Copy)]
#[must_use]
pub(crate) struct Leave(Result<(), Error>);

impl Leave {
    /// With 0 and the reason that is in the run page.
    #[inline]
    pub(crate) const fn as_it_is() -> Self {
        Self(Ok(()))
    }

    /// With this errno, and no reason.
    #[inline]
    pub(crate) const fn error(e: Error) -> Self {
        Self(Err(e))
    }

    /// The answer of KVM_RUN.
    #[inline]
    pub(crate) fn answer(self) -> Result<isize> {
        self.0.map(|()| 0)
    }
}

/// Why KVM_RUN returns to user space.
#[derive(Clone, Copy)]
pub(crate) enum UserExit {
    /// KVM_EXIT_IO; the data of a write is in the PIO page already.
    Io {
        /// OUT.
        write: bool,
        /// Bytes per access.
        size: u8,
        /// Port.
        port: u16,
        /// How many accesses.
        count: u32,
    },
    /// KVM_EXIT_MMIO.
    Mmio {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes to write.
        data: [u8; 8],
        /// How many, 1 to 8.
        len: u8,
        /// A write.
        write: bool,
    },
    /// KVM_EXIT_HLT.
    Hlt,
    /// KVM_EXIT_IRQ_WINDOW_OPEN.
    IrqWindow,
    /// KVM_EXIT_X86_BUS_LOCK.
    BusLock,
    /// KVM_EXIT_SHUTDOWN.
    Shutdown,
    /// KVM_EXIT_FAIL_ENTRY.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The CPU it happened on.
        cpu: u32,
    },
    /// KVM_EXIT_INTERNAL_ERROR with data words.
    Internal {
        /// KVM_INTERNAL_ERROR_*.
        suberror: u32,
        /// How many of `data` count.
        ndata: u32,
        /// Data words.
        data: [u64; 6],
    },
    /// KVM_EXIT_INTERNAL_ERROR for an instruction that could not be emulated.
    EmulationFailure {
        /// Instruction bytes.
        bytes: [u8; 15],
        /// How many of them count.
        len: u8,
    },
    /// KVM_EXIT_SET_TPR: CR8, which the run page has, is lower than it was.
    SetTpr,
    /// KVM_EXIT_TPR_ACCESS.
    TprAccess {
        /// The instruction.
        rip: u64,
        /// It wrote.
        write: bool,
    },
    /// KVM_EXIT_DEBUG.
    Debug {
        /// Vector: 1 or 3.
        exception: u32,
        /// Linear address of the instruction.
        pc: u64,
        /// DR6.
        dr6: u64,
        /// DR7.
        dr7: u64,
    },
    /// KVM_EXIT_X86_RDMSR or KVM_EXIT_X86_WRMSR.
    Msr {
        /// A write.
        write: bool,
        /// KVM_MSR_EXIT_REASON_*.
        reason: u32,
        /// Index.
        index: u32,
        /// Value to write.
        data: u64,
    },
    /// KVM_EXIT_HYPERCALL.
    Hypercall {
        /// Number.
        nr: u64,
        /// Arguments.
        args: [u64; 3],
        /// Called in 64-bit mode.
        long: bool,
    },
    /// KVM_EXIT_IOAPIC_EOI.
    Eoi {
        /// Vector.
        vector: u8,
    },
    /// KVM_EXIT_DIRTY_RING_FULL.
    DirtyRingFull,
    /// KVM_EXIT_MEMORY_FAULT; KVM_RUN itself fails as well.
    MemoryFault {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// EFAULT, or why a guest_memfd did not give the page.
        error: Error,
    },
    /// A signal: KVM_EXIT_INTR and EINTR.
    Signal,
    /// KVM_RUN returns this errno and says nothing else.
    Error(Error),
}

impl UserExit {
    /// KVM_EXIT_INTERNAL_ERROR without data.
    pub(crate) const fn internal(suberror: u32) -> Self {
        Self::Internal {
            suberror,
            ndata: 0,
            data: [0; 6],
        }
    }

    /// Writes the exit to the run page and leaves.
    #[inline]
    pub(crate) fn leave<V: Backend>(&self, cx: &Cx<'_, '_, V>) -> Flow {
        Break(self.store(cx))
    }

    /// Writes the exit to the run page.
    #[inline(never)]
    pub(crate) fn store<V: Backend>(&self, cx: &Cx<'_, '_, V>) -> Leave {
        let run = &cx.vcpu.run;
        let reason = match *self {
            Self::Io {
                write,
                size,
                port,
                count,
            } => {
                store_port(run, write, size, port, count);
                return Leave::as_it_is();
            }
            Self::Mmio {
                gpa,
                data,
                len,
                write,
            } => {
                store_memory(run, gpa, data, len, write);
                return Leave::as_it_is();
            }
            Self::Hlt => abi::KVM_EXIT_HLT,
            Self::IrqWindow => {
                cx.count(VcpuStat::RequestIrqExits);
                abi::KVM_EXIT_IRQ_WINDOW_OPEN
            }
            Self::BusLock => abi::KVM_EXIT_X86_BUS_LOCK,
            Self::Shutdown => abi::KVM_EXIT_SHUTDOWN,
            Self::FailEntry { reason, cpu } => {
                run.write(
                    at::UNION,
                    &abi::ExitFailEntry {
                        hardware_entry_failure_reason: reason,
                        cpu,
                        _pad: 0,
                    },
                );
                abi::KVM_EXIT_FAIL_ENTRY
            }
            Self::Internal {
                suberror,
                ndata,
                data,
            } => {
                run.write(
                    at::UNION,
                    &InternalHead {
                        suberror,
                        ndata,
                        data,
                    },
                );
                abi::KVM_EXIT_INTERNAL_ERROR
            }
            Self::EmulationFailure { bytes, len } => {
                store_emulation_failure(run, bytes, len);
                abi::KVM_EXIT_INTERNAL_ERROR
            }
            Self::SetTpr => abi::KVM_EXIT_SET_TPR,
            Self::TprAccess { rip, write } => {
                run.write(
                    at::UNION,
                    &abi::ExitTprAccess {
                        rip,
                        is_write: u32::from(write),
                        pad: 0,
                    },
                );
                abi::KVM_EXIT_TPR_ACCESS
            }
            Self::Debug {
                exception,
                pc,
                dr6,
                dr7,
            } => {
                run.write(
                    at::UNION,
                    &abi::ExitDebug {
                        exception,
                        pad: 0,
                        pc,
                        dr6,
                        dr7,
                    },
                );
                abi::KVM_EXIT_DEBUG
            }
            Self::Msr {
                write,
                reason,
                index,
                data,
            } => {
                run.write(
                    at::UNION,
                    &abi::ExitMsr {
                        error: 0,
                        pad: [0; 7],
                        reason,
                        index,
                        data,
                    },
                );
                if write {
                    abi::KVM_EXIT_X86_WRMSR
                } else {
                    abi::KVM_EXIT_X86_RDMSR
                }
            }
            Self::Hypercall {
                nr,
                args: [a, b, c],
                long,
            } => {
                run.write(
                    at::UNION,
                    &abi::ExitHypercall {
                        nr,
                        args: [a, b, c, 0, 0, 0],
                        ret: 0,
                        flags: if long {
                            abi::KVM_EXIT_HYPERCALL_LONG_MODE
                        } else {
                            0
                        },
                    },
                );
                abi::KVM_EXIT_HYPERCALL
            }
            Self::Eoi { vector } => {
                run.write(at::UNION, &abi::ExitEoi { vector });
                abi::KVM_EXIT_IOAPIC_EOI
            }
            Self::DirtyRingFull => abi::KVM_EXIT_DIRTY_RING_FULL,
            Self::MemoryFault { gpa, size, error } => {
                run.write(
                    at::UNION,
                    &abi::ExitMemoryFault {
                        flags: 0,
                        gpa,
                        size,
                    },
                );
                run.write(at::EXIT_REASON, &abi::KVM_EXIT_MEMORY_FAULT);
                return Leave::error(error);
            }
            Self::Signal => {
                cx.count(VcpuStat::SignalExits);
                run.write(at::EXIT_REASON, &abi::KVM_EXIT_INTR);
                return Leave::error(EINTR);
            }
            Self::Error(e) => return Leave::error(e),
        };
        run.write(at::EXIT_REASON, &reason);
        Leave::as_it_is()
    }
}

/// Leaves with KVM_EXIT_IO for one access: the most frequent of all.
#[inline]
pub(crate) fn leave_for_port<V: Backend>(
    cx: &Cx<'_, '_, V>,
    write: bool,
    size: u8,
    port: u16,
) -> Flow {
    store_port(&cx.vcpu.run, write, size, port, 1);
    Break(Leave::as_it_is())
}

/// Leaves with KVM_EXIT_MMIO.
#[inline]
pub(crate) fn leave_for_memory<V: Backend>(
    cx: &Cx<'_, '_, V>,
    gpa: u64,
    data: [u8; 8],
    len: u8,
    write: bool,
) -> Flow {
    store_memory(&cx.vcpu.run, gpa, data, len, write);
    Break(Leave::as_it_is())
}

#[inline]
fn store_port(run: &SharedPage, write: bool, size: u8, port: u16, count: u32) {
    run.write(
        at::UNION,
        &abi::ExitIo {
            direction: if write {
                abi::KVM_EXIT_IO_OUT
            } else {
                abi::KVM_EXIT_IO_IN
            },
            size,
            port,
            count,
            data_offset: abi::KVM_PIO_PAGE_OFFSET << model::addr::PAGE_SHIFT,
        },
    );
    run.write_u32(at::EXIT_REASON, abi::KVM_EXIT_IO);
}

#[inline]
fn store_memory(run: &SharedPage, gpa: u64, data: [u8; 8], len: u8, write: bool) {
    run.write(
        at::UNION,
        &abi::ExitMmio {
            phys_addr: gpa,
            data,
            len: u32::from(len),
            is_write: u8::from(write),
            _pad: [0; 3],
        },
    );
    run.write_u32(at::EXIT_REASON, abi::KVM_EXIT_MMIO);
}

/// The part of `internal` that is used.
#[derive(Clone, Copy, zerocopy_derive::IntoBytes, zerocopy_derive::Immutable)]
#[repr(C)]
struct InternalHead {
    suberror: u32,
    ndata: u32,
    data: [u64; 6],
}

fn store_emulation_failure(run: &SharedPage, bytes: [u8; 15], len: u8) {
    let known = len != 0;
    run.write(
        at::UNION,
        &abi::ExitEmulationFailure {
            suberror: abi::KVM_INTERNAL_ERROR_EMULATION,
            // One word of flags; with bytes, two more words hold the length and the bytes.
            ndata: if known { 3 } else { 1 },
            flags: if known {
                abi::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES
            } else {
                0
            },
            insn_size: len,
            insn_bytes: bytes,
        },
    );
}
