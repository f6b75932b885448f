// SPDX-License-Identifier: GPL-2.0

//! Events through task gates, each of which hardware hands over in a way of its own: faults, traps,
//! interrupts and NMIs; tasks of virtual-8086 mode and of conforming code; a task gate that is called.

use crate::guest::boot;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys;
use crate::tap::Tap;

/// Where the main task is said to go on: EBX has label 2 for the next event.
macro_rules! behind {
    () => {
        "call 6f; 6: pop ebx; .byte 0x81, 0xc3; .long 2f - 6b"
    };
}

guest_code! {
    main_task,
    ".code32",
    "mov edx, 0xe0",
    // A fault, which the handler mends: #DE.
    behind!(),
    "mov eax, 1500", "xor edx, edx",
    "2: div dword ptr [0x80800]",
    "mov edx, 0xe0", "out dx, eax",
    // The same vector by INT; INT3; INTO; INTO with a prefix.
    behind!(), "int 0", "2:",
    behind!(), "int3", "2:",
    behind!(), "mov al, 127", "add al, 1", "into", "2:",
    behind!(), "mov al, 127", "add al, 1", ".byte 0x67", "into", "2:",
    // By a gate of the GDT, and by the selector, with an offset that means nothing.
    behind!(), ".byte 0x9a; .long 0xf4f4f4f4; .word 0x60", "2:",
    behind!(), ".byte 0x9a; .long 0xf4f4f4f4; .word 0x30", "2:",
    // An interrupt to itself, by x2APIC, held back until STI.
    "mov ecx, 0x1b", "rdmsr", "or eax, 0xc00", "wrmsr",
    "mov ecx, 0x80f", "mov eax, 0x1ff", "xor edx, edx", "wrmsr",
    "mov ecx, 0x83f", "mov eax, 0x40", "wrmsr",
    behind!(), "sti", "nop", "2: cli",
    // An NMI; NMIs are not blocked any more when the handler is left; one during which the handler
    // sends another.
    "mov ecx, 0x830", "mov eax, 0x4400", "xor edx, edx",
    behind!(), "wrmsr", "2: nop",
    "nop",
    "cmp dword ptr [0x80908], 0",
    "je 3f",
    "mov dword ptr [0x80904], 1",
    "3: mov ecx, 0x830", "mov eax, 0x4400", "xor edx, edx",
    behind!(), "wrmsr", "2: nop",
    "nop",
    "mov edx, 0xe0",
    "mov eax, [0x80900]", "out dx, eax",
    // A conforming task of CPL 3.
    "cmp dword ptr [0x80908], 0",
    "je 3f",
    ".byte 0x9a; .long 0; .word 0x40",
    "3:",
    // A page fault: the handler gets its error code, and CR2.
    behind!(), "mov edi, 0x480a00", "mov eax, 0x77",
    "2: mov [edi], eax",
    "mov eax, [0x80a00]", "out dx, eax",
    // Virtual-8086 mode, which does not come back.
    ".byte 0x9a; .long 0; .word 0x38",
}

guest_code! {
    // How often it ran, and how far behind label 2 the main task goes on.
    handler_task,
    ".code32",
    "3: mov dword ptr [0x80800], 10",
    "mov edx, 0xe0",
    "inc dword ptr [0x80900]",
    "cmp dword ptr [0x80904], 0",
    "je 1f",
    "mov dword ptr [0x80904], 0",
    "mov ecx, 0x830", "mov eax, 0x4400", "xor edx, edx", "wrmsr",
    "nop",
    "1: cmp dword ptr [0x80900], 8",
    "jne 1f",
    "mov ecx, 0x80b", "xor eax, eax", "xor edx, edx", "wrmsr",
    "1: mov edx, 0xe0",
    "mov eax, [0x80900]",
    "or eax, 0xa000",
    "out dx, eax",
    "mov eax, [0x3020]",
    "sub eax, [0x3034]",
    "out dx, eax",
    "iretd",
    "jmp 3b",
}

guest_code! {
    // With an error code. From virtual-8086 mode: what it says of the old task.
    error_task,
    ".code32",
    "3: mov edx, 0xe0",
    "pop eax",
    "or eax, 0xe000",
    "out dx, eax",
    "mov ecx, 0x90200",
    "movzx eax, word ptr [ecx]",
    "out dx, eax",
    "cmp eax, 0x18",
    "jne 4f",
    "mov eax, [0x3020]",
    "sub eax, [0x3034]",
    "out dx, eax",
    "mov eax, cr2",
    "out dx, eax",
    // Present, four megabytes, to where memory is.
    "mov dword ptr [0x94004], 0x87",
    "iretd",
    "jmp 3b",
    // EIP, flags, CS, DS, ESP of the other.
    "4: mov eax, [0x90120]", "out dx, eax",
    "mov eax, [0x90124]", "and eax, 0x20200", "out dx, eax",
    "mov eax, [0x9014c]", "out dx, eax",
    "mov eax, [0x90154]", "out dx, eax",
    "mov eax, [0x90138]", "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    // What user mode finds in a task of conforming code.
    conforming_task,
    ".code32",
    "3: mov edx, 0xe0",
    "mov eax, cs",
    "out dx, eax",
    "mov eax, ss",
    "out dx, eax",
    "iretd",
    "jmp 3b",
}

guest_code! {
    // Reads by DS and ES, then HLT, which is #GP there.
    old_mode,
    ".code16",
    "mov ax, [0x10]",
    "push ax",
    "mov ax, es:[0x20]",
    "push ax",
    "hlt",
}

/// A TSS with the registers a task begins with.
fn tss(g: &Guest, at: usize, eip: u64, esp: u32, flags: u32, selectors: [u32; 6]) {
    g.mem.write(at, &[0; 0x68]);
    for (offset, v) in [
        (0x1c, 0x9_4000),
        (0x20, eip as u32),
        (0x24, flags),
        (0x38, esp),
    ] {
        g.mem.store::<u32>(at + offset, v);
    }
    for (i, s) in selectors.iter().enumerate() {
        g.mem.store::<u32>(at + 0x48 + 4 * i, *s);
    }
    // No map of ports.
    g.mem.store::<u16>(at + 0x66, 0x68);
}

/// The guest, in 32-bit mode with pages of 4 MiB.
fn guest() -> Guest {
    const IDT: usize = 0x9_1000;
    let g = Guest::new(Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    });
    boot::tables(&g.mem);
    g.load(CODE, main_task());
    for i in 0..1024u32 {
        g.mem
            .store::<u32>(0x9_4000 + 4 * i as usize, i << 22 | 0x87);
    }
    g.mem.store::<u32>(0x9_4004, 0);
    let flat = [0x10, 0x28, 0x10, 0x10, 0, 0];
    let codes: [(&[u8], usize, u32, u32, [u32; 6]); 3] = [
        (handler_task(), 0x9_0000, 0x9_8000, 2, flat),
        (error_task(), 0x9_0200, 0x9_9000, 2, flat),
        (
            conforming_task(),
            0x9_0300,
            0x9_a000,
            0x3002,
            [0x53, 0x4b, 0x53, 0x53, 0, 0],
        ),
    ];
    for (i, (code, at, esp, flags, selectors)) in codes.into_iter().enumerate() {
        let eip = CODE + 0x1000 * (i as u64 + 1);
        g.load(eip, code);
        tss(&g, at, eip, esp, flags, selectors);
    }
    // Virtual-8086 mode at 0x4200:0, data at 0x4300:0 and 0x4400:0.
    g.load(0x4_2000, old_mode());
    g.mem.store::<u16>(0x4_3010, 0x1234);
    g.mem.store::<u16>(0x4_4020, 0x5678);
    let old = [0x4400, 0x4200, 0x4500, 0x4300, 0x1111, 0x2222];
    tss(&g, 0x9_0100, 0, 0x100, 0x2_0202, old);
    tss(&g, 0x3000, 0, 0, 2, flat);
    let available = |at: u64| 0x8900_0000_0067 | at << 16 & 0xff_ffff_0000;
    for (selector, d) in [
        (0x30, available(0x9_0000)),
        (0x38, available(0x9_0100)),
        (0x40, available(0x9_0300)),
        // Conforming code; data of user mode.
        (0x48, 0x00cf_9f00_0000_ffff),
        (0x50, 0x00cf_f300_0000_ffff),
        (0x58, available(0x9_0200)),
        (0x60, 0x8500 << 32 | 0x30 << 16),
    ] {
        g.mem.store::<u64>(0x1000 + selector, d);
    }
    for (vector, selector) in [
        (0, 0x30u64),
        (2, 0x30),
        (3, 0x30),
        (4, 0x30),
        (0x40, 0x30),
        (13, 0x58),
        (14, 0x58),
    ] {
        g.mem
            .store::<u64>(IDT + 8 * vector, 0x8500 << 32 | selector << 16);
    }
    g.start_32(0, CODE);
    let v = &g.cpus[0];
    let mut s = v.sregs();
    s.gdt.limit = 0x67;
    (s.idt.base, s.idt.limit) = (IDT as u64, 0x7ff);
    s.cr3 = 0x9_4000;
    // PSE; PG.
    s.cr4 |= 0x10;
    s.cr0 |= 1 << 31;
    v.set_sregs(&s);
    g
}

/// Every event once.
pub fn gates(t: &mut Tap) {
    // QEMU's processor switches tasks by itself. It saves flags that are not the guest's while the IRET
    // of an NMI's handler is stepped over, and refuses conforming code in another privilege level.
    let exits = !sys::host("amd");
    let mut want: Vec<u32> = vec![
        // #DE: the old task goes on at the instruction, which then divides by 10.
        0xa001, 0,
        150, // INT, INT3, INTO twice, the gate, the selector: behind the instruction.
        0xa002, 0, 0xa003, 0, 0xa004, 0, 0xa005, 0, 0xa006, 0, 0xa007, 0,
        // The interrupt, two NMIs.
        0xa008, 0, 0xa009, 0, 0xa00a, 0,
    ];
    if exits {
        // The one that had to wait.
        want.extend([0xa00b, 0]);
    }
    want.push(10 + u32::from(exits));
    if exits {
        // CS and SS in CPL 3.
        want.extend([0x4b, 0x53]);
    }
    want.extend([
        // #PF: a write, not present; the back link, EIP, CR2; what was written.
        0xe002, 0x18, 0, 0x48_0a00, 0x77,
        // #GP in virtual-8086 mode: EIP at the HLT, flags, CS, DS, ESP.
        0xe000, 0x38, 9, 0x2_0200, 0x4200, 0x4300, 0xfc,
    ]);
    let g = guest();
    g.mem.store::<u32>(0x8_0908, u32::from(exits));
    let values = sys::limited(5000, || g.values());
    t.same("what the tasks say", values, Some(want));
    t.same("by DS", g.mem.load::<u16>(0x4_50fe), 0x1234);
    t.same("by ES", g.mem.load::<u16>(0x4_50fc), 0x5678);
}
