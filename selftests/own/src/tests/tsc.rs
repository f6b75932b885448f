// SPDX-License-Identifier: GPL-2.0

//! What the TSCs of a VM's vCPUs count from, by the values that user space gives them.

use crate::guest;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::Vcpu;
use crate::host;
use crate::sys;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;

fn attr(value: &mut [u8; 8]) -> kvm_device_attr {
    let mut a: kvm_device_attr = sys::zeroed();
    a.group = KVM_VCPU_TSC_CTRL;
    a.attr = KVM_VCPU_TSC_OFFSET.into();
    a.addr = value.as_mut_ptr() as u64;
    a
}

fn offset(v: &Vcpu) -> u64 {
    let mut value = [0; 8];
    let r = v.fd.set(k::GET_DEVICE_ATTR, &attr(&mut value));
    assert_eq!(r, Answer::Ok(0), "KVM_GET_DEVICE_ATTR");
    u64::from_ne_bytes(value)
}

fn set_offset(v: &Vcpu, offset: u64) -> Answer {
    v.fd.set(k::SET_DEVICE_ATTR, &attr(&mut offset.to_ne_bytes()))
}

fn now(v: &Vcpu) -> u64 {
    v.msr(TSC).expect("the TSC")
}

/// The TSC was `from` a short time ago.
fn shows(t: &mut Tap, what: &str, v: &Vcpu, from: u64, second: u64) {
    let on = now(v).wrapping_sub(from);
    t.point(on < 20 * second, format!("{what}: {on} ticks later"));
}

fn set(t: &mut Tap, what: &str, v: &Vcpu, tsc: u64) {
    t.same(what, v.set_msr(TSC, tsc), true);
}

/// Which values of user space join what the other vCPUs count, and which are taken as they are.
pub fn values(t: &mut Tap) {
    let plan = Plan {
        cpus: 2,
        ..Plan::default()
    };
    let mut g = Guest::new(plan);
    let khz = g.cpus[0].fd.call(k::GET_TSC_KHZ, 0).ok().expect("a rate") as u64;
    let second = khz * 1000;
    let (a, b) = (&g.cpus[0], &g.cpus[1]);
    t.same("a rate", khz != 0, true);
    if !host::has_tsc_clock() {
        t.skip("the host's TSCs are no clock: offsets do not stay");
        return;
    }
    t.same("new ones count the same", offset(a), offset(b));
    let created = offset(a);
    // Less than a second from what it shows.
    let first = now(a) + second * 3 / 4;
    set(t, "the first value of user space", a, first);
    shows(t, "is taken as it is", a, first, second);
    t.same("only there", offset(b), created);
    set(t, "the same for the other", b, first);
    t.same("joins", offset(b), offset(a));
    set(
        t,
        "once more, a little later",
        a,
        now(a).wrapping_sub(second / 2),
    );
    t.same("is the same", offset(a), offset(b));
    let far = now(a) + 100 * second;
    set(t, "a distant value", a, far);
    shows(t, "is taken", a, far, second);
    t.same("again only there", offset(b) != offset(a), true);
    set(t, "a value beside it", b, now(a).wrapping_sub(second / 2));
    t.same("joins", offset(b), offset(a));
    let joint = offset(a);
    let low = second / 2;
    set(t, "a low value", b, low);
    shows(t, "is taken", b, low, second);
    set(t, "0", a, 0);
    t.same("is what the others count", offset(a), offset(b));
    t.same("which is not what it was", offset(a) != joint, true);

    t.same("an offset", set_offset(a, 12345), Answer::Ok(0));
    t.same("is taken as it is", offset(a), 12345);
    t.same("there", offset(b) != 12345, true);
    set(t, "a value beside it", b, now(a) + second / 2);
    t.same("joins", offset(b), 12345);
    g.add_cpu(2, true);
    t.same("and so does a new one", offset(&g.cpus[2]), 12345);
    let (a, c) = (&g.cpus[0], &g.cpus[2]);
    // A new one is given 0, which the next value is compared with.
    let moved = now(a) + second / 4;
    set(t, "a value beside the others' after that", c, moved);
    shows(t, "is taken as it is", c, moved, second);
    t.same("and joins nobody", offset(c) != 12345, true);
    t.same("IA32_TSC_ADJUST", c.set_msr(TSC_ADJUST, 1 << 40), true);
    shows(t, "moves nothing", c, moved, second);
    t.same("and is kept", c.msr(TSC_ADJUST), Some(1 << 40));
}

/// Frequencies: a vCPU of another one does not count what the others do.
pub fn speeds(t: &mut Tap) {
    let plan = Plan {
        cpus: 3,
        ..Plan::default()
    };
    let g = Guest::new(plan);
    let [a, b, c] = &g.cpus[..] else {
        return;
    };
    let khz = a.fd.call(k::GET_TSC_KHZ, 0).ok().expect("a rate") as usize;
    let second = khz as u64 * 1000;
    t.same("a rate", khz != 0, true);
    if !host::has_tsc_clock() {
        t.skip("the host's TSCs are no clock: offsets do not stay");
        return;
    }
    let set_khz = |v: &Vcpu, khz: usize| v.fd.call(k::SET_TSC_KHZ, khz);
    t.same("0 is the host's", set_khz(a, 0), Answer::Ok(0));
    t.same(
        "which it had",
        a.fd.call(k::GET_TSC_KHZ, 0),
        Answer::Ok(khz as i32),
    );
    let created = offset(a);
    if guest::cap(&g.dev, KVM_CAP_TSC_CONTROL) == 0 {
        t.same(
            "a slower one",
            set_khz(a, khz / 2),
            Answer::Err(libc::EINVAL),
        );
        t.same("its offset stays", offset(a), created);
        return;
    }
    t.same(
        "too fast",
        set_khz(a, 0x7fff_ffff),
        Answer::Err(libc::EINVAL),
    );
    t.same("half", set_khz(a, khz / 2), Answer::Ok(0));
    t.same("its offset stays", offset(a), created);
    set(t, "0", a, 0);
    t.same("is not what the others count", offset(a) != created, true);
    shows(t, "but the beginning", a, 0, second / 2);
    t.same("half", set_khz(b, khz / 2), Answer::Ok(0));
    set(t, "0", b, 0);
    t.same("joins it", offset(b), offset(a));
    set(t, "0 for one that counts as the host", c, 0);
    t.same("joins none of them", offset(c) != offset(a), true);
    shows(t, "and begins anew", c, 0, second);
    // QEMU's order: a frequency, 0 at the reset, then what the guest had.
    let had = 1000 * second;
    set(t, "a value", a, had);
    shows(t, "is taken", a, had, second);
    set(t, "the same for the other", b, had);
    t.same("joins", offset(b), offset(a));
    t.same("three times", set_khz(c, khz * 3), Answer::Ok(0));
    set(t, "the same for one of another speed", c, had);
    shows(t, "is taken", c, had, 3 * second);
    t.same("as it is", offset(c) != offset(a), true);
}
