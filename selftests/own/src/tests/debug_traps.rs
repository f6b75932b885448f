// SPDX-License-Identifier: GPL-2.0

//! A guest that debugs itself: single steps over what the module carries out, in the shadows of STI and
//! of a load of SS; breakpoints, INT1, general detect, DR4 and DR5.

use super::traps;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest_code;
use crate::sys;
use crate::table;
use crate::table::Table;
use crate::tap::Tap;

/// Sets RFLAGS.TF: the instruction after this one is the first that traps.
macro_rules! step {
    () => {
        "pushfq; or dword ptr [rsp], 0x100; popfq"
    };
}

/// Clears it, which is three more steps.
macro_rules! end {
    () => {
        "pushfq; and dword ptr [rsp], ~0x100; popfq; mov edx, 0xe1; out dx, al"
    };
}

guest_code! {
    plain,
    step!(),
    "nop",
    "inc eax",
    end!(),
}

guest_code! {
    exits,
    step!(),
    "xor eax, eax",
    "cpuid",
    "mov ecx, 0x1b",
    "rdmsr",
    "wrmsr",
    "in al, 0x61",
    "in al, 0x84",
    "out 0x84, al",
    "wbinvd",
    "pause",
    end!(),
}

guest_code! {
    registers,
    "mov rcx, cr0",
    "mov rsi, cr4",
    step!(),
    "mov cr0, rcx",
    "mov cr4, rsi",
    "mov rax, cr3",
    "mov cr3, rax",
    "mov rax, cr8",
    "mov cr8, rax",
    "clts",
    "lmsw cx",
    "smsw eax",
    "invlpg [rbx]",
    "mov rax, dr0",
    "mov dr0, rax",
    "sgdt [0x80800]",
    "lgdt [0x80800]",
    end!(),
}

guest_code! {
    devices,
    "mov edi, 0x80900",
    step!(),
    "mov eax, [rbx]",
    "add eax, [rbx]",
    "mov rsi, rbx",
    "movsd",
    "movups xmm0, [rbx]",
    end!(),
}

guest_code! {
    device_written,
    step!(),
    "mov [rbx], eax",
    "nop",
    end!(),
}

guest_code! {
    device_copied,
    "mov edi, 0x80900",
    "mov rsi, rbx",
    "mov ecx, 3",
    step!(),
    "rep movsb",
    end!(),
}

guest_code! {
    strings,
    "mov edi, 0x80900",
    "mov esi, 0x80a00",
    "mov edx, 0x84",
    "mov ecx, 3",
    step!(),
    "rep outsb",
    "mov ecx, 3",
    "rep insb",
    end!(),
}

guest_code! {
    interrupts_on,
    "cli",
    step!(),
    "sti",
    "nop",
    "nop",
    "cli",
    end!(),
}

guest_code! {
    stack_loaded,
    "mov eax, ss",
    step!(),
    "mov ss, eax",
    "nop",
    "nop",
    end!(),
}

guest_code! {
    stack_loaded_cpuid,
    "mov eax, ss",
    step!(),
    "mov ss, eax",
    "cpuid",
    "nop",
    end!(),
}

guest_code! {
    stack_loaded_device,
    "mov eax, ss",
    step!(),
    "mov ss, eax",
    "mov eax, [rbx]",
    "mov eax, ss",
    "mov ss, eax",
    "add eax, [rbx]",
    "nop",
    end!(),
}

guest_code! {
    interrupts_on_cpuid,
    "cli",
    step!(),
    "sti",
    "cpuid",
    "nop",
    "cli",
    end!(),
}

guest_code! {
    halts,
    "cli",
    step!(),
    "sti",
    "hlt",
    "cli",
    "nop",
    end!(),
}

guest_code! {
    halts_without,
    "cli",
    step!(),
    "nop",
    "hlt",
    "nop",
    end!(),
}

guest_code! {
    int1,
    ".byte 0xf1",
    step!(),
    ".byte 0xf1",
    "nop",
    "mov eax, ss",
    "mov ss, eax",
    ".byte 0xf1",
    "nop",
    end!(),
}

guest_code! {
    into_interrupts,
    step!(),
    "int3",
    "nop",
    "lea r15, [rip + 2f]",
    "ud2",
    "2: nop",
    end!(),
}

guest_code! {
    forced,
    step!(),
    "nop",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "inc eax",
    "nop",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "mov ecx, [rbx]",
    end!(),
}

guest_code! {
    intel_hypercall,
    step!(),
    "mov eax, 1",
    "vmcall",
    end!(),
}

guest_code! {
    amd_hypercall,
    step!(),
    "mov eax, 1",
    "vmmcall",
    end!(),
}

guest_code! {
    // General detect: before the instruction, with DR7.GD clear afterwards. The first access of a run
    // may exit.
    general_detect,
    "mov eax, 0x2400",
    "mov dr7, rax",
    "mov rcx, dr3",
    "mov rax, dr7",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, 0x2400",
    "mov dr7, rax",
    "mov dr6, rcx",
    "mov rax, dr7",
    "out dx, eax",
    "mov eax, 0x2400",
    "mov dr7, rax",
    "cpuid",
    "mov dr1, rcx",
    "mov edx, 0xe0",
    "mov rax, dr7",
    "out dx, eax",
    end!(),
}

guest_code! {
    general_detect_stepped,
    "mov eax, 0x2400",
    "mov dr7, rax",
    "mov ecx, ss",
    "xor eax, eax",
    step!(),
    "mov ss, ecx",
    "mov dr6, rax",
    "nop",
    end!(),
}

guest_code! {
    aliases,
    "mov edx, 0xe0",
    "mov eax, 0xffff4ff0",
    // DR4.
    ".byte 0x0f, 0x23, 0xe0",
    "xor eax, eax",
    "mov rax, dr6",
    "out dx, eax",
    ".byte 0x0f, 0x21, 0xe0",
    "out dx, eax",
    // DR5.
    ".byte 0x0f, 0x21, 0xe8",
    "out dx, eax",
    "mov rcx, cr4",
    "or ecx, 8",
    "mov cr4, rcx",
    "lea r15, [rip + 2f]",
    ".byte 0x0f, 0x21, 0xe0",
    "2: lea r15, [rip + 3f]",
    ".byte 0x0f, 0x23, 0xe8",
    // In vain with general detect as well.
    "3: mov eax, 0x2400",
    "mov dr7, rax",
    "cpuid",
    "lea r15, [rip + 4f]",
    ".byte 0x0f, 0x21, 0xe0",
    "4: mov eax, 0x400",
    "mov dr7, rax",
    end!(),
}

guest_code! {
    // What cannot be written: upper halves. Not what never reads as 1.
    written,
    "mov edx, 0xe0",
    "lea r15, [rip + 2f]",
    "mov rax, 0x100000000",
    "mov dr6, rax",
    "2: lea r15, [rip + 3f]",
    "mov dr7, rax",
    "3: xor eax, eax",
    "mov dr6, rax",
    "mov rax, dr6",
    "out dx, eax",
    "mov eax, 0xffffeff5",
    "mov dr6, rax",
    "mov rax, dr6",
    "out dx, eax",
    "mov eax, 0xffff0300",
    "mov dr7, rax",
    "mov rax, dr7",
    "out dx, eax",
    "mov eax, 0x400",
    "mov dr7, rax",
    // The same where they are emulated.
    "xor eax, eax",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "mov dr6, rax",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "mov rax, dr6",
    "out dx, eax",
    "mov rax, 0x100000000",
    "lea r15, [rip + 4f]",
    ".byte 0x0f, 0x0b, 0x6b, 0x76, 0x6d",
    "mov dr7, rax",
    "4: nop",
    end!(),
}

guest_code! {
    // Bits that software left in DR6 stay; those of the four breakpoints do not.
    sticky,
    "lea rax, [rip + 2f]",
    "mov dr2, rax",
    "mov eax, 0x4002",
    "mov dr6, rax",
    "mov eax, 0x420",
    "mov dr7, rax",
    "nop",
    "2: nop",
    "mov eax, 0x80900",
    "mov dr1, rax",
    "mov eax, 0xd00408",
    "mov dr7, rax",
    "mov eax, 0x8001",
    "mov dr6, rax",
    "mov dword ptr [0x80900], 1",
    "nop",
    end!(),
}

guest_code! {
    // A breakpoint on an instruction that exits, and on one behind it.
    on_exits,
    "lea rax, [rip + 2f]",
    "mov dr0, rax",
    "lea rax, [rip + 3f]",
    "mov dr1, rax",
    "lea rax, [rip + 4f]",
    "mov dr2, rax",
    "mov eax, 0x42a",
    "mov dr7, rax",
    "nop",
    "2: cpuid",
    "3: mov eax, [rbx]",
    "4: add eax, [rbx]",
    "nop",
    end!(),
}

guest_code! {
    // A step and a breakpoint at once.
    both,
    "lea rax, [rip + 2f]",
    "mov dr0, rax",
    "mov eax, 0x402",
    "mov dr7, rax",
    step!(),
    "cpuid",
    "2: nop",
    end!(),
}

/// What each guest's events are, as on the in-tree module.
pub fn traps(tap: &mut Tap) {
    if sys::host("ryzen") {
        // Nor does the host survive all of them, on either module.
        return tap.skip("the processor does not say in DR6 why a #DB exits");
    }
    let mut t = Table::new(
        tap,
        "debug_traps",
        include_str!("../../data/debug-traps.tsv"),
    );
    let full = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let hypercall = if table::intel() {
        intel_hypercall()
    } else {
        amd_hypercall()
    };
    let cases: [(&str, &[u8], bool, Plan); 26] = [
        ("plain", plain(), false, Plan::default()),
        ("exits", exits(), false, full),
        ("registers", registers(), false, full),
        ("devices", devices(), false, Plan::default()),
        ("device written", device_written(), false, Plan::default()),
        ("device copied", device_copied(), false, Plan::default()),
        ("strings", strings(), false, Plan::default()),
        ("STI", interrupts_on(), false, Plan::default()),
        ("STI, CPUID", interrupts_on_cpuid(), false, Plan::default()),
        ("SS loaded", stack_loaded(), false, Plan::default()),
        ("SS loaded, CPUID", stack_loaded_cpuid(), false, full),
        ("SS loaded, device", stack_loaded_device(), false, full),
        ("STI, HLT", halts(), false, full),
        ("HLT with interrupts off", halts_without(), false, full),
        ("INT1", int1(), false, Plan::default()),
        ("INT3, UD2", into_interrupts(), false, Plan::default()),
        ("forced emulation", forced(), true, Plan::default()),
        ("a hypercall", hypercall, false, full),
        ("general detect", general_detect(), false, full),
        (
            "general detect, SS loaded",
            general_detect_stepped(),
            false,
            full,
        ),
        ("DR4 and DR5", aliases(), false, full),
        ("values written", written(), true, full),
        ("sticky bits", sticky(), false, full),
        ("breakpoints on exits", on_exits(), false, full),
        ("step and breakpoint", both(), false, full),
        ("exits without chips", exits(), false, Plan::default()),
    ];
    for (name, code, force, plan) in cases {
        let g = traps::guest(plan, code);
        let story = if force {
            super::emulated::forced(|| traps::story(&g))
        } else {
            traps::story(&g)
        };
        t.row(name, story);
    }
    t.finish();
}
