// SPDX-License-Identifier: GPL-2.0

//! Tests of the emulator: a machine with flat memory, scripted ports and one device.

mod far;
mod fast_call;
mod fault;
mod modes;
mod replay;
mod segment;
mod string;
mod system;
mod task;

use super::cpu::{Access, Bus, Done, Flow, Intercept, Stop, SystemOp, VecReg};
use super::log::{IoKey, IoKind, IoLog};
use super::{emulate, inject_realmode, Code};
use crate::addr::Gva;
use crate::x86::ctrl::{cr0, cr4, efer, rflags};
use crate::x86::exception::{pf, Exception};
use crate::x86::state::{gpr::*, CpuState, DescTable, SegReg, Segment};
use std::collections::BTreeMap;

/// Bytes of memory, at linear 0.
const MEM: usize = 0x20000;
/// Device memory that user space serves.
const MMIO: u64 = 0xa0000;
/// Where code is.
const CODE: u64 = 0x8000;
/// Where the stack starts.
const STACK: u64 = 0x7000;
/// Where the GDT is, and a TSS.
const GDT: u64 = 0x1000;
const TSS: u64 = 0x2000;

/// What an access to the device looked like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UserIo {
    key: IoKey,
    data: Vec<u8>,
}

/// Everything outside the registers.
struct World {
    mem: Vec<u8>,
    /// Pages that fault, by number.
    absent: Vec<u64>,
    /// Pages that cannot be written.
    readonly: Vec<u64>,
    log: IoLog,
    /// What user space is asked to do.
    pending: Option<UserIo>,
    /// Port writes and reads, in order; reads return `inputs`.
    outputs: Vec<(u16, Vec<u8>)>,
    inputs: Vec<u32>,
    /// Ports go to user space.
    user_ports: bool,
    /// Largest batch of string I/O.
    batch: u32,
    msrs: BTreeMap<u32, u64>,
    ymm: [[u8; 32]; 16],
    mm: [[u8; 8]; 8],
    ops: Vec<SystemOp>,
    /// CPUID says Intel.
    intel: bool,
    cr8_legacy: bool,
    asked: Vec<Intercept>,
    refuse: Option<Intercept>,
    /// Compare-and-exchange fails.
    contended: bool,
    /// Bits of the bases of tables and segments.
    base_bits: u32,
    locked: u32,
    fetches: Vec<(u64, usize)>,
    accesses: Vec<(u64, Access, bool)>,
}

impl World {
    fn new() -> Self {
        Self {
            mem: vec![0; MEM],
            absent: Vec::new(),
            readonly: Vec::new(),
            log: IoLog::new(),
            pending: None,
            outputs: Vec::new(),
            inputs: Vec::new(),
            user_ports: false,
            batch: 0,
            msrs: BTreeMap::new(),
            ymm: [[0; 32]; 16],
            mm: [[0; 8]; 8],
            ops: Vec::new(),
            intel: false,
            cr8_legacy: false,
            asked: Vec::new(),
            refuse: None,
            contended: false,
            base_bits: 48,
            locked: 0,
            fetches: Vec::new(),
            accesses: Vec::new(),
        }
    }

    fn check(&mut self, at: Gva, len: usize, access: Access, write: bool) -> Result<(), Stop> {
        self.accesses.push((at.0, access, write));
        for page in (at.0 >> 12)..=((at.0 + len as u64 - 1) >> 12) {
            let first = at.0.max(page << 12);
            let w = if write || access.modify { pf::W } else { 0 };
            let u = if access.user { pf::U } else { 0 };
            if self.absent.contains(&page) {
                return Err(Stop::Fault(Exception::page_fault(w | u, first)));
            }
            if w != 0 && self.readonly.contains(&page) {
                return Err(Stop::Fault(Exception::page_fault(pf::P | w | u, first)));
            }
        }
        Ok(())
    }

    fn device(&mut self, key: IoKey, data: &mut [u8]) -> Result<(), Stop> {
        let done = if key.write {
            self.log.replay_write(&key, data)
        } else if let Some(d) = self.log.replay(&key) {
            data.copy_from_slice(&d[..data.len()]);
            true
        } else {
            false
        };
        if done {
            return Ok(());
        }
        self.pending = Some(UserIo {
            key,
            data: data.to_vec(),
        });
        Err(Stop::NeedUser)
    }

    fn slice(&mut self, at: Gva, len: usize) -> &mut [u8] {
        let at = at.0 as usize;
        &mut self.mem[at..at + len]
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.slice(Gva(at), bytes.len()).copy_from_slice(bytes);
    }

    fn vec(&mut self, r: VecReg) -> &mut [u8] {
        match r {
            VecReg::Mm(n) => &mut self.mm[usize::from(n)],
            VecReg::Xmm(n) => &mut self.ymm[usize::from(n)][..16],
            VecReg::Ymm(n) => &mut self.ymm[usize::from(n)],
        }
    }

    fn u16(&mut self, at: u64) -> u16 {
        u16::from_le_bytes(self.slice(Gva(at), 2).try_into().unwrap())
    }

    fn u32(&mut self, at: u64) -> u32 {
        u32::from_le_bytes(self.slice(Gva(at), 4).try_into().unwrap())
    }

    fn u64(&mut self, at: u64) -> u64 {
        u64::from_le_bytes(self.slice(Gva(at), 8).try_into().unwrap())
    }
}

fn is_device(at: Gva) -> bool {
    (MMIO..MMIO + 0x1000).contains(&at.0)
}

impl Bus for World {
    fn fetch(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        self.fetches.push((at.0, buf.len()));
        self.check(at, buf.len(), access, false)?;
        buf.copy_from_slice(self.slice(at, buf.len()));
        Ok(())
    }

    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Result<(), Stop> {
        self.check(at, buf.len(), access, false)?;
        if is_device(at) {
            return self.device(IoKey::new(IoKind::Mem, at.0, buf.len() as u8, false), buf);
        }
        let data = self.slice(at, buf.len()).to_vec();
        // RAM is logged too while something was: a replay must see the same.
        let key = IoKey::new(IoKind::Mem, at.0, buf.len() as u8, false);
        if let Some(d) = self.log.replay(&key) {
            buf.copy_from_slice(&d[..buf.len()]);
            return Ok(());
        }
        self.log.record(key, &data).unwrap();
        buf.copy_from_slice(&data);
        Ok(())
    }

    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Result<(), Stop> {
        self.check(at, data.len(), access, true)?;
        if is_device(at) {
            let key = IoKey::new(IoKind::Mem, at.0, data.len() as u8, true);
            return self.device(key, &mut data.to_vec());
        }
        self.put(at.0, data);
        Ok(())
    }

    fn check_write(&mut self, at: Gva, len: u32, access: Access) -> Result<(), Stop> {
        self.check(at, len as usize, access, true)
    }

    fn cmpxchg(&mut self, at: Gva, old: &[u8], new: &[u8], access: Access) -> Result<bool, Stop> {
        self.locked += 1;
        if is_device(at) {
            self.write(at, new, access)?;
            return Ok(true);
        }
        self.check(at, old.len(), access, true)?;
        if self.contended || self.slice(at, old.len()) != old {
            return Ok(false);
        }
        self.put(at.0, new);
        Ok(true)
    }

    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        if self.user_ports {
            let key = IoKey::new(IoKind::Port, port.into(), buf.len() as u8, false);
            return self.device(key, buf);
        }
        let v = if self.inputs.is_empty() {
            u32::MAX
        } else {
            self.inputs.remove(0)
        };
        buf.copy_from_slice(&v.to_le_bytes()[..buf.len()]);
        Ok(())
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        self.outputs.push((port, data.to_vec()));
        Ok(())
    }

    fn port_in_string(
        &mut self,
        _: u16,
        size: u8,
        count: u32,
        to: Gva,
        access: Access,
    ) -> Result<u32, Stop> {
        let n = count.min(self.batch);
        if n > 0 {
            self.check(to, n as usize * usize::from(size), access, true)?;
        }
        for i in 0..n {
            let v = self.inputs.remove(0).to_le_bytes();
            self.put(
                to.0 + u64::from(i) * u64::from(size),
                &v[..usize::from(size)],
            );
        }
        Ok(n)
    }

    fn port_out_string(
        &mut self,
        port: u16,
        size: u8,
        count: u32,
        from: Gva,
        access: Access,
    ) -> Result<u32, Stop> {
        let n = count.min(self.batch);
        if n > 0 {
            let len = n as usize * usize::from(size);
            self.check(from, len, access, false)?;
            let data = self.slice(from, len).to_vec();
            self.outputs.push((port, data));
        }
        Ok(n)
    }

    fn rdmsr(&mut self, _: &CpuState, index: u32) -> Result<u64, Stop> {
        self.msrs.get(&index).copied().ok_or(Stop::GP0)
    }

    fn wrmsr(&mut self, _: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        *self.msrs.get_mut(&index).ok_or(Stop::GP0)? = value;
        Ok(())
    }

    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Ok(0x1122_3344_5566_7788)
    }

    fn rdpmc(&mut self, index: u32) -> Result<u64, Stop> {
        Ok(u64::from(index) << 32 | 7)
    }

    fn cpuid(&mut self, _: &CpuState, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        if leaf == 0 && self.intel {
            return Ok([7, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        }
        if leaf == 0x8000_0001 && self.cr8_legacy {
            return Ok([0, 0, 1 << 4, 0]);
        }
        Ok([leaf, subleaf, 3, 4])
    }

    fn set_cr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        if n == 0 && value >> 32 != 0 {
            return Err(Stop::GP0);
        }
        match n {
            0 => state.cr0 = value,
            2 => state.cr2 = value,
            3 => state.cr3 = value,
            4 => state.cr4 = value,
            _ => state.cr8 = value,
        }
        Ok(())
    }

    fn set_dr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        match n {
            6 => state.dr6 = value,
            7 => state.dr7 = value,
            n => state.dr[usize::from(n)] = value,
        }
        Ok(())
    }

    fn set_xcr(&mut self, state: &mut CpuState, n: u32, value: u64) -> Result<(), Stop> {
        if n != 0 || value & 1 == 0 {
            return Err(Stop::GP0);
        }
        state.xcr0 = value;
        Ok(())
    }

    fn system(&mut self, _: &mut CpuState, op: SystemOp) -> Result<(), Stop> {
        self.ops.push(op);
        Ok(())
    }

    fn read_vec(&mut self, r: VecReg) -> Result<[u8; 32], Stop> {
        let mut value = [0; 32];
        value[..usize::from(r.size())].copy_from_slice(self.vec(r));
        Ok(value)
    }

    fn write_vec(&mut self, r: VecReg, value: [u8; 32]) -> Result<(), Stop> {
        self.vec(r).copy_from_slice(&value[..usize::from(r.size())]);
        Ok(())
    }

    fn intercept(&mut self, _: &CpuState, op: Intercept) -> Result<(), Stop> {
        self.asked.push(op);
        if self.refuse == Some(op) {
            return Err(Stop::Retry);
        }
        Ok(())
    }

    fn committed(&mut self) {
        self.log.clear();
    }

    fn base_bits(&self) -> u32 {
        self.base_bits
    }
}

/// A vCPU and its world.
struct Vm {
    s: CpuState,
    w: World,
}

/// GDT selectors.
const CODE32: u16 = 0x08;
const DATA32: u16 = 0x10;
const CODE16: u16 = 0x18;
const DATA16: u16 = 0x20;
const CODE64: u16 = 0x28;
const USER_CODE: u16 = 0x30;
const USER_DATA: u16 = 0x38;
const ABSENT: u16 = 0x40;
const READONLY: u16 = 0x48;
const CONFORMING: u16 = 0x50;
const TSS_SEL: u16 = 0x58;
const LDT_SEL: u16 = 0x68;
const USER_CODE64: u16 = 0x78;
const DOWN: u16 = 0x80;
const GDT_LIMIT: u16 = 0x87;

/// A descriptor.
fn descriptor(base: u32, limit: u32, attr: u16) -> u64 {
    let (b, l, a) = (u64::from(base), u64::from(limit), u64::from(attr));
    (l & 0xffff)
        | (b & 0xff_ffff) << 16
        | (a & 0xff) << 40
        | (l >> 16 & 0xf) << 48
        | (a >> 8) << 52
        | (b >> 24) << 56
}

impl Vm {
    /// Real mode with CS, SS, DS and ES at 0, 0, 0 and 0.
    fn real() -> Self {
        let mut s = CpuState::reset();
        s.seg = [Segment::real_mode(0, false); 8];
        s.seg_mut(SegReg::Cs).attr = 0x9b;
        s.rip = CODE;
        s.gpr[RSP] = STACK;
        s.idtr = DescTable {
            base: 0,
            limit: 0x3ff,
        };
        s.gdtr = DescTable {
            base: GDT,
            limit: GDT_LIMIT,
        };
        let mut w = World::new();
        for (sel, d) in [
            (CODE32, descriptor(0, 0xfffff, 0xc9a)),
            (DATA32, descriptor(0, 0xfffff, 0xc92)),
            (CODE16, descriptor(0, 0xffff, 0x09a)),
            (DATA16, descriptor(0x100, 0xffff, 0x092)),
            (CODE64, descriptor(0, 0, 0xa9a)),
            (USER_CODE, descriptor(0, 0xfffff, 0xcfa)),
            (USER_DATA, descriptor(0, 0xfffff, 0xcf2)),
            (ABSENT, descriptor(0, 0xfffff, 0xc12)),
            (READONLY, descriptor(0, 0xfff, 0x490)),
            (CONFORMING, descriptor(0, 0xfffff, 0xc9e)),
            (TSS_SEL, descriptor(TSS as u32, 0x80, 0x089)),
            (LDT_SEL, descriptor(0x3000, 0xff, 0x082)),
            (USER_CODE64, descriptor(0, 0, 0xafa)),
            (DOWN, descriptor(0, 0xfff, 0x496)),
        ] {
            w.put(GDT + u64::from(sel), &d.to_le_bytes());
        }
        Self { s, w }
    }

    /// 32-bit protected mode with flat segments at privilege level `cpl`.
    fn protected(cpl: u8) -> Self {
        let mut vm = Self::real();
        vm.s.cr0 |= cr0::PE;
        let dpl = u16::from(cpl) << 5;
        let flat = |selector, attr: u16| Segment {
            selector,
            attr: attr | dpl,
            limit: u32::MAX,
            base: 0,
            unusable: false,
        };
        let (code, data) = if cpl == 0 {
            (CODE32, DATA32)
        } else {
            (USER_CODE, USER_DATA)
        };
        let rpl = u16::from(cpl);
        vm.s.seg = [flat(data | rpl, 0xc93); 8];
        *vm.s.seg_mut(SegReg::Cs) = flat(code | rpl, 0xc9b);
        *vm.s.seg_mut(SegReg::Ldtr) = Segment {
            unusable: true,
            ..Segment::default()
        };
        *vm.s.seg_mut(SegReg::Tr) = Segment {
            selector: TSS_SEL,
            attr: 0x8b,
            limit: 0x80,
            base: TSS,
            unusable: false,
        };
        vm
    }

    /// 64-bit mode at privilege level `cpl`.
    fn long(cpl: u8) -> Self {
        let mut vm = Self::protected(cpl);
        vm.s.cr0 |= cr0::PG;
        vm.s.cr4 = cr4::PAE | cr4::OSFXSR;
        vm.s.efer = efer::LME | efer::LMA;
        let cs = vm.s.seg_mut(SegReg::Cs);
        cs.selector = if cpl == 0 {
            CODE64
        } else {
            USER_CODE64 | u16::from(cpl)
        };
        cs.attr = (cs.attr & !Segment::DB) | Segment::L;
        vm
    }

    /// Puts `code` at RIP and emulates one instruction.
    fn run(&mut self, code: &[u8]) -> Result<Done, Stop> {
        let at = self.s.seg(SegReg::Cs).base + self.s.rip;
        self.w.put(at, code);
        emulate(&mut self.s, &mut Code::new(), &mut self.w)
    }

    /// Like `run`, for an instruction that completes and goes on to the next.
    fn step(&mut self, code: &[u8]) {
        let rip = self.s.rip;
        let done = self.run(code).unwrap();
        assert_eq!(usize::from(done.len), code.len(), "{code:02x?}");
        assert_eq!(done.flow, Flow::Next, "{code:02x?}");
        assert_eq!(self.s.rip, rip + code.len() as u64, "{code:02x?}");
    }

    /// The exception that `code` raises, having checked that it changed no register.
    fn fault(&mut self, code: &[u8]) -> Exception {
        let before = format!("{:?}", self.s);
        match self.run(code) {
            Err(Stop::Fault(e)) => {
                assert_eq!(format!("{:?}", self.s), before, "{code:02x?} changed state");
                e
            }
            other => panic!("{code:02x?}: {other:?}"),
        }
    }

    /// Runs like a vCPU does: whenever user space is needed, `user` answers, and it replays.
    fn run_with_user(
        &mut self,
        code: &[u8],
        user: &mut dyn FnMut(&UserIo) -> Vec<u8>,
    ) -> Result<Done, Stop> {
        let at = self.s.seg(SegReg::Cs).base + self.s.rip;
        self.w.put(at, code);
        let mut known = Code::new();
        loop {
            self.w.log.rewind();
            match emulate(&mut self.s, &mut known, &mut self.w) {
                Err(Stop::NeedUser) => {
                    let io = self.w.pending.take().unwrap();
                    let data = user(&io);
                    // Another vCPU writes there meanwhile: not what is executed.
                    self.w.put(at, &[0x0f, 0x0b]);
                    let data = if io.key.write { io.data } else { data };
                    self.w.log.record(io.key, &data).unwrap();
                }
                other => return other,
            }
        }
    }
}

const GP0: Exception = Exception::gp0();
