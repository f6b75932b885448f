// SPDX-License-Identifier: GPL-2.0

//! Counts the host's instructions per exit of whichever module has `/dev/kvm`.
//!
//! Prints a line `@BENCH name value` per figure, the names being those of `targets.tsv`. On a host
//! whose time-stamp counter counts instructions, values of exits are instructions of guest and host
//! together, without the loop around them; those of creation are the thread's CPU time, which counts
//! no idle time; those of memory are bytes.

mod guest;
mod machine;
mod memory;

use guest::Entry;
use kvm_ioctls::IoEventAddress;
use kvm_ioctls::Kvm;
use kvm_ioctls::NoDatamatch;
use machine::Machine;
use machine::Result;
use memory::Memory;
use memory::LARGE;
use vmm_sys_util::eventfd::EventFd;

/// Rounds per loop. The first ones map pages and fill caches; the median does not see them.
const ROUNDS: u64 = 400;
/// Large pages to touch.
const LARGE_PAGES: usize = 40;

fn main() -> Result<()> {
    let kvm = Kvm::new()?;
    let args: Vec<String> = std::env::args().collect();
    if let [_, name, rounds] = args.as_slice() {
        let rounds = rounds.parse()?;
        if name == "creation" {
            return (0..rounds).try_for_each(|_| creation(&kvm));
        }
        return loops(&kvm, Some((name, rounds)));
    }
    // First, while the kernel's caches hold nothing that was freed by the others.
    memory_use(&kvm)?;
    loops(&kvm, None)?;
    ping(&kvm)?;
    faults(&kvm)?;
    creation(&kvm)
}

fn report(name: &str, value: u64) {
    println!("@BENCH\t{name}\t{value}");
}

/// A loop on one vCPU.
struct Loop {
    name: &'static str,
    entry: Entry,
    /// R9.
    address: u64,
    apic: Apic,
}

/// The mode of the local APIC.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Apic {
    Reset,
    X2Deadline,
    X2OneShot,
}

const fn exit(name: &'static str, entry: Entry, address: u64) -> Loop {
    Loop {
        name,
        entry,
        address,
        apic: Apic::Reset,
    }
}

const fn interrupt(name: &'static str, entry: Entry, apic: Apic) -> Loop {
    Loop {
        name,
        entry,
        address: 0,
        apic,
    }
}

const LOOPS: [Loop; 18] = [
    exit("cpuid", Entry::Cpuid, 0),
    exit("rdmsr", Entry::Rdmsr, 0),
    exit("wrmsr", Entry::Wrmsr, 0),
    exit("in-kernel", Entry::InKernel, 0),
    exit("out-kernel", Entry::OutKernel, 0),
    exit("in-user", Entry::InUser, 0),
    exit("out-user", Entry::OutUser, 0),
    exit("mmio-read-user", Entry::Load, machine::MMIO),
    exit("mmio-write-user", Entry::Store, machine::MMIO),
    exit("ioeventfd-pio", Entry::Notify, 0),
    exit("ioeventfd-mmio", Entry::Store, machine::NOTIFY),
    exit("apic-mmio-read", Entry::Load, machine::APIC + 0x20),
    exit("apic-mmio-write", Entry::Store, machine::APIC + 0x80),
    interrupt("self-ipi", Entry::SelfIpi, Apic::X2Deadline),
    interrupt("hlt-pending", Entry::Hlt, Apic::X2Deadline),
    interrupt("tsc-deadline", Entry::Deadline, Apic::X2Deadline),
    interrupt("tsc-deadline-arm", Entry::Arm, Apic::X2Deadline),
    interrupt("apic-one-shot", Entry::OneShot, Apic::X2OneShot),
];

/// What takes one vCPU. With `only`, that loop alone, so many rounds: for a profiler.
fn loops(kvm: &Kvm, only: Option<(&str, u64)>) -> Result<()> {
    for l in &LOOPS {
        if only.is_some_and(|(name, _)| name != l.name) {
            continue;
        }
        let rounds = only.map_or(ROUNDS, |(_, n)| n);
        let mut m = Machine::new(kvm, 1)?;
        let event = EventFd::new(0)?;
        m.vm.register_ioevent(&event, &IoEventAddress::Pio(0x510), NoDatamatch)?;
        m.vm.register_ioevent(&event, &IoEventAddress::Mmio(machine::NOTIFY), NoDatamatch)?;
        if l.apic != Apic::Reset {
            m.enable_apics(l.apic == Apic::X2Deadline)?;
        }
        let empty = m.run(Entry::Empty, ROUNDS, 0, 0)?;
        let took = m.run(l.entry, rounds, l.address, 0)?;
        report(l.name, took.saturating_sub(empty));
    }
    Ok(())
}

/// Two vCPUs that wake each other.
fn ping(kvm: &Kvm) -> Result<()> {
    let mut m = Machine::new(kvm, 2)?;
    m.enable_apics(true)?;
    report(
        "hlt-wake-ipi",
        m.run_both(Entry::Ping, Entry::Pong, ROUNDS)?,
    );
    Ok(())
}

/// Memory of the host's that is there but not in the nested tables yet.
fn faults(kvm: &Kvm) -> Result<()> {
    for (name, large, pages) in [
        ("fault-4k", false, ROUNDS as usize),
        ("fault-2m", true, LARGE_PAGES),
    ] {
        let size = if large { LARGE } else { 4096 };
        let mut m = Machine::new(kvm, 1)?;
        m.add(machine::FRESH, Memory::new(pages * size, large)?)?;
        report(
            name,
            m.run(Entry::Touch, pages as u64, machine::FRESH, size as u64)?,
        );
    }
    Ok(())
}

/// CPU time of this thread, ns.
fn cpu_time() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: Writes to `t`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// What it takes to make a VM, a VM with its interrupt controllers, and a vCPU.
fn creation(kvm: &Kvm) -> Result<()> {
    let mut all: [Vec<u64>; 3] = Default::default();
    for _ in 0..21 {
        let t0 = cpu_time();
        let vm = kvm.create_vm()?;
        let t1 = cpu_time();
        vm.create_irq_chip()?;
        let t2 = cpu_time();
        let vcpu = vm.create_vcpu(0)?;
        let t3 = cpu_time();
        drop(vcpu);
        for (v, d) in all.iter_mut().zip([t1 - t0, t2 - t1, t3 - t2]) {
            v.push(d);
        }
    }
    for (v, name) in all
        .iter_mut()
        .zip(["create-vm", "create-irqchip", "create-vcpu"])
    {
        v.sort_unstable();
        report(name, v[v.len() / 2]);
    }
    Ok(())
}

/// Free memory of the host, bytes, without what could be freed at once: caches are dropped until
/// that, and what is freed through RCU, makes no difference any more.
fn free() -> Result<u64> {
    let mut last = 0;
    for _ in 0..20 {
        std::fs::write("/proc/sys/vm/drop_caches", "3")?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let now = mem_free()?;
        if now <= last + (64 << 10) {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

/// Free pages, those on the lists of each CPU included, in bytes.
fn mem_free() -> Result<u64> {
    let zones = std::fs::read_to_string("/proc/zoneinfo")?;
    let listed: u64 = zones
        .lines()
        .filter_map(|l| l.trim().strip_prefix("count:"))
        .filter_map(|n| n.trim().parse::<u64>().ok())
        .sum();
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|l| l.strip_prefix("MemFree:"))
        .and_then(|l| l.trim().strip_suffix(" kB"))
        .ok_or("no MemFree")?;
    Ok(kib.trim().parse::<u64>()? * 1024 + listed * 4096)
}

/// Kernel memory of VMs with interrupt controllers, and of vCPUs that have not run.
fn memory_use(kvm: &Kvm) -> Result<()> {
    const VMS: usize = 64;
    const VCPUS: usize = 8;
    let mut vms = Vec::with_capacity(VMS);
    let mut vcpus = Vec::with_capacity(VMS * VCPUS);
    let before = free()?;
    for _ in 0..VMS {
        let vm = kvm.create_vm()?;
        vm.create_irq_chip()?;
        vms.push(vm);
    }
    let between = free()?;
    for vm in &vms {
        for i in 0..VCPUS {
            // The mapping of its run page is user space's, and one page each for both modules.
            vcpus.push(vm.create_vcpu(i as u64)?);
        }
    }
    let after = free()?;
    report("memory-vm", before.saturating_sub(between) / VMS as u64);
    report(
        "memory-vcpu",
        between.saturating_sub(after) / (VMS * VCPUS) as u64,
    );
    Ok(())
}
