// SPDX-License-Identifier: GPL-2.0

//! The modes guests start in: tables in low memory and the registers that use them.

use super::asm;
use crate::sys::Area;
use kvm_bindings::*;

const GDT: usize = 0x1000;
const IDT: usize = 0x2000;
const TSS: usize = 0x3000;
/// Page tables: identity, 4 GiB in pages of 2 MiB.
pub const PML4: usize = 0x4000;
/// The next level.
pub const PDPT: usize = 0x5000;
/// Four page directories.
pub const PD: usize = 0x6000;
/// 256 stubs of 16 bytes.
const STUBS: usize = 0xa000;
/// What the stubs jump to.
const HANDLER: usize = 0xb000;
/// The mailbox of vCPU 0; the others follow.
pub const MAILBOX: usize = 0xc000;
/// Bytes of a mailbox.
pub const MAILBOX_SIZE: usize = 0x400;
/// Stacks end here and below.
const STACKS: u64 = 0xa_0000;

/// Selectors.
const CODE64: u16 = 0x08;
const DATA_SEL: u16 = 0x10;
const TSS_SEL: u16 = 0x18;
const CODE32: u16 = 0x28;

/// Address of a vCPU's mailbox.
pub fn mailbox(cpu: usize) -> usize {
    MAILBOX + cpu * MAILBOX_SIZE
}

/// Vectors that push an error code.
fn has_error(v: usize) -> bool {
    matches!(v, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Writes the tables.
pub fn tables(mem: &Area) {
    let gdt: [u64; 6] = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        // A TSS of 0x68 bytes, busy.
        0x0000_8b00_0000_0067 | ((TSS as u64) << 16),
        0,
        0x00cf_9b00_0000_ffff,
    ];
    for (i, d) in gdt.iter().enumerate() {
        mem.store(GDT + 8 * i, *d);
    }
    mem.store::<u64>(PML4, PDPT as u64 | 7);
    for i in 0..4 {
        mem.store::<u64>(PDPT + 8 * i, (PD + 4096 * i) as u64 | 7);
    }
    for i in 0..2048 {
        mem.store::<u64>(PD + 8 * i, ((i as u64) << 21) | 0xe7);
    }
    for v in 0..256 {
        let at = STUBS + 16 * v;
        let mut stub = Vec::new();
        if !has_error(v) {
            stub.extend([0x6a, 0]);
        }
        stub.push(0x68);
        stub.extend((v as u32).to_le_bytes());
        stub.push(0xe9);
        let next = at + stub.len() + 4;
        stub.extend((HANDLER as i32 - next as i32).to_le_bytes());
        mem.write(at, &stub);
        // A 64-bit interrupt gate.
        let low = (at as u64 & 0xffff) | (u64::from(CODE64) << 16) | (0x8e00 << 32);
        mem.store::<u64>(IDT + 16 * v, low | ((at as u64 >> 16) << 48));
        mem.store::<u64>(IDT + 16 * v + 8, 0);
    }
    mem.write(HANDLER, asm::trap_handler());
}

/// Lets all vectors go to a handler of the test's own, which finds vector and error code (or 0) on its
/// stack; at most 4 KiB.
pub fn replace_handler(mem: &Area, code: &[u8]) {
    mem.write(HANDLER, code);
}

/// Lets a vector go to a handler of the test's own, at `at`.
pub fn gate(mem: &Area, vector: usize, at: u64) {
    let low = (at & 0xffff) | (u64::from(CODE64) << 16) | (0x8e00 << 32);
    mem.store::<u64>(IDT + 16 * vector, low | ((at >> 16 & 0xffff) << 48));
    mem.store::<u64>(IDT + 16 * vector + 8, at >> 32);
}

fn segment(selector: u16, ty: u8, long: bool, big: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: ty,
        present: 1,
        dpl: 0,
        db: u8::from(big),
        s: 1,
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

fn protected(mut s: kvm_sregs) -> kvm_sregs {
    let data = segment(DATA_SEL, 3, false, true);
    (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
    s.tr = segment(TSS_SEL, 11, false, false);
    (s.tr.s, s.tr.g, s.tr.limit, s.tr.base) = (0, 0, 0x67, TSS as u64);
    s.gdt.base = GDT as u64;
    s.gdt.limit = 6 * 8 - 1;
    s.idt.base = IDT as u64;
    s.idt.limit = 0xfff;
    s
}

/// Long mode.
pub fn long_sregs(s: kvm_sregs) -> kvm_sregs {
    let mut s = protected(s);
    s.cs = segment(CODE64, 11, true, false);
    s.cr3 = PML4 as u64;
    // PAE, OSFXSR, OSXMMEXCPT.
    s.cr4 = 0x620;
    // PG, WP, NE, ET, MP, PE.
    s.cr0 = 0x8001_0033;
    // LMA, LME.
    s.efer = 0x500;
    s
}

/// Flat 32-bit mode without paging. The IDT is not usable: it holds 64-bit gates.
pub fn flat32_sregs(s: kvm_sregs) -> kvm_sregs {
    let mut s = protected(s);
    s.cs = segment(CODE32, 11, false, true);
    s.cr0 = 0x33;
    s.cr4 = 0;
    s.efer = 0;
    s
}

/// Real mode with all segments at `base`.
pub fn real_sregs(mut s: kvm_sregs, base: u64) -> kvm_sregs {
    for seg in [
        &mut s.cs, &mut s.ds, &mut s.es, &mut s.fs, &mut s.gs, &mut s.ss,
    ] {
        seg.base = base;
        seg.selector = (base >> 4) as u16;
        seg.limit = 0xffff;
    }
    s
}

/// Registers at the start of code: the stack and the mailbox of the vCPU.
pub fn regs(cpu: usize, rip: u64) -> kvm_regs {
    kvm_regs {
        rip,
        rflags: 2,
        rsp: STACKS - 0x1000 * cpu as u64,
        r14: mailbox(cpu) as u64,
        ..Default::default()
    }
}

/// Writes the APIC id into leaves 1 and 0xb of a CPUID list.
pub fn set_apic_id(list: &mut [u8], id: u32) {
    for e in list[8..].chunks_exact_mut(size_of::<kvm_cpuid_entry2>()) {
        let word = |i: usize| 4 * i..4 * i + 4;
        let function = u32::from_ne_bytes(e[word(0)].try_into().unwrap());
        match function {
            // EBX[31:24].
            1 => e[4 * 4 + 3] = id as u8,
            // EDX.
            0xb | 0x1f => e[word(6)].copy_from_slice(&id.to_ne_bytes()),
            _ => {}
        }
    }
}
