// SPDX-License-Identifier: GPL-2.0

//! What user space gives a vCPU that hardware has in a state of its own: an SMI or registers while it
//! halts without an exit.

use crate::guest::boot;
use crate::guest::enable;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::table;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

guest_code! {
    // Halts and says so, again and again. With interrupts on: Bochs would not let the host have its
    // own otherwise.
    halts,
    "2: sti",
    "hlt",
    "mov eax, 0x17",
    "out 0xe0, al",
    "jmp 2b",
}

guest_code! {
    elsewhere,
    "mov eax, 0x33",
    "out 0xe0, al",
    "hlt",
    "mov eax, 0x34",
    "out 0xe0, al",
}

/// Where that is.
const ELSEWHERE: u64 = CODE + 0x1000;

/// Runs until the vCPU has halted by itself. True if it still does; false if the exit that the halt led
/// to has ended it, as on SVM and in Bochs, so that it has said so.
fn halted(t: &mut Tap, what: &str, g: &Guest, said: u8) -> bool {
    let e = sys::limited(300, || g.enter());
    let out = matches!(&e, Ok(Exit::Out { data, .. }) if *data == [said]);
    let stays = e == Err(libc::EINTR);
    t.point(stays || out, format!("{what}: it halts: {e:x?}"));
    stays
}

/// What it says next; EINTR if it halts for two seconds.
fn says(g: &Guest) -> Result<u8, String> {
    match sys::limited(2000, || g.enter()) {
        Ok(Exit::Out {
            port: 0xe0, data, ..
        }) => Ok(data[0]),
        e => Err(format!("{e:x?}")),
    }
}

/// KVM_SMI, KVM_SET_REGS and KVM_SET_MP_STATE for a vCPU that has halted without an exit.
pub fn native_halt(t: &mut Tap) {
    let mut g = Guest::new(Plan {
        cpus: 0,
        ..Plan::default()
    });
    let hlt = u64::from(KVM_X86_DISABLE_EXITS_HLT);
    let r = enable(&g.vm, KVM_CAP_X86_DISABLE_EXITS, hlt);
    t.same("HLT does not exit", r, Answer::Ok(0));
    g.add_cpu(0, true);
    boot::tables(&g.mem);
    g.load(CODE, halts());
    g.load(ELSEWHERE, elsewhere());
    // System management mode: mov al, 0x5a; out 0xe0, al; rsm.
    let r = g.slot(1 << 16, 0, 0, g.mem.len(), 0);
    t.same("memory", r, Answer::Ok(0));
    g.load(0x3_8000, &[0xb0, 0x5a, 0xe6, 0xe0, 0x0f, 0xaa]);
    g.start_long(0, CODE);
    let v = &g.cpus[0];

    let stays = halted(t, "KVM_SMI", &g, 0x17);
    println!("# a halt lasts over exits: {stays}");
    t.same("KVM_SMI", v.fd.call(k::SMI, 0), Answer::Ok(0));
    t.same("its handler runs", says(&g), Ok(0x5a));
    t.same("in that mode", v.events().smi.smm, 1);
    t.same("then the guest goes on", says(&g), Ok(0x17));
    t.same("out of that mode", v.events().smi.smm, 0);

    halted(t, "KVM_SET_REGS", &g, 0x17);
    let mut r = v.regs();
    r.rip = ELSEWHERE;
    v.set_regs(&r);
    if stays && table::stock() {
        // The in-tree module leaves it halted.
        return;
    }
    t.same("it goes on where it was set to", says(&g), Ok(0x33));
    // The same registers again are no reason to go on, the state is.
    if halted(t, "the same registers", &g, 0x34) {
        v.set_regs(&v.regs());
        let still = halted(t, "set again", &g, 0x34);
        t.point(still, "it still halts");
        let r = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
        t.same("KVM_SET_MP_STATE", r, Answer::Ok(0));
        t.same("it goes on", says(&g), Ok(0x34));
    }
}
