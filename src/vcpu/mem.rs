// SPDX-License-Identifier: GPL-2.0

//! Linear memory of a vCPU: the guest's own paging on top of the slots.

use super::Cx;
use crate::backend::Backend;
use crate::vm::guest_mem::Memory;
use crate::vm::memslot::Space;
use kernel::prelude::*;
use model::abi::KvmTranslation;
use model::addr::Gpa;
use model::addr::Gva;
use model::walk::Access;
use model::walk::CpuTraits;
use model::walk::Paging;
use model::walk::Registers;
use model::walk::Stop;
use model::walk::Translation;
use model::x86::cpuid::Feature;
use model::x86::ctrl::cr0;
use model::x86::ctrl::cr4;
use model::x86::ctrl::efer;
use model::x86::exception::Exception;
use zerocopy::FromBytes;
use zerocopy::IntoBytes;

/// Why linear memory could not be reached.
#[derive(Clone, Copy, Debug)]
pub(crate) enum MemErr {
    /// The guest gets this page fault.
    Fault(Exception),
    /// The tables changed under the walk, or are in no memory: execute the instruction again.
    Retry,
}

impl<V: Backend> Cx<'_, '_, V> {
    /// How this vCPU translates linear addresses now.
    #[inline]
    pub(crate) fn paging(&self) -> Paging {
        let c0 = V::cr0(self.l);
        let c4 = V::cr4(self.l);
        let ef = V::efer(self.l);
        let pae = c0 & cr0::PG != 0 && c4 & cr4::PAE != 0 && ef & efer::LMA == 0;
        let pdptes = if pae {
            self.pdptes().unwrap_or([0; 4])
        } else {
            [0; 4]
        };
        let f = &self.st.cpuid.features;
        Paging::new(
            Registers {
                cr0: c0,
                cr3: V::cr3(self.l),
                cr4: c4,
                efer: ef,
                rflags: V::rflags(self.l),
                pkru: if c4 & cr4::PKE != 0 { self.l.pkru() } else { 0 },
                pdptes,
            },
            CpuTraits {
                maxphyaddr: u32::from(f.max_phys),
                gb_pages: f.has(Feature::GBPAGES),
                pse36: f.has(Feature::PSE36),
                upper_bit8_reserved: f.amd,
            },
        )
    }

    /// Where this vCPU's guest-physical addresses lead to now.
    #[inline]
    pub(crate) fn space(&self) -> Space {
        if self.st.smm.active() {
            Space::Smm
        } else {
            Space::Normal
        }
    }

    /// Reads guest-physical memory as this vCPU sees it. EFAULT where there is none.
    pub(crate) fn read_guest(&self, gpa: Gpa, buf: &mut [u8]) -> Result {
        self.vm.base.read_space(self.space(), gpa, buf)
    }

    /// Writes guest-physical memory as this vCPU sees it and marks it dirty. EFAULT where there is
    /// none, or only for reading.
    pub(crate) fn write_guest(&self, gpa: Gpa, data: &[u8]) -> Result {
        self.vm.base.write_space(self.space(), gpa, data)
    }

    /// See [`VmBase::try_read`](crate::vm::VmBase::try_read).
    pub(crate) fn try_read(&self, gpa: Gpa, buf: &mut [u8]) -> Result<bool> {
        self.vm.base.try_read(self.space(), gpa, buf)
    }

    /// See [`VmBase::try_write`](crate::vm::VmBase::try_write).
    pub(crate) fn try_write(&self, gpa: Gpa, data: &[u8]) -> Result<bool> {
        self.vm.base.try_write(self.space(), gpa, data)
    }

    /// Reads a value from guest-physical memory as this vCPU sees it.
    fn read_guest_val<T: FromBytes + IntoBytes>(&self, gpa: Gpa) -> Result<T> {
        let mut v = T::new_zeroed();
        self.read_guest(gpa, v.as_mut_bytes())?;
        Ok(v)
    }

    /// See [`VmBase::cmpxchg_space`](crate::vm::VmBase::cmpxchg_space).
    pub(crate) fn cmpxchg_guest(&self, gpa: Gpa, old: &[u8], new: &[u8]) -> Result<Option<bool>> {
        self.vm.base.cmpxchg_space(self.space(), gpa, old, new)
    }

    /// Translates a linear address.
    pub(crate) fn translate(&self, gva: Gva, access: Access) -> Result<Translation, MemErr> {
        let set = self.vm.base.slots.space(self.space());
        let mut mem = Memory::new(&self.vm.base, &set);
        self.paging()
            .translate(&mut mem, gva, access)
            .map_err(|s| match s {
                Stop::Fault(f) => MemErr::Fault(f.into()),
                // A table in no memory: the hardware's own walk would have exited.
                Stop::Memory { fault, .. } => MemErr::Fault(fault.into()),
                Stop::Busy => MemErr::Retry,
            })
    }

    /// Reads linear memory that is RAM. What is not RAM reads as a fault of the walk.
    pub(crate) fn read_linear(
        &self,
        gva: Gva,
        buf: &mut [u8],
        access: Access,
    ) -> Result<(), MemErr> {
        let mut at = gva;
        let mut rest = buf;
        while !rest.is_empty() {
            let n = rest
                .len()
                .min(0x1000usize.wrapping_sub(at.offset() as usize));
            let Some((now, later)) = rest.split_at_mut_checked(n) else {
                return Err(MemErr::Retry);
            };
            let t = self.translate(at, access)?;
            self.read_guest(t.gpa, now).map_err(|_| MemErr::Retry)?;
            at = at.wrapping_add(n as u64);
            rest = later;
        }
        Ok(())
    }

    /// The PDPTEs in force: the hardware's, or those at CR3.
    pub(crate) fn pdptes(&self) -> Option<[u64; 4]> {
        V::pdptes(self.l).or_else(|| {
            let at = Gpa(V::cr3(self.l) & 0xffff_ffe0);
            self.read_guest_val(at).ok()
        })
    }

    /// Reads the PDPTEs from memory into the hardware, as a load of CR3 does. `#GP` if one has a
    /// reserved bit set (`SDM: vol 3, 4.4.1`).
    pub(crate) fn load_pdptes(&mut self) -> Result<(), Exception> {
        let at = Gpa(V::cr3(self.l) & 0xffff_ffe0);
        let p: [u64; 4] = self.read_guest_val(at).map_err(|_| Exception::gp0())?;
        let reserved = self.st.cpuid.features.reserved_gpa_bits() | 0x1e6;
        if p.iter().any(|e| e & 1 != 0 && e & reserved != 0) {
            return Err(Exception::gp0());
        }
        V::set_pdptes(self.l, &p);
        Ok(())
    }
}

/// KVM_TRANSLATE. Always succeeds; `valid` says whether there is a translation.
pub(crate) fn translate<V: Backend>(cx: &Cx<'_, '_, V>, t: &mut KvmTranslation) {
    let r = cx.translate(Gva(t.linear_address), Access::read(0));
    match r {
        Ok(x) => {
            t.physical_address = x.gpa.0;
            t.valid = 1;
        }
        Err(_) => {
            t.physical_address = u64::MAX;
            t.valid = 0;
        }
    }
    // KVM: constants.
    t.writeable = 1;
    t.usermode = 0;
}
