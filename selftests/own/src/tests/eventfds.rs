// SPDX-License-Identifier: GPL-2.0

//! Writes that signal an eventfd, of every width; writes that are collected.

use super::ipis::wait;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

const DATAMATCH: u32 = 1;
const PIO: u32 = 2;
const DEASSIGN: u32 = 4;
const DEVICE: u64 = 0xe000_0000;

guest_code! {
    widths,
    "mov ebx, 0xe0000000",
    "mov rax, 0x1111111111111111",
    "mov rcx, 0x2222222222222222",
    // One place for each width, two values.
    "mov [rbx], al",
    "mov [rbx], cl",
    "mov [rbx + 0x10], ax",
    "mov [rbx + 0x10], cx",
    "mov [rbx + 0x20], eax",
    "mov [rbx + 0x20], ecx",
    "mov [rbx + 0x30], rax",
    "mov [rbx + 0x30], rcx",
    // One for all widths.
    "mov [rbx + 0x40], al",
    "mov [rbx + 0x40], ax",
    "mov [rbx + 0x40], eax",
    "mov [rbx + 0x40], rax",
    // Ports.
    "mov edx, 0x300",
    "out dx, al",
    "mov eax, ecx",
    "out dx, al",
    "mov eax, 0x11111111",
    "mov edx, 0x310",
    "out dx, ax",
    "mov eax, ecx",
    "out dx, ax",
    "mov eax, 0x11111111",
    "mov edx, 0x320",
    "out dx, eax",
    "mov eax, ecx",
    "out dx, eax",
    "mov edx, 0x330",
    "out dx, al",
    "out dx, ax",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Where each width is: address, bytes (0: any), port.
const PLACES: [(u64, u32, bool); 9] = [
    (DEVICE, 1, false),
    (DEVICE + 0x10, 2, false),
    (DEVICE + 0x20, 4, false),
    (DEVICE + 0x30, 8, false),
    (DEVICE + 0x40, 0, false),
    (0x300, 1, true),
    (0x310, 2, true),
    (0x320, 4, true),
    (0x330, 0, true),
];

fn event(g: &Guest, fd: &Fd, (addr, len, pio): (u64, u32, bool), flags: u32, data: u64) -> Answer {
    let mut e: kvm_ioeventfd = sys::zeroed();
    (e.addr, e.len, e.fd, e.datamatch) = (addr, len, fd.raw(), data);
    e.flags = flags | if pio { PIO } else { 0 };
    g.vm.set(k::IOEVENTFD, &e)
}

/// Runs the guest; the addresses and widths that reached user space.
fn run(g: &Guest) -> Vec<(u64, usize)> {
    g.start_long(0, crate::guest::CODE);
    let mut seen = Vec::new();
    loop {
        match g.enter() {
            Ok(Exit::MmioWrite { addr, data }) => seen.push((addr, data.len())),
            Ok(Exit::Out { port: PORT_END, .. }) => return seen,
            Ok(Exit::Out { port, size, .. }) => seen.push((u64::from(port), size.into())),
            e => {
                println!("# unexpected: {e:x?}");
                seen.push((u64::MAX, 0));
                return seen;
            }
        }
    }
}

/// ioeventfds of all widths, in device memory and at ports, for any value or one.
pub fn widths_of_events(t: &mut Tap) {
    let g = Guest::long(widths());
    let fds: Vec<Fd> = PLACES.iter().map(|_| Fd::event()).collect();
    let counts = || -> Vec<u64> { fds.iter().map(Fd::take).collect() };
    let all = |flags: u32, data: fn(u32) -> u64| -> Vec<Answer> {
        PLACES
            .iter()
            .zip(&fds)
            .map(|(p, fd)| event(&g, fd, *p, flags, data(p.1)))
            .collect()
    };
    t.same("any value", all(0, |_| 0), vec![Answer::Ok(0); 9]);
    t.same("nothing reaches user space", run(&g), vec![]);
    t.same("signals", counts(), vec![2, 2, 2, 2, 4, 2, 2, 2, 3]);
    t.same(
        "once more",
        all(0, |_| 0),
        vec![Answer::Err(libc::EEXIST); 9],
    );
    t.same("removed", all(DEASSIGN, |_| 0), vec![Answer::Ok(0); 9]);
    t.same(
        "again",
        all(DEASSIGN, |_| 0),
        vec![Answer::Err(libc::ENOENT); 9],
    );
    t.same("everything reaches user space", run(&g).len(), 21);
    t.same("no signals", counts(), vec![0; 9]);
    // One value. Where any width counts there can be none.
    let one = |len: u32| match len {
        0 => 0,
        n => u64::MAX >> (64 - 8 * n) & 0x1111_1111_1111_1111,
    };
    let want: Vec<Answer> = PLACES
        .iter()
        .map(|p| {
            if p.1 == 0 {
                Answer::Err(libc::EINVAL)
            } else {
                Answer::Ok(0)
            }
        })
        .collect();
    t.same("one value", all(DATAMATCH, one), want);
    let seen = run(&g);
    let want: Vec<(u64, usize)> = [
        (DEVICE, 1),
        (DEVICE + 0x10, 2),
        (DEVICE + 0x20, 4),
        (DEVICE + 0x30, 8),
        (DEVICE + 0x40, 1),
        (DEVICE + 0x40, 2),
        (DEVICE + 0x40, 4),
        (DEVICE + 0x40, 8),
        (0x300, 1),
        (0x310, 2),
        (0x320, 4),
        (0x330, 1),
        (0x330, 2),
        (0x330, 4),
    ]
    .to_vec();
    t.same("the others reach user space", seen, want);
    t.same("signals", counts(), vec![1, 1, 1, 1, 0, 1, 1, 1, 0]);
    // Two events at one place, for two values.
    let fd = Fd::event();
    let r = event(&g, &fd, PLACES[2], DATAMATCH, 0x2222_2222);
    t.same("another value", r, Answer::Ok(0));
    run(&g);
    t.same("each gets its own", (counts()[2], fd.take()), (1, 1));
    for len in [3, 5, 16] {
        let r = event(&g, &fd, (DEVICE + 0x80, len, false), 0, 0);
        t.same(format!("{len} bytes"), r, Answer::Err(libc::EINVAL));
    }
}

guest_code! {
    // What is not a plain move, to where any width signals.
    others,
    "mov ebx, 0xe0000040",
    "mov edx, 0xe0",
    "mov eax, 0x77",
    "xchg [rbx], ax",
    "out dx, eax",
    "mov rdi, rbx",
    "stosw",
    "mov eax, edi",
    "out dx, eax",
    "inc word ptr [rbx]",
    "sete al",
    "movzx eax, al",
    "out dx, eax",
    // The second one is beside it.
    "mov rdi, rbx",
    "mov ecx, 2",
    "std",
    "rep stosb",
    "cld",
    "mov eax, ecx",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Instructions that do more than write, where a write of any width signals: all of it is done.
pub fn others_than_moves(t: &mut Tap) {
    let g = Guest::long(others());
    let fd = Fd::event();
    let r = event(&g, &fd, PLACES[4], 0, 0);
    t.same("any width", r, Answer::Ok(0));
    let (mut seen, mut values) = (Vec::new(), Vec::new());
    loop {
        match g.enter() {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => values.push(data.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b))),
            Ok(Exit::Out { .. }) => break,
            Ok(e @ Exit::MmioRead { addr, len }) => {
                seen.push((addr, len, false));
                g.cpus[0].answer(&e, &[0xff; 8]);
            }
            Ok(Exit::MmioWrite { addr, data }) => seen.push((addr, data.len() as u32, true)),
            e => {
                t.point(false, format!("unexpected: {e:x?}"));
                break;
            }
        }
    }
    // XCHG has read, STOS has moved RDI, INC has read and set ZF, REP has counted.
    t.same("values", values, vec![0xffff, 0xe000_0042, 1, 0]);
    let at = PLACES[4].0;
    let want = vec![(at, 2, false), (at, 2, false), (at - 1, 1, true)];
    t.same("what reached user space", seen, want);
    t.same("signals", fd.take(), 4);
}

guest_code! {
    floods,
    "mov ecx, 200",
    "mov ebx, 0xe0000000",
    "2: mov [rbx], ecx",
    "dec ecx",
    "jnz 2b",
    "mov edx, 0x300",
    "mov al, 7",
    "out dx, al",
    "mov edx, 0xe1",
    "out dx, al",
}

/// The ring of collected writes: full, emptied, and a zone that is removed.
pub fn coalesced(t: &mut Tap) {
    let g = Guest::long(floods());
    let place = |cmd: u32, addr: u64, size: u32, pio: u32| {
        let mut z: kvm_coalesced_mmio_zone = sys::zeroed();
        (z.addr, z.size, z.__bindgen_anon_1.pio) = (addr, size, pio);
        g.vm.set(cmd, &z)
    };
    let zone = |cmd, addr, pio| place(cmd, addr, 8, pio);
    let add = k::REGISTER_COALESCED_MMIO;
    let ring = 2 * sys::PAGE;
    let first_last = || -> (u32, u32) {
        let run = &g.cpus[0].run;
        (run.load(ring), run.load(ring + 4))
    };
    t.same("a zone", zone(add, DEVICE, 0), Answer::Ok(0));
    t.same("a zone of ports", zone(add, 0x300, 1), Answer::Ok(0));
    // One place stays free, to tell full from empty.
    let room = (sys::PAGE - 8) / 24 - 1;
    let seen = run(&g);
    t.same("what does not fit exits", seen.len(), 201 - room);
    t.same("full", first_last(), (0, room as u32));
    let at = ring + 8 + 24 * (room - 1);
    let last: u32 = g.cpus[0].run.load(at + 16);
    t.same("the last that fits", last, 200 - room as u32 + 1);
    // User space takes all; the next ones go round.
    g.cpus[0].run.store::<u32>(ring, room as u32);
    t.same("what does not fit", run(&g).len(), 201 - room);
    t.same("round", first_last(), (room as u32, room as u32 - 1));
    g.cpus[0].run.store::<u32>(ring, room as u32 - 1);
    let off = k::UNREGISTER_COALESCED_MMIO;
    t.same("removed", zone(off, DEVICE, 0), Answer::Ok(0));
    t.same("all exit but the port", run(&g).len(), 200);
    t.same("of ports", zone(off, 0x300, 1), Answer::Ok(0));
    t.same("all exit", run(&g).len(), 201);
    // What is named has to lie in the zone that goes.
    t.same("a zone", zone(add, DEVICE, 0), Answer::Ok(0));
    let r = place(off, DEVICE - 8, 32, 0);
    t.same("what it lies in removed", r, Answer::Ok(0));
    t.same("it is still there", run(&g).len(), 202 - room);
    let r = place(off, DEVICE + 2, 4, 0);
    t.same("a part of it removed", r, Answer::Ok(0));
    t.same("it is gone", run(&g).len(), 201);
    // A ring that user space has broken is not written.
    t.same("a zone", zone(add, DEVICE, 0), Answer::Ok(0));
    g.cpus[0].run.store::<u32>(ring + 4, 0xffff_ff00);
    t.same("a broken ring", run(&g).len(), 201);
}

guest_code! {
    touches,
    "mov dword ptr [0x80000], 1",
    "mov dword ptr [0xa0000], 2",
    "mov edx, 0xe1",
    "out dx, al",
}

/// An ioeventfd and a zone are added while a vCPU waits for a page that user space has to bring: by
/// the thread, for all the kernel knows, that adds them.
pub fn added_while_a_page_is_missing(t: &mut Tap) {
    // From <linux/userfaultfd.h>.
    const NEW: u32 = 0xaa00;
    const API: u32 = 0xc018_aa3f;
    const REGISTER: u32 = 0xc020_aa00;
    const ZEROPAGE: u32 = 0xc020_aa04;
    const MISSING: u64 = 1;
    let g = Guest::long(touches());
    let Some(faults) = Fd::open(c"/dev/userfaultfd", libc::O_RDWR)
        .and_then(|dev| dev.make(NEW, libc::O_CLOEXEC as usize))
        .ok()
    else {
        return t.skip("no /dev/userfaultfd");
    };
    let call = |cmd: u32, words: &[u64]| {
        let mut b: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        faults.bytes(cmd, &mut b)
    };
    let page = (g.mem.addr() + 0xa_0000) as u64;
    g.mem.discard(0xa_0000, sys::PAGE);
    t.same("the API", call(API, &[0xaa, 0, 0]), Answer::Ok(0));
    let r = call(REGISTER, &[page, sys::PAGE as u64, MISSING, 0]);
    t.same("a page is missing", r, Answer::Ok(0));
    let fd = Fd::event();
    std::thread::scope(|s| {
        let guest = s.spawn(|| run(&g));
        let on_its_way = wait(|| g.mem.watch(0x8_0000) == 1);
        t.same("the guest is on its way", on_its_way, true);
        // It has one instruction to go.
        std::thread::sleep(std::time::Duration::from_millis(200));
        let adds = s.spawn(|| {
            let mut z: kvm_coalesced_mmio_zone = sys::zeroed();
            (z.addr, z.size) = (DEVICE + 0x1000, 8);
            (
                event(&g, &fd, PLACES[0], 0, 0),
                g.vm.set(k::REGISTER_COALESCED_MMIO, &z),
            )
        });
        t.same("added meanwhile", wait(|| adds.is_finished()), true);
        t.same("the guest waits", guest.is_finished(), false);
        let r = call(ZEROPAGE, &[page, sys::PAGE as u64, 0, 0]);
        t.same("the page is there", r, Answer::Ok(0));
        let adds = adds.join().expect("thread");
        t.same("both added", adds, (Answer::Ok(0), Answer::Ok(0)));
        t.same("the guest ends", guest.join().expect("thread"), vec![]);
    });
}
