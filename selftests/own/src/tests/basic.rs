// SPDX-License-Identifier: GPL-2.0

//! A guest runs: modes, exceptions, ports, device memory.

use crate::guest::asm::mailbox;
use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::DATA;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::tap::Tap;

guest_code! {
    sum_long,
    "xor eax, eax",
    "mov ecx, 100",
    "2: add eax, ecx",
    "loop 2b",
    "mov edx, 0xe0",
    "out dx, eax",
    // 64-bit arithmetic only works in 64-bit mode.
    "mov rax, 0x123456789",
    "shr rax, 4",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

guest_code! {
    sum_real,
    ".code16",
    "xor ax, ax",
    "mov cx, 100",
    "2: add ax, cx",
    "loop 2b",
    "mov dx, 0xe0",
    "out dx, ax",
    // The segment's base counts: read our own first byte.
    "mov al, cs:[0]",
    "xor ah, ah",
    "out dx, ax",
    "mov dx, 0xe1",
    "out dx, al",
}

guest_code! {
    sum_32,
    ".code32",
    "xor eax, eax",
    "mov ecx, 100",
    "2: add eax, ecx",
    "loop 2b",
    "mov edx, 0xe0",
    "out dx, eax",
    "push 0x55aa1234",
    "pop eax",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Long, real and flat 32-bit mode; HLT; the state after it.
pub fn modes(t: &mut Tap) {
    let g = Guest::long(sum_long());
    t.same("long mode", g.values(), Some(vec![5050, 0x1234_5678]));

    for base in [0u64, 0x1_0000, 0xf_0000] {
        let g = Guest::new(Plan::default());
        g.load(base + 0x400, sum_real());
        g.load(base, &[0x5a]);
        g.start_real(0, base, 0x400);
        t.same(
            format!("real mode at {base:#x}"),
            g.values(),
            Some(vec![5050, 0x5a]),
        );
    }

    let g = Guest::new(Plan::default());
    g.load(CODE, sum_32());
    boot::tables(&g.mem);
    g.start_32(0, CODE);
    t.same("32-bit mode", g.values(), Some(vec![5050, 0x55aa_1234]));

    // HLT leaves with RIP after it; another KVM_RUN goes on.
    let g = Guest::long(&[0xf4, 0xf4, 0xe7, 0xe1]);
    t.same("HLT", g.enter(), Ok(Exit::Hlt));
    t.same("RIP after HLT", g.cpus[0].regs().rip, CODE + 1);
    t.same("the second HLT", g.enter(), Ok(Exit::Hlt));
    let end = g.enter();
    t.point(
        matches!(
            end,
            Ok(Exit::Out {
                port: PORT_END,
                size: 4,
                ..
            })
        ),
        "and the end",
    );
    t.same(
        "RIP of an OUT stays until the next run",
        g.cpus[0].regs().rip,
        CODE + 2,
    );
}

guest_code! {
    faults,
    // Divide error.
    "lea r15, [rip + 2f]",
    "xor edx, edx",
    "mov eax, 1",
    "xor ecx, ecx",
    "div ecx",
    "2: mov rax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    // Invalid opcode.
    "lea r15, [rip + 3f]",
    "ud2",
    "3: mov rax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    // General protection: a non-canonical address; error code 0.
    "lea r15, [rip + 4f]",
    "mov rax, 0x8000000000000000",
    "mov rax, [rax]",
    "4: mov rax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    // A selector beyond the GDT: #GP with the selector.
    "lea r15, [rip + 5f]",
    "mov eax, 0xfff8",
    "mov ds, ax",
    "5: mov rax, [r14 + 8]",
    "mov edx, 0xe0",
    "out dx, eax",
    // Page fault: not mapped, a write: error code 2 and CR2.
    "lea r15, [rip + 6f]",
    "mov rax, 0x123456789000",
    "mov [rax], eax",
    "6: mov rax, [r14 + 8]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov rax, [r14 + 32]",
    "shr rax, 12",
    "out dx, eax",
    // Software interrupt and breakpoint return behind themselves.
    "xor r15d, r15d",
    "int 0x80",
    "mov rax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    "lea r15, [rip + 7f]",
    "int3",
    "7: mov rax, [r14]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Exceptions arrive in the guest with the right vector, error code and CR2.
pub fn exceptions(t: &mut Tap) {
    let g = Guest::long(faults());
    let want = vec![0, 6, 13, 0xfff8, 2, 0x2345_6789, 0x80, 3];
    t.same("vectors and error codes", g.values(), Some(want));
    let n: u64 = g.mem.load(boot::mailbox(0) + mailbox::COUNT);
    t.same("no exception came twice", n, 7);
}

guest_code! {
    ports,
    "mov edx, 0x300",
    "mov al, 0x11",
    "out dx, al",
    "mov ax, 0x2222",
    "out dx, ax",
    "mov eax, 0x33333333",
    "out dx, eax",
    "in al, dx",
    "in ax, dx",
    "in eax, dx",
    "mov edi, 0xe0",
    "xchg edi, edx",
    "out dx, eax",
    // Strings.
    "mov edx, 0x301",
    "mov esi, 0x80000",
    "mov ecx, 5",
    "rep outsb",
    "mov edi, 0x80100",
    "mov ecx, 3",
    "rep insd",
    "std",
    "mov edi, 0x80207",
    "mov ecx, 4",
    "rep insw",
    "cld",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Ports that user space has: widths, order, strings in both directions.
pub fn port_io(t: &mut Tap) {
    let g = Guest::long(ports());
    g.mem.write(DATA as usize, b"abcdefgh");
    let v = &g.cpus[0];
    for (size, data) in [(1u8, vec![0x11]), (2, vec![0x22; 2]), (4, vec![0x33; 4])] {
        let want = Exit::Out {
            port: 0x300,
            size,
            count: 1,
            data,
        };
        t.same(format!("OUT, {size} bytes"), g.enter(), Ok(want));
    }
    for size in [1usize, 2, 4] {
        let e = g.enter().expect("run");
        let ok = matches!(e, Exit::In { port: 0x300, size: s, count: 1, .. } if s as usize == size);
        if t.point(ok, format!("IN, {size} bytes: {e:?}")) {
            v.answer(&e, &[0x44, 0x55, 0x66, 0x77][..size]);
        }
    }
    let (values, _) = {
        let e = g.enter();
        let data = match &e {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => data.clone(),
            _ => Vec::new(),
        };
        (data, e)
    };
    t.same(
        "IN reads what was answered",
        values,
        vec![0x44, 0x55, 0x66, 0x77],
    );

    // A string may arrive in one exit or in several.
    let mut out = Vec::new();
    let mut insd = 0u8;
    let mut insw = 0u8;
    loop {
        match g.enter() {
            Ok(Exit::Out {
                port: 0x301, data, ..
            }) => out.extend(data),
            Ok(
                e @ Exit::In {
                    port: 0x301,
                    size,
                    count,
                    ..
                },
            ) => {
                let n = if size == 4 { &mut insd } else { &mut insw };
                let data: Vec<u8> = (0..u32::from(size) * count)
                    .map(|i| *n + (i / u32::from(size)) as u8 + 1)
                    .collect();
                *n += count as u8;
                v.answer(&e, &data);
            }
            e => {
                let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
                t.point(ok, format!("the strings end: {e:?}"));
                break;
            }
        }
    }
    t.same("OUTSB", out, b"abcde".to_vec());
    t.same(
        "INSD",
        g.mem.read(DATA as usize + 0x100, 13),
        [[1u8; 4], [2; 4], [3; 4]]
            .concat()
            .into_iter()
            .chain([0])
            .collect(),
    );
    let back = g.mem.read(DATA as usize + 0x200, 10);
    t.same("INSW, backwards", back, vec![0, 4, 4, 3, 3, 2, 2, 1, 1, 0]);
}

guest_code! {
    devices,
    "mov ebx, 0xe0000000",
    "mov byte ptr [rbx], 0x11",
    "mov word ptr [rbx + 2], 0x2222",
    "mov dword ptr [rbx + 4], 0x33333333",
    "mov rax, 0x4444444444444444",
    "mov [rbx + 8], rax",
    "movzx eax, byte ptr [rbx + 1]",
    "movsx rcx, word ptr [rbx + 2]",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov eax, ecx",
    "out dx, eax",
    "mov rax, [rbx + 16]",
    "shr rax, 32",
    "out dx, eax",
    // Read, modify, write.
    "add dword ptr [rbx + 0x20], 5",
    // Across two pages, one of them memory.
    "mov ebx, 0x1ffffe",
    "mov dword ptr [rbx], 0xaabbccdd",
    "mov eax, [rbx]",
    "out dx, eax",
    // Copies from a device, and to it.
    "mov esi, 0xe0000100",
    "mov edi, 0x80000",
    "mov ecx, 4",
    "rep movsd",
    "mov esi, 0x80000",
    "mov edi, 0xe0000200",
    "mov ecx, 2",
    "rep movsb",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Device memory: widths, read-modify-write, accesses that cross a page, string copies.
pub fn mmio(t: &mut Tap) {
    let g = Guest::long(devices());
    let (mut writes, mut values) = (Vec::new(), Vec::new());
    let mut reads = Vec::new();
    loop {
        match g.enter() {
            Ok(Exit::MmioWrite { addr, data }) => writes.push((addr, data)),
            Ok(e @ Exit::MmioRead { .. }) => {
                let Exit::MmioRead { addr, len } = e else {
                    break;
                };
                reads.push((addr, len));
                let data: Vec<u8> = (0..len)
                    .map(|i| (addr + u64::from(i)) as u8 ^ 0xf0)
                    .collect();
                g.cpus[0].answer(&e, &data);
            }
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => {
                values.push(u32::from_le_bytes(data.try_into().unwrap_or([0; 4])));
            }
            e => {
                let ok = matches!(e, Ok(Exit::Out { port: PORT_END, .. }));
                t.point(ok, format!("the guest ends: {e:?}"));
                break;
            }
        }
    }
    let dev = 0xe000_0000u64;
    let want = vec![
        (dev, vec![0x11]),
        (dev + 2, vec![0x22; 2]),
        (dev + 4, vec![0x33; 4]),
        (dev + 8, vec![0x44; 8]),
        (dev + 0x20, vec![0xd5, 0xd1, 0xd2, 0xd3]),
        (0x20_0000, vec![0xbb, 0xaa]),
        (dev + 0x200, vec![0xf0]),
        (dev + 0x201, vec![0xf1]),
    ];
    t.same("writes", writes, want);
    let want = vec![
        (dev + 1, 1),
        (dev + 2, 2),
        (dev + 16, 8),
        (dev + 0x20, 4),
        (0x20_0000, 2),
        (dev + 0x100, 4),
        (dev + 0x104, 4),
        (dev + 0x108, 4),
        (dev + 0x10c, 4),
    ];
    t.same("reads", reads, want);
    let want = vec![0xf1, 0xffff_f3f2, 0xe7e6_e5e4, 0xf1f0_ccdd];
    t.same("values", values, want);
    t.same(
        "the part in memory",
        g.mem.read(0x1f_fffe, 2),
        vec![0xdd, 0xcc],
    );
    let copied: Vec<u8> = (0..16).map(|i| i ^ 0xf0).collect();
    t.same("the copy", g.mem.read(DATA as usize, 16), copied);
}

/// A VM made with the kvm-ioctls library, as other VMMs make theirs.
pub fn library(t: &mut Tap) {
    use kvm_ioctls::VcpuExit;
    let kvm = kvm_ioctls::Kvm::new().expect("/dev/kvm");
    t.same("version", kvm.get_api_version(), 12);
    for c in [
        kvm_ioctls::Cap::Irqchip,
        kvm_ioctls::Cap::Ioeventfd,
        kvm_ioctls::Cap::Irqfd,
    ] {
        t.point(kvm.check_extension(c), format!("{c:?}"));
    }
    let vm = kvm.create_vm().expect("create_vm");
    let mem = crate::sys::Area::anonymous(0x2000);
    let region = kvm_bindings::kvm_userspace_memory_region {
        slot: 0,
        guest_phys_addr: 0x1000,
        memory_size: 0x2000,
        userspace_addr: mem.addr() as u64,
        flags: kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES,
    };
    // SAFETY: the area outlives the VM: it is dropped after it.
    unsafe { vm.set_user_memory_region(region) }.expect("memory");
    // out 0x3f8, al; mov [0x8000], al; mov al, [0x2ffe]; hlt
    mem.write(
        0,
        &[
            0xe6, 0xf8, 0xa2, 0x00, 0x80, 0xa0, 0xfe, 0x2f, 0xa2, 0xff, 0x2f, 0xf4,
        ],
    );
    let mut vcpu = vm.create_vcpu(0).expect("create_vcpu");
    let mut s = vcpu.get_sregs().expect("get_sregs");
    (s.cs.base, s.cs.selector) = (0, 0);
    vcpu.set_sregs(&s).expect("set_sregs");
    let r = kvm_bindings::kvm_regs {
        rip: 0x1000,
        rax: 7,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&r).expect("set_regs");
    let e = format!("{:?}", vcpu.run());
    t.same("the port", e, "Ok(IoOut(248, [7]))".to_string());
    let e = format!("{:?}", vcpu.run());
    t.same("the device", e, "Ok(MmioWrite(32768, [7]))".to_string());
    t.point(matches!(vcpu.run(), Ok(VcpuExit::Hlt)), "HLT");
    let log = vm.get_dirty_log(0, 0x2000).expect("dirty log");
    // A page that is only executed may be reported as well: it is mapped for writing at once.
    t.same("the dirty log", log[0] & 2, 2);
    let xcrs = vcpu.get_xcrs().map(|x| x.xcrs[0].value & 1);
    t.same("XCR0 has x87", xcrs.ok(), Some(1));
    let vm2 = kvm.create_vm().expect("create_vm");
    vm2.create_irq_chip().expect("create_irq_chip");
    let plan = Plan {
        irqchip: Irqchip::Full,
        ..Plan::default()
    };
    let g = Guest::new(plan);
    t.same("a second VM beside it", g.cpus.len(), 1);
    drop(vcpu);
    drop(vm);
}
