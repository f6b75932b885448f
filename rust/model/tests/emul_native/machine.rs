// SPDX-License-Identifier: GPL-2.0

//! The CPU's side: a page of generated code around the instruction.

use crate::generate::{Case, MEM};
use crate::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the signal handler resumes, and whether it ran.
static RESUME: AtomicU64 = AtomicU64::new(0);
static FAULTED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_fpe(_: libc::c_int, _: *mut libc::siginfo_t, uc: *mut libc::c_void) {
    let uc = uc.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the interrupted context to an SA_SIGINFO handler.
    unsafe {
        (*uc).uc_mcontext.gregs[libc::REG_RIP as usize] = RESUME.load(Ordering::Relaxed) as i64
    };
    FAULTED.store(1, Ordering::Relaxed);
}

/// A mapping with code at 0, register values at 4096 and test memory at 8192.
pub struct Machine {
    base: *mut u8,
}

const REGS: usize = 4096;
const FLAGS_AT: usize = REGS + 16 * 8;
const RSP_AT: usize = FLAGS_AT + 8;
const MEM_AT: usize = 8192;
const TOTAL: usize = MEM_AT + 4096;

impl Machine {
    pub fn new() -> Self {
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
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
            sa.sa_sigaction = on_fpe as *const () as usize;
            sa.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // The other two mean that a case is badly made; it then shows up as a difference.
            for signal in [libc::SIGFPE, libc::SIGSEGV, libc::SIGILL] {
                assert_eq!(libc::sigaction(signal, &sa, std::ptr::null_mut()), 0);
            }
            Self { base: base.cast() }
        }
    }

    pub fn mem_addr(&self) -> u64 {
        self.base as u64 + MEM_AT as u64
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

    /// `op` with a RIP-relative operand at offset `to` of the mapping.
    fn emit_rel(&self, at: &mut usize, op: &[u8], to: usize) {
        self.emit(at, op);
        let disp = to as i32 - (*at as i32 + 4);
        self.emit(at, &disp.to_le_bytes());
    }

    pub fn run(&self, case: &Case, mem: &[u8]) -> Outcome {
        for (i, v) in case.gpr.iter().enumerate() {
            self.put64(REGS + i * 8, *v);
        }
        self.put64(FLAGS_AT, case.flags);
        // SAFETY: inside the mapping.
        unsafe { std::ptr::copy_nonoverlapping(mem.as_ptr(), self.base.add(MEM_AT), MEM) };

        let mut at = 0;
        // Callee-saved registers and the stack pointer.
        self.emit(
            &mut at,
            &[0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57],
        );
        self.emit_rel(&mut at, &[0xff, 0x35], FLAGS_AT);
        self.emit(&mut at, &[0x9d]);
        self.emit_rel(&mut at, &[0x48, 0x89, 0x25], RSP_AT);
        for r in 0..16u8 {
            let rex = 0x48 | ((r >> 3) << 2);
            self.emit_rel(
                &mut at,
                &[rex, 0x8b, 0x05 | ((r & 7) << 3)],
                REGS + r as usize * 8,
            );
        }
        self.emit(&mut at, &case.bytes);
        RESUME.store(self.base as u64 + at as u64, Ordering::Relaxed);
        FAULTED.store(0, Ordering::Relaxed);
        for r in 0..16u8 {
            let rex = 0x48 | ((r >> 3) << 2);
            self.emit_rel(
                &mut at,
                &[rex, 0x89, 0x05 | ((r & 7) << 3)],
                REGS + r as usize * 8,
            );
        }
        self.emit_rel(&mut at, &[0x48, 0x8b, 0x25], RSP_AT);
        self.emit(&mut at, &[0x9c]);
        self.emit_rel(&mut at, &[0x8f, 0x05], FLAGS_AT);
        self.emit(&mut at, &[0xfc]);
        self.emit(
            &mut at,
            &[
                0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3,
            ],
        );

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
        Outcome {
            gpr,
            flags: self.get64(FLAGS_AT),
            mem,
            divided: FAULTED.load(Ordering::Relaxed) != 0,
        }
    }
}
