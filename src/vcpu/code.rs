// SPDX-License-Identifier: GPL-2.0

//! Instructions that exited before, decoded.
//!
//! Where the hardware does not tell what an exit needs of its instruction (the length without NRIPS,
//! the operands of a MOV to device memory), finding out means a walk through the guest's page tables,
//! a read, and decoding. A guest has few instructions that exit, so the outcome is kept, together with
//! everything it followed from: the registers, the version of the slots, and each word of tables and
//! code that was read. If all of these are the same at the next exit, a new walk would read the same
//! and come to the same end. Nothing is ever invalidated, and nothing is trusted that was not read
//! again.

use super::Cx;
use crate::backend::Backend;
use crate::vm::guest_mem::Memory;
use host::witness::Witness;
use kernel::prelude::*;
use model::addr::Gpa;
use model::addr::Gva;
use model::addr::PAGE_SIZE;
use model::emul::decode;
use model::emul::decode::Insn;
use model::walk::Access;
use model::walk::GuestMem;
use model::walk::Mode;
use model::x86::paging::PTE_D;
use model::x86::state::CodeSize;
use model::x86::state::SegReg;

/// Instructions that are kept. A power of two.
const LINES: usize = 16;
/// Bytes that are read: whole words, of which an instruction has at most 15.
const BYTES: u64 = 16;

/// The registers that decide which instruction is at RIP.
#[derive(Clone, Copy)]
struct Key {
    rip: u64,
    cr3: u64,
    cr0: u64,
    cr4: u64,
    efer: u64,
    /// Of CS, unless it is 64-bit code.
    base: u64,
    size: CodeSize,
    cpl: u8,
    slots: u64,
}

/// One instruction.
struct Line {
    /// Is there anything in it?
    valid: bool,
    key: Key,
    words: Witness,
    insn: Insn,
}

impl Line {
    const EMPTY: Self = Self {
        valid: false,
        key: Key {
            rip: 0,
            cr3: 0,
            cr0: 0,
            cr4: 0,
            efer: 0,
            base: 0,
            size: CodeSize::Bits64,
            cpl: 0,
            slots: 0,
        },
        words: Witness::new(),
        insn: Insn::none(CodeSize::Bits64),
    };
}

/// The instructions of one vCPU. Guarded by the vCPU mutex.
pub(crate) struct Code {
    /// None until one is needed; each is allocated when it is.
    lines: Option<KBox<[Option<KBox<Line>>; LINES]>>,
    /// The line that was used last.
    last: usize,
    /// The last instruction that could not be kept.
    other: Insn,
}

impl Code {
    /// No instruction.
    pub(crate) const fn new() -> Self {
        Self {
            lines: None,
            last: 0,
            other: Insn::none(CodeSize::Bits64),
        }
    }
}

impl Code {
    #[inline]
    fn line(&self, i: usize) -> Option<&Line> {
        self.lines.as_ref()?.get(i)?.as_deref()
    }
}

/// Where an instruction is kept: there, or in the line beside.
#[inline]
fn place(rip: u64) -> usize {
    // Fibonacci hashing: the upper bits depend on all of RIP.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    // CAST: below LINES.
    (rip.wrapping_mul(FACTOR) >> 32) as usize & (LINES - 1)
}

/// Guest memory that notes what is read.
struct Noted<'a> {
    mem: Memory<'a>,
    words: &'a mut Witness,
}

impl GuestMem for Noted<'_> {
    type Error = Error;

    fn read_u32(&mut self, gpa: Gpa) -> Result<u32> {
        // Tables of 32-bit paging: not worth the trouble.
        self.words.spoil();
        self.mem.read_u32(gpa)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Result<u64> {
        // Whether the guest wrote to the page of the code is no matter of a fetch.
        self.words.read(self.mem.hva(gpa)?, !PTE_D)
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Result<bool> {
        self.mem.cmpxchg_u32(gpa, old, new)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Result<bool> {
        let done = self.mem.cmpxchg_u64(gpa, old, new)?;
        if done {
            self.words.replaced(self.mem.hva(gpa)?, new);
        }
        Ok(done)
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    fn code_key(&self) -> Key {
        let size = self.code_size();
        let base = match size {
            CodeSize::Bits64 => 0,
            _ => V::seg(self.l, SegReg::Cs).base,
        };
        Key {
            rip: V::rip(self.l),
            cr3: V::cr3(self.l),
            cr0: V::cr0(self.l),
            cr4: V::cr4(self.l),
            efer: V::efer(self.l),
            base,
            size,
            cpl: V::cpl(self.l),
            slots: self.slots_version(),
        }
    }

    /// The instruction at RIP. None if it cannot be read or is none: the guest has changed its code
    /// or tables since it exited.
    #[inline]
    pub(crate) fn instruction(&mut self) -> Option<&Insn> {
        let code = &self.st.code;
        let i = place(V::rip(self.l));
        // The line that is not the one used last makes room.
        let mut victim = i ^ usize::from(code.last == i);
        for n in [i, i ^ 1] {
            if let Some(l) = code.line(n).filter(|l| self.is_at(l)) {
                if l.words.holds() {
                    self.st.code.last = n;
                    return self.st.code.line(n).map(|l| &l.insn);
                }
                victim = n;
            }
        }
        self.st.code.last = victim;
        self.decode_anew(victim)
    }

    /// Names the slots that the vCPU sees: their version, and which address space.
    #[inline]
    fn slots_version(&self) -> u64 {
        self.vm.base.slots.generation() << 1 | u64::from(self.st.smm.active())
    }

    /// Is this the line of the instruction at RIP?
    #[inline]
    fn is_at(&self, line: &Line) -> bool {
        let k = &line.key;
        line.valid
            && k.rip == V::rip(self.l)
            && k.cr3 == V::cr3(self.l)
            && k.size == self.code_size()
            && (k.size == CodeSize::Bits64 || k.base == V::seg(self.l, SegReg::Cs).base)
            && k.cpl == V::cpl(self.l)
            && k.cr0 == V::cr0(self.l)
            && k.cr4 == V::cr4(self.l)
            && k.efer == V::efer(self.l)
            && k.slots == self.slots_version()
    }

    #[inline(never)]
    fn decode_anew(&mut self, i: usize) -> Option<&Insn> {
        let key = &self.code_key();
        let mut lines = match self.st.code.lines.take() {
            Some(lines) => lines,
            None => KBox::new([const { None }; LINES], GFP_KERNEL_ACCOUNT).ok()?,
        };
        if let Some(line) = lines.get_mut(i) {
            if line.is_none() {
                *line = KBox::new(Line::EMPTY, GFP_KERNEL_ACCOUNT).ok();
            }
            if let Some(line) = line {
                self.fill(line, key);
            }
        }
        self.st.code.lines = Some(lines);
        if self.st.code.line(i).is_some_and(|l| l.valid) {
            return self.st.code.line(i).map(|l| &l.insn);
        }
        let mut buf = [0; super::fetch::MAX];
        let n = self.fetch(&mut buf);
        self.st.code.other = decode::decode(buf.get(..n)?, self.code_size()).ok()?;
        Some(&self.st.code.other)
    }

    /// Reads and decodes the instruction at RIP into a line, which stays invalid if that does not
    /// succeed or not all that counts could be noted.
    fn fill(&self, line: &mut Line, key: &Key) -> Option<()> {
        line.valid = false;
        line.words.clear();
        let at = Gva(self.linear_rip());
        if at.offset() > PAGE_SIZE - BYTES {
            return None;
        }
        let set = self.vm.base.slots.space(self.space());
        let mut mem = Noted {
            mem: Memory::new(&self.vm.base, &set),
            words: &mut line.words,
        };
        let paging = self.paging();
        if !matches!(paging.mode(), Mode::None | Mode::Long4 | Mode::Long5) {
            return None;
        }
        let t = paging
            .translate(&mut mem, at, Access::fetch(key.cpl))
            .ok()?;
        let hva = mem.mem.hva(t.gpa).ok()?;
        // All bits for now: how many bytes count is known only after decoding.
        let low = line.words.read(hva, u64::MAX).ok()?;
        let high = line.words.read(hva.wrapping_add(8), u64::MAX).ok()?;
        let bytes = (u128::from(high) << 64 | u128::from(low)).to_le_bytes();
        line.insn = decode::decode(&bytes, key.size).ok()?;
        line.key = *key;
        line.valid = line.words.is_complete();
        Some(())
    }
}
