// SPDX-License-Identifier: GPL-2.0

//! The host asks which of a guest's pages were used.
//!
//! Its generations of pages (`lru_gen`) are made to age: the walk through the page tables asks the
//! module for each page, and those that the guest used since the last time move to the newest
//! generation. A processor without accessed flags in the nested tables tells by faults.

use super::host_memory::NoBalancing;
use super::notify::World;
use super::notify::PAGES;
use super::pages::Stats;
use crate::host;
use crate::tap::Tap;
use std::fs;

const LRU_GEN: &str = "/sys/kernel/debug/lru_gen";

/// Generations of the nodes' anonymous pages, in the root control group.
struct Generations {
    /// Number of the root group.
    group: u64,
    nodes: Vec<Node>,
}

struct Node {
    id: u32,
    /// Sequence number and pages, the oldest first.
    gens: Vec<(u64, u64)>,
}

impl Generations {
    fn read() -> Option<Self> {
        let text = fs::read_to_string(LRU_GEN).ok()?;
        let mut nodes: Vec<Node> = Vec::new();
        let (mut group, mut root) = (0, false);
        for line in text.lines() {
            let w: Vec<&str> = line.split_whitespace().collect();
            match w[..] {
                ["memcg", id, ref path @ ..] => {
                    root = matches!(path, [] | ["/"]);
                    if root {
                        group = id.parse().ok()?;
                    }
                }
                _ if !root => {}
                ["node", id] => nodes.push(Node {
                    id: id.parse().ok()?,
                    gens: Vec::new(),
                }),
                [seq, _, anon, ..] => {
                    let gen = (seq.parse().ok()?, anon.parse().ok()?);
                    nodes.last_mut()?.gens.push(gen);
                }
                _ => {}
            }
        }
        (!nodes.is_empty()).then_some(Self { group, nodes })
    }

    fn newest(&self) -> Vec<u64> {
        let last = |n: &Node| n.gens.last().map_or(0, |g| g.0);
        self.nodes.iter().map(last).collect()
    }

    /// Pages of generations from `since` on, which has a number for each node.
    fn pages(&self, since: &[u64]) -> u64 {
        let node = |(n, s): (&Node, &u64)| -> u64 {
            n.gens.iter().filter(|g| g.0 >= *s).map(|g| g.1).sum()
        };
        self.nodes.iter().zip(since).map(node).sum()
    }
}

/// Walks all page tables and begins a new generation. Pages that were used since the last walk are in
/// those that were the newest before, which are returned, or in newer ones.
fn walk() -> Vec<u64> {
    let g = Generations::read().expect(LRU_GEN);
    let newest = g.newest();
    for (n, seq) in g.nodes.iter().zip(&newest) {
        // Anonymous pages, and without leaving out tables that seem to be unused.
        let command = format!("+ {} {} {seq} 200 1\n", g.group, n.id);
        // The kernel's own walk may have come first.
        fs::write(LRU_GEN, command).ok();
    }
    newest
}

fn newer_than(since: &[u64]) -> u64 {
    Generations::read().map_or(0, |g| g.pages(since))
}

/// What the guest uses stays young, and what it does not use grows old.
pub fn age(t: &mut Tap) {
    if Generations::read().is_none() {
        t.skip("the host has no generations of pages in debugfs");
        return;
    }
    let _quiet = NoBalancing::new();
    let faults_tell = host::is_off("eptad");
    let w = World::new();
    let cpu = Stats::of(&w.g.cpus[0].fd);
    w.during(t, |t, w| {
        w.sees(t, "before");
        walk();
        for round in 0..3 {
            w.goes_on();
            let faults = cpu.get("pf_taken");
            let since = walk();
            let young = newer_than(&since);
            let what = format!("walk {round}: the guest's pages are young");
            t.point(young >= PAGES as u64 * 9 / 10, format!("{what}: {young}"));
            w.sees(t, "after it");
            let n = cpu.get("pf_taken") - faults;
            let what = format!("faults of {PAGES} pages: {n}");
            // The walk leaves out pages that are just being moved in the host's lists.
            if faults_tell {
                t.point(n >= PAGES as u64 * 9 / 10, what);
            } else {
                t.point(n < PAGES as u64 / 2, what);
            }
        }
    });
    // The guest has stopped.
    walk();
    let since = walk();
    let young = newer_than(&since);
    let old = young < PAGES as u64 / 4;
    t.point(old, format!("unused, they grow old: {young} young pages"));
    t.same("walked", since.is_empty(), false);
}
