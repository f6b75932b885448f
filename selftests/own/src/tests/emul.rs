// SPDX-License-Identifier: GPL-2.0

//! What the module emulates beyond plain moves: vector registers, task switches, UMIP; reports of
//! accesses to the task priority.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::supported_cpuid;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest::PORT_FAULT;
use crate::guest_code;
use crate::host;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// Device memory.
const DEVICE: u64 = 0xe000_0000;

guest_code! {
    vectors,
    "mov ebx, 0xe0000000",
    "mov edi, 0x80000",
    "movups xmm1, [rbx]",
    "movups [rdi], xmm1",
    "movaps xmm9, [rbx + 0x10]",
    "movups [rdi + 16], xmm9",
    "movdqu [rbx + 0x28], xmm1",
    "movntps [rbx + 0x40], xmm9",
    "movq mm3, [rbx + 0x50]",
    "movq [rdi + 32], mm3",
    "movq [rbx + 0x58], mm3",
    "emms",
    // Registers only, after all that: nothing was lost.
    "movaps xmm2, xmm9",
    "movups [rdi + 40], xmm2",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    wide_vectors,
    "mov rax, cr4",
    "bts rax, 18",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "mov ebx, 0xe0000000",
    "mov edi, 0x80000",
    "vmovups ymm1, [rbx]",
    "vmovups [rdi], ymm1",
    "vmovdqa ymm12, [rbx + 0x20]",
    "vmovups [rdi + 32], ymm12",
    "vmovups [rbx + 0x48], ymm12",
    // A load of 16 bytes clears the rest.
    "vmovaps xmm1, [rbx + 0x80]",
    "vmovups [rdi + 64], ymm1",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Runs a guest whose device memory reads as a pattern; its reads and writes.
type Accesses = (Vec<(u64, u32)>, Vec<(u64, Vec<u8>)>);
fn accesses(t: &mut Tap, g: &Guest) -> Accesses {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    loop {
        match g.enter() {
            Ok(Exit::MmioWrite { addr, data }) => writes.push((addr - DEVICE, data)),
            Ok(e @ Exit::MmioRead { addr, len }) => {
                reads.push((addr - DEVICE, len));
                g.cpus[0].answer(&e, &pattern(addr - DEVICE, len as usize));
            }
            e => {
                let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
                t.point(ok, format!("the guest ends: {e:x?}"));
                return (reads, writes);
            }
        }
    }
}

fn pattern(from: u64, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (from as u8).wrapping_add(i as u8) ^ 0xa5)
        .collect()
}

fn supported(t: u32, register: impl Fn(&kvm_cpuid_entry2) -> u32, bit: u32) -> bool {
    let list = supported_cpuid(&crate::guest::dev());
    list[8..]
        .chunks_exact(size_of::<kvm_cpuid_entry2>())
        .any(|b| {
            // SAFETY: the structure is made of integers.
            let e: kvm_cpuid_entry2 =
                unsafe { b.as_ptr().cast::<kvm_cpuid_entry2>().read_unaligned() };
            e.function == t && e.index == 0 && register(&e) >> bit & 1 != 0
        })
}

/// Moves of MMX, SSE and AVX registers from and to device memory.
pub fn vector_moves(t: &mut Tap) {
    let g = Guest::long(vectors());
    let (reads, writes) = accesses(t, &g);
    let want = vec![(0, 8), (8, 8), (0x10, 8), (0x18, 8), (0x50, 8)];
    t.same("reads leave in pieces of eight bytes", reads, want);
    let want = vec![
        (0x28, pattern(0, 8)),
        (0x30, pattern(8, 8)),
        (0x40, pattern(0x10, 8)),
        (0x48, pattern(0x18, 8)),
        (0x58, pattern(0x50, 8)),
    ];
    t.same("writes", writes, want);
    let at = DATA as usize;
    t.same("XMM1 and XMM9", g.mem.read(at, 32), pattern(0, 32));
    t.same("MM3", g.mem.read(at + 32, 8), pattern(0x50, 8));
    t.same("XMM9 later", g.mem.read(at + 40, 16), pattern(0x10, 16));

    // CPUID.1:ECX.AVX
    if !supported(1, |e| e.ecx, 28) {
        return;
    }
    let g = Guest::long(wide_vectors());
    let (reads, writes) = accesses(t, &g);
    let want: Vec<(u64, u32)> = (0..8)
        .map(|i| (8 * i, 8))
        .chain([(0x80, 8), (0x88, 8)])
        .collect();
    t.same("reads of YMM", reads, want);
    let want: Vec<(u64, Vec<u8>)> = (0..4u64)
        .map(|i| (0x48 + 8 * i, pattern(0x20 + 8 * i, 8)))
        .collect();
    t.same("writes of YMM", writes, want);
    t.same("YMM1 and YMM12", g.mem.read(at, 64), pattern(0, 64));
    let mut want = pattern(0x80, 16);
    want.extend([0; 16]);
    t.same("a load of XMM1", g.mem.read(at + 64, 32), want);
}

/// The tasks beside the first, whose TSS is at 0x3000: where their TSS is, and its selector.
const TASKS: [(usize, u16); 3] = [(0x9_0000, 0x30), (0x9_0100, 0x38), (0x9_0200, 0x40)];
const IDT: usize = 0x9_1000;

guest_code! {
    first_task,
    ".code32",
    "mov edx, 0xe0",
    // CALL to the second task, which returns; an exception through a task gate as well.
    ".byte 0x9a; .long 0; .word 0x30",
    "mov eax, 0x11",
    "out dx, eax",
    "ud2",
    "mov eax, 0x12",
    "out dx, eax",
    "mov eax, cr0",
    "shr eax, 3",
    "and eax, 1",
    "out dx, eax",
    // JMP to the third.
    ".byte 0xea; .long 0; .word 0x38",
}

guest_code! {
    second_task,
    ".code32",
    "out dx, eax",
    "inc eax",
    "iretd",
    "out dx, eax",
    "inc eax",
    // The first task goes on behind its UD2.
    "add dword ptr [0x3020], 2",
    "iretd",
    "2: out dx, eax",
    "inc eax",
    "iretd",
    "jmp 2b",
}

guest_code! {
    int_task,
    ".code32",
    "mov edx, 0xe0",
    ".byte 0x9a; .long 0; .word 0x30",
    "ud2",
    "int 0x40",
    "mov eax, 0x13",
    "out dx, eax",
    "int 0x40",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    third_task,
    ".code32",
    "out dx, eax",
    "mov eax, esp",
    "out dx, eax",
    "str ax",
    "movzx eax, ax",
    "out dx, eax",
    // The first task is no longer busy; where it would go on.
    "movzx eax, byte ptr [0x101d]",
    "out dx, eax",
    "movzx eax, byte ptr [0x3048]",
    "out dx, eax",
    "pushfd",
    "pop eax",
    "out dx, eax",
    // #GP with an error code, through a task gate to the fourth.
    "mov eax, 0xfff8",
    "mov ds, eax",
}

guest_code! {
    fourth_task,
    ".code32",
    "pop eax",
    "out dx, eax",
    // The back link.
    "movzx eax, word ptr [0x90200]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A 32-bit TSS for a task at `eip`.
fn tss(g: &Guest, at: usize, eip: u64, esp: u32, eax: u32) {
    g.mem.write(at, &[0; 0x68]);
    g.mem.store::<u32>(at + 0x20, eip as u32);
    g.mem.store::<u32>(at + 0x24, 2);
    g.mem.store::<u32>(at + 0x28, eax);
    g.mem.store::<u32>(at + 0x30, 0xe0);
    g.mem.store::<u32>(at + 0x38, esp);
    for (i, s) in [0x10u32, 0x28, 0x10, 0x10, 0, 0].iter().enumerate() {
        g.mem.store::<u32>(at + 0x48 + 4 * i, *s);
    }
}

/// A 32-bit guest that starts with `first` and has the other tasks.
fn tasks(first: &[u8]) -> Guest {
    let g = Guest::new(Plan::default());
    boot::tables(&g.mem);
    g.load(CODE, first);
    let codes: [&[u8]; 3] = [second_task(), third_task(), fourth_task()];
    for (i, ((at, selector), code)) in TASKS.iter().zip(codes).enumerate() {
        let eip = CODE + 0x1000 * (i as u64 + 1);
        g.load(eip, code);
        tss(
            &g,
            *at,
            eip,
            0x9_8000 + 0x1000 * i as u32,
            0x22 + 0x10 * i as u32,
        );
        // An available 32-bit TSS.
        let d = 0x8900_0000_0067 | (*at as u64 & 0xff_ffff) << 16;
        g.mem.store::<u64>(0x1000 + usize::from(*selector), d);
    }
    for (vector, selector) in [(6usize, 0x30u64), (0x40, 0x30), (13, 0x40)] {
        g.mem
            .store::<u64>(IDT + 8 * vector, 0x8500 << 32 | selector << 16);
    }
    g.start_32(0, CODE);
    let mut s = g.cpus[0].sregs();
    s.gdt.limit = 0x47;
    (s.idt.base, s.idt.limit) = (IDT as u64, 0x7ff);
    g.cpus[0].set_sregs(&s);
    g
}

/// Hardware task switches: CALL, IRET, JMP; exceptions and INT through task gates.
pub fn task_switches(t: &mut Tap) {
    let g = tasks(first_task());
    let want = vec![
        // The second task, the first, the second again, the first; CR0.TS is set.
        0x22, 0x11, 0x23, 0x12, 1,
        // The third: EAX, ESP, TR, the first's descriptor and its ES, flags.
        0x32, 0x9_9000, 0x38, 0x89, 0x10, 2,
        // The fourth: the error code, the back link.
        0xfff8, 0x38,
    ];
    t.same("what the tasks say", g.values(), Some(want));
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    if cpu.contains("AMD Ryzen") {
        println!("# without INT: Bochs's SVM reports it as an external interrupt");
        return;
    }
    let g = tasks(int_task());
    let want = vec![0x22, 0x23, 0x24, 0x13, 0x25];
    t.same("INT through a task gate", g.values(), Some(want));
}

guest_code! {
    table_stores,
    "mov edi, 0x80000",
    "lea r15, [rip + 2f]",
    "sgdt [rdi]",
    "2: mov eax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    "lea r15, [rip + 3f]",
    "sidt [rdi]",
    "3: mov eax, [r14]",
    "out dx, eax",
    "lea r15, [rip + 4f]",
    "sldt [rdi]",
    "4: mov eax, [r14]",
    "out dx, eax",
    "lea r15, [rip + 5f]",
    "str ax",
    "5: mov eax, [r14]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// With UMIP, user mode cannot read where the descriptor tables are; without, it can. Where it is
/// not offered it cannot be switched on.
pub fn umip(t: &mut Tap) {
    // CPUID.7:ECX.UMIP
    if !supported(7, |e| e.ecx, 2) {
        let g = Guest::long(table_stores());
        let mut s = g.cpus[0].sregs();
        s.cr4 |= 1 << 11;
        let r = g.cpus[0].fd.set(k::SET_SREGS, &s);
        t.same("CR4.UMIP is refused", r, Answer::Err(libc::EINVAL));
        return;
    }
    for (on, cpl, want) in [(true, 3u8, 13), (false, 3, 0), (true, 0, 0)] {
        let g = Guest::long(table_stores());
        let v = &g.cpus[0];
        let mut s = v.sregs();
        if on {
            s.cr4 |= 1 << 11;
        }
        for seg in [&mut s.cs, &mut s.ss] {
            seg.dpl = cpl;
            seg.selector |= u16::from(cpl);
        }
        v.set_sregs(&s);
        // RSP0; IOPL 3.
        g.mem.store::<u32>(0x3004, 0x9_f000);
        let mut r = v.regs();
        r.rflags |= 3 << 12;
        v.set_regs(&r);
        t.same(
            format!("UMIP {on}, CPL {cpl}"),
            g.values(),
            Some(vec![want; 4]),
        );
        if want == 0 {
            // Its limit.
            t.same("SLDT came last", g.mem.read(DATA as usize, 2), vec![0, 0]);
        }
    }
}

guest_code! {
    asks_cpuid,
    "xor eax, eax",
    "lea r15, [rip + 2f]",
    "cpuid",
    "2: mov eax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A guest may keep CPUID from its programs.
pub fn cpuid_faulting(t: &mut Tap) {
    const MISC_FEATURES_ENABLES: u32 = 0x140;
    for (on, cpl, want) in [(1, 3u8, 13), (0, 3, 0), (1, 0, 0)] {
        let g = Guest::long(asks_cpuid());
        let v = &g.cpus[0];
        let set = v.set_msr(MISC_FEATURES_ENABLES, on);
        t.same("MISC_FEATURES_ENABLES", set, true);
        let mut s = v.sregs();
        for seg in [&mut s.cs, &mut s.ss] {
            seg.dpl = cpl;
            seg.selector |= u16::from(cpl);
        }
        v.set_sregs(&s);
        // RSP0; IOPL 3.
        g.mem.store::<u32>(0x3004, 0x9_f000);
        let mut r = v.regs();
        r.rflags |= 3 << 12;
        v.set_regs(&r);
        let what = format!("faulting {on}, CPL {cpl}");
        t.same(what, g.values(), Some(vec![want]));
    }
}

/// Code outside 64-bit mode whose last instruction ends at 4 GiB goes on at 0.
pub fn wraps(t: &mut Tap) {
    const LAST: u64 = 0xffff_f000;
    const OFFSET: usize = 0x9_0000;
    let g = Guest::long(&[]);
    let v = &g.cpus[0];
    let r = g.slot(1, LAST, OFFSET, 0x1000, 0);
    t.same("memory below 4 GiB", r, Answer::Ok(0));
    // mov eax, [edi]; then out 0xe1, eax at 0.
    g.mem.write(OFFSET + 0xffe, &[0x8b, 0x07]);
    g.mem.write(0, &[0xe7, 0xe1]);
    let mut s = v.sregs();
    (s.cs.l, s.cs.db, s.cs.selector) = (0, 1, 0x28);
    v.set_sregs(&s);
    let mut r = v.regs();
    (r.rip, r.rdi) = (0xffff_fffe, 0xe000_0010);
    v.set_regs(&r);
    let read = Exit::MmioRead {
        addr: 0xe000_0010,
        len: 4,
    };
    t.same("a read of device memory", g.enter(), Ok(read.clone()));
    v.answer(&read, &[1, 2, 3, 4]);
    // Some processors would refuse to enter with more than 32 bits; emulators ignore them.
    v.immediate_exit(true);
    t.same("it is carried out", g.enter(), Err(libc::EINTR));
    v.immediate_exit(false);
    t.same("RIP", v.regs().rip, 0);
    let at_end = matches!(g.enter(), Ok(Exit::Out { port: PORT_END, .. }));
    t.point(at_end, "the guest goes on");
    t.same("with what it read", v.regs().rax, 0x0403_0201);
}

guest_code! {
    traps_itself,
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    // INT1.
    ".byte 0xf1",
    "2: mov eax, [r14 + 16]",
    "sub eax, r15d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// INT1 is a trap: RIP is behind it.
pub fn int1(t: &mut Tap) {
    let g = Guest::long(traps_itself());
    t.same("RIP of the handler's frame", g.values(), Some(vec![0]));
    let at = boot::mailbox(0) + mailbox::COUNTS + 2;
    t.same("one trap", g.mem.load::<u16>(at), 1);
    // With a debugger that waits for something else: AMD's processors exit before the instruction,
    // and the trap is the guest's all the same; Intel's exit with the trap.
    let g = Guest::long(traps_itself());
    let mut d: kvm_guest_debug = crate::sys::zeroed();
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    d.arch.debugreg = [0, 0x1234_5678, 0, 0, 0, 0, 0, 0x408];
    let r = g.cpus[0].fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("a debugger", r, Answer::Ok(0));
    if crate::table::intel() {
        let e = g.enter();
        let debug = matches!(e, Ok(Exit::Debug { exception: 1, .. }));
        t.point(debug, format!("the trap is the debugger's: {e:x?}"));
    } else {
        t.same("the trap is the guest's", g.values(), Some(vec![0]));
        t.same("one", g.mem.load::<u16>(at), 1);
    }
}

guest_code! {
    priorities,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0x80], 0x20",
    "mov eax, [rbx + 0x80]",
    "mov edx, 0xe0",
    "out dx, eax",
    // A patched guest writes its word instead, without an exit.
    "mov byte ptr [0x80100], 0x30",
    "out dx, eax",
    "mov eax, [0x80100]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// KVM_TPR_ACCESS_REPORTING and KVM_SET_VAPIC_ADDR. With a virtual APIC there is nothing to report, as
/// no access exits.
pub fn task_priority(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, priorities());
    let v = &g.cpus[0];
    let set = |addr: u64| {
        v.fd.set(k::SET_VAPIC_ADDR, &kvm_vapic_addr { vapic_addr: addr })
    };
    t.same(
        "a word where no memory is",
        set(0xe000_0000),
        Answer::Err(libc::EINVAL),
    );
    let mut ctl: kvm_tpr_access_ctl = crate::sys::zeroed();
    ctl.flags = 1;
    let r = v.fd.set(k::TPR_ACCESS_REPORTING, &ctl);
    t.same("flags that do not exist", r, Answer::Err(libc::EINVAL));
    (ctl.flags, ctl.enabled) = (0, 1);
    let r = v.fd.set(k::TPR_ACCESS_REPORTING, &ctl);
    t.same("reports on", r, Answer::Ok(0));
    // The instructions: after MOV EBX, and ten bytes behind that.
    let reports = [(CODE + 5, 1u32), (CODE + 15, 0)];
    let made = if host::has_virtual_apic() { 0 } else { 2 };
    for (rip, write) in &reports[..made] {
        let e = g.enter();
        t.same(
            "an access to the TPR",
            e,
            Ok(Exit::Other(KVM_EXIT_TPR_ACCESS)),
        );
        t.same("its RIP", v.run.load::<u64>(32), *rip);
        t.same("is it a write?", v.run.load::<u32>(40), *write);
    }
    let e = g.enter();
    let read = matches!(&e, Ok(Exit::Out { port: 0xe0, data, .. }) if data[0] == 0x20);
    t.point(read, format!("what the guest reads there: {e:x?}"));
    // From here on the word counts.
    t.same("a word", set(0x8_0100), Answer::Ok(0));
    let want = Some(vec![0x20, 0x30]);
    t.same("what it reads in the word", g.values(), want);
    let lapic: kvm_lapic_state = v.fd.get(k::GET_LAPIC).expect("KVM_GET_LAPIC");
    t.same("the TPR", lapic.regs[0x80] as u8, 0x30);
}

guest_code! {
    forced,
    "mov edx, 0xe0",
    "mov eax, 41",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "inc eax",
    "out dx, eax",
    // Locked, not aligned; then across two pages.
    "mov ebx, 0x80003",
    "mov dword ptr [rbx], 7",
    "mov ecx, 5",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "lock xadd [rbx], ecx",
    "mov eax, ecx",
    "out dx, eax",
    "mov eax, [rbx]",
    "out dx, eax",
    "mov ebx, 0x80ffe",
    "mov dword ptr [rbx], 9",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "lock add dword ptr [rbx], 5",
    "mov eax, [rbx]",
    "out dx, eax",
    // KVM_HC_VAPIC_POLL_IRQ, in both vendors' forms.
    "mov eax, 1",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "vmcall",
    "out dx, eax",
    "mov eax, 1",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "vmmcall",
    "out dx, eax",
    // To LSTAR, and back.
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "syscall",
    // What nobody emulates is undefined.
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "fsin",
    "2: mov eax, [r14]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    called,
    "mov eax, 0x55",
    "out dx, eax",
    "mov rax, cs",
    "out dx, eax",
    "jmp rcx",
}

/// The parameter force_emulation_prefix: what follows UD2 and "kvm" is emulated.
pub fn forced_emulation(t: &mut Tap) {
    const PARAM: &str = "/sys/module/kvm/parameters/force_emulation_prefix";
    let before = std::fs::read_to_string(PARAM).expect(PARAM);
    let set = |v: &str| std::fs::write(PARAM, v).expect(PARAM);
    set("0");
    let (_, e) = Guest::long(forced()).values_of(0);
    let ud = matches!(&e, Ok(Exit::Out { port: PORT_FAULT, data, .. }) if data[0] == 6);
    t.point(ud, format!("without it the prefix is undefined: {e:x?}"));
    set("1");
    let g = Guest::long(forced());
    g.load(CODE + 0x800, called());
    let v = &g.cpus[0];
    let mut s = v.sregs();
    // SCE.
    s.efer |= 1;
    v.set_sregs(&s);
    for (msr, value) in [(0xc000_0081, 0x08 << 32), (0xc000_0082, CODE + 0x800)] {
        t.point(v.set_msr(msr, value), format!("MSR {msr:#x}"));
    }
    let values = g.values();
    set(before.trim());
    let want = vec![42, 7, 12, 14, 0, 0, 0x55, 8, 6];
    t.same("what was emulated", values, Some(want));
}
