// SPDX-License-Identifier: GPL-2.0

//! Architectural definitions shared by both vendors.
