// SPDX-License-Identifier: GPL-2.0

//! A VM with one or two vCPUs in 64-bit mode, everything mapped one to one.

use crate::guest;
use crate::guest::Entry;
use crate::memory::Memory;
use kvm_bindings::kvm_dtable;
use kvm_bindings::kvm_mp_state;
use kvm_bindings::kvm_pit_config;
use kvm_bindings::kvm_regs;
use kvm_bindings::kvm_segment;
use kvm_bindings::kvm_userspace_memory_region;
use kvm_bindings::KVM_EXIT_IO;
use kvm_bindings::KVM_EXIT_MMIO;
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_bindings::KVM_MP_STATE_RUNNABLE;
use kvm_ioctls::Kvm;
use kvm_ioctls::VcpuFd;
use kvm_ioctls::VmFd;
use std::os::fd::AsRawFd;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The guest's plain memory, and what lies where in it.
const RAM: usize = 4 << 20;
const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const PML4: u64 = 0x20000;
const PDPT: u64 = 0x21000;
const PD: u64 = 0x22000;
const STACKS: u64 = 0x90000;
const RESULTS: u64 = 0x100000;

/// Where nothing is.
pub const MMIO: u64 = 0xd000_0000;
/// Where an eventfd is registered.
pub const NOTIFY: u64 = 0xd000_1000;
/// The local APIC, in xAPIC mode.
pub const APIC: u64 = 0xfee0_0000;
/// Memory that was not touched yet.
pub const FRESH: u64 = 0x4000_0000;

/// The port of the guest's last OUT.
const DONE: u16 = 0x99;

pub struct Machine {
    ram: Memory,
    pub vm: VmFd,
    vcpus: Vec<VcpuFd>,
    slots: u32,
    /// Dropped after the VM.
    more: Vec<Memory>,
}

impl Machine {
    pub fn new(kvm: &Kvm, vcpus: usize) -> Result<Self> {
        let vm = kvm.create_vm()?;
        vm.set_tss_address(0xfffb_d000)?;
        vm.create_irq_chip()?;
        vm.create_pit2(kvm_pit_config::default())?;
        let mut this = Self {
            ram: Memory::new(RAM, false)?,
            vm,
            vcpus: Vec::new(),
            slots: 0,
            more: Vec::new(),
        };
        this.fill();
        this.map(0, this.ram.address(), RAM)?;
        for i in 0..vcpus {
            let vcpu = this.vm.create_vcpu(i as u64)?;
            vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
            let mut s = vcpu.get_sregs()?;
            s.cs = segment(0x08, 0xb, true);
            s.ss = segment(0x10, 0x3, false);
            (s.ds, s.es, s.fs, s.gs) = (s.ss, s.ss, s.ss, s.ss);
            s.gdt = table(GDT, 0x17);
            s.idt = table(IDT, 0xfff);
            s.cr0 = 0x8000_0031;
            s.cr3 = PML4;
            s.cr4 = 0x20;
            s.efer = 0x500;
            vcpu.set_sregs(&s)?;
            vcpu.set_mp_state(kvm_mp_state {
                mp_state: KVM_MP_STATE_RUNNABLE,
            })?;
            this.vcpus.push(vcpu);
        }
        Ok(this)
    }

    /// Adds memory to the guest at this address.
    pub fn add(&mut self, gpa: u64, memory: Memory) -> Result<()> {
        self.map(gpa, memory.address(), memory.len())?;
        self.more.push(memory);
        Ok(())
    }

    fn map(&mut self, gpa: u64, hva: u64, len: usize) -> Result<()> {
        let region = kvm_userspace_memory_region {
            slot: self.slots,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: len as u64,
            userspace_addr: hva,
        };
        // SAFETY: The memory lives as long as the VM: fields are dropped in their order.
        unsafe { self.vm.set_user_memory_region(region)? };
        self.slots += 1;
        Ok(())
    }

    /// Tables and code.
    fn fill(&mut self) {
        let ram = &mut self.ram;
        let mut put = |at: u64, v: u64| ram.write(at as usize, &v.to_le_bytes());
        put(GDT + 0x08, 0x00af_9b00_0000_ffff);
        put(GDT + 0x10, 0x00cf_9300_0000_ffff);
        // Accessed and dirty already: the processor has nothing to note in them.
        put(PML4, PDPT | 0x63);
        for i in 0..4 {
            put(PDPT + 8 * i, (PD + 0x1000 * i) | 0x63);
            for j in 0..512 {
                put(PD + 0x1000 * i + 8 * j, (i << 30) | (j << 21) | 0xe3);
            }
        }
        for vector in 0x40..0x44 {
            let entry = match vector {
                0x41 => Entry::IrqPong,
                _ => Entry::Irq,
            };
            let at = entry.address();
            put(
                IDT + 16 * vector,
                at & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (at & 0xffff_0000) << 32,
            );
        }
        ram.write(guest::CODE as usize, guest::code());
    }

    fn start(&self, vcpu: usize, entry: Entry, rounds: u64, r9: u64, r13: u64) -> Result<()> {
        self.vcpus[vcpu].set_regs(&kvm_regs {
            rip: entry.address(),
            rsp: STACKS + 0x10000 * vcpu as u64,
            rflags: self.vcpus[vcpu].get_regs()?.rflags & 0x200 | 2,
            rdi: RESULTS,
            rsi: rounds,
            r9,
            r13,
            ..Default::default()
        })?;
        Ok(())
    }

    /// Runs one of the guest's loops on vCPU 0. Returns the median of what the rounds took.
    pub fn run(&mut self, entry: Entry, rounds: u64, r9: u64, r13: u64) -> Result<u64> {
        self.start(0, entry, rounds, r9, r13)?;
        to_the_end(&mut self.vcpus[0])?;
        Ok(self.median(rounds))
    }

    /// Two loops on two vCPUs, each with a thread of its own.
    pub fn run_both(&mut self, zero: Entry, one: Entry, rounds: u64) -> Result<u64> {
        self.start(1, one, rounds, 0, 0)?;
        self.start(0, zero, rounds, 0, 0)?;
        let (first, rest) = self.vcpus.split_at_mut(1);
        let (a, b) = (&mut first[0], &mut rest[0]);
        std::thread::scope(|s| {
            let other = s.spawn(|| to_the_end(b).map_err(|e| e.to_string()));
            to_the_end(a)?;
            other.join().map_err(|_| "the other thread died")??;
            Ok::<_, Box<dyn std::error::Error>>(())
        })?;
        Ok(self.median(rounds))
    }

    /// Brings the local APICs into x2APIC mode, with this mode of the timer.
    pub fn enable_apics(&mut self, deadline: bool) -> Result<()> {
        for i in 0..self.vcpus.len() {
            self.start(i, Entry::Apic, 0, deadline.into(), 0)?;
            to_the_end(&mut self.vcpus[i])?;
        }
        Ok(())
    }

    fn median(&self, rounds: u64) -> u64 {
        let mut all: Vec<u64> = (0..rounds)
            .map(|i| self.ram.read((RESULTS + 8 * i) as usize))
            .collect();
        all.sort_unstable();
        all[all.len() / 2]
    }
}

/// Re-enters until the guest is done. Straight to the ioctl: what user space does itself is no part
/// of an exit, and here it is next to nothing.
fn to_the_end(vcpu: &mut VcpuFd) -> Result<()> {
    /// `_IO(KVMIO, 0x80)`
    const KVM_RUN: libc::c_ulong = 0xae80;
    loop {
        // SAFETY: KVM_RUN has no argument.
        if unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_RUN, 0) } != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let run = vcpu.get_kvm_run();
        match run.exit_reason {
            KVM_EXIT_MMIO => {}
            KVM_EXIT_IO => {
                // SAFETY: The exit reason says which member it is.
                let port = unsafe { run.__bindgen_anon_1.io.port };
                if port == DONE {
                    return Ok(());
                }
            }
            e => return Err(format!("unexpected exit {e}").into()),
        }
    }
}

fn segment(selector: u16, type_: u8, code: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}

fn table(base: u64, limit: u16) -> kvm_dtable {
    kvm_dtable {
        base,
        limit,
        ..Default::default()
    }
}
