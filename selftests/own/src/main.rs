// SPDX-License-Identifier: GPL-2.0

//! This project's own selftests, in one program.
//!
//!     kvm-own-tests             names of all tests
//!     kvm-own-tests NAME        runs one: TAP, exit code 0 pass, 1 fail, 4 skip
//!     kvm-own-tests --record NAME   prints what the module answers, for `data/*.tsv`
//!
//! `MODULE=stock` says that the in-tree module is loaded: it must meet the same expectations,
//! without exceptions. `SEED=1` distorts an expectation: the test must fail.

mod account;
mod errno;
mod guest;
mod host;
mod memfd;
mod sys;
mod table;
mod tap;
mod tests;
mod uapi;

use tap::Tap;

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let record = args.first().is_some_and(|a| a == "--record");
    if record {
        args.remove(0);
    }
    let Some(name) = args.first() else {
        for (name, _) in tests::ALL {
            println!("{name}");
        }
        return;
    };
    let Some((_, test)) = tests::ALL.iter().find(|(n, _)| n == name) else {
        eprintln!("no such test: {name}");
        std::process::exit(2);
    };
    sys::catch_usr1();
    table::set_recording(record);
    let mut tap = Tap::new();
    test(&mut tap);
    std::process::exit(tap.finish());
}
