// SPDX-License-Identifier: GPL-2.0

//! The vendor-neutral exit: what made the CPU leave the guest.
//!
//! This is the narrow waist of the project. `model::svm` and `model::vmx` decode their hardware's
//! exit words into [`Exit`]; everything above the vendor seam matches on it and knows no other form.

use crate::addr::{Gpa, Gva};
use crate::x86::exception;
use crate::x86::exception::Exception;
use crate::x86::state::SegReg;

/// A port access by IN, OUT, INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoAccess {
    /// First port.
    pub port: u16,
    /// Bytes per access: 1, 2 or 4.
    pub size: u8,
    /// OUT or OUTS.
    pub write: bool,
    /// INS or OUTS.
    pub string: bool,
    /// With a REP prefix.
    pub rep: bool,
}

/// How a guest-physical access went wrong in the nested page tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NestedFault {
    /// The guest-physical address, bytes.
    pub gpa: Gpa,
    /// The linear address, where the hardware reports it.
    pub gva: Option<Gva>,
    /// An entry for the page was present and forbade the access.
    pub present: bool,
    /// A data write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// A reserved bit was set in a nested entry.
    pub reserved: bool,
    /// The access was the walker's own, to a page table of the guest.
    pub walk: bool,
}

/// A debug-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrAccess {
    /// Debug register, 0 to 7.
    pub dr: u8,
    /// General-purpose register, 0 to 15; `None` where the hardware does not say (SVM without decode
    /// assists).
    pub gpr: Option<u8>,
    /// MOV to the debug register.
    pub write: bool,
}

/// A control-register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrAccess {
    /// MOV to CR from a general-purpose register.
    Write {
        /// Control register: 0, 3, 4 or 8.
        cr: u8,
        /// General-purpose register, 0 to 15.
        gpr: u8,
    },
    /// MOV from CR to a general-purpose register.
    Read {
        /// Control register: 0, 3, 4 or 8.
        cr: u8,
        /// General-purpose register, 0 to 15.
        gpr: u8,
    },
    /// CLTS.
    Clts,
    /// LMSW with this operand.
    Lmsw(u16),
    /// The hardware does not say which instruction it was (SVM without decode assists).
    Undecoded {
        /// Control register: 0, 3, 4 or 8.
        cr: u8,
        /// A write of some form.
        write: bool,
    },
}

/// Why a task switch was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskSwitchCause {
    /// CALL.
    Call,
    /// IRET.
    Iret,
    /// JMP.
    Jmp,
    /// A task gate in the IDT.
    Gate,
}

/// An exit that comes often and is told by few words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quick {
    /// [`Exit::Cpuid`].
    Cpuid,
    /// [`Exit::Rdmsr`].
    Rdmsr,
    /// [`Exit::Wrmsr`].
    Wrmsr,
    /// [`Exit::Hlt`].
    Hlt,
    /// [`Exit::Io`]; which access is asked for separately.
    Io,
    /// Any exit: to be decoded in full.
    Other,
}

/// Why the CPU left the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A host interrupt; already handled by the time this is seen.
    HostInterrupt,
    /// A host NMI; already handled by the time this is seen.
    HostNmi,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now.
    NmiWindow,
    /// An exception that was asked to be intercepted.
    Exception(Exception),
    /// INT1, which raises this trap; RIP is still at the instruction.
    Int1(Exception),
    /// INT1, which is about to raise the trap.
    Int1Ahead,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// PAUSE, or a loop of them.
    Pause,
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVLPG of this linear address, where the hardware reports it.
    Invlpg(Option<Gva>),
    /// RDPMC.
    Rdpmc,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// MONITOR or MONITORX.
    Monitor,
    /// MWAIT or MWAITX.
    Mwait,
    /// XSETBV.
    Xsetbv,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// RDMSR; the index is in RCX.
    Rdmsr,
    /// WRMSR; the index is in RCX.
    Wrmsr,
    /// A port access.
    Io(IoAccess),
    /// A fault in the nested page tables.
    NestedFault(NestedFault),
    /// An access to an entry that was made to fault fast: known device memory.
    FastMmio(Gpa),
    /// A control-register access.
    Cr(CrAccess),
    /// A debug-register access.
    Dr(DrAccess),
    /// LGDT, SIDT, LLDT, STR and their like.
    DescriptorTable {
        /// Which of the four tables, LDTR standing for itself and TR likewise; `None` for GDTR or
        /// IDTR.
        table: Option<SegReg>,
    },
    /// A task switch.
    TaskSwitch {
        /// Selector of the new task.
        selector: u16,
        /// What asked for it.
        cause: TaskSwitchCause,
        /// Error code to push on the new stack.
        error_code: Option<u32>,
        /// Vector of the INT n that asked for it, if one did.
        int_n: Option<u8>,
    },
    /// IRET finished an NMI handler, in the software tracking of NMI blocking.
    Iret,
    /// An instruction of the virtualization extension itself: VMRUN, VMXON, VMREAD and so on.
    VirtInstruction,
    /// The guest shut down: a triple fault.
    Shutdown,
    /// INIT arrived at the host CPU.
    Init,
    /// A start-up IPI arrived.
    Sipi,
    /// A system-management interrupt.
    Smi,
    /// A task-priority register below its threshold.
    TprBelowThreshold,
    /// An access to the APIC page that hardware did not finish.
    ApicAccess {
        /// Offset in the page, bytes.
        offset: u16,
        /// A write.
        write: bool,
    },
    /// A write to the virtual-APIC page that hardware finished and software must act on.
    ApicWrite {
        /// Offset in the page, bytes.
        offset: u16,
    },
    /// An EOI that the IOAPIC must hear of.
    Eoi {
        /// Vector that was ended.
        vector: u8,
    },
    /// The preemption timer ran out.
    PreemptionTimer,
    /// The page-modification log is full.
    DirtyLogFull,
    /// A bus lock.
    BusLock,
    /// The guest did not open a window for too long.
    NotifyWindow {
        /// The VM's context was corrupted.
        invalid: bool,
    },
    /// An instruction that is never legal for this guest and gets `#UD`.
    Undefined,
    /// The hardware refused to enter the guest.
    EntryFailed {
        /// The hardware's reason: the VMX exit reason with its entry-failure bit, or the SVM exit
        /// code.
        reason: u64,
    },
    /// A reason this version does not know.
    Unknown {
        /// The hardware's exit code.
        code: u64,
    },
}

/// The kinds of events that can be delivered to a guest at entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// An external interrupt.
    Interrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// A hardware exception.
    Exception,
    /// INT n.
    SoftInterrupt,
    /// INT3 or INTO.
    SoftException,
    /// INT1 (ICEBP).
    PrivilegedSoftException,
}

/// An event on its way into a guest, or one whose delivery an exit cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is.
    pub kind: EventKind,
    /// Vector.
    pub vector: u8,
    /// Error code, where one is pushed.
    pub error_code: Option<u32>,
    /// Length of the instruction that raised it, bytes; for the software kinds only.
    pub insn_len: u8,
}

impl Event {
    /// Is it an exception, also one that an instruction raised on purpose?
    #[inline]
    pub const fn is_exception(&self) -> bool {
        matches!(
            self.kind,
            EventKind::Exception | EventKind::SoftException | EventKind::PrivilegedSoftException
        )
    }

    /// Did an instruction raise it on purpose, at which RIP still is?
    #[inline]
    pub const fn is_soft(&self) -> bool {
        matches!(
            self.kind,
            EventKind::SoftInterrupt
                | EventKind::SoftException
                | EventKind::PrivilegedSoftException
        )
    }

    /// An external interrupt.
    pub const fn interrupt(vector: u8) -> Self {
        Self {
            kind: EventKind::Interrupt,
            vector,
            error_code: None,
            insn_len: 0,
        }
    }

    /// A non-maskable interrupt.
    pub const fn nmi() -> Self {
        Self {
            kind: EventKind::Nmi,
            vector: crate::x86::exception::NMI,
            error_code: None,
            insn_len: 0,
        }
    }

    /// An exception that is queued.
    ///
    /// `#BP` and `#OF` come from INT3 and INTO only, at which RIP is, and are delivered as what these
    /// raise: the RIP behind the instruction is pushed (`SDM: vol 3, 27.6.1.1`). Both have one byte.
    pub const fn exception(e: &Exception) -> Self {
        let (kind, insn_len) = if exception::is_soft(e.vector) {
            (EventKind::SoftException, 1)
        } else {
            (EventKind::Exception, 0)
        };
        Self {
            kind,
            vector: e.vector,
            error_code: e.error_code,
            insn_len,
        }
    }
}
