// SPDX-License-Identifier: GPL-2.0

//! What is set and read one by one: registers by id, and attributes of a vCPU.

use super::msr;
use super::Cx;
use crate::backend::Backend;
use crate::pv;
use host::uaccess::read_user;
use host::uaccess::write_user;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmDeviceAttr;
use model::abi::KvmOneReg;
use model::abi::KvmRegList;

/// The MSR that a register id names. EINVAL for anything else: the shadow-stack pointer, the one
/// register with an id of KVM's own, is not offered.
fn msr_of(id: u64) -> Result<u32> {
    let known = abi::reg_id_msr(0) | 0xffff_ffff;
    if id & !known != 0 || id & !0xffff_ffff != abi::reg_id_msr(0) {
        return Err(EINVAL);
    }
    // CAST: the index is the low half.
    Ok(id as u32)
}

/// KVM_GET_ONE_REG. EINVAL for an id that is not an MSR's, or for one that cannot be read.
pub(crate) fn get_reg<V: Backend>(cx: &mut Cx<'_, '_, V>, r: &KvmOneReg) -> Result {
    let index = msr_of(r.id)?;
    let v = msr::get(cx, index, true).map_err(|_| EINVAL)?;
    // CAST: a user address.
    write_user(r.addr as usize, &v)
}

/// KVM_SET_ONE_REG. EINVAL for an id that is not an MSR's, or for a value it does not take.
pub(crate) fn set_reg<V: Backend>(cx: &mut Cx<'_, '_, V>, r: &KvmOneReg) -> Result {
    let index = msr_of(r.id)?;
    // CAST: a user address.
    let v: u64 = read_user(r.addr as usize)?;
    msr::set(cx, index, v, true).map_err(|_| EINVAL)
}

/// KVM_GET_REG_LIST: registers that no other list has, of which there are none.
pub(crate) fn reg_list(arg: usize) -> Result {
    let _: KvmRegList = read_user(arg)?;
    let mut list = KvmRegList::zeroed();
    list.n = 0;
    write_user(arg, &list)
}

/// KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR, KVM_SET_DEVICE_ATTR: the TSC offset. ENXIO for any
/// other attribute.
pub(crate) fn device<V: Backend>(cx: &mut Cx<'_, '_, V>, cmd: u32, a: &KvmDeviceAttr) -> Result {
    if a.group != abi::KVM_VCPU_TSC_CTRL || a.attr != abi::KVM_VCPU_TSC_OFFSET {
        return Err(ENXIO);
    }
    // CAST: a user address.
    let addr = a.addr as usize;
    match cmd {
        abi::KVM_GET_DEVICE_ATTR => write_user(addr, &pv::tsc::offset(cx)),
        abi::KVM_SET_DEVICE_ATTR => {
            pv::tsc::set_user_offset(cx, read_user(addr)?);
            Ok(())
        }
        _ => Ok(()),
    }
}
