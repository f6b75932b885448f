// SPDX-License-Identifier: GPL-2.0

//! A vCPU's CPUID: the ioctls that set and get it, and what follows from it.

use super::run::Flow;
use super::Cx;
use crate::backend::Backend;
use crate::exit::raise;
use crate::host_caps;
use core::ops::ControlFlow;
use kernel::prelude::*;
use model::abi;
use model::abi::KvmCpuid2;
use model::abi::KvmCpuidEntry;
use model::abi::KvmCpuidEntry2;
use model::policy::cpuid::MAX_ENTRIES;
use model::policy::guest;
use model::policy::guest::GuestFeatures;
use model::policy::guest::Hide;
use model::policy::guest::RuntimeState;
use model::x86::exception::Exception;
use model::x86::state::gpr;

/// The CPUID of one vCPU. Guarded by the vCPU mutex.
pub(crate) struct Cpuid {
    entries: KVVec<KvmCpuidEntry2>,
    /// What follows from the entries.
    pub(crate) features: GuestFeatures,
    /// A register changed that bits of the entries follow.
    stale: bool,
    runtime: RuntimeState,
    hide: Hide,
}

impl Cpuid {
    /// No entries: a processor without any feature.
    pub(crate) fn new() -> Self {
        Self {
            entries: KVVec::new(),
            features: GuestFeatures::empty(),
            stale: false,
            runtime: RuntimeState::default(),
            hide: Hide::default(),
        }
    }

    /// Leaf 1 EAX, or what the in-tree module puts into RDX at reset when there is no leaf 1.
    pub(crate) fn signature(&self) -> u64 {
        // KVM: 0x600 is a processor of family 6.
        guest::find(&self.entries, 1).map_or(0x600, |e| u64::from(e.eax))
    }

    /// May these bits of CR4 be set?
    pub(crate) fn valid_cr4(&self, v: u64) -> bool {
        v & !self.features.cr4 == 0
    }

    /// Is this an address that the guest's physical address space has?
    pub(crate) fn legal_gpa(&self, gpa: u64) -> bool {
        gpa & self.features.reserved_gpa_bits() == 0
    }

    /// Registers changed that some bits follow.
    pub(crate) fn update_runtime(&mut self, cr4: u64, apic_base: u64, xcr0: u64) {
        let new = RuntimeState {
            cr4,
            apic_base,
            xcr0,
            ..self.runtime
        };
        if new != self.runtime {
            self.runtime = new;
            self.stale = true;
        }
    }

    /// The guest hides TSX from itself, or does no longer (IA32_TSX_CTRL, bit 1).
    pub(crate) fn hide_tsx(&mut self, hidden: bool) {
        self.hide.tsx = hidden;
    }

    /// IA32_MISC_ENABLE or IA32_XSS changed.
    pub(crate) fn update_msrs(&mut self, misc_enable: u64, xss: u64) {
        if self.runtime.misc_enable != misc_enable || self.runtime.xss != xss {
            self.runtime.misc_enable = misc_enable;
            self.runtime.xss = xss;
            self.stale = true;
        }
    }

    fn refresh(&mut self) {
        if self.stale {
            self.stale = false;
            if let Some(h) = host_caps::get() {
                self.features
                    .refresh(self.entries.as_mut_slice(), &h.supported, &self.runtime);
            }
        }
    }

    /// The answer to CPUID.
    fn lookup(&mut self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.refresh();
        // Most questions have an entry of their own.
        if let Some(e) = guest::find_sub(&self.entries, leaf, subleaf) {
            if leaf != 7 {
                return [e.eax, e.ebx, e.ecx, e.edx];
            }
        }
        guest::lookup(&self.entries, leaf, subleaf, self.hide).regs
    }
}

/// The CPUID instruction.
#[inline(never)]
pub(crate) fn execute<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    if cx.st.msrs.state.cpuid_faults_in_user_mode() && !allowed(cx) {
        return raise(cx, Exception::gp0());
    }
    let regs = V::regs(cx.l);
    // CAST: CPUID looks at the low halves.
    let (leaf, subleaf) = (regs.gpr[gpr::RAX] as u32, regs.gpr[gpr::RCX] as u32);
    let [a, b, c, d] = cx.st.cpuid.lookup(leaf, subleaf);
    host::trace::cpuid(leaf, subleaf, [a, b, c, d]);
    let regs = V::regs_mut(cx.l);
    regs.gpr[gpr::RAX] = u64::from(a);
    regs.gpr[gpr::RBX] = u64::from(b);
    regs.gpr[gpr::RCX] = u64::from(c);
    regs.gpr[gpr::RDX] = u64::from(d);
    super::fetch::skip(cx)?;
    ControlFlow::Continue(())
}

/// Where CPUID faults in user mode: may it be executed now?
#[inline(never)]
pub(crate) fn allowed<V: Backend>(cx: &Cx<'_, '_, V>) -> bool {
    !cx.st.msrs.state.cpuid_faults_in_user_mode() || cx.st.smm.active() || V::cpl(cx.l) == 0
}

/// The answer to CPUID, for the emulator.
pub(crate) fn answer(st: &mut super::state::State, leaf: u32, subleaf: u32) -> [u32; 4] {
    st.cpuid.lookup(leaf, subleaf)
}

/// KVM_SET_CPUID2. After the first KVM_RUN only the same set is accepted.
pub(crate) fn set2<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let head: KvmCpuid2 = host::uaccess::read_user(arg)?;
    let n = head.nent as usize;
    if n > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let at = arg.wrapping_add(size_of::<KvmCpuid2>());
    let entries = host::uaccess::read_user_vec::<KvmCpuidEntry2>(at, n)?;
    install(cx, entries)
}

/// KVM_SET_CPUID: the form without subleaves.
pub(crate) fn set<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let head: abi::KvmCpuid = host::uaccess::read_user(arg)?;
    let n = head.nent as usize;
    if n > MAX_ENTRIES {
        return Err(E2BIG);
    }
    let at = arg.wrapping_add(size_of::<abi::KvmCpuid>());
    let old = host::uaccess::read_user_vec::<KvmCpuidEntry>(at, n)?;
    let mut entries = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
    for e in old.iter() {
        entries.push(guest::from_legacy(e), GFP_KERNEL_ACCOUNT)?;
    }
    install(cx, entries)
}

fn install<V: Backend>(cx: &mut Cx<'_, '_, V>, mut entries: KVVec<KvmCpuidEntry2>) -> Result {
    let h = host_caps::get().ok_or(ENODEV)?;
    let hlt = cx.vm.base.caps.disabled_exits() & abi::KVM_X86_DISABLE_EXITS_HLT != 0;
    let cpuid = &mut cx.st.cpuid;
    if cx.st.ran {
        cpuid.refresh();
        // The bits that follow registers must be compared in the same state.
        let mut probe = cpuid.features.clone();
        probe.refresh(entries.as_mut_slice(), &h.supported, &cpuid.runtime);
        guest::pv_features(&mut entries, hlt);
        return if guest::same(&entries, &cpuid.entries) {
            Ok(())
        } else {
            Err(EINVAL)
        };
    }
    let dynamic = guest::check(&entries).map_err(|_| EINVAL)?;
    if dynamic & !h.supported.xcr0 != 0 {
        return Err(EINVAL);
    }
    cpuid.runtime.mwait_follows_misc_enable = !cx
        .vm
        .base
        .caps
        .quirk(abi::KVM_X86_QUIRK_MISC_ENABLE_NO_MWAIT);
    cpuid.features =
        GuestFeatures::derive(entries.as_mut_slice(), &h.supported, &cpuid.runtime, hlt);
    cpuid.entries = entries;
    cpuid.stale = false;
    cx.cpuid_changed();
    Ok(())
}

/// KVM_GET_CPUID2. E2BIG if user space's list is too short.
pub(crate) fn get2<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let mut head: KvmCpuid2 = host::uaccess::read_user(arg)?;
    cx.st.cpuid.refresh();
    let entries = &cx.st.cpuid.entries;
    let fits = head.nent as usize >= entries.len();
    // KVM: the number is not written when the list is too short.
    if !fits {
        return Err(E2BIG);
    }
    // CAST: at most 256.
    head.nent = entries.len() as u32;
    let at = arg.wrapping_add(size_of::<KvmCpuid2>());
    host::uaccess::write_user(at, entries.as_slice())?;
    host::uaccess::write_user(arg, &head)
}
