// SPDX-License-Identifier: GPL-2.0

//! Hardware task switches.
//!
//! VMX never switches tasks by itself, and SVM hands the switch over when asked to. Both have done
//! the privilege checks of CALL and JMP by then, but not that of INT n on its gate.
//! `SDM: vol 3, 8.3`.

use super::cpu::{Bus, Stop};
use super::decode::Insn;
use super::io::SYSTEM;
use super::operand::seg_by_number;
use super::segment::{code, fault, Descriptor, BUSY};
use super::Ctx;
use crate::exit::TaskSwitchCause;
use crate::x86::ctrl::{cr0, dr6, dr7, rflags};
use crate::x86::exception::{Exception, DB, GP, NP, TS};
use crate::x86::state::{CodeSize, CpuState, SegReg, Segment};

/// A task switch that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSwitch {
    /// The new task's TSS.
    pub selector: u16,
    /// What asked for it.
    pub cause: TaskSwitchCause,
    /// Error code to push on the new task's stack.
    pub error_code: Option<u32>,
    /// Vector of the INT instruction that went through a task gate.
    pub int_n: Option<u8>,
}

/// What a task switch ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switched {
    /// An exception in the context of the new task: its state could not be loaded fully, or its
    /// TSS asks for a debug trap.
    pub fault: Option<Exception>,
}

/// The fields of a TSS that a switch saves and loads.
#[derive(Clone, Copy, Debug, Default)]
struct Image {
    cr3: u32,
    ip: u32,
    flags: u32,
    regs: [u32; 8],
    /// ES, CS, SS, DS, FS, GS, LDTR.
    selectors: [u16; 7],
    trap: bool,
}

/// Bytes of a 32-bit TSS that are read.
const LEN32: usize = 0x68;
/// Bytes of a 16-bit TSS.
const LEN16: usize = 0x2c;
/// Where the fields that a switch writes start and end, in both sizes.
const SAVED32: (usize, usize) = (0x20, 0x60);
const SAVED16: (usize, usize) = (0x0e, 0x2a);

fn get16(tss: &[u8; LEN32], at: usize) -> u16 {
    match tss.get(at..at.wrapping_add(2)) {
        Some(&[a, b]) => u16::from_le_bytes([a, b]),
        _ => 0,
    }
}

fn get32(tss: &[u8; LEN32], at: usize) -> u32 {
    u32::from(get16(tss, at)) | (u32::from(get16(tss, at.wrapping_add(2))) << 16)
}

fn put(tss: &mut [u8; LEN32], at: usize, value: &[u8]) {
    for (to, from) in tss.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

impl Image {
    fn decode(tss: &[u8; LEN32], wide: bool) -> Self {
        let mut image = Self::default();
        if wide {
            image.cr3 = get32(tss, 0x1c);
            image.ip = get32(tss, 0x20);
            image.flags = get32(tss, 0x24);
            image.trap = get16(tss, 0x64) & 1 != 0;
            let mut at = 0x28;
            for r in &mut image.regs {
                *r = get32(tss, at);
                at = at.wrapping_add(4);
            }
            for s in &mut image.selectors {
                *s = get16(tss, at);
                at = at.wrapping_add(4);
            }
            return image;
        }
        image.ip = get16(tss, 0x0e).into();
        image.flags = get16(tss, 0x10).into();
        let mut at = 0x12;
        for r in &mut image.regs {
            // The upper halves are undefined; CPUs set them.
            *r = 0xffff_0000 | u32::from(get16(tss, at));
            at = at.wrapping_add(2);
        }
        // A 16-bit TSS has no FS and GS: null.
        for i in [0, 1, 2, 3, 6usize] {
            if let Some(s) = image.selectors.get_mut(i) {
                *s = get16(tss, at);
            }
            at = at.wrapping_add(2);
        }
        image
    }

    /// Writes what a switch saves: neither CR3 nor LDTR.
    fn encode(&self, tss: &mut [u8; LEN32], wide: bool) {
        let mut at = if wide { SAVED32.0 } else { SAVED16.0 };
        let step = if wide { 4 } else { 2 };
        let words = [self.ip, self.flags].into_iter().chain(self.regs);
        let count = if wide { 6 } else { 4 };
        let selectors = self.selectors.iter().take(count).map(|s| u32::from(*s));
        for word in words.chain(selectors) {
            let bytes = word.to_le_bytes();
            put(tss, at, bytes.get(..step).unwrap_or(&[]));
            at = at.wrapping_add(step);
        }
    }
}

impl Ctx<'_> {
    /// Reads or writes bytes `from` to `to` of a TSS, in pieces that a bus takes.
    fn tss_copy(
        &mut self,
        base: u64,
        tss: &mut [u8; LEN32],
        (from, to): (usize, usize),
        write: bool,
    ) -> Result<(), Stop> {
        let mut at = from;
        while at < to {
            let end = at.wrapping_add(16).min(to);
            let gva = self.table(base, at as u64);
            let part = tss.get_mut(at..end).ok_or(Stop::UNHANDLED)?;
            if write {
                self.bus.write(gva, part, SYSTEM)?;
            } else {
                self.bus.read(gva, part, SYSTEM)?;
            }
            at = end;
        }
        Ok(())
    }

    /// The registers as the old TSS gets them.
    fn task_image(&self) -> Image {
        let mut image = Image {
            // CAST: outside long mode both have 32 bits.
            ip: self.s.rip as u32,
            flags: self.s.rflags as u32,
            ..Image::default()
        };
        for (to, from) in image.regs.iter_mut().zip(self.s.gpr) {
            *to = from as u32;
        }
        for (to, from) in image.selectors.iter_mut().zip(&self.s.seg) {
            *to = from.selector;
        }
        image
    }

    /// Checks the descriptor of the new task.
    fn check_task(&mut self, selector: u16, cause: TaskSwitchCause) -> Result<Descriptor, Stop> {
        let iret = cause == TaskSwitchCause::Iret;
        let vector = if iret { TS } else { GP };
        if selector & 4 != 0 || selector & !3 == 0 {
            return fault(vector, selector);
        }
        let d = self.descriptor(selector, vector)?;
        let s = d.segment(selector);
        let wanted = if iret { 3 } else { 1 };
        // Bit 3 of the type says 32-bit.
        if s.attr & (Segment::S | 7) != wanted {
            return fault(vector, selector);
        }
        if s.attr & Segment::P == 0 {
            return fault(NP, selector);
        }
        let least = if s.attr & 8 != 0 { 0x67 } else { 0x2b };
        if s.limit < least {
            return fault(TS, selector);
        }
        Ok(d)
    }

    /// Saves the old task and reads the new one; nothing in the registers changes.
    fn leave_task(
        &mut self,
        selector: u16,
        cause: TaskSwitchCause,
        tss: &mut [u8; LEN32],
    ) -> Result<(Segment, u32), Stop> {
        let new = self.check_task(selector, cause)?;
        let mut s = new.segment(selector);
        let old = *self.s.seg(SegReg::Tr);
        let nested = matches!(cause, TaskSwitchCause::Call | TaskSwitchCause::Gate);
        let wide = s.attr & 8 != 0;
        let old_wide = old.attr & 8 != 0;
        let len = if wide { LEN32 } else { LEN16 };
        // Everything that can fault comes before the first write.
        self.tss_copy(s.base, tss, (0, len), false)?;
        let range = if old_wide { SAVED32 } else { SAVED16 };
        let saved_len = range.1.wrapping_sub(range.0) as u32;
        let first = self.table(old.base, range.0 as u64);
        self.bus.check_write(first, saved_len, SYSTEM)?;
        if nested {
            let link = self.table(s.base, 0);
            self.bus.check_write(link, 2, SYSTEM)?;
        }
        let mut image = self.task_image();
        if cause == TaskSwitchCause::Iret {
            // CAST: bit 14.
            image.flags &= !(rflags::NT as u32);
        }
        if !nested {
            let d = self.descriptor(old.selector, GP)?;
            self.replace(&d, d.raw & !BUSY)?;
        }
        let mut saved = [0u8; LEN32];
        image.encode(&mut saved, old_wide);
        self.tss_copy(old.base, &mut saved, range, true)?;
        let mut set = 0;
        if nested {
            let link = self.table(s.base, 0);
            self.store(link, 2, u64::from(old.selector), SYSTEM)?;
            set = rflags::NT as u32;
        }
        if cause != TaskSwitchCause::Iret {
            self.mark(&new, BUSY)?;
        }
        s.attr |= 2;
        Ok((s, set))
    }

    /// Loads the new task's registers. From here on a fault belongs to the new task.
    fn enter_task(&mut self, tr: Segment, image: &Image) -> Result<(), Stop> {
        let wide = tr.attr & 8 != 0;
        *self.s.seg_mut(SegReg::Tr) = tr;
        self.bus.set_cr(self.s, 0, self.s.cr0 | cr0::TS)?;
        // The old task's local breakpoints are not the new one's. SDM: vol 3, 18.2.4
        if self.s.dr7 & dr7::LOCAL != 0 {
            self.bus.set_dr(self.s, 7, self.s.dr7 & !dr7::LOCAL)?;
        }
        if wide && self.s.cr0 & cr0::PG != 0 {
            self.bus.set_cr(self.s, 3, image.cr3.into())?;
        }
        self.s.rip = image.ip.into();
        let defined = rflags::STATUS
            | rflags::TF
            | rflags::IF
            | rflags::DF
            | rflags::IOPL
            | rflags::NT
            | rflags::RF
            | rflags::VM
            | rflags::AC
            | rflags::VIF
            | rflags::VIP
            | rflags::ID;
        self.s.rflags = (u64::from(image.flags) & defined) | rflags::FIXED;
        for (to, from) in self.s.gpr.iter_mut().zip(image.regs) {
            *to = from.into();
        }
        self.load_task_segments(&image.selectors)
    }

    fn load_task_segments(&mut self, selectors: &[u16; 7]) -> Result<(), Stop> {
        let &[_, cs, ss, _, _, _, ldt] = selectors;
        // Selectors first: they are loaded even if a descriptor is refused.
        for (seg, selector) in self.s.seg.iter_mut().zip(selectors.iter().take(6)) {
            seg.selector = *selector;
        }
        self.load_task_ldt(ldt)?;
        if self.s.v8086() {
            for n in 0..6u8 {
                let r = seg_by_number(n);
                self.load_real(r, self.s.seg(r).selector);
            }
            return Ok(());
        }
        // CAST: two bits.
        let cpl = (cs & 3) as u8;
        let dpl = u16::from(cpl) << Segment::DPL_SHIFT;
        let stack = self.s.seg_mut(SegReg::Ss);
        stack.attr = (stack.attr & !(3 << Segment::DPL_SHIFT)) | dpl;
        let s = self.code_by_rpl(cs, TS)?;
        *self.s.seg_mut(SegReg::Cs) = s;
        let s = self.stack_segment(ss, cpl, TS)?;
        *self.s.seg_mut(SegReg::Ss) = s;
        for r in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            let s = self.data_descriptor(self.s.seg(r).selector, cpl, TS)?;
            *self.s.seg_mut(r) = s;
        }
        if self.s.rip > u64::from(self.s.seg(SegReg::Cs).limit) {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Result<(), Stop> {
        *self.s.seg_mut(SegReg::Ldtr) = Self::null_segment(selector);
        if selector & !3 == 0 {
            return Ok(());
        }
        if selector & 4 != 0 {
            return fault(TS, selector);
        }
        let s = self.descriptor(selector, TS)?.segment(selector);
        let want = Segment::P | 2;
        if s.attr & (Segment::P | Segment::S | Segment::TYPE) != want {
            return fault(TS, selector);
        }
        *self.s.seg_mut(SegReg::Ldtr) = s;
        Ok(())
    }
}

/// Switches to another task.
///
/// RIP must already be that of the next instruction if an instruction asked for the switch. `Err` means that nothing was loaded (memory of
/// the old TSS may have been written); a fault then belongs to the old task.
pub fn task_switch(
    state: &mut CpuState,
    want: &TaskSwitch,
    bus: &mut dyn Bus,
) -> Result<Switched, Stop> {
    let selector = want.selector;
    if !state.protected_mode() || state.long_mode() {
        return Err(Stop::fault(GP, code(selector)));
    }
    let mut c = Ctx::new(state, bus, Insn::none(CodeSize::Bits32));
    let mut tss = [0u8; LEN32];
    if let Some(vector) = want.int_n {
        c.check_gate(vector)?;
    }
    let (tr, set) = c.leave_task(selector, want.cause, &mut tss)?;
    // The rest cannot be done twice.
    c.bus.committed();
    let wide = tr.attr & 8 != 0;
    let mut image = Image::decode(&tss, wide);
    image.flags |= set;
    let mut result = c.enter_task(tr, &image);
    if let (Ok(()), Some(error)) = (&result, want.error_code) {
        result = c.push(error.into(), if wide { 4 } else { 2 });
    }
    c.s.shadow = 0;
    c.bus.committed();
    match result {
        Ok(()) if image.trap => Ok(Switched {
            fault: Some(Exception {
                vector: DB,
                error_code: None,
                payload: dr6::BT,
            }),
        }),
        Ok(()) => Ok(Switched { fault: None }),
        Err(Stop::Fault(e)) => Ok(Switched { fault: Some(e) }),
        // The new task is in place, but not whole.
        Err(_) => Err(Stop::UNHANDLED),
    }
}
