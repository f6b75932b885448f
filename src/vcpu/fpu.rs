// SPDX-License-Identifier: GPL-2.0

//! FPU and extended state: loaded while KVM_RUN runs, exchanged by ioctls otherwise.

use super::Cx;
use crate::backend::Backend;
use crate::host_caps;
use host::fpu::GuestFpu;
use kernel::prelude::*;
use model::abi::KvmFpu;
use model::abi::KvmXcr;
use model::abi::KvmXcrs;
use model::stats::VcpuStat;
use model::x86::xsave;

/// Size of `struct kvm_xsave` without what follows it, bytes.
const BASE_SIZE: usize = 4096;

/// The FPU state of a vCPU.
pub(crate) struct Fpu {
    /// Taken out while KVM_RUN has it in the registers.
    guest: Option<KBox<GuestFpu>>,
}

impl Fpu {
    /// Initial state. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            guest: Some(KBox::new(GuestFpu::new()?, GFP_KERNEL_ACCOUNT)?),
        })
    }

    fn get(&mut self) -> Result<&mut GuestFpu> {
        self.guest.as_deref_mut().ok_or(EBUSY)
    }
}

/// What KVM_CAP_XSAVE2 answers: bytes that KVM_GET_XSAVE2 writes.
pub(crate) fn xsave_size() -> usize {
    let s = host_caps::get().map_or(0, |h| {
        h.supported.layout.size(h.supported.xcr0, false) as usize
    });
    s.max(BASE_SIZE)
}

/// Runs `f` with the guest's FPU registers loaded.
pub(crate) fn with_loaded<V: Backend, R>(
    cx: &mut Cx<'_, '_, V>,
    f: impl FnOnce(&mut Cx<'_, '_, V>) -> R,
) -> Result<R> {
    let mut guest = cx.st.fpu.guest.take().ok_or(EBUSY)?;
    cx.count(VcpuStat::FpuReload);
    let r = guest.with_swapped_in(|_| f(cx));
    cx.st.fpu.guest = Some(guest);
    r
}

/// The extended state that user space may set: the guest's CPUID may come later.
fn settable() -> u64 {
    host_caps::get().map_or(0, |h| h.supported.xcr0)
}

/// KVM_GET_XSAVE (`size` 4096) and KVM_GET_XSAVE2. EINVAL if the state is larger.
pub(crate) fn get_xsave<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize, size: usize) -> Result {
    let pkru = cx.l.pkru();
    // KVM: of what the guest has. A state that is in use on this host only, as the protection keys
    // of the VMM's own thread are, would be refused on another.
    let f = cx.st.cpuid.features.xcr0 | xsave::component::X87 | xsave::component::SSE;
    let guest = cx.st.fpu.get()?;
    if guest.uabi_size() > size.max(BASE_SIZE) {
        return Err(EINVAL);
    }
    let mut buf = KVVec::from_elem(0u8, size, GFP_KERNEL_ACCOUNT)?;
    guest.copy_to_uabi(&mut buf, f, pkru)?;
    host::uaccess::write_user(arg, buf.as_slice())
}

/// KVM_SET_XSAVE. EINVAL for state that the guest cannot have.
pub(crate) fn set_xsave<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let f = settable();
    let mut pkru = cx.l.pkru();
    let guest = cx.st.fpu.get()?;
    let mut buf = host::uaccess::read_user_vec::<u8>(arg, guest.uabi_size().max(BASE_SIZE))?;
    guest.copy_from_uabi(&mut buf, f, &mut pkru)?;
    cx.l.set_pkru(pkru);
    Ok(())
}

/// Offsets in the FXSAVE image (`SDM: vol 1, table 10-2`).
mod fxsave {
    pub(super) const FTW: usize = 4;
    pub(super) const FOP: usize = 6;
    pub(super) const FIP: usize = 8;
    pub(super) const FDP: usize = 16;
    pub(super) const MXCSR: usize = 24;
    pub(super) const ST: usize = 32;
    pub(super) const XMM: usize = 160;
}

fn get_at<const N: usize>(image: &[u8; 512], off: usize) -> [u8; N] {
    image
        .get(off..)
        .and_then(|b| b.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

fn put_at(image: &mut [u8; 512], off: usize, b: &[u8]) {
    if let Some(to) = image.get_mut(off..off.wrapping_add(b.len())) {
        to.copy_from_slice(b);
    }
}

/// KVM_GET_FPU: the x87 and SSE part.
pub(crate) fn get_fpu<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Result<KBox<KvmFpu>> {
    let mut image = KBox::new([0u8; 512], GFP_KERNEL_ACCOUNT)?;
    cx.st.fpu.get()?.read_fxsave(&mut image);
    let mut f = KBox::new(KvmFpu::zeroed(), GFP_KERNEL_ACCOUNT)?;
    for (i, r) in f.fpr.iter_mut().enumerate() {
        *r = get_at(&image, fxsave::ST.wrapping_add(i.wrapping_mul(16)));
    }
    for (i, r) in f.xmm.iter_mut().enumerate() {
        *r = get_at(&image, fxsave::XMM.wrapping_add(i.wrapping_mul(16)));
    }
    f.fcw = u16::from_le_bytes(get_at(&image, 0));
    f.fsw = u16::from_le_bytes(get_at(&image, 2));
    [f.ftwx] = get_at(&image, fxsave::FTW);
    f.last_opcode = u16::from_le_bytes(get_at(&image, fxsave::FOP));
    f.last_ip = u64::from_le_bytes(get_at(&image, fxsave::FIP));
    f.last_dp = u64::from_le_bytes(get_at(&image, fxsave::FDP));
    f.mxcsr = u32::from_le_bytes(get_at(&image, fxsave::MXCSR));
    Ok(f)
}

/// KVM_SET_FPU. KVM: MXCSR is not taken over, as its reserved bits would fault.
pub(crate) fn set_fpu<V: Backend>(cx: &mut Cx<'_, '_, V>, f: &KvmFpu) -> Result {
    let mut image = KBox::new([0u8; 512], GFP_KERNEL_ACCOUNT)?;
    put_at(&mut image, 0, &f.fcw.to_le_bytes());
    put_at(&mut image, 2, &f.fsw.to_le_bytes());
    put_at(&mut image, fxsave::FTW, &[f.ftwx]);
    put_at(&mut image, fxsave::FOP, &f.last_opcode.to_le_bytes());
    put_at(&mut image, fxsave::FIP, &f.last_ip.to_le_bytes());
    put_at(&mut image, fxsave::FDP, &f.last_dp.to_le_bytes());
    for (i, r) in f.fpr.iter().enumerate() {
        put_at(&mut image, fxsave::ST.wrapping_add(i.wrapping_mul(16)), r);
    }
    for (i, r) in f.xmm.iter().enumerate() {
        put_at(&mut image, fxsave::XMM.wrapping_add(i.wrapping_mul(16)), r);
    }
    cx.st.fpu.get()?.write_fxsave(&image);
    Ok(())
}

/// KVM_GET_XCRS.
pub(crate) fn get_xcrs<V: Backend>(cx: &Cx<'_, '_, V>) -> KvmXcrs {
    let mut x = KvmXcrs::zeroed();
    x.nr_xcrs = 1;
    x.xcrs[0] = KvmXcr {
        xcr: 0,
        reserved: 0,
        value: cx.st.xcr0,
    };
    x
}

/// KVM_SET_XCRS. EINVAL for too many, for flags, or for an XCR0 that the guest cannot have.
pub(crate) fn set_xcrs<V: Backend>(cx: &mut Cx<'_, '_, V>, x: &KvmXcrs) -> Result {
    if x.nr_xcrs as usize > x.xcrs.len() || x.flags != 0 {
        return Err(EINVAL);
    }
    for r in x.xcrs.iter().take(x.nr_xcrs as usize) {
        // KVM: only XCR0 exists, and only its first entry counts.
        if r.xcr == 0 {
            return set_xcr0(cx, r.value).map_err(|()| EINVAL);
        }
    }
    Ok(())
}

/// Sets XCR0; `Err` for a value that the guest's CPUID does not allow (`SDM: vol 1, 13.3`).
pub(crate) fn set_xcr0<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) -> Result<(), ()> {
    let allowed = cx.st.cpuid.features.xcr0 | xsave::component::X87;
    if !xsave::xcr0_valid(v, allowed) || !cx.l.set_xcr0(v) {
        return Err(());
    }
    cx.st.xcr0 = v;
    cx.cpuid_runtime();
    Ok(())
}
