// SPDX-License-Identifier: GPL-2.0

//! The APIC map: from the destination of a message to the vCPUs it addresses.
//!
//! The rules of addressing are [`Address::matches`] and need every vCPU to be asked. The map finds
//! the few that may match: by physical ID in a table, by logical ID in slots if all APICs use one
//! model and no bit is shared, which is what operating systems set up. Where the map cannot tell
//! (broadcasts, shared IDs, mixed models) all vCPUs are asked. Either way each candidate is
//! asked for its address of this moment, so a map that lags behind never adds a destination.
//!
//! A map is built by one writer whenever [`Effects::remap`] says so, in storage that the caller
//! provides, and not changed afterwards; readers find it through RCU.
//!
//! [`Effects::remap`]: super::lapic::Effects::remap

use super::lapic::published::Address;
use super::lapic::published::LogicalModel;
use super::lapic::published::Published;
use super::lapic::published::Rules;
use super::lapic::published::Sender;
use super::lapic::Mode;
use crate::x86::apic::Ipi;
use crate::x86::apic::Message;
use crate::x86::apic::Shorthand;
use crate::x86::apic::BROADCAST;
use crate::x86::apic::X2APIC_BROADCAST;
use core::borrow::Borrow;
use core::ops::Deref;
use core::ops::DerefMut;

/// The vCPUs of a VM, by index.
pub trait Peers {
    /// One more than the highest index in use.
    fn count(&self) -> u32;
    /// What the APIC of this vCPU has published; `None` if there is no such vCPU.
    fn published(&self, vcpu: u32) -> Option<&Published>;
}

impl<T: Borrow<Published>> Peers for [T] {
    fn count(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn published(&self, vcpu: u32) -> Option<&Published> {
        self.get(usize::try_from(vcpu).ok()?).map(Borrow::borrow)
    }
}

/// No vCPU has this ID.
const NOBODY: u32 = u32::MAX;
/// More than one has.
const SHARED: u32 = u32::MAX - 1;
/// Slots for logical destinations in xAPIC mode: 16 clusters of 4, of which the flat model uses the
/// first 8.
const SLOTS: usize = 64;
/// Most vCPUs a logical destination addresses without being a broadcast.
const MAX_LOGICAL: usize = 16;
/// The last ID whose logical ID does not wrap around.
const LAST_CLUSTERED_ID: u32 = 0xf_ffff;

/// How logical destinations can be looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Logical {
    /// No APIC has a logical ID.
    Unused,
    /// All that have one are in x2APIC mode: by ID.
    X2Apic,
    /// All use the flat model: by slot.
    Flat,
    /// All use the cluster model: by slot.
    Cluster,
    /// Several models, or shared bits: not at all.
    Irregular,
}

/// The map. `T` holds a word for each physical ID, see [`ApicMap::ids_needed`].
#[derive(Debug)]
pub struct ApicMap<T> {
    ids: T,
    slots: [u32; SLOTS],
    logical: Logical,
    rules: Rules,
    /// Some APIC is in xAPIC mode.
    any_xapic: bool,
    /// Some ID lies beyond the table.
    overflow: bool,
    shared_id: bool,
    modified_id: bool,
}

/// How many words of storage a map of these vCPUs needs: one for every ID up to the highest, and
/// all that the xAPIC can express. A vCPU that appears later and has a higher ID is found all the
/// same, but slowly.
pub fn ids_needed<P: Peers + ?Sized>(peers: &P) -> usize {
    let ids = present(peers).map(|(_, a)| a.id).max();
    (ids.unwrap_or(0).max(0xff) as usize).saturating_add(1)
}

fn present<P: Peers + ?Sized>(peers: &P) -> impl Iterator<Item = (u32, Address)> + '_ {
    (0..peers.count()).filter_map(|vcpu| {
        let address = peers.published(vcpu)?.address();
        address.is_present().then_some((vcpu, address))
    })
}

impl<T: DerefMut<Target = [u32]>> ApicMap<T> {
    /// Builds the map from what the vCPUs have published. `ids` may have any content.
    pub fn build<P: Peers + ?Sized>(mut ids: T, peers: &P, rules: Rules) -> Self {
        ids.fill(NOBODY);
        let mut map = Self {
            ids,
            slots: [NOBODY; SLOTS],
            logical: Logical::Unused,
            rules,
            any_xapic: false,
            overflow: false,
            shared_id: false,
            modified_id: false,
        };
        for (vcpu, address) in present(peers) {
            map.add_physical(vcpu, &address);
            map.add_logical(vcpu, &address);
        }
        map
    }

    fn add_physical(&mut self, vcpu: u32, a: &Address) {
        if a.mode == Mode::X2Apic {
            self.add_id(a.id, vcpu);
            return;
        }
        self.any_xapic = true;
        self.modified_id |= a.xapic_id != (a.id & 0xff) as u8;
        if a.id > 0xff {
            self.add_id(a.id, vcpu);
        }
        if a.id <= 0xff || !self.rules.ids32 {
            self.add_id(u32::from(a.xapic_id), vcpu);
        }
    }

    fn add_id(&mut self, id: u32, vcpu: u32) {
        match self.ids.get_mut(id as usize) {
            Some(entry) if *entry == NOBODY => *entry = vcpu,
            Some(entry) => {
                *entry = SHARED;
                self.shared_id = true;
            }
            None => self.overflow = true,
        }
    }

    fn add_logical(&mut self, vcpu: u32, a: &Address) {
        let ldr = a.ldr >> 24;
        let (model, bits, first) = match (a.mode, a.model) {
            (Mode::X2Apic, _) => {
                self.overflow |= a.id > LAST_CLUSTERED_ID;
                self.set_model(Logical::X2Apic);
                return;
            }
            (Mode::XApic, LogicalModel::Flat) => (Logical::Flat, ldr, 0),
            (Mode::XApic, LogicalModel::Cluster) => (Logical::Cluster, ldr & 0xf, ldr >> 4 << 2),
            (Mode::XApic, LogicalModel::Undefined) | (Mode::Disabled, _) => return,
        };
        // An APIC without logical ID, as after RESET, does not care for the model.
        if bits == 0 {
            return;
        }
        self.set_model(model);
        if !bits.is_power_of_two() {
            self.logical = Logical::Irregular;
        }
        let slot = first.wrapping_add(bits.trailing_zeros());
        match self.slots.get_mut(slot as usize) {
            Some(entry) if *entry == NOBODY => *entry = vcpu,
            _ => self.logical = Logical::Irregular,
        }
    }

    fn set_model(&mut self, model: Logical) {
        self.logical = match self.logical {
            Logical::Unused => model,
            same if same == model => model,
            _ => Logical::Irregular,
        };
    }
}

impl<T: Deref<Target = [u32]>> ApicMap<T> {
    /// The rules it was built by.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Several APICs have one physical ID: hardware that routes by ID must stand back.
    pub fn has_shared_ids(&self) -> bool {
        self.shared_id
    }

    /// Logical IDs are not one bit for each APIC: the same.
    pub fn has_irregular_logical_ids(&self) -> bool {
        self.logical == Logical::Irregular
    }

    /// The guest has changed an xAPIC ID: the same.
    pub fn has_modified_ids(&self) -> bool {
        self.modified_id
    }

    /// The vCPU that has this physical ID, if exactly one has. Broadcast IDs are not special here.
    pub fn by_id(&self, id: u32) -> Option<u32> {
        let vcpu = *self.ids.get(id as usize)?;
        (vcpu < SHARED).then_some(vcpu)
    }

    /// The vCPUs that `ipi` addresses; `from` is its sender, if it comes from a CPU. For a message
    /// from elsewhere there is [`ApicMap::resolve_message`].
    pub fn resolve<'a, P: Peers + ?Sized>(
        &self,
        ipi: &Ipi,
        from: Option<Sender>,
        peers: &'a P,
    ) -> Targets<'a, P> {
        let candidates = match (ipi.shorthand, from) {
            (Shorthand::Myself, Some(sender)) => Candidates::one(sender.vcpu),
            (Shorthand::None, _) => self.candidates(&ipi.message, from),
            _ => Candidates::All,
        };
        Targets::new(candidates, ipi, from, peers, self.rules)
    }

    /// The vCPUs that a message of a device addresses.
    pub fn resolve_message<'a, P: Peers + ?Sized>(
        &self,
        m: &Message,
        peers: &'a P,
    ) -> Targets<'a, P> {
        self.resolve(&without_shorthand(m), None, peers)
    }

    /// The only vCPU that the message addresses, if it is only one: then hardware can deliver it.
    pub fn only_target<P: Peers + ?Sized>(&self, m: &Message, peers: &P) -> Option<u32> {
        let mut targets = self.resolve_message(m, peers);
        let first = targets.next()?;
        targets.next().is_none().then_some(first)
    }

    /// All vCPUs that may match, and as few others as possible.
    fn candidates(&self, m: &Message, from: Option<Sender>) -> Candidates {
        if self.may_be_broadcast(m.dest, from) {
            return Candidates::All;
        }
        let mut list = List::EMPTY;
        let complete = if !m.logical {
            self.add_by_id(&mut list, m.dest)
        } else {
            match self.logical {
                Logical::Unused => true,
                Logical::Irregular => false,
                Logical::Flat => {
                    self.add_slots(&mut list, 0, m.dest & 0xff);
                    true
                }
                Logical::Cluster => {
                    if m.dest <= 0xff {
                        self.add_slots(&mut list, m.dest >> 4 << 2, m.dest & 0xf);
                    }
                    true
                }
                Logical::X2Apic => {
                    let first = m.dest >> 16 << 4;
                    (0..16u32)
                        .filter(|bit| (m.dest >> bit) & 1 != 0)
                        .all(|bit| self.add_by_id(&mut list, first | bit))
                }
            }
        };
        if complete {
            Candidates::Listed(list)
        } else {
            Candidates::All
        }
    }

    /// Is `dest` a broadcast to any APIC? See [`Address::matches`].
    fn may_be_broadcast(&self, dest: u32, from: Option<Sender>) -> bool {
        match (dest, from) {
            (X2APIC_BROADCAST, _) => true,
            (BROADCAST, Some(sender)) => self.any_xapic && !sender.x2apic,
            (BROADCAST, None) => self.any_xapic || !self.rules.no_broadcast_quirk,
            _ => false,
        }
    }

    /// Adds the vCPU with a physical ID; false if all must be asked.
    fn add_by_id(&self, list: &mut List, id: u32) -> bool {
        match self.ids.get(id as usize) {
            Some(&NOBODY) => true,
            Some(&SHARED) => false,
            Some(&vcpu) => {
                list.push(vcpu);
                true
            }
            None => !self.overflow,
        }
    }

    fn add_slots(&self, list: &mut List, first: u32, bits: u32) {
        let slots = self.slots.iter().skip(first as usize);
        for (bit, &vcpu) in (0..8u32).zip(slots) {
            if (bits >> bit) & 1 != 0 && vcpu != NOBODY {
                list.push(vcpu);
            }
        }
    }
}

/// The vCPUs that `ipi` addresses, without a map: for a VM that has none yet.
pub fn resolve_by_asking<'a, P: Peers + ?Sized>(
    ipi: &Ipi,
    from: Option<Sender>,
    peers: &'a P,
    rules: Rules,
) -> Targets<'a, P> {
    Targets::new(Candidates::All, ipi, from, peers, rules)
}

fn without_shorthand(m: &Message) -> Ipi {
    Ipi {
        message: *m,
        shorthand: Shorthand::None,
    }
}

#[derive(Clone, Copy)]
struct List {
    vcpus: [u32; MAX_LOGICAL],
    len: usize,
}

impl List {
    const EMPTY: Self = Self {
        vcpus: [NOBODY; MAX_LOGICAL],
        len: 0,
    };

    fn push(&mut self, vcpu: u32) {
        if let Some(place) = self.vcpus.get_mut(self.len) {
            *place = vcpu;
            self.len = self.len.saturating_add(1);
        }
    }
}

#[derive(Clone, Copy)]
enum Candidates {
    All,
    Listed(List),
}

impl Candidates {
    fn one(vcpu: u32) -> Self {
        let mut list = List::EMPTY;
        list.push(vcpu);
        Self::Listed(list)
    }

    fn get(&self, position: u32, count: u32) -> Option<u32> {
        match self {
            Self::All => (position < count).then_some(position),
            Self::Listed(list) => {
                let position = position as usize;
                list.vcpus
                    .get(..list.len)
                    .and_then(|l| l.get(position))
                    .copied()
            }
        }
    }
}

/// An iterator over the indices of the vCPUs that a message addresses. A message to one of several
/// (lowest priority) yields that one.
pub struct Targets<'a, P: ?Sized> {
    peers: &'a P,
    ipi: Ipi,
    from: Option<Sender>,
    rules: Rules,
    candidates: Candidates,
    position: u32,
}

impl<'a, P: Peers + ?Sized> Targets<'a, P> {
    fn new(
        candidates: Candidates,
        ipi: &Ipi,
        from: Option<Sender>,
        peers: &'a P,
        rules: Rules,
    ) -> Self {
        let mut targets = Self {
            peers,
            ipi: *ipi,
            from,
            rules,
            candidates,
            position: 0,
        };
        let m = &ipi.message;
        // KVM: one of all cannot be chosen; everyone takes it.
        let everyone = !m.logical && m.dest == BROADCAST && !m.redirection_hint;
        if m.picks_one() && !everyone {
            targets.candidates = match targets.pick() {
                Some(vcpu) => Candidates::one(vcpu),
                None => Candidates::Listed(List::EMPTY),
            };
            targets.position = 0;
        }
        targets
    }

    /// Chooses among the destinations that would accept an interrupt: the one that has had the
    /// fewest of the kind, or by the vector, which spreads different interrupts and keeps each on
    /// its CPU. Processors since the Pentium 4 may choose as they like (SDM: vol 3, 11.6.2.4).
    fn pick(&mut self) -> Option<u32> {
        if self.rules.arbitrate {
            let peers = self.peers;
            return self
                .eligible()
                .min_by_key(|&v| peers.published(v).map_or(u32::MAX, |p| p.arbitration()));
        }
        // `count()` would check for overflow.
        let count = self.eligible().fold(0usize, |n, _| n.wrapping_add(1));
        let nth = usize::from(self.ipi.message.vector).checked_rem(count)?;
        self.position = 0;
        let chosen = self.eligible().nth(nth);
        // Someone was disabled since it was counted.
        self.position = 0;
        chosen.or_else(|| self.eligible().next())
    }

    fn eligible(&mut self) -> impl Iterator<Item = u32> + use<'_, 'a, P> {
        let peers = self.peers;
        self.filter(move |&v| peers.published(v).is_some_and(|p| p.accepts_fixed()))
    }
}

impl<P: Peers + ?Sized> Iterator for Targets<'_, P> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            let vcpu = self.candidates.get(self.position, self.peers.count())?;
            self.position = self.position.saturating_add(1);
            let Some(published) = self.peers.published(vcpu) else {
                continue;
            };
            let m = &self.ipi.message;
            let address = published.address();
            if address.matches(vcpu, m, self.ipi.shorthand, self.from, self.rules) {
                return Some(vcpu);
            }
        }
    }
}

#[cfg(test)]
#[path = "../tests/irqchip/map.rs"]
mod tests;
