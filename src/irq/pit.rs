// SPDX-License-Identifier: GPL-2.0

//! The in-kernel PIT: its timer, its ports and its ioctls.

use super::chips;
use super::deliver;
use crate::vm::VmBase;
use host::clock::now_ns;
use host::irq_lock::IrqSpinLock;
use host::timer::SoftTimer;
use host::timer::TimerOps;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi;
use model::abi::KvmPitConfig;
use model::abi::KvmPitState;
use model::abi::KvmPitState2;
use model::abi::KvmReinjectControl;
use model::irqchip::line::IrqSource;
use model::irqchip::pit::Pit;
use model::irqchip::pit::PitTimer;
use model::irqchip::pit::PitWork;
use model::irqchip::pit::PIT_BASE;
use model::irqchip::pit::SPEAKER_PORT;

/// The GSI of channel 0.
pub(super) const GSI: u32 = 0;

/// What the timer reaches: the VM, until it ends.
pub(super) struct Tick {
    vm: IrqSpinLockBox,
}

/// The VM behind a lock of its own, so that the end of the VM can take it away.
type IrqSpinLockBox = Pin<KBox<IrqSpinLock<Option<Arc<VmBase>>>>>;

/// The timer of channel 0.
pub(super) type PitClock = Pin<KBox<SoftTimer<Tick>>>;

impl TimerOps for Tick {
    fn fired(&self, now: u64) -> Option<u64> {
        let vm = self.vm.lock().clone()?;
        let mut next = None;
        let tick = chips::with(&vm, |c, _| {
            let mut work = PitWork::default();
            if let Some(pit) = &mut c.pit {
                pit.expired(now, &mut work);
            }
            if let Some(PitTimer::Arm { at_ns, .. }) = work.timer {
                next = Some(at_ns);
            }
            work.tick
        });
        if tick == Some(true) {
            pulse(&vm);
        }
        next
    }
}

/// One tick: GSI 0 rises and falls. Once LINT0 of one vCPU is set up for NMIs (Linux's old NMI
/// watchdog) the tick is also what comes in at LINT0 of each.
fn pulse(vm: &VmBase) {
    chips::set_gsi(vm, IrqSource::Pit, GSI, true, false);
    chips::set_gsi(vm, IrqSource::Pit, GSI, false, false);
    if vm.vcpus.iter().any(|v| v.published.lint0_is_nmi()) {
        // KVM: whatever their entries say.
        vm.vcpus.iter().for_each(|v| deliver::lint0(v));
    }
}

/// Does what a call of the model asked for. The chips' lock is not held.
#[inline]
pub(super) fn after(vm: &VmBase, work: &PitWork) {
    if let Some(op) = work.timer {
        set_timer(vm, op);
    }
    if work.tick {
        pulse(vm);
    }
}

#[inline(never)]
fn set_timer(vm: &VmBase, op: PitTimer) {
    let Some(timer) = vm.irq.pit_clock.as_ref() else {
        return;
    };
    match op {
        PitTimer::Arm { at_ns, .. } => timer.arm(at_ns),
        PitTimer::Disarm => {
            // One that fires at this moment finds nothing due.
            let _ = timer.try_cancel();
        }
    }
}

/// The VM ends: the timer stops and lets go of the VM.
pub(super) fn shutdown(vm: &VmBase) {
    if let Some(timer) = vm.irq.pit_clock.as_ref() {
        timer.cancel();
        let gone = timer.ops().vm.lock().take();
        drop(gone);
    }
}

fn with_pit<R>(vm: &VmBase, f: impl FnOnce(&mut Pit, &mut PitWork) -> R) -> Option<R> {
    chips::with(vm, |c, w| c.pit.as_mut().map(|p| f(p, &mut w.pit))).flatten()
}

/// The guest acknowledged GSI 0.
pub(super) fn acknowledged(vm: &VmBase) {
    if vm.irq.pit_clock.as_ref().is_some() {
        with_pit(vm, |p, w| p.acknowledged(w));
    }
}

/// The guest unmasked GSI 0.
pub(super) fn unmasked(vm: &VmBase) {
    if vm.irq.pit_clock.as_ref().is_some() {
        with_pit(vm, |p, _| p.unmasked());
    }
}

/// Calls `f` with the PIT if it has this port.
fn with_port<R>(vm: &VmBase, port: u16, f: impl FnOnce(&mut Pit, &mut PitWork) -> R) -> Option<R> {
    let ours = port.wrapping_sub(PIT_BASE) < 4;
    if !ours && port != SPEAKER_PORT {
        return None;
    }
    chips::with(vm, |c, w| {
        if !ours && !c.speaker {
            return None;
        }
        c.pit.as_mut().map(|p| f(p, &mut w.pit))
    })
    .flatten()
}

/// Does the PIT have this port?
pub(super) fn has_port(vm: &VmBase, port: u16) -> bool {
    with_port(vm, port, |_, _| ()).is_some()
}

/// A write to a port; false if the PIT does not have it.
pub(super) fn port_write(vm: &VmBase, port: u16, value: u8) -> bool {
    let now = now_ns();
    let done = with_port(vm, port, |p, w| {
        if port == SPEAKER_PORT {
            p.write_speaker(value, now);
            true
        } else {
            p.write(port, value, now, w)
        }
    });
    done == Some(true)
}

/// A read of a port; `None` if the PIT does not have it.
pub(super) fn port_read(vm: &VmBase, port: u16) -> Option<u8> {
    let now = now_ns();
    with_port(vm, port, |p, _| {
        if port == SPEAKER_PORT {
            Some(p.read_speaker(now))
        } else {
            p.read(port, now)
        }
    })
    .flatten()
}

/// KVM_CREATE_PIT2, and KVM_CREATE_PIT, which has the speaker. ENOENT without the other chips,
/// EEXIST if there is one, EINVAL for unknown flags.
pub(crate) fn create(vm: &Arc<VmBase>, config: &KvmPitConfig) -> Result<isize> {
    // KVM: other flags are not looked at.
    let _setup = vm.setup.lock();
    if vm.irq.pit_clock.as_ref().is_some() {
        return Err(EEXIST);
    }
    if !vm.irq.is_full() {
        return Err(ENOENT);
    }
    let link = KBox::pin_init(
        IrqSpinLock::new(
            Some(vm.clone()),
            c"kvm->pit_link",
            kernel::static_lock_class!(),
        ),
        GFP_KERNEL_ACCOUNT,
    )?;
    let timer = KBox::pin_init(SoftTimer::new(Tick { vm: link }), GFP_KERNEL_ACCOUNT)?;
    let min = u64::from(host::params::min_timer_period_us()).wrapping_mul(1000);
    chips::with(vm, |c, _| {
        c.pit = Some(Pit::new(now_ns(), min));
        c.speaker = config.flags & abi::KVM_PIT_SPEAKER_DUMMY != 0;
    });
    vm.irq.pit_clock.populate(timer);
    Ok(0)
}

/// KVM_GET_PIT. ENXIO without a PIT.
pub(crate) fn get(vm: &VmBase) -> Result<KvmPitState> {
    with_pit(vm, |p, _| KvmPitState {
        channels: *p.channels(),
    })
    .ok_or(ENXIO)
}

/// KVM_SET_PIT.
pub(crate) fn set(vm: &VmBase, s: &KvmPitState) -> Result<isize> {
    let now = now_ns();
    with_pit(vm, |p, w| p.set_channels(&s.channels, now, w)).ok_or(ENXIO)?;
    Ok(0)
}

/// KVM_GET_PIT2.
pub(crate) fn get2(vm: &VmBase) -> Result<KvmPitState2> {
    let mut s = KvmPitState2::zeroed();
    with_pit(vm, |p, _| p.save(&mut s)).ok_or(ENXIO)?;
    Ok(s)
}

/// KVM_SET_PIT2.
pub(crate) fn set2(vm: &VmBase, s: &KvmPitState2) -> Result<isize> {
    let now = now_ns();
    with_pit(vm, |p, w| p.restore(s, now, w)).ok_or(ENXIO)?;
    Ok(0)
}

/// KVM_REINJECT_CONTROL.
pub(crate) fn reinject(vm: &VmBase, c: &KvmReinjectControl) -> Result<isize> {
    with_pit(vm, |p, _| p.set_reinject(c.pit_reinject != 0)).ok_or(ENXIO)?;
    Ok(0)
}
