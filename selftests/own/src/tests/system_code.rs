// SPDX-License-Identifier: GPL-2.0

//! System instructions that exit or are emulated: which of them fault, and what the fault's frame and
//! the registers have then.

use super::emulated::forced;
use super::traps;
use crate::guest::boot;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest_code;
use crate::table::Table;
use crate::tap::Tap;

/// An instruction that may fault; what follows comes next in any case.
macro_rules! try_it {
    ($($i:literal),+) => {
        concat!("lea r15, [rip + 77f];", $($i, ";",)+ "77: xor r15d, r15d")
    };
}

/// The same, emulated.
macro_rules! emulate_it {
    ($i:literal) => {
        concat!(
            "lea r15, [rip + 77f]; .byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d;",
            $i,
            "; 77: xor r15d, r15d"
        )
    };
}

/// Tells what EAX is.
macro_rules! tell {
    () => {
        "mov edx, 0xe0; out dx, eax"
    };
}

macro_rules! end {
    () => {
        "mov edx, 0xe1; out dx, al"
    };
}

guest_code! {
    control_registers,
    "mov rcx, cr0",
    // NW without CD, PG without PE, PG off, WP off and on.
    "mov rax, rcx", "bts rax, 29", try_it!("mov cr0, rax"),
    "mov rax, rcx", "btr rax, 0", try_it!("mov cr0, rax"),
    "mov rax, rcx", "btr rax, 31", try_it!("mov cr0, rax"),
    "mov rax, rcx", "btc rax, 16", try_it!("mov cr0, rax"),
    "mov cr0, rcx",
    // A reserved bit in the lower half reads as 0.
    "mov rax, rcx", "bts rax, 28", try_it!("mov cr0, rax"),
    "mov rax, cr0", tell!(),
    "mov rcx, cr4",
    "mov rax, rcx", "btr rax, 5", try_it!("mov cr4, rax"),
    "mov rax, rcx", "btc rax, 12", try_it!("mov cr4, rax"),
    "mov rax, rcx", "bts rax, 15", try_it!("mov cr4, rax"),
    "mov rax, rcx", "bts rax, 28", try_it!("mov cr4, rax"),
    "mov eax, -1", try_it!("mov cr4, rax"),
    "mov rax, cr4", tell!(),
    "mov rcx, cr3",
    // Without contexts the low bits are not looked at.
    "mov rax, rcx", "or rax, 0xfff", try_it!("mov cr3, rax"),
    "mov rax, cr3", tell!(),
    "mov cr3, rcx",
    "mov eax, 16", try_it!("mov cr8, rax"),
    "mov eax, 7", try_it!("mov cr8, rax"),
    "mov rax, cr8", tell!(),
    try_it!(".byte 0x0f, 0x20, 0xc8"),
    try_it!(".byte 0x0f, 0x22, 0xe8"),
    end!(),
}

guest_code! {
    contexts,
    // The bits of CR3 that mean the context are set: not while it is switched on.
    "mov rsi, cr3",
    "mov rcx, cr4",
    "mov rdi, rcx",
    "bts rdi, 17",
    "lea rax, [rsi + 8]",
    "mov cr3, rax",
    try_it!("mov cr4, rdi"),
    "mov cr3, rsi",
    try_it!("mov cr4, rdi"),
    "mov rax, cr4", tell!(),
    "mov rax, cr0",
    "btr rax, 31",
    "mov rdx, cr4",
    "bt rdx, 17",
    "jnc 3f",
    try_it!("mov cr0, rax"),
    "lea rax, [rsi + 5]",
    "bts rax, 63",
    try_it!("mov cr3, rax"),
    "mov rax, cr3", tell!(),
    "mov cr3, rsi",
    "3:",
    "mov dword ptr [0x80800], 10",
    "mov dword ptr [0x80804], 0",
    "mov qword ptr [0x80808], 0",
    "mov eax, 2", try_it!("invpcid rax, [0x80800]"),
    "mov eax, 0", try_it!("invpcid rax, [0x80800]"),
    "mov eax, 4", try_it!("invpcid rax, [0x80800]"),
    "mov rcx, cr4",
    "btr rcx, 17",
    try_it!("mov cr4, rcx"),
    "mov eax, 1", try_it!("invpcid rax, [0x80800]"),
    "mov dword ptr [0x80800], 0",
    "mov eax, 1", try_it!("invpcid rax, [0x80800]"),
    end!(),
}

guest_code! {
    extended_state,
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    try_it!("xsetbv"),
    try_it!("xgetbv"),
    "mov rax, cr4", "bts rax, 18", "mov cr4, rax",
    "mov eax, 1", "xor ecx, ecx", "cpuid", "mov eax, ecx", "shr eax, 26", "and eax, 3", tell!(),
    "xor edx, edx",
    "xor ecx, ecx",
    "mov eax, 1", try_it!("xsetbv"),
    "xor eax, eax", try_it!("xsetbv"),
    "mov eax, 2", try_it!("xsetbv"),
    "mov eax, 4", try_it!("xsetbv"),
    "mov eax, 5", try_it!("xsetbv"),
    "mov eax, 0x43", try_it!("xsetbv"),
    "mov eax, 3", "mov edx, 0x80000000", try_it!("xsetbv"),
    "xor edx, edx",
    "xgetbv", tell!(),
    // Only ECX counts.
    "mov rcx, 0x1234500000000",
    "xor edx, edx",
    "mov eax, 3", try_it!("xsetbv"),
    "mov rcx, 0x1234500000000",
    "xgetbv", tell!(),
    "xor edx, edx",
    "mov ecx, 1", "mov eax, 3", try_it!("xsetbv"),
    "mov ecx, 2", try_it!("xgetbv"),
    "mov ecx, 0x80000000", try_it!("xsetbv"),
    "mov ecx, 0x80000000", try_it!("xgetbv"),
    end!(),
}

guest_code! {
    others,
    "mov ecx, 0xdead", try_it!("rdmsr"),
    "mov ecx, 0xdead", try_it!("wrmsr"),
    "xor ecx, ecx", try_it!("rdpmc"),
    "mov ecx, 0x40000000", try_it!("rdpmc"),
    // RDPRU, INVLPGA, VMRUN, VMXON, GETSEC, CLGI, SKINIT, MCOMMIT, ENCLS.
    "xor ecx, ecx", try_it!(".byte 0x0f, 0x01, 0xfd"),
    "xor eax, eax", try_it!(".byte 0x0f, 0x01, 0xdf"),
    "xor eax, eax", try_it!(".byte 0x0f, 0x01, 0xd8"),
    try_it!(".byte 0xf3, 0x0f, 0xc7, 0x34, 0x25, 0x00, 0x08, 0x08, 0x00"),
    "xor eax, eax", try_it!(".byte 0x0f, 0x37"),
    try_it!(".byte 0x0f, 0x01, 0xdd"),
    "xor eax, eax", try_it!(".byte 0x0f, 0x01, 0xde"),
    try_it!(".byte 0xf3, 0x0f, 0x01, 0xfa"),
    "xor eax, eax", try_it!(".byte 0x0f, 0x01, 0xcf"),
    try_it!("rsm"),
    try_it!("ud2"),
    try_it!("ud1 eax, eax"),
    // MONITOR and MWAIT do nothing.
    "mov eax, 0x80800", "xor ecx, ecx", "xor edx, edx", try_it!("monitor"),
    "xor eax, eax", try_it!("mwait"),
    end!(),
}

guest_code! {
    status_word,
    "mov edx, 0xe0",
    "mov eax, -1", "smsw ax", tell!(),
    "mov rax, -1", "smsw rax", tell!(),
    "mov dword ptr [0x80800], -1", "smsw [0x80800]", "mov eax, [0x80800]", tell!(),
    "smsw [rbx]",
    "mov rcx, cr0",
    "mov eax, ecx", "xor eax, 8", "lmsw ax", "mov rax, cr0", tell!(),
    // PE stays.
    "mov eax, ecx", "and eax, ~1", "xor eax, 4", "lmsw ax", "mov rax, cr0", tell!(),
    "mov [0x80800], ecx", "lmsw [0x80800]", "mov rax, cr0", tell!(),
    // From device memory: 0x1111.
    "lmsw [rbx]", "mov rax, cr0", tell!(),
    "clts", "mov rax, cr0", tell!(),
    end!(),
}

guest_code! {
    status_word_emulated,
    "mov rax, 0x1234567890abcdef",
    emulate_it!("smsw ax"), tell!(), "shr rax, 32", tell!(),
    "mov rax, 0x1234567890abcdef",
    emulate_it!("smsw eax"), tell!(), "shr rax, 32", tell!(),
    "mov rax, -1",
    emulate_it!("smsw rax"), tell!(),
    "mov rcx, cr0",
    "mov eax, ecx", "xor eax, 0xd",
    emulate_it!("lmsw ax"), "mov rax, cr0", tell!(),
    emulate_it!("clts"), "mov rax, cr0", tell!(),
    // LEA of a register does not exist; a move of 64 bits; a null SS with another RPL.
    emulate_it!(".byte 0x8d, 0xc0"),
    emulate_it!("movabs rax, 0x9090909091919191"), tell!(),
    "mov eax, 3", emulate_it!("mov ss, eax"),
    "xor eax, eax", emulate_it!("mov ss, eax"),
    "mov eax, ss", tell!(),
    "mov eax, 0x10", emulate_it!("mov ss, eax"),
    "mov eax, 0xfff8", emulate_it!("mov ds, eax"),
    "mov eax, 0x20", emulate_it!("mov fs, eax"),
    emulate_it!("push 0x1234567"), "pop rax", tell!(),
    end!(),
}

guest_code! {
    // A table's base, a task's and a local table's: canonical with 48 bits, with 57, and not at all.
    // The descriptors are at 0x30 and 0x40; bits 63 to 32 of their base come from EBP's table.
    table_bases,
    "sgdt [0x80800]",
    "sidt [0x80810]",
    "mov esi, 0x80900",
    "mov ecx, 5",
    "9: mov rax, [rsi]",
    "mov [0x80822], rax",
    "mov word ptr [0x80820], 0xff",
    try_it!("lgdt [0x80820]", "lgdt [0x80800]"),
    try_it!("lidt [0x80820]", "lidt [0x80810]"),
    "mov rax, [rsi]",
    "shr rax, 32",
    "mov [0x1038], eax",
    "mov [0x1048], eax",
    "mov eax, 0x40", try_it!("lldt ax"),
    "btr dword ptr [0x1034], 9",
    "mov eax, 0x30", try_it!("ltr ax"),
    "add esi, 8",
    "dec ecx",
    "jnz 9b",
    end!(),
}

guest_code! {
    table_bases_emulated,
    "sgdt [0x80800]",
    "sidt [0x80810]",
    "mov esi, 0x80900",
    "mov ecx, 5",
    "9: mov rax, [rsi]",
    "mov [0x80822], rax",
    "mov word ptr [0x80820], 0xff",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "lgdt [0x80820]",
    "lgdt [0x80800]",
    "2: lea r15, [rip + 3f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "lidt [0x80820]",
    "lidt [0x80810]",
    "3: mov rax, [rsi]",
    "shr rax, 32",
    "mov [0x1038], eax",
    "mov [0x1048], eax",
    "mov eax, 0x40", emulate_it!("lldt ax"),
    "btr dword ptr [0x1034], 9",
    "mov eax, 0x30", emulate_it!("ltr ax"),
    "add esi, 8",
    "dec ecx",
    "jnz 9b",
    end!(),
}

guest_code! {
    // Operands in device memory that fault.
    alignment,
    try_it!("movaps xmm0, [rbx + 8]"),
    try_it!("movaps [rbx + 8], xmm0"),
    end!(),
}

guest_code! {
    // To a place that is not canonical.
    jumps,
    try_it!("jmp [rbx]"),
    try_it!("call [rbx]"),
    "mov eax, esp", tell!(),
    end!(),
}

guest_code! {
    // Behind the pages of the device there is nothing, in the guest's own tables.
    pages,
    "lea rcx, [rbx + 0x1ffffc]", "mov eax, 1",
    try_it!("mov [rcx + 1], eax"),
    try_it!("mov eax, [rcx + 1]"),
    try_it!("add [rcx + 1], eax"),
    try_it!("movups [rcx], xmm0"),
    "mov rdi, rcx", "mov ecx, 3", "cld",
    try_it!("rep stosd"),
    "mov eax, ecx", tell!(),
    "lea rsi, [rbx + 0x1ffffc]", "mov edi, 0x80900", "mov ecx, 3",
    try_it!("rep movsd"),
    "mov eax, ecx", tell!(),
    end!(),
}

guest_code! {
    // Ports and device memory, across a page.
    ports,
    "lea rdi, [rbx + 0xffc]", "mov ecx, 8", "mov edx, 0x84",
    try_it!("rep insb"),
    "lea rsi, [rbx + 0xffc]", "mov ecx, 4",
    try_it!("rep outsw"),
    end!(),
}

guest_code! {
    // An x87 exception that waits comes at an instruction of MMX; TS and EM are looked at.
    floating_point,
    "mov rax, cr0", "bts rax, 5", "mov cr0, rax",
    "fninit", "mov dword ptr [0x80800], 0", "fldcw [0x80800]",
    "fldz", "fldz", "fdivp",
    try_it!("movq mm0, [rbx]"),
    "fnclex", "emms",
    "mov rax, cr0", "or eax, 8", "mov cr0, rax",
    try_it!("movups xmm0, [rbx]"),
    "clts", "mov rax, cr0", "or eax, 4", "mov cr0, rax",
    try_it!("movups xmm0, [rbx]"),
    try_it!("movq mm0, [rbx]"),
    end!(),
}

/// The last instruction before addresses stop being canonical: what comes after it faults.
fn at_the_edge(t: &mut Table<'_>) {
    // The lower half of the address space ends with a page of 2 MiB over the guest's memory.
    let cases: [(&str, &[u8]); 9] = [
        ("NOP", &[0x90]),
        ("CPUID", &[0x0f, 0xa2]),
        ("RDMSR", &[0x0f, 0x32]),
        ("OUT", &[0xe6, 0x84]),
        ("VMCALL", &[0x0f, 0x01, 0xc1]),
        ("VMMCALL", &[0x0f, 0x01, 0xd9]),
        ("MOV of a device", &[0x8b, 0x03]),
        ("ADD of a device", &[0x03, 0x03]),
        ("CPUID cut short", &[0x0f]),
    ];
    for (name, code) in cases {
        let g = traps::guest(Plan::default(), &[]);
        g.mem.store::<u64>(boot::PML4 + 8 * 255, 0x9_0007);
        g.mem.store::<u64>(0x9_0000 + 8 * 511, 0x9_1007);
        g.mem.store::<u64>(0x9_1000 + 8 * 511, 0xe7);
        g.load(0x20_0000 - code.len() as u64, code);
        let mut r = g.cpus[0].regs();
        r.rip = 0x8000_0000_0000 - code.len() as u64;
        (r.rax, r.rcx) = (1, 0x1b);
        // The end of the test's guests.
        g.load(crate::guest::CODE, &[0xba, 0xe1, 0, 0, 0, 0xee]);
        r.r15 = crate::guest::CODE;
        g.cpus[0].set_regs(&r);
        t.row(format_args!("edge: {name}"), traps::story(&g));
    }
}

/// Descriptors of a task and of a local table, whose bases have upper halves that the guest writes.
fn with_descriptors(g: &Guest) {
    // 64-bit TSS, available; LDT.
    g.mem.store::<u64>(0x1030, 0x8900_3000_0067);
    g.mem.store::<u64>(0x1038, 0);
    g.mem.store::<u64>(0x1040, 0x8200_3000_0067);
    g.mem.store::<u64>(0x1048, 0);
    let v = &g.cpus[0];
    let mut s = v.sregs();
    s.gdt.limit = 10 * 8 - 1;
    v.set_sregs(&s);
    let bases = [
        0x0000_7fff_0000_3000u64,
        0xffff_8000_0000_3000,
        0x00ff_1234_0000_3000,
        0x0100_0000_0000_3000,
        0xaaaa_aaaa_0000_3000,
    ];
    for (i, b) in bases.iter().enumerate() {
        g.mem.store::<u64>(0x8_0900 + 8 * i, *b);
    }
}

/// All of them, as on the in-tree module.
pub fn faults(tap: &mut Tap) {
    let mut t = Table::new(
        tap,
        "system_code",
        include_str!("../../data/system-code.tsv"),
    );
    let full = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let cases: [(&str, &[u8], bool); 13] = [
        ("control registers", control_registers(), false),
        ("contexts", contexts(), false),
        ("extended state", extended_state(), false),
        ("others", others(), false),
        ("status word", status_word(), false),
        ("status word, emulated", status_word_emulated(), true),
        ("bases of tables", table_bases(), false),
        ("bases of tables, emulated", table_bases_emulated(), true),
        ("alignment", alignment(), false),
        ("jumps", jumps(), false),
        ("pages", pages(), false),
        ("ports", ports(), false),
        ("floating point", floating_point(), false),
    ];
    for (name, code, force) in cases {
        let g = traps::guest(full, code);
        with_descriptors(&g);
        if name == "pages" {
            // No memory behind the two megabytes of the device.
            g.mem.store::<u64>(boot::PD + 8 * 0x701, 0);
        }
        let story = if force {
            forced(|| traps::story(&g))
        } else {
            traps::story(&g)
        };
        t.row(name, story);
    }
    at_the_edge(&mut t);
    t.finish();
}
