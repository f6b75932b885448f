// SPDX-License-Identifier: GPL-2.0

//! What each exit asks for: one match, a line per exit.

pub(crate) mod control;
pub(crate) mod debug;
pub(crate) mod emul_state;
pub(crate) mod emulate;
pub(crate) mod exception;
pub(crate) mod hypercall;
pub(crate) mod io;
mod machine;
pub(crate) mod mmio;
pub(crate) mod msr;
pub(crate) mod plain;
pub(crate) mod restricted;
mod task;

use crate::backend::Backend;
use crate::mmu;
use crate::pv::spin;
use crate::vcpu::cpuid;
use crate::vcpu::event;
use crate::vcpu::fetch;
use crate::vcpu::halt;
use crate::vcpu::run::Flow;
use crate::vcpu::user_exit::UserExit;
use crate::vcpu::Cx;
use core::ops::ControlFlow::Continue;
use model::abi;
use model::emul::task::TaskSwitch;
use model::exit::Exit;
use model::exit::Quick;
use model::stats::VcpuStat;
use model::x86::cpuid::Feature;
use model::x86::exception::Exception;
use virt::vendor::Trap;

/// Handles the last exit. What is frequent takes none of the room on the stack that others need.
#[inline]
pub(crate) fn handle<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    match V::quick(cx.l) {
        Quick::Cpuid => cpuid::execute(cx),
        Quick::Rdmsr => msr::rdmsr(cx),
        Quick::Wrmsr => msr::wrmsr(cx),
        Quick::Io => io::handle(cx),
        Quick::Hlt => hlt(cx),
        Quick::Other => any(cx),
    }
}

#[inline(never)]
fn hlt<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    // It halts also when it is the end of a single step.
    let step = fetch::skip(cx);
    halt::hlt(cx)?;
    step
}

#[inline(never)]
fn any<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    match V::decode(cx.l) {
        Exit::HostInterrupt => {
            cx.vcpu.shared.set_boundary(false);
            cx.count(VcpuStat::IrqExits);
            Continue(())
        }
        Exit::HostNmi => Continue(()),
        Exit::Cpuid => cpuid::execute(cx),
        Exit::Rdmsr => msr::rdmsr(cx),
        Exit::Wrmsr => msr::wrmsr(cx),
        Exit::Io(_) => io::handle(cx),
        Exit::NestedFault(f) => mmu::handle(cx, &f),
        Exit::FastMmio(gpa) => mmio::fast(cx, gpa),
        Exit::Hlt => hlt(cx),
        Exit::InterruptWindow => {
            cx.count(VcpuStat::IrqWindowExits);
            event::window_opened(cx, false);
            Continue(())
        }
        Exit::NmiWindow | Exit::Iret => {
            cx.count(VcpuStat::NmiWindowExits);
            event::window_opened(cx, true);
            Continue(())
        }
        Exit::Hypercall => hypercall::handle(cx),
        Exit::Exception(e) => exception::handle(cx, &e),
        Exit::Int1(e) => debug::int1(cx, &e),
        Exit::Int1Ahead => debug::int1_ahead(cx),
        Exit::Cr(a) => control::cr(cx, &a),
        Exit::Dr(a) => debug::dr_access(cx, &a),
        Exit::Xsetbv => control::xsetbv(cx),
        Exit::Pause => {
            spin::pause(cx);
            fetch::skip(cx)
        }
        // There is no cache of the guest's own to write back: the host's is coherent.
        Exit::Invd | Exit::Wbinvd => fetch::skip(cx),
        Exit::Monitor | Exit::Mwait => control::mwait(cx),
        Exit::Rdpmc => raise(cx, Exception::gp0()),
        Exit::Rdtscp if !cx.st.cpuid.features.has(Feature::RDTSCP) => raise(cx, Exception::ud()),
        Exit::Rdtsc | Exit::Rdtscp | Exit::Invlpg(_) | Exit::DescriptorTable { .. } => {
            emulate::instruction(cx)
        }
        Exit::TaskSwitch {
            selector,
            cause,
            error_code,
            int_n,
        } => task::switch(
            cx,
            &TaskSwitch {
                selector,
                cause,
                error_code,
                int_n,
            },
        ),
        Exit::VirtInstruction => raise(cx, Exception::ud()),
        Exit::Undefined => emulate::undefined(cx),
        Exit::Shutdown => UserExit::Shutdown.leave(cx),
        Exit::TprBelowThreshold => {
            V::set_trap(cx.l, Trap::Cr8Write, false);
            Continue(())
        }
        Exit::PreemptionTimer => {
            cx.deadline_reached();
            Continue(())
        }
        Exit::Init | Exit::Sipi | Exit::Smi | Exit::DirtyLogFull => Continue(()),
        Exit::Eoi { vector } => {
            cx.ended_by_hardware(vector);
            Continue(())
        }
        Exit::ApicAccess { .. } => mmio::apic(cx),
        Exit::ApicWrite { offset } => {
            cx.register_written(offset);
            Continue(())
        }
        Exit::BusLock => Continue(()),
        Exit::NotifyWindow { .. } => {
            cx.count(VcpuStat::NotifyWindowExits);
            Continue(())
        }
        Exit::EntryFailed { reason } => {
            let f = V::entry_failure(cx.l);
            V::dump(cx.l);
            UserExit::FailEntry { reason, cpu: f.cpu }.leave(cx)
        }
        Exit::Unknown { code } => unknown(cx, code),
    }
}

/// Queues an exception and goes on.
pub(crate) fn raise<V: Backend>(cx: &mut Cx<'_, '_, V>, e: Exception) -> Flow {
    event::raise(cx, e);
    Continue(())
}

#[inline(never)]
fn unknown<V: Backend>(cx: &mut Cx<'_, '_, V>, code: u64) -> Flow {
    V::dump(cx.l);
    UserExit::Internal {
        suberror: abi::KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
        ndata: 2,
        data: [code, u64::from(host::pin::some_cpu_id()), 0, 0, 0, 0],
    }
    .leave(cx)
}
