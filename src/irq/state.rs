// SPDX-License-Identifier: GPL-2.0

//! KVM_GET_IRQCHIP and KVM_SET_IRQCHIP.

use super::chips;
use crate::vm::VmBase;
use core::sync::atomic::Ordering;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmIoapicState;
use model::abi::KvmIrqchip;
use model::abi::KvmPicState;
use model::irqchip::pic::PicChip;
use zerocopy::FromBytes;
use zerocopy::Immutable;
use zerocopy::IntoBytes;

/// KVM_GET_IRQCHIP. ENXIO unless all chips are in the kernel, EINVAL for a chip that is not there.
pub(crate) fn get(vm: &VmBase, k: &mut KvmIrqchip) -> Result {
    if !vm.irq.is_full() {
        return Err(ENXIO);
    }
    let id = k.chip_id;
    let chip = &mut k.chip;
    chip.fill(0);
    let r = chips::with(vm, |c, _| -> Result {
        match id {
            abi::KVM_IRQCHIP_PIC_MASTER => put(chip, c.pic.state(PicChip::Master)),
            abi::KVM_IRQCHIP_PIC_SLAVE => put(chip, c.pic.state(PicChip::Slave)),
            abi::KVM_IRQCHIP_IOAPIC => {
                let mut s = KvmIoapicState::zeroed();
                c.ioapic.save(&mut s);
                put(chip, &s)
            }
            _ => Err(EINVAL),
        }
    });
    r.unwrap_or(Err(ENXIO))
}

fn put<T: IntoBytes + Immutable>(to: &mut [u8; 512], v: &T) -> Result {
    v.write_to_prefix(to).map_err(|_| EINVAL)
}

/// KVM_SET_IRQCHIP. ENXIO unless all chips are in the kernel, EINVAL for a chip that is not there.
pub(crate) fn set(vm: &VmBase, k: &KvmIrqchip) -> Result {
    if !vm.irq.is_full() {
        return Err(ENXIO);
    }
    let r = chips::with(vm, |c, w| -> Result {
        let mut set_pic = |chip| -> Result {
            let (s, _) = KvmPicState::read_from_prefix(&k.chip).map_err(|_| EINVAL)?;
            c.pic.set_state(chip, &s, &mut w.pic);
            Ok(())
        };
        match k.chip_id {
            abi::KVM_IRQCHIP_PIC_MASTER => set_pic(PicChip::Master),
            abi::KVM_IRQCHIP_PIC_SLAVE => set_pic(PicChip::Slave),
            abi::KVM_IRQCHIP_IOAPIC => {
                let (s, _) = KvmIoapicState::read_from_prefix(&k.chip).map_err(|_| EINVAL)?;
                vm.irq.ioapic_base.store(s.base_address, Ordering::Release);
                c.ioapic.restore(&s, &mut w.ioapic);
                c.publish_vectors(vm);
                c.send(vm, &w.ioapic);
                Ok(())
            }
            _ => Err(EINVAL),
        }
    });
    r.unwrap_or(Err(ENXIO))
}
