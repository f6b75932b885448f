// SPDX-License-Identifier: GPL-2.0

//! The ioctls of a vCPU, for `ops.rs`.

use super::cpuids;
use super::field;
use super::one_msr;
use super::op;
use super::value;
use super::On;
use super::Op;
use super::Stage;
use crate::guest;
use crate::sys::bytes_of;
use crate::sys::zeroed;
use crate::uapi as k;
use kvm_bindings::*;
use std::mem::offset_of;

/// Registers of a vCPU.
pub(super) fn registers(list: &mut Vec<Op>) {
    use On::Vcpu;
    list.extend([
        op(
            "GET_REGS",
            Vcpu,
            k::GET_REGS,
            |_| vec![0; size_of::<kvm_regs>()],
            &[],
        ),
        op(
            "SET_REGS",
            Vcpu,
            k::SET_REGS,
            |w| w.state(Vcpu, k::GET_REGS, size_of::<kvm_regs>()),
            &[field!(kvm_regs, rflags, 64), field!(kvm_regs, rip, 64)],
        ),
        op(
            "GET_SREGS",
            Vcpu,
            k::GET_SREGS,
            |_| vec![0; size_of::<kvm_sregs>()],
            &[],
        ),
        op(
            "SET_SREGS",
            Vcpu,
            k::SET_SREGS,
            |w| w.state(Vcpu, k::GET_SREGS, size_of::<kvm_sregs>()),
            &[
                field!(kvm_sregs, cr0, 64),
                field!(kvm_sregs, cr3, 64),
                field!(kvm_sregs, cr4, 64),
                field!(kvm_sregs, cr8, 64),
                field!(kvm_sregs, efer, 64),
                field!(kvm_sregs, apic_base, 64),
                field!(kvm_sregs, interrupt_bitmap, 256),
                ("cs.padding", 23, 8),
                ("gdt.padding", offset_of!(kvm_sregs, gdt) + 10, 48),
                ("cs.l", 16 + 6, 8),
                ("cs.type", 14, 8),
            ],
        ),
        op(
            "GET_SREGS2",
            Vcpu,
            k::GET_SREGS2,
            |_| vec![0; size_of::<kvm_sregs2>()],
            &[],
        ),
        op(
            "SET_SREGS2",
            Vcpu,
            k::SET_SREGS2,
            |w| w.state(Vcpu, k::GET_SREGS2, size_of::<kvm_sregs2>()),
            &[field!(kvm_sregs2, flags, 64), field!(kvm_sregs2, cr4, 64)],
        ),
        op(
            "GET_FPU",
            Vcpu,
            k::GET_FPU,
            |_| vec![0; size_of::<kvm_fpu>()],
            &[],
        ),
        op(
            "SET_FPU",
            Vcpu,
            k::SET_FPU,
            |w| w.state(Vcpu, k::GET_FPU, size_of::<kvm_fpu>()),
            &[
                field!(kvm_fpu, mxcsr, 32),
                field!(kvm_fpu, pad1, 8),
                field!(kvm_fpu, pad2, 32),
            ],
        ),
        op("GET_XSAVE", Vcpu, k::GET_XSAVE, |_| vec![0; 4096], &[]),
        op(
            "SET_XSAVE",
            Vcpu,
            k::SET_XSAVE,
            |w| w.state(Vcpu, k::GET_XSAVE, 4096),
            &[
                ("mxcsr", 24, 32),
                ("XSTATE_BV", 512, 64),
                ("XCOMP_BV", 520, 64),
                ("header", 528, 384),
                ("software", 464, 384),
            ],
        ),
        op(
            "GET_XSAVE2",
            Vcpu,
            k::GET_XSAVE2,
            |w| vec![0; guest::cap(&w.vm, KVM_CAP_XSAVE2).max(4096) as usize],
            &[],
        ),
        op(
            "GET_XCRS",
            Vcpu,
            k::GET_XCRS,
            |_| vec![0; size_of::<kvm_xcrs>()],
            &[],
        ),
        op(
            "SET_XCRS",
            Vcpu,
            k::SET_XCRS,
            |w| w.state(Vcpu, k::GET_XCRS, size_of::<kvm_xcrs>()),
            &[
                field!(kvm_xcrs, flags, 32),
                field!(kvm_xcrs, nr_xcrs, 32),
                ("xcr", 8, 32),
                ("reserved", 12, 32),
                ("value", 16, 64),
                ("others", 24, 15 * 128),
                field!(kvm_xcrs, padding, 1024),
            ],
        ),
        op(
            "GET_DEBUGREGS",
            Vcpu,
            k::GET_DEBUGREGS,
            |_| vec![0; size_of::<kvm_debugregs>()],
            &[],
        ),
        op(
            "SET_DEBUGREGS",
            Vcpu,
            k::SET_DEBUGREGS,
            |w| w.state(Vcpu, k::GET_DEBUGREGS, size_of::<kvm_debugregs>()),
            &[
                field!(kvm_debugregs, flags, 64),
                field!(kvm_debugregs, dr6, 64),
                field!(kvm_debugregs, dr7, 64),
                field!(kvm_debugregs, reserved, 576),
            ],
        ),
        op(
            "GET_MSRS",
            Vcpu,
            k::GET_MSRS,
            |_| one_msr(0x10),
            &[("pad", 4, 32)],
        ),
        op(
            "SET_MSRS",
            Vcpu,
            k::SET_MSRS,
            |_| one_msr(0x174),
            &[("pad", 4, 32), ("entry reserved", 12, 32)],
        ),
        op(
            "TRANSLATE",
            Vcpu,
            k::TRANSLATE,
            |_| vec![0; size_of::<kvm_translation>()],
            &[field!(kvm_translation, pad, 40)],
        ),
    ]);
}

/// Everything else of a vCPU.
pub(super) fn rest(list: &mut Vec<Op>) {
    use On::Vcpu;
    list.extend([
        value("RUN", Vcpu, k::RUN, 0),
        value("NMI", Vcpu, k::NMI, 0),
        value("KVMCLOCK_CTRL", Vcpu, k::KVMCLOCK_CTRL, 0),
        value("GET_TSC_KHZ", Vcpu, k::GET_TSC_KHZ, 0),
        value("SET_TSC_KHZ", Vcpu, k::SET_TSC_KHZ, 0),
        op("GET_LAPIC", Vcpu, k::GET_LAPIC, |_| vec![0; 1024], &[]),
        op(
            "SET_LAPIC",
            Vcpu,
            k::SET_LAPIC,
            |w| w.state(Vcpu, k::GET_LAPIC, 1024),
            &[
                ("id", 0x20, 32),
                ("version", 0x30, 32),
                ("svr", 0xf0, 32),
                ("lvt timer", 0x320, 32),
            ],
        ),
        op("GET_MP_STATE", Vcpu, k::GET_MP_STATE, |_| vec![0; 4], &[]),
        op(
            "SET_MP_STATE",
            Vcpu,
            k::SET_MP_STATE,
            |_| vec![0; 4],
            &[("mp_state", 0, 32)],
        ),
        op(
            "GET_VCPU_EVENTS",
            Vcpu,
            k::GET_VCPU_EVENTS,
            |_| vec![0; 64],
            &[],
        ),
        op(
            "SET_VCPU_EVENTS",
            Vcpu,
            k::SET_VCPU_EVENTS,
            |w| w.state(Vcpu, k::GET_VCPU_EVENTS, 64),
            &[
                field!(kvm_vcpu_events, flags, 32),
                field!(kvm_vcpu_events, sipi_vector, 32),
                ("exception.injected", 0, 8),
                ("exception.nr", 1, 8),
                ("exception.has_error_code", 2, 8),
                ("exception.pending", 3, 8),
                ("exception.error_code", 4, 32),
                ("interrupt.injected", 8, 8),
                ("interrupt.nr", 9, 8),
                ("interrupt.soft", 10, 8),
                ("interrupt.shadow", 11, 8),
                ("nmi.injected", 12, 8),
                ("nmi.pending", 13, 8),
                ("nmi.masked", 14, 8),
                ("nmi.pad", 15, 8),
                ("smi", 24, 32),
                ("triple_fault", 28, 8),
                ("reserved", 29, 208),
                field!(kvm_vcpu_events, exception_has_payload, 8),
                field!(kvm_vcpu_events, exception_payload, 64),
            ],
        ),
        op(
            "INTERRUPT",
            Vcpu,
            k::INTERRUPT,
            |_| bytes_of(&0x40u32),
            &[("irq", 0, 32)],
        )
        .early(Stage::Bare),
        op(
            "SET_GUEST_DEBUG",
            Vcpu,
            k::SET_GUEST_DEBUG,
            |_| vec![0; size_of::<kvm_guest_debug>()],
            &[
                field!(kvm_guest_debug, control, 32),
                field!(kvm_guest_debug, pad, 32),
                ("debugreg", 8, 512),
            ],
        ),
        op(
            "SET_SIGNAL_MASK",
            Vcpu,
            k::SET_SIGNAL_MASK,
            |_| {
                let mut b = vec![0; 12];
                b[0] = 8;
                b
            },
            &[("len", 0, 32)],
        ),
        op(
            "SET_CPUID",
            Vcpu,
            k::SET_CPUID,
            |_| vec![0; 8],
            &[("padding", 4, 32)],
        ),
        op(
            "SET_CPUID2",
            Vcpu,
            k::SET_CPUID2,
            |w| guest::supported_cpuid(&w.dev),
            &[("padding", 4, 32), ("entry padding", 8 + 28, 96)],
        ),
        op(
            "GET_CPUID2",
            Vcpu,
            k::GET_CPUID2,
            |_| cpuids(256),
            &[("padding", 4, 32)],
        ),
        op(
            "X86_SETUP_MCE",
            Vcpu,
            k::X86_SETUP_MCE,
            |_| bytes_of(&10u64),
            &[("cap", 0, 64)],
        ),
        op(
            "X86_SET_MCE",
            Vcpu,
            k::X86_SET_MCE,
            |_| {
                let mut m: kvm_x86_mce = zeroed();
                m.status = 1 << 63;
                bytes_of(&m)
            },
            &[
                ("bank", offset_of!(kvm_x86_mce, bank), 8),
                ("status", 0, 64),
                field!(kvm_x86_mce, pad1, 56),
                field!(kvm_x86_mce, pad2, 192),
            ],
        ),
        op(
            "SET_VAPIC_ADDR",
            Vcpu,
            k::SET_VAPIC_ADDR,
            |_| bytes_of(&0u64),
            &[("vapic_addr", 0, 64)],
        ),
        op(
            "TPR_ACCESS_REPORTING",
            Vcpu,
            k::TPR_ACCESS_REPORTING,
            |_| vec![0; size_of::<kvm_tpr_access_ctl>()],
            &[
                field!(kvm_tpr_access_ctl, enabled, 32),
                field!(kvm_tpr_access_ctl, flags, 32),
                field!(kvm_tpr_access_ctl, reserved, 256),
            ],
        ),
        op(
            "ENABLE_CAP",
            Vcpu,
            k::ENABLE_CAP,
            |_| {
                let mut e: kvm_enable_cap = zeroed();
                e.cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID;
                bytes_of(&e)
            },
            &[
                field!(kvm_enable_cap, flags, 32),
                field!(kvm_enable_cap, args, 256),
                field!(kvm_enable_cap, pad, 512),
            ],
        ),
    ]);
}
