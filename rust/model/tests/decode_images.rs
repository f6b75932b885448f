// SPDX-License-Identifier: GPL-2.0

//! The decoder against iced-x86 on what guests execute: the kernel, SeaBIOS and OVMF of the test
//! host's folder, from where they are read when the test runs.
//!
//! Code is taken apart instruction by instruction where an image says what is code, and at every
//! offset, in every code size that firmware runs in, where it does not.

#[path = "decode/compare.rs"]
mod compare;

use compare::{check, Tally};
use model::emul::decode::CodeSize;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

fn u16_at(b: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(b.get(at..at + 2)?.try_into().unwrap()).into())
}

fn u32_at(b: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().unwrap()) as usize)
}

fn u64_at(b: &[u8], at: usize) -> Option<usize> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().unwrap()) as usize)
}

/// The file. None, and a line that says so, outside the test host's folder, where KVER is not set.
fn image(path: &str) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(b) => Some(b),
        Err(e) => {
            assert!(std::env::var("KVER").is_err(), "{path}: {e}");
            println!("skipped: {path}: {e}");
            None
        }
    }
}

/// `data` through a program of the test host.
fn filter(cmd: &[&str], data: &[u8]) -> Vec<u8> {
    let mut child = Command::new(cmd[0])
        .args(&cmd[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{cmd:?}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let mut out = Vec::new();
    std::thread::scope(|s| {
        // What follows the compressed stream may be refused.
        s.spawn(move || drop(stdin.write_all(data)));
        child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
    });
    child.wait().unwrap();
    assert!(
        !out.is_empty(),
        "{cmd:?} made nothing of {} bytes",
        data.len()
    );
    out
}

/// Instruction by instruction; one byte further where there is none.
fn sweep(code: &[u8], mode: CodeSize, tally: &mut Tally) {
    let mut at = 0;
    while at + 16 <= code.len() {
        at += usize::from(check(&code[at..at + 16], mode, tally).unwrap_or(1));
    }
}

/// At every offset.
fn everywhere(code: &[u8], mode: CodeSize, tally: &mut Tally) {
    for window in code.windows(16) {
        check(window, mode, tally);
    }
}

/// The kernel in a bzImage, as an ELF file. Documentation/arch/x86/boot.rst
fn unpack_kernel(image: &[u8]) -> Vec<u8> {
    let setup = (usize::from(image[0x1f1]) + 1) * 512;
    let from = setup + u32_at(image, 0x248).unwrap();
    let len = u32_at(image, 0x24c).unwrap();
    // Its last four bytes are the length of what comes out.
    let packed = &image[from..from + len - 4];
    let cmd: &[&str] = match packed {
        [0xfd, b'7', b'z', ..] => &["xz", "-dc"],
        [0x28, 0xb5, 0x2f, 0xfd, ..] => &["zstd", "-dcq"],
        [0x1f, 0x8b, ..] => &["gzip", "-dc"],
        other => panic!("a kernel packed in an unknown way: {:02x?}", &other[..8]),
    };
    filter(cmd, packed)
}

/// The executable sections of an ELF file.
fn elf_code(elf: &[u8]) -> Option<Vec<&[u8]>> {
    let mut code = Vec::new();
    let (table, size, count) = (u64_at(elf, 40)?, u16_at(elf, 58)?, u16_at(elf, 60)?);
    for i in 0..count {
        let at = table + i * size;
        let (kind, flags) = (u32_at(elf, at + 4)?, u64_at(elf, at + 8)?);
        // SHT_PROGBITS with SHF_EXECINSTR.
        if kind == 1 && flags & 4 != 0 {
            let from = u64_at(elf, at + 24)?;
            code.push(elf.get(from..from + u64_at(elf, at + 32)?)?);
        }
    }
    Some(code)
}

#[test]
fn agrees_with_iced_on_the_guest_kernel() {
    let Ok(version) = std::env::var("KVER") else {
        println!("skipped: KVER is not set: not in the test host's folder");
        return;
    };
    let Some(image) = image(&format!("/boot/vmlinuz-{version}")) else {
        return;
    };
    let elf = unpack_kernel(&image);
    let mut tally = Tally::default();
    for code in elf_code(&elf).expect("a whole ELF file") {
        sweep(code, CodeSize::Bits64, &mut tally);
    }
    println!("kernel {version}: {tally}");
    assert!(tally.same > 1_000_000);
    assert!(tally.by_form < tally.same / 1000);
}

#[test]
fn agrees_with_iced_on_seabios() {
    for name in ["bios-256k.bin", "bios-microvm.bin", "vgabios-stdvga.bin"] {
        let Some(image) = image(&format!("/usr/share/seabios/{name}")) else {
            continue;
        };
        for mode in [CodeSize::Bits16, CodeSize::Bits32] {
            let mut tally = Tally::default();
            everywhere(&image, mode, &mut tally);
            println!("{name}, {mode:?}: {tally}");
            assert!(tally.same > 10_000);
        }
    }
}

/// EE4E5898-3914-4259-9D6E-DC7BD79403CF, which marks a section packed with LZMA.
const LZMA: [u8; 16] = [
    0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf,
];

/// The LZMA section whose GUID is at `at`: PI specification, vol 3, 3.2.4.
fn packed_section(fd: &[u8], at: usize) -> Option<&[u8]> {
    let small = u32_at(fd, at.checked_sub(4)?)? & 0xff_ffff;
    // EFI_SECTION_GUID_DEFINED, with a size of three bytes or of four behind it.
    let (start, size) = match (fd.get(at - 1)?, fd.get(at.checked_sub(8)?..at - 4)?) {
        (2, _) if small != 0xff_ffff => (at - 4, small),
        (_, [0xff, 0xff, 0xff, 2]) => (at - 8, u32_at(fd, at - 4)?),
        _ => return None,
    };
    fd.get(start + u16_at(fd, at + 16)?..start + size)
}

/// The executable sections of all 64-bit PE images in a firmware volume.
fn pe_code(fv: &[u8]) -> Vec<&[u8]> {
    let mut code = Vec::new();
    for at in (0..fv.len().saturating_sub(64)).filter(|at| &fv[*at..at + 2] == b"MZ") {
        let found = (|| {
            let pe = at + u32_at(fv, at + 0x3c).filter(|n| *n < 0x1000)?;
            if fv.get(pe..pe + 6)? != b"PE\0\0\x64\x86" {
                return None;
            }
            let sections = pe + 24 + u16_at(fv, pe + 20)?;
            for s in (0..u16_at(fv, pe + 6)?).map(|i| sections + i * 40) {
                // IMAGE_SCN_MEM_EXECUTE
                if u32_at(fv, s + 36)? & 0x2000_0000 != 0 {
                    let from = at + u32_at(fv, s + 20)?;
                    code.push(fv.get(from..from + u32_at(fv, s + 16)?)?);
                }
            }
            Some(())
        })();
        let _ = found;
    }
    code
}

#[test]
fn agrees_with_iced_on_ovmf() {
    let Some(fd) = image("/usr/share/OVMF/OVMF_CODE_4M.fd") else {
        return;
    };
    // What is not packed runs first: from the reset vector's real mode up to long mode.
    let start = fd.len() - 0x1_0000;
    for mode in [CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64] {
        let mut tally = Tally::default();
        everywhere(&fd[start..], mode, &mut tally);
        println!("OVMF from the reset vector, {mode:?}: {tally}");
        assert!(tally.same > 1000);
    }
    let mut tally = Tally::default();
    let mut images = 0;
    for at in (0..fd.len() - 16).filter(|at| fd[*at..at + 16] == LZMA) {
        // The GUID also stands where the unpacker says what it knows.
        let Some(packed) = packed_section(&fd, at) else {
            continue;
        };
        let volume = filter(&["xz", "--format=lzma", "-dc"], packed);
        for code in pe_code(&volume) {
            images += 1;
            sweep(code, CodeSize::Bits64, &mut tally);
        }
    }
    println!("OVMF, {images} executable sections: {tally}");
    assert!(images > 20 && tally.same > 100_000);
}
