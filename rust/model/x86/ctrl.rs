// SPDX-License-Identifier: GPL-2.0

//! Bits of the control registers, RFLAGS, EFER and the debug registers.
//!
//! `SDM: vol 3, 2.5`, `SDM: vol 3, 17.2`, `APM: vol 2, 3.1`.

/// CR0 bits.
pub mod cr0 {
    /// Protection enable.
    pub const PE: u64 = 1 << 0;
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// x87 emulation.
    pub const EM: u64 = 1 << 2;
    /// Task switched.
    pub const TS: u64 = 1 << 3;
    /// Extension type; always 1.
    pub const ET: u64 = 1 << 4;
    /// Numeric error.
    pub const NE: u64 = 1 << 5;
    /// Write protect.
    pub const WP: u64 = 1 << 16;
    /// Alignment mask.
    pub const AM: u64 = 1 << 18;
    /// Not write-through.
    pub const NW: u64 = 1 << 29;
    /// Cache disable.
    pub const CD: u64 = 1 << 30;
    /// Paging.
    pub const PG: u64 = 1 << 31;
    /// Every defined bit; the others are reserved.
    pub const DEFINED: u64 = PE | MP | EM | TS | ET | NE | WP | AM | NW | CD | PG;
}

/// CR3 bits.
pub mod cr3 {
    /// Process-context identifier, with CR4.PCIDE.
    pub const PCID_MASK: u64 = 0xfff;
    /// Do not flush on load, with CR4.PCIDE; never stored.
    pub const NOFLUSH: u64 = 1 << 63;
}

/// CR4 bits.
pub mod cr4 {
    /// Virtual-8086 mode extensions.
    pub const VME: u64 = 1 << 0;
    /// Protected-mode virtual interrupts.
    pub const PVI: u64 = 1 << 1;
    /// RDTSC only at CPL 0.
    pub const TSD: u64 = 1 << 2;
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Page size extensions.
    pub const PSE: u64 = 1 << 4;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine-check enable.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// RDPMC at any CPL.
    pub const PCE: u64 = 1 << 8;
    /// FXSAVE/FXRSTOR and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// Unmasked SIMD floating-point exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// 57-bit linear addresses.
    pub const LA57: u64 = 1 << 12;
    /// VMX enable.
    pub const VMXE: u64 = 1 << 13;
    /// SMX enable.
    pub const SMXE: u64 = 1 << 14;
    /// RDFSBASE and friends.
    pub const FSGSBASE: u64 = 1 << 16;
    /// Process-context identifiers.
    pub const PCIDE: u64 = 1 << 17;
    /// XSAVE and XCRs.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
    /// Protection keys for user pages.
    pub const PKE: u64 = 1 << 22;
    /// Control-flow enforcement.
    pub const CET: u64 = 1 << 23;
    /// Protection keys for supervisor pages.
    pub const PKS: u64 = 1 << 24;
}

/// EFER bits (MSR C000_0080h).
pub mod efer {
    /// SYSCALL enable.
    pub const SCE: u64 = 1 << 0;
    /// Long mode enable.
    pub const LME: u64 = 1 << 8;
    /// Long mode active.
    pub const LMA: u64 = 1 << 10;
    /// No-execute enable.
    pub const NXE: u64 = 1 << 11;
    /// Secure virtual machine enable.
    pub const SVME: u64 = 1 << 12;
    /// Long mode segment limit enable.
    pub const LMSLE: u64 = 1 << 13;
    /// Fast FXSAVE/FXRSTOR.
    pub const FFXSR: u64 = 1 << 14;
    /// Automatic IBRS enable.
    pub const AUTOIBRS: u64 = 1 << 21;
}

/// RFLAGS bits.
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Always 1.
    pub const FIXED: u64 = 1 << 1;
    /// Parity of the low byte.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap (single-step).
    pub const TF: u64 = 1 << 8;
    /// Interrupt enable.
    pub const IF: u64 = 1 << 9;
    /// Direction.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level, two bits.
    pub const IOPL: u64 = 3 << 12;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and SMAP override.
    pub const AC: u64 = 1 << 18;
    /// Virtual interrupt flag.
    pub const VIF: u64 = 1 << 19;
    /// Virtual interrupt pending.
    pub const VIP: u64 = 1 << 20;
    /// CPUID available.
    pub const ID: u64 = 1 << 21;
    /// The six arithmetic status flags.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// DR6 bits.
pub mod dr6 {
    /// Breakpoint conditions 0 to 3.
    pub const TRAPS: u64 = 0xf;
    /// Bus lock detected; active low.
    pub const BUS_LOCK: u64 = 1 << 11;
    /// Access to a debug register with DR7.GD.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch.
    pub const BT: u64 = 1 << 15;
    /// In a restricted transactional region; active low.
    pub const RTM: u64 = 1 << 16;
    /// Value after reset; every active-low bit and the fixed ones set.
    pub const INIT: u64 = 0xffff_0ff0;
    /// Bits that read as 1 whatever is written, when neither RTM nor bus-lock detection exists.
    pub const FIXED_1: u64 = 0xffff_0ff0;
    /// Bits that can be 1.
    pub const VOLATILE: u64 = 0x0001_e80f;
    /// Bits that exist. Hardware does not take others.
    pub const EXISTING: u64 = FIXED_1 | VOLATILE;

    /// What DR6 has after a write of `v`. RTM can be 0 only where there are transactions.
    pub const fn written(v: u64, rtm: bool) -> u64 {
        let fixed = if rtm { FIXED_1 & !RTM } else { FIXED_1 };
        v & VOLATILE | fixed
    }
}

/// DR7 bits.
pub mod dr7 {
    /// General detect.
    pub const GD: u64 = 1 << 13;
    /// Bit 10 reads as 1.
    pub const FIXED_1: u64 = 1 << 10;
    /// Value after reset.
    pub const INIT: u64 = FIXED_1;
    /// The four local and four global enable bits.
    pub const ENABLED: u64 = 0xff;
    /// The four local enable bits and LE.
    pub const LOCAL: u64 = 0x155;
    /// Bits that software may change.
    pub const VOLATILE: u64 = 0xffff_2bff;

    /// Which of the breakpoints `dr`, of those that `dr7` enables, are met by an instruction at the
    /// linear address `at`: a bit for each, as in DR6. `SDM: vol 3, 17.2.4`.
    pub fn met_by_code(dr7: u64, dr: &[u64; 4], at: u64) -> u64 {
        let mut met = 0;
        let mut bit = 1;
        let (mut enabled, mut kind) = (dr7, dr7 >> 16);
        for address in dr {
            // Of length 1, for execution.
            if enabled & 3 != 0 && kind & 0xf == 0 && *address == at {
                met |= bit;
            }
            bit <<= 1;
            enabled >>= 2;
            kind >>= 4;
        }
        met
    }
}

/// XCR0 bits (`SDM: vol 1, 13.3`).
pub mod xcr0 {
    /// x87; always 1.
    pub const FP: u64 = 1 << 0;
    /// XMM registers.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of the YMM registers.
    pub const YMM: u64 = 1 << 2;
    /// The three AVX-512 components.
    pub const AVX512: u64 = 7 << 5;
    /// PKRU.
    pub const PKRU: u64 = 1 << 9;
    /// The two AMX components.
    pub const AMX: u64 = 3 << 17;
}

#[cfg(test)]
mod tests {
    use super::dr6;
    use super::dr7::met_by_code;

    #[test]
    fn what_dr6_takes() {
        assert_eq!(dr6::written(0, false), 0xffff_0ff0);
        assert_eq!(dr6::written(0, true), 0xfffe_0ff0);
        assert_eq!(dr6::written(0xffff_ffff, true), 0xffff_efff);
    }

    #[test]
    fn breakpoints_met_by_code() {
        let dr = [0x1000, 0x2000, 0x1000, 0x3000];
        assert_eq!(met_by_code(0, &dr, 0x1000), 0);
        // Locally and globally.
        assert_eq!(met_by_code(0x1, &dr, 0x1000), 1);
        assert_eq!(met_by_code(0x2, &dr, 0x1000), 1);
        assert_eq!(met_by_code(0xff, &dr, 0x1000), 5);
        assert_eq!(met_by_code(0xff, &dr, 0x3000), 8);
        assert_eq!(met_by_code(0xff, &dr, 0x1001), 0);
        // DR0 is for writes, DR2 has a length that code cannot have.
        assert_eq!(met_by_code(0x1_00ff, &dr, 0x1000), 4);
        assert_eq!(met_by_code(0xc01_00ff, &dr, 0x1000), 0);
    }
}
