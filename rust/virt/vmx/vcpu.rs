// SPDX-License-Identifier: GPL-2.0

//! The two halves of a vCPU, and its state after RESET and INIT.

use super::bitmap::MsrMap;
use super::caps::Module;
use super::check::Checked;
use super::inject::Events;
use super::pml::Log;
use super::vmcs;
use super::vmcs::Vmcs;
use super::vpid::Vpid;
use super::Vmx;
use crate::c;
use crate::entry::Entry;
use crate::presence::Presence;
use crate::tdp::RootRef;
use crate::tdp::Tlb;
use crate::vendor::private::HasEntry;
use crate::vendor::private::Resident;
use core::cell::Cell;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use host::page::HwPage;
use host::page::PageOf;
use host::pin::PinnedCpu;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::irqchip::pending::Pending;
use model::vmx::ctrl::eptp;
use model::vmx::ctrl::pack_rights;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc;
use model::vmx::ctrl::proc2;
use model::vmx::field;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::dr6;
use model::x86::ctrl::dr7;
use model::x86::ctrl::rflags;
use model::x86::exception;
use model::x86::state::DescTable;
use model::x86::state::SegReg;
use model::x86::state::Segment;

/// What the vCPUs of a VM share.
pub struct Vm {
    /// The guest-physical address of the page directory that maps every address to itself, on
    /// processors that need one; 0 before there is one.
    pub(super) identity_map: Option<AtomicU64>,
    /// Stands for the registers of the local APIC. Nothing is ever in it.
    pub(super) apic_access: Option<Arc<HwPage>>,
}

impl Vm {
    pub(super) fn new(m: &Module) -> Result<Self> {
        Ok(Self {
            identity_map: (!m.cfg.unrestricted).then(|| AtomicU64::new(0)),
            apic_access: if m.cfg.proc2(proc2::APIC_ACCESSES) {
                Some(Arc::new(HwPage::new()?, GFP_KERNEL_ACCOUNT)?)
            } else {
                None
            },
        })
    }
}

/// What the scheduler hook reaches.
pub struct Cpu {
    /// Pairs the two halves; no other vCPU ever had it.
    pub(super) id: u64,
    pub(super) presence: Presence,
    /// The VMCS was not on this CPU before; translations may be stale.
    pub(super) moved: AtomicBool,
    vmcs: Arc<Vmcs>,
}

impl Resident for Cpu {
    #[inline]
    fn presence(&self) -> &Presence {
        &self.presence
    }

    #[inline]
    fn load(&self, cpu: &PinnedCpu<'_>) {
        if self.vmcs.load(cpu) {
            self.moved.store(true, Relaxed);
        }
    }

    #[inline]
    fn put(&self, cpu: &PinnedCpu<'_>) {
        self.vmcs.put(cpu);
    }
}

/// System call MSRs. Software has the values; the registers do while the guest can use them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Syscall {
    pub(super) star: u64,
    pub(super) lstar: u64,
    pub(super) cstar: u64,
    pub(super) mask: u64,
    pub(super) tsc_aux: u64,
}

/// Fields read since the last exit. Writing goes to the VMCS and here.
#[derive(Debug, Default)]
pub(super) struct Cache {
    valid: Cell<u32>,
    pub(super) rip: Cell<u64>,
    pub(super) rsp: Cell<u64>,
    pub(super) rflags: Cell<u64>,
    pub(super) cr0: Cell<u64>,
    pub(super) interruptibility: Cell<u32>,
    pub(super) cs_rights: Cell<u32>,
    pub(super) ss_rights: Cell<u32>,
    pub(super) qualification: Cell<u64>,
}

/// Bits of [`Cache::valid`].
pub(super) mod cached {
    pub(crate) const RIP: u32 = 1 << 0;
    pub(crate) const RSP: u32 = 1 << 1;
    pub(crate) const RFLAGS: u32 = 1 << 2;
    pub(crate) const CR0: u32 = 1 << 3;
    pub(crate) const INTERRUPTIBILITY: u32 = 1 << 4;
    pub(crate) const CS_RIGHTS: u32 = 1 << 5;
    pub(crate) const SS_RIGHTS: u32 = 1 << 6;
    pub(crate) const QUALIFICATION: u32 = 1 << 7;
}

impl Cache {
    /// The guest ran.
    #[inline]
    pub(super) fn forget(&self) {
        self.valid.set(0);
    }

    /// Is the slot filled?
    pub(super) fn has(&self, bit: u32) -> bool {
        self.valid.get() & bit != 0
    }

    /// One of the slots, filled by `read` if it is empty.
    #[inline]
    pub(super) fn get<T: Copy>(&self, bit: u32, slot: &Cell<T>, read: impl FnOnce() -> T) -> T {
        let valid = self.valid.get();
        if valid & bit == 0 {
            slot.set(read());
            self.valid.set(valid | bit);
        }
        slot.get()
    }

    /// Fills a slot.
    #[inline]
    pub(super) fn put<T>(&self, bit: u32, slot: &Cell<T>, v: T) {
        slot.set(v);
        self.valid.set(self.valid.get() | bit);
    }

    /// A field was written without its slot.
    #[inline]
    pub(super) fn drop_slot(&self, bit: u32) {
        self.valid.set(self.valid.get() & !bit);
    }
}

/// The VMCS, the registers it does not hold, and copies of the control words.
///
/// Every method that reaches the VMCS runs while the vCPU is loaded.
pub struct Vcpu {
    pub(super) entry: Entry,
    pub(super) run: c::kvmrs_vmx_run,
    pub(super) cache: Cache,
    pub(super) vmcs: Arc<Vmcs>,
    pub(super) m: &'static Module,
    pub(super) id: u64,
    pub(super) root: RootRef<Vmx>,
    pub(super) eptp: u64,
    pub(super) tlb: Tlb,
    /// The translations of the VPID have to go before the next entry.
    pub(super) flush_linear: bool,
    /// [`super::inject::work`]: what the next exit has to do besides.
    pub(super) work: u8,
    /// Where the vCPU was entered last; `u32::MAX` before the first time.
    pub(super) last_cpu: u32,
    /// Control words as the VMCS has them.
    pub(super) pin: u32,
    pub(super) proc: u32,
    pub(super) proc2: u32,
    pub(super) entry_controls: u32,
    /// CR0 and CR4 as the guest sees them; bits of CR0 that it owns are in the VMCS.
    pub(super) cr0: u64,
    pub(super) cr4: u64,
    pub(super) efer: u64,
    /// CR3 as the guest sees it while hardware has the identity map.
    pub(super) cr3: u64,
    /// The page directory of the identity map, a guest-physical address.
    pub(super) identity_map: u64,
    /// Whether hardware can run the guest as it is; asked again when that may have changed.
    pub(super) runnable: Cell<Option<bool>>,
    /// Host TSC at which the preemption timer is to expire; `u64::MAX` for never.
    pub(super) deadline: u64,
    /// Ticks that the guest may spin; as the VMCS has it.
    pub(super) pause_window: u32,
    /// DR6 of the guest while debug registers trap.
    pub(super) dr6: u64,
    pub(super) pat: u64,
    pub(super) syscall: Syscall,
    /// IA32_TSX_CTRL.
    pub(super) tsx_ctrl: u64,
    /// CR8 where hardware does not keep it.
    pub(super) tpr: u8,
    pub(super) trap: Traps,
    pub(super) events: Events,
    /// VM-instruction error of the last entry, if the instruction failed.
    pub(super) failure: u32,
    pub(super) msr_map: MsrMap,
    /// The virtual-APIC page, of which the task priority is used.
    pub(super) vapic: Arc<HwPage>,
    /// The page at whose accesses hardware turns to that one.
    pub(super) apic_access: Option<Arc<HwPage>>,
    /// The local APIC has its registers there, too.
    pub(super) apic_shared: bool,
    /// The mailbox that hardware looks into.
    pub(super) mailbox: Option<Arc<PageOf<Pending>>>,
    pub(super) vpid: Option<Vpid>,
    /// The log of written pages, where the processor writes one.
    pub(super) pml: Option<Log>,
    /// What entries and exits load for the host's perf, where there are counters.
    perf: Option<HwPage>,
    pub(super) checked: Option<KBox<Checked>>,
}

/// Traps that several reasons can switch on.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "a switch for each trap")]
pub(super) struct Traps {
    pub(super) tables: bool,
    pub(super) hlt: bool,
}

impl HasEntry for Vcpu {
    #[inline]
    fn entry(&self) -> &Entry {
        &self.entry
    }

    #[inline]
    fn entry_mut(&mut self) -> &mut Entry {
        &mut self.entry
    }

    #[inline]
    fn tlb(&self) -> &Tlb {
        &self.tlb
    }
}

/// The pages of a vCPU that hardware is told of.
struct Pages {
    vmcs: Arc<Vmcs>,
    msr_map: MsrMap,
    vapic: Arc<HwPage>,
    apic_access: Option<Arc<HwPage>>,
    pml: Option<Log>,
    perf: Option<HwPage>,
}

#[inline(never)]
fn pages(m: &Module, vm: &Vm) -> Result<Pages> {
    Ok(Pages {
        vmcs: Vmcs::new(m.revision())?,
        msr_map: MsrMap::new()?,
        vapic: Arc::new(HwPage::new()?, GFP_KERNEL_ACCOUNT)?,
        apic_access: vm.apic_access.clone(),
        pml: if m.cfg.proc2(proc2::PML) {
            Some(Log::new()?)
        } else {
            None
        },
        perf: m.perf.then(HwPage::new).transpose()?,
    })
}

/// Makes both halves.
pub(super) fn new(m: &'static Module, vm: &Vm) -> Result<(Vcpu, Cpu)> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Relaxed);
    let pages = pages(m, vm)?;
    let vmcs = pages.vmcs.clone();
    let mut vcpu = blank(m, vm, id, pages);
    if crate::check::on() {
        vcpu.checked = Some(Checked::new()?);
    }
    vmcs.with_current(|| {
        vcpu.init();
        vcpu.reset(false);
    })?;
    let cpu = Cpu {
        id,
        presence: Presence::new(),
        moved: AtomicBool::new(true),
        vmcs,
    };
    Ok((vcpu, cpu))
}

/// A vCPU before anything is in its VMCS. On its own, for the sake of the caller's stack frame.
#[inline(never)]
fn blank(m: &'static Module, vm: &Vm, id: u64, pages: Pages) -> Vcpu {
    Vcpu {
        entry: Entry::new(core::ptr::null_mut(), 0),
        run: c::kvmrs_vmx_run {
            host_rsp: 0,
            host_cr3: 0,
            host_cr4: 0,
            cr2: 0,
            dr6: dr6::INIT,
            reason: 0,
            vectoring: 0,
            intr_info: 0,
            failed: 0,
            perf_msrs: 0,
            perf: 0,
        },
        cache: Cache::default(),
        vmcs: pages.vmcs,
        m,
        id,
        root: m.empty.clone(),
        eptp: 0,
        tlb: Tlb::new(),
        flush_linear: true,
        work: 0,
        last_cpu: u32::MAX,
        pin: 0,
        proc: 0,
        proc2: 0,
        entry_controls: 0,
        cr0: 0,
        cr4: 0,
        efer: 0,
        cr3: 0,
        identity_map: vm.identity_map.as_ref().map_or(0, |a| a.load(Relaxed)),
        runnable: Cell::new(None),
        deadline: u64::MAX,
        pause_window: m.pause.window.least,
        dr6: dr6::INIT,
        pat: PAT_RESET,
        syscall: Syscall::default(),
        tsx_ctrl: 0,
        tpr: 0,
        trap: Traps {
            tables: false,
            hlt: true,
        },
        events: Events::default(),
        failure: 0,
        msr_map: pages.msr_map,
        vapic: pages.vapic,
        apic_access: pages.apic_access,
        apic_shared: false,
        mailbox: None,
        vpid: match m.cfg.invvpid {
            Some(_) => Vpid::take(&m.vpids),
            None => None,
        },
        pml: pages.pml,
        perf: pages.perf,
        checked: None,
    }
}

/// IA32_PAT after RESET (`SDM: vol 3, 13.12.4`).
const PAT_RESET: u64 = 0x0007_0406_0007_0406;

/// Exceptions that exit always. A guest can make the delivery of `#DB` and `#AC` go round for ever,
/// and nothing interrupts that; a machine check is the host's.
pub(super) const EXCEPTIONS: u32 = 1 << exception::DB | 1 << exception::AC | 1 << exception::MC;

/// Bits of CR0 that the guest changes without an exit.
pub(super) const CR0_OWNED: u64 = cr0::TS;

/// Bits of CR4 that the guest changes without an exit: those every processor has.
pub(super) const CR4_OWNED: u64 = cr4::TSD | cr4::DE | cr4::PCE;

/// Where a page of 4096 bytes has the task priority (`SDM: vol 3, 30.1.1`).
pub(super) const VTPR: usize = 0x80 / 4;

impl Vcpu {
    /// Writes what never changes: the host's state and what points to our pages.
    #[inline(never)]
    fn init(&mut self) {
        // SAFETY: The VMCS is current, and cleared: nothing of it was ever used.
        unsafe { c::kvmrs_vmx_init_host(&mut self.run) };
        if let Some(p) = &self.perf {
            // SAFETY: The VMCS is current. It and the page go together, with this vCPU, and entries
            // take `&mut` of it.
            unsafe { c::kvmrs_vmx_perf_init(&mut self.run, p.as_ptr().cast()) };
        }
        let w = vmcs::write::<field::W32>;
        let m = self.m;
        w(field::EXIT_CONTROLS, m.cfg.exit);
        w(field::PF_ERROR_MASK, 0);
        w(field::PF_ERROR_MATCH, 0);
        w(field::CR3_TARGET_COUNT, 0);
        w(field::EXIT_MSR_STORE_COUNT, 0);
        w(field::EXIT_MSR_LOAD_COUNT, 0);
        w(field::ENTRY_MSR_LOAD_COUNT, 0);
        vmcs::write(field::LINK_POINTER, u64::MAX);
        vmcs::write(field::MSR_BITMAP, self.msr_map.hw_pa());
        if m.cfg.proc(proc::TPR_SHADOW) {
            vmcs::write(field::VIRTUAL_APIC_PAGE, self.vapic.hw_pa());
            w(field::TPR_THRESHOLD, 0);
        }
        if let Some(page) = &self.apic_access {
            vmcs::write(field::APIC_ACCESS_PAGE, page.hw_pa());
        }
        if m.cfg.apicv {
            self.set_eoi_exits(&[u64::MAX; 4]);
        }
        if m.cfg.proc2(proc2::PAUSE_LOOP_EXITING) {
            w(field::PLE_GAP, m.pause.gap);
            w(field::PLE_WINDOW, self.pause_window);
        }
        if m.cfg.proc2(proc2::XSAVES) {
            vmcs::write(field::XSS_EXIT_BITMAP, 0);
        }
        if m.cfg.proc2(proc2::ENCLS_EXITING) {
            vmcs::write(field::ENCLS_EXIT_BITMAP, u64::MAX);
        }
        if let Some(vpid) = &self.vpid {
            vmcs::write(field::VPID, vpid.number());
        }
        vmcs::write(field::CR0_MASK, !CR0_OWNED);
        vmcs::write(field::CR4_MASK, !CR4_OWNED);
        self.write_root();
    }

    /// The root of the nested page tables.
    pub(super) fn write_root(&mut self) {
        let five = self.m.is_five(self.root.config());
        self.eptp = eptp(self.root.hw_pa(), five, self.m.cfg.ad);
        vmcs::write(field::EPT_POINTER, self.eptp);
    }

    /// Sets the pin-based controls.
    #[inline]
    pub(super) fn set_pin(&mut self, v: u32) {
        if self.pin != v {
            self.pin = v;
            vmcs::write(field::PIN_CONTROLS, v);
        }
    }

    /// Sets the primary controls.
    #[inline]
    pub(super) fn set_proc(&mut self, v: u32) {
        if self.proc != v {
            self.proc = v;
            vmcs::write(field::PROC_CONTROLS, v);
        }
    }

    /// Sets the secondary controls.
    pub(super) fn set_proc2(&mut self, v: u32) {
        if self.proc2 != v {
            self.proc2 = v;
            vmcs::write(field::PROC2_CONTROLS, v);
        }
    }

    /// Switches a primary control.
    pub(super) fn set_proc_bit(&mut self, bit: u32, on: bool) {
        let v = if on {
            self.proc | bit
        } else {
            self.proc & !bit
        };
        self.set_proc(v);
    }

    /// Puts the VMCS and the registers into the state of RESET, or of INIT (`SDM: vol 3, 10.1.1`),
    /// which keeps the MSRs and the caching bits of CR0.
    #[inline(never)]
    pub(super) fn reset(&mut self, init: bool) {
        let caching = if init {
            self.cr0 & (cr0::CD | cr0::NW)
        } else {
            cr0::CD | cr0::NW
        };
        self.cache.forget();
        self.reset_controls();
        self.reset_segments();
        self.entry.reset(init);
        self.run.cr2 = 0;
        self.run.dr6 = dr6::INIT;
        self.dr6 = dr6::INIT;
        self.work = 0;
        self.events = Events::default();
        self.trap = Traps {
            tables: false,
            hlt: true,
        };
        vmcs::write(field::GUEST_DR7, dr7::INIT);
        vmcs::write(field::GUEST_RFLAGS, rflags::FIXED);
        vmcs::write(field::GUEST_RIP, 0xfff0);
        vmcs::write(field::GUEST_RSP, 0);
        vmcs::write(field::GUEST_INTERRUPTIBILITY, 0);
        vmcs::write(field::GUEST_ACTIVITY, 0);
        vmcs::write(field::GUEST_PENDING_DEBUG, 0);
        vmcs::write(field::GUEST_DEBUGCTL, 0);
        vmcs::write(field::ENTRY_INTR_INFO, 0);
        self.set_cr3(0);
        self.set_efer(0);
        self.set_cr0(caching | cr0::ET);
        self.set_cr4(0);
        self.set_cr8(0);
        if !init {
            self.reset_msrs();
            self.msr_map.close();
            self.set_tsc(0, 1 << super::caps::TSC_FRAC_BITS);
        }
        self.flush_linear = true;
    }

    fn reset_controls(&mut self) {
        let mut proc = self.m.cfg.proc | proc::CR8_LOAD_EXITING;
        if proc & proc::TPR_SHADOW != 0 {
            proc &= !proc::CR8_STORE_EXITING;
        }
        let mut proc2 = self.m.cfg.proc2
            & !(proc2::RDTSCP
                | proc2::INVPCID
                | proc2::XSAVES
                | proc2::DESC_EXITING
                | proc2::BUS_LOCK_DETECTION
                | proc2::PML
                | proc2::APIC_ACCESSES
                | proc2::APIC_REGISTER_VIRT
                | proc2::VIRT_INTR_DELIVERY
                | proc2::X2APIC_MODE);
        if self.vpid.is_none() {
            proc2 &= !proc2::VPID;
        }
        // Whatever the VMCS has: write them.
        self.pin = self.m.cfg.pin & !(pin::PREEMPTION_TIMER | pin::POSTED_INTERRUPTS);
        // Without the mode the MSRs would be the host's.
        self.open_x2apic(false);
        self.deadline = u64::MAX;
        vmcs::write(field::PIN_CONTROLS, self.pin);
        self.proc = proc;
        self.proc2 = proc2;
        self.entry_controls = self.m.cfg.entry;
        vmcs::write(field::PROC_CONTROLS, proc);
        vmcs::write(field::PROC2_CONTROLS, proc2);
        vmcs::write(field::ENTRY_CONTROLS, self.entry_controls);
        vmcs::write(field::EXCEPTION_BITMAP, EXCEPTIONS);
    }

    fn reset_segments(&mut self) {
        for r in SegReg::ALL {
            let s = match r {
                SegReg::Cs => Segment {
                    selector: 0xf000,
                    attr: 0x9b,
                    limit: 0xffff,
                    base: 0xffff_0000,
                    unusable: false,
                },
                SegReg::Ldtr => Segment {
                    attr: 0x82,
                    limit: 0xffff,
                    ..Segment::default()
                },
                SegReg::Tr => Segment {
                    attr: 0x8b,
                    limit: 0xffff,
                    ..Segment::default()
                },
                _ => Segment::real_mode(0, false),
            };
            self.set_seg(r, &s);
        }
        for idt in [false, true] {
            self.set_desc_table(
                idt,
                DescTable {
                    base: 0,
                    limit: 0xffff,
                },
            );
        }
    }

    fn reset_msrs(&mut self) {
        vmcs::write(field::GUEST_SYSENTER_CS, 0);
        vmcs::write(field::GUEST_SYSENTER_ESP, 0);
        vmcs::write(field::GUEST_SYSENTER_EIP, 0);
        self.pat = PAT_RESET;
        vmcs::write(field::GUEST_PAT, PAT_RESET);
        self.syscall = Syscall::default();
        self.set_kernel_gs(0);
    }

    /// Access rights of a segment register that is going to be written.
    pub(super) fn rights_of(r: SegReg, s: &Segment) -> u32 {
        let mut s = *s;
        // What is cached has been accessed, whatever the descriptor says; hardware insists.
        if r != SegReg::Ldtr && !s.unusable {
            s.attr |= 1;
        }
        pack_rights(&s)
    }
}
