// SPDX-License-Identifier: GPL-2.0

//! Exception vectors, their classes, and how two of them combine.
//!
//! `SDM: vol 3, 6.15` (vectors), `SDM: vol 3, table 6-5` (double fault).

/// Divide error.
pub const DE: u8 = 0;
/// Debug.
pub const DB: u8 = 1;
/// Non-maskable interrupt; a vector, not an exception.
pub const NMI: u8 = 2;
/// Breakpoint.
pub const BP: u8 = 3;
/// Overflow.
pub const OF: u8 = 4;
/// Bound range exceeded.
pub const BR: u8 = 5;
/// Invalid opcode.
pub const UD: u8 = 6;
/// Device not available.
pub const NM: u8 = 7;
/// Double fault.
pub const DF: u8 = 8;
/// Invalid TSS.
pub const TS: u8 = 10;
/// Segment not present.
pub const NP: u8 = 11;
/// Stack-segment fault.
pub const SS: u8 = 12;
/// General protection.
pub const GP: u8 = 13;
/// Page fault.
pub const PF: u8 = 14;
/// x87 floating-point error.
pub const MF: u8 = 16;
/// Alignment check.
pub const AC: u8 = 17;
/// Machine check.
pub const MC: u8 = 18;
/// SIMD floating-point exception.
pub const XM: u8 = 19;
/// Virtualization exception.
pub const VE: u8 = 20;
/// Control protection.
pub const CP: u8 = 21;

/// Error-code bits of a page fault (`SDM: vol 3, 4.7`).
pub mod pf {
    /// The fault was a protection violation, not a missing page.
    pub const P: u32 = 1 << 0;
    /// A write.
    pub const W: u32 = 1 << 1;
    /// A user-mode access.
    pub const U: u32 = 1 << 2;
    /// A reserved bit was set in an entry.
    pub const RSVD: u32 = 1 << 3;
    /// An instruction fetch.
    pub const I: u32 = 1 << 4;
    /// A protection-key violation.
    pub const PK: u32 = 1 << 5;
}

/// An exception on its way to the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, for the vectors that push one.
    pub error_code: Option<u32>,
    /// CR2 for `#PF`, the new DR6 bits for `#DB`, else 0.
    pub payload: u64,
}

impl Exception {
    /// An exception without an error code.
    pub const fn new(vector: u8) -> Self {
        Self {
            vector,
            error_code: None,
            payload: 0,
        }
    }

    /// An exception with an error code.
    pub const fn with_code(vector: u8, code: u32) -> Self {
        Self {
            vector,
            error_code: Some(code),
            payload: 0,
        }
    }

    /// `#GP(0)`, the answer to most bad requests of a guest.
    pub const fn gp0() -> Self {
        Self::with_code(GP, 0)
    }

    /// `#UD`.
    pub const fn ud() -> Self {
        Self::new(UD)
    }

    /// A page fault at `address` (a linear address, for CR2).
    pub const fn page_fault(code: u32, address: u64) -> Self {
        Self {
            vector: PF,
            error_code: Some(code),
            payload: address,
        }
    }
}

/// Is `vector` what INT3 and INTO raise, and nothing else?
pub const fn is_soft(vector: u8) -> bool {
    matches!(vector, BP | OF)
}

/// Is `vector` a fault, whose handler returns to the instruction that raised it? `#DB` may be one; what
/// aborts is none.
pub const fn is_fault(vector: u8) -> bool {
    !matches!(vector, DB | BP | OF | DF | MC)
}

/// Does delivering `vector` push an error code, in protected mode?
pub const fn has_error_code(vector: u8) -> bool {
    matches!(vector, DF | TS | NP | SS | GP | PF | AC | CP)
}

/// What a second exception makes of a first one that was being delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Combined {
    /// Deliver the second; the first will happen again by itself.
    Second,
    /// Deliver a double fault.
    DoubleFault,
    /// The machine shuts down.
    TripleFault,
}

const fn is_contributory(vector: u8) -> bool {
    matches!(vector, DE | TS | NP | SS | GP | CP)
}

/// Combines an exception `second` raised while `first` was being delivered.
/// `SDM: vol 3, table 6-5`.
pub const fn combine(first: u8, second: u8) -> Combined {
    if first == DF {
        return Combined::TripleFault;
    }
    if (is_contributory(first) && is_contributory(second))
        || (first == PF && (second == PF || is_contributory(second)))
    {
        return Combined::DoubleFault;
    }
    Combined::Second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_follow_the_table() {
        assert_eq!(combine(GP, NP), Combined::DoubleFault);
        assert_eq!(combine(PF, PF), Combined::DoubleFault);
        assert_eq!(combine(PF, GP), Combined::DoubleFault);
        assert_eq!(combine(GP, PF), Combined::Second);
        assert_eq!(combine(UD, GP), Combined::Second);
        assert_eq!(combine(DF, GP), Combined::TripleFault);
        assert_eq!(combine(DF, UD), Combined::TripleFault);
    }

    #[test]
    fn error_codes_belong_to_the_right_vectors() {
        let with: Vec<u8> = (0..32).filter(|&v| has_error_code(v)).collect();
        assert_eq!(with, [8, 10, 11, 12, 13, 14, 17, 21]);
    }
}
