// SPDX-License-Identifier: GPL-2.0

//! The emulator's interface: what it asks of the world, and what it hands back.
//!
//! An instruction works on a [`CpuState`] and reaches everything else through a [`Bus`]: linear
//! memory with the guest's paging and permissions, ports, MSRs, control registers, vector
//! registers. The vCPU implements `Bus`; tests and fuzz targets bring their own.
//!
//! **Replay.** When user space has to complete an access, the bus returns [`Stop::NeedUser`] and
//! nothing of the instruction (or of the current REP element) is committed. Later the instruction
//! is emulated again from the registers as they then are, and the bus answers the accesses that
//! were finished from its [`IoLog`](super::log::IoLog). An instruction therefore makes the same
//! accesses in the same order every time it starts from the same state.

use crate::addr::Gva;
use crate::x86::exception::Exception;
use crate::x86::state::CpuState;
use core::ops::Range;

/// Why an instruction did not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It raises an exception; RIP still points to it.
    Fault(Exception),
    /// User space must complete an access (MMIO, port, MSR); emulate again afterwards.
    NeedUser,
    /// Something changed underneath: enter the guest or emulate again. What was recorded stays
    /// recorded.
    Retry,
    /// The emulator does not know this instruction, or not in this form. For the report to user
    /// space it carries the instruction's bytes as far as they were fetched.
    Unhandled {
        /// Valid bytes in `bytes`.
        len: u8,
        /// The instruction.
        bytes: [u8; 15],
    },
}

impl Stop {
    /// [`Stop::Unhandled`]; `emulate` adds the bytes.
    pub const UNHANDLED: Self = Self::Unhandled {
        len: 0,
        bytes: [0; 15],
    };
    /// `#UD`.
    pub const UD: Self = Self::Fault(Exception::ud());
    /// `#GP(0)`.
    pub const GP0: Self = Self::Fault(Exception::gp0());

    /// An exception with an error code.
    pub const fn fault(vector: u8, code: u32) -> Self {
        Self::Fault(Exception::with_code(vector, code))
    }
}

/// How memory is accessed, for the permission check and the page-fault error code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// A user-mode access: CPL 3, and not to a system structure.
    pub user: bool,
    /// An implicit supervisor access, to a descriptor table or a TSS: SMAP applies whatever
    /// RFLAGS.AC says.
    pub implicit: bool,
    /// On a read: a write to the same bytes follows, so it must be permitted too and a fault is
    /// reported as a write.
    pub modify: bool,
}

/// What is known of the x87: the instructions that tell whether there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X87 {
    /// FNINIT.
    Init,
    /// FNSTCW.
    StoreControl,
    /// FNSTSW.
    StoreStatus,
}

/// A vector register, and how much of it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VecReg {
    /// MM0 to MM7.
    Mm(u8),
    /// The low 128 bits of a register, 0 to 15.
    Xmm(u8),
    /// The low 256 bits of a register, 0 to 15.
    Ymm(u8),
}

impl VecReg {
    /// Bytes: 8, 16 or 32.
    pub const fn size(self) -> u8 {
        match self {
            Self::Mm(_) => 8,
            Self::Xmm(_) => 16,
            Self::Ymm(_) => 32,
        }
    }
}

/// An operation without operands in memory or registers that the vCPU carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SystemOp {
    /// INVLPG of a linear address (already checked against CPL, not against canonicality).
    Invlpg(Gva),
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// PAUSE: a chance to yield.
    Pause,
    /// MONITOR or MONITORX of a linear address.
    Monitor(Gva),
    /// MWAIT or MWAITX: a hint that nothing is to be done.
    Mwait,
    /// VMCALL or VMMCALL. RAX and the argument registers are in the state.
    Hypercall,
}

/// An instruction that a guest hypervisor may intercept, asked before it takes effect.
///
/// Privilege faults that take precedence over the intercept have been checked by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intercept {
    /// MOV from a control register, and SMSW as a read of CR0.
    ReadCr(u8),
    /// MOV to a control register, LMSW, and CLTS as a write of CR0; with the new value.
    WriteCr(u8, u64),
    /// MOV from a debug register.
    ReadDr(u8),
    /// MOV to a debug register.
    WriteDr(u8),
    /// RDMSR of the MSR in ECX.
    Rdmsr(u32),
    /// WRMSR of the MSR in ECX.
    Wrmsr(u32),
    /// A port access.
    Io {
        /// First port.
        port: u16,
        /// Bytes per access.
        size: u8,
        /// From the device.
        input: bool,
        /// INS or OUTS.
        string: bool,
        /// With a REP prefix.
        rep: bool,
    },
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// INVLPG of a linear address.
    Invlpg(Gva),
    /// INVD.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// RDTSC.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// XSETBV.
    Xsetbv,
    /// SGDT.
    StoreGdtr,
    /// SIDT.
    StoreIdtr,
    /// LGDT.
    LoadGdtr,
    /// LIDT.
    LoadIdtr,
    /// SLDT.
    StoreLdtr,
    /// LLDT.
    LoadLdtr,
    /// STR.
    StoreTr,
    /// LTR.
    LoadTr,
    /// PUSHF.
    Pushf,
    /// POPF.
    Popf,
    /// IRET.
    Iret,
    /// INT n, not INT1, INT3 or INTO.
    IntN,
    /// PAUSE.
    Pause,
    /// MONITOR.
    Monitor,
    /// MWAIT.
    Mwait,
}

/// How an INT instruction was encoded; injection hardware wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftInt {
    /// INT n.
    Int,
    /// INT3 or INTO.
    Exception,
    /// INT1.
    Privileged,
}

/// What an emulated instruction leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// RIP names the next instruction.
    Next,
    /// A REP instruction did a batch and has more to do. RIP is unchanged; check for interrupts
    /// and emulate again, or enter the guest.
    Repeat,
    /// HLT: RIP names the next instruction and the vCPU waits for an interrupt.
    Halt,
    /// An INT instruction in protected or long mode. RIP is unchanged: the caller injects `vector`
    /// as a software event of length [`Done::len`].
    Interrupt {
        /// Vector.
        vector: u8,
        /// Kind of event.
        kind: SoftInt,
    },
    /// RSM. RIP is unchanged: the caller takes all registers from the save area, or raises `#UD`
    /// if the vCPU is not in system management mode.
    Resume,
}

/// A completed instruction (or batch of REP elements).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Length of the instruction, bytes.
    pub len: u8,
    /// What comes next.
    pub flow: Flow,
    /// RFLAGS.TF was set when it started, so a single-step `#DB` (DR6.BS) is due.
    pub trap: bool,
    /// IRET completed: NMIs are no longer blocked.
    pub unblock_nmi: bool,
}

/// The bytes of `new` that are not those of `old`, from the first to the last; empty if there are
/// none.
pub fn changed(old: &[u8], new: &[u8]) -> Range<usize> {
    let mut part = 0..0;
    let mut at = 0usize;
    for (a, b) in old.iter().zip(new) {
        let next = at.wrapping_add(1);
        if a != b {
            if part.end == 0 {
                part.start = at;
            }
            part.end = next;
        }
        at = next;
    }
    part
}

/// Everything outside the register file.
///
/// Memory goes by linear address; the bus translates it, checks permissions and returns
/// `Stop::Fault` with the page fault. An access may cross a page: then both pages are checked
/// before anything is written. Lengths are 1 to 16 bytes (`fetch`: 1 to 15, inside one page).
/// Segment limits and canonical addresses have been checked already.
///
/// Functions that get `&mut CpuState` change it only if they return `Ok`.
pub trait Bus {
    /// Reads instruction bytes.
    fn fetch(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Result<(), Stop>;

    /// Reads data.
    fn read(&mut self, at: Gva, buf: &mut [u8], access: Access) -> Result<(), Stop>;

    /// Writes data.
    fn write(&mut self, at: Gva, data: &[u8], access: Access) -> Result<(), Stop>;

    /// Would a write of `len` bytes (up to a page) be permitted? Touches nothing.
    fn check_write(&mut self, at: Gva, len: u32, access: Access) -> Result<(), Stop>;

    /// Replaces `old` by `new` (equal lengths: 1, 2, 4, 8 or 16) in one atomic step; `Ok(false)`
    /// if memory held something else. On MMIO it is a plain write of `new`.
    ///
    /// What does not go in one step (16 bytes, or across pages) writes no byte outside the range that
    /// changes ([`changed`]): another CPU may be writing it. With `new` the same as `old`, the write cycle
    /// of a comparison that failed, memory only has to be writable.
    fn cmpxchg(&mut self, at: Gva, old: &[u8], new: &[u8], access: Access) -> Result<bool, Stop>;

    /// Reads `buf.len()` (1, 2 or 4) bytes from a port.
    fn port_in(&mut self, port: u16, buf: &mut [u8]) -> Result<(), Stop>;

    /// Writes `data.len()` (1, 2 or 4) bytes to a port.
    fn port_out(&mut self, port: u16, data: &[u8]) -> Result<(), Stop>;

    /// INS: moves `count` elements of `size` bytes from a port to ascending memory, all inside one
    /// page. Returns how many elements it moved; `Ok(0)` makes the emulator move one itself.
    fn port_in_string(
        &mut self,
        _port: u16,
        _size: u8,
        _count: u32,
        _to: Gva,
        _access: Access,
    ) -> Result<u32, Stop> {
        Ok(0)
    }

    /// OUTS: the opposite of [`Bus::port_in_string`].
    fn port_out_string(
        &mut self,
        _port: u16,
        _size: u8,
        _count: u32,
        _from: Gva,
        _access: Access,
    ) -> Result<u32, Stop> {
        Ok(0)
    }

    /// An MSR that an instruction needs. One that does not exist is `Stop::GP0`.
    fn rdmsr(&mut self, state: &CpuState, index: u32) -> Result<u64, Stop>;

    /// An MSR that an instruction changes, with all checks on the value.
    fn wrmsr(&mut self, state: &mut CpuState, index: u32, value: u64) -> Result<(), Stop>;

    /// RDMSR itself, which somebody else than the guest may have a say in.
    fn rdmsr_insn(&mut self, state: &CpuState, index: u32) -> Result<u64, Stop> {
        self.rdmsr(state, index)
    }

    /// WRMSR itself.
    fn wrmsr_insn(&mut self, state: &mut CpuState, index: u32, value: u64) -> Result<(), Stop> {
        self.wrmsr(state, index, value)
    }

    /// RDTSC: the guest's TSC.
    fn rdtsc(&mut self) -> Result<u64, Stop>;

    /// RDPMC.
    fn rdpmc(&mut self, index: u32) -> Result<u64, Stop>;

    /// CPUID: EAX, EBX, ECX and EDX.
    fn cpuid(&mut self, state: &CpuState, leaf: u32, subleaf: u32) -> Result<[u32; 4], Stop>;

    /// Loads CR0, CR2, CR3, CR4 or CR8 with all checks, and updates EFER.LMA with CR0.PG.
    fn set_cr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop>;

    /// Loads a debug register (0 to 3, 6 or 7) with the checks on the value.
    fn set_dr(&mut self, state: &mut CpuState, n: u8, value: u64) -> Result<(), Stop>;

    /// XSETBV with all checks except CPL and CR4.OSXSAVE.
    fn set_xcr(&mut self, state: &mut CpuState, n: u32, value: u64) -> Result<(), Stop>;

    /// Carries out `op`.
    fn system(&mut self, state: &mut CpuState, op: SystemOp) -> Result<(), Stop>;

    /// A vector register: its [`VecReg::size`] bytes, and zeros behind them. For an MMX register
    /// `#MF`, if an x87 exception waits.
    fn read_vec(&mut self, r: VecReg) -> Result<[u8; 32], Stop>;

    /// Replaces the first [`VecReg::size`] bytes of a vector register.
    fn write_vec(&mut self, r: VecReg, value: [u8; 32]) -> Result<(), Stop>;

    /// Carries out `op` on the guest's x87; the word to be stored, or 0.
    fn x87(&mut self, op: X87) -> Result<u16, Stop> {
        let _ = op;
        Err(Stop::UNHANDLED)
    }

    /// May a guest hypervisor have this instruction? `Err` stops it.
    fn intercept(&mut self, _state: &CpuState, _op: Intercept) -> Result<(), Stop> {
        Ok(())
    }

    /// Forget the accesses made so far: an instruction or one REP element is complete, or it lost a
    /// race for memory and must read again. They will not be replayed.
    fn committed(&mut self) {}

    /// Bits of a linear address that the processor can have, whether CR4.LA57 makes use of them or not:
    /// 48 or 57. That many has a base that an instruction loads (`SDM: vol 1, 3.3.7.1`).
    fn base_bits(&self) -> u32 {
        48
    }

    /// Something has to be done outside the instruction that cannot wait for the end of a REP.
    fn is_wanted(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::changed;

    #[test]
    fn only_what_changes_is_written() {
        let old = [1, 2, 3, 4, 5, 6, 7, 8];
        let with = |at: &[usize]| {
            let mut new = old;
            for &i in at {
                new[i] = 0;
            }
            changed(&old, &new)
        };
        assert!(with(&[]).is_empty());
        assert_eq!(with(&[0]), 0..1);
        assert_eq!(with(&[7]), 7..8);
        assert_eq!(with(&[2, 5]), 2..6);
        assert_eq!(with(&[0, 1, 2, 3, 4, 5, 6, 7]), 0..8);
        assert!(changed(&[], &[]).is_empty());
    }
}
