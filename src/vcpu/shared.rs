// SPDX-License-Identifier: GPL-2.0

//! The part of a vCPU that other threads reach: the mailbox, requests, and how to wake it.
//!
//! Everything here is atomic; there is no lock. See Documentation/locking.rst, "Mailbox".

use core::sync::atomic::AtomicI32;
use core::sync::atomic::Ordering;
use host::pin::PinnedCpu;
use host::timer::TimerOps;
use host::wait::VcpuWait;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::irqchip::lapic::published::Published;
use model::irqchip::pending::Pending;
use model::irqchip::pending::Wake;
use virt::loaded::SchedObserver;

/// A request that a vCPU carries out before it enters the guest again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Request {
    /// Write the paravirtual clock again.
    ClockUpdate = 1 << 1,
    /// The VM is dead: leave.
    Dead = 1 << 2,
    /// The root of the nested tables changed.
    NewRoot = 1 << 3,
    /// Look at pending events again.
    Event = 1 << 5,
    /// The TSC offset changed.
    Tsc = 1 << 7,
}

/// What remote parties see of a vCPU.
#[pin_data]
pub(crate) struct VcpuShared {
    /// Id chosen by user space; the initial APIC id.
    pub(crate) id: u32,
    /// Position in the VM's table.
    pub(crate) index: u32,
    /// Interrupts and signals posted to it, and its mode.
    pub(crate) pending: Pending,
    /// What delivery needs to know of its local APIC.
    pub(crate) published: Published,
    cpu: AtomicI32,
    #[pin]
    wait: VcpuWait,
}

impl VcpuShared {
    /// A vCPU that runs nowhere yet.
    pub(crate) fn new(id: u32, index: u32) -> impl PinInit<Self> {
        pin_init!(Self {
            id,
            index,
            pending: Pending::new(),
            published: Published::new(*id),
            cpu: AtomicI32::new(-1),
            wait <- VcpuWait::new(),
        })
    }

    /// Asks for `r` without forcing the vCPU out of the guest.
    pub(crate) fn request(&self, r: Request) {
        self.pending.note_request(r as u64);
    }

    /// Asks for `r` and forces the vCPU out of the guest, or wakes it.
    pub(crate) fn request_and_kick(&self, r: Request) {
        let wake = self.pending.post_request(r as u64);
        self.act(wake);
    }

    /// Owner: takes a request; true if it was made since the last time.
    #[inline]
    pub(crate) fn take(&self, r: Request) -> bool {
        self.pending.take_request(r as u64) != 0
    }

    /// Does what a post to the mailbox asked for: an IPI if the vCPU is in the guest, a wake-up if
    /// it is blocked, nothing otherwise (it looks before it enters).
    #[inline]
    pub(crate) fn act(&self, wake: Wake) {
        match wake {
            Wake::None => {}
            Wake::Kick => {
                if let Some(cpu) = self.cpu() {
                    host::kick::kick_cpu(cpu);
                }
            }
            Wake::Unblock => {
                self.wait.wake();
            }
        }
    }

    /// Where it is loaded, if anywhere.
    pub(crate) fn cpu(&self) -> Option<u32> {
        u32::try_from(self.cpu.load(Ordering::Relaxed)).ok()
    }

    /// Where it blocks.
    pub(crate) fn wait(&self) -> &VcpuWait {
        &self.wait
    }
}

/// The timer behind a local APIC.
pub(crate) struct ApicTimer {
    /// The vCPU.
    pub(crate) shared: Arc<VcpuShared>,
}

impl TimerOps for ApicTimer {
    fn fired(&self, _now: u64) -> Option<u64> {
        // The owner decides whether and when it fires again.
        let wake = self.shared.pending.post_timer();
        self.shared.act(wake);
        None
    }
}

/// What the scheduler tells a vCPU.
pub(crate) struct Sched {
    /// The shared part of the same vCPU.
    pub(crate) shared: Arc<VcpuShared>,
}

impl SchedObserver for Sched {
    #[inline]
    fn sched_in(&self, cpu: &PinnedCpu<'_>) {
        // CAST: CPU numbers are below 8192.
        self.shared
            .cpu
            .store(cpu.cpu_id() as i32, Ordering::Relaxed);
    }

    #[inline]
    fn sched_out(&self, _cpu: &PinnedCpu<'_>, _preempted: bool) {
        self.shared.cpu.store(-1, Ordering::Relaxed);
    }
}
