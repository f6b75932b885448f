// SPDX-License-Identifier: GPL-2.0

//! The VMs that there are, for what concerns all of them. Locked outside of a VM's own locks.

use super::VmCore;
use crate::backend::Backend;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;

/// All VMs.
#[pin_data]
pub(crate) struct AllVms<V: Backend> {
    #[pin]
    list: Mutex<KVec<Arc<VmCore<V>>>>,
}

impl<V: Backend> AllVms<V> {
    /// None yet. ENOMEM.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let init = pin_init!(Self {
            list <- new_mutex!(KVec::new(), "kvm->vms"),
        });
        Arc::pin_init(init, GFP_KERNEL)
    }

    /// Adds a VM, until the result is dropped. ENOMEM.
    #[inline(never)]
    pub(crate) fn add(this: &Arc<Self>, vm: Arc<VmCore<V>>) -> Result<Listed<V>> {
        this.list.lock().push(vm.clone(), GFP_KERNEL)?;
        Ok(Listed {
            all: this.clone(),
            vm,
        })
    }

    /// Are there none?
    pub(crate) fn is_empty(&self) -> bool {
        self.list.lock().is_empty()
    }

    /// Calls `f` for each of them. It may sleep; none is made and none goes meanwhile.
    pub(crate) fn for_each(&self, mut f: impl FnMut(&VmCore<V>)) {
        for vm in self.list.lock().iter() {
            f(vm);
        }
    }
}

/// A VM in the list.
pub(crate) struct Listed<V: Backend> {
    all: Arc<AllVms<V>>,
    vm: Arc<VmCore<V>>,
}

impl<V: Backend> Drop for Listed<V> {
    fn drop(&mut self) {
        let mut list = self.all.list.lock();
        let at = list.iter().position(|vm| Arc::ptr_eq(vm, &self.vm));
        let gone = at.and_then(|i| list.remove(i).ok());
        drop(list);
        drop(gone);
    }
}
