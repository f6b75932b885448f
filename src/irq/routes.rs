// SPDX-License-Identifier: GPL-2.0

//! The routing table of a VM.

use super::deliver;
use crate::vm::VmBase;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmIrqRoutingEntry;
use model::irqchip::route;
use model::irqchip::route::PinGsis;
use model::irqchip::route::Route;
use model::irqchip::route::RouteRules;
use model::irqchip::route::RoutingTable;
use model::x86::msi::Msi;

/// A routing table, immutable once published.
pub(crate) struct Routes {
    ends: KVVec<u16>,
    routes: KVVec<Route>,
    /// Which GSI a pin belongs to.
    pub(crate) pins: PinGsis,
}

impl Routes {
    /// No routes.
    pub(super) fn empty() -> Result<KBox<Self>> {
        Ok(KBox::new(
            Self {
                ends: KVVec::new(),
                routes: KVVec::new(),
                pins: PinGsis::new(),
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// The table.
    pub(crate) fn table(&self) -> RoutingTable<'_> {
        RoutingTable::new(&self.ends, &self.routes)
    }
}

/// Replaces the table. EINVAL for entries that cannot be.
pub(super) fn install(vm: &VmBase, entries: &[KvmIrqRoutingEntry]) -> Result {
    let rules = RouteRules {
        chips: vm.irq.is_full(),
        ids32: vm.caps.x2apic_32bit_ids(),
    };
    let size = route::measure(entries).map_err(|_| EINVAL)?;
    let mut new = Routes {
        ends: KVVec::from_elem(0, size.gsis, GFP_KERNEL_ACCOUNT)?,
        routes: KVVec::from_elem(Route::default(), size.routes, GFP_KERNEL_ACCOUNT)?,
        pins: PinGsis::new(),
    };
    new.pins = route::build(entries, rules, &mut new.ends, &mut new.routes).map_err(|_| EINVAL)?;
    let new = KBox::new(new, GFP_KERNEL_ACCOUNT)?;
    let old = {
        let _lock = vm.irq.lock.lock();
        vm.irq.routes.publish(new)
    };
    drop(old.wait());
    super::irqfd::update_pins(vm);
    Ok(())
}

/// KVM_SET_GSI_ROUTING. EINVAL without controllers in the kernel.
pub(crate) fn set(vm: &VmBase, arg: usize) -> Result<isize> {
    let head: abi::KvmIrqRouting = host::uaccess::read_user(arg)?;
    if !vm.irq.in_kernel() || head.nr as usize > route::MAX_ROUTES || head.flags != 0 {
        return Err(EINVAL);
    }
    let at = arg.wrapping_add(size_of::<abi::KvmIrqRouting>());
    let entries = host::uaccess::read_user_vec::<KvmIrqRoutingEntry>(at, head.nr as usize)?;
    install(vm, &entries)?;
    Ok(0)
}

/// KVM_SIGNAL_MSI: how many local APICs took it, 0 if none could. EINVAL without local APICs in the
/// kernel.
pub(crate) fn signal_msi(vm: &VmBase, m: &abi::KvmMsi) -> Result<isize> {
    if !vm.irq.in_kernel() || m.flags & !abi::KVM_MSI_VALID_DEVID != 0 {
        return Err(EINVAL);
    }
    let msi = Msi {
        address_lo: m.address_lo,
        address_hi: m.address_hi,
        data: m.data,
    };
    let ids32 = vm.caps.x2apic_32bit_ids();
    if !msi.is_valid(ids32) {
        return Err(EINVAL);
    }
    host::trace::msi(msi.address_lo, msi.address_hi, msi.data);
    // KVM: the count of KVM_IRQ_LINE_STATUS, with "ignored" reported as blocked.
    Ok(deliver::message(vm, &msi.decode(ids32)).max(0) as isize)
}
