// SPDX-License-Identifier: GPL-2.0

//! Several local APICs as one machine, on random choices.

#[path = "irqchip/apics.rs"]
mod apics;

use proptest::prelude::*;

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config({
        let config = ProptestConfig::default();
        ProptestConfig { cases: config.cases.max(2000), ..config }
    })]

    #[test]
    fn what_is_accepted_is_taken(data in prop::collection::vec(any::<u8>(), 0..600)) {
        apics::run(&data);
    }
}
