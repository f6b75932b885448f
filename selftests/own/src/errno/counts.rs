// SPDX-License-Identifier: GPL-2.0

//! Counts of 0, the maximum and one more; values at the borders of what is allowed.

use super::plain;
use super::world::On;
use super::world::Stage;
use super::world::World;
use crate::guest;
use crate::guest::enable;
use crate::sys;
use crate::sys::bytes_of;
use crate::sys::zeroed;
use crate::sys::Fd;
use crate::table::Table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// A list that says it has `count` entries and has `n`.
fn entries<T: sys::Plain>(count: u32, n: usize, f: impl Fn(usize) -> T) -> Vec<u8> {
    guest::list(count, &(0..n).map(f).collect::<Vec<_>>())
}

/// The answer to a list; a refused one leaves everything as it was.
fn call(t: &mut Table<'_>, w: &World, on: On, cmd: u32, arg: &[u8]) -> String {
    let what = format!("command {cmd:#x}");
    let call = || w.fd(on).bytes(cmd, &mut arg.to_vec());
    plain(cmd, w.steady(t, what, call))
}

/// Lists of /dev/kvm and of a vCPU.
pub fn lists(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_lists",
        include_str!("../../data/errno-lists.tsv"),
    );
    let w = World::new(Stage::Full);
    // How many there are differs from host to host: a count that is written counts as good.
    for (name, cmd) in [
        ("GET_MSR_INDEX_LIST", k::GET_MSR_INDEX_LIST),
        ("GET_MSR_FEATURE_INDEX_LIST", k::GET_MSR_FEATURE_INDEX_LIST),
    ] {
        let n = super::world::msr_list(&w.dev, cmd).len() as u32;
        for (what, count) in [
            ("0", 0),
            ("one too few", n - 1),
            ("exact", n),
            ("more", n + 1),
        ] {
            let mut b = count.to_ne_bytes().to_vec();
            b.resize(4 + 4 * (n as usize + 1), 0);
            let a = w.dev.bytes(cmd, &mut b);
            let told = u32::from_ne_bytes(b[..4].try_into().unwrap()) == n;
            let filled = b[4..].iter().any(|x| *x != 0);
            t.row(
                format_args!("{name} {what}"),
                format_args!("{a} told={told} filled={filled}"),
            );
        }
    }
    for (name, cmd) in [
        ("GET_SUPPORTED_CPUID", k::GET_SUPPORTED_CPUID),
        ("GET_EMULATED_CPUID", k::GET_EMULATED_CPUID),
    ] {
        let mut b = entries(256, 256, |_| zeroed::<kvm_cpuid_entry2>());
        w.dev.bytes(cmd, &mut b).ok().expect("CPUID");
        let n = u32::from_ne_bytes(b[..4].try_into().unwrap());
        for (what, count) in [
            ("0", 0),
            ("one too few", n - 1),
            ("exact", n),
            ("256", 256),
            ("257", 257),
            ("all ones", u32::MAX),
        ] {
            let mut b = entries(count, 257, |_| zeroed::<kvm_cpuid_entry2>());
            let a = w.dev.bytes(cmd, &mut b);
            let told = u32::from_ne_bytes(b[..4].try_into().unwrap());
            let told = if told == n {
                "n"
            } else if told == count {
                "same"
            } else {
                "other"
            };
            t.row(
                format_args!("{name} {what}"),
                format_args!("{a} told={told}"),
            );
        }
    }
    for (what, count) in [
        ("0", 0u32),
        ("1", 1),
        ("256", 256),
        ("257", 257),
        ("all ones", u32::MAX),
    ] {
        let b = entries(count, 257, |i| {
            let mut e: kvm_cpuid_entry2 = zeroed();
            e.function = 0x4000_1000 + i as u32;
            e
        });
        let fresh = World::new(Stage::Full);
        let a = call(&mut t, &fresh, On::Vcpu, k::SET_CPUID2, &b);
        t.row(format_args!("SET_CPUID2 {what}"), a);
        let a = call(&mut t, &fresh, On::Vcpu, k::SET_CPUID, &b);
        t.row(format_args!("SET_CPUID {what}"), a);
        let a = call(&mut t, &w, On::Vcpu, k::GET_CPUID2, &b);
        t.row(format_args!("GET_CPUID2 {what}"), a);
    }
    // After KVM_RUN only the same CPUID is accepted.
    let v = w.vcpu.as_ref().expect("vCPU");
    v.enter().expect("run");
    let mut same = entries(256, 256, |_| zeroed::<kvm_cpuid_entry2>());
    v.fd.bytes(k::GET_CPUID2, &mut same)
        .ok()
        .expect("KVM_GET_CPUID2");
    let a = call(&mut t, &w, On::Vcpu, k::SET_CPUID2, &same);
    t.row("SET_CPUID2 the same after RUN", a);
    let mut less = same.clone();
    less[0] -= 1;
    let a = call(&mut t, &w, On::Vcpu, k::SET_CPUID2, &less);
    t.row("SET_CPUID2 less after RUN", a);
    for count in [0u32, 1, 255, 256, 257, u32::MAX] {
        let b = entries(count, 257, |_| {
            let mut e: kvm_msr_entry = zeroed();
            e.index = 0x174;
            e
        });
        for (name, cmd) in [("GET_MSRS", k::GET_MSRS), ("SET_MSRS", k::SET_MSRS)] {
            let a = call(&mut t, &w, On::Vcpu, cmd, &b);
            t.row(format_args!("{name} {count:#x}"), a);
        }
        let a = call(&mut t, &w, On::Dev, k::GET_MSRS, &b);
        t.row(format_args!("GET_MSRS dev {count:#x}"), a);
    }
    // The first bad one ends the list.
    for bad in 0..3usize {
        let b = entries(3, 3, |i| {
            let mut e: kvm_msr_entry = zeroed();
            e.index = if i == bad { 0xdead_beef } else { 0x174 };
            e
        });
        let a = call(&mut t, &w, On::Vcpu, k::GET_MSRS, &b);
        t.row(format_args!("GET_MSRS, entry {bad} unknown"), a);
        let a = call(&mut t, &w, On::Vcpu, k::SET_MSRS, &b);
        t.row(format_args!("SET_MSRS, entry {bad} unknown"), a);
    }
    t.finish();
}

/// Ids and limits of a VM.
pub fn limits(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_limits",
        include_str!("../../data/errno-limits.tsv"),
    );
    let dev = guest::dev();
    for ty in [0usize, 1, 2, 3, 4, 5, 6, 7, 1 << 31, 1 << 32, usize::MAX] {
        let a = plain(k::CREATE_VM, dev.call(k::CREATE_VM, ty));
        t.row(format_args!("CREATE_VM type {ty:#x}"), a);
    }
    for c in [0usize, 5, 0x1000, 1 << 32, (1 << 32) | 3, usize::MAX] {
        t.row(
            format_args!("CHECK_EXTENSION {c:#x}"),
            dev.call(k::CHECK_EXTENSION, c),
        );
    }
    for (name, cmd) in [
        ("GET_API_VERSION", k::GET_API_VERSION),
        ("GET_VCPU_MMAP_SIZE", k::GET_VCPU_MMAP_SIZE),
    ] {
        t.row(format_args!("{name} 0"), dev.call(cmd, 0));
        t.row(format_args!("{name} 1"), dev.call(cmd, 1));
        t.row(format_args!("{name} 1 << 32"), dev.call(cmd, 1 << 32));
    }
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let ids = guest::cap(&dev, KVM_CAP_MAX_VCPU_ID) as usize;
    for (what, id) in [
        ("0", 0),
        ("0 again", 0),
        ("max - 1", ids - 1),
        ("max", ids),
        ("1 << 31", 1 << 31),
        ("1 << 32", 1 << 32),
        ("all ones", usize::MAX),
    ] {
        let a = match vm.make(k::CREATE_VCPU, id) {
            Ok(fd) => {
                std::mem::forget(fd);
                "fd".to_string()
            }
            Err(e) => sys::errno_name(e),
        };
        t.row(format_args!("CREATE_VCPU {what}"), a);
    }
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    for (what, id) in [("max", ids), ("max + 1", ids + 1), ("1 << 32", 1 << 32)] {
        t.row(
            format_args!("SET_BOOT_CPU_ID {what}"),
            vm.call(k::SET_BOOT_CPU_ID, id),
        );
    }
    for a in [
        0usize,
        0xfffb_d000,
        0xffff_d000,
        0xffff_d001,
        0xffff_e000,
        1 << 32,
        usize::MAX,
    ] {
        t.row(
            format_args!("SET_TSS_ADDR {a:#x}"),
            vm.call(k::SET_TSS_ADDR, a),
        );
    }
    for n in [0usize, 1, 63, 64, 1 << 31, 1 << 32, usize::MAX] {
        t.row(
            format_args!("SET_NR_MMU_PAGES {n:#x}"),
            vm.call(k::SET_NR_MMU_PAGES, n),
        );
    }
    for a in [0u64, 0x1000, 0x1001, u64::MAX] {
        t.row(
            format_args!("SET_IDENTITY_MAP_ADDR {a:#x}"),
            vm.set(k::SET_IDENTITY_MAP_ADDR, &a),
        );
    }
    routing(&mut t, &dev);
    eventfds(&mut t, &dev);
    zones(&mut t, &dev);
    t.finish();
}

fn routing(t: &mut Table<'_>, dev: &Fd) {
    let entry = |i: usize| {
        let mut e: kvm_irq_routing_entry = zeroed();
        (e.gsi, e.type_) = (i as u32, KVM_IRQ_ROUTING_MSI);
        e.u.msi.address_lo = 0xfee0_0000;
        e
    };
    for (what, split, full) in [
        ("no chips", false, false),
        ("split", true, false),
        ("full", false, true),
    ] {
        let vm = dev.make(k::CREATE_VM, 0).expect("VM");
        if split {
            enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24).ok().expect("split");
        }
        if full {
            vm.call(k::CREATE_IRQCHIP, 0).ok().expect("irqchip");
        }
        for count in [0u32, 1, 4095, 4096, 4097, u32::MAX] {
            let mut b = entries(count, 4097, entry);
            let a = vm.bytes(k::SET_GSI_ROUTING, &mut b);
            t.row(format_args!("SET_GSI_ROUTING {what} {count:#x}"), a);
        }
        let mut b = entries(1, 1, |_| entry(4096));
        t.row(
            format_args!("SET_GSI_ROUTING {what}, GSI 4096"),
            vm.bytes(k::SET_GSI_ROUTING, &mut b),
        );
        let mut b = entries(2, 2, |_| entry(5));
        t.row(
            format_args!("SET_GSI_ROUTING {what}, GSI twice"),
            vm.bytes(k::SET_GSI_ROUTING, &mut b),
        );
        for ty in 0..7u32 {
            let mut b = entries(1, 1, |_| {
                let mut e = entry(5);
                e.type_ = ty;
                e
            });
            let a = vm.bytes(k::SET_GSI_ROUTING, &mut b);
            t.row(
                format_args!("SET_GSI_ROUTING {what}, address as type {ty}"),
                a,
            );
        }
        for (chip, pin) in [
            (0u32, 7u32),
            (0, 8),
            (1, 7),
            (1, 8),
            (2, 23),
            (2, 24),
            (3, 0),
        ] {
            let mut b = entries(1, 1, |_| {
                let mut e: kvm_irq_routing_entry = zeroed();
                (e.gsi, e.type_) = (3, KVM_IRQ_ROUTING_IRQCHIP);
                (e.u.irqchip.irqchip, e.u.irqchip.pin) = (chip, pin);
                e
            });
            let a = vm.bytes(k::SET_GSI_ROUTING, &mut b);
            t.row(
                format_args!("SET_GSI_ROUTING {what}, chip {chip} pin {pin}"),
                a,
            );
        }
        for pins in [0u64, 24, 1024, 4095, 4096, 4097, 1 << 32] {
            let vm = dev.make(k::CREATE_VM, 0).expect("VM");
            if full {
                vm.call(k::CREATE_IRQCHIP, 0).ok().expect("irqchip");
            }
            if split {
                enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24).ok().expect("split");
            }
            t.row(
                format_args!("split irqchip, {pins:#x} pins after {what}"),
                enable(&vm, KVM_CAP_SPLIT_IRQCHIP, pins),
            );
        }
    }
}

fn eventfds(t: &mut Table<'_>, dev: &Fd) {
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let event = Fd::event();
    let io = |addr: u64, len: u32, flags: u32, match_: u64, fd: i32| {
        let mut i: kvm_ioeventfd = zeroed();
        (i.addr, i.len, i.flags, i.datamatch, i.fd) = (addr, len, flags, match_, fd);
        vm.set(k::IOEVENTFD, &i)
    };
    let fd = event.raw();
    for len in 0..10u32 {
        t.row(
            format_args!("IOEVENTFD len {len}"),
            io(0x1000 * u64::from(len), len, 0, 0, fd),
        );
    }
    t.row("IOEVENTFD match, any length", io(0x9000_0000, 0, 1, 0, fd));
    t.row("IOEVENTFD at the end", io(u64::MAX - 3, 4, 0, 0, fd));
    t.row("IOEVENTFD behind the end", io(u64::MAX - 2, 4, 0, 0, fd));
    t.row("IOEVENTFD, last byte", io(u64::MAX, 1, 0, 0, fd));
    t.row("IOEVENTFD no descriptor", io(0x9000_0000, 4, 0, 0, -1));
    t.row(
        "IOEVENTFD another kind of descriptor",
        io(0x9000_0000, 4, 0, 0, dev.raw()),
    );
    t.row("IOEVENTFD match 1", io(0xa000_0000, 4, 1, 1, fd));
    t.row("IOEVENTFD match 2", io(0xa000_0000, 4, 1, 2, fd));
    t.row("IOEVENTFD match 1 again", io(0xa000_0000, 4, 1, 1, fd));
    t.row(
        "IOEVENTFD no match beside them",
        io(0xa000_0000, 4, 0, 0, fd),
    );
    t.row("IOEVENTFD another length", io(0xa000_0000, 2, 0, 0, fd));
    t.row("IOEVENTFD any length", io(0xa000_0000, 0, 0, 0, fd));
    t.row(
        "IOEVENTFD the port of that number",
        io(0xa000_0000, 4, 2, 0, fd),
    );
    t.row("IOEVENTFD remove match 3", io(0xa000_0000, 4, 1 | 4, 3, fd));
    t.row(
        "IOEVENTFD remove without match",
        io(0xa000_0000, 4, 4, 0, fd),
    );
    t.row("IOEVENTFD remove match 1", io(0xa000_0000, 4, 1 | 4, 1, fd));
    t.row(
        "IOEVENTFD remove it again",
        io(0xa000_0000, 4, 1 | 4, 1, fd),
    );
    t.row(
        "IOEVENTFD remove, another descriptor",
        io(0xa000_0000, 4, 1 | 4, 2, Fd::event().raw()),
    );
    t.row(
        "IOEVENTFD remove, match any length",
        io(0xa000_0000, 0, 1 | 4, 2, fd),
    );
    for (what, chips) in [("without chips", 0), ("split", 1), ("full", 2)] {
        let vm = dev.make(k::CREATE_VM, 0).expect("VM");
        match chips {
            1 => enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24).ok().expect("split"),
            2 => vm.call(k::CREATE_IRQCHIP, 0).ok().expect("irqchip"),
            _ => 0,
        };
        let irq = |fd: i32, gsi: u32, flags: u32, resample: i32| {
            let mut i: kvm_irqfd = zeroed();
            (i.fd, i.gsi, i.flags, i.resamplefd) = (fd as u32, gsi, flags, resample as u32);
            vm.set(k::IRQFD, &i)
        };
        let other = Fd::event();
        t.row(format_args!("IRQFD {what}"), irq(fd, 5, 0, 0));
        t.row(format_args!("IRQFD {what}, used already"), irq(fd, 6, 0, 0));
        t.row(
            format_args!("IRQFD {what}, GSI 4095"),
            irq(other.raw(), 4095, 0, 0),
        );
        t.row(
            format_args!("IRQFD {what}, GSI 4096"),
            irq(Fd::event().raw(), 4096, 0, 0),
        );
        t.row(
            format_args!("IRQFD {what}, no descriptor"),
            irq(-1, 5, 0, 0),
        );
        t.row(
            format_args!("IRQFD {what}, another kind"),
            irq(dev.raw(), 5, 0, 0),
        );
        let third = Fd::event();
        t.row(
            format_args!("IRQFD {what}, resample, no descriptor"),
            irq(third.raw(), 5, 2, -1),
        );
        t.row(
            format_args!("IRQFD {what}, resample"),
            irq(third.raw(), 5, 2, other.raw()),
        );
        t.row(
            format_args!("IRQFD {what}, resample by itself"),
            irq(Fd::event().raw(), 5, 2, third.raw()),
        );
        t.row(
            format_args!("IRQFD {what}, remove, other GSI"),
            irq(fd, 6, 1, 0),
        );
        t.row(format_args!("IRQFD {what}, remove"), irq(fd, 5, 1, 0));
        t.row(format_args!("IRQFD {what}, remove again"), irq(fd, 5, 1, 0));
        t.row(
            format_args!("IRQFD {what}, remove, no descriptor"),
            irq(-1, 5, 1, 0),
        );
        t.row(
            format_args!("IRQFD {what}, remove and resample"),
            irq(third.raw(), 5, 3, -1),
        );
        t.row(format_args!("IRQFD {what}, flag 4"), irq(fd, 5, 4, 0));
    }
}

fn zones(t: &mut Table<'_>, dev: &Fd) {
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let zone = |cmd: u32, addr: u64, size: u32, pio: u32| {
        let mut z: kvm_coalesced_mmio_zone = zeroed();
        (z.addr, z.size) = (addr, size);
        z.__bindgen_anon_1.pio = pio;
        vm.set(cmd, &z)
    };
    let (add, remove) = (k::REGISTER_COALESCED_MMIO, k::UNREGISTER_COALESCED_MMIO);
    t.row("zone", zone(add, 0xe000_0000, 0x1000, 0));
    t.row("zone, the same", zone(add, 0xe000_0000, 0x1000, 0));
    t.row("zone, no bytes", zone(add, 0xe000_0000, 0, 0));
    t.row("zone, wraps", zone(add, u64::MAX, 0x1000, 0));
    t.row("zone, port", zone(add, 0x300, 4, 1));
    t.row("zone, pio 2", zone(add, 0x300, 4, 2));
    t.row("zone removed, absent", zone(remove, 0xd000_0000, 4, 0));
    t.row("zone removed", zone(remove, 0xe000_0000, 0x1000, 0));
    t.row("zone removed, pio 2", zone(remove, 0x300, 4, 2));
    let mut n = 0u64;
    let last = loop {
        let a = zone(add, 0x1_0000_0000 + 0x1000 * n, 0x1000, 0);
        if !a.is_ok() || n > 1100 {
            break a;
        }
        n += 1;
    };
    t.row(
        "zones until it refuses",
        format_args!("{last} after {}", n >= 900),
    );
    let mut b = bytes_of(&zeroed::<kvm_coalesced_mmio_zone>());
    b[8] = 1;
    t.row("zone at 0", vm.bytes(add, &mut b));
}

/// Memory slots: borders, overlaps, changes.
pub fn slots(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "errno_slots",
        include_str!("../../data/errno-slots.tsv"),
    );
    let dev = guest::dev();
    let mem = sys::Area::anonymous(4 << 20);
    let hva = mem.addr() as u64;
    let vm = dev.make(k::CREATE_VM, 0).expect("VM");
    let max = guest::cap(&dev, KVM_CAP_NR_MEMSLOTS) as u32;
    let slot = |id: u32, flags: u32, gpa: u64, size: u64, hva: u64| {
        let mut r: kvm_userspace_memory_region = zeroed();
        (r.slot, r.flags, r.guest_phys_addr) = (id, flags, gpa);
        (r.memory_size, r.userspace_addr) = (size, hva);
        vm.set(k::SET_USER_MEMORY_REGION, &r)
    };
    let page = 0x1000u64;
    // Five levels of page tables, if the host uses them (CR4.LA57; SDM: vol 3, 4.5), or four.
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let end = if cpu.contains(" la57") {
        1u64 << 56
    } else {
        1 << 47
    } - page;
    for (what, a) in [
        ("none to delete", slot(0, 0, 0, 0, 0)),
        ("create", slot(0, 0, 0, 4 * page, hva)),
        ("the same again", slot(0, 0, 0, 4 * page, hva)),
        ("gpa off by one", slot(1, 0, 0x1_0001, page, hva)),
        ("size off by one", slot(1, 0, 0x1_0000, page + 1, hva)),
        ("hva off by one", slot(1, 0, 0x1_0000, page, hva + 1)),
        (
            "gpa wraps",
            slot(1, 0, 0xffff_ffff_ffff_f000, 2 * page, hva),
        ),
        ("last page", slot(1, 0, 0xffff_ffff_ffff_f000, page, hva)),
        ("last but one", slot(2, 0, 0xffff_ffff_ffff_e000, page, hva)),
        ("beyond 52 bits", slot(3, 0, 1 << 52, page, hva)),
        ("hva 0", slot(4, 0, 0x10_0000, page, 0)),
        (
            "hva in the kernel",
            slot(5, 0, 0x20_0000, page, 0xffff_8880_0000_0000),
        ),
        ("hva noncanonical", slot(5, 0, 0x20_0000, page, 1 << 57)),
        ("hva tagged", slot(5, 0, 0x20_0000, page, hva | (1 << 62))),
        (
            "hva wraps",
            slot(5, 0, 0x20_0000, 2 * page, 0xffff_ffff_ffff_f000),
        ),
        (
            "hva at the end of user space",
            slot(5, 0, 0x20_0000, page, end - page),
        ),
        (
            "hva over the end",
            slot(6, 0, 0x30_0000, 2 * page, end - page),
        ),
        ("hva behind the end", slot(6, 0, 0x30_0000, page, end)),
        ("hva not mapped", slot(7, 0, 0x40_0000, page, 0x10_0000)),
        (
            "2^31 - 1 pages",
            slot(8, 0, 1 << 44, ((1u64 << 31) - 1) << 12, 0),
        ),
        ("2^31 pages", slot(9, 0, 1 << 45, 1 << 43, 0)),
        ("overlaps by a page", slot(10, 0, 3 * page, page, hva)),
        ("touches", slot(10, 0, 4 * page, page, hva)),
        ("highest id", slot(max - 1, 0, 0x1000_0000, page, hva)),
        ("id too high", slot(max, 0, 0x1001_0000, page, hva)),
        ("32767", slot(32767, 0, 0x1001_0000, page, hva)),
        ("address space 1", slot(1 << 16, 0, 0x1001_0000, page, hva)),
        ("address space 2", slot(2 << 16, 0, 0x1001_0000, page, hva)),
        ("smaller", slot(0, 0, 0, 2 * page, hva)),
        ("larger", slot(0, 0, 0, 5 * page, hva)),
        ("another hva", slot(0, 0, 0, 4 * page, hva + page)),
        ("read-only now", slot(0, 2, 0, 4 * page, hva)),
        ("log", slot(0, 1, 0, 4 * page, hva)),
        ("log off", slot(0, 0, 0, 4 * page, hva)),
        ("move onto another", slot(0, 0, 4 * page, 4 * page, hva)),
        ("move over itself", slot(10, 0, 5 * page, page, hva)),
        ("move and log", slot(10, 1, 6 * page, page, hva)),
        ("flag 4", slot(10, 4, 6 * page, page, hva)),
        ("delete with flags", slot(10, 4, 0, 0, 0)),
        ("delete, hva off by one", slot(10, 0, 0, 0, 1)),
        ("delete, gpa off by one", slot(10, 0, 1, 0, 0)),
        ("delete", slot(10, 0, 0, 0, 0)),
        ("delete again", slot(10, 0, 0, 0, 0)),
        ("read-only", slot(10, 2, 0x60_0000, page, hva)),
        ("read-only and log", slot(11, 3, 0x61_0000, page, hva)),
        ("writable now", slot(10, 0, 0x60_0000, page, hva)),
    ] {
        t.row(what, a);
    }
    let get = |id: u32| {
        let mut d: kvm_dirty_log = zeroed();
        d.slot = id;
        d.__bindgen_anon_1.dirty_bitmap = (hva + (1 << 20)) as *mut _;
        vm.set(k::GET_DIRTY_LOG, &d)
    };
    for (what, id) in [
        ("logged", 11),
        ("not logged", 0),
        ("absent", 100),
        ("too high", max),
    ] {
        t.row(format_args!("GET_DIRTY_LOG {what}"), get(id));
    }
    t.row("GET_DIRTY_LOG address space 1", get(1 << 16));
    t.row("GET_DIRTY_LOG address space 2", get(2 << 16));
    let clear = |id: u32, first: u64, n: u32| {
        let mut d: kvm_clear_dirty_log = zeroed();
        (d.slot, d.first_page, d.num_pages) = (id, first, n);
        d.__bindgen_anon_1.dirty_bitmap = (hva + (1 << 20)) as *mut _;
        vm.set(k::CLEAR_DIRTY_LOG, &d)
    };
    t.row("CLEAR_DIRTY_LOG not enabled", clear(11, 0, 1));
    for arg in [4u64, 2, 3, 1, 0, 1 << 32] {
        t.row(
            format_args!("manual protect {arg:#x}"),
            enable(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, arg),
        );
    }
    enable(&vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1)
        .ok()
        .expect("manual protect");
    slot(20, 1, 0x70_0000, 130 * page, hva).ok().expect("slot");
    for (first, n) in [
        (0u64, 64u32),
        (0, 0),
        (1, 64),
        (64, 64),
        (64, 66),
        (64, 65),
        (128, 2),
        (128, 64),
        (128, 3),
        (192, 0),
        (192, 64),
        (0, 130),
        (0, 131),
        (u64::MAX - 63, 64),
        (1 << 52, 64),
    ] {
        t.row(
            format_args!("CLEAR_DIRTY_LOG {first:#x} + {n}"),
            clear(20, first, n),
        );
    }
    t.row("CLEAR_DIRTY_LOG not logged", clear(0, 0, 1));
    t.row("CLEAR_DIRTY_LOG absent", clear(100, 0, 1));
    t.finish();
}
