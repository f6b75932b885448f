// SPDX-License-Identifier: GPL-2.0

//! Guests: a VM with a flat piece of memory, vCPUs in the mode a test needs, and code in it.
//!
//! Guest-physical layout of every guest (see `boot.rs` for what is in the low pages):
//!
//! | from | what |
//! |---|---|
//! | 0x1000 | GDT, IDT, TSS, page tables, exception stubs |
//! | 0xc000 | a mailbox of 0x400 bytes per vCPU |
//! | 0x1_0000 | code |
//! | [`DATA`] | results that do not fit a port write |
//! | the end of memory | nothing: an access exits to user space |

pub mod asm;
pub mod boot;
mod exit;

use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::uapi as k;
pub use exit::Exit;
use kvm_bindings::*;

/// Where code goes.
pub const CODE: u64 = 0x1_0000;
/// Where guests leave results.
pub const DATA: u64 = 0x8_0000;
/// A write of 32 bits to this port is a value for the test.
pub const PORT_VALUE: u16 = 0xe0;
/// A write to this port ends the guest.
pub const PORT_END: u16 = 0xe1;
/// The exception handler writes the vector here when nobody expects an exception.
pub const PORT_FAULT: u16 = 0xe2;

/// Which interrupt controllers are in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Irqchip {
    /// None.
    None,
    /// The local APICs, 24 routes for a user-space IOAPIC.
    Split,
    /// All.
    Full,
}

/// What a guest is made of.
#[derive(Clone, Copy)]
pub struct Plan {
    /// Bytes of memory at 0.
    pub mem: usize,
    /// Controllers.
    pub irqchip: Irqchip,
    /// vCPUs.
    pub cpus: usize,
    /// Give the vCPUs all CPUID that is supported.
    pub cpuid: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            mem: 2 << 20,
            irqchip: Irqchip::None,
            cpus: 1,
            cpuid: true,
        }
    }
}

/// Opens /dev/kvm.
pub fn dev() -> Fd {
    Fd::open(c"/dev/kvm", libc::O_RDWR).expect("/dev/kvm")
}

/// A capability's answer on a descriptor.
pub fn cap(fd: &Fd, cap: u32) -> i32 {
    fd.call(k::CHECK_EXTENSION, cap as usize).ok().unwrap_or(0)
}

/// Enables a capability on a VM.
pub fn enable(vm: &Fd, cap: u32, arg: u64) -> Answer {
    let mut e: kvm_enable_cap = sys::zeroed();
    e.cap = cap;
    e.args[0] = arg;
    vm.set(k::ENABLE_CAP, &e)
}

/// A variable-length structure: a count, padding, entries.
pub fn list<T: sys::Plain>(count: u32, entries: &[T]) -> Vec<u8> {
    let mut b = count.to_ne_bytes().to_vec();
    b.extend([0; 4]);
    for e in entries {
        b.extend(sys::bytes_of(e));
    }
    b
}

/// The CPUID that the module supports, as `KVM_SET_CPUID2` takes it.
pub fn supported_cpuid(dev: &Fd) -> Vec<u8> {
    let mut b = list(256, &vec![sys::zeroed::<kvm_cpuid_entry2>(); 256]);
    dev.bytes(k::GET_SUPPORTED_CPUID, &mut b)
        .ok()
        .expect("KVM_GET_SUPPORTED_CPUID");
    let n = u32::from_ne_bytes(b[..4].try_into().unwrap()) as usize;
    b.truncate(8 + n * size_of::<kvm_cpuid_entry2>());
    b
}

/// A vCPU and its run page.
pub struct Vcpu {
    /// The descriptor.
    pub fd: Fd,
    /// `struct kvm_run`, port data, the coalesced ring.
    pub run: Area,
}

impl Vcpu {
    /// Creates one.
    pub fn new(vm: &Fd, id: usize) -> Result<Self, i32> {
        let fd = vm.make(k::CREATE_VCPU, id)?;
        let run = Area::of_fd(&fd, 3 * sys::PAGE, 0)?;
        Ok(Self { fd, run })
    }

    /// Runs until an exit; EINTR and other errors as they are.
    pub fn enter(&self) -> Result<Exit, i32> {
        self.fd.call(k::RUN, 0).ok()?;
        Ok(Exit::read(&self.run))
    }

    /// Asks for an exit before the next entry.
    pub fn immediate_exit(&self, on: bool) {
        self.run.store::<u8>(1, u8::from(on));
    }

    /// Answers the read that the last exit asked for.
    pub fn answer(&self, exit: &Exit, data: &[u8]) {
        match exit {
            Exit::In { at, .. } => self.run.write(*at, data),
            Exit::MmioRead { .. } => self.run.write(exit::MMIO_DATA, data),
            e => panic!("{e:?} asks for nothing"),
        }
    }

    /// General-purpose registers.
    pub fn regs(&self) -> kvm_regs {
        self.fd.get(k::GET_REGS).expect("KVM_GET_REGS")
    }

    /// Sets them.
    pub fn set_regs(&self, r: &kvm_regs) {
        self.fd.set(k::SET_REGS, r).ok().expect("KVM_SET_REGS");
    }

    /// Special registers.
    pub fn sregs(&self) -> kvm_sregs {
        self.fd.get(k::GET_SREGS).expect("KVM_GET_SREGS")
    }

    /// Sets them.
    pub fn set_sregs(&self, s: &kvm_sregs) {
        self.fd.set(k::SET_SREGS, s).ok().expect("KVM_SET_SREGS");
    }

    /// Events.
    pub fn events(&self) -> kvm_vcpu_events {
        self.fd
            .get(k::GET_VCPU_EVENTS)
            .expect("KVM_GET_VCPU_EVENTS")
    }

    /// One MSR; None if the module does not know it.
    pub fn msr(&self, index: u32) -> Option<u64> {
        let mut e: kvm_msr_entry = sys::zeroed();
        e.index = index;
        let mut b = list(1, &[e]);
        (self.fd.bytes(k::GET_MSRS, &mut b) == Answer::Ok(1))
            .then(|| u64::from_ne_bytes(b[16..24].try_into().unwrap()))
    }

    /// Many of them at once, at most 256 a call; None for those that the module does not know.
    pub fn msrs(&self, indices: &[u32]) -> Vec<(u32, Option<u64>)> {
        let mut all = Vec::new();
        while all.len() < indices.len() {
            let left = &indices[all.len()..];
            let entries: Vec<_> = left
                .iter()
                .take(256)
                .map(|m| {
                    let mut e: kvm_msr_entry = sys::zeroed();
                    e.index = *m;
                    e
                })
                .collect();
            let mut b = list(entries.len() as u32, &entries);
            let n = self.fd.bytes(k::GET_MSRS, &mut b).ok().unwrap_or(0) as usize;
            let entry = |i: usize| u64::from_ne_bytes(b[16 + 16 * i..][..8].try_into().unwrap());
            all.extend((0..n).map(|i| (left[i], Some(entry(i)))));
            // The first one that is not known ends the list.
            if n < entries.len() {
                all.push((left[n], None));
            }
        }
        all
    }

    /// Sets one; false if the module refuses.
    pub fn set_msr(&self, index: u32, data: u64) -> bool {
        let mut e: kvm_msr_entry = sys::zeroed();
        e.index = index;
        e.data = data;
        self.fd.bytes(k::SET_MSRS, &mut list(1, &[e])) == Answer::Ok(1)
    }

    /// Sets the multiprocessing state.
    pub fn set_mp_state(&self, state: u32) -> Answer {
        self.fd
            .set(k::SET_MP_STATE, &kvm_mp_state { mp_state: state })
    }

    /// The multiprocessing state.
    pub fn mp_state(&self) -> u32 {
        self.fd
            .get::<kvm_mp_state>(k::GET_MP_STATE)
            .expect("KVM_GET_MP_STATE")
            .mp_state
    }
}

/// A VM with memory at 0 and its vCPUs.
pub struct Guest {
    /// /dev/kvm.
    pub dev: Fd,
    /// The VM.
    pub vm: Fd,
    /// The vCPUs.
    pub cpus: Vec<Vcpu>,
    /// Memory: slot 0.
    pub mem: Area,
}

impl Guest {
    /// Makes one. Nothing is in its memory, and its vCPUs are in their reset state.
    pub fn new(plan: Plan) -> Self {
        let dev = dev();
        let vm = dev.make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
        match plan.irqchip {
            Irqchip::None => {}
            Irqchip::Split => {
                enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24)
                    .ok()
                    .expect("split irqchip");
            }
            Irqchip::Full => {
                vm.call(k::CREATE_IRQCHIP, 0)
                    .ok()
                    .expect("KVM_CREATE_IRQCHIP");
                let pit: kvm_pit_config = sys::zeroed();
                vm.set(k::CREATE_PIT2, &pit).ok().expect("KVM_CREATE_PIT2");
            }
        }
        vm.call(k::SET_TSS_ADDR, 0xfffb_d000)
            .ok()
            .expect("KVM_SET_TSS_ADDR");
        let mem = Area::anonymous(plan.mem);
        let mut g = Self {
            dev,
            vm,
            cpus: Vec::new(),
            mem,
        };
        g.slot(0, 0, 0, plan.mem, 0).ok().expect("memory");
        for id in 0..plan.cpus {
            g.add_cpu(id, plan.cpuid);
        }
        g
    }

    /// Creates one more vCPU, with all CPUID that is supported or none.
    pub fn add_cpu(&mut self, id: usize, cpuid: bool) {
        let v = Vcpu::new(&self.vm, id).expect("KVM_CREATE_VCPU");
        if cpuid {
            let mut c = supported_cpuid(&self.dev);
            boot::set_apic_id(&mut c, id as u32);
            v.fd.bytes(k::SET_CPUID2, &mut c)
                .ok()
                .expect("KVM_SET_CPUID2");
        }
        self.cpus.push(v);
    }

    /// A guest of one vCPU in long mode with `code` at [`CODE`], about to execute it.
    pub fn long(code: &[u8]) -> Self {
        Self::long_with(Plan::default(), code)
    }

    /// The same after a plan: every vCPU is ready to execute the code (only vCPU 0 is runnable if
    /// the local APICs are in the kernel).
    pub fn long_with(plan: Plan, code: &[u8]) -> Self {
        let g = Self::new(plan);
        g.load(CODE, code);
        boot::tables(&g.mem);
        for i in 0..plan.cpus {
            g.start_long(i, CODE);
        }
        g
    }

    /// Maps `len` bytes of the memory from `offset` at `gpa` as a slot; 0 bytes remove it.
    pub fn slot(&self, id: u32, gpa: u64, offset: usize, len: usize, flags: u32) -> Answer {
        let mut r: kvm_userspace_memory_region = sys::zeroed();
        r.slot = id;
        r.flags = flags;
        r.guest_phys_addr = gpa;
        r.memory_size = len as u64;
        r.userspace_addr = (self.mem.addr() + offset) as u64;
        self.vm.set(k::SET_USER_MEMORY_REGION, &r)
    }

    /// Puts bytes into memory.
    pub fn load(&self, gpa: u64, code: &[u8]) {
        self.mem.write(gpa as usize, code);
    }

    /// Reads an integer of the results.
    pub fn data(&self, index: usize) -> u64 {
        self.mem.load(DATA as usize + 8 * index)
    }

    /// Writes one.
    pub fn set_data(&self, index: usize, v: u64) {
        self.mem.store(DATA as usize + 8 * index, v);
    }

    /// Puts a vCPU into long mode at `rip`.
    pub fn start_long(&self, cpu: usize, rip: u64) {
        let v = &self.cpus[cpu];
        v.set_sregs(&boot::long_sregs(v.sregs()));
        v.set_regs(&boot::regs(cpu, rip));
    }

    /// Puts a vCPU into real mode at `rip`, all segments at `base`.
    pub fn start_real(&self, cpu: usize, base: u64, rip: u64) {
        let v = &self.cpus[cpu];
        v.set_sregs(&boot::real_sregs(v.sregs(), base));
        let mut r = boot::regs(cpu, rip);
        r.rsp = 0x8000;
        v.set_regs(&r);
    }

    /// Puts a vCPU into flat 32-bit mode without paging at `rip`.
    pub fn start_32(&self, cpu: usize, rip: u64) {
        let v = &self.cpus[cpu];
        v.set_sregs(&boot::flat32_sregs(v.sregs()));
        v.set_regs(&boot::regs(cpu, rip));
    }

    /// Runs vCPU 0; its exits.
    pub fn enter(&self) -> Result<Exit, i32> {
        self.cpus[0].enter()
    }

    /// Runs a vCPU up to the first exit that is no value, and returns both.
    pub fn values_of(&self, cpu: usize) -> (Vec<u32>, Result<Exit, i32>) {
        let mut values = Vec::new();
        loop {
            match self.cpus[cpu].enter() {
                Ok(Exit::Out {
                    port: PORT_VALUE,
                    data,
                    ..
                }) => {
                    let mut b = [0; 4];
                    let n = data.len().min(4);
                    b[..n].copy_from_slice(&data[..n]);
                    values.push(u32::from_le_bytes(b));
                }
                other => return (values, other),
            }
        }
    }

    /// The values that vCPU 0 reports until it ends; None if it did not end well.
    pub fn values(&self) -> Option<Vec<u32>> {
        match self.values_of(0) {
            (v, Ok(Exit::Out { port: PORT_END, .. })) => Some(v),
            (v, other) => {
                println!("# the guest did not end well: {other:x?} after {v:x?}");
                let r = self.cpus[0].regs();
                println!("# rip {:#x} rax {:#x} rsp {:#x}", r.rip, r.rax, r.rsp);
                None
            }
        }
    }
}
