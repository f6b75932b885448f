/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The whole border between C and Rust: every function the Rust crates call that is not in the
 * kernel crate's own bindings. Each is a few lines in rust/host/shim, holds no policy, and takes
 * kernel structures as opaque pointers.
 */
#ifndef KVM_RS_SHIM_H
#define KVM_RS_SHIM_H

#include <linux/types.h>

#endif /* KVM_RS_SHIM_H */
