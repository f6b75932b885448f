// SPDX-License-Identifier: GPL-2.0

//! A guest whose exceptions are noted: for each the vector, the error code, where it came from, the
//! resume flag that the handler found, and DR6.

use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest::PORT_FAULT;
use crate::guest::PORT_VALUE;
use crate::guest_code;
use crate::sys;

guest_code! {
    /// Notes an event at 0x80000: how many there were, and 32 bytes for each. A fault goes on at R15,
    /// once; without, its vector goes to port 0xe2. After 24 events single-stepping ends.
    noting_handler,
    // The stack: vector, error code, RIP, CS, RFLAGS, RSP, SS.
    "push rax",
    "push rbx",
    "push rcx",
    "push rdx",
    "mov ebx, 0x80000",
    "mov ecx, [rbx]",
    "inc dword ptr [rbx]",
    "cmp ecx, 24",
    "jb 1f",
    "and qword ptr [rsp + 64], ~0x100",
    "mov ecx, 24",
    "1: shl ecx, 5",
    "lea rbx, [rbx + rcx + 32]",
    "mov rax, [rsp + 32]",
    "mov [rbx], eax",
    "mov rcx, [rsp + 40]",
    "mov [rbx + 4], ecx",
    "mov rcx, [rsp + 48]",
    "mov [rbx + 8], rcx",
    "mov rcx, [rsp + 64]",
    "mov [rbx + 16], ecx",
    "cmp eax, 32",
    "jae 7f",
    "cmp eax, 1",
    "jne 2f",
    "mov rcx, dr6",
    "mov [rbx + 20], ecx",
    "xor eax, eax",
    "mov dr6, rax",
    // The instruction is not to break again.
    "test ecx, 0xf",
    "jz 9f",
    "or dword ptr [rsp + 64], 0x10000",
    "jmp 9f",
    "2: cmp eax, 2",
    "je 9f",
    // INT3 and INTO are behind the instruction.
    "cmp eax, 3",
    "je 9f",
    "cmp eax, 4",
    "je 9f",
    "test r15, r15",
    "jz 3f",
    "mov [rsp + 48], r15",
    "xor r15d, r15d",
    "and dword ptr [rsp + 64], ~0x10000",
    "jmp 9f",
    "3: mov edx, 0xe2",
    "out dx, eax",
    "7: mov ecx, 0xfee000b0",
    "mov dword ptr [rcx], 0",
    "9: pop rdx",
    "pop rcx",
    "pop rbx",
    "pop rax",
    "add rsp, 16",
    "iretq",
}

/// Address of device memory, in RBX at the start.
pub const DEVICE: u64 = 0xe000_0000;

/// A guest in long mode that is about to execute `code`; its events are noted.
pub fn guest(plan: Plan, code: &[u8]) -> Guest {
    let g = Guest::long_with(plan, code);
    boot::replace_handler(&g.mem, noting_handler());
    let mut r = g.cpus[0].regs();
    r.rbx = DEVICE;
    g.cpus[0].set_regs(&r);
    g
}

/// One event in a few characters: `vector(error)@offset`, then RF and what DR6 has beyond its reset
/// value.
fn event(g: &Guest, at: usize) -> String {
    let word = |o: usize| g.mem.load::<u32>(at + o);
    let rip: u64 = g.mem.load(at + 8);
    let (vector, error, flags) = (word(0), word(4), word(16));
    let mut s = format!("{vector}");
    if error != 0 {
        s += &format!("({error:x})");
    }
    if vector < 32 {
        s += &match rip.checked_sub(CODE) {
            Some(offset) if offset < 0x1000 => format!("@{offset:x}"),
            _ => format!("@{rip:#x}"),
        };
    }
    if flags & 1 << 16 != 0 {
        s += ":rf";
    }
    if vector == 1 {
        s += &format!(":{:x}", word(20) ^ 0xffff_0ff0);
    }
    s
}

/// What a guest said, how often it accessed device memory, which reads as 0x11 in each byte, and which
/// events it had, up to its end.
pub fn story(g: &Guest) -> String {
    let mut words = Vec::new();
    let (mut reads, mut writes) = (0, 0);
    let end = sys::limited(4000, || loop {
        match g.enter() {
            Ok(e @ Exit::MmioRead { .. }) => {
                reads += 1;
                g.cpus[0].answer(&e, &[0x11; 8]);
            }
            Ok(Exit::MmioWrite { .. }) => writes += 1,
            Ok(e @ Exit::In { .. }) => g.cpus[0].answer(&e, &[0x11; 4]),
            Ok(Exit::Out {
                port: PORT_VALUE,
                data,
                ..
            }) => {
                let v: [u8; 4] = data.try_into().unwrap_or([0xdd; 4]);
                words.push(format!("={:x}", u32::from_le_bytes(v)));
            }
            Ok(Exit::Out { port: PORT_END, .. }) => break None,
            Ok(Exit::Out {
                port: PORT_FAULT, ..
            }) => break Some("fault".to_string()),
            Ok(Exit::Out { .. }) => {}
            Err(libc::EINTR) => break Some("hangs".to_string()),
            e => break Some(format!("{e:x?}").replace(' ', "")),
        }
    });
    if reads + writes != 0 {
        words.push(format!("r{reads} w{writes}"));
    }
    let n: u32 = g.mem.load(DATA as usize);
    for i in 0..n.min(25) as usize {
        words.push(event(g, DATA as usize + 32 + 32 * i));
    }
    if n > 25 {
        words.push(format!("{n} in all"));
    }
    words.extend(end);
    words.join(" ")
}
