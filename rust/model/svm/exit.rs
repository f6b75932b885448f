// SPDX-License-Identifier: GPL-2.0

//! Exit codes and what they mean (`APM: vol 2, appendix C`).

use crate::addr::{Gpa, Gva};
use crate::exit::{CrAccess, DrAccess, Exit, IoAccess, NestedFault, Quick, TaskSwitchCause};
use crate::x86::ctrl::dr6;
use crate::x86::exception::{self, Exception};
use crate::x86::state::SegReg;

/// EXITCODE values.
pub mod code {
    /// Reads of CR0 to CR15.
    pub const CR_READ: u64 = 0x00;
    /// Writes of CR0 to CR15.
    pub const CR_WRITE: u64 = 0x10;
    /// Reads of DR0 to DR15.
    pub const DR_READ: u64 = 0x20;
    /// Writes of DR0 to DR15.
    pub const DR_WRITE: u64 = 0x30;
    /// Exceptions 0 to 31.
    pub const EXCEPTION: u64 = 0x40;
    /// A physical interrupt.
    pub const INTR: u64 = 0x60;
    /// A physical NMI.
    pub const NMI: u64 = 0x61;
    /// A physical SMI.
    pub const SMI: u64 = 0x62;
    /// A physical INIT.
    pub const INIT: u64 = 0x63;
    /// A virtual interrupt that can be taken.
    pub const VINTR: u64 = 0x64;
    /// A write of CR0 that changes more than TS and MP.
    pub const CR0_SEL_WRITE: u64 = 0x65;
    /// SIDT.
    pub const IDTR_READ: u64 = 0x66;
    /// SGDT.
    pub const GDTR_READ: u64 = 0x67;
    /// SLDT.
    pub const LDTR_READ: u64 = 0x68;
    /// STR.
    pub const TR_READ: u64 = 0x69;
    /// LIDT.
    pub const IDTR_WRITE: u64 = 0x6a;
    /// LGDT.
    pub const GDTR_WRITE: u64 = 0x6b;
    /// LLDT.
    pub const LDTR_WRITE: u64 = 0x6c;
    /// LTR.
    pub const TR_WRITE: u64 = 0x6d;
    /// RDTSC.
    pub const RDTSC: u64 = 0x6e;
    /// RDPMC.
    pub const RDPMC: u64 = 0x6f;
    /// CPUID.
    pub const CPUID: u64 = 0x72;
    /// RSM.
    pub const RSM: u64 = 0x73;
    /// IRET.
    pub const IRET: u64 = 0x74;
    /// INVD.
    pub const INVD: u64 = 0x76;
    /// PAUSE.
    pub const PAUSE: u64 = 0x77;
    /// HLT.
    pub const HLT: u64 = 0x78;
    /// INVLPG.
    pub const INVLPG: u64 = 0x79;
    /// INVLPGA.
    pub const INVLPGA: u64 = 0x7a;
    /// A port access.
    pub const IOIO: u64 = 0x7b;
    /// RDMSR or WRMSR.
    pub const MSR: u64 = 0x7c;
    /// A task switch.
    pub const TASK_SWITCH: u64 = 0x7d;
    /// The guest shut down.
    pub const SHUTDOWN: u64 = 0x7f;
    /// VMRUN.
    pub const VMRUN: u64 = 0x80;
    /// VMMCALL.
    pub const VMMCALL: u64 = 0x81;
    /// VMLOAD.
    pub const VMLOAD: u64 = 0x82;
    /// VMSAVE.
    pub const VMSAVE: u64 = 0x83;
    /// STGI.
    pub const STGI: u64 = 0x84;
    /// CLGI.
    pub const CLGI: u64 = 0x85;
    /// SKINIT.
    pub const SKINIT: u64 = 0x86;
    /// RDTSCP.
    pub const RDTSCP: u64 = 0x87;
    /// INT1.
    pub const ICEBP: u64 = 0x88;
    /// WBINVD or WBNOINVD.
    pub const WBINVD: u64 = 0x89;
    /// MONITOR or MONITORX.
    pub const MONITOR: u64 = 0x8a;
    /// MWAIT or MWAITX.
    pub const MWAIT: u64 = 0x8b;
    /// MWAIT with the monitor armed.
    pub const MWAIT_ARMED: u64 = 0x8c;
    /// XSETBV.
    pub const XSETBV: u64 = 0x8d;
    /// RDPRU.
    pub const RDPRU: u64 = 0x8e;
    /// INVLPGB.
    pub const INVLPGB: u64 = 0xa0;
    /// INVLPGB with illegal operands.
    pub const INVLPGB_ILLEGAL: u64 = 0xa1;
    /// INVPCID.
    pub const INVPCID: u64 = 0xa2;
    /// MCOMMIT.
    pub const MCOMMIT: u64 = 0xa3;
    /// TLBSYNC.
    pub const TLBSYNC: u64 = 0xa4;
    /// A bus lock.
    pub const BUSLOCK: u64 = 0xa5;
    /// HLT without a pending virtual interrupt.
    pub const IDLE_HLT: u64 = 0xa6;
    /// A fault in the nested page tables.
    pub const NPF: u64 = 0x400;
    /// AVIC: an IPI that hardware did not finish.
    pub const AVIC_INCOMPLETE_IPI: u64 = 0x401;
    /// AVIC: an access that hardware does not do.
    pub const AVIC_NOACCEL: u64 = 0x402;
    /// The control block is not legal.
    pub const INVALID: u64 = u64::MAX;
}

/// Did VMRUN refuse to enter? The codes for that are small negative numbers; old processors store
/// only their low half.
#[inline]
pub const fn is_entry_failure(exit_code: u64) -> bool {
    exit_code as u32 >= 0xffff_fff0
}

/// The words of an exit that decide what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// EXITCODE.
    pub code: u64,
    /// EXITINFO1.
    pub info1: u64,
    /// EXITINFO2.
    pub info2: u64,
    /// EXITINTINFO.
    pub int_info: u32,
    /// DR6 at the exit; for `#DB`.
    pub dr6: u64,
}

/// EXITINFO1 of a control-register access: it was a MOV and the operand is valid.
const CR_MOV: u64 = 1 << 63;

fn cr(n: u64, write: bool, info1: u64, assists: bool) -> Exit {
    // CAST: the exit codes leave four bits.
    let cr = (n & 0xf) as u8;
    if !assists || info1 & CR_MOV == 0 {
        return Exit::Cr(CrAccess::Undecoded { cr, write });
    }
    let gpr = (info1 & 0xf) as u8;
    Exit::Cr(match write {
        true => CrAccess::Write { cr, gpr },
        false => CrAccess::Read { cr, gpr },
    })
}

fn dr(n: u64, write: bool, info1: u64, assists: bool) -> Exit {
    Exit::Dr(DrAccess {
        dr: (n & 0xf) as u8,
        gpr: assists.then_some((info1 & 0xf) as u8),
        write,
    })
}

fn exception(w: &Words) -> Exit {
    let vector = (w.code & 0x1f) as u8;
    Exit::Exception(Exception {
        vector,
        // CAST: an error code has 32 bits.
        error_code: exception::has_error_code(vector).then_some(w.info1 as u32),
        payload: match vector {
            exception::PF => w.info2,
            // What is left are the conditions: active-low bits turn into "this happened".
            exception::DB => w.dr6 ^ dr6::INIT,
            _ => 0,
        },
    })
}

/// The port access of an exit by one. `APM: vol 2, 15.10.2`.
#[inline]
pub fn io(info1: u64) -> IoAccess {
    let size = match (info1 >> 4) & 7 {
        1 => 1,
        2 => 2,
        _ => 4,
    };
    IoAccess {
        port: (info1 >> 16) as u16,
        size,
        write: info1 & 1 == 0,
        string: info1 & 1 << 2 != 0,
        rep: info1 & 1 << 3 != 0,
    }
}

/// The frequent exits; agrees with [`decode`].
#[inline]
pub fn quick(code: u64, info1: u64) -> Quick {
    match code {
        code::CPUID => Quick::Cpuid,
        code::IOIO => Quick::Io,
        code::MSR if info1 & 1 == 0 => Quick::Rdmsr,
        code::MSR => Quick::Wrmsr,
        code::HLT => Quick::Hlt,
        _ => Quick::Other,
    }
}

/// `APM: vol 2, 15.25.6`.
fn nested_fault(w: &Words) -> Exit {
    Exit::NestedFault(NestedFault {
        gpa: Gpa(w.info2),
        gva: None,
        present: w.info1 & 1 << 0 != 0,
        write: w.info1 & 1 << 1 != 0,
        reserved: w.info1 & 1 << 3 != 0,
        fetch: w.info1 & 1 << 4 != 0,
        walk: w.info1 & 1 << 33 != 0,
    })
}

/// `APM: vol 2, 15.14.1`.
fn task_switch(w: &Words) -> Exit {
    let cause = if w.info2 & 1 << 36 != 0 {
        TaskSwitchCause::Iret
    } else if w.info2 & 1 << 38 != 0 {
        TaskSwitchCause::Jmp
    } else if w.int_info & 1 << 31 != 0 {
        TaskSwitchCause::Gate
    } else {
        TaskSwitchCause::Call
    };
    // Type 4 of an event is a software interrupt.
    let int_n = cause == TaskSwitchCause::Gate && w.int_info >> 8 & 7 == 4;
    Exit::TaskSwitch {
        selector: w.info1 as u16,
        cause,
        error_code: (w.info2 & 1 << 44 != 0).then_some(w.info2 as u32),
        int_n: int_n.then_some(w.int_info as u8),
    }
}

/// What an exit means. `assists`: the processor has decode assists (`APM: vol 2, 15.33`).
#[inline]
pub fn decode(w: &Words, assists: bool) -> Exit {
    match w.code {
        code::CPUID => Exit::Cpuid,
        code::NPF => nested_fault(w),
        code::IOIO => Exit::Io(io(w.info1)),
        code::MSR if w.info1 & 1 == 0 => Exit::Rdmsr,
        code::MSR => Exit::Wrmsr,
        code::HLT | code::IDLE_HLT => Exit::Hlt,
        code::INTR => Exit::HostInterrupt,
        code::VINTR => Exit::InterruptWindow,
        _ => decode_rare(w, assists),
    }
}

#[inline(never)]
fn decode_rare(w: &Words, assists: bool) -> Exit {
    match w.code {
        code::NMI => Exit::HostNmi,
        code::SMI => Exit::Smi,
        code::INIT => Exit::Init,
        code::CR_READ..=0x0f => cr(w.code, false, w.info1, assists),
        code::CR_WRITE..=0x1f => cr(w.code, true, w.info1, assists),
        code::DR_READ..=0x2f => dr(w.code, false, w.info1, assists),
        code::DR_WRITE..=0x3f => dr(w.code, true, w.info1, assists),
        code::EXCEPTION..=0x5f => exception(w),
        code::CR0_SEL_WRITE => cr(0, true, w.info1, assists),
        code::IDTR_READ | code::GDTR_READ | code::IDTR_WRITE | code::GDTR_WRITE => {
            Exit::DescriptorTable { table: None }
        }
        code::LDTR_READ | code::LDTR_WRITE => Exit::DescriptorTable {
            table: Some(SegReg::Ldtr),
        },
        code::TR_READ | code::TR_WRITE => Exit::DescriptorTable {
            table: Some(SegReg::Tr),
        },
        code::RDTSC => Exit::Rdtsc,
        code::RDPMC => Exit::Rdpmc,
        code::IRET => Exit::Iret,
        code::INVD => Exit::Invd,
        code::PAUSE => Exit::Pause,
        code::INVLPG => Exit::Invlpg(assists.then_some(Gva(w.info1))),
        code::TASK_SWITCH => task_switch(w),
        code::SHUTDOWN => Exit::Shutdown,
        code::VMMCALL => Exit::Hypercall,
        code::VMRUN | code::VMLOAD..=code::SKINIT | code::INVLPGA => Exit::VirtInstruction,
        code::RDTSCP => Exit::Rdtscp,
        code::ICEBP => Exit::Int1Ahead,
        code::WBINVD => Exit::Wbinvd,
        code::MONITOR => Exit::Monitor,
        code::MWAIT | code::MWAIT_ARMED => Exit::Mwait,
        code::XSETBV => Exit::Xsetbv,
        code::BUSLOCK => Exit::BusLock,
        // Intercepted only so that a guest that was not given them does not have them.
        code::RSM | code::RDPRU | code::INVLPGB..=code::TLBSYNC => Exit::Undefined,
        c if is_entry_failure(c) => Exit::EntryFailed { reason: c },
        code => Exit::Unknown { code },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(code: u64, info1: u64, info2: u64) -> Words {
        Words {
            code,
            info1,
            info2,
            ..Words::default()
        }
    }

    #[test]
    fn quick_agrees_with_decode() {
        for code in 0..0x500 {
            for info1 in [0, 1, 0x3f8_0011, 0x80_0020, 0x60_004d] {
                let full = decode(&words(code, info1, 0), false);
                let same = match quick(code, info1) {
                    Quick::Cpuid => full == Exit::Cpuid,
                    Quick::Rdmsr => full == Exit::Rdmsr,
                    Quick::Wrmsr => full == Exit::Wrmsr,
                    Quick::Hlt => full == Exit::Hlt,
                    Quick::Io => full == Exit::Io(io(info1)),
                    Quick::Other => true,
                };
                assert!(same, "{code:#x} {info1:#x}");
            }
        }
    }

    #[test]
    fn simple_codes() {
        for (code, exit) in [
            (code::CPUID, Exit::Cpuid),
            (code::HLT, Exit::Hlt),
            (code::IDLE_HLT, Exit::Hlt),
            (code::INTR, Exit::HostInterrupt),
            (code::NMI, Exit::HostNmi),
            (code::VINTR, Exit::InterruptWindow),
            (code::SHUTDOWN, Exit::Shutdown),
            (code::VMMCALL, Exit::Hypercall),
            (code::VMRUN, Exit::VirtInstruction),
            (code::VMLOAD, Exit::VirtInstruction),
            (code::SKINIT, Exit::VirtInstruction),
            (code::INVLPGA, Exit::VirtInstruction),
            (code::ICEBP, Exit::Int1Ahead),
            (code::RSM, Exit::Undefined),
            (code::INVPCID, Exit::Undefined),
            (code::MWAIT_ARMED, Exit::Mwait),
            (code::INVALID, Exit::EntryFailed { reason: u64::MAX }),
            (
                0xffff_ffff,
                Exit::EntryFailed {
                    reason: 0xffff_ffff,
                },
            ),
            (0x71, Exit::Unknown { code: 0x71 }),
            (0x403, Exit::Unknown { code: 0x403 }),
        ] {
            assert_eq!(decode(&words(code, 0, 0), true), exit, "code {code:#x}");
        }
    }

    #[test]
    fn msr_direction() {
        assert_eq!(decode(&words(code::MSR, 0, 0), false), Exit::Rdmsr);
        assert_eq!(decode(&words(code::MSR, 1, 0), false), Exit::Wrmsr);
    }

    #[test]
    fn io_word() {
        let acc = |info1| match decode(&words(code::IOIO, info1, 0), false) {
            Exit::Io(a) => a,
            e => panic!("{e:?}"),
        };
        // outb %al, $0x80: OUT, 8 bits.
        assert_eq!(
            acc(0x0080_0010),
            IoAccess {
                port: 0x80,
                size: 1,
                write: true,
                string: false,
                rep: false
            }
        );
        // rep insw on 0x1f0.
        assert_eq!(
            acc(0x01f0_002d),
            IoAccess {
                port: 0x1f0,
                size: 2,
                write: false,
                string: true,
                rep: true
            }
        );
        assert_eq!(acc(0xffff_0041).size, 4);
        assert_eq!(acc(0xffff_0041).port, 0xffff);
    }

    #[test]
    fn control_registers_with_and_without_assists() {
        let w = words(code::CR_WRITE + 4, CR_MOV | 3, 0);
        assert_eq!(
            decode(&w, true),
            Exit::Cr(CrAccess::Write { cr: 4, gpr: 3 })
        );
        assert_eq!(
            decode(&w, false),
            Exit::Cr(CrAccess::Undecoded { cr: 4, write: true })
        );
        assert_eq!(
            decode(&words(8, CR_MOV | 15, 0), true),
            Exit::Cr(CrAccess::Read { cr: 8, gpr: 15 })
        );
        // CLTS, LMSW and SMSW do not set the bit.
        assert_eq!(
            decode(&words(code::CR0_SEL_WRITE, 0, 0), true),
            Exit::Cr(CrAccess::Undecoded { cr: 0, write: true })
        );
        assert_eq!(
            decode(&words(code::CR0_SEL_WRITE, CR_MOV | 1, 0), true),
            Exit::Cr(CrAccess::Write { cr: 0, gpr: 1 })
        );
    }

    #[test]
    fn debug_registers() {
        let d = |code, assists| match decode(&words(code, 9, 0), assists) {
            Exit::Dr(d) => d,
            e => panic!("{e:?}"),
        };
        let read = d(0x27, true);
        assert_eq!((read.dr, read.gpr, read.write), (7, Some(9), false));
        let write = d(0x30, false);
        assert_eq!((write.dr, write.gpr, write.write), (0, None, true));
    }

    #[test]
    fn exceptions_carry_what_they_push() {
        let e = |code, info1, info2, dr6| {
            let w = Words {
                dr6,
                ..words(code, info1, info2)
            };
            match decode(&w, true) {
                Exit::Exception(e) => e,
                e => panic!("{e:?}"),
            }
        };
        assert_eq!(e(0x4e, 7, 0x1234, 0), Exception::page_fault(7, 0x1234));
        assert_eq!(e(0x46, 7, 0x1234, 0), Exception::ud());
        assert_eq!(e(0x51, 0, 0, 0).error_code, Some(0));
        // A single step: BS set, all the active-low bits still 1.
        assert_eq!(e(0x41, 0, 0, dr6::INIT | dr6::BS).payload, dr6::BS);
        // A bus lock clears its bit.
        assert_eq!(
            e(0x41, 0, 0, dr6::INIT & !dr6::BUS_LOCK).payload,
            dr6::BUS_LOCK
        );
    }

    #[test]
    fn nested_faults() {
        let f = |info1| match decode(&words(code::NPF, info1, 0xfee0_0020), false) {
            Exit::NestedFault(f) => f,
            e => panic!("{e:?}"),
        };
        let miss = f(0x1_0000_0004);
        assert_eq!(miss.gpa, Gpa(0xfee0_0020));
        assert!(!miss.present && !miss.write && !miss.fetch && !miss.walk);
        let write = f(0x1_0000_0007);
        assert!(write.present && write.write);
        assert!(f(0x2_0000_0006).walk);
        assert!(f(0x1_0000_001c).fetch && f(0x1_0000_001c).reserved);
    }

    #[test]
    fn task_switches() {
        let t = |info2, int_info| {
            let w = Words {
                int_info,
                ..words(code::TASK_SWITCH, 0x28, info2)
            };
            match decode(&w, true) {
                Exit::TaskSwitch {
                    selector,
                    cause,
                    error_code,
                    int_n,
                } => (selector, cause, error_code.or(int_n.map(u32::from))),
                e => panic!("{e:?}"),
            }
        };
        assert_eq!(t(0, 0), (0x28, TaskSwitchCause::Call, None));
        assert_eq!(t(1 << 36, 0).1, TaskSwitchCause::Iret);
        assert_eq!(t(1 << 38, 0).1, TaskSwitchCause::Jmp);
        assert_eq!(
            t(1 << 44 | 0x12, 0x8000_0308),
            (0x28, TaskSwitchCause::Gate, Some(0x12))
        );
        // The vector of INT n.
        assert_eq!(t(0, 0x8000_0440), (0x28, TaskSwitchCause::Gate, Some(0x40)));
    }

    #[test]
    fn no_word_makes_it_panic() {
        for code in (0..0x500).chain([u64::MAX, u64::MAX - 3]) {
            for info in [0, u64::MAX, 1 << 63, 0x5555_5555_5555_5555] {
                let w = Words {
                    code,
                    info1: info,
                    info2: info,
                    int_info: info as u32,
                    dr6: info,
                };
                decode(&w, true);
                decode(&w, false);
            }
        }
    }
}
