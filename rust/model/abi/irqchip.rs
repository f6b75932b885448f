// SPDX-License-Identifier: GPL-2.0

//! Interrupt controllers, the interval timer, interrupt routing, MSI and irqfd.

use super::{ioctls, uapi, values};
use zerocopy::FromBytes;

uapi! {
    /// Sets an interrupt line. `irq` is the GSI and, for `KVM_IRQ_LINE_STATUS`, also carries the
    /// signed status back.
    pub struct KvmIrqLevel("struct kvm_irq_level", 8) {
        irq: u32,
        level: u32,
    }

    /// One of the two 8259 interrupt controllers.
    pub struct KvmPicState("struct kvm_pic_state", 16) {
        last_irr: u8,
        irr: u8,
        imr: u8,
        isr: u8,
        priority_add: u8,
        irq_base: u8,
        read_reg_select: u8,
        poll: u8,
        special_mask: u8,
        init_state: u8,
        auto_eoi: u8,
        rotate_on_auto_eoi: u8,
        special_fully_nested_mode: u8,
        init4: u8,
        elcr: u8,
        elcr_mask: u8,
    }

    /// The I/O APIC. Each word of `redirtbl` is a redirection entry as the device shows it.
    pub struct KvmIoapicState("struct kvm_ioapic_state", 216) {
        base_address: u64,
        ioregsel: u32,
        id: u32,
        irr: u32,
        pad: u32,
        redirtbl: [u64; 24],
    }

    /// One interrupt controller, selected by `chip_id`: `chip` starts with a [`KvmPicState`] or a
    /// [`KvmIoapicState`].
    pub struct KvmIrqchip("struct kvm_irqchip", 520) {
        chip_id: u32,
        pad: u32,
        chip: [u8; 512],
    }

    /// How to create the 8254.
    pub struct KvmPitConfig("struct kvm_pit_config", 64) {
        flags: u32,
        pad: [u32; 15],
    }

    /// One counter of the 8254. `count_load_time` is in nanoseconds of the monotonic clock.
    pub struct KvmPitChannelState("struct kvm_pit_channel_state", 24) {
        count: u32,
        latched_count: u16,
        count_latched: u8,
        status_latched: u8,
        status: u8,
        read_state: u8,
        write_state: u8,
        write_latch: u8,
        rw_mode: u8,
        mode: u8,
        bcd: u8,
        gate: u8,
        count_load_time: i64,
    }

    /// The 8254 without its flags.
    pub struct KvmPitState("struct kvm_pit_state", 72) {
        channels: [KvmPitChannelState; 3],
    }

    /// The 8254.
    pub struct KvmPitState2("struct kvm_pit_state2", 112) {
        channels: [KvmPitChannelState; 3],
        flags: u32,
        reserved: [u32; 9],
    }

    /// Whether the 8254 makes up for ticks the guest missed.
    pub struct KvmReinjectControl("struct kvm_reinject_control", 32) {
        pit_reinject: u8,
        reserved: [u8; 31],
    }

    /// A route to a pin of an interrupt controller.
    pub struct KvmIrqRoutingIrqchip("struct kvm_irq_routing_irqchip", 8) {
        irqchip: u32,
        pin: u32,
    }

    /// A route to a message. `devid` counts only with `KVM_MSI_VALID_DEVID`.
    pub struct KvmIrqRoutingMsi("struct kvm_irq_routing_msi", 16) {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        devid: u32,
    }

    /// A route to a synthetic interrupt of Hyper-V.
    pub struct KvmIrqRoutingHvSint("struct kvm_irq_routing_hv_sint", 8) {
        vcpu: u32,
        sint: u32,
    }

    /// A route to a Xen event channel.
    pub struct KvmIrqRoutingXenEvtchn("struct kvm_irq_routing_xen_evtchn", 12) {
        port: u32,
        vcpu: u32,
        priority: u32,
    }

    /// A route of a GSI. `u` is a union that `type_` selects from; see
    /// [`payload`](KvmIrqRoutingEntry::payload).
    pub struct KvmIrqRoutingEntry("struct kvm_irq_routing_entry", 48) {
        gsi: u32,
        type_: u32,
        flags: u32,
        pad: u32,
        u: [u32; 8],
    }

    /// The header of a routing table; `nr` [`KvmIrqRoutingEntry`] follow.
    pub struct KvmIrqRouting("struct kvm_irq_routing", 8) {
        nr: u32,
        flags: u32,
    }

    /// A message-signalled interrupt.
    pub struct KvmMsi("struct kvm_msi", 32) {
        address_lo: u32,
        address_hi: u32,
        data: u32,
        flags: u32,
        devid: u32,
        pad: [u8; 12],
    }

    /// Ties an eventfd to a GSI.
    pub struct KvmIrqfd("struct kvm_irqfd", 32) {
        fd: u32,
        gsi: u32,
        flags: u32,
        resamplefd: u32,
        pad: [u8; 16],
    }
}

impl KvmIrqRoutingEntry {
    /// Reads the union as the payload `T`, which must be at most 32 bytes (`None` otherwise).
    #[inline]
    pub fn payload<T: FromBytes>(&self) -> Option<T> {
        match T::read_from_prefix(zerocopy::IntoBytes::as_bytes(&self.u)) {
            Ok((payload, _)) => Some(payload),
            Err(_) => None,
        }
    }
}

values! {
    u32 KVM_IOAPIC_NUM_PINS = 24;
    u32 KVM_IRQCHIP_PIC_MASTER = 0;
    u32 KVM_IRQCHIP_PIC_SLAVE = 1;
    u32 KVM_IRQCHIP_IOAPIC = 2;
    u32 KVM_NR_IRQCHIPS = 3;
    u32 KVM_PIT_SPEAKER_DUMMY = 1;
    u32 KVM_PIT_FLAGS_HPET_LEGACY = 1;
    u32 KVM_PIT_FLAGS_SPEAKER_DATA_ON = 2;
    u32 KVM_IRQ_ROUTING_IRQCHIP = 1;
    u32 KVM_IRQ_ROUTING_MSI = 2;
    u32 KVM_IRQ_ROUTING_S390_ADAPTER = 3;
    u32 KVM_IRQ_ROUTING_HV_SINT = 4;
    u32 KVM_IRQ_ROUTING_XEN_EVTCHN = 5;
    u32 KVM_IRQ_ROUTING_XEN_EVTCHN_PRIO_2LEVEL = u32::MAX;
    u32 KVM_MSI_VALID_DEVID = 1 << 0;
    u32 KVM_IRQFD_FLAG_DEASSIGN = 1 << 0;
    u32 KVM_IRQFD_FLAG_RESAMPLE = 1 << 1;
    u64 KVM_X2APIC_API_USE_32BIT_IDS = 1 << 0;
    u64 KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK = 1 << 1;
    u64 KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST = 1 << 2;
    u64 KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST = 1 << 3;
}

ioctls! {
    KVM_CREATE_IRQCHIP = None 0x60;
    KVM_IRQ_LINE = Write 0x61, KvmIrqLevel;
    KVM_GET_IRQCHIP = ReadWrite 0x62, KvmIrqchip;
    /// Copies in, whatever its direction says.
    KVM_SET_IRQCHIP = Read 0x63, KvmIrqchip;
    KVM_CREATE_PIT = None 0x64;
    KVM_GET_PIT = ReadWrite 0x65, KvmPitState;
    /// Copies in, whatever its direction says.
    KVM_SET_PIT = Read 0x66, KvmPitState;
    KVM_IRQ_LINE_STATUS = ReadWrite 0x67, KvmIrqLevel;
    KVM_SET_GSI_ROUTING = Write 0x6a, KvmIrqRouting;
    /// Takes a pointer to [`KvmReinjectControl`], whatever its direction says.
    KVM_REINJECT_CONTROL = None 0x71;
    KVM_IRQFD = Write 0x76, KvmIrqfd;
    KVM_CREATE_PIT2 = Write 0x77, KvmPitConfig;
    KVM_GET_PIT2 = Read 0x9f, KvmPitState2;
    KVM_SET_PIT2 = Write 0xa0, KvmPitState2;
    KVM_SIGNAL_MSI = Write 0xa5, KvmMsi;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_from_the_union() {
        let mut entry = KvmIrqRoutingEntry::zeroed();
        entry.u = [1, 2, 3, 4, 5, 6, 7, 8];
        let msi: KvmIrqRoutingMsi = entry.payload().unwrap();
        assert_eq!(
            (msi.address_lo, msi.address_hi, msi.data, msi.devid),
            (1, 2, 3, 4)
        );
        assert!(entry.payload::<KvmIrqchip>().is_none());
    }
}
