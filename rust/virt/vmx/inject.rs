// SPDX-License-Identifier: GPL-2.0

//! Events into the guest, and the windows for those that have to wait.
//!
//! Hardware tells by an exit when an interrupt or an NMI can be taken. With virtual NMIs it tracks the
//! blocking of NMIs as well, except that an IRET that faults on its way out of a handler has ended it
//! already; the exit says so, and the blocking is put back.
//!
//! Without virtual NMIs nothing is known of the guest's IRET. The handler is taken to run with
//! interrupts off: NMIs stay blocked until interrupts can be taken, and for a second of the guest's
//! time at most. Guests that turn interrupts on in the handler see NMIs nested.
//!
//! KVM: both are what the in-tree module does.

use super::vcpu::Vcpu;
use super::vmcs;
use crate::vendor::Window;
use host::pin::IrqsOff;
use kernel::prelude::*;
use model::exit::Event;
use model::exit::EventKind;
use model::exit::Exit;
use model::vmx::ctrl::interruptibility;
use model::vmx::ctrl::pin;
use model::vmx::ctrl::proc;
use model::vmx::ctrl::PENDING_BS;
use model::vmx::exit::decode_event;
use model::vmx::exit::encode_event;
use model::vmx::exit::info;
use model::vmx::field;
use model::x86::ctrl::rflags;
use model::x86::exception;

/// Bits of [`Vcpu::work`].
pub(super) mod work {
    /// NMIs are blocked by software.
    pub(crate) const SOFT_NMI: u8 = 1 << 0;
    /// The next entry ends at once.
    pub(crate) const END: u8 = 1 << 1;
}

/// How long NMIs stay blocked without virtual NMIs, ns of the guest's time.
const SOFT_BLOCKING_NS: u64 = 1_000_000_000;

/// Events on their way.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// The VMCS has an event for the next entry.
    set: bool,
    /// An NMI waits.
    nmi: bool,
    /// An interrupt waits.
    interrupt: bool,
    /// The window for the NMI is looked for by way of the one for interrupts.
    nmi_by_interrupt: bool,
    /// Without virtual NMIs: since when the guest runs, and for how long it has been blocked.
    entered_ns: u64,
    blocked_ns: u64,
}

impl Vcpu {
    fn virtual_nmis(&self) -> bool {
        self.m.cfg.pin(pin::VIRTUAL_NMIS)
    }

    /// Sets the event to deliver at the next entry, or none.
    #[inline]
    pub(super) fn inject(&mut self, e: Option<&Event>) {
        match e {
            Some(e) => self.inject_event(e),
            None if self.events.set => {
                self.events.set = false;
                vmcs::write(field::ENTRY_INTR_INFO, 0);
            }
            None => {}
        }
    }

    fn inject_event(&mut self, e: &Event) {
        let (word, error) = encode_event(e);
        if word & info::ERROR_CODE != 0 {
            vmcs::write(field::ENTRY_ERROR_CODE, error);
        }
        if e.insn_len != 0 {
            vmcs::write(field::ENTRY_INSN_LENGTH, u32::from(e.insn_len));
        }
        vmcs::write(field::ENTRY_INTR_INFO, word);
        self.events.set = true;
        match e.kind {
            // Its delivery blocks the others; until then none may be blocked (`SDM: vol 3, 27.3.1.5`).
            EventKind::Nmi if self.virtual_nmis() => self.set_nmi_blocked(false),
            EventKind::Nmi => self.block_nmis_by_software(),
            EventKind::Exception if e.vector == exception::DB => self.step_in_shadow(),
            _ => {}
        }
        self.end_halt();
    }

    /// The guest may have halted by itself: it goes on.
    #[inline]
    pub(super) fn end_halt(&mut self) {
        if !self.trap.hlt {
            vmcs::write(field::GUEST_ACTIVITY, 0);
        }
    }

    /// Hardware wants a single step in a shadow to be pending, also where the `#DB` that it has led to
    /// is what is delivered (`SDM: vol 3, 27.3.1.5`).
    #[cold]
    fn step_in_shadow(&self) {
        if self.rflags() & rflags::TF != 0 && self.shadow_bits() != 0 {
            let pending = vmcs::read(field::GUEST_PENDING_DEBUG);
            vmcs::write(field::GUEST_PENDING_DEBUG, pending | PENDING_BS);
        }
    }

    /// Has the VMCS an event for the next entry?
    pub(super) fn has_event(&self) -> bool {
        self.events.set
    }

    /// The entry took place: hardware has dropped the event.
    #[inline]
    pub(super) fn delivered(&mut self) {
        self.events.set = false;
    }

    /// Hardware refused the entry: the event that it was to deliver is not lost.
    pub(super) fn keep_event(&mut self) {
        if self.events.set {
            // The word of an entry and that of an exit have the same format.
            self.run.vectoring = vmcs::read(field::ENTRY_INTR_INFO);
        }
    }

    /// The event whose delivery the last exit cut short, or that came with an entry that was refused.
    /// To be asked once.
    #[inline]
    pub(super) fn aborted(&mut self) -> Option<Event> {
        // It stays for whoever decodes the exit.
        let word = self.run.vectoring;
        let refused = || self.failure != 0;
        let e = decode_event(
            word,
            || match refused() {
                true => vmcs::read(field::ENTRY_ERROR_CODE),
                false => vmcs::read(field::IDT_VECTORING_ERROR),
            },
            || match refused() {
                true => vmcs::read(field::ENTRY_INSN_LENGTH),
                false => vmcs::read(field::EXIT_INSN_LENGTH),
            },
        )?;
        if e.kind == EventKind::Nmi {
            // The handler was not reached. Delivering it again blocks the others.
            self.set_nmi_blocked(false);
        }
        Some(e)
    }

    /// An exit that may have come from an IRET that faulted: it had ended the blocking of NMIs.
    /// `word` has the bit that says so.
    pub(super) fn recover_nmi_blocking(&mut self, word: u32) {
        if word & info::NMI_UNBLOCKING != 0
            && self.run.vectoring & info::VALID == 0
            && self.virtual_nmis()
        {
            let v = self.interruptibility() | interruptibility::NMI;
            self.set_interruptibility(v);
        }
    }

    /// The same for an exit by an exception. After a double fault the bit means nothing.
    #[cold]
    pub(super) fn recover_after_exception(&mut self) {
        let word = self.run.intr_info;
        let double_fault = word & info::VECTOR == u32::from(exception::DF);
        if word & info::VALID != 0 && !double_fault {
            self.recover_nmi_blocking(word);
        }
    }

    /// Could the event be taken now?
    #[inline]
    pub(super) fn window_open(&self, w: Window) -> bool {
        self.shadow_bits() == 0
            && match w {
                Window::Interrupt => self.rflags() & rflags::IF != 0,
                Window::Nmi => !self.nmi_blocked(),
            }
    }

    /// Asks for a window, or withdraws that.
    pub(super) fn request_window(&mut self, w: Window, on: bool) {
        match w {
            Window::Interrupt => self.events.interrupt = on,
            Window::Nmi => self.events.nmi = on,
        }
        self.update_windows();
    }

    fn update_windows(&mut self) {
        // In the shadow of an STI an NMI window would not be one; the end of it is, for interrupts.
        let sti = || self.interruptibility() & interruptibility::STI != 0;
        let by_interrupt = self.events.nmi && (!self.virtual_nmis() || sti());
        self.events.nmi_by_interrupt = by_interrupt;
        let mut v = self.proc & !(proc::INTR_WINDOW_EXITING | proc::NMI_WINDOW_EXITING);
        if self.events.interrupt || by_interrupt {
            v |= proc::INTR_WINDOW_EXITING;
        }
        if self.events.nmi && !by_interrupt {
            v |= proc::NMI_WINDOW_EXITING;
        }
        self.set_proc(v);
    }

    /// The guest can take an interrupt. What was that asked for?
    pub(super) fn window_exit(&mut self) -> Exit {
        if self.events.nmi_by_interrupt {
            Exit::NmiWindow
        } else {
            Exit::InterruptWindow
        }
    }

    /// Is the guest inside an NMI handler?
    #[inline]
    pub(super) fn nmi_blocked(&self) -> bool {
        if self.virtual_nmis() {
            self.interruptibility() & interruptibility::NMI != 0
        } else {
            self.work & work::SOFT_NMI != 0
        }
    }

    /// Sets that it is, or is not.
    pub(super) fn set_nmi_blocked(&mut self, b: bool) {
        if !self.virtual_nmis() {
            if b {
                self.block_nmis_by_software();
            } else {
                self.work &= !work::SOFT_NMI;
            }
            return;
        }
        let old = self.interruptibility();
        let new = if b {
            old | interruptibility::NMI
        } else {
            old & !interruptibility::NMI
        };
        if new != old {
            self.set_interruptibility(new);
        }
    }

    fn block_nmis_by_software(&mut self) {
        if self.work & work::SOFT_NMI == 0 {
            self.work |= work::SOFT_NMI;
            self.events.blocked_ns = 0;
        }
    }

    /// What the event code has to do right before an entry.
    #[cold]
    pub(super) fn before_entry(&mut self, irqs: &IrqsOff<'_>) {
        if self.work & work::END != 0 {
            self.work &= !work::END;
            // The event is delivered first.
            host::kick::kick_cpu(irqs.cpu_id());
        }
        if self.work & work::SOFT_NMI != 0 {
            self.events.entered_ns = host::clock::now_ns();
        }
    }

    /// Has the next entry end as soon as its event is delivered.
    pub(super) fn end_after_event(&mut self) {
        self.work |= work::END;
    }

    /// What follows from an exit while NMIs are blocked by software.
    #[cold]
    #[inline(never)]
    pub(super) fn after_exit(&mut self) {
        let ran = host::clock::now_ns().wrapping_sub(self.events.entered_ns);
        self.events.blocked_ns = self.events.blocked_ns.wrapping_add(ran);
        if self.window_open(Window::Interrupt) {
            self.work &= !work::SOFT_NMI;
        } else if self.events.nmi && self.events.blocked_ns > SOFT_BLOCKING_NS {
            pr_warn!("breaking out of the NMI-blocked state of a guest after 1 s\n");
            self.work &= !work::SOFT_NMI;
        }
    }
}
