// SPDX-License-Identifier: GPL-2.0

//! Expectations that are data: `data/*.tsv`, recorded on the in-tree module.
//!
//! A line is a case, the answers on AMD, those on Intel ("=": the same), and optionally a source
//! for the difference. `data/gaps.tsv` lists the cases in which our module is known to answer
//! otherwise, each with its reason; they do not count as failures, and do on the in-tree module.

use crate::tap::Tap;
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

static RECORDING: AtomicBool = AtomicBool::new(false);

/// Print answers instead of comparing them?
pub fn set_recording(on: bool) {
    RECORDING.store(on, Ordering::Relaxed);
}

/// Is the processor Intel's?
pub fn intel() -> bool {
    // SAFETY: every x86-64 processor has CPUID.
    let r = unsafe { std::arch::x86_64::__cpuid(0) };
    r.ebx.to_le_bytes() == *b"Genu"
}

/// Is the in-tree module loaded?
pub fn stock() -> bool {
    std::env::var("MODULE").is_ok_and(|m| m == "stock")
}

/// The expectations of one test.
pub struct Table<'a> {
    tap: &'a mut Tap,
    want: BTreeMap<&'static str, &'static str>,
    gaps: Vec<(&'static str, &'static str)>,
    seen: BTreeSet<String>,
    seed: bool,
}

impl<'a> Table<'a> {
    /// The expectations in a file of `data`.
    pub fn new(tap: &'a mut Tap, text: &'static str) -> Self {
        let mut want = BTreeMap::new();
        for line in text
            .lines()
            .filter(|l| !l.starts_with('#') && !l.is_empty())
        {
            let mut f = line.split('\t');
            let (case, svm, vmx) = (f.next(), f.next(), f.next());
            let (Some(case), Some(svm), Some(vmx)) = (case, svm, vmx) else {
                panic!("data: {line}");
            };
            want.insert(case, if intel() && vmx != "=" { vmx } else { svm });
        }
        let gaps = include_str!("../data/gaps.tsv")
            .lines()
            .filter(|l| !l.starts_with('#') && !stock())
            .filter_map(|l| l.split_once('\t'))
            .collect();
        let seed = std::env::var("SEED").is_ok_and(|s| s == "1");
        Self {
            tap,
            want,
            gaps,
            seen: BTreeSet::new(),
            seed,
        }
    }

    /// Compares an answer with what the table has for the case.
    pub fn row(&mut self, case: impl Display, answer: impl Display) {
        let (case, answer) = (case.to_string(), answer.to_string());
        assert!(
            self.seen.insert(case.clone()),
            "two cases are called {case}"
        );
        if RECORDING.load(Ordering::Relaxed) {
            println!("@REC\t{case}\t{answer}");
            return;
        }
        let Some(want) = self.want.get(case.as_str()) else {
            self.tap
                .point(false, format!("{case}: not in the table: {answer}"));
            return;
        };
        let gap = self
            .gaps
            .iter()
            .find(|(pattern, _)| matches(pattern, &case));
        // The first case that no gap excuses.
        let seeded = gap.is_none() && std::mem::take(&mut self.seed);
        let want = if seeded { "a seeded answer" } else { want };
        if answer == want {
            self.tap.point(true, case);
            return;
        }
        let text = format!("{case}: got {answer}, want {want}");
        match gap {
            Some((_, why)) => self.tap.point(true, format!("{text} # TODO {why}")),
            None => self.tap.point(false, text),
        };
    }

    /// Does the table have the case?
    pub fn expects(&self, case: &str) -> bool {
        self.want.contains_key(case)
    }

    /// A point beside the table.
    pub fn tap(&mut self) -> &mut Tap {
        self.tap
    }

    /// Every line of the table must have been asked for, or the file and the test disagree.
    pub fn finish(self) {
        if RECORDING.load(Ordering::Relaxed) {
            self.tap.point(true, "recorded");
            return;
        }
        let unseen: Vec<_> = self
            .want
            .keys()
            .filter(|k| !self.seen.contains(**k))
            .collect();
        self.tap.point(
            unseen.is_empty(),
            format!("no case is left over: {unseen:?}"),
        );
    }
}

/// Does a name match a pattern with at most one `*`?
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((a, b)) => name.len() >= a.len() + b.len() && name.starts_with(a) && name.ends_with(b),
    }
}

/// A list of answers with equal neighbours merged: `0=0 1-31=EINVAL`.
pub fn runs<A: PartialEq + Display>(answers: &[A]) -> String {
    let mut out = Vec::new();
    let mut from = 0;
    for i in 1..=answers.len() {
        if i == answers.len() || answers[i] != answers[from] {
            let to = i - 1;
            if from == to {
                out.push(format!("{from:#x}={}", answers[from]));
            } else {
                out.push(format!("{from:#x}-{to:#x}={}", answers[from]));
            }
            from = i;
        }
    }
    out.join(" ")
}
