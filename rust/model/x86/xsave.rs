// SPDX-License-Identifier: GPL-2.0

//! Extended state: its components, where they lie in an XSAVE area and how large one must be.
//!
//! `SDM: vol 1, chapter 13`, `APM: vol 2, 11.5`. The layout is the processor's and is read from
//! CPUID leaf 0xd once.

use super::cpuid::Regs;

/// Component bits of XCR0 and IA32_XSS.
pub mod component {
    /// x87 state.
    pub const X87: u64 = 1 << 0;
    /// XMM registers and MXCSR.
    pub const SSE: u64 = 1 << 1;
    /// Upper halves of the YMM registers.
    pub const AVX: u64 = 1 << 2;
    /// MPX bound registers.
    pub const BNDREGS: u64 = 1 << 3;
    /// MPX configuration and status.
    pub const BNDCSR: u64 = 1 << 4;
    /// The three components of AVX-512.
    pub const AVX512: u64 = 7 << 5;
    /// Protection-key rights.
    pub const PKRU: u64 = 1 << 9;
    /// User-mode control-flow enforcement (a supervisor component).
    pub const CET_USER: u64 = 1 << 11;
    /// Shadow-stack pointers of the other rings (a supervisor component).
    pub const CET_KERNEL: u64 = 1 << 12;
    /// AMX tile configuration.
    pub const TILE_CFG: u64 = 1 << 17;
    /// AMX tile data, which a process must ask for.
    pub const TILE_DATA: u64 = 1 << 18;
    /// Both AMX components; neither is allowed without the other.
    pub const TILE: u64 = TILE_CFG | TILE_DATA;
}

/// Size of the legacy region and the header, bytes: what every XSAVE area has.
pub const MIN_SIZE: u32 = 512 + 64;
/// One more than the highest component this module knows.
const COMPONENTS: usize = 19;

/// One component as CPUID describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Component {
    /// Size in bytes, 0 if absent.
    size: u32,
    /// Offset in the standard format, bytes.
    offset: u32,
    /// ECX of the subleaf: bit 0 supervisor, bit 1 aligned to 64 bytes when compacted.
    flags: u32,
}

/// Where the processor puts each component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XsaveLayout {
    components: [Component; COMPONENTS],
}

impl XsaveLayout {
    /// Reads the layout with `cpuid(0xd, subleaf)`.
    pub fn probe(mut cpuid: impl FnMut(u32, u32) -> Regs) -> Self {
        let mut components = [Component::default(); COMPONENTS];
        for (i, c) in (0..).zip(components.iter_mut()).skip(2) {
            let [size, offset, flags, _] = cpuid(0xd, i);
            *c = Component {
                size,
                offset,
                flags,
            };
        }
        Self { components }
    }

    /// Size of an area that holds the components of `bits`, bytes, in the standard format or
    /// compacted. `SDM: vol 1, 13.4.3`.
    pub fn size(&self, bits: u64, compacted: bool) -> u32 {
        let mut end = MIN_SIZE;
        let mut rest = bits >> 2;
        for c in self.components.iter().skip(2) {
            if rest & 1 != 0 {
                let start = if !compacted {
                    c.offset
                } else if c.flags & 2 != 0 {
                    end.wrapping_add(63) & !63
                } else {
                    end
                };
                end = end.max(start.wrapping_add(c.size));
            }
            rest >>= 1;
        }
        end
    }
}

/// Whether a guest may put `value` into XCR0 when it may use the components of `allowed` (x87 is
/// always allowed).
/// `SDM: vol 1, 13.3`, `SDM: vol 2D, XSETBV`.
pub const fn xcr0_valid(value: u64, allowed: u64) -> bool {
    use component::{AVX, AVX512, BNDCSR, BNDREGS, SSE, TILE, X87};

    if value & X87 == 0 || value & !(allowed | X87) != 0 {
        return false;
    }
    if value & AVX != 0 && value & SSE == 0 {
        return false;
    }
    // MPX, AVX-512 and AMX each consist of several components that are enabled together.
    if (value & BNDREGS == 0) != (value & BNDCSR == 0) {
        return false;
    }
    if value & AVX512 != 0 && (value & AVX512 != AVX512 || value & AVX == 0) {
        return false;
    }
    value & TILE == 0 || value & TILE == TILE
}

#[cfg(test)]
mod tests {
    use super::component::*;
    use super::*;

    /// The figures of a Sapphire Rapids.
    fn layout() -> XsaveLayout {
        XsaveLayout::probe(|leaf, sub| {
            assert_eq!(leaf, 0xd);
            match sub {
                2 => [256, 576, 0, 0],
                5 => [64, 1088, 0, 0],
                6 => [512, 1152, 0, 0],
                7 => [1024, 1664, 0, 0],
                9 => [8, 2688, 0, 0],
                11 => [16, 0, 1, 0],
                17 => [64, 2752, 2, 0],
                18 => [8192, 2816, 6, 0],
                _ => [0; 4],
            }
        })
    }

    #[test]
    fn sizes() {
        let l = layout();
        for (bits, compacted, size) in [
            (X87 | SSE, false, 576),
            (X87 | SSE | AVX, false, 832),
            (X87 | SSE | AVX, true, 832),
            (X87 | SSE | AVX | AVX512 | PKRU, false, 2696),
            (X87 | SSE | AVX | AVX512 | PKRU, true, 2440),
            (X87 | SSE | AVX | AVX512 | PKRU | TILE, false, 11008),
            // 2440 is rounded up to 2496 for the first tile component.
            (
                X87 | SSE | AVX | AVX512 | PKRU | TILE,
                true,
                2496 + 64 + 8192,
            ),
            (X87 | SSE | PKRU, false, 2696),
            (X87 | SSE | PKRU, true, 584),
            (u64::MAX << 19, false, 576),
        ] {
            assert_eq!(l.size(bits, compacted), size, "{bits:#x} {compacted}");
        }
    }

    #[test]
    fn xcr0_rules() {
        let all = X87 | SSE | AVX | BNDREGS | BNDCSR | AVX512 | PKRU | TILE;
        for (value, allowed, ok) in [
            (0, all, false),
            (X87, all, true),
            (X87, 0, true),
            (SSE, all, false),
            (X87 | AVX, all, false),
            (X87 | SSE | AVX, all, true),
            (X87 | SSE | AVX, X87 | SSE, false),
            (X87 | BNDREGS, all, false),
            (X87 | BNDREGS | BNDCSR, all, true),
            (X87 | SSE | AVX512, all, false),
            (X87 | SSE | AVX | AVX512, all, true),
            (X87 | SSE | AVX | (1 << 5), all, false),
            (X87 | TILE_CFG, all, false),
            (X87 | TILE, all, true),
            (X87 | 1 << 63, u64::MAX, true),
        ] {
            assert_eq!(xcr0_valid(value, allowed), ok, "{value:#x} {allowed:#x}");
        }
    }
}
