// SPDX-License-Identifier: GPL-2.0

//! One instruction on an arbitrary CPU in a world that faults and delays at will.
//!
//! What must hold: an instruction that stops leaves the state as it was (REP may keep the elements
//! done, but RIP stays); one that completes leaves a state that can be entered; and a run that is
//! interrupted by user space and replayed ends like one that is not.

#![no_main]

use libfuzzer_sys::{fuzz_target, Corpus};
use model::addr::Gva;
use model::emul::cpu::{Access, Bus, Done, Flow, Stop, SystemOp, VecReg};
use model::emul::log::{IoKey, IoKind, IoLog};
use model::emul::{emulate, Code};
use model::x86::ctrl::{cr0, cr4, efer, rflags};
use model::x86::exception::Exception;
use model::x86::state::{CpuState, DescTable, SegReg, Segment};

/// Consumes the input from the front; zeros when it runs out.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn u8(&mut self) -> u8 {
        match self.0 {
            [first, rest @ ..] => {
                self.0 = rest;
                *first
            }
            [] => 0,
        }
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// A value that is often small or close to an edge.
    fn value(&mut self) -> u64 {
        match self.u8() {
            0 => 0,
            n @ 1..=99 => u64::from(n) << 4,
            n @ 100..=119 => u64::MAX >> (n - 100),
            120..=159 => u64::from(self.u16()),
            160..=199 => self.u32() as i32 as u64,
            _ => u64::from(self.u32()) | u64::from(self.u32()) << 32,
        }
    }
}

/// Memory whose contents follow from the address, with writes kept; the n-th access may fault or
/// go to user space.
#[derive(Clone)]
struct World {
    seed: u8,
    written: Vec<(u64, u8)>,
    /// Page that is absent.
    absent: u64,
    /// Access at which user space is needed, counted over replays.
    user_at: Option<u32>,
    count: u32,
    pending: Option<(IoKey, Vec<u8>)>,
    log: IoLog,
    vector: [u8; 32],
}

impl World {
    fn byte(&self, at: u64) -> u8 {
        match self.written.iter().rev().find(|(a, _)| *a == at) {
            Some((_, v)) => *v,
            None => (at as u8).wrapping_mul(self.seed) ^ (at >> 8) as u8 ^ self.seed,
        }
    }

    fn check(&mut self, at: u64, len: usize) -> Result<(), Stop> {
        assert!((1..=4096).contains(&len));
        let last = at.wrapping_add(len as u64 - 1);
        if at >> 12 == self.absent || last >> 12 == self.absent {
            return Err(Stop::Fault(Exception::page_fault(0, at)));
        }
        Ok(())
    }

    /// Is this the access that user space has to complete?
    fn delayed(&mut self, key: IoKey, data: &[u8]) -> Result<(), Stop> {
        self.count += 1;
        if self.user_at == Some(self.count) {
            self.pending = Some((key, data.to_vec()));
            return Err(Stop::NeedUser);
        }
        Ok(())
    }

    fn get(&mut self, kind: IoKind, at: u64, buf: &mut [u8]) -> Result<(), Stop> {
        let key = IoKey::new(kind, at, buf.len() as u8, false);
        if let Some(d) = self.log.replay(&key) {
            buf.copy_from_slice(&d[..buf.len()]);
            return Ok(());
        }
        for (i, b) in buf.iter_mut().enumerate() {
            *b = self.byte(at.wrapping_add(i as u64));
        }
        self.delayed(key, buf)?;
        // A full log is for the caller to give up on.
        self.log.record(key, buf).map_err(|_| Stop::UNHANDLED)
    }

    fn set(&mut self, kind: IoKind, at: u64, data: &[u8]) -> Result<(), Stop> {
        let key = IoKey::new(kind, at, data.len() as u8, true);
        if self.log.replay_write(&key, data) {
            return Ok(());
        }
        for (i, b) in data.iter().enumerate() {
            self.written.push((at.wrapping_add(i as u64), *b));
        }
        self.delayed(key, data)?;
        self.log.record(key, data).map_err(|_| Stop::UNHANDLED)
    }
}

impl Bus for World {
    fn fetch(&mut self, at: Gva, buf: &mut [u8], _: Access) -> Result<(), Stop> {
        assert!(!buf.is_empty() && buf.len() <= 15);
        assert_eq!(at.0 >> 12, (at.0.wrapping_add(buf.len() as u64 - 1)) >> 12);
        for (i, b) in buf.iter_mut().enumerate() {
            *b = self.byte(at.0.wrapping_add(i as u64));
        }
        Ok(())
    }
    fn read(&mut self, at: Gva, buf: &mut [u8], _: Access) -> Result<(), Stop> {
        assert!(buf.len() <= 16);
        self.check(at.0, buf.len())?;
        self.get(IoKind::Mem, at.0, buf)
    }
    fn write(&mut self, at: Gva, data: &[u8], _: Access) -> Result<(), Stop> {
        assert!(data.len() <= 16);
        self.check(at.0, data.len())?;
        self.set(IoKind::Mem, at.0, data)
    }
    fn check_write(&mut self, at: Gva, len: u32, _: Access) -> Result<(), Stop> {
        self.check(at.0, len as usize)
    }
    fn cmpxchg(&mut self, at: Gva, old: &[u8], new: &[u8], a: Access) -> Result<bool, Stop> {
        assert_eq!(old.len(), new.len());
        self.write(at, new, a)?;
        Ok(true)
    }
    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        assert!(matches!(buf.len(), 1 | 2 | 4));
        self.get(IoKind::Port, port.into(), buf)
    }
    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        assert!(matches!(data.len(), 1 | 2 | 4));
        self.set(IoKind::Port, port.into(), data)
    }
    fn rdmsr(&mut self, _: &CpuState, index: u32) -> Result<u64, Stop> {
        let mut buf = [0; 8];
        self.get(IoKind::Msr, index.into(), &mut buf)?;
        Ok(u64::from_le_bytes(buf))
    }
    fn wrmsr(&mut self, _: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        self.set(IoKind::Msr, index.into(), &value.to_le_bytes())
    }
    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Ok(0x1234_5678_9abc)
    }
    fn rdpmc(&mut self, _: u32) -> Result<u64, Stop> {
        Ok(7)
    }
    fn cpuid(&mut self, _: &CpuState, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        Ok([leaf, subleaf, 1, 2])
    }
    fn set_cr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        match n {
            2 => state.cr2 = value,
            8 => state.cr8 = value & 15,
            0 | 3 | 4 => return Err(Stop::GP0),
            _ => panic!("CR{n}"),
        }
        Ok(())
    }
    fn set_dr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        match n {
            0..=3 => state.dr[usize::from(n)] = value,
            6 => state.dr6 = value,
            7 => state.dr7 = value,
            _ => panic!("DR{n}"),
        }
        Ok(())
    }
    fn set_xcr(&mut self, state: &mut CpuState, _: u32, value: u64) -> Result<(), Stop> {
        state.xcr0 = value;
        Ok(())
    }
    fn system(&mut self, _: &mut CpuState, _: SystemOp) -> Result<(), Stop> {
        Ok(())
    }
    fn read_vec(&mut self, r: VecReg) -> Result<[u8; 32], Stop> {
        check_vec(r);
        Ok(self.vector)
    }
    fn write_vec(&mut self, r: VecReg, value: [u8; 32]) -> Result<(), Stop> {
        check_vec(r);
        self.vector = value;
        Ok(())
    }
    fn committed(&mut self) {
        self.log.clear();
    }
}

fn check_vec(r: VecReg) {
    assert!(match r {
        VecReg::Mm(n) => n < 8,
        VecReg::Xmm(n) | VecReg::Ymm(n) => n < 16,
    });
}

/// A state in one of the modes a guest can be in.
fn state(input: &mut Input<'_>) -> CpuState {
    let mut s = CpuState::reset();
    for r in &mut s.gpr {
        *r = input.value();
    }
    s.rip = input.value();
    let mode = input.u8();
    let cpl = u16::from(input.u8() & 3);
    s.rflags = u64::from(input.u16()) & 0x7fd5 | rflags::FIXED;
    s.cr4 = input.value() & (cr4::DE | cr4::OSFXSR | cr4::UMIP | cr4::LA57 | cr4::FSGSBASE);
    s.gdtr = DescTable {
        base: input.value(),
        limit: input.u16(),
    };
    s.idtr = DescTable {
        base: input.value(),
        limit: input.u16(),
    };
    for i in 0..8 {
        let seg = &mut s.seg[i];
        seg.selector = input.u16();
        seg.base = u64::from(input.u32());
        seg.limit = if input.u8() & 3 == 0 {
            input.u16().into()
        } else {
            u32::MAX
        };
        seg.attr = u16::from(input.u8()) | u16::from(input.u8() & 0xf) << 8;
    }
    let cs = SegReg::Cs as usize;
    match mode % 6 {
        0 => {
            for seg in &mut s.seg {
                *seg = Segment::real_mode(seg.selector, false);
            }
        }
        1 => {
            s.cr0 |= cr0::PE;
            s.rflags |= rflags::VM;
            for seg in &mut s.seg {
                *seg = Segment::real_mode(seg.selector, false);
                seg.attr = 0xf3;
            }
        }
        n => {
            s.cr0 |= cr0::PE;
            s.seg[SegReg::Ss as usize].attr = 0x93 | cpl << 5 | Segment::DB;
            s.seg[cs].attr = 0x9b | cpl << 5;
            match n {
                2 => {}
                3 => s.seg[cs].attr |= Segment::DB,
                _ => {
                    s.cr0 |= cr0::PG;
                    s.cr4 |= cr4::PAE;
                    s.efer = efer::LME | efer::LMA;
                    s.seg[cs].attr |= if n == 4 { Segment::L } else { Segment::DB };
                }
            }
        }
    }
    if s.efer & efer::LMA == 0 {
        s.rip &= 0xffff_ffff;
    }
    s
}

fn text(s: &CpuState) -> String {
    format!("{s:x?}")
}

fn check_done(before: &CpuState, after: &CpuState, done: &Done) {
    assert!((1..=15).contains(&done.len));
    assert_ne!(after.rflags & rflags::FIXED, 0);
    assert_eq!(after.rflags & 0xffff_ffff_ffc0_8028, 0, "reserved flags");
    match done.flow {
        Flow::Repeat | Flow::Interrupt { .. } | Flow::Resume => assert_eq!(before.rip, after.rip),
        Flow::Next | Flow::Halt => {}
    }
    if !after.long_mode() {
        assert!(after.rip <= 0xffff_ffff);
    }
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut input = Input(data);
    let start = state(&mut input);
    let mut code = [0u8; 15];
    for b in &mut code {
        *b = input.u8();
    }
    let given = usize::from(input.u8() & 15);
    let world = World {
        seed: input.u8() | 1,
        written: Vec::new(),
        absent: input.value() >> 12,
        user_at: None,
        count: 0,
        pending: None,
        log: IoLog::new(),
        vector: [0x5a; 32],
    };

    let mut s = start.clone();
    let mut w = world.clone();
    let result = emulate(&mut s, &mut Code::known(&code[..given]), &mut w);
    match &result {
        Ok(done) => check_done(&start, &s, done),
        Err(Stop::NeedUser) => panic!("nobody asked for user space"),
        Err(_) => {
            assert_eq!(start.rip, s.rip);
            let rep = start.gpr != s.gpr || start.rflags != s.rflags;
            let bytes = &code[..];
            let string = |b: &u8| matches!(b, 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf);
            // Without a string opcode in sight, nothing at all may have changed.
            if !rep || (given == 15 && !bytes.iter().any(string)) {
                assert_eq!(text(&start), text(&s));
            }
        }
    }

    // Again, with user space in the middle.
    let total = w.count;
    let mut s2 = start.clone();
    let mut w2 = world;
    w2.user_at = Some(1 + u32::from(input.u8()) % total.max(1));
    let mut rounds = 0;
    let mut known = Code::known(&code[..given]);
    let replayed = loop {
        w2.log.rewind();
        match emulate(&mut s2, &mut known, &mut w2) {
            Err(Stop::NeedUser) => {
                let (key, data) = w2.pending.take().expect("an access is pending");
                if w2.log.record(key, &data).is_err() {
                    return Corpus::Keep;
                }
                rounds += 1;
                assert!(rounds < 4);
            }
            other => break other,
        }
    };
    // REP makes different progress per call. Whatever is written over the instruction meanwhile, it
    // is the same one.
    let more = |r: &Result<Done, Stop>| matches!(r, Ok(d) if d.flow == Flow::Repeat);
    if !more(&result) && !more(&replayed) {
        assert_eq!(result, replayed);
        assert_eq!(text(&s), text(&s2));
        assert_eq!(w.written.last(), w2.written.last());
    }
    if matches!(result, Err(Stop::Unhandled { .. })) {
        return Corpus::Reject;
    }
    Corpus::Keep
});
