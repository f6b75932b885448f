// SPDX-License-Identifier: GPL-2.0

//! Exit reasons and what they mean, and events on their way in
//! (`SDM: vol 3, 28.2` and appendix C; `SDM: vol 3, 25.8.3` and `25.9`).

use crate::addr::{Gpa, Gva};
use crate::exit::TaskSwitchCause;
use crate::exit::{CrAccess, DrAccess, Event, EventKind, Exit, IoAccess, NestedFault, Quick};
use crate::x86::exception::{self, Exception};
use crate::x86::state::SegReg;

/// Basic exit reasons.
pub mod reason {
    /// An exception or an NMI.
    pub const EXCEPTION_OR_NMI: u32 = 0;
    /// An external interrupt.
    pub const EXTERNAL_INTERRUPT: u32 = 1;
    /// A triple fault.
    pub const TRIPLE_FAULT: u32 = 2;
    /// INIT.
    pub const INIT: u32 = 3;
    /// A start-up IPI.
    pub const SIPI: u32 = 4;
    /// An SMI after an I/O instruction.
    pub const IO_SMI: u32 = 5;
    /// Another SMI.
    pub const OTHER_SMI: u32 = 6;
    /// The guest can take an interrupt.
    pub const INTERRUPT_WINDOW: u32 = 7;
    /// The guest can take an NMI.
    pub const NMI_WINDOW: u32 = 8;
    /// A task switch.
    pub const TASK_SWITCH: u32 = 9;
    /// CPUID.
    pub const CPUID: u32 = 10;
    /// GETSEC.
    pub const GETSEC: u32 = 11;
    /// HLT.
    pub const HLT: u32 = 12;
    /// INVD.
    pub const INVD: u32 = 13;
    /// INVLPG.
    pub const INVLPG: u32 = 14;
    /// RDPMC.
    pub const RDPMC: u32 = 15;
    /// RDTSC.
    pub const RDTSC: u32 = 16;
    /// RSM.
    pub const RSM: u32 = 17;
    /// VMCALL.
    pub const VMCALL: u32 = 18;
    /// VMCLEAR, the first of the instructions of VMX itself.
    pub const VMCLEAR: u32 = 19;
    /// VMXON, the last of them.
    pub const VMXON: u32 = 27;
    /// A control-register access.
    pub const CR_ACCESS: u32 = 28;
    /// A debug-register access.
    pub const DR_ACCESS: u32 = 29;
    /// A port access.
    pub const IO: u32 = 30;
    /// RDMSR.
    pub const RDMSR: u32 = 31;
    /// WRMSR.
    pub const WRMSR: u32 = 32;
    /// Entry failure: the guest state is not legal.
    pub const INVALID_GUEST_STATE: u32 = 33;
    /// Entry failure: an MSR could not be loaded.
    pub const MSR_LOADING: u32 = 34;
    /// MWAIT.
    pub const MWAIT: u32 = 36;
    /// The monitor trap flag.
    pub const MONITOR_TRAP: u32 = 37;
    /// MONITOR.
    pub const MONITOR: u32 = 39;
    /// PAUSE.
    pub const PAUSE: u32 = 40;
    /// Entry failure: a machine check.
    pub const MACHINE_CHECK: u32 = 41;
    /// The task priority is below the threshold.
    pub const TPR_BELOW_THRESHOLD: u32 = 43;
    /// An access to the APIC page.
    pub const APIC_ACCESS: u32 = 44;
    /// An EOI that software has to see.
    pub const VIRTUALIZED_EOI: u32 = 45;
    /// GDTR or IDTR.
    pub const GDTR_IDTR: u32 = 46;
    /// LDTR or TR.
    pub const LDTR_TR: u32 = 47;
    /// A nested page-table entry forbids the access.
    pub const EPT_VIOLATION: u32 = 48;
    /// A nested page-table entry is not legal.
    pub const EPT_MISCONFIG: u32 = 49;
    /// INVEPT.
    pub const INVEPT: u32 = 50;
    /// RDTSCP.
    pub const RDTSCP: u32 = 51;
    /// The preemption timer.
    pub const PREEMPTION_TIMER: u32 = 52;
    /// INVVPID.
    pub const INVVPID: u32 = 53;
    /// WBINVD or WBNOINVD.
    pub const WBINVD: u32 = 54;
    /// XSETBV.
    pub const XSETBV: u32 = 55;
    /// A write to the virtual-APIC page.
    pub const APIC_WRITE: u32 = 56;
    /// RDRAND.
    pub const RDRAND: u32 = 57;
    /// INVPCID.
    pub const INVPCID: u32 = 58;
    /// VMFUNC.
    pub const VMFUNC: u32 = 59;
    /// ENCLS.
    pub const ENCLS: u32 = 60;
    /// RDSEED.
    pub const RDSEED: u32 = 61;
    /// The page-modification log is full.
    pub const PML_FULL: u32 = 62;
    /// XSAVES.
    pub const XSAVES: u32 = 63;
    /// XRSTORS.
    pub const XRSTORS: u32 = 64;
    /// PCONFIG.
    pub const PCONFIG: u32 = 65;
    /// UMWAIT.
    pub const UMWAIT: u32 = 67;
    /// TPAUSE.
    pub const TPAUSE: u32 = 68;
    /// LOADIWKEY.
    pub const LOADIWKEY: u32 = 69;
    /// ENCLV.
    pub const ENCLV: u32 = 70;
    /// A bus lock.
    pub const BUS_LOCK: u32 = 74;
    /// No event window for too long.
    pub const NOTIFY: u32 = 75;
    /// SEAMCALL.
    pub const SEAMCALL: u32 = 76;
    /// TDCALL.
    pub const TDCALL: u32 = 77;
    /// RDMSR with an immediate index.
    pub const RDMSR_IMM: u32 = 84;
    /// WRMSRNS with an immediate index.
    pub const WRMSR_IMM: u32 = 85;
}

/// The reason word: the entry failed.
pub const ENTRY_FAILED: u32 = 1 << 31;
/// The reason word: the exit was a bus lock besides.
pub const BUS_LOCK_TOO: u32 = 1 << 26;

/// Did the guest take a bus lock? `reason` is the whole reason word.
pub const fn is_bus_lock(reason: u32) -> bool {
    reason & ENTRY_FAILED == 0 && (basic(reason) == reason::BUS_LOCK || reason & BUS_LOCK_TOO != 0)
}

/// The basic reason of an exit.
#[inline]
pub const fn basic(reason: u32) -> u32 {
    reason & 0xffff
}

/// Bits of the interruption-information words.
pub mod info {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Where the type is.
    pub const TYPE_SHIFT: u32 = 8;
    /// The type.
    pub const TYPE: u32 = 7 << TYPE_SHIFT;
    /// External interrupt.
    pub const EXTERNAL: u32 = 0 << TYPE_SHIFT;
    /// NMI.
    pub const NMI: u32 = 2 << TYPE_SHIFT;
    /// Exception of the processor's own.
    pub const HARDWARE: u32 = 3 << TYPE_SHIFT;
    /// INT n.
    pub const SOFT_INTERRUPT: u32 = 4 << TYPE_SHIFT;
    /// INT1.
    pub const PRIVILEGED: u32 = 5 << TYPE_SHIFT;
    /// INT3 or INTO.
    pub const SOFT_EXCEPTION: u32 = 6 << TYPE_SHIFT;
    /// There is an error code.
    pub const ERROR_CODE: u32 = 1 << 11;
    /// Exit information: an IRET had just ended NMI blocking. The same bit of an EPT violation's
    /// qualification.
    pub const NMI_UNBLOCKING: u32 = 1 << 12;
    /// The word means something.
    pub const VALID: u32 = 1 << 31;
}

/// The words of an exit, read when they are needed: reading one is an instruction of its own.
pub trait Words {
    /// Exit qualification.
    fn qualification(&self) -> u64;
    /// Guest-linear address.
    fn linear_address(&self) -> u64;
    /// Guest-physical address.
    fn physical_address(&self) -> u64;
    /// VM-exit interruption information.
    fn intr_info(&self) -> u32;
    /// Its error code.
    fn intr_error(&self) -> u32;
    /// VM-exit instruction information.
    fn insn_info(&self) -> u32;
    /// IDT-vectoring information.
    fn vectoring_info(&self) -> u32;
    /// Its error code.
    fn vectoring_error(&self) -> u32;
}

fn exception_or_nmi(w: &impl Words) -> Exit {
    let info = w.intr_info();
    if info & info::TYPE == info::NMI {
        return Exit::HostNmi;
    }
    // CAST: eight bits.
    let vector = (info & info::VECTOR) as u8;
    let e = Exception {
        vector,
        error_code: (info & info::ERROR_CODE != 0).then(|| w.intr_error()),
        payload: match vector {
            // The address, or the conditions in the format of DR6 with every bit active high.
            exception::PF | exception::DB => w.qualification(),
            _ => 0,
        },
    };
    if info & info::TYPE == info::PRIVILEGED {
        return Exit::Int1(e);
    }
    Exit::Exception(e)
}

/// `SDM: vol 3, table 28-3`.
fn cr_access(q: u64) -> Exit {
    // CAST: four bits each.
    let cr = (q & 0xf) as u8;
    let gpr = (q >> 8 & 0xf) as u8;
    Exit::Cr(match q >> 4 & 3 {
        0 => CrAccess::Write { cr, gpr },
        1 => CrAccess::Read { cr, gpr },
        2 => CrAccess::Clts,
        // CAST: the operand has 16 bits.
        _ => CrAccess::Lmsw((q >> 16) as u16),
    })
}

/// `SDM: vol 3, table 28-4`.
fn dr_access(q: u64) -> Exit {
    Exit::Dr(DrAccess {
        dr: (q & 7) as u8,
        gpr: Some((q >> 8 & 0xf) as u8),
        write: q & 1 << 4 == 0,
    })
}

/// The port access of an exit by one, from the qualification. `SDM: vol 3, table 28-5`.
#[inline]
pub fn io(q: u64) -> IoAccess {
    IoAccess {
        // CAST: 16 bits.
        port: (q >> 16) as u16,
        size: match q & 7 {
            0 => 1,
            1 => 2,
            _ => 4,
        },
        write: q & 1 << 3 == 0,
        string: q & 1 << 4 != 0,
        rep: q & 1 << 5 != 0,
    }
}

/// The frequent exits; agrees with [`decode`]. `reason` is the whole reason word.
#[inline]
pub fn quick(reason: u32) -> Quick {
    // One with flags beside the basic reason is not among them.
    match reason {
        reason::CPUID => Quick::Cpuid,
        reason::RDMSR => Quick::Rdmsr,
        reason::WRMSR => Quick::Wrmsr,
        reason::HLT => Quick::Hlt,
        reason::IO => Quick::Io,
        _ => Quick::Other,
    }
}

/// `SDM: vol 3, table 28-2`.
fn task_switch(w: &impl Words) -> Exit {
    let q = w.qualification();
    let vectoring = w.vectoring_info();
    let valid = vectoring & info::VALID != 0;
    let pushed = valid && vectoring & info::ERROR_CODE != 0;
    let gate = q >> 30 & 3 == 3;
    // Type 4 of an event is a software interrupt.
    let int_n = gate && valid && vectoring >> 8 & 7 == 4;
    Exit::TaskSwitch {
        // CAST: 16 bits.
        selector: q as u16,
        cause: match q >> 30 & 3 {
            0 => TaskSwitchCause::Call,
            1 => TaskSwitchCause::Iret,
            2 => TaskSwitchCause::Jmp,
            _ => TaskSwitchCause::Gate,
        },
        error_code: pushed.then(|| w.vectoring_error()),
        int_n: int_n.then_some(vectoring as u8),
    }
}

/// `SDM: vol 3, table 28-7`.
fn ept_violation(w: &impl Words) -> Exit {
    let q = w.qualification();
    let linear = q & 1 << 7 != 0;
    let final_access = q & 1 << 8 != 0;
    Exit::NestedFault(NestedFault {
        gpa: Gpa(w.physical_address()),
        gva: (linear && final_access).then(|| Gva(w.linear_address())),
        present: q & 7 << 3 != 0,
        write: q & 1 << 1 != 0,
        fetch: q & 1 << 2 != 0,
        reserved: false,
        walk: linear && !final_access,
    })
}

/// `SDM: vol 3, table 28-6`.
fn apic_access(q: u64) -> Exit {
    Exit::ApicAccess {
        // CAST: twelve bits.
        offset: (q & 0xfff) as u16,
        write: q >> 12 & 0xf == 1,
    }
}

/// `SDM: vol 3, table 28-15`: bits 29:28 tell the instruction.
fn ldtr_tr(insn_info: u32) -> Exit {
    Exit::DescriptorTable {
        table: Some(match insn_info >> 28 & 1 {
            0 => SegReg::Ldtr,
            _ => SegReg::Tr,
        }),
    }
}

/// What an exit means. `reason` is the whole reason word.
#[inline]
pub fn decode(reason: u32, w: &impl Words) -> Exit {
    if reason & ENTRY_FAILED != 0 {
        return Exit::EntryFailed {
            reason: u64::from(reason),
        };
    }
    match basic(reason) {
        reason::EXTERNAL_INTERRUPT => Exit::HostInterrupt,
        reason::CPUID => Exit::Cpuid,
        reason::RDMSR => Exit::Rdmsr,
        reason::WRMSR => Exit::Wrmsr,
        reason::IO => Exit::Io(io(w.qualification())),
        reason::EPT_VIOLATION => ept_violation(w),
        reason::EPT_MISCONFIG => Exit::FastMmio(Gpa(w.physical_address())),
        reason::HLT => Exit::Hlt,
        reason::INTERRUPT_WINDOW => Exit::InterruptWindow,
        _ => decode_rare(reason, w),
    }
}

#[inline(never)]
fn decode_rare(reason: u32, w: &impl Words) -> Exit {
    match basic(reason) {
        reason::EXCEPTION_OR_NMI => exception_or_nmi(w),
        reason::TRIPLE_FAULT => Exit::Shutdown,
        reason::INIT => Exit::Init,
        reason::SIPI => Exit::Sipi,
        reason::IO_SMI | reason::OTHER_SMI => Exit::Smi,
        reason::NMI_WINDOW => Exit::NmiWindow,
        reason::TASK_SWITCH => task_switch(w),
        reason::INVD => Exit::Invd,
        reason::INVLPG => Exit::Invlpg(Some(Gva(w.qualification()))),
        reason::INVPCID => Exit::Invlpg(None),
        reason::RDPMC => Exit::Rdpmc,
        reason::RDTSC => Exit::Rdtsc,
        reason::RDTSCP => Exit::Rdtscp,
        reason::VMCALL => Exit::Hypercall,
        reason::VMCLEAR..=reason::VMXON | reason::INVEPT | reason::INVVPID => Exit::VirtInstruction,
        reason::CR_ACCESS => cr_access(w.qualification()),
        reason::DR_ACCESS => dr_access(w.qualification()),
        reason::MWAIT => Exit::Mwait,
        reason::MONITOR => Exit::Monitor,
        reason::PAUSE => Exit::Pause,
        reason::TPR_BELOW_THRESHOLD => Exit::TprBelowThreshold,
        reason::APIC_ACCESS => apic_access(w.qualification()),
        reason::VIRTUALIZED_EOI => Exit::Eoi {
            // CAST: eight bits.
            vector: w.qualification() as u8,
        },
        reason::GDTR_IDTR => Exit::DescriptorTable { table: None },
        reason::LDTR_TR => ldtr_tr(w.insn_info()),
        reason::PREEMPTION_TIMER => Exit::PreemptionTimer,
        reason::WBINVD => Exit::Wbinvd,
        reason::XSETBV => Exit::Xsetbv,
        reason::APIC_WRITE => Exit::ApicWrite {
            // CAST: twelve bits.
            offset: (w.qualification() & 0xfff) as u16,
        },
        reason::PML_FULL => Exit::DirtyLogFull,
        reason::BUS_LOCK => Exit::BusLock,
        reason::NOTIFY => Exit::NotifyWindow {
            invalid: w.qualification() & 1 != 0,
        },
        // Instructions that a guest does not have; those of them that exit do so for that, or because no
        // control would let them fault.
        reason::GETSEC
        | reason::RSM
        | reason::RDRAND
        | reason::VMFUNC
        | reason::ENCLS
        | reason::RDSEED
        | reason::XSAVES
        | reason::XRSTORS
        | reason::PCONFIG
        | reason::UMWAIT
        | reason::TPAUSE
        | reason::LOADIWKEY
        | reason::ENCLV
        | reason::SEAMCALL
        | reason::TDCALL
        | reason::RDMSR_IMM
        | reason::WRMSR_IMM => Exit::Undefined,
        _ => Exit::Unknown {
            code: u64::from(reason),
        },
    }
}

/// Did an instruction cause the exit, so that its length is known (`SDM: vol 3, 28.2.5`)? Exceptions
/// are left out: only those of software have a length, and they are events.
#[inline]
pub const fn has_length(reason: u32) -> bool {
    match basic(reason) {
        reason::CPUID..=reason::MWAIT => {
            !matches!(
                basic(reason),
                reason::INVALID_GUEST_STATE | reason::MSR_LOADING | 35
            ) && reason & ENTRY_FAILED == 0
        }
        reason::TASK_SWITCH
        | reason::MONITOR
        | reason::PAUSE
        | reason::GDTR_IDTR
        | reason::LDTR_TR
        | reason::INVEPT
        | reason::RDTSCP
        | reason::INVVPID
        | reason::WBINVD
        | reason::XSETBV
        | reason::RDRAND..=reason::RDSEED
        | reason::XSAVES..=reason::PCONFIG
        | reason::UMWAIT..=reason::ENCLV => true,
        _ => false,
    }
}

/// Can an exit for this reason set [`info::NMI_UNBLOCKING`] in the qualification?
#[inline]
pub const fn reports_nmi_unblocking(reason: u32) -> bool {
    matches!(basic(reason), reason::EPT_VIOLATION | reason::PML_FULL)
}

/// An event as the VM-entry fields want it: the interruption information and the error code. The
/// length of the instruction goes to its own field for the software kinds.
pub fn encode_event(e: &Event) -> (u32, u32) {
    let kind = match e.kind {
        EventKind::Interrupt => info::EXTERNAL,
        EventKind::Nmi => info::NMI,
        EventKind::Exception => info::HARDWARE,
        EventKind::SoftInterrupt => info::SOFT_INTERRUPT,
        EventKind::SoftException => info::SOFT_EXCEPTION,
        EventKind::PrivilegedSoftException => info::PRIVILEGED,
    };
    let word = info::VALID | kind | u32::from(e.vector);
    match e.error_code {
        // Hardware refuses the upper half.
        Some(c) if e.kind == EventKind::Exception => (word | info::ERROR_CODE, c & 0xffff),
        _ => (word, 0),
    }
}

/// The event whose delivery an exit cut short, from the IDT-vectoring fields. `error` and `length`
/// are asked for only where they mean something.
#[inline]
pub fn decode_event(
    word: u32,
    error: impl FnOnce() -> u32,
    length: impl FnOnce() -> u32,
) -> Option<Event> {
    if word & info::VALID == 0 {
        return None;
    }
    let kind = match word & info::TYPE {
        info::EXTERNAL => EventKind::Interrupt,
        info::NMI => EventKind::Nmi,
        info::HARDWARE => EventKind::Exception,
        info::SOFT_INTERRUPT => EventKind::SoftInterrupt,
        info::SOFT_EXCEPTION => EventKind::SoftException,
        info::PRIVILEGED => EventKind::PrivilegedSoftException,
        _ => return None,
    };
    let soft = matches!(
        kind,
        EventKind::SoftInterrupt | EventKind::SoftException | EventKind::PrivilegedSoftException
    );
    Some(Event {
        kind,
        // CAST: eight bits.
        vector: (word & info::VECTOR) as u8,
        error_code: (word & info::ERROR_CODE != 0).then(error),
        // CAST: an instruction has at most 15 bytes.
        insn_len: if soft { (length() & 0xf) as u8 } else { 0 },
    })
}

/// What VM-instruction error numbers mean (`SDM: vol 3, 31.4`).
pub const fn instruction_error(n: u32) -> &'static str {
    match n {
        1 => "VMCALL in VMX root operation",
        2 => "VMCLEAR with an invalid address",
        3 => "VMCLEAR with the VMXON pointer",
        4 => "VMLAUNCH with a VMCS that is not clear",
        5 => "VMRESUME with a VMCS that was not launched",
        6 => "VMRESUME after VMXOFF",
        7 => "invalid control fields",
        8 => "invalid host state",
        9 => "VMPTRLD with an invalid address",
        10 => "VMPTRLD with the VMXON pointer",
        11 => "VMPTRLD with another VMCS revision",
        12 => "a VMCS field that does not exist",
        13 => "VMWRITE to a read-only field",
        15 => "VMXON in VMX root operation",
        16 => "invalid executive-VMCS pointer",
        17 => "executive VMCS not launched",
        18 => "executive-VMCS pointer is not the VMXON pointer",
        19 => "VMCALL with a VMCS that is not clear",
        20 => "VMCALL with invalid exit controls",
        22 => "VMCALL with another MSEG revision",
        23 => "VMXOFF under dual-monitor treatment",
        24 => "VMCALL with invalid SMM-monitor features",
        25 => "invalid execution controls in the executive VMCS",
        26 => "entry with events blocked by MOV SS",
        28 => "INVEPT or INVVPID with an invalid operand",
        _ => "unknown",
    }
}

/// What an entry that failed after its first checks holds against the VMCS (`SDM: vol 3, 27.8`).
pub const fn entry_failure(reason: u32, qualification: u64) -> &'static str {
    match (basic(reason), qualification) {
        (reason::INVALID_GUEST_STATE, 2) => "PDPTEs that are not legal",
        (reason::INVALID_GUEST_STATE, 3) => "an NMI injected in the shadow of STI",
        (reason::INVALID_GUEST_STATE, 4) => "a VMCS link pointer that is not legal",
        (reason::INVALID_GUEST_STATE, _) => "guest state that is not legal",
        (reason::MSR_LOADING, _) => "an MSR of the load area that cannot be loaded",
        (reason::MACHINE_CHECK, _) => "a machine check during the entry",
        _ => "unknown",
    }
}

#[cfg(test)]
#[path = "tests/exit.rs"]
mod tests;
