// SPDX-License-Identifier: GPL-2.0

//! What a guest has in registers that the host uses as well: protection keys, and the counters of
//! cycles.

use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest_code;
use crate::host;
use crate::sys::Answer;
use crate::tap::Tap;
use kvm_bindings::KVM_CAP_X86_DISABLE_EXITS;

/// A second address of the guest's memory, with key 1.
const KEYED: usize = 0x80_0000;

guest_code! {
    // Each OUT is an exit to user space, after which the key must be what it was.
    keys,
    "mov rax, cr4",
    "bts rax, 22",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    // Key 1: no writes.
    "mov eax, 8",
    "wrpkru",
    "mov edx, 0xe0",
    "mov eax, [0x8a0000]",
    "out dx, eax",
    "lea r15, [rip + 3f]",
    "mov dword ptr [0x8a0000], 7",
    "3: mov edx, 0xe0",
    "mov eax, [r14]",
    "out dx, eax",
    "mov eax, [r14 + 8]",
    "out dx, eax",
    "xor ecx, ecx",
    "rdpkru",
    "mov edx, 0xe0",
    "out dx, eax",
    // Key 1: no access.
    "xor edx, edx",
    "mov eax, 4",
    "wrpkru",
    "lea r15, [rip + 4f]",
    "mov eax, [0x8a0000]",
    "4: mov edx, 0xe0",
    "mov eax, [r14 + 8]",
    "out dx, eax",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    // All again.
    "xor eax, eax",
    "xor edx, edx",
    "wrpkru",
    "mov dword ptr [0x8a0000], 7",
    "mov edx, 0xe0",
    "mov eax, [0xa0000]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Protection keys: the guest's register is its own, and the host's is the host's.
pub fn protection_keys(t: &mut Tap) {
    let Some(mine) = host::pkru() else {
        return t.skip("the host has no protection keys");
    };
    let g = Guest::long(keys());
    g.mem
        .store::<u64>(boot::PD + 8 * (KEYED >> 21), 1 << 59 | 0xe7);
    g.mem.store::<u32>(0xa_0000, 5);
    let (values, end) = g.values_of(0);
    // A read; the vector and error code of a write; the register; the error code of a read; how
    // many faults there were; what was written.
    t.same("the guest", values, vec![5, 14, 0x23, 8, 0x21, 2, 7]);
    let ended = matches!(end, Ok(Exit::Out { port: 0xe1, .. }));
    t.point(ended, format!("it ends: {end:x?}"));
    t.same("the host's register", host::pkru(), Some(mine));
}

guest_code! {
    counts_cycles,
    "lea r15, [rip + 3f]",
    "mov edi, 200",
    "2: mov ecx, 0xe7",
    "rdmsr",
    "mov ecx, 0xe8",
    "rdmsr",
    "dec edi",
    "jnz 2b",
    "3: mov edx, 0xe0",
    "mov eax, [r14]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// KVM_X86_DISABLE_EXITS_APERFMPERF: a guest reads the counters of cycles as they are, without an
/// exit; without it there are none.
pub fn cycle_counters(t: &mut Tap) {
    let dev = crate::guest::dev();
    // Newer than the bindings.
    let bit = 1 << 4;
    let offered = crate::guest::cap(&dev, KVM_CAP_X86_DISABLE_EXITS) as u64;
    let run = |off: u64| {
        let mut g = Guest::new(Plan {
            cpus: 0,
            ..Plan::default()
        });
        let set = crate::guest::enable(&g.vm, KVM_CAP_X86_DISABLE_EXITS, off);
        g.add_cpu(0, true);
        g.load(crate::guest::CODE, counts_cycles());
        boot::tables(&g.mem);
        g.start_long(0, crate::guest::CODE);
        let (values, _) = g.values_of(0);
        let exits = super::pages::Stats::of(&g.cpus[0].fd).get("exits");
        (set, values, exits)
    };
    let (r, values, _) = run(0);
    t.same("they exit: #GP", (r, values), (Answer::Ok(0), vec![13]));
    if offered & bit == 0 {
        let (r, ..) = run(bit);
        t.same("not offered", r, Answer::Err(libc::EINVAL));
        return;
    }
    let (r, values, exits) = run(bit);
    t.same("they do not", (r, values), (Answer::Ok(0), vec![0]));
    t.point(exits < 100, format!("{exits} exits for 400 reads"));
}
