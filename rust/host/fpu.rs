// SPDX-License-Identifier: GPL-2.0

//! [`GuestFpu`]: a guest's FPU, vector and other XSAVE state.
//!
//! During KVM_RUN the guest's state takes the place of the thread's own: in the registers while the
//! thread runs, and saved and restored by the scheduler when it does not. Outside it is a buffer.

use core::cell::UnsafeCell;
use core::marker::PhantomData;

use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;
use kernel::types::NotThreadSafe;

use crate::shim;

/// Bytes of the legacy region and the header: the least an XSAVE image can have.
/// SDM: vol 1, 13.4.
const MIN_IMAGE: usize = 576;

/// Where XSTATE_BV is in an image.
const XSTATE_BV: core::ops::Range<usize> = 512..520;

/// A guest's FPU state.
pub struct GuestFpu {
    raw: UnsafeCell<bindings::fpu_guest>,
}

// SAFETY: The state is a buffer on the heap; it is in a thread's registers only inside
// `with_swapped_in`, which borrows it mutably and does not leave the thread.
unsafe impl Send for GuestFpu {}
// SAFETY: `&self` only reads.
unsafe impl Sync for GuestFpu {}

impl GuestFpu {
    /// Allocates an initialised state. Locks the process's permissions for dynamic features.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        // SAFETY: All zeros is a valid, empty structure.
        let mut raw: bindings::fpu_guest = unsafe { core::mem::zeroed() };
        // SAFETY: The structure is valid and empty.
        if unsafe { bindings::fpu_alloc_guest_fpstate(&mut raw) } {
            Ok(Self {
                raw: UnsafeCell::new(raw),
            })
        } else {
            Err(ENOMEM)
        }
    }

    /// Size of an image as user space sees it, bytes: at least that of `struct kvm_xsave`, more
    /// with dynamic features.
    pub fn uabi_size(&self) -> usize {
        // SAFETY: Nobody writes while `self` is borrowed.
        unsafe { (*self.raw.get()).uabi_size as usize }
    }

    /// The features the buffer has room for (bits as in XCR0 and IA32_XSS).
    pub fn features(&self) -> u64 {
        // SAFETY: As above.
        unsafe { (*self.raw.get()).xfeatures }
    }

    /// Writes an image in the standard format with the given features; what does not fit is cut
    /// off. `pkru` is stored as the PKRU component, which the buffer does not keep.
    ///
    /// # Errors
    ///
    /// `EINVAL` for less than 576 bytes.
    pub fn copy_to_uabi(&self, out: &mut [u8], features: u64, pkru: u32) -> Result {
        if out.len() < MIN_IMAGE {
            return Err(EINVAL);
        }
        let len = u32::try_from(out.len()).unwrap_or(u32::MAX);
        // SAFETY: `len` bytes are writable. The buffer is not in registers, as nobody has it
        // borrowed mutably.
        unsafe {
            bindings::fpu_copy_guest_fpstate_to_uabi(
                self.raw.get(),
                out.as_mut_ptr().cast(),
                len,
                features,
                pkru,
            );
        }
        Ok(())
    }

    /// Takes the state from an image in the standard format. The PKRU component, if present, goes
    /// to `pkru`. Components that the guest has disabled by XFD are dropped from the image.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the image is shorter than [`Self::uabi_size`] or not valid, or has features
    /// that are not in `xcr0`.
    pub fn copy_from_uabi(&mut self, image: &mut [u8], xcr0: u64, pkru: &mut u32) -> Result {
        if image.len() < self.uabi_size().max(MIN_IMAGE) {
            return Err(EINVAL);
        }
        let raw = self.raw.get_mut();
        let bv = image.get_mut(XSTATE_BV).ok_or(EINVAL)?;
        let bytes = <[u8; 8]>::try_from(&*bv).map_err(|_| EINVAL)?;
        // SAFETY: The state lives as long as `self`.
        let xfd = unsafe { (*raw.fpstate).xfd };
        // KVM: XFD'd components are dropped, not refused.
        bv.copy_from_slice(&(u64::from_le_bytes(bytes) & !xfd).to_le_bytes());
        // SAFETY: The image is as long as any image with the features of the buffer, and the
        // function refuses others.
        to_result(unsafe {
            bindings::fpu_copy_uabi_to_guest_fpstate(raw, image.as_ptr().cast(), xcr0, pkru)
        })
    }

    /// A copy of the legacy region: the image of FXSAVE64. SDM: vol 1, 10.5.1.
    pub fn read_fxsave(&self, out: &mut [u8; 512]) {
        // SAFETY: The legacy region is the first 512 bytes of the registers, whatever the format.
        unsafe {
            let regs = (&raw const (*(*self.raw.get()).fpstate).regs).cast::<[u8; 512]>();
            out.copy_from_slice(&*regs);
        }
    }

    /// Sets the x87 and SSE registers from an image of FXSAVE64, except MXCSR, whose reserved bits
    /// fault: it stays as it is.
    pub fn write_fxsave(&mut self, image: &[u8; 512]) {
        // Control words and pointers up to MXCSR; the registers after MXCSR and its mask.
        const PARTS: [core::ops::Range<usize>; 2] = [0..24, 32..416];
        // SAFETY: As in `read_fxsave`; `self` is borrowed mutably, so the registers are nowhere
        // else.
        let state = unsafe { &mut *self.raw.get_mut().fpstate };
        // SAFETY: As above.
        let regs = unsafe { &mut *(&raw mut state.regs).cast::<[u8; MIN_IMAGE]>() };
        for part in PARTS {
            if let (Some(to), Some(from)) = (regs.get_mut(part.clone()), image.get(part)) {
                to.copy_from_slice(from);
            }
        }
        // The components are no longer in their initial state.
        if let Some(bv) = regs.get_mut(XSTATE_BV.start) {
            *bv |= 3;
        }
    }

    /// Runs `f` with the guest's state in place of the thread's.
    ///
    /// # Errors
    ///
    /// `EBUSY` if the thread has a guest's state already.
    pub fn with_swapped_in<R>(&mut self, f: impl FnOnce(&mut LoadedFpu<'_>) -> R) -> Result<R> {
        // SAFETY: Looks at the current task.
        if unsafe { shim::kvmrs_fpu_is_guest() } {
            return Err(EBUSY);
        }
        // SAFETY: The state stays until it is swapped out below, which is certain: a panic does not
        // unwind.
        unsafe { bindings::fpu_swap_kvm_fpstate(self.raw.get(), true) };
        let result = f(&mut LoadedFpu {
            _state: PhantomData,
            _here: NotThreadSafe,
        });
        // SAFETY: Swapped in above, by this thread.
        unsafe { bindings::fpu_swap_kvm_fpstate(self.raw.get(), false) };
        Ok(result)
    }
}

/// Copies vector register `n` of the guest whose state this thread has in place of its own: the MMX
/// register for 8 bytes, XMM for 16, YMM for 32.
///
/// # Errors
///
/// `EBUSY` if the thread has no guest's state; `EINVAL` if there is no such register; `EFAULT` if
/// an x87 exception waits, which an MMX instruction reports first.
pub fn read_vector<const N: usize>(n: u8) -> Result<[u8; N]> {
    let mut value = [0; N];
    vector(n, &mut value, false)?;
    Ok(value)
}

/// The opposite of [`read_vector`]. Writing XMM leaves the upper half of YMM as it is.
///
/// # Errors
///
/// As there.
pub fn write_vector<const N: usize>(n: u8, mut value: [u8; N]) -> Result {
    vector(n, &mut value, true)
}

/// An instruction on the x87 of the guest whose state this thread has in place of its own.
#[derive(Clone, Copy)]
pub enum X87 {
    /// FNINIT.
    Init = 0,
    /// FNSTCW.
    StoreControl = 1,
    /// FNSTSW.
    StoreStatus = 2,
}

/// Carries it out; the word that it stores, or 0.
///
/// # Errors
///
/// `EBUSY` if the thread has no guest's state.
pub fn x87(op: X87) -> Result<u16> {
    let mut word = 0;
    // SAFETY: Writes to `word` at most. Registers are touched only if they are a guest's.
    to_result(unsafe { shim::kvmrs_fpu_x87(op as i32, &mut word) })?;
    Ok(word)
}

fn vector<const N: usize>(n: u8, value: &mut [u8; N], write: bool) -> Result {
    // CAST: other sizes than 8, 16 and 32 are refused.
    // SAFETY: `value` has N bytes. The function touches registers only if they are a guest's, and
    // those mean nothing to Rust code.
    to_result(unsafe { shim::kvmrs_fpu_vec(n.into(), N as u32, value.as_mut_ptr().cast(), write) })
}

impl Drop for GuestFpu {
    fn drop(&mut self) {
        // SAFETY: Allocated in `new`, and not in any thread.
        unsafe { bindings::fpu_free_guest_fpstate(self.raw.get_mut()) };
    }
}

/// A guest's state in place of this thread's.
pub struct LoadedFpu<'a> {
    _state: PhantomData<&'a mut bindings::fpu_guest>,
    _here: NotThreadSafe,
}
