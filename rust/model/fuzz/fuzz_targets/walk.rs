// SPDX-License-Identifier: GPL-2.0

//! The guest page walker with arbitrary registers over arbitrary tables.
//!
//! A fault leaves memory as it was; a success has set A everywhere on the way (and D for a write),
//! so that the same access again gives the same answer and changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model::addr::{Gpa, Gva};
use model::walk::{Access, CpuTraits, GuestMem, Paging, Privilege, Registers, Stop};
use model::x86::ctrl::{cr0, cr4};
use model::x86::exception::pf;

/// A few words that repeat all over memory.
#[derive(Clone, PartialEq)]
struct Tables {
    words: Vec<u64>,
}

impl Tables {
    fn at(gpa: Gpa) -> usize {
        // Few distinct words, so that short inputs fill all of them.
        ((gpa.0 >> 3 ^ gpa.0 >> 12) & 31) as usize
    }
}

impl GuestMem for Tables {
    type Error = ();

    fn read_u32(&mut self, gpa: Gpa) -> Result<u32, ()> {
        assert_eq!(gpa.0 & 3, 0);
        Ok((self.words[Self::at(gpa)] >> ((gpa.0 & 4) * 8)) as u32)
    }

    fn read_u64(&mut self, gpa: Gpa) -> Result<u64, ()> {
        assert_eq!(gpa.0 & 7, 0);
        // Page 1 is a hole.
        if gpa.0 >> 12 == 1 {
            return Err(());
        }
        Ok(self.words[Self::at(gpa)])
    }

    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Result<bool, ()> {
        assert_eq!((old ^ new) & !0x60, 0, "only A and D may change");
        if self.read_u32(gpa)? != old {
            return Ok(false);
        }
        self.words[Self::at(gpa)] ^= u64::from(old ^ new) << ((gpa.0 & 4) * 8);
        Ok(true)
    }

    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Result<bool, ()> {
        assert_eq!((old ^ new) & !0x60, 0, "only A and D may change");
        if self.read_u64(gpa)? != old {
            return Ok(false);
        }
        self.words[Self::at(gpa)] = new;
        Ok(true)
    }
}

/// The input, eight bytes at a time, then zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn next(&mut self) -> u64 {
        let (head, tail) = self.0.split_at(self.0.len().min(8));
        self.0 = tail;
        let mut bytes = [0; 8];
        bytes[..head.len()].copy_from_slice(head);
        u64::from_le_bytes(bytes)
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let bits = input.next();
    let regs = Registers {
        // Zeros in the input turn paging on, and make entries that are present.
        cr0: input.next() ^ (cr0::PG | cr0::PE),
        cr3: input.next(),
        cr4: input.next(),
        efer: input.next(),
        rflags: bits >> 32,
        pkru: input.next() as u32,
        pdptes: core::array::from_fn(|_| input.next()),
    };
    let cpu = CpuTraits {
        maxphyaddr: 32 + (bits >> 8 & 31) as u32 % 21,
        gb_pages: bits & 1 != 0,
        pse36: bits & 2 != 0,
        upper_bit8_reserved: bits & 4 != 0,
    };
    let access = Access {
        write: bits & 8 != 0,
        fetch: bits & 24 == 16,
        privilege: match bits >> 5 & 3 {
            0 => Privilege::User,
            1 => Privilege::Implicit,
            _ => Privilege::Supervisor,
        },
    };
    let gva = Gva(input.next());
    let words = (0..32).map(|_| input.next() ^ 7).collect();
    let before = Tables { words };
    let mut mem = before.clone();
    let paging = Paging::new(regs, cpu);
    let user = access.privilege == Privilege::User;
    let first = paging.translate(&mut mem, gva, access);
    match first {
        Ok(t) => {
            assert!(t.gpa.0 < 1 << 52);
            assert!(!user || t.user);
            assert!(!access.fetch || t.executable);
            assert!(!access.write || t.writable || !user && regs.cr0 & cr0::WP == 0);
            assert!(
                user || !access.fetch
                    || !t.user
                    || regs.cr4 & cr4::SMEP == 0
                    || regs.cr0 >> 31 & 1 == 0
            );
            let after = mem.clone();
            assert_eq!(paging.translate(&mut mem, gva, access), first);
            assert!(mem == after, "the second time there is nothing left to set");
        }
        Err(Stop::Fault(f)) | Err(Stop::Memory { fault: f, .. }) => {
            assert!(mem == before, "a fault leaves no trace");
            assert_eq!(f.gva, gva);
            assert_eq!(f.error_code & pf::W != 0, access.write);
            assert_eq!(f.error_code & pf::U != 0, user);
            assert!(access.fetch || f.error_code & pf::I == 0);
            assert!(f.error_code & (pf::RSVD | pf::PK) == 0 || f.error_code & pf::P != 0);
        }
        Err(Stop::Busy) => panic!("nobody else changes these tables"),
    }
});
