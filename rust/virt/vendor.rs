// SPDX-License-Identifier: GPL-2.0

//! The vendor seam: what a virtualization extension must be able to do.
//!
//! [`Vendor`] is implemented by `svm::Svm` and `vmx::Vmx`. The module chooses one when it is loaded;
//! everything above is generic over it and compiled once for each, so that no indirect call lies
//! between an exit and the next entry. What a vendor cannot do it says in a value ([`Features`],
//! `Option`, `bool`); what would follow from having it then does nothing.
//!
//! A function that reaches hardware state takes [`Loaded`]: that the vCPU is loaded on this CPU. The
//! scheduler may move the task at any time; the hook reloads the vCPU where it lands, so `Loaded`
//! stays true. The hook itself sees only [`Vendor::Cpu`], never the `&mut` state. What the entry
//! code of both vendors switches alike is on `Loaded` itself (`crate::entry`): XCR0, IA32_XSS, PKRU
//! and the breakpoint addresses.

use crate::regs::GuestRegs;
use crate::tdp::RootRef;
use core::sync::atomic::AtomicU64;
use host::hwvirt::AllOff;
use host::page::HwPage;
use host::page::PageOf;
use host::pin::IrqsOff;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::addr::Gfn;
use model::exit::Event;
use model::exit::Exit;
use model::exit::IoAccess;
use model::exit::Quick;
use model::irqchip::pending::Pending;
use model::tdp::Format;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;

pub(crate) mod private {
    use crate::presence::Presence;
    use host::pin::PinnedCpu;
    use kernel::error::Result;

    /// Keeps [`super::Vendor`] to this crate.
    pub trait Sealed {}

    /// A vCPU with the part that both vendors' entry code shares.
    #[expect(
        unreachable_pub,
        reason = "a bound of the public trait that none but us can name"
    )]
    pub trait HasEntry {
        /// That part.
        fn entry(&self) -> &crate::entry::Entry;
        /// That part, to be changed.
        fn entry_mut(&mut self) -> &mut crate::entry::Entry;
        /// What it knows of the translations its CPU may hold.
        fn tlb(&self) -> &crate::tdp::Tlb;
    }

    /// What happens on a CPU when the extension goes on and off there: `crate::hooks` alone does it.
    #[expect(
        unreachable_pub,
        reason = "a bound of the public trait that none but us can name"
    )]
    pub trait OnCpus {
        /// Prepares this CPU after the kernel switched the extension on.
        fn cpu_online(&'static self, cpu: &PinnedCpu<'_>) -> Result;
        /// Takes everything of ours off this CPU before the kernel switches the extension off.
        fn cpu_offline(&self, cpu: &PinnedCpu<'_>);
        /// The same in an emergency: no locks, no allocation, no log; may be in NMI context.
        fn cpu_emergency(&self);
    }

    /// What the scheduler hook does with its half of a vCPU. Nobody else may: a VMCS that became
    /// current would be entered and written to in the place of the one that is loaded.
    #[expect(
        unreachable_pub,
        reason = "a bound of the public trait that none but us can name"
    )]
    pub trait Resident {
        /// Whether the vCPU is on a CPU and has been entered there.
        fn presence(&self) -> &Presence;
        /// Makes the vCPU resident on this CPU. Scheduler context: preemption off, maybe IRQs off.
        fn load(&self, cpu: &PinnedCpu<'_>);
        /// The task leaves the CPU.
        fn put(&self, cpu: &PinnedCpu<'_>);
    }
}

/// What the hardware of this host offers, in vendor-neutral terms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// Levels of the nested page tables, 4 or 5.
    pub tdp_levels: u8,
    /// Largest leaf of the nested page tables: 1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB.
    pub tdp_max_level: u8,
    /// The hardware maintains accessed and dirty bits in the nested page tables.
    pub tdp_ad: bool,
    /// The hardware reports the length of the instruction that exited.
    pub insn_length: bool,
    /// The hardware tracks NMI blocking, and IRET is not intercepted for it.
    pub virtual_nmi: bool,
    /// The guest's TSC can run at another rate than the host's.
    pub tsc_scaling: bool,
    /// Fraction bits of the TSC multiplier; 0 without scaling.
    pub tsc_frac_bits: u8,
    /// Real mode and unpaged protected mode run directly. Without, [`Vendor::identity_map`] is needed
    /// and [`Vendor::must_emulate`] has to be asked.
    pub unrestricted_guest: bool,
    /// Real mode can have segments anywhere, of any size, by hardware or by emulation.
    pub big_real_mode: bool,
    /// Hardware delivers the interrupts that the page of the local APIC's registers says are requested
    /// ([`Vendor::share_apic_page`]).
    pub virtual_apic: bool,
    /// In x2APIC mode the halves of the interrupt command register lie apart, as AMD's hardware has it.
    pub icr_split: bool,
    /// Hardware can write down which pages the guest writes to ([`Vendor::set_write_log`]).
    pub write_log: bool,
    /// Hardware can end a run at a time ([`Vendor::set_deadline`]).
    pub deadline_timer: bool,
    /// PAUSE can be intercepted in loops.
    pub pause_exits: bool,
    /// The guest's own memory types can be let count for its memory, and are harmless.
    pub guest_pat: bool,
    /// MONITOR/MWAIT exist on the host and may be passed through.
    pub mwait: bool,
    /// RDTSCP and TSC_AUX may be given to the guest.
    pub rdtscp: bool,
    /// INVPCID may be given to the guest.
    pub invpcid: bool,
    /// XSAVES may be given to the guest.
    pub xsaves: bool,
    /// UMIP is not in hardware, and is made of exits where a guest switches it on.
    pub umip_by_exits: bool,
    /// Entries flush the L1 data cache where the processor needs it: no guest need do so before its own
    /// guests. False if the administrator switched that off.
    pub l1d_flushed: bool,
    /// Bus-lock exits exist.
    pub bus_lock_exit: bool,
}

/// MSRs that a guest may be let at without an exit. The list is closed: what is not here cannot be
/// passed through, whatever the code above asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PassthroughMsr {
    /// IA32_SYSENTER_CS.
    SysenterCs,
    /// IA32_SYSENTER_ESP.
    SysenterEsp,
    /// IA32_SYSENTER_EIP.
    SysenterEip,
    /// STAR.
    Star,
    /// LSTAR.
    Lstar,
    /// CSTAR.
    Cstar,
    /// SYSCALL_MASK.
    SyscallMask,
    /// FS_BASE.
    FsBase,
    /// GS_BASE.
    GsBase,
    /// KERNEL_GS_BASE.
    KernelGsBase,
    /// IA32_TSC, for reading only.
    Tsc,
    /// IA32_SPEC_CTRL.
    SpecCtrl,
    /// IA32_PRED_CMD.
    PredCmd,
    /// IA32_FLUSH_CMD.
    FlushCmd,
    /// IA32_APERF, for reading only.
    Aperf,
    /// IA32_MPERF, for reading only.
    Mperf,
    /// Time a core spent in sleep states (C1, C3, C6, C7), for reading only; Intel's.
    CoreC1Residency,
    /// See [`PassthroughMsr::CoreC1Residency`].
    CoreC3Residency,
    /// See [`PassthroughMsr::CoreC1Residency`].
    CoreC6Residency,
    /// See [`PassthroughMsr::CoreC1Residency`].
    CoreC7Residency,
}

/// Which accesses to a passed-through MSR do not exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MsrAccess {
    /// RDMSR does not exit.
    pub read: bool,
    /// WRMSR does not exit.
    pub write: bool,
}

/// Instructions and events whose interception the code above may switch. The ones that guard the
/// host are always intercepted and have no name here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trap {
    /// HLT.
    Hlt,
    /// PAUSE.
    Pause,
    /// MWAIT and MONITOR.
    Mwait,
    /// MOV to and from the debug registers. While they do not trap, every exit reads the
    /// breakpoint addresses back, which is slow: switch the trap on again soon.
    DebugRegisters,
    /// CR8 writes, while an interrupt waits for a lower priority.
    Cr8Write,
    /// RDTSCP, on from the start: for guests that were not given it.
    Rdtscp,
    /// INVPCID, on from the start: for guests that were not given it. Exits as `Exit::Undefined`.
    Invpcid,
    /// XSAVES and XRSTORS, on from the start: for guests that were not given them. They are undefined
    /// then, without an exit; nothing where the processor has no such control.
    Xsaves,
    /// RDRAND, on from the start: for guests that were not given it. Exits as `Exit::Undefined`;
    /// nothing where the processor has no such control.
    Rdrand,
    /// RDSEED, the same.
    Rdseed,
    /// Bus locks, where they can ([`Features::bus_lock_exit`]).
    BusLock,
    /// Stores and loads of descriptor-table registers, for UMIP emulation.
    DescriptorTables,
    /// CR0 while the guest has caching switched off in it, on from the start: the guest then runs
    /// with caching all the same. Nothing where hardware keeps the host's bits by itself.
    CachingOff,
}

/// What of the local APIC's registers hardware may carry out by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtualApic {
    /// The local APIC is disabled: nothing.
    Off,
    /// It is reached through memory: interrupts are delivered, and accesses to the page of
    /// [`Vendor::apic_access_page`] carried out.
    XApic,
    /// It is reached by MSRs: the task priority, the end of an interrupt and self-IPIs, too.
    X2Apic,
}

/// What kind of event a window is asked about or for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// External interrupts: RFLAGS.IF and no shadow.
    Interrupt,
    /// NMIs: not blocked, no shadow.
    Nmi,
}

/// What the hardware said when it refused to enter, for the log and for KVM_EXIT_FAIL_ENTRY.
#[derive(Clone, Copy, Debug, Default)]
pub struct EntryFailure {
    /// The hardware's reason word.
    pub reason: u64,
    /// Host CPU number.
    pub cpu: u32,
}

/// The raw words of the last exit, for tracepoints and KVM_EXIT_INTERNAL_ERROR.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawExit {
    /// Exit reason or exit code.
    pub reason: u64,
    /// EXITINFO1, or the exit qualification.
    pub info1: u64,
    /// EXITINFO2, or the IDT-vectoring information.
    pub info2: u64,
    /// EXITINTINFO, or the interruption information of the exit.
    pub intr_info: u32,
    /// Error code that belongs to it.
    pub error_code: u32,
}

/// A hardware virtualization extension.
pub trait Vendor: private::Sealed + Sized + 'static {
    /// `"kvm_amd"` or `"kvm_intel"`.
    const NAME: &'static CStr;
    /// The bytes of VMMCALL or VMCALL.
    const HYPERCALL: [u8; 3];

    /// Probed capabilities; that it exists proves that the extension can be used.
    type Module: private::OnCpus + Send + Sync + 'static;
    /// What all vCPUs of a VM share.
    type Vm: Send + Sync + 'static;
    /// The control block and the registers of one vCPU.
    type Vcpu: private::HasEntry + Send + 'static;
    /// What the scheduler hook needs of a vCPU: atomics only.
    type Cpu: private::Resident + Send + Sync + 'static;
    /// Entry format of the nested page tables.
    type Format: Format;

    /// Looks at the CPU. EOPNOTSUPP with a line in the log when it cannot be used. Called for each set
    /// of parameters.
    fn probe(off: &AllOff) -> Result<Self::Module>;
    /// What the hardware offers.
    fn features(m: &Self::Module) -> &Features;
    /// Was it probed with the parameters as they are set now?
    fn probed_as_set(m: &Self::Module) -> bool;
    /// Makes it the one that CPUs are switched on for, and shows in the parameters what is in effect.
    fn install(m: &'static Self::Module, off: &AllOff);
    /// The shape of nested page tables with this many levels; EINVAL if the hardware cannot use it.
    fn tdp_config(m: &Self::Module, levels: u8) -> Result<model::tdp::Config>;

    /// Makes the per-VM part.
    fn new_vm(m: &'static Self::Module) -> Result<Self::Vm>;
    /// Where the address of the identity map goes: of a guest-physical page that hardware takes for a
    /// page directory while the guest has paging off. To be set before the first vCPU is made. `None`
    /// if hardware needs none.
    fn identity_map(vm: &Self::Vm) -> Option<&AtomicU64>;
    /// The page that stands for the registers of the local APIC in the nested tables: accesses of a vCPU
    /// whose mode is [`VirtualApic::XApic`] go to the page of [`Vendor::share_apic_page`] instead. `None`
    /// if hardware leaves such accesses to us.
    fn apic_access_page(vm: &Self::Vm) -> Option<Arc<HwPage>>;
    /// Makes a vCPU in its reset state, not intercepting less than is safe. Maybe EBUSY while this
    /// thread has one loaded.
    fn new_vcpu(m: &'static Self::Module, vm: &Self::Vm) -> Result<(Self::Vcpu, Self::Cpu)>;
    /// Do the two halves belong to the same vCPU?
    fn paired(v: &Self::Vcpu, c: &Self::Cpu) -> bool;

    /// Puts registers and control block into the state of RESET (`init` false) or INIT (true).
    /// Traps and windows are then as at first, and after RESET no MSR is passed through.
    fn reset(l: &mut Loaded<'_, Self>, init: bool);
    /// Runs the guest until the next exit. IRQs are off before and after; a host interrupt or NMI
    /// that ended the run has been handled by the kernel when this returns.
    fn enter(l: &mut Loaded<'_, Self>, irqs: &IrqsOff<'_>);
    /// Must the next instruction be emulated, because hardware cannot run the guest in the state it is
    /// in? Asked before each entry.
    fn must_emulate(l: &Loaded<'_, Self>) -> bool;
    /// Ends runs of the guest when this host's TSC reaches `tsc`, or maybe a little earlier, with
    /// `Exit::PreemptionTimer`. False if hardware has no such timer ([`Features::deadline_timer`]).
    fn set_deadline(l: &mut Loaded<'_, Self>, tsc: Option<u64>) -> bool;
    /// Where the registers of the local APIC shall be for hardware to have a share in them; `None` if
    /// it has none ([`Features::virtual_apic`]). Once, for a vCPU that has a local APIC.
    fn share_apic_page(v: &mut Self::Vcpu) -> Option<Arc<HwPage>>;
    /// Lets hardware take posted vectors from the mailbox while the guest runs; false if it does not.
    fn share_mailbox(l: &mut Loaded<'_, Self>, mailbox: &Arc<PageOf<Pending>>) -> bool;
    /// Follows the mode of the local APIC that hardware has a share in.
    fn set_virtual_apic(l: &mut Loaded<'_, Self>, mode: VirtualApic);
    /// Which vectors' EOIs exit, one bit each, where hardware carries out EOIs.
    fn set_eoi_exits(l: &mut Loaded<'_, Self>, vectors: &[u64; 4]);
    /// The highest vectors requested and in service, 0 for none: before each entry while hardware
    /// delivers them.
    fn set_interrupt_status(l: &mut Loaded<'_, Self>, requested: u8, in_service: u8);
    /// Lets hardware write down which pages the guest writes to, as it sets their dirty flags, or stops
    /// that. False if it cannot ([`Features::write_log`]). Off after RESET and INIT.
    fn set_write_log(l: &mut Loaded<'_, Self>, on: bool) -> bool;
    /// Hands over what was written down since the last time. To be asked after each exit while it is
    /// on; else there is nothing.
    fn take_written(l: &mut Loaded<'_, Self>, f: &mut dyn FnMut(Gfn));
    /// Was an interrupt of the host what ended the last run? It is [`Exit::HostInterrupt`] then.
    fn interrupted(l: &Loaded<'_, Self>) -> bool;
    /// What the last exit was, if it is a frequent one.
    fn quick(l: &Loaded<'_, Self>) -> Quick;
    /// The port access that was the last exit: to be asked after one only.
    fn port_access(l: &Loaded<'_, Self>) -> IoAccess;
    /// What the last exit was.
    fn decode(l: &mut Loaded<'_, Self>) -> Exit;
    /// Was the last exit a bus lock, or one besides? While [`Trap::BusLock`] is on.
    fn bus_locked(l: &Loaded<'_, Self>) -> bool;
    /// The last exit as the hardware put it.
    fn raw_exit(l: &Loaded<'_, Self>) -> RawExit;
    /// Why the last entry failed.
    fn entry_failure(l: &Loaded<'_, Self>) -> EntryFailure;
    /// Instruction bytes that the hardware recorded at the exit, at most 15; empty if none.
    fn insn_bytes<'a>(l: &'a Loaded<'_, Self>) -> &'a [u8];
    /// RIP of the instruction after the one that exited, if the hardware tells.
    fn next_rip(l: &Loaded<'_, Self>) -> Option<u64>;

    /// General-purpose registers. RSP in it is stale: use [`Vendor::rsp`].
    fn regs<'a>(l: &'a Loaded<'_, Self>) -> &'a GuestRegs;
    /// General-purpose registers to change; RSP in it is ignored.
    fn regs_mut<'a>(l: &'a mut Loaded<'_, Self>) -> &'a mut GuestRegs;
    /// RSP.
    fn rsp(l: &Loaded<'_, Self>) -> u64;
    /// Sets RSP.
    fn set_rsp(l: &mut Loaded<'_, Self>, v: u64);
    /// RIP.
    fn rip(l: &Loaded<'_, Self>) -> u64;
    /// Sets RIP.
    fn set_rip(l: &mut Loaded<'_, Self>, v: u64);
    /// RFLAGS.
    fn rflags(l: &Loaded<'_, Self>) -> u64;
    /// Sets RFLAGS; bit 1 is forced.
    fn set_rflags(l: &mut Loaded<'_, Self>, v: u64);
    /// A segment register.
    fn seg(l: &Loaded<'_, Self>, r: SegReg) -> Segment;
    /// Sets a segment register.
    fn set_seg(l: &mut Loaded<'_, Self>, r: SegReg, s: &Segment);
    /// Does the guest run 64-bit code: EFER.LMA and CS.L are set?
    fn in_64_bit_mode(l: &Loaded<'_, Self>) -> bool;
    /// Current privilege level.
    fn cpl(l: &Loaded<'_, Self>) -> u8;
    /// GDTR (`idt` false) or IDTR (true).
    fn desc_table(l: &Loaded<'_, Self>, idt: bool) -> DescTable;
    /// Sets GDTR or IDTR.
    fn set_desc_table(l: &mut Loaded<'_, Self>, idt: bool, t: DescTable);
    /// CR0 as the guest sees it.
    fn cr0(l: &Loaded<'_, Self>) -> u64;
    /// Sets CR0; the caller has checked it. EFER.LMA is the caller's to update first.
    fn set_cr0(l: &mut Loaded<'_, Self>, v: u64);
    /// CR2.
    fn cr2(l: &Loaded<'_, Self>) -> u64;
    /// Sets CR2.
    fn set_cr2(l: &mut Loaded<'_, Self>, v: u64);
    /// CR3.
    fn cr3(l: &Loaded<'_, Self>) -> u64;
    /// Sets CR3.
    fn set_cr3(l: &mut Loaded<'_, Self>, v: u64);
    /// CR4 as the guest sees it.
    fn cr4(l: &Loaded<'_, Self>) -> u64;
    /// Sets CR4; the caller has checked it.
    fn set_cr4(l: &mut Loaded<'_, Self>, v: u64);
    /// CR8: the task priority that the guest sees, 0 to 15.
    fn cr8(l: &Loaded<'_, Self>) -> u64;
    /// Sets CR8.
    fn set_cr8(l: &mut Loaded<'_, Self>, v: u64);
    /// EFER as the guest sees it.
    fn efer(l: &Loaded<'_, Self>) -> u64;
    /// Sets EFER; the caller has checked it. SVME towards the hardware is not the caller's.
    fn set_efer(l: &mut Loaded<'_, Self>, v: u64);
    /// DR6. While debug registers trap, hardware has an empty one, so that a `#DB` exit tells its
    /// own conditions and no older ones; they are the payload of the exception.
    fn dr6(l: &Loaded<'_, Self>) -> u64;
    /// Sets DR6.
    fn set_dr6(l: &mut Loaded<'_, Self>, v: u64);
    /// DR7.
    fn dr7(l: &Loaded<'_, Self>) -> u64;
    /// Sets DR7.
    fn set_dr7(l: &mut Loaded<'_, Self>, v: u64);
    /// The four PAE page-directory pointers as the hardware holds them; `None` if it reads them
    /// from memory at each walk.
    fn pdptes(l: &Loaded<'_, Self>) -> Option<[u64; 4]>;
    /// Sets them, where the hardware holds them.
    fn set_pdptes(l: &mut Loaded<'_, Self>, p: &[u64; 4]);
    /// Interrupt shadow: `SHADOW_STI`, `SHADOW_MOV_SS` or 0.
    fn shadow(l: &Loaded<'_, Self>) -> u8;
    /// Sets the interrupt shadow.
    fn set_shadow(l: &mut Loaded<'_, Self>, s: u8);

    /// An MSR that lives in the control block or that the vendor owns; `None` if it is not one.
    fn msr(l: &Loaded<'_, Self>, index: u32) -> Option<u64>;
    /// Sets such an MSR to a value that has been checked; false if it is not one.
    fn set_msr(l: &mut Loaded<'_, Self>, index: u32, value: u64) -> bool;
    /// Lets the guest at an MSR without exits, or takes it back.
    fn set_passthrough(l: &mut Loaded<'_, Self>, msr: PassthroughMsr, a: MsrAccess);
    /// Switches a trap on or off.
    fn set_trap(l: &mut Loaded<'_, Self>, t: Trap, on: bool);
    /// Which exceptions exit, one bit per vector. Those whose endless delivery would hang the host
    /// exit always: `#DB`, `#AC` and `#MC`, the last of which the kernel has handled by then.
    fn set_exception_exits(l: &mut Loaded<'_, Self>, bitmap: u32);
    /// Guest TSC = host TSC * `ratio` + `offset`; `ratio` has [`Features::tsc_frac_bits`] fraction
    /// bits and is ignored without scaling.
    fn set_tsc(l: &mut Loaded<'_, Self>, offset: u64, ratio: u64);
    /// Runs on these nested page tables from the next entry on. False, and nothing changes, if the
    /// hardware of this vCPU cannot use their shape.
    fn set_root(l: &mut Loaded<'_, Self>, root: &RootRef<Self>) -> bool;
    /// Forgets all cached translations of this vCPU before the next entry.
    fn flush_guest(l: &mut Loaded<'_, Self>);

    /// Lets a guest that has halted without an exit go on behind its HLT, where hardware keeps that it
    /// halted over exits. To be called where it goes on elsewhere; an event ends a halt by itself.
    fn end_halt(l: &mut Loaded<'_, Self>);
    /// Sets the event to deliver at the next entry, replacing what was set before.
    fn inject(l: &mut Loaded<'_, Self>, e: Option<&Event>);
    /// Has the next entry end as soon as its event is delivered.
    fn end_after_event(l: &mut Loaded<'_, Self>);
    /// The event whose delivery the last exit cut short.
    fn aborted(l: &mut Loaded<'_, Self>) -> Option<Event>;
    /// Could the event be taken now?
    fn window_open(l: &Loaded<'_, Self>, w: Window) -> bool;
    /// Asks for an exit when it can be taken, or withdraws that.
    fn request_window(l: &mut Loaded<'_, Self>, w: Window, on: bool);
    /// Is the guest inside an NMI handler?
    fn nmi_blocked(l: &Loaded<'_, Self>) -> bool;
    /// Sets that it is, or is not.
    fn set_nmi_blocked(l: &mut Loaded<'_, Self>, b: bool);
    /// Writes the control block to the kernel log (`dump_invalid_vmcb` / `dump_invalid_vmcs`).
    fn dump(l: &Loaded<'_, Self>);
}

pub use crate::loaded::Loaded;
