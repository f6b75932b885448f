// SPDX-License-Identifier: GPL-2.0

//! Guests that misbehave: triple faults, garbage as page tables, code in device memory, code that
//! changes itself over the border of two slots, a local APIC that is moved.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::errno_name;
use crate::table::Table;
use crate::tap::Tap;
use crate::tests::rng::Rng;

/// What a guest did, in a few words: its exits up to the first that is not device memory.
pub fn story(g: &Guest) -> String {
    let mut words = Vec::new();
    for _ in 0..12 {
        let e = match sys::limited(1500, || g.enter()) {
            Ok(e) => e,
            Err(libc::EINTR) => {
                // It goes on for ever without reaching user space; a signal ends it.
                words.push("loops".into());
                break;
            }
            Err(e) => {
                words.push(errno_name(e));
                break;
            }
        };
        match &e {
            Exit::MmioRead { addr, len } => {
                words.push(format!("r{addr:x}/{len}"));
                let data: Vec<u8> = (0..*len)
                    .map(|i| (*addr as u8).wrapping_add(i as u8) ^ 0x5a)
                    .collect();
                g.cpus[0].answer(&e, &data);
                continue;
            }
            Exit::MmioWrite { addr, data } => {
                let v = data
                    .iter()
                    .rev()
                    .fold(String::new(), |s, b| format!("{s}{b:02x}"));
                words.push(format!("w{addr:x}={v}"));
                continue;
            }
            Exit::Out { port: PORT_END, .. } => words.push("end".into()),
            Exit::Out { port, data, .. } => words.push(format!("out{port:x}={}", data[0])),
            Exit::In { port, .. } => words.push(format!("in{port:x}")),
            Exit::Shutdown => words.push("shutdown".into()),
            Exit::Hlt => words.push("hlt".into()),
            Exit::Internal(n) => words.push(format!("internal{n}")),
            other => words.push(format!("{other:x?}").replace(' ', "")),
        }
        break;
    }
    words.join(" ")
}

/// Triple faults end in an exit, and the VM can be used again.
pub fn triple(tap: &mut Tap) {
    let mut table = Table::new(tap, "bad_triple", include_str!("../../data/bad-triple.tsv"));
    for irqchip in [Irqchip::None, Irqchip::Split, Irqchip::Full] {
        let plan = Plan {
            irqchip,
            ..Plan::default()
        };
        // ud2 without an IDT.
        let t = table.tap();
        let g = Guest::long_with(plan, &[0x0f, 0x0b]);
        let mut s = g.cpus[0].sregs();
        s.idt.limit = 0;
        g.cpus[0].set_sregs(&s);
        t.same(
            format!("triple fault, {irqchip:?}"),
            g.enter(),
            Ok(Exit::Shutdown),
        );
        let again = sys::limited(1500, || g.enter());
        t.point(
            !matches!(again, Ok(Exit::Out { .. })),
            format!("again, {irqchip:?}: {again:x?}"),
        );
        g.load(CODE, &[0xe7, 0xe1]);
        g.start_long(0, CODE);
        t.same(
            format!("a new start, {irqchip:?}"),
            g.values(),
            Some(vec![]),
        );
    }
    // An IDT full of nonsense, a stack that is not there, a bad TSS.
    for (what, change) in [
        ("IDT of zeros", 0),
        ("stack not mapped", 1),
        ("IDT in device memory", 2),
        ("IDT not canonical", 3),
    ] {
        let g = Guest::long(&[0x0f, 0x0b]);
        let mut s = g.cpus[0].sregs();
        let mut r = g.cpus[0].regs();
        match change {
            0 => s.idt.base = 0x10_0000,
            1 => r.rsp = 0x1234_5678_9000,
            2 => s.idt.base = 0xe000_0000,
            _ => s.idt.base = 1 << 63,
        }
        g.cpus[0].set_sregs(&s);
        g.cpus[0].set_regs(&r);
        let story = story(&g);
        if change == 2 {
            // Processors differ in how far they get; nothing but this guest may suffer.
            let text = format!("{what}: {story}");
            table.tap().point(!story.is_empty(), text);
        } else {
            table.row(what, story);
        }
    }
    table.finish();
}

/// Page tables that are garbage.
pub fn tables(tap: &mut Tap) {
    let mut t = Table::new(tap, "bad_tables", include_str!("../../data/bad-tables.tsv"));
    let mut run = |what: String, change: &dyn Fn(&Guest) -> u64| {
        // mov [0x300000], eax: memory behind tables; then the end.
        let code = [0x89, 0x04, 0x25, 0x00, 0x00, 0x10, 0x00, 0xe7, 0xe1];
        let g = Guest::long(&code);
        let mut s = g.cpus[0].sregs();
        s.cr3 = change(&g);
        if g.cpus[0].fd.set(crate::uapi::SET_SREGS, &s).is_ok() {
            // Tables where there is no memory: a fault, another try for ever, or an
            // event that cannot be delivered.
            let end = match story(&g).as_str() {
                "shutdown" | "loops" | "internal3" => "no progress".to_string(),
                other => other.to_string(),
            };
            t.row(what, end);
        } else {
            t.row(what, "refused");
        }
    };
    run("good".into(), &|_| boot::PML4 as u64);
    run("CR3 beyond memory".into(), &|_| 0x4000_0000);
    run("CR3 in device memory".into(), &|_| 0xfee0_0000);
    run("CR3 at the top".into(), &|_| 0xff_ffff_f000);
    run("directory beyond memory".into(), &|g| {
        g.mem.store::<u64>(boot::PML4, 0x4000_0007);
        boot::PML4 as u64
    });
    run("last level beyond memory".into(), &|g| {
        g.mem.store::<u64>(boot::PD, 0x4000_0067);
        boot::PML4 as u64
    });
    run("reserved bit 51".into(), &|g| {
        g.mem
            .store::<u64>(boot::PML4, boot::PDPT as u64 | 7 | (1 << 51));
        boot::PML4 as u64
    });
    run("reserved bit of a large page".into(), &|g| {
        g.mem.store::<u64>(boot::PD, 0xe7 | (1 << 13));
        boot::PML4 as u64
    });
    run("huge page at the top level".into(), &|g| {
        g.mem.store::<u64>(boot::PML4, boot::PDPT as u64 | 0x87);
        boot::PML4 as u64
    });
    run("tables that name themselves".into(), &|g| {
        for i in 0..512 {
            g.mem.store::<u64>(0x1f_0000 + 8 * i, 0x1f_0007);
        }
        0x1f_0000
    });
    for seed in 0..16u64 {
        run(format!("random {seed}"), &|g| {
            let mut rng = Rng::new(seed);
            for i in 0..512 {
                // Present, often within memory.
                let v = rng.next();
                let v = if rng.one_in(2) {
                    v & 0x1f_ffff
                } else {
                    v & !(0x7ff << 52)
                };
                g.mem.store::<u64>(0x1f_0000 + 8 * i, v | 7);
            }
            0x1f_0000
        });
    }
    t.finish();
}

/// Code where there is no memory.
pub fn device_code(tap: &mut Tap) {
    let mut t = Table::new(tap, "bad_code", include_str!("../../data/bad-code.tsv"));
    // mov eax, 0xe0000000; jmp rax
    let g = Guest::long(&[0xb8, 0, 0, 0, 0xe0, 0xff, 0xe0]);
    t.row("long mode, jump to a device", story(&g));
    t.row("and once more", story(&g));
    let g = Guest::long_with(
        Plan {
            irqchip: Irqchip::Full,
            ..Plan::default()
        },
        &[0xb8, 0, 0, 0xe0, 0xfe, 0xff, 0xe0],
    );
    t.row("long mode, jump to the local APIC", story(&g));
    let g = Guest::new(Plan::default());
    g.start_real(0, 0, 0x7c00);
    g.load(0x7c00, &[0xea, 0, 0, 0, 0xf0]);
    let s = g.slot(0, 0, 0, 0, 0);
    t.row("slot removed", s);
    t.row("no memory at all", story(&g));
    t.row("memory again", g.slot(0, 0, 0, 0x8_0000, 0));
    let end = story(&g);
    let stuck = end == "loops" || end == "internal1";
    t.tap()
        .point(stuck, format!("real mode, far jump to a device: {end}"));
    // The last instruction before the end of memory, without and with its end inside.
    for (what, at) in [
        ("ends at the border", 0x1f_fffeusize),
        ("crosses the border", 0x1f_ffff),
    ] {
        let g = Guest::long(&[]);
        // out 0xe1, eax
        g.mem.write(at, &[0xe7, 0xe1][..0x20_0000 - at]);
        g.start_long(0, at as u64);
        t.row(format_args!("memory ends, instruction {what}"), story(&g));
    }
    let g = Guest::long(&[]);
    g.start_long(0, 0x1f_fff0);
    g.mem.write(0x1f_fff0, &[0x90; 16]);
    t.row("running off the end of memory", story(&g));
    t.finish();
}

guest_code! {
    // At `far + 0`: writes the immediate of the instruction behind the border.
    selfmod,
    "mov rax, [rdi + 8]",
    "mov dword ptr [rdi], 0x11223344",
    "mov edx, 0xe0",
}

/// Code that changes itself behind the border of two slots, and instructions that cross it.
pub fn selfmod_slots(t: &mut Tap) {
    // Two slots that are neighbours in the guest, but not in user space.
    let g = Guest::long(&[]);
    t.same("no slot", g.slot(0, 0, 0, 0, 0).is_ok(), true);
    t.same("slot 0", g.slot(0, 0, 0, 0x10_0000, 0).is_ok(), true);
    t.same(
        "slot 1",
        g.slot(1, 0x10_0000, 0x18_0000, 0x8_0000, 0).is_ok(),
        true,
    );
    let put = |gpa: usize, b: u8| {
        let at = if gpa < 0x10_0000 {
            gpa
        } else {
            gpa - 0x10_0000 + 0x18_0000
        };
        g.mem.write(at, &[b]);
    };
    for shift in 0..7usize {
        // mov eax, imm32 (5 bytes) lies `shift` bytes over the border; the code before it writes
        // the immediate. Then out dx, eax and out 0xe1, eax.
        let target = 0x10_0000 - 5 + shift;
        let mut code = selfmod().to_vec();
        code.extend([0xb8, 0, 0, 0, 0, 0xef, 0xe7, 0xe1]);
        let start = target - selfmod().len();
        for (i, b) in code.iter().enumerate() {
            put(start + i, *b);
        }
        for round in 0..2u32 {
            g.start_long(0, start as u64);
            let mut r = g.cpus[0].regs();
            r.rdi = target as u64 + 1;
            g.cpus[0].set_regs(&r);
            t.same(
                format!("border {shift}, round {round}"),
                g.values(),
                Some(vec![0x1122_3344]),
            );
            // The second round writes what is there already after other bytes were executed.
            for i in 0..4 {
                put(target + 1 + i, 0x77);
            }
        }
    }
    // A slot that goes while its code would be executed next.
    let g = Guest::long(&[0xe7, 0xe0, 0xe7, 0xe1]);
    t.same("first", g.values_of(0).0, vec![0]);
    t.same("removed", g.slot(0, 0, 0, 0, 0).is_ok(), true);
    let e = sys::limited(1500, || g.enter());
    t.point(
        !matches!(e, Ok(Exit::Out { .. })),
        format!("does not run: {e:x?}"),
    );
}

guest_code! {
    move_apic,
    // RDI: the new base, RSI: flags of the MSR.
    "mov ecx, 0x1b",
    "lea r15, [rip + 3f]",
    "mov rax, rdi",
    "or rax, rsi",
    "mov rdx, rax",
    "shr rdx, 32",
    "wrmsr",
    "xor r15d, r15d",
    "mov eax, [rdi + 0x30]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov ebx, 0xfee00030",
    "mov eax, [rbx]",
    "out dx, eax",
    "mov dword ptr [rdi + 0x80], 0x20",
    "mov eax, [rdi + 0x80]",
    "out dx, eax",
    "mov rax, cr8",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
    "3: mov edx, 0xe0",
    "mov eax, 0xbad",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// The local APIC at other addresses.
pub fn apic_base(tap: &mut Tap) {
    let mut t = Table::new(tap, "bad_apic", include_str!("../../data/bad-apic.tsv"));
    for irqchip in [Irqchip::Split, Irqchip::Full] {
        for (base, flags) in [
            (0xfee0_0000u64, 0x900u64),
            (0xfee0_1000, 0x900),
            (0xe000_0000, 0x900),
            // Where memory is.
            (0x10_0000, 0x900),
            // Switched off: nothing answers.
            (0xfee0_0000, 0x100),
            // x2APIC: the page is gone.
            (0xfee0_0000, 0xd00),
            // x2APIC without being on, reserved bits, beyond the address width.
            (0xfee0_0000, 0x400),
            (0xfee0_0000, 0x901),
            (0xfee0_0000, 0x800 | (1 << 62)),
        ] {
            let plan = Plan {
                irqchip,
                ..Plan::default()
            };
            let g = Guest::long_with(plan, move_apic());
            let mut r = g.cpus[0].regs();
            (r.rdi, r.rsi) = (base, flags);
            g.cpus[0].set_regs(&r);
            let mut words = Vec::new();
            for _ in 0..12 {
                match g.enter() {
                    Ok(Exit::Out {
                        port: 0xe0, data, ..
                    }) => {
                        words.push(format!(
                            "{:x}",
                            u32::from_le_bytes(data.try_into().unwrap())
                        ));
                    }
                    Ok(e @ Exit::MmioRead { .. }) => {
                        if let Exit::MmioRead { addr, .. } = e {
                            words.push(format!("r{addr:x}"));
                        }
                        g.cpus[0].answer(&e, &[0xcd; 4]);
                    }
                    Ok(Exit::MmioWrite { addr, .. }) => words.push(format!("w{addr:x}")),
                    Ok(Exit::Out { port: PORT_END, .. }) => {
                        words.push("end".into());
                        break;
                    }
                    e => {
                        words.push(format!("{e:x?}").replace(' ', ""));
                        break;
                    }
                }
            }
            let n: u64 = g.mem.load(boot::mailbox(0) + mailbox::COUNT);
            words.push(format!("{n} faults"));
            t.row(
                format_args!("{irqchip:?} {base:x}, {flags:x}"),
                words.join(" "),
            );
        }
    }
    t.finish();
}
