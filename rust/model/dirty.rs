// SPDX-License-Identifier: GPL-2.0

//! Dirty-page tracking: bitmaps and rings.
