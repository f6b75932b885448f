// SPDX-License-Identifier: GPL-2.0

//! MSRs of a vCPU. `model::policy::msr` decides what exists and what is valid; here is who acts.

use super::shared::Request;
use super::Cx;
use crate::backend::Backend;
use crate::host_caps;
use crate::pv;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmMsrEntry;
use model::abi::KvmMsrs;
use model::irqchip::lapic::Lvt;
use model::irqchip::lapic::Raised;
use model::policy::mce;
use model::policy::mce::Bank;
use model::policy::msr;
use model::policy::msr::MsrCx;
use model::policy::msr::MsrError;
use model::policy::msr::MsrState;
use model::policy::msr::Read;
use model::policy::msr::Write;
use model::policy::msr::MAX_MSRS;
use model::x86::ctrl::cr0;
use model::x86::ctrl::efer;
use model::x86::exception;
use model::x86::exception::Exception;
use model::x86::msr as reg;
use model::x86::msr::mcg_cap;

/// Most MSRs that one ioctl takes.
const MAX_LIST: u32 = 256;

/// The MSRs that are ours.
pub(crate) struct Msrs {
    /// Plain values.
    pub(crate) state: MsrState,
    /// Machine-check banks.
    banks: KVec<Bank>,
    /// SPEC_CTRL was given a value other than 0 since RESET: from then on it is passed through.
    pub(crate) spec_ctrl_used: bool,
}

impl Msrs {
    /// Reset values. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        let n = crate::vm::caps::MCE_BANKS as usize;
        Ok(Self {
            state: MsrState::RESET,
            banks: KVec::from_elem(Bank::default(), n, GFP_KERNEL_ACCOUNT)?,
            spec_ctrl_used: false,
        })
    }

    /// RESET, or INIT.
    pub(crate) fn reset(&mut self, init: bool) {
        self.state.reset(init);
        if !init {
            self.spec_ctrl_used = false;
        }
    }

    /// Gives a new vCPU what the host's processors tell of their errata.
    pub(crate) fn tell_errata(&mut self) {
        if let Some(h) = host_caps::get() {
            self.state.osvw = h.msrs.osvw;
        }
    }

    /// Presets the registers that describe the processor.
    pub(crate) fn stuff_features(&mut self) {
        if let Some(h) = host_caps::get() {
            self.state.stuff_features(&h.msrs);
        }
    }
}

/// Runs `f` with the circumstances of an access.
fn with<V: Backend, R>(
    cx: &mut Cx<'_, '_, V>,
    by_user: bool,
    f: impl FnOnce(&mut Msrs, &MsrCx<'_>) -> R,
) -> Result<R, MsrError> {
    let h = host_caps::get().ok_or(MsrError::Unsupported)?;
    let caps = &cx.vm.base.caps;
    let st = &mut *cx.st;
    let m = MsrCx {
        guest: &st.cpuid.features,
        host: &h.msrs,
        pv: st.pv_features(),
        by_user,
        apic_in_kernel: st.apic.is_some(),
        efer: V::efer(cx.l),
        paging: V::cr0(cx.l) & cr0::PG != 0,
        platform_info: caps.platform_info(),
        mwait_follows_misc_enable: !caps.quirk(abi::KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT),
    };
    Ok(f(&mut st.msrs, &m))
}

/// Reads an MSR for the guest, or for user space.
pub(crate) fn get<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    index: u32,
    by_user: bool,
) -> Result<u64, MsrError> {
    // What guests read often, and what the model would say of it.
    if !by_user && index == reg::EFER {
        return Ok(V::efer(cx.l));
    }
    let r = with(cx, by_user, |m, c| m.state.read(index, c, &m.banks))?;
    match r {
        Ok(r) => resolve(cx, index, r, by_user),
        Err(e) => soften(e, index, None, by_user).map(|()| 0),
    }
}

/// `written` is the value of a write.
fn soften(e: MsrError, index: u32, written: Option<u64>, by_user: bool) -> Result<(), MsrError> {
    let known = host_caps::get().map_or(&[][..], |h| &h.msr_list);
    let value = written.unwrap_or(0);
    let result = |ignore| msr::soften(e, index, value, by_user, known, ignore);
    result(false).or_else(|_| {
        result(host::params::ignore_msrs())?;
        host::params::report_ignored_msr(index, written);
        Ok(())
    })
}

/// Where the local APIC's register with this MSR index is in its page.
#[inline]
fn register(index: u32) -> u32 {
    (index & 0xff) << 4
}

#[inline]
fn write_x2apic<V: Backend>(cx: &mut Cx<'_, '_, V>, index: u32, v: u64) -> Result<(), MsrError> {
    let now = cx.now_for(register(index));
    let apic = cx.st.apic.as_mut().ok_or(MsrError::Invalid)?;
    let e = apic
        .write_msr(index, v, now)
        .map_err(|_| MsrError::Invalid)?;
    cx.apply(&e);
    Ok(())
}

#[inline]
fn write_deadline<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64) {
    let now = cx.now();
    if let Some(apic) = &mut cx.st.apic {
        let e = apic.set_tsc_deadline(v, now);
        cx.apply(&e);
    }
}

fn resolve<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    index: u32,
    r: Read,
    by_user: bool,
) -> Result<u64, MsrError> {
    Ok(match r {
        Read::Value(v) => v,
        Read::Vendor => V::msr(cx.l, index).ok_or(MsrError::Unsupported)?,
        Read::Efer => V::efer(cx.l),
        Read::Tsc => cx.guest_tsc(),
        Read::ApicBase => cx.st.apic_base(),
        Read::X2Apic => {
            let now = cx.now_for(register(index));
            let apic = cx.st.apic.as_mut().ok_or(MsrError::Invalid)?;
            apic.read_msr(index, now).map_err(|_| MsrError::Invalid)?
        }
        Read::TscDeadline => match &cx.st.apic {
            Some(a) => a.tsc_deadline(),
            None => 0,
        },
        Read::WallClock => pv::clock::wall_clock(&cx.vm.base),
        Read::Xfd | Read::XfdErr | Read::HyperV => {
            return soften(MsrError::Unsupported, index, None, by_user).map(|()| 0)
        }
    })
}

/// RDMSR of the guest.
pub(crate) fn guest_get<V: Backend>(cx: &mut Cx<'_, '_, V>, index: u32) -> Result<u64, MsrError> {
    if !cx.vm.base.msr_filter.allows(index, false) {
        return Err(MsrError::Filtered);
    }
    get(cx, index, false)
}

/// WRMSR of the guest.
pub(crate) fn guest_set<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    index: u32,
    value: u64,
) -> Result<(), MsrError> {
    if !cx.vm.base.msr_filter.allows(index, true) {
        return Err(MsrError::Filtered);
    }
    set(cx, index, value, false)
}

/// Writes an MSR for the guest, or for user space.
pub(crate) fn set<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    index: u32,
    value: u64,
    by_user: bool,
) -> Result<(), MsrError> {
    if by_user && cx.st.ran && msr::is_frozen_feature(index) {
        // A register that describes the processor stays as the guest has seen it.
        return match get(cx, index, true) {
            Ok(v) if v == value => Ok(()),
            _ => Err(MsrError::Invalid),
        };
    }
    // What guests write often, and what the model would say of it.
    if !by_user {
        match index {
            reg::X2APIC_FIRST..=reg::X2APIC_LAST => return write_x2apic(cx, index, value),
            reg::TSC_DEADLINE => {
                write_deadline(cx, value);
                return Ok(());
            }
            // Without a check of our own: the vendor has to have one.
            reg::PAT => {
                if !V::set_msr(cx.l, index, value) {
                    return Err(MsrError::Invalid);
                }
                cx.st.msrs.state.pat = value;
                return Ok(());
            }
            _ => {}
        }
    }
    let w = with(cx, by_user, |m, c| {
        m.state.write(index, value, c, &mut m.banks)
    })?;
    match w {
        Ok(w) => act(cx, index, w, by_user),
        Err(e) => soften(e, index, Some(value), by_user),
    }
}

fn act<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    index: u32,
    w: Write,
    by_user: bool,
) -> Result<(), MsrError> {
    match w {
        Write::Done => {
            if index == model::x86::msr::PAT {
                let v = cx.st.msrs.state.pat;
                V::set_msr(cx.l, index, v);
            }
        }
        Write::CpuidChanged => {
            let s = &cx.st.msrs.state;
            let (misc, xss) = (s.misc_enable, s.xss);
            if !cx.l.set_xss(xss) {
                return Err(MsrError::Invalid);
            }
            cx.st.cpuid.update_msrs(misc, xss);
        }
        Write::Vendor(v) => {
            if !V::set_msr(cx.l, index, v) {
                return Err(MsrError::Unsupported);
            }
            if index == model::x86::msr::TSX_CTRL {
                cx.st
                    .cpuid
                    .hide_tsx(v & model::x86::msr::TSX_CTRL_CPUID_CLEAR != 0);
            }
            if index == model::x86::msr::SPEC_CTRL && v != 0 && !cx.st.msrs.spec_ctrl_used {
                cx.st.msrs.spec_ctrl_used = true;
                cx.update_passthrough();
            }
        }
        Write::Efer(v) => {
            let old = V::efer(cx.l);
            // LMA follows CR0.PG and LME, whatever is written.
            let lma = if by_user {
                v & efer::LMA
            } else {
                old & efer::LMA
            };
            V::set_efer(cx.l, v & !efer::LMA | lma);
            if (old ^ v) & efer::NXE != 0 {
                V::flush_guest(cx.l);
            }
        }
        Write::Tsc(v) => pv::tsc::write(cx, v, by_user),
        Write::TscBy(d) => pv::tsc::adjust(cx, d),
        Write::ApicBase(v) => {
            let reserved = msr::apic_base_reserved(&cx.st.cpuid.features);
            match &mut cx.st.apic {
                Some(apic) => {
                    let e = apic
                        .set_base(v, reserved, by_user)
                        .map_err(|_| MsrError::Invalid)?;
                    cx.apply(&e);
                }
                None => {
                    let old = cx.st.plain_apic_base;
                    if !msr::apic_base_valid(old, v, &cx.st.cpuid.features, by_user) {
                        return Err(MsrError::Invalid);
                    }
                    cx.st.plain_apic_base = v;
                }
            }
            cx.cpuid_runtime();
        }
        Write::X2Apic(v) => write_x2apic(cx, index, v)?,
        Write::TscDeadline(v) => write_deadline(cx, v),
        Write::WallClock(gpa) => pv::clock::write_wall_clock(&cx.vm.base, gpa),
        Write::SystemTime { old } => pv::clock::enable(cx, old, by_user),
        Write::StealTime => pv::steal::enable(cx),
        // The host's predictors and cache are the guest's too. A refusal of the processor cannot
        // be: the model knows which commands it has.
        Write::PredCmd(v) => {
            let _ = host::msr::predictor_command(v);
        }
        Write::FlushL1d => {
            let _ = host::msr::flush_l1d();
        }
        Write::PvEoi(v) => pv::eoi::set_up(cx, v)?,
        Write::AsyncPf(0) | Write::AsyncPfAck => {}
        // Not offered in CPUID, so the model refuses them before; refuse what slips through.
        Write::AsyncPf(_) | Write::Xfd(_) | Write::XfdErr(_) | Write::HyperV(_) => {
            return soften(MsrError::Unsupported, index, Some(1), by_user);
        }
    }
    Ok(())
}

/// The header of a list ioctl and its entries. E2BIG for too many.
fn read_list(arg: usize) -> Result<KVVec<KvmMsrEntry>> {
    let head: KvmMsrs = host::uaccess::read_user(arg)?;
    if head.nmsrs >= MAX_LIST {
        return Err(E2BIG);
    }
    let at = arg.wrapping_add(size_of::<KvmMsrs>());
    host::uaccess::read_user_vec(at, head.nmsrs as usize)
}

/// KVM_GET_MSRS on a vCPU: how many were read; the first failure ends it.
pub(crate) fn get_list<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result<isize> {
    let mut list = read_list(arg)?;
    let mut n = 0isize;
    for e in list.iter_mut() {
        match get(cx, e.index, true) {
            Ok(v) => e.data = v,
            Err(_) => break,
        }
        n = n.wrapping_add(1);
    }
    host::uaccess::write_user(arg.wrapping_add(size_of::<KvmMsrs>()), list.as_slice())?;
    Ok(n)
}

/// KVM_SET_MSRS: how many were written; the first failure ends it.
pub(crate) fn set_list<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result<isize> {
    let list = read_list(arg)?;
    let mut n = 0isize;
    for e in list.iter() {
        if set(cx, e.index, e.data, true).is_err() {
            break;
        }
        n = n.wrapping_add(1);
    }
    Ok(n)
}

/// KVM_GET_MSRS on `/dev/kvm`: the registers that describe the processor.
pub(crate) fn get_features(arg: usize) -> Result<isize> {
    let h = host_caps::get().ok_or(ENODEV)?;
    let mut list = read_list(arg)?;
    let mut n = 0isize;
    for e in list.iter_mut() {
        match msr::feature(e.index, &h.msrs) {
            Ok(v) => e.data = v,
            // KVM: what a vCPU may have and the module as such has not is 0.
            Err(_) if h.msr_list.contains(&e.index) => e.data = 0,
            Err(_) => break,
        }
        n = n.wrapping_add(1);
    }
    host::uaccess::write_user(arg.wrapping_add(size_of::<KvmMsrs>()), list.as_slice())?;
    Ok(n)
}

/// The answer of KVM_GET_MSR_INDEX_LIST.
pub(crate) fn saved_list() -> Result<&'static [u32]> {
    Ok(&host_caps::get().ok_or(ENODEV)?.msr_list)
}

/// The answer of KVM_GET_MSR_FEATURE_INDEX_LIST.
pub(crate) fn feature_list() -> Result<KVec<u32>> {
    let h = host_caps::get().ok_or(ENODEV)?;
    let mut v = KVec::from_elem(0u32, MAX_MSRS, GFP_KERNEL)?;
    let n = msr::feature_list(&h.msrs, v.first_chunk_mut().ok_or(EINVAL)?);
    v.truncate(n);
    Ok(v)
}

/// The answer of KVM_X86_GET_MCE_CAP_SUPPORTED.
pub(crate) fn mce_cap_supported() -> u64 {
    host_caps::get().map_or(0, |h| h.msrs.mcg_cap)
}

/// KVM_X86_SETUP_MCE. EINVAL for what is not offered.
pub(crate) fn setup_mce<V: Backend>(cx: &mut Cx<'_, '_, V>, cap: u64) -> Result {
    let host = &host_caps::get().ok_or(ENODEV)?.msrs;
    let m = &mut cx.st.msrs;
    m.state
        .mce
        .setup(cap, host.mcg_cap, &mut m.banks)
        .map_err(|_| EINVAL)?;
    if let Some(apic) = &mut cx.st.apic {
        let mut cfg = *apic.config();
        cfg.cmci = cap & mcg_cap::CMCI_P != 0;
        apic.configure(cfg);
    }
    if host.svm {
        // KVM: AMD's processors have nothing beyond these bits (`APM: vol 2, 9.3`).
        m.state.mce.cap &= mcg_cap::CTL_P | 0xff;
    }
    Ok(())
}

/// KVM_X86_SET_MCE: injects a machine check.
pub(crate) fn set_mce<V: Backend>(cx: &mut Cx<'_, '_, V>, k: &abi::KvmX86Mce) -> Result {
    let cr4 = V::cr4(cx.l);
    let m = &mut cx.st.msrs;
    let outcome = m
        .state
        .mce
        .report(k, cr4 & model::x86::ctrl::cr4::MCE != 0, &mut m.banks)
        .map_err(|_| EINVAL)?;
    match outcome {
        mce::Outcome::Logged => {}
        mce::Outcome::Interrupt => corrected_error(cx),
        mce::Outcome::Exception => super::event::raise(cx, Exception::new(exception::MC)),
        mce::Outcome::TripleFault => cx.st.events.triple_fault = true,
    }
    Ok(())
}

/// The local APIC is told of an error that needs no action: what happens then its LVT entry says.
fn corrected_error<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let shared = cx.vcpu.shared.clone();
    let Some(apic) = &mut cx.st.apic else {
        return;
    };
    let wake = match apic.raise(Lvt::Cmci) {
        Raised::Nothing => return,
        Raised::Interrupt => {
            shared.request_and_kick(Request::Event);
            return;
        }
        Raised::Nmi => shared.pending.post_nmi(),
        Raised::Smi => shared.pending.post_smi(),
        Raised::Init => shared.pending.post_init(),
    };
    shared.act(wake);
}
