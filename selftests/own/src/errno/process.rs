// SPDX-License-Identifier: GPL-2.0

//! Callers that are another process than the one that made the VM.

use super::bytes;
use super::ops;
use super::plain;
use super::world::On;
use super::world::Stage;
use super::world::World;
use crate::guest;
use crate::sys;
use crate::sys::Area;
use crate::sys::PAGE;
use crate::table::Table;
use crate::tap::Tap;

/// Each command from a forked child, and after the process that made the VM is gone.
pub fn process(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_process",
        include_str!("../../data/errno-process.tsv"),
    );
    let w = World::new(Stage::Full);
    let shared = shared_area();
    let all = ops::all();
    let args: Vec<_> = all.iter().map(|op| bytes(&w, op)).collect();
    let before = w.full();
    let code = sys::in_child(|| {
        let mut text = String::new();
        for (op, arg) in all.iter().zip(&args) {
            let a = match &op.arg {
                ops::Arg::Value(v) => w.fd(op.on).call(op.cmd, *v),
                ops::Arg::Bytes(_) => w.call(op.on, op.cmd, arg, 0, 0),
            };
            text.push_str(&plain(op.cmd, a));
            text.push(' ');
        }
        shared.write(0, text.as_bytes());
        0
    });
    t.tap().same("the child ends", code, 0);
    let text = shared.read(0, shared.len());
    let text = String::from_utf8_lossy(&text);
    for (op, answer) in all
        .iter()
        .zip(text.trim_end_matches('\0').split_whitespace())
    {
        t.row(format_args!("fork {}", op.name), answer);
    }
    t.tap()
        .same("the child changed nothing", w.changed(&before), Vec::new());

    // The maker of the VM dies; its descriptors live on here.
    let pid = sys::spawn_child(|| {
        let w = World::new(Stage::Full);
        let v = w.vcpu.as_ref().expect("vCPU");
        shared.store::<i32>(8, w.vm.raw());
        shared.store::<i32>(12, v.fd.raw());
        shared.store::<u32>(4096, 1);
        std::mem::forget(w);
    });
    while shared.watch(4096) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let vm = sys::fd_of_process(pid, shared.load(8)).expect("pidfd_getfd");
    let vcpu = sys::fd_of_process(pid, shared.load(12)).expect("pidfd_getfd");
    let run = Area::of_fd(&vcpu, 3 * PAGE, 0);
    t.row(
        "foreign mmap of a vCPU",
        run.as_ref()
            .map_or_else(|e| sys::errno_name(*e), |_| "0".into()),
    );
    let mut answers = vec![Vec::new(); all.len()];
    for when in ["alive", "dead"] {
        if when == "dead" {
            sys::kill_child(pid);
        }
        for ((op, arg), said) in all.iter().zip(&args).zip(&mut answers) {
            let arg = match &op.arg {
                ops::Arg::Value(v) => *v,
                ops::Arg::Bytes(_) => w.place(arg),
            };
            let fd = match op.on {
                On::Dev => continue,
                On::Vm => &vm,
                On::Vcpu => &vcpu,
            };
            said.push(format!("{when}={}", plain(op.cmd, fd.call(op.cmd, arg))));
        }
        t.row(
            format_args!("maker {when}: unknown, VM"),
            vm.call(0xaeff, 0),
        );
        t.row(
            format_args!("maker {when}: unknown, vCPU"),
            vcpu.call(0xaeff, 0),
        );
        let r = Area::of_fd(&vcpu, PAGE, 0).map(|_| ());
        t.row(format_args!("maker {when}: mmap"), format_args!("{r:?}"));
    }
    for (op, said) in all.iter().zip(answers).filter(|(_, a)| !a.is_empty()) {
        t.row(format_args!("maker: {}", op.name), said.join(" "));
    }
    t.tap()
        .same("another VM is as it was", w.changed(&before), Vec::new());
    if let Ok(run) = run {
        // The page is still there, whatever is in it.
        let _ = run.load::<u32>(8);
    }
    drop((vm, vcpu));
    t.finish();
}

fn shared_area() -> Area {
    let fd = guest::dev();
    drop(fd);
    // A file in memory, shared with children.
    let f = sys::memory_file(4 * PAGE);
    Area::of_fd(&f, 4 * PAGE, 0).expect("mmap")
}

/// mmap of the three kinds of descriptor.
pub fn mapping(tap: &mut Tap) {
    let mut t = Table::new(tap, "errno_mmap", include_str!("../../data/errno-mmap.tsv"));
    let w = World::new(Stage::Full);
    let (rw, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let map = |on: On, pages: usize, first: usize, prot: i32, flags: i32| match Area::of_fd_prot(
        w.fd(on),
        pages * PAGE,
        first * PAGE,
        prot,
        flags,
    ) {
        Ok(_) => "0".to_string(),
        Err(e) => sys::errno_name(e),
    };
    for on in [On::Dev, On::Vm, On::Vcpu] {
        t.row(format_args!("{on:?}, 3 pages"), map(on, 3, 0, rw, shared));
    }
    t.row("vCPU, 1 page", map(On::Vcpu, 1, 0, rw, shared));
    t.row("vCPU, 4 pages", map(On::Vcpu, 4, 0, rw, shared));
    t.row("vCPU, page 2", map(On::Vcpu, 1, 2, rw, shared));
    t.row("vCPU, page 3", map(On::Vcpu, 1, 3, rw, shared));
    t.row("vCPU, private", map(On::Vcpu, 3, 0, rw, libc::MAP_PRIVATE));
    t.row(
        "vCPU, readable",
        map(On::Vcpu, 3, 0, libc::PROT_READ, shared),
    );
    t.row(
        "vCPU, executable",
        map(On::Vcpu, 1, 0, rw | libc::PROT_EXEC, shared),
    );
    t.row("vCPU, page 64", map(On::Vcpu, 1, 64, rw, shared));
    t.row(
        "vCPU, page 64, executable",
        map(On::Vcpu, 1, 64, rw | libc::PROT_EXEC, shared),
    );
    t.row(
        "vCPU, page 64, private",
        map(On::Vcpu, 1, 64, rw, libc::MAP_PRIVATE),
    );
    // Beyond the pages there is nothing: touching it is SIGBUS, in a child.
    for page in [2usize, 3, 64] {
        let code = sys::in_child(|| {
            let fd = w.fd(On::Vcpu);
            match Area::of_fd(fd, PAGE, page * PAGE) {
                Ok(a) => i32::from(a.load::<u8>(0) != 0),
                Err(_) => 7,
            }
        });
        t.row(format_args!("vCPU, touching page {page}"), code);
    }
    t.finish();
}
