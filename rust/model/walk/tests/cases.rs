// SPDX-License-Identifier: GPL-2.0

//! One case per rule of the manuals.

use super::*;

const LONG: Registers = Registers {
    cr0: cr0::PG | cr0::PE | cr0::WP,
    cr3: 0x1000,
    cr4: cr4::PAE,
    efer: efer::LMA | efer::LME | efer::NXE,
    rflags: 2,
    pkru: 0,
    pdptes: [0; 4],
};

/// Four levels for addresses 0 to 0x1fff: tables at 0x1000 to 0x4000, rights all open except in
/// the last entries.
fn tables(pte0: u64) -> Ram {
    let mut m = Ram::default();
    for (at, next) in [(0x1000, 0x2000), (0x2000, 0x3000), (0x3000, 0x4000)] {
        m.set(at, next | 7);
    }
    m.set(0x4000, pte0);
    m
}

fn code<T: core::fmt::Debug>(r: Result<T, Stop<Gpa>>) -> u32 {
    match r {
        Err(Stop::Fault(f)) => f.error_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_paging_addresses_are_physical() {
    let p = Paging::new(Registers::default(), CPU);
    let mut m = Ram::default();
    let t = p
        .translate(&mut m, Gva(0x1_2345_6789), Access::write(3))
        .unwrap();
    assert_eq!(t.gpa, Gpa(0x2345_6789));
    assert!(t.writable && t.user && t.executable);
    assert_eq!(m.purposes, [Purpose::Final(Access::write(3))]);
}

#[test]
fn rights_of_user_supervisor_and_wp() {
    const U: u64 = PTE_US;
    const W: u64 = PTE_RW;
    const NX: u64 = PTE_NX;
    let (read, write, fetch) = (Access::read, Access::write, Access::fetch);
    // (registers set, entry bits, access, expected error code)
    let cases: &[(u64, u64, u64, Access, Option<u32>)] = &[
        // cr0 cleared, cr4 set
        (0, 0, 0, read(0), None),
        (0, 0, 0, read(3), Some(5)),
        (0, 0, U, read(3), None),
        (0, 0, U, write(3), Some(7)),
        (0, 0, U | W, write(3), None),
        (0, 0, 0, write(0), Some(3)),
        (cr0::WP, 0, 0, write(0), None),
        (cr0::WP, 0, U, write(3), Some(7)),
        (0, 0, NX, fetch(0), Some(0x11)),
        (0, 0, NX | U, fetch(3), Some(0x15)),
        (0, 0, U, fetch(0), None),
        (0, cr4::SMEP, U, fetch(0), Some(0x11)),
        (0, cr4::SMEP, U, fetch(3), None),
        (0, cr4::SMEP, 0, fetch(0), None),
        (0, cr4::SMAP, U, read(0), Some(1)),
        (0, cr4::SMAP, U | W, write(0), Some(3)),
        (0, cr4::SMAP, U, read(3), None),
        (0, cr4::SMAP, 0, read(0), None),
        (0, cr4::SMAP, U, fetch(0), None),
        (0, cr4::SMAP, U, Access::implicit(false), Some(1)),
    ];
    for (i, &(clear, set, bits, access, want)) in cases.iter().enumerate() {
        let mut r = LONG;
        r.cr0 &= !clear;
        r.cr4 |= set;
        let p = Paging::new(r, CPU);
        let res = p.translate(&mut tables(0x9000 | PTE_P | bits), Gva(0x123), access);
        match want {
            None => assert_eq!(res.unwrap().gpa, Gpa(0x9123), "case {i}"),
            Some(c) => assert_eq!(code(res), c, "case {i}"),
        }
    }
    // RFLAGS.AC lifts SMAP for explicit accesses only.
    let mut r = LONG;
    r.cr4 |= cr4::SMAP;
    r.rflags |= rflags::AC;
    let p = Paging::new(r, CPU);
    let mut m = tables(0x9000 | PTE_P | PTE_US);
    assert!(p.translate(&mut m, Gva(0), Access::read(0)).is_ok());
    assert_eq!(
        code(p.translate(&mut m, Gva(0), Access::implicit(false))),
        1
    );
}

#[test]
fn protection_keys() {
    let mut r = LONG;
    r.cr4 |= cr4::PKE;
    let entry = |bits| 0x9000 | PTE_P | 5 << PTE_PKEY_SHIFT | bits;
    let ad = 1 << 10;
    let wd = 2 << 10;
    // (pkru, clear WP, entry bits, access, expected)
    let cases = [
        (ad, 0, PTE_US, Access::read(3), Some(0x25)),
        (ad, 0, PTE_US, Access::read(0), Some(0x21)),
        (ad, 0, PTE_US, Access::fetch(3), None),
        (ad, 0, 0, Access::read(0), None),
        (!ad, 0, PTE_US, Access::read(3), None),
        (wd, 0, PTE_US | PTE_RW, Access::read(3), None),
        (wd, 0, PTE_US | PTE_RW, Access::write(3), Some(0x27)),
        (wd, 0, PTE_US | PTE_RW, Access::write(0), Some(0x23)),
        (wd, cr0::WP, PTE_US | PTE_RW, Access::write(0), None),
        (wd, cr0::WP, PTE_US | PTE_RW, Access::write(3), Some(0x27)),
    ];
    for (i, (pkru, clear, bits, access, want)) in cases.into_iter().enumerate() {
        let mut r = r;
        r.pkru = pkru;
        r.cr0 &= !clear;
        let res = Paging::new(r, CPU).translate(&mut tables(entry(bits)), Gva(0), access);
        match want {
            None => assert!(res.is_ok(), "case {i}: {res:?}"),
            Some(c) => assert_eq!(code(res), c, "case {i}"),
        }
        // Without CR4.PKE the bits are ignored.
        r.cr4 &= !cr4::PKE;
        let res = Paging::new(r, CPU).translate(&mut tables(entry(bits)), Gva(0), access);
        assert!(res.is_ok());
    }
}

#[test]
fn fetch_bit_of_the_error_code() {
    // I/D is only reported with NX or SMEP enabled.
    for (nxe, smep, want) in [(true, false, 0x10), (false, true, 0x10), (false, false, 0)] {
        let mut r = LONG;
        r.efer = efer::LMA | if nxe { efer::NXE } else { 0 };
        r.cr4 |= if smep { cr4::SMEP } else { 0 };
        let res = Paging::new(r, CPU).translate(&mut tables(0), Gva(0), Access::fetch(0));
        assert_eq!(code(res), want);
    }
}

#[test]
fn reserved_bits() {
    let p = Paging::new(LONG, CPU);
    let read = Access::read(0);
    // (address of the entry, its value, reserved?)
    let cases = [
        (0x4000, 0x9001 | 1 << 46, true),
        (0x4000, 0x9001 | 1 << 45, false),
        (0x4000, 0x9001 | 1 << 52, false),
        (0x4000, 0x9001 | 1 << 7, false),
        (0x3000, 0x0020_0081, false),
        (0x3000, 0x0020_1081, false),
        (0x3000, 0x0020_2081, true),
        (0x2000, 0x4000_0081, false),
        (0x2000, 0x4000_1081, false),
        (0x2000, 0x4020_0081, true),
        (0x1000, 0x2081, true),
        (0x1000, 0x2101, false),
    ];
    for (at, value, reserved) in cases {
        let mut m = tables(0x9001);
        m.set(at, value);
        match p.translate(&mut m, Gva(0), read) {
            Ok(_) => assert!(!reserved, "{at:x} {value:x}"),
            Err(e) => {
                let fault = Fault {
                    error_code: 9,
                    gva: Gva(0),
                };
                assert_eq!(e, Stop::Fault(fault), "{at:x} {value:x}");
                assert!(reserved, "{at:x} {value:x}");
            }
        }
    }
    // Bit 8 of the upper levels on AMD, NX without NXE, 1 GiB without support.
    let amd = CpuTraits {
        upper_bit8_reserved: true,
        gb_pages: false,
        ..CPU
    };
    let mut m = tables(0x9001);
    m.set(0x1000, 0x2101);
    assert_eq!(
        code(Paging::new(LONG, amd).translate(&mut m, Gva(0), read)),
        9
    );
    let mut m = tables(0x9001);
    m.set(0x2000, 0x4000_0081);
    assert_eq!(
        code(Paging::new(LONG, amd).translate(&mut m, Gva(0), read)),
        9
    );
    let mut r = LONG;
    r.efer &= !efer::NXE;
    let mut m = tables(0x9001 | PTE_NX);
    assert_eq!(code(Paging::new(r, CPU).translate(&mut m, Gva(0), read)), 9);
}

#[test]
fn accessed_and_dirty() {
    let p = Paging::new(LONG, CPU);
    let mut m = tables(0x9003);
    // A fault leaves no trace.
    assert_eq!(code(p.translate(&mut m, Gva(0), Access::write(3))), 7);
    assert_eq!(m.words, tables(0x9003).words);
    p.translate(&mut m, Gva(0), Access::read(0)).unwrap();
    for at in [0x1000, 0x2000, 0x3000, 0x4000] {
        assert_eq!(m.words[&at] & (PTE_A | PTE_D), PTE_A, "{at:x}");
    }
    p.translate(&mut m, Gva(0), Access::write(0)).unwrap();
    assert_eq!(m.words[&0x3000] & PTE_D, 0);
    assert_eq!(m.words[&0x4000] & PTE_D, PTE_D);
    // In ROM nothing changes, and the access works.
    let mut m = Ram {
        rom: true,
        ..tables(0x9003)
    };
    p.translate(&mut m, Gva(0), Access::write(0)).unwrap();
    assert_eq!(m.words, tables(0x9003).words);
    // An entry that changes under the walk starts it anew, but not for ever.
    let mut m = Ram {
        interference: 5,
        ..tables(0x9003)
    };
    p.translate(&mut m, Gva(0), Access::write(0)).unwrap();
    assert_eq!((m.words[&0x4000], m.interference), (0x9063, 0));
    let mut m = Ram {
        interference: u32::MAX,
        ..tables(0x9003)
    };
    assert_eq!(
        p.translate(&mut m, Gva(0), Access::write(0)),
        Err(Stop::Busy)
    );
}

#[test]
fn memory_that_cannot_be_reached() {
    let p = Paging::new(LONG, CPU);
    let mut m = tables(0x9003);
    m.words.remove(&0x3000);
    let fault = Fault {
        error_code: 6,
        gva: Gva(0x10),
    };
    let want = Stop::Memory {
        error: Gpa(0x3000),
        fault,
    };
    assert_eq!(p.translate(&mut m, Gva(0x10), Access::write(3)), Err(want));
}

#[test]
fn nested_translation_of_every_address() {
    let p = Paging::new(LONG, CPU);
    let inner = tables(0x9003);
    let mut m = Ram {
        nested: 0x10_0000,
        ..Ram::default()
    };
    m.words = inner
        .words
        .iter()
        .map(|(a, v)| (a + 0x10_0000, *v))
        .collect();
    let access = Access::write(0);
    let t = p.translate(&mut m, Gva(0x12), access).unwrap();
    assert_eq!(t.gpa, Gpa(0x10_9012));
    let table = Purpose::Table;
    assert_eq!(
        m.purposes,
        [table, table, table, table, Purpose::Final(access)]
    );
}

#[test]
fn pse36_and_pse() {
    let mut r = Registers {
        cr0: cr0::PG | cr0::PE,
        cr3: 0x1000,
        cr4: cr4::PSE,
        ..LONG
    };
    r.efer = 0;
    let mut m = Ram::default();
    // Bits 39:32 of the page are 0x12, in bits 20:13.
    m.set32(0x1004, 0x8000_0000 | 0x12 << 13 | 0x83);
    let t = Paging::new(r, CPU)
        .translate(&mut m, Gva(0x0040_0123), Access::read(0))
        .unwrap();
    assert_eq!((t.gpa, t.page_bits), (Gpa(0x12_8000_0123), 22));
    // Address bits the processor lacks are reserved: bit 36 is one at 36 address bits.
    let small = CpuTraits {
        maxphyaddr: 36,
        ..CPU
    };
    let res = Paging::new(r, small).translate(&mut m, Gva(0x0040_0123), Access::read(0));
    assert_eq!(code(res), 9);
    let old = CpuTraits {
        pse36: false,
        ..CPU
    };
    let res = Paging::new(r, old).translate(&mut m, Gva(0x0040_0123), Access::read(0));
    assert_eq!(code(res), 9);
    // Bit 21 always is.
    let mut bit21 = m.clone();
    bit21.set32(0x1004, 0x8000_0083 | 1 << 21);
    let res = Paging::new(r, CPU).translate(&mut bit21, Gva(0x0040_0123), Access::read(0));
    assert_eq!(code(res), 9);
    // Without CR4.PSE the entry points to a table, whatever bit 7 says.
    r.cr4 = 0;
    m.set32(0x8002_4000, 0x5003);
    let t = Paging::new(r, CPU)
        .translate(&mut m, Gva(0x0040_0123), Access::read(0))
        .unwrap();
    assert_eq!((t.gpa, t.page_bits), (Gpa(0x5123), 12));
}

#[test]
fn pae_uses_the_loaded_pdptes() {
    let mut r = Registers {
        cr0: cr0::PG | cr0::PE,
        cr4: cr4::PAE,
        ..LONG
    };
    r.efer = efer::NXE;
    r.pdptes = [0, 0x2001, 0, 0];
    let mut m = Ram::default();
    m.set(0x2000, 0x3007);
    m.set(0x3008, 0x9001 | PTE_NX);
    let p = Paging::new(r, CPU);
    let t = p
        .translate(&mut m, Gva(0x4000_1234), Access::read(0))
        .unwrap();
    assert_eq!(t.gpa, Gpa(0x9234));
    assert!(!t.executable && !t.writable && !t.user);
    assert_eq!(m.words[&0x3008] & PTE_A, PTE_A);
    assert_eq!(code(p.translate(&mut m, Gva(0x1234), Access::write(3))), 6);
    // Bits 62:52 are reserved here.
    m.set(0x3008, 0x9001 | 1 << 52);
    assert_eq!(
        code(p.translate(&mut m, Gva(0x4000_1234), Access::read(0))),
        9
    );
}

#[test]
fn pdptes_are_checked_when_loaded() {
    let mut m = Ram::default();
    for (i, v) in [0x2001, 0xffff_ffff_ffff_fffe, 0x3019, 0x1000_0001]
        .into_iter()
        .enumerate()
    {
        m.set(0x1020 + 8 * i as u64, v);
    }
    let want = [0x2001, 0xffff_ffff_ffff_fffe, 0x3019, 0x1000_0001];
    assert_eq!(load_pdptes(&mut m, 0x1_0000_103f, 46), Ok(Some(want)));
    for bad in [1 << 1, 1 << 2, 1 << 5, 1 << 8, 1 << 46, 1 << 63] {
        let mut m = m.clone();
        m.set(0x1038, 0x2001 | bad);
        assert_eq!(load_pdptes(&mut m, 0x1020, 46), Ok(None), "{bad:x}");
    }
    m.words.remove(&0x1028);
    assert_eq!(load_pdptes(&mut m, 0x1020, 46), Err(Gpa(0x1028)));
}
