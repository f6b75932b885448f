// SPDX-License-Identifier: GPL-2.0

//! The mailbox through which everyone else reaches a vCPU.
//!
//! A vCPU's local APIC has no lock: only the thread that runs the vCPU touches it. Devices, timers
//! and other vCPUs post into its [`Pending`], and the owner takes what was posted before it enters
//! the guest or goes to sleep. Posting never waits, allocates or fails.
//!
//! The first 64 bytes are a posted-interrupt descriptor (SDM: vol 3, 31.6), so that VMX hardware
//! can deliver what software posts. The trigger modes, which the descriptor
//! does not have, lie beside it. That layout makes this type x86-only.
//!
//! # Who must be told
//!
//! A post is worth nothing if its owner runs the guest or sleeps without having seen it. The owner
//! says where it is in the mode word:
//!
//! ```text
//!                enter_guest()                    a poster's kick
//!  OutsideGuest ---------------> InGuest ----------------------------> ExitingGuest
//!     ^   |  ^                     |                                        |
//!     |   |  +---------------------+--------------- leave() ----------------+
//!     |   |        block()
//!     |   +---------------------> Blocked
//!     +----------- leave() ---------+
//! ```
//!
//! and the two sides run
//!
//! ```text
//!  owner:  mode = InGuest (Blocked)     poster: put the message into the mailbox
//!          full barrier                         full barrier
//!          look into the mailbox                look at the mode
//! ```
//!
//! Whichever comes first, at least one of them sees the other: the owner turns back, or the poster
//! learns that it must send an IPI or wake a sleeper. Without either barrier both could look
//! before the other's store is visible, and the message would lie there until the next exit.
//! `pending_loom.rs` explores the interleavings.
//!
//! Only the first of several posters has to act: of vectors, the one that sets ON; of kicks, the
//! one that moves the mode from `InGuest` to `ExitingGuest`.

use crate::sync::store_then_load;
use crate::sync::AtomicU32;
use crate::sync::AtomicU64;
use crate::sync::Ordering::Acquire;
use crate::sync::Ordering::Relaxed;
use crate::sync::Ordering::Release;
use crate::sync::Ordering::SeqCst;
use crate::x86::apic::Trigger;

/// Where the thread that runs a vCPU is, as far as posters need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VcpuMode {
    /// In host code. It looks into the mailbox before it enters the guest or sleeps.
    OutsideGuest = 0,
    /// In the guest or committed to entering it: only an IPI brings it back.
    InGuest = 1,
    /// As before, and somebody has already taken care of the IPI.
    ExitingGuest = 2,
    /// Asleep, or about to be, until woken.
    Blocked = 3,
}

/// What a poster must do after its post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the vCPU may sleep or run on without seeing what was posted"]
pub enum Wake {
    /// Nothing: the owner looks by itself, or someone else has seen to it.
    None,
    /// Send an IPI to the CPU the vCPU runs on.
    Kick,
    /// Send that CPU the interrupt that makes its hardware take the posted vectors.
    Notify,
    /// Wake the thread.
    Unblock,
}

/// What lies in the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Vectors, to be taken with [`Pending::take_vectors`].
    pub vectors: bool,
    /// Events, to be taken with [`Pending::take_events`].
    pub events: bool,
    /// Requests, to be taken with [`Pending::take_requests`].
    pub requests: bool,
}

impl Work {
    /// True if there is anything at all.
    #[inline]
    pub const fn any(self) -> bool {
        self.vectors || self.events || self.requests
    }
}

/// Interrupts taken from the mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vectors {
    /// The vectors, 64 to a word.
    pub irr: [u64; 4],
    /// Which of them are level-triggered. Bits of vectors not in `irr` mean nothing.
    pub level: [u64; 4],
}

/// Everything posted besides vectors and requests. One INIT, SIPI or SMI can be pending at a time;
/// NMIs are counted up to two, one to be in service and one to wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u32);

impl Events {
    const INIT: u32 = 1 << 0;
    const SIPI: u32 = 1 << 1;
    const SMI: u32 = 1 << 2;
    const TIMER: u32 = 1 << 3;
    const UNHALT: u32 = 1 << 4;
    const SIPI_SHIFT: u32 = 8;
    const SIPI_VECTOR: u32 = 0xff << Self::SIPI_SHIFT;
    const NMI_SHIFT: u32 = 16;
    const NMI: u32 = 3 << Self::NMI_SHIFT;
    const NMI_ONE: u32 = 1 << Self::NMI_SHIFT;
    const NMI_MAX: u32 = 2 << Self::NMI_SHIFT;

    /// An INIT arrived. It precedes a SIPI taken at the same time.
    #[inline]
    pub const fn init(self) -> bool {
        self.0 & Self::INIT != 0
    }

    /// A start-up IPI arrived, after the INIT if there was one; its vector.
    #[inline]
    pub const fn sipi(self) -> Option<u8> {
        if self.0 & Self::SIPI != 0 {
            Some((self.0 >> Self::SIPI_SHIFT) as u8)
        } else {
            None
        }
    }

    /// A system management interrupt arrived.
    #[inline]
    pub const fn smi(self) -> bool {
        self.0 & Self::SMI != 0
    }

    /// The timer that the APIC had armed has fired.
    #[inline]
    pub const fn timer(self) -> bool {
        self.0 & Self::TIMER != 0
    }

    /// A paravirtual kick arrived: it ends a HLT without being an interrupt.
    #[inline]
    pub const fn unhalt(self) -> bool {
        self.0 & Self::UNHALT != 0
    }

    /// How many NMIs arrived, at most two.
    #[inline]
    pub const fn nmis(self) -> u8 {
        ((self.0 & Self::NMI) >> Self::NMI_SHIFT) as u8
    }

    /// True if there is none.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A vCPU's mailbox; one of zeros is empty. The owner's calls are marked "owner"; all others may come from anywhere,
/// hardirq and NMI context included.
#[derive(Debug)]
#[cfg_attr(not(all(loom, test)), derive(zerocopy_derive::FromZeros))]
#[repr(C, align(64))]
pub struct Pending {
    /// Posted vectors: the PIR of the descriptor.
    pir: [AtomicU64; 4],
    /// The descriptor's control word. Of its fields only ON is in use: what posts by hardware would
    /// need the others, and nothing does.
    control: AtomicU64,
    /// The rest of the descriptor, reserved.
    reserved: [AtomicU64; 3],
    /// Trigger mode that each vector was last posted with.
    level: [AtomicU64; 4],
    /// A [`VcpuMode`].
    mode: AtomicU32,
    /// [`Events`].
    events: AtomicU32,
    /// Requests; their meaning is the caller's.
    requests: AtomicU64,
    /// Not 0: hardware takes posted vectors while the guest runs.
    hardware: AtomicU32,
}

/// Outstanding notification: the PIR has news and somebody was told.
const ON: u64 = 1 << 0;

#[cfg(not(all(loom, test)))]
const _: () = {
    assert!(core::mem::size_of::<Pending>() == 128);
    assert!(core::mem::align_of::<Pending>() == 64);
    assert!(core::mem::offset_of!(Pending, control) == 32);
    assert!(core::mem::offset_of!(Pending, level) == 64);
};

impl Default for Pending {
    fn default() -> Self {
        Self::new()
    }
}

impl Pending {
    /// An empty mailbox of a vCPU outside the guest.
    pub fn new() -> Self {
        Self {
            pir: core::array::from_fn(|_| AtomicU64::new(0)),
            control: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
            level: core::array::from_fn(|_| AtomicU64::new(0)),
            mode: AtomicU32::new(VcpuMode::OutsideGuest as u32),
            events: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            hardware: AtomicU32::new(0),
        }
    }

    /// Owner: says whether hardware takes posted vectors while the guest runs, so that a
    /// notification does and the guest need not be left.
    pub fn set_hardware(&self, on: bool) {
        self.hardware.store(u32::from(on), SeqCst);
    }

    // Posters.

    /// Posts an interrupt. The caller has found that the destination's APIC accepts it
    /// (`Published::accepts_fixed`).
    pub fn post(&self, vector: u8, trigger: Trigger) -> Wake {
        if !self.put(vector, trigger) {
            return Wake::None;
        }
        // If the guest is left in the meantime the owner finds the vector by itself.
        if self.hardware.load(Relaxed) != 0 && self.mode() == VcpuMode::InGuest {
            return Wake::Notify;
        }
        self.wake()
    }

    /// The first half of [`Pending::post`]: puts the vector into the mailbox and tells whether this
    /// caller is the one that has to tell the owner, be it with [`Pending::wake`] or with the
    /// hardware's notification interrupt.
    #[must_use = "true means that nobody else will tell the owner"]
    pub fn put(&self, vector: u8, trigger: Trigger) -> bool {
        let bit = 1u64 << (vector & 63);
        let level = word(&self.level, vector);
        // Relaxed: taking the vector from the PIR orders this store before the owner's load.
        if trigger.is_level() != (level.load(Relaxed) & bit != 0) {
            if trigger.is_level() {
                level.fetch_or(bit, Relaxed);
            } else {
                level.fetch_and(!bit, Relaxed);
            }
        }
        if word(&self.pir, vector).fetch_or(bit, SeqCst) & bit != 0 {
            // Whoever set the bit sets ON after it.
            return false;
        }
        self.control.fetch_or(ON, SeqCst) & ON == 0
    }

    /// Posts an NMI.
    pub fn post_nmi(&self) -> Wake {
        self.post_event(|e| {
            if e & Events::NMI < Events::NMI_MAX {
                e.wrapping_add(Events::NMI_ONE)
            } else {
                e
            }
        })
    }

    /// Posts an INIT. It takes the place of a start-up IPI that has not been seen.
    pub fn post_init(&self) -> Wake {
        self.post_event(|e| e & !(Events::SIPI | Events::SIPI_VECTOR) | Events::INIT)
    }

    /// Posts a start-up IPI. It takes the place of an earlier one that has not been seen.
    pub fn post_sipi(&self, vector: u8) -> Wake {
        let vector = u32::from(vector) << Events::SIPI_SHIFT;
        self.post_event(|e| e & !Events::SIPI_VECTOR | Events::SIPI | vector)
    }

    /// Posts a system management interrupt.
    pub fn post_smi(&self) -> Wake {
        self.post_event(|e| e | Events::SMI)
    }

    /// Posts that the timer armed for this APIC has fired.
    pub fn post_timer(&self) -> Wake {
        self.post_event(|e| e | Events::TIMER)
    }

    /// Posts a paravirtual kick.
    pub fn post_unhalt(&self) -> Wake {
        self.post_event(|e| e | Events::UNHALT)
    }

    /// Posts requests, one bit each.
    pub fn post_request(&self, bits: u64) -> Wake {
        if self.requests.fetch_or(bits, SeqCst) & bits == bits {
            return Wake::None;
        }
        self.wake()
    }

    /// Posts requests for the owner to find in its own time: at its next entry or sleep. For the
    /// owner itself, and for what need not interrupt the guest.
    pub fn note_request(&self, bits: u64) {
        self.requests.fetch_or(bits, SeqCst);
    }

    /// The second half of every post: finds out what the poster must do. Also for kicking a vCPU
    /// without a message.
    pub fn wake(&self) -> Wake {
        match self.mode() {
            VcpuMode::Blocked => Wake::Unblock,
            VcpuMode::InGuest => {
                let kicked = self.mode.compare_exchange(
                    VcpuMode::InGuest as u32,
                    VcpuMode::ExitingGuest as u32,
                    SeqCst,
                    SeqCst,
                );
                // It may have gone to sleep in between, but not without passing OutsideGuest and
                // looking into the mailbox again.
                match kicked {
                    Ok(_) => Wake::Kick,
                    Err(_) => Wake::None,
                }
            }
            VcpuMode::ExitingGuest | VcpuMode::OutsideGuest => Wake::None,
        }
    }

    /// Where the owner is. Ordered after what this thread put into the mailbox before.
    #[inline]
    pub fn mode(&self) -> VcpuMode {
        store_then_load();
        match self.mode.load(SeqCst) {
            1 => VcpuMode::InGuest,
            2 => VcpuMode::ExitingGuest,
            3 => VcpuMode::Blocked,
            _ => VcpuMode::OutsideGuest,
        }
    }

    /// May the vCPU be executing guest code? A poster whose request must have taken effect before it
    /// goes on (a TLB flush) sends an IPI and waits for it while this is true, whether or not
    /// somebody else has kicked the vCPU. If it is false the request will be seen before the next
    /// entry.
    #[inline]
    pub fn is_in_guest(&self) -> bool {
        matches!(self.mode(), VcpuMode::InGuest | VcpuMode::ExitingGuest)
    }

    /// What lies in the mailbox.
    #[inline]
    pub fn work(&self) -> Work {
        Work {
            vectors: self.control.load(SeqCst) & ON != 0,
            events: self.events.load(SeqCst) != 0,
            requests: self.requests.load(SeqCst) != 0,
        }
    }

    /// Is there nothing in the mailbox? The same as no [`Pending::work`], for the path of every entry.
    #[inline]
    pub fn is_empty(&self) -> bool {
        let control = self.control.load(SeqCst) & ON;
        let events = u64::from(self.events.load(SeqCst));
        control | events | self.requests.load(SeqCst) == 0
    }

    /// Whether this vector was posted and not yet taken.
    pub fn has_vector(&self, vector: u8) -> bool {
        word(&self.pir, vector).load(Acquire) & (1 << (vector & 63)) != 0
    }

    // The owner.

    /// Owner: commits to entering the guest, with interrupts off, and looks into the mailbox. If
    /// there is work that must be done first, call [`Pending::leave`] and do it.
    #[must_use = "entering with work pending delays it until the next exit"]
    #[inline]
    pub fn enter_guest(&self) -> Work {
        self.set_mode(VcpuMode::InGuest)
    }

    /// Owner: [`Pending::enter_guest`], when all that counts is whether the mailbox is empty.
    #[must_use = "entering with work pending delays it until the next exit"]
    #[inline]
    pub fn enter_guest_if_empty(&self) -> bool {
        self.mode.store(VcpuMode::InGuest as u32, SeqCst);
        store_then_load();
        self.is_empty()
    }

    /// Owner: announces that it will sleep and looks into the mailbox. If there is something worth
    /// staying awake for, call [`Pending::leave`]; else sleep, and ask for [`Pending::work`] again
    /// at each wake-up.
    #[must_use = "sleeping with work pending may last forever"]
    #[inline]
    pub fn block(&self) -> Work {
        self.set_mode(VcpuMode::Blocked)
    }

    /// Owner: is back in host code and will look into the mailbox before it enters or sleeps.
    #[inline]
    pub fn leave(&self) {
        self.mode.store(VcpuMode::OutsideGuest as u32, Release);
    }

    /// Owner: has somebody sent, or is about to send, an IPI since [`Pending::enter_guest`]?
    #[inline]
    pub fn is_kicked(&self) -> bool {
        self.mode.load(Relaxed) == VcpuMode::ExitingGuest as u32
    }

    /// Owner: takes the posted vectors.
    pub fn take_vectors(&self) -> Option<Vectors> {
        if self.control.load(Acquire) & ON == 0 {
            return None;
        }
        // ON first: a vector put after this line sets ON again.
        self.control.fetch_and(!ON, SeqCst);
        let mut taken = Vectors::default();
        let mut any = 0;
        for ((irr, level), (pir, mode)) in taken
            .irr
            .iter_mut()
            .zip(taken.level.iter_mut())
            .zip(self.pir.iter().zip(&self.level))
        {
            // Look before swapping: the line stays shared if there is nothing.
            if pir.load(Relaxed) != 0 {
                *irr = pir.swap(0, SeqCst);
                *level = mode.load(Relaxed);
                any |= *irr;
            }
        }
        (any != 0).then_some(taken)
    }

    /// Owner: whether `vector` was last posted as level-triggered. For an EOI of an interrupt that
    /// hardware moved from the PIR to the IRR, past [`Pending::take_vectors`].
    #[inline]
    pub fn is_level(&self, vector: u8) -> bool {
        word(&self.level, vector).load(Relaxed) & (1 << (vector & 63)) != 0
    }

    /// Owner: takes all posted events. What cannot be acted upon yet is the owner's to remember.
    #[inline]
    pub fn take_events(&self) -> Events {
        if self.events.load(Acquire) == 0 {
            return Events(0);
        }
        Events(self.events.swap(0, SeqCst))
    }

    /// Owner: takes all posted requests.
    #[inline]
    pub fn take_requests(&self) -> u64 {
        if self.requests.load(Acquire) == 0 {
            return 0;
        }
        self.requests.swap(0, SeqCst)
    }

    /// Owner: takes those of `bits` that were requested.
    #[inline]
    pub fn take_request(&self, bits: u64) -> u64 {
        if self.requests.load(Acquire) & bits == 0 {
            return 0;
        }
        self.requests.fetch_and(!bits, SeqCst) & bits
    }

    /// Applies `f` to the events. An unchanged word needs no wake-up: whoever set it sees to that.
    fn post_event(&self, f: impl Fn(u32) -> u32) -> Wake {
        let changed = self.events.fetch_update(SeqCst, Relaxed, |e| {
            let new = f(e);
            (new != e).then_some(new)
        });
        match changed {
            Ok(_) => self.wake(),
            Err(_) => Wake::None,
        }
    }

    #[inline]
    fn set_mode(&self, mode: VcpuMode) -> Work {
        self.mode.store(mode as u32, SeqCst);
        store_then_load();
        self.work()
    }
}

/// The word that has the bit of `vector`.
#[inline]
fn word(words: &[AtomicU64; 4], vector: u8) -> &AtomicU64 {
    let [first, ..] = words;
    // The index is below 4, so the alternative vanishes.
    words.get(usize::from(vector >> 6)).unwrap_or(first)
}

#[cfg(all(test, loom))]
#[path = "../tests/irqchip/pending_loom.rs"]
mod pending_loom;

#[cfg(all(test, not(loom)))]
#[path = "../tests/irqchip/pending.rs"]
mod tests;
