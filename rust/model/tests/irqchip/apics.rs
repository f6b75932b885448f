// SPDX-License-Identifier: GPL-2.0

//! Several local APICs with their mailboxes, the census of them, timers and devices, in any order
//! of accesses, IPIs, resets, migrations and time, chosen by bytes. A property test and a fuzz
//! target run it.
//!
//! What must hold: a message is resolved as by asking everyone; an interrupt is taken only if its class
//! is above the priority; nobody runs or sleeps with news that nobody told it of; the host timer is
//! set to what the APIC wants; and every interrupt that was accepted is taken in the end, once the
//! guest enables its APICs and ends what is in service.

use model::irqchip::lapic::ipi::Post;
use model::irqchip::lapic::published::{Published, Rules, Sender};
use model::irqchip::lapic::timer::TimerOp;
use model::irqchip::lapic::{ApicWords, Config, Effects, LocalApic, Lvt, Mode, Now, Raised, Reset};
use model::irqchip::lapic::{Eoi, STATE_SIZE};
use model::irqchip::pending::{Pending, VcpuMode, Wake};
use model::irqchip::targets::{resolve, Census, Peers};
use model::x86::apic::{base, reg, Ipi, Message, Shorthand, BROADCAST, DEFAULT_BASE};
use model::x86::msi::Msi;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU32;

/// The bytes that decide; zeros when they are used up.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.byte() % n
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 != 0
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }
}

struct Cpu {
    apic: LocalApic<Box<ApicWords>>,
    mailbox: Pending,
    /// When the host timer fires, ns.
    timer: Option<u64>,
    /// Vectors in the mailbox.
    posted: BTreeSet<u8>,
    /// Vectors that must be in the IRR. There may be more: timer and error interrupts.
    irr: BTreeSet<u8>,
    /// An IPI or a wake-up is on its way.
    told: bool,
}

struct Machine {
    cpus: Vec<Cpu>,
    published: Vec<Published>,
    census: Census,
    rules: Rules,
    now: u64,
}

/// Reserved bits of IA32_APIC_BASE for a guest with 40 address bits.
const RESERVED: u64 = !0xff_ffff_ffff;

/// Runs the machine on some choices.
pub fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let mut m = Machine::new(&mut choices);
    while !choices.0.is_empty() {
        m.step(&mut choices);
        m.check();
    }
    m.finish();
}

impl Peers for Machine {
    fn count(&self) -> u32 {
        self.published.len() as u32
    }

    fn published(&self, vcpu: u32) -> Option<&Published> {
        self.published.get(vcpu as usize)
    }

    fn by_id(&self, id: u32) -> Option<u32> {
        let at = self.published.iter().position(|p| p.id() == id)?;
        Some(at as u32)
    }

    fn census(&self) -> &Census {
        &self.census
    }
}

impl Machine {
    fn new(c: &mut Choices<'_>) -> Self {
        let flags = c.byte();
        let rules = Rules {
            ids32: flags & 1 != 0,
            no_broadcast_quirk: flags & 2 != 0,
            arbitrate: flags & 4 != 0,
        };
        // Some IDs only fit into x2APIC mode, and two share their low byte.
        let ids = if flags & 8 != 0 {
            [0, 5, 0x105, 0x200]
        } else {
            [0, 1, 2, 0xff]
        };
        let cpus: Vec<Cpu> = ids
            .iter()
            .map(|&id| {
                let mut cfg = Config::new(id, id == 0);
                cfg.ids32 = rules.ids32;
                cfg.cmci = flags & 16 != 0;
                cfg.icr_split = flags & 32 != 0;
                cfg.directed_eoi_offered = flags & 64 != 0;
                cfg.directed_eoi_honoured = flags & 64 != 0;
                let page = Box::new([const { AtomicU32::new(0) }; 1024]);
                Cpu {
                    apic: LocalApic::new(page, cfg),
                    mailbox: Pending::new(),
                    timer: None,
                    posted: BTreeSet::new(),
                    irr: BTreeSet::new(),
                    told: false,
                }
            })
            .collect();
        let published: Vec<_> = ids.iter().map(|&id| Published::new(id)).collect();
        let mut m = Self {
            cpus,
            published,
            census: Census::new(),
            rules,
            now: 1000,
        };
        for i in 0..m.cpus.len() {
            m.reset(i, Reset::Power);
        }
        m
    }

    fn clock(&self) -> Now {
        Now {
            ns: self.now,
            tsc: self.now.wrapping_mul(3) / 2,
            tsc_khz: 1_500_000,
        }
    }

    fn step(&mut self, c: &mut Choices<'_>) {
        let what = c.byte();
        let i = usize::from(c.below(4));
        let now = self.clock();
        let cpu = &mut self.cpus[i];
        match what % 16 {
            // A register that matters, or any, with a likely value or any.
            0..=3 => {
                let register = match what >> 4 {
                    0 => reg::SVR,
                    1 => reg::TPR,
                    2 | 3 => reg::ICR,
                    4 => reg::LVT_TIMER,
                    5 => reg::TMICT,
                    6 => reg::TDCR,
                    7 => reg::LDR,
                    8 => reg::DFR,
                    9 => reg::ICR2,
                    10 => reg::LVT_ERROR,
                    11 => reg::SELF_IPI,
                    _ => u32::from(c.byte()) << 4,
                };
                let mut value = c.word();
                if c.flag() {
                    value &= 0x000c_ffff;
                }
                let written = if cpu.apic.mode() == Mode::X2Apic {
                    let high = u64::from(c.byte() & 7);
                    let wide = if register == reg::ICR { high << 32 } else { 0 };
                    cpu.apic
                        .write_msr(0x800 | (register >> 4), wide | u64::from(value), now)
                } else {
                    let bytes = value.to_le_bytes();
                    Ok(cpu.apic.mmio_write(register, &bytes, now))
                };
                if let Ok(e) = written {
                    self.apply(i, &e);
                }
            }
            4 | 5 => {
                let msi = Msi {
                    address_lo: 0xfee0_0000 | (c.word() & 0xf_ffff),
                    address_hi: c.word() & 0x300,
                    data: c.word(),
                };
                let message = msi.decode(self.rules.ids32);
                self.deliver(&without_shorthand(message), None);
            }
            6 => {
                let ipi = Ipi {
                    shorthand: Shorthand::None,
                    message: Message::fixed(u32::from(c.byte()), c.byte()),
                };
                self.deliver(&ipi, None);
            }
            7 | 8 => self.serve(i),
            9 => {
                if let Some(v) = cpu.apic.next_vector() {
                    check_priority(cpu, v);
                    cpu.apic.ack(v);
                    cpu.irr.remove(&v);
                }
            }
            10 => {
                let highest = cpu.apic.highest_in_service();
                let eoi: Option<Eoi> = cpu.apic.eoi();
                assert_eq!(eoi.map(|e| e.vector), highest);
            }
            11 => {
                let bits = u64::from(c.below(8)) << 9 & (base::ENABLE | base::X2APIC);
                let host = c.flag();
                if let Ok(e) = cpu.apic.set_base(DEFAULT_BASE | bits, RESERVED, host) {
                    self.apply(i, &e);
                }
            }
            12 => {
                self.now += u64::from(c.word() >> (c.byte() & 31));
                self.fire_timers();
            }
            13 => self.migrate(i),
            14 => {
                let deadline = match c.byte() {
                    0 => 0,
                    n => now.tsc + (u64::from(n) << (c.byte() & 31)),
                };
                let e = cpu.apic.set_tsc_deadline(deadline, now);
                self.apply(i, &e);
            }
            _ => match what >> 4 {
                0 => self.reset(i, Reset::Power),
                1..=5 => self.enter(i, false),
                6..=10 => self.enter(i, true),
                n => self.raise(i, Lvt::ALL[usize::from(n) % 7]),
            },
        }
    }

    /// What must hold at any time.
    fn check(&mut self) {
        for (cpu, published) in self.cpus.iter_mut().zip(&self.published) {
            let armed = match cpu.apic.timer() {
                TimerOp::Arm { ns, .. } => Some(ns),
                TimerOp::Disarm => None,
            };
            assert_eq!(cpu.timer, armed, "the host timer is set to something else");
            let away = cpu.mailbox.mode() != VcpuMode::OutsideGuest;
            assert!(
                !away || cpu.told || !cpu.mailbox.work().any(),
                "nobody told it"
            );
            let page = cpu.apic.page();
            for &v in &cpu.irr {
                assert!(
                    page.test(model::irqchip::lapic::regs::Bank::Irr, v),
                    "{v:#x} is lost"
                );
            }
            for &v in &cpu.posted {
                assert!(cpu.mailbox.has_vector(v), "{v:#x} is lost");
            }
            let a = published.address();
            assert_eq!(a.mode, cpu.apic.mode());
            assert_eq!(a.software_enabled, cpu.apic.is_software_enabled());
            assert_eq!(published.accepts_pic(), cpu.apic.accepts_pic());
            if let Some(v) = cpu.apic.next_vector() {
                check_priority(cpu, v);
            }
        }
    }

    fn apply(&mut self, i: usize, e: &Effects) {
        let cpu = &mut self.cpus[i];
        match e.timer {
            Some(TimerOp::Arm { ns, .. }) => cpu.timer = Some(ns),
            Some(TimerOp::Disarm) => cpu.timer = None,
            None => {}
        }
        if e.publish {
            cpu.apic.publish(&self.published[i], &self.census);
        }
        if let Some(ipi) = e.ipi {
            let from = self.cpus[i].apic.sender(i as u32);
            self.deliver(&ipi, Some(from));
        }
    }

    fn deliver(&mut self, ipi: &Ipi, from: Option<Sender>) {
        let m = &ipi.message;
        let mut to: Vec<u32> = resolve(ipi, from, self, self.rules).collect();
        to.sort_unstable();
        let matches = |&v: &u32| {
            let a = self.published[v as usize].address();
            a.matches(v, m, ipi.shorthand, from, self.rules)
        };
        let addressed: Vec<u32> = (0..4).filter(matches).collect();
        // KVM: what goes to one of all CPUs goes to all of them.
        let everyone = !m.logical && m.dest == BROADCAST && !m.redirection_hint;
        if m.picks_one() && !everyone {
            assert!(to.iter().all(|v| addressed.contains(v)));
            let accepts = |&v: &u32| self.published[v as usize].accepts_fixed();
            assert_eq!(to.len(), usize::from(addressed.iter().any(|v| accepts(v))));
        } else {
            assert_eq!(to, addressed);
        }
        for v in to {
            let i = v as usize;
            let Some(post) = Post::of(m, &self.published[i]) else {
                continue;
            };
            let cpu = &mut self.cpus[i];
            if let Post::Vector(vector @ 16.., _) = post {
                cpu.posted.insert(vector);
            }
            let mode = cpu.mailbox.mode();
            match post.into_mailbox(&cpu.mailbox) {
                Wake::None => {}
                Wake::Notify => panic!("no hardware takes vectors here"),
                Wake::Kick => {
                    assert_eq!(mode, VcpuMode::InGuest);
                    cpu.told = true;
                }
                Wake::Unblock => {
                    assert_eq!(mode, VcpuMode::Blocked);
                    cpu.told = true;
                }
            }
        }
    }

    /// The vCPU goes into the guest, or to sleep, unless there is something to do.
    fn enter(&mut self, i: usize, sleep: bool) {
        let mailbox = &self.cpus[i].mailbox;
        mailbox.leave();
        let work = if sleep {
            mailbox.block()
        } else {
            mailbox.enter_guest()
        };
        self.cpus[i].told = false;
        if work.any() {
            self.serve(i);
        }
    }

    /// The vCPU comes back and looks into its mailbox.
    fn serve(&mut self, i: usize) {
        let now = self.clock();
        let cpu = &mut self.cpus[i];
        cpu.mailbox.leave();
        cpu.told = false;
        cpu.pull();
        let events = cpu.mailbox.take_events();
        if events.timer() {
            let e = cpu.apic.timer_fired(now);
            self.apply(i, &e);
        }
        if events.init() {
            self.reset(i, Reset::Init);
        }
        assert!(!self.cpus[i].mailbox.work().any());
    }

    fn reset(&mut self, i: usize, why: Reset) {
        let cpu = &mut self.cpus[i];
        let e = cpu.apic.reset(why, &cpu.mailbox);
        cpu.posted.clear();
        cpu.irr.clear();
        self.apply(i, &e);
    }

    fn fire_timers(&mut self) {
        for cpu in &mut self.cpus {
            if cpu.timer.is_some_and(|t| t <= self.now) && cpu.mailbox.post_timer() != Wake::None {
                cpu.told = true;
            }
        }
    }

    fn raise(&mut self, i: usize, source: Lvt) {
        let cpu = &mut self.cpus[i];
        let vector = cpu.apic.page().read(source.reg()) as u8;
        if cpu.apic.raise(source) == Raised::Interrupt {
            cpu.irr.insert(vector);
        }
        // A performance entry may have masked itself.
        cpu.apic.publish(&self.published[i], &self.census);
    }

    /// Saves one vCPU and restores it.
    fn migrate(&mut self, i: usize) {
        let now = self.clock();
        let cpu = &mut self.cpus[i];
        cpu.pull();
        let mut image = [0; STATE_SIZE];
        let saved = cpu.apic.save(&mut image, &cpu.mailbox, now);
        self.apply(i, &saved);
        let cpu = &mut self.cpus[i];
        let restored = cpu.apic.restore(&image, &cpu.mailbox, now);
        self.apply(i, &restored.unwrap());
        let cpu = &mut self.cpus[i];
        let mut again = [0; STATE_SIZE];
        let mut twin = image;
        let e = cpu.apic.save(&mut again, &cpu.mailbox, now);
        // A one-shot countdown that was over fires once more. An illegal vector is an error, which
        // has an interrupt of its own.
        let mut vector = image[reg::LVT_TIMER as usize];
        if vector < 16 {
            vector = image[reg::LVT_ERROR as usize];
        }
        if vector >= 16 {
            let word =
                reg::IRR as usize + usize::from(vector >> 5) * 16 + usize::from(vector >> 3 & 3);
            let bit = 1 << (vector & 7);
            twin[word] |= again[word] & bit;
            let tmr = word - 0x80;
            twin[tmr] = twin[tmr] & !bit | again[tmr] & bit;
        }
        for offset in (reg::TMCCT as usize..).take(4) {
            twin[offset] = again[offset];
        }
        for (i, (was, is)) in twin.iter().zip(&again).enumerate() {
            assert_eq!(was, is, "byte {i:#x} of the image");
        }
        self.apply(i, &e);
    }

    /// The guest comes to its senses.
    fn finish(&mut self) {
        for i in 0..self.cpus.len() {
            let now = self.clock();
            self.serve(i);
            let on = DEFAULT_BASE | base::ENABLE;
            let e = self.cpus[i].apic.set_base(on, RESERVED, true).unwrap();
            self.apply(i, &e);
            let e = self.cpus[i].apic.write_reg(reg::SVR, 0x1ff, now).unwrap();
            self.apply(i, &e);
            let cpu = &mut self.cpus[i];
            let _ = cpu.apic.set_tpr(0);
            while cpu.apic.eoi().is_some() {}
            cpu.pull();
            while let Some(v) = cpu.apic.next_vector() {
                check_priority(cpu, v);
                cpu.apic.ack(v);
                cpu.irr.remove(&v);
                assert_eq!(cpu.apic.eoi().map(|e| e.vector), Some(v));
            }
            assert!(cpu.irr.is_empty(), "never taken: {:x?}", cpu.irr);
            assert!(cpu.posted.is_empty());
        }
    }
}

impl Cpu {
    fn pull(&mut self) {
        self.apic.pull(&self.mailbox);
        let posted = std::mem::take(&mut self.posted);
        if self.apic.is_enabled() {
            self.irr.extend(posted);
        }
    }
}

fn without_shorthand(message: Message) -> Ipi {
    Ipi {
        message,
        shorthand: Shorthand::None,
    }
}

/// `vector` is above what has priority, and nothing above it waits.
fn check_priority(cpu: &mut Cpu, vector: u8) {
    let tpr = cpu.apic.page().read(reg::TPR) as u8;
    let isr = cpu.apic.highest_in_service().unwrap_or(0);
    assert!(vector >> 4 > tpr >> 4 && vector >> 4 > isr >> 4);
    assert!(cpu.irr.last().is_none_or(|&v| v <= vector));
}
