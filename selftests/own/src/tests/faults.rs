// SPDX-License-Identifier: GPL-2.0

//! Allocations that fail, one after the other: the kernel's fault injection makes the n-th allocation
//! that the module asks for in one system call fail, for n = 1, 2, 3 and so on until the call needs
//! fewer. It must then say ENOMEM, or succeed without; after it failed the same call must succeed; and
//! when all is closed nothing may hold the module.
//!
//! Only a kernel with fault injection can do that (HOST=debug).

use crate::guest;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::memfd;
use crate::sys::zeroed;
use crate::sys::Answer;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;

const DEBUGFS: &str = "/sys/kernel/debug";

/// The switch: this thread's count of allocations until one fails.
struct Switch(File);

impl Switch {
    /// Sets fault injection up for allocations below the text of the loaded module. None without it.
    fn new() -> Option<Self> {
        let nth = File::options()
            .read(true)
            .write(true)
            .open("/proc/thread-self/fail-nth")
            .ok()?;
        let start = fs::read_to_string("/sys/module/kvm/sections/.text").ok()?;
        let start = u64::from_str_radix(start.trim().trim_start_matches("0x"), 16).ok()?;
        // The kernel complains itself when vmalloc() fails there.
        let symbols = fs::read_to_string("/proc/kallsyms").ok()?;
        let spared = symbols
            .lines()
            .find(|l| l.ends_with(" fpu_alloc_guest_fpstate"))
            .and_then(|l| u64::from_str_radix(l.split(' ').next()?, 16).ok())?;
        let modules = fs::read_to_string("/proc/modules").ok()?;
        let size = modules.lines().find_map(|l| l.strip_prefix("kvm "))?;
        let size: u64 = size.split(' ').next()?.parse().ok()?;
        for (kind, extra) in [
            ("failslab", None),
            ("fail_page_alloc", Some(("min-order", "0"))),
        ] {
            let set = |name: &str, v: &str| fs::write(format!("{DEBUGFS}/{kind}/{name}"), v).ok();
            set("ignore-gfp-wait", "N")?;
            // With FAULT_TRACE=1 the kernel's log says which allocation each failure was.
            let trace = std::env::var("FAULT_TRACE").is_ok_and(|v| v == "1");
            set("verbose", if trace { "2" } else { "0" })?;
            set("stacktrace-depth", "32")?;
            set("require-start", &format!("{start:#x}"))?;
            set("require-end", &format!("{:#x}", start + size))?;
            set("reject-start", &format!("{spared:#x}"))?;
            set("reject-end", &format!("{:#x}", spared + 0x100))?;
            if let Some((name, v)) = extra {
                set(name, v)?;
            }
        }
        Some(Self(nth))
    }

    /// Runs `f` with its n-th allocation failing; true if there was one.
    fn failing<R>(&self, n: u32, f: impl FnOnce() -> R) -> (R, bool) {
        let arm = n.to_string();
        let mut left = [0u8; 16];
        self.0.write_at(arm.as_bytes(), 0).expect("fail-nth");
        let r = f();
        let len = self.0.read_at(&mut left, 0).expect("fail-nth");
        self.0.write_at(b"0", 0).expect("fail-nth");
        (r, left[..len].starts_with(b"0"))
    }
}

/// How often the module is in use.
fn references() -> String {
    fs::read_to_string("/sys/module/kvm/refcnt").unwrap_or_default()
}

/// Is it in use as often as it was, at last? Some things are given back a moment later.
fn back_to(then: &str) -> bool {
    let is = || references() == then;
    (0..500).any(|_| {
        is() || {
            std::thread::sleep(std::time::Duration::from_millis(4));
            false
        }
    })
}

/// Walks through all allocations of `call`, each time on a new `make`.
fn walk<S>(
    t: &mut Tap,
    what: &str,
    also: &[i32],
    make: impl Fn() -> S,
    call: impl Fn(&S) -> Answer,
) {
    let Some(switch) = Switch::new() else {
        t.skip("no fault injection in this kernel (HOST=debug has it)");
        return;
    };
    let mut wrong = Vec::new();
    let mut refused = 0;
    let mut before = references();
    for n in 1..3000 {
        let s = make();
        let (first, failed) = switch.failing(n, || call(&s));
        match first {
            Answer::Err(e) if failed && (e == libc::ENOMEM || also.contains(&e)) => {
                refused += 1;
                let again = call(&s);
                if !again.is_ok() {
                    wrong.push(format!("{n}: {first}, and without a failure {again}"));
                }
            }
            Answer::Err(_) => wrong.push(format!("{n}: {first}, an allocation failed: {failed}")),
            Answer::Ok(_) => {}
        }
        drop(s);
        if !back_to(&before) {
            wrong.push(format!("{n}: {first}, and the module stays in use"));
            before = references();
        }
        if !failed {
            t.same(
                format!("{what}: {refused} of {} fail it", n - 1),
                wrong,
                vec![],
            );
            t.point(n > 1, format!("{what}: something is allocated"));
            return;
        }
    }
    t.point(false, format!("{what}: there is no end"));
}

/// A call that makes a descriptor, which is closed.
fn closed(vm: &Fd, cmd: u32, arg: usize) -> Answer {
    match vm.make(cmd, arg) {
        Ok(fd) => {
            drop(fd);
            Answer::Ok(0)
        }
        Err(e) => Answer::Err(e),
    }
}

/// A VM without vCPUs.
fn bare(irqchip: Irqchip) -> Guest {
    Guest::new(Plan {
        irqchip,
        cpus: 0,
        ..Plan::default()
    })
}

/// Making VMs, vCPUs and their controllers.
pub fn creation(t: &mut Tap) {
    walk(t, "VM", &[], guest::dev, |d| closed(d, k::CREATE_VM, 0));
    for irqchip in [Irqchip::None, Irqchip::Split, Irqchip::Full] {
        let what = format!("vCPU, {irqchip:?}");
        walk(
            t,
            &what,
            &[],
            || bare(irqchip),
            |g| closed(&g.vm, k::CREATE_VCPU, 0),
        );
    }
    let vm = || guest::dev().make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
    walk(t, "irqchip", &[], vm, |vm| vm.call(k::CREATE_IRQCHIP, 0));
    walk(t, "split irqchip", &[], vm, |vm| {
        guest::enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24)
    });
    let with_chip = || {
        let vm = vm();
        vm.call(k::CREATE_IRQCHIP, 0).ok().expect("irqchip");
        vm
    };
    walk(t, "PIT", &[], with_chip, |vm| {
        vm.set(k::CREATE_PIT2, &zeroed::<kvm_pit_config>())
    });
    let ring = |vm: &Fd| guest::enable(vm, KVM_CAP_DIRTY_LOG_RING, 65536);
    let with_ring = || {
        let g = bare(Irqchip::None);
        ring(&g.vm).ok().expect("dirty ring");
        g
    };
    walk(t, "vCPU with a dirty ring", &[], with_ring, |g| {
        closed(&g.vm, k::CREATE_VCPU, 0)
    });
    walk(t, "statistics", &[], vm, |vm| {
        closed(vm, k::GET_STATS_FD, 0)
    });
}

const AT: u64 = 0x4000_0000;

/// guest_memfd: the file, its slot, its pages.
pub fn memfd(t: &mut Tap) {
    const LEN: usize = 1 << 20;
    let vm = || guest::dev().make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
    walk(t, "guest_memfd", &[], vm, |vm| {
        match memfd::create(vm, LEN, memfd::SHARED) {
            Ok(_) => Answer::Ok(0),
            Err(e) => Answer::Err(e),
        }
    });
    let with_file = || {
        let vm = vm();
        let fd = memfd::create(&vm, LEN, memfd::SHARED).expect("a file");
        (vm, fd)
    };
    walk(t, "guest_memfd bound", &[], with_file, |(vm, fd)| {
        memfd::bind(vm, 3, AT, LEN, fd, 0)
    });
    // One of several: a tree.
    let with_slots = || {
        let (vm, fd) = with_file();
        for i in [0, 2, 4, 6, 8] {
            let gpa = AT + (i << 12);
            let a = memfd::bind(&vm, 3 + i as u32, gpa, 4096, &fd, (i as usize) << 12);
            a.ok().expect("a slot");
        }
        (vm, fd)
    };
    walk(t, "guest_memfd bound again", &[], with_slots, |(vm, fd)| {
        memfd::bind(vm, 20, AT + 0x5000, 4096, fd, 0x5000)
    });
    walk(t, "guest_memfd unbound", &[], with_slots, |(vm, _)| {
        memfd::unbind(vm, 7)
    });
    walk(t, "guest_memfd filled", &[], with_file, |(_, fd)| {
        memfd::fallocate(fd, memfd::KEEP, 0, 0x8000)
    });
}

/// Slots, and the log of writes.
pub fn slots(t: &mut Tap) {
    let plan = Plan {
        mem: 8 << 20,
        cpus: 0,
        ..Plan::default()
    };
    let without = || Guest::new(plan);
    let with = |flags| {
        let g = Guest::new(plan);
        g.slot(3, AT, 2 << 20, 4 << 20, flags).ok().expect("slot");
        g
    };
    let log = KVM_MEM_LOG_DIRTY_PAGES;
    walk(t, "slot added", &[], without, |g| {
        g.slot(3, AT, 2 << 20, 4 << 20, 0)
    });
    walk(t, "slot with a log added", &[], without, |g| {
        g.slot(3, AT, 2 << 20, 4 << 20, log)
    });
    walk(
        t,
        "slot moved",
        &[],
        || with(0),
        |g| g.slot(3, AT << 1, 2 << 20, 4 << 20, 0),
    );
    walk(
        t,
        "log switched on",
        &[],
        || with(0),
        |g| g.slot(3, AT, 2 << 20, 4 << 20, log),
    );
    walk(
        t,
        "slot removed",
        &[],
        || with(log),
        |g| g.slot(3, AT, 0, 0, 0),
    );
    let bits = vec![0u64; 16];
    walk(
        t,
        "log read",
        &[],
        || with(log),
        |g| {
            let mut d: kvm_dirty_log = zeroed();
            d.slot = 3;
            d.__bindgen_anon_1.dirty_bitmap = bits.as_ptr() as *mut _;
            // It may need no memory at all; the walk wants some.
            g.slot(4, AT << 1, 6 << 20, 4096, 0)
                .ok()
                .and_then(|_| g.vm.set(k::GET_DIRTY_LOG, &d).ok())
                .map_or_else(Answer::Err, Answer::Ok)
        },
    );
}

/// Eventfds, zones, routes and the lists of a vCPU.
pub fn events(t: &mut Tap) {
    let full = || (bare(Irqchip::Full), Fd::event(), Fd::event());
    let irqfd = |s: &(Guest, Fd, Fd), flags| {
        let mut i: kvm_irqfd = zeroed();
        (i.fd, i.gsi, i.flags) = (s.1.raw() as u32, 5, flags);
        i.resamplefd = s.2.raw() as u32;
        s.0.vm.set(k::IRQFD, &i)
    };
    walk(t, "irqfd", &[], full, |s| irqfd(s, 0));
    walk(t, "irqfd with resampler", &[], full, |s| irqfd(s, 2));
    let assigned = || {
        let s = full();
        irqfd(&s, 2).ok().expect("irqfd");
        s
    };
    walk_any(t, "irqfd taken away", assigned, |s| irqfd(s, 1));
    let event = |s: &(Guest, Fd, Fd), flags| {
        let mut e: kvm_ioeventfd = zeroed();
        (e.addr, e.len, e.fd, e.flags) = (0xe000_0000, 4, s.1.raw(), flags);
        s.0.vm.set(k::IOEVENTFD, &e)
    };
    walk(t, "ioeventfd", &[], full, |s| event(s, 0));
    walk(t, "ioeventfd of a port", &[], full, |s| event(s, 2));
    let assigned = || {
        let s = full();
        event(&s, 0).ok().expect("ioeventfd");
        s
    };
    walk_any(t, "ioeventfd taken away", assigned, |s| event(s, 4));
    let zone = |g: &Guest, cmd| {
        let mut z: kvm_coalesced_mmio_zone = zeroed();
        (z.addr, z.size) = (0xe000_0000, 4096);
        g.vm.set(cmd, &z)
    };
    let chip = || bare(Irqchip::Full);
    walk(t, "coalesced zone", &[], chip, |g| {
        zone(g, k::REGISTER_COALESCED_MMIO)
    });
    let with_zone = || {
        let g = chip();
        zone(&g, k::REGISTER_COALESCED_MMIO).ok().expect("zone");
        g
    };
    walk_any(t, "zone taken away", with_zone, |g| {
        zone(g, k::UNREGISTER_COALESCED_MMIO)
    });
    let routes: Vec<kvm_irq_routing_entry> = (0..40)
        .map(|n| {
            let mut e: kvm_irq_routing_entry = zeroed();
            (e.gsi, e.type_) = (n, KVM_IRQ_ROUTING_MSI);
            e.u.msi.address_lo = 0xfee0_0000;
            e
        })
        .collect();
    let routes = guest::list(routes.len() as u32, &routes);
    walk(t, "routes", &[], chip, |g| {
        g.vm.bytes(k::SET_GSI_ROUTING, &mut routes.clone())
    });
    let one = || {
        Guest::new(Plan {
            cpuid: false,
            ..Plan::default()
        })
    };
    let cpuid = guest::supported_cpuid(&guest::dev());
    walk(t, "CPUID", &[], one, |g| {
        g.cpus[0].fd.bytes(k::SET_CPUID2, &mut cpuid.clone())
    });
    let msrs = guest::list(8, &[zeroed::<kvm_msr_entry>(); 8]);
    walk(t, "MSRs", &[], one, |g| {
        g.cpus[0].fd.bytes(k::GET_MSRS, &mut msrs.clone())
    });
    walk(t, "XSAVE area", &[], one, |g| {
        g.cpus[0].fd.bytes(k::GET_XSAVE, &mut vec![0; 4096])
    });
}

/// Like [`walk`], for what should not need memory, but may.
fn walk_any<S>(t: &mut Tap, what: &str, make: impl Fn() -> S, call: impl Fn(&S) -> Answer) {
    let Some(switch) = Switch::new() else { return };
    let s = make();
    let (r, failed) = switch.failing(1, || call(&s));
    drop(s);
    if failed {
        walk(t, what, &[], make, call);
    } else {
        t.same(format!("{what}: nothing is allocated"), r.ok(), Ok(0));
    }
}

guest_code! {
    // Writes to pages far from each other, so that tables of every level are needed.
    far_writes,
    "mov eax, 0x40000000",
    "mov ecx, 4",
    "2: mov dword ptr [rax], 0x77",
    "add rax, 0x201000",
    "dec ecx",
    "jnz 2b",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

/// Nested page tables while a guest runs.
pub fn faults(t: &mut Tap) {
    let make = || {
        let plan = Plan {
            mem: 16 << 20,
            ..Plan::default()
        };
        let g = Guest::long_with(plan, far_writes());
        g.slot(3, AT, 4 << 20, 12 << 20, 0).ok().expect("slot");
        g
    };
    // The page of user space itself may be what is missing: KVM says EFAULT then.
    walk(t, "guest runs", &[libc::EFAULT], make, |g| {
        match g.cpus[0].enter() {
            Ok(Exit::Out { port: PORT_END, .. }) => Answer::Ok(0),
            Ok(e) => {
                println!("# exit {e:x?}");
                Answer::Err(libc::EIO)
            }
            Err(e) => Answer::Err(e),
        }
    });
}
