// SPDX-License-Identifier: GPL-2.0

//! The guest page-table walker.
