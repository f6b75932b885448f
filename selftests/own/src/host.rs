// SPDX-License-Identifier: GPL-2.0

//! The host around the tests: broken memory, control groups, parameters of the module.

use crate::sys::Area;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

static BUS_ERRORS: AtomicUsize = AtomicUsize::new(0);
static BUS_CODE: AtomicI32 = AtomicI32::new(0);
static BUS_ADDR: AtomicUsize = AtomicUsize::new(0);

extern "C" fn bus_error(_: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
    // SAFETY: the kernel passes the structure of a signal with an address.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr()) };
    BUS_CODE.store(code, Ordering::Relaxed);
    BUS_ADDR.store(addr as usize, Ordering::Relaxed);
    // One that nobody expects would come again for ever.
    if BUS_ERRORS.fetch_add(1, Ordering::Relaxed) > 100 {
        std::process::abort();
    }
}

/// Notes SIGBUS instead of ending the process.
pub fn catch_bus() {
    // SAFETY: the handler touches nothing but integers of its own.
    unsafe {
        let mut a: libc::sigaction = std::mem::zeroed();
        a.sa_sigaction = bus_error as *const () as usize;
        a.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &a, std::ptr::null_mut());
    }
}

/// How many SIGBUS there were; code and address of the last.
pub fn bus_errors() -> (usize, i32, usize) {
    (
        BUS_ERRORS.load(Ordering::Relaxed),
        BUS_CODE.load(Ordering::Relaxed),
        BUS_ADDR.load(Ordering::Relaxed),
    )
}

/// Are the TSCs of the host a clock? An emulated host that is slow at its boot finds that they are not.
pub fn has_tsc_clock() -> bool {
    let path = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    let all = std::fs::read_to_string(path).unwrap_or_default();
    all.split_whitespace().any(|n| n.starts_with("tsc"))
}

/// Keeps an area in small pages.
pub fn no_huge_pages(area: &Area) {
    // SAFETY: advice for our own mapping.
    unsafe { libc::madvise(area.addr() as *mut _, area.len(), libc::MADV_NOHUGEPAGE) };
}

/// Mounts the control groups at a directory.
pub fn mount_cgroup2(at: &std::ffi::CStr) -> bool {
    let kind = c"cgroup2".as_ptr();
    // SAFETY: the strings end with a zero.
    unsafe { libc::mount(kind, at.as_ptr(), kind, 0, std::ptr::null()) == 0 }
}

/// Undoes a mount.
pub fn unmount(at: &std::ffi::CStr) {
    // SAFETY: the string ends with a zero.
    unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
}

/// Are interrupts delivered and ended by hardware, and accesses to the local APIC no exits?
pub fn has_virtual_apic() -> bool {
    std::fs::read_to_string("/sys/module/kvm_intel/parameters/enable_apicv")
        .is_ok_and(|v| v.trim() == "Y")
}

/// Is a feature of the processor's not used, by a parameter of kvm-intel.ko?
pub fn is_off(parameter: &str) -> bool {
    let path = format!("/sys/module/kvm_intel/parameters/{parameter}");
    std::fs::read_to_string(path).is_ok_and(|s| s.trim() == "N")
}

/// This thread's register of protection keys; `None` where the host does not use them.
pub fn pkru() -> Option<u32> {
    // SAFETY: the instruction has no requirements.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    // OSPKE.
    if leaf.ecx & 1 << 4 == 0 {
        return None;
    }
    let value: u32;
    // SAFETY: OSPKE says that CR4 allows it.
    unsafe { std::arch::asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _) };
    Some(value)
}
