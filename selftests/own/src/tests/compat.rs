// SPDX-License-Identifier: GPL-2.0

//! Ioctls of 32-bit programs: what has a pointer in its structure is another structure there.

use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// `KVM_X86_SET_MSR_FILTER` where a pointer has four bytes.
const SET_MSR_FILTER_32: u32 = 0x4104_aec6;
/// What is in the half of a pointer that a 32-bit program does not write.
const JUNK: u32 = 0xdead_beef;
/// The MSR that the filter keeps to itself.
const SYSENTER_CS: u32 = 0x174;
/// A slot whose writes are logged, and where it is.
const SLOT: u32 = 1;
const LOGGED: u64 = 0x100_0000;
/// Places in the area that both can address.
const LOG: usize = 0;
const FILTER: usize = 0x100;
const MASK: usize = 0x400;
const BITS: usize = 0x800;

guest_code! {
    writes_and_reads,
    "mov ebx, 0x1003008",
    "mov [rbx], ebx",
    "mov edx, 0xe1",
    "out dx, eax",
    "mov ecx, 0x174",
    "rdmsr",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, eax",
}

/// What the program and its areas are: calls with structures that start at an offset.
struct Program<'a> {
    fd: &'a Fd,
    area: &'a Area,
}

impl Program<'_> {
    fn call(&self, cmd: u32, at: usize) -> Answer {
        sys::ioctl_32(self.fd.raw(), cmd, (self.area.addr() + at) as u32)
    }

    fn words(&self, at: usize, words: &[u32]) {
        for (i, w) in words.iter().enumerate() {
            self.area.store(at + 4 * i, *w);
        }
    }
}

/// Structures with pointers, others, and numbers.
pub fn ioctls(t: &mut Tap) {
    // Only a kernel that runs 32-bit programs has it.
    if !std::path::Path::new("/proc/sys/abi/vsyscall32").exists() {
        return t.skip("the kernel runs no 32-bit programs");
    }
    let area = Area::below_4g(sys::PAGE);
    let base = area.addr() as u32;
    let plan = crate::guest::Plan {
        mem: 4 << 20,
        ..Default::default()
    };
    let g = Guest::long_with(plan, writes_and_reads());
    let version = sys::ioctl_32(g.dev.raw(), k::GET_API_VERSION, 0);
    t.same("the version", version, Answer::Ok(12));
    let vm = Program {
        fd: &g.vm,
        area: &area,
    };
    dirty_log(t, &g, &vm, base);
    filter(t, &g, &vm, base);
    signal_mask(t, &g, &area);
}

/// A bitmap is read, cleared, and read again.
fn dirty_log(t: &mut Tap, g: &Guest, vm: &Program<'_>, base: u32) {
    let on = enable(&g.vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 1);
    t.same("manual protection", on, Answer::Ok(0));
    let ok = g.slot(SLOT, LOGGED, 2 << 20, 1 << 20, KVM_MEM_LOG_DIRTY_PAGES);
    t.same("a slot with a log", ok, Answer::Ok(0));
    t.point(
        matches!(g.enter(), Ok(Exit::Out { port: PORT_END, .. })),
        "a write",
    );
    let read = |what: &str, t: &mut Tap, want: u64| {
        vm.words(LOG, &[SLOT, 0, base + BITS as u32, JUNK]);
        let r = vm.call(k::GET_DIRTY_LOG, LOG);
        t.same(format!("{what}: KVM_GET_DIRTY_LOG"), r, Answer::Ok(0));
        t.same(format!("{what}: the bits"), vm.area.load(BITS), want);
    };
    read("after it", t, 1 << 3);
    vm.area.store::<u64>(BITS, 1 << 3);
    vm.words(LOG, &[SLOT, 256, 0, 0, base + BITS as u32, JUNK]);
    let r = vm.call(k::CLEAR_DIRTY_LOG, LOG);
    t.same("KVM_CLEAR_DIRTY_LOG", r, Answer::Ok(0));
    read("cleared", t, 0);
    vm.words(LOG, &[SLOT, 0, 0x1000, 0]);
    let r = vm.call(k::GET_DIRTY_LOG, LOG);
    t.same("no memory there", r, Answer::Err(libc::EFAULT));
}

/// A filter of 260 bytes keeps an MSR from the guest.
fn filter(t: &mut Tap, g: &Guest, vm: &Program<'_>, base: u32) {
    let on = enable(
        &g.vm,
        KVM_CAP_X86_USER_SPACE_MSR,
        u64::from(KVM_MSR_EXIT_REASON_FILTER),
    );
    t.same("filtered accesses exit", on, Answer::Ok(0));
    // The first bit is that of the MSR: neither read nor written.
    vm.area.store::<u64>(BITS, 0xfe);
    vm.words(FILTER, &[0; 65]);
    let both = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE;
    vm.words(FILTER + 4, &[both, 8, SYSENTER_CS, base + BITS as u32]);
    let wide = g.vm.call(SET_MSR_FILTER_32, vm.area.addr() + FILTER);
    t.same("of a 64-bit program", wide, Answer::Err(libc::ENOTTY));
    let r = vm.call(SET_MSR_FILTER_32, FILTER);
    t.same("KVM_X86_SET_MSR_FILTER", r, Answer::Ok(0));
    t.same("it works", g.enter(), Ok(Exit::Other(KVM_EXIT_X86_RDMSR)));
    vm.words(FILTER, &[2]);
    let r = vm.call(SET_MSR_FILTER_32, FILTER);
    t.same("a flag that does not exist", r, Answer::Err(libc::EINVAL));
    vm.words(FILTER, &[0, both, 8, SYSENTER_CS, 0x1000]);
    let r = vm.call(SET_MSR_FILTER_32, FILTER);
    t.same("a bitmap nowhere", r, Answer::Err(libc::EFAULT));
}

/// The set of signals has eight bytes here as well.
fn signal_mask(t: &mut Tap, g: &Guest, area: &Area) {
    let vcpu = Program {
        fd: &g.cpus[0].fd,
        area,
    };
    vcpu.words(MASK, &[8, 0, 0]);
    let r = vcpu.call(k::SET_SIGNAL_MASK, MASK);
    t.same("KVM_SET_SIGNAL_MASK", r, Answer::Ok(0));
    vcpu.words(MASK, &[4]);
    let r = vcpu.call(k::SET_SIGNAL_MASK, MASK);
    t.same("half a set", r, Answer::Err(libc::EINVAL));
    let r = sys::ioctl_32(vcpu.fd.raw(), k::SET_SIGNAL_MASK, 0);
    t.same("none", r, Answer::Ok(0));
}
