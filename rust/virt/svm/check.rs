// SPDX-License-Identifier: GPL-2.0

//! The check that what is claimed to be clean is.
//!
//! A setter that forgets its clean bit does no harm where hardware ignores the bits, and makes a
//! guest go wrong where it does not. With the module parameter `checked` of `kvm` the fields of every group
//! are compared with what they were after the last exit ([`crate::check`]).

use super::vcpu::Vcpu;
use crate::check::Flushes;
use crate::check::Reports;
use core::mem::offset_of;
use kernel::prelude::*;
use model::svm::vmcb::clean;
use model::svm::vmcb::tlb;
use model::svm::vmcb::Control;
use model::svm::vmcb::Save;
use model::svm::vmcb::Vmcb;

/// A control block as it was after the last exit, in words of 32 bits.
pub(super) struct Checked {
    valid: bool,
    reports: Reports,
    flushes: Flushes,
    words: [u32; WORDS],
}

/// The number of the comparison that is not made with the others.
const FLUSH: u32 = 63;

const WORDS: usize = size_of::<Vmcb>() / 4;

/// Fields of a group, in words.
struct Fields {
    group: u32,
    name: &'static str,
    from: usize,
    to: usize,
}

/// What belongs to which group (`APM: vol 2, table 15-9`).
static FIELDS: [Fields; 21] = [
    control(clean::INTERCEPTS, "intercepts", 0, 0x18),
    control(
        clean::INTERCEPTS,
        "pause filter",
        offset_of!(Control, pause_filter_thresh),
        4,
    ),
    control(
        clean::INTERCEPTS,
        "TSC offset",
        offset_of!(Control, tsc_offset),
        8,
    ),
    control(
        clean::PERM,
        "permission maps",
        offset_of!(Control, iopm_base),
        16,
    ),
    control(clean::ASID, "ASID", offset_of!(Control, asid), 4),
    control(clean::INTR, "int_ctl", offset_of!(Control, int_ctl), 8),
    control(clean::NPT, "nested CR3", offset_of!(Control, nested_cr3), 8),
    control(clean::NPT, "misc_ctl", offset_of!(Control, misc_ctl), 8),
    save(clean::NPT, "PAT", offset_of!(Save, g_pat), 8),
    save(clean::CR, "CR4, CR3, CR0", offset_of!(Save, cr4), 24),
    save(clean::CR, "EFER", offset_of!(Save, efer), 8),
    save(clean::DR, "DR7, DR6", offset_of!(Save, dr7), 16),
    save(clean::DT, "GDTR", offset_of!(Save, gdtr), 16),
    save(clean::DT, "IDTR", offset_of!(Save, idtr), 16),
    save(clean::SEG, "ES, CS, SS, DS", offset_of!(Save, es), 64),
    save(clean::SEG, "CPL", 0xc8, 4),
    save(clean::CR2, "CR2", offset_of!(Save, cr2), 8),
    save(
        clean::LBR,
        "DEBUGCTL, branches",
        offset_of!(Save, dbgctl),
        40,
    ),
    control(clean::AVIC, "AVIC", offset_of!(Control, avic_vapic_bar), 8),
    control(
        clean::AVIC,
        "AVIC tables",
        offset_of!(Control, avic_backing_page),
        32,
    ),
    save(clean::CET, "shadow stack", offset_of!(Save, s_cet), 24),
];

const fn control(group: u32, name: &'static str, at: usize, len: usize) -> Fields {
    Fields {
        group,
        name,
        from: at / 4,
        to: (at + len) / 4,
    }
}

const fn save(group: u32, name: &'static str, at: usize, len: usize) -> Fields {
    control(group, name, offset_of!(Vmcb, save) + at, len)
}

impl Checked {
    pub(super) fn new() -> Result<KBox<Self>> {
        let zeroed = KBox::<Self>::init(
            pin_init::init!(Self {
                valid: false,
                reports: Reports::new(),
                flushes: Flushes::default(),
                words <- pin_init::init_zeroed(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(zeroed)
    }
}

fn words(vmcb: &Vmcb) -> &[u32; WORDS] {
    // SAFETY: A control block is a page of initialised bytes, aligned to more than a word.
    unsafe { &*core::ptr::from_ref(vmcb).cast() }
}

impl Vcpu {
    /// Compares, right before an entry, what is claimed to be clean with what it was, and what was
    /// flushed with what had to be. The root's flush generation was `seen` when the entry began.
    #[cold]
    #[inline(never)]
    pub(super) fn check(&mut self, seen: u64) {
        let Some(mut checked) = self.checked.take() else {
            return;
        };
        let Checked {
            valid,
            reports,
            flushes,
            words: then,
        } = &mut *checked;
        reports.begin();
        let now = words(self.vmcb());
        let control = &self.vmcb().control;
        for f in &FIELDS {
            let claimed = *valid && control.clean & f.group != 0;
            if claimed && now.get(f.from..f.to) != then.get(f.from..f.to) {
                let name = f.name;
                reports.differ(format_args!("{name} changed but is claimed to be clean"));
            } else {
                reports.skip();
            }
        }
        reports.same("nested CR3", control.nested_cr3, self.root.hw_pa());
        let tag = self.asid_generation.wrapping_shl(32) | u64::from(control.asid);
        let to = (&self.tlb, &self.root);
        flushes.check(reports, to, seen, (self.last_cpu, tag));
        self.checked = Some(checked);
    }

    /// Something must be flushed by the next entry: is it?
    #[cold]
    #[inline(never)]
    pub(super) fn check_flush(&mut self) {
        let asked = self.asid_new || self.vmcb().control.tlb_ctl != tlb::KEEP;
        if let Some(checked) = &mut self.checked {
            checked.reports.begin_at(FLUSH);
            if !asked || checked.reports.seed() {
                let what = format_args!("a flush is acknowledged but not asked for");
                checked.reports.differ(what);
            }
        }
    }

    /// Keeps what the exit left.
    #[cold]
    #[inline(never)]
    pub(super) fn remember(&mut self) {
        let Some(mut checked) = self.checked.take() else {
            return;
        };
        checked.words = *words(self.vmcb());
        checked.valid = true;
        if checked.reports.seed() {
            for f in &FIELDS {
                if let Some(word) = checked.words.get_mut(f.from) {
                    *word = !*word;
                }
            }
        }
        self.checked = Some(checked);
    }
}
