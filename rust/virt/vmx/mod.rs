// SPDX-License-Identifier: GPL-2.0

//! Intel's Virtual-Machine Extensions with extended page tables (`SDM: vol 3, chapters 24 to 31`).
//!
//! | file | contents |
//! |---|---|
//! | [`caps`] | what the processor offers; each CPU's part |
//! | [`vcpu`] | the two halves of a vCPU; RESET |
//! | `vmcs` | the VMCS: residency, fields; `cpu.c` is its inside |
//! | `enter` | into the guest and back; `enter.c`, `vmenter.S`, `l1d.c` and `perf.c` are its inside |
//! | `vpid` | translation tags and their flushing |
//! | `state` | registers |
//! | `mode` | control registers; guests that hardware cannot run |
//! | `timer` | the preemption timer |
//! | `apicv` | the local APIC in hardware |
//! | `pause` | how long a guest may spin |
//! | `pml` | the log of written pages |
//! | `inject` | events and windows |
//! | `bitmap` | the MSR bitmap |
//! | `params` | the parameters of kvm-intel.ko |
//! | `dump` | the VMCS in the log |
//! | `check` | what is kept beside the VMCS checked against it |
//!
//! The processor may keep a VMCS to itself, so that its fields are reached by instructions, and only
//! while it is the current one of the CPU: that is, while the vCPU is loaded.

pub mod caps;
pub mod vcpu;

mod apicv;
mod bitmap;
mod check;
mod dump;
mod enter;
mod inject;
mod mode;
mod params;
mod pause;
mod pml;
mod state;
mod timer;
mod vmcs;
mod vpid;

use crate::loaded::Loaded;
use crate::regs::GuestRegs;
use crate::tdp::RootRef;
use crate::vendor::private;
use crate::vendor::EntryFailure;
use crate::vendor::Features;
use crate::vendor::MsrAccess;
use crate::vendor::PassthroughMsr;
use crate::vendor::RawExit;
use crate::vendor::Trap;
use crate::vendor::Vendor;
use crate::vendor::VirtualApic;
use crate::vendor::Window;
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
use model::tdp::Config;
use model::vmx::ept::Ept;
use model::vmx::exit;
use model::x86::msr;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// The backend for Intel processors.
pub struct Vmx;

impl private::Sealed for Vmx {}

impl Vendor for Vmx {
    const NAME: &'static CStr = c"kvm_intel";
    const HYPERCALL: [u8; 3] = [0x0f, 0x01, 0xc1];

    type Module = caps::Module;
    type Vm = vcpu::Vm;
    type Vcpu = vcpu::Vcpu;
    type Cpu = vcpu::Cpu;
    type Format = Ept;

    fn probe(off: &AllOff) -> Result<caps::Module> {
        caps::Module::probe(off)
    }

    fn features(m: &caps::Module) -> &Features {
        &m.features
    }

    fn probed_as_set(m: &caps::Module) -> bool {
        m.asked.same(&params::Params::now())
    }

    fn install(m: &'static caps::Module, _: &AllOff) {
        m.set_l1d();
        params::show(m)
    }

    fn tdp_config(m: &caps::Module, levels: u8) -> Result<Config> {
        m.tdp_config(levels)
    }

    fn new_vm(m: &'static caps::Module) -> Result<vcpu::Vm> {
        vcpu::Vm::new(m)
    }

    fn identity_map(vm: &vcpu::Vm) -> Option<&AtomicU64> {
        vm.identity_map.as_ref()
    }

    fn apic_access_page(vm: &vcpu::Vm) -> Option<Arc<HwPage>> {
        vm.apic_access.clone()
    }

    fn new_vcpu(m: &'static caps::Module, vm: &vcpu::Vm) -> Result<(vcpu::Vcpu, vcpu::Cpu)> {
        vcpu::new(m, vm)
    }

    #[inline]
    fn paired(v: &vcpu::Vcpu, c: &vcpu::Cpu) -> bool {
        v.id == c.id
    }

    fn reset(l: &mut Loaded<'_, Self>, init: bool) {
        l.hw.reset(init);
        l.cpu.presence.refresh();
    }

    #[inline]
    fn enter(l: &mut Loaded<'_, Self>, irqs: &IrqsOff<'_>) {
        enter::enter(l.hw, l.cpu, irqs)
    }

    #[inline]
    fn must_emulate(l: &Loaded<'_, Self>) -> bool {
        let emulate = l.hw.must_emulate();
        if emulate {
            // What that leaves in the L1 data cache the next entry has to flush.
            l.cpu.presence.refresh();
        }
        emulate
    }

    fn set_deadline(l: &mut Loaded<'_, Self>, tsc: Option<u64>) -> bool {
        l.hw.set_deadline(tsc)
    }

    fn share_apic_page(v: &mut vcpu::Vcpu) -> Option<Arc<HwPage>> {
        v.share_apic_page()
    }

    fn share_mailbox(l: &mut Loaded<'_, Self>, mailbox: &Arc<PageOf<Pending>>) -> bool {
        l.hw.share_mailbox(mailbox)
    }

    fn set_virtual_apic(l: &mut Loaded<'_, Self>, mode: VirtualApic) {
        l.hw.set_virtual_apic(mode)
    }

    fn set_eoi_exits(l: &mut Loaded<'_, Self>, vectors: &[u64; 4]) {
        l.hw.set_eoi_exits(vectors)
    }

    #[inline]
    fn set_interrupt_status(l: &mut Loaded<'_, Self>, requested: u8, in_service: u8) {
        l.hw.set_interrupt_status(requested, in_service)
    }

    fn set_write_log(l: &mut Loaded<'_, Self>, on: bool) -> bool {
        l.hw.set_write_log(on)
    }

    #[inline]
    fn take_written(l: &mut Loaded<'_, Self>, f: &mut dyn FnMut(Gfn)) {
        l.hw.take_written(f)
    }

    #[inline]
    fn interrupted(l: &Loaded<'_, Self>) -> bool {
        l.hw.interrupted()
    }

    #[inline]
    fn quick(l: &Loaded<'_, Self>) -> Quick {
        l.hw.quick()
    }

    #[inline]
    fn port_access(l: &Loaded<'_, Self>) -> IoAccess {
        l.hw.port_access()
    }

    #[inline]
    fn decode(l: &mut Loaded<'_, Self>) -> Exit {
        let exit = l.hw.decode();
        if matches!(exit, Exit::Pause) {
            l.hw.grow_pause_window();
        }
        exit
    }

    fn bus_locked(l: &Loaded<'_, Self>) -> bool {
        exit::is_bus_lock(l.hw.run.reason)
    }

    fn raw_exit(l: &Loaded<'_, Self>) -> RawExit {
        l.hw.raw_exit()
    }

    fn entry_failure(l: &Loaded<'_, Self>) -> EntryFailure {
        EntryFailure {
            reason: u64::from(l.hw.failure),
            cpu: l.hw.last_cpu,
        }
    }

    fn insn_bytes<'a>(_: &'a Loaded<'_, Self>) -> &'a [u8] {
        &[]
    }

    #[inline]
    fn next_rip(l: &Loaded<'_, Self>) -> Option<u64> {
        l.hw.next_rip()
    }

    #[inline]
    fn regs<'a>(l: &'a Loaded<'_, Self>) -> &'a GuestRegs {
        &l.hw.entry.regs
    }

    #[inline]
    fn regs_mut<'a>(l: &'a mut Loaded<'_, Self>) -> &'a mut GuestRegs {
        &mut l.hw.entry.regs
    }

    #[inline]
    fn rsp(l: &Loaded<'_, Self>) -> u64 {
        l.hw.rsp()
    }

    #[inline]
    fn set_rsp(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_rsp(v)
    }

    #[inline]
    fn rip(l: &Loaded<'_, Self>) -> u64 {
        l.hw.rip()
    }

    #[inline]
    fn set_rip(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_rip(v)
    }

    #[inline]
    fn rflags(l: &Loaded<'_, Self>) -> u64 {
        l.hw.rflags()
    }

    #[inline]
    fn set_rflags(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_rflags(v)
    }

    #[inline]
    fn seg(l: &Loaded<'_, Self>, r: SegReg) -> Segment {
        l.hw.seg(r)
    }

    #[inline]
    fn in_64_bit_mode(l: &Loaded<'_, Self>) -> bool {
        l.hw.in_64_bit_mode()
    }

    fn set_seg(l: &mut Loaded<'_, Self>, r: SegReg, s: &Segment) {
        l.hw.set_seg(r, s)
    }

    #[inline]
    fn cpl(l: &Loaded<'_, Self>) -> u8 {
        l.hw.cpl()
    }

    fn desc_table(l: &Loaded<'_, Self>, idt: bool) -> DescTable {
        l.hw.desc_table(idt)
    }

    fn set_desc_table(l: &mut Loaded<'_, Self>, idt: bool, t: DescTable) {
        l.hw.set_desc_table(idt, t)
    }

    #[inline]
    fn cr0(l: &Loaded<'_, Self>) -> u64 {
        l.hw.cr0()
    }

    fn set_cr0(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr0(v)
    }

    #[inline]
    fn cr2(l: &Loaded<'_, Self>) -> u64 {
        l.hw.run.cr2
    }

    fn set_cr2(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.run.cr2 = v;
    }

    #[inline]
    fn cr3(l: &Loaded<'_, Self>) -> u64 {
        l.hw.cr3()
    }

    fn set_cr3(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr3(v)
    }

    #[inline]
    fn cr4(l: &Loaded<'_, Self>) -> u64 {
        l.hw.cr4()
    }

    fn set_cr4(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr4(v)
    }

    #[inline]
    fn cr8(l: &Loaded<'_, Self>) -> u64 {
        l.hw.cr8()
    }

    #[inline]
    fn set_cr8(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr8(v)
    }

    #[inline]
    fn efer(l: &Loaded<'_, Self>) -> u64 {
        l.hw.efer
    }

    fn set_efer(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_efer(v);
        // The system call MSRs are in registers only while they can be used.
        l.cpu.presence.refresh();
    }

    fn dr6(l: &Loaded<'_, Self>) -> u64 {
        l.hw.dr6()
    }

    fn set_dr6(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_dr6(v)
    }

    fn dr7(l: &Loaded<'_, Self>) -> u64 {
        l.hw.dr7()
    }

    fn set_dr7(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_dr7(v)
    }

    fn pdptes(l: &Loaded<'_, Self>) -> Option<[u64; 4]> {
        Some(l.hw.pdptes())
    }

    fn set_pdptes(l: &mut Loaded<'_, Self>, p: &[u64; 4]) {
        l.hw.set_pdptes(p)
    }

    #[inline]
    fn shadow(l: &Loaded<'_, Self>) -> u8 {
        l.hw.shadow()
    }

    #[inline]
    fn set_shadow(l: &mut Loaded<'_, Self>, s: u8) {
        l.hw.set_shadow(s)
    }

    fn msr(l: &Loaded<'_, Self>, index: u32) -> Option<u64> {
        l.hw.msr(index)
    }

    fn set_msr(l: &mut Loaded<'_, Self>, index: u32, value: u64) -> bool {
        // Everything but the PAT may be in a register of the CPU.
        if index != msr::PAT {
            l.cpu.presence.refresh();
        }
        l.hw.set_msr(index, value)
    }

    fn set_passthrough(l: &mut Loaded<'_, Self>, msr: PassthroughMsr, a: MsrAccess) {
        l.hw.set_passthrough(msr, a)
    }

    fn set_trap(l: &mut Loaded<'_, Self>, t: Trap, on: bool) {
        l.hw.set_trap(t, on);
        if t == Trap::Rdtscp {
            // TSC_AUX goes with it.
            l.cpu.presence.refresh();
        }
    }

    fn set_exception_exits(l: &mut Loaded<'_, Self>, bitmap: u32) {
        l.hw.set_exception_exits(bitmap)
    }

    fn set_tsc(l: &mut Loaded<'_, Self>, offset: u64, ratio: u64) {
        l.hw.set_tsc(offset, ratio)
    }

    fn set_root(l: &mut Loaded<'_, Self>, root: &RootRef<Self>) -> bool {
        l.hw.set_root(root)
    }

    #[inline]
    fn flush_guest(l: &mut Loaded<'_, Self>) {
        l.hw.flush_linear = true;
    }

    #[inline]
    fn inject(l: &mut Loaded<'_, Self>, e: Option<&Event>) {
        l.hw.inject(e)
    }

    fn end_after_event(l: &mut Loaded<'_, Self>) {
        l.hw.end_after_event()
    }

    fn end_halt(l: &mut Loaded<'_, Self>) {
        l.hw.end_halt()
    }

    #[inline]
    fn aborted(l: &mut Loaded<'_, Self>) -> Option<Event> {
        l.hw.aborted()
    }

    #[inline]
    fn window_open(l: &Loaded<'_, Self>, w: Window) -> bool {
        l.hw.window_open(w)
    }

    fn request_window(l: &mut Loaded<'_, Self>, w: Window, on: bool) {
        l.hw.request_window(w, on)
    }

    fn nmi_blocked(l: &Loaded<'_, Self>) -> bool {
        l.hw.nmi_blocked()
    }

    fn set_nmi_blocked(l: &mut Loaded<'_, Self>, b: bool) {
        l.hw.set_nmi_blocked(b)
    }

    fn dump(l: &Loaded<'_, Self>) {
        dump::dump(l.hw)
    }
}
