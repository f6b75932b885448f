// SPDX-License-Identifier: GPL-2.0

//! The PIC, the IOAPIC, the PIT and the routing table as one machine: port and memory accesses,
//! lines, EOIs, time and migrations in any order. A guest that comes to its senses in the end must
//! get every level line that is up and every timer tick.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/irqchip/machine.rs"]
mod machine;

fuzz_target!(|data: &[u8]| machine::run(data));
