// SPDX-License-Identifier: GPL-2.0

use super::*;
use proptest::prelude::*;

const FULL: RouteRules = RouteRules {
    chips: true,
    ids32: false,
};
const SPLIT: RouteRules = RouteRules {
    chips: false,
    ids32: false,
};

fn entry(gsi: u32, type_: u32, flags: u32, u: [u32; 4]) -> KvmIrqRoutingEntry {
    KvmIrqRoutingEntry {
        gsi,
        type_,
        flags,
        pad: 0,
        u: [u[0], u[1], u[2], u[3], 0, 0, 0, 0],
    }
}

fn chip(gsi: u32, chip: u32, pin: u32) -> KvmIrqRoutingEntry {
    entry(gsi, KVM_IRQ_ROUTING_IRQCHIP, 0, [chip, pin, 0, 0])
}

fn msi(gsi: u32, data: u32) -> KvmIrqRoutingEntry {
    entry(gsi, KVM_IRQ_ROUTING_MSI, 0, [0xfee0_0000, 0, data, 7])
}

struct Built {
    ends: Vec<u16>,
    routes: Vec<Route>,
    pins: PinGsis,
}

impl Built {
    fn table(&self) -> RoutingTable<'_> {
        RoutingTable::new(&self.ends, &self.routes)
    }
}

fn try_build(entries: &[KvmIrqRoutingEntry], rules: RouteRules) -> Result<Built, RouteError> {
    let size = measure(entries)?;
    // Storage is reused in the kernel too: its old contents must not matter.
    let mut ends = vec![0xaaaa; size.gsis];
    let mut routes = vec![Route::IoApic(99); size.routes];
    let pins = build(entries, rules, &mut ends, &mut routes)?;
    Ok(Built { ends, routes, pins })
}

fn error(entries: &[KvmIrqRoutingEntry], rules: RouteRules) -> Option<RouteError> {
    try_build(entries, rules).err()
}

#[test]
fn the_default_table() {
    let built = try_build(&DEFAULT_ROUTING, FULL).unwrap();
    for gsi in 0..24 {
        let pin = gsi as u8;
        let want: &[Route] = if gsi < 16 {
            &[Route::IoApic(pin), Route::Pic(pin)]
        } else {
            &[Route::IoApic(pin)]
        };
        assert_eq!(built.table().lookup(gsi), want);
        assert_eq!(built.pins.ioapic_gsi(pin), Some(gsi));
        assert_eq!(built.pins.pic_gsi(pin), (gsi < 16).then_some(gsi));
    }
    assert!(built.table().lookup(24).is_empty());
    assert_eq!(error(&DEFAULT_ROUTING, SPLIT), Some(RouteError::Kind));
}

#[test]
fn an_empty_table_routes_nothing() {
    let built = try_build(&[], SPLIT).unwrap();
    for gsi in [0, 1, 4095, u32::MAX] {
        assert!(built.table().lookup(gsi).is_empty());
    }
    assert_eq!(built.pins, PinGsis::new());
    assert_eq!(built.pins.pic_gsi(0), None);
    assert_eq!(built.pins.ioapic_gsi(255), None);
}

#[test]
fn each_rule_refuses() {
    let dup = Some(RouteError::Duplicate);
    let cases: &[(&[KvmIrqRoutingEntry], Option<RouteError>)] = &[
        (&[chip(0, 0, 7), chip(0, 1, 7), chip(0, 2, 23)], None),
        (&[msi(4095, 0x31)], None),
        (&[chip(4096, 0, 0)], Some(RouteError::Gsi)),
        (&[chip(u32::MAX, 0, 0)], Some(RouteError::Gsi)),
        (&[chip(0, 0, 8)], Some(RouteError::Pin)),
        (&[chip(0, 1, 8)], Some(RouteError::Pin)),
        (&[chip(0, 2, 24)], Some(RouteError::Pin)),
        (&[chip(0, 1, 0x100)], Some(RouteError::Pin)),
        (&[chip(0, 0, u32::MAX)], Some(RouteError::Pin)),
        (&[chip(0, 3, 0)], Some(RouteError::Chip)),
        (&[entry(0, 0, 0, [0; 4])], Some(RouteError::Kind)),
        (&[entry(0, 3, 0, [0; 4])], Some(RouteError::Kind)),
        (&[entry(0, 6, 0, [0; 4])], Some(RouteError::Kind)),
        (&[entry(0, 1, 1, [0; 4])], Some(RouteError::Flags)),
        (&[entry(0, 2, 2, [0; 4])], Some(RouteError::Flags)),
        (&[entry(0, 2, 1, [0; 4])], None),
        (&[chip(5, 0, 1), chip(5, 0, 2)], dup),
        (&[chip(5, 1, 1), chip(5, 1, 1)], dup),
        (&[chip(5, 2, 1), chip(6, 2, 1), chip(5, 2, 2)], dup),
        (&[chip(5, 0, 1), chip(5, 1, 1), chip(5, 0, 2)], dup),
        (&[chip(5, 0, 1), chip(5, 1, 1), chip(5, 1, 2)], dup),
        (&[chip(5, 2, 1), chip(5, 2, 2), chip(5, 1, 2)], dup),
        (&[msi(5, 1), msi(5, 1)], dup),
        (&[msi(5, 1), chip(5, 0, 1)], dup),
        (&[chip(5, 0, 1), chip(5, 2, 5), msi(5, 1)], dup),
        (
            &[chip(5, 0, 1), chip(5, 1, 1), chip(5, 2, 5), chip(5, 2, 6)],
            dup,
        ),
        (&[chip(4, 0, 1), chip(5, 0, 1)], None),
    ];
    for (entries, want) in cases {
        assert_eq!(error(entries, FULL), *want, "{entries:?}");
    }
}

#[test]
fn the_size_is_bounded() {
    let mut many: Vec<_> = (0..4096).map(|gsi| msi(gsi, 1)).collect();
    assert_eq!(error(&many, SPLIT), None);
    many.push(msi(0, 1));
    assert_eq!(error(&many, SPLIT), Some(RouteError::TooMany));
}

#[test]
fn wrong_storage_is_refused() {
    let entries = [msi(1, 1)];
    let pins = |gsis: usize, routes: usize| {
        build(
            &entries,
            SPLIT,
            &mut vec![0; gsis],
            &mut vec![Route::default(); routes],
        )
    };
    assert!(pins(2, 1).is_ok());
    for (gsis, routes) in [(1, 1), (3, 1), (2, 0), (2, 2), (0, 0)] {
        assert_eq!(pins(gsis, routes), Err(RouteError::Storage));
    }
}

#[test]
fn messages_keep_their_words() {
    let flags = KVM_MSI_VALID_DEVID;
    let e = [entry(
        3,
        KVM_IRQ_ROUTING_MSI,
        flags,
        [0xfee0_1000, 0x100, 0x41, 9],
    )];
    let built = try_build(
        &e,
        RouteRules {
            ids32: true,
            ..SPLIT
        },
    )
    .unwrap();
    let want = Route::Msi {
        msi: Msi {
            address_lo: 0xfee0_1000,
            address_hi: 0x100,
            data: 0x41,
        },
        devid: Some(9),
    };
    assert_eq!(built.table().lookup(3), [want]);
    let reserved = [entry(3, KVM_IRQ_ROUTING_MSI, 0, [0, 0x101, 0, 0])];
    let ids32 = RouteRules {
        ids32: true,
        ..SPLIT
    };
    assert_eq!(error(&reserved, ids32), Some(RouteError::Message));
    assert_eq!(error(&reserved, SPLIT), None);
}

#[test]
fn the_last_route_to_a_pin_names_its_gsi() {
    let built = try_build(&[chip(9, 2, 5), chip(3, 2, 5), chip(7, 1, 5)], FULL).unwrap();
    assert_eq!(built.pins.ioapic_gsi(5), Some(3));
    assert_eq!(built.pins.pic_gsi(13), Some(7));
    assert_eq!(built.pins.pic_gsi(5), None);
}

#[test]
fn a_split_irqchip_finds_its_level_messages() {
    let level = 1 << 15;
    let entries = [msi(30, level | 0x33), msi(2, level | 0x31), msi(1, 0x32)];
    let built = try_build(&entries, SPLIT).unwrap();
    let found = |pins| {
        built
            .table()
            .level_messages(pins, false)
            .map(|(gsi, m)| (gsi, m.vector))
            .collect::<Vec<_>>()
    };
    assert_eq!(found(24), [(2, 0x31)]);
    assert_eq!(found(u32::MAX), [(2, 0x31), (30, 0x33)]);
    assert_eq!(found(2), []);
}

fn any_entry() -> impl Strategy<Value = KvmIrqRoutingEntry> {
    prop_oneof![
        8 => (0..40u32, 0..3u32, 0..8u32).prop_map(|(g, c, p)| chip(g, c, p)),
        8 => (0..40u32, any::<u32>()).prop_map(|(g, d)| msi(g + 20, d)),
        1 => (0..5000u32, any::<[u32; 4]>(), 0..7u32, 0..3u32)
            .prop_map(|(g, u, t, f)| entry(g, t, f, u)),
    ]
}

/// The routes of one GSI, found by looking at every entry.
fn naive(entries: &[KvmIrqRoutingEntry], gsi: u32) -> Vec<Route> {
    entries
        .iter()
        .filter(|e| e.gsi == gsi)
        .map(|e| match (e.type_, e.u[0]) {
            (KVM_IRQ_ROUTING_IRQCHIP, 0) => Route::Pic(e.u[1] as u8),
            (KVM_IRQ_ROUTING_IRQCHIP, 1) => Route::Pic(e.u[1] as u8 + 8),
            (KVM_IRQ_ROUTING_IRQCHIP, _) => Route::IoApic(e.u[1] as u8),
            _ => Route::Msi {
                msi: Msi {
                    address_lo: e.u[0],
                    address_hi: e.u[1],
                    data: e.u[2],
                },
                devid: (e.flags & 1 != 0).then_some(e.u[3]),
            },
        })
        .collect()
}

/// Whether the entries obey the rules, spelled pair by pair.
fn naive_valid(entries: &[KvmIrqRoutingEntry]) -> bool {
    let one = |e: &KvmIrqRoutingEntry| {
        e.gsi < 4096
            && match e.type_ {
                1 => e.flags == 0 && e.u[1] < [8, 8, 24, 0][e.u[0].min(3) as usize],
                2 => e.flags <= 1,
                _ => false,
            }
    };
    let pair = |a: &KvmIrqRoutingEntry, b: &KvmIrqRoutingEntry| {
        a.gsi != b.gsi || (a.type_ == 1 && b.type_ == 1 && a.u[0] != b.u[0])
    };
    entries.iter().all(one)
        && (0..entries.len()).all(|i| (0..i).all(|j| pair(&entries[i], &entries[j])))
}

proptest! {
    #[test]
    fn a_look_up_equals_a_search(entries in prop::collection::vec(any_entry(), 0..30)) {
        match try_build(&entries, FULL) {
            Err(error) => {
                prop_assert!(!naive_valid(&entries), "{:?}", error);
                prop_assert_ne!(error, RouteError::Storage);
            }
            Ok(built) => {
                prop_assert!(naive_valid(&entries));
                for gsi in 0..4100 {
                    prop_assert_eq!(built.table().lookup(gsi), naive(&entries, gsi));
                }
                for pin in 0..24u8 {
                    let last = |route| entries.iter().rev()
                        .find(|e| naive(std::slice::from_ref(e), e.gsi) == [route]).map(|e| e.gsi);
                    prop_assert_eq!(built.pins.ioapic_gsi(pin), last(Route::IoApic(pin)));
                    prop_assert_eq!(built.pins.pic_gsi(pin), last(Route::Pic(pin)));
                }
            }
        }
    }

    #[test]
    fn any_storage_can_be_looked_up(
        ends in prop::collection::vec(any::<u16>(), 0..20),
        len in 0usize..20,
        gsi in any::<u32>(),
    ) {
        let routes = vec![Route::default(); len];
        let table = RoutingTable::new(&ends, &routes);
        prop_assert!(table.lookup(gsi).len() <= len);
        for gsi in 0..21 {
            prop_assert!(table.lookup(gsi).len() <= len);
        }
    }
}
