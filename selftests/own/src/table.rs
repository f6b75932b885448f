// SPDX-License-Identifier: GPL-2.0

//! Expectations that are data: `data/*.tsv`, recorded on the in-tree module.
//!
//! A line is a case, the answers on AMD, those on Intel ("=": the same, "-": the vendor has no such
//! case), and the reason for a difference, with the manual's section. `data/ryzen.tsv` has what
//! Bochs's AMD processor answers differently from QEMU's, `data/skylake.tsv` what its Skylake answers
//! differently from its Haswell. `data/gaps.tsv` lists the cases in which our module is known to
//! answer otherwise, each with what it answers and the reason; they do not count as failures, and do
//! on the in-tree module. A third answer is a failure, and so is a gap that is none any more.

use crate::sys;
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

/// Is the processor the one that Bochs calls corei7_skylake_x?
fn skylake() -> bool {
    // SAFETY: every x86-64 processor has CPUID. Family 6, model 0x55, without the stepping.
    intel() && unsafe { std::arch::x86_64::__cpuid(1) }.eax >> 4 == 0x5065
}

/// The lines of a table without its comments.
fn lines(text: &'static str) -> impl Iterator<Item = &'static str> {
    text.lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
}

/// Is the in-tree module loaded?
pub fn stock() -> bool {
    std::env::var("MODULE").is_ok_and(|m| m == "stock")
}

/// Cases in which our module is known to answer otherwise.
struct Gap {
    pattern: &'static str,
    /// What it answers: `less A B C` is the in-tree module's answer without these bits, word by word.
    ours: &'static str,
    why: &'static str,
    /// A case was asked for, and some answer was another than the in-tree module's.
    excused: Option<bool>,
}

/// The expectations of one test.
pub struct Table<'a> {
    tap: &'a mut Tap,
    want: BTreeMap<&'static str, &'static str>,
    gaps: Vec<Gap>,
    seen: BTreeSet<String>,
    seed: bool,
}

impl<'a> Table<'a> {
    /// The expectations of a test: its name, its file of `data`.
    pub fn new(tap: &'a mut Tap, name: &str, text: &'static str) -> Self {
        let mut want = BTreeMap::new();
        for line in lines(text) {
            let mut f = line.split('\t');
            let (case, svm, vmx) = (f.next(), f.next(), f.next());
            let (Some(case), Some(svm), Some(vmx)) = (case, svm, vmx) else {
                panic!("data: {line}");
            };
            want.insert(case, if intel() && vmx != "=" { vmx } else { svm });
        }
        // The vendor, or one of its processors, and what that one has of its own.
        let (here, mine) = match (intel(), skylake(), sys::host("ryzen")) {
            (true, true, _) => (
                ["both", "vmx", "skylake"],
                include_str!("../data/skylake.tsv"),
            ),
            (true, ..) => (["both", "vmx", "intel"], ""),
            (_, _, true) => (["both", "svm", "ryzen"], include_str!("../data/ryzen.tsv")),
            _ => (["both", "svm", "amd"], ""),
        };
        want.extend(lines(mine).filter_map(|l| {
            let mut f = l.split('\t');
            (f.next() == Some(name)).then_some((f.next()?, f.next()?))
        }));
        want.retain(|_, answer| *answer != "-");
        let gaps = lines(include_str!("../data/gaps.tsv"))
            .filter(|_| !stock())
            .filter_map(|l| {
                let mut f = l.split('\t');
                let (test, pattern, on) = (f.next()?, f.next()?, f.next()?);
                let (ours, why) = (f.next()?, f.next()?);
                (test == name && here.contains(&on)).then_some(Gap {
                    pattern,
                    ours,
                    why,
                    excused: None,
                })
            })
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
        let gap = self.gaps.iter_mut().find(|g| matches(g.pattern, &case));
        // The first case that no gap excuses.
        let seeded = gap.is_none() && std::mem::take(&mut self.seed);
        let want = if seeded { "a seeded answer" } else { want };
        let right = answer == want;
        // Long lines are cut at their ends.
        let seed = if seeded { "seeded, " } else { "" };
        let text = format!("{case}: {seed}got {answer}, want {want}");
        match gap {
            Some(gap) if !right => {
                gap.excused = Some(true);
                let ours = ours(gap.ours, want);
                if answer == ours {
                    self.tap.point(true, format!("{text} # TODO {}", gap.why))
                } else {
                    let text = format!("{text}, or {ours}, as gaps.tsv says");
                    self.tap.point(false, text)
                }
            }
            Some(gap) => {
                gap.excused.get_or_insert(false);
                self.tap.point(true, case)
            }
            None if right => self.tap.point(true, case),
            None => self.tap.point(false, text),
        };
    }

    /// Does the table want this answer in the case?
    pub fn wants(&self, case: &str, answer: &str) -> bool {
        RECORDING.load(Ordering::Relaxed) || self.want.get(case).is_some_and(|w| *w == answer)
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
        for gap in self.gaps.iter().filter(|g| g.excused != Some(true)) {
            let text = format!("gaps.tsv: {} is no gap any more", gap.pattern);
            self.tap.point(false, text);
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

/// What our module answers where a gap says so, if the in-tree one answers `want`.
fn ours(gap: &str, want: &str) -> String {
    let Some(less) = gap.strip_prefix("less ") else {
        return gap.to_string();
    };
    let number = |w: &str| match w.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => w.parse(),
    };
    let (want, less): (Vec<_>, Vec<_>) = (want.split(' ').collect(), less.split(' ').collect());
    assert_eq!(want.len(), less.len(), "gaps.tsv: {gap}: words of {want:?}");
    let word = |(w, l): (&&str, &&str)| {
        let (Ok(n), Ok(l)) = (number(w), number(l)) else {
            panic!("gaps.tsv: {gap}: no numbers in {want:?}");
        };
        assert_eq!(n & l, l, "gaps.tsv: {gap}: bits that {w} does not have");
        if w.starts_with("0x") {
            format!("{:#x}", n & !l)
        } else {
            (n & !l).to_string()
        }
    };
    let words: Vec<_> = want.iter().zip(&less).map(word).collect();
    words.join(" ")
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
