// SPDX-License-Identifier: GPL-2.0

//! What the local APIC's timer waits for: a timer of the host, or the hardware that runs the guest.
//!
//! Hardware that can end a run at a time does it at the guest's next timer interrupt, which costs an
//! exit and no interrupt of the host. It counts only while the guest runs. So a halted vCPU waits with
//! the host's timer, and in user space, or while others have the CPU, nothing needs to happen: the
//! next entry finds the time to have come.
//!
//! The hardware counts ticks of the TSC, which loses its count in a suspend and may turn out to be no
//! clock at all. When the vCPU is loaded after that, the deadline is loaded anew, or given to the host.
//!
//! Either may fire early. [`LocalApic::timer_fired`](model::irqchip::lapic::LocalApic::timer_fired)
//! looks at the time and says what to wait for next.

use super::Cx;
use crate::backend::Backend;
use model::abi;
use model::irqchip::lapic::timer::ns_to_cycles;
use model::irqchip::lapic::timer::TimerOp;

impl<V: Backend> Cx<'_, '_, V> {
    /// Waits for what the local APIC says.
    pub(crate) fn set_timer(&mut self, op: TimerOp) {
        if V::host_features().deadline_timer {
            // A TSC that cannot be trusted is no clock for the guest's timer. Nor does the hardware
            // count in the deep sleep that a guest may go to by itself (`SDM: vol 3, 26.5.1`).
            let sleeps = self.vm.base.caps.disabled_exits() & abi::KVM_X86_DISABLE_EXITS_MWAIT != 0;
            let trusted = !sleeps && !host::cpu::tsc_unstable();
            self.st.deadline = match op {
                TimerOp::Arm { .. } if trusted => Some(op),
                _ => None,
            };
            self.load_deadline();
            if trusted {
                return;
            }
        }
        match op {
            TimerOp::Arm { ns, .. } => self.vcpu.timer.arm(ns),
            TimerOp::Disarm => {
                self.vcpu.timer.cancel();
            }
        }
    }

    /// The wait is over, or may be.
    #[inline(never)]
    pub(crate) fn deadline_reached(&mut self) {
        let now = self.now();
        if let Some(apic) = &mut self.st.apic {
            let e = apic.timer_fired(now);
            self.apply(&e);
        }
    }

    /// Lets the host's timer do the waiting.
    pub(crate) fn timer_to_host(&mut self) {
        if let Some(TimerOp::Arm { ns, .. }) = self.st.deadline {
            self.st.deadline_in_host = true;
            self.vcpu.timer.arm(ns);
        }
    }

    /// Lets the hardware of the guest's runs do it again.
    pub(crate) fn timer_to_guest(&mut self) {
        if core::mem::take(&mut self.st.deadline_in_host) {
            self.vcpu.timer.cancel();
        }
    }

    /// Looks whether the wait is over, for a guest that hardware does not run.
    pub(crate) fn poll_deadline(&mut self) {
        if self.st.deadline.is_some() {
            self.deadline_reached();
        }
    }

    /// The host's TSC counts from elsewhere: the hardware is told once more.
    pub(crate) fn renew_deadline(&mut self) {
        if let Some(op) = self.st.deadline {
            self.set_timer(op);
        }
    }

    /// The host's clock is not the TSC, maybe because that is unstable.
    pub(crate) fn doubt_deadline(&mut self) {
        if host::cpu::tsc_unstable() {
            self.renew_deadline();
        }
    }

    /// Tells the hardware what it has to wait for.
    fn load_deadline(&mut self) {
        let at = match self.st.deadline {
            Some(TimerOp::Arm { ns, .. }) => {
                // Rounded up: too early would be for nothing.
                let left = ns.saturating_add(1).saturating_sub(host::clock::now_ns());
                let left = ns_to_cycles(left, host::cpu::tsc_khz());
                Some(host::clock::rdtsc().saturating_add(left))
            }
            _ => None,
        };
        V::set_deadline(self.l, at);
    }
}
