// SPDX-License-Identifier: GPL-2.0

//! Every ioctl that is tested, with an argument that a VM of stage `Full` accepts (or that
//! is right apart from the stage), and the fields whose bits are tried one by one.

#[path = "ops_attr.rs"]
mod attr;
#[path = "ops_vcpu.rs"]
mod vcpu;

use super::world::On;
use super::world::Stage;
use super::world::World;
use super::world::LOGGED;
use crate::guest;
use crate::sys::bytes_of;
use crate::sys::zeroed;
use crate::uapi as k;
use kvm_bindings::*;
use std::mem::offset_of;

/// An argument.
pub enum Arg {
    /// A number.
    Value(usize),
    /// A structure.
    Bytes(fn(&World) -> Vec<u8>),
}

/// A field: name, offset, bits.
pub type Field = (&'static str, usize, usize);

/// An ioctl.
pub struct Op {
    /// Its name.
    pub name: &'static str,
    /// Its command.
    pub cmd: u32,
    /// Where it belongs.
    pub on: On,
    /// A good argument.
    pub arg: Arg,
    /// Fields whose bits are tried.
    pub fields: &'static [Field],
    /// Where the argument has pointers: name and offset.
    pub inner: &'static [(&'static str, usize)],
    /// The stage of a VM at which a good argument works, if it works at any.
    pub stage: Stage,
}

impl Op {
    /// The argument has pointers.
    fn pointing(mut self, inner: &'static [(&'static str, usize)]) -> Self {
        self.inner = inner;
        self
    }

    /// It works before a VM has everything.
    fn early(mut self, stage: Stage) -> Self {
        self.stage = stage;
        self
    }
}

/// A field of a structure.
macro_rules! field {
    ($t:ty, $f:tt, $bits:expr) => {
        (stringify!($f), offset_of!($t, $f), $bits)
    };
}

use field;

fn op(
    name: &'static str,
    on: On,
    cmd: u32,
    arg: fn(&World) -> Vec<u8>,
    fields: &'static [Field],
) -> Op {
    Op {
        name,
        cmd,
        on,
        arg: Arg::Bytes(arg),
        fields,
        inner: &[],
        stage: Stage::Full,
    }
}

fn value(name: &'static str, on: On, cmd: u32, v: usize) -> Op {
    Op {
        name,
        cmd,
        on,
        arg: Arg::Value(v),
        fields: &[],
        inner: &[],
        stage: Stage::Full,
    }
}

fn irqchip(_: &World) -> Vec<u8> {
    let mut b = vec![0; size_of::<kvm_irqchip>()];
    b[0] = 2;
    b
}

/// A list of one entry.
fn one_msr(index: u32) -> Vec<u8> {
    let mut e: kvm_msr_entry = zeroed();
    e.index = index;
    guest::list(1, &[e])
}

fn words(n: usize) -> Vec<u8> {
    let mut b = vec![0; 4 + 4 * n];
    b[..4].copy_from_slice(&(n as u32).to_ne_bytes());
    b
}

fn cpuids(n: usize) -> Vec<u8> {
    guest::list(n as u32, &vec![zeroed::<kvm_cpuid_entry2>(); n])
}

/// The commands of /dev/kvm.
fn dev(list: &mut Vec<Op>) {
    use On::Dev;
    list.extend([
        value("GET_API_VERSION", Dev, k::GET_API_VERSION, 0),
        value("CREATE_VM", Dev, k::CREATE_VM, 0),
        value("CHECK_EXTENSION", Dev, k::CHECK_EXTENSION, 3),
        value("GET_VCPU_MMAP_SIZE", Dev, k::GET_VCPU_MMAP_SIZE, 0),
        op(
            "GET_MSR_INDEX_LIST",
            Dev,
            k::GET_MSR_INDEX_LIST,
            |_| words(1000),
            &[],
        ),
        op(
            "GET_MSR_FEATURE_INDEX_LIST",
            Dev,
            k::GET_MSR_FEATURE_INDEX_LIST,
            |_| words(1000),
            &[],
        ),
        op(
            "GET_SUPPORTED_CPUID",
            Dev,
            k::GET_SUPPORTED_CPUID,
            |_| cpuids(256),
            &[("padding", 4, 32)],
        ),
        op(
            "GET_EMULATED_CPUID",
            Dev,
            k::GET_EMULATED_CPUID,
            |_| cpuids(64),
            &[("padding", 4, 32), ("entry padding", 8 + 28, 96)],
        ),
        op(
            "GET_MSRS/dev",
            Dev,
            k::GET_MSRS,
            |_| one_msr(0x8b),
            &[("pad", 4, 32)],
        ),
        op(
            "X86_GET_MCE_CAP_SUPPORTED",
            Dev,
            k::X86_GET_MCE_CAP_SUPPORTED,
            |_| vec![0; 8],
            &[],
        ),
    ]);
}

/// The VM: what is asked of it by number, memory, clock.
fn vm_memory(list: &mut Vec<Op>) {
    use On::Vm;
    list.extend([
        value("CHECK_EXTENSION/vm", Vm, k::CHECK_EXTENSION, 3),
        value("CREATE_VCPU", Vm, k::CREATE_VCPU, 3),
        value("SET_TSS_ADDR", Vm, k::SET_TSS_ADDR, 0xfffb_d000),
        value("SET_NR_MMU_PAGES", Vm, k::SET_NR_MMU_PAGES, 64),
        value("GET_NR_MMU_PAGES", Vm, k::GET_NR_MMU_PAGES, 0),
        value("SET_BOOT_CPU_ID", Vm, k::SET_BOOT_CPU_ID, 0),
        value("GET_TSC_KHZ/vm", Vm, k::GET_TSC_KHZ, 0),
        value("SET_TSC_KHZ/vm", Vm, k::SET_TSC_KHZ, 0),
        op(
            "SET_USER_MEMORY_REGION",
            Vm,
            k::SET_USER_MEMORY_REGION,
            |w| {
                let mut r: kvm_userspace_memory_region = zeroed();
                (r.slot, r.guest_phys_addr, r.memory_size) = (5, 0x4000_0000, 0x1000);
                r.userspace_addr = w.mem.addr() as u64;
                bytes_of(&r)
            },
            &[
                field!(kvm_userspace_memory_region, flags, 32),
                field!(kvm_userspace_memory_region, slot, 32),
            ],
        ),
        op(
            "SET_USER_MEMORY_REGION2",
            Vm,
            k::SET_USER_MEMORY_REGION2,
            |w| {
                let mut r: kvm_userspace_memory_region2 = zeroed();
                (r.slot, r.guest_phys_addr, r.memory_size) = (6, 0x5000_0000, 0x1000);
                r.userspace_addr = w.mem.addr() as u64;
                bytes_of(&r)
            },
            &[
                field!(kvm_userspace_memory_region2, flags, 32),
                field!(kvm_userspace_memory_region2, guest_memfd_offset, 64),
                field!(kvm_userspace_memory_region2, guest_memfd, 32),
                field!(kvm_userspace_memory_region2, pad1, 32),
                field!(kvm_userspace_memory_region2, pad2, 896),
            ],
        ),
        op(
            "CREATE_GUEST_MEMFD",
            Vm,
            k::CREATE_GUEST_MEMFD,
            |_| {
                let mut r: kvm_create_guest_memfd = zeroed();
                (r.size, r.flags) = (0x1000, 1);
                bytes_of(&r)
            },
            &[
                field!(kvm_create_guest_memfd, size, 64),
                field!(kvm_create_guest_memfd, flags, 64),
                field!(kvm_create_guest_memfd, reserved, 384),
            ],
        ),
        op(
            "SET_MEMORY_ATTRIBUTES",
            Vm,
            k::SET_MEMORY_ATTRIBUTES,
            |_| {
                let mut r: kvm_memory_attributes = zeroed();
                (r.address, r.size) = (0x1000, 0x1000);
                bytes_of(&r)
            },
            &[
                field!(kvm_memory_attributes, address, 64),
                field!(kvm_memory_attributes, size, 64),
                field!(kvm_memory_attributes, attributes, 64),
                field!(kvm_memory_attributes, flags, 64),
            ],
        ),
        op(
            "GET_DIRTY_LOG",
            Vm,
            k::GET_DIRTY_LOG,
            |w| {
                let mut d: kvm_dirty_log = zeroed();
                d.slot = LOGGED.0;
                d.__bindgen_anon_1.dirty_bitmap = (w.mem.addr() + 0x10_0000) as *mut _;
                bytes_of(&d)
            },
            &[
                field!(kvm_dirty_log, slot, 32),
                field!(kvm_dirty_log, padding1, 32),
            ],
        )
        .pointing(&[("bitmap", 8)]),
        op(
            "CLEAR_DIRTY_LOG",
            Vm,
            k::CLEAR_DIRTY_LOG,
            |w| {
                let mut d: kvm_clear_dirty_log = zeroed();
                (d.slot, d.num_pages) = (LOGGED.0, super::world::LOGGED_PAGES as u32);
                d.__bindgen_anon_1.dirty_bitmap = (w.mem.addr() + 0x10_0000) as *mut _;
                bytes_of(&d)
            },
            &[
                field!(kvm_clear_dirty_log, slot, 32),
                field!(kvm_clear_dirty_log, num_pages, 32),
                field!(kvm_clear_dirty_log, first_page, 64),
            ],
        )
        .pointing(&[("bitmap", 16)]),
        op(
            "SET_IDENTITY_MAP_ADDR",
            Vm,
            k::SET_IDENTITY_MAP_ADDR,
            |_| bytes_of(&0xfffb_c000u64),
            &[],
        )
        .early(Stage::Empty),
        op(
            "GET_CLOCK",
            Vm,
            k::GET_CLOCK,
            |_| vec![0; size_of::<kvm_clock_data>()],
            &[],
        ),
        op(
            "SET_CLOCK",
            Vm,
            k::SET_CLOCK,
            |_| vec![0; size_of::<kvm_clock_data>()],
            &[
                field!(kvm_clock_data, clock, 64),
                field!(kvm_clock_data, flags, 32),
                field!(kvm_clock_data, pad0, 32),
                field!(kvm_clock_data, realtime, 64),
                field!(kvm_clock_data, host_tsc, 64),
                field!(kvm_clock_data, pad, 128),
            ],
        ),
        op(
            "ENABLE_CAP/vm",
            Vm,
            k::ENABLE_CAP,
            |_| {
                let mut e: kvm_enable_cap = zeroed();
                e.cap = KVM_CAP_EXCEPTION_PAYLOAD;
                bytes_of(&e)
            },
            &[
                field!(kvm_enable_cap, flags, 32),
                field!(kvm_enable_cap, args, 256),
                field!(kvm_enable_cap, pad, 512),
            ],
        ),
    ]);
}

/// The VM's interrupt controllers and eventfds.
fn vm_irq(list: &mut Vec<Op>) {
    use On::Vm;
    list.extend([
        value("CREATE_IRQCHIP", Vm, k::CREATE_IRQCHIP, 0),
        value("CREATE_PIT", Vm, k::CREATE_PIT, 0),
        op(
            "CREATE_PIT2",
            Vm,
            k::CREATE_PIT2,
            |_| vec![0; size_of::<kvm_pit_config>()],
            &[
                field!(kvm_pit_config, flags, 32),
                field!(kvm_pit_config, pad, 480),
            ],
        )
        .early(Stage::Chips),
        op(
            "IRQ_LINE",
            Vm,
            k::IRQ_LINE,
            |_| bytes_of::<kvm_irq_level>(&zeroed()),
            &[("irq", 0, 32), ("level", 4, 32)],
        ),
        op(
            "IRQ_LINE_STATUS",
            Vm,
            k::IRQ_LINE_STATUS,
            |_| bytes_of::<kvm_irq_level>(&zeroed()),
            &[("irq", 0, 32), ("level", 4, 32)],
        ),
        op(
            "GET_IRQCHIP",
            Vm,
            k::GET_IRQCHIP,
            irqchip,
            &[("chip_id", 0, 32), ("pad", 4, 32)],
        ),
        op(
            "SET_IRQCHIP",
            Vm,
            k::SET_IRQCHIP,
            |w| {
                let mut b = irqchip(w);
                w.vm.bytes(k::GET_IRQCHIP, &mut b).is_ok();
                b
            },
            &[("chip_id", 0, 32), ("pad", 4, 32)],
        ),
        op(
            "GET_PIT",
            Vm,
            k::GET_PIT,
            |_| vec![0; size_of::<kvm_pit_state>()],
            &[],
        ),
        op(
            "SET_PIT",
            Vm,
            k::SET_PIT,
            |w| w.state(Vm, k::GET_PIT, size_of::<kvm_pit_state>()),
            &[],
        ),
        op(
            "GET_PIT2",
            Vm,
            k::GET_PIT2,
            |_| vec![0; size_of::<kvm_pit_state2>()],
            &[],
        ),
        op(
            "SET_PIT2",
            Vm,
            k::SET_PIT2,
            |w| w.state(Vm, k::GET_PIT2, size_of::<kvm_pit_state2>()),
            &[
                field!(kvm_pit_state2, flags, 32),
                field!(kvm_pit_state2, reserved, 288),
            ],
        ),
        op(
            "REINJECT_CONTROL",
            Vm,
            k::REINJECT_CONTROL,
            |_| vec![0; size_of::<kvm_reinject_control>()],
            &[field!(kvm_reinject_control, reserved, 248)],
        ),
        op(
            "SET_GSI_ROUTING",
            Vm,
            k::SET_GSI_ROUTING,
            |_| {
                let mut e: kvm_irq_routing_entry = zeroed();
                e.type_ = KVM_IRQ_ROUTING_IRQCHIP;
                guest::list(1, &[e])
            },
            &[
                ("flags", 4, 32),
                ("entry gsi", 8, 32),
                ("entry type", 12, 32),
                ("entry flags", 16, 32),
                ("entry pad", 20, 32),
                ("entry irqchip", 24, 32),
                ("entry pin", 28, 32),
                ("entry rest", 32, 192),
            ],
        ),
        op(
            "SIGNAL_MSI",
            Vm,
            k::SIGNAL_MSI,
            |_| {
                let mut m: kvm_msi = zeroed();
                (m.address_lo, m.data) = (0xfee0_0000, 0x40);
                bytes_of(&m)
            },
            &[
                field!(kvm_msi, flags, 32),
                field!(kvm_msi, devid, 32),
                field!(kvm_msi, address_hi, 32),
                field!(kvm_msi, data, 32),
                field!(kvm_msi, pad, 96),
            ],
        ),
        op(
            "IRQFD",
            Vm,
            k::IRQFD,
            |w| {
                let mut i: kvm_irqfd = zeroed();
                (i.fd, i.gsi) = (w.event.raw() as u32, 5);
                bytes_of(&i)
            },
            &[
                field!(kvm_irqfd, flags, 32),
                field!(kvm_irqfd, gsi, 32),
                field!(kvm_irqfd, pad, 128),
            ],
        ),
        op(
            "IOEVENTFD",
            Vm,
            k::IOEVENTFD,
            |w| {
                let mut i: kvm_ioeventfd = zeroed();
                (i.fd, i.addr, i.len) = (w.event.raw(), 0xe000_0000, 4);
                bytes_of(&i)
            },
            &[
                field!(kvm_ioeventfd, flags, 32),
                field!(kvm_ioeventfd, len, 32),
                field!(kvm_ioeventfd, addr, 64),
                field!(kvm_ioeventfd, datamatch, 64),
                field!(kvm_ioeventfd, pad, 288),
            ],
        ),
        op(
            "REGISTER_COALESCED_MMIO",
            Vm,
            k::REGISTER_COALESCED_MMIO,
            zone,
            &[("pio", 12, 32)],
        ),
        op(
            "UNREGISTER_COALESCED_MMIO",
            Vm,
            k::UNREGISTER_COALESCED_MMIO,
            zone,
            &[("pio", 12, 32)],
        ),
    ]);
}

fn zone(_: &World) -> Vec<u8> {
    let mut z: kvm_coalesced_mmio_zone = zeroed();
    (z.addr, z.size) = (0xe000_1000, 0x100);
    bytes_of(&z)
}

/// All of them.
pub fn all() -> Vec<Op> {
    let mut list = Vec::new();
    dev(&mut list);
    vm_memory(&mut list);
    vm_irq(&mut list);
    vcpu::registers(&mut list);
    vcpu::rest(&mut list);
    attr::all(&mut list);
    list
}
