// SPDX-License-Identifier: GPL-2.0

//! Port I/O: IN, OUT, and the permission check they share with INS and OUTS.

use super::cpu::{Access, Intercept, Stop};
use super::operand::mask;
use super::Ctx;
use crate::addr::Gva;
use crate::x86::state::{gpr, SegReg};

/// An access to a descriptor table or a TSS, whatever the privilege level.
pub(super) const SYSTEM: Access = Access {
    user: false,
    implicit: true,
    modify: false,
};

impl Ctx<'_> {
    /// May `size` ports from `port` be accessed? `SDM: vol 1, 19.5.2`.
    pub(super) fn check_port(&mut self, port: u16, size: u8) -> Result<(), Stop> {
        let s = &*self.s;
        if !s.protected_mode() || (!s.v8086() && s.cpl() <= self.iopl()) {
            return Ok(());
        }
        let tr = *s.seg(SegReg::Tr);
        // Only a 32- or 64-bit TSS has a permission bitmap; its offset is at 102.
        if tr.unusable || tr.attr & 0x1d != 9 || tr.limit < 103 {
            return Err(Stop::GP0);
        }
        let wide = if s.long_mode() { u64::MAX } else { 0xffff_ffff };
        let at = |offset: u64| Gva(tr.base.wrapping_add(offset) & wide);
        let map = self.load(at(102), 2, SYSTEM)?;
        let byte = map.wrapping_add(u64::from(port >> 3));
        // Two bytes are read even if one would do.
        if byte.wrapping_add(1) > u64::from(tr.limit) {
            return Err(Stop::GP0);
        }
        let bits = self.load(at(byte), 2, SYSTEM)? >> (port & 7);
        let wanted = match size {
            1 => 1,
            2 => 3,
            _ => 15,
        };
        if bits & wanted != 0 {
            return Err(Stop::GP0);
        }
        Ok(())
    }

    /// Reads a port.
    pub(super) fn port_read(&mut self, port: u16, size: u8) -> Result<u64, Stop> {
        let mut buf = [0u8; 8];
        if let Some(part) = buf.get_mut(..usize::from(size)) {
            self.bus.port_in(port, part)?;
        }
        Ok(u64::from_le_bytes(buf))
    }

    /// Writes a port.
    pub(super) fn port_write(&mut self, port: u16, size: u8, value: u64) -> Result<(), Stop> {
        match value.to_le_bytes().get(..usize::from(size)) {
            Some(part) => self.bus.port_out(port, part),
            None => Ok(()),
        }
    }

    /// E4 to E7 with the port in the instruction, EC to EF with the port in DX.
    pub(super) fn in_out(&mut self) -> Result<(), Stop> {
        let op = self.insn.opcode;
        let size = self.insn.op_size.min(4);
        // CAST: a port is 8 or 16 bits.
        let port = if op & 8 == 0 {
            (self.insn.imm & 0xff) as u16
        } else {
            self.gpr(gpr::RDX) as u16
        };
        let input = op & 2 == 0;
        self.check_port(port, size)?;
        let what = Intercept::Io {
            port,
            size,
            input,
            string: false,
            rep: false,
        };
        self.bus.intercept(self.s, what)?;
        if input {
            let v = self.port_read(port, size)?;
            self.set_reg(0, size, v & mask(size));
            Ok(())
        } else {
            let v = self.reg(0, size);
            self.port_write(port, size, v)
        }
    }
}
