// SPDX-License-Identifier: GPL-2.0

//! The mailbox seen by one thread at a time. Interleavings are `pending_loom.rs`'s.

use super::*;
use std::thread;

#[test]
fn the_descriptor_has_the_hardware_layout() {
    let p = Pending::new();
    assert!(p.put(0x41, Trigger::Edge));
    let [_, w, ..] = &p.pir;
    assert_eq!(w.load(Relaxed), 1 << 1);
    assert_eq!(p.control.load(Relaxed), 1);
}

#[test]
fn every_vector_arrives_once_with_its_trigger_mode() {
    for v in 0..=255u8 {
        let p = Pending::new();
        let trigger = Trigger::from_level(v % 3 == 0);
        assert!(p.put(v, trigger));
        assert!(p.has_vector(v) && p.work().vectors);
        let t = p.take_vectors().unwrap();
        let (w, bit) = (usize::from(v / 64), 1u64 << (v % 64));
        let mut expect = [0; 4];
        expect[w] = bit;
        assert_eq!(t.irr, expect);
        assert_eq!(t.level[w] & bit != 0, trigger.is_level());
        assert_eq!(p.is_level(v), trigger.is_level());
        assert_eq!(p.take_vectors(), None);
        assert!(!p.work().any());
    }
}

#[test]
fn the_last_trigger_mode_wins() {
    let p = Pending::new();
    for level in [true, false, true] {
        let _ = p.post(0x80, Trigger::from_level(level));
        assert_eq!(p.take_vectors().unwrap().level[2] & 1 != 0, level);
    }
}

#[test]
fn only_the_first_poster_must_tell() {
    let p = Pending::new();
    assert!(!p.enter_guest().any());
    assert_eq!(p.post(0x30, Trigger::Edge), Wake::Kick);
    assert_eq!(p.post(0x30, Trigger::Edge), Wake::None);
    assert_eq!(p.post(0x31, Trigger::Edge), Wake::None);
    assert_eq!(p.post_nmi(), Wake::None, "the IPI is on its way");
    assert!(p.is_kicked());
    assert!(p.is_in_guest(), "until the IPI arrives");
    p.leave();
    assert!(!p.is_in_guest());
    assert!(p.take_vectors().is_some());
    assert_eq!(p.take_events().nmis(), 1);
    assert_eq!(
        p.post(0x30, Trigger::Edge),
        Wake::None,
        "the owner will look"
    );
}

#[test]
fn a_sleeper_is_woken_by_whatever_comes() {
    let posts: [fn(&Pending) -> Wake; 8] = [
        |p| p.post(0x20, Trigger::Level),
        |p| p.post_nmi(),
        |p| p.post_init(),
        |p| p.post_sipi(9),
        |p| p.post_smi(),
        |p| p.post_timer(),
        |p| p.post_unhalt(),
        |p| p.post_request(4),
    ];
    for post in posts {
        let p = Pending::new();
        assert!(!p.block().any());
        assert_eq!(post(&p), Wake::Unblock);
        assert!(p.work().any());
        p.leave();
        assert!(p.block().any(), "must not sleep again");
    }
}

#[test]
fn the_owner_turns_back_when_there_is_work() {
    let p = Pending::new();
    assert_eq!(p.post_request(1 << 63), Wake::None);
    let w = p.enter_guest();
    assert!(w.requests && !w.vectors && !w.events);
    p.leave();
    assert_eq!(p.take_requests(), 1 << 63);
    assert!(!p.enter_guest().any());
}

#[test]
fn requests_are_taken_by_bit() {
    let p = Pending::new();
    p.note_request(0b1011);
    assert_eq!(p.take_request(0b0110), 0b0010);
    assert_eq!(p.take_request(0b0110), 0);
    assert_eq!(p.take_requests(), 0b1001);
    assert_eq!(p.take_requests(), 0);
}

#[test]
fn events_keep_their_meaning() {
    let p = Pending::new();
    for _ in 0..5 {
        let _ = p.post_nmi();
    }
    let _ = p.post_smi();
    let _ = p.post_timer();
    let _ = p.post_unhalt();
    let e = p.take_events();
    assert_eq!(e.nmis(), 2);
    assert!(e.smi() && e.timer() && e.unhalt() && !e.init());
    assert_eq!(e.sipi(), None);
    assert!(p.take_events().is_empty());
}

#[test]
fn init_cancels_an_earlier_sipi_but_not_a_later_one() {
    let p = Pending::new();
    let _ = p.post_sipi(0x12);
    let _ = p.post_init();
    let e = p.take_events();
    assert!(e.init());
    assert_eq!(e.sipi(), None);
    let _ = p.post_init();
    let _ = p.post_sipi(0xff);
    let _ = p.post_sipi(0x34);
    let e = p.take_events();
    assert!(e.init());
    assert_eq!(e.sipi(), Some(0x34));
}

#[test]
fn nothing_is_lost_between_threads() {
    let p = Pending::new();
    let mut seen = [0u32; 256];
    thread::scope(|s| {
        for t in 0..2u8 {
            let p = &p;
            s.spawn(move || {
                for v in 0..128 {
                    while p.has_vector(v * 2 + t) {
                        thread::yield_now();
                    }
                    let _ = p.post(v * 2 + t, Trigger::Edge);
                }
            });
        }
        while seen.iter().sum::<u32>() < 256 {
            if let Some(t) = p.take_vectors() {
                for (v, n) in seen.iter_mut().enumerate() {
                    *n += ((t.irr[v / 64] >> (v % 64)) & 1) as u32;
                }
            } else {
                thread::yield_now();
            }
        }
    });
    assert!(seen.iter().all(|&n| n == 1));
}
