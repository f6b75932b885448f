// SPDX-License-Identifier: GPL-2.0

//! The record of finished accesses that makes replay possible.
//!
//! A bus keeps one [`IoLog`] per vCPU. While an instruction runs, each access that must not be
//! repeated or that could read differently the next time is looked up with [`IoLog::replay`]; if
//! it is not there it is performed and added with [`IoLog::record`]. When user space answers an
//! access the bus records its result and the instruction is emulated again from the start.
//!
//! Registers may have changed in between (user space may write them), so a replay can ask for
//! other accesses than the log holds. The first mismatch drops that entry and all that follow.

/// Bytes of data an entry can hold.
pub const DATA_MAX: usize = 16;
/// Entries in a log. PUSHA makes eight accesses, each of which may be split at a page; only ENTER
/// with deep nesting needs more.
pub const ENTRIES: usize = 20;

/// The kind of a logged access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoKind {
    /// Guest-physical memory, MMIO or RAM.
    Mem,
    /// A port.
    Port,
    /// An MSR; the address is its index.
    Msr,
}

/// What identifies an access: a replay must ask for exactly this to get the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoKey {
    /// Kind of access.
    pub kind: IoKind,
    /// Guest-physical address, port or MSR index.
    pub addr: u64,
    /// Bytes per element: 1 to 16.
    pub size: u8,
    /// Elements; more than one only for batched string I/O, whose data lives with the caller.
    pub count: u32,
    /// A write.
    pub write: bool,
}

impl IoKey {
    /// A single access.
    pub const fn new(kind: IoKind, addr: u64, size: u8, write: bool) -> Self {
        Self {
            kind,
            addr,
            size,
            count: 1,
            write,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: IoKey,
    data: [u8; DATA_MAX],
}

const EMPTY: Entry = Entry {
    key: IoKey::new(IoKind::Mem, 0, 0, false),
    data: [0; DATA_MAX],
};

/// The log is full. No instruction needs that many entries, so the caller gives up on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A log of finished accesses, with a replay position.
///
/// ```
/// use model::emul::log::{IoKey, IoKind, IoLog};
///
/// let mut log = IoLog::new();
/// let key = IoKey::new(IoKind::Mem, 0xfed0_0000, 4, false);
/// assert!(log.replay(&key).is_none()); // not done yet: ask user space
/// log.record(key, &[1, 2, 3, 4]).unwrap();
/// log.rewind(); // emulate again
/// assert_eq!(log.replay(&key).map(|d| d[..4].to_vec()), Some(vec![1, 2, 3, 4]));
/// ```
#[derive(Clone, Debug)]
pub struct IoLog {
    entries: [Entry; ENTRIES],
    len: u8,
    at: u8,
}

impl Default for IoLog {
    fn default() -> Self {
        Self::new()
    }
}

impl IoLog {
    /// An empty log.
    pub const fn new() -> Self {
        Self {
            entries: [EMPTY; ENTRIES],
            len: 0,
            at: 0,
        }
    }

    /// Entries held.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Starts a replay: the next lookup is compared with the first entry.
    pub fn rewind(&mut self) {
        self.at = 0;
    }

    /// Forgets everything: the instruction (or REP element) is complete or abandoned.
    pub fn clear(&mut self) {
        self.len = 0;
        self.at = 0;
    }

    /// If the access at the replay position is `key`, consumes it and returns its data (for a
    /// write: what was written). If it is another, drops it and the rest.
    pub fn replay(&mut self, key: &IoKey) -> Option<&[u8; DATA_MAX]> {
        if self.at >= self.len {
            return None;
        }
        let entry = self.entries.get(usize::from(self.at))?;
        if entry.key != *key {
            self.len = self.at;
            return None;
        }
        self.at = self.at.wrapping_add(1);
        Some(&entry.data)
    }

    /// Like [`IoLog::replay`] for a write, which matches only if it writes the same bytes.
    pub fn replay_write(&mut self, key: &IoKey, data: &[u8]) -> bool {
        let at = self.at;
        let same = self
            .replay(key)
            .is_some_and(|d| d.get(..data.len()) == Some(data));
        if !same && self.at != at {
            self.at = at;
            self.len = at;
        }
        same
    }

    /// Adds a finished access at the replay position, dropping what came after it. `data` is what
    /// was read or written; bytes beyond [`DATA_MAX`] are not kept.
    pub fn record(&mut self, key: IoKey, data: &[u8]) -> Result<(), Full> {
        let entry = self.entries.get_mut(usize::from(self.at)).ok_or(Full)?;
        entry.key = key;
        entry.data = [0; DATA_MAX];
        for (to, from) in entry.data.iter_mut().zip(data) {
            *to = *from;
        }
        self.at = self.at.wrapping_add(1);
        self.len = self.at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mem(addr: u64, write: bool) -> IoKey {
        IoKey::new(IoKind::Mem, addr, 4, write)
    }

    #[test]
    fn replays_in_order() {
        let mut log = IoLog::new();
        log.record(mem(1, false), &[1]).unwrap();
        log.record(mem(2, true), &[2]).unwrap();
        log.rewind();
        assert_eq!(log.replay(&mem(1, false)).unwrap()[0], 1);
        assert!(log.replay_write(&mem(2, true), &[2]));
        assert!(log.replay(&mem(3, false)).is_none());
        assert_eq!(log.len(), 2);
    }

    #[test]
    fn a_mismatch_drops_the_rest() {
        let mut log = IoLog::new();
        for i in 0..3 {
            log.record(mem(i, false), &[i as u8]).unwrap();
        }
        log.rewind();
        assert!(log.replay(&mem(0, false)).is_some());
        assert!(log.replay(&mem(9, false)).is_none());
        assert_eq!(log.len(), 1);
        assert!(log.replay(&mem(1, false)).is_none());
        log.record(mem(9, false), &[9]).unwrap();
        log.rewind();
        assert!(log.replay(&mem(0, false)).is_some());
        assert_eq!(log.replay(&mem(9, false)).unwrap()[0], 9);
    }

    #[test]
    fn a_write_of_other_data_is_a_mismatch() {
        let mut log = IoLog::new();
        log.record(mem(0, true), &[1, 2, 3, 4]).unwrap();
        log.rewind();
        assert!(!log.replay_write(&mem(0, true), &[1, 2, 3, 5]));
        assert!(log.is_empty());
    }

    #[test]
    fn a_full_log_says_so() {
        let mut log = IoLog::new();
        for _ in 0..ENTRIES {
            log.record(mem(0, false), &[0; 40]).unwrap();
        }
        assert_eq!(log.record(mem(0, false), &[]), Err(Full));
        assert_eq!(log.len(), ENTRIES);
    }

    proptest! {
        /// Recorded accesses come back as they were, whatever happens between; nothing panics.
        #[test]
        fn any_sequence(ops in proptest::collection::vec((0u8..5, 0u64..4, any::<bool>()), 0..60)) {
            let mut log = IoLog::new();
            let mut model: Vec<(u64, bool)> = Vec::new();
            let mut at = 0;
            for (op, addr, write) in ops {
                match op {
                    0 => { log.rewind(); at = 0; }
                    1 => { log.clear(); model.clear(); at = 0; }
                    2 | 3 => {
                        let got = log.replay(&mem(addr, write)).map(|d| d[0]);
                        let want = model.get(at).copied();
                        if want == Some((addr, write)) {
                            prop_assert_eq!(got, Some(addr as u8));
                            at += 1;
                        } else {
                            prop_assert_eq!(got, None);
                            model.truncate(at);
                        }
                    }
                    _ => {
                        let r = log.record(mem(addr, write), &[addr as u8]);
                        prop_assert_eq!(r.is_ok(), at < ENTRIES);
                        if r.is_ok() {
                            model.truncate(at);
                            model.push((addr, write));
                            at += 1;
                        }
                    }
                }
                prop_assert_eq!(log.len(), model.len());
            }
        }
    }
}
