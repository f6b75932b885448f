// SPDX-License-Identifier: GPL-2.0

//! A virtual machine.
//!
//! [`VmBase`] is everything that does not depend on the vendor and is compiled once; [`VmCore`] adds
//! the vendor's part and the nested page tables; [`Vm`] is what the descriptors hold and ends the
//! MMU notifier when the last of them goes.

pub(crate) mod all;
pub(crate) mod bus;
pub(crate) mod caps;
pub(crate) mod dirty;
pub(crate) mod gmem;
pub(crate) mod guest_mem;
pub(crate) mod identity;
pub(crate) mod memslot;
pub(crate) mod msr_filter;
pub(crate) mod ring;
pub(crate) mod vcpus;

use crate::backend::Backend;
use crate::irq::Irq;
use crate::mmu::nx;
use crate::mmu::nx::Nx;
use crate::mmu::nx::Recovery;
use crate::mmu::Tables;
use crate::pv::VmClock;
use crate::running::VmUse;
use crate::vcpu::shared::Request;
use crate::vcpu::shared::VcpuShared;
use crate::vcpu::Vcpu;
use all::AllVms;
use all::Listed;
use caps::VmCaps;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use host::fd::NewFd;
use host::mm::MmRef;
use host::mmu::MmuLock;
use host::notifier::Notifier;
use host::srcu_box::SrcuDomain;
use host::work::DelayedWork;
use identity::Identity;
use kernel::fs::file::flags::O_CLOEXEC;
use kernel::fs::file::flags::O_RDWR;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::sync::SetOnce;
use memslot::Slots;
use vcpus::Vcpus;

/// What `kvm->lock` guards: the VM's set-up.
pub(crate) struct Setup {
    /// The id of the bootstrap processor.
    pub(crate) boot_cpu: u32,
    /// Ids must be below this (KVM_CAP_MAX_VCPU_ID).
    pub(crate) max_ids: u32,
    /// TSC frequency of new vCPUs, kHz.
    pub(crate) tsc_khz: u32,
}

/// The part of a VM that does not depend on the vendor.
#[pin_data]
pub(crate) struct VmBase {
    /// The address space that created the VM; nobody else may drive it.
    pub(crate) mm: MmRef,
    /// The thread that created the VM, as tools know it.
    pub(crate) owner: i32,
    /// Set when the VM must not run any more.
    pub(crate) dead: AtomicBool,
    /// What user space enabled.
    pub(crate) caps: VmCaps,
    /// `kvm->lock`.
    #[pin]
    pub(crate) setup: Mutex<Setup>,
    /// The vCPUs.
    pub(crate) vcpus: Vcpus,
    /// Dirty rings, if they replace the bitmaps.
    pub(crate) rings: SetOnce<Arc<ring::Rings>>,
    /// Large pages that must not be executed.
    pub(crate) nx: Nx,
    /// Memory slots.
    #[pin]
    pub(crate) slots: Slots,
    /// Port and memory-mapped devices.
    #[pin]
    pub(crate) bus: bus::Buses,
    /// Interrupt controllers and routing.
    #[pin]
    pub(crate) irq: Irq,
    /// Which MSR accesses user space keeps for itself.
    pub(crate) msr_filter: msr_filter::MsrFilter,
    /// Statistics.
    pub(crate) stats: crate::stats::VmStats,
    /// The paravirtual clock.
    #[pin]
    pub(crate) clock: VmClock,
    /// A slot is logged, and hardware writes down the pages that guests write to.
    pub(crate) write_log: AtomicBool,
    /// Where the identity map is, on hosts that need one.
    pub(crate) identity: Identity,
}

/// A VM with its vendor's part.
#[pin_data]
pub(crate) struct VmCore<V: Backend> {
    /// The vendor's part.
    pub(crate) hw: V::Vm,
    /// The nested page tables, under the MMU lock.
    #[pin]
    pub(crate) mmu: MmuLock<Tables<V>>,
    /// Everything else. Interrupt sources hold it too, until the VM ends.
    pub(crate) base: Arc<VmBase>,
    /// Last: the backend may change when the rest is gone.
    _use: VmUse,
}

/// What descriptors hold. Dropping the last one ends the MMU notifier.
pub(crate) struct Vm<V: Backend> {
    core: Arc<VmCore<V>>,
    notifier: Notifier<VmCore<V>>,
    /// Brings large pages back where small ones were for execution.
    recovery: Pin<KBox<DelayedWork<Recovery<V>>>>,
    _listed: Listed<V>,
}

impl VmBase {
    /// Is the local APIC in the kernel?
    #[inline]
    pub(crate) fn irqchip_in_kernel(&self) -> bool {
        self.irq.in_kernel()
    }

    /// Are the PICs and the IOAPIC in the kernel too?
    #[inline]
    pub(crate) fn irqchip_full(&self) -> bool {
        self.irq.is_full()
    }

    /// EIO if the caller may not drive this VM: another address space, or a dead VM.
    pub(crate) fn check_caller(&self) -> Result {
        if self.mm.is_current() && !self.dead.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Makes every vCPU leave the guest and do `r` before it enters again.
    pub(crate) fn request_all(&self, r: Request) {
        for v in self.vcpus.iter() {
            v.request_and_kick(r);
        }
    }

    /// Ends the VM: every KVM_RUN fails with EIO from now on.
    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::SeqCst);
        self.request_all(Request::Dead);
    }
}

impl<V: Backend> VmCore<V> {
    fn new() -> Result<Arc<Self>> {
        let in_use = VmUse::take()?;
        let hw = V::new_vm(V::module()?)?;
        let tables = Tables::<V>::new(&hw)?;
        let srcu = SrcuDomain::new(c"kvm->srcu", kernel::static_lock_class!())?;
        let irq_srcu = SrcuDomain::new(c"kvm->irq_srcu", kernel::static_lock_class!())?;
        Arc::pin_init(
            try_pin_init!(Self {
                hw,
                mmu <- MmuLock::new(tables),
                base: Arc::pin_init(VmBase::new(srcu, irq_srcu), GFP_KERNEL_ACCOUNT)?,
                _use: in_use,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }
}

impl VmBase {
    fn new(srcu: Arc<SrcuDomain>, irq_srcu: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            mm: MmRef::current()?,
            owner: host::task::current_ids().0,
            dead: AtomicBool::new(false),
            caps: VmCaps::new(),
            setup <- new_mutex!(Setup {
                boot_cpu: 0,
                max_ids: vcpus::MAX_VCPU_IDS,
                tsc_khz: host::cpu::tsc_khz(),
            }, "kvm->lock"),
            vcpus: Vcpus::new()?,
            rings: SetOnce::new(),
            nx: Nx::new(),
            slots <- Slots::new(srcu.clone()),
            msr_filter: msr_filter::MsrFilter::new(srcu.clone())?,
            bus <- bus::Buses::new(srcu),
            irq <- Irq::new(irq_srcu),
            stats <- crate::stats::VmStats::new(),
            clock <- VmClock::new(),
            write_log: AtomicBool::new(false),
            identity: Identity::new(),
        }? Error)
    }
}

impl<V: Backend> Vm<V> {
    /// Makes a VM of the calling process.
    pub(crate) fn new(all: &Arc<AllVms<V>>) -> Result<Arc<Self>> {
        let core = VmCore::new()?;
        let listed = AllVms::add(all, core.clone())?;
        let notifier = Notifier::register(core.clone())?;
        let recovery = nx::recovery(core.clone())?;
        let this = Self {
            core,
            notifier,
            recovery,
            _listed: listed,
        };
        Ok(Arc::new(this, GFP_KERNEL_ACCOUNT)?)
    }

    /// The VM itself.
    #[inline]
    pub(crate) fn core(&self) -> &VmCore<V> {
        &self.core
    }

    /// Makes a vCPU; the number of its descriptor. EINVAL for an id or a number of vCPUs beyond the
    /// limits, EEXIST for an id in use.
    pub(crate) fn create_vcpu(this: &Arc<Self>, id: usize) -> Result<isize> {
        let core = &*this.core;
        let setup = core.base.setup.lock();
        let id = u32::try_from(id).map_err(|_| EINVAL)?;
        if id >= setup.max_ids || core.base.vcpus.count() >= vcpus::MAX_VCPUS {
            return Err(EINVAL);
        }
        if core.base.vcpus.by_id(id).is_some() {
            return Err(EEXIST);
        }
        identity::set_up(core)?;
        let index = core.base.vcpus.count();
        let bsp = id == setup.boot_cpu;
        let shared = Arc::pin_init(
            VcpuShared::new(id, index, core.base.new_ring()?),
            GFP_KERNEL_ACCOUNT,
        )?;
        let vcpu = Vcpu::<V>::new(core, shared.clone(), bsp, setup.tsc_khz)?;
        let file = Arc::new(
            crate::dev::vcpu::VcpuFile {
                vm: this.clone(),
                vcpu,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let name = CString::try_from_fmt(fmt!("kvm-vcpu:{}", id))?;
        let fd = NewFd::new(&name, file, O_RDWR | O_CLOEXEC)?;
        core.base.vcpus.push(shared.clone())?;
        // What was asked of all vCPUs after its reset and before it was one of them.
        for r in [Request::Traps, Request::WriteLog, Request::EoiExits] {
            shared.request(r);
        }
        crate::pv::tsc::added(&core.base);
        if index == 0 {
            this.recovery.queue_after(nx::first_look_ms());
        }
        drop(setup);
        // CAST: a descriptor number.
        Ok(fd.commit() as isize)
    }
}

impl<V: Backend> Drop for Vm<V> {
    fn drop(&mut self) {
        self.recovery.cancel();
        // After this no callback runs, and the notifier's hold on the VM is gone.
        self.notifier.unregister();
        crate::irq::shutdown(&self.core.base);
        self.core.base.identity.unmap(&self.core.base.mm);
    }
}
