// SPDX-License-Identifier: GPL-2.0

//! Explores the interleavings of posting, entering, sleeping and taking.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release --lib loom`. An IPI is modelled by the
//! [`Wake`] that the poster returns: what must never happen is that the owner commits to the guest
//! (or sleeps) without having seen a message that nobody kicks it for.

use super::*;
use loom::sync::Arc;
use loom::thread;
use std::vec::Vec;

/// Runs `posters` against an owner that commits once by `commit`; returns what the owner found
/// there and what each poster was told to do.
fn race(
    p: &Arc<Pending>,
    posters: Vec<fn(&Pending) -> Wake>,
    commit: fn(&Pending) -> Work,
) -> (Work, Vec<Wake>) {
    let threads: Vec<_> = posters
        .into_iter()
        .map(|f| {
            let p = p.clone();
            thread::spawn(move || f(&p))
        })
        .collect();
    let found = commit(p);
    (
        found,
        threads.into_iter().map(|t| t.join().unwrap()).collect(),
    )
}

const POSTS: [fn(&Pending) -> Wake; 4] = [
    |p| p.post(0x41, Trigger::Edge),
    |p| p.post_nmi(),
    |p| p.post_init(),
    |p| p.post_request(2),
];

#[test]
fn a_running_vcpu_is_kicked_or_has_seen_it() {
    for post in POSTS {
        loom::model(move || {
            let p = Arc::new(Pending::new());
            let (found, wakes) = race(&p, vec![post], |p| p.enter_guest());
            assert!(found.any() || wakes == [Wake::Kick]);
            assert!(p.work().any());
        });
    }
}

#[test]
fn a_request_is_seen_before_entry_or_its_poster_knows() {
    loom::model(|| {
        let p = Arc::new(Pending::new());
        let q = p.clone();
        let t = thread::spawn(move || {
            q.note_request(1);
            q.is_in_guest()
        });
        let found = p.enter_guest().requests;
        assert!(found || t.join().unwrap());
    });
}

#[test]
fn a_sleeper_is_woken_or_has_seen_it() {
    for post in POSTS {
        loom::model(move || {
            let p = Arc::new(Pending::new());
            let (found, wakes) = race(&p, vec![post], |p| p.block());
            assert!(found.any() || wakes == [Wake::Unblock]);
        });
    }
}

#[test]
fn two_posters_kick_at_least_once_and_at_most_once() {
    loom::model(|| {
        let p = Arc::new(Pending::new());
        let (found, wakes) = race(
            &p,
            vec![|p| p.post(0x41, Trigger::Edge), |p| {
                p.post(0x91, Trigger::Level)
            }],
            |p| p.enter_guest(),
        );
        let kicks = wakes.iter().filter(|&&w| w == Wake::Kick).count();
        assert!(kicks <= 1);
        assert!(found.vectors || kicks == 1);
        p.leave();
        let t = p.take_vectors().unwrap();
        assert_eq!(t.irr, [0, 1 << 1, 1 << 17, 0]);
        assert_eq!((t.level[1] & t.irr[1], t.level[2] & t.irr[2]), (0, 1 << 17));
    });
}

#[test]
fn taking_while_posting_loses_nothing() {
    loom::model(|| {
        let p = Arc::new(Pending::new());
        let posters: Vec<_> = [(0x41, Trigger::Level), (0x42, Trigger::Edge)]
            .into_iter()
            .map(|(v, t)| {
                let p = p.clone();
                thread::spawn(move || {
                    let _ = p.post(v, t);
                })
            })
            .collect();
        let (mut irr, mut level) = (0, 0);
        let mut take = || {
            if let Some(t) = p.take_vectors() {
                assert_eq!(irr & t.irr[1], 0, "taken twice");
                irr |= t.irr[1];
                level |= t.irr[1] & t.level[1];
            }
        };
        take();
        for t in posters {
            t.join().unwrap();
        }
        // All posters are done: what is left must be announced by ON.
        take();
        assert_eq!((irr, level), (0b110, 0b010));
        assert!(!p.work().any());
    });
}

#[test]
fn a_vector_posted_while_entering_is_not_left_behind() {
    // The owner turns back once, takes what is there, and commits again.
    loom::model(|| {
        let p = Arc::new(Pending::new());
        let q = p.clone();
        let t = thread::spawn(move || {
            let a = q.post(0x41, Trigger::Edge);
            let b = q.post(0x42, Trigger::Edge);
            [a, b]
        });
        let mut taken = 0;
        let mut entered = false;
        for _ in 0..3 {
            if !p.enter_guest().any() {
                entered = true;
                break;
            }
            p.leave();
            taken |= p.take_vectors().map_or(0, |t| t.irr[1]);
        }
        let wakes = t.join().unwrap();
        assert!(!entered || taken == 0b110 || wakes.contains(&Wake::Kick));
    });
}

#[test]
fn init_and_sipi_reach_an_owner_that_takes_at_any_time() {
    loom::model(|| {
        let p = Arc::new(Pending::new());
        let q = p.clone();
        let t = thread::spawn(move || {
            let _ = q.post_init();
            let _ = q.post_sipi(0x9a);
        });
        let first = p.take_events();
        t.join().unwrap();
        let second = p.take_events();
        assert!(first.init() ^ second.init());
        assert_eq!(first.sipi().or(second.sipi()), Some(0x9a));
        // Never the SIPI before its INIT.
        assert!(first.sipi().is_none() || first.init());
    });
}
