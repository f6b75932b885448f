// SPDX-License-Identifier: GPL-2.0

//! The VM descriptor. Unknown commands get ENOTTY; a process that did not create the VM gets EIO.

use crate::backend::Backend;
use crate::irq;
use crate::irq::irqfd;
use crate::irq::pit;
use crate::irq::routes;
use crate::irq::state;
use crate::pv;
use crate::stats;
use crate::vm::bus;
use crate::vm::caps;
use crate::vm::dirty;
use crate::vm::gmem;
use crate::vm::memslot;
use crate::vm::msr_filter;
use crate::vm::ring;
use crate::vm::vcpus::MAX_VCPU_IDS;
use crate::vm::Vm;
use crate::vm::VmBase;
use host::fd::FileOps;
use host::uaccess::read_user;
use host::uaccess::read_user_vec;
use host::uaccess::write_user;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use model::abi;
use model::abi::compat::KVM_X86_SET_MSR_FILTER_32;
use model::irqchip::line::IrqSource;

/// Highest address of the three pages for real mode without unrestricted guest: they end below 4
/// GiB.
const MAX_TSS_ADDR: usize = 0xffff_d000;

impl<V: Backend> FileOps for Vm<V> {
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let core = this.core();
        let base = &core.base;
        base.check_caller()?;
        match cmd {
            abi::KVM_CREATE_VCPU => Vm::create_vcpu(&Arc::from(this), arg),
            abi::KVM_SET_USER_MEMORY_REGION => memslot::set_region(core, &read_user(arg)?),
            abi::KVM_SET_USER_MEMORY_REGION2 => memslot::set_region2(core, &read_user(arg)?),
            abi::KVM_CREATE_GUEST_MEMFD => gmem::create(&Arc::from(this), &read_user(arg)?),
            abi::KVM_SET_MEMORY_ATTRIBUTES => gmem::set_attributes(&read_user(arg)?),
            abi::KVM_GET_DIRTY_LOG => dirty::get(core, &read_user(arg)?),
            abi::KVM_CLEAR_DIRTY_LOG => dirty::clear(core, &read_user(arg)?),
            abi::KVM_RESET_DIRTY_RINGS => ring::reset(core),
            abi::KVM_CHECK_EXTENSION => Ok(match u32::try_from(arg) {
                Ok(cap) => caps::check::<V>(Some(base), cap),
                Err(_) => 0,
            }),
            abi::KVM_ENABLE_CAP => caps::enable::<V>(base, &read_user(arg)?),
            abi::KVM_SET_TSS_ADDR => {
                if arg > MAX_TSS_ADDR {
                    Err(EINVAL)
                } else {
                    // Real mode runs directly or is emulated: the pages are not needed.
                    Ok(0)
                }
            }
            abi::KVM_SET_IDENTITY_MAP_ADDR => {
                let _setup = base.setup.lock();
                if base.vcpus.count() != 0 {
                    return Err(EINVAL);
                }
                let v: u64 = read_user(arg)?;
                base.identity.set_place(v);
                Ok(0)
            }
            abi::KVM_SET_NR_MMU_PAGES => {
                // KVM: a quota of shadow pages. Nested paging has none to limit.
                if arg < 64 {
                    Err(EINVAL)
                } else {
                    Ok(0)
                }
            }
            abi::KVM_SET_BOOT_CPU_ID => {
                let mut setup = base.setup.lock();
                if base.vcpus.count() != 0 {
                    return Err(EBUSY);
                }
                let id = u32::try_from(arg).map_err(|_| EINVAL)?;
                // KVM: one more than there can be is taken.
                if id > setup.max_ids || id > MAX_VCPU_IDS {
                    return Err(EINVAL);
                }
                setup.boot_cpu = id;
                base.caps.mark_boot_cpu();
                Ok(0)
            }
            abi::KVM_SET_TSC_KHZ => pv::tsc::set_vm_khz::<V>(base, arg),
            abi::KVM_GET_TSC_KHZ => Ok(base.setup.lock().tsc_khz as isize),
            abi::KVM_GET_CLOCK => {
                write_user(arg, &pv::clock::get(base))?;
                Ok(0)
            }
            abi::KVM_SET_CLOCK => pv::clock::set(base, &read_user(arg)?),
            abi::KVM_CREATE_IRQCHIP => irq::create(base),
            abi::KVM_IRQ_LINE => {
                let l: abi::KvmIrqLevel = read_user(arg)?;
                irq::set_line(base, IrqSource::User, l.irq, l.level != 0, false)?;
                Ok(0)
            }
            abi::KVM_IRQ_LINE_STATUS => {
                let mut l: abi::KvmIrqLevel = read_user(arg)?;
                let status = irq::set_line(base, IrqSource::User, l.irq, l.level != 0, true)?;
                // CAST: the field is a signed number in this use.
                l.irq = status as u32;
                write_user(arg, &l)?;
                Ok(0)
            }
            abi::KVM_GET_IRQCHIP => get_irqchip(base, arg),
            abi::KVM_SET_IRQCHIP => set_irqchip(base, arg),
            abi::KVM_IRQFD => irqfd::ioctl(base, &read_user(arg)?),
            abi::KVM_X86_SET_MSR_FILTER => msr_filter::set(base, arg),
            abi::KVM_CREATE_DEVICE => create_device(&read_user(arg)?),
            abi::KVM_CREATE_PIT => {
                let mut c = abi::KvmPitConfig::zeroed();
                c.flags = abi::KVM_PIT_SPEAKER_DUMMY;
                pit::create(base, &c)
            }
            abi::KVM_CREATE_PIT2 => pit::create(base, &read_user(arg)?),
            abi::KVM_GET_PIT => {
                write_user(arg, &pit::get(base)?)?;
                Ok(0)
            }
            abi::KVM_SET_PIT => pit::set(base, &read_user(arg)?),
            abi::KVM_GET_PIT2 => {
                write_user(arg, &pit::get2(base)?)?;
                Ok(0)
            }
            abi::KVM_SET_PIT2 => pit::set2(base, &read_user(arg)?),
            abi::KVM_REINJECT_CONTROL => pit::reinject(base, &read_user(arg)?),
            abi::KVM_SET_GSI_ROUTING => routes::set(base, arg),
            abi::KVM_SIGNAL_MSI => routes::signal_msi(base, &read_user(arg)?),
            abi::KVM_GET_STATS_FD => stats::open(&Arc::from(this), None),
            abi::KVM_IOEVENTFD => bus::ioeventfd(base, &read_user(arg)?),
            abi::KVM_REGISTER_COALESCED_MMIO => bus::coalesced(base, &read_user(arg)?, true),
            abi::KVM_UNREGISTER_COALESCED_MMIO => bus::coalesced(base, &read_user(arg)?, false),
            _ => Err(ENOTTY),
        }
    }

    fn compat_ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        let core = this.core();
        match cmd {
            abi::KVM_GET_DIRTY_LOG => {
                core.base.check_caller()?;
                dirty::get(core, &read_user::<abi::KvmDirtyLog>(arg)?.narrow())
            }
            abi::KVM_CLEAR_DIRTY_LOG => {
                core.base.check_caller()?;
                dirty::clear(core, &read_user::<abi::KvmClearDirtyLog>(arg)?.narrow())
            }
            KVM_X86_SET_MSR_FILTER_32 => {
                core.base.check_caller()?;
                msr_filter::set_32(&core.base, arg)
            }
            _ => Self::ioctl(this, cmd, arg),
        }
    }
}

/// KVM_CREATE_DEVICE. ENODEV: there is no type of device on x86 but VFIO's, which is not built.
fn create_device(_: &abi::KvmCreateDevice) -> Result<isize> {
    Err(ENODEV)
}

// The larger structures have a stack frame of their own.

#[inline(never)]
fn get_irqchip(base: &VmBase, arg: usize) -> Result<isize> {
    let mut k = read_user_vec::<abi::KvmIrqchip>(arg, 1)?;
    state::get(base, k.first_mut().ok_or(EFAULT)?)?;
    write_user(arg, k.as_slice())?;
    Ok(0)
}

#[inline(never)]
fn set_irqchip(base: &VmBase, arg: usize) -> Result<isize> {
    let k: abi::KvmIrqchip = read_user(arg)?;
    state::set(base, &k)?;
    Ok(0)
}
