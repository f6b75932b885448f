// SPDX-License-Identifier: GPL-2.0

//! What everyone else may know of a vCPU's APIC.
//!
//! The owner writes, anyone reads. What decides about addressing is one word, so that a reader never
//! sees the ID of one mode with the logical ID of another.

use super::super::targets::Census;
use super::Mode;
use crate::x86::apic::lvt;
use crate::x86::apic::Delivery;
use crate::x86::apic::Message;
use crate::x86::apic::Shorthand;
use crate::x86::apic::Trigger;
use crate::x86::apic::BROADCAST;
use crate::x86::apic::DFR_CLUSTER;
use crate::x86::apic::DFR_FLAT;
use crate::x86::apic::X2APIC_BROADCAST;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::Ordering::Release;

/// Published facts about one APIC. The owner writes them, anyone reads.
#[derive(Debug)]
pub struct Published {
    /// x2APIC ID; constant.
    id: u32,
    /// LINT0's LVT entry.
    lint0: AtomicU32,
    /// [`Address`], packed.
    address: AtomicU64,
    /// How many lowest-priority interrupts went to this CPU, modulo 2^32.
    arbitration: AtomicU32,
}

/// The registers that are published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) mode: Mode,
    pub(super) software_enabled: bool,
    pub(super) xapic_id: u8,
    pub(super) ldr: u32,
    pub(super) dfr: u32,
    pub(super) lint0: u32,
}

/// The model by which an APIC in xAPIC mode compares logical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogicalModel {
    /// Eight CPUs, one bit each.
    Flat,
    /// Fifteen clusters of four.
    Cluster,
    /// A destination format that the SDM does not define: matches nothing but broadcasts.
    Undefined,
}

/// How an APIC is addressed at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// x2APIC ID.
    pub id: u32,
    /// ID in xAPIC mode, which the guest may have changed.
    pub xapic_id: u8,
    /// Logical ID, in the format of the mode.
    pub ldr: u32,
    /// How it is compared in xAPIC mode.
    pub model: LogicalModel,
    /// Mode.
    pub mode: Mode,
    /// Software-enabled.
    pub software_enabled: bool,
}

/// The rules of a VM by which destinations are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// IDs have 32 bits (KVM_X2APIC_API_USE_32BIT_IDS).
    pub ids32: bool,
    /// The destination 0xff of an interrupt that is not an IPI does not reach APICs in x2APIC mode
    /// (KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK).
    pub no_broadcast_quirk: bool,
    /// Lowest-priority interrupts go to the CPU that has had the fewest of them, rather than to one
    /// chosen by the vector.
    pub arbitrate: bool,
}

/// The sender of an IPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Index of the sending vCPU.
    pub vcpu: u32,
    /// Its APIC is in x2APIC mode.
    pub x2apic: bool,
}

const MODE_SHIFT: u32 = 0;
const MODEL_SHIFT: u32 = 2;
const SOFTWARE_ENABLED: u64 = 1 << 4;
const XAPIC_ID_SHIFT: u32 = 8;
const LDR_SHIFT: u32 = 32;

impl Published {
    /// Nothing published yet: a disabled APIC with the given x2APIC ID.
    pub const fn new(id: u32) -> Self {
        Self {
            id,
            lint0: AtomicU32::new(lvt::MASKED),
            address: AtomicU64::new(0),
            arbitration: AtomicU32::new(0),
        }
    }

    pub(super) fn store(&self, f: &Facts, census: &Census) {
        let mode = match f.mode {
            Mode::Disabled => 0u64,
            Mode::XApic => 1,
            Mode::X2Apic => 2,
        };
        let model = match f.dfr {
            DFR_FLAT => 0u64,
            DFR_CLUSTER => 1,
            _ => 2,
        };
        let enabled = if f.software_enabled {
            SOFTWARE_ENABLED
        } else {
            0
        };
        self.lint0.store(f.lint0, Relaxed);
        let word = (u64::from(f.ldr) << LDR_SHIFT)
            | (u64::from(f.xapic_id) << XAPIC_ID_SHIFT)
            | enabled
            | (model << MODEL_SHIFT)
            | (mode << MODE_SHIFT);
        let old = self.address();
        census.enter(&self.unpack(word));
        self.address.store(word, Release);
        census.leave(&old);
    }

    /// The x2APIC ID.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How the APIC is addressed.
    #[inline]
    pub fn address(&self) -> Address {
        self.unpack(self.address.load(Acquire))
    }

    #[inline]
    fn unpack(&self, w: u64) -> Address {
        Address {
            id: self.id,
            xapic_id: (w >> XAPIC_ID_SHIFT) as u8,
            ldr: (w >> LDR_SHIFT) as u32,
            model: match (w >> MODEL_SHIFT) & 3 {
                0 => LogicalModel::Flat,
                1 => LogicalModel::Cluster,
                _ => LogicalModel::Undefined,
            },
            mode: match (w >> MODE_SHIFT) & 3 {
                0 => Mode::Disabled,
                1 => Mode::XApic,
                _ => Mode::X2Apic,
            },
            software_enabled: w & SOFTWARE_ENABLED != 0,
        }
    }

    /// Would a fixed interrupt be accepted? A software-disabled APIC takes only NMI, INIT, SMI and
    /// start-up IPIs (SDM: vol 3, 11.4.7.2).
    #[inline]
    pub fn accepts_fixed(&self) -> bool {
        let a = self.address();
        a.is_present() && a.software_enabled
    }

    /// See [`super::LocalApic::accepts_pic`].
    pub fn accepts_pic(&self) -> bool {
        accepts_pic(self.address().is_present(), self.lint0.load(Relaxed))
    }

    /// Whether LINT0 delivers an NMI. Linux's NMI watchdog routes the PIT that way.
    pub fn lint0_is_nmi(&self) -> bool {
        self.lint0.load(Relaxed) & (lvt::MODE | lvt::MASKED) == 4 << 8
    }

    /// What an edge at LINT0 becomes; `None` if the entry is masked or the APIC disabled.
    pub fn at_lint0(&self) -> Option<Message> {
        let entry = self.lint0.load(Relaxed);
        if !self.address().is_present() || entry & lvt::MASKED != 0 {
            return None;
        }
        Some(Message {
            delivery: Delivery::from_bits((entry & lvt::MODE) >> 8),
            trigger: Trigger::from_level(entry & lvt::LEVEL != 0),
            ..Message::fixed(self.id, (entry & lvt::VECTOR) as u8)
        })
    }

    /// How many lowest-priority interrupts came here, for [`Rules::arbitrate`].
    #[inline]
    pub fn arbitration(&self) -> u32 {
        self.arbitration.load(Relaxed)
    }

    /// Counts one more lowest-priority interrupt.
    #[inline]
    pub fn count_arbitration(&self) {
        self.arbitration.fetch_add(1, Relaxed);
    }
}

/// See [`super::LocalApic::accepts_pic`].
pub(super) fn accepts_pic(enabled: bool, lint0: u32) -> bool {
    !enabled || lint0 & (lvt::MODE | lvt::MASKED) == lvt::MODE
}

impl Address {
    /// Globally enabled: takes part in addressing at all.
    #[inline]
    pub fn is_present(&self) -> bool {
        self.mode != Mode::Disabled
    }

    /// Is the APIC of vCPU `vcpu`, addressed like this, a destination of the message? `from` is the
    /// sender if it is an IPI. All destination rules are here;
    /// [`resolve`](super::super::targets::resolve) only asks fewer.
    pub fn matches(
        &self,
        vcpu: u32,
        m: &Message,
        shorthand: Shorthand,
        from: Option<Sender>,
        rules: Rules,
    ) -> bool {
        if !self.is_present() {
            return false;
        }
        let is_sender = from.is_some_and(|s| s.vcpu == vcpu);
        match shorthand {
            Shorthand::Myself => is_sender,
            Shorthand::All => true,
            Shorthand::Others => !is_sender,
            Shorthand::None => {
                self.is_broadcast(m.dest, from, rules)
                    || if m.logical {
                        self.matches_logical(m.dest)
                    } else {
                        self.matches_physical(m.dest, rules)
                    }
            }
        }
    }

    /// Does the APIC take part in addressing, and is `id` its own physical ID? No ID is a broadcast
    /// here.
    pub fn has_id(&self, id: u32, rules: Rules) -> bool {
        self.is_present() && self.matches_physical(id, rules)
    }

    /// Does `dest` mean everyone to this APIC? In x2APIC mode that is 0xffffffff, else 0xff, with
    /// two exceptions.
    ///
    /// KVM: an IOAPIC or an MSI can express 0xff only, so without interrupt remapping that must
    /// reach APICs in x2APIC mode too. X2APIC_API turns this off, because with wide IDs 0xff is an
    /// address like others. And no broadcast of a CPU in x2APIC mode reaches an APIC that is not in
    /// it yet: 0xff is somebody's ID then.
    fn is_broadcast(&self, dest: u32, from: Option<Sender>, rules: Rules) -> bool {
        match (self.mode, from) {
            (Mode::Disabled, _) => false,
            (Mode::XApic, Some(s)) if s.x2apic => false,
            (Mode::XApic, _) => dest == BROADCAST,
            (Mode::X2Apic, None) => {
                dest == X2APIC_BROADCAST || dest == BROADCAST && !rules.no_broadcast_quirk
            }
            (Mode::X2Apic, Some(_)) => dest == X2APIC_BROADCAST,
        }
    }

    /// KVM: a vCPU whose ID does not fit into eight bits can be addressed by it in xAPIC mode too,
    /// as it starts in that mode when it is plugged. With 32-bit IDs it cannot be addressed by the
    /// truncated ID, which is another vCPU's.
    fn matches_physical(&self, dest: u32, rules: Rules) -> bool {
        match self.mode {
            Mode::Disabled => false,
            Mode::X2Apic => dest == self.id,
            Mode::XApic if dest > 0xff => dest == self.id,
            Mode::XApic => dest == u32::from(self.xapic_id) && !(rules.ids32 && self.id > 0xff),
        }
    }

    /// SDM: vol 3, 11.6.2.2 and 11.12.10.1.
    fn matches_logical(&self, dest: u32) -> bool {
        let ldr = self.ldr >> 24;
        match (self.mode, self.model) {
            (Mode::Disabled, _) => false,
            (Mode::X2Apic, _) => self.ldr >> 16 == dest >> 16 && self.ldr & dest & 0xffff != 0,
            (Mode::XApic, LogicalModel::Flat) => ldr & dest != 0,
            (Mode::XApic, LogicalModel::Cluster) => ldr >> 4 == dest >> 4 && ldr & dest & 0xf != 0,
            (Mode::XApic, LogicalModel::Undefined) => false,
        }
    }
}
