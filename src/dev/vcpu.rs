// SPDX-License-Identifier: GPL-2.0

//! The vCPU descriptor. Unknown commands get EINVAL; a process that did not create the VM gets EIO.
//! Commands take the vCPU mutex, so that they serialise with KVM_RUN (EINTR if the caller is killed
//! while it waits), but for those that only post something or ask for what never changes.

use crate::backend::Backend;
use crate::exit::debug;
use crate::mmu;
use crate::pv;
use crate::stats;
use crate::vcpu::attr;
use crate::vcpu::cpuid;
use crate::vcpu::fpu;
use crate::vcpu::interrupt;
use crate::vcpu::mem;
use crate::vcpu::mp;
use crate::vcpu::msr;
use crate::vcpu::regs;
use crate::vcpu::run;
use crate::vcpu::sregs;
use crate::vcpu::Vcpu;
use crate::vm::caps;
use crate::vm::Vm;
use host::fd::FileOps;
use host::fd::MmapRequest;
use host::run_page::SharedPage;
use host::uaccess::read_user;
use host::uaccess::write_user;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use model::abi;
use model::addr::Gpa;

/// What a vCPU descriptor holds.
pub(crate) struct VcpuFile<V: Backend> {
    /// The vCPU. Dropped first: the backend may change when the VM is gone.
    pub(crate) vcpu: Arc<Vcpu<V>>,
    /// The VM.
    pub(crate) vm: Arc<Vm<V>>,
}

impl<V: Backend> FileOps for VcpuFile<V> {
    const HAS_MMAP: bool = true;

    fn mmap_allowed(&self, request: MmapRequest) -> Result {
        // A private copy of the ring would never be seen by us.
        let end = request.pgoff.saturating_add(request.pages) as u64;
        if self.vcpu.shared.ring.is_some()
            && end > abi::KVM_DIRTY_LOG_PAGE_OFFSET
            && (request.exec || !request.shared)
        {
            return Err(EINVAL);
        }
        Ok(())
    }

    fn page(&self, pgoff: usize) -> Option<&SharedPage> {
        match pgoff as u64 {
            0 => Some(&self.vcpu.run),
            abi::KVM_PIO_PAGE_OFFSET => Some(&self.vcpu.pio),
            abi::KVM_COALESCED_MMIO_PAGE_OFFSET => self.vm.core().base.bus.coalesced_page(),
            n => {
                let n = n.checked_sub(abi::KVM_DIRTY_LOG_PAGE_OFFSET)?;
                self.vcpu.shared.ring.as_ref()?.page(n)
            }
        }
    }

    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let vm = this.vm.core();
        let vcpu = &*this.vcpu;
        vm.base.check_caller()?;
        if abi::ioc_type(cmd) != abi::KVMIO {
            return Err(EINVAL);
        }
        match cmd {
            abi::KVM_RUN => {
                if arg != 0 {
                    return Err(EINVAL);
                }
                run::run(vm, vcpu)
            }
            abi::KVM_GET_STATS_FD => stats::open(&this.vm, Some(vcpu.shared.clone())),
            abi::KVM_GET_REGS => {
                let r = vcpu.with(vm, |cx| regs::get_regs(cx))?;
                done(write_user(arg, &r))
            }
            abi::KVM_SET_REGS => {
                let r: abi::KvmRegs = read_user(arg)?;
                done(vcpu.with(vm, |cx| regs::set_regs(cx, &r)))
            }
            abi::KVM_GET_SREGS => {
                let s = vcpu.with(vm, |cx| sregs::get(cx))?;
                done(write_user(arg, &s))
            }
            abi::KVM_SET_SREGS => {
                let s: abi::KvmSregs = read_user(arg)?;
                done(vcpu.with(vm, |cx| sregs::set(cx, &s))?)
            }
            abi::KVM_GET_SREGS2 => {
                let s = vcpu.with(vm, |cx| sregs::get2(cx))?;
                done(write_user(arg, &s))
            }
            abi::KVM_SET_SREGS2 => {
                let s: abi::KvmSregs2 = read_user(arg)?;
                done(vcpu.with(vm, |cx| sregs::set2(cx, &s))?)
            }
            abi::KVM_PRE_FAULT_MEMORY => {
                let mut r: abi::KvmPreFaultMemory = read_user(arg)?;
                let done = vcpu.with(vm, |cx| mmu::pre_fault(cx, &mut r))?;
                // What is left is told also with an error.
                write_user(arg, &r)?;
                done.map(|()| 0)
            }
            abi::KVM_GET_MP_STATE => {
                let m = vcpu.with(vm, |cx| mp::get(cx))??;
                done(write_user(arg, &m))
            }
            abi::KVM_SET_MP_STATE => {
                let m: abi::KvmMpState = read_user(arg)?;
                done(vcpu.with(vm, |cx| mp::set(cx, &m))?)
            }
            abi::KVM_TRANSLATE => {
                let mut t: abi::KvmTranslation = read_user(arg)?;
                vcpu.with(vm, |cx| mem::translate(cx, &mut t))?;
                done(write_user(arg, &t))
            }
            abi::KVM_SET_GUEST_DEBUG => {
                let d: abi::KvmGuestDebug = read_user(arg)?;
                done(vcpu.with(vm, |cx| debug::set(cx, &d))?)
            }
            abi::KVM_GET_VCPU_EVENTS => {
                let e = vcpu.with(vm, |cx| regs::get_events(cx))?;
                done(write_user(arg, &e))
            }
            abi::KVM_SET_VCPU_EVENTS => {
                let e: abi::KvmVcpuEvents = read_user(arg)?;
                done(vcpu.with(vm, |cx| regs::set_events(cx, &e))?)
            }
            abi::KVM_GET_DEBUGREGS => {
                let d = vcpu.with(vm, |cx| regs::get_debugregs(cx))?;
                done(write_user(arg, &d))
            }
            abi::KVM_SET_DEBUGREGS => {
                let d: abi::KvmDebugregs = read_user(arg)?;
                done(vcpu.with(vm, |cx| regs::set_debugregs(cx, &d))?)
            }
            _ => Self::more(vm, vcpu, cmd, arg),
        }
    }
}

/// The answer 0, or the error.
fn done(r: Result) -> Result<isize> {
    r.map(|()| 0)
}

impl<V: Backend> VcpuFile<V> {
    /// The second half of the table: CPUID, MSRs, FPU, interrupts.
    fn more(vm: &crate::vm::VmCore<V>, vcpu: &Vcpu<V>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            abi::KVM_SET_CPUID => done(vcpu.with(vm, |cx| cpuid::set(cx, arg))?),
            abi::KVM_SET_CPUID2 => done(vcpu.with(vm, |cx| cpuid::set2(cx, arg))?),
            abi::KVM_GET_CPUID2 => done(vcpu.with(vm, |cx| cpuid::get2(cx, arg))?),
            abi::KVM_GET_MSRS => vcpu.with(vm, |cx| msr::get_list(cx, arg))?,
            abi::KVM_SET_MSRS => vcpu.with(vm, |cx| msr::set_list(cx, arg))?,
            abi::KVM_GET_FPU => {
                let f = vcpu.with(vm, |cx| fpu::get_fpu(cx))??;
                done(write_user(arg, &*f))
            }
            abi::KVM_SET_FPU => done(set_fpu(vm, vcpu, arg)),
            abi::KVM_GET_XSAVE => {
                done(vcpu.with(vm, |cx| fpu::get_xsave(cx, arg, size_of::<abi::KvmXsave>()))?)
            }
            abi::KVM_GET_XSAVE2 => {
                done(vcpu.with(vm, |cx| fpu::get_xsave(cx, arg, fpu::xsave_size()))?)
            }
            abi::KVM_SET_XSAVE => done(vcpu.with(vm, |cx| fpu::set_xsave(cx, arg))?),
            abi::KVM_GET_XCRS => {
                if virt::entry::host_xcr0() == 0 {
                    return Err(EINVAL);
                }
                done(get_xcrs(vm, vcpu, arg))
            }
            abi::KVM_SET_XCRS => {
                if virt::entry::host_xcr0() == 0 {
                    return Err(EINVAL);
                }
                done(set_xcrs(vm, vcpu, arg))
            }
            abi::KVM_SET_SIGNAL_MASK => signal_mask(vm, vcpu, arg),
            abi::KVM_INTERRUPT => {
                let i: abi::KvmInterrupt = read_user(arg)?;
                done(vcpu.with(vm, |cx| interrupt::queue(cx, i.irq))?)
            }
            abi::KVM_NMI => {
                // Posting needs no lock.
                let wake = vcpu.shared.pending.post_nmi();
                vcpu.shared.act(wake);
                Ok(0)
            }
            abi::KVM_SMI => {
                let wake = vcpu.shared.pending.post_smi();
                vcpu.shared.act(wake);
                Ok(0)
            }
            abi::KVM_GET_LAPIC => done(vcpu.with(vm, |cx| interrupt::get_lapic(cx, arg))?),
            abi::KVM_SET_LAPIC => done(vcpu.with(vm, |cx| interrupt::set_lapic(cx, arg))?),
            abi::KVM_SET_VAPIC_ADDR => vcpu.with_state(|st| {
                if st.apic.is_none() {
                    return Err(EINVAL);
                }
                let v: abi::KvmVapicAddr = read_user(arg)?;
                if v.vapic_addr != 0 && !vm.base.has_guest_word(Gpa(v.vapic_addr)) {
                    return Err(EINVAL);
                }
                st.vapic = v.vapic_addr;
                Ok(0)
            })?,
            abi::KVM_TPR_ACCESS_REPORTING => {
                let mut t: abi::KvmTprAccessCtl = read_user(arg)?;
                if t.flags != 0 {
                    return Err(EINVAL);
                }
                vcpu.with_state(|st| st.report_tpr = t.enabled != 0)?;
                t.reserved = [0; 8];
                done(write_user(arg, &t))
            }
            abi::KVM_X86_SETUP_MCE => {
                let cap: u64 = read_user(arg)?;
                done(vcpu.with(vm, |cx| msr::setup_mce(cx, cap))?)
            }
            abi::KVM_X86_SET_MCE => {
                let m: abi::KvmX86Mce = read_user(arg)?;
                done(vcpu.with(vm, |cx| msr::set_mce(cx, &m))?)
            }
            abi::KVM_ENABLE_CAP => {
                let e: abi::KvmEnableCap = read_user(arg)?;
                vcpu.with_state(|st| caps::enable_vcpu(st, &e))?
            }
            abi::KVM_SET_TSC_KHZ => done(vcpu.with(vm, |cx| pv::tsc::set_khz(cx, arg))?),
            abi::KVM_GET_TSC_KHZ => vcpu.with_state(|st| st.pv.tsc_khz() as isize),
            abi::KVM_KVMCLOCK_CTRL => done(vcpu.with(vm, |cx| pv::clock::guest_paused(cx))?),
            _ => Self::single(vm, vcpu, cmd, arg),
        }
    }

    /// The rest of the table: what is set one by one.
    fn single(vm: &crate::vm::VmCore<V>, vcpu: &Vcpu<V>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            abi::KVM_HAS_DEVICE_ATTR | abi::KVM_GET_DEVICE_ATTR | abi::KVM_SET_DEVICE_ATTR => {
                let a: abi::KvmDeviceAttr = read_user(arg)?;
                done(vcpu.with(vm, |cx| attr::device(cx, cmd, &a))?)
            }
            abi::KVM_GET_ONE_REG => {
                let r: abi::KvmOneReg = read_user(arg)?;
                done(vcpu.with(vm, |cx| attr::get_reg(cx, &r))?)
            }
            abi::KVM_SET_ONE_REG => {
                let r: abi::KvmOneReg = read_user(arg)?;
                done(vcpu.with(vm, |cx| attr::set_reg(cx, &r))?)
            }
            abi::KVM_GET_REG_LIST => done(attr::reg_list(arg)),
            // A vCPU of a VM that is not encrypted.
            abi::KVM_MEMORY_ENCRYPT_OP => Err(ENOTTY),
            _ => Err(EINVAL),
        }
    }
}

// The larger structures have a stack frame of their own.

#[inline(never)]
fn set_fpu<V: Backend>(vm: &crate::vm::VmCore<V>, vcpu: &Vcpu<V>, arg: usize) -> Result {
    let f: abi::KvmFpu = read_user(arg)?;
    vcpu.with(vm, |cx| fpu::set_fpu(cx, &f))?
}

#[inline(never)]
fn get_xcrs<V: Backend>(vm: &crate::vm::VmCore<V>, vcpu: &Vcpu<V>, arg: usize) -> Result {
    let x = vcpu.with(vm, |cx| fpu::get_xcrs(cx))?;
    write_user(arg, &x)
}

#[inline(never)]
fn set_xcrs<V: Backend>(vm: &crate::vm::VmCore<V>, vcpu: &Vcpu<V>, arg: usize) -> Result {
    let x: abi::KvmXcrs = read_user(arg)?;
    vcpu.with(vm, |cx| fpu::set_xcrs(cx, &x))?
}

/// KVM_SET_SIGNAL_MASK. EINVAL unless the set has 8 bytes; a null pointer clears the mask.
fn signal_mask<V: Backend>(
    _vm: &crate::vm::VmCore<V>,
    vcpu: &Vcpu<V>,
    arg: usize,
) -> Result<isize> {
    let mask = if arg == 0 {
        None
    } else {
        let head: abi::KvmSignalMask = read_user(arg)?;
        if head.len != 8 {
            return Err(EINVAL);
        }
        Some(read_user::<u64>(
            arg.wrapping_add(size_of::<abi::KvmSignalMask>()),
        )?)
    };
    vcpu.with_state(|st| st.signal_mask = mask)?;
    Ok(0)
}
