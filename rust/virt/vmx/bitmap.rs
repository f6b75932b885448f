// SPDX-License-Identifier: GPL-2.0

//! The MSR bitmap: which MSRs a guest reaches without an exit (`SDM: vol 3, 25.6.9`). A set bit
//! exits, and so does every MSR outside the two ranges that have bits. Ports exit always.

use super::vcpu::Vcpu;
use crate::entry::flags;
use crate::vendor::MsrAccess;
use crate::vendor::PassthroughMsr;
use core::sync::atomic::AtomicU8;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use kernel::prelude::*;
use model::x86::msr;

/// One page: reads of the low range, reads of the high one, then writes.
pub(super) struct MsrMap(HwPage);

/// Where the bit for reads is: the byte, and the bit in it. Writes are 2048 bytes further on.
const fn place(msr: u32) -> Option<(usize, u32)> {
    let range = match msr & !0x1fff {
        0x0000_0000 => 0,
        0xc000_0000 => 0x400,
        _ => return None,
    };
    let n = msr & 0x1fff;
    Some((range + (n >> 3) as usize, n & 7))
}

const WRITES: usize = 0x800;

impl MsrMap {
    /// A map in which every MSR exits.
    pub(super) fn new() -> Result<Self> {
        let this = Self(HwPage::new()?);
        this.close();
        Ok(this)
    }

    /// Lets every MSR exit.
    pub(super) fn close(&self) {
        for byte in self.0.bytes() {
            byte.store(0xff, Relaxed);
        }
    }

    pub(super) fn hw_pa(&self) -> u64 {
        self.0.hw_pa()
    }

    pub(super) fn set(&self, msr: u32, a: MsrAccess) {
        let Some((byte, bit)) = place(msr) else {
            return;
        };
        let put = |at: usize, open: bool| {
            if let Some(byte) = self.0.bytes().get(at) {
                let old = byte.load(Relaxed) & !(1 << bit);
                AtomicU8::store(byte, old | u8::from(!open) << bit, Relaxed);
            }
        };
        put(byte, a.read);
        put(byte + WRITES, a.write);
    }
}

const NONE: MsrAccess = MsrAccess {
    read: false,
    write: false,
};
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

/// The index of an MSR that may be passed through, and the accesses that may be.
const fn allowed(m: PassthroughMsr) -> (u32, MsrAccess) {
    match m {
        // In the VMCS.
        PassthroughMsr::SysenterCs => (msr::SYSENTER_CS, BOTH),
        PassthroughMsr::SysenterEsp => (msr::SYSENTER_ESP, BOTH),
        PassthroughMsr::SysenterEip => (msr::SYSENTER_EIP, BOTH),
        PassthroughMsr::FsBase => (msr::FS_BASE, BOTH),
        PassthroughMsr::GsBase => (msr::GS_BASE, BOTH),
        // Switched when the thread comes to a CPU and leaves it.
        PassthroughMsr::KernelGsBase => (msr::KERNEL_GS_BASE, BOTH),
        // In the register only while the guest uses SYSCALL, and put back without being read.
        PassthroughMsr::Star => (msr::STAR, NONE),
        PassthroughMsr::Lstar => (msr::LSTAR, NONE),
        PassthroughMsr::Cstar => (msr::CSTAR, NONE),
        PassthroughMsr::SyscallMask => (msr::SYSCALL_MASK, NONE),
        // Hardware adds the offset.
        PassthroughMsr::Tsc => (msr::TSC, READ),
        // Switched by the entry code.
        PassthroughMsr::SpecCtrl => (msr::SPEC_CTRL, BOTH),
        // Commands, which act on the spot.
        PassthroughMsr::PredCmd => (msr::PRED_CMD, WRITE),
        PassthroughMsr::FlushCmd => (msr::FLUSH_CMD, WRITE),
        // Counters of the host.
        PassthroughMsr::Aperf => (msr::APERF, READ),
        PassthroughMsr::Mperf => (msr::MPERF, READ),
        PassthroughMsr::CoreC1Residency => (msr::CORE_C1_RES, READ),
        PassthroughMsr::CoreC3Residency => (msr::CORE_C3_RESIDENCY, READ),
        PassthroughMsr::CoreC6Residency => (msr::CORE_C6_RESIDENCY, READ),
        PassthroughMsr::CoreC7Residency => (msr::CORE_C7_RESIDENCY, READ),
    }
}

impl Vcpu {
    /// Lets the guest at an MSR as far as that is allowed and the MSR exists.
    pub(super) fn set_passthrough(&mut self, m: PassthroughMsr, a: MsrAccess) {
        let (index, may) = allowed(m);
        let exists = match m {
            PassthroughMsr::SpecCtrl => self.m.spec_ctrl,
            PassthroughMsr::PredCmd => self.m.ibpb,
            PassthroughMsr::FlushCmd => self.m.flush_l1d,
            _ => true,
        };
        let a = MsrAccess {
            read: a.read && may.read && exists,
            write: a.write && may.write && exists,
        };
        self.msr_map.set(index, a);
        if m == PassthroughMsr::SpecCtrl {
            self.entry.set_flag(flags::SAVE_SPEC_CTRL, a.write);
        }
    }
}
