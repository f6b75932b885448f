// SPDX-License-Identifier: GPL-2.0

//! `kvm.ko`: KVM for x86.
//!
//! The crate of policy: what the ioctls do, what an exit means, what is mapped where. It contains no
//! unsafe code. Hardware is behind `virt`, kernel services behind `host`, and everything that is a
//! function of its inputs is in `model`.

#![deny(unsafe_code)]

mod backend;
mod dev;
mod exit;
mod host_caps;
mod irq;
mod mmu;
mod pv;
mod running;
mod stats;
mod vcpu;
mod vm;

use host::cpu::vendor;
use host::cpu::CpuVendor;
use kernel::prelude::*;
use running::Running;
use virt::svm::Svm;
use virt::vmx::Vmx;

module! {
    type: Kvm,
    name: "kvm",
    authors: ["kvm-rs maintainers"],
    description: "Kernel-based Virtual Machine for x86, in Rust",
    license: "GPL",
}

/// What exists while the module is loaded.
enum Kvm {
    Svm(#[expect(dead_code, reason = "kept until it is dropped")] Running<Svm>),
    Vmx(#[expect(dead_code, reason = "kept until it is dropped")] Running<Vmx>),
}

impl kernel::Module for Kvm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        match vendor() {
            CpuVendor::Intel | CpuVendor::Centaur | CpuVendor::Zhaoxin => {
                Ok(Kvm::Vmx(Running::start()?))
            }
            _ => Ok(Kvm::Svm(Running::start()?)),
        }
    }
}
