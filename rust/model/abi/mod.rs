// SPDX-License-Identifier: GPL-2.0

//! The user-space ABI: the structures, numbers and constants of `<linux/kvm.h>`.
