// SPDX-License-Identifier: GPL-2.0

//! The interrupt controllers as one machine, on random choices.

#[path = "irqchip/machine.rs"]
mod machine;

use proptest::prelude::*;

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config({
        let config = ProptestConfig::default();
        ProptestConfig { cases: config.cases.max(2000), ..config }
    })]

    #[test]
    fn everything_that_asks_is_served(data in prop::collection::vec(any::<u8>(), 0..600)) {
        machine::run(&data);
    }
}
