// SPDX-License-Identifier: GPL-2.0

//! Capabilities: what KVM_CHECK_EXTENSION answers and what KVM_ENABLE_CAP changed.
//!
//! A capability that is not listed does not exist here yet and answers 0.

use super::memslot::Space;
use super::vcpus;
use super::VmBase;
use crate::backend::Backend;
use crate::host_caps;
use crate::vcpu::shared::Request;
use crate::vcpu::state::State;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmEnableCap;
use model::dirty::ring;
use virt::vendor::Features;

/// Slots per address space, without the ones kept for the module itself.
pub(crate) const USER_SLOTS: u32 = 32764;
/// Routes of a VM.
pub(crate) const MAX_ROUTES: u32 = 4096;
/// Banks of the machine-check architecture.
pub(crate) const MCE_BANKS: u32 = 32;

/// The quirks that KVM_CAP_DISABLE_QUIRKS2 can switch off here.
const QUIRKS: u64 = abi::KVM_X86_QUIRK_LINT0_REENABLED
    | abi::KVM_X86_QUIRK_CD_NW_CLEARED
    | abi::KVM_X86_QUIRK_LAPIC_MMIO_HOLE
    | abi::KVM_X86_QUIRK_OUT_7E_INC_RIP
    | abi::KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT
    | abi::KVM_X86_QUIRK_FIX_HYPERCALL_INSN
    | abi::KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS
    | abi::KVM_X86_QUIRK_SLOT_ZAP_ALL
    | abi::KVM_X86_QUIRK_STUFF_FEATURE_MSRS;

/// Those of this host. Caches of a processor that does not snoop itself get out of step where one page
/// has several memory types (`SDM: vol 3, 13.12.4`), so that guests cannot choose any there.
fn quirks(f: &Features) -> u64 {
    if f.guest_pat {
        QUIRKS | abi::KVM_X86_QUIRK_IGNORE_GUEST_PAT
    } else {
        QUIRKS
    }
}

/// The local APICs' bus clock unless user space says otherwise, ns per cycle.
const APIC_BUS_CYCLE_NS: u32 = 1;

/// What KVM_CAP_X2APIC_API can switch.
const X2APIC_API: u64 = abi::KVM_X2APIC_API_USE_32BIT_IDS
    | abi::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK
    | abi::KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST
    | abi::KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST;

/// Hypercalls that can exit.
const HYPERCALL_EXITS: u64 = 1 << abi::KVM_HC_MAP_GPA_RANGE;

/// What KVM_CAP_X86_BUS_LOCK_EXIT can choose between.
const BUS_LOCKS: u64 = abi::KVM_BUS_LOCK_DETECTION_OFF | abi::KVM_BUS_LOCK_DETECTION_EXIT;

/// What KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 can switch on.
const MANUAL_DIRTY: u64 =
    abi::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | abi::KVM_DIRTY_LOG_INITIALLY_SET;

/// Bits of `flags` in [`VmCaps`].
mod flag {
    pub(super) const EXCEPTION_PAYLOAD: u32 = 1 << 0;
    pub(super) const TRIPLE_FAULT_EVENT: u32 = 1 << 1;
    pub(super) const EXIT_ON_EMULATION_FAILURE: u32 = 1 << 2;
    pub(super) const PLATFORM_INFO_OFF: u32 = 1 << 3;
    pub(super) const X2APIC_32BIT_IDS: u32 = 1 << 4;
    pub(super) const X2APIC_NO_BROADCAST_QUIRK: u32 = 1 << 5;
    pub(super) const MAX_VCPU_ID_SET: u32 = 1 << 6;
    pub(super) const BOOT_CPU_SET: u32 = 1 << 7;
    pub(super) const EOI_SUPPRESSION_ON: u32 = 1 << 8;
    pub(super) const EOI_SUPPRESSION_OFF: u32 = 1 << 9;
    pub(super) const BUS_LOCK_EXITS: u32 = 1 << 10;
}

/// What user space enabled on a VM.
pub(crate) struct VmCaps {
    flags: AtomicU32,
    quirks_off: AtomicU64,
    user_msr: AtomicU32,
    manual_dirty: AtomicU64,
    disabled_exits: AtomicU64,
    hypercall_exits: AtomicU64,
    halt_poll_ns: AtomicU64,
    apic_bus_cycle_ns: AtomicU32,
}

impl VmCaps {
    /// Nothing enabled.
    pub(crate) fn new() -> Self {
        Self {
            flags: AtomicU32::new(0),
            quirks_off: AtomicU64::new(0),
            user_msr: AtomicU32::new(0),
            manual_dirty: AtomicU64::new(0),
            disabled_exits: AtomicU64::new(0),
            hypercall_exits: AtomicU64::new(0),
            halt_poll_ns: AtomicU64::new(u64::MAX),
            apic_bus_cycle_ns: AtomicU32::new(APIC_BUS_CYCLE_NS),
        }
    }

    #[inline]
    fn has(&self, f: u32) -> bool {
        self.flags.load(Relaxed) & f != 0
    }

    fn set(&self, f: u32, on: bool) {
        if on {
            self.flags.fetch_or(f, Relaxed);
        } else {
            self.flags.fetch_and(!f, Relaxed);
        }
    }

    /// Exceptions carry their payload separately in KVM_GET_VCPU_EVENTS.
    pub(crate) fn exception_payload(&self) -> bool {
        self.has(flag::EXCEPTION_PAYLOAD)
    }

    /// KVM_GET_VCPU_EVENTS reports triple faults.
    pub(crate) fn triple_fault_event(&self) -> bool {
        self.has(flag::TRIPLE_FAULT_EVENT)
    }

    /// An instruction that cannot be emulated always exits to user space.
    pub(crate) fn exit_on_emulation_failure(&self) -> bool {
        self.has(flag::EXIT_ON_EMULATION_FAILURE)
    }

    /// The guest may read MSR_PLATFORM_INFO.
    pub(crate) fn platform_info(&self) -> bool {
        !self.has(flag::PLATFORM_INFO_OFF)
    }

    /// x2APIC ids have 32 bits in the ABI.
    pub(crate) fn x2apic_32bit_ids(&self) -> bool {
        self.has(flag::X2APIC_32BIT_IDS)
    }

    /// 0xff is an ordinary x2APIC id.
    pub(crate) fn no_broadcast_quirk(&self) -> bool {
        self.has(flag::X2APIC_NO_BROADCAST_QUIRK)
    }

    /// Is this quirk in force?
    pub(crate) fn quirk(&self, q: u64) -> bool {
        self.quirks_off.load(Relaxed) & q == 0
    }

    /// Why MSR accesses exit to user space: KVM_MSR_EXIT_REASON_*.
    pub(crate) fn user_msr(&self) -> u32 {
        self.user_msr.load(Relaxed)
    }

    /// KVM_DIRTY_LOG_* of manual protection.
    pub(crate) fn manual_dirty(&self) -> u64 {
        self.manual_dirty.load(Relaxed)
    }

    /// KVM_X86_DISABLE_EXITS_*.
    pub(crate) fn disabled_exits(&self) -> u64 {
        self.disabled_exits.load(Relaxed)
    }

    /// Hypercalls that exit to user space, one bit per number.
    pub(crate) fn hypercall_exits(&self) -> u64 {
        self.hypercall_exits.load(Relaxed)
    }

    /// How long a halted vCPU may poll, ns: what user space said for this VM, else the module's
    /// parameter.
    pub(crate) fn halt_poll_ns(&self) -> u64 {
        match self.halt_poll_ns.load(Relaxed) {
            u64::MAX => u64::from(host::params::halt_poll_ns()),
            ns => ns,
        }
    }

    /// One cycle of the local APICs' bus clock, ns.
    pub(crate) fn apic_bus_cycle_ns(&self) -> u32 {
        self.apic_bus_cycle_ns.load(Relaxed)
    }

    /// Suppression of EOI broadcasts: whether local APICs offer it and whether they do it. `chips`:
    /// the IOAPIC is in the kernel.
    ///
    /// KVM: unless user space decides, it is offered and not done with a split controller, and the
    /// other way round with the IOAPIC in the kernel.
    pub(crate) fn directed_eoi(&self, chips: bool) -> (bool, bool) {
        if self.has(flag::EOI_SUPPRESSION_ON) {
            (true, true)
        } else if self.has(flag::EOI_SUPPRESSION_OFF) {
            (false, false)
        } else {
            (!chips, chips)
        }
    }

    /// Bus locks exit to user space.
    pub(crate) fn bus_lock_exits(&self) -> bool {
        self.has(flag::BUS_LOCK_EXITS)
    }

    /// The boot CPU was chosen: remembered so that a later choice is refused after a vCPU.
    pub(crate) fn mark_boot_cpu(&self) {
        self.set(flag::BOOT_CPU_SET, true);
    }
}

/// KVM_CHECK_EXTENSION, on /dev/kvm (`vm` is `None`) or on a VM.
pub(crate) fn check<V: Backend>(vm: Option<&VmBase>, cap: u32) -> isize {
    let f = V::host_features();
    match cap {
        abi::KVM_CAP_IRQCHIP
        | abi::KVM_CAP_HLT
        | abi::KVM_CAP_MMU_SHADOW_CACHE_CONTROL
        | abi::KVM_CAP_USER_MEMORY
        | abi::KVM_CAP_SET_TSS_ADDR
        | abi::KVM_CAP_EXT_CPUID
        | abi::KVM_CAP_NOP_IO_DELAY
        | abi::KVM_CAP_MP_STATE
        | abi::KVM_CAP_SYNC_MMU
        | abi::KVM_CAP_DESTROY_MEMORY_REGION_WORKS
        | abi::KVM_CAP_USER_NMI
        | abi::KVM_CAP_REINJECT_CONTROL
        | abi::KVM_CAP_IRQ_INJECT_STATUS
        | abi::KVM_CAP_IRQFD
        | abi::KVM_CAP_IRQFD_RESAMPLE
        | abi::KVM_CAP_VAPIC
        | abi::KVM_CAP_PIT
        | abi::KVM_CAP_PIT2
        | abi::KVM_CAP_PIT_STATE2
        | abi::KVM_CAP_IOEVENTFD
        | abi::KVM_CAP_IOEVENTFD_NO_LENGTH
        | abi::KVM_CAP_IOEVENTFD_ANY_LENGTH
        | abi::KVM_CAP_COALESCED_PIO
        | abi::KVM_CAP_IOAPIC_POLARITY_IGNORED
        | abi::KVM_CAP_CLOCKSOURCE
        | abi::KVM_CAP_KVMCLOCK_CTRL
        | abi::KVM_CAP_SET_GUEST_DEBUG
        | abi::KVM_CAP_JOIN_MEMORY_REGIONS_WORKS
        | abi::KVM_CAP_SET_BOOT_CPU_ID
        | abi::KVM_CAP_SET_IDENTITY_MAP_ADDR
        | abi::KVM_CAP_INTERNAL_ERROR_DATA
        | abi::KVM_CAP_VCPU_EVENTS
        | abi::KVM_CAP_PCI_SEGMENT
        | abi::KVM_CAP_DEBUGREGS
        | abi::KVM_CAP_X86_ROBUST_SINGLESTEP
        | abi::KVM_CAP_ENABLE_CAP
        | abi::KVM_CAP_XSAVE
        | abi::KVM_CAP_GET_TSC_KHZ
        | abi::KVM_CAP_READONLY_MEM
        | abi::KVM_CAP_ENABLE_CAP_VM
        | abi::KVM_CAP_CHECK_EXTENSION_VM
        | abi::KVM_CAP_SPLIT_IRQCHIP
        | abi::KVM_CAP_IMMEDIATE_EXIT
        | abi::KVM_CAP_GET_MSR_FEATURES
        | abi::KVM_CAP_MSR_PLATFORM_INFO
        | abi::KVM_CAP_EXCEPTION_PAYLOAD
        | abi::KVM_CAP_LAST_CPU
        | abi::KVM_CAP_SREGS2
        | abi::KVM_CAP_EXIT_ON_EMULATION_FAILURE
        | abi::KVM_CAP_X86_TRIPLE_FAULT_EVENT
        | abi::KVM_CAP_USER_MEMORY2
        | abi::KVM_CAP_EXT_EMUL_CPUID
        | abi::KVM_CAP_X86_USER_SPACE_MSR
        | abi::KVM_CAP_X86_MSR_FILTER
        | abi::KVM_CAP_VCPU_ATTRIBUTES
        | abi::KVM_CAP_SYS_ATTRIBUTES
        | abi::KVM_CAP_ONE_REG
        | abi::KVM_CAP_HALT_POLL
        | abi::KVM_CAP_BINARY_STATS_FD
        | abi::KVM_CAP_MEMORY_FAULT_INFO
        | abi::KVM_CAP_PRE_FAULT_MEMORY
        | abi::KVM_CAP_GUEST_MEMFD
        | abi::KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
        | abi::KVM_CAP_TSC_DEADLINE_TIMER
        | abi::KVM_CAP_SIGNAL_MSI
        | abi::KVM_CAP_STEAL_TIME
        | abi::KVM_CAP_ENFORCE_PV_FEATURE_CPUID => 1,
        abi::KVM_CAP_NR_VCPUS => host::cpu::num_online().min(vcpus::MAX_VCPUS) as isize,
        abi::KVM_CAP_MAX_VCPUS => vcpus::MAX_VCPUS as isize,
        abi::KVM_CAP_MAX_VCPU_ID => vcpus::MAX_VCPU_IDS as isize,
        abi::KVM_CAP_GUEST_MEMFD_FLAGS => model::slots::gmem::FLAGS as isize,
        // KVM: what some type of VM could have; one of the default type has no private memory.
        abi::KVM_CAP_MEMORY_ATTRIBUTES => match vm {
            Some(_) => 0,
            None => abi::KVM_MEMORY_ATTRIBUTE_PRIVATE as isize,
        },
        abi::KVM_CAP_NR_MEMSLOTS => USER_SLOTS as isize,
        abi::KVM_CAP_ADJUST_CLOCK => {
            let flags =
                abi::KVM_CLOCK_TSC_STABLE | abi::KVM_CLOCK_REALTIME | abi::KVM_CLOCK_HOST_TSC;
            flags as isize
        }
        abi::KVM_CAP_DIRTY_LOG_RING | abi::KVM_CAP_DIRTY_LOG_RING_ACQ_REL => {
            (ring::MAX_ENTRIES as usize).wrapping_mul(ring::ENTRY_SIZE) as isize
        }
        abi::KVM_CAP_MCE => MCE_BANKS as isize,
        abi::KVM_CAP_IRQ_ROUTING => MAX_ROUTES as isize,
        abi::KVM_CAP_XCRS => isize::from(virt::entry::host_xcr0() != 0),
        abi::KVM_CAP_TSC_CONTROL | abi::KVM_CAP_VM_TSC_CONTROL => isize::from(f.tsc_scaling),
        abi::KVM_CAP_SYNC_REGS => abi::KVM_SYNC_X86_VALID_FIELDS as isize,
        abi::KVM_CAP_VM_TYPES => 1 << abi::KVM_X86_DEFAULT_VM,
        abi::KVM_CAP_XSAVE2 => crate::vcpu::fpu::xsave_size() as isize,
        abi::KVM_CAP_X2APIC_API => match vm {
            Some(vm) if !vm.irq.is_split() => {
                (X2APIC_API & !abi::KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST) as isize
            }
            _ => X2APIC_API as isize,
        },
        abi::KVM_CAP_X86_SMM => isize::from(f.big_real_mode),
        abi::KVM_CAP_MULTI_ADDRESS_SPACE => Space::COUNT as isize,
        abi::KVM_CAP_X86_DISABLE_EXITS => host_caps::disabled_exits(&f) as isize,
        abi::KVM_CAP_EXIT_HYPERCALL => HYPERCALL_EXITS as isize,
        abi::KVM_CAP_X86_BUS_LOCK_EXIT if f.bus_lock_exit => BUS_LOCKS as isize,
        abi::KVM_CAP_X86_APIC_BUS_CYCLES_NS => match vm {
            Some(vm) => vm.caps.apic_bus_cycle_ns() as isize,
            None => APIC_BUS_CYCLE_NS as isize,
        },
        abi::KVM_CAP_DISABLE_QUIRKS2 => quirks(&f) as isize,
        abi::KVM_CAP_DISABLE_QUIRKS => 1,
        abi::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => MANUAL_DIRTY as isize,
        abi::KVM_CAP_SET_GUEST_DEBUG2 => crate::exit::debug::CONTROL as isize,
        abi::KVM_CAP_COALESCED_MMIO => abi::KVM_COALESCED_MMIO_PAGE_OFFSET as isize,
        _ => 0,
    }
}

/// KVM_ENABLE_CAP on a vCPU. EINVAL for what does not exist or is not a vCPU's.
pub(crate) fn enable_vcpu(st: &mut State, e: &KvmEnableCap) -> Result<isize> {
    if e.flags != 0 {
        return Err(EINVAL);
    }
    let [arg, ..] = e.args;
    match e.cap {
        abi::KVM_CAP_ENFORCE_PV_FEATURE_CPUID => st.pv.enforce = arg != 0,
        _ => return Err(EINVAL),
    }
    Ok(0)
}

/// Quirks go, for good.
fn disable_quirks(vm: &VmBase, quirks: u64) {
    vm.caps.quirks_off.fetch_or(quirks, Relaxed);
    if quirks & abi::KVM_X86_QUIRK_CD_NW_CLEARED != 0 {
        vm.request_all(Request::Traps);
    }
}

/// KVM_ENABLE_CAP on a VM. EINVAL for what does not exist or cannot be enabled now.
pub(crate) fn enable<V: Backend>(vm: &VmBase, e: &KvmEnableCap) -> Result<isize> {
    if e.flags != 0 {
        return Err(EINVAL);
    }
    let [arg, ..] = e.args;
    let caps = &vm.caps;
    match e.cap {
        abi::KVM_CAP_DISABLE_QUIRKS => {
            disable_quirks(vm, arg & quirks(&V::host_features()));
        }
        abi::KVM_CAP_DISABLE_QUIRKS2 => {
            if arg & !quirks(&V::host_features()) != 0 {
                return Err(EINVAL);
            }
            disable_quirks(vm, arg);
        }
        abi::KVM_CAP_SPLIT_IRQCHIP => return crate::irq::enable_split(vm, arg),
        abi::KVM_CAP_X2APIC_API => {
            let suppress = arg & abi::KVM_X2APIC_ENABLE_SUPPRESS_EOI_BROADCAST != 0;
            let broadcast = arg & abi::KVM_X2APIC_DISABLE_SUPPRESS_EOI_BROADCAST != 0;
            if arg & !X2APIC_API != 0 || (suppress && broadcast) || (suppress && !vm.irq.is_split())
            {
                return Err(EINVAL);
            }
            if suppress || broadcast {
                caps.set(flag::EOI_SUPPRESSION_ON, suppress);
                caps.set(flag::EOI_SUPPRESSION_OFF, broadcast);
            }
            if arg & abi::KVM_X2APIC_API_USE_32BIT_IDS != 0 {
                caps.set(flag::X2APIC_32BIT_IDS, true);
            }
            if arg & abi::KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK != 0 {
                caps.set(flag::X2APIC_NO_BROADCAST_QUIRK, true);
            }
        }
        abi::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 => {
            // The second flag is of use only with the first.
            let on = arg & abi::KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE != 0;
            if arg & !MANUAL_DIRTY != 0 || (arg != 0 && !on) {
                return Err(EINVAL);
            }
            caps.manual_dirty.store(arg, Relaxed);
        }
        abi::KVM_CAP_VM_DISABLE_NX_HUGE_PAGES => {
            if arg != 0 {
                return Err(EINVAL);
            }
            // The guest could bring the host down: as much as rebooting it.
            if !host::task::may_reboot() {
                return Err(EPERM);
            }
            let _setup = vm.setup.lock();
            if vm.vcpus.count() != 0 {
                return Err(EINVAL);
            }
            vm.nx.exempt();
        }
        abi::KVM_CAP_DIRTY_LOG_RING | abi::KVM_CAP_DIRTY_LOG_RING_ACQ_REL => {
            return vm.enable_rings::<V>(arg);
        }
        abi::KVM_CAP_MSR_PLATFORM_INFO => caps.set(flag::PLATFORM_INFO_OFF, arg == 0),
        abi::KVM_CAP_EXCEPTION_PAYLOAD => caps.set(flag::EXCEPTION_PAYLOAD, arg != 0),
        abi::KVM_CAP_X86_TRIPLE_FAULT_EVENT => caps.set(flag::TRIPLE_FAULT_EVENT, arg != 0),
        abi::KVM_CAP_EXIT_ON_EMULATION_FAILURE => {
            if arg & !1 != 0 {
                return Err(EINVAL);
            }
            caps.set(flag::EXIT_ON_EMULATION_FAILURE, arg != 0);
        }
        abi::KVM_CAP_X86_USER_SPACE_MSR => {
            let reasons = u32::try_from(arg).map_err(|_| EINVAL)?;
            if reasons & !abi::KVM_MSR_EXIT_REASON_VALID_MASK != 0 {
                return Err(EINVAL);
            }
            caps.user_msr.store(reasons, Relaxed);
        }
        abi::KVM_CAP_EXIT_HYPERCALL => {
            if arg & !HYPERCALL_EXITS != 0 {
                return Err(EINVAL);
            }
            caps.hypercall_exits.store(arg, Relaxed);
        }
        abi::KVM_CAP_X86_BUS_LOCK_EXIT => {
            let exits = arg & abi::KVM_BUS_LOCK_DETECTION_EXIT != 0;
            if arg & !BUS_LOCKS != 0 || arg == BUS_LOCKS {
                return Err(EINVAL);
            }
            // KVM: once they exit they do, and where they cannot nothing is said.
            if exits && V::host_features().bus_lock_exit {
                caps.set(flag::BUS_LOCK_EXITS, true);
                vm.request_all(Request::Traps);
            }
        }
        abi::KVM_CAP_X86_DISABLE_EXITS => {
            let _setup = vm.setup.lock();
            if arg & !host_caps::disabled_exits(&V::host_features()) != 0 || vm.vcpus.count() != 0 {
                return Err(EINVAL);
            }
            caps.disabled_exits.fetch_or(arg, Relaxed);
        }
        abi::KVM_CAP_HALT_POLL => {
            let ns = u32::try_from(arg).map_err(|_| EINVAL)?;
            caps.halt_poll_ns.store(u64::from(ns), Relaxed);
        }
        abi::KVM_CAP_X86_APIC_BUS_CYCLES_NS => {
            // The longest count, times the largest divider, must fit 64 bits.
            let ns = u32::try_from(arg).map_err(|_| EINVAL)?;
            if ns == 0 || ns >= 1 << 25 {
                return Err(EINVAL);
            }
            let _setup = vm.setup.lock();
            if !vm.irq.in_kernel() {
                return Err(ENXIO);
            }
            if vm.vcpus.count() != 0 {
                return Err(EINVAL);
            }
            caps.apic_bus_cycle_ns.store(ns, Relaxed);
        }
        abi::KVM_CAP_MAX_VCPU_ID => {
            let mut setup = vm.setup.lock();
            let max = u32::try_from(arg).map_err(|_| EINVAL)?;
            if max > vcpus::MAX_VCPU_IDS || max == 0 {
                return Err(EINVAL);
            }
            if caps.has(flag::MAX_VCPU_ID_SET) {
                // Setting the same value again is allowed.
                return if setup.max_ids == max {
                    Ok(0)
                } else {
                    Err(EINVAL)
                };
            }
            if vm.vcpus.count() != 0 || (caps.has(flag::BOOT_CPU_SET) && setup.boot_cpu > max) {
                return Err(EINVAL);
            }
            setup.max_ids = max;
            caps.set(flag::MAX_VCPU_ID_SET, true);
        }
        _ => return Err(EINVAL),
    }
    Ok(0)
}
