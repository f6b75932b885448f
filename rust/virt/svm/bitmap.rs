// SPDX-License-Identifier: GPL-2.0

//! The permission maps: which ports and MSRs a guest reaches without an exit
//! (`APM: vol 2, 15.10.1`, `15.11`). A set bit exits; everything starts set.

use super::vcpu::Vcpu;
use crate::entry::flags;
use crate::vendor::MsrAccess;
use crate::vendor::PassthroughMsr;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPages;
use kernel::prelude::*;
use model::svm::vmcb::clean;

fn fill<const ORDER: u32>(pages: &HwPages<ORDER>) {
    for word in pages.all_words() {
        word.store(u64::MAX, Relaxed);
    }
}

/// The I/O permission map: three pages. Hardware may read one bit past the last port.
pub(super) struct IoMap(HwPages<2>);

impl IoMap {
    /// A map in which every port exits.
    pub(super) fn new() -> Result<Self> {
        let pages = HwPages::new()?;
        fill(&pages);
        Ok(Self(pages))
    }

    pub(super) fn hw_pa(&self) -> u64 {
        self.0.hw_pa()
    }
}

/// The MSR permission map: two pages, two bits for each MSR, reads first.
pub(super) struct MsrMap(HwPages<1>);

/// Where the bits of an MSR are: the byte, and the read bit in it. Three ranges of 8192 MSRs have
/// bits; all others exit always.
const fn place(msr: u32) -> Option<(usize, u32)> {
    let range = match msr & !0x1fff {
        0x0000_0000 => 0,
        0xc000_0000 => 0x800,
        0xc001_0000 => 0x1000,
        _ => return None,
    };
    let n = msr & 0x1fff;
    Some((range + (n >> 2) as usize, (n & 3) * 2))
}

impl MsrMap {
    /// A map in which every MSR exits.
    pub(super) fn new() -> Result<Self> {
        let this = Self(HwPages::new()?);
        this.close();
        Ok(this)
    }

    /// Lets every MSR exit.
    pub(super) fn close(&self) {
        fill(&self.0);
    }

    pub(super) fn hw_pa(&self) -> u64 {
        self.0.hw_pa()
    }

    fn set(&self, msr: u32, a: MsrAccess) {
        let Some((byte, shift)) = place(msr) else {
            return;
        };
        if let Some(byte) = self.0.bytes().get(byte) {
            let exits = u8::from(!a.read) | u8::from(!a.write) << 1;
            let old = byte.load(Relaxed) & !(3 << shift);
            AtomicU8::store(byte, old | exits << shift, Relaxed);
        }
    }
}

/// The index of an MSR that may be passed through, and the accesses that may be.
const fn allowed(msr: PassthroughMsr) -> (u32, MsrAccess) {
    const BOTH: MsrAccess = MsrAccess {
        read: true,
        write: true,
    };
    const READ: MsrAccess = MsrAccess {
        read: true,
        write: false,
    };
    const WRITE: MsrAccess = MsrAccess {
        read: false,
        write: true,
    };
    const NONE: MsrAccess = MsrAccess {
        read: false,
        write: false,
    };
    match msr {
        // Switched by VMLOAD and VMSAVE.
        PassthroughMsr::SysenterCs => (0x174, BOTH),
        PassthroughMsr::SysenterEsp => (0x175, BOTH),
        PassthroughMsr::SysenterEip => (0x176, BOTH),
        PassthroughMsr::Star => (0xc000_0081, BOTH),
        PassthroughMsr::Lstar => (0xc000_0082, BOTH),
        PassthroughMsr::Cstar => (0xc000_0083, BOTH),
        PassthroughMsr::SyscallMask => (0xc000_0084, BOTH),
        PassthroughMsr::FsBase => (0xc000_0100, BOTH),
        PassthroughMsr::GsBase => (0xc000_0101, BOTH),
        PassthroughMsr::KernelGsBase => (0xc000_0102, BOTH),
        // Hardware adds the offset.
        PassthroughMsr::Tsc => (0x10, READ),
        // Switched by hardware or by the entry code.
        PassthroughMsr::SpecCtrl => (0x48, BOTH),
        // Commands, which act on the spot.
        PassthroughMsr::PredCmd => (0x49, WRITE),
        PassthroughMsr::FlushCmd => (0x10b, WRITE),
        // Counters of the host.
        PassthroughMsr::Aperf => (0xe8, READ),
        PassthroughMsr::Mperf => (0xe7, READ),
        // There are none.
        PassthroughMsr::CoreC1Residency => (0x660, NONE),
        PassthroughMsr::CoreC3Residency => (0x3fc, NONE),
        PassthroughMsr::CoreC6Residency => (0x3fd, NONE),
        PassthroughMsr::CoreC7Residency => (0x3fe, NONE),
    }
}

impl Vcpu {
    /// Lets the guest at an MSR as far as that is allowed and the MSR exists.
    pub(super) fn set_passthrough(&mut self, msr: PassthroughMsr, a: MsrAccess) {
        let (index, may) = allowed(msr);
        let exists = match msr {
            PassthroughMsr::SpecCtrl => self.m.spec_ctrl,
            PassthroughMsr::PredCmd => self.m.ibpb,
            PassthroughMsr::FlushCmd => self.m.flush_l1d,
            _ => true,
        };
        let a = MsrAccess {
            read: a.read && may.read && exists,
            write: a.write && may.write && exists,
        };
        self.msrpm.set(index, a);
        match msr {
            PassthroughMsr::SysenterEsp => self.sysenter_esp_hi.pass(a.read || a.write),
            PassthroughMsr::SysenterEip => self.sysenter_eip_hi.pass(a.read || a.write),
            _ => {}
        }
        if msr == PassthroughMsr::SpecCtrl {
            let save = a.write && !self.m.v_spec_ctrl;
            self.entry.set_flag(flags::SAVE_SPEC_CTRL, save);
        }
        self.dirty(clean::PERM);
    }
}
