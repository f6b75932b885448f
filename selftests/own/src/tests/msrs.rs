// SPDX-License-Identifier: GPL-2.0

//! MSRs: in instructions that are emulated, machine checks, speculation control.

use crate::guest::boot;
use crate::guest::supported_cpuid;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Fd;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::OpenOptionsExt;

const PREFIX: &str = "/sys/module/kvm/parameters/force_emulation_prefix";

guest_code! {
    emulated,
    // One that exists, by the emulator.
    "mov ecx, 0xc0000102",
    "mov eax, 0x1234000",
    "xor edx, edx",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "wrmsr",
    "xor eax, eax",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "rdmsr",
    "mov edx, 0xe0",
    "out dx, eax",
    // One that does not.
    "mov ecx, 0x12345",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "rdmsr",
    "2: mov r8d, edx",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, r8d",
    "out dx, eax",
    "mov ecx, 0x12345",
    "mov eax, 7",
    "mov edx, 8",
    "lea r15, [rip + 3f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "wrmsr",
    "inc r9d",
    "3: mov edx, 0xe0",
    "mov eax, r9d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// What `struct kvm_run` says of an MSR exit: write, reason, index, value.
fn msr_exit(g: &Guest, e: &Result<Exit, i32>) -> Option<(bool, u32, u32, u64)> {
    let write = match e {
        Ok(Exit::Other(KVM_EXIT_X86_RDMSR)) => false,
        Ok(Exit::Other(KVM_EXIT_X86_WRMSR)) => true,
        _ => return None,
    };
    let run = &g.cpus[0].run;
    Some((write, run.load(40), run.load(44), run.load(48)))
}

/// RDMSR and WRMSR in emulated code go to user space where it asked for that.
pub fn emulated_msrs(t: &mut Tap) {
    let before = std::fs::read_to_string(PREFIX).expect(PREFIX);
    std::fs::write(PREFIX, "1").expect(PREFIX);
    let unknown = 0x12345;
    // Nobody asked: #GP, and the registers stay.
    let g = Guest::long(emulated());
    let plain = g.values();
    // User space answers.
    let g = Guest::long(emulated());
    let r = crate::guest::enable(&g.vm, KVM_CAP_X86_USER_SPACE_MSR, 2);
    let (first, e) = g.values_of(0);
    let read = msr_exit(&g, &e);
    g.cpus[0].run.store::<u64>(48, 0xaaaa_0000_bbbb);
    g.cpus[0].run.store::<u8>(32, 0);
    let (second, e) = g.values_of(0);
    let write = msr_exit(&g, &e);
    g.cpus[0].run.store::<u8>(32, 0);
    let third = g.values();
    // User space refuses.
    let g = Guest::long(emulated());
    crate::guest::enable(&g.vm, KVM_CAP_X86_USER_SPACE_MSR, 2)
        .ok()
        .ok();
    g.values_of(0).1.ok();
    g.cpus[0].run.store::<u8>(32, 1);
    g.values_of(0).1.ok();
    g.cpus[0].run.store::<u8>(32, 1);
    let refused = g.values();
    let faults: u16 = g.mem.load(boot::mailbox(0) + 128 + 2 * 13);
    // The filter takes the read of one that exists.
    let g = Guest::long(emulated());
    let filter = deny_read(&g.vm, 0xc000_0102);
    crate::guest::enable(&g.vm, KVM_CAP_X86_USER_SPACE_MSR, 4)
        .ok()
        .expect("KVM_CAP_X86_USER_SPACE_MSR");
    let filtered = msr_exit(&g, &g.enter());
    std::fs::write(PREFIX, before.trim()).expect(PREFIX);

    t.same(
        "nobody asked",
        plain,
        Some(vec![0x123_4000, 0x123_4000, 0xe0, 0]),
    );
    t.same("asked", r, Answer::Ok(0));
    t.same("what exists does not exit", first, vec![0x123_4000]);
    t.same("RDMSR", read, Some((false, 2, unknown, 0)));
    t.same("is answered", second, vec![0xbbbb, 0xaaaa]);
    t.same("WRMSR", write, Some((true, 2, unknown, 7 | 8 << 32)));
    t.same("is done", third, Some(vec![1]));
    t.same("refused", refused, Some(vec![0]));
    t.same("with #GP", faults, 2);
    t.same("the filter", filter, Answer::Ok(0));
    t.same("is asked", filtered, Some((false, 4, 0xc000_0102, 0)));
}

/// `KVM_X86_SET_MSR_FILTER`: one MSR cannot be read. The ranges have 24 bytes each, from byte 8 on.
fn deny_read(vm: &Fd, msr: u32) -> Answer {
    let none = 0u64;
    let mut filter = [0u8; 0x188];
    filter[8..12].copy_from_slice(&KVM_MSR_FILTER_READ.to_ne_bytes());
    filter[12..16].copy_from_slice(&1u32.to_ne_bytes());
    filter[16..20].copy_from_slice(&msr.to_ne_bytes());
    let bitmap = std::ptr::from_ref(&none).addr() as u64;
    filter[24..32].copy_from_slice(&bitmap.to_ne_bytes());
    vm.bytes(k::X86_SET_MSR_FILTER, &mut filter)
}

guest_code! {
    checked,
    // CR4.MCE as ESI says.
    "mov rax, cr4",
    "btr eax, 6",
    "or eax, esi",
    "mov cr4, rax",
    "lea r15, [rip + 2f]",
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "nop",
    "2: mov ecx, 0x409",
    "rdmsr",
    "mov r8d, edx",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, r8d",
    "out dx, eax",
    "mov ecx, 0x17a",
    "rdmsr",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Machine checks: the banks are set up, errors are logged, an exception or the end of the guest.
pub fn machine_checks(t: &mut Tap) {
    let dev = crate::guest::dev();
    let cap: u64 = dev
        .get(k::X86_GET_MCE_CAP_SUPPORTED)
        .expect("KVM_X86_GET_MCE_CAP_SUPPORTED");
    t.point(cap >> 8 & 1 == 1, format!("MCG_CTL is offered: {cap:#x}"));
    // Valid, enabled; an error that the guest's software must act on.
    let (valid, uc, en, misc) = (1u64 << 63, 1u64 << 61, 1u64 << 60, 1u64 << 59);
    let report = |g: &Guest, status: u64, mcg: u64| {
        let mut m: kvm_x86_mce = sys::zeroed();
        (m.bank, m.status, m.mcg_status) = (2, status, mcg);
        (m.addr, m.misc) = (0x1234, 0x5678);
        g.cpus[0].fd.set(k::X86_SET_MCE, &m)
    };
    let start = |mce: bool| {
        let g = Guest::long(checked());
        let v = &g.cpus[0];
        let mut r = v.regs();
        r.rsi = if mce { 1 << 6 } else { 0 };
        v.set_regs(&r);
        let ten = v.fd.set(k::X86_SETUP_MCE, &(10u64 | 1 << 8));
        let on = v.set_msr(0x17b, u64::MAX);
        let bank = v.set_msr(0x408, u64::MAX);
        let one = matches!(g.enter(), Ok(Exit::Out { port: 0xe0, .. }));
        (g, ten, on && bank, one)
    };
    let (g, ten, on, one) = start(true);
    t.same("ten banks", (ten, on, one), (Answer::Ok(0), true, true));
    let v = &g.cpus[0];
    t.same("MCG_CAP", v.msr(0x179).map(|c| c & 0xff), Some(10));
    let r = v.fd.set(k::X86_SETUP_MCE, &(10u64 | 1 << 40));
    t.same("what is not offered", r, Answer::Err(libc::EINVAL));
    let r = report(&g, valid | en | misc | 0x11, 0);
    t.same("a corrected error", r, Answer::Ok(0));
    t.same("is logged", v.msr(0x409), Some(valid | en | misc | 0x11));
    t.same(
        "with its place",
        (v.msr(0x40a), v.msr(0x40b)),
        (Some(0x1234), Some(0x5678)),
    );
    let r = report(&g, valid | uc | en | 0x22, 5);
    t.same("an uncorrected one", r, Answer::Ok(0));
    let over = 1u32 << 30;
    let high = ((valid | uc | en) >> 32) as u32 | over;
    let v = g.values();
    t.same("is an exception", v, Some(vec![0x22, high, 5]));
    let n: u16 = g.mem.load(boot::mailbox(0) + 128 + 2 * 18);
    t.same("once", n, 1);
    // SS, RSP and RFLAGS are at the top of the stack.
    let pushed: u64 = g.mem.load(0xa_0000 - 24);
    t.same("an abort has no RF", pushed & (1 << 16), 0);
    // Without CR4.MCE the guest is at its end.
    let (g, ..) = start(false);
    t.same("again", report(&g, valid | uc | en, 5), Answer::Ok(0));
    t.same("without CR4.MCE", g.enter(), Ok(Exit::Shutdown));
}

guest_code! {
    control,
    "mov edx, 0xe0",
    "mov ecx, 0x48",
    "lea r15, [rip + 2f]",
    "mov eax, esi",
    "xor edx, edx",
    "wrmsr",
    "rdmsr",
    "2: mov edx, 0xe0",
    "out dx, eax",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov ecx, 0x49",
    "lea r15, [rip + 3f]",
    "mov eax, 1",
    "xor edx, edx",
    "wrmsr",
    "3: mov eax, [r14 + 40]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// CPUID bits of IBRS, STIBP, SSBD, IBPB, of both vendors.
fn speculation(dev: &Fd) -> (bool, bool) {
    let list = supported_cpuid(dev);
    let (mut ctrl, mut pred) = (false, false);
    for b in list[8..].chunks_exact(size_of::<kvm_cpuid_entry2>()) {
        let e: kvm_cpuid_entry2 = sys::from_bytes(b);
        match (e.function, e.index) {
            (7, 0) => {
                ctrl |= e.edx & (1 << 26 | 1 << 27 | 1 << 31) != 0;
                pred |= e.edx & 1 << 26 != 0;
            }
            (0x8000_0008, _) => {
                ctrl |= e.ebx & (1 << 14 | 1 << 15 | 1 << 24) != 0;
                pred |= e.ebx & 1 << 12 != 0;
            }
            _ => {}
        }
    }
    (ctrl, pred)
}

/// IA32_SPEC_CTRL and IA32_PRED_CMD are the guest's where CPUID offers them, and `#GP` where not.
pub fn spec_ctrl(t: &mut Tap) {
    let g = Guest::long(control());
    let (ctrl, pred) = speculation(&g.dev);
    println!("# SPEC_CTRL {ctrl}, PRED_CMD {pred}");
    let faults = u32::from(!ctrl);
    let want = vec![0, faults, faults + u32::from(!pred)];
    t.same("written and read by the guest", g.values(), Some(want));
    // Whatever the guest leaves there, the host's is not touched: another vCPU starts with 0.
    let g = Guest::long(control());
    t.same("a new one has 0", g.cpus[0].msr(0x48).unwrap_or(0), 0);
}

guest_code! {
    numbers_itself,
    "mov ecx, 0xc0000103",
    "xor edx, edx",
    "mov eax, 0x1234",
    "wrmsr",
    "rdtscp",
    "mov r8d, ecx",
    "mov ecx, 0xc0000103",
    "xor edx, edx",
    "mov eax, 0x5678",
    "wrmsr",
    "rdtscp",
    "mov edx, 0xe0",
    "mov eax, r8d",
    "out dx, eax",
    "mov eax, ecx",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// TSC_AUX: what the guest writes is what RDTSCP reads, at once and not only after the next exit
/// to user space.
pub fn tsc_aux(t: &mut Tap) {
    let g = Guest::long(numbers_itself());
    t.same("RDTSCP", g.values(), Some(vec![0x1234, 0x5678]));
    t.same("outside", g.cpus[0].msr(0xc000_0103), Some(0x5678));
}

guest_code! {
    reads_entry,
    "mov ecx, 0x176",
    "rdmsr",
    "mov esi, edx",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, esi",
    "out dx, eax",
    "mov ecx, 0x175",
    "mov eax, 0x2345678",
    "mov edx, 0xffff8881",
    "wrmsr",
    "rdmsr",
    "mov esi, edx",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, esi",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A guest that takes its processor for one of Intel's.
fn of_intel() -> Guest {
    let g = Guest::long(reads_entry());
    let mut list = supported_cpuid(&g.dev);
    boot::set_apic_id(&mut list, 0);
    for e in list[8..].chunks_exact_mut(size_of::<kvm_cpuid_entry2>()) {
        if e[..4] == [0; 4] {
            e[16..20].copy_from_slice(b"Genu");
            e[24..28].copy_from_slice(b"ineI");
            e[20..24].copy_from_slice(b"ntel");
        }
    }
    g.cpus[0]
        .fd
        .bytes(k::SET_CPUID2, &mut list)
        .ok()
        .expect("KVM_SET_CPUID2");
    g
}

/// SYSENTER_EIP and SYSENTER_ESP have 64 bits on Intel's processors, which guests on others may have
/// been promised, and 32 on AMD's.
pub fn sysenter_halves(t: &mut Tap) {
    let (eip, esp) = (0xffff_ffff_8123_4567, 0xffff_8881_0234_5678);
    let g = Guest::long(reads_entry());
    t.same("set", g.cpus[0].set_msr(0x176, eip), true);
    let bits = if table::intel() { eip } else { 0x8123_4567 };
    t.same("the host's own kind", g.cpus[0].msr(0x176), Some(bits));

    let g = of_intel();
    let v = &g.cpus[0];
    t.same("set for Intel's", v.set_msr(0x176, eip), true);
    t.same("all of it", v.msr(0x176), Some(eip));
    let halves = |x: u64| [x as u32, (x >> 32) as u32];
    let want = [halves(eip), halves(esp)].concat();
    t.same("the guest reads and writes it", g.values(), Some(want));
    t.same("and so it stays", v.msr(0x175), Some(esp));
    t.same("that, too", v.msr(0x176), Some(eip));
}

/// Addresses in MSRs have 57 bits where the processor has that many, whatever the host's kernel uses
/// (`no5lvl`).
pub fn wide_addresses(t: &mut Tap) {
    let g = Guest::long(reads_entry());
    let v = &g.cpus[0];
    let wide = supported_cpuid(&g.dev)[8..].chunks_exact(40).any(|e| {
        // Leaf 7, ECX: LA57.
        (&e[..8], e[22] & 1) == (&[7, 0, 0, 0, 0, 0, 0, 0], 1)
    });
    println!("# addresses of 57 bits: {wide}");
    for (index, name) in [
        (0xc000_0082, "LSTAR"),
        (0xc000_0083, "CSTAR"),
        (0xc000_0100, "FS base"),
        (0xc000_0101, "GS base"),
        (0xc000_0102, "KERNEL_GS_BASE"),
    ] {
        let high = 0xff11_0000_0234_5678;
        t.same(format!("{name}: set"), v.set_msr(index, high), wide);
        let want = if wide { high } else { 0 };
        t.same(format!("{name}: as it was"), v.msr(index), Some(want));
        let higher = 0xf111_0000_0234_5678;
        let r = v.set_msr(index, higher);
        t.same(format!("{name}: more"), r, false);
    }
}

/// Lines of the host's log from now on.
struct Log(std::fs::File);

impl Log {
    fn new() -> Self {
        let mut f = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .expect("/dev/kmsg");
        f.seek(SeekFrom::End(0)).expect("/dev/kmsg");
        Self(f)
    }

    /// What the module said of ignored accesses since the last time, without the process.
    fn ignored(&mut self) -> Vec<String> {
        let mut found = Vec::new();
        let mut line = [0; 4096];
        while let Ok(n) = self.0.read(&mut line) {
            let text = String::from_utf8_lossy(&line[..n]).into_owned();
            let text = text.lines().next().unwrap_or_default();
            if let Some((head, what)) = text.split_once("]: ignored ") {
                let head = head.rsplit(';').next().unwrap_or_default();
                let own = format!("kvm [{}", std::process::id());
                found.push(format!("{} {what}", head == own));
            }
        }
        found
    }
}

/// Unknown MSRs with the parameter `ignore_msrs`: no faults, but lines in the log, which
/// `report_ignored_msrs` takes away.
pub fn ignored_msrs(t: &mut Tap) {
    const UNKNOWN: u32 = 0x12345;
    let set = |name: &str, v: &str| {
        let path = format!("/sys/module/kvm/parameters/{name}");
        let before = std::fs::read_to_string(&path).expect(name);
        std::fs::write(&path, v).expect(name);
        before
    };
    let g = Guest::long(emulated());
    let v = &g.cpus[0];
    let access = || (v.msr(UNKNOWN), v.set_msr(UNKNOWN, 5));
    let mut log = Log::new();
    t.same("faults", access(), (None, false));
    t.same("nothing in the log", log.ignored(), vec![]);
    let before = set("ignore_msrs", "1");
    let ignored = access();
    let said = log.ignored();
    let report = set("report_ignored_msrs", "0");
    let silent = access();
    let unsaid = log.ignored();
    set("report_ignored_msrs", report.trim());
    set("ignore_msrs", before.trim());
    t.same("ignored", ignored, (Some(0), true));
    let want = ["rdmsr: 0x12345 data 0x0", "wrmsr: 0x12345 data 0x5"];
    let want: Vec<_> = want.map(|l| format!("true {l}")).into();
    t.same("two lines", said, want);
    t.same("ignored in silence", silent, (Some(0), true));
    t.same("no line", unsaid, vec![]);
    t.same("faults again", access(), (None, false));
}
