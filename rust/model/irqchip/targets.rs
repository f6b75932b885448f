// SPDX-License-Identifier: GPL-2.0

//! From the destination of a message to the vCPUs it addresses.
//!
//! The rules of addressing are [`Address::matches`] and need every vCPU to be asked. Operating
//! systems set their APICs up so that a destination tells the x2APIC IDs of those it means: then
//! only the vCPUs that have these IDs are asked. The [`Census`] says whether all of a VM are set up
//! like that; where it cannot tell, and for broadcasts, everyone is asked. Each candidate is asked
//! for its address of this moment, so that none is addressed by what it was before.

use super::lapic::published::Address;
use super::lapic::published::Published;
use super::lapic::published::Rules;
use super::lapic::published::Sender;
use super::lapic::Mode;
use crate::x86::apic::Ipi;
use crate::x86::apic::Message;
use crate::x86::apic::Shorthand;
use crate::x86::apic::BROADCAST;
use crate::x86::apic::X2APIC_BROADCAST;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Acquire;
use core::sync::atomic::Ordering::Release;

/// The vCPUs of a VM, by index. Their x2APIC IDs have 20 bits at most, of which a logical ID keeps
/// all.
pub trait Peers {
    /// One more than the highest index in use.
    fn count(&self) -> u32;
    /// What the APIC of this vCPU has published; `None` if there is no such vCPU.
    fn published(&self, vcpu: u32) -> Option<&Published>;
    /// The vCPU that has this x2APIC ID.
    fn by_id(&self, id: u32) -> Option<u32>;
    /// Who of them is addressed by something else than that ID.
    fn census(&self) -> &Census;
}

/// How many APICs of a VM are addressed by something else than their x2APIC ID. Too high a number
/// costs time, nothing else.
#[derive(Debug, Default)]
pub struct Census {
    /// By a physical ID that is not the x2APIC ID.
    renamed: AtomicU32,
    /// By a logical ID that does not follow from it.
    grouped: AtomicU32,
}

impl Census {
    /// Of a VM without vCPUs.
    pub const fn new() -> Self {
        Self {
            renamed: AtomicU32::new(0),
            grouped: AtomicU32::new(0),
        }
    }

    fn facts(&self, a: &Address) -> [(&AtomicU32, bool); 2] {
        let old = a.mode == Mode::XApic;
        [
            (&self.renamed, old && u32::from(a.xapic_id) != a.id),
            // As after RESET, an APIC without a logical ID matches none.
            (&self.grouped, old && a.ldr >> 24 != 0),
        ]
    }

    /// An APIC is about to be addressed as `a` says. Before that is published.
    pub(super) fn enter(&self, a: &Address) {
        for (count, counts) in self.facts(a) {
            if counts {
                count.fetch_add(1, Release);
            }
        }
    }

    /// An APIC is no longer addressed as `a` says. After the new address is published.
    pub(super) fn leave(&self, a: &Address) {
        for (count, counts) in self.facts(a) {
            if counts {
                count.fetch_sub(1, Release);
            }
        }
    }

    fn all_by_id(&self, logical: bool) -> bool {
        let count = if logical {
            &self.grouped
        } else {
            &self.renamed
        };
        count.load(Acquire) == 0
    }
}

/// The vCPUs that `ipi` addresses; `from` is its sender, if it comes from a CPU. A message to one of
/// several (lowest priority) addresses that one.
#[inline]
pub fn resolve<'a, P: Peers + ?Sized>(
    ipi: &Ipi,
    from: Option<Sender>,
    peers: &'a P,
    rules: Rules,
) -> Targets<'a, P> {
    let m = &ipi.message;
    let candidates = match (ipi.shorthand, from) {
        (Shorthand::Myself, Some(sender)) => Candidates::One(sender.vcpu),
        (Shorthand::None, _) if may_be_broadcast(m.dest, from) => Candidates::From(0),
        (Shorthand::None, _) => candidates(m, peers),
        _ => Candidates::From(0),
    };
    let targets = Targets {
        peers,
        ipi: *ipi,
        from,
        rules,
        candidates,
    };
    // KVM: one of all cannot be chosen; everyone takes it.
    let everyone = !m.logical && m.dest == BROADCAST && !m.redirection_hint;
    if m.picks_one() && !everyone {
        targets.pick()
    } else {
        targets
    }
}

/// The vCPUs that a message of a device addresses.
pub fn resolve_message<'a, P: Peers + ?Sized>(
    m: &Message,
    peers: &'a P,
    rules: Rules,
) -> Targets<'a, P> {
    let ipi = Ipi {
        message: *m,
        shorthand: Shorthand::None,
    };
    resolve(&ipi, None, peers, rules)
}

/// The vCPUs that have the physical ID of their own. No ID is a broadcast here.
pub fn having_id<P: Peers + ?Sized>(
    id: u32,
    peers: &P,
    rules: Rules,
) -> impl Iterator<Item = u32> + use<'_, P> {
    let mut candidates = candidates(&Message::fixed(id, 0), peers);
    core::iter::from_fn(move || candidates.next(peers)).filter(move |&vcpu| {
        peers
            .published(vcpu)
            .is_some_and(|p| p.address().has_id(id, rules))
    })
}

/// Is `dest` a broadcast to any APIC? See [`Address::matches`].
fn may_be_broadcast(dest: u32, from: Option<Sender>) -> bool {
    match dest {
        X2APIC_BROADCAST => true,
        BROADCAST => !from.is_some_and(|sender| sender.x2apic),
        _ => false,
    }
}

/// All vCPUs that may match a destination which is no broadcast, and as few others as possible.
fn candidates<P: Peers + ?Sized>(m: &Message, peers: &P) -> Candidates {
    if !peers.census().all_by_id(m.logical) {
        return Candidates::From(0);
    }
    if m.logical {
        // SDM: vol 3, 11.12.10.2. The logical ID is the ID's cluster, and a bit for its place there.
        Candidates::Cluster {
            first: m.dest >> 16 << 4,
            members: m.dest & 0xffff,
        }
    } else {
        match peers.by_id(m.dest) {
            Some(vcpu) => Candidates::One(vcpu),
            None => Candidates::None,
        }
    }
}

/// Who is still to be asked.
#[derive(Clone, Copy)]
enum Candidates {
    None,
    One(u32),
    /// The IDs from `first` on that have a bit in `members`.
    Cluster {
        first: u32,
        members: u32,
    },
    /// Everyone, from this index on.
    From(u32),
}

impl Candidates {
    #[inline]
    fn next<P: Peers + ?Sized>(&mut self, peers: &P) -> Option<u32> {
        match self {
            Self::None => None,
            Self::One(vcpu) => {
                let vcpu = *vcpu;
                *self = Self::None;
                Some(vcpu)
            }
            Self::Cluster { first, members } => loop {
                if *members == 0 {
                    return None;
                }
                let place = members.trailing_zeros();
                *members &= members.wrapping_sub(1);
                if let Some(vcpu) = peers.by_id(*first | place) {
                    return Some(vcpu);
                }
            },
            Self::From(next) => {
                let vcpu = *next;
                if vcpu >= peers.count() {
                    return None;
                }
                *next = vcpu.wrapping_add(1);
                Some(vcpu)
            }
        }
    }
}

/// An iterator over the indices of the vCPUs that a message addresses.
pub struct Targets<'a, P: ?Sized> {
    peers: &'a P,
    ipi: Ipi,
    from: Option<Sender>,
    rules: Rules,
    candidates: Candidates,
}

impl<P: ?Sized> Clone for Targets<'_, P> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, P: Peers + ?Sized> Targets<'a, P> {
    /// Chooses among the destinations that would accept an interrupt: the one that has had the
    /// fewest of the kind, or by the vector, which spreads different interrupts and keeps each on
    /// its CPU. Processors since the Pentium 4 may choose as they like (SDM: vol 3, 11.6.2.4).
    fn pick(mut self) -> Self {
        let peers = self.peers;
        let chosen = if self.rules.arbitrate {
            self.clone()
                .eligible()
                .min_by_key(|&v| peers.published(v).map_or(u32::MAX, |p| p.arbitration()))
        } else {
            // `count()` would check for overflow.
            let count = self
                .clone()
                .eligible()
                .fold(0usize, |n, _| n.wrapping_add(1));
            usize::from(self.ipi.message.vector)
                .checked_rem(count)
                .and_then(|nth| {
                    let someone = self.clone().eligible().nth(nth);
                    // The last was disabled since they were counted.
                    someone.or_else(|| self.clone().eligible().next())
                })
        };
        self.candidates = match chosen {
            Some(vcpu) => Candidates::One(vcpu),
            None => Candidates::None,
        };
        self
    }

    fn eligible(self) -> impl Iterator<Item = u32> + use<'a, P> {
        let peers = self.peers;
        self.filter(move |&v| peers.published(v).is_some_and(|p| p.accepts_fixed()))
    }
}

impl<P: Peers + ?Sized> Iterator for Targets<'_, P> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        loop {
            let vcpu = self.candidates.next(self.peers)?;
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
#[path = "../tests/irqchip/targets.rs"]
mod tests;
