// SPDX-License-Identifier: GPL-2.0

//! [`HwVirt`]: a virtualization extension is enabled on every CPU.
//!
//! The core kernel owns EFER.SVME and VMXON and counts references per CPU (`arch/x86/virt/hw.c`).
//! This takes a reference on each CPU that is or comes online, and undoes it when the CPU goes
//! offline, suspends, or the machine shuts down. What the vendor adds on each CPU is in
//! [`CpuHooks`].

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use kernel::bindings;
use kernel::error::to_result;
use kernel::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;
use kernel::sync::Arc;

use crate::fd::this_module;
use crate::percpu::PerCpu;
use crate::pin::{with_preempt_off, PinnedCpu};
use crate::shim;

/// A virtualization extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum X86Virt {
    /// AMD SVM.
    Svm,
    /// Intel VMX.
    Vmx,
}

impl X86Virt {
    fn feature(self) -> c_int {
        (match self {
            Self::Svm => bindings::X86_FEATURE_SVM,
            Self::Vmx => bindings::X86_FEATURE_VMX,
        }) as c_int
    }

    /// The extension with the kernel's number `feature`.
    pub(crate) fn from_feature(feature: c_int) -> Option<Self> {
        [Self::Svm, Self::Vmx]
            .into_iter()
            .find(|x| x.feature() == feature)
    }
}

/// What the vendor does on each CPU. Nothing here may sleep.
///
/// # Safety
///
/// After [`Self::offline`] nothing of the extension is in use on the CPU, and what was loaded there
/// cannot be entered again before [`Self::online`]. Nobody else does what these functions do.
pub unsafe trait CpuHooks: Send + Sync + 'static {
    /// The extension was just enabled on this CPU.
    ///
    /// # Errors
    ///
    /// Any error leaves the extension disabled here and the CPU offline.
    fn online(&self, cpu: &PinnedCpu<'_>) -> Result;

    /// The extension is about to be disabled on this CPU: nothing of it may stay in use.
    fn offline(&self, cpu: &PinnedCpu<'_>);

    /// The machine goes down hard: as [`Self::offline`], but this may be a non-maskable interrupt
    /// in the middle of anything on this CPU. No locks, no memory, no messages.
    fn emergency(&self, cpu: &PinnedCpu<'_>);
}

/// What the kernel's callbacks work on.
struct Active<H> {
    feature: c_int,
    hooks: Arc<H>,
    enabled: PerCpu<AtomicBool>,
}

/// The one `Active` there is, or null, or [`OFF`]. All of the kernel's hooks used here exist once.
static ACTIVE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// In the place of an `Active` while there is an [`AllOff`].
const OFF: *mut c_void = ptr::dangling_mut();

/// No CPU has an extension switched on by this module, nor gets one while this exists. There is one
/// at a time.
pub struct AllOff(());

impl AllOff {
    /// Claims that all is off.
    ///
    /// # Errors
    ///
    /// `EBUSY` if there is a [`HwVirt`], or somebody has the claim.
    pub fn claim() -> Result<Self> {
        ACTIVE
            .compare_exchange(ptr::null_mut(), OFF, Ordering::AcqRel, Ordering::Relaxed)
            .map(|_| Self(()))
            .map_err(|_| EBUSY)
    }
}

impl Drop for AllOff {
    fn drop(&mut self) {
        ACTIVE.store(ptr::null_mut(), Ordering::Release);
    }
}

/// A `struct syscore` that the kernel links into its list.
struct Syscore(UnsafeCell<shim::syscore>);

// SAFETY: Written by the one holder of `ACTIVE` before it is registered; after that the kernel's.
unsafe impl Sync for Syscore {}

static SYSCORE: Syscore = Syscore(UnsafeCell::new(shim::syscore {
    node: bindings::list_head {
        next: ptr::null_mut(),
        prev: ptr::null_mut(),
    },
    ops: ptr::null(),
    data: ptr::null_mut(),
}));

/// The extension is enabled on every CPU; dropping this disables it.
///
/// Owned by the module's root object.
pub struct HwVirt<H: CpuHooks> {
    active: *mut Active<H>,
}

// SAFETY: A handle to something that is used from all CPUs anyway.
unsafe impl<H: CpuHooks> Send for HwVirt<H> {}
// SAFETY: As above.
unsafe impl<H: CpuHooks> Sync for HwVirt<H> {}

struct Table<H>(core::marker::PhantomData<H>);

impl<H: CpuHooks> Table<H> {
    const SYSCORE: shim::syscore_ops = shim::syscore_ops {
        suspend: Some(suspend::<H>),
        resume: Some(resume::<H>),
        shutdown: Some(shutdown::<H>),
    };
}

const HP_STATE: bindings::cpuhp_state = bindings::cpuhp_state_CPUHP_AP_KVM_ONLINE;

impl<H: CpuHooks> HwVirt<H> {
    /// Enables `feature` on every CPU. Sleeps.
    ///
    /// # Errors
    ///
    /// `EBUSY` if it is enabled already (also by another hypervisor), somebody relies on its being off
    /// ([`AllOff`]) or the machine is going down;
    /// `EOPNOTSUPP` if the kernel found no such extension; `EIO` if a CPU failed.
    pub fn enable(feature: X86Virt, hooks: Arc<H>) -> Result<Self> {
        let active = Active {
            feature: feature.feature(),
            hooks,
            enabled: PerCpu::new(|_| Ok(AtomicBool::new(false)))?,
        };
        Self::probe(active.feature)?;
        let active = KBox::into_raw(KBox::new(active, GFP_KERNEL)?);
        let claimed = ACTIVE.compare_exchange(
            ptr::null_mut(),
            active.cast(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if claimed.is_err() {
            // SAFETY: Not published, so still ours.
            drop(unsafe { KBox::from_raw(active) });
            return Err(EBUSY);
        }
        // From here on, dropping `this` undoes what was done.
        let this = Self { active };
        // SAFETY: The callback is code of this module, and unregistered before it goes.
        unsafe { shim::x86_virt_register_emergency_callback(Some(emergency::<H>)) };
        // SAFETY: The callbacks get CPU numbers and find the rest in `ACTIVE`.
        let code = unsafe {
            bindings::__cpuhp_setup_state(
                HP_STATE,
                c"kvm/cpu:online".as_char_ptr(),
                true,
                Some(cpu_online::<H>),
                Some(cpu_offline::<H>),
                false,
            )
        };
        if let Err(err) = to_result(code) {
            this.undo(false);
            core::mem::forget(this);
            return Err(err);
        }
        // SAFETY: We hold `ACTIVE`, so the structure is in no list.
        unsafe {
            let syscore = SYSCORE.0.get();
            (*syscore).ops = &Table::<H>::SYSCORE;
            shim::register_syscore(syscore);
        }
        // A reboot that began before the registration did not call the shutdown hook.
        // SAFETY: A plain variable of the kernel's, read once.
        let state = unsafe { (&raw const bindings::system_state).read_volatile() };
        if matches!(
            state,
            bindings::system_states_SYSTEM_HALT
                | bindings::system_states_SYSTEM_POWER_OFF
                | bindings::system_states_SYSTEM_RESTART
        ) {
            return Err(EBUSY);
        }
        Ok(this)
    }

    /// Tries the reference on one CPU: the error is the right one, where the hotplug machinery
    /// would say `EIO`.
    fn probe(feature: c_int) -> Result {
        with_preempt_off(|_| {
            // SAFETY: No requirements; dropped at once on the same CPU.
            to_result(unsafe { shim::x86_virt_get_ref(feature) })?;
            // SAFETY: Taken above.
            unsafe { shim::x86_virt_put_ref(feature) };
            Ok(())
        })
    }

    /// Undoes `enable`; `all` if it came to the end.
    fn undo(&self, all: bool) {
        if all {
            // SAFETY: Both were registered.
            unsafe {
                shim::unregister_syscore(SYSCORE.0.get());
                bindings::__cpuhp_remove_state(HP_STATE, true);
            }
        }
        // SAFETY: Registered in `enable`; returns after every running callback has.
        unsafe { shim::x86_virt_unregister_emergency_callback(Some(emergency::<H>)) };
        ACTIVE.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: No callback can find it any more.
        drop(unsafe { KBox::from_raw(self.active) });
    }
}

impl<H: CpuHooks> Drop for HwVirt<H> {
    fn drop(&mut self) {
        self.undo(true);
    }
}

/// What the callbacks work on.
///
/// # Safety
///
/// Only in a callback that `HwVirt::<H>::enable` registered.
unsafe fn active<'a, H: CpuHooks>() -> &'a Active<H> {
    // SAFETY: Published before the callbacks were registered, and freed after they were removed.
    unsafe { &*ACTIVE.load(Ordering::Acquire).cast::<Active<H>>() }
}

impl<H: CpuHooks> Active<H> {
    /// Enables the extension on this CPU.
    fn start(&self, cpu: &PinnedCpu<'_>) -> Result {
        let enabled = self.enabled.here(cpu);
        if enabled.load(Ordering::Relaxed) {
            return Ok(());
        }
        // SAFETY: Takes the reference of this CPU, where we stay; dropped in `stop`.
        to_result(unsafe { shim::x86_virt_get_ref(self.feature) })?;
        if let Err(err) = self.hooks.online(cpu) {
            // SAFETY: Taken above.
            unsafe { shim::x86_virt_put_ref(self.feature) };
            return Err(err);
        }
        enabled.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Disables the extension on this CPU.
    fn stop(&self, cpu: &PinnedCpu<'_>) {
        let enabled = self.enabled.here(cpu);
        if !enabled.swap(false, Ordering::Relaxed) {
            return;
        }
        self.hooks.offline(cpu);
        // SAFETY: Taken in `start` on this CPU.
        unsafe { shim::x86_virt_put_ref(self.feature) };
    }
}

unsafe extern "C" fn cpu_online<H: CpuHooks>(cpu: c_uint) -> c_int {
    // SAFETY: A callback of ours, in the hotplug thread of the CPU it is about.
    let active = unsafe { active::<H>() };
    match with_preempt_off(|here| active.start(here)) {
        Ok(()) => 0,
        Err(err) => {
            pr_err!("cannot enable virtualization on CPU {}: {:?}\n", cpu, err);
            EIO.to_errno()
        }
    }
}

unsafe extern "C" fn cpu_offline<H: CpuHooks>(_cpu: c_uint) -> c_int {
    // SAFETY: As in `cpu_online`.
    let active = unsafe { active::<H>() };
    with_preempt_off(|here| active.stop(here));
    0
}

unsafe extern "C" fn suspend<H: CpuHooks>(_data: *mut c_void) -> c_int {
    // SAFETY: A callback of ours, on the last CPU.
    let active = unsafe { active::<H>() };
    with_preempt_off(|here| active.stop(here));
    crate::clock::suspend();
    0
}

unsafe extern "C" fn resume<H: CpuHooks>(_data: *mut c_void) {
    // SAFETY: A callback of ours, on the first CPU.
    let active = unsafe { active::<H>() };
    crate::clock::resume();
    if with_preempt_off(|here| active.start(here)).is_err() {
        pr_err!("cannot enable virtualization after suspend\n");
    }
}

unsafe extern "C" fn shutdown<H: CpuHooks>(_data: *mut c_void) {
    // Faults of virtualization instructions are expected from here on; every CPU must know before
    // any of them loses the extension.
    // SAFETY: The flag is only ever set. The module must not go any more, as user-return hooks may
    // stay on CPUs.
    unsafe {
        (&raw mut shim::virt_rebooting).write_volatile(true);
        bindings::__module_get(this_module());
    }
    core::sync::atomic::fence(Ordering::SeqCst);
    pr_info!("disabling hardware virtualization\n");
    // SAFETY: The function is called on each CPU with interrupts off, and we wait for it.
    unsafe { shim::kvmrs_on_each_cpu(Some(stop_here::<H>), ptr::null_mut()) };
}

unsafe extern "C" fn stop_here<H: CpuHooks>(_info: *mut c_void) {
    // SAFETY: Called by `shutdown` on each CPU, with interrupts off.
    unsafe { active::<H>().stop(&PinnedCpu::assume()) };
}

unsafe extern "C" fn emergency<H: CpuHooks>() {
    // SAFETY: A callback of ours; interrupts are off.
    unsafe { active::<H>().hooks.emergency(&PinnedCpu::assume()) };
}
