// SPDX-License-Identifier: GPL-2.0

//! What bad callers get: the errno of each ioctl for each kind of misuse, and that a refused call
//! changed nothing. The expectations are in `data/errno-*.tsv`.

pub mod counts;
pub mod memfd;
pub mod ops;
pub mod process;
pub mod vcpus;
pub mod world;

use crate::sys::Answer;
use crate::sys::Fd;
use crate::table::runs;
use crate::table::Table;
use crate::tap::Tap;
use crate::uapi;
use ops::Arg;
use ops::Op;
use world::On;
use world::Stage;
use world::World;

/// Commands that answer with a descriptor.
pub const MAKES_FD: &[u32] = &[
    uapi::CREATE_VM,
    uapi::CREATE_VCPU,
    uapi::CREATE_GUEST_MEMFD,
    uapi::GET_STATS_FD,
];

/// An answer without what differs from run to run: descriptors and frequencies.
pub fn plain(cmd: u32, a: Answer) -> String {
    match a {
        Answer::Ok(n) if MAKES_FD.contains(&cmd) => {
            drop(Fd::own(n));
            "fd".to_string()
        }
        Answer::Ok(n) if n > 0x1_0000 => "large".to_string(),
        a => a.to_string(),
    }
}

/// The argument's bytes, or its number's.
fn bytes(w: &World, op: &Op) -> Vec<u8> {
    match &op.arg {
        Arg::Value(v) => v.to_ne_bytes().to_vec(),
        Arg::Bytes(f) => f(w),
    }
}

fn good(w: &World, op: &Op) -> Answer {
    match &op.arg {
        Arg::Value(v) => w.fd(op.on).call(op.cmd, *v),
        Arg::Bytes(f) => w.call(op.on, op.cmd, &f(w), 0, 0),
    }
}

/// Null, unmapped, kernel, truncated, constant and unaligned pointers, at a stage at which a good one
/// works: a call that is refused for the stage may not look at its pointer at all.
pub fn pointers(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_pointers",
        include_str!("../../data/errno-pointers.tsv"),
    );
    for op in ops::all() {
        let Arg::Bytes(arg) = &op.arg else { continue };
        let mut w = World::new(op.stage);
        let good = arg(&w);
        let before = w.full();
        let fd = w.fd(op.on);
        let mut answers = Vec::new();
        for (name, at) in [
            ("null", 0),
            ("hole", w.hole()),
            ("kernel", 0xffff_8880_0000_0000),
            ("noncanonical", 0x8000_0000_0000_1000),
            ("top", usize::MAX - 3),
        ] {
            answers.push(format!("{name}={}", plain(op.cmd, fd.call(op.cmd, at))));
        }
        let short = w.call(op.on, op.cmd, &good, 1, 0);
        answers.push(format!("short={}", plain(op.cmd, short)));
        // Null takes back a signal mask, and a few commands read less than their structure.
        if answers.iter().all(|a| a.contains("=E")) {
            let changed = w.changed(&before);
            if !changed.is_empty() {
                t.tap().point(
                    false,
                    format!("{}: refused, but changed {changed:?}", op.name),
                );
            }
        }
        for (name, odd) in [("constant", None), ("odd", Some(1)), ("good", Some(0))] {
            let good = arg(&w);
            let a = match odd {
                None => w.call_constant(op.on, op.cmd, &good),
                Some(odd) => w.call(op.on, op.cmd, &good, 0, odd),
            };
            answers.push(format!("{name}={}", plain(op.cmd, a)));
            if a.is_ok() && !undo(&w, &op, &good) {
                w = World::new(op.stage);
            }
        }
        t.row(op.name, answers.join(" "));
        for (name, at) in op.inner {
            let text = inner(&mut t, &op, *at);
            t.row(format_args!("{} -> {name}", op.name), text);
        }
    }
    t.finish();
}

/// The same kinds of pointers inside an argument, at an offset of it.
fn inner(t: &mut Table<'_>, op: &Op, at: usize) -> String {
    let w = World::new(op.stage);
    let good = bytes(&w, op);
    let mut b = good.clone();
    let mut answers = Vec::new();
    for (name, to) in [
        ("null", 0),
        ("hole", w.hole()),
        // It ends within the value.
        ("short", w.hole() - 4),
        ("kernel", 0xffff_8880_0000_0000),
        ("noncanonical", 0x8000_0000_0000_1000),
        ("top", usize::MAX - 3),
        ("constant", w.constant()),
    ] {
        b[at..at + 8].copy_from_slice(&to.to_ne_bytes());
        let a = w.steady(t, format_args!("{} {name}", op.name), || {
            w.call(op.on, op.cmd, &b, 0, 0)
        });
        answers.push(format!("{name}={}", plain(op.cmd, a)));
    }
    let a = w.call(op.on, op.cmd, &good, 0, 0);
    answers.push(format!("good={}", plain(op.cmd, a)));
    answers.join(" ")
}

/// Takes back what a call did, where the next one would be refused for it. What cannot be taken back
/// needs a new VM: false.
fn undo(w: &World, op: &Op, arg: &[u8]) -> bool {
    let mut b = arg.to_vec();
    match op.cmd {
        uapi::CREATE_PIT2 => return false,
        uapi::SET_USER_MEMORY_REGION | uapi::SET_USER_MEMORY_REGION2 => b[16..24].fill(0),
        uapi::IRQFD => b[8] |= 1,
        uapi::IOEVENTFD => b[24] |= 4,
        _ => return true,
    }
    let _ = w.call(op.on, op.cmd, &b, 0, 0);
    true
}

/// Each bit of each field, flipped in a good argument. A refused call changes no state at all.
pub fn bits(tap: &mut Tap) {
    let mut t = Table::new(tap, "errno_bits", include_str!("../../data/errno-bits.tsv"));
    let mut refused = 0;
    for op in ops::all() {
        for (field, at, bits) in op.fields {
            let mut w = World::new(op.stage);
            let mut answers = Vec::new();
            let mut good = bytes(&w, &op);
            let mut before = None;
            let mut changed = Vec::new();
            for bit in 0..*bits {
                let mut b = good.clone();
                b[at + bit / 8] ^= 1 << (bit % 8);
                let a = w.call(op.on, op.cmd, &b, 0, 0);
                answers.push(plain(op.cmd, a));
                if a.is_ok() {
                    if !undo(&w, &op, &b) {
                        w = World::new(op.stage);
                        good = bytes(&w, &op);
                    }
                    before = None;
                    continue;
                }
                refused += 1;
                let then = before.take().unwrap_or_else(|| {
                    let then = w.settled();
                    // Once more, now that what it may not change is known.
                    let _ = w.call(op.on, op.cmd, &b, 0, 0);
                    then
                });
                let now = w.changed(&then);
                if now.is_empty() {
                    before = Some(then);
                } else {
                    changed.push(format!("{bit}: {now:?}"));
                }
            }
            if !changed.is_empty() {
                let what = format!("{} {field}: refused, but changed: {changed:?}", op.name);
                t.tap().point(false, what);
            }
            t.row(format_args!("{} {field}", op.name), runs(&answers));
        }
    }
    let text = format!("{refused} calls were refused, and what they left was looked at");
    t.tap().point(refused > 1000, text);
    t.finish();
}

/// Each command on the other descriptors, with other sizes and directions; unknown commands.
pub fn dispatch(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_dispatch",
        include_str!("../../data/errno-dispatch.tsv"),
    );
    let w = World::new(Stage::Full);
    let all = [On::Dev, On::Vm, On::Vcpu];
    // An argument that cannot be read: a command that is known says so.
    let call = |on: On, cmd: u32| plain(cmd, w.fd(on).call(cmd, w.hole()));
    for (name, cmd) in uapi::ALL {
        // It takes any number, and the address is one.
        if *cmd == uapi::SET_TSC_KHZ {
            continue;
        }
        let a: Vec<_> = all.iter().map(|on| call(*on, *cmd)).collect();
        t.row(
            format_args!("{name}"),
            format_args!("dev={} vm={} vcpu={}", a[0], a[1], a[2]),
        );
    }
    // Known numbers with other sizes and directions.
    let known: std::collections::BTreeSet<u32> = uapi::ALL.iter().map(|(_, c)| *c).collect();
    for on in all {
        let mut odd = Vec::new();
        let mut n = 0;
        let expected = if on == On::Vm { "ENOTTY" } else { "EINVAL" };
        for (_, cmd) in uapi::ALL {
            let size = (cmd >> 16) & 0x3fff;
            for other in [
                cmd ^ 0x4000_0000,
                cmd ^ 0x8000_0000,
                cmd ^ 0xc000_0000,
                (cmd & 0xc000_ffff) | ((size + 8) << 16),
                (cmd & 0xc000_ffff) | ((size ^ 1) << 16),
                cmd & 0xc000_ffff,
            ] {
                if known.contains(&other) {
                    continue;
                }
                n += 1;
                let a = call(on, other);
                if a != expected {
                    odd.push(format!("{other:#x}={a}"));
                }
            }
        }
        t.tap()
            .point(n > 600, format!("{on:?}: {n} wrong commands"));
        odd.sort();
        odd.dedup();
        t.row(
            format_args!("wrong commands, {on:?}"),
            format_args!("{expected} {}", odd.join(" ")),
        );
        // Numbers nobody has, and another type.
        let free: Vec<_> = (0xf0..0x100u32).map(|nr| call(on, 0xae00 | nr)).collect();
        t.row(format_args!("free numbers, {on:?}"), runs(&free));
        let other: Vec<_> = [0x8000, 0x0000, 0xaf80, 0x5401]
            .iter()
            .map(|c| call(on, *c))
            .collect();
        t.row(format_args!("other types, {on:?}"), runs(&other));
    }
    t.finish();
}

/// Each command with a good argument, at each stage of a VM's set-up.
pub fn order(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_order",
        include_str!("../../data/errno-order.tsv"),
    );
    for op in ops::all() {
        let mut answers = Vec::new();
        for stage in [
            Stage::Empty,
            Stage::Bare,
            Stage::Split,
            Stage::Chips,
            Stage::Full,
        ] {
            if op.on == On::Vcpu && stage == Stage::Empty {
                continue;
            }
            let w = World::new(stage);
            let mut call = || {
                let what = format_args!("{} at {stage:?}", op.name).to_string();
                plain(op.cmd, w.steady(&mut t, what, || good(&w, &op)))
            };
            let (first, second) = (call(), call());
            if first == second {
                answers.push(format!("{stage:?}={first}"));
            } else {
                answers.push(format!("{stage:?}={first},{second}"));
            }
        }
        t.row(op.name, answers.join(" "));
    }
    t.finish();
}
