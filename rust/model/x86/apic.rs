// SPDX-License-Identifier: GPL-2.0

//! The local APIC's registers, and the messages that travel between APICs.
//!
//! Offsets are those of the xAPIC's MMIO page; the x2APIC MSR of the register at offset `o` is
//! `0x800 + (o >> 4)`. [`Message`] is what an IOAPIC entry, an MSI and an ICR write have in
//! common, and what the destination's APIC receives.
//!
//! SDM: vol 3, 11.4 to 11.12 (APIC); APM: vol 2, 16.

/// Guest-physical address of the APIC page after RESET.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;
/// First MSR of the x2APIC register space.
pub const X2APIC_MSR_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC register space.
pub const X2APIC_MSR_LAST: u32 = 0x8ff;

/// Register offsets in the APIC page, bytes. SDM: vol 3, table 11-1.
pub mod reg {
    /// Local APIC ID.
    pub const ID: u32 = 0x020;
    /// Version.
    pub const VERSION: u32 = 0x030;
    /// Task priority.
    pub const TPR: u32 = 0x080;
    /// Arbitration priority.
    pub const APR: u32 = 0x090;
    /// Processor priority.
    pub const PPR: u32 = 0x0a0;
    /// End of interrupt.
    pub const EOI: u32 = 0x0b0;
    /// Remote read.
    pub const RRD: u32 = 0x0c0;
    /// Logical destination.
    pub const LDR: u32 = 0x0d0;
    /// Destination format.
    pub const DFR: u32 = 0x0e0;
    /// Spurious-interrupt vector, and the software enable bit.
    pub const SVR: u32 = 0x0f0;
    /// In-service, first of eight words at a stride of 16 bytes.
    pub const ISR: u32 = 0x100;
    /// Trigger mode, first of eight.
    pub const TMR: u32 = 0x180;
    /// Interrupt request, first of eight.
    pub const IRR: u32 = 0x200;
    /// Error status.
    pub const ESR: u32 = 0x280;
    /// LVT corrected machine check.
    pub const LVT_CMCI: u32 = 0x2f0;
    /// Interrupt command, low half (all 64 bits in x2APIC mode).
    pub const ICR: u32 = 0x300;
    /// Interrupt command, high half (xAPIC only).
    pub const ICR2: u32 = 0x310;
    /// LVT timer.
    pub const LVT_TIMER: u32 = 0x320;
    /// LVT thermal sensor.
    pub const LVT_THERMAL: u32 = 0x330;
    /// LVT performance counters.
    pub const LVT_PERF: u32 = 0x340;
    /// LVT local interrupt pin 0.
    pub const LVT_LINT0: u32 = 0x350;
    /// LVT local interrupt pin 1.
    pub const LVT_LINT1: u32 = 0x360;
    /// LVT error.
    pub const LVT_ERROR: u32 = 0x370;
    /// Timer initial count.
    pub const TMICT: u32 = 0x380;
    /// Timer current count.
    pub const TMCCT: u32 = 0x390;
    /// Timer divide configuration.
    pub const TDCR: u32 = 0x3e0;
    /// Self-IPI (x2APIC only).
    pub const SELF_IPI: u32 = 0x3f0;
}

/// IA32_APIC_BASE. SDM: vol 3, 11.4.4 and 11.12.1.
pub mod base {
    /// This is the bootstrap processor.
    pub const BSP: u64 = 1 << 8;
    /// x2APIC mode.
    pub const X2APIC: u64 = 1 << 10;
    /// The APIC is enabled.
    pub const ENABLE: u64 = 1 << 11;
    /// Bits below the page address that are always reserved.
    pub const RESERVED_LOW: u64 = 0x2ff;
    /// The page address, before the CPU's own limit on physical address bits.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// Version register bits.
pub mod version {
    /// What an integrated APIC of this kind reports in bits 7:0.
    pub const INTEGRATED: u32 = 0x14;
    /// EOI broadcasts can be suppressed.
    pub const DIRECTED_EOI: u32 = 1 << 24;
}

/// Spurious-interrupt vector register bits. SDM: vol 3, 11.9.
pub mod svr {
    /// Software enable.
    pub const ENABLE: u32 = 1 << 8;
    /// Do not broadcast EOIs of level-triggered interrupts.
    pub const DIRECTED_EOI: u32 = 1 << 12;
    /// Vector, enable and focus-checking bits.
    pub const WRITABLE: u32 = 0x3ff;
}

/// Local vector table bits. SDM: vol 3, 11.5.1.
pub mod lvt {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Delivery mode, at the same place as in the ICR.
    pub const MODE: u32 = 7 << 8;
    /// Delivery status (read-only in hardware).
    pub const SEND_PENDING: u32 = 1 << 12;
    /// Pin polarity.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// A level interrupt was accepted and not yet ended.
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// The timer mode field.
    pub const TIMER_MODE: u32 = 3 << 17;
    /// Timer mode: periodic.
    pub const TIMER_PERIODIC: u32 = 1 << 17;
    /// Timer mode: TSC deadline.
    pub const TIMER_TSC_DEADLINE: u32 = 2 << 17;
}

/// Error status register bits. SDM: vol 3, 11.5.3.
pub mod esr {
    /// A vector below 16 was to be sent.
    pub const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
    /// A vector below 16 was received.
    pub const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
}

/// Interrupt command register bits. SDM: vol 3, 11.6.1.
pub mod icr {
    /// The vector.
    pub const VECTOR: u32 = 0xff;
    /// Delivery mode.
    pub const MODE: u32 = 7 << 8;
    /// Logical destination mode.
    pub const LOGICAL: u32 = 1 << 11;
    /// Delivery status: busy.
    pub const BUSY: u32 = 1 << 12;
    /// Level: assert.
    pub const ASSERT: u32 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Destination shorthand.
    pub const SHORTHAND: u32 = 3 << 18;
    /// Bits that must be zero in an x2APIC write: 31:20, 17:16 and 13.
    pub const X2APIC_RESERVED: u64 = 0xfff3_2000;
}

/// Destination format register: flat model. SDM: vol 3, 11.6.2.2.
pub const DFR_FLAT: u32 = 0xffff_ffff;
/// Destination format register: cluster model.
pub const DFR_CLUSTER: u32 = 0x0fff_ffff;

/// The destination that means every APIC in xAPIC mode.
pub const BROADCAST: u32 = 0xff;
/// The destination that means every APIC in x2APIC mode.
pub const X2APIC_BROADCAST: u32 = 0xffff_ffff;

/// Vectors below this one are illegal in an interrupt message. SDM: vol 3, 11.5.2.
pub const FIRST_LEGAL_VECTOR: u8 = 16;

/// How a message is to be taken by its destination. SDM: vol 3, 11.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// An interrupt with the given vector.
    Fixed,
    /// The same, to one of the addressed CPUs.
    LowestPriority,
    /// A system management interrupt.
    Smi,
    /// Reserved by the SDM. KVM: guests use it to wake a paravirtual spinner.
    RemoteRead,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// Start-up IPI; the vector is the page to start at.
    Startup,
    /// An interrupt whose vector comes from the 8259 pair.
    ExtInt,
}

impl Delivery {
    /// The delivery mode in bits 2:0 of `bits`.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::RemoteRead,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }

    /// The three-bit encoding.
    #[inline]
    pub const fn bits(self) -> u32 {
        match self {
            Self::Fixed => 0,
            Self::LowestPriority => 1,
            Self::Smi => 2,
            Self::RemoteRead => 3,
            Self::Nmi => 4,
            Self::Init => 5,
            Self::Startup => 6,
            Self::ExtInt => 7,
        }
    }
}

/// Trigger mode of an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// Edge-triggered: no end-of-interrupt message goes back.
    Edge,
    /// Level-triggered: the end of interrupt is broadcast to the IOAPICs.
    Level,
}

impl Trigger {
    /// Level if `level`, else edge.
    #[inline]
    pub const fn from_level(level: bool) -> Self {
        if level {
            Self::Level
        } else {
            Self::Edge
        }
    }

    /// True for [`Trigger::Level`].
    #[inline]
    pub const fn is_level(self) -> bool {
        matches!(self, Self::Level)
    }
}

/// Destination shorthand of an IPI. SDM: vol 3, 11.6.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// The destination field decides.
    None,
    /// The sender.
    Myself,
    /// Every CPU, the sender too.
    All,
    /// Every CPU but the sender.
    Others,
}

impl Shorthand {
    /// The shorthand in bits 1:0 of `bits`.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        match bits & 3 {
            0 => Self::None,
            1 => Self::Myself,
            2 => Self::All,
            _ => Self::Others,
        }
    }
}

/// An interrupt message: from an IOAPIC, an MSI or an IPI, to one or more local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Destination: an APIC ID, or a logical address if [`Message::logical`].
    pub dest: u32,
    /// Destination mode is logical.
    pub logical: bool,
    /// The vector, or the start page of a start-up IPI.
    pub vector: u8,
    /// What to do at the destination.
    pub delivery: Delivery,
    /// Trigger mode.
    pub trigger: Trigger,
    /// Level: assert. False only for a level-triggered de-assert, which is ignored by everyone
    /// (SDM: vol 3, 11.6.1).
    pub assert: bool,
    /// The MSI redirection hint: any one of the addressed CPUs will do.
    pub redirection_hint: bool,
}

impl Message {
    /// An edge-triggered fixed interrupt to the physical destination `dest`.
    #[inline]
    pub const fn fixed(dest: u32, vector: u8) -> Self {
        Self {
            dest,
            logical: false,
            vector,
            delivery: Delivery::Fixed,
            trigger: Trigger::Edge,
            assert: true,
            redirection_hint: false,
        }
    }

    /// Whether one of the addressed CPUs is chosen rather than all of them taking it.
    #[inline]
    pub const fn picks_one(&self) -> bool {
        matches!(self.delivery, Delivery::LowestPriority) || self.redirection_hint
    }
}

/// An inter-processor interrupt: a message with the ICR's shorthand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipi {
    /// The message.
    pub message: Message,
    /// Overrides the message's destination unless it is [`Shorthand::None`].
    pub shorthand: Shorthand,
}

impl Ipi {
    /// Decodes an interrupt command. `dest` is the destination field already extracted, as its
    /// width depends on the mode.
    #[inline]
    pub const fn from_icr(low: u32, dest: u32) -> Self {
        Self {
            message: Message {
                dest,
                logical: low & icr::LOGICAL != 0,
                vector: (low & icr::VECTOR) as u8,
                delivery: Delivery::from_bits(low >> 8),
                trigger: Trigger::from_level(low & icr::LEVEL != 0),
                assert: low & icr::ASSERT != 0,
                redirection_hint: false,
            },
            shorthand: Shorthand::from_bits(low >> 18),
        }
    }

    /// The IPI a CPU sends itself through the self-IPI register.
    #[inline]
    pub const fn to_self(vector: u8) -> Self {
        Self {
            message: Message::fixed(0, vector),
            shorthand: Shorthand::Myself,
        }
    }
}

/// The logical ID an x2APIC derives from its ID: the cluster in bits 31:16, one of sixteen bits
/// below. SDM: vol 3, 11.12.10.2.
#[inline]
pub const fn x2apic_ldr(id: u32) -> u32 {
    ((id >> 4) << 16) | (1 << (id & 0xf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_modes_convert_both_ways() {
        for bits in 0..8 {
            assert_eq!(Delivery::from_bits(bits).bits(), bits);
            assert_eq!(Delivery::from_bits(bits | 8).bits(), bits);
        }
    }

    #[test]
    fn icr_fields_land_where_they_belong() {
        let ipi = Ipi::from_icr(0x000c_c8f3, 7);
        assert_eq!(ipi.shorthand, Shorthand::Others);
        let m = ipi.message;
        assert_eq!((m.dest, m.vector, m.delivery), (7, 0xf3, Delivery::Fixed));
        assert!(m.logical && m.assert && m.trigger.is_level());
        let init = Ipi::from_icr(0x0000_4500, 1).message;
        assert_eq!(
            (init.delivery, init.trigger),
            (Delivery::Init, Trigger::Edge)
        );
        assert!(init.assert && !init.logical);
    }

    #[test]
    fn x2apic_logical_ids_follow_the_manual() {
        assert_eq!(x2apic_ldr(0), 0x0000_0001);
        assert_eq!(x2apic_ldr(0x1f), 0x0001_8000);
        assert_eq!(x2apic_ldr(0x123), 0x0012_0008);
        assert_eq!(x2apic_ldr(u32::MAX), 0xffff_8000);
    }
}
