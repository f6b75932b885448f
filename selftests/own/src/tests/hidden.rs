// SPDX-License-Identifier: GPL-2.0

//! Instructions in a guest that has them, and in one from which they are kept: XSAVES, RDRAND, RDSEED.

use crate::guest::boot;
use crate::guest::supported_cpuid;
use crate::guest::Guest;
use crate::guest_code;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;

guest_code! {
    // Saves XMM1 and gets it back; writes IA32_XSS. Each instruction that faults is left out.
    saves,
    "mov rax, cr4",
    "bts eax, 18",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 3",
    "xsetbv",
    "mov eax, 0x600d600d",
    "movd xmm1, eax",
    // What is as at first need not be saved.
    "fldpi",
    "mov edi, 0x80000",
    "mov eax, 3",
    "lea r15, [rip + 2f]",
    "xsaves [rdi]",
    "2: mov edx, 0xe0",
    "mov eax, [rdi + 512]",
    "out dx, eax",
    "mov eax, [rdi + 520]",
    "out dx, eax",
    "mov eax, [rdi + 524]",
    "out dx, eax",
    "pxor xmm1, xmm1",
    "xor edx, edx",
    "mov eax, 3",
    "lea r15, [rip + 3f]",
    "xrstors [rdi]",
    "3: movd eax, xmm1",
    "mov edx, 0xe0",
    "out dx, eax",
    // No state in it.
    "mov ecx, 0xda0",
    "xor eax, eax",
    "xor edx, edx",
    "lea r15, [rip + 4f]",
    "wrmsr",
    "inc r8d",
    // A state that nobody has: bit 63.
    "4: mov edx, 0x80000000",
    "lea r15, [rip + 5f]",
    "wrmsr",
    "add r8d, 0x100",
    "5: mov edx, 0xe0",
    "mov eax, r8d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// CPUID 0xd.1, EAX: XSAVES and IA32_XSS.
const XSAVES: u8 = 1 << 3;

/// The entry of a leaf in a list of CPUID entries, and its registers from byte 12 on.
fn leaf(c: &mut [u8], function: u32, index: u32) -> Option<&mut [u8]> {
    c[8..].chunks_exact_mut(40).find(|e| {
        let word = |i: usize| u32::from_ne_bytes([e[i], e[i + 1], e[i + 2], e[i + 3]]);
        (word(0), word(4)) == (function, index)
    })
}

/// Takes a bit out of a byte of an entry; was it there?
fn hide(c: &mut [u8], (function, index): (u32, u32), byte: usize, bit: u8) -> bool {
    let Some(e) = leaf(c, function, index) else {
        return false;
    };
    let was = e[byte] & bit != 0;
    e[byte] &= !bit;
    was
}

/// What the guest says, and how many #UD and #GP it got.
fn said(g: &Guest) -> (Option<Vec<u32>>, [u16; 2]) {
    let values = g.values();
    let count = |vector: usize| g.mem.load(boot::mailbox(0) + 128 + 2 * vector);
    (values, [count(6), count(13)])
}

/// XSAVES is there or undefined as CPUID says, and IA32_XSS takes no state that is not offered.
pub fn xsaves(t: &mut Tap) {
    let g = Guest::long(saves());
    let mut c = supported_cpuid(&g.dev);
    if !hide(&mut c, (0xd, 1), 12, XSAVES) {
        return t.skip("the processor has no XSAVES");
    }
    let want = vec![3, 3, 0x8000_0000, 0x600d_600d, 1];
    t.same("with it", said(&g), (Some(want), [0, 1]));
    let g = Guest::long(saves());
    let r = g.cpus[0].fd.bytes(k::SET_CPUID2, &mut c);
    t.same("CPUID without it", r, Answer::Ok(0));
    let want = vec![0, 0, 0, 0, 0];
    t.same("without it", said(&g), (Some(want), [2, 2]));
}

guest_code! {
    draws,
    "lea r15, [rip + 2f]",
    "rdrand eax",
    "inc r8d",
    "2: lea r15, [rip + 3f]",
    "rdseed eax",
    "add r8d, 0x100",
    "3: mov edx, 0xe0",
    "mov eax, r8d",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// RDRAND and RDSEED are there or undefined as CPUID says. SVM has no intercepts for them: there they
/// are as the processor has them.
pub fn random_numbers(t: &mut Tap) {
    let g = Guest::long(draws());
    let mut c = supported_cpuid(&g.dev);
    // Leaf 1, ECX, bit 30; leaf 7, EBX, bit 18.
    let rdrand = hide(&mut c, (1, 0), 20 + 3, 1 << 6);
    let rdseed = hide(&mut c, (7, 0), 16 + 2, 1 << 2);
    let has = |rdrand: bool, rdseed: bool| {
        let said = u32::from(rdrand) | u32::from(rdseed) << 8;
        let undefined = u16::from(!rdrand) + u16::from(!rdseed);
        (Some(vec![said]), [undefined, 0])
    };
    t.same("with what there is", said(&g), has(rdrand, rdseed));
    let g = Guest::long(draws());
    let r = g.cpus[0].fd.bytes(k::SET_CPUID2, &mut c);
    t.same("CPUID without both", r, Answer::Ok(0));
    let stay = !table::intel();
    let want = has(rdrand && stay, rdseed && stay);
    t.same("without both", said(&g), want);
}
