// SPDX-License-Identifier: GPL-2.0

//! The x86 instruction emulator and the length decoder.
//!
//! [`emulate`] carries out one instruction (or a batch of REP elements) on a [`CpuState`], with
//! everything outside the registers behind the [`Bus`]. The vCPU uses it for device memory, for
//! string I/O, for real mode on CPUs that cannot run it, and wherever the hardware hands over an
//! instruction it did not complete. It is cold code: small and plain rather than fast.
//!
//! | file | what |
//! |---|---|
//! | `cpu` | the interface: `Bus`, `Stop`, `Done` |
//! | `decode`, `table`, `len` | bytes to [`decode::Insn`]; instruction length |
//! | `log` | finished accesses, for replay |
//! | `plain` | MOV to and from device memory, without all of the rest |
//! | `operand` | registers, effective addresses, segment checks, memory |
//! | `dispatch` | opcode to function |
//! | the others | one instruction family each |

mod alu;
mod bit;
mod branch;
pub mod cpu;
pub mod decode;
mod dispatch;
mod far;
mod fast_call;
mod io;
pub mod len;
pub mod log;
mod mov;
mod muldiv;
mod operand;
pub mod plain;
mod segment;
mod shift;
mod sse;
mod stack;
mod string;
mod system;
mod table;
pub mod task;
#[cfg(test)]
mod tests;

use crate::addr::{Gva, PAGE_SIZE};
use crate::x86::ctrl::rflags;
use crate::x86::state::{CodeSize, CpuState, SegReg, SHADOW_MOV_SS};
use cpu::{Access, Bus, Done, Flow, Stop};
use decode::{DecodeError, Insn, MAX_LEN};

/// One instruction in progress.
struct Ctx<'a> {
    s: &'a mut CpuState,
    bus: &'a mut dyn Bus,
    insn: Insn,
    /// Offset of the next instruction; branches change it.
    next: u64,
    /// Added to rSP as a base register, for POP to memory.
    rsp_bias: u64,
    flow: Flow,
    /// Interrupt shadow after this instruction.
    shadow: u8,
    /// What is in the registers stays there even if the instruction stops.
    partial: bool,
    /// The instruction loaded RF itself.
    keep_rf: bool,
    /// No single-step trap after this instruction.
    no_trap: bool,
    /// NMIs are no longer blocked.
    unblock_nmi: bool,
}

impl<'a> Ctx<'a> {
    fn new(s: &'a mut CpuState, bus: &'a mut dyn Bus, insn: Insn) -> Self {
        let wide = if insn.mode == CodeSize::Bits64 {
            u64::MAX
        } else {
            0xffff_ffff
        };
        let next = s.rip.wrapping_add(u64::from(insn.len)) & wide;
        Self {
            s,
            bus,
            insn,
            next,
            rsp_bias: 0,
            flow: Flow::Next,
            shadow: 0,
            partial: false,
            keep_rf: false,
            no_trap: false,
            unblock_nmi: false,
        }
    }

    /// SS was loaded: interrupts and debug exceptions wait for one more instruction. A second
    /// load in a row does not extend that.
    fn shadow_mov_ss(&mut self) {
        if self.s.shadow & SHADOW_MOV_SS == 0 {
            self.shadow = SHADOW_MOV_SS;
            self.no_trap = true;
        }
    }

    /// Commits what every instruction changes.
    fn finish(&mut self) {
        if matches!(self.flow, Flow::Next | Flow::Halt) {
            self.s.rip = self.next;
            if !self.keep_rf {
                self.s.rflags &= !rflags::RF;
            }
            self.s.shadow = self.shadow;
        }
        if self.flow == Flow::Repeat {
            // A shadow of what came before lasts for one element.
            self.s.shadow = 0;
            // What comes between two elements finds RF set: the instruction, when it goes on, does not
            // break once more. SDM: vol 3, 18.3.1.1.
            self.s.rflags |= rflags::RF;
        }
    }
}

/// Emulates the instruction at CS:RIP.
///
/// `code` has what is known of it already (from decode assists, or a look at RIP); it may be empty
/// or end early, the rest is fetched and left there. On `Err` the state is as it was, except that
/// REP keeps the elements done, and RIP points to the instruction.
///
/// The caller takes care of what comes before an instruction (code breakpoints) and after it:
/// interrupts, and the single-step exception that [`Done::trap`] announces.
#[inline(never)]
pub fn emulate(state: &mut CpuState, code: &mut Code, bus: &mut dyn Bus) -> Result<Done, Stop> {
    let result = match code.decode(state, bus) {
        Ok(insn) => run(state, bus, insn),
        Err(stop) => Err(stop),
    };
    match result {
        Ok(done) => {
            bus.committed();
            Ok(done)
        }
        // CAST: at most fifteen.
        Err(Stop::Unhandled { .. }) => Err(Stop::Unhandled {
            len: code.len as u8,
            bytes: code.bytes,
        }),
        Err(stop) => Err(stop),
    }
}

/// Runs a decoded instruction and rolls back if it stops.
#[inline(never)]
fn run(state: &mut CpuState, bus: &mut dyn Bus, insn: Insn) -> Result<Done, Stop> {
    let saved = state.clone();
    let trap = state.rflags & rflags::TF != 0;
    let mut c = Ctx::new(state, bus, insn);
    match c.dispatch() {
        Ok(()) => {
            c.finish();
            let injected = matches!(c.flow, Flow::Interrupt { .. });
            Ok(Done {
                len: insn.len,
                flow: c.flow,
                trap: trap && !c.no_trap && !injected,
                unblock_nmi: c.unblock_nmi,
            })
        }
        Err(stop) => {
            if !c.partial {
                *c.s = saved;
            }
            Err(stop)
        }
    }
}

/// Delivers `vector` in real mode: pushes FLAGS, CS and IP (`inc_eip` bytes further, for software
/// interrupts) and goes where the vector table says.
///
/// On `Err` nothing is changed but memory below the stack. A vector outside the table is
/// `Stop::GP0`. `SDM: vol 3, 20.1.4`.
pub fn inject_realmode(
    state: &mut CpuState,
    vector: u8,
    inc_eip: u8,
    bus: &mut dyn Bus,
) -> Result<(), Stop> {
    let rsp = state.gpr;
    let mut c = Ctx::new(state, bus, Insn::none(CodeSize::Bits16));
    let back = c.s.rip.wrapping_add(u64::from(inc_eip));
    let result = c.enter_vector(vector, back);
    match result {
        Ok(()) => {
            c.s.rip = c.next;
            c.s.rflags &= !rflags::RF;
            c.s.shadow = 0;
            c.bus.committed();
            Ok(())
        }
        Err(stop) => {
            c.s.gpr = rsp;
            Err(stop)
        }
    }
}

/// The bytes of an instruction that are known so far.
///
/// Whoever emulates an instruction again, because user space has finished an access of it, passes
/// those of the first time: the guest may have written others there meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Code {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl Code {
    /// Nothing known.
    pub const fn new() -> Self {
        Self {
            bytes: [0; MAX_LEN],
            len: 0,
        }
    }

    /// The first `bytes` of the instruction are known; at most fifteen count.
    pub fn known(bytes: &[u8]) -> Self {
        let mut code = Self::new();
        for (to, from) in code.bytes.iter_mut().zip(bytes) {
            *to = *from;
        }
        code.len = bytes.len().min(MAX_LEN);
        code
    }

    /// Is nothing known?
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Decodes, fetching more bytes while the decoder asks for them.
    fn decode(&mut self, state: &CpuState, bus: &mut dyn Bus) -> Result<Insn, Stop> {
        let mode = state.code_size();
        loop {
            match decode::decode(self.bytes.get(..self.len).unwrap_or(&[]), mode) {
                Ok(insn) => return Ok(insn),
                Err(DecodeError::Truncated) => self.more(state, mode, bus)?,
                Err(DecodeError::TooLong) => return Err(Stop::GP0),
                Err(DecodeError::Undefined) => return Err(Stop::UD),
            }
        }
    }

    /// Fetches up to the end of the page, the code segment, or the longest instruction.
    fn more(&mut self, state: &CpuState, mode: CodeSize, bus: &mut dyn Bus) -> Result<(), Stop> {
        let cs = state.seg(SegReg::Cs);
        let offset = state.rip.wrapping_add(self.len as u64);
        let mut room = MAX_LEN.wrapping_sub(self.len) as u64;
        let at = if mode == CodeSize::Bits64 {
            let unused = 64u32.wrapping_sub(state.linear_bits());
            if (offset.wrapping_shl(unused) as i64).wrapping_shr(unused) as u64 != offset {
                return Err(Stop::GP0);
            }
            Gva(offset)
        } else {
            let offset = offset & 0xffff_ffff;
            let limit = u64::from(cs.limit);
            let left = limit.wrapping_add(1).saturating_sub(offset);
            room = room.min(left);
            Gva(cs.base.wrapping_add(offset) & 0xffff_ffff)
        };
        room = room.min(PAGE_SIZE.wrapping_sub(at.offset()));
        let user = state.cpl() == 3;
        let access = Access {
            user,
            implicit: false,
            modify: false,
        };
        let end = self.len.wrapping_add(room as usize);
        match self.bytes.get_mut(self.len..end) {
            Some(part) if !part.is_empty() => bus.fetch(at, part, access)?,
            _ => return Err(Stop::GP0),
        }
        self.len = end;
        Ok(())
    }
}
