// SPDX-License-Identifier: GPL-2.0

use super::*;

/// The host counts 2 GHz.
const HOST: u32 = 2_000_000;
const SECOND: u64 = 2_000_000_000;

fn speed(khz: u32) -> Speed {
    Speed {
        khz,
        rate: Rate::new(khz, HOST, 48).expect("a rate"),
    }
}

/// The host so many milliseconds after it was switched on, a minute of which it did not count.
fn at(ms: u64) -> Moment {
    Moment {
        ns: 60_000_000_000 + ms * 1_000_000,
        tsc: ms * u64::from(HOST),
        trusted: true,
    }
}

fn tsc(c: Count, s: Speed, now: Moment) -> u64 {
    s.rate.scale(now.tsc).wrapping_add(c.offset)
}

#[test]
fn new_ones_count_from_the_first() {
    let (mut j, s) = (Joint::new(), speed(HOST));
    let a = j.add(s, at(5000));
    assert_eq!(tsc(a, s, at(5000)), 0);
    let b = j.add(s, at(9000));
    assert_eq!(b, a);
    assert_eq!(tsc(b, s, at(9000)), 4 * SECOND);
}

#[test]
fn the_first_value_of_user_space_is_taken_as_it_is() {
    let (mut j, s) = (Joint::new(), speed(HOST));
    j.add(s, at(1000));
    j.add(s, at(1000));
    // Half a second of what a new TSC shows by now, and less than a second of 0.
    let a = j.write(SECOND / 2, s, at(1100));
    assert_eq!(tsc(a, s, at(1100)), SECOND / 2);
    // The next one is compared with that.
    let b = j.write(SECOND / 2, s, at(1900));
    assert_eq!(b, a);
    // Each value begins the second anew.
    let c = j.write(SECOND / 2, s, at(2800));
    assert_eq!(c, a);
    let d = j.write(SECOND / 2, s, at(3800));
    assert_ne!(d, a);
    assert_eq!(tsc(d, s, at(3800)), SECOND / 2);
    // And another way round.
    let e = j.write(10 * SECOND, s, at(4000));
    assert_eq!(tsc(e, s, at(4000)), 10 * SECOND);
    assert_eq!(j.write(10 * SECOND - SECOND + 1, s, at(4000)), e);
    assert_eq!(j.add(s, at(4100)), e, "one that comes later");
}

#[test]
fn zero_joins() {
    let (mut j, s) = (Joint::new(), speed(HOST));
    let a = j.add(s, at(1000));
    assert_eq!(j.write(0, s, at(9000)), a);
    // KVM: it counts as a value of user space like any other.
    let b = j.write(SECOND / 2, s, at(9000));
    assert_eq!(b, a);
    let c = j.write(100 * SECOND, s, at(9000));
    assert_ne!(c, a);
    assert_eq!(j.write(0, s, at(9100)), c);
}

#[test]
fn another_speed_does_not_join() {
    let (mut j, s, half) = (Joint::new(), speed(HOST), speed(HOST / 2));
    let a = j.add(s, at(5000));
    let b = j.write(0, half, at(6000));
    assert_ne!(b.offset, a.offset);
    assert_eq!(tsc(b, half, at(6000)), 0);
    assert_eq!(tsc(b, half, at(7000)), SECOND / 2);
    assert_eq!(j.write(0, half, at(6100)), b);
    let c = j.write(SECOND / 2 + 5, half, at(7000));
    assert_eq!(c, j.write(SECOND / 2, half, at(7000)));
    // The last vCPU of the old speed is alone.
    let d = j.write(0, s, at(8000));
    assert_eq!(tsc(d, s, at(8000)), 0);
}

#[test]
fn offsets() {
    let (mut j, s) = (Joint::new(), speed(HOST));
    let a = j.add(s, at(1000));
    let b = j.set_offset(a.offset, s, at(2000));
    assert_eq!(b, a, "it had that");
    let c = j.set_offset(a.offset.wrapping_add(5), s, at(2000));
    assert_eq!(c.offset, a.offset.wrapping_add(5));
    assert_eq!(j.add(s, at(3000)), c);
    // It counts as a value that is compared with.
    let d = j.write(tsc(c, s, at(3000)) + 7, s, at(3000));
    // KVM: not so: a new vCPU was given 0 since.
    assert_ne!(d, c);
    let c = j.set_offset(9, s, at(3000));
    assert_eq!(j.write(tsc(c, s, at(3100)) + 7, s, at(3100)), c);
    // The same offset at another speed is another count.
    let half = speed(HOST / 2);
    let e = j.set_offset(9, half, at(3000));
    assert_ne!(e.origin, c.origin);
    assert_eq!(e.offset, 9);
}

#[test]
fn the_host_lost_its_count() {
    let (mut j, half) = (Joint::new(), speed(HOST / 2));
    j.host_lost(7);
    let a = j.add(half, at(5000));
    let seen = tsc(a, half, at(9000));
    // From here on the host counts from 0 again.
    j.host_lost(at(9000).tsc);
    let b = j.add(half, at(0));
    assert_eq!(tsc(b, half, at(0)), seen);
}

#[test]
fn a_host_whose_tscs_are_no_clock() {
    let (mut j, s) = (Joint::new(), speed(HOST));
    let no = |ms, ahead| Moment {
        tsc: at(ms).tsc + ahead,
        trusted: false,
        ..at(ms)
    };
    let a = j.add(s, no(1000, 0));
    // A CPU whose TSC is 500 ticks ahead.
    let now = no(3000, 500);
    let b = j.write(0, s, now);
    assert_eq!(tsc(b, s, now), 2 * SECOND);
    assert_eq!(b.origin, a.origin);
    // It waited for a second of which no TSC knows.
    assert_eq!(b.origin.go_on(2 * SECOND, at(4000).ns, HOST), 3 * SECOND);
    // It was fast: it does not go back.
    assert_eq!(b.origin.go_on(5 * SECOND, at(4000).ns, HOST), 5 * SECOND);
    // What the guest changed stays, even below 0.
    let mut o = b.origin;
    o.move_by((4 * SECOND).wrapping_neg());
    let low = (2 * SECOND).wrapping_neg();
    assert_eq!(o.go_on(low, at(4000).ns, HOST), SECOND.wrapping_neg());
    assert_eq!(
        o.go_on(SECOND.wrapping_neg(), at(3500).ns, HOST),
        SECOND.wrapping_neg()
    );
}
