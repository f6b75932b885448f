// SPDX-License-Identifier: GPL-2.0

//! The CPU's side: a page of generated code around the instruction.
//!
//! The test is 64-bit code. It enters 32-bit code by a far jump to the kernel's 32-bit code segment,
//! and 16-bit code by one to a segment of its own, made with modify_ldt; and comes back likewise.

use crate::generate::{Case, MEM};
use crate::vector::{has_avx, Vectors};
use crate::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// 64-bit.
    Bits64,
    /// 32-bit, flat segments.
    Bits32,
    /// 16-bit, segments that start at the mapping and have 64 KiB.
    Bits16,
}

/// The kernel's selectors for user space.
const USER64_CS: u16 = 0x33;
const USER_DS: u16 = 0x2b;
/// Those of each mode.
impl Mode {
    pub const fn cs(self) -> u16 {
        match self {
            Self::Bits64 => USER64_CS,
            Self::Bits32 => 0x23,
            Self::Bits16 => 0x07,
        }
    }

    pub const fn ds(self) -> u16 {
        match self {
            Self::Bits64 | Self::Bits32 => USER_DS,
            Self::Bits16 => 0x0f,
        }
    }
}

/// Where the signal handler resumes, and the vector it was called for, plus one.
static RESUME: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_fault(_: libc::c_int, _: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    let uc = uc.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted context to an SA_SIGINFO handler.
    let regs = unsafe { &mut (*uc).uc_mcontext.gregs };
    FAULTED.store(
        regs[libc::REG_TRAPNO as usize] as u64 + 1,
        Ordering::Relaxed,
    );
    regs[libc::REG_RIP as usize] = RESUME.load(Ordering::Relaxed) as i64;
}

/// A mapping with code, register values and test memory.
pub struct Machine {
    base: *mut u8,
}

/// Where 16-bit and 32-bit code starts, the instruction, and the way back.
const ENTRY: usize = 512;
const INSN: usize = 1024;
const BACK: usize = 2048;
const REGS: usize = 4096;
const FLAGS_AT: usize = REGS + 16 * 8;
const RSP_AT: usize = FLAGS_AT + 8;
const FAR_AT: usize = RSP_AT + 8;
const MARK_AT: usize = FAR_AT + 8;
/// A stack for the flags, not the one of the test.
const STACK_AT: usize = REGS + 2048;
/// Vector registers, and those of MMX.
const YMM_AT: usize = STACK_AT + 64;
const MM_AT: usize = YMM_AT + 16 * 32;
const MEM_AT: usize = 8192;
const TOTAL: usize = MEM_AT + 4096;

/// Makes a descriptor of the LDT (`struct user_desc`).
fn set_ldt(number: u32, base: u32, code: bool) {
    // contents: 0 data, 2 code; useable.
    let flags = if code { 2 << 1 } else { 0 } | 1 << 6;
    let desc: [u32; 4] = [number, base, 0xffff, flags];
    // SAFETY: the kernel copies sixteen bytes; nothing else uses the LDT.
    let r = unsafe { libc::syscall(libc::SYS_modify_ldt, 0x11, desc.as_ptr(), 16usize) };
    assert_eq!(r as i32, 0, "modify_ldt");
}

impl Machine {
    pub fn new() -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        // SAFETY: a fresh anonymous mapping; the alternate stack outlives the handler's use of it.
        unsafe {
            let base = libc::mmap(std::ptr::null_mut(), TOTAL, prot, kind, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            let stack = Box::leak(vec![0u8; 65536].into_boxed_slice());
            let ss = libc::stack_t {
                ss_sp: stack.as_mut_ptr().cast(),
                ss_flags: 0,
                ss_size: stack.len(),
            };
            assert_eq!(libc::sigaltstack(&ss, std::ptr::null_mut()), 0);
            let mut sa: libc::sigaction = std::mem::zeroed();
            sa.sa_sigaction = on_fault as *const () as usize;
            sa.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // Page faults and invalid opcodes mean that a case is badly made; it then shows up as a
            // difference.
            for signal in [libc::SIGFPE, libc::SIGSEGV, libc::SIGILL, libc::SIGBUS] {
                assert_eq!(libc::sigaction(signal, &sa, std::ptr::null_mut()), 0);
            }
            set_ldt(0, base as u32, true);
            set_ldt(1, base as u32, false);
            Self { base: base.cast() }
        }
    }

    /// Linear address of the mapping.
    pub fn base(&self) -> u64 {
        self.base as u64
    }

    /// Linear address of the test memory.
    pub fn mem_addr(&self) -> u64 {
        self.base() + MEM_AT as u64
    }

    /// Offset in its segment of what is at `at` in the mapping.
    fn offset(&self, mode: Mode, at: usize) -> u64 {
        match mode {
            Mode::Bits64 | Mode::Bits32 => self.base() + at as u64,
            Mode::Bits16 => at as u64,
        }
    }

    /// Offset of the test memory in its segment.
    pub fn mem(&self, mode: Mode) -> u64 {
        self.offset(mode, MEM_AT)
    }

    /// RIP of the instruction.
    pub fn insn(&self, mode: Mode) -> u64 {
        self.offset(mode, INSN)
    }

    /// The bits of an address that a near branch takes from memory.
    pub fn address_mask(&self, mode: Mode) -> u64 {
        match mode {
            Mode::Bits64 => u64::MAX,
            Mode::Bits32 => 0xffff_ffff,
            Mode::Bits16 => 0xffff,
        }
    }

    /// What a branch that falls through runs into: MOV of 1 to the marker.
    pub fn marker(&self, mode: Mode) -> Vec<u8> {
        let to = self.offset(mode, MARK_AT);
        let mut out = vec![0xc6];
        match mode {
            Mode::Bits64 => {
                // An absolute address, so that it does not matter where it stands.
                out.extend([0x04, 0x25]);
                out.extend((to as u32).to_le_bytes());
            }
            Mode::Bits32 => {
                out.push(0x05);
                out.extend((to as u32).to_le_bytes());
            }
            Mode::Bits16 => {
                out.push(0x06);
                out.extend((to as u16).to_le_bytes());
            }
        }
        out.push(1);
        out
    }

    fn put64(&self, at: usize, v: u64) {
        // SAFETY: inside the mapping, aligned.
        unsafe { self.base.add(at).cast::<u64>().write(v) }
    }

    fn get64(&self, at: usize) -> u64 {
        // SAFETY: inside the mapping, aligned.
        unsafe { self.base.add(at).cast::<u64>().read() }
    }

    fn emit(&self, at: &mut usize, bytes: &[u8]) {
        assert!(*at + bytes.len() < REGS);
        // SAFETY: inside the code page.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(*at), bytes.len()) };
        *at += bytes.len();
    }

    /// `op` with an operand at offset `to` of the mapping: relative to RIP in 64-bit code, else a
    /// bare displacement. `digit` is ModRM.reg. In 16-bit code the operand is made a 32-bit one.
    fn emit_mem(&self, at: &mut usize, mode: Mode, op: &[u8], digit: u8, to: usize) {
        match mode {
            Mode::Bits64 => {
                self.emit(at, op);
                self.emit(at, &[0x05 | digit << 3]);
                let disp = to as i32 - (*at as i32 + 4);
                self.emit(at, &disp.to_le_bytes());
            }
            Mode::Bits32 => {
                self.emit(at, op);
                self.emit(at, &[0x05 | digit << 3]);
                self.emit(at, &(self.offset(mode, to) as u32).to_le_bytes());
            }
            Mode::Bits16 => {
                self.emit(at, &[0x66]);
                self.emit(at, op);
                self.emit(at, &[0x06 | digit << 3]);
                self.emit(at, &(to as u16).to_le_bytes());
            }
        }
    }

    /// A jump from `at` to offset `to` of the mapping.
    fn emit_jump(&self, at: &mut usize, mode: Mode, to: usize) {
        self.emit(at, &[0xe9]);
        if mode == Mode::Bits16 {
            let disp = to as i16 - (*at as i16 + 2);
            self.emit(at, &disp.to_le_bytes());
        } else {
            let disp = to as i32 - (*at as i32 + 4);
            self.emit(at, &disp.to_le_bytes());
        }
    }

    /// Loads or stores all vector registers, in 64-bit code.
    fn emit_vectors(&self, at: &mut usize, store: bool) {
        let op = if store { 0x7f } else { 0x6f };
        for r in 0..16u8 {
            let to = YMM_AT + usize::from(r) * 32;
            let high = r >> 3;
            // VMOVDQU of 32 bytes, or MOVDQU.
            if has_avx() {
                self.emit_mem(at, Mode::Bits64, &[0xc5, 0xfe ^ high << 7, op], r & 7, to);
            } else {
                let bytes = [0xf3, 0x40 | high << 2, 0x0f, op];
                self.emit_mem(at, Mode::Bits64, &bytes, r & 7, to);
            }
        }
        for r in 0..8u8 {
            let to = MM_AT + usize::from(r) * 8;
            self.emit_mem(at, Mode::Bits64, &[0x0f, op], r, to);
        }
        if store {
            // EMMS.
            self.emit(at, &[0x0f, 0x77]);
            if has_avx() {
                // VZEROUPPER.
                self.emit(at, &[0xc5, 0xf8, 0x77]);
            }
        }
    }

    fn put_vectors(&self, v: &Vectors) {
        // SAFETY: inside the mapping, which nothing else refers to.
        unsafe {
            self.base.add(YMM_AT).cast::<[[u8; 32]; 16]>().write(v.ymm);
            self.base.add(MM_AT).cast::<[[u8; 8]; 8]>().write(v.mm);
        }
    }

    fn vectors(&self) -> Vectors {
        // SAFETY: inside the mapping.
        unsafe {
            Vectors {
                ymm: self.base.add(YMM_AT).cast::<[[u8; 32]; 16]>().read(),
                mm: self.base.add(MM_AT).cast::<[[u8; 8]; 8]>().read(),
            }
        }
    }

    /// From the caller, 64-bit code, to where registers can be loaded in `mode`.
    fn emit_way_in(&self, mode: Mode, vectors: bool) -> usize {
        let mut at = 0;
        // Callee-saved registers and the stack pointer.
        let save = [0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
        self.emit(&mut at, &save);
        self.emit_mem(&mut at, Mode::Bits64, &[0x48, 0x89], 4, RSP_AT);
        if vectors {
            self.emit_vectors(&mut at, false);
        }
        if mode != Mode::Bits64 {
            // MOV EAX; MOV DS, ES, SS from it.
            self.emit(&mut at, &[0xb8]);
            self.emit(&mut at, &u32::from(mode.ds()).to_le_bytes());
            self.emit(&mut at, &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0]);
            let target = self.offset(mode, ENTRY) | u64::from(mode.cs()) << 32;
            self.put64(FAR_AT, target);
            self.emit_mem(&mut at, Mode::Bits64, &[0xff], 5, FAR_AT);
            assert!(at < ENTRY);
            at = ENTRY;
        }
        at
    }

    /// From 64-bit code with the results in place to the caller.
    fn emit_way_back(&self, vectors: bool) {
        let mut at = BACK;
        if vectors {
            self.emit_vectors(&mut at, true);
        }
        self.emit_mem(&mut at, Mode::Bits64, &[0x48, 0x8b], 4, RSP_AT);
        self.emit(&mut at, &[0xb8]);
        self.emit(&mut at, &u32::from(USER_DS).to_le_bytes());
        // MOV SS, EAX; the others are null in 64-bit processes. CLD.
        self.emit(
            &mut at,
            &[0x8e, 0xd0, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0xfc],
        );
        let restore = [
            0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
        ];
        self.emit(&mut at, &restore);
    }

    /// The stack pointer to the place for the flags.
    fn emit_stack(&self, at: &mut usize, mode: Mode) {
        let to = self.offset(mode, STACK_AT) as u32;
        if mode == Mode::Bits16 {
            self.emit(at, &[0x66]);
        }
        self.emit(at, &[0xbc]);
        self.emit(at, &to.to_le_bytes());
    }

    /// Loads or stores all registers; the stack pointer last.
    fn emit_registers(&self, at: &mut usize, mode: Mode, op: u8) {
        let count = if mode == Mode::Bits64 { 16u8 } else { 8 };
        for r in (0..count).filter(|r| *r != 4).chain([4]) {
            let to = REGS + usize::from(r) * 8;
            if mode == Mode::Bits64 {
                self.emit_mem(at, mode, &[0x48 | (r >> 3) << 2, op], r & 7, to);
            } else {
                self.emit_mem(at, mode, &[op], r, to);
            }
        }
    }

    /// PUSHF or POPF of the widest form.
    fn emit_flags(&self, at: &mut usize, mode: Mode, op: u8) {
        if mode == Mode::Bits16 {
            self.emit(at, &[0x66]);
        }
        self.emit(at, &[op]);
    }

    /// Carries out the instruction from the registers of `case` and memory `mem`.
    pub fn run(&self, mode: Mode, case: &Case, mem: &[u8]) -> Outcome {
        for (i, v) in case.gpr.iter().enumerate() {
            self.put64(REGS + i * 8, *v);
        }
        self.put64(FLAGS_AT, case.flags);
        self.put64(MARK_AT, 0);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(mem.as_ptr(), self.base.add(MEM_AT), MEM) };

        let vectors = case.vectors.is_some();
        if let Some(v) = &case.vectors {
            self.put_vectors(v);
        }
        let mut at = self.emit_way_in(mode, vectors);
        self.emit_stack(&mut at, mode);
        self.emit_mem(&mut at, mode, &[0xff], 6, FLAGS_AT);
        self.emit_flags(&mut at, mode, 0x9d);
        self.emit_registers(&mut at, mode, 0x8b);
        self.emit_jump(&mut at, mode, INSN);
        assert!(at <= INSN);
        at = INSN;
        self.emit(&mut at, &case.bytes);
        if case.branch {
            self.emit(&mut at, &self.marker(mode));
        }
        RESUME.store(self.offset(mode, at), Ordering::Relaxed);
        FAULTED.store(0, Ordering::Relaxed);
        self.emit_registers(&mut at, mode, 0x89);
        self.emit_stack(&mut at, mode);
        self.emit_flags(&mut at, mode, 0x9c);
        self.emit_mem(&mut at, mode, &[0x8f], 0, FLAGS_AT);
        let back = (self.base() as u32 + BACK as u32).to_le_bytes();
        match mode {
            Mode::Bits64 => self.emit_jump(&mut at, mode, BACK),
            _ => {
                if mode == Mode::Bits16 {
                    self.emit(&mut at, &[0x66]);
                }
                self.emit(&mut at, &[0xea]);
                self.emit(&mut at, &back);
                self.emit(&mut at, &USER64_CS.to_le_bytes());
            }
        }
        assert!(at <= BACK);
        self.emit_way_back(vectors);

        // SAFETY: the code above follows the C calling convention, and the tested instruction
        // touches only registers and the test memory.
        unsafe {
            let f: extern "C" fn() = std::mem::transmute(self.base);
            f();
        }
        let mut gpr = [0; 16];
        for (i, v) in gpr.iter_mut().enumerate() {
            *v = self.get64(REGS + i * 8);
        }
        // SAFETY: inside the mapping.
        let mem = unsafe { std::slice::from_raw_parts(self.base.add(MEM_AT), MEM) }.to_vec();
        let faulted = FAULTED.load(Ordering::Relaxed);
        Outcome {
            gpr,
            flags: self.get64(FLAGS_AT) & 0xffff_ffff,
            mem,
            // CAST: vectors are below 256.
            vector: faulted.checked_sub(1).map(|v| v as u8),
            branched: case.branch && self.get64(MARK_AT) == 0,
            vectors: vectors.then(|| Box::new(self.vectors())),
        }
    }
}
