// SPDX-License-Identifier: GPL-2.0

//! A vCPU and its interrupts: the local APIC, the PIC behind it, or user space's controller.

use super::state::Apic;
use super::Cx;
use crate::backend::Backend;
use crate::irq::chips;
use crate::irq::deliver;
use kernel::prelude::*;
use model::abi::run as at;
use model::abi::KVM_MSR_ENABLED;
use model::addr::Gpa;
use model::exit::EventKind;
use model::irqchip::lapic::Effects;
use model::irqchip::lapic::Reset;
use model::irqchip::targets::Peers;
use virt::vendor::Trap;
use virt::vendor::Window;

impl<V: Backend> Cx<'_, '_, V> {
    /// Takes what others posted to the mailbox.
    #[inline]
    pub(crate) fn pull(&mut self) {
        let shared = &*self.vcpu.shared;
        if let Some(apic) = &mut self.st.apic {
            apic.pull(&shared.pending);
        }
        let ev = shared.pending.take_events();
        if !ev.is_empty() {
            self.events(ev);
        }
    }

    #[inline(never)]
    fn events(&mut self, ev: model::irqchip::pending::Events) {
        if ev.init() {
            self.st.init_latched = true;
            // An INIT takes the place of a SIPI that came before it.
            self.st.sipi_latched = None;
        }
        if let Some(vector) = ev.sipi() {
            self.st.sipi_latched = Some(vector);
        }
        let nmis = self.st.events.nmi_pending.saturating_add(ev.nmis());
        // One may wait while another is being handled; more are lost, as in hardware.
        let most = if V::nmi_blocked(self.l) { 1 } else { 2 };
        self.st.events.nmi_pending = nmis.min(most);
        if ev.timer() {
            self.deadline_reached();
        }
        if ev.smi() {
            self.st.smm.pending = true;
        }
        if ev.unhalt() {
            self.st.unhalted = true;
        }
    }

    /// Do all interrupt controllers of the vCPU say, without being looked into, that nothing waits,
    /// nor an end that could be offered by memory?
    #[inline]
    pub(crate) fn has_quiet_chips(&self) -> bool {
        let irq = &self.vm.base.irq;
        let pv_eoi = self.st.msrs.state.pv_eoi & KVM_MSR_ENABLED != 0;
        let quiet = |a: &Apic| a.is_quiet() && (!pv_eoi || a.serves_none());
        self.st.apic.as_ref().is_some_and(quiet) && irq.is_full() && !irq.pic_output()
    }

    /// Does an interrupt wait that the task priority lets through?
    #[inline]
    pub(crate) fn has_interrupt(&mut self) -> bool {
        if self.has_extint() {
            return true;
        }
        match &mut self.st.apic {
            // Hardware delivers it.
            Some(apic) if apic.is_accelerated() => false,
            Some(apic) => apic.next_vector().is_some(),
            None => false,
        }
    }

    /// The same, whoever delivers it.
    fn interrupt_waits(&mut self) -> bool {
        self.has_extint()
            || self
                .st
                .apic
                .as_mut()
                .is_some_and(|apic| apic.next_vector().is_some())
    }

    /// Does the PIC, or user space's controller, ask for this vCPU, and does LINT0 let it?
    #[inline]
    fn has_extint(&self) -> bool {
        let asks = self.st.events.user_interrupt.is_some() || self.vm.base.irq.pic_output();
        asks && self.accepts_pic()
    }

    /// Does a local APIC in the kernel let the PIC through? Without one nothing is in its way.
    #[inline]
    fn accepts_pic(&self) -> bool {
        self.st.apic.as_ref().is_none_or(Apic::accepts_pic)
    }

    /// Takes the interrupt that is due.
    pub(crate) fn take_interrupt(&mut self) -> Option<u8> {
        if self.has_extint() {
            if let Some(v) = self.st.events.user_interrupt.take() {
                return Some(v);
            }
            if let Some(v) = chips::acknowledge_pic(&self.vm.base) {
                return Some(v);
            }
        }
        let apic = self.st.apic.as_mut()?;
        if apic.is_accelerated() {
            return None;
        }
        let v = apic.next_vector()?;
        apic.ack(v);
        Some(v)
    }

    /// An interrupt that was taken and did not get to its handler waits again: in the local APIC, or
    /// if that did not ask for it, as one of the PIC's or of user space's controller.
    pub(crate) fn put_back(&mut self, vector: u8) {
        if self.st.apic.as_mut().is_some_and(|apic| apic.unack(vector)) {
            return;
        }
        if self.accepts_pic() {
            self.st.events.user_interrupt.get_or_insert(vector);
        }
    }

    /// Can the guest take an interrupt now?
    #[inline]
    pub(crate) fn interrupts_allowed(&self) -> bool {
        V::window_open(self.l, Window::Interrupt)
    }

    /// Is there anything that ends a halt?
    pub(crate) fn has_event(&mut self) -> bool {
        self.st.events.exception.is_some()
            || self.st.events.injected.is_some()
            || (self.st.init_latched && !self.st.smm.active())
            || self.st.smm.due()
            || (self.st.events.nmi_pending > 0 && V::window_open(self.l, Window::Nmi))
            || (self.interrupts_allowed() && self.interrupt_waits())
    }

    /// Did user space ask to be told when the guest can take an interrupt?
    pub(crate) fn user_wants_window(&self) -> bool {
        !self.vm.base.irqchip_full()
            && self.vcpu.run.read_u8(at::REQUEST_INTERRUPT_WINDOW) != 0
            && self.accepts_pic()
    }

    /// Could user space queue an interrupt that would be taken at once?
    pub(crate) fn ready_for_interrupt(&self) -> bool {
        self.interrupts_allowed()
            && self.accepts_pic()
            && !self.st.events.reinjects()
            && self.st.events.exception.is_none()
            && self.st.events.user_interrupt.is_none()
    }

    /// The interrupt on its way that KVM_GET_VCPU_EVENTS and KVM_GET_SREGS show.
    pub(crate) fn interrupt_shown(&self) -> Option<u8> {
        match self.st.events.injected {
            Some(i) if i.kind == EventKind::Interrupt => Some(i.vector),
            _ if self.shows_waiting_vector() => self.st.events.user_interrupt,
            _ => None,
        }
    }

    /// Is a vector that waits one of those events, which setting them replaces? With all controllers
    /// in the kernel it is one that the PIC has handed out already.
    ///
    /// KVM: one that KVM_INTERRUPT queued behind a local APIC in the kernel is not. The events do not
    /// show it, and setting them leaves it alone.
    pub(crate) fn shows_waiting_vector(&self) -> bool {
        self.st.apic.is_none() || self.vm.base.irqchip_full()
    }

    /// Makes CR8 writes exit while an interrupt waits for a lower priority than the task's. Without
    /// a local APIC in the kernel they always do.
    pub(crate) fn update_cr8_trap(&mut self) {
        let Some(apic) = &mut self.st.apic else {
            return;
        };
        if apic.is_accelerated() {
            // Hardware sees to it.
            self.st.cr8_trap = false;
            return;
        }
        let trap = match apic.highest_requested() {
            // Masked by the task priority: its class is not above the priority's.
            Some(v) => u64::from(v >> 4) <= V::cr8(self.l),
            None => false,
        };
        if trap != self.st.cr8_trap {
            self.st.cr8_trap = trap;
            V::set_trap(self.l, Trap::Cr8Write, trap);
        }
    }

    /// Brings the APIC's task priority up to what the guest wrote to CR8 without an exit.
    #[inline]
    pub(crate) fn sync_cr8(&mut self) {
        let hw = V::cr8(self.l);
        if let Some(apic) = &mut self.st.apic {
            if u64::from(apic.cr8()) != hw {
                // CAST: four bits.
                let e = apic.set_cr8(hw as u8);
                self.apply(&e);
            }
        }
    }

    /// Takes over the task priority that the guest wrote to its virtual APIC word.
    #[inline(never)]
    pub(crate) fn vapic_after_exit(&mut self) {
        let Ok(word) = self.vm.base.read_guest_val::<u32>(Gpa(self.st.vapic)) else {
            return;
        };
        if let Some(apic) = &mut self.st.apic {
            let e = apic.sync_from_vapic(word);
            self.apply(&e);
        }
    }

    /// Tells the guest, through its virtual APIC word, what waits for a lower priority.
    #[inline(never)]
    pub(crate) fn vapic_before_entry(&mut self) {
        if let Some(apic) = &mut self.st.apic {
            let word = apic.vapic_word();
            let _ = self.vm.base.write_guest_val(Gpa(self.st.vapic), &word);
        }
    }

    /// CR8.
    pub(crate) fn cr8(&self) -> u64 {
        match &self.st.apic {
            Some(apic) => u64::from(apic.cr8()),
            None => V::cr8(self.l),
        }
    }

    /// Sets CR8.
    pub(crate) fn set_cr8(&mut self, v: u64) {
        V::set_cr8(self.l, v);
        if let Some(apic) = &mut self.st.apic {
            if u64::from(apic.cr8()) != v {
                // CAST: four bits.
                let e = apic.set_cr8(v as u8);
                self.apply(&e);
            }
        }
    }

    /// Carries out what an APIC access means for the rest of the machine.
    pub(crate) fn apply(&mut self, e: &Effects) {
        let shared = self.vcpu.shared.clone();
        if let Some(apic) = &self.st.apic {
            if e.publish {
                apic.publish(&shared.published, self.vm.base.vcpus.census());
            }
            V::set_cr8(self.l, u64::from(apic.cr8()));
            if let Some(ipi) = &e.ipi {
                let from = apic.sender(shared.index);
                deliver::ipi(&self.vm.base, ipi, from);
            }
        }
        if let Some(op) = e.timer {
            self.set_timer(op);
        }
        if let Some(eoi) = &e.eoi {
            if self.vm.base.irqchip_full() {
                chips::eoi(&self.vm.base, eoi);
            } else {
                self.st.user_eoi(&self.vm.base, eoi);
            }
        }
        if e.mode {
            self.cpuid_runtime();
            self.update_virtual_apic();
        }
    }

    /// RESET or INIT of the local APIC.
    pub(crate) fn reset_apic(&mut self, init: bool) {
        let why = if init { Reset::Init } else { Reset::Power };
        let shared = self.vcpu.shared.clone();
        if let Some(apic) = &mut self.st.apic {
            apic.pull(&shared.pending);
            chips::clock_lost(&self.vm.base, apic);
            let e = apic.reset(why, &shared.pending);
            self.apply(&e);
        }
    }

    /// IA32_APIC_BASE set by user space. EINVAL for a value that cannot be.
    pub(crate) fn set_apic_base_host(&mut self, v: u64) -> Result {
        let reserved = self.st.cpuid.features.reserved_gpa_bits();
        match &mut self.st.apic {
            Some(apic) => {
                let e = apic.set_base(v, reserved, true).map_err(|_| EINVAL)?;
                self.apply(&e);
            }
            None => self.st.plain_apic_base = v,
        }
        self.cpuid_runtime();
        Ok(())
    }

    /// CPUID bits follow CR4, the APIC base and XCR0.
    pub(crate) fn cpuid_runtime(&mut self) {
        let cr4 = V::cr4(self.l);
        let base = self.st.apic_base();
        let xcr0 = self.st.xcr0;
        self.st.cpuid.update_runtime(cr4, base, xcr0);
    }
}

/// KVM_INTERRUPT. EINVAL for no vector, ENXIO with the whole controller in the kernel, EEXIST when
/// one is queued already and the local APIC is in the kernel.
pub(crate) fn queue<V: Backend>(cx: &mut Cx<'_, '_, V>, irq: u32) -> Result {
    let vector = u8::try_from(irq).map_err(|_| EINVAL)?;
    if cx.vm.base.irqchip_full() {
        return Err(ENXIO);
    }
    if cx.vm.base.irqchip_in_kernel() && cx.st.events.user_interrupt.is_some() {
        return Err(EEXIST);
    }
    cx.st.events.user_interrupt = Some(vector);
    cx.vcpu
        .shared
        .request_and_kick(super::shared::Request::Event);
    Ok(())
}

/// Tells the local APIC how its ids are exchanged: user space may decide that after the vCPU was made.
fn update_ids<V: Backend>(cx: &mut Cx<'_, '_, V>) {
    let ids32 = cx.vm.base.caps.x2apic_32bit_ids();
    if let Some(apic) = &mut cx.st.apic {
        let mut cfg = *apic.config();
        if cfg.ids32 != ids32 {
            cfg.ids32 = ids32;
            apic.configure(cfg);
        }
    }
}

/// KVM_GET_LAPIC. EINVAL without a local APIC in the kernel.
pub(crate) fn get_lapic<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let now = cx.now();
    let shared = cx.vcpu.shared.clone();
    let mut image = KBox::new(model::abi::KvmLapicState::zeroed(), GFP_KERNEL_ACCOUNT)?;
    update_ids(cx);
    let apic = cx.st.apic.as_mut().ok_or(EINVAL)?;
    let e = apic.save(&mut image.regs, &shared.pending, now);
    cx.apply(&e);
    host::uaccess::write_user(arg, &*image)
}

/// KVM_SET_LAPIC. EINVAL without a local APIC in the kernel, or for an id that is not this vCPU's.
pub(crate) fn set_lapic<V: Backend>(cx: &mut Cx<'_, '_, V>, arg: usize) -> Result {
    let now = cx.now();
    let shared = cx.vcpu.shared.clone();
    let bytes = host::uaccess::read_user_vec::<u8>(arg, model::irqchip::lapic::STATE_SIZE)?;
    let image = bytes.first_chunk().ok_or(EFAULT)?;
    update_ids(cx);
    let vm = &cx.vm.base;
    let apic = cx.st.apic.as_mut().ok_or(EINVAL)?;
    apic.pull(&shared.pending);
    chips::clock_lost(vm, apic);
    let r = apic.restore(image, &shared.pending, now);
    chips::clock_found(vm, apic);
    cx.apply(&r.map_err(|_| EINVAL)?);
    Ok(())
}
