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
mod stats;
mod vcpu;
mod vm;

use backend::Backend;
use backend::Hooks;
use core::marker::PhantomData;
use dev::system::System;
use host::cpu::vendor;
use host::cpu::CpuVendor;
use host::hwvirt::HwVirt;
use host::misc::DevKvm;
use host::preempt::HooksEnabled;
use kernel::prelude::*;
use kernel::sync::Arc;
use virt::svm::Svm;
use virt::vmx::Vmx;

module! {
    type: Kvm,
    name: "kvm",
    authors: ["kvm-rs maintainers"],
    description: "Kernel-based Virtual Machine for x86, in Rust",
    license: "GPL",
    alias: ["char-major-10-232", "devname:kvm"],
}

/// The module on a vendor's hardware. Dropped in the order of its fields: first nobody can open the
/// device any more, then virtualization goes off.
struct Running<V: Backend> {
    _device: DevKvm<System<V>>,
    _virt: HwVirt<Hooks<V>>,
    _hooks: HooksEnabled,
}

impl<V: Backend> Running<V> {
    fn start() -> Result<Self> {
        if V::cell().as_ref().is_none() {
            V::cell().populate(V::probe()?);
        }
        host_caps::probe::<V>()?;
        // One text patch at load instead of one at each VM.
        let hooks = HooksEnabled::new();
        let virt = HwVirt::enable(V::EXTENSION, Arc::new(Hooks::new(), GFP_KERNEL)?)?;
        let device = DevKvm::register(Arc::new(System(PhantomData), GFP_KERNEL)?)?;
        pr_info!("running on {}\n", V::NAME);
        Ok(Self {
            _device: device,
            _virt: virt,
            _hooks: hooks,
        })
    }
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
