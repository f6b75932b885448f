// SPDX-License-Identifier: GPL-2.0

//! How long a guest may spin in a loop of PAUSEs before it exits (`SDM: vol 3, 26.1.3`).
//!
//! The window grows at each such exit and shrinks when the scheduler had its thread switched out, by
//! the module parameters `ple_window*` (`model::policy::spin`).

use super::params::Params;
use super::vcpu::Vcpu;
use super::vmcs;
use model::policy::spin::SpinRule;
use model::vmx::ctrl::proc2;
use model::vmx::field;

/// The parameters, as found at the probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct PauseLoop {
    /// PAUSEs further apart are no loop, in ticks of the TSC; 0: loops do not exit.
    pub(super) gap: u32,
    pub(super) window: SpinRule,
}

impl PauseLoop {
    /// What was asked for.
    pub(super) fn of(p: &Params) -> Self {
        Self {
            gap: p.ple_gap,
            window: SpinRule {
                least: p.ple_window,
                grow: p.ple_window_grow,
                shrink: p.ple_window_shrink,
                most: p.ple_window_max,
            },
        }
    }
}

impl Vcpu {
    fn set_pause_window(&mut self, new: u32) {
        if new != self.pause_window && self.m.cfg.proc2(proc2::PAUSE_LOOP_EXITING) {
            self.pause_window = new;
            vmcs::write(field::PLE_WINDOW, new);
        }
    }

    /// The guest spun through its window.
    pub(super) fn grow_pause_window(&mut self) {
        self.set_pause_window(self.m.pause.window.grown(self.pause_window));
    }

    /// The scheduler took the thread off its CPU and brought it back: what the guest waited for may
    /// have happened. A return to user space does not count, as in the in-tree module; being away
    /// several times between two entries counts once.
    pub(super) fn shrink_pause_window(&mut self) {
        self.set_pause_window(self.m.pause.window.shrunk(self.pause_window));
    }
}
