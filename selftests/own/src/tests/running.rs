// SPDX-License-Identifier: GPL-2.0

//! What happens to a vCPU from outside: signals it does not see, requests before it ever ran, INIT
//! while it is in system management mode, memory that moves under it.

use crate::guest::boot;
use crate::guest::Exit;
use crate::guest::Guest;
use crate::guest::Irqchip;
use crate::guest::Plan;
use crate::guest::CODE;
use crate::guest::PORT_END;
use crate::guest_code;
use crate::sys;
use crate::sys::Answer;
use crate::tap::Tap;
use crate::uapi as k;
use kvm_bindings::*;
use std::time::Duration;
use std::time::Instant;

fn ended(e: &Result<Exit, i32>) -> bool {
    matches!(e, Ok(Exit::Out { port: PORT_END, .. }))
}

/// `struct kvm_signal_mask` with the kernel's signal set.
fn mask(g: &Guest, len: u32, set: u64) -> Answer {
    let mut b = len.to_ne_bytes().to_vec();
    b.extend(set.to_ne_bytes());
    g.cpus[0].fd.bytes(k::SET_SIGNAL_MASK, &mut b)
}

/// KVM_SET_SIGNAL_MASK: which signals end KVM_RUN is not which ones the thread takes.
pub fn signal_mask(t: &mut Tap) {
    // out 0xe1, al; jmp back
    let g = Guest::long(&[0xe6, 0xe1, 0xeb, 0xfc]);
    let usr1 = 1u64 << (libc::SIGUSR1 - 1);
    sys::block_usr1(true);
    sys::interrupt(sys::this_thread());
    t.same("a blocked signal ends nothing", ended(&g.enter()), true);
    t.same("a mask without it", mask(&g, 8, 0), Answer::Ok(0));
    t.same("now it does", g.enter(), Err(libc::EINTR));
    t.same("again, as it is still pending", g.enter(), Err(libc::EINTR));
    t.same("a mask with it", mask(&g, 8, usr1), Answer::Ok(0));
    t.same("it does not any more", ended(&g.enter()), true);
    for len in [0, 4, 16] {
        let r = mask(&g, len, 0);
        t.same(
            format!("a set of {len} bytes"),
            r,
            Answer::Err(libc::EINVAL),
        );
    }
    t.same("nor after that", ended(&g.enter()), true);
    let r = g.cpus[0].fd.call(k::SET_SIGNAL_MASK, 0);
    t.same("no mask", r, Answer::Ok(0));
    t.same("the thread's counts", ended(&g.enter()), true);
    sys::block_usr1(false);
    t.same("the signal has been taken", ended(&g.enter()), true);
}

guest_code! {
    count_events,
    "mov edx, 0xe0",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A vCPU that was never started takes requests, and acts on them when it is.
pub fn never_started(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, count_events());
    let v = &g.cpus[1];
    let wait = || sys::limited(50, || v.enter());
    t.same("it waits", wait(), Err(libc::EINTR));
    let state = v.mp_state();
    t.same("for INIT", state, KVM_MP_STATE_UNINITIALIZED);
    t.same("an NMI", v.fd.call(k::NMI, 0), Answer::Ok(0));
    let mut m: kvm_msi = sys::zeroed();
    (m.address_lo, m.data) = (0xfee0_1000, 0x40);
    t.same("an MSI", g.vm.set(k::SIGNAL_MSI, &m), Answer::Ok(0));
    // What every vCPU has to hear of.
    let len = g.mem.len();
    for n in [0, len] {
        t.same("slots change", g.slot(0, 0, 0, n, 0), Answer::Ok(0));
    }
    let c: kvm_clock_data = sys::zeroed();
    t.same("the clock", g.vm.set(k::SET_CLOCK, &c), Answer::Ok(0));
    let woken = sys::limited(2000, || v.enter());
    t.same("woken, it has not started", woken, Err(libc::EAGAIN));
    t.same("the NMI is not lost", v.events().nmi.pending, 1);
    t.same(
        "started",
        v.set_mp_state(KVM_MP_STATE_RUNNABLE),
        Answer::Ok(0),
    );
    let (values, e) = g.values_of(1);
    t.same("the NMI came first", (values, ended(&e)), (vec![1], true));
    t.same("there are no more", v.events().nmi.pending, 0);
}

/// A halted boot processor that is set to where RESET puts it runs again; no other does.
pub fn reset_by_registers(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, count_events());
    let r = boot::regs(0, 0xfff0);
    let reset = boot::real_sregs(g.cpus[0].sregs(), 0xffff_0000);
    let mut reset = kvm_sregs {
        cr0: 0x10,
        cr4: 0,
        efer: 0,
        ..reset
    };
    (reset.cs.selector, reset.cs.l) = (0xf000, 0);
    let set = |cpu: usize, rip: u64, s: &kvm_sregs| {
        let v = &g.cpus[cpu];
        let halted = v.set_mp_state(KVM_MP_STATE_HALTED);
        v.set_regs(&kvm_regs { rip, ..r });
        v.set_sregs(s);
        (halted, v.mp_state())
    };
    let (ok, halted) = (Answer::Ok(0), KVM_MP_STATE_HALTED);
    let elsewhere = set(0, 0xfff1, &reset);
    t.same("elsewhere", elsewhere, (ok, halted));
    let mut other = reset;
    other.cs.base = 0xf_0000;
    let elsewhere = set(0, 0xfff0, &other);
    t.same("below 1 MiB", elsewhere, (ok, halted));
    let runs = set(0, 0xfff0, &reset);
    t.same("there", runs, (ok, KVM_MP_STATE_RUNNABLE));
    // The base of its APIC says who is the boot processor.
    let runs = set(1, 0xfff0, &reset);
    t.same("a second one", runs, (ok, KVM_MP_STATE_RUNNABLE));
    reset.apic_base &= !0x100;
    let other = set(1, 0xfff0, &reset);
    t.same("another vCPU", other, (ok, halted));
}

guest_code! {
    // Sends what is in memory to vCPU 1.
    sender,
    "mov ebx, 0xfee00000",
    "mov dword ptr [rbx + 0xf0], 0x1ff",
    "2: mov dword ptr [rbx + 0x310], 0x01000000",
    "mov eax, [0x80000]",
    "mov [rbx + 0x300], eax",
    "mov edx, 0xe1",
    "out dx, al",
    "jmp 2b",
}

/// INIT does not interrupt system management mode; it is kept until RSM.
pub fn init_in_smm(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, sender());
    // That mode has memory of its own.
    let r = g.slot(1 << 16, 0, 0, plan.mem, 0);
    t.same("memory", r, Answer::Ok(0));
    // out 0xe0, al; jmp back
    g.load(0x1_1000, &[0xe6, 0xe0, 0xeb, 0xfc]);
    // mov al, 0x5a; out 0xe0, al; rsm
    g.load(0x3_8000, &[0xb0, 0x5a, 0xe6, 0xe0, 0x0f, 0xaa]);
    // mov ax, cs; out 0xe0, ax
    g.load(0x2_0000, &[0x8c, 0xc8, 0xe7, 0xe0]);
    g.start_long(1, 0x1_1000);
    let v = &g.cpus[1];
    v.set_mp_state(KVM_MP_STATE_RUNNABLE).ok().expect("state");
    let out = |e: Result<Exit, i32>| match e {
        Ok(Exit::Out {
            port: 0xe0, data, ..
        }) => Ok(data),
        e => Err(format!("{e:x?}")),
    };
    t.same("it runs", out(v.enter()), Ok(vec![0]));
    t.same("KVM_SMI", v.fd.call(k::SMI, 0), Answer::Ok(0));
    t.same("in the handler", out(v.enter()), Ok(vec![0x5a]));
    let e = v.events().smi;
    t.same("as user space sees", (e.smm, e.latched_init), (1, 0));
    let send = |icr: u32| {
        g.mem.store::<u32>(0x8_0000, icr);
        ended(&g.enter())
    };
    t.same("INIT is sent", send(0x4500), true);
    t.same("it is kept", v.events().smi.latched_init, 1);
    let e = sys::limited(100, || v.enter());
    t.same("after RSM it waits for SIPI", e, Err(libc::EINTR));
    let e = v.events().smi;
    t.same("no longer in the mode", (e.smm, e.latched_init), (0, 0));
    let state = v.mp_state();
    t.same("its state", state, KVM_MP_STATE_INIT_RECEIVED);
    t.same("SIPI is sent", send(0x4620), true);
    let e = sys::limited(5000, || loop {
        match v.enter() {
            Err(libc::EAGAIN) => continue,
            e => break e,
        }
    });
    t.same("it starts at its vector", out(e), Ok(vec![0, 0x20]));
}

/// A vCPU cannot wait for a start-up message in system management mode. User space can say so; the
/// vCPU does not run until one of both is taken back.
pub fn waits_in_smm(t: &mut Tap) {
    let plan = Plan {
        irqchip: Irqchip::Full,
        cpus: 2,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, count_events());
    let v = &g.cpus[1];
    let smm = |on: u8, latched_init: u8| {
        let mut e = v.events();
        e.flags |= KVM_VCPUEVENT_VALID_SMM;
        (e.smi.smm, e.smi.latched_init) = (on, latched_init);
        v.fd.set(k::SET_VCPU_EVENTS, &e)
    };
    let wait = || sys::limited(50, || v.enter());
    // Told at once; it may be a while until this thread gets a CPU.
    let refused = || sys::limited(2000, || v.enter());
    for state in [KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_SIPI_RECEIVED] {
        for init in [0, 1] {
            let what = |s: &str| format!("state {state}, latched INIT {init}: {s}");
            t.same(what("SMM"), smm(1, init), Answer::Ok(0));
            let r = v.set_mp_state(state);
            t.same(what("set"), r, Answer::Ok(0));
            t.same(what("it does not run"), refused(), Err(libc::EINVAL));
            v.immediate_exit(true);
            t.same(what("immediate exit"), wait(), Err(libc::EINTR));
            v.immediate_exit(false);
            let (s, e) = (v.mp_state(), v.events().smi);
            t.same(
                what("nothing has changed"),
                (s, e.smm, e.latched_init),
                (KVM_MP_STATE_INIT_RECEIVED, 1, init),
            );
            t.same(what("out of SMM"), smm(0, 0), Answer::Ok(0));
            t.same(what("it waits"), wait(), Err(libc::EINTR));
        }
    }
    // A start-up message is lost in that mode, INIT is not.
    let r = v.set_mp_state(KVM_MP_STATE_SIPI_RECEIVED);
    t.same("SIPI outside of SMM", r, Answer::Ok(0));
    t.same("SMM", smm(1, 1), Answer::Ok(0));
    t.same("its state", v.mp_state(), KVM_MP_STATE_INIT_RECEIVED);
    t.same("out of SMM", smm(0, 1), Answer::Ok(0));
    t.same("it waits", wait(), Err(libc::EINTR));
    t.same("INIT is done", v.events().smi.latched_init, 0);
    t.same("its state", v.mp_state(), KVM_MP_STATE_INIT_RECEIVED);
    // Every other state is possible.
    t.same("SMM", smm(1, 0), Answer::Ok(0));
    for state in [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_HALTED] {
        t.same("set", v.set_mp_state(state), Answer::Ok(0));
        t.same("it waits", wait(), Err(libc::EINTR));
    }
    let r = v.set_mp_state(KVM_MP_STATE_INIT_RECEIVED);
    t.same("set", r, Answer::Ok(0));
    t.same("it does not run", refused(), Err(libc::EINVAL));
    let r = v.set_mp_state(KVM_MP_STATE_RUNNABLE);
    t.same("set", r, Answer::Ok(0));
    let runs = !matches!(refused(), Err(libc::EINVAL | libc::EINTR));
    t.same("it runs", runs, true);
}

guest_code! {
    // Reads RDI again and again: memory, a device, anything else. Ends when told so.
    // Interrupts are on: Bochs would not let the host have its own otherwise.
    reader,
    "sti",
    "2: mov eax, [rdi]",
    "cmp eax, 0x11111111",
    "jne 3f",
    "inc dword ptr [0x80004]",
    "jmp 5f",
    "3: cmp eax, 0xcdcdcdcd",
    "jne 4f",
    "inc dword ptr [0x80008]",
    "jmp 5f",
    "4: inc dword ptr [0x8000c]",
    "5: cmp dword ptr [0x80000], 0",
    "je 2b",
    "mov edx, 0xe1",
    "out dx, al",
}

/// A slot moves away and back while the guest reads it: it finds memory or a device, nothing else.
pub fn slot_moves(t: &mut Tap) {
    let at = 0x4000_0000u64;
    let plan = Plan {
        mem: 4 << 20,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, reader());
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, 2 << 20, 0), Answer::Ok(0));
    let mut r = g.cpus[0].regs();
    r.rdi = at + 0x1800;
    g.cpus[0].set_regs(&r);
    g.mem.store::<u32>((2 << 20) + 0x1800, 0x1111_1111);
    let place = |gpa| g.slot(1, gpa, 2 << 20, 2 << 20, 0).is_ok();
    let count = |i: usize| g.mem.watch(0x8_0000 + 4 * i);
    let grows = |i: usize| {
        let before = count(i);
        let end = Instant::now() + Duration::from_secs(5);
        while count(i) == before {
            if Instant::now() > end {
                return false;
            }
            std::thread::yield_now();
        }
        true
    };
    std::thread::scope(|s| {
        let runs = s.spawn(|| loop {
            match g.enter() {
                Ok(e @ Exit::MmioRead { .. }) => g.cpus[0].answer(&e, &[0xcd; 4]),
                e => break e,
            }
        });
        let mut all = place(at);
        for _ in 0..10 {
            all &= grows(1) && place(at + 0x1000_0000);
            all &= grows(2) && place(at);
        }
        t.same("memory and device by turns", all, true);
        let mut all = true;
        for _ in 0..5 {
            all &= grows(1) && g.slot(1, 0, 0, 0, 0).is_ok();
            all &= grows(2) && place(at);
        }
        t.same("deleted and added", all, true);
        g.mem.store::<u32>(0x8_0000, 1);
        let e = runs.join().expect("thread");
        t.point(ended(&e), format!("the guest ends: {e:x?}"));
    });
    t.same("it found nothing else", count(3), 0);
}

guest_code! {
    rom,
    "mov ebx, 0x40000000",
    // Executed in read-only memory.
    "lea rax, [rbx + 0x100]",
    "call rax",
    "mov edx, 0xe0",
    "out dx, eax",
    // Read, modify, write; locked; a string that starts in memory; a stack.
    "add dword ptr [rbx], 1",
    "mov eax, 7",
    "xchg [rbx + 8], eax",
    "out dx, eax",
    "lock inc dword ptr [rbx + 16]",
    "lea rdi, [rbx - 2]",
    "mov al, 0x5a",
    "mov ecx, 3",
    "rep stosb",
    "mov r8, rsp",
    "lea rsp, [rbx + 0x800]",
    "push 0x33",
    "mov rsp, r8",
    "mov eax, [rbx]",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Read-only memory: executed and read, and every kind of write goes to user space.
pub fn read_only(t: &mut Tap) {
    let at = 0x4000_0000u64;
    let plan = Plan {
        mem: 4 << 20,
        ..Plan::default()
    };
    let g = Guest::long_with(plan, rom());
    let big = 2 << 20;
    t.same("less", g.slot(0, 0, 0, 0, 0), Answer::Ok(0));
    t.same("memory", g.slot(0, 0, 0, big, 0), Answer::Ok(0));
    let r = g.slot(1, at, big, 0x1000, KVM_MEM_READONLY);
    t.same("read-only memory", r, Answer::Ok(0));
    let r = g.slot(2, at - 0x1000, big + 0x1000, 0x1000, 0);
    t.same("memory before it", r, Answer::Ok(0));
    g.mem.store::<u32>(big, 0x10);
    g.mem.store::<u32>(big + 8, 0x20);
    // mov eax, 0x1234; ret
    g.mem.write(big + 0x100, &[0xb8, 0x34, 0x12, 0, 0, 0xc3]);
    let before = g.mem.read(big, 0x1000);
    let (mut values, mut writes) = (Vec::new(), Vec::new());
    let end = loop {
        match g.enter() {
            Ok(Exit::Out {
                port: 0xe0, data, ..
            }) => values.push(u32::from_le_bytes(data.try_into().unwrap_or([0; 4]))),
            Ok(Exit::MmioWrite { addr, data }) => writes.push((addr - at, data)),
            e => break e,
        }
    };
    t.point(ended(&end), format!("the guest ends: {end:x?}"));
    t.same("what it read", values, vec![0x1234, 0x20, 0x10]);
    let want = vec![
        (0, vec![0x11, 0, 0, 0]),
        (8, vec![7, 0, 0, 0]),
        (16, vec![1, 0, 0, 0]),
        (0, vec![0x5a]),
        (0x7f8, vec![0x33, 0, 0, 0, 0, 0, 0, 0]),
    ];
    t.same("what it wrote", writes, want);
    t.same("nothing changed", g.mem.read(big, 0x1000), before);
    let tail = g.mem.read(big + 0x1ffe, 2);
    t.same("the string's start is in memory", tail, vec![0x5a, 0x5a]);
}

guest_code! {
    // Interrupts are on, as above.
    waits,
    "sti",
    "mov edi, 1000",
    "2: pause",
    "dec edi",
    "jnz 2b",
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "lea r15, [rip + 3f]",
    "test esi, esi",
    "jz 3f",
    "mov eax, 0x80100",
    "xor ecx, ecx",
    "xor edx, edx",
    "monitor",
    "xor eax, eax",
    "mov dword ptr [0x80100], 1",
    "mwait",
    "3: mov edx, 0xe0",
    "mov eax, [r14 + 40]",
    "out dx, eax",
    "hlt",
    "mov edx, 0xe1",
    "out dx, al",
}

/// KVM_CAP_X86_DISABLE_EXITS: what is off does not exit.
pub fn exits_off(t: &mut Tap) {
    let dev = crate::guest::dev();
    let offered = crate::guest::cap(&dev, KVM_CAP_X86_DISABLE_EXITS) as u64;
    let hlt = u64::from(KVM_X86_DISABLE_EXITS_HLT);
    t.same("HLT is offered", offered & hlt, hlt);
    let set = |g: &Guest, v: u64| crate::guest::enable(&g.vm, KVM_CAP_X86_DISABLE_EXITS, v);
    let empty = Plan {
        cpus: 0,
        ..Plan::default()
    };
    let g = Guest::new(empty);
    t.same(
        "bits that do not exist",
        set(&g, 1 << 20),
        Answer::Err(libc::EINVAL),
    );
    let g = Guest::new(Plan::default());
    t.same("too late", set(&g, hlt), Answer::Err(libc::EINVAL));
    // Nothing is off: HLT exits.
    let run = |t: &mut Tap, off: u64, mwait: bool| {
        let mut g = Guest::new(empty);
        let set = set(&g, off);
        g.add_cpu(0, true);
        g.load(CODE, waits());
        boot::tables(&g.mem);
        g.start_long(0, CODE);
        let mut r = g.cpus[0].regs();
        r.rsi = u64::from(mwait);
        g.cpus[0].set_regs(&r);
        // The guest's own halt ends with the next interrupt of the host's, or with a signal.
        let (values, end) = sys::limited(300, || g.values_of(0));
        let halts = super::pages::Stats::of(&g.cpus[0].fd).get("halt_exits");
        // With PV_UNHALT, which a guest that halts without an exit is not offered.
        let mut cpuid = crate::guest::supported_cpuid(&g.dev);
        let same = g.cpus[0].fd.bytes(crate::uapi::SET_CPUID2, &mut cpuid);
        t.same(
            format!("{off:#x} off: the same CPUID again"),
            same,
            Answer::Ok(0),
        );
        (set, values, end, halts)
    };
    let (r, values, end, halts) = run(t, 0, false);
    t.same("nothing off", (r, values), (Answer::Ok(0), vec![1, 0]));
    t.same("HLT exits", (end, halts), (Ok(Exit::Hlt), 1));
    let (r, values, end, halts) = run(t, hlt, false);
    t.same("HLT off", (r, values), (Answer::Ok(0), vec![1, 0]));
    t.same("it does not exit", halts, 0);
    t.point(
        ended(&end) || end == Err(libc::EINTR),
        format!("and ends by itself or by a signal: {end:x?}"),
    );
    for (bit, what) in [
        (KVM_X86_DISABLE_EXITS_PAUSE, "PAUSE"),
        (KVM_X86_DISABLE_EXITS_MWAIT, "MWAIT"),
        (KVM_X86_DISABLE_EXITS_CSTATE, "C states"),
    ] {
        let mwait = bit == KVM_X86_DISABLE_EXITS_MWAIT;
        let bit = u64::from(bit);
        let (r, values, end, _) = run(t, bit, mwait && offered & bit != 0);
        if offered & bit == 0 {
            t.same(format!("{what}: refused"), r, Answer::Err(libc::EINVAL));
            continue;
        }
        t.same(format!("{what} off"), r, Answer::Ok(0));
        if mwait && end == Err(libc::EINTR) {
            t.same("it waits for a signal", values, vec![1]);
        } else {
            t.same("it runs", (values, end), (vec![1, 0], Ok(Exit::Hlt)));
        }
    }
}

guest_code! {
    // Switches caching off in CR0 and looks at it a thousand times.
    uncached,
    "mov rax, cr0",
    "or eax, 0x40000000",
    "mov cr0, rax",
    "mov ecx, 1000",
    "2: mov rax, cr0",
    "loop 2b",
    "shr eax, 29",
    "and eax, 3",
    "mov edx, 0xe0",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// KVM_X86_QUIRK_CD_NW_CLEARED: on AMD a guest that switches caching off in CR0 has it all the same,
/// and only with exits can it see what it set. Intel's processors do that by themselves.
pub fn caching_off(t: &mut Tap) {
    let amd = !crate::table::intel();
    let run = |quirk: bool, late: bool| {
        let mut g = Guest::new(Plan {
            cpus: 0,
            ..Plan::default()
        });
        let off = u64::from(KVM_X86_QUIRK_CD_NW_CLEARED);
        let disable = |g: &Guest| crate::guest::enable(&g.vm, KVM_CAP_DISABLE_QUIRKS2, off);
        let mut done = Answer::Ok(0);
        if !quirk && !late {
            done = disable(&g);
        }
        g.add_cpu(0, true);
        if !quirk && late {
            done = disable(&g);
        }
        g.load(CODE, uncached());
        boot::tables(&g.mem);
        g.start_long(0, CODE);
        let stats = super::pages::Stats::of(&g.cpus[0].fd);
        let values = g.values();
        (done, values, stats.get("exits"))
    };
    for (what, quirk, late, exits) in [
        ("with the quirk", true, false, amd),
        ("without it", false, false, false),
        ("without it from after the vCPU", false, true, false),
    ] {
        let (done, values, n) = run(quirk, late);
        t.same(format!("{what}: switched"), done, Answer::Ok(0));
        t.same(format!("{what}: CR0.CD, NW"), values, Some(vec![2]));
        let many = n >= 1000;
        t.same(format!("{what}: CR0 exits ({n} exits)"), many, exits);
    }
}

guest_code! {
    two_exits,
    "mov edx, 0xe0",
    "mov eax, 1",
    "out dx, eax",
    "mov eax, 2",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Reserved bits of CR0 that user space sets are kept for it, and hardware takes no notice of them.
pub fn reserved_cr0(t: &mut Tap) {
    const RESERVED: u64 = 1 << 28 | 1 << 17 | 1 << 6;
    let g = Guest::long(two_exits());
    let v = &g.cpus[0];
    let mut s = v.sregs();
    s.cr0 |= RESERVED;
    v.set_sregs(&s);
    t.same("the guest runs", g.values(), Some(vec![1, 2]));
    t.same("they are there", v.sregs().cr0 & RESERVED, RESERVED);
}

guest_code! {
    // Clears CR0.PG; the vector of what that raises.
    paging_off,
    "lea r15, [rip + 2f]",
    "mov rax, cr0",
    "btr rax, 31",
    "mov cr0, rax",
    "2: mov edx, 0xe0",
    "mov eax, [r14]",
    "out dx, eax",
    "mov rax, cr0",
    "shr rax, 31",
    "out dx, eax",
    "mov edx, 0xe1",
    "out dx, al",
}

/// Paging cannot be turned off in 64-bit mode.
pub fn paging_stays(t: &mut Tap) {
    let g = Guest::long(paging_off());
    t.same("#GP, and it is still on", g.values(), Some(vec![13, 1]));
}
