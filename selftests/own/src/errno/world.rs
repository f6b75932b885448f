// SPDX-License-Identifier: GPL-2.0

//! A VM to misuse, and a copy of its state to see that misuse changed nothing.

use crate::guest;
use crate::guest::boot;
use crate::guest::Vcpu;
use crate::guest::CODE;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::sys::PAGE;
use crate::table::Table;
use crate::uapi as k;
use kvm_bindings::*;
use std::fmt::Display;

/// The descriptor that a command belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum On {
    /// /dev/kvm.
    Dev,
    /// A VM.
    Vm,
    /// A vCPU.
    Vcpu,
}

/// How far a VM has been set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// Memory, nothing else.
    Empty,
    /// A vCPU, all controllers in user space.
    Bare,
    /// A vCPU with its local APIC in the kernel.
    Split,
    /// A vCPU and the chips, no PIT.
    Chips,
    /// Everything.
    Full,
}

/// Slot with a dirty log, and its first address.
pub const LOGGED: (u32, u64) = (1, 0x1000_0000);
/// Pages of it.
pub const LOGGED_PAGES: usize = 16;
/// Room for arguments, in pages; an unreadable page follows.
const ROOM: usize = 8;
/// Binary digits of the VM's clock that are not compared, in ns: 4.6 minutes.
const CLOCK_STEP: u32 = 38;

/// The VM.
pub struct World {
    /// /dev/kvm.
    pub dev: Fd,
    /// The VM.
    pub vm: Fd,
    /// Its vCPU, unless the stage is empty.
    pub vcpu: Option<Vcpu>,
    /// An eventfd.
    pub event: Fd,
    /// Guest memory; also what pointers in arguments point to.
    pub mem: Area,
    args: Area,
    constant: Area,
    /// MSRs that do not change by themselves.
    msrs: Vec<u32>,
}

impl World {
    /// Makes one.
    pub fn new(stage: Stage) -> Self {
        let dev = guest::dev();
        let vm = dev.make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
        match stage {
            Stage::Empty | Stage::Bare => {}
            Stage::Split => {
                guest::enable(&vm, KVM_CAP_SPLIT_IRQCHIP, 24)
                    .ok()
                    .expect("split irqchip");
            }
            Stage::Chips | Stage::Full => {
                vm.call(k::CREATE_IRQCHIP, 0)
                    .ok()
                    .expect("KVM_CREATE_IRQCHIP");
                if stage == Stage::Full {
                    let pit: kvm_pit_config = sys::zeroed();
                    vm.set(k::CREATE_PIT2, &pit).ok().expect("KVM_CREATE_PIT2");
                }
            }
        }
        // Far from 0, where a call that should not would set it.
        let mut clock: kvm_clock_data = sys::zeroed();
        clock.clock = 4 << CLOCK_STEP;
        vm.set(k::SET_CLOCK, &clock).ok().expect("KVM_SET_CLOCK");
        let mem = Area::anonymous(2 << 20);
        boot::tables(&mem);
        // out 0xe1, al; jmp to it.
        mem.write(CODE as usize, &[0xe6, 0xe1, 0xeb, 0xfc]);
        let slot = |id, gpa, offset: usize, len: usize, flags| {
            let mut r: kvm_userspace_memory_region = sys::zeroed();
            (r.slot, r.flags, r.guest_phys_addr) = (id, flags, gpa);
            (r.memory_size, r.userspace_addr) = (len as u64, (mem.addr() + offset) as u64);
            vm.set(k::SET_USER_MEMORY_REGION, &r).ok().expect("memory");
        };
        slot(0, 0, 0, 1 << 20, 0);
        let len = LOGGED_PAGES * PAGE;
        slot(LOGGED.0, LOGGED.1, 1 << 20, len, KVM_MEM_LOG_DIRTY_PAGES);
        let vcpu = (stage != Stage::Empty).then(|| {
            let v = Vcpu::new(&vm, 0).expect("KVM_CREATE_VCPU");
            let mut c = guest::supported_cpuid(&dev);
            v.fd.bytes(k::SET_CPUID2, &mut c)
                .ok()
                .expect("KVM_SET_CPUID2");
            v.set_sregs(&boot::long_sregs(v.sregs()));
            v.set_regs(&boot::regs(0, CODE));
            if matches!(stage, Stage::Split | Stage::Chips | Stage::Full) {
                // The in-tree module finds an APIC by its id only after something was written to it.
                let l: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
                v.fd.set(k::SET_LAPIC, &l).ok().expect("KVM_SET_LAPIC");
            }
            v
        });
        let args = Area::anonymous((ROOM + 1) * PAGE);
        args.protect(ROOM * PAGE, PAGE, libc::PROT_NONE);
        let constant = Area::anonymous(ROOM * PAGE);
        let mut msrs = msr_list(&dev, k::GET_MSR_INDEX_LIST);
        // The time-stamp counter and what is computed from it; a VM's own clocks.
        msrs.retain(|m| !matches!(m, 0x10 | 0x4000_0010 | 0x4000_0020 | 0xe7 | 0xe8));
        Self {
            dev,
            vm,
            vcpu,
            event: Fd::event(),
            mem,
            args,
            constant,
            msrs,
        }
    }

    /// The descriptor of a kind.
    pub fn fd(&self, on: On) -> &Fd {
        match on {
            On::Dev => &self.dev,
            On::Vm => &self.vm,
            On::Vcpu => &self.vcpu.as_ref().expect("no vCPU at this stage").fd,
        }
    }

    /// An ioctl with an argument that lies in our memory; it ends `short` bytes behind what can be
    /// read, `odd` bytes off its alignment.
    pub fn call(&self, on: On, cmd: u32, arg: &[u8], short: usize, odd: usize) -> Answer {
        let at = if short != 0 {
            let at = ROOM * PAGE + short - arg.len();
            self.args.write(at, &arg[..arg.len() - short]);
            at
        } else {
            self.args.write(64 + odd, arg);
            64 + odd
        };
        self.fd(on).call(cmd, self.args.addr() + at)
    }

    /// An ioctl with its argument in memory that cannot be written.
    pub fn call_constant(&self, on: On, cmd: u32, arg: &[u8]) -> Answer {
        let len = self.constant.len();
        self.constant
            .protect(0, len, libc::PROT_READ | libc::PROT_WRITE);
        self.constant.write(64, arg);
        self.constant.protect(0, len, libc::PROT_READ);
        self.fd(on).call(cmd, self.constant.addr() + 64)
    }

    /// An address that is mapped and cannot be read.
    pub fn hole(&self) -> usize {
        self.args.addr() + ROOM * PAGE
    }

    /// The bytes that a command fills in.
    pub fn state(&self, on: On, cmd: u32, len: usize) -> Vec<u8> {
        let mut b = vec![0; len];
        if self.fd(on).bytes(cmd, &mut b).is_ok() {
            b
        } else {
            vec![0; len]
        }
    }

    /// An address that can be read and not written: of zeros, or of the last argument there.
    pub fn constant(&self) -> usize {
        let len = self.constant.len();
        self.constant.protect(0, len, libc::PROT_READ);
        self.constant.addr() + 64
    }

    /// Puts an argument where it can be read; its address.
    pub fn place(&self, arg: &[u8]) -> usize {
        self.args.write(64, arg);
        self.args.addr() + 64
    }

    /// All state, when no call is unfinished: asking may finish what the last one began, such as an
    /// INIT or SIPI that waits.
    pub fn settled(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.full();
        self.full()
    }

    /// A call that changes nothing if it is refused: it is made again then, and a point says if it
    /// does, or if it is not refused again.
    pub fn steady(
        &self,
        t: &mut Table<'_>,
        what: impl Display,
        mut call: impl FnMut() -> Answer,
    ) -> Answer {
        let a = call();
        if !a.is_ok() {
            let before = self.settled();
            let again = call();
            let changed = self.changed(&before);
            if again != a || !changed.is_empty() {
                let text = format!("{what}: refused ({a}, {again}), but changed {changed:?}");
                t.tap().point(false, text);
            }
        }
        a
    }

    /// Registers and events.
    fn quick(&self) -> Vec<u8> {
        let mut b = Vec::new();
        if self.vcpu.is_some() {
            for (cmd, len) in [
                (k::GET_REGS, size_of::<kvm_regs>()),
                (k::GET_SREGS, size_of::<kvm_sregs>()),
                (k::GET_VCPU_EVENTS, size_of::<kvm_vcpu_events>()),
                (k::GET_DEBUGREGS, size_of::<kvm_debugregs>()),
                (k::GET_MP_STATE, 4),
            ] {
                b.extend(self.state(On::Vcpu, cmd, len));
            }
        }
        b
    }

    /// What changed since `full` was called, in words.
    pub fn changed(&self, before: &[(&'static str, Vec<u8>)]) -> Vec<String> {
        let mut found = Vec::new();
        for ((name, b), (_, a)) in before.iter().zip(self.full()) {
            if *b == a {
                continue;
            }
            if *name == "MSRs" {
                let (b, a) = (String::from_utf8_lossy(b), String::from_utf8_lossy(&a));
                let pairs = b.split(' ').zip(a.split(' ')).filter(|(b, a)| b != a);
                found.extend(pairs.map(|(b, a)| format!("MSR {b} is now {a}")));
            } else {
                let at = b.iter().zip(&a).position(|(b, a)| b != a);
                found.push(format!("{name} at {at:?}"));
            }
        }
        found
    }

    /// All state that does not change by itself.
    pub fn full(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut all = vec![("registers and events", self.quick())];
        if let Some(v) = &self.vcpu {
            for (name, cmd, len) in [
                ("local APIC", k::GET_LAPIC, 1024),
                ("XSAVE", k::GET_XSAVE, 4096),
                ("XCRs", k::GET_XCRS, size_of::<kvm_xcrs>()),
            ] {
                all.push((name, self.state(On::Vcpu, cmd, len)));
            }
            let mut cpuid = guest::list(256, &vec![sys::zeroed::<kvm_cpuid_entry2>(); 256]);
            v.fd.bytes(k::GET_CPUID2, &mut cpuid).is_ok();
            all.push(("CPUID", cpuid));
            let khz = v.fd.call(k::GET_TSC_KHZ, 0).to_string();
            all.push(("TSC rate", khz.into_bytes()));
            all.push(("TSC offset", self.tsc_offset(v).to_vec()));
            let text = v.msrs(&self.msrs).into_iter();
            let text = text.flat_map(|(m, v)| format!("{m:x}={v:x?} ").into_bytes());
            all.push(("MSRs", text.collect()));
        }
        for chip in 0..3u32 {
            let mut b = vec![0u8; size_of::<kvm_irqchip>()];
            b[..4].copy_from_slice(&chip.to_ne_bytes());
            self.vm.bytes(k::GET_IRQCHIP, &mut b).is_ok();
            all.push(("chips", b));
        }
        all.push((
            "PIT",
            self.state(On::Vm, k::GET_PIT2, size_of::<kvm_pit_state2>()),
        ));
        // It goes on, but no test takes minutes.
        let clock: kvm_clock_data = self.vm.get(k::GET_CLOCK).unwrap_or(sys::zeroed());
        all.push(("clock", (clock.clock >> CLOCK_STEP).to_ne_bytes().to_vec()));
        all
    }

    /// What is added to the host's time-stamp counter.
    fn tsc_offset(&self, v: &Vcpu) -> [u8; 8] {
        let mut offset = [0u8; 8];
        let mut a: kvm_device_attr = sys::zeroed();
        (a.group, a.attr) = (KVM_VCPU_TSC_CTRL, u64::from(KVM_VCPU_TSC_OFFSET));
        a.addr = offset.as_mut_ptr() as u64;
        v.fd.set(k::GET_DEVICE_ATTR, &a).is_ok();
        offset
    }
}

/// The MSRs of one of the two lists.
pub fn msr_list(dev: &Fd, cmd: u32) -> Vec<u32> {
    let mut b = vec![0u8; 4 + 4 * 2048];
    b[..4].copy_from_slice(&2048u32.to_ne_bytes());
    dev.bytes(cmd, &mut b).ok().expect("list of MSRs");
    let words: Vec<u32> = b
        .chunks_exact(4)
        .map(|w| u32::from_ne_bytes(w.try_into().unwrap()))
        .collect();
    words[1..=words[0] as usize].to_vec()
}
