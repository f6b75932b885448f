// SPDX-License-Identifier: GPL-2.0

//! What was compared with the CPU: mode by opcode. Every opcode that the emulator carries out must
//! have been, or be named here with the reason.

use crate::machine::Mode;
use crate::start;
use model::addr::Gva;
use model::emul::cpu::{Access, Bus, Stop, SystemOp, VecReg};
use model::emul::decode::decode;
use model::emul::{emulate, Code};
use model::x86::state::CpuState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

const MODES: [Mode; 3] = [Mode::Bits64, Mode::Bits32, Mode::Bits16];

/// How often each opcode ran, by mode.
type Counts = BTreeMap<String, u64>;
static DONE: Mutex<BTreeMap<Mode, Counts>> = Mutex::new(BTreeMap::new());

/// Opcodes whose ModRM.reg chooses the instruction.
const GROUPS: [&str; 23] = [
    "80", "81", "82", "83", "8f", "c0", "c1", "c6", "c7", "d0", "d1", "d2", "d3", "d9", "db", "dd",
    "df", "f6", "f7", "fe", "ff", "0fba", "0fc7",
];
/// And those of which register forms are something else again.
const MIXED: [&str; 3] = ["0f00", "0f01", "0fae"];

/// Why an opcode is not compared.
const REASONS: [(&str, &[&str]); 9] = [
    (
        "transfers to other segments, into the kernel",
        &[
            "9a", "ca", "cb", "cc", "cd", "ce", "cf", "ea", "f1", "ff/3", "ff/5", "0f05", "0f34",
        ],
    ),
    (
        "load segment registers, or read their bases",
        &[
            "07", "17", "1f", "8e", "c4", "c5", "0fa1", "0fa9", "0fb2", "0fb4", "0fb5", "f30faec0",
            "f30faec8", "f30faed0", "f30faed8",
        ],
    ),
    (
        "ports",
        &[
            "6c", "6d", "6e", "6f", "f26c", "f26d", "f26e", "f26f", "f36c", "f36d", "f36e", "f36f",
            "e4", "e5", "e6", "e7", "ec", "ed", "ee", "ef",
        ],
    ),
    (
        "descriptor tables of the kernel's",
        &[
            "0f00/0", "0f00/1", "0f00/2", "0f00/3", "0f00/4", "0f00/5", "0f01/0", "0f01/1",
            "0f01/2", "0f01/3", "0f02", "0f03",
        ],
    ),
    (
        "control and debug registers",
        &[
            "0f01/4", "0f01/6", "0f20", "0f21", "0f22", "0f23", "0f01d0", "0f01d1",
        ],
    ),
    (
        "time, counters, what CPUID says",
        &["0f31", "0f33", "0fa2", "0f01f9", "f30fc7/7"],
    ),
    (
        "done by the vCPU, not by the emulator",
        &[
            "f390", "0f01/7", "0f01c1", "0f01d9", "0f01c8", "0f01c9", "0f01fa", "0f01fb", "0f01ca",
            "0f01cb", "0f01f8", "0f35", "0faa", "d9/7", "dd/7", "dbe3", "dfe0",
        ],
    ),
    (
        "write back cache lines, which not every CPU can",
        &["660fae/6", "660fae/7"],
    ),
    (
        "move the stack pointer by its number",
        &["44", "4c", "54", "5c", "94", "bc", "0fcc"],
    ),
];

fn reason(opcode: &str) -> Option<&'static str> {
    let mut all = REASONS.iter();
    all.find(|(_, ops)| ops.contains(&opcode)).map(|r| r.0)
}

/// The kind of instruction, for the short table.
fn family(opcode: &str) -> &'static str {
    let bare = opcode.trim_start_matches("66").trim_start_matches("f3");
    let two = |n: &str| u8::from_str_radix(n.get(..2).unwrap_or(""), 16).unwrap_or(0);
    if opcode.starts_with("vex") {
        return "moves of AVX registers";
    }
    if let Some(rest) = bare.trim_start_matches("f2").strip_prefix("0f") {
        return match two(rest) {
            0x6f | 0x7f | 0xe7 if opcode == bare => "moves of MMX registers",
            0x10..=0x17 | 0x28..=0x2b | 0x6e..=0x7f | 0xd6 | 0xe7 | 0xf0 => {
                "moves of SSE registers"
            }
            0x38 if rest == "382a" => "moves of SSE registers",
            0x40..=0x4f | 0x90..=0x9f => "CMOVcc, SETcc",
            0x80..=0x8f => "near branches",
            0xa3 | 0xab | 0xb3 | 0xbb | 0xba | 0xb8 | 0xbc | 0xbd => "bits",
            0xa4 | 0xa5 | 0xac | 0xad => "shifts, rotates",
            0xa0 | 0xa8 => "stack",
            0xaf => "multiplication, division, decimals",
            0x06 | 0x08 | 0x09 | 0x0b | 0x30 | 0x32 | 0xb9 | 0xff => "always an exception here",
            _ => "moves, exchanges, flags, hints",
        };
    }
    let group = opcode.chars().last().unwrap_or('0');
    match two(bare.trim_start_matches("f2").get(..2).unwrap_or(bare)) {
        0x06 | 0x0e | 0x16 | 0x1e => "stack",
        0x27 | 0x2f | 0x37 | 0x3f | 0x69 | 0x6b | 0xd4 | 0xd5 => {
            "multiplication, division, decimals"
        }
        0xf6 | 0xf7 if group >= '4' => "multiplication, division, decimals",
        0xff if matches!(group, '2' | '4') => "near branches",
        0xff if group == '6' => "stack",
        0x00..=0x4f | 0x80..=0x85 | 0xa8 | 0xa9 | 0xf6 | 0xf7 | 0xfe | 0xff => "arithmetic, logic",
        0x50..=0x61 | 0x68 | 0x6a | 0x8f | 0x9c | 0x9d | 0xc8 | 0xc9 => "stack",
        0x70..=0x7f | 0xc2 | 0xc3 | 0xe0..=0xe3 | 0xe8 | 0xe9 | 0xeb => "near branches",
        0xa4..=0xa7 | 0xaa..=0xaf => "strings",
        0xc0 | 0xc1 | 0xd0..=0xd3 => "shifts, rotates",
        0xf4 | 0xfa | 0xfb => "always an exception here",
        _ => "moves, exchanges, flags, hints",
    }
}

/// A world in which everything reads as zero and nothing matters.
struct Nothing;

impl Bus for Nothing {
    fn fetch(&mut self, _: Gva, _: &mut [u8], _: Access) -> Result<(), Stop> {
        Err(Stop::UNHANDLED)
    }
    fn read(&mut self, _: Gva, buf: &mut [u8], _: Access) -> Result<(), Stop> {
        buf.fill(0);
        Ok(())
    }
    fn write(&mut self, _: Gva, _: &[u8], _: Access) -> Result<(), Stop> {
        Ok(())
    }
    fn check_write(&mut self, _: Gva, _: u32, _: Access) -> Result<(), Stop> {
        Ok(())
    }
    fn cmpxchg(&mut self, _: Gva, _: &[u8], _: &[u8], _: Access) -> Result<bool, Stop> {
        Ok(true)
    }
    fn port_in(&mut self, _: u16, _: &mut [u8]) -> Result<(), Stop> {
        Ok(())
    }
    fn port_out(&mut self, _: u16, _: &[u8]) -> Result<(), Stop> {
        Ok(())
    }
    fn rdmsr(&mut self, _: &CpuState, _: u32) -> Result<u64, Stop> {
        Ok(0)
    }
    fn wrmsr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Ok(())
    }
    fn rdtsc(&mut self) -> Result<u64, Stop> {
        Ok(0)
    }
    fn rdpmc(&mut self, _: u32) -> Result<u64, Stop> {
        Ok(0)
    }
    fn cpuid(&mut self, _: &CpuState, _: u32, _: u32) -> Result<[u32; 4], Stop> {
        Ok([0; 4])
    }
    fn set_cr(&mut self, _: &mut CpuState, _: u8, _: u64) -> Result<(), Stop> {
        Ok(())
    }
    fn set_dr(&mut self, _: &mut CpuState, _: u8, _: u64) -> Result<(), Stop> {
        Ok(())
    }
    fn set_xcr(&mut self, _: &mut CpuState, _: u32, _: u64) -> Result<(), Stop> {
        Ok(())
    }
    fn system(&mut self, _: &mut CpuState, _: SystemOp) -> Result<(), Stop> {
        Ok(())
    }
    fn read_vec(&mut self, _: VecReg) -> Result<[u8; 32], Stop> {
        Ok([0; 32])
    }
    fn write_vec(&mut self, _: VecReg, _: [u8; 32]) -> Result<(), Stop> {
        Ok(())
    }
    fn x87(&mut self, _: model::emul::cpu::X87) -> Result<u16, Stop> {
        Ok(0)
    }
}

/// Does the emulator know this instruction, if only to raise its exception?
fn known(mode: Mode, bytes: &[u8]) -> bool {
    let mut s = start(mode, &[0; 16], 0, 0, 0);
    // What a page-aligned stack needs.
    s.gpr[4] = 0x1000;
    decode(bytes, s.code_size()).is_ok()
        && !matches!(
            emulate(&mut s, &mut Code::known(bytes), &mut Nothing),
            Err(Stop::Unhandled { .. })
        )
}

/// The prefixes that make another instruction of an opcode.
fn prefixes(map: &[u8], op: u8) -> &'static [u8] {
    match (map, op) {
        ([], 0x6c..=0x6f | 0xa4..=0xa7 | 0xaa..=0xaf) => &[0, 0xf3, 0xf2],
        ([], 0x90) => &[0, 0xf3],
        ([0x0f], 0xb8 | 0xbc | 0xbd) => &[0, 0xf3],
        ([0x0f], 0xae) => &[0, 0x66, 0xf3],
        ([0x0f], 0xc7) => &[0, 0xf3],
        ([0x0f], 0x10..=0x17 | 0x28..=0x2b | 0x6e | 0x6f | 0x7e | 0x7f | 0xd6 | 0xe7 | 0xf0) => {
            &[0, 0x66, 0xf3, 0xf2]
        }
        ([0x0f, 0x38], 0x2a) => &[0, 0x66],
        ([0x0f, 0x38], 0xf0 | 0xf1) => &[0, 0xf2],
        _ => &[0],
    }
}

/// Every opcode that the emulator carries out in `mode`.
fn emulated(mode: Mode) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    // [BX], [EBX], [RBX].
    let memory = if mode == Mode::Bits16 { 7 } else { 3 };
    let maps: [&[u8]; 3] = [&[], &[0x0f], &[0x0f, 0x38]];
    for map in maps {
        for op in 0..=255u8 {
            let prefix = matches!(
                op,
                0x0f | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3
            ) || mode == Mode::Bits64 && matches!(op, 0x40..=0x4f);
            let vex = mode == Mode::Bits64 && matches!(op, 0xc4 | 0xc5);
            let escape = matches!(map, [0x0f]) && matches!(op, 0x38 | 0x3a);
            if map.is_empty() && (prefix || vex) || escape {
                continue;
            }
            for &p in prefixes(map, op) {
                for modrm in (0..8).map(|n| n << 3 | memory).chain(0xc0..=0xff) {
                    if p == 0xf3 && op == 0xc7 && modrm < 0xc0 {
                        // CMPXCHG8B with a hint.
                        continue;
                    }
                    let mut bytes: Vec<u8> = (p != 0).then_some(p).into_iter().collect();
                    bytes.extend(map);
                    bytes.push(op);
                    let opcode: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    bytes.push(modrm);
                    bytes.extend([0; 10]);
                    if known(mode, &bytes) {
                        all.insert(member(&opcode, modrm));
                    }
                }
            }
        }
    }
    for (map, m, pp) in (0..4).flat_map(|pp| [(1u8, "0f", pp), (2, "0f38", pp)]) {
        for op in 0..=255u8 {
            for (l, modrm) in [(0, memory), (0, 0xc1), (4, memory), (4, 0xc1)] {
                let bytes = [0xc4, 0xe0 | map, 0x78 | l | pp, op, modrm, 0, 0, 0, 0, 0];
                if known(mode, &bytes) {
                    let prefix = ["", "66", "f3", "f2"][usize::from(pp)];
                    all.insert(format!("vex.{prefix}{m}{op:02x}"));
                }
            }
        }
    }
    all
}

/// How an instruction is called, where ModRM has a say.
fn member(opcode: &str, modrm: u8) -> String {
    let bare = opcode.trim_start_matches("66").trim_start_matches("f3");
    let bare = if bare.is_empty() { opcode } else { bare };
    let reg = modrm >> 3 & 7;
    let register = modrm >= 0xc0;
    let x87 = matches!(bare, "d9" | "db" | "dd" | "df");
    match () {
        () if bare == "0f01" && register && !matches!(reg, 4 | 6) => format!("{opcode}{modrm:02x}"),
        () if x87 && register => format!("{opcode}{modrm:02x}"),
        () if bare == "0fae" && register => format!("{opcode}{:02x}", modrm & 0xf8),
        () if MIXED.contains(&bare) || GROUPS.contains(&bare) => format!("{opcode}/{reg}"),
        () => opcode.to_string(),
    }
}

/// The name of a case without a member that means nothing.
fn canonical(name: &str) -> String {
    match name.split_once('/') {
        Some((op, _)) => {
            let bare = op.trim_start_matches("66").trim_start_matches("f3");
            if GROUPS.contains(&bare) || MIXED.contains(&bare) {
                name.to_string()
            } else {
                op.to_string()
            }
        }
        None => name.to_string(),
    }
}

/// What ran in `mode`: everything the emulator knows there, but for what is named above. After the
/// last mode the tables are printed.
pub fn done(mode: Mode, covered: &Counts) {
    let mut counts = Counts::new();
    for (name, n) in covered {
        *counts.entry(canonical(name)).or_default() += n;
    }
    let missing: Vec<String> = emulated(mode)
        .into_iter()
        .filter(|op| !counts.contains_key(op) && reason(op).is_none())
        .filter(|op| !op.starts_with("vex") || crate::vector::has_avx())
        .collect();
    assert!(missing.is_empty(), "{mode:?}: never compared: {missing:?}");
    let mut all = DONE.lock().unwrap();
    all.insert(mode, counts);
    if all.len() == MODES.len() {
        print(&all);
    }
}

fn print(all: &BTreeMap<Mode, Counts>) {
    let columns: Vec<(&Counts, BTreeSet<String>)> =
        MODES.iter().map(|m| (&all[m], emulated(*m))).collect();
    let mut opcodes: BTreeSet<&String> = BTreeSet::new();
    for (ran, known) in &columns {
        opcodes.extend(ran.keys());
        opcodes.extend(known);
    }
    let head = |what: &str| {
        format!(
            "{what:36} {:>15} {:>15} {:>15}",
            "64-bit", "32-bit", "16-bit"
        )
    };
    println!("{}", head("opcode"));
    let mut families = BTreeMap::<&str, [(u64, u64); 3]>::new();
    let mut never = BTreeMap::<&str, BTreeSet<&String>>::new();
    for op in opcodes {
        let mut row = format!("{op:36}");
        for (i, (ran, known)) in columns.iter().enumerate() {
            let cell = match ran.get(op) {
                Some(n) => {
                    let f = &mut families.entry(family(op)).or_default()[i];
                    *f = (f.0 + 1, f.1 + n);
                    n.to_string()
                }
                None if known.contains(op) => {
                    never
                        .entry(reason(op).unwrap_or("not on this CPU"))
                        .or_default()
                        .insert(op);
                    "never".to_string()
                }
                None => "-".to_string(),
            };
            row += &format!(" {cell:>15}");
        }
        println!("{row}");
    }
    println!(
        "coverage: {}",
        head("compared with this CPU: opcodes, runs")
    );
    for (name, modes) in &families {
        let cells: String = modes
            .iter()
            .map(|(ops, n)| format!(" {:>15}", format!("{ops}, {n}")))
            .collect();
        println!("coverage: {name:36}{cells}");
    }
    println!("coverage: emulated, but not compared:");
    for (why, ops) in &never {
        let ops: Vec<&str> = ops.iter().map(|s| s.as_str()).collect();
        println!("coverage:   {why}: {}", ops.join(" "));
    }
}
