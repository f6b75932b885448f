// SPDX-License-Identifier: GPL-2.0

//! Stolen time: not offered in CPUID yet, so a guest has no way to ask for it.

use crate::backend::Backend;
use crate::vcpu::Cx;

/// The guest set up its page.
pub(crate) fn enable<V: Backend>(_cx: &mut Cx<'_, '_, V>) {}
