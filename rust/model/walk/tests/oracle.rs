// SPDX-License-Identifier: GPL-2.0

//! Random tables in all modes, against a second walker written mode by mode from the tables of
//! SDM: vol 3, 5.3 to 5.5, with no code in common.

use proptest::prelude::*;

use super::*;

/// Bits `hi` to `lo` of `x`.
fn bits(x: u64, hi: u32, lo: u32) -> u64 {
    x >> lo & (u64::MAX >> (63 - (hi - lo)))
}

struct Oracle<'a> {
    r: &'a Registers,
    cpu: &'a CpuTraits,
    m: Ram,
    a: Access,
    w: bool,
    u: bool,
    x: bool,
    pke_key: u64,
}

/// An error code, without the bits that describe the access.
type Refused = u32;

impl Oracle<'_> {
    fn load(&self, at: u64) -> u64 {
        self.m.words[&at]
    }

    fn rights(&mut self, e: u64) {
        self.w &= bits(e, 1, 1) == 1;
        self.u &= bits(e, 2, 2) == 1;
        self.x &= bits(e, 63, 63) == 0;
    }

    fn check(&self, reserved: bool) -> Result<(), Refused> {
        if reserved {
            Err(9)
        } else {
            Ok(())
        }
    }

    fn walk32(&mut self, va: u64) -> Result<(u64, u32, Vec<u64>), Refused> {
        let at = (self.r.cr3 & 0xffff_f000) + bits(va, 31, 22) * 4;
        let pde = u64::from(self.m.get32(at).unwrap());
        if bits(pde, 0, 0) == 0 {
            return Err(0);
        }
        self.rights(pde);
        if self.r.cr4 & cr4::PSE != 0 && bits(pde, 7, 7) == 1 {
            self.check(bits(pde, 21, 21) == 1)?;
            let high = bits(pde, 20, 13);
            let m = self.cpu.maxphyaddr.min(40);
            self.check(if self.cpu.pse36 {
                high >> (m - 32) != 0
            } else {
                high != 0
            })?;
            let pa = bits(pde, 31, 22) << 22 | high << 32 | bits(va, 21, 0);
            return Ok((pa, 22, vec![at]));
        }
        let at2 = (pde & 0xffff_f000) + bits(va, 21, 12) * 4;
        let pte = u64::from(self.m.get32(at2).unwrap());
        if bits(pte, 0, 0) == 0 {
            return Err(0);
        }
        self.rights(pte);
        Ok((bits(pte, 31, 12) << 12 | bits(va, 11, 0), 12, vec![at, at2]))
    }

    fn walk64(&mut self, va: u64, top: u32) -> Result<(u64, u32, Vec<u64>), Refused> {
        let m = self.cpu.maxphyaddr;
        let addr = |e: u64| if m > 12 { bits(e, m - 1, 12) << 12 } else { 0 };
        let mut seen = Vec::new();
        let mut table = addr(self.r.cr3);
        for shift in [48, 39, 30, 21, 12] {
            if shift > top {
                continue;
            }
            let pae = top == 30;
            let e = if pae && shift == 30 {
                self.r.pdptes[bits(va, 31, 30) as usize]
            } else {
                let at = table + bits(va, shift + 8, shift) * 8;
                seen.push(at);
                self.load(at)
            };
            if bits(e, 0, 0) == 0 {
                return Err(0);
            }
            if pae && shift == 30 {
                table = addr(e);
                continue;
            }
            if m < 52 {
                self.check(bits(e, 51, m) != 0)?;
            }
            if pae {
                self.check(bits(e, 62, 52) != 0)?;
            }
            self.check(self.r.efer & efer::NXE == 0 && bits(e, 63, 63) == 1)?;
            let ps = bits(e, 7, 7) == 1;
            let leaf = match shift {
                12 => true,
                21 => ps,
                30 => {
                    self.check(ps && !self.cpu.gb_pages)?;
                    ps
                }
                _ => {
                    self.check(ps)?;
                    self.check(self.cpu.upper_bit8_reserved && bits(e, 8, 8) == 1)?;
                    false
                }
            };
            self.rights(e);
            if leaf {
                if shift > 12 {
                    self.check(bits(e, shift - 1, 13) != 0)?;
                }
                self.pke_key = bits(e, 62, 59);
                let page = addr(e) >> shift << shift;
                return Ok((page | bits(va, shift - 1, 0), shift, seen));
            }
            table = addr(e);
        }
        unreachable!()
    }

    fn permitted(&self, long: bool) -> Result<(), Refused> {
        let user = self.a.privilege == Privilege::User;
        let wp = self.r.cr0 & cr0::WP != 0;
        let pk = long && self.r.cr4 & cr4::PKE != 0 && self.u && !self.a.fetch && {
            let ad = self.r.pkru >> (2 * self.pke_key) & 1 == 1;
            let wd = self.r.pkru >> (2 * self.pke_key + 1) & 1 == 1;
            ad || wd && self.a.write && (wp || user)
        };
        let ok = match (user, self.u, self.a.fetch, self.a.write) {
            (true, false, _, _) => false,
            (true, true, true, _) => self.x,
            (true, true, false, w) => !w || self.w,
            (false, u, true, _) => self.x && !(u && self.r.cr4 & cr4::SMEP != 0),
            (false, u, false, w) => {
                let ac = self.r.rflags & rflags::AC != 0;
                let explicit = self.a.privilege == Privilege::Supervisor;
                let smap = u && self.r.cr4 & cr4::SMAP != 0 && !(ac && explicit);
                !smap && (!w || self.w || !wp)
            }
        };
        match (ok, pk) {
            (true, false) => Ok(()),
            (_, false) => Err(1),
            (_, true) => Err(0x21),
        }
    }

    fn translate(&mut self, va: u64) -> Result<Translation, u32> {
        let r = self.r;
        let paged = r.cr0 & cr0::PG != 0;
        let long = r.efer & efer::LMA != 0;
        let res = (|| -> Result<(u64, u32), Refused> {
            if !paged {
                return Ok((va & 0xffff_ffff, 12));
            }
            let (pa, size, seen) = match (long, r.cr4 & cr4::LA57 != 0, r.cr4 & cr4::PAE != 0) {
                (true, true, _) => self.walk64(va, 48),
                (true, false, _) => self.walk64(va, 39),
                (false, _, true) => self.walk64(va, 30),
                (false, _, false) => self.walk32(va),
            }?;
            self.permitted(long)?;
            let wide = long || r.cr4 & cr4::PAE != 0;
            for (i, at) in seen.iter().enumerate() {
                let last = i + 1 == seen.len();
                let set = 0x20 | if last && self.a.write { 0x40 } else { 0 };
                if wide {
                    self.m.set(*at, self.m.words[at] | set);
                } else {
                    self.m.set32(*at, self.m.get32(*at).unwrap() | set as u32);
                }
            }
            Ok((pa, size))
        })();
        let (pa, page_bits) = res.map_err(|code: Refused| {
            let nx = r.efer & efer::NXE != 0 && r.cr4 & cr4::PAE != 0;
            code | u32::from(self.a.write) * 2
                | u32::from(self.a.privilege == Privilege::User) * 4
                | u32::from(self.a.fetch && (nx || r.cr4 & cr4::SMEP != 0)) * 16
        })?;
        let gpa = Gpa(pa);
        Ok(Translation {
            gpa,
            page_bits,
            writable: self.w,
            user: self.u,
            executable: self.x,
        })
    }
}

/// A generator of entries: mostly present, pointing into the tables, with a rare wild bit.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn one_in(&mut self, n: u64) -> u64 {
        u64::from((self.next() >> 32) % n == 0)
    }

    fn low(&mut self) -> u64 {
        let page = 1 + (self.next() >> 40) % TABLES;
        let mut e = page << 12 | 7;
        e &= !(self.one_in(16) | self.one_in(8) << 1 | self.one_in(8) << 2);
        e |= self.next() & 0xe78 | self.one_in(4) << 7 | self.one_in(12) << 8;
        e | self.one_in(6) << 30 | self.one_in(20) << (12 + self.next() % 20)
    }

    fn entry(&mut self) -> u64 {
        let key = self.next() & 0x7800_0000_0000_0000;
        let wide = if self.one_in(2) == 1 { key } else { 0 };
        self.low() | wide | self.one_in(6) << 63 | self.one_in(24) << (32 + self.next() % 31)
    }
}

const TABLES: u64 = 6;

fn registers() -> impl Strategy<Value = (Registers, CpuTraits)> {
    let flags = prop::collection::vec(any::<bool>(), 14);
    (
        flags,
        any::<u32>(),
        0..5u32,
        prop_oneof![Just(36u32), Just(40), Just(46), Just(52)],
    )
        .prop_map(|(f, pkru, mode, maxphyaddr)| {
            let bit = |i: usize, b: u64| if f[i] { b } else { 0 };
            let mut r = Registers {
                cr0: cr0::PE | bit(0, cr0::WP) | if mode > 0 { cr0::PG } else { 0 },
                cr3: 0x1000 | bit(1, 0x18),
                cr4: bit(2, cr4::SMEP) | bit(3, cr4::SMAP) | bit(4, cr4::PKE) | bit(5, cr4::PSE),
                efer: bit(6, efer::NXE),
                rflags: 2 | bit(7, rflags::AC),
                pkru,
                pdptes: [0x2001, 0x3001, 0, 0x4001],
            };
            if mode >= 2 {
                r.cr4 |= cr4::PAE;
            }
            if mode >= 3 {
                r.efer |= efer::LMA;
            }
            if mode == 4 {
                r.cr4 |= cr4::LA57;
            }
            let cpu = CpuTraits {
                maxphyaddr,
                gb_pages: f[8],
                pse36: f[9],
                upper_bit8_reserved: f[10],
            };
            (r, cpu)
        })
}

fn access() -> impl Strategy<Value = Access> {
    let privilege = prop_oneof![
        Just(Privilege::User),
        Just(Privilege::Supervisor),
        Just(Privilege::Implicit),
    ];
    (0..3, privilege).prop_map(|(kind, privilege)| Access {
        write: kind == 1,
        fetch: kind == 2 && privilege != Privilege::Implicit,
        privilege,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn agrees_with_the_oracle(
        (r, cpu) in registers(),
        seed in 1..u64::MAX,
        tries in prop::collection::vec((any::<u64>(), access()), 40),
    ) {
        let mut rng = Rng(seed);
        let mut m = Ram::default();
        let wide = r.cr4 & cr4::PAE != 0;
        for at in (0x1000..0x1000 * (TABLES + 1)).step_by(8) {
            let e = if wide { rng.entry() } else { rng.low() | rng.low() << 32 };
            m.set(at, e);
        }
        let p = Paging::new(r, cpu);
        for (va, a) in tries {
            let mut o = Oracle { r: &r, cpu: &cpu, m: m.clone(), a, w: true, u: true, x: true, pke_key: 0 };
            // A wild pointer leads out of memory; the walker must say so, the oracle cannot.
            let got = p.translate(&mut m, Gva(va), a);
            if let Err(Stop::Memory { fault, .. }) = got {
                prop_assert_eq!(fault.error_code & 0x29, 0);
                continue;
            }
            let want = o.translate(va).map_err(|error_code| {
                Stop::Fault(Fault { error_code, gva: Gva(va) })
            });
            prop_assert_eq!(got, want);
            prop_assert_eq!(&m.words, &o.m.words);
        }
    }
}

/// The generator reaches all outcomes; otherwise the property above would prove little.
#[test]
fn the_generator_reaches_everything() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sizes = BTreeMap::new();
    let mut codes = BTreeMap::new();
    for seed in 1..400u64 {
        let (r, cpu) = registers().new_tree(&mut runner).unwrap().current();
        let mut rng = Rng(seed);
        let mut m = Ram::default();
        for at in (0x1000..0x1000 * (TABLES + 1)).step_by(8) {
            let wide = r.cr4 & cr4::PAE != 0;
            let e = if wide {
                rng.entry()
            } else {
                rng.low() | rng.low() << 32
            };
            m.set(at, e);
        }
        let p = Paging::new(r, cpu);
        for _ in 0..40 {
            let a = access().new_tree(&mut runner).unwrap().current();
            match p.translate(&mut m, Gva(rng.next()), a) {
                Ok(t) => {
                    *sizes
                        .entry((format!("{:?}", p.mode()), t.page_bits))
                        .or_insert(0) += 1
                }
                Err(Stop::Fault(f)) => *codes.entry(f.error_code).or_insert(0) += 1,
                Err(_) => {}
            }
        }
    }
    for key in [
        ("None", 12),
        ("Bits32", 12),
        ("Bits32", 22),
        ("Pae", 12),
        ("Pae", 21),
        ("Long4", 12),
        ("Long4", 21),
        ("Long4", 30),
        ("Long5", 12),
        ("Long5", 21),
        ("Long5", 30),
    ] {
        assert!(
            sizes.contains_key(&(key.0.to_string(), key.1)),
            "{key:?} in {sizes:?}"
        );
    }
    for code in [
        0, 1, 2, 3, 4, 5, 6, 7, 9, 0xb, 0xd, 0xf, 0x10, 0x11, 0x14, 0x15, 0x21, 0x25, 0x27,
    ] {
        assert!(codes.contains_key(&code), "{code:x} in {codes:?}");
    }
}
