// SPDX-License-Identifier: GPL-2.0

//! What /dev/kvm says it can do: capabilities, CPUID, feature MSRs, against what the in-tree module
//! says on the same host.
//!
//! The answers hang on the processor: the table has those of one AMD and one Intel host. On another
//! processor all is asked for and nothing compared.

use crate::guest;
use crate::sys;
use crate::sys::Fd;
use crate::table::Table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// One more than the last capability of the header.
const CAPS: u32 = 252;

/// The processor's signature: CPUID leaf 1, EAX.
fn signature() -> String {
    // SAFETY: every x86-64 processor has CPUID.
    let r = unsafe { std::arch::x86_64::__cpuid(1) };
    format!("{:#x}", r.eax)
}

fn capabilities(dev: &Fd, mut row: impl FnMut(String, String)) {
    let vm = dev.make(k::CREATE_VM, 0).expect("KVM_CREATE_VM");
    for cap in 0..CAPS {
        let of = |fd: &Fd| fd.call(k::CHECK_EXTENSION, cap as usize);
        // The number of CPUs is the host's: what is recommended follows it.
        if cap == KVM_CAP_NR_VCPUS {
            continue;
        }
        let (a, b) = (of(dev), of(&vm));
        row(format!("cap {cap}"), format!("{a} {b}"));
    }
}

fn cpuid(dev: &Fd, mut row: impl FnMut(String, String)) {
    let list = guest::supported_cpuid(dev);
    for e in list[8..].chunks_exact(size_of::<kvm_cpuid_entry2>()) {
        let e: kvm_cpuid_entry2 = sys::from_bytes(e);
        // Sizes and identifiers of the host's own topology and the frequencies it measured.
        if matches!(e.function, 0x15 | 0x16 | 0xb | 0x1f | 0x8000_001e) {
            continue;
        }
        // The APIC id of the CPU that happened to answer.
        let ebx = if e.function == 1 {
            e.ebx & 0xffff
        } else {
            e.ebx
        };
        // VMX and SVM, in a row of their own.
        let nesting = match e.function {
            1 => 1 << 5,
            0x8000_0001 => 1 << 2,
            _ => 0,
        };
        let ecx = e.ecx & !nesting;
        if nesting != 0 {
            let of = format!("nesting in CPUID {:#x}", e.function);
            row(of, format!("{}", e.ecx & nesting != 0));
        }
        row(
            format!("CPUID {:#x}.{:#x}", e.function, e.index),
            format!("{:#x} {:#x} {ebx:#x} {ecx:#x} {:#x}", e.flags, e.eax, e.edx),
        );
    }
}

fn feature_msrs(dev: &Fd, mut row: impl FnMut(String, String)) {
    let mut indices = crate::errno::world::msr_list(dev, k::GET_MSR_FEATURE_INDEX_LIST);
    // What describes VMX to a guest's hypervisor, listed or not.
    indices.extend(0x480..0x492);
    indices.sort_unstable();
    indices.dedup();
    for index in indices {
        let mut e: kvm_msr_entry = sys::zeroed();
        e.index = index;
        let mut b = guest::list(1, &[e]);
        let n = dev.bytes(k::GET_MSRS, &mut b);
        let e: kvm_msr_entry = sys::from_bytes(&b[8..]);
        row(format!("MSR {index:#x}"), format!("{n} {:#x}", e.data));
    }
}

/// Everything that /dev/kvm offers.
pub fn offers(tap: &mut Tap) {
    let dev = guest::dev();
    let mut t = Table::new(tap, "offers", include_str!("../../data/offers.tsv"));
    let recorded = t.wants("signature", &signature());
    let mut answers = Vec::new();
    let mut row = |case, answer| answers.push((case, answer));
    capabilities(&dev, &mut row);
    cpuid(&dev, &mut row);
    feature_msrs(&dev, &mut row);
    if !recorded {
        t.tap().same(
            "on a processor without a table, all is answered",
            answers.len() > 300,
            true,
        );
        return;
    }
    t.row("signature", signature());
    for (case, answer) in answers {
        t.row(case, answer);
    }
    t.finish();
}
