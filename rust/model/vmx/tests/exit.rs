// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, Default)]
struct W {
    qual: u64,
    gla: u64,
    gpa: u64,
    intr: u32,
    intr_err: u32,
    insn: u32,
    vec: u32,
    vec_err: u32,
}

impl Words for W {
    fn qualification(&self) -> u64 {
        self.qual
    }
    fn linear_address(&self) -> u64 {
        self.gla
    }
    fn physical_address(&self) -> u64 {
        self.gpa
    }
    fn intr_info(&self) -> u32 {
        self.intr
    }
    fn intr_error(&self) -> u32 {
        self.intr_err
    }
    fn insn_info(&self) -> u32 {
        self.insn
    }
    fn vectoring_info(&self) -> u32 {
        self.vec
    }
    fn vectoring_error(&self) -> u32 {
        self.vec_err
    }
}

fn qual(reason: u32, qual: u64) -> Exit {
    decode(
        reason,
        &W {
            qual,
            ..W::default()
        },
    )
}

#[test]
fn plain_reasons() {
    for (reason, exit) in [
        (1, Exit::HostInterrupt),
        (2, Exit::Shutdown),
        (3, Exit::Init),
        (4, Exit::Sipi),
        (5, Exit::Smi),
        (6, Exit::Smi),
        (7, Exit::InterruptWindow),
        (8, Exit::NmiWindow),
        (10, Exit::Cpuid),
        (11, Exit::Undefined),
        (12, Exit::Hlt),
        (13, Exit::Invd),
        (15, Exit::Rdpmc),
        (16, Exit::Rdtsc),
        (17, Exit::Undefined),
        (18, Exit::Hypercall),
        (31, Exit::Rdmsr),
        (32, Exit::Wrmsr),
        (36, Exit::Mwait),
        (39, Exit::Monitor),
        (40, Exit::Pause),
        (43, Exit::TprBelowThreshold),
        (46, Exit::DescriptorTable { table: None }),
        (50, Exit::VirtInstruction),
        (51, Exit::Rdtscp),
        (52, Exit::PreemptionTimer),
        (53, Exit::VirtInstruction),
        (54, Exit::Wbinvd),
        (55, Exit::Xsetbv),
        (58, Exit::Invlpg(None)),
        (60, Exit::Undefined),
        (62, Exit::DirtyLogFull),
        (74, Exit::BusLock),
        (76, Exit::Undefined),
        (77, Exit::Undefined),
        (84, Exit::Undefined),
        (85, Exit::Undefined),
        (35, Exit::Unknown { code: 35 }),
        (999, Exit::Unknown { code: 999 }),
    ] {
        assert_eq!(qual(reason, 0), exit, "reason {reason}");
    }
    for reason in 19..=27 {
        assert_eq!(qual(reason, 0), Exit::VirtInstruction);
    }
    // A bus lock that exits together with another reason does not hide it.
    assert_eq!(qual(10 | BUS_LOCK_TOO, 0), Exit::Cpuid);
    assert!(is_bus_lock(10 | BUS_LOCK_TOO) && is_bus_lock(74));
    assert!(!is_bus_lock(10) && !is_bus_lock(ENTRY_FAILED | 33 | BUS_LOCK_TOO));
}

#[test]
fn failed_entries_keep_their_word() {
    for reason in [0x8000_0021, 0x8000_0022, 0x8000_0029] {
        assert_eq!(
            qual(reason, 4),
            Exit::EntryFailed {
                reason: u64::from(reason)
            }
        );
    }
}

#[test]
fn exceptions_carry_what_they_push() {
    let e = |intr, intr_err, qual| {
        decode(
            0,
            &W {
                intr,
                intr_err,
                qual,
                ..W::default()
            },
        )
    };
    assert_eq!(
        e(0x8000_0b0e, 7, 0x1234),
        Exit::Exception(Exception::page_fault(7, 0x1234))
    );
    assert_eq!(e(0x8000_0306, 7, 9), Exit::Exception(Exception::ud()));
    // INT1 is not an exception of the processor's own.
    let db = Exception::new(exception::DB);
    assert_eq!(e(0x8000_0501, 0, 0), Exit::Int1(db));
    assert_eq!(e(0x8000_0301, 0, 0), Exit::Exception(db));
    assert_eq!(e(0x8000_0202, 0, 0), Exit::HostNmi);
    assert_eq!(
        e(0x8000_0603, 0, 0),
        Exit::Exception(Exception::new(exception::BP))
    );
    // A single step.
    assert_eq!(
        e(0x8000_0301, 0, 1 << 14),
        Exit::Exception(Exception {
            vector: exception::DB,
            error_code: None,
            payload: crate::x86::ctrl::dr6::BS
        })
    );
}

#[test]
fn control_registers() {
    let c = |q| match qual(28, q) {
        Exit::Cr(c) => c,
        e => panic!("{e:?}"),
    };
    assert_eq!(c(0x300), CrAccess::Write { cr: 0, gpr: 3 });
    assert_eq!(c(0xf14), CrAccess::Read { cr: 4, gpr: 15 });
    assert_eq!(c(0x108), CrAccess::Write { cr: 8, gpr: 1 });
    assert_eq!(c(0x20), CrAccess::Clts);
    assert_eq!(c(0x8005_0030), CrAccess::Lmsw(0x8005));
}

#[test]
fn debug_registers() {
    let d = |q| match qual(29, q) {
        Exit::Dr(d) => (d.dr, d.gpr, d.write),
        e => panic!("{e:?}"),
    };
    assert_eq!(d(0x907), (7, Some(9), true));
    assert_eq!(d(0x016), (6, Some(0), false));
}

#[test]
fn ports() {
    let a = |q| match qual(30, q) {
        Exit::Io(a) => a,
        e => panic!("{e:?}"),
    };
    assert_eq!(
        a(0x0080_0000),
        IoAccess {
            port: 0x80,
            size: 1,
            write: true,
            string: false,
            rep: false
        }
    );
    assert_eq!(
        a(0x01f0_0039),
        IoAccess {
            port: 0x1f0,
            size: 2,
            write: false,
            string: true,
            rep: true
        }
    );
    assert_eq!(a(0xffff_000b).size, 4);
}

#[test]
fn task_switches() {
    let t = |qual, vec| {
        let w = W {
            qual,
            vec,
            vec_err: 0x42,
            ..W::default()
        };
        match decode(9, &w) {
            Exit::TaskSwitch {
                selector,
                cause,
                error_code,
                int_n,
            } => (selector, cause, error_code.or(int_n.map(u32::from))),
            e => panic!("{e:?}"),
        }
    };
    assert_eq!(t(0x28, 0), (0x28, TaskSwitchCause::Call, None));
    assert_eq!(t(0x4000_0028, 0).1, TaskSwitchCause::Iret);
    assert_eq!(t(0x8000_0028, 0).1, TaskSwitchCause::Jmp);
    assert_eq!(
        t(0xc000_0030, 0x8000_0b0d),
        (0x30, TaskSwitchCause::Gate, Some(0x42))
    );
    assert_eq!(t(0xc000_0030, 0x0000_0b0d).2, None);
    // The vector of INT n.
    assert_eq!(t(0xc000_0030, 0x8000_0440).2, Some(0x40));
}

#[test]
fn nested_faults() {
    let f = |qual| {
        let w = W {
            qual,
            gpa: 0xfee0_0020,
            gla: 0x1000,
            ..W::default()
        };
        match decode(48, &w) {
            Exit::NestedFault(f) => f,
            e => panic!("{e:?}"),
        }
    };
    // The fetch of a hole that a first experiment met with.
    let miss = f(0x184);
    assert_eq!(miss.gpa, Gpa(0xfee0_0020));
    assert_eq!(miss.gva, Some(Gva(0x1000)));
    assert!(miss.fetch && !miss.present && !miss.write && !miss.walk);
    let write = f(0x1aa);
    assert!(write.present && write.write && !write.walk);
    let walk = f(0x81);
    assert!(walk.walk && walk.gva.is_none());
    // No linear address: the loading of PDPTEs.
    let pdpte = f(0x01);
    assert!(!pdpte.walk && pdpte.gva.is_none());
    let w = W {
        gpa: 0xfee0_0020,
        ..W::default()
    };
    assert_eq!(decode(49, &w), Exit::FastMmio(Gpa(0xfee0_0020)));
}

#[test]
fn apic_exits() {
    assert_eq!(
        qual(44, 0x1300),
        Exit::ApicAccess {
            offset: 0x300,
            write: true
        }
    );
    assert_eq!(
        qual(44, 0x0020),
        Exit::ApicAccess {
            offset: 0x20,
            write: false
        }
    );
    assert_eq!(qual(45, 0x31), Exit::Eoi { vector: 0x31 });
    assert_eq!(qual(56, 0x310), Exit::ApicWrite { offset: 0x310 });
    assert_eq!(qual(75, 1), Exit::NotifyWindow { invalid: true });
    assert_eq!(qual(14, 0x5000), Exit::Invlpg(Some(Gva(0x5000))));
}

#[test]
fn descriptor_tables() {
    let t = |insn| {
        decode(
            47,
            &W {
                insn,
                ..W::default()
            },
        )
    };
    for (n, table) in [
        (0, SegReg::Ldtr),
        (1, SegReg::Tr),
        (2, SegReg::Ldtr),
        (3, SegReg::Tr),
    ] {
        assert_eq!(
            t(n << 28),
            Exit::DescriptorTable { table: Some(table) },
            "instruction {n}"
        );
    }
}

#[test]
fn events_on_their_way_in() {
    let soft = |kind, vector| Event {
        kind,
        vector,
        error_code: None,
        insn_len: 2,
    };
    for (e, word, error) in [
        (Event::interrupt(0x31), 0x8000_0031, 0),
        (Event::nmi(), 0x8000_0202, 0),
        (Event::exception(&Exception::gp0()), 0x8000_0b0d, 0),
        (
            Event::exception(&Exception::with_code(exception::PF, 0x1_8007)),
            0x8000_0b0e,
            0x8007,
        ),
        (
            Event::exception(&Exception::new(exception::GP)),
            0x8000_030d,
            0,
        ),
        (soft(EventKind::SoftInterrupt, 0x80), 0x8000_0480, 0),
        (soft(EventKind::SoftException, 3), 0x8000_0603, 0),
        (soft(EventKind::PrivilegedSoftException, 1), 0x8000_0501, 0),
    ] {
        assert_eq!(encode_event(&e), (word, error), "{e:?}");
    }
}

proptest! {
    /// An event that was cut short is the one that was put in.
    #[test]
    fn events_come_back(vector: u8, kind in 0..6u32, code in proptest::option::of(0..0x1_0000u32)) {
        let kind = [
            EventKind::Interrupt,
            EventKind::Nmi,
            EventKind::Exception,
            EventKind::SoftInterrupt,
            EventKind::SoftException,
            EventKind::PrivilegedSoftException,
        ][kind as usize];
        let soft = matches!(
            kind,
            EventKind::SoftInterrupt
                | EventKind::SoftException
                | EventKind::PrivilegedSoftException
        );
        let e = Event {
            kind,
            vector,
            error_code: if kind == EventKind::Exception { code } else { None },
            insn_len: if soft { 2 } else { 0 },
        };
        let (word, error) = encode_event(&e);
        prop_assert_eq!(decode_event(word, || error, || 2), Some(e));
    }

    /// No word of hardware can make the decoder panic, and lengths are for instructions only.
    #[test]
    fn any_words(
        reason: u32, qual: u64, gla: u64, gpa: u64, intr: u32, intr_err: u32, insn: u32, vec: u32,
    ) {
        let w = W { qual, gla, gpa, intr, intr_err, insn, vec, vec_err: 1 };
        let e = decode(reason, &w);
        let _ = decode_event(vec, || 1, || 99);
        if matches!(
            e,
            Exit::HostInterrupt | Exit::NestedFault(_) | Exit::EntryFailed { .. }
                | Exit::InterruptWindow | Exit::Exception(_)
        ) {
            prop_assert!(!has_length(reason));
        }
    }
}

#[test]
fn nothing_was_cut_short() {
    let never = || -> u32 { panic!("asked for nothing") };
    assert_eq!(decode_event(0x0000_0b0d, never, never), None);
    assert_eq!(
        decode_event(0x8000_0031, never, never),
        Some(Event::interrupt(0x31))
    );
    // A type that does not exist.
    assert_eq!(decode_event(0x8000_0131, never, never), None);
}

#[test]
fn lengths_are_those_of_instructions() {
    for r in [
        reason::CPUID,
        // One that an instruction asked for; the others have no use for it.
        reason::TASK_SWITCH,
        reason::HLT,
        reason::RDMSR,
        reason::WRMSR,
        reason::IO,
        reason::CR_ACCESS,
        reason::VMCALL,
        reason::MWAIT,
        reason::XSETBV,
        reason::RDTSCP,
        reason::PAUSE,
    ] {
        assert!(has_length(r), "reason {r}");
    }
    for r in [
        reason::EXCEPTION_OR_NMI,
        reason::EXTERNAL_INTERRUPT,
        reason::INTERRUPT_WINDOW,
        reason::EPT_VIOLATION,
        reason::EPT_MISCONFIG,
        reason::TPR_BELOW_THRESHOLD,
        reason::PREEMPTION_TIMER,
        reason::PML_FULL,
        ENTRY_FAILED | reason::INVALID_GUEST_STATE,
    ] {
        assert!(!has_length(r), "reason {r:#x}");
    }
}

#[test]
fn errors_have_words() {
    assert_eq!(instruction_error(7), "invalid control fields");
    assert_eq!(instruction_error(14), "unknown");
}
