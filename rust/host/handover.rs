// SPDX-License-Identifier: GPL-2.0

//! [`HandOver`]: the thin modules (`kvm-amd.ko`, `kvm-intel.ko`) hand their parameters over, and
//! `nx_huge_pages` changes.
//!
//! The C side copies them to where the backends read them (`shim/params.c`), asks for a new probe,
//! and copies back what is in effect. It holds a lock meanwhile, so that there is one at a time.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use kernel::ffi::{c_int, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::hwvirt::X86Virt;
use crate::shim;

/// Who acts on new parameters.
pub trait ParamOps: Send + Sync + 'static {
    /// The parameters of the thin module for `extension` are new.
    ///
    /// # Errors
    ///
    /// Why they do not take effect: the parameters from before are put back.
    fn reprobe(&self, extension: X86Virt) -> Result;

    /// May `nx_huge_pages` go off for good?
    ///
    /// # Errors
    ///
    /// Why not: it stays as it is.
    fn may_disable_nx(&self) -> Result;

    /// What [`nx_huge_pages`](crate::params::nx_huge_pages) says is new.
    fn nx_changed(&self);
}

/// The one object that is asked, or null.
static ASKED: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Parameters are taken; dropping this ends it.
///
/// Owned by the module's root object.
pub struct HandOver<R: ParamOps>(Arc<R>);

impl<R: ParamOps> HandOver<R> {
    /// Takes parameters from now on.
    ///
    /// # Errors
    ///
    /// `EBUSY` if somebody does already.
    pub fn start(who: Arc<R>) -> Result<Self> {
        let at: *const R = &*who;
        ASKED
            .compare_exchange(
                ptr::null_mut(),
                at.cast_mut().cast(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
            .map_err(|_| EBUSY)?;
        // SAFETY: The functions are code of this module, and taken back before it goes.
        unsafe { shim::kvmrs_on_params(Some(hand_over::<R>), Some(nx::<R>)) };
        Ok(Self(who))
    }

    /// Who is asked.
    pub fn who(&self) -> &R {
        &self.0
    }
}

impl<R: ParamOps> Drop for HandOver<R> {
    fn drop(&mut self) {
        // SAFETY: Nobody is asked after this returns.
        unsafe { shim::kvmrs_on_params(None, None) };
        ASKED.store(ptr::null_mut(), Ordering::Release);
    }
}

unsafe extern "C" fn hand_over<R: ParamOps>(feature: c_int) -> c_int {
    // SAFETY: Called between `start` and the end of `drop`, when the object lives.
    let who = unsafe { &*ASKED.load(Ordering::Acquire).cast::<R>() };
    let done = X86Virt::from_feature(feature)
        .ok_or(EINVAL)
        .and_then(|x| who.reprobe(x));
    match done {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

unsafe extern "C" fn nx<R: ParamOps>(changed: bool) -> c_int {
    // SAFETY: As in `hand_over`.
    let who = unsafe { &*ASKED.load(Ordering::Acquire).cast::<R>() };
    let done = if changed {
        who.nx_changed();
        Ok(())
    } else {
        who.may_disable_nx()
    };
    match done {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}
