// SPDX-License-Identifier: GPL-2.0

//! guest_memfd: what the calls on its files, and slots that such a file backs, answer.

use crate::guest;
use crate::memfd;
use crate::memfd::Slot;
use crate::memfd::HOLE;
use crate::memfd::KEEP;
use crate::memfd::SHARED;
use crate::sys;
use crate::sys::zeroed;
use crate::sys::Area;
use crate::sys::Fd;
use crate::table::Table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

const PAGE: u64 = 0x1000;
const GMEM: u32 = KVM_MEM_GUEST_MEMFD;

/// Creation, the file's own calls, mappings, memory attributes.
pub fn memfd(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_memfd",
        include_str!("../../data/errno-memfd.tsv"),
    );
    let dev = guest::dev();
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    creation(&mut t, &vm);
    for flags in [0, 1, 2, SHARED] {
        let fd = memfd::create(&vm, 4 * PAGE as usize, flags).expect("a file");
        file(&mut t, &fd, flags);
    }
    slots(&mut t, &dev, &vm);
    attributes(&mut t, &vm);
    t.finish();
}

fn creation(t: &mut Table<'_>, vm: &Fd) {
    for (what, size, flags) in [
        ("nothing", 0, 0),
        ("a byte", 1, 0),
        ("less than a page", PAGE - 1, 0),
        ("a page", PAGE, 0),
        ("more than a page", PAGE + 1, 0),
        ("2^62", 1 << 62, 0),
        ("as large as can be", (1 << 63) - PAGE, 0),
        ("2^63", 1 << 63, 0),
        ("negative", 0u64.wrapping_sub(PAGE), 0),
        ("mapped", PAGE, 1),
        ("shared", PAGE, 2),
        ("both", PAGE, 3),
        ("flag 4", PAGE, 4),
        ("flag 4 and no size", 0, 4),
        ("flag 2^63", PAGE, 1 << 63),
    ] {
        let a = memfd::ask(vm, size, flags);
        let made = a.ok().map(|n| drop(Fd::own(n)));
        t.row(
            format_args!("create: {what}"),
            made.map_or_else(sys::errno_name, |()| "fd".into()),
        );
    }
    let mut r: kvm_create_guest_memfd = zeroed();
    (r.size, r.reserved) = (PAGE, [u64::MAX; 6]);
    let made = vm.set(k::CREATE_GUEST_MEMFD, &r).ok();
    t.row(
        "create: reserved words",
        made.map(|n| drop(Fd::own(n))).is_ok(),
    );
    let vcpu = vm.make(k::CREATE_VCPU, 0).expect("vCPU");
    t.row("create: of a vCPU", memfd::ask(&vcpu, PAGE, 0));
}

fn file(t: &mut Table<'_>, fd: &Fd, flags: u64) {
    t.row(format_args!("{flags}: stat"), memfd::stat(fd));
    t.row(format_args!("{flags}: link"), memfd::link(fd));
    for (what, a) in memfd::other_calls(fd) {
        t.row(format_args!("{flags}: {what}"), a);
    }
    let page = PAGE as i64;
    for (what, mode, offset, len) in [
        ("allocate", KEEP, 0, 4 * page),
        ("allocate again", KEEP, 0, 4 * page),
        ("one page", KEEP, 3 * page, page),
        ("over the end", KEEP, 3 * page, 2 * page),
        ("behind the end", KEEP, 4 * page, page),
        ("part of a page", KEEP, 0, page - 1),
        ("from within a page", KEEP, 1, page),
        ("may grow", 0, 0, page),
        ("may grow, part of a page", 0, 1, page),
        ("a hole", HOLE, page, page),
        ("the same hole", HOLE, page, page),
        ("a hole over the end", HOLE, 3 * page, 20 * page),
        ("a hole behind the end", HOLE, 8 * page, page),
        (
            "a hole to the end of all",
            HOLE,
            page,
            i64::MAX - 2 * page + 1,
        ),
        ("a hole too far", HOLE, page, i64::MAX),
        ("a hole of nothing", HOLE, page, 0),
        ("a hole before the file", HOLE, -page, page),
        ("part of a hole", HOLE, page, page - 1),
        ("a hole from within a page", HOLE, 1, page),
        ("a hole that may shrink", 2, page, page),
        ("collapse", 8, 0, page),
        ("zeros", 0x10, 0, page),
        ("zeros that keep the size", 0x11, 0, page),
        ("insert", 0x20, 0, page),
        ("unshare", 0x40, 0, page),
        ("unshare that keeps the size", 0x41, 0, page),
        ("mode 2^30", 1 << 30, 0, page),
    ] {
        let a = memfd::fallocate(fd, mode, offset, len);
        t.row(format_args!("{flags}: fallocate: {what}"), a);
    }
    let all = libc::PROT_READ | libc::PROT_WRITE;
    for (what, len, at, prot, how) in [
        ("shared", 4 * PAGE, 0, all, libc::MAP_SHARED),
        (
            "executable",
            PAGE,
            0,
            all | libc::PROT_EXEC,
            libc::MAP_SHARED,
        ),
        ("read-only", PAGE, 0, libc::PROT_READ, libc::MAP_SHARED),
        ("beyond the end", PAGE, 8 * PAGE, all, libc::MAP_SHARED),
        ("validated", PAGE, 0, all, libc::MAP_SHARED_VALIDATE),
        ("private", PAGE, 0, all, libc::MAP_PRIVATE),
        (
            "private, read-only",
            PAGE,
            0,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
        ),
    ] {
        let a = Area::of_fd_prot(fd, len as usize, at as usize, prot, how);
        let a = a.map_or_else(sys::errno_name, |_| "mapped".into());
        t.row(format_args!("{flags}: mmap: {what}"), a);
    }
}

fn slots(t: &mut Table<'_>, dev: &Fd, vm: &Fd) {
    let mem = Area::anonymous(4 << 20);
    let file = memfd::create(vm, 16 * PAGE as usize, SHARED).expect("a file");
    let plain = memfd::create(vm, 16 * PAGE as usize, 0).expect("a file");
    let other_vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let foreign = memfd::create(&other_vm, 16 * PAGE as usize, SHARED).expect("a file");
    let tmp = sys::memory_file(16 * PAGE as usize);
    let event = Fd::event();
    let good = Slot {
        id: 1,
        flags: GMEM,
        gpa: 1 << 32,
        size: 4 * PAGE,
        hva: 0,
        fd: file.raw(),
        offset: 0,
    };
    let hva = mem.addr() as u64;
    let end = 1u64 << 46;
    let bad = [
        ("no descriptor", Slot { fd: -1, ..good }),
        ("closed descriptor", Slot { fd: 999, ..good }),
        (
            "eventfd",
            Slot {
                fd: event.raw(),
                ..good
            },
        ),
        (
            "memfd",
            Slot {
                fd: tmp.raw(),
                ..good
            },
        ),
        (
            "/dev/kvm",
            Slot {
                fd: dev.raw(),
                ..good
            },
        ),
        (
            "the VM",
            Slot {
                fd: vm.raw(),
                ..good
            },
        ),
        (
            "another VM's",
            Slot {
                fd: foreign.raw(),
                ..good
            },
        ),
        (
            "logged",
            Slot {
                flags: GMEM | 1,
                ..good
            },
        ),
        (
            "read-only",
            Slot {
                flags: GMEM | 2,
                ..good
            },
        ),
        (
            "flag 8",
            Slot {
                flags: GMEM | 8,
                ..good
            },
        ),
        ("offset off by one", Slot { offset: 1, ..good }),
        (
            "offset too large",
            Slot {
                offset: 13 * PAGE,
                ..good
            },
        ),
        (
            "offset at the end",
            Slot {
                offset: 16 * PAGE,
                ..good
            },
        ),
        (
            "offset 2^63 - 1 page",
            Slot {
                offset: (1 << 63) - PAGE,
                ..good
            },
        ),
        (
            "offset wraps",
            Slot {
                offset: 0u64.wrapping_sub(PAGE),
                ..good
            },
        ),
        (
            "offset wraps later",
            Slot {
                offset: 0u64.wrapping_sub(4 * PAGE),
                ..good
            },
        ),
        (
            "too large",
            Slot {
                size: 17 * PAGE,
                ..good
            },
        ),
        ("hva off by one", Slot { hva: 1, ..good }),
        (
            "hva in the kernel",
            Slot {
                hva: 1 << 63,
                ..good
            },
        ),
        ("gpa off by one", Slot { gpa: 1, ..good }),
        (
            "gpa too high",
            Slot {
                gpa: 1 << 52,
                ..good
            },
        ),
        (
            "gpa too high, no descriptor",
            Slot {
                gpa: 1 << 52,
                fd: -1,
                ..good
            },
        ),
        ("no such slot to delete", Slot { size: 0, ..good }),
    ];
    for (what, s) in bad {
        t.row(format_args!("slot: {what}"), s.set(vm));
    }
    let with = |flags, s: Slot| Slot { flags, ..s }.set(vm);
    for (what, a) in [
        ("good", good.set(vm)),
        ("the same again", good.set(vm)),
        ("without the file", with(0, good)),
        ("logged now", with(1, good)),
        (
            "move",
            Slot {
                gpa: 1 << 33,
                ..good
            }
            .set(vm),
        ),
        (
            "move without the file",
            Slot {
                flags: 0,
                gpa: 1 << 33,
                ..good
            }
            .set(vm),
        ),
        (
            "another file",
            Slot {
                fd: plain.raw(),
                ..good
            }
            .set(vm),
        ),
        (
            "another descriptor that is none",
            Slot { fd: -1, ..good }.set(vm),
        ),
        (
            "another offset",
            Slot {
                offset: PAGE,
                ..good
            }
            .set(vm),
        ),
        (
            "overlaps in the guest",
            Slot {
                id: 2,
                offset: 8 * PAGE,
                ..good
            }
            .set(vm),
        ),
        (
            "overlaps in the guest, no descriptor",
            Slot {
                id: 2,
                fd: -1,
                ..good
            }
            .set(vm),
        ),
        (
            "overlaps in the file",
            Slot {
                id: 2,
                gpa: 2 << 32,
                offset: 3 * PAGE,
                ..good
            }
            .set(vm),
        ),
        (
            "the same pages",
            Slot {
                id: 2,
                gpa: 2 << 32,
                ..good
            }
            .set(vm),
        ),
        (
            "the same pages for system management",
            Slot {
                id: 1 << 16 | 1,
                ..good
            }
            .set(vm),
        ),
        (
            "next to it in the file",
            Slot {
                id: 2,
                gpa: 2 << 32,
                offset: 4 * PAGE,
                ..good
            }
            .set(vm),
        ),
        (
            "the rest, with user memory",
            Slot {
                id: 3,
                gpa: 3 << 32,
                offset: 8 * PAGE,
                size: 8 * PAGE,
                hva,
                ..good
            }
            .set(vm),
        ),
        (
            "another file's pages",
            Slot {
                id: 4,
                gpa: 4 << 32,
                fd: plain.raw(),
                hva,
                ..good
            }
            .set(vm),
        ),
        (
            "user memory that is not there",
            Slot {
                id: 5,
                gpa: 5 << 32,
                fd: plain.raw(),
                offset: 4 * PAGE,
                hva: end,
                ..good
            }
            .set(vm),
        ),
        (
            "user memory becomes a file's",
            Slot {
                id: 6,
                flags: 0,
                gpa: 6 << 32,
                hva,
                ..good
            }
            .set(vm),
        ),
        (
            "that has a file now",
            Slot {
                id: 6,
                gpa: 6 << 32,
                hva,
                fd: plain.raw(),
                offset: 8 * PAGE,
                ..good
            }
            .set(vm),
        ),
    ] {
        t.row(format_args!("slot: {what}"), a);
    }
    let mut v1: kvm_userspace_memory_region = zeroed();
    (v1.slot, v1.flags, v1.guest_phys_addr, v1.memory_size) = (7, GMEM, 7 << 32, PAGE);
    t.row(
        "slot: by the first ioctl",
        vm.set(k::SET_USER_MEMORY_REGION, &v1),
    );
    let mut log: kvm_dirty_log = zeroed();
    log.slot = 1;
    log.__bindgen_anon_1.dirty_bitmap = mem.addr() as *mut _;
    t.row("slot: its log", vm.set(k::GET_DIRTY_LOG, &log));
    for (what, s) in [
        (
            "offset off by one",
            Slot {
                size: 0,
                offset: 1,
                ..good
            },
        ),
        (
            "logged",
            Slot {
                size: 0,
                flags: GMEM | 1,
                ..good
            },
        ),
        (
            "no descriptor",
            Slot {
                size: 0,
                fd: -1,
                ..good
            },
        ),
        ("again", Slot { size: 0, ..good }),
        (
            "without the flag",
            Slot {
                id: 2,
                size: 0,
                flags: 0,
                ..good
            },
        ),
    ] {
        t.row(format_args!("delete: {what}"), s.set(vm));
    }
    for (what, s) in [
        ("the same pages", good),
        (
            "over both",
            Slot {
                id: 2,
                gpa: 2 << 32,
                size: 5 * PAGE,
                offset: 3 * PAGE,
                ..good
            },
        ),
        (
            "between",
            Slot {
                id: 2,
                gpa: 2 << 32,
                offset: 4 * PAGE,
                ..good
            },
        ),
    ] {
        t.row(format_args!("free again: {what}"), s.set(vm));
    }
    // The descriptor goes; what it backed stays bound until the slot is deleted.
    drop(file);
    t.row("closed: the slot again", good.set(vm));
    t.row("closed: deleted", Slot { size: 0, ..good }.set(vm));
    t.row("closed: gone", Slot { size: 0, ..good }.set(vm));
}

fn attributes(t: &mut Table<'_>, vm: &Fd) {
    let ask = |address, size, attributes, flags| {
        let r = kvm_memory_attributes {
            address,
            size,
            attributes,
            flags,
        };
        vm.set(k::SET_MEMORY_ATTRIBUTES, &r)
    };
    for (what, a) in [
        ("none", ask(0, PAGE, 0, 0)),
        ("none, of all", ask(0, 0u64.wrapping_sub(PAGE), 0, 0)),
        ("none, of nothing", ask(0, 0, 0, 0)),
        ("none, of part of a page", ask(0, 1, 0, 0)),
        ("none, from within a page", ask(1, PAGE, 0, 0)),
        ("none, wraps", ask(0u64.wrapping_sub(PAGE), 2 * PAGE, 0, 0)),
        ("none, up to 2^64", ask(0u64.wrapping_sub(PAGE), PAGE, 0, 0)),
        ("a flag", ask(0, PAGE, 0, 1)),
        ("private", ask(0, PAGE, 8, 0)),
        ("readable", ask(0, PAGE, 1, 0)),
        ("attribute 2^63", ask(0, PAGE, 1 << 63, 0)),
    ] {
        t.row(format_args!("attributes: {what}"), a);
    }
}
