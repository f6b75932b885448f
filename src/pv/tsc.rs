// SPDX-License-Identifier: GPL-2.0

//! The guest's time-stamp counter: host TSC, at another rate where the hardware can, plus an offset.
//!
//! Where the host's TSCs are no clock, because they disagree or do not count at one rate, a guest's
//! can be none either as long as it runs. Each time the vCPU comes to a CPU the offset is computed
//! anew: the TSC goes on from what it showed last, or from what it should show by now, whichever is
//! later.

use super::PvState;
use super::VmClock;
use crate::backend::Backend;
use crate::vcpu::shared::Request;
use crate::vcpu::shared::VcpuShared;
use crate::vcpu::state::Apic;
use crate::vcpu::Cx;
use crate::vm::VmBase;
use host::gtod;
use host::pin::with_irqs_off;
use kernel::prelude::*;
use model::irqchip::lapic::Now;
use model::policy::joint::Count;
use model::policy::joint::Joint;
use model::policy::joint::Moment;
use model::policy::joint::Origin;
use model::policy::joint::Speed;
use model::policy::tsc::Rate;

/// What the TSCs of a VM's vCPUs count from.
pub(super) struct Tscs {
    joint: Joint,
    /// [`host::clock::tsc_lost`] as it is taken into account.
    lost: u64,
}

impl Tscs {
    /// Without a vCPU.
    pub(super) fn new() -> Self {
        Self {
            joint: Joint::new(),
            lost: host::clock::tsc_lost(),
        }
    }
}

impl<V: Backend> Cx<'_, '_, V> {
    /// The guest's TSC now.
    #[inline]
    pub(crate) fn guest_tsc(&self) -> u64 {
        self.st.pv.tsc_at(host::clock::rdtsc())
    }

    /// Now, for an access to the local APIC's register at this offset, if it asks for the time.
    #[inline]
    pub(crate) fn now_for(&self, offset: u32) -> Now {
        if Apic::needs_time(offset) {
            self.now()
        } else {
            Now::default()
        }
    }

    /// Now, for the local APIC.
    #[inline]
    pub(crate) fn now(&self) -> Now {
        Now {
            ns: host::clock::now_ns(),
            tsc: self.guest_tsc(),
            tsc_khz: self.st.pv.tsc_khz(),
        }
    }
}

/// The paravirtual state of a new vCPU, whose TSC counts with those of the VM's others.
pub(crate) fn new_state<V: Backend>(c: &VmClock, khz: u32) -> PvState {
    let speed = Speed {
        khz,
        rate: rate::<V>(khz),
    };
    let mut lost = 0;
    let count = with_vm(c, |t| {
        lost = t.lost;
        t.joint.add(speed, moment())
    });
    PvState::new(speed, count, lost)
}

/// The host's clocks.
fn moment() -> Moment {
    with_irqs_off(|_| Moment {
        ns: gtod::snapshot().boot_raw_ns(),
        tsc: host::clock::rdtsc(),
        trusted: !host::cpu::tsc_unstable(),
    })
}

/// The same for a new value of a vCPU's TSC: what it showed on another CPU does not count any more.
fn moment_of(v: &VcpuShared) -> Moment {
    with_irqs_off(|_| {
        v.take_left();
        moment()
    })
}

/// Works on what the VM's TSCs count from, after a loss of the host's count that it knows nothing of
/// yet.
fn with_vm<R>(c: &VmClock, f: impl FnOnce(&mut Tscs) -> R) -> R {
    let mut t = c.tscs.lock();
    let now = host::clock::tsc_lost();
    let lost = now.wrapping_sub(t.lost);
    if lost != 0 {
        t.lost = now;
        t.joint.host_lost(lost);
        super::clock::renew(c);
    }
    f(&mut t)
}

/// The host's TSC lost its count in a suspend, or is no clock. The guest's goes on from where it was.
/// To be called before anything looks at it.
#[inline(never)]
pub(crate) fn follow_host<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let now = host::clock::tsc_lost();
    let lost = now.wrapping_sub(core::mem::replace(&mut cx.st.pv.tsc_lost, now));
    cx.vcpu.shared.follows_host(now);
    if host::cpu::tsc_unstable() {
        go_on(cx);
        return;
    }
    cx.vcpu.shared.take_left();
    if lost != 0 {
        with_vm(&cx.vm.base.clock, |_| ());
        let moved = cx.st.pv.speed.rate.scale(lost);
        set_offset(cx, cx.st.pv.tsc_offset.wrapping_add(moved));
        cx.renew_deadline();
    }
}

/// On a CPU of a host whose TSCs are no clock.
fn go_on<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let (shared, pv) = (&cx.vcpu.shared, &cx.st.pv);
    // In one go: who leaves the CPU meanwhile notes this CPU's TSC, and the old offset is another's.
    let offset = with_irqs_off(|_| {
        let last = pv.tsc_at(shared.take_left()?);
        let now = moment();
        let tsc = pv.origin.go_on(last, now.ns, pv.tsc_khz());
        Some(tsc.wrapping_sub(pv.speed.rate.scale(now.tsc)))
    });
    if let Some(offset) = offset {
        put_offset(cx, offset);
    }
}

/// Gives the offset to the hardware.
pub(crate) fn apply<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let (offset, ratio) = (cx.st.pv.tsc_offset, cx.st.pv.speed.rate.ratio());
    cx.vcpu.shared.set_tsc(offset, ratio);
    V::set_tsc(cx.l, offset, ratio);
}

/// Do the TSCs of all vCPUs show the same?
pub(super) fn all_match(vm: &VmBase) -> bool {
    let mut all = vm.vcpus.iter().map(|v| v.tsc());
    match all.next() {
        Some(first) => all.all(|o| o == first),
        None => true,
    }
}

/// The VM has one vCPU more, whose TSC may not show what the others' do.
pub(crate) fn added(vm: &VmBase) {
    if !all_match(vm) {
        vm.request_all(Request::ClockUpdate);
    }
}

/// The TSC is another one from now on.
fn put_offset<V: Backend>(cx: &mut Cx<'_, '_, V>, offset: u64) {
    cx.st.pv.tsc_offset = offset;
    apply(cx);
    let now = cx.now();
    if let Some(a) = &mut cx.st.apic {
        let e = a.tsc_changed(now);
        cx.apply(&e);
    }
}

fn set_offset<V: Backend>(cx: &mut Cx<'_, '_, V>, offset: u64) {
    let moved = offset != cx.st.pv.tsc_offset;
    put_offset(cx, offset);
    if moved {
        // Whether all TSCs agree is in everybody's page.
        cx.vm.base.request_all(Request::ClockUpdate);
    }
}

/// User space said what the TSC is.
fn count_from<V: Backend>(cx: &mut Cx<'_, '_, V>, c: Count) {
    cx.st.pv.origin = c.origin;
    set_offset(cx, c.offset);
}

/// A write of IA32_TSC.
pub(crate) fn write<V: Backend>(cx: &mut Cx<'_, '_, V>, v: u64, by_user: bool) {
    let speed = cx.st.pv.speed;
    if by_user {
        let now = moment_of(&cx.vcpu.shared);
        let c = with_vm(&cx.vm.base.clock, |t| t.joint.write(v, speed, now));
        count_from(cx, c);
        return;
    }
    let offset = v.wrapping_sub(speed.rate.scale(moment_of(&cx.vcpu.shared).tsc));
    let moved = offset.wrapping_sub(cx.st.pv.tsc_offset);
    cx.st.msrs.state.tsc_adjust = cx.st.msrs.state.tsc_adjust.wrapping_add(moved);
    adjust(cx, moved);
}

/// The offset, for user space (KVM_VCPU_TSC_OFFSET).
pub(crate) fn offset<V: Backend>(cx: &Cx<'_, '_, V>) -> u64 {
    cx.st.pv.tsc_offset
}

/// User space sets the offset; vCPUs that come later join this one.
pub(crate) fn set_user_offset<V: Backend>(cx: &mut Cx<'_, '_, V>, offset: u64) {
    let speed = cx.st.pv.speed;
    let now = moment_of(&cx.vcpu.shared);
    let c = with_vm(&cx.vm.base.clock, |t| {
        t.joint.set_offset(offset, speed, now)
    });
    count_from(cx, c);
}

/// The guest moves its TSC by `d`, by writing it or IA32_TSC_ADJUST.
pub(crate) fn adjust<V: Backend>(cx: &mut Cx<'_, '_, V>, d: u64) {
    cx.st.pv.origin.move_by(d);
    let offset = cx.st.pv.tsc_offset.wrapping_add(d);
    set_offset(cx, offset);
}

/// The rate of a TSC that counts `khz`; the host's if that is close enough.
fn rate<V: Backend>(khz: u32) -> Rate {
    let f = V::host_features();
    let host = host::cpu::tsc_khz();
    if is_close(khz, host) {
        return Rate::host(f.tsc_frac_bits);
    }
    Rate::new(khz, host, f.tsc_frac_bits).unwrap_or(Rate::host(f.tsc_frac_bits))
}

/// KVM_SET_TSC_KHZ on a vCPU. 0 means the host's. EINVAL for a frequency that the hardware cannot
/// give the guest.
pub(crate) fn set_khz<V: Backend>(cx: &mut Cx<'_, '_, V>, khz: usize) -> Result {
    let khz = check::<V>(khz)?;
    let now = moment_of(&cx.vcpu.shared);
    cx.st.pv.speed = Speed {
        khz,
        rate: rate::<V>(khz),
    };
    cx.st.pv.origin = Origin::new(cx.st.pv.tsc_at(now.tsc), now);
    put_offset(cx, cx.st.pv.tsc_offset);
    cx.vm.base.request_all(Request::ClockUpdate);
    Ok(())
}

/// KVM_SET_TSC_KHZ on a VM: for vCPUs to come. EINVAL after a vCPU.
pub(crate) fn set_vm_khz<V: Backend>(vm: &VmBase, khz: usize) -> Result<isize> {
    let mut setup = vm.setup.lock();
    let khz = check::<V>(khz)?;
    if vm.vcpus.count() != 0 {
        return Err(EINVAL);
    }
    setup.tsc_khz = khz;
    Ok(0)
}

/// Frequencies within this of the host's count as the host's (module parameter
/// `tsc_tolerance_ppm`).
fn is_close(khz: u32, host: u32) -> bool {
    let slack = u64::from(host).wrapping_mul(u64::from(host::params::tsc_tolerance_ppm()));
    let apart = u64::from(khz.abs_diff(host)).wrapping_mul(1_000_000);
    apart <= slack
}

/// KVM: frequencies that scaling hardware gives a guest are below this.
const MAX_KHZ: u32 = i32::MAX as u32;

/// A frequency that a guest can have, kHz; the host's for 0.
fn check<V: Backend>(khz: usize) -> Result<u32> {
    let host = host::cpu::tsc_khz();
    // CAST: the argument has 32 bits, and the rest of the register nobody looks at.
    let khz = khz as u32;
    if khz == 0 {
        return Ok(host);
    }
    let frac = V::host_features().tsc_frac_bits;
    if is_close(khz, host) || khz < MAX_KHZ && Rate::new(khz, host, frac).is_some() {
        Ok(khz)
    } else {
        Err(EINVAL)
    }
}
