// SPDX-License-Identifier: GPL-2.0

//! Events into the guest, and the windows for those that have to wait.
//!
//! Hardware tells when an interrupt can be taken: a virtual interrupt is made pending that exits
//! instead of being delivered. For NMIs it has no such thing (but see below), so that they are
//! tracked by hand:
//!
//! ```text
//!            inject NMI               IRET exits             RIP has moved on
//!   open ---------------> blocked ---------------> leaving ------------------> open
//!                      (IRET intercepted)       (not any more)
//! ```
//!
//! IRET exits before it is executed. If an NMI waits by then, the guest is single-stepped over it:
//! RFLAGS.TF is set behind its back, and the `#DB` that follows is the window. The same is done for
//! an NMI that waits for the end of an interrupt shadow.
//!
//! With virtual NMIs hardware tracks the blocking, and IRET is intercepted only while an NMI waits.
//!
//! Software interrupts and exceptions push the RIP of the next instruction. Hardware that reports
//! next RIPs takes it from the control block; for older one RIP is moved before the entry, and back
//! if the delivery is cut short.

use super::vcpu::Vcpu;
use crate::vendor::Window;
use host::pin::IrqsOff;
use model::exit::Event;
use model::exit::EventKind;
use model::svm::exit::code;
use model::svm::vmcb::clean;
use model::svm::vmcb::decode_event;
use model::svm::vmcb::encode_event;
use model::svm::vmcb::int_ctl;
use model::svm::vmcb::intercept;
use model::svm::vmcb::INT_STATE_SHADOW;
use model::x86::ctrl::dr6;
use model::x86::ctrl::rflags;
use model::x86::exception;

/// Bits of [`Vcpu::work`].
pub(super) mod work {
    /// A software event is going to be injected, or was.
    pub(crate) const SOFT: u8 = 1 << 0;
    /// An NMI waits for its window, or IRET is being left, or the guest is being stepped.
    pub(crate) const NMI: u8 = 1 << 1;
    /// The next entry ends at once.
    pub(crate) const END: u8 = 1 << 2;
}

/// Where the guest is with respect to NMIs.
#[derive(Debug, Default)]
pub(super) struct Nmi {
    /// In a handler. Not used with virtual NMIs.
    blocked: bool,
    /// IRET at this RIP exited and has not been executed yet.
    leaving: Option<u64>,
    /// An NMI waits.
    wanted: bool,
    /// TF and RF of the guest while it is being stepped.
    stepping: Option<u64>,
    /// The last exit was the step's and nobody else's.
    pub(super) stepped: bool,
}

/// A software event on its way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Soft {
    /// Length of its instruction.
    len: u8,
    /// Hardware does not know the next RIP: RIP has to be moved.
    by_rip: bool,
    /// It is INT1, which hardware calls an exception like any other.
    int1: bool,
    /// RIP was moved from here to there for the entry.
    moved: Option<(u64, u64)>,
}

/// The flags that stepping takes over.
const STEP: u64 = rflags::TF | rflags::RF;

impl Vcpu {
    /// Sets the event to deliver at the next entry, or none.
    #[inline]
    pub(super) fn inject(&mut self, e: Option<&Event>) {
        self.work &= !work::SOFT;
        let (word, error) = match e {
            None => (0, 0),
            Some(e) => {
                if e.insn_len != 0 {
                    self.prepare_soft(e);
                }
                encode_event(e)
            }
        };
        let c = &mut self.vmcb_mut().control;
        c.event_inj = word;
        c.event_inj_err = error;
    }

    fn prepare_soft(&mut self, e: &Event) {
        let by_rip = match e.kind {
            EventKind::SoftInterrupt | EventKind::SoftException => !self.m.nrips,
            // To hardware INT1 is a fault like any other.
            EventKind::PrivilegedSoftException => true,
            _ => return,
        };
        self.soft = Soft {
            len: e.insn_len,
            by_rip,
            int1: e.kind == EventKind::PrivilegedSoftException,
            moved: None,
        };
        self.work |= work::SOFT;
    }

    /// The event whose delivery the last exit cut short. To be asked once.
    #[inline]
    pub(super) fn aborted(&mut self) -> Option<Event> {
        let c = &mut self.vmcb_mut().control;
        let info = core::mem::take(&mut c.exit_int_info);
        let error = c.exit_int_info_err;
        self.aborted_info = info;
        if info == 0 {
            return None;
        }
        let e = decode_event(info, error)?;
        self.aborted_event(e)
    }

    #[cold]
    fn aborted_event(&mut self, mut e: Event) -> Option<Event> {
        // What was under way is this one or is given up for it.
        let ours = core::mem::take(&mut self.soft);
        match e.kind {
            EventKind::SoftInterrupt | EventKind::SoftException => {}
            EventKind::Exception if e.vector == exception::DB && ours.int1 => {
                e.kind = EventKind::PrivilegedSoftException;
            }
            _ => return Some(e),
        }
        e.insn_len = ours.len;
        // Without a length it is the guest's own: RIP is at the instruction, which will raise it
        // again.
        (e.insn_len != 0).then_some(e)
    }

    /// What the event code has to do right before an entry.
    #[cold]
    #[inline(never)]
    pub(super) fn before_entry(&mut self, irqs: &IrqsOff<'_>) {
        if self.work & work::SOFT != 0 {
            let rip = self.vmcb().save.rip;
            let next = rip.wrapping_add(u64::from(self.soft.len));
            if self.soft.by_rip {
                self.vmcb_mut().save.rip = next;
                self.soft.moved = Some((rip, next));
            } else {
                self.vmcb_mut().control.next_rip = next;
            }
        }
        if self.work & work::NMI != 0 {
            self.before_nmi();
        }
        if self.work & work::END != 0 {
            self.work &= !work::END;
            // The event is delivered first.
            host::kick::kick_cpu(irqs.cpu_id());
        }
    }

    /// Has the next entry end as soon as its event is delivered.
    pub(super) fn end_after_event(&mut self) {
        self.work |= work::END;
    }

    fn before_nmi(&mut self) {
        // A step that is under way goes on, unless something is delivered: the flags would be pushed
        // on the guest's stack, and the step would end in a handler.
        let injecting = self.vmcb().control.event_inj != 0;
        let wants = self.nmi.wanted && (self.nmi.leaving.is_some() || !self.nmi_blocked());
        if injecting {
            let was = self.nmi.stepping.is_some();
            self.stop_stepping();
            if wants || was {
                // Look again right after the delivery.
                self.end_after_event();
            }
        } else if wants && self.nmi.stepping.is_none() {
            let flags = &mut self.vmcb_mut().save.rflags;
            let own = *flags & STEP;
            *flags |= STEP;
            self.nmi.stepping = Some(own);
        }
    }

    /// What follows from an exit. `code` is its code.
    #[cold]
    #[inline(never)]
    pub(super) fn after_exit(&mut self, code: u64, irqs: &IrqsOff<'_>) {
        if self.work & work::SOFT != 0 {
            self.after_soft();
        } else {
            self.soft = Soft::default();
        }
        self.nmi.stepped = false;
        match code {
            code::VINTR => {
                // Still wanted until it is withdrawn.
                self.vmcb_mut().control.int_ctl |= int_ctl::V_IRQ;
                self.dirty(clean::INTR);
            }
            code::IRET => {
                self.nmi.leaving = Some(self.vmcb().save.rip);
                self.work |= work::NMI;
                self.set_intercept(intercept::IRET, false);
            }
            code::PAUSE => self.grow_pause_window(),
            code::SHUTDOWN => self.after_shutdown(irqs),
            DB_EXIT => self.after_debug(),
            _ => {}
        }
        if code != code::IRET
            && self
                .nmi
                .leaving
                .is_some_and(|at| at != self.vmcb().save.rip)
        {
            self.nmi.leaving = None;
            self.nmi.blocked = false;
        }
        self.update_nmi_work();
    }

    /// The control block is undefined (APM: vol 2, 15.14.3): it is made anew, with the state after
    /// INIT. What the code above asked to be told of stays, as it does not know of the reset; debug
    /// registers trap.
    fn after_shutdown(&mut self, irqs: &IrqsOff<'_>) {
        let intercepts = self.vmcb().control.intercepts;
        let window = self.vmcb().control.intercepts(intercept::VINTR);
        let wanted = self.nmi.wanted;
        let hide_caching = self.hide_caching;
        self.reset(true);
        // Whose the ASID is that it says now is not to be relied on.
        self.take_asid(irqs);
        let mut words = self.mandatory();
        for (i, (word, old)) in words.iter_mut().zip(intercepts).enumerate() {
            if i != intercept::WORD_DR {
                *word |= old;
            }
        }
        self.vmcb_mut().control.intercepts = words;
        // The bits for CR0 follow from its value.
        let cr0 = self.cr0();
        self.hide_caching = hide_caching;
        self.set_cr0(cr0);
        self.request_interrupt_window(window);
        self.request_nmi_window(wanted);
        self.vmcb_mut().control.exit_code = code::SHUTDOWN;
    }

    fn after_soft(&mut self) {
        self.work &= !work::SOFT;
        let c = &self.vmcb().control;
        // Whatever was being delivered: the event itself, or a fault that its delivery met with.
        let cut_short = decode_event(c.exit_int_info, 0)
            .is_some_and(|e| !matches!(e.kind, EventKind::Interrupt | EventKind::Nmi));
        if let Some((from, to)) = self.soft.moved.take() {
            if cut_short && self.vmcb().save.rip == to {
                self.vmcb_mut().save.rip = from;
            }
        }
        if !cut_short {
            self.soft = Soft::default();
        }
    }

    fn after_debug(&mut self) {
        let found = self.vmcb().save.dr6;
        self.db_dr6 = found;
        if self.debug_registers_trap() {
            self.vmcb_mut().save.dr6 = dr6::INIT;
            self.dirty(clean::DR);
        }
        if let Some(own) = self.nmi.stepping {
            self.stop_stepping();
            // Some processors do not say why. If the guest steps itself, the exception is its own, too.
            let step = found & dr6::BS != 0 || found == dr6::INIT;
            self.nmi.stepped = step && own & rflags::TF == 0;
        }
    }

    fn stop_stepping(&mut self) {
        if let Some(own) = self.nmi.stepping.take() {
            let flags = &mut self.vmcb_mut().save.rflags;
            *flags = *flags & !STEP | own;
        }
    }

    fn update_nmi_work(&mut self) {
        let any = self.nmi.wanted || self.nmi.leaving.is_some() || self.nmi.stepping.is_some();
        self.work = self.work & !work::NMI | if any { work::NMI } else { 0 };
    }

    /// RFLAGS as the guest has it.
    #[inline]
    pub(super) fn rflags(&self) -> u64 {
        let flags = self.vmcb().save.rflags;
        match self.nmi.stepping {
            None => flags,
            Some(own) => flags & !STEP | own,
        }
    }

    /// Sets RFLAGS.
    #[inline]
    pub(super) fn set_rflags(&mut self, v: u64) {
        let mut v = v | rflags::FIXED;
        if let Some(own) = &mut self.nmi.stepping {
            *own = v & STEP;
            v |= STEP;
        }
        self.vmcb_mut().save.rflags = v;
    }

    /// In an interrupt shadow, which may be of either kind.
    #[inline]
    fn in_shadow(&self) -> bool {
        self.vmcb().control.int_state & INT_STATE_SHADOW != 0
    }

    /// Could the event be taken now?
    #[inline]
    pub(super) fn window_open(&self, w: Window) -> bool {
        !self.in_shadow()
            && match w {
                Window::Interrupt => self.vmcb().save.rflags & rflags::IF != 0,
                Window::Nmi => !self.nmi_blocked(),
            }
    }

    /// Asks for a window, or withdraws that.
    pub(super) fn request_window(&mut self, w: Window, on: bool) {
        match w {
            Window::Interrupt => self.request_interrupt_window(on),
            Window::Nmi => self.request_nmi_window(on),
        }
    }

    fn request_interrupt_window(&mut self, on: bool) {
        self.set_intercept(intercept::VINTR, on);
        let int = &mut self.vmcb_mut().control.int_ctl;
        let rest = *int & !(int_ctl::V_IRQ | int_ctl::V_PRIO | int_ctl::V_IGN_TPR);
        // At the highest priority: whether the guest's own task priority lets it through is decided
        // by whoever chooses the interrupt.
        *int = if on {
            rest | int_ctl::V_IRQ | int_ctl::V_IGN_TPR | int_ctl::V_PRIO
        } else {
            rest
        };
        self.dirty(clean::INTR);
    }

    fn request_nmi_window(&mut self, on: bool) {
        self.nmi.wanted = on;
        if !on {
            self.stop_stepping();
        }
        if self.m.vnmi {
            let waits = on && self.nmi_blocked() && self.nmi.leaving.is_none();
            self.set_intercept(intercept::IRET, waits);
        }
        self.update_nmi_work();
    }

    /// Is the guest inside an NMI handler?
    pub(super) fn nmi_blocked(&self) -> bool {
        if self.m.vnmi {
            self.vmcb().control.int_ctl & int_ctl::V_NMI_MASK != 0
        } else {
            self.nmi.blocked
        }
    }

    /// Sets that it is, or is not.
    pub(super) fn set_nmi_blocked(&mut self, b: bool) {
        self.nmi.leaving = None;
        if self.m.vnmi {
            let int = &mut self.vmcb_mut().control.int_ctl;
            *int = *int & !int_ctl::V_NMI_MASK | if b { int_ctl::V_NMI_MASK } else { 0 };
            self.dirty(clean::INTR);
            let waits = b && self.nmi.wanted;
            self.set_intercept(intercept::IRET, waits);
        } else {
            self.nmi.blocked = b;
            self.set_intercept(intercept::IRET, b);
        }
        self.update_nmi_work();
    }
}

/// The exit code of a `#DB`.
pub(super) const DB_EXIT: u64 = code::EXCEPTION + 1;
