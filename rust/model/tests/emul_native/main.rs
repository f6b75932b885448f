// SPDX-License-Identifier: GPL-2.0

//! The emulator against this machine's own CPU.
//!
//! Random 64-bit instructions run twice from the same random registers, flags and memory: once on
//! the CPU, in a page of generated code, and once in the emulator. Registers, memory, whether it
//! divided by zero, and every flag the manual defines must come out the same.
//! `NATIVE_CASES` sets the number of instructions (default 200000). With `NATIVE_STRICT` the flags
//! that the manual leaves undefined are compared too; the emulator does there what Intel CPUs of
//! the Ice Lake generation do.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod generate;
mod machine;

use generate::{generate, templates, Case, Rng, ALL, MEM};
use machine::Machine;
use model::addr::Gva;
use model::emul::cpu::{Access, Bus, Flow, Stop, SystemOp};
use model::emul::emulate;
use model::x86::ctrl::{cr0, cr4, efer, rflags};
use model::x86::exception::{Exception, DE};
use model::x86::state::{CpuState, SegReg, Segment};

/// What a run leaves behind.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    gpr: [u64; 16],
    flags: u64,
    mem: Vec<u8>,
    divided: bool,
}

/// Flat memory at `at`; nothing else.
struct Flat {
    at: u64,
    mem: Vec<u8>,
}

impl Flat {
    fn slice(&mut self, gva: Gva, len: usize) -> &mut [u8] {
        let off = (gva.0 - self.at) as usize;
        &mut self.mem[off..off + len]
    }
}

impl Bus for Flat {
    fn fetch(&mut self, _: Gva, _: &mut [u8], _: Access) -> Result<(), Stop> {
        Err(Stop::UNHANDLED) // All bytes were given.
    }
    fn read(&mut self, at: Gva, buf: &mut [u8], _: Access) -> Result<(), Stop> {
        buf.copy_from_slice(self.slice(at, buf.len()));
        Ok(())
    }
    fn write(&mut self, at: Gva, data: &[u8], _: Access) -> Result<(), Stop> {
        self.slice(at, data.len()).copy_from_slice(data);
        Ok(())
    }
    fn check_write(&mut self, at: Gva, len: u32, _: Access) -> Result<(), Stop> {
        self.slice(at, len as usize);
        Ok(())
    }
    fn cmpxchg(&mut self, at: Gva, old: &[u8], new: &[u8], _: Access) -> Result<bool, Stop> {
        let m = self.slice(at, old.len());
        assert_eq!(m, old);
        m.copy_from_slice(new);
        Ok(true)
    }
    fn port_in(&mut self, _: u16, _: &mut [u8]) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn port_out(&mut self, _: u16, _: &[u8]) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn rdmsr(&mut self, _: &CpuState, _: u32) -> Result<u64, Stop> {
        Err(Stop::UNHANDLED)
    }
    fn wrmsr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Err(Stop::UNHANDLED)
    }
    fn rdpmc(&mut self, _: u32) -> Result<u64, Stop> {
        Err(Stop::UNHANDLED)
    }
    fn cpuid(&mut self, _: &CpuState, _: u32, _: u32) -> Result<[u32; 4], Stop> {
        Err(Stop::UNHANDLED)
    }
    fn set_cr(&mut self, _: &mut CpuState, _: u8, _: u64) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn set_dr(&mut self, _: &mut CpuState, _: u8, _: u64) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn set_xcr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn system(&mut self, _: &mut CpuState, _: SystemOp) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn read_xmm(&mut self, _: u8) -> Result<[u8; 16], Stop> {
        Err(Stop::UNHANDLED)
    }
    fn write_xmm(&mut self, _: u8, _: [u8; 16]) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
}

/// User-mode 64-bit code, as this test is.
fn long_mode(case: &Case) -> CpuState {
    let mut s = CpuState::reset();
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    s.cr4 = cr4::PAE | cr4::OSFXSR;
    s.efer = efer::LME | efer::LMA;
    for r in SegReg::ALL {
        s.seg_mut(r).limit = u32::MAX;
        s.seg_mut(r).attr = 0xf3 | Segment::DB | Segment::G;
    }
    s.seg_mut(SegReg::Cs).attr = 0xfb | Segment::L | Segment::G;
    s.gpr = case.gpr;
    s.rflags = case.flags | rflags::IF;
    s.rip = 0x40_0000;
    s
}

fn run_emulated(case: &Case, at: u64, mem: &[u8]) -> Outcome {
    let mut s = long_mode(case);
    let mut bus = Flat {
        at,
        mem: mem.to_vec(),
    };
    let divided = match emulate(&mut s, &case.bytes, &mut bus) {
        Ok(done) => {
            assert_eq!(
                usize::from(done.len),
                case.bytes.len(),
                "{:02x?}",
                case.bytes
            );
            assert_eq!(done.flow, Flow::Next);
            assert_eq!(s.rip, 0x40_0000 + case.bytes.len() as u64);
            false
        }
        Err(Stop::Fault(e)) if e == Exception::new(DE) => true,
        Err(e) => panic!("{:02x?}: {e:x?}", case.bytes),
    };
    Outcome {
        gpr: s.gpr,
        flags: s.rflags,
        mem: bus.mem,
        divided,
    }
}

#[test]
fn agrees_with_this_cpu() {
    let cases = std::env::var("NATIVE_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(200_000);
    let strict = std::env::var_os("NATIVE_STRICT").is_some();
    let machine = Machine::new();
    let templates = templates();
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut mem = vec![0u8; MEM];
    let (mut ran, mut divided) = (0, 0);
    while ran < cases {
        let template = rng.pick(&templates);
        let Some(case) = generate(&template, &mut rng, machine.mem_addr()) else {
            continue;
        };
        for chunk in mem.chunks_mut(8) {
            chunk.copy_from_slice(&rng.value().to_le_bytes());
        }
        let mut native = machine.run(&case, &mem);
        let mut emulated = run_emulated(&case, machine.mem_addr(), &mem);
        ran += 1;
        divided += u64::from(native.divided);
        if case.skip {
            continue;
        }
        let undef = if strict { 0 } else { case.undef };
        let compared = (ALL | rflags::DF) & !undef;
        if native.divided {
            // The handler returns with flags of its own making.
            native.flags = 0;
            emulated.flags = 0;
        }
        native.flags &= compared;
        emulated.flags &= compared;
        // IF and the fixed bit of a pushed RFLAGS are as in user mode on both sides.
        if native != emulated {
            for i in 0..16 {
                if native.gpr[i] != emulated.gpr[i] {
                    println!(
                        "gpr {i}: native {:x} emulated {:x}",
                        native.gpr[i], emulated.gpr[i]
                    );
                }
            }
            for i in 0..MEM {
                if native.mem[i] != emulated.mem[i] {
                    println!(
                        "mem {i}: native {:x} emulated {:x}",
                        native.mem[i], emulated.mem[i]
                    );
                }
            }
            println!(
                "flags: native {:x} emulated {:x}",
                native.flags, emulated.flags
            );
            println!(
                "divided: native {} emulated {}",
                native.divided, emulated.divided
            );
            panic!("{:02x?} {:x?}\n{template:?}", case.bytes, case);
        }
    }
    println!("{ran} instructions agree, {divided} of them divide errors");
    assert!(divided > 0);
}
