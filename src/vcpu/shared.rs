// SPDX-License-Identifier: GPL-2.0

//! The part of a vCPU that other threads reach: the mailbox, requests, and how to wake it.
//!
//! Everything here but `thread` is atomic. See Documentation/locking.rst, "The mailbox".

use crate::pv::clock;
use crate::pv::steal;
use crate::stats::VcpuStats;
use crate::vm::ring::VcpuRing;
use crate::vm::VmBase;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicI32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use host::page::PageOf;
use host::pin::PinnedCpu;
use host::task::ThreadRef;
use host::timer::TimerOps;
use host::wait::VcpuWait;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use model::irqchip::lapic::published::Published;
use model::irqchip::pending::Pending;
use model::irqchip::pending::Wake;
use model::stats::VcpuStat;
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
    /// Hardware is to write down the pages that the guest writes to, or not any more.
    WriteLog = 1 << 4,
    /// Look at pending events again.
    Event = 1 << 5,
    /// Other vectors' EOIs must be heard of.
    EoiExits = 1 << 6,
    /// The dirty ring may be full.
    DirtyRing = 1 << 10,
    /// The host's TSC went back.
    Tsc = 1 << 7,
    /// Report stolen time.
    StealTime = 1 << 8,
    /// What exits changed.
    Traps = 1 << 9,
}

/// What remote parties see of a vCPU.
#[pin_data]
pub(crate) struct VcpuShared {
    /// Id chosen by user space; the initial APIC id.
    pub(crate) id: u32,
    /// Position in the VM's table.
    pub(crate) index: u32,
    /// Interrupts and signals posted to it, and its mode.
    pub(crate) pending: Arc<PageOf<Pending>>,
    /// What delivery needs to know of its local APIC.
    pub(crate) published: Published,
    /// The dirty ring, if the VM has rings.
    pub(crate) ring: Option<VcpuRing>,
    /// Statistics.
    pub(crate) stats: VcpuStats,
    cpu: AtomicI32,
    /// Guest TSC = host TSC by the ratio that follows + this.
    tsc_offset: AtomicU64,
    /// In the format of the hardware.
    tsc_ratio: AtomicU64,
    /// [`host::clock::tsc_lost`] as the owner has taken it into account.
    tsc_lost: AtomicU64,
    /// [`clock::switches`] as the clock's page takes it into account.
    switches: AtomicU64,
    /// [`clock::suspends`], likewise.
    suspends: AtomicU64,
    /// The TSC of the CPU that it left, while that is no clock; else 0.
    left_at: AtomicU64,
    /// The MSR of stolen time while the guest wants to know of it, else 0.
    steal: AtomicU64,
    /// Nothing that the guest's page tables said is kept while it waits for a CPU.
    at_boundary: AtomicBool,
    /// The guest was told that it was preempted, and not yet that it is back.
    told_preempted: AtomicBool,
    /// It could run and does not: it was preempted, or woken and has not started.
    ready: AtomicBool,
    /// It spins and looks for somebody to give its turn to.
    spinning: AtomicBool,
    /// Whether it gets a turn although it was preempted while it spun; changes each time.
    boost: AtomicBool,
    /// The thread that ran it last.
    #[pin]
    thread: Mutex<Option<Arc<ThreadRef>>>,
    #[pin]
    wait: VcpuWait,
}

impl VcpuShared {
    /// A vCPU that runs nowhere yet.
    pub(crate) fn new(id: u32, index: u32, ring: Option<VcpuRing>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            id,
            index,
            pending: Arc::new(PageOf::new()?, GFP_KERNEL_ACCOUNT)?,
            published: Published::new(*id),
            ring,
            stats <- VcpuStats::new(),
            cpu: AtomicI32::new(-1),
            tsc_offset: AtomicU64::new(0),
            tsc_ratio: AtomicU64::new(0),
            tsc_lost: AtomicU64::new(host::clock::tsc_lost()),
            switches: AtomicU64::new(clock::switches()),
            suspends: AtomicU64::new(clock::suspends()),
            left_at: AtomicU64::new(0),
            steal: AtomicU64::new(0),
            at_boundary: AtomicBool::new(false),
            told_preempted: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            spinning: AtomicBool::new(false),
            boost: AtomicBool::new(false),
            thread <- new_mutex!(None, "vcpu->thread"),
            wait <- VcpuWait::new(),
        }? Error)
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
            Wake::Notify => {
                if let Some(cpu) = self.cpu() {
                    host::kick::notify_cpu(cpu);
                }
            }
            Wake::Unblock => {
                self.ready.store(true, Ordering::Relaxed);
                self.wait.wake();
            }
        }
    }

    /// Where it is loaded, if anywhere.
    pub(crate) fn cpu(&self) -> Option<u32> {
        u32::try_from(self.cpu.load(Ordering::Relaxed)).ok()
    }

    /// What its TSC is compared with the host's: offset and ratio.
    pub(crate) fn tsc(&self) -> (u64, u64) {
        let ratio = self.tsc_ratio.load(Ordering::Relaxed);
        (self.tsc_offset.load(Ordering::Relaxed), ratio)
    }

    /// Owner: lets others know that.
    pub(crate) fn set_tsc(&self, offset: u64, ratio: u64) {
        self.tsc_offset.store(offset, Ordering::Relaxed);
        self.tsc_ratio.store(ratio, Ordering::Relaxed);
    }

    /// May the guest's TSC have to follow the host's?
    #[inline]
    pub(crate) fn must_follow_host(&self) -> bool {
        self.tsc_lost.load(Ordering::Relaxed) != host::clock::tsc_lost() || clock::drifts()
    }

    /// Owner: it did, up to this [`host::clock::tsc_lost`].
    pub(crate) fn follows_host(&self, lost: u64) {
        self.tsc_lost.store(lost, Ordering::Relaxed);
    }

    /// Owner: the clock's page is written after so many [`clock::switches`] and [`clock::suspends`];
    /// are the latter more than at the last time?
    pub(crate) fn follows_clock(&self, switches: u64, suspends: u64) -> bool {
        self.switches.store(switches, Ordering::Relaxed);
        self.suspends.swap(suspends, Ordering::Relaxed) != suspends
    }

    /// Must the clock's page be written when the vCPU is loaded?
    #[inline]
    fn has_old_clock(&self, vm: &VmBase) -> bool {
        vm.clock.drifts()
            || self.switches.load(Ordering::Relaxed) != clock::switches()
            || self.suspends.load(Ordering::Relaxed) != clock::suspends()
    }

    /// Owner: the TSC of the CPU that the vCPU left first since this was asked last, if it left one.
    /// For hosts whose TSCs are no clock.
    pub(crate) fn take_left(&self) -> Option<u64> {
        let at = self.left_at.swap(0, Ordering::Relaxed);
        (at != 0).then_some(at)
    }

    /// Owner: the host's TSCs are a clock again, which the guest's TSC has gone on with.
    #[inline]
    fn forget_left(&self) {
        if self.left_at.load(Ordering::Relaxed) != 0 {
            self.left_at.store(0, Ordering::Relaxed);
        }
    }

    /// Owner: stolen time is asked for at each load from now on, with this value of its MSR; 0: no
    /// longer.
    pub(crate) fn report_steal(&self, msr: u64) {
        self.steal.store(msr, Ordering::Relaxed);
    }

    /// Is stolen time reported?
    pub(crate) fn reports_steal(&self) -> bool {
        self.steal.load(Ordering::Relaxed) != 0
    }

    /// Owner: the guest's page says from now on that it is back.
    pub(crate) fn told_back(&self) {
        self.told_preempted.store(false, Ordering::Relaxed);
    }

    /// Owner: is it between two instructions of the guest, with nothing kept of what the guest's page
    /// tables said?
    #[inline]
    pub(crate) fn set_boundary(&self, on: bool) {
        self.at_boundary.store(on, Ordering::Relaxed);
    }

    /// Owner: gives way to whoever else needs this CPU, between two instructions of the guest. EINTR
    /// for a signal.
    pub(crate) fn give_way(&self) -> Result {
        self.set_boundary(true);
        let r = host::task::handle_guest_work();
        self.set_boundary(false);
        r
    }

    /// Could it run, and does not?
    pub(crate) fn waits_for_cpu(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Owner: it spins, or no longer.
    pub(crate) fn set_spinning(&self, on: bool) {
        self.spinning.store(on, Ordering::Relaxed);
        if !on {
            self.boost.store(false, Ordering::Relaxed);
        }
    }

    /// Is it worth a turn? One that spins itself is only every other time.
    pub(crate) fn may_be_boosted(&self) -> bool {
        if !self.spinning.load(Ordering::Relaxed) {
            return true;
        }
        let now = self.boost.load(Ordering::Relaxed);
        self.boost.store(!now, Ordering::Relaxed);
        now
    }

    /// Owner: the current thread is the one that runs it; `last` is the owner's note of which did.
    #[inline]
    pub(crate) fn runs_here(&self, last: &mut Option<Arc<ThreadRef>>) -> Result {
        if last.as_ref().is_some_and(|t| t.is_current()) {
            return Ok(());
        }
        self.runs_elsewhere(last)
    }

    #[inline(never)]
    fn runs_elsewhere(&self, last: &mut Option<Arc<ThreadRef>>) -> Result {
        *last = match ThreadRef::current() {
            Some(r) => Some(Arc::new(r, GFP_KERNEL_ACCOUNT)?),
            None => None,
        };
        self.thread.lock().clone_from(last);
        Ok(())
    }

    /// Gives the current thread's turn to its thread, if the scheduler agrees. ESRCH if it has none
    /// that can take it.
    pub(crate) fn yield_to(&self) -> Result<bool> {
        let thread = self.thread.lock().clone();
        thread.ok_or(ESRCH)?.yield_to()
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
    /// Its VM.
    pub(crate) base: Arc<VmBase>,
}

impl Sched {
    /// The vCPU loses its CPU though it could go on: its guest is told, unless an instruction is
    /// being emulated. Others that saw the mark would not interrupt it to have its TLB flushed, and
    /// the emulation would go on with what it has looked up before.
    #[inline(never)]
    fn preempted(&self) {
        let s = &*self.shared;
        if !s.at_boundary.load(Ordering::Relaxed) {
            s.stats.count(VcpuStat::PreemptionOther);
            return;
        }
        s.stats.count(VcpuStat::PreemptionReported);
        let msr = s.steal.load(Ordering::Relaxed);
        if msr == 0 || s.told_preempted.load(Ordering::Relaxed) || !self.base.mm.is_current() {
            return;
        }
        let told = steal::tell_preempted(&self.base, msr);
        s.told_preempted.store(told, Ordering::Relaxed);
    }
}

impl SchedObserver for Sched {
    #[inline]
    fn sched_in(&self, cpu: &PinnedCpu<'_>) {
        // CAST: CPU numbers are below 8192.
        self.shared
            .cpu
            .store(cpu.cpu_id() as i32, Ordering::Relaxed);
        self.shared.ready.store(false, Ordering::Relaxed);
        if self.shared.reports_steal() {
            self.shared.request(Request::StealTime);
        }
        if self.shared.has_old_clock(&self.base) {
            self.shared.request(Request::ClockUpdate);
        }
        if self.shared.must_follow_host() {
            self.shared.request(Request::Tsc);
        } else {
            self.shared.forget_left();
        }
        if let Some(r) = &self.shared.ring {
            r.loaded(cpu, Some(self.shared.index));
        }
    }

    #[inline]
    fn sched_out(&self, cpu: &PinnedCpu<'_>, preempted: bool, entered: bool) {
        if clock::drifts() && self.shared.left_at.load(Ordering::Relaxed) == 0 {
            // The guest saw nothing later.
            self.shared
                .left_at
                .store(host::clock::rdtsc(), Ordering::Relaxed);
        }
        if entered {
            // An entry leaves some of the guest's state on the CPU, which goes now.
            self.shared.stats.count(VcpuStat::HostStateReload);
        }
        if preempted {
            self.shared.ready.store(true, Ordering::Relaxed);
            self.preempted();
        }
        if let Some(r) = &self.shared.ring {
            r.loaded(cpu, None);
        }
        self.shared.cpu.store(-1, Ordering::Relaxed);
    }
}
