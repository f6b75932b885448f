// SPDX-License-Identifier: GPL-2.0

//! Why KVM_RUN returned: the parts of `struct kvm_run` that tests look at.

use crate::sys::Area;
use kvm_bindings::*;

/// Offset of `exit_reason`.
const REASON: usize = 8;
/// Offset of the union.
const UNION: usize = 32;
/// Offset of the data of a device-memory access.
pub(super) const MMIO_DATA: usize = UNION + 8;

/// An exit to user space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Exit {
    /// A write to a port; all elements of a string instruction.
    Out {
        port: u16,
        size: u8,
        count: u32,
        data: Vec<u8>,
    },
    /// A read of a port; the answer goes to `at` in the run area.
    In {
        port: u16,
        size: u8,
        count: u32,
        at: usize,
    },
    /// A write to device memory.
    MmioWrite { addr: u64, data: Vec<u8> },
    /// A read of device memory.
    MmioRead { addr: u64, len: u32 },
    /// HLT without a local APIC in the kernel.
    Hlt,
    /// Triple fault.
    Shutdown,
    /// The guest can take an interrupt.
    IrqWindow,
    /// Debug event: exception, rip, DR6, DR7.
    Debug {
        exception: u32,
        pc: u64,
        dr6: u64,
        dr7: u64,
    },
    /// Internal error and its suberror.
    Internal(u32),
    /// The hardware refused the state.
    FailEntry(u64),
    /// An EOI that a user-space IOAPIC waits for.
    Eoi(u8),
    /// Anything else, by number.
    Other(u32),
}

impl Exit {
    /// What the run page says.
    pub fn read(run: &Area) -> Self {
        match run.load::<u32>(REASON) {
            KVM_EXIT_IO => {
                let size = run.load::<u8>(UNION + 1);
                let port = run.load::<u16>(UNION + 2);
                let count = run.load::<u32>(UNION + 4);
                let at = run.load::<u64>(UNION + 8) as usize;
                if run.load::<u8>(UNION) == 0 {
                    Exit::In {
                        port,
                        size,
                        count,
                        at,
                    }
                } else {
                    let data = run.read(at, size as usize * count as usize);
                    Exit::Out {
                        port,
                        size,
                        count,
                        data,
                    }
                }
            }
            KVM_EXIT_MMIO => {
                let addr = run.load::<u64>(UNION);
                let len = run.load::<u32>(UNION + 16);
                if run.load::<u8>(UNION + 20) == 0 {
                    Exit::MmioRead { addr, len }
                } else {
                    Exit::MmioWrite {
                        addr,
                        data: run.read(MMIO_DATA, len.min(8) as usize),
                    }
                }
            }
            KVM_EXIT_HLT => Exit::Hlt,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_IRQ_WINDOW_OPEN => Exit::IrqWindow,
            KVM_EXIT_DEBUG => Exit::Debug {
                exception: run.load(UNION),
                pc: run.load(UNION + 8),
                dr6: run.load(UNION + 16),
                dr7: run.load(UNION + 24),
            },
            KVM_EXIT_INTERNAL_ERROR => Exit::Internal(run.load(UNION)),
            KVM_EXIT_FAIL_ENTRY => Exit::FailEntry(run.load(UNION)),
            KVM_EXIT_IOAPIC_EOI => Exit::Eoi(run.load(UNION)),
            n => Exit::Other(n),
        }
    }
}
