// SPDX-License-Identifier: GPL-2.0

//! The emulator against this machine's own CPU.
//!
//! Random instructions of 64-bit, 32-bit and 16-bit code run twice from the same random registers,
//! flags and memory: once on the CPU, in a page of generated code, and once in the emulator.
//! Registers, vector registers where they take part, memory, the exception if there is one, where a
//! branch goes, and every flag the manual defines must come out the same. The last test prints what
//! was compared, mode by opcode (`--nocapture`).
//!
//! `NATIVE_CASES` sets the number of instructions per code size (default 200000). With
//! `NATIVE_STRICT` the flags that the manual leaves undefined are compared too; the emulator does
//! there what Intel CPUs of the Ice Lake generation do.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod branch;
mod coverage;
mod generate;
mod legacy;
mod machine;
mod vector;

use generate::{Case, Rng, ALL, MEM};
use machine::{Machine, Mode};
use model::addr::Gva;
use model::emul::cpu::{Access, Bus, Flow, Stop, SystemOp, VecReg};
use model::emul::{emulate, Code};
use model::x86::ctrl::{cr0, cr4, efer, rflags};
use model::x86::state::{CpuState, SegReg, Segment};
use model::x86::xsave::component;
use std::collections::BTreeMap;
use std::sync::Mutex;
use vector::Vectors;

/// What a run leaves behind.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    gpr: [u64; 16],
    flags: u64,
    mem: Vec<u8>,
    /// The exception it raised.
    vector: Option<u8>,
    /// It branched.
    branched: bool,
    /// Vector registers, if they take part.
    vectors: Option<Box<Vectors>>,
}

/// Flat memory at `at`, and vector registers; nothing else.
struct Flat {
    at: u64,
    mem: Vec<u8>,
    vectors: Option<Box<Vectors>>,
}

impl Flat {
    fn slice(&mut self, gva: Gva, len: usize) -> &mut [u8] {
        let off = (gva.0 - self.at) as usize;
        &mut self.mem[off..off + len]
    }

    fn vector(&mut self, r: VecReg) -> Result<&mut [u8], Stop> {
        let v = self.vectors.as_mut().ok_or(Stop::UNHANDLED)?;
        Ok(match r {
            VecReg::Mm(n) => &mut v.mm[usize::from(n)],
            VecReg::Xmm(n) => &mut v.ymm[usize::from(n)][..16],
            VecReg::Ymm(n) => &mut v.ymm[usize::from(n)],
        })
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
    fn read_vec(&mut self, r: VecReg) -> Result<[u8; 32], Stop> {
        let mut value = [0; 32];
        let register = self.vector(r)?;
        value[..register.len()].copy_from_slice(register);
        Ok(value)
    }
    fn write_vec(&mut self, r: VecReg, value: [u8; 32]) -> Result<(), Stop> {
        let register = self.vector(r)?;
        let len = register.len();
        register.copy_from_slice(&value[..len]);
        Ok(())
    }
}

/// User-mode code of this test, in the segments the CPU has it in; those of 16-bit code start at
/// `base`.
fn start(mode: Mode, gpr: &[u64; 16], flags: u64, base: u64, rip: u64) -> CpuState {
    let mut s = CpuState::reset();
    s.cr0 = cr0::PE | cr0::PG | cr0::ET | cr0::NE;
    s.cr4 = cr4::PAE | cr4::OSFXSR | cr4::OSXSAVE;
    s.xcr0 = component::X87 | component::SSE | component::AVX;
    s.efer = efer::LME | efer::LMA;
    let (base, limit, size) = match mode {
        Mode::Bits64 | Mode::Bits32 => (0, u32::MAX, Segment::DB | Segment::G),
        Mode::Bits16 => (base, 0xffff, 0),
    };
    for r in [SegReg::Es, SegReg::Cs, SegReg::Ss, SegReg::Ds] {
        *s.seg_mut(r) = Segment {
            selector: mode.ds(),
            base,
            limit,
            attr: 0xf3 | size,
            unusable: false,
        };
    }
    let cs = s.seg_mut(SegReg::Cs);
    cs.selector = mode.cs();
    cs.attr = 0xfb | size;
    if mode == Mode::Bits64 {
        cs.attr = 0xfb | Segment::L | Segment::G;
    }
    s.gpr = *gpr;
    s.rflags = flags | rflags::IF;
    s.rip = rip;
    s
}

fn emulated(mode: Mode, case: &Case, machine: &Machine, mem: &[u8]) -> Outcome {
    let mut s = start(
        mode,
        &case.gpr,
        case.flags,
        machine.base(),
        machine.insn(mode),
    );
    let mut bus = Flat {
        at: machine.mem_addr(),
        mem: mem.to_vec(),
        vectors: case.vectors.clone(),
    };
    let what = || format!("{mode:?} {:02x?}", case.bytes);
    let mut branched = false;
    let vector = match emulate(&mut s, &mut Code::known(&case.bytes), &mut bus) {
        Ok(done) => {
            assert_eq!(usize::from(done.len), case.bytes.len(), "{}", what());
            assert_eq!(done.flow, Flow::Next, "{}", what());
            let next = machine.insn(mode) + case.bytes.len() as u64;
            branched = s.rip != next;
            let target = next + machine.marker(mode).len() as u64;
            assert!(
                !branched || (case.branch && s.rip == target),
                "{}: goes to {:x}, not {target:x}",
                what(),
                s.rip
            );
            None
        }
        Err(Stop::Fault(e)) => Some(e.vector),
        Err(e) => panic!("{}: {e:x?}", what()),
    };
    Outcome {
        gpr: s.gpr,
        flags: s.rflags,
        mem: bus.mem,
        vector,
        branched,
        vectors: bus.vectors,
    }
}

/// Prints where they differ, and ends the test.
fn differs(native: &Outcome, emulated: &Outcome, mode: Mode, case: &Case) -> ! {
    for i in 0..16 {
        let (n, e) = (native.gpr[i], emulated.gpr[i]);
        if n != e {
            println!("gpr {i}: native {n:x} emulated {e:x}");
        }
    }
    for i in 0..MEM {
        let (n, e) = (native.mem[i], emulated.mem[i]);
        if n != e {
            println!("mem {i}: native {n:x} emulated {e:x}");
        }
    }
    if let (Some(n), Some(e)) = (&native.vectors, &emulated.vectors) {
        for (i, (n, e)) in n.ymm.iter().zip(&e.ymm).enumerate() {
            if n != e {
                println!("ymm {i}: native {n:02x?}\n  emulated {e:02x?}");
            }
        }
        for (i, (n, e)) in n.mm.iter().zip(&e.mm).enumerate() {
            if n != e {
                println!("mm {i}: native {n:02x?} emulated {e:02x?}");
            }
        }
    }
    let rest = |o: &Outcome| {
        format!(
            "flags {:x}, {:?}, branched {}",
            o.flags, o.vector, o.branched
        )
    };
    println!("native {}", rest(native));
    println!("emulated {}", rest(emulated));
    panic!("{mode:?} {}: {:02x?} {case:x?}", case.name, case.bytes);
}

/// The signal handler and the LDT are the process's.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn compare(mode: Mode) {
    let _one = ONE_AT_A_TIME.lock();
    let cases = std::env::var("NATIVE_CASES")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(200_000);
    let strict = std::env::var_os("NATIVE_STRICT").is_some();
    let machine = Machine::new();
    let vectors = vector::templates();
    let templates = match mode {
        Mode::Bits64 => generate::templates(),
        _ => legacy::templates(),
    };
    let mut rng = Rng(0x1234_5678_9abc_def1);
    let mut mem = vec![0u8; MEM];
    let mut covered = BTreeMap::<String, u64>::new();
    let (mut ran, mut faults, mut branches) = (0u64, 0u64, 0u64);
    while ran < cases {
        let template = rng.pick(&templates);
        let case = match mode {
            _ if rng.below(16) == 0 => branch::generate(&mut rng, mode, &machine),
            _ if rng.below(8) == 0 => {
                let template = rng.pick(&vectors);
                vector::generate(&template, &mut rng, mode, machine.mem(mode))
            }
            Mode::Bits64 => generate::generate(&template, &mut rng, machine.mem_addr()),
            _ => legacy::generate(&template, &mut rng, mode, machine.mem(mode)),
        };
        let Some(case) = case else {
            continue;
        };
        for chunk in mem.chunks_mut(8) {
            chunk.copy_from_slice(&rng.value().to_le_bytes());
        }
        if let Some((at, v)) = case.patch {
            mem[at..at + 8].copy_from_slice(&v.to_le_bytes());
        }
        let mut native = machine.run(mode, &case, &mem);
        let mut emulated = emulated(mode, &case, &machine, &mem);
        ran += 1;
        faults += u64::from(native.vector.is_some());
        branches += u64::from(native.branched);
        *covered.entry(case.name.clone()).or_default() += 1;
        if case.skip {
            continue;
        }
        let undef = if strict { 0 } else { case.undef };
        let mut flags = (ALL | rflags::DF) & !undef;
        if native.vector.is_some() {
            // The handler returns with flags of its own making.
            flags = 0;
        }
        // IF and the fixed bit of a pushed RFLAGS are as in user mode on both sides.
        native.flags &= flags;
        emulated.flags &= flags;
        if native != emulated {
            differs(&native, &emulated, mode, &case);
        }
    }
    println!(
        "{mode:?}: {ran} instructions of {} opcodes agree, {faults} of them exceptions, \
         {branches} branches taken",
        covered.len()
    );
    assert!(faults > 0 && branches > 0);
    coverage::done(mode, &covered);
}

#[test]
fn agrees_with_this_cpu_in_64_bit_code() {
    compare(Mode::Bits64);
}

#[test]
fn agrees_with_this_cpu_in_32_bit_code() {
    compare(Mode::Bits32);
}

#[test]
fn agrees_with_this_cpu_in_16_bit_code() {
    compare(Mode::Bits16);
}
