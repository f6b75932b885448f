// SPDX-License-Identifier: GPL-2.0

//! Results in the Test Anything Protocol, and the exit codes of kselftest: 0 pass, 1 fail, 4 skip.

use std::fmt::Debug;
use std::fmt::Display;

/// The points of one test.
pub struct Tap {
    n: u32,
    failed: Vec<String>,
    skip: Option<String>,
    /// The next comparison must fail: `SEED=1` shows that a wrong result turns the test red.
    seed: bool,
}

impl Tap {
    /// No points yet.
    pub fn new() -> Self {
        Self {
            n: 0,
            failed: Vec::new(),
            skip: None,
            seed: std::env::var("SEED").is_ok_and(|s| s == "1"),
        }
    }

    /// One point.
    pub fn point(&mut self, ok: bool, what: impl Display) -> bool {
        self.n += 1;
        if ok {
            println!("ok {} - {what}", self.n);
        } else {
            println!("not ok {} - {what}", self.n);
            self.failed.push(what.to_string());
        }
        ok
    }

    /// A point that holds if both values are equal; the values are printed if not.
    pub fn same<T: PartialEq + Debug>(&mut self, what: impl Display, got: T, want: T) -> bool {
        if std::mem::take(&mut self.seed) {
            return self.point(got != want, format!("{what}: seeded, got {got:x?}"));
        }
        if got == want {
            self.point(true, what)
        } else {
            self.point(false, format!("{what}: got {got:x?}, want {want:x?}"))
        }
    }

    /// The rest of the test cannot run here.
    pub fn skip(&mut self, why: impl Display) {
        self.skip = Some(why.to_string());
    }

    /// Prints the plan and returns the exit code. Failures come last, where a reader looks.
    pub fn finish(self) -> i32 {
        if let (Some(why), 0) = (&self.skip, self.n) {
            println!("1..0 # SKIP {why}");
            return 4;
        }
        println!("1..{}", self.n);
        if let Some(why) = &self.skip {
            println!("# the rest was left out: {why}");
        }
        for f in self.failed.iter().take(10) {
            println!("# failed: {f}");
        }
        println!("# {} points, {} failed", self.n, self.failed.len());
        i32::from(!self.failed.is_empty() || self.n == 0)
    }
}
