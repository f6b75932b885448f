// SPDX-License-Identifier: GPL-2.0

//! What user space was asked to finish, and finishing it when KVM_RUN is called again.

use super::fetch;
use super::run::Flow;
use super::Cx;
use crate::backend::Backend;
use crate::exit;
use crate::exit::plain::Moved;
use core::ops::ControlFlow::Continue;
use model::abi::run as at;
use model::emul::log::IoKey;
use model::x86::exception::Exception;
use model::x86::state::CodeSize;

/// What KVM_RUN has to finish when it is called again.
#[derive(Clone, Copy, Default)]
pub(crate) enum Pending {
    /// Nothing.
    #[default]
    None,
    /// An IN instruction: put the data into RAX and step over it.
    In {
        /// Bytes: 1, 2 or 4.
        size: u8,
        /// Linear address of the instruction.
        rip: u64,
        /// RIP behind it.
        next: u64,
    },
    /// An OUT instruction: step over it.
    Out {
        /// Linear address of the instruction.
        rip: u64,
        /// RIP behind it.
        next: u64,
    },
    /// A memory-mapped access of an instruction that is emulated again.
    Mmio {
        /// What was asked.
        key: IoKey,
        /// The data, for a write.
        data: u64,
    },
    /// A plain move to or from device memory.
    Move(Moved),
    /// A port access of an instruction that is emulated again.
    EmulatedPort {
        /// What was asked.
        key: IoKey,
    },
    /// RDMSR or WRMSR that is emulated again.
    EmulatedMsr {
        /// What was asked.
        key: IoKey,
        /// The value, for a write.
        data: u64,
    },
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// A hypercall: its result goes to RAX.
    Hypercall,
}

/// Finishes what was pending.
#[inline]
pub(crate) fn complete<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    // What is frequent is looked at in its place.
    match cx.st.pending {
        Pending::None => Continue(()),
        Pending::In { size, rip, next } => {
            cx.st.pending = Pending::None;
            // User space may have moved the vCPU elsewhere meanwhile.
            if cx.linear_rip() == rip {
                // What is too much of it is left alone there.
                let data = cx.vcpu.pio.read_u32(0);
                exit::io::set_in_result(cx, size, data);
                return fetch::advance(cx, next);
            }
            Continue(())
        }
        Pending::Out { rip, next } => {
            cx.st.pending = Pending::None;
            if cx.linear_rip() == rip {
                return fetch::advance(cx, next);
            }
            Continue(())
        }
        _ => complete_other(cx),
    }
}

#[inline(never)]
fn complete_other<V: Backend>(cx: &mut Cx<'_, '_, V>) -> Flow {
    match core::mem::take(&mut cx.st.pending) {
        // Those are done.
        Pending::None | Pending::In { .. } | Pending::Out { .. } => Continue(()),
        Pending::Mmio { key, data } => {
            let bytes = if key.write {
                data
            } else {
                cx.vcpu.run.read_u64(at::MMIO_DATA)
            };
            exit::emulate::finished(cx, key, &bytes.to_le_bytes())
        }
        Pending::Move(m) => {
            let data = cx.vcpu.run.read_u64(at::MMIO_DATA);
            exit::plain::finished(cx, &m, data)
        }
        Pending::EmulatedPort { key } => exit::emulate::port_finished(cx, key),
        Pending::EmulatedMsr { key, data } => {
            if cx.vcpu.run.read_u8(at::MSR_ERROR) != 0 {
                cx.st.emul.reset();
                return exit::raise(cx, Exception::gp0());
            }
            let v = if key.write {
                data
            } else {
                cx.vcpu.run.read_u64(at::MSR_DATA)
            };
            exit::emulate::finished(cx, key, &v.to_le_bytes())
        }
        Pending::Rdmsr => {
            if cx.vcpu.run.read_u8(at::MSR_ERROR) != 0 {
                return exit::raise(cx, Exception::gp0());
            }
            let v = cx.vcpu.run.read_u64(at::MSR_DATA);
            exit::msr::set_result(cx, v);
            fetch::skip(cx)
        }
        Pending::Wrmsr => {
            if cx.vcpu.run.read_u8(at::MSR_ERROR) != 0 {
                return exit::raise(cx, Exception::gp0());
            }
            fetch::skip(cx)
        }
        Pending::Hypercall => {
            let v = cx.vcpu.run.read_u64(at::HYPERCALL_RET);
            let long = cx.code_size() == CodeSize::Bits64;
            cx.set_gpr(0, if long { v } else { v & 0xffff_ffff });
            fetch::skip(cx)
        }
    }
}
