// SPDX-License-Identifier: GPL-2.0

//! What the host does to the VMM's memory: unmapping, migration, swapping, ageing.

use super::zap;
use super::Tables;
use crate::backend::Backend;
use crate::vm::VmCore;
use host::mmu::MmuLock;
use host::notifier::MmuEvents;
use model::addr::Hva;
use model::tdp::Age;
use model::tdp::Sweep;

impl<V: Backend> MmuEvents for VmCore<V> {
    type Data = Tables<V>;

    fn mmu(&self) -> &MmuLock<Tables<V>> {
        &self.mmu
    }

    fn covers(&self, start: Hva, end: Hva) -> bool {
        self.base.slots.covers(start, end)
    }

    fn invalidate(&self, start: Hva, end: Hva, may_block: bool) {
        self.base
            .slots
            .for_each_in_hva(start, end, |space, first, last| {
                zap::zap_range(self, space, first, last, may_block);
            });
    }

    fn age(&self, start: Hva, end: Hva, clear: bool) -> bool {
        let how = if clear { Age::Clear } else { Age::Test };
        let mut young = false;
        self.base
            .slots
            .for_each_in_hva(start, end, |space, first, last| {
                let g = self.mmu.read();
                let mut sweep = Sweep::new(first, last);
                while !sweep.is_done() {
                    young |= g.root(space).age(&mut sweep, how, u32::MAX);
                    if young && !clear {
                        break;
                    }
                }
            });
        // Without a flush the hardware may not set A again for a while: the page then looks older
        // than it is, which costs a fault at worst.
        young
    }

    fn release(&self) {
        self.base.kill();
        zap::zap_all(self);
    }
}
