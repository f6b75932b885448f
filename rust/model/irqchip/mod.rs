// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers: local APIC, IOAPIC, 8259 PIC, 8254 PIT, and routing.

pub mod ioapic;
pub mod lapic;
pub mod line;
pub mod pending;
pub mod pic;
pub mod pit;
pub mod route;
pub mod targets;
