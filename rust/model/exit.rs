// SPDX-License-Identifier: GPL-2.0

//! The vendor-neutral exit: what made the CPU leave the guest.
