// SPDX-License-Identifier: GPL-2.0

//! Two-dimensional paging: table algorithms over a `Tables` trait.
