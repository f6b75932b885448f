// SPDX-License-Identifier: GPL-2.0

//! A balanced search tree that is never changed: inserting and removing make a new one, which
//! shares all but O(log n) nodes with the old.
//!
//! The balance is that of AVL: the heights of siblings differ by at most one, so that a tree of n
//! items is at most 1.44 log2(n) high; recursion goes no deeper. Each node knows the highest end of
//! the ranges below it, which finds the ranges that overlap another even if ranges overlap.

use super::{NoMemory, Pointer, Storage};
use core::cmp::Ordering;
use core::marker::PhantomData;
use core::ops::ControlFlow;

/// How items are ordered, and which range of the ordered quantity each covers.
pub trait Order<T> {
    /// What they are ordered by; no two items of a tree have the same.
    type Key: Ord + Copy;

    /// The key of an item.
    fn key(item: &T) -> Self::Key;

    /// Its range: start, and end (exclusive). Items in ascending order have ascending starts.
    fn range(item: &T) -> (u64, u64);
}

type Link<T, O, S> = Option<<S as Storage>::Ptr<Node<T, O, S>>>;

/// A node and the subtree below it.
pub struct Node<T, O, S: Storage> {
    item: T,
    left: Link<T, O, S>,
    right: Link<T, O, S>,
    height: u8,
    /// The highest end of a range in the subtree.
    reach: u64,
}

/// A tree of `T` in the order `O`.
pub struct Tree<T, O, S: Storage> {
    root: Link<T, O, S>,
    order: PhantomData<fn() -> O>,
}

impl<T, O, S: Storage> Clone for Tree<T, O, S> {
    fn clone(&self) -> Self {
        Tree::of(self.root.clone())
    }
}

impl<T, O, S: Storage> Tree<T, O, S> {
    /// An empty tree.
    pub fn new() -> Self {
        Tree::of(None)
    }

    fn of(root: Link<T, O, S>) -> Self {
        Tree {
            root,
            order: PhantomData,
        }
    }
}

impl<T, O, S: Storage> Default for Tree<T, O, S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone, O: Order<T> + 'static, S: Storage + 'static> Tree<T, O, S> {
    /// The tree with `item`, which replaces one with the same key.
    pub fn with(&self, item: T) -> Result<Self, NoMemory> {
        Self::insert(&self.root, item).map(|n| Tree::of(Some(n)))
    }

    /// The tree without the item with this key.
    pub fn without(&self, key: O::Key) -> Result<Self, NoMemory> {
        if self.get(key).is_none() {
            return Ok(self.clone());
        }
        Self::remove(&self.root, key).map(Tree::of)
    }

    /// The item with this key.
    pub fn get(&self, key: O::Key) -> Option<&T> {
        let mut at = self.root.as_ref();
        while let Some(n) = at {
            at = match key.cmp(&O::key(&n.item)) {
                Ordering::Equal => return Some(&n.item),
                Ordering::Less => n.left.as_ref(),
                Ordering::Greater => n.right.as_ref(),
            };
        }
        None
    }

    /// The item with the highest start that is not above `start`; if ranges do not overlap, the
    /// only one that can contain it.
    #[inline]
    pub fn at_or_before(&self, start: u64) -> Option<&T> {
        let mut best = None;
        let mut at = self.root.as_ref();
        while let Some(n) = at {
            at = if O::range(&n.item).0 <= start {
                best = Some(&n.item);
                n.right.as_ref()
            } else {
                n.left.as_ref()
            };
        }
        best
    }

    /// Calls `f` with the items whose ranges overlap `start .. end`, in ascending order, until it
    /// breaks.
    pub fn overlapping<B>(
        &self,
        start: u64,
        end: u64,
        mut f: impl FnMut(&T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        Self::visit(&self.root, start, end, &mut f)
    }

    fn visit<B>(
        link: &Link<T, O, S>,
        start: u64,
        end: u64,
        f: &mut impl FnMut(&T) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(n) = link else {
            return ControlFlow::Continue(());
        };
        if n.reach <= start {
            return ControlFlow::Continue(());
        }
        Self::visit(&n.left, start, end, f)?;
        let (from, to) = O::range(&n.item);
        if from >= end {
            return ControlFlow::Continue(());
        }
        if to > start {
            f(&n.item)?;
        }
        Self::visit(&n.right, start, end, f)
    }

    fn insert(link: &Link<T, O, S>, item: T) -> Result<S::Ptr<Node<T, O, S>>, NoMemory> {
        let Some(n) = link else {
            return Self::node(item, None, None);
        };
        match O::key(&item).cmp(&O::key(&n.item)) {
            Ordering::Equal => Self::node(item, n.left.clone(), n.right.clone()),
            Ordering::Less => {
                let left = Self::insert(&n.left, item)?;
                Self::balanced(n.item.clone(), Some(left), n.right.clone())
            }
            Ordering::Greater => {
                let right = Self::insert(&n.right, item)?;
                Self::balanced(n.item.clone(), n.left.clone(), Some(right))
            }
        }
    }

    fn remove(link: &Link<T, O, S>, key: O::Key) -> Result<Link<T, O, S>, NoMemory> {
        let Some(n) = link else {
            return Ok(None);
        };
        let item = n.item.clone();
        match key.cmp(&O::key(&n.item)) {
            Ordering::Less => {
                let left = Self::remove(&n.left, key)?;
                Self::balanced(item, left, n.right.clone()).map(Some)
            }
            Ordering::Greater => {
                let right = Self::remove(&n.right, key)?;
                Self::balanced(item, n.left.clone(), right).map(Some)
            }
            Ordering::Equal => match (&n.left, &n.right) {
                (None, other) | (other, None) => Ok(other.clone()),
                (left, Some(r)) => {
                    let next = Self::first(r).clone();
                    let right = Self::remove(&n.right, O::key(&next))?;
                    Self::balanced(next, left.clone(), right).map(Some)
                }
            },
        }
    }

    fn first(n: &S::Ptr<Node<T, O, S>>) -> &T {
        let mut n = n;
        while let Some(left) = &n.left {
            n = left;
        }
        &n.item
    }

    fn height(link: &Link<T, O, S>) -> u8 {
        link.as_ref().map_or(0, |n| n.height)
    }

    fn node(
        item: T,
        left: Link<T, O, S>,
        right: Link<T, O, S>,
    ) -> Result<S::Ptr<Node<T, O, S>>, NoMemory> {
        let below = |l: &Link<T, O, S>| l.as_ref().map_or(0, |n| n.reach);
        let reach = O::range(&item).1.max(below(&left)).max(below(&right));
        Pointer::new(Node {
            height: Self::height(&left)
                .max(Self::height(&right))
                .wrapping_add(1),
            item,
            left,
            right,
            reach,
        })
    }

    /// A node over two subtrees whose heights differ by at most two.
    fn balanced(
        item: T,
        left: Link<T, O, S>,
        right: Link<T, O, S>,
    ) -> Result<S::Ptr<Node<T, O, S>>, NoMemory> {
        let (hl, hr) = (Self::height(&left), Self::height(&right));
        if let (Some(l), true) = (&left, hl > hr.wrapping_add(1)) {
            return Self::rotate_right(item, l, right);
        }
        if let (Some(r), true) = (&right, hr > hl.wrapping_add(1)) {
            return Self::rotate_left(item, left, r);
        }
        Self::node(item, left, right)
    }

    fn rotate_right(
        item: T,
        l: &S::Ptr<Node<T, O, S>>,
        right: Link<T, O, S>,
    ) -> Result<S::Ptr<Node<T, O, S>>, NoMemory> {
        let (outer, inner) = (&l.left, &l.right);
        match inner {
            Some(m) if m.height > Self::height(outer) => {
                let a = Self::node(l.item.clone(), outer.clone(), m.left.clone())?;
                let b = Self::node(item, m.right.clone(), right)?;
                Self::node(m.item.clone(), Some(a), Some(b))
            }
            _ => {
                let b = Self::node(item, inner.clone(), right)?;
                Self::node(l.item.clone(), outer.clone(), Some(b))
            }
        }
    }

    fn rotate_left(
        item: T,
        left: Link<T, O, S>,
        r: &S::Ptr<Node<T, O, S>>,
    ) -> Result<S::Ptr<Node<T, O, S>>, NoMemory> {
        let (inner, outer) = (&r.left, &r.right);
        match inner {
            Some(m) if m.height > Self::height(outer) => {
                let a = Self::node(item, left, m.left.clone())?;
                let b = Self::node(r.item.clone(), m.right.clone(), outer.clone())?;
                Self::node(m.item.clone(), Some(a), Some(b))
            }
            _ => {
                let a = Self::node(item, left, inner.clone())?;
                Self::node(r.item.clone(), Some(a), outer.clone())
            }
        }
    }

    /// The height, if the tree is balanced and every node's height and reach are right.
    #[cfg(test)]
    pub(super) fn check(&self) -> Option<u8> {
        fn go<T: Clone, O: Order<T>, S: Storage>(l: &Link<T, O, S>) -> Option<(u8, u64)> {
            let Some(n) = l else { return Some((0, 0)) };
            let (a, b) = (go::<T, O, S>(&n.left)?, go::<T, O, S>(&n.right)?);
            let height = a.0.max(b.0) + 1;
            let reach = O::range(&n.item).1.max(a.1).max(b.1);
            let ok = a.0.abs_diff(b.0) <= 1 && n.height == height && n.reach == reach;
            ok.then_some((height, reach))
        }
        go::<T, O, S>(&self.root).map(|(h, _)| h)
    }
}
