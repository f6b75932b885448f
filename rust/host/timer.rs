// SPDX-License-Identifier: GPL-2.0

//! Timers at a point of monotonic time.
//!
//! [`HardTimer`] fires in the timer interrupt itself (LAPIC and TSC-deadline timers), [`SoftTimer`]
//! in the soft interrupt after it (PIT). A timer may be armed from anywhere, also while it fires;
//! what was armed last counts.

use kernel::bindings;
use kernel::prelude::*;
use kernel::types::Opaque;

use crate::clock::now_ns;
use crate::module::ModuleRef;

/// What a timer does. It borrows nothing: a timer that is forgotten fires all the same.
pub trait TimerOps: Send + Sync + 'static {
    /// The timer expired; `now` is the monotonic time, nanoseconds. The result, if any, is when it
    /// is to fire again. In the interrupt: no sleeping, no cancelling of this timer.
    fn fired(&self, now: u64) -> Option<u64>;
}

/// What the kernel calls with the address of the first field.
#[repr(C)]
#[pin_data]
struct Node<T> {
    #[pin]
    raw: Opaque<bindings::hrtimer>,
    ops: T,
}

/// A timer around `T`; it fires in the timer interrupt if `HARD`.
#[pin_data(PinnedDrop)]
pub struct Timer<T: TimerOps, const HARD: bool> {
    #[pin]
    node: Node<T>,
    _module: ModuleRef,
}

/// A timer that fires in the timer interrupt, with interrupts off.
pub type HardTimer<T> = Timer<T, true>;

/// A timer that fires in the soft interrupt.
pub type SoftTimer<T> = Timer<T, false>;

// SAFETY: Timers may be used from any thread; `T` is `Send + Sync`.
unsafe impl<T: TimerOps, const HARD: bool> Send for Timer<T, HARD> {}
// SAFETY: As above.
unsafe impl<T: TimerOps, const HARD: bool> Sync for Timer<T, HARD> {}

/// The outcome of [`Timer::try_cancel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// The timer was not armed.
    Idle,
    /// It was armed and is not any more.
    Disarmed,
    /// It fires at this moment on another CPU (or in the caller).
    Firing,
}

impl<T: TimerOps, const HARD: bool> Timer<T, HARD> {
    const MODE: bindings::hrtimer_mode = if HARD {
        bindings::hrtimer_mode_HRTIMER_MODE_ABS_HARD
    } else {
        bindings::hrtimer_mode_HRTIMER_MODE_ABS_SOFT
    };

    /// Makes a timer, not armed.
    ///
    /// # Errors
    ///
    /// `ENODEV` while the module is being unloaded.
    pub fn new(ops: T) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            node <- pin_init!(Node {
                raw <- Opaque::ffi_init(|p: *mut bindings::hrtimer| {
                    // SAFETY: Initialises the timer in place; it is cancelled before it is freed.
                    unsafe {
                        bindings::hrtimer_setup(
                            p,
                            Some(fired::<T, HARD>),
                            bindings::CLOCK_MONOTONIC as i32,
                            Self::MODE,
                        )
                    }
                }),
                ops,
            }),
            _module: ModuleRef::get()?,
        })
    }

    /// What the timer was made around.
    #[inline]
    pub fn ops(&self) -> &T {
        &self.node.ops
    }

    /// Arms the timer for a monotonic time, nanoseconds; if that is past it fires at once. Replaces
    /// what was armed before.
    #[inline]
    pub fn arm(&self, at: u64) {
        self.node.start(at, Self::MODE);
    }

    /// Disarms the timer, and waits if it fires right now; whether it was armed. Never while a lock
    /// is held that [`TimerOps::fired`] takes, nor from there.
    pub fn cancel(&self) -> bool {
        // SAFETY: The timer is initialised and pinned.
        unsafe { bindings::hrtimer_cancel(self.node.raw.get()) != 0 }
    }

    /// Disarms the timer without waiting. Any context.
    pub fn try_cancel(&self) -> Cancelled {
        // SAFETY: The timer is initialised and pinned.
        match unsafe { bindings::hrtimer_try_to_cancel(self.node.raw.get()) } {
            0 => Cancelled::Idle,
            1 => Cancelled::Disarmed,
            _ => Cancelled::Firing,
        }
    }
}

impl<T> Node<T> {
    #[inline]
    fn start(&self, at: u64, mode: bindings::hrtimer_mode) {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        // SAFETY: The timer is initialised and pinned; the function locks.
        unsafe { bindings::hrtimer_start_range_ns(self.raw.get(), at, 0, mode) };
    }
}

#[pinned_drop]
impl<T: TimerOps, const HARD: bool> PinnedDrop for Timer<T, HARD> {
    fn drop(self: Pin<&mut Self>) {
        self.cancel();
    }
}

unsafe extern "C" fn fired<T: TimerOps, const HARD: bool>(
    raw: *mut bindings::hrtimer,
) -> bindings::hrtimer_restart {
    // SAFETY: The timer is the first field of a pinned `Node<T>`, which waits for this function
    // before it goes.
    let node = unsafe { &*raw.cast::<Node<T>>() };
    if let Some(at) = node.ops.fired(now_ns()) {
        // Started anew and not by the return value: that would change the time of a timer that
        // another CPU has armed meanwhile.
        node.start(at, Timer::<T, HARD>::MODE);
    }
    // SAFETY: HRTIMER_NORESTART, which is 0 whether the type is an enumeration or, before 7.3, a
    // number.
    unsafe { core::mem::zeroed() }
}
