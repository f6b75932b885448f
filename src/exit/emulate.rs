// SPDX-License-Identifier: GPL-2.0

//! Emulating the instruction at RIP.
//!
//! An access that user space must finish ends the emulation with nothing committed. Once it is
//! finished it is put into the log, and the instruction is emulated again from the registers as
//! they are then.

use super::debug;
use super::emul_state::fill;
use super::emul_state::store;
use super::machine::in_page;
use super::machine::Machine;
use super::raise;
use crate::backend::Backend;
use crate::vcpu::halt;
use crate::vcpu::mem::MemErr;
use crate::vcpu::pending::Pending;
use crate::vcpu::run::Flow;
use crate::vcpu::smm;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use kernel::prelude::*;
use model::abi;
use model::addr::Gva;
use model::emul;
use model::emul::cpu::Done;
use model::emul::cpu::Flow as Next;
use model::emul::cpu::SoftInt;
use model::emul::cpu::Stop;
use model::emul::decode::decode;
use model::emul::decode::Map;
use model::emul::decode::Rep;
use model::emul::log::IoKey;
use model::emul::log::IoLog;
use model::emul::Code;
use model::exit::Event;
use model::exit::EventKind;
use model::stats::VcpuStat;
use model::walk;
use model::x86::cpuid::Feature;
use model::x86::ctrl::rflags;
use model::x86::exception::Exception;
use model::x86::state::CpuState;

/// A string port access that user space finished: how many elements lie in the PIO page, from which
/// one on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) port: u16,
    pub(super) size: u8,
    pub(super) from: u32,
    pub(super) count: u32,
    pub(super) write: bool,
}

/// An instruction of a guest: another program has others at the same address.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct At {
    linear: u64,
    cr3: u64,
    cpl: u8,
}

/// The emulator's workspace of one vCPU.
pub(crate) struct Emul {
    pub(super) log: KBox<IoLog>,
    /// Which instruction it is of.
    at: At,
    /// Its bytes, as long as the log has something of it or user space has an access of it.
    code: Code,
    /// Taken while an instruction is emulated.
    pub(super) state: Option<KBox<CpuState>>,
    pub(super) batch: Option<Batch>,
    pub(super) exit: Option<UserExit>,
}

impl Emul {
    /// An empty workspace. ENOMEM.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            log: KBox::new(IoLog::new(), GFP_KERNEL_ACCOUNT)?,
            at: At::default(),
            code: Code::new(),
            state: Some(KBox::new(CpuState::reset(), GFP_KERNEL_ACCOUNT)?),
            batch: None,
            exit: None,
        })
    }

    /// Forgets an instruction in progress.
    pub(crate) fn reset(&mut self) {
        self.log.clear();
        self.code = Code::new();
        self.batch = None;
        self.exit = None;
    }
}

/// Runs `f` on the registers as the emulator has them. What it changed is taken over.
pub(super) fn with_state<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    f: impl FnOnce(&mut Cx<'_, '_, V>, &mut CpuState) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let mut s = cx.st.emul.state.take().ok_or(Stop::UNHANDLED)?;
    fill(cx, &mut s);
    cx.st.emul.log.rewind();
    let r = f(cx, &mut s);
    store(cx, &s);
    cx.st.emul.state = Some(s);
    cx.st.emul.reset();
    r
}

/// Runs `f` on a copy of all registers, which is not taken over; `None` while an instruction is
/// being emulated.
pub(crate) fn with_registers<'a, 'l, V: Backend, R>(
    cx: &mut Cx<'a, 'l, V>,
    f: impl FnOnce(&mut Cx<'a, 'l, V>, &mut CpuState) -> R,
) -> Option<R> {
    let mut s = cx.st.emul.state.take()?;
    fill(cx, &mut s);
    let r = f(cx, &mut s);
    cx.st.emul.state = Some(s);
    Some(r)
}

/// Emulates the instruction at RIP.
pub(crate) fn instruction<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    emulate(cx, &[], failed)
}

/// Emulates the instruction at RIP, of which `given` are the first bytes if they have been looked at;
/// one that the emulator does not know is `unknown`'s.
#[inline(never)]
fn emulate<V: Backend>(
    cx: &mut Cx<'_, '_, V>,
    given: &[u8],
    unknown: fn(&mut Cx<'_, '_, V>, [u8; 15], u8) -> Flow,
) -> Flow {
    let at = At {
        linear: cx.linear_rip(),
        cr3: V::cr3(cx.l),
        cpl: V::cpl(cx.l),
    };
    if cx.st.emul.at != at {
        // An interrupt or user space came in between: what another instruction read is not this one's.
        cx.st.emul.at = at;
        cx.st.emul.reset();
    }
    let Some(mut s) = cx.st.emul.state.take() else {
        return UserExit::internal(abi::KVM_INTERNAL_ERROR_EMULATION).leave(cx);
    };
    cx.count(VcpuStat::InsnEmulation);
    fill(cx, &mut s);
    let mut code = core::mem::take(&mut cx.st.emul.code);
    if !given.is_empty() {
        code = Code::known(given);
    } else if code.is_empty() {
        code = Code::known(V::insn_bytes(cx.l));
    }
    cx.st.emul.log.rewind();
    let r = emul::emulate(&mut s, &mut code, &mut Machine { cx });
    // Also on an error: a REP instruction keeps the elements it did.
    store(cx, &s);
    cx.st.emul.state = Some(s);
    match r {
        Ok(done) => {
            cx.st.emul.reset();
            finish(cx, &done)
        }
        Err(Stop::NeedUser) => match cx.st.emul.exit.take() {
            Some(e) => {
                keep(cx, code);
                if matches!(e, UserExit::Mmio { .. }) {
                    cx.count(VcpuStat::MmioExits);
                }
                e.leave(cx)
            }
            None => UserExit::internal(abi::KVM_INTERNAL_ERROR_EMULATION).leave(cx),
        },
        Err(Stop::Retry) => {
            keep(cx, code);
            Continue(())
        }
        Err(Stop::Fault(e)) => {
            cx.st.emul.reset();
            raise(cx, e)
        }
        Err(Stop::Unhandled { len, bytes }) => {
            cx.st.emul.reset();
            unknown(cx, bytes, len)
        }
    }
}

/// Keeps the bytes of an instruction that stopped halfway, as long as what it read is kept or user
/// space has an access of it: it goes on with this instruction, whatever the guest writes there
/// meanwhile. Of others nothing is kept: hardware may complete them by itself.
fn keep<V: Backend>(cx: &mut Cx<'_, '_, V>, code: Code) {
    let e = &mut cx.st.emul;
    let waits = !matches!(cx.st.pending, Pending::None);
    if waits || !e.log.is_empty() || e.batch.is_some() {
        e.code = code;
    }
}

fn finish<V: Backend>(cx: &mut Cx<'_, '_, V>, done: &Done) -> Flow {
    if done.unblock_nmi {
        V::set_nmi_blocked(cx.l, false);
    }
    let step = if done.trap || cx.st.debug.stepping {
        debug::stepped(cx)
    } else {
        Continue(())
    };
    match done.flow {
        Next::Next | Next::Repeat => step,
        Next::Halt => {
            halt::hlt(cx)?;
            step
        }
        Next::Interrupt { vector, kind } => {
            cx.st.events.injected = Some(Event {
                kind: match kind {
                    SoftInt::Int => EventKind::SoftInterrupt,
                    SoftInt::Exception => EventKind::SoftException,
                    SoftInt::Privileged => EventKind::PrivilegedSoftException,
                },
                vector,
                error_code: None,
                insn_len: done.len,
            });
            Continue(())
        }
        Next::Resume => smm::resume(cx),
    }
}

/// An instruction that the emulator does not know. Outside the guest's kernel it is just `#UD`.
fn failed<V: Backend>(cx: &mut Cx<'_, '_, V>, bytes: [u8; 15], len: u8) -> Flow {
    cx.count(VcpuStat::InsnEmulationFail);
    let always = cx.vm.base.caps.exit_on_emulation_failure();
    if !always {
        raise(cx, Exception::ud())?;
    }
    if always || V::cpl(cx.l) == 0 {
        return UserExit::EmulationFailure { bytes, len }.leave(cx);
    }
    Continue(())
}

/// UD2 and "kvm": with the parameter `force_emulation_prefix` a guest has what follows emulated.
const FORCED: [u8; 5] = [0x0f, 0x0b, b'k', b'v', b'm'];
/// Bit of that parameter: RFLAGS.RF is cleared before.
const FORCED_CLEAR_RF: i32 = 1 << 1;

/// `#UD` in the guest: the other vendor's hypercall instruction is made to work, and so is what
/// CPUID may offer although the CPU lacks it; the rest is the guest's.
pub(crate) fn undefined<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    let mut b = [0u8; 15];
    let n = cx.fetch(&mut b);
    let bytes = b.get(..n).unwrap_or(&[]);
    let forced = host::params::force_emulation_prefix();
    if forced != 0 && bytes.starts_with(&FORCED) {
        if forced & FORCED_CLEAR_RF != 0 {
            let f = V::rflags(cx.l);
            V::set_rflags(cx.l, f & !rflags::RF);
        }
        let rip = V::rip(cx.l).wrapping_add(FORCED.len() as u64);
        V::set_rip(cx.l, rip);
        if let Some(flow) = debug::code_breakpoint(cx) {
            return flow;
        }
        return emulate(cx, &[], |cx, _, _| raise(cx, Exception::ud()));
    }
    if bytes.starts_with(&[0x0f, 0x01, 0xc1]) || bytes.starts_with(&[0x0f, 0x01, 0xd9]) {
        return match patch_hypercall(cx) {
            Stop::Fault(e) => raise(cx, e),
            _ => Continue(()),
        };
    }
    let Ok(insn) = decode(bytes, cx.code_size()) else {
        return raise(cx, Exception::ud());
    };
    let feature = match (insn.map, insn.opcode, insn.rep) {
        // SYSCALL, SYSENTER, SYSEXIT: in some modes only the guest's vendor has them. RSM: hardware
        // knows nothing of the guest's system management mode.
        (Map::Two, 0x05 | 0x34 | 0x35 | 0xaa, _) => return emulate(cx, bytes, failed),
        (Map::Op38, 0xf0 | 0xf1, Rep::None) if insn.is_mem() => Feature::MOVBE,
        (Map::Two, 0xc7, Rep::E) if !insn.is_mem() && insn.reg3() == 7 => Feature::RDPID,
        _ => return raise(cx, Exception::ud()),
    };
    if !cx.st.cpuid.features.has(feature) {
        return raise(cx, Exception::ud());
    }
    // Those bytes, whatever another vCPU has written there since.
    emulate(cx, bytes, failed)
}

/// Writes this vendor's hypercall over the other's, as guests built long ago expect; the guest
/// executes it again. `#UD` where that is switched off.
pub(super) fn patch_hypercall<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Stop {
    if !cx.vm.base.caps.quirk(abi::KVM_X86_QUIRK_FIX_HYPERCALL_INSN) {
        return Stop::UD;
    }
    // KVM: through the guest's own permissions; a read-only text page gets the fault.
    match write_code(cx, &V::HYPERCALL) {
        Ok(true) => Stop::Retry,
        Ok(false) => Stop::UD,
        Err(MemErr::Fault(e)) => Stop::Fault(e),
        Err(MemErr::Retry) => Stop::Retry,
    }
}

/// Writes over the instruction at RIP, as the guest could. All of it has to be writable for it before
/// any of it is written; false if there is no memory.
fn write_code<V: Backend>(cx: &Cx<'_, '_, V>, code: &[u8]) -> Result<bool, MemErr> {
    let at = Gva(cx.linear_rip());
    let access = walk::Access::write(V::cpl(cx.l));
    let Some((head, tail)) = code.split_at_checked(in_page(at, code.len())) else {
        return Ok(false);
    };
    let first = cx.translate(at, access)?.gpa;
    let second = if tail.is_empty() {
        None
    } else {
        let next = at.wrapping_add(head.len() as u64);
        Some(cx.translate(next, access)?.gpa)
    };
    let mut done = cx.write_guest(first, head).is_ok();
    if let Some(gpa) = second {
        done = done && cx.write_guest(gpa, tail).is_ok();
    }
    Ok(done)
}

/// A memory-mapped access that user space finished.
pub(crate) fn finished<V: Backend>(cx: &mut Cx<'_, '_, V>, key: IoKey, data: &[u8]) -> Flow {
    if cx.st.emul.log.record(key, data).is_err() {
        cx.st.emul.reset();
        if V::cpl(cx.l) != 0 {
            return raise(cx, Exception::ud());
        }
        return UserExit::internal(abi::KVM_INTERNAL_ERROR_EMULATION).leave(cx);
    }
    instruction(cx)
}

/// A port access that user space finished.
pub(crate) fn port_finished<V: Backend>(cx: &mut Cx<'_, '_, V>, key: IoKey) -> Flow {
    if key.count > 1 {
        cx.st.emul.batch = Some(Batch {
            // CAST: ports have 16 bits.
            port: key.addr as u16,
            size: key.size,
            from: 0,
            count: key.count,
            write: key.write,
        });
        return instruction(cx);
    }
    let mut data = [0u8; 8];
    cx.vcpu.pio.read_bytes(0, &mut data);
    finished(cx, key, &data)
}
