// SPDX-License-Identifier: GPL-2.0

//! Sending and acceptance of IPIs.

use super::super::ipi::Post;
use super::*;
use crate::irqchip::pending::Wake;
use crate::irqchip::targets::Census;
use crate::x86::apic::{Delivery, Message, Shorthand, Trigger};

#[test]
fn the_xapic_command_register_sends_with_its_upper_half() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert_eq!(write(&mut apic, reg::ICR2, 0x05ab_cdef), Effects::NONE);
    assert_eq!(read(&mut apic, reg::ICR2), 0x0500_0000);
    let ipi = write(&mut apic, reg::ICR, 0x0000_5841).ipi.unwrap();
    assert_eq!(ipi.shorthand, Shorthand::None);
    assert_eq!(
        ipi.message,
        Message {
            logical: true,
            ..Message::fixed(5, 0x41)
        }
    );
    assert_eq!(read(&mut apic, reg::ICR), 0x0000_4841, "never busy");
    // Whatever else is written stays.
    let _ = write(&mut apic, reg::ICR, 0xa5a5_a5a5);
    assert_eq!(read(&mut apic, reg::ICR), 0xa5a5_a5a5);
}

#[test]
fn the_x2apic_command_register_has_64_bits() {
    for split in [true, false] {
        let mut cfg = Config::new(0, true);
        cfg.icr_split = split;
        let (mut apic, _) = x2apic(cfg);
        let value = 0x1234_5678_0004_40f0;
        let ipi = apic.write_msr(0x830, value, at(0)).unwrap().ipi.unwrap();
        assert_eq!(ipi.message.dest, 0x1234_5678);
        assert_eq!(ipi.shorthand, Shorthand::Myself);
        assert_eq!(apic.read_msr(0x830, at(0)), Ok(value));
        let _ = apic.write_msr(0x830, value | (1 << 12), at(0)).unwrap();
        assert_eq!(apic.read_msr(0x830, at(0)), Ok(value));
        let high = if split { reg::ICR2 } else { reg::ICR + 4 };
        assert_eq!(apic.page().read(high), 0x1234_5678);
        assert!(apic.sender(3).x2apic);
    }
}

#[test]
fn hyper_v_writes_64_bits_in_xapic_mode() {
    let mut cfg = Config::new(0, true);
    cfg.icr_split = false;
    let (mut apic, _) = enabled(cfg);
    let ipi = apic.write_icr(0x0500_0000_0000_4841).unwrap().ipi.unwrap();
    assert_eq!((ipi.message.dest, ipi.message.logical), (5, true));
    assert_eq!(apic.icr(), 0x0500_0000_0000_4841);
    assert_eq!(read(&mut apic, reg::ICR2), 0x0500_0000);
    assert_eq!(apic.write_icr(1 << 31), Err(Gp));
}

#[test]
fn self_ipis() {
    let (mut apic, _) = x2apic(Config::new(0, true));
    let e = apic.write_msr(0x83f, 0x7a, at(0)).unwrap();
    let ipi = e.ipi.unwrap();
    assert_eq!(ipi.shorthand, Shorthand::Myself);
    assert_eq!(
        (ipi.message.vector, ipi.message.trigger),
        (0x7a, Trigger::Edge)
    );
}

#[test]
fn illegal_vectors_are_not_sent() {
    let (mut apic, _) = enabled(Config::new(0, true));
    assert_eq!(write(&mut apic, reg::ICR, 0x400f).ipi, None);
    assert_eq!(
        write(&mut apic, reg::ICR, 0x410f).ipi,
        None,
        "lowest priority"
    );
    let _ = write(&mut apic, reg::ESR, 0);
    assert_eq!(read(&mut apic, reg::ESR), 1 << 5);
    // In other delivery modes the vector is no interrupt's.
    for mode in [2, 4, 5, 6] {
        assert!(write(&mut apic, reg::ICR, 0x4000 | (mode << 8))
            .ipi
            .is_some());
    }
}

fn message(delivery: Delivery, trigger: Trigger, assert: bool) -> Message {
    Message {
        delivery,
        trigger,
        assert,
        ..Message::fixed(0, 0x99)
    }
}

#[test]
fn acceptance() {
    use Delivery::{ExtInt, Fixed, Init, LowestPriority, Nmi, RemoteRead, Smi, Startup};
    use Trigger::{Edge, Level};
    let (mut apic, _) = enabled(Config::new(0, true));
    let on = Published::new(0);
    apic.publish(&on, &Census::new());
    let _ = write(&mut apic, reg::SVR, 0xff);
    let off = Published::new(0);
    apic.publish(&off, &Census::new());
    let vector = |t| Some(Post::Vector(0x99, t));
    // Message, at a software-enabled APIC, at a software-disabled one.
    for (m, enabled, disabled) in [
        (message(Fixed, Edge, true), vector(Edge), None),
        (message(Fixed, Edge, false), vector(Edge), None),
        (message(Fixed, Level, true), vector(Level), None),
        (message(Fixed, Level, false), None, None),
        (message(LowestPriority, Edge, true), vector(Edge), None),
        (message(Smi, Edge, true), Some(Post::Smi), Some(Post::Smi)),
        (message(Nmi, Level, false), Some(Post::Nmi), Some(Post::Nmi)),
        (
            message(Init, Edge, false),
            Some(Post::Init),
            Some(Post::Init),
        ),
        (
            message(Init, Level, true),
            Some(Post::Init),
            Some(Post::Init),
        ),
        (message(Init, Level, false), None, None),
        (
            message(Startup, Edge, true),
            Some(Post::Sipi(0x99)),
            Some(Post::Sipi(0x99)),
        ),
        (
            message(RemoteRead, Edge, true),
            Some(Post::Unhalt),
            Some(Post::Unhalt),
        ),
        (message(ExtInt, Edge, true), None, None),
    ] {
        assert_eq!(Post::of(&m, &on), enabled, "{m:?}");
        assert_eq!(Post::of(&m, &off), disabled, "{m:?}");
    }
    assert_eq!(
        on.arbitration(),
        1,
        "one lowest-priority interrupt was taken"
    );
    assert_eq!(off.arbitration(), 0);
}

#[test]
fn posts_land_in_the_mailbox() {
    let mailbox = Pending::new();
    let _ = mailbox.block();
    for post in [
        Post::Vector(0x99, Trigger::Level),
        Post::Nmi,
        Post::Init,
        Post::Sipi(0x12),
        Post::Smi,
        Post::Unhalt,
    ] {
        assert_eq!(post.into_mailbox(&mailbox), Wake::Unblock);
    }
    let e = mailbox.take_events();
    assert!(e.init() && e.smi() && e.unhalt());
    assert_eq!((e.nmis(), e.sipi()), (1, Some(0x12)));
    let v = mailbox.take_vectors().unwrap();
    assert_eq!((v.irr[2], v.level[2]), (1 << 25, 1 << 25));
}
