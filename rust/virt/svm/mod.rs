// SPDX-License-Identifier: GPL-2.0

//! AMD's Secure Virtual Machine with nested paging (`APM: vol 2, chapter 15`).
//!
//! | file | contents |
//! |---|---|
//! | [`caps`] | what the processor offers; each CPU's part |
//! | [`vcpu`] | the control block and what belongs to it |
//! | `enter` | into the guest and back; `enter.c` and `vmenter.S` are its inside |
//! | `asid` | address-space identifiers |
//! | `state` | registers |
//! | `inject` | events and windows |
//! | `bitmap` | the permission maps |
//! | `params` | the parameters of kvm-amd.ko |
//! | `pause` | the PAUSE filter |
//! | `dump` | the control block in the log |
//! | `check` | clean bits and flushes checked against the truth |
//!
//! Hardware reads and writes the control block during VMRUN only, which happens inside one C
//! function; between two of those it is ordinary memory of the vCPU.

pub mod caps;
pub mod vcpu;

mod asid;
mod bitmap;
mod check;
mod dump;
mod enter;
mod inject;
mod params;
mod pause;
mod state;

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
use model::svm::npt::Npt;
use model::tdp::Config;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// The backend for AMD processors.
pub struct Svm;

impl private::Sealed for Svm {}

impl Vendor for Svm {
    const NAME: &'static CStr = c"kvm_amd";
    const HYPERCALL: [u8; 3] = [0x0f, 0x01, 0xd9];

    type Module = caps::Module;
    type Vm = vcpu::Vm;
    type Vcpu = vcpu::Vcpu;
    type Cpu = vcpu::Cpu;
    type Format = Npt;

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
        params::show(m)
    }

    fn tdp_config(m: &caps::Module, levels: u8) -> Result<Config> {
        m.tdp_config(levels)
    }

    fn new_vm(_: &'static caps::Module) -> Result<vcpu::Vm> {
        Ok(vcpu::Vm)
    }

    fn apic_access_page(_: &vcpu::Vm) -> Option<Arc<HwPage>> {
        None
    }

    fn identity_map(_: &vcpu::Vm) -> Option<&AtomicU64> {
        None
    }

    fn new_vcpu(m: &'static caps::Module, _: &vcpu::Vm) -> Result<(vcpu::Vcpu, vcpu::Cpu)> {
        vcpu::new(m)
    }

    #[inline]
    fn paired(v: &vcpu::Vcpu, c: &vcpu::Cpu) -> bool {
        v.id == c.id
    }

    fn reset(l: &mut Loaded<'_, Self>, init: bool) {
        l.hw.reset(init);
        // The TSC multiplier and the address-space tag are looked at again.
        l.cpu.presence.refresh();
    }

    #[inline]
    fn enter(l: &mut Loaded<'_, Self>, irqs: &IrqsOff<'_>) {
        enter::enter(l.hw, l.cpu, irqs)
    }

    #[inline]
    fn must_emulate(_: &Loaded<'_, Self>) -> bool {
        false
    }

    fn set_deadline(_: &mut Loaded<'_, Self>, _: Option<u64>) -> bool {
        false
    }

    fn share_apic_page(_: &mut vcpu::Vcpu) -> Option<Arc<HwPage>> {
        None
    }

    fn share_mailbox(_: &mut Loaded<'_, Self>, _: &Arc<PageOf<Pending>>) -> bool {
        false
    }

    fn set_virtual_apic(_: &mut Loaded<'_, Self>, _: VirtualApic) {}

    fn set_eoi_exits(_: &mut Loaded<'_, Self>, _: &[u64; 4]) {}

    fn set_interrupt_status(_: &mut Loaded<'_, Self>, _: u8, _: u8) {}

    fn set_write_log(_: &mut Loaded<'_, Self>, _: bool) -> bool {
        false
    }

    #[inline]
    fn take_written(_: &mut Loaded<'_, Self>, _: &mut dyn FnMut(Gfn)) {}

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
        l.hw.decode()
    }

    fn bus_locked(l: &Loaded<'_, Self>) -> bool {
        l.hw.bus_locked()
    }

    fn raw_exit(l: &Loaded<'_, Self>) -> RawExit {
        l.hw.raw_exit()
    }

    fn entry_failure(l: &Loaded<'_, Self>) -> EntryFailure {
        EntryFailure {
            reason: l.hw.vmcb().control.exit_code,
            cpu: l.hw.last_cpu,
        }
    }

    fn insn_bytes<'a>(l: &'a Loaded<'_, Self>) -> &'a [u8] {
        l.hw.insn_bytes()
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
        l.hw.vmcb().save.rsp
    }

    #[inline]
    fn set_rsp(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.vmcb_mut().save.rsp = v;
    }

    #[inline]
    fn rip(l: &Loaded<'_, Self>) -> u64 {
        l.hw.vmcb().save.rip
    }

    #[inline]
    fn set_rip(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.vmcb_mut().save.rip = v;
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
        l.hw.vmcb().save.cpl
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
        l.hw.vmcb().save.cr2
    }

    fn set_cr2(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr2(v)
    }

    #[inline]
    fn cr3(l: &Loaded<'_, Self>) -> u64 {
        l.hw.vmcb().save.cr3
    }

    fn set_cr3(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_cr3(v)
    }

    #[inline]
    fn cr4(l: &Loaded<'_, Self>) -> u64 {
        l.hw.cr4
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
        l.hw.efer()
    }

    fn set_efer(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_efer(v)
    }

    fn dr6(l: &Loaded<'_, Self>) -> u64 {
        l.hw.dr6()
    }

    fn set_dr6(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_dr6(v)
    }

    fn dr7(l: &Loaded<'_, Self>) -> u64 {
        l.hw.vmcb().save.dr7
    }

    fn set_dr7(l: &mut Loaded<'_, Self>, v: u64) {
        l.hw.set_dr7(v)
    }

    fn pdptes(_: &Loaded<'_, Self>) -> Option<[u64; 4]> {
        // With nested paging they are read at each walk (APM: vol 2, 15.25.10).
        None
    }

    fn set_pdptes(_: &mut Loaded<'_, Self>, _: &[u64; 4]) {}

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
        if index == state::TSC_AUX {
            // The guest reads the register of the CPU.
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
        l.hw.set_tsc(offset, ratio);
        // The multiplier is loaded together with what belongs to the CPU.
        l.cpu.presence.refresh();
    }

    fn set_root(l: &mut Loaded<'_, Self>, root: &RootRef<Self>) -> bool {
        l.hw.set_root(root)
    }

    #[inline]
    fn flush_guest(l: &mut Loaded<'_, Self>) {
        l.hw.tlb.forget()
    }

    // Every exit ends it.
    fn end_halt(_: &mut Loaded<'_, Self>) {}

    #[inline]
    fn inject(l: &mut Loaded<'_, Self>, e: Option<&Event>) {
        l.hw.inject(e)
    }

    fn end_after_event(l: &mut Loaded<'_, Self>) {
        l.hw.end_after_event()
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
