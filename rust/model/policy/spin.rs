// SPDX-License-Identifier: GPL-2.0

//! How long a guest may spin before it exits: the window grows with each such exit, and shrinks when
//! the thread has been switched out.
//!
//! KVM: the rules of the parameters `ple_window*` and `pause_filter_count*` are the in-tree module's. A
//! factor below the smallest window multiplies or divides, a larger one is added or taken away.

/// The rule. In ticks of the TSC (VMX) or in PAUSEs (SVM), or factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpinRule {
    /// The window to begin with, and the smallest.
    pub least: u32,
    /// How it grows; 0: not at all.
    pub grow: u32,
    /// How it shrinks; 0: to the smallest at once.
    pub shrink: u32,
    /// It does not grow beyond.
    pub most: u32,
}

impl SpinRule {
    /// The next larger window.
    pub const fn grown(&self, old: u32) -> u32 {
        let new = match self.grow {
            0 => return self.least,
            g if g < self.least => old.saturating_mul(g),
            g => old.saturating_add(g),
        };
        if new < self.most {
            new
        } else {
            self.most
        }
    }

    /// The next smaller window.
    pub const fn shrunk(&self, old: u32) -> u32 {
        let new = match old.checked_div(self.shrink) {
            None => return self.least,
            Some(part) if self.shrink < self.least => part,
            Some(_) => old.saturating_sub(self.shrink),
        };
        if new > self.least {
            new
        } else {
            self.least
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The defaults of kvm-intel.ko.
    const PLE: SpinRule = SpinRule {
        least: 4096,
        grow: 2,
        shrink: 0,
        most: u32::MAX,
    };

    #[test]
    fn defaults_double_and_begin_anew() {
        assert_eq!(PLE.grown(4096), 8192);
        assert_eq!(PLE.grown(1 << 30), 1 << 31);
        assert_eq!(PLE.grown(1 << 31), u32::MAX);
        assert_eq!(PLE.grown(u32::MAX), u32::MAX);
        assert_eq!(PLE.shrunk(1 << 20), 4096);
    }

    #[test]
    fn small_factors_multiply_and_large_ones_add() {
        let r = |grow, shrink| SpinRule {
            least: 100,
            grow,
            shrink,
            most: 1000,
        };
        for (grow, shrink, old, up, down) in [
            // Neither grows nor shrinks.
            (1, 1, 400, 400, 400),
            (0, 0, 400, 100, 100),
            (2, 2, 400, 800, 200),
            (99, 99, 400, 1000, 100),
            (100, 100, 400, 500, 300),
            (300, 300, 400, 700, 100),
            (u32::MAX, u32::MAX, 400, 1000, 100),
            (3, 3, 100, 300, 100),
        ] {
            let rule = r(grow, shrink);
            let got = (rule.grown(old), rule.shrunk(old));
            assert_eq!(got, (up, down), "{grow} {shrink} {old}");
        }
    }

    #[test]
    fn a_most_below_the_least_wins_when_it_grows() {
        let r = SpinRule { most: 10, ..PLE };
        assert_eq!(r.grown(4096), 10);
        assert_eq!(r.shrunk(10), 4096);
        // No window at all.
        let r = SpinRule { least: 0, ..PLE };
        assert_eq!((r.grown(0), r.shrunk(0)), (2, 0));
    }
}
