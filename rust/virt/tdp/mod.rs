// SPDX-License-Identifier: GPL-2.0

//! Memory for nested page tables, and the only way to change one that hardware walks.
//!
//! The algorithms are `model::tdp`'s; here are the pages they work on, the translation from an
//! address in an entry to the table it names, and the rules that keep the host's memory safe
//! whatever the code above decides:
//!
//! * A leaf is made from a [`GuestPage`](host::gup::GuestPage), which exists only while the lock
//!   under which it was validated is held: safe code cannot map a host page by number. The one page
//!   of our own that is mapped has nothing in it, and lives as long as the tree.
//! * The shape of a tree (levels, address bits) comes from the vendor, so that hardware and software
//!   agree on what is a table and what is a page.
//! * A table is freed after every CPU that may have cached it was made to forget it. Operations that
//!   remove anything flush before they return.
//! * [`RootRef`] keeps the tables alive as long as a vCPU may run on them.
//!
//! What remains with the code above: to zap what the MMU notifier announces before it returns to
//! the notifier, and to see to the flushes that `&self` operations return.
//!
//! Sharing follows from borrowing. Operations on `&Root` run concurrently with each other and with
//! guests; those that remove tables take `&mut Root`. A root is kept inside the MMU lock, where a
//! shared borrow proves that the lock is held for reading and an exclusive one that it is held for
//! writing, which is what `model::tdp` asks for.

mod cache;
mod page;
mod root;
mod tree;

pub use cache::TableCache;
pub use cache::PER_FAULT;
pub use root::RootRef;
pub(crate) use root::Tlb;
pub use tree::map;
pub use tree::MapAs;
pub use tree::Root;
