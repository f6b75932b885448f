// SPDX-License-Identifier: GPL-2.0

//! Local APICs, their mailboxes, timers and the map between them: accesses, IPIs, resets and
//! migrations in any order. What was accepted must be taken in the end.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/irqchip/apics.rs"]
mod apics;

fuzz_target!(|data: &[u8]| apics::run(data));
