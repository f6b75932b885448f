// SPDX-License-Identifier: GPL-2.0

//! What the VM descriptor takes, interrupt controllers apart: memory regions and attributes, the
//! dirty log and ring, coalesced I/O, eventfds, the clock, filters, devices, Xen and Hyper-V.

use super::{ioctls, uapi, values};

uapi! {
    /// A slot of guest memory. `userspace_addr` is where the VMM has it mapped.
    pub struct KvmUserspaceMemoryRegion("struct kvm_userspace_memory_region", 32) {
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        memory_size: u64,
        userspace_addr: u64,
    }

    /// A slot of guest memory, possibly backed by a guest_memfd.
    pub struct KvmUserspaceMemoryRegion2("struct kvm_userspace_memory_region2", 160) {
        slot: u32,
        flags: u32,
        guest_phys_addr: u64,
        memory_size: u64,
        userspace_addr: u64,
        guest_memfd_offset: u64,
        guest_memfd: u32,
        pad1: u32,
        pad2: [u64; 14],
    }

    /// Asks for a slot's dirty bitmap. `padding2` is the user address of the bitmap.
    pub struct KvmDirtyLog("struct kvm_dirty_log", 16) {
        slot: u32,
        padding1: u32,
        padding2: u64,
    }

    /// Clears part of a slot's dirty bitmap. `padding2` is the user address of the bitmap.
    pub struct KvmClearDirtyLog("struct kvm_clear_dirty_log", 24) {
        slot: u32,
        num_pages: u32,
        first_page: u64,
        padding2: u64,
    }

    /// An element of a dirty ring, shared with user space.
    pub struct KvmDirtyGfn("struct kvm_dirty_gfn", 16) {
        flags: u32,
        slot: u32,
        offset: u64,
    }

    /// Sets the attributes of a range of guest memory.
    pub struct KvmMemoryAttributes("struct kvm_memory_attributes", 32) {
        address: u64,
        size: u64,
        attributes: u64,
        flags: u64,
    }

    /// Creates guest-only memory.
    pub struct KvmCreateGuestMemfd("struct kvm_create_guest_memfd", 64) {
        size: u64,
        flags: u64,
        reserved: [u64; 6],
    }

    /// Maps a range before the guest touches it (a vCPU ioctl).
    pub struct KvmPreFaultMemory("struct kvm_pre_fault_memory", 64) {
        gpa: u64,
        size: u64,
        flags: u64,
        padding: [u64; 5],
    }

    /// A range whose writes are collected instead of exiting.
    pub struct KvmCoalescedMmioZone("struct kvm_coalesced_mmio_zone", 16) {
        addr: u64,
        size: u32,
        pio: u32,
    }

    /// One collected write.
    pub struct KvmCoalescedMmio("struct kvm_coalesced_mmio", 24) {
        phys_addr: u64,
        len: u32,
        pio: u32,
        data: [u8; 8],
    }

    /// The header of the ring of collected writes, shared with user space; it fills a page with
    /// [`KVM_COALESCED_MMIO_MAX`] elements.
    pub struct KvmCoalescedMmioRing("struct kvm_coalesced_mmio_ring", 8) {
        first: u32,
        last: u32,
    }

    /// Signals an eventfd on a guest's write.
    pub struct KvmIoeventfd("struct kvm_ioeventfd", 64) {
        datamatch: u64,
        addr: u64,
        len: u32,
        fd: i32,
        flags: u32,
        pad: [u8; 36],
    }

    /// The paravirtual clock.
    pub struct KvmClockData("struct kvm_clock_data", 48) {
        clock: u64,
        flags: u32,
        pad0: u32,
        realtime: u64,
        host_tsc: u64,
        pad: [u32; 4],
    }

    /// A range of the MSR filter. `bitmap` is a user address; a clear bit denies.
    pub struct KvmMsrFilterRange("struct kvm_msr_filter_range", 24) {
        flags: u32,
        nmsrs: u32,
        base: u32,
        _pad: u32,
        bitmap: u64,
    }

    /// Which MSR accesses go to user space.
    pub struct KvmMsrFilter("struct kvm_msr_filter", 392) {
        flags: u32,
        _pad: u32,
        ranges: [KvmMsrFilterRange; 16],
    }

    /// The header of the PMU event filter; `nevents` words of 8 bytes follow.
    pub struct KvmPmuEventFilter("struct kvm_pmu_event_filter", 32) {
        action: u32,
        nevents: u32,
        fixed_counter_bitmap: u32,
        flags: u32,
        pad: [u32; 4],
    }

    /// Creates a device; `fd` is filled in.
    pub struct KvmCreateDevice("struct kvm_create_device", 12) {
        type_: u32,
        fd: u32,
        flags: u32,
    }

    /// A range of memory to be pinned for encryption.
    pub struct KvmEncRegion("struct kvm_enc_region", 16) {
        addr: u64,
        size: u64,
    }

    /// A hypercall doorbell of Hyper-V, as an eventfd.
    pub struct KvmHypervEventfd("struct kvm_hyperv_eventfd", 24) {
        conn_id: u32,
        fd: i32,
        flags: u32,
        padding: [u32; 3],
    }

    /// How a Xen guest finds its hypercalls.
    pub struct KvmXenHvmConfig("struct kvm_xen_hvm_config", 56) {
        flags: u32,
        msr: u32,
        blob_addr_32: u64,
        blob_addr_64: u64,
        blob_size_32: u8,
        blob_size_64: u8,
        pad2: [u8; 30],
    }

    /// An attribute of a Xen guest. `u` is a union that `type_` selects from.
    pub struct KvmXenHvmAttr("struct kvm_xen_hvm_attr", 72) {
        type_: u16,
        pad: [u16; 3],
        u: [u64; 8],
    }

    /// An attribute of a vCPU of a Xen guest. `u` is a union that `type_` selects from.
    pub struct KvmXenVcpuAttr("struct kvm_xen_vcpu_attr", 72) {
        type_: u16,
        pad: [u16; 3],
        u: [u64; 8],
    }
}

/// How many elements fit the page of the coalesced ring: (4096 - 8) / 24.
pub const KVM_COALESCED_MMIO_MAX: u32 = 170;

values! {
    u32 KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
    u32 KVM_MEM_READONLY = 1 << 1;
    u32 KVM_MEM_GUEST_MEMFD = 1 << 2;

    u64 KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0;
    u64 KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1;
    u32 KVM_DIRTY_GFN_F_DIRTY = 1 << 0;
    u32 KVM_DIRTY_GFN_F_RESET = 1 << 1;
    u32 KVM_DIRTY_GFN_F_MASK = 3;

    u64 KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3;
    u64 GUEST_MEMFD_FLAG_MMAP = 1 << 0;
    u64 GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1;

    u32 KVM_IOEVENTFD_FLAG_DATAMATCH = 1 << 0;
    u32 KVM_IOEVENTFD_FLAG_PIO = 1 << 1;
    u32 KVM_IOEVENTFD_FLAG_DEASSIGN = 1 << 2;
    u32 KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY = 1 << 3;
    u32 KVM_IOEVENTFD_VALID_FLAG_MASK = 0x1f;

    u32 KVM_CLOCK_TSC_STABLE = 2;
    u32 KVM_CLOCK_REALTIME = 1 << 2;
    u32 KVM_CLOCK_HOST_TSC = 1 << 3;

    u32 KVM_MSR_FILTER_MAX_BITMAP_SIZE = 0x600;
    u32 KVM_MSR_FILTER_MAX_RANGES = 16;
    u32 KVM_MSR_FILTER_READ = 1 << 0;
    u32 KVM_MSR_FILTER_WRITE = 1 << 1;
    u32 KVM_MSR_FILTER_RANGE_VALID_MASK = 3;
    u32 KVM_MSR_FILTER_DEFAULT_ALLOW = 0;
    u32 KVM_MSR_FILTER_DEFAULT_DENY = 1 << 0;
    u32 KVM_MSR_FILTER_VALID_MASK = 1;

    u32 KVM_PMU_EVENT_ALLOW = 0;
    u32 KVM_PMU_EVENT_DENY = 1;
    u32 KVM_PMU_EVENT_FLAG_MASKED_EVENTS = 1 << 0;
    u32 KVM_PMU_EVENT_FLAGS_VALID_MASK = 1;
    u64 KVM_PMU_MASKED_ENTRY_EVENT_SELECT = 0x0000_000f_0000_00ff;
    u64 KVM_PMU_MASKED_ENTRY_UMASK_MASK = 0xff00_0000_0000_0000;
    u64 KVM_PMU_MASKED_ENTRY_UMASK_MATCH = 0xff00;
    u64 KVM_PMU_MASKED_ENTRY_EXCLUDE = 1 << 55;
    u32 KVM_PMU_MASKED_ENTRY_UMASK_MASK_SHIFT = 56;
    u64 KVM_PMU_CAP_DISABLE = 1 << 0;

    u32 KVM_CREATE_DEVICE_TEST = 1;
    u32 KVM_DEV_TYPE_VFIO = 4;
    u32 KVM_DEV_VFIO_FILE = 1;
    u64 KVM_DEV_VFIO_FILE_ADD = 1;
    u64 KVM_DEV_VFIO_FILE_DEL = 2;

    u64 KVM_X86_QUIRK_LINT0_REENABLED = 1 << 0;
    u64 KVM_X86_QUIRK_CD_NW_CLEARED = 1 << 1;
    u64 KVM_X86_QUIRK_LAPIC_MMIO_HOLE = 1 << 2;
    u64 KVM_X86_QUIRK_OUT_7E_INC_RIP = 1 << 3;
    u64 KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT = 1 << 4;
    u64 KVM_X86_QUIRK_FIX_HYPERCALL_INSN = 1 << 5;
    u64 KVM_X86_QUIRK_MWAIT_NEVER_UD_FAULTS = 1 << 6;
    u64 KVM_X86_QUIRK_SLOT_ZAP_ALL = 1 << 7;
    u64 KVM_X86_QUIRK_STUFF_FEATURE_MSRS = 1 << 8;
    u64 KVM_X86_QUIRK_IGNORE_GUEST_PAT = 1 << 9;
    u64 KVM_X86_QUIRK_VMCS12_ALLOW_FREEZE_IN_SMM = 1 << 10;
    u64 KVM_X86_QUIRK_NESTED_SVM_SHARED_PAT = 1 << 11;

    u64 KVM_X86_DISABLE_EXITS_MWAIT = 1 << 0;
    u64 KVM_X86_DISABLE_EXITS_HLT = 1 << 1;
    u64 KVM_X86_DISABLE_EXITS_PAUSE = 1 << 2;
    u64 KVM_X86_DISABLE_EXITS_CSTATE = 1 << 3;
    u64 KVM_X86_DISABLE_EXITS_APERFMPERF = 1 << 4;

    u64 KVM_BUS_LOCK_DETECTION_OFF = 1 << 0;
    u64 KVM_BUS_LOCK_DETECTION_EXIT = 1 << 1;
    u64 KVM_X86_NOTIFY_VMEXIT_ENABLED = 1 << 0;
    u64 KVM_X86_NOTIFY_VMEXIT_USER = 1 << 1;

    u32 KVM_HYPERV_CONN_ID_MASK = 0x00ff_ffff;
    u32 KVM_HYPERV_EVENTFD_DEASSIGN = 1 << 0;

    u32 KVM_XEN_HVM_CONFIG_HYPERCALL_MSR = 1 << 0;
    u32 KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL = 1 << 1;
    u32 KVM_XEN_HVM_CONFIG_SHARED_INFO = 1 << 2;
    u32 KVM_XEN_HVM_CONFIG_RUNSTATE = 1 << 3;
    u32 KVM_XEN_HVM_CONFIG_EVTCHN_2LEVEL = 1 << 4;
    u32 KVM_XEN_HVM_CONFIG_EVTCHN_SEND = 1 << 5;
    u32 KVM_XEN_HVM_CONFIG_RUNSTATE_UPDATE_FLAG = 1 << 6;
    u32 KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE = 1 << 7;
    u32 KVM_XEN_HVM_CONFIG_SHARED_INFO_HVA = 1 << 8;
    u32 KVM_XEN_MSR_MIN_INDEX = 0x4000_0000;
    u32 KVM_XEN_MSR_MAX_INDEX = 0x4fff_ffff;
    u64 KVM_XEN_INVALID_GFN = u64::MAX;
    u64 KVM_XEN_INVALID_GPA = u64::MAX;
    u16 KVM_XEN_ATTR_TYPE_LONG_MODE = 0;
    u16 KVM_XEN_ATTR_TYPE_SHARED_INFO = 1;
    u16 KVM_XEN_ATTR_TYPE_UPCALL_VECTOR = 2;
    u16 KVM_XEN_ATTR_TYPE_EVTCHN = 3;
    u16 KVM_XEN_ATTR_TYPE_XEN_VERSION = 4;
    u16 KVM_XEN_ATTR_TYPE_RUNSTATE_UPDATE_FLAG = 5;
    u16 KVM_XEN_ATTR_TYPE_SHARED_INFO_HVA = 6;
    u32 KVM_XEN_EVTCHN_DEASSIGN = 1 << 0;
    u32 KVM_XEN_EVTCHN_UPDATE = 1 << 1;
    u32 KVM_XEN_EVTCHN_RESET = 1 << 2;
    u16 KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO = 0;
    u16 KVM_XEN_VCPU_ATTR_TYPE_VCPU_TIME_INFO = 1;
    u16 KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADDR = 2;
    u16 KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_CURRENT = 3;
    u16 KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_DATA = 4;
    u16 KVM_XEN_VCPU_ATTR_TYPE_RUNSTATE_ADJUST = 5;
    u16 KVM_XEN_VCPU_ATTR_TYPE_VCPU_ID = 6;
    u16 KVM_XEN_VCPU_ATTR_TYPE_TIMER = 7;
    u16 KVM_XEN_VCPU_ATTR_TYPE_UPCALL_VECTOR = 8;
    u16 KVM_XEN_VCPU_ATTR_TYPE_VCPU_INFO_HVA = 9;
}

ioctls! {
    /// The argument is the vCPU's id, which is also its initial APIC id.
    KVM_CREATE_VCPU = None 0x41;
    KVM_GET_DIRTY_LOG = Write 0x42, KvmDirtyLog;
    KVM_SET_NR_MMU_PAGES = None 0x44;
    KVM_GET_NR_MMU_PAGES = None 0x45;
    KVM_SET_USER_MEMORY_REGION = Write 0x46, KvmUserspaceMemoryRegion;
    KVM_SET_TSS_ADDR = None 0x47;
    KVM_SET_IDENTITY_MAP_ADDR = Write 0x48, u64;
    KVM_SET_USER_MEMORY_REGION2 = Write 0x49, KvmUserspaceMemoryRegion2;
    KVM_REGISTER_COALESCED_MMIO = Write 0x67, KvmCoalescedMmioZone;
    KVM_UNREGISTER_COALESCED_MMIO = Write 0x68, KvmCoalescedMmioZone;
    KVM_SET_BOOT_CPU_ID = None 0x78;
    KVM_IOEVENTFD = Write 0x79, KvmIoeventfd;
    KVM_XEN_HVM_CONFIG = Write 0x7a, KvmXenHvmConfig;
    KVM_SET_CLOCK = Write 0x7b, KvmClockData;
    KVM_GET_CLOCK = Read 0x7c, KvmClockData;
    /// Also on the vCPU descriptor.
    KVM_SET_TSC_KHZ = None 0xa2;
    /// Also on the vCPU descriptor.
    KVM_GET_TSC_KHZ = None 0xa3;
    KVM_SET_PMU_EVENT_FILTER = Write 0xb2, KvmPmuEventFilter;
    KVM_MEMORY_ENCRYPT_OP = ReadWrite 0xba, u64;
    KVM_MEMORY_ENCRYPT_REG_REGION = Read 0xbb, KvmEncRegion;
    KVM_MEMORY_ENCRYPT_UNREG_REGION = Read 0xbc, KvmEncRegion;
    KVM_HYPERV_EVENTFD = Write 0xbd, KvmHypervEventfd;
    KVM_CLEAR_DIRTY_LOG = ReadWrite 0xc0, KvmClearDirtyLog;
    KVM_X86_SET_MSR_FILTER = Write 0xc6, KvmMsrFilter;
    KVM_RESET_DIRTY_RINGS = None 0xc7;
    KVM_XEN_HVM_GET_ATTR = ReadWrite 0xc8, KvmXenHvmAttr;
    KVM_XEN_HVM_SET_ATTR = Write 0xc9, KvmXenHvmAttr;
    KVM_XEN_HVM_EVTCHN_SEND = Write 0xd0, super::KvmIrqRoutingXenEvtchn;
    KVM_SET_MEMORY_ATTRIBUTES = Write 0xd2, KvmMemoryAttributes;
    KVM_CREATE_GUEST_MEMFD = ReadWrite 0xd4, KvmCreateGuestMemfd;
    KVM_CREATE_DEVICE = ReadWrite 0xe0, KvmCreateDevice;
}
