// SPDX-License-Identifier: GPL-2.0

//! The vCPU as the emulator's bus: memory through the guest's paging, devices, ports, MSRs and
//! registers.

use super::control;
use super::debug;
use super::emul_state::fill_segments;
use super::emulate;
use super::emulate::Batch;
use super::mmio;
use crate::backend::Backend;
use crate::host_caps;
use crate::pv::spin;
use crate::vcpu::cpuid;
use crate::vcpu::fpu;
use crate::vcpu::mem::MemErr;
use crate::vcpu::msr;
use crate::vcpu::pending::Pending;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use crate::vm::ring::VcpuRing;
use kernel::prelude::*;
use model::abi::run as at;
use model::addr::Gpa;
use model::addr::Gva;
use model::addr::PAGE_SIZE;
use model::emul::cpu::changed;
use model::emul::cpu::Access;
use model::emul::cpu::Bus;
use model::emul::cpu::Stop;
use model::emul::cpu::SystemOp;
use model::emul::cpu::VecReg;
use model::emul::cpu::X87;
use model::emul::log::IoKey;
use model::emul::log::IoKind;
use model::policy::msr::MsrError;
use model::stats::VcpuStat;
use model::walk;
use model::walk::Privilege;
use model::x86::ctrl::cr0;
use model::x86::exception;
use model::x86::exception::Exception;
use model::x86::state::CpuState;
use model::x86::state::SegReg;

/// The vCPU as the emulator's bus.
pub(super) struct Machine<'m, 'a, 'l, V: Backend> {
    pub(super) cx: &'m mut Cx<'a, 'l, V>,
}

fn fault(e: MemErr) -> Stop {
    match e {
        MemErr::Fault(e) => Stop::Fault(e),
        MemErr::Retry => Stop::Retry,
    }
}

/// How much of an access of `len` bytes at `at` lies in its page.
pub(super) fn in_page(at: Gva, len: usize) -> usize {
    // CAST: at most a page.
    len.min(PAGE_SIZE.wrapping_sub(at.offset()) as usize)
}

impl<V: Backend> Machine<'_, '_, '_, V> {
    fn walk(&self, at: Gva, a: Access, write: bool, fetch: bool) -> Result<Gpa, Stop> {
        let privilege = if a.implicit {
            Privilege::Implicit
        } else if a.user {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        let access = walk::Access {
            write,
            fetch,
            privilege,
        };
        Ok(self.cx.translate(at, access).map_err(fault)?.gpa)
    }

    /// Reads guest-physical memory or a device, at most what lies in one page.
    ///
    /// The slot may go after the first look: what counts is what the copy itself finds.
    fn phys_read(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Stop> {
        if self.cx.is_ram(gpa, false) {
            // CAST: at most 16.
            let key = IoKey::new(IoKind::Mem, gpa.0, buf.len() as u8, false);
            if let Some(d) = self.cx.st.emul.log.replay(&key) {
                for (to, from) in buf.iter_mut().zip(d) {
                    *to = *from;
                }
                return Ok(());
            }
            let r = self.cx.try_read(gpa, buf);
            if r.map_err(|_| self.no_memory(gpa))? {
                return self.record(key, buf);
            }
        }
        let mut at = gpa;
        for part in buf.chunks_mut(8) {
            self.device_read(at, part)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    /// The host has nothing behind a slot: user space is told, as of an access of the guest's own.
    #[cold]
    fn no_memory(&mut self, gpa: Gpa) -> Stop {
        self.cx.st.emul.exit = Some(UserExit::MemoryFault {
            gpa: gpa.gfn().gpa().0,
            size: PAGE_SIZE,
            error: EFAULT,
        });
        Stop::NeedUser
    }

    fn device_read(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Stop> {
        // CAST: at most 8.
        let key = IoKey::new(IoKind::Mem, gpa.0, buf.len() as u8, false);
        if let Some(d) = self.cx.st.emul.log.replay(&key) {
            for (to, from) in buf.iter_mut().zip(d) {
                *to = *from;
            }
            return Ok(());
        }
        if mmio::read(self.cx, gpa, buf) {
            return self.record(key, buf);
        }
        self.cx.st.pending = Pending::Mmio { key, data: 0 };
        self.cx.st.emul.exit = Some(UserExit::Mmio {
            gpa: gpa.0,
            data: [0; 8],
            len: key.size,
            write: false,
        });
        Err(Stop::NeedUser)
    }

    fn phys_write(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Stop> {
        if self.cx.is_ram(gpa, true) {
            // CAST: at most 16.
            let key = IoKey::new(IoKind::Mem, gpa.0, data.len() as u8, true);
            if self.cx.st.emul.log.replay_write(&key, data) {
                return Ok(());
            }
            let r = self.cx.try_write(gpa, data);
            if r.map_err(|_| self.no_memory(gpa))? {
                return self.record(key, data);
            }
        }
        let mut at = gpa;
        for part in data.chunks(8) {
            self.device_write(at, part)?;
            at = at.wrapping_add(8);
        }
        Ok(())
    }

    fn device_write(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Stop> {
        // CAST: at most 8.
        let key = IoKey::new(IoKind::Mem, gpa.0, data.len() as u8, true);
        if self.cx.st.emul.log.replay_write(&key, data) {
            return Ok(());
        }
        if mmio::write(self.cx, gpa, data) {
            return self.record(key, data);
        }
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        self.cx.st.pending = Pending::Mmio {
            key,
            data: u64::from_le_bytes(bytes),
        };
        self.cx.st.emul.exit = Some(UserExit::Mmio {
            gpa: gpa.0,
            data: bytes,
            len: key.size,
            write: true,
        });
        Err(Stop::NeedUser)
    }

    /// Writes `new` where `old` was read, in one page, but not in one step. A device gets all of it,
    /// memory only what is different: the rest may be what another CPU writes.
    fn replace(&mut self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<(), Stop> {
        if !self.cx.is_ram(gpa, true) {
            return self.phys_write(gpa, new);
        }
        let part = changed(old, new);
        let at = gpa.wrapping_add(part.start as u64);
        match new.get(part) {
            Some(bytes) if !bytes.is_empty() => self.phys_write(at, bytes),
            _ => Ok(()),
        }
    }

    /// Takes over what an MSR is the same thing as: EFER, and the bases of FS and GS.
    fn msr_written(&self, s: &mut CpuState) {
        s.efer = V::efer(self.cx.l);
        for r in [SegReg::Fs, SegReg::Gs] {
            s.seg_mut(r).base = V::seg(self.cx.l, r).base;
        }
    }

    fn record(&mut self, key: IoKey, data: &[u8]) -> Result<(), Stop> {
        self.cx
            .st
            .emul
            .log
            .record(key, data)
            .map_err(|_| Stop::UNHANDLED)
    }

    fn port_to_user(&mut self, key: IoKey) -> Stop {
        self.cx.st.pending = Pending::EmulatedPort { key };
        self.cx.st.emul.exit = Some(UserExit::Io {
            write: key.write,
            size: key.size,
            // CAST: ports have 16 bits.
            port: key.addr as u16,
            count: key.count,
        });
        Stop::NeedUser
    }

    /// `#GP`, or user space's decision if it asked for it.
    fn msr_refused(&mut self, e: MsrError, key: IoKey, data: u64) -> Stop {
        let Some(reason) = super::msr::user_reason(self.cx, e) else {
            return Stop::GP0;
        };
        self.cx.st.pending = Pending::EmulatedMsr { key, data };
        self.cx.st.emul.exit = Some(UserExit::Msr {
            write: key.write,
            reason,
            // CAST: the index of an MSR.
            index: key.addr as u32,
            data,
        });
        Stop::NeedUser
    }

    /// A finished batch, if it is the one that is wanted now; the registers may have changed. What
    /// of it is not used has to be put back.
    fn take_batch(&mut self, port: u16, size: u8, write: bool) -> Option<Batch> {
        let b = self.cx.st.emul.batch.take()?;
        let same = b.port == port && b.size == size && b.write == write;
        same.then_some(b)
    }

    /// Keeps what is left of a batch after `n` elements.
    fn keep_batch(&mut self, b: Batch, n: u32) {
        let count = b.count.saturating_sub(n);
        let from = b.from.wrapping_add(n);
        self.cx.st.emul.batch = (count != 0).then_some(Batch { from, count, ..b });
    }
}

impl<V: Backend> Bus for Machine<'_, '_, '_, V> {
    fn fetch(&mut self, at: Gva, buf: &mut [u8], a: Access) -> Result<(), Stop> {
        let gpa = self.walk(at, a, false, true)?;
        if self.cx.read_guest(gpa, buf).is_err() {
            // Code in device memory cannot be fetched.
            return Err(Stop::UNHANDLED);
        }
        Ok(())
    }

    fn read(&mut self, at: Gva, buf: &mut [u8], a: Access) -> Result<(), Stop> {
        let n = in_page(at, buf.len());
        let (head, tail) = buf.split_at_mut_checked(n).ok_or(Stop::UNHANDLED)?;
        let first = self.walk(at, a, a.modify, false)?;
        let second = if tail.is_empty() {
            None
        } else {
            Some(self.walk(at.wrapping_add(n as u64), a, a.modify, false)?)
        };
        self.phys_read(first, head)?;
        match second {
            Some(gpa) => self.phys_read(gpa, tail),
            None => Ok(()),
        }
    }

    fn write(&mut self, at: Gva, data: &[u8], a: Access) -> Result<(), Stop> {
        let n = in_page(at, data.len());
        let (head, tail) = data.split_at_checked(n).ok_or(Stop::UNHANDLED)?;
        let first = self.walk(at, a, true, false)?;
        let second = if tail.is_empty() {
            None
        } else {
            Some(self.walk(at.wrapping_add(n as u64), a, true, false)?)
        };
        self.phys_write(first, head)?;
        match second {
            Some(gpa) => self.phys_write(gpa, tail),
            None => Ok(()),
        }
    }

    fn check_write(&mut self, at: Gva, len: u32, a: Access) -> Result<(), Stop> {
        self.walk(at, a, true, false)?;
        // CAST: at most a page.
        let n = in_page(at, len as usize);
        if n < len as usize {
            // A fault names the first byte that the access does not get.
            self.walk(at.wrapping_add(n as u64), a, true, false)?;
        }
        Ok(())
    }

    fn cmpxchg(&mut self, at: Gva, old: &[u8], new: &[u8], a: Access) -> Result<bool, Stop> {
        let n = in_page(at, new.len());
        if n != new.len() {
            // KVM: a locked access across pages is not atomic.
            let first = self.walk(at, a, true, false)?;
            let second = self.walk(at.wrapping_add(n as u64), a, true, false)?;
            let parts = old.split_at_checked(n).zip(new.split_at_checked(n));
            let ((old, old_tail), (new, new_tail)) = parts.ok_or(Stop::UNHANDLED)?;
            self.replace(first, old, new)?;
            self.replace(second, old_tail, new_tail)?;
            return Ok(true);
        }
        let gpa = self.walk(at, a, true, false)?;
        if self.cx.is_ram(gpa, true) {
            match self.cx.cmpxchg_guest(gpa, old, new) {
                Ok(Some(done)) => return Ok(done),
                // The slot has gone meanwhile.
                Ok(None) => {}
                // KVM: nor is one of 16 bytes, or one that the host would trap.
                Err(e) if e == EINVAL => {}
                Err(e) if e == EFAULT => return Err(self.no_memory(gpa)),
                Err(_) => return Err(Stop::Retry),
            }
        }
        self.replace(gpa, old, new)?;
        Ok(true)
    }

    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop> {
        // CAST: at most 4.
        let key = IoKey::new(IoKind::Port, u64::from(port), buf.len() as u8, false);
        if let Some(d) = self.cx.st.emul.log.replay(&key) {
            for (to, from) in buf.iter_mut().zip(d) {
                *to = *from;
            }
            return Ok(());
        }
        // CAST: at most 4.
        if let Some(b) = self.take_batch(port, buf.len() as u8, false) {
            // User space has read it already, for memory that has gone since.
            let at = (b.from as usize).wrapping_mul(usize::from(b.size));
            self.cx.vcpu.pio.read_bytes(at, buf);
            self.keep_batch(b, 1);
            return self.record(key, buf);
        }
        if self.cx.port_read(port, buf) {
            return self.record(key, buf);
        }
        Err(self.port_to_user(key))
    }

    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop> {
        // CAST: at most 4.
        let key = IoKey::new(IoKind::Port, u64::from(port), data.len() as u8, true);
        if self.cx.st.emul.log.replay_write(&key, data) {
            return Ok(());
        }
        if self.cx.port_write(port, data) {
            return self.record(key, data);
        }
        self.cx.vcpu.pio.write_bytes(0, data);
        Err(self.port_to_user(key))
    }

    fn port_in_string(
        &mut self,
        port: u16,
        size: u8,
        count: u32,
        to: Gva,
        a: Access,
    ) -> Result<u32, Stop> {
        let gpa = self.walk(to, a, true, false)?;
        if self.cx.port_in_kernel(port) || !self.cx.is_ram(gpa, true) {
            return Ok(0);
        }
        // With an element on its way to a device the next step is that element's.
        if self.cx.st.emul.log.len() != 0 {
            return Ok(0);
        }
        if let Some(b) = self.take_batch(port, size, false) {
            let n = self.copy_from_pio(gpa, &b, b.count.min(count))?;
            if n < count {
                self.keep_batch(b, n);
            }
            return Ok(n);
        }
        if count <= 1 {
            return Ok(0);
        }
        let key = IoKey::new(IoKind::Port, u64::from(port), size, false);
        Err(self.port_to_user(IoKey { count, ..key }))
    }

    fn port_out_string(
        &mut self,
        port: u16,
        size: u8,
        count: u32,
        from: Gva,
        a: Access,
    ) -> Result<u32, Stop> {
        let gpa = self.walk(from, a, false, false)?;
        if self.cx.port_in_kernel(port) || !self.cx.is_ram(gpa, false) {
            return Ok(0);
        }
        if let Some(b) = self.take_batch(port, size, true) {
            return Ok(b.count.min(count));
        }
        if count <= 1 || !self.copy_to_pio(gpa, count, size)? {
            return Ok(0);
        }
        let key = IoKey::new(IoKind::Port, u64::from(port), size, true);
        Err(self.port_to_user(IoKey { count, ..key }))
    }

    fn rdmsr(&mut self, _s: &CpuState, index: u32) -> Result<u64, Stop> {
        // KVM: the filter is for the instructions that access MSRs by their index.
        msr::get(self.cx, index, false).map_err(|_| Stop::GP0)
    }

    fn wrmsr(&mut self, s: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        msr::set(self.cx, index, value, false).map_err(|_| Stop::GP0)?;
        self.msr_written(s);
        Ok(())
    }

    fn rdmsr_insn(&mut self, _s: &CpuState, index: u32) -> Result<u64, Stop> {
        let key = IoKey::new(IoKind::Msr, u64::from(index), 8, false);
        let log = &mut self.cx.st.emul.log;
        if let Some(&d) = log.replay(&key).and_then(|d| d.first_chunk()) {
            return Ok(u64::from_le_bytes(d));
        }
        msr::guest_get(self.cx, index).map_err(|e| self.msr_refused(e, key, 0))
    }

    fn wrmsr_insn(&mut self, s: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        let key = IoKey::new(IoKind::Msr, u64::from(index), 8, true);
        if self.cx.st.emul.log.replay_write(&key, &value.to_le_bytes()) {
            return Ok(());
        }
        msr::guest_set(self.cx, index, value).map_err(|e| self.msr_refused(e, key, value))?;
        self.msr_written(s);
        Ok(())
    }

    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Ok(self.cx.guest_tsc())
    }

    fn rdpmc(&mut self, _index: u32) -> Result<u64, Stop> {
        // There is no virtual PMU.
        Err(Stop::GP0)
    }

    fn cpuid(&mut self, _s: &CpuState, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop> {
        if !cpuid::allowed(self.cx) {
            return Err(Stop::GP0);
        }
        Ok(cpuid::answer(self.cx.st, leaf, subleaf))
    }

    fn set_cr(&mut self, s: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        control::write(self.cx, n, value).map_err(Stop::Fault)?;
        let before = s.cr0;
        s.cr0 = V::cr0(self.cx.l);
        s.cr2 = V::cr2(self.cx.l);
        s.cr3 = V::cr3(self.cx.l);
        s.cr4 = V::cr4(self.cx.l);
        s.cr8 = self.cx.cr8();
        s.efer = V::efer(self.cx.l);
        if (before ^ s.cr0) & cr0::PE != 0 {
            // The segment registers may have been changed to what hardware takes in the other mode.
            fill_segments(self.cx, s);
        }
        Ok(())
    }

    fn set_dr(&mut self, s: &mut CpuState, n: u8, value: u64) -> Result<(), Stop> {
        debug::set_dr(self.cx, n, value).map_err(Stop::Fault)?;
        s.dr = self.cx.st.debug.dr;
        s.dr6 = V::dr6(self.cx.l);
        s.dr7 = self.cx.st.debug.dr7;
        Ok(())
    }

    fn set_xcr(&mut self, s: &mut CpuState, n: u32, value: u64) -> Result<(), Stop> {
        if n != 0 || fpu::set_xcr0(self.cx, value).is_err() {
            return Err(Stop::GP0);
        }
        s.xcr0 = value;
        Ok(())
    }

    fn system(&mut self, _s: &mut CpuState, op: SystemOp) -> Result<(), Stop> {
        match op {
            SystemOp::Invlpg(_) => {
                self.cx.count(VcpuStat::Invlpg);
                V::flush_guest(self.cx.l);
            }
            SystemOp::Invd | SystemOp::Wbinvd | SystemOp::Monitor(_) | SystemOp::Mwait => {}
            SystemOp::Pause => spin::pause(self.cx),
            // The guest executes it itself, in the form that exits.
            SystemOp::Hypercall => return Err(emulate::patch_hypercall(self.cx)),
        }
        Ok(())
    }

    fn read_vec(&mut self, r: VecReg) -> Result<[u8; 32], Stop> {
        match r {
            VecReg::Mm(n) => read_vector::<8>(n),
            VecReg::Xmm(n) => read_vector::<16>(n),
            VecReg::Ymm(n) => read_vector::<32>(n),
        }
    }

    fn write_vec(&mut self, r: VecReg, value: [u8; 32]) -> Result<(), Stop> {
        match r {
            VecReg::Mm(n) => write_vector::<8>(n, &value),
            VecReg::Xmm(n) => write_vector::<16>(n, &value),
            VecReg::Ymm(n) => write_vector::<32>(n, &value),
        }
    }

    fn x87(&mut self, op: X87) -> Result<u16, Stop> {
        let op = match op {
            X87::Init => host::fpu::X87::Init,
            X87::StoreControl => host::fpu::X87::StoreControl,
            X87::StoreStatus => host::fpu::X87::StoreStatus,
        };
        host::fpu::x87(op).map_err(vector_stop)
    }

    fn committed(&mut self) {
        self.cx.st.emul.log.clear();
    }

    fn base_bits(&self) -> u32 {
        host_caps::get().map_or(48, |h| u32::from(h.msrs.linear_bits))
    }

    /// KVM_RUN looks between instructions only: for events and requests, at what user space wants, and
    /// how full the dirty ring is, of which each element may be an entry.
    fn is_wanted(&mut self) -> bool {
        let cx = &mut *self.cx;
        let shared = &cx.vcpu.shared;
        !shared.pending.is_empty()
            || host::task::guest_work_likely()
            || cx.vcpu.run.read_u8(at::IMMEDIATE_EXIT) != 0
            || shared.ring.as_ref().is_some_and(VcpuRing::is_soft_full)
            || cx.has_event()
            || (cx.user_wants_window() && cx.ready_for_interrupt())
    }
}

/// The errors of the registers as what the instruction gets.
fn vector_stop(e: Error) -> Stop {
    if e == EFAULT {
        Stop::Fault(Exception::new(exception::MF))
    } else {
        Stop::UNHANDLED
    }
}

fn read_vector<const N: usize>(n: u8) -> Result<[u8; 32], Stop> {
    let from = host::fpu::read_vector::<N>(n).map_err(vector_stop)?;
    let mut value = [0; 32];
    for (to, from) in value.iter_mut().zip(from) {
        *to = from;
    }
    Ok(value)
}

fn write_vector<const N: usize>(n: u8, value: &[u8; 32]) -> Result<(), Stop> {
    let part = value.first_chunk::<N>().ok_or(Stop::UNHANDLED)?;
    host::fpu::write_vector(n, *part).map_err(vector_stop)
}

impl<V: Backend> Machine<'_, '_, '_, V> {
    /// Copies `n` elements of a batch to guest memory inside one page. How many there was memory
    /// for.
    fn copy_from_pio(&mut self, gpa: Gpa, b: &Batch, n: u32) -> Result<u32, Stop> {
        let size = usize::from(b.size);
        let from = (b.from as usize).wrapping_mul(size);
        let len = (n as usize).wrapping_mul(size).min(PAGE_SIZE as usize);
        let mut buf = [0u8; 256];
        let mut off = 0usize;
        while off < len {
            let part = buf.len().min(len.wrapping_sub(off));
            let bytes = buf.get_mut(..part).ok_or(Stop::UNHANDLED)?;
            self.cx.vcpu.pio.read_bytes(from.wrapping_add(off), bytes);
            let r = self.cx.try_write(gpa.wrapping_add(off as u64), bytes);
            if !r.map_err(|_| self.no_memory(gpa))? {
                // CAST: less than a page.
                return Ok(off.checked_div(size).unwrap_or(0) as u32);
            }
            off = off.wrapping_add(part);
        }
        Ok(n)
    }

    /// The opposite, for a new batch. False if the memory has gone.
    fn copy_to_pio(&mut self, gpa: Gpa, n: u32, size: u8) -> Result<bool, Stop> {
        let len = (n as usize)
            .wrapping_mul(usize::from(size))
            .min(PAGE_SIZE as usize);
        let mut buf = [0u8; 256];
        let mut off = 0usize;
        while off < len {
            let part = buf.len().min(len.wrapping_sub(off));
            let b = buf.get_mut(..part).ok_or(Stop::UNHANDLED)?;
            let r = self.cx.try_read(gpa.wrapping_add(off as u64), b);
            if !r.map_err(|_| self.no_memory(gpa))? {
                return Ok(false);
            }
            self.cx.vcpu.pio.write_bytes(off, b);
            off = off.wrapping_add(part);
        }
        Ok(true)
    }
}
