// SPDX-License-Identifier: GPL-2.0

//! Structures as a 32-bit process has them, where that differs: those with pointers.
//!
//! Such a process writes half of a pointer's 64 bits, so that the other half is whatever was there.
//! Its `long long` is aligned to four bytes, but no structure of ours has one at an odd place.

use super::{ioc, Dir, KvmClearDirtyLog, KvmDirtyLog, KvmMsrFilter, KVMIO};
use core::mem::size_of;

/// The bits of a pointer.
const POINTER: u64 = 0xffff_ffff;
/// Ranges of an MSR filter.
const RANGES: usize = 16;

/// `struct kvm_msr_filter_range` of a 32-bit process, 16 bytes.
#[derive(
    Clone,
    Copy,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrFilterRange32 {
    /// KVM_MSR_FILTER_*.
    pub flags: u32,
    /// How many MSRs.
    pub nmsrs: u32,
    /// The first.
    pub base: u32,
    /// User address of a bit for each.
    pub bitmap: u32,
}

/// `struct kvm_msr_filter` of a 32-bit process, 260 bytes.
#[derive(
    Clone,
    Copy,
    zerocopy_derive::FromBytes,
    zerocopy_derive::IntoBytes,
    zerocopy_derive::Immutable,
    zerocopy_derive::KnownLayout,
)]
#[repr(C)]
pub struct KvmMsrFilter32 {
    /// KVM_MSR_FILTER_DEFAULT_*.
    pub flags: u32,
    /// The ranges.
    pub ranges: [KvmMsrFilterRange32; RANGES],
}

/// `KVM_X86_SET_MSR_FILTER` of a 32-bit process. The size makes it another command.
pub const KVM_X86_SET_MSR_FILTER_32: u32 =
    ioc(Dir::Write, KVMIO, 0xc6, size_of::<KvmMsrFilter32>());

impl KvmMsrFilter32 {
    /// Fills `out` with the same filter.
    pub fn widen(&self, out: &mut KvmMsrFilter) {
        out.flags = self.flags;
        for (o, r) in out.ranges.iter_mut().zip(&self.ranges) {
            o.flags = r.flags;
            o.nmsrs = r.nmsrs;
            o.base = r.base;
            o.bitmap = u64::from(r.bitmap);
        }
    }
}

impl KvmDirtyLog {
    /// As a 32-bit process means it.
    #[must_use]
    pub fn narrow(mut self) -> Self {
        self.padding2 &= POINTER;
        self
    }
}

impl KvmClearDirtyLog {
    /// As a 32-bit process means it.
    #[must_use]
    pub fn narrow(mut self) -> Self {
        self.padding2 &= POINTER;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        // _IOW(0xae, 0xc6, 260 bytes).
        assert_eq!(KVM_X86_SET_MSR_FILTER_32, 0x4104_aec6);
        assert_eq!(size_of::<KvmMsrFilterRange32>(), 16);
    }

    #[test]
    fn pointers() {
        let mut d = KvmDirtyLog::zeroed();
        d.padding2 = 0x1234_5678_9abc_def0;
        assert_eq!(d.narrow().padding2, 0x9abc_def0);
        let mut c = KvmClearDirtyLog::zeroed();
        (c.first_page, c.padding2) = (1 << 40, u64::MAX);
        assert_eq!(
            (c.narrow().first_page, c.narrow().padding2),
            (1 << 40, POINTER)
        );
    }

    #[test]
    fn filter() {
        let mut f: KvmMsrFilter32 = zerocopy::FromZeros::new_zeroed();
        f.flags = 1;
        f.ranges[15] = KvmMsrFilterRange32 {
            flags: 3,
            nmsrs: 64,
            base: 0xc000_0080,
            bitmap: 0xffff_f000,
        };
        let mut w = KvmMsrFilter::zeroed();
        f.widen(&mut w);
        let r = &w.ranges[15];
        assert_eq!((w.flags, r.flags, r.nmsrs), (1, 3, 64));
        assert_eq!((r.base, r.bitmap), (0xc000_0080, 0xffff_f000));
    }
}
