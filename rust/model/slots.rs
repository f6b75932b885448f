// SPDX-License-Identifier: GPL-2.0

//! Memory slots: guest-physical ranges backed by user memory.
