// SPDX-License-Identifier: GPL-2.0

//! The fields of a VMCS, each with its width and who may write it.
//!
//! `SDM: vol 3, appendix B` (encodings), `SDM: vol 3, 25.11.2` (what an encoding is made of).
//!
//! A field is a value of [`Field`], whose parameters say what a read gives and whether it may be
//! written: [`ReadOnly`] fields are the exit information, [`HostState`] fields are what the processor
//! loads at an exit and belong to the entry code alone.

use core::marker::PhantomData;

/// A width a field can have.
pub trait Width {
    /// What a field of this width holds.
    type Value: Copy;
    /// Bits 14:13 of the encoding.
    const CODE: u32;
    /// What the instructions exchange: always 64 bits.
    fn widen(v: Self::Value) -> u64;
    /// The value of a field of this width.
    fn narrow(v: u64) -> Self::Value;
}

/// 16 bits.
#[derive(Clone, Copy, Debug)]
pub enum W16 {}
/// 32 bits.
#[derive(Clone, Copy, Debug)]
pub enum W32 {}
/// 64 bits.
#[derive(Clone, Copy, Debug)]
pub enum W64 {}
/// The width of the processor's registers.
#[derive(Clone, Copy, Debug)]
pub enum Natural {}

macro_rules! width {
    ($name:ident, $value:ty, $code:literal) => {
        impl Width for $name {
            type Value = $value;
            const CODE: u32 = $code;
            #[inline]
            fn widen(v: $value) -> u64 {
                v as u64
            }
            #[inline]
            fn narrow(v: u64) -> $value {
                // CAST: the processor clears the bits above the field's width.
                v as $value
            }
        }
    };
}

width!(W16, u16, 0);
width!(W64, u64, 1);
width!(W32, u32, 2);
width!(Natural, u64, 3);

/// Who may write a field.
pub trait Access {
    /// Bits 11:10 of the encodings that go with it.
    fn matches(kind: u32) -> bool;
}

/// Controls and guest state: written by the code of the backend.
#[derive(Clone, Copy, Debug)]
pub enum ReadWrite {}
/// Exit information: written by the processor.
#[derive(Clone, Copy, Debug)]
pub enum ReadOnly {}
/// What is loaded at an exit: written by the entry code, which knows the host's state.
#[derive(Clone, Copy, Debug)]
pub enum HostState {}

impl Access for ReadWrite {
    fn matches(kind: u32) -> bool {
        kind == 0 || kind == 2
    }
}

impl Access for ReadOnly {
    fn matches(kind: u32) -> bool {
        kind == 1
    }
}

impl Access for HostState {
    fn matches(kind: u32) -> bool {
        kind == 3
    }
}

/// A field of a VMCS.
pub struct Field<W, A> {
    encoding: u32,
    _kind: PhantomData<fn() -> (W, A)>,
}

impl<W, A> Clone for Field<W, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, A> Copy for Field<W, A> {}

impl<W: Width, A: Access> Field<W, A> {
    const fn new(encoding: u32) -> Self {
        Self {
            encoding,
            _kind: PhantomData,
        }
    }

    /// The operand of VMREAD and VMWRITE.
    #[inline]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }
}

macro_rules! fields {
    ($( $access:ident $width:ident { $( $(#[$doc:meta])* $name:ident = $encoding:literal; )* } )*) => {
        $($(
            $(#[$doc])*
            #[doc = concat!("VMCS field `", stringify!($encoding), "`.")]
            pub const $name: Field<$width, $access> = Field::new($encoding);
        )*)*

        /// Every field's encoding, with whether it agrees with the declared width and access.
        #[cfg(test)]
        const ALL: &[(&str, u32, u32, fn(u32) -> bool)] = &[
            $($(
                (
                    stringify!($name),
                    $encoding,
                    <$width as Width>::CODE,
                    <$access as Access>::matches,
                ),
            )*)*
        ];
    };
}

fields! {
    ReadWrite W16 {
        VPID = 0x0000;
        POSTED_INTR_VECTOR = 0x0002;
        GUEST_ES_SELECTOR = 0x0800;
        GUEST_CS_SELECTOR = 0x0802;
        GUEST_SS_SELECTOR = 0x0804;
        GUEST_DS_SELECTOR = 0x0806;
        GUEST_FS_SELECTOR = 0x0808;
        GUEST_GS_SELECTOR = 0x080a;
        GUEST_LDTR_SELECTOR = 0x080c;
        GUEST_TR_SELECTOR = 0x080e;
        GUEST_INTR_STATUS = 0x0810;
        GUEST_PML_INDEX = 0x0812;
    }
    HostState W16 {
        HOST_ES_SELECTOR = 0x0c00;
        HOST_CS_SELECTOR = 0x0c02;
        HOST_SS_SELECTOR = 0x0c04;
        HOST_DS_SELECTOR = 0x0c06;
        HOST_FS_SELECTOR = 0x0c08;
        HOST_GS_SELECTOR = 0x0c0a;
        HOST_TR_SELECTOR = 0x0c0c;
    }
    ReadWrite W64 {
        IO_BITMAP_A = 0x2000;
        IO_BITMAP_B = 0x2002;
        MSR_BITMAP = 0x2004;
        EXIT_MSR_STORE_ADDR = 0x2006;
        EXIT_MSR_LOAD_ADDR = 0x2008;
        ENTRY_MSR_LOAD_ADDR = 0x200a;
        PML_ADDRESS = 0x200e;
        TSC_OFFSET = 0x2010;
        VIRTUAL_APIC_PAGE = 0x2012;
        APIC_ACCESS_PAGE = 0x2014;
        POSTED_INTR_DESC = 0x2016;
        EPT_POINTER = 0x201a;
        EOI_EXIT_BITMAP0 = 0x201c;
        EOI_EXIT_BITMAP1 = 0x201e;
        EOI_EXIT_BITMAP2 = 0x2020;
        EOI_EXIT_BITMAP3 = 0x2022;
        XSS_EXIT_BITMAP = 0x202c;
        ENCLS_EXIT_BITMAP = 0x202e;
        TSC_MULTIPLIER = 0x2032;
        LINK_POINTER = 0x2800;
        GUEST_DEBUGCTL = 0x2802;
        GUEST_PAT = 0x2804;
        GUEST_EFER = 0x2806;
        GUEST_PDPTE0 = 0x280a;
        GUEST_PDPTE1 = 0x280c;
        GUEST_PDPTE2 = 0x280e;
        GUEST_PDPTE3 = 0x2810;
    }
    ReadOnly W64 {
        GUEST_PHYSICAL_ADDRESS = 0x2400;
    }
    HostState W64 {
        HOST_PAT = 0x2c00;
        HOST_EFER = 0x2c02;
    }
    ReadWrite W32 {
        PIN_CONTROLS = 0x4000;
        PROC_CONTROLS = 0x4002;
        EXCEPTION_BITMAP = 0x4004;
        PF_ERROR_MASK = 0x4006;
        PF_ERROR_MATCH = 0x4008;
        CR3_TARGET_COUNT = 0x400a;
        EXIT_CONTROLS = 0x400c;
        EXIT_MSR_STORE_COUNT = 0x400e;
        EXIT_MSR_LOAD_COUNT = 0x4010;
        ENTRY_CONTROLS = 0x4012;
        ENTRY_MSR_LOAD_COUNT = 0x4014;
        ENTRY_INTR_INFO = 0x4016;
        ENTRY_ERROR_CODE = 0x4018;
        ENTRY_INSN_LENGTH = 0x401a;
        TPR_THRESHOLD = 0x401c;
        PROC2_CONTROLS = 0x401e;
        PLE_GAP = 0x4020;
        PLE_WINDOW = 0x4022;
        GUEST_ES_LIMIT = 0x4800;
        GUEST_CS_LIMIT = 0x4802;
        GUEST_SS_LIMIT = 0x4804;
        GUEST_DS_LIMIT = 0x4806;
        GUEST_FS_LIMIT = 0x4808;
        GUEST_GS_LIMIT = 0x480a;
        GUEST_LDTR_LIMIT = 0x480c;
        GUEST_TR_LIMIT = 0x480e;
        GUEST_GDTR_LIMIT = 0x4810;
        GUEST_IDTR_LIMIT = 0x4812;
        GUEST_ES_RIGHTS = 0x4814;
        GUEST_CS_RIGHTS = 0x4816;
        GUEST_SS_RIGHTS = 0x4818;
        GUEST_DS_RIGHTS = 0x481a;
        GUEST_FS_RIGHTS = 0x481c;
        GUEST_GS_RIGHTS = 0x481e;
        GUEST_LDTR_RIGHTS = 0x4820;
        GUEST_TR_RIGHTS = 0x4822;
        GUEST_INTERRUPTIBILITY = 0x4824;
        GUEST_ACTIVITY = 0x4826;
        GUEST_SYSENTER_CS = 0x482a;
        PREEMPTION_TIMER = 0x482e;
    }
    ReadOnly W32 {
        INSTRUCTION_ERROR = 0x4400;
        EXIT_REASON = 0x4402;
        EXIT_INTR_INFO = 0x4404;
        EXIT_INTR_ERROR = 0x4406;
        IDT_VECTORING_INFO = 0x4408;
        IDT_VECTORING_ERROR = 0x440a;
        EXIT_INSN_LENGTH = 0x440c;
        EXIT_INSN_INFO = 0x440e;
    }
    HostState W32 {
        HOST_SYSENTER_CS = 0x4c00;
    }
    ReadWrite Natural {
        CR0_MASK = 0x6000;
        CR4_MASK = 0x6002;
        CR0_SHADOW = 0x6004;
        CR4_SHADOW = 0x6006;
        GUEST_CR0 = 0x6800;
        GUEST_CR3 = 0x6802;
        GUEST_CR4 = 0x6804;
        GUEST_ES_BASE = 0x6806;
        GUEST_CS_BASE = 0x6808;
        GUEST_SS_BASE = 0x680a;
        GUEST_DS_BASE = 0x680c;
        GUEST_FS_BASE = 0x680e;
        GUEST_GS_BASE = 0x6810;
        GUEST_LDTR_BASE = 0x6812;
        GUEST_TR_BASE = 0x6814;
        GUEST_GDTR_BASE = 0x6816;
        GUEST_IDTR_BASE = 0x6818;
        GUEST_DR7 = 0x681a;
        GUEST_RSP = 0x681c;
        GUEST_RIP = 0x681e;
        GUEST_RFLAGS = 0x6820;
        GUEST_PENDING_DEBUG = 0x6822;
        GUEST_SYSENTER_ESP = 0x6824;
        GUEST_SYSENTER_EIP = 0x6826;
    }
    ReadOnly Natural {
        EXIT_QUALIFICATION = 0x6400;
        GUEST_LINEAR_ADDRESS = 0x640a;
    }
    HostState Natural {
        HOST_CR0 = 0x6c00;
        HOST_CR3 = 0x6c02;
        HOST_CR4 = 0x6c04;
        HOST_FS_BASE = 0x6c06;
        HOST_GS_BASE = 0x6c08;
        HOST_TR_BASE = 0x6c0a;
        HOST_GDTR_BASE = 0x6c0c;
        HOST_IDTR_BASE = 0x6c0e;
        HOST_SYSENTER_ESP = 0x6c10;
        HOST_SYSENTER_EIP = 0x6c12;
        HOST_RSP = 0x6c14;
        HOST_RIP = 0x6c16;
    }
}

/// The four fields of a segment register.
#[derive(Clone, Copy)]
pub struct SegFields {
    /// Selector.
    pub selector: Field<W16, ReadWrite>,
    /// Limit in bytes.
    pub limit: Field<W32, ReadWrite>,
    /// Access rights.
    pub rights: Field<W32, ReadWrite>,
    /// Base.
    pub base: Field<Natural, ReadWrite>,
}

/// The fields of a segment register.
#[inline]
pub const fn segment(r: crate::x86::state::SegReg) -> SegFields {
    // The eight registers follow each other, in the order instructions encode them.
    let n = (r as u32) << 1;
    SegFields {
        selector: Field::new(GUEST_ES_SELECTOR.encoding | n),
        limit: Field::new(GUEST_ES_LIMIT.encoding | n),
        rights: Field::new(GUEST_ES_RIGHTS.encoding.wrapping_add(n)),
        base: Field::new(GUEST_ES_BASE.encoding.wrapping_add(n)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86::state::SegReg;

    #[test]
    fn encodings_agree_with_width_and_access() {
        for &(name, encoding, width, access) in ALL {
            assert_eq!(encoding >> 13 & 3, width, "{name}");
            assert!(access(encoding >> 10 & 3), "{name}");
            assert_eq!(
                encoding & !0x6ffe,
                0,
                "{name}: full access, no reserved bits"
            );
        }
    }

    #[test]
    fn encodings_are_distinct() {
        let mut all: Vec<u32> = ALL.iter().map(|f| f.1).collect();
        all.sort_unstable();
        let n = all.len();
        all.dedup();
        assert_eq!(all.len(), n);
    }

    #[test]
    fn segments_are_in_encoding_order() {
        for (r, s, l, a, b) in [
            (
                SegReg::Es,
                GUEST_ES_SELECTOR,
                GUEST_ES_LIMIT,
                GUEST_ES_RIGHTS,
                GUEST_ES_BASE,
            ),
            (
                SegReg::Cs,
                GUEST_CS_SELECTOR,
                GUEST_CS_LIMIT,
                GUEST_CS_RIGHTS,
                GUEST_CS_BASE,
            ),
            (
                SegReg::Ss,
                GUEST_SS_SELECTOR,
                GUEST_SS_LIMIT,
                GUEST_SS_RIGHTS,
                GUEST_SS_BASE,
            ),
            (
                SegReg::Ds,
                GUEST_DS_SELECTOR,
                GUEST_DS_LIMIT,
                GUEST_DS_RIGHTS,
                GUEST_DS_BASE,
            ),
            (
                SegReg::Fs,
                GUEST_FS_SELECTOR,
                GUEST_FS_LIMIT,
                GUEST_FS_RIGHTS,
                GUEST_FS_BASE,
            ),
            (
                SegReg::Gs,
                GUEST_GS_SELECTOR,
                GUEST_GS_LIMIT,
                GUEST_GS_RIGHTS,
                GUEST_GS_BASE,
            ),
            (
                SegReg::Ldtr,
                GUEST_LDTR_SELECTOR,
                GUEST_LDTR_LIMIT,
                GUEST_LDTR_RIGHTS,
                GUEST_LDTR_BASE,
            ),
            (
                SegReg::Tr,
                GUEST_TR_SELECTOR,
                GUEST_TR_LIMIT,
                GUEST_TR_RIGHTS,
                GUEST_TR_BASE,
            ),
        ] {
            let f = segment(r);
            assert_eq!(f.selector.encoding, s.encoding);
            assert_eq!(f.limit.encoding, l.encoding);
            assert_eq!(f.rights.encoding, a.encoding);
            assert_eq!(f.base.encoding, b.encoding);
        }
    }

    #[test]
    fn values_keep_their_width() {
        assert_eq!(W16::narrow(0x1_2345), 0x2345);
        assert_eq!(W32::narrow(0x1_0000_0002), 2);
        assert_eq!(Natural::widen(u64::MAX), u64::MAX);
    }
}
