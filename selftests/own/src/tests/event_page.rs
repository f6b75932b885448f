// SPDX-License-Identifier: GPL-2.0

//! A page of device memory with an event for any length in it, which the nested tables may mark:
//! everything else that a guest does there, and memory that comes and goes.

use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest_code;
use crate::sys::zeroed;
use crate::sys::Answer;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// Where the event is.
const AT: u64 = 0xe000_0010;
const PAGE: u64 = AT & !0xfff;
/// Where in the VMM's memory the slot's memory is.
const OFFSET: usize = 1 << 20;

guest_code! {
    // Signals four times, by every length, then does other things in the page, and signals again.
    strokes,
    "mov ebx, 0xe0000000",
    "2: mov byte ptr [rbx + 0x10], 1",
    "mov word ptr [rbx + 0x10], 2",
    "mov dword ptr [rbx + 0x10], 3",
    "mov rax, 4",
    "mov [rbx + 0x10], rax",
    "mov dword ptr [rbx + 0x20], 5",
    "mov eax, [rbx + 0x24]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov dword ptr [rbx + 0x10], 6",
    "lock inc dword ptr [rbx + 0x28]",
    "mov dword ptr [rbx + 0x10], 7",
    "mov dword ptr [rbx + 0x10], 8",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

/// One round of the guest: what reached user space.
fn round(g: &Guest) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        match g.enter() {
            Ok(Exit::MmioWrite { addr, data }) => seen.push(format!("{:x}={data:x?}", addr - PAGE)),
            Ok(e @ Exit::MmioRead { addr, .. }) => {
                seen.push(format!("{:x}?", addr - PAGE));
                g.cpus[0].answer(&e, &[0x70, 0, 0, 0]);
            }
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => seen.push(format!("value {data:x?}")),
            Ok(Exit::Out { port: 0xe1, .. }) => return seen,
            e => {
                seen.push(format!("{e:x?}"));
                return seen;
            }
        }
    }
}

fn event(g: &Guest, fd: &Fd, flags: u32) -> Answer {
    let mut e: kvm_ioeventfd = zeroed();
    (e.addr, e.flags, e.fd) = (AT, flags, fd.raw());
    g.vm.set(k::IOEVENTFD, &e)
}

fn words(v: &[&str]) -> Vec<String> {
    v.iter().map(|s| (*s).to_string()).collect()
}

/// Writes to the page, with and without the event, with and without memory there.
pub fn event_page(t: &mut Tap) {
    const DEASSIGN: u32 = 1 << 2;
    let g = Guest::long_with(
        Plan {
            mem: 4 << 20,
            ..Plan::default()
        },
        strokes(),
    );
    let small = (g.slot(0, 0, 0, 0, 0).ok(), g.slot(0, 0, 0, OFFSET, 0).ok());
    t.same("slot 0 smaller", small, (Ok(0), Ok(0)));
    let fd = Fd::event();
    let device = words(&[
        "20=[5, 0, 0, 0]",
        "24?",
        "value [70, 0, 0, 0]",
        "28?",
        "28=[71, 0, 0, 0]",
    ]);
    let everything = words(&[
        "10=[1]",
        "10=[2, 0]",
        "10=[3, 0, 0, 0]",
        "10=[4, 0, 0, 0, 0, 0, 0, 0]",
        "20=[5, 0, 0, 0]",
        "24?",
        "value [70, 0, 0, 0]",
        "10=[6, 0, 0, 0]",
        "28?",
        "28=[71, 0, 0, 0]",
        "10=[7, 0, 0, 0]",
        "10=[8, 0, 0, 0]",
    ]);
    for n in 0..3 {
        t.same("event", event(&g, &fd, 0).ok(), Ok(0));
        for _ in 0..2 {
            t.same(format!("with the event {n}"), round(&g), device.clone());
            t.same(format!("signals {n}"), fd.take(), 7);
        }
        // Another slot changes: the page is what it was.
        let far = g.slot(2, 0x5000_0000, 3 << 20, 0x1000 * (n + 1), 0).ok();
        t.same("another slot", far, Ok(0));
        t.same(format!("after it {n}"), round(&g), device.clone());
        t.same(format!("signals after it {n}"), fd.take(), 7);
        let gone = g.slot(2, 0, 0, 0, 0).ok();
        t.same("is gone", gone, Ok(0));

        g.mem.store::<u32>(OFFSET + 0x24, 0x55);
        g.mem.store::<u32>(OFFSET + 0x28, 0x20);
        t.same("memory", g.slot(1, PAGE, OFFSET, 0x1000, 0).ok(), Ok(0));
        let value = words(&["value [55, 0, 0, 0]"]);
        t.same(format!("memory {n}"), round(&g), value);
        t.same(format!("no signals {n}"), fd.take(), 0);
        let found = [0x10, 0x20, 0x28].map(|at| g.mem.load::<u32>(OFFSET + at));
        t.same(format!("in memory {n}"), found, [8, 5, 0x21]);

        t.same("no memory", g.slot(1, PAGE, OFFSET, 0, 0).ok(), Ok(0));
        t.same(format!("event again {n}"), round(&g), device.clone());
        t.same(format!("signals again {n}"), fd.take(), 7);

        t.same("no event", event(&g, &fd, DEASSIGN).ok(), Ok(0));
        for _ in 0..2 {
            t.same(format!("nothing {n}"), round(&g), everything.clone());
        }
        t.same(format!("no signals without {n}"), fd.take(), 0);
    }
}
