// SPDX-License-Identifier: GPL-2.0

//! `kvm.ko`: KVM for x86.

#![deny(unsafe_code)]

use kernel::prelude::*;

module! {
    type: Kvm,
    name: "kvm",
    authors: ["kvm-rs maintainers"],
    description: "Kernel-based Virtual Machine for x86, in Rust",
    license: "GPL",
    alias: ["char-major-10-232", "devname:kvm"],
}

/// The module: what exists while it is loaded.
struct Kvm;

impl kernel::Module for Kvm {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        pr_info!("loaded\n");
        Ok(Kvm)
    }
}
