// SPDX-License-Identifier: GPL-2.0

//! Nested paging: what is mapped, when, and how large. `virt::tdp` does the memory, `model::tdp` the
//! table algorithms; here are the decisions.
//!
//! The MMU lock is taken for reading to map and to write-protect, for writing to zap. Table pages
//! are allocated before it is taken. See Documentation/locking.rst.

pub(crate) mod apic;
mod fault;
pub(crate) mod log;
pub(crate) mod marker;
mod notify;
pub(crate) mod nx;
mod prefault;
pub(crate) mod zap;

pub(crate) use fault::handle;
pub(crate) use prefault::pre_fault;

use crate::backend::Backend;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use crate::vm::memslot::Space;
use core::ops::ControlFlow::Continue;
use kernel::prelude::*;
use model::abi;
use virt::tdp::Root;
use virt::vendor::Vendor;

/// What the MMU lock protects: a tree for each address space.
pub(crate) struct Tables<V: Vendor> {
    normal: Root<V>,
    smm: Root<V>,
}

impl<V: Backend> Tables<V> {
    /// Empty trees of the depth that the hardware of this host wants.
    pub(crate) fn new(hw: &V::Vm) -> Result<Self> {
        let levels = V::host_features().tdp_levels;
        Ok(Self {
            normal: Root::new(V::module()?, hw, levels)?,
            smm: Root::new(V::module()?, hw, levels)?,
        })
    }

    /// The tree of an address space.
    #[inline]
    pub(crate) fn root(&self, space: Space) -> &Root<V> {
        match space {
            Space::Normal => &self.normal,
            Space::Smm => &self.smm,
        }
    }

    /// The tree of an address space, to remove from.
    pub(crate) fn root_mut(&mut self, space: Space) -> &mut Root<V> {
        match space {
            Space::Normal => &mut self.normal,
            Space::Smm => &mut self.smm,
        }
    }
}

/// Gives the hardware the root if it does not have it.
#[inline]
pub(crate) fn load_root<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.st.root_loaded {
        return Continue(());
    }
    give_root(cx)
}

#[inline(never)]
fn give_root<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let root = cx.vm.mmu.read().root(cx.space()).handle();
    if !V::set_root(cx.l, &root) {
        return UserExit::internal(abi::KVM_INTERNAL_ERROR_EMULATION).leave(cx);
    }
    cx.st.root_loaded = true;
    Continue(())
}

/// The hardware must be given the root again.
pub(crate) fn forget_root<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    cx.st.root_loaded = false;
}
