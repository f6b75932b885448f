// SPDX-License-Identifier: GPL-2.0

//! Destinations: the rules against the manual, and what asks few against what asks everyone.

use super::*;
use crate::irqchip::lapic::ipi::Post;
use crate::irqchip::lapic::{ApicWords, Config, LocalApic, Now, Reset};
use crate::irqchip::pending::Pending;
use crate::x86::apic::{base, reg, x2apic_ldr, Delivery, Trigger};
use core::sync::atomic::AtomicU32;
use proptest::prelude::*;

/// What a guest and user space can do to one APIC's address.
#[derive(Clone, Copy, Debug)]
struct Setup {
    id: u32,
    mode: Mode,
    /// Software-enabled.
    on: bool,
    xapic_id: Option<u8>,
    ldr: u8,
    dfr: u32,
}

impl Setup {
    fn xapic(id: u32) -> Self {
        Self {
            id,
            mode: Mode::XApic,
            on: true,
            xapic_id: None,
            ldr: 0,
            dfr: 0xffff_ffff,
        }
    }

    fn x2apic(id: u32) -> Self {
        Self {
            mode: Mode::X2Apic,
            ..Self::xapic(id)
        }
    }

    /// An APIC that was set up like this.
    fn apic(&self) -> LocalApic<Box<ApicWords>> {
        let words: Box<ApicWords> = Box::new([const { AtomicU32::new(0) }; 1024]);
        let mut apic = LocalApic::new(words, Config::new(self.id, false));
        let _ = apic.reset(Reset::Power, &Pending::new());
        let writes = [
            (reg::SVR, if self.on { 0x1ff } else { 0xff }),
            (reg::LDR, u32::from(self.ldr) << 24),
            (reg::DFR, self.dfr),
        ];
        for (register, value) in writes {
            let _ = apic.write_reg(register, value, Now::default()).unwrap();
        }
        if let Some(id) = self.xapic_id {
            let _ = apic
                .write_reg(reg::ID, u32::from(id) << 24, Now::default())
                .unwrap();
        }
        let at = apic.window();
        let _ = match self.mode {
            Mode::Disabled => apic.set_base(at, 0, true),
            Mode::XApic => Ok(Default::default()),
            Mode::X2Apic => apic.set_base(at | base::ENABLE | base::X2APIC, 0, true),
        }
        .unwrap();
        apic
    }

    /// Publishes it the way a vCPU does.
    fn publish(&self, census: &Census) -> Published {
        let published = Published::new(self.id);
        self.apic().publish(&published, census);
        published
    }
}

/// vCPUs as they were set up.
struct Vm {
    published: Vec<Published>,
    census: Census,
}

impl Peers for Vm {
    fn count(&self) -> u32 {
        self.published.len() as u32
    }

    fn published(&self, vcpu: u32) -> Option<&Published> {
        self.published.get(vcpu as usize)
    }

    fn by_id(&self, id: u32) -> Option<u32> {
        let at = self.published.iter().position(|p| p.id() == id)?;
        Some(at as u32)
    }

    fn census(&self) -> &Census {
        &self.census
    }
}

impl Vm {
    /// Whether a message of this kind has to be shown to everyone.
    fn asks_everyone(&self, logical: bool) -> bool {
        !self.census.all_by_id(logical)
    }
}

fn publish(all: &[Setup]) -> Vm {
    let census = Census::new();
    Vm {
        published: all.iter().map(|s| s.publish(&census)).collect(),
        census,
    }
}

fn physical(dest: u32) -> Message {
    Message::fixed(dest, 0x40)
}

fn logical(dest: u32) -> Message {
    Message {
        logical: true,
        ..physical(dest)
    }
}

fn targets(vm: &Vm, rules: Rules, m: Message) -> Vec<u32> {
    resolve_message(&m, vm, rules).collect()
}

#[test]
fn physical_ids_in_both_modes() {
    let r = Rules::default();
    let p = publish(&[Setup::xapic(0), Setup::xapic(1), Setup::xapic(9)]);
    assert_eq!(targets(&p, r, physical(1)), [1]);
    assert_eq!(targets(&p, r, physical(9)), [2]);
    assert_eq!(targets(&p, r, physical(2)), []);
    assert_eq!(targets(&p, r, physical(0xff)), [0, 1, 2]);
    let p = publish(&[Setup::x2apic(0), Setup::x2apic(0x140), Setup::x2apic(4095)]);
    assert_eq!(targets(&p, r, physical(0x140)), [1]);
    assert_eq!(targets(&p, r, physical(4095)), [2]);
    assert_eq!(targets(&p, r, physical(0x40)), [], "not truncated");
    assert_eq!(targets(&p, r, physical(5000)), []);
    assert_eq!(targets(&p, r, physical(u32::MAX)), [0, 1, 2]);
}

#[test]
fn an_id_is_one_apics() {
    let r = Rules::default();
    let off = Setup {
        mode: Mode::Disabled,
        ..Setup::xapic(3)
    };
    let p = publish(&[
        Setup::xapic(0),
        Setup::x2apic(0x140),
        Setup::xapic(0xff),
        off,
    ]);
    let has = |id| having_id(id, &p, r).collect::<Vec<u32>>();
    assert_eq!(has(0), [0]);
    assert_eq!(has(0x140), [1]);
    assert_eq!(
        has(0xff),
        [2],
        "no broadcast, though it is one as a destination"
    );
    assert_eq!(targets(&p, r, physical(0xff)), [0, 1, 2]);
    assert_eq!(has(u32::MAX), []);
    assert_eq!(has(3), [], "turned off");
}

#[test]
fn flat_model() {
    let all: Vec<_> = (0..4u32)
        .map(|i| Setup {
            ldr: 1 << i,
            ..Setup::xapic(i)
        })
        .collect();
    let p = publish(&all);
    assert!(p.asks_everyone(true) && !p.asks_everyone(false));
    for mask in 0..=0xfeu32 {
        let expect: Vec<u32> = (0..4).filter(|i| (mask >> i) & 1 != 0).collect();
        let got: Vec<u32> = targets(&p, Rules::default(), logical(mask));
        assert_eq!(got, expect, "{mask:#x}");
    }
}

#[test]
fn cluster_model() {
    let all: Vec<_> = (0..8u32)
        .map(|i| Setup {
            ldr: ((i as u8 / 4) << 4) | (1 << (i % 4)),
            dfr: 0x0fff_ffff,
            ..Setup::xapic(i)
        })
        .collect();
    let p = publish(&all);
    let r = Rules::default();
    assert_eq!(targets(&p, r, logical(0x03)), [0, 1]);
    assert_eq!(targets(&p, r, logical(0x1c)), [6, 7]);
    assert_eq!(targets(&p, r, logical(0x2f)), []);
    assert_eq!(targets(&p, r, logical(0xff)), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn x2apic_clusters() {
    let all: Vec<_> = (0..40).map(Setup::x2apic).collect();
    let p = publish(&all);
    let r = Rules::default();
    assert_eq!(targets(&p, r, logical(x2apic_ldr(33))), [33]);
    assert_eq!(targets(&p, r, logical(0x0001_8005)), [16, 18, 31]);
    assert_eq!(targets(&p, r, logical(0x0002_ffff)).len(), 8);
    assert_eq!(targets(&p, r, logical(0x0003_0001)), []);
}

#[test]
fn an_unplugged_cpu_in_xapic_mode_is_reached_by_its_wide_id_only() {
    let p = publish(&[Setup::x2apic(0), Setup::x2apic(5), Setup::xapic(0x105)]);
    let wide = Rules {
        ids32: true,
        ..Rules::default()
    };
    assert_eq!(targets(&p, wide, physical(0x105)), [2]);
    assert_eq!(targets(&p, wide, physical(5)), [1]);
    assert_eq!(targets(&p, Rules::default(), physical(5)), [1, 2]);
    assert!(p.asks_everyone(false), "it has two IDs");
    assert!(!p.asks_everyone(true), "and no logical one");
}

#[test]
fn the_broadcast_quirk() {
    let p = publish(&[Setup::x2apic(0), Setup::x2apic(0xff), Setup::xapic(2)]);
    let strict = Rules {
        no_broadcast_quirk: true,
        ..Rules::default()
    };
    assert_eq!(targets(&p, Rules::default(), physical(0xff)), [0, 1, 2]);
    assert_eq!(
        targets(&p, strict, physical(0xff)),
        [1, 2],
        "an ID, and a broadcast"
    );
    assert_eq!(targets(&p, strict, physical(u32::MAX)), [0, 1]);
    // Of an IPI, the sender's mode tells the width.
    let ipi = Ipi {
        message: physical(0xff),
        shorthand: Shorthand::None,
    };
    let from = |x2apic| Some(Sender { vcpu: 0, x2apic });
    let r = Rules::default();
    assert!(resolve(&ipi, from(true), &p, r).eq([1]));
    assert!(resolve(&ipi, from(false), &p, r).eq([1, 2]));
}

#[test]
fn shorthands() {
    let mut all: Vec<_> = (0..4).map(Setup::xapic).collect();
    all[2].mode = Mode::Disabled;
    let p = publish(&all);
    let r = Rules::default();
    let from = Some(Sender {
        vcpu: 1,
        x2apic: false,
    });
    let mut ipi = Ipi {
        message: physical(77),
        shorthand: Shorthand::None,
    };
    for (shorthand, expect) in [
        (Shorthand::Myself, vec![1]),
        (Shorthand::All, vec![0, 1, 3]),
        (Shorthand::Others, vec![0, 3]),
        (Shorthand::None, vec![]),
    ] {
        ipi.shorthand = shorthand;
        assert!(resolve(&ipi, from, &p, r).eq(expect), "{shorthand:?}");
    }
    ipi.shorthand = Shorthand::Myself;
    assert_eq!(resolve(&ipi, None, &p, r).count(), 0, "nobody sent it");
}

#[test]
fn lowest_priority_by_vector_and_by_count() {
    let mut all: Vec<_> = (0..5u32)
        .map(|i| Setup {
            ldr: 1 << i,
            ..Setup::xapic(i)
        })
        .collect();
    all[1].on = false;
    let p = publish(&all);
    let mut msg = logical(0x0f);
    msg.delivery = Delivery::LowestPriority;
    // Candidates are 0, 2 and 3: 1 is software-disabled, 4 not addressed.
    for vector in 0x30..0x40 {
        msg.vector = vector;
        let expect = [0, 2, 3][usize::from(vector) % 3];
        assert_eq!(targets(&p, Rules::default(), msg), [expect]);
    }
    let rules = Rules {
        arbitrate: true,
        ..Rules::default()
    };
    let mut got = vec![];
    for _ in 0..6 {
        let to = resolve_message(&msg, &p, rules).next().unwrap();
        let post = Post::of(&msg, p.published(to).unwrap());
        assert_eq!(post, Some(Post::Vector(msg.vector, Trigger::Edge)));
        got.push(to);
    }
    assert_eq!(got, [0, 2, 3, 0, 2, 3]);
    // To all of them physically, all take it; with the hint one does.
    let mut broadcast = physical(0xff);
    broadcast.delivery = Delivery::LowestPriority;
    assert_eq!(resolve_message(&broadcast, &p, rules).count(), 5);
    broadcast.redirection_hint = true;
    assert_eq!(resolve_message(&broadcast, &p, rules).count(), 1);
}

#[test]
fn the_census_follows_each_change() {
    let census = Census::new();
    let p = Setup::xapic(3).publish(&census);
    assert!(census.all_by_id(false) && census.all_by_id(true));
    let addresses = [
        Setup {
            xapic_id: Some(4),
            ..Setup::xapic(3)
        },
        Setup {
            xapic_id: Some(4),
            ldr: 8,
            ..Setup::xapic(3)
        },
        Setup {
            ldr: 8,
            ..Setup::xapic(3)
        },
        Setup {
            xapic_id: Some(4),
            ldr: 8,
            ..Setup::x2apic(3)
        },
        Setup {
            mode: Mode::Disabled,
            xapic_id: Some(4),
            ..Setup::xapic(3)
        },
    ];
    let expect = [
        (false, true),
        (false, false),
        (true, false),
        (true, true),
        (true, true),
    ];
    for (a, expect) in addresses.iter().zip(expect) {
        a.apic().publish(&p, &census);
        assert_eq!(
            (census.all_by_id(false), census.all_by_id(true)),
            expect,
            "{a:?}"
        );
    }
}

#[test]
fn four_thousand_vcpus() {
    let all: Vec<_> = (0..4096).map(Setup::x2apic).collect();
    let p = publish(&all);
    let r = Rules::default();
    assert!(!p.asks_everyone(false) && !p.asks_everyone(true));
    for id in (0..4096).step_by(37) {
        assert!(resolve_message(&physical(id), &p, r).eq([id]));
        assert!(resolve_message(&logical(x2apic_ldr(id)), &p, r).eq([id]));
    }
    assert_eq!(resolve_message(&physical(u32::MAX), &p, r).count(), 4096);
}

fn setup() -> impl Strategy<Value = Setup> {
    (
        prop_oneof![
            1 => Just(Mode::Disabled),
            4 => Just(Mode::XApic),
            4 => Just(Mode::X2Apic)
        ],
        prop::bool::weighted(0.8),
        prop_oneof![4 => Just(None), 1 => (0..6u8).prop_map(Some), 1 => any::<u8>().prop_map(Some)],
        prop_oneof![
            (0..8u32).prop_map(|b| 1u8 << b),
            (0..4u32, 0..4u8).prop_map(|(b, c)| (c << 4) | (1 << b)),
            any::<u8>(),
            Just(0)
        ],
        prop_oneof![
            4 => Just(0xffff_ffffu32),
            3 => Just(0x0fff_ffff),
            1 => Just(0x5fff_ffff)
        ],
    )
        .prop_map(|(mode, on, xapic_id, ldr, dfr)| Setup {
            id: 0,
            mode,
            on,
            xapic_id,
            ldr,
            dfr,
        })
}

/// vCPUs of one kind, as operating systems set them up, or of all kinds.
fn vcpus() -> impl Strategy<Value = Vec<Setup>> {
    let ids = prop_oneof![
        Just((0..10).collect::<Vec<u32>>()),
        prop::collection::btree_set(0..0x320u32, 1..10).prop_map(|s| s.into_iter().collect()),
    ];
    (ids, prop::collection::vec(setup(), 10), 0..4).prop_map(|(ids, mut kinds, uniform)| {
        for (i, (k, &id)) in kinds.iter_mut().zip(&ids).enumerate() {
            k.id = id;
            match uniform {
                0 => {
                    *k = Setup {
                        ldr: 1 << (i % 8),
                        ..Setup::xapic(id)
                    }
                }
                1 => *k = Setup::x2apic(id),
                _ => {}
            }
        }
        kinds.truncate(ids.len());
        kinds
    })
}

fn message() -> impl Strategy<Value = Message> {
    let dest = prop_oneof![
        0..12u32,
        0..0x330u32,
        Just(0xff),
        Just(u32::MAX),
        (0..0x330u32).prop_map(x2apic_ldr),
        (0..4u32, 0..0x1_0000u32).prop_map(|(c, m)| (c << 16) | m),
        0..0x100u32,
    ];
    (dest, any::<bool>(), any::<u8>(), prop::bool::weighted(0.3)).prop_map(
        |(dest, logical, vector, lowest)| Message {
            logical,
            vector,
            delivery: if lowest {
                Delivery::LowestPriority
            } else {
                Delivery::Fixed
            },
            ..Message::fixed(dest, 0)
        },
    )
}

proptest! {
    #[test]
    fn few_are_asked_and_the_answer_is_everyones(
        setups in vcpus(),
        messages in prop::collection::vec(message(), 40),
        from in prop::option::of((0..10u32, any::<bool>())),
        shorthand in prop_oneof![5 => Just(0u32), 1 => 1..4u32],
        flags in any::<[bool; 3]>(),
    ) {
        let rules = Rules {
            ids32: flags[0],
            no_broadcast_quirk: flags[1],
            arbitrate: flags[2],
        };
        let peers = publish(&setups);
        let from = from.map(|(vcpu, x2apic)| Sender { vcpu, x2apic });
        for m in messages {
            let ipi = Ipi { message: m, shorthand: Shorthand::from_bits(shorthand) };
            let mut expect: Vec<u32> = (0..peers.count())
                .filter(|&v| {
                    let a = peers.published(v).unwrap().address();
                    a.matches(v, &m, ipi.shorthand, from, rules)
                })
                .collect();
            let mut got: Vec<u32> = resolve(&ipi, from, &peers, rules).collect();
            got.sort_unstable();
            let everyone = !m.logical && m.dest == BROADCAST;
            if m.picks_one() && !everyone {
                expect.retain(|&v| peers.published(v).unwrap().accepts_fixed());
                prop_assert_eq!(got.len(), expect.len().min(1));
                prop_assert!(got.iter().all(|v| expect.contains(v)));
            } else {
                prop_assert_eq!(&got, &expect);
            }
        }
    }
}
