// SPDX-License-Identifier: GPL-2.0

//! What bad callers get.
