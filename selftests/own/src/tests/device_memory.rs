// SPDX-License-Identifier: GPL-2.0

//! Slots over memory that the host has no pages for: frames that a driver mapped, here those of the
//! host's firmware, by /dev/mem.

use super::memory::touch;
use super::memory::touched;
use crate::guest::Guest;
use crate::guest::Plan;
use crate::sys;
use crate::sys::Answer;
use crate::sys::Area;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

/// The firmware's last 64 KiB, as the host finds them below 1 MiB.
const ROM: usize = 0xf_0000;
const LEN: usize = 0x1_0000;
/// Where the slot is.
const AT: u64 = 0x4000_0000;

fn slot(g: &Guest, area: Option<&Area>) -> Answer {
    let mut r: kvm_userspace_memory_region = sys::zeroed();
    (r.slot, r.guest_phys_addr) = (5, AT);
    if let Some(a) = area {
        (r.memory_size, r.userspace_addr) = (a.len() as u64, a.addr() as u64);
    }
    g.vm.set(k::SET_USER_MEMORY_REGION, &r)
}

fn rom(prot: i32) -> Option<Area> {
    let fd = Fd::open(c"/dev/mem", libc::O_RDWR | libc::O_SYNC).ok()?;
    Area::of_fd_prot(&fd, LEN, ROM, prot, libc::MAP_SHARED).ok()
}

/// Read, written where that is allowed, and taken away.
pub fn frames(t: &mut Tap) {
    let Some(area) = rom(libc::PROT_READ) else {
        t.skip("/dev/mem has no firmware");
        return;
    };
    let g = Guest::long_with(
        Plan {
            mem: 4 << 20,
            ..Plan::default()
        },
        touch(),
    );
    let at = 0xfff0usize;
    let want = format!("{:x}", area.load::<u32>(at));
    println!("# the host reads {want}");
    t.same("a slot", slot(&g, Some(&area)), Answer::Ok(0));
    t.same(
        "read, and the write of a mapping for reading exits",
        touched(&g, AT + at as u64, 0x1234_5678),
        vec![want.clone(), "device write".into()],
    );
    t.same(
        "nothing was written",
        format!("{:x}", area.load::<u32>(at)),
        want.clone(),
    );
    // The frames go; others come in their place.
    area.map_again(0, LEN);
    t.same(
        "other memory in its place",
        touched(&g, AT + at as u64, 0x77),
        vec!["0".to_string()],
    );
    t.same("which was written", area.load::<u32>(at), 0x77);
    t.same("removed", slot(&g, None), Answer::Ok(0));
    drop(area);
    // Mapped, and unmapped without anything in its place.
    let area = rom(libc::PROT_READ).expect("/dev/mem");
    t.same("a slot", slot(&g, Some(&area)), Answer::Ok(0));
    let first = |v: Vec<String>| v.first().cloned();
    let read = || first(touched(&g, AT + at as u64, 0));
    t.same("it is there", read(), Some(want));
    area.punch(0, LEN);
    t.same("it is gone", read(), Some("Err(e)".into()));
    t.same("end", slot(&g, None), Answer::Ok(0));
}
