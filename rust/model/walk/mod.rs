// SPDX-License-Identifier: GPL-2.0

//! The guest page walker: what the processor does with a linear address.
//!
//! [`Paging`] is a snapshot of the registers that decide about translation. [`Paging::translate`]
//! walks the guest's own tables through [`GuestMem`] in all five modes (no paging, 32-bit, PAE,
//! 4-level, 5-level), checks reserved bits and rights, sets accessed and dirty bits, and returns a
//! guest-physical address or the page fault the guest must see.
//!
//! The emulator, KVM_TRANSLATE and instruction fetches after an exit use it. For a nested guest,
//! the addresses in its tables are themselves virtual: [`GuestMem::nested`] is called on each.
//!
//! SDM: vol 3, chapter 5; APM: vol 2, chapter 5.

pub mod pte;

#[cfg(test)]
mod tests;

use crate::addr::{Gpa, Gva};
use crate::x86::ctrl::{cr0, cr4, efer, rflags};
use crate::x86::exception::{pf, Exception};
use crate::x86::paging::{PTE_A, PTE_D, PTE_NX, PTE_P, PTE_PKEY_SHIFT, PTE_RW, PTE_US};

pub use pte::Mode;

/// Guest memory as the walker needs it.
///
/// `Error` is whatever the caller wants to know when memory cannot be reached: no slot, an unmapped
/// user page, an exit of a nested guest.
pub trait GuestMem {
    /// Why memory could not be reached.
    type Error;

    /// Reads a naturally aligned word.
    fn read_u32(&mut self, gpa: Gpa) -> Result<u32, Self::Error>;

    /// Reads a naturally aligned word.
    fn read_u64(&mut self, gpa: Gpa) -> Result<u64, Self::Error>;

    /// Replaces `old` by `new` atomically; `Ok(false)` if the word was not `old`. Where the guest
    /// cannot write (read-only memory), does nothing and returns `Ok(true)`: to the processor,
    /// setting a bit in ROM is a write that has no effect.
    fn cmpxchg_u32(&mut self, gpa: Gpa, old: u32, new: u32) -> Result<bool, Self::Error>;

    /// The same for 64 bits.
    fn cmpxchg_u64(&mut self, gpa: Gpa, old: u64, new: u64) -> Result<bool, Self::Error>;

    /// Translates an address that comes out of the guest's tables by the tables of the hypervisor
    /// it runs under. The identity unless the guest is nested.
    fn nested(&mut self, gpa: Gpa, purpose: Purpose) -> Result<Gpa, Self::Error> {
        let _ = purpose;
        Ok(gpa)
    }
}

/// What an address passed to [`GuestMem::nested`] is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A table entry is about to be read, and perhaps its A or D bit set.
    Table,
    /// The final access.
    Final(Access),
}

/// On whose behalf an access is made (SDM: vol 3, 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// By code at CPL 3.
    User,
    /// By code at CPL 0 to 2.
    Supervisor,
    /// By the processor itself whatever the CPL: descriptor tables, the TSS. RFLAGS.AC does not
    /// lift SMAP for it.
    Implicit,
}

/// An access to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It writes.
    pub write: bool,
    /// It fetches an instruction.
    pub fetch: bool,
    /// On whose behalf.
    pub privilege: Privilege,
}

impl Access {
    /// A data read at privilege level `cpl`.
    pub const fn read(cpl: u8) -> Self {
        Self::at(cpl, false, false)
    }

    /// A data write at privilege level `cpl`.
    pub const fn write(cpl: u8) -> Self {
        Self::at(cpl, true, false)
    }

    /// An instruction fetch at privilege level `cpl`.
    pub const fn fetch(cpl: u8) -> Self {
        Self::at(cpl, false, true)
    }

    /// An access of the processor to its own structures.
    pub const fn implicit(write: bool) -> Self {
        Access {
            write,
            fetch: false,
            privilege: Privilege::Implicit,
        }
    }

    const fn at(cpl: u8, write: bool, fetch: bool) -> Self {
        let privilege = if cpl == 3 {
            Privilege::User
        } else {
            Privilege::Supervisor
        };
        Access {
            write,
            fetch,
            privilege,
        }
    }
}

/// A successful translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address of the byte asked for, after [`GuestMem::nested`].
    pub gpa: Gpa,
    /// log2 of the size of the guest's page in bytes: 12, 21, 22 or 30; 12 without paging. A
    /// nested translation may be finer.
    pub page_bits: u32,
    /// The tables allow writes (CR0.WP and protection keys aside).
    pub writable: bool,
    /// The tables allow user-mode accesses.
    pub user: bool,
    /// The tables allow instruction fetches (SMEP aside).
    pub executable: bool,
}

/// The page fault an access raises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The error code, bits of [`pf`].
    pub error_code: u32,
    /// The address for CR2.
    pub gva: Gva,
}

impl From<Fault> for Exception {
    fn from(f: Fault) -> Exception {
        Exception::page_fault(f.error_code, f.gva.0)
    }
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop<E> {
    /// The guest gets a page fault.
    Fault(Fault),
    /// Memory could not be reached. `fault` is the page fault that a not-present entry in its
    /// place would raise.
    Memory {
        /// The error of [`GuestMem`].
        error: E,
        /// What a guest may be told instead.
        fault: Fault,
    },
    /// Another processor kept changing the tables; try again later.
    Busy,
}

/// Properties of the guest's processor, from its CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTraits {
    /// Number of physical address bits, 32 to 52.
    pub maxphyaddr: u32,
    /// 1-GiB pages.
    pub gb_pages: bool,
    /// 40-bit addresses in 4-MiB pages.
    pub pse36: bool,
    /// Bit 8 of PML4 and PML5 entries must be zero, as on AMD processors (APM: vol 2, 5.3.3).
    pub upper_bit8_reserved: bool,
}

/// Registers that decide about translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER; LMA and NXE count.
    pub efer: u64,
    /// RFLAGS; AC counts.
    pub rflags: u64,
    /// PKRU; only used with CR4.PKE in long mode.
    pub pkru: u32,
    /// The PDPTE registers; only used in PAE mode.
    pub pdptes: [u64; 4],
}

/// A snapshot of how addresses are translated.
#[derive(Clone, Copy, Debug)]
pub struct Paging {
    regs: Registers,
    mode: Mode,
    nx: bool,
    cpu: CpuTraits,
}

/// How often a walk starts again because an entry changed under it.
const ATTEMPTS: u32 = 32;

/// An entry on the way down, to be marked as accessed.
#[derive(Clone, Copy)]
struct Visited {
    at: Gpa,
    entry: u64,
}

/// The outcome of one attempt.
enum Attempt {
    Done(Translation),
    Changed,
}

impl Paging {
    /// Takes a snapshot.
    pub const fn new(regs: Registers, cpu: CpuTraits) -> Self {
        let mode = Mode::of(regs.cr0, regs.cr4, regs.efer);
        // Entries of four bytes have no NX bit.
        let nx = regs.efer & efer::NXE != 0 && regs.cr4 & cr4::PAE != 0;
        Paging {
            regs,
            mode,
            nx,
            cpu,
        }
    }

    /// The mode of paging.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Translates `gva`. Sets accessed and dirty bits if, and only if, it succeeds.
    ///
    /// Whether the address is canonical is for the caller to check; without long mode its upper
    /// half is ignored.
    pub fn translate<M: GuestMem>(
        &self,
        mem: &mut M,
        gva: Gva,
        access: Access,
    ) -> Result<Translation, Stop<M::Error>> {
        for _ in 0..ATTEMPTS {
            if let Attempt::Done(t) = self.attempt(mem, gva, access)? {
                return Ok(t);
            }
        }
        Err(Stop::Busy)
    }

    fn attempt<M: GuestMem>(
        &self,
        mem: &mut M,
        gva: Gva,
        access: Access,
    ) -> Result<Attempt, Stop<M::Error>> {
        let unreached = |error| Stop::Memory {
            error,
            fault: self.fault(gva, access, 0),
        };
        let linear = self.mode.linear(gva);
        let mut visited = [Visited {
            at: Gpa(0),
            entry: 0,
        }; 5];
        let mut level = self.mode.levels();
        let mut table = self.mode.table(self.regs.cr3, self.cpu.maxphyaddr);
        let mut rights = PTE_RW | PTE_US;
        let mut leaf = 0;
        let mut page_bits = 12;
        let mut page = linear & !0xfff;
        while level > 0 {
            let cached = self.mode == Mode::Pae && level == 3;
            let index = self.mode.index(linear, level);
            let (at, entry) = if cached {
                let pdpte = self.regs.pdptes.get(index as usize & 3).copied();
                (Gpa(0), pdpte.unwrap_or(0))
            } else {
                let size = self.mode.entry_size();
                let at = Gpa(table).wrapping_add(index.wrapping_mul(size));
                let at = mem.nested(at, Purpose::Table).map_err(unreached)?;
                let entry = if size == 4 {
                    mem.read_u32(at).map(u64::from)
                } else {
                    mem.read_u64(at)
                };
                (at, entry.map_err(unreached)?)
            };
            if entry & PTE_P == 0 {
                return Err(Stop::Fault(self.fault(gva, access, 0)));
            }
            if cached {
                // Its reserved bits were checked when it was loaded, and it has no rights or A bit.
                table = pte::address(entry, self.cpu.maxphyaddr);
                level = 2;
                continue;
            }
            let is_leaf = self.is_leaf(level, entry);
            if entry & self.reserved(level, is_leaf) != 0 {
                return Err(Stop::Fault(self.fault(gva, access, pf::P | pf::RSVD)));
            }
            rights = rights & (entry | PTE_NX) | (rights | entry) & PTE_NX;
            if let Some(v) = visited.get_mut(level.wrapping_sub(1) as usize) {
                *v = Visited { at, entry };
            }
            if is_leaf {
                leaf = entry;
                page_bits = self.mode.page_bits(level);
                page = self.mode.page(entry, level, self.cpu.maxphyaddr);
                break;
            }
            table = pte::address(entry, self.cpu.maxphyaddr);
            level = level.wrapping_sub(1);
        }
        if self.mode != Mode::None {
            if let Some(code) = self.denied(access, rights, leaf) {
                return Err(Stop::Fault(self.fault(gva, access, pf::P | code)));
            }
        }
        let within = linear & 1u64.wrapping_shl(page_bits).wrapping_sub(1);
        let gpa = mem
            .nested(Gpa(page | within), Purpose::Final(access))
            .map_err(unreached)?;
        for (i, v) in visited.iter().enumerate().rev() {
            let dirty = access.write && i == level.wrapping_sub(1) as usize;
            if !self.mark(mem, v, dirty).map_err(unreached)? {
                return Ok(Attempt::Changed);
            }
        }
        Ok(Attempt::Done(Translation {
            gpa,
            page_bits,
            writable: rights & PTE_RW != 0,
            user: rights & PTE_US != 0,
            executable: rights & PTE_NX == 0,
        }))
    }

    /// Sets A, and D if asked to, in an entry that was visited. `false` if it has changed.
    fn mark<M: GuestMem>(&self, mem: &mut M, v: &Visited, dirty: bool) -> Result<bool, M::Error> {
        let new = v.entry | PTE_A | if dirty { PTE_D } else { 0 };
        if v.entry & PTE_P == 0 || new == v.entry {
            return Ok(true);
        }
        if self.mode.entry_size() == 4 {
            mem.cmpxchg_u32(v.at, v.entry as u32, new as u32)
        } else {
            mem.cmpxchg_u64(v.at, v.entry, new)
        }
    }

    /// Whether the rights deny the access, and the error-code bits beyond P that this adds.
    fn denied(&self, access: Access, rights: u64, leaf: u64) -> Option<u32> {
        let user_access = access.privilege == Privilege::User;
        let user_page = rights & PTE_US != 0;
        let wp = self.regs.cr0 & cr0::WP != 0;
        let mut deny = user_access && !user_page;
        if access.write && rights & PTE_RW == 0 {
            deny |= user_access || wp;
        }
        if access.fetch {
            deny |= rights & PTE_NX != 0;
            deny |= !user_access && user_page && self.regs.cr4 & cr4::SMEP != 0;
        } else if !user_access && user_page && self.regs.cr4 & cr4::SMAP != 0 {
            let lifted =
                access.privilege == Privilege::Supervisor && self.regs.rflags & rflags::AC != 0;
            deny |= !lifted;
        }
        let mut code = 0;
        if user_page && !access.fetch && self.keys_on() {
            // SDM: vol 3, 5.6.2. Two bits per key: no access, no write.
            let key = (leaf >> PTE_PKEY_SHIFT) as u32 & 15;
            let bits = self.regs.pkru.wrapping_shr(key.wrapping_mul(2));
            if bits & 1 != 0 || bits & 2 != 0 && access.write && (user_access || wp) {
                deny = true;
                code = pf::PK;
            }
        }
        deny.then_some(code)
    }

    const fn keys_on(&self) -> bool {
        matches!(self.mode, Mode::Long4 | Mode::Long5) && self.regs.cr4 & cr4::PKE != 0
    }

    /// The fault with the bits that follow from the access added to `code`.
    fn fault(&self, gva: Gva, access: Access, mut code: u32) -> Fault {
        if access.write {
            code |= pf::W;
        }
        if access.privilege == Privilege::User {
            code |= pf::U;
        }
        if access.fetch && (self.nx || self.regs.cr4 & cr4::SMEP != 0) {
            code |= pf::I;
        }
        Fault {
            error_code: code,
            gva,
        }
    }

    fn is_leaf(&self, level: u32, entry: u64) -> bool {
        let pse = self.regs.cr4 & cr4::PSE != 0;
        self.mode.is_leaf(level, entry, pse, self.cpu.gb_pages)
    }

    fn reserved(&self, level: u32, is_leaf: bool) -> u64 {
        self.mode.reserved(level, is_leaf, self.nx, &self.cpu)
    }
}

/// Reads and checks the four PDPTEs a load of CR3 in PAE mode puts into registers.
///
/// `Ok(None)` if a reserved bit is set in a present one: the load raises #GP (SDM: vol 3, 5.4.1).
pub fn load_pdptes<M: GuestMem>(
    mem: &mut M,
    cr3: u64,
    maxphyaddr: u32,
) -> Result<Option<[u64; 4]>, M::Error> {
    let mut pdptes = [0; 4];
    let mut at = Gpa(cr3 & 0xffff_ffe0);
    for p in &mut pdptes {
        let real = mem.nested(at, Purpose::Table)?;
        *p = mem.read_u64(real)?;
        if !pte::pdpte_is_valid(*p, maxphyaddr) {
            return Ok(None);
        }
        at = at.wrapping_add(8);
    }
    Ok(Some(pdptes))
}
