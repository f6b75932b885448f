// SPDX-License-Identifier: GPL-2.0

//! What holds for every register.

use super::*;
use proptest::prelude::*;

fn interesting() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..0x1000u32,
        0x4000_0000..0x4000_0200u32,
        0x4b56_4d00..0x4b56_4d10u32,
        0xc000_0080..0xc000_0110u32,
        0xc001_0000..0xc001_0150u32,
        0xc001_1000..0xc001_1040u32,
        any::<u32>()
    ]
}

proptest! {
    /// A refused write changes nothing; an accepted one of a plain value can be read back by user
    /// space and written again.
    #[test]
    fn writes_are_all_or_nothing(
        writes in prop::collection::vec(
            (interesting(), any::<u64>(), 0..64u32, any::<bool>()), 1..40),
        svm in any::<bool>(),
    ) {
        let r = rig(&if svm { zen3() } else { haswell() }, svm);
        let (mut s, mut banks) = (MsrState::RESET, BANKS);
        for (index, value, shift, by_user) in writes {
            let value = value >> shift;
            let before = (s.clone(), banks);
            match s.write(index, value, &r.cx(by_user), &mut banks) {
                Err(_) => prop_assert!(before == (s.clone(), banks), "{:#x}", index),
                Ok(Write::Done) => {
                    // Not everything written is stored, but what is there can be put back.
                    if let Ok(Read::Value(v)) = s.read(index, &r.cx(true), &banks) {
                        let again = s.write(index, v, &r.cx(true), &mut banks);
                        prop_assert!(
                            again.is_ok() || classify(index) == MsrKind::Fixed,
                            "{:#x} {:#x}", index, v
                        );
                        prop_assert_eq!(s.read(index, &r.cx(true), &banks), Ok(Read::Value(v)));
                    }
                }
                Ok(_) => {}
            }
        }
    }

    /// What the guest may do, user space may do.
    #[test]
    fn user_space_has_no_fewer_rights(
        index in interesting(),
        value in any::<u64>(),
        shift in 0..64u32,
        svm in any::<bool>(),
    ) {
        let r = rig(&if svm { zen3() } else { haswell() }, svm);
        let value = value >> shift;
        if r.read(index, false).is_ok() {
            prop_assert!(r.read(index, true).is_ok(), "{:#x}", index);
        }
        if r.write(index, value, false).is_ok() {
            prop_assert!(r.write(index, value, true).is_ok(), "{:#x}", index);
        }
    }
}
