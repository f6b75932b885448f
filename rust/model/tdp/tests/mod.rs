// SPDX-License-Identifier: GPL-2.0

//! Tests of the table algorithms on an arena of ordinary memory.

mod arena;
mod concurrent;
mod markers;
mod ops;
mod property;
