// SPDX-License-Identifier: GPL-2.0

//! What an instruction leaves that the module emulated: bases of segments, what a gate says, and
//! that it was the one that the guest executed.

use crate::guest::boot;
use crate::guest::supported_cpuid;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// The parameter that has what follows UD2 and "kvm" emulated.
const PARAM: &str = "/sys/module/kvm/parameters/force_emulation_prefix";

/// Runs `f` with the parameter set. Processors that say of a fault that it would push RF have it
/// cleared: the prefix is none to the guest.
pub(super) fn forced<R>(f: impl FnOnce() -> R) -> R {
    let before = std::fs::read_to_string(PARAM).expect(PARAM);
    std::fs::write(PARAM, "3").expect(PARAM);
    let r = f();
    std::fs::write(PARAM, before.trim()).expect(PARAM);
    r
}

guest_code! {
    writes_bases,
    "mov esi, 0xc0000100",
    // FS.base, GS.base, KERNEL_GS_BASE.
    "2: mov ecx, esi",
    "mov eax, ecx",
    "mov edx, 0x1234",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "wrmsr",
    "inc esi",
    "cmp esi, 0xc0000103",
    "jne 2b",
    "mov esi, 0xc0000100",
    "3: mov ecx, esi",
    "rdmsr",
    "mov edi, edx",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, edi",
    "out dx, eax",
    "inc esi",
    "cmp esi, 0xc0000103",
    "jne 3b",
    "mov edx, 0xe1",
    "out dx, al",
}

/// WRMSR of what is also a segment's base.
pub fn bases(t: &mut Tap) {
    let g = Guest::long(writes_bases());
    let want = (0xc000_0100..0xc000_0103).flat_map(|v| [v, 0x1234]);
    t.same(
        "what RDMSR reads",
        forced(|| g.values()),
        Some(want.collect()),
    );
    let s = g.cpus[0].sregs();
    let bases = (s.fs.base, s.gs.base);
    let want = (0x1234_c000_0100, 0x1234_c000_0101);
    t.same("the bases of FS and GS", bases, want);
}

guest_code! {
    // The vector, its error code and how far behind the instruction RIP was, for each of four.
    interrupts,
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    "3: int 0x40",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    "3: int 0x41",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    "3: int 0x42",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    "3: int3",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "mov edx, 0xe1",
    "out dx, al",
    "9: mov eax, [r14]",
    "out dx, eax",
    "mov eax, [r14 + 8]",
    "out dx, eax",
    "mov eax, [r14 + 16]",
    "sub eax, ecx",
    "out dx, eax",
    "ret",
}

guest_code! {
    forced_interrupts,
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: int 0x40",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: int 0x41",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: int 0x42",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: int3",
    "2: lea ecx, [rip + 3b]",
    "call 9f",
    "mov edx, 0xe1",
    "out dx, al",
    "9: mov eax, [r14]",
    "out dx, eax",
    "mov eax, [r14 + 8]",
    "out dx, eax",
    "mov eax, [r14 + 16]",
    "sub eax, ecx",
    "out dx, eax",
    "ret",
}

/// A program's INT n and INT3 need gates that let it through; the processor's own answers are what
/// is expected. In-tree nobody emulates them, so that they are undefined there.
pub fn gates(t: &mut Tap) {
    const UD: u32 = 6;
    let values = |code| {
        let g = Guest::long(code);
        // 0x41 is the program's; 0x42 is, too, but absent.
        for (vector, attr) in [(0x41, 0xee), (0x42, 0x6e)] {
            g.mem.store::<u8>(0x2000 + 16 * vector + 5, attr);
        }
        let v = &g.cpus[0];
        let mut s = v.sregs();
        // Segments that a handler can return to.
        g.mem.store::<u64>(0x1030, 0x00af_fb00_0000_ffff);
        g.mem.store::<u64>(0x1038, 0x00cf_f300_0000_ffff);
        s.gdt.limit = 8 * 8 - 1;
        (s.cs.selector, s.ss.selector) = (0x33, 0x3b);
        (s.cs.dpl, s.ss.dpl) = (3, 3);
        v.set_sregs(&s);
        // RSP0; IOPL 3.
        g.mem.store::<u32>(0x3004, 0x9_f000);
        let mut r = v.regs();
        r.rflags |= 3 << 12;
        v.set_regs(&r);
        // A handler of the program's own interrupts leaves the RIP of the fault before.
        let all = g.values()?;
        let rip = |c: &[u32]| if c[0] < 32 { c[2] } else { 0 };
        Some(all.chunks(3).map(|c| (c[0], c[1], rip(c))).collect())
    };
    let own: Option<Vec<(u32, u32, u32)>> = values(interrupts());
    let want = vec![
        (13, 0x202, 0),
        (0x41, 0x202, 0),
        (11, 0x212, 0),
        (13, 0x1a, 0),
    ];
    t.same("the processor's", own, Some(want.clone()));
    let emulated = forced(|| values(forced_interrupts()));
    if emulated
        .as_ref()
        .is_some_and(|v| v.iter().all(|c| c.0 == UD))
    {
        t.point(true, "none is emulated");
    } else {
        t.same("the emulator's", emulated, Some(want));
    }
}

guest_code! {
    breaks,
    // DR0 on the instruction behind the prefix, for execution; RF is clear.
    "lea rax, [rip + 3f]",
    "mov dr0, rax",
    "mov eax, 0x402",
    "mov dr7, rax",
    "mov eax, 0xffff0ff0",
    "mov dr6, rax",
    "xor ebx, ebx",
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: inc ebx",
    "2: mov eax, [r14]",
    "out dx, eax",
    "mov eax, [r14 + 16]",
    "lea ecx, [rip + 3b]",
    "sub eax, ecx",
    "out dx, eax",
    "mov rax, dr6",
    "out dx, eax",
    "mov eax, ebx",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    counts,
    "xor eax, eax",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "inc eax",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // The same behind a load of SS.
    breaks_behind,
    "lea rax, [rip + 3f]",
    "mov dr0, rax",
    "mov eax, 0x402",
    "mov dr7, rax",
    "mov eax, 0xffff0ff0",
    "mov dr6, rax",
    "xor ebx, ebx",
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    "xor eax, eax",
    "mov ss, eax",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "3: inc ebx",
    "2: mov rax, dr6",
    "out dx, eax",
    "mov eax, ebx",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Behind a load of SS: none on a processor that CPUID says is Intel's, one on AMD's.
fn breakpoint_behind(t: &mut Tap) {
    for (name, want) in [
        (b"GenuineIntel", vec![0xffff_0ff0, 1]),
        (b"AuthenticAMD", vec![0xffff_0ff1, 0]),
    ] {
        if sys::host("ryzen") && name == b"GenuineIntel" {
            // Bochs's SVM does not say of an exit for #UD that it is in a shadow, to the in-tree
            // module either.
            continue;
        }
        let g = Guest::long(breaks_behind());
        let mut c = supported_cpuid(&g.dev);
        for e in c[8..].chunks_exact_mut(size_of::<kvm_cpuid_entry2>()) {
            // Leaf 0: EBX, EDX, ECX.
            if e[..4] == [0; 4] {
                e[16..20].copy_from_slice(&name[..4]);
                e[24..28].copy_from_slice(&name[4..8]);
                e[20..24].copy_from_slice(&name[8..]);
            }
        }
        let r = g.cpus[0].fd.bytes(k::SET_CPUID2, &mut c);
        t.same("KVM_SET_CPUID2", r, Answer::Ok(0));
        let name = String::from_utf8_lossy(name);
        t.same(
            format!("behind a load of SS: DR6, what it counted, {name}"),
            forced(|| g.values()),
            Some(want),
        );
    }
}

/// Breakpoints on an instruction that hardware does not get to see: the guest's, and user space's.
pub fn breakpoint(t: &mut Tap) {
    let seen = forced(|| Guest::long(breaks()).values());
    let want = vec![1, 0, 0xffff_0ff1, 0];
    t.same(
        "vector, RIP, DR6, what it would have counted",
        seen,
        Some(want),
    );
    let g = Guest::long(counts());
    let v = &g.cpus[0];
    let mut d: kvm_guest_debug = sys::zeroed();
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    let at = CODE + 7;
    d.arch.debugreg = [0, at, 0, 0, 0, 0, 0, 0x408];
    let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("KVM_SET_GUEST_DEBUG", r, Answer::Ok(0));
    let exit = forced(|| g.enter());
    // In-tree DR7 is not filled in.
    let what = match exit {
        Ok(Exit::Debug {
            exception, pc, dr6, ..
        }) => Ok((exception, pc, dr6)),
        other => Err(other),
    };
    t.same("an exit for user space's", what, Ok((1, at, 0xffff_0ff2)));
    t.same("RIP", v.regs().rip, at);
    d = sys::zeroed();
    let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("without a debugger", r, Answer::Ok(0));
    t.same("the guest goes on", g.values(), Some(vec![1]));
    // User space's registers are those in force, wherever its breakpoints are.
    let g = Guest::long(breaks());
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    d.arch.debugreg = [0, 0x1234_5678, 0, 0, 0, 0, 0, 0x408];
    let r = g.cpus[0].fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("a debugger with others", r, Answer::Ok(0));
    let seen = forced(|| g.values());
    t.same(
        "the guest's are not met: DR6, what it counted",
        seen.map(|v| v[2..].to_vec()),
        Some(vec![0xffff_0ff0, 1]),
    );
    breakpoint_behind(t);
}

/// Where the code in real mode is, and in it the instruction with a breakpoint.
const REAL: u64 = 0x9000;
const REAL_AT: u64 = REAL + 2;

guest_code! {
    real_breaks,
    ".code16",
    "nop",
    "nop",
    "inc bx",
    "mov dx, 0xe0",
    "mov eax, ebx",
    "out dx, eax",
    "mov eax, [0x600]",
    "out dx, eax",
    "mov dx, 0xe1",
    "out dx, al",
}

guest_code! {
    // Counts, notes where it was, and ends the breakpoints.
    real_handler,
    ".code16",
    "push bp",
    "mov bp, sp",
    "inc word ptr [0x600]",
    "mov ax, [bp + 2]",
    "mov [0x602], ax",
    "xor eax, eax",
    "mov dr7, eax",
    "pop bp",
    "iret",
}

/// Breakpoints on an instruction in real mode, which some hosts emulate: the guest's, and user space's.
pub fn real_breakpoint(t: &mut Tap) {
    let make = || {
        let g = Guest::new(Plan::default());
        g.load(REAL, real_breaks());
        g.load(REAL + 0x100, real_handler());
        // Vector 1.
        g.mem.store::<u32>(4, REAL as u32 + 0x100);
        g.start_real(0, 0, REAL);
        g
    };
    let g = make();
    let v = &g.cpus[0];
    let mut d: kvm_debugregs = v.fd.get(k::GET_DEBUGREGS).expect("KVM_GET_DEBUGREGS");
    (d.db[0], d.dr7) = (REAL_AT, 0x402);
    t.same(
        "a breakpoint",
        v.fd.set(k::SET_DEBUGREGS, &d),
        Answer::Ok(0),
    );
    let seen = (REAL_AT as u32) << 16 | 1;
    let want = Some(vec![1, seen]);
    t.same("met once, before the instruction", g.values(), want);
    let g = make();
    let v = &g.cpus[0];
    let mut d: kvm_guest_debug = sys::zeroed();
    d.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    d.arch.debugreg = [REAL_AT, 0, 0, 0, 0, 0, 0, 0x402];
    let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("KVM_SET_GUEST_DEBUG", r, Answer::Ok(0));
    let what = match g.enter() {
        Ok(Exit::Debug {
            exception, pc, dr6, ..
        }) => Ok((exception, pc, dr6 & 0xf)),
        other => Err(other),
    };
    t.same("an exit for user space's", what, Ok((1, REAL_AT, 1)));
    t.same("RIP", v.regs().rip, REAL_AT);
    d = sys::zeroed();
    let r = v.fd.set(k::SET_GUEST_DEBUG, &d);
    t.same("without a debugger", r, Answer::Ok(0));
    t.same("the guest goes on", g.values(), Some(vec![1, 0]));
}

guest_code! {
    adds,
    "mov ebx, 0xe0000000",
    "mov eax, 100",
    "add eax, [rbx]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// The instruction goes on that asked user space for its operand, whatever is written there
/// meanwhile.
pub fn kept_code(t: &mut Tap) {
    let g = Guest::long(adds());
    let read = Exit::MmioRead {
        addr: 0xe000_0000,
        len: 4,
    };
    t.same("a read of device memory", g.enter(), Ok(read.clone()));
    g.cpus[0].answer(&read, &[5, 0, 0, 0]);
    // SUB EAX, [RBX].
    g.mem.store::<u8>(CODE as usize + 10, 0x2b);
    t.same("the sum", g.values(), Some(vec![105]));
}

guest_code! {
    // Real mode, single-stepped over a load of SS; then protected mode. 0x200: the handler, which counts.
    steps,
    ".code16",
    "pushf",
    "pop ax",
    "or ah, 1",
    "push ax",
    "popf",
    "mov bx, ss",
    "mov ss, bx",
    "nop",
    "pushf",
    "pop ax",
    "and ah, 0xfe",
    "push ax",
    "popf",
    "mov eax, cr0",
    "or al, 1",
    "mov cr0, eax",
    // To 0x28:0x11000.
    ".byte 0x66, 0xea",
    ".long 0x11000",
    ".word 0x28",
}

guest_code! {
    // inc word ptr [0x300]; iret
    counts_steps,
    ".byte 0xff, 0x06, 0x00, 0x03, 0xcf",
}

guest_code! {
    arrives,
    ".code32",
    "mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov fs, eax",
    "mov gs, eax",
    "mov eax, [0x10300]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A single step that a load of SS held back, all of it emulated where real mode is: the trap comes once,
/// and not again in protected mode, where nothing would take it.
pub fn held_step(t: &mut Tap) {
    let g = Guest::new(Plan::default());
    boot::tables(&g.mem);
    g.load(CODE, steps());
    g.load(CODE + 0x200, counts_steps());
    g.load(CODE + 0x1000, arrives());
    // The vector of #DB.
    g.mem.store::<u32>(4, (CODE as u32) << 12 | 0x200);
    g.start_real(0, CODE, 0);
    let v = &g.cpus[0];
    let mut s = v.sregs();
    (s.gdt.base, s.gdt.limit) = (0x1000, 6 * 8 - 1);
    v.set_sregs(&s);
    t.same("how many steps", g.values(), Some(vec![7]));
}

guest_code! {
    reloads,
    ".code32",
    // The second gigabyte is the first one.
    "mov dword ptr [0x70008], 0x6001",
    "mov eax, 1",
    "out 0xe0, eax",
    "mov eax, cr0",
    "or eax, 0x40000000",
    "mov cr0, eax",
    "mov eax, 2",
    "out 0xe0, eax",
    "mov eax, [0x40080000]",
    "out 0xe0, eax",
    // A reserved bit in the next one.
    "mov dword ptr [0x70010], 0x8021",
    "mov eax, cr0",
    "and eax, 0xbfffffff",
    "mov cr0, eax",
    "mov eax, 3",
    "out 0xe0, eax",
    "hlt",
}

/// In PAE paging the first level of the tables is loaded again when CR0.CD changes.
pub fn reloaded_tables(t: &mut Tap) {
    if !table::intel() {
        return t.skip("SVM reads it at each walk");
    }
    let g = Guest::long(reloads());
    g.mem.store::<u32>(0x8_0000, 0x1234_5678);
    for i in 0..4u64 {
        // Present, and none of the bits that are reserved here.
        let at = 0x7_0000 + 8 * i as usize;
        g.mem.store::<u64>(at, 0x6001 + 0x1000 * i);
    }
    let v = &g.cpus[0];
    let mut s = boot::flat32_sregs(v.sregs());
    (s.cr3, s.cr4, s.cr0) = (0x7_0000, 0x20, 0x8001_0033);
    // There is no handler for exceptions.
    s.idt.limit = 0;
    v.set_sregs(&s);
    let (values, end) = g.values_of(0);
    t.same("the new one counts", values, vec![1, 2, 0x1234_5678]);
    t.same("a reserved bit is #GP", end, Ok(Exit::Shutdown));
}
