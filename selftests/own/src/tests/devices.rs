// SPDX-License-Identifier: GPL-2.0

//! Interrupts from every source, eventfds, the coalesced ring.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::zeroed;
use crate::sys::Fd;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;

guest_code! {
    // EDI: LVT timer. ESI: initial count. R8: TSC deadline from now. R9: ICR low. Then it halts, and
    // says after each wake how many exceptions and interrupts there were.
    apic_wait,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x3e0], 0xb",
    "mov [rbx + 0x320], edi",
    "test esi, esi",
    "jz 2f",
    "mov [rbx + 0x380], esi",
    "2: test r8, r8",
    "jz 3f",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "add rax, r8",
    "mov rdx, rax",
    "shr rdx, 32",
    "mov ecx, 0x6e0",
    "wrmsr",
    "3: test r9d, r9d",
    "jz 4f",
    "mov [rbx + 0x300], r9d",
    "4: mov edx, 0xe0",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "sti",
    "hlt",
    "cli",
    "jmp 4b",
}

/// A guest that waits for interrupts, its APIC set up after the registers given.
fn waiting(irqchip: Irqchip, set: impl Fn(&mut kvm_regs)) -> Guest {
    let g = Guest::long_with(
        Plan {
            irqchip,
            ..Plan::default()
        },
        apic_wait(),
    );
    g.mem.store::<u64>(boot::mailbox(0) + mailbox::EOI, 1);
    let mut r = g.cpus[0].regs();
    set(&mut r);
    g.cpus[0].set_regs(&r);
    g
}

/// Runs until the guest waits again; false if it does not within the time.
fn step(g: &Guest, ms: u64) -> bool {
    matches!(
        sys::limited(ms, || g.enter()),
        Ok(Exit::Out { port: 0xe0, .. })
    )
}

/// How often a vector came.
fn count(g: &Guest, vector: usize) -> u16 {
    g.mem.load(boot::mailbox(0) + mailbox::COUNTS + 2 * vector)
}

/// The timer of the local APIC in its three modes, and IPIs to itself.
pub fn lapic_timer(t: &mut Tap) {
    for irqchip in [Irqchip::Split, Irqchip::Full] {
        let g = waiting(irqchip, |r| (r.rdi, r.rsi) = (0x50, 200_000));
        t.same(
            format!("{irqchip:?}: one-shot, started"),
            step(&g, 5000),
            true,
        );
        t.same("it comes", step(&g, 5000), true);
        t.same("once", count(&g, 0x50), 1);
        t.same("and not again", step(&g, 200), false);
        t.same("still once", count(&g, 0x50), 1);
        let g = waiting(irqchip, |r| (r.rdi, r.rsi) = (0x2_0051, 200_000));
        let all = (0..6).all(|_| step(&g, 5000));
        t.same(format!("{irqchip:?}: periodic, five times"), all, true);
        t.point(count(&g, 0x51) >= 5, "counted");
        let g = waiting(irqchip, |r| (r.rdi, r.r8) = (0x4_0052, 1_000_000));
        let all = (0..2).all(|_| step(&g, 5000));
        t.same(format!("{irqchip:?}: TSC deadline"), all, true);
        t.same("once", count(&g, 0x52), 1);
        // Fixed, to itself.
        let g = waiting(irqchip, |r| (r.rdi, r.r9) = (0x1_0000, 0x4_4060));
        let all = (0..2).all(|_| step(&g, 5000));
        t.same(format!("{irqchip:?}: self-IPI"), all, true);
        t.same("once", count(&g, 0x60), 1);
        // A masked timer does nothing.
        let g = waiting(irqchip, |r| (r.rdi, r.rsi) = (0x1_0053, 1000));
        t.same("masked timer, started", step(&g, 5000), true);
        t.same("masked timer", step(&g, 200), false);
    }
}

/// Lets no interrupt through the PICs.
fn mask_pics(g: &Guest) {
    for chip in 0..2 {
        let mut p: kvm_irqchip = zeroed();
        p.chip_id = chip;
        g.vm.exchange(k::GET_IRQCHIP, &mut p)
            .ok()
            .expect("KVM_GET_IRQCHIP");
        p.chip.pic.imr = 0xff;
        g.vm.set(k::SET_IRQCHIP, &p).ok().expect("KVM_SET_IRQCHIP");
    }
}

/// MSIs, lines by the IOAPIC and by the PIC, irqfds, NMIs.
pub fn sources(t: &mut Tap) {
    let idle = |r: &mut kvm_regs| r.rdi = 0x1_0000;
    let g = waiting(Irqchip::Full, idle);
    t.same("started", step(&g, 5000), true);
    let mut m: kvm_msi = zeroed();
    (m.address_lo, m.data) = (0xfee0_0000, 0x40);
    t.same("MSI delivered", g.vm.set(k::SIGNAL_MSI, &m).ok(), Ok(1));
    t.same("MSI", (step(&g, 5000), count(&g, 0x40)), (true, 1));
    m.address_lo = 0xfee0_7000;
    t.same("MSI to nobody", g.vm.set(k::SIGNAL_MSI, &m).ok(), Ok(0));
    // An NMI does not wait for the guest to halt, which then goes on waiting.
    let n = waiting(Irqchip::Full, idle);
    t.same("started", step(&n, 5000), true);
    t.same("NMI", n.cpus[0].fd.call(k::NMI, 0).ok(), Ok(0));
    t.same("NMI arrives", (step(&n, 300), count(&n, 2)), (false, 1));

    // A pin of the IOAPIC, edge-triggered, without the PICs.
    mask_pics(&g);
    let mut c: kvm_irqchip = zeroed();
    c.chip_id = 2;
    g.vm.exchange(k::GET_IRQCHIP, &mut c)
        .ok()
        .expect("KVM_GET_IRQCHIP");
    // SAFETY: any bits are a value of the union.
    unsafe { c.chip.ioapic.redirtbl[5].bits = 0x45 };
    t.same("IOAPIC set", g.vm.set(k::SET_IRQCHIP, &c).ok(), Ok(0));
    let line = |level: u32, gsi: u32| {
        let mut l: kvm_irq_level = zeroed();
        (l.__bindgen_anon_1.irq, l.level) = (gsi, level);
        let r = g.vm.exchange(k::IRQ_LINE_STATUS, &mut l).ok();
        // SAFETY: both members of the union are 32-bit integers.
        r.map(|_| unsafe { l.__bindgen_anon_1.status })
    };
    t.same("line raised", line(1, 5), Ok(1));
    t.same("line", (step(&g, 5000), count(&g, 0x45)), (true, 1));
    t.same("raised while it is", line(1, 5), Ok(0));
    line(0, 5).ok();
    t.same(
        "raised twice before the guest runs",
        (line(1, 5), line(0, 5).is_ok(), line(1, 5)),
        (Ok(1), true, Ok(1)),
    );
    t.same("arrives once", (step(&g, 5000), count(&g, 0x45)), (true, 2));
    line(0, 5).ok();

    // An irqfd on the same pin, then on a route to an MSI.
    let e = Fd::event();
    let mut i: kvm_irqfd = zeroed();
    (i.fd, i.gsi) = (e.raw() as u32, 5);
    t.same("irqfd", g.vm.set(k::IRQFD, &i).ok(), Ok(0));
    e.signal(1);
    t.same(
        "irqfd to the IOAPIC",
        (step(&g, 5000), count(&g, 0x45)),
        (true, 3),
    );
    t.same("the module took the signal", e.take(), 0);
    let mut r: kvm_irq_routing_entry = zeroed();
    (r.gsi, r.type_) = (5, KVM_IRQ_ROUTING_MSI);
    (r.u.msi.address_lo, r.u.msi.data) = (0xfee0_0000, 0x46);
    let mut b = crate::guest::list(1, &[r]);
    t.same(
        "routes replaced",
        g.vm.bytes(k::SET_GSI_ROUTING, &mut b).ok(),
        Ok(0),
    );
    e.signal(1);
    t.same(
        "irqfd follows the route",
        (step(&g, 5000), count(&g, 0x46)),
        (true, 1),
    );
    i.flags = KVM_IRQFD_FLAG_DEASSIGN;
    t.same("irqfd removed", g.vm.set(k::IRQFD, &i).ok(), Ok(0));
    e.signal(1);
    t.same(
        "no more interrupts",
        (step(&g, 200), count(&g, 0x46)),
        (false, 1),
    );
    t.same("the signal stays", e.take(), 1);

    // Level-triggered with a resampler: asserted until the guest acknowledges it.
    let g = waiting(Irqchip::Full, idle);
    mask_pics(&g);
    t.same("started", step(&g, 5000), true);
    // SAFETY: as above.
    unsafe {
        c.chip.ioapic.redirtbl[9].bits = 0x8049;
        c.chip.ioapic.redirtbl[5].bits = 0x1_0000;
    }
    t.same("IOAPIC set", g.vm.set(k::SET_IRQCHIP, &c).ok(), Ok(0));
    let (e, back) = (Fd::event(), Fd::event());
    let mut i: kvm_irqfd = zeroed();
    (i.fd, i.gsi, i.resamplefd) = (e.raw() as u32, 9, back.raw() as u32);
    i.flags = KVM_IRQFD_FLAG_RESAMPLE;
    t.same("irqfd with resampler", g.vm.set(k::IRQFD, &i).ok(), Ok(0));
    e.signal(1);
    t.same(
        "level-triggered",
        (step(&g, 5000), count(&g, 0x49)),
        (true, 1),
    );
    t.same("the resampler hears of the EOI", back.wait(2000), 1);

    // The PIC, through LINT0.
    let g = waiting(Irqchip::Full, idle);
    let mut p: kvm_irqchip = zeroed();
    g.vm.exchange(k::GET_IRQCHIP, &mut p)
        .ok()
        .expect("KVM_GET_IRQCHIP");
    p.chip.pic.irq_base = 0x30;
    p.chip.pic.imr = 0xef;
    t.same("PIC set", g.vm.set(k::SET_IRQCHIP, &p).ok(), Ok(0));
    t.same("started", step(&g, 5000), true);
    let mut l: kvm_irq_level = zeroed();
    (l.__bindgen_anon_1.irq, l.level) = (4, 1);
    t.same("line 4", g.vm.set(k::IRQ_LINE, &l).ok(), Ok(0));
    t.same("by the PIC", (step(&g, 5000), count(&g, 0x34)), (true, 1));
}

/// The TSC as an MSR.
const IA32_TSC: u32 = 0x10;

guest_code! {
    start_other,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "mov dword ptr [rbx + 0x310], 0x01000000",
    "mov dword ptr [rbx + 0x300], 0x4500",
    "mov dword ptr [rbx + 0x300], 0x4620",
    "mov edx, 0xe1",
    "out dx, al",
}

/// INIT and SIPI start a second vCPU, in real mode at the vector's page.
pub fn startup(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, start_other());
    // mov ax, cs; out 0xe0, ax; rdtsc; mov eax, edx; out 0xe0, eax; then the end.
    let code = [
        0x8c, 0xc8, 0xe7, 0xe0, 0x0f, 0x31, 0x66, 0x89, 0xd0, 0x66, 0xe7, 0xe0, 0xe7, 0xe1,
    ];
    g.load(0x2_0000, &code);
    let tsc = g.cpus[1].set_msr(IA32_TSC, 1 << 56);
    t.same("the TSC of the other", tsc, true);
    t.same(
        "it waits for INIT",
        g.cpus[1].mp_state(),
        KVM_MP_STATE_UNINITIALIZED,
    );
    std::thread::scope(|s| {
        let other = s.spawn(|| {
            // Woken without having started is no error.
            sys::limited(10_000, || loop {
                match g.cpus[1].enter() {
                    Err(libc::EAGAIN) => continue,
                    e => break e,
                }
            })
        });
        let end = g.enter();
        t.point(
            matches!(end, Ok(Exit::Out { port: PORT_END, .. })),
            "the first one goes on",
        );
        let e = other.join().expect("thread");
        let want = Exit::Out {
            port: 0xe0,
            size: 2,
            count: 1,
            data: vec![0, 0x20],
        };
        t.same("the second one starts at its vector", e, Ok(want));
    });
    t.same("and runs", g.cpus[1].mp_state(), KVM_MP_STATE_RUNNABLE);
    // APM: vol 2, table 14-1; SDM: vol 3, table 10-1.
    let upper = match g.cpus[1].enter() {
        Ok(Exit::Out { data, .. }) => data.last().copied(),
        _ => None,
    };
    t.same("INIT keeps the TSC", upper, Some(1));
}

guest_code! {
    pokes,
    "mov ebx, 0xe0000000",
    "mov dword ptr [rbx], 0x11",
    "mov dword ptr [rbx], 0x12",
    "mov word ptr [rbx], 0x11",
    "mov byte ptr [rbx + 0x100], 1",
    "mov dword ptr [rbx + 0x100], 1",
    "mov rax, 1",
    "mov [rbx + 0x100], rax",
    "mov edx, 0x300",
    "mov al, 7",
    "out dx, al",
    "mov al, 8",
    "out dx, al",
    "out dx, ax",
    // Collected: two device writes and a port write.
    "mov dword ptr [rbx + 0x2000], 0xaabbccdd",
    "mov byte ptr [rbx + 0x20ff], 0x5a",
    "mov edx, 0x310",
    "mov ax, 0x1234",
    "out dx, ax",
    // Over the end of the zone.
    "mov word ptr [rbx + 0x20ff], 0x6b6b",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Writes that signal an eventfd or go to the coalesced ring do not reach user space.
pub fn events(t: &mut Tap) {
    let g = Guest::long(pokes());
    let fds: Vec<Fd> = (0..3).map(|_| Fd::event()).collect();
    for (i, (addr, len, flags, data)) in [
        (
            0xe000_0000u64,
            4u32,
            KVM_IOEVENTFD_FLAG_NR_DATAMATCH,
            0x11u64,
        ),
        (0xe000_0100, 0, 0, 0),
        (
            0x300,
            1,
            KVM_IOEVENTFD_FLAG_NR_DATAMATCH | KVM_IOEVENTFD_FLAG_NR_PIO,
            7,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let mut e: kvm_ioeventfd = zeroed();
        (e.addr, e.len, e.flags, e.datamatch, e.fd) = (addr, len, flags, data, fds[i].raw());
        t.same(
            format!("ioeventfd {i}"),
            g.vm.set(k::IOEVENTFD, &e).ok(),
            Ok(0),
        );
    }
    for (addr, size, pio) in [(0xe000_2000u64, 0x100u32, 0u32), (0x310, 4, 1)] {
        let mut z: kvm_coalesced_mmio_zone = zeroed();
        (z.addr, z.size, z.__bindgen_anon_1.pio) = (addr, size, pio);
        t.same("zone", g.vm.set(k::REGISTER_COALESCED_MMIO, &z).ok(), Ok(0));
    }
    let mut seen = Vec::new();
    loop {
        match g.enter() {
            Ok(Exit::MmioWrite { addr, data }) => seen.push((addr, data)),
            Ok(Exit::Out { port: PORT_END, .. }) => break,
            Ok(Exit::Out { port, data, .. }) => seen.push((u64::from(port), data)),
            e => {
                t.point(false, format!("unexpected: {e:x?}"));
                break;
            }
        }
    }
    let want = vec![
        (0xe000_0000, vec![0x12, 0, 0, 0]),
        (0xe000_0000, vec![0x11, 0]),
        (0x300, vec![8]),
        (0x300, vec![8, 0]),
        (0xe000_20ff, vec![0x6b, 0x6b]),
    ];
    t.same("what reaches user space", seen, want);
    let counts: Vec<u64> = fds.iter().map(Fd::take).collect();
    t.same("signals", counts, vec![1, 3, 1]);
    let run = &g.cpus[0].run;
    let ring = 2 * sys::PAGE;
    t.same(
        "ring",
        (run.load::<u32>(ring), run.load::<u32>(ring + 4)),
        (0, 3),
    );
    let entries: Vec<_> = (0..3)
        .map(|i| {
            let at = ring + 8 + 24 * i;
            let len = run.load::<u32>(at + 8);
            (
                run.load::<u64>(at),
                run.load::<u32>(at + 12),
                run.read(at + 16, len.min(8) as usize),
            )
        })
        .collect();
    let want = vec![
        (0xe000_2000u64, 0u32, vec![0xdd, 0xcc, 0xbb, 0xaa]),
        (0xe000_20ff, 0, vec![0x5a]),
        (0x310, 1, vec![0x34, 0x12]),
    ];
    t.same("entries", entries, want);
}

const KVM_IOEVENTFD_FLAG_NR_DATAMATCH: u32 = 1;
const KVM_IOEVENTFD_FLAG_NR_PIO: u32 = 2;
