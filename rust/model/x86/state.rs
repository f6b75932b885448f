// SPDX-License-Identifier: GPL-2.0

//! The register state of a vCPU as plain data: what the emulator works on and what the vendor
//! backends fill and take back.

use super::ctrl::{cr0, cr4, efer, rflags};

/// Indices of the general-purpose registers in [`CpuState::gpr`], in encoding order.
pub mod gpr {
    /// RAX.
    pub const RAX: usize = 0;
    /// RCX.
    pub const RCX: usize = 1;
    /// RDX.
    pub const RDX: usize = 2;
    /// RBX.
    pub const RBX: usize = 3;
    /// RSP.
    pub const RSP: usize = 4;
    /// RBP.
    pub const RBP: usize = 5;
    /// RSI.
    pub const RSI: usize = 6;
    /// RDI.
    pub const RDI: usize = 7;
}

/// A segment register, numbered as instructions encode it, then LDTR and TR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegReg {
    /// Extra segment.
    Es = 0,
    /// Code segment.
    Cs = 1,
    /// Stack segment.
    Ss = 2,
    /// Data segment.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
    /// Local descriptor table register.
    Ldtr = 6,
    /// Task register.
    Tr = 7,
}

impl SegReg {
    /// All eight, in index order.
    pub const ALL: [SegReg; 8] = [
        SegReg::Es,
        SegReg::Cs,
        SegReg::Ss,
        SegReg::Ds,
        SegReg::Fs,
        SegReg::Gs,
        SegReg::Ldtr,
        SegReg::Tr,
    ];
}

/// A segment register with its hidden part.
///
/// `attr` is the descriptor's second dword bits 23:8 with the limit bits 19:16 taken out, that is:
/// bits 3:0 type, 4 S, 6:5 DPL, 7 P, 8 AVL, 9 L, 10 D/B, 11 G. This is the VMCB's packing
/// (`APM: vol 2, 4.8`, figure 15-2); the VMCS has bits 11:8 at 15:12 and an unusable bit of its
/// own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Visible selector.
    pub selector: u16,
    /// Packed attributes, see above.
    pub attr: u16,
    /// Limit in bytes, already scaled by G.
    pub limit: u32,
    /// Base, a linear address.
    pub base: u64,
    /// Set when the register cannot be used: a null selector was loaded.
    pub unusable: bool,
}

impl Segment {
    /// Type: four bits.
    pub const TYPE: u16 = 0xf;
    /// Code or data, not system.
    pub const S: u16 = 1 << 4;
    /// Where the DPL starts.
    pub const DPL_SHIFT: u32 = 5;
    /// Present.
    pub const P: u16 = 1 << 7;
    /// Available to software.
    pub const AVL: u16 = 1 << 8;
    /// 64-bit code.
    pub const L: u16 = 1 << 9;
    /// Default operand size (code), big (stack).
    pub const DB: u16 = 1 << 10;
    /// Limit granularity.
    pub const G: u16 = 1 << 11;

    /// Descriptor privilege level.
    #[inline]
    pub const fn dpl(&self) -> u8 {
        ((self.attr >> Self::DPL_SHIFT) & 3) as u8
    }

    /// A 16-bit segment of real-address mode: base is 16 times the selector.
    pub const fn real_mode(selector: u16, code: bool) -> Self {
        Self {
            selector,
            attr: if code { 0x9b } else { 0x93 },
            limit: 0xffff,
            base: (selector as u64) << 4,
            unusable: false,
        }
    }
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescTable {
    /// Linear base address.
    pub base: u64,
    /// Limit in bytes.
    pub limit: u16,
}

/// How instructions are decoded: which sizes are the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// Real-address, virtual-8086, or a 16-bit code segment.
    Bits16,
    /// A 32-bit code segment.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// The registers of a vCPU that the emulator may read or write. FPU and vector registers are not
/// here; the emulator reaches them through its bus.
#[derive(Clone, Debug)]
pub struct CpuState {
    /// General-purpose registers in encoding order, see [`gpr`].
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// CR0 as the guest sees it.
    pub cr0: u64,
    /// CR2.
    pub cr2: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// CR8: the task priority, 0 to 15.
    pub cr8: u64,
    /// EFER as the guest sees it.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// Segment registers, indexed by [`SegReg`].
    pub seg: [Segment; 8],
    /// Global descriptor table register.
    pub gdtr: DescTable,
    /// Interrupt descriptor table register.
    pub idtr: DescTable,
    /// DR0 to DR3.
    pub dr: [u64; 4],
    /// DR6.
    pub dr6: u64,
    /// DR7.
    pub dr7: u64,
    /// Interrupts are blocked for one instruction, by STI (bit 0) or by a load of SS (bit 1).
    pub shadow: u8,
}

/// [`CpuState::shadow`]: blocking by STI.
pub const SHADOW_STI: u8 = 1;
/// [`CpuState::shadow`]: blocking by MOV SS or POP SS.
pub const SHADOW_MOV_SS: u8 = 2;

/// A shadow as the interface (`KVM_X86_SHADOW_INT_*`) and the save area of SMM have it, or back: they
/// number the two the other way round. Other bits are dropped.
pub const fn shadow_renumbered(s: u8) -> u8 {
    let sti = if s & 1 != 0 { 2 } else { 0 };
    let mov_ss = if s & 2 != 0 { 1 } else { 0 };
    sti | mov_ss
}

impl CpuState {
    /// The state of a processor after reset (`SDM: vol 3, 9.1.1`), before CPUID's signature is put
    /// into RDX.
    #[expect(
        clippy::indexing_slicing,
        reason = "an enum of eight values indexes eight elements"
    )]
    pub const fn reset() -> Self {
        let data = Segment::real_mode(0, false);
        let mut s = Self {
            gpr: [0; 16],
            rip: 0xfff0,
            rflags: rflags::FIXED,
            cr0: cr0::CD | cr0::NW | cr0::ET,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            cr8: 0,
            efer: 0,
            xcr0: 1,
            seg: [data; 8],
            gdtr: DescTable {
                base: 0,
                limit: 0xffff,
            },
            idtr: DescTable {
                base: 0,
                limit: 0xffff,
            },
            dr: [0; 4],
            dr6: super::ctrl::dr6::INIT,
            dr7: super::ctrl::dr7::INIT,
            shadow: 0,
        };
        s.seg[SegReg::Cs as usize] = Segment {
            selector: 0xf000,
            attr: 0x9b,
            limit: 0xffff,
            base: 0xffff_0000,
            unusable: false,
        };
        s.seg[SegReg::Ldtr as usize].attr = 0x82;
        s.seg[SegReg::Tr as usize].attr = 0x8b;
        s
    }

    /// One segment register.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "an enum of eight values indexes eight elements"
    )]
    pub const fn seg(&self, r: SegReg) -> &Segment {
        &self.seg[r as usize]
    }

    /// One segment register, to be changed.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        reason = "an enum of eight values indexes eight elements"
    )]
    pub fn seg_mut(&mut self, r: SegReg) -> &mut Segment {
        &mut self.seg[r as usize]
    }

    /// Is CR0.PE set?
    #[inline]
    pub const fn protected_mode(&self) -> bool {
        self.cr0 & cr0::PE != 0
    }

    /// Is long mode active (EFER.LMA)?
    #[inline]
    pub const fn long_mode(&self) -> bool {
        self.efer & efer::LMA != 0
    }

    /// In virtual-8086 mode?
    #[inline]
    pub const fn v8086(&self) -> bool {
        self.protected_mode() && self.rflags & rflags::VM != 0
    }

    /// Current privilege level: 0 in real mode, 3 in virtual-8086 mode, else the DPL of SS.
    #[inline]
    pub const fn cpl(&self) -> u8 {
        if !self.protected_mode() {
            0
        } else if self.rflags & rflags::VM != 0 {
            3
        } else {
            self.seg(SegReg::Ss).dpl()
        }
    }

    /// The sizes instructions default to at CS:RIP.
    #[inline]
    pub const fn code_size(&self) -> CodeSize {
        if !self.protected_mode() || self.rflags & rflags::VM != 0 {
            return CodeSize::Bits16;
        }
        let attr = self.seg(SegReg::Cs).attr;
        if self.long_mode() && attr & Segment::L != 0 {
            CodeSize::Bits64
        } else if attr & Segment::DB != 0 {
            CodeSize::Bits32
        } else {
            CodeSize::Bits16
        }
    }

    /// Number of linear address bits: 57 with CR4.LA57 in long mode, 48 in long mode, else 32.
    #[inline]
    pub const fn linear_bits(&self) -> u32 {
        if !self.long_mode() {
            32
        } else if self.cr4 & cr4::LA57 != 0 {
            57
        } else {
            48
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_state_is_the_manuals() {
        let s = CpuState::reset();
        assert_eq!(s.seg(SegReg::Cs).base.wrapping_add(s.rip), 0xffff_fff0);
        assert_eq!(s.cr0, 0x6000_0010);
        assert_eq!(s.code_size(), CodeSize::Bits16);
        assert_eq!(s.cpl(), 0);
    }

    #[test]
    fn code_size_follows_mode_and_cs() {
        let mut s = CpuState::reset();
        s.cr0 |= cr0::PE;
        s.seg[SegReg::Cs as usize].attr |= Segment::DB;
        assert_eq!(s.code_size(), CodeSize::Bits32);
        s.rflags |= rflags::VM;
        assert_eq!(s.code_size(), CodeSize::Bits16);
        assert_eq!(s.cpl(), 3);
        s.rflags = rflags::FIXED;
        s.efer = efer::LMA | efer::LME;
        s.seg[SegReg::Cs as usize].attr = 0x9b | Segment::L;
        assert_eq!(s.code_size(), CodeSize::Bits64);
        assert_eq!(s.linear_bits(), 48);
    }
}
