// SPDX-License-Identifier: GPL-2.0

//! What a guest may see: CPUID and MSR tables with pure filters.
