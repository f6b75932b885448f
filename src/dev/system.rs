// SPDX-License-Identifier: GPL-2.0

//! `/dev/kvm`. Unknown commands get EINVAL.

use crate::backend::Backend;
use crate::host_caps;
use crate::vcpu::msr;
use crate::vm::all::AllVms;
use crate::vm::caps;
use crate::vm::Vm;
use host::fd::NewFd;
use host::misc::DeviceOps;
use host::uaccess::read_user;
use host::uaccess::write_user;
use kernel::fs::file::flags::O_CLOEXEC;
use kernel::fs::file::flags::O_RDWR;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::ArcBorrow;
use model::abi;
use model::abi::KvmCpuid2;
use model::abi::KvmCpuidEntry2;
use model::abi::KvmMsrList;
use model::policy::cpuid as policy;

/// Pages that a vCPU descriptor maps: `struct kvm_run`, port data, the coalesced ring.
const MMAP_PAGES: isize = 3;

/// The device.
pub(crate) struct System<V: Backend>(pub(crate) Arc<AllVms<V>>);

impl<V: Backend> DeviceOps for System<V> {
    fn ioctl(this: ArcBorrow<'_, Self>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            abi::KVM_GET_API_VERSION => none(arg).map(|()| abi::KVM_API_VERSION as isize),
            abi::KVM_CREATE_VM => create_vm(&this.0, arg),
            abi::KVM_CHECK_EXTENSION => Ok(match u32::try_from(arg) {
                Ok(cap) => caps::check::<V>(None, cap),
                Err(_) => 0,
            }),
            abi::KVM_GET_VCPU_MMAP_SIZE => {
                none(arg).map(|()| MMAP_PAGES << model::addr::PAGE_SHIFT)
            }
            abi::KVM_GET_SUPPORTED_CPUID => cpuid(arg, false),
            abi::KVM_GET_EMULATED_CPUID => cpuid(arg, true),
            abi::KVM_GET_MSR_INDEX_LIST => msr_list(arg, &msr::saved_list()?),
            abi::KVM_GET_MSR_FEATURE_INDEX_LIST => msr_list(arg, &msr::feature_list()?),
            abi::KVM_GET_MSRS => msr::get_features(arg),
            abi::KVM_GET_DEVICE_ATTR => {
                let a: abi::KvmDeviceAttr = read_user(arg)?;
                // CAST: a user address.
                write_user(a.addr as usize, &attribute(&a)?)?;
                Ok(0)
            }
            abi::KVM_HAS_DEVICE_ATTR => {
                attribute(&read_user(arg)?)?;
                Ok(0)
            }
            abi::KVM_X86_GET_MCE_CAP_SUPPORTED => {
                write_user(arg, &msr::mce_cap_supported())?;
                Ok(0)
            }
            _ => Err(EINVAL),
        }
    }
}

/// A system attribute: the extended state that guests can have. ENXIO for any other.
fn attribute(a: &abi::KvmDeviceAttr) -> Result<u64> {
    if a.group != abi::KVM_X86_GRP_SYSTEM || a.attr != abi::KVM_X86_XCOMP_GUEST_SUPP {
        return Err(ENXIO);
    }
    Ok(host_caps::get().ok_or(ENODEV)?.supported.xcr0)
}

/// EINVAL for an argument where there must be none.
fn none(arg: usize) -> Result {
    if arg == 0 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}

/// KVM_CREATE_VM. EINVAL for a type that does not exist.
fn create_vm<V: Backend>(all: &Arc<AllVms<V>>, ty: usize) -> Result<isize> {
    if ty as u64 != abi::KVM_X86_DEFAULT_VM {
        return Err(EINVAL);
    }
    let vm = Vm::new(all)?;
    let fd = NewFd::new(c"kvm-vm", vm, O_RDWR | O_CLOEXEC)?;
    // CAST: a descriptor number.
    Ok(fd.commit() as isize)
}

/// KVM_GET_SUPPORTED_CPUID and KVM_GET_EMULATED_CPUID. E2BIG if the list does not fit.
fn cpuid(arg: usize, emulated: bool) -> Result<isize> {
    let mut head: KvmCpuid2 = read_user(arg)?;
    if head.nent < 1 {
        return Err(E2BIG);
    }
    let n = (head.nent as usize).min(policy::MAX_ENTRIES);
    let h = host_caps::get().ok_or(ENODEV)?;
    let at = arg.wrapping_add(size_of::<KvmCpuid2>());
    let mut list = KVVec::from_elem(KvmCpuidEntry2::zeroed(), n, GFP_KERNEL_ACCOUNT)?;
    let used = if emulated {
        // KVM: the reserved words must be zero, in case one of them means something some day.
        // An entry that cannot be read counts as one that is not zero.
        let old = host::uaccess::read_user_vec::<KvmCpuidEntry2>(at, n).map_err(|_| EINVAL)?;
        if old.iter().any(|e| e.padding != [0; 3]) {
            return Err(EINVAL);
        }
        policy::emulated(&h.supported, &mut list)
    } else {
        let xcr0 = h.supported.xcr0;
        policy::supported(&host_caps::Cpu, &h.supported, xcr0, &mut list)
    };
    let used = used.map_err(|_| E2BIG)?;
    // KVM: a leaf that has nothing to say still wants room.
    if emulated && used == n {
        return Err(E2BIG);
    }
    write_user(at, list.get(..used).unwrap_or(&[]))?;
    // CAST: at most 256.
    head.nent = used as u32;
    write_user(arg, &head)?;
    Ok(0)
}

/// The two list ioctls: the number is written even if the list does not fit, then E2BIG.
fn msr_list(arg: usize, list: &[u32]) -> Result<isize> {
    let mut head: KvmMsrList = read_user(arg)?;
    let room = head.nmsrs as usize;
    // CAST: a few hundred.
    head.nmsrs = list.len() as u32;
    write_user(arg, &head)?;
    if room < list.len() {
        return Err(E2BIG);
    }
    write_user(arg.wrapping_add(size_of::<KvmMsrList>()), list)?;
    Ok(0)
}
