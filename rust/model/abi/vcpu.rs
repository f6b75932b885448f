// SPDX-License-Identifier: GPL-2.0

//! What the vCPU descriptor takes: registers, FPU and extended state, events, debugging, the local
//! APIC, machine checks and nested state.

use super::{ioctls, uapi, values};
use super::{KvmCpuid, KvmCpuid2, KvmMsrs, KvmPreFaultMemory, KvmXenVcpuAttr};

uapi! {
    /// General registers, RIP and RFLAGS.
    pub struct KvmRegs("struct kvm_regs", 144) {
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        rsi: u64,
        rdi: u64,
        rsp: u64,
        rbp: u64,
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rip: u64,
        rflags: u64,
    }

    /// A segment register. `limit` is in bytes, whatever `g` says.
    pub struct KvmSegment("struct kvm_segment", 24) {
        base: u64,
        limit: u32,
        selector: u16,
        type_: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
        padding: u8,
    }

    /// GDTR or IDTR.
    pub struct KvmDtable("struct kvm_dtable", 16) {
        base: u64,
        limit: u16,
        padding: [u16; 3],
    }

    /// System registers. `interrupt_bitmap` names the one external interrupt being delivered.
    pub struct KvmSregs("struct kvm_sregs", 312) {
        cs: KvmSegment,
        ds: KvmSegment,
        es: KvmSegment,
        fs: KvmSegment,
        gs: KvmSegment,
        ss: KvmSegment,
        tr: KvmSegment,
        ldt: KvmSegment,
        gdt: KvmDtable,
        idt: KvmDtable,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        interrupt_bitmap: [u64; 4],
    }

    /// System registers with the PAE page-directory pointers.
    pub struct KvmSregs2("struct kvm_sregs2", 320) {
        cs: KvmSegment,
        ds: KvmSegment,
        es: KvmSegment,
        fs: KvmSegment,
        gs: KvmSegment,
        ss: KvmSegment,
        tr: KvmSegment,
        ldt: KvmSegment,
        gdt: KvmDtable,
        idt: KvmDtable,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        flags: u64,
        pdptrs: [u64; 4],
    }

    /// x87 and SSE state. `ftwx` is the abridged tag word of FXSAVE.
    pub struct KvmFpu("struct kvm_fpu", 416) {
        fpr: [[u8; 16]; 8],
        fcw: u16,
        fsw: u16,
        ftwx: u8,
        pad1: u8,
        last_opcode: u16,
        last_ip: u64,
        last_dp: u64,
        xmm: [[u8; 16]; 16],
        mxcsr: u32,
        pad2: u32,
    }

    /// The first 1024 bytes of the local APIC's register page.
    pub struct KvmLapicState("struct kvm_lapic_state", 1024) {
        regs: [u8; 1024],
    }

    /// Translates a linear address.
    pub struct KvmTranslation("struct kvm_translation", 24) {
        linear_address: u64,
        physical_address: u64,
        valid: u8,
        writeable: u8,
        usermode: u8,
        pad: [u8; 5],
    }

    /// Queues an external interrupt.
    pub struct KvmInterrupt("struct kvm_interrupt", 4) {
        irq: u32,
    }

    /// The header of `KVM_SET_SIGNAL_MASK`; `len` bytes of signal set follow.
    pub struct KvmSignalMask("struct kvm_signal_mask", 4) {
        len: u32,
    }

    /// Turns exits on TPR access on or off.
    pub struct KvmTprAccessCtl("struct kvm_tpr_access_ctl", 40) {
        enabled: u32,
        flags: u32,
        reserved: [u32; 8],
    }

    /// Where the guest's virtual APIC state is, a guest-physical address.
    pub struct KvmVapicAddr("struct kvm_vapic_addr", 8) {
        vapic_addr: u64,
    }

    /// Whether the vCPU runs, is halted or waits for INIT or SIPI.
    pub struct KvmMpState("struct kvm_mp_state", 4) {
        mp_state: u32,
    }

    /// The debug registers user space supplies.
    pub struct KvmGuestDebugArch("struct kvm_guest_debug_arch", 64) {
        debugreg: [u64; 8],
    }

    /// How user space debugs the guest. `control` holds `KVM_GUESTDBG_*`.
    pub struct KvmGuestDebug("struct kvm_guest_debug", 72) {
        control: u32,
        pad: u32,
        arch: KvmGuestDebugArch,
    }

    /// A pending or injected exception.
    pub struct KvmEventException("struct kvm_vcpu_events" :: "exception", 8) {
        injected: u8,
        nr: u8,
        has_error_code: u8,
        pending: u8,
        error_code: u32,
    }

    /// An injected external interrupt and the interrupt shadow.
    pub struct KvmEventInterrupt("struct kvm_vcpu_events" :: "interrupt", 4) {
        injected: u8,
        nr: u8,
        soft: u8,
        shadow: u8,
    }

    /// Non-maskable interrupts.
    pub struct KvmEventNmi("struct kvm_vcpu_events" :: "nmi", 4) {
        injected: u8,
        pending: u8,
        masked: u8,
        pad: u8,
    }

    /// System-management interrupts.
    pub struct KvmEventSmi("struct kvm_vcpu_events" :: "smi", 4) {
        smm: u8,
        pending: u8,
        smm_inside_nmi: u8,
        latched_init: u8,
    }

    /// A pending triple fault.
    pub struct KvmEventTripleFault("struct kvm_vcpu_events" :: "triple_fault", 1) {
        pending: u8,
    }

    /// Everything that waits to be delivered. `flags` holds `KVM_VCPUEVENT_VALID_*`.
    pub struct KvmVcpuEvents("struct kvm_vcpu_events", 64) {
        exception: KvmEventException,
        interrupt: KvmEventInterrupt,
        nmi: KvmEventNmi,
        sipi_vector: u32,
        flags: u32,
        smi: KvmEventSmi,
        triple_fault: KvmEventTripleFault,
        reserved: [u8; 26],
        exception_has_payload: u8,
        exception_payload: u64,
    }

    /// Debug registers.
    pub struct KvmDebugregs("struct kvm_debugregs", 128) {
        db: [u64; 4],
        dr6: u64,
        dr7: u64,
        flags: u64,
        reserved: [u64; 9],
    }

    /// Extended state in the standard XSAVE format. More may follow, up to the size that
    /// `KVM_CAP_XSAVE2` answers.
    pub struct KvmXsave("struct kvm_xsave", 4096) {
        region: [u32; 1024],
    }

    /// One extended control register.
    pub struct KvmXcr("struct kvm_xcr", 16) {
        xcr: u32,
        reserved: u32,
        value: u64,
    }

    /// Extended control registers, of which only XCR0 exists.
    pub struct KvmXcrs("struct kvm_xcrs", 392) {
        nr_xcrs: u32,
        flags: u32,
        xcrs: [KvmXcr; 16],
        padding: [u64; 16],
    }

    /// A machine check to inject.
    pub struct KvmX86Mce("struct kvm_x86_mce", 64) {
        status: u64,
        addr: u64,
        misc: u64,
        mcg_status: u64,
        bank: u8,
        pad1: [u8; 7],
        pad2: [u64; 3],
    }

    /// A register named by an id; `addr` is the user address of its value.
    pub struct KvmOneReg("struct kvm_one_reg", 16) {
        id: u64,
        addr: u64,
    }

    /// The header of a list of register ids; `n` words of 8 bytes follow.
    pub struct KvmRegList("struct kvm_reg_list", 8) {
        n: u64,
    }

    /// Nested state of VMX: where the pointers are.
    pub struct KvmVmxNestedStateHdr("struct kvm_vmx_nested_state_hdr", 32) {
        vmxon_pa: u64,
        vmcs12_pa: u64,
        smm: u16,
        pad: u16,
        flags: u32,
        preemption_timer_deadline: u64,
    }

    /// Nested state of SVM: where the VMCB is.
    pub struct KvmSvmNestedStateHdr("struct kvm_svm_nested_state_hdr", 16) {
        vmcb_pa: u64,
        gpat: u64,
    }

    /// The header of nested state. `hdr` starts with a [`KvmVmxNestedStateHdr`] or a
    /// [`KvmSvmNestedStateHdr`]; the images of the VMCS and its shadow, or of the VMCB, follow.
    pub struct KvmNestedState("struct kvm_nested_state", 128) {
        flags: u16,
        format: u16,
        size: u32,
        hdr: [u64; 15],
    }

    /// The registers that can be exchanged through the shared page.
    pub struct KvmSyncRegs("struct kvm_sync_regs", 520) {
        regs: KvmRegs,
        sregs: KvmSregs,
        events: KvmVcpuEvents,
    }
}

values! {
    u32 KVM_NR_INTERRUPTS = 256;
    u32 KVM_APIC_REG_SIZE = 0x400;
    u32 KVM_MAX_XCRS = 16;
    u64 KVM_SREGS2_FLAGS_PDPTRS_VALID = 1;

    u32 KVM_MP_STATE_RUNNABLE = 0;
    u32 KVM_MP_STATE_UNINITIALIZED = 1;
    u32 KVM_MP_STATE_INIT_RECEIVED = 2;
    u32 KVM_MP_STATE_HALTED = 3;
    u32 KVM_MP_STATE_SIPI_RECEIVED = 4;
    u32 KVM_MP_STATE_STOPPED = 5;
    u32 KVM_MP_STATE_AP_RESET_HOLD = 9;

    u32 KVM_GUESTDBG_ENABLE = 1;
    u32 KVM_GUESTDBG_SINGLESTEP = 2;
    u32 KVM_GUESTDBG_USE_SW_BP = 0x0001_0000;
    u32 KVM_GUESTDBG_USE_HW_BP = 0x0002_0000;
    u32 KVM_GUESTDBG_INJECT_DB = 0x0004_0000;
    u32 KVM_GUESTDBG_INJECT_BP = 0x0008_0000;
    u32 KVM_GUESTDBG_BLOCKIRQ = 0x0010_0000;

    u32 KVM_VCPUEVENT_VALID_NMI_PENDING = 1 << 0;
    u32 KVM_VCPUEVENT_VALID_SIPI_VECTOR = 1 << 1;
    u32 KVM_VCPUEVENT_VALID_SHADOW = 1 << 2;
    u32 KVM_VCPUEVENT_VALID_SMM = 1 << 3;
    u32 KVM_VCPUEVENT_VALID_PAYLOAD = 1 << 4;
    u32 KVM_VCPUEVENT_VALID_TRIPLE_FAULT = 1 << 5;
    u8 KVM_X86_SHADOW_INT_MOV_SS = 1;
    u8 KVM_X86_SHADOW_INT_STI = 2;

    u64 KVM_SYNC_X86_REGS = 1 << 0;
    u64 KVM_SYNC_X86_SREGS = 1 << 1;
    u64 KVM_SYNC_X86_EVENTS = 1 << 2;
    u64 KVM_SYNC_X86_VALID_FIELDS = 7;

    u64 KVM_REG_ARCH_MASK = 0xff00_0000_0000_0000;
    u64 KVM_REG_X86 = 0x2000_0000_0000_0000;
    u64 KVM_REG_SIZE_MASK = 0x00f0_0000_0000_0000;
    u32 KVM_REG_SIZE_SHIFT = 52;
    u64 KVM_REG_SIZE_U8 = 0;
    u64 KVM_REG_SIZE_U16 = 0x0010_0000_0000_0000;
    u64 KVM_REG_SIZE_U32 = 0x0020_0000_0000_0000;
    u64 KVM_REG_SIZE_U64 = 0x0030_0000_0000_0000;
    u64 KVM_X86_REG_TYPE_MSR = 2;
    u64 KVM_X86_REG_TYPE_KVM = 3;
    u64 KVM_REG_GUEST_SSP = 0;

    u16 KVM_STATE_NESTED_FORMAT_VMX = 0;
    u16 KVM_STATE_NESTED_FORMAT_SVM = 1;
    u16 KVM_STATE_NESTED_GUEST_MODE = 1;
    u16 KVM_STATE_NESTED_RUN_PENDING = 2;
    u16 KVM_STATE_NESTED_EVMCS = 4;
    u16 KVM_STATE_NESTED_MTF_PENDING = 8;
    u16 KVM_STATE_NESTED_GIF_SET = 0x100;
    u16 KVM_STATE_NESTED_SMM_GUEST_MODE = 1;
    u16 KVM_STATE_NESTED_SMM_VMXON = 2;
    u32 KVM_STATE_NESTED_VMX_VMCS_SIZE = 0x1000;
    u32 KVM_STATE_NESTED_SVM_VMCB_SIZE = 0x1000;
    u32 KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE = 1;

    u32 KVM_VCPU_TSC_CTRL = 0;
    u64 KVM_VCPU_TSC_OFFSET = 0;
}

/// The id of an MSR for `KVM_GET_ONE_REG`.
pub const fn reg_id_msr(index: u32) -> u64 {
    // CAST: widening.
    KVM_REG_X86 | KVM_REG_SIZE_U64 | (KVM_X86_REG_TYPE_MSR << 32) | index as u64
}

ioctls! {
    KVM_RUN = None 0x80;
    KVM_GET_REGS = Read 0x81, KvmRegs;
    KVM_SET_REGS = Write 0x82, KvmRegs;
    KVM_GET_SREGS = Read 0x83, KvmSregs;
    KVM_SET_SREGS = Write 0x84, KvmSregs;
    KVM_TRANSLATE = ReadWrite 0x85, KvmTranslation;
    KVM_INTERRUPT = Write 0x86, KvmInterrupt;
    KVM_SET_MSRS = Write 0x89, KvmMsrs;
    KVM_SET_CPUID = Write 0x8a, KvmCpuid;
    KVM_SET_SIGNAL_MASK = Write 0x8b, KvmSignalMask;
    KVM_GET_FPU = Read 0x8c, KvmFpu;
    KVM_SET_FPU = Write 0x8d, KvmFpu;
    KVM_GET_LAPIC = Read 0x8e, KvmLapicState;
    KVM_SET_LAPIC = Write 0x8f, KvmLapicState;
    KVM_SET_CPUID2 = Write 0x90, KvmCpuid2;
    KVM_GET_CPUID2 = ReadWrite 0x91, KvmCpuid2;
    KVM_TPR_ACCESS_REPORTING = ReadWrite 0x92, KvmTprAccessCtl;
    KVM_SET_VAPIC_ADDR = Write 0x93, KvmVapicAddr;
    KVM_GET_MP_STATE = Read 0x98, KvmMpState;
    KVM_SET_MP_STATE = Write 0x99, KvmMpState;
    KVM_NMI = None 0x9a;
    KVM_SET_GUEST_DEBUG = Write 0x9b, KvmGuestDebug;
    KVM_X86_SETUP_MCE = Write 0x9c, u64;
    KVM_X86_SET_MCE = Write 0x9e, KvmX86Mce;
    KVM_GET_VCPU_EVENTS = Read 0x9f, KvmVcpuEvents;
    KVM_SET_VCPU_EVENTS = Write 0xa0, KvmVcpuEvents;
    KVM_GET_DEBUGREGS = Read 0xa1, KvmDebugregs;
    KVM_SET_DEBUGREGS = Write 0xa2, KvmDebugregs;
    KVM_GET_XSAVE = Read 0xa4, KvmXsave;
    KVM_SET_XSAVE = Write 0xa5, KvmXsave;
    KVM_GET_XCRS = Read 0xa6, KvmXcrs;
    KVM_SET_XCRS = Write 0xa7, KvmXcrs;
    KVM_GET_ONE_REG = Write 0xab, KvmOneReg;
    KVM_SET_ONE_REG = Write 0xac, KvmOneReg;
    KVM_KVMCLOCK_CTRL = None 0xad;
    KVM_GET_REG_LIST = ReadWrite 0xb0, KvmRegList;
    KVM_SMI = None 0xb7;
    KVM_GET_NESTED_STATE = ReadWrite 0xbe, KvmNestedState;
    KVM_SET_NESTED_STATE = Write 0xbf, KvmNestedState;
    KVM_XEN_VCPU_GET_ATTR = ReadWrite 0xca, KvmXenVcpuAttr;
    KVM_XEN_VCPU_SET_ATTR = Write 0xcb, KvmXenVcpuAttr;
    KVM_GET_SREGS2 = Read 0xcc, KvmSregs2;
    KVM_SET_SREGS2 = Write 0xcd, KvmSregs2;
    /// Writes as many bytes as `KVM_CAP_XSAVE2` answers, at least 4096.
    KVM_GET_XSAVE2 = Read 0xcf, KvmXsave;
    KVM_PRE_FAULT_MEMORY = ReadWrite 0xd5, KvmPreFaultMemory;
}
