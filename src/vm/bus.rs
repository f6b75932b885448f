// SPDX-License-Identifier: GPL-2.0

//! Ports and device memory that the kernel answers without user space: ioeventfds, which signal an
//! eventfd on a write, and coalesced zones, whose writes are collected in a ring.
//!
//! Both are looked up on the way of every access that no chip takes, so they are published under
//! SRCU and replaced as a whole; registrations are rare.

use super::VmBase;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering;
use host::eventfd::EventFd;
use host::irq_lock::IrqSpinLock;
use host::run_page::SharedPage;
use host::srcu_box::Retired;
use host::srcu_box::SrcuBox;
use host::srcu_box::SrcuDomain;
use kernel::new_mutex;
use kernel::prelude::*;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use model::abi;
use model::abi::KvmCoalescedMmio;
use model::abi::KvmCoalescedMmioRing;
use model::abi::KvmCoalescedMmioZone;
use model::abi::KvmIoeventfd;

/// Most registrations of one kind.
const MAX: usize = 1000;

/// Where an access goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Port,
    Memory,
    /// KVM: virtio of another architecture has a space of its own, in which nothing is written here.
    Ccw,
}

/// An ioeventfd.
#[derive(Clone)]
struct Event {
    space: Space,
    addr: u64,
    /// Bytes; 0 matches any length.
    len: u32,
    /// The value that must be written, if one must.
    datamatch: Option<u64>,
    fd: Arc<EventFd>,
}

impl Event {
    /// Where it is in the list.
    fn place(&self) -> (Space, u64) {
        (self.space, self.addr)
    }

    /// Does a write of `data` at its address signal it?
    fn matches(&self, data: &[u8]) -> bool {
        if self.len == 0 {
            return true;
        }
        if self.len as usize != data.len() {
            return false;
        }
        let Some(want) = self.datamatch else {
            return true;
        };
        let mut v = [0u8; 8];
        for (to, from) in v.iter_mut().zip(data) {
            *to = *from;
        }
        u64::from_le_bytes(v) == want
    }

    /// Is `o` the same registration?
    fn same(&self, o: &Event) -> bool {
        self.space == o.space
            && self.addr == o.addr
            && self.len == o.len
            && self.datamatch == o.datamatch
            && *self.fd == *o.fd
    }

    /// Would this and `o` fire for the same write?
    fn clashes(&self, o: &Event) -> bool {
        self.space == o.space
            && self.addr == o.addr
            && (self.len == 0
                || o.len == 0
                || (self.len == o.len
                    && (self.datamatch.is_none()
                        || o.datamatch.is_none()
                        || self.datamatch == o.datamatch)))
    }
}

/// What is registered, immutable once published.
struct Registered {
    /// By space and address.
    events: KVVec<Event>,
    zones: KVVec<KvmCoalescedMmioZone>,
}

/// The part of a space that has anything registered. An access outside of it needs no look into the
/// lists; one inside may still find nothing there.
struct Span {
    first: AtomicU64,
    last: AtomicU64,
}

impl Span {
    const fn empty() -> Self {
        Self {
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
        }
    }

    #[inline]
    fn has(&self, addr: u64) -> bool {
        addr >= self.first.load(Ordering::Acquire) && addr <= self.last.load(Ordering::Acquire)
    }

    fn update(&self, all: impl Iterator<Item = (u64, u64)>) {
        let (mut first, mut last) = (u64::MAX, 0);
        for (a, b) in all {
            first = first.min(a);
            last = last.max(b);
        }
        self.first.store(first, Ordering::Release);
        self.last.store(last, Ordering::Release);
    }
}

impl Registered {
    /// A copy of what is kept, with `new` if it is given.
    fn copy(&self, keep: impl Fn(&Event) -> bool, new: Option<&Event>) -> Result<KBox<Registered>> {
        let n = self.events.len().wrapping_add(1);
        let mut events = KVVec::with_capacity(n, GFP_KERNEL_ACCOUNT)?;
        let mut new = new;
        for e in self.events.iter().filter(|e| keep(e)) {
            if let Some(n) = new.take_if(|n| n.place() <= e.place()) {
                events.push(n.clone(), GFP_KERNEL_ACCOUNT)?;
            }
            events.push(e.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(n) = new {
            events.push(n.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        let mut zones = KVVec::new();
        zones.extend_from_slice(&self.zones, GFP_KERNEL_ACCOUNT)?;
        Ok(KBox::new(Registered { events, zones }, GFP_KERNEL_ACCOUNT)?)
    }

    /// The events at an address.
    #[inline]
    fn at(&self, space: Space, addr: u64) -> impl Iterator<Item = &Event> {
        let place = (space, addr);
        let (mut first, mut end) = (0usize, self.events.len());
        while first < end {
            let middle = first.wrapping_add(end.wrapping_sub(first) / 2);
            match self.events.get(middle) {
                Some(e) if e.place() < place => first = middle.wrapping_add(1),
                _ => end = middle,
            }
        }
        let rest = self.events.get(first..).unwrap_or(&[]);
        rest.iter().take_while(move |e| e.place() == place)
    }
}

/// The buses of a VM.
#[pin_data]
pub(crate) struct Buses {
    registered: SrcuBox<Registered>,
    /// Where `registered` has something, by space.
    ports: Span,
    memory: Span,
    /// Serialises registrations. What additions replaced and readers may still see.
    #[pin]
    lock: Mutex<KVec<Retired<Registered>>>,
    /// The ring of collected writes, mapped by every vCPU.
    ring: SharedPage,
    /// Serialises producers of the ring.
    #[pin]
    ring_lock: IrqSpinLock<()>,
}

impl Buses {
    /// Nothing registered.
    pub(crate) fn new(domain: Arc<SrcuDomain>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            registered: SrcuBox::new(domain, KBox::new(Registered {
                events: KVVec::new(),
                zones: KVVec::new(),
            }, GFP_KERNEL_ACCOUNT)?),
            ports: Span::empty(),
            memory: Span::empty(),
            lock <- new_mutex!(KVec::new(), "kvm->bus_lock"),
            ring: SharedPage::new()?,
            ring_lock <- IrqSpinLock::new((), c"kvm->ring_lock", kernel::static_lock_class!()),
        }? Error)
    }

    /// The page of the coalesced ring.
    pub(crate) fn coalesced_page(&self) -> Option<&SharedPage> {
        Some(&self.ring)
    }

    /// Publishes what is registered from now on.
    fn publish(&self, new: KBox<Registered>) -> Retired<Registered> {
        for (space, span) in [(Space::Port, &self.ports), (Space::Memory, &self.memory)] {
            let pio = u32::from(space == Space::Port);
            let events = new.events.iter().filter(|e| e.space == space);
            let zones = new.zones.iter().filter(|z| z.pio == pio);
            let all = Iterator::chain(
                events.map(|e| (e.addr, e.addr)),
                zones.map(|z| (z.addr, z.addr.saturating_add(u64::from(z.size)))),
            );
            span.update(all);
        }
        self.registered.publish(new)
    }

    /// Publishes what something was added to. Nobody has to know when the old state is out of use,
    /// and a vCPU that sees it may be waiting for a page which the caller is to bring.
    fn add(&self, fading: &mut KVec<Retired<Registered>>, new: KBox<Registered>) {
        forget(fading);
        let mut old = self.publish(new);
        old.begin_wait();
        // Without memory for it, it is waited for.
        let _ = fading.push(old, GFP_KERNEL_ACCOUNT);
    }

    /// Publishes what something was removed from, and waits until nobody sees the old state.
    fn remove(&self, fading: &mut KVec<Retired<Registered>>, new: KBox<Registered>) {
        drop(self.publish(new).wait());
        forget(fading);
    }

    /// A write to an address at which an event for any length is registered; false if none is.
    #[inline]
    pub(crate) fn write_any_length(&self, gpa: u64) -> bool {
        if !self.memory.has(gpa) {
            return false;
        }
        let r = self.registered.read();
        let event = r.at(Space::Memory, gpa).find(|e| e.len == 0);
        if let Some(e) = event {
            e.fd.signal();
        }
        event.is_some()
    }

    fn write(&self, space: Space, addr: u64, data: &[u8]) -> bool {
        let r = self.registered.read();
        if let Some(e) = r.at(space, addr).find(|e| e.matches(data)) {
            e.fd.signal();
            return true;
        }
        let pio = u32::from(space == Space::Port);
        let hit = r.zones.iter().any(|z| {
            let off = addr.wrapping_sub(z.addr);
            // CAST: at most 8.
            z.pio == pio
                && off < u64::from(z.size)
                && off.wrapping_add(data.len() as u64) <= u64::from(z.size)
        });
        hit && self.collect(addr, pio, data)
    }

    /// Puts a write into the ring; false if it is full, or broken.
    fn collect(&self, addr: u64, pio: u32, data: &[u8]) -> bool {
        let _g = self.ring_lock.lock();
        let head: KvmCoalescedMmioRing = self.ring.read(0);
        // User space advances `first`; `last` is ours, but it can write that too.
        let last = head.last;
        let next = last.wrapping_add(1) % abi::KVM_COALESCED_MMIO_MAX;
        if last >= abi::KVM_COALESCED_MMIO_MAX || next == head.first {
            return false;
        }
        let mut entry = KvmCoalescedMmio::zeroed();
        entry.phys_addr = addr;
        // CAST: at most 8.
        entry.len = data.len() as u32;
        entry.pio = pio;
        for (to, from) in entry.data.iter_mut().zip(data) {
            *to = *from;
        }
        let at = size_of::<KvmCoalescedMmioRing>()
            .wrapping_add((last as usize).wrapping_mul(size_of::<KvmCoalescedMmio>()));
        self.ring.write(at, &entry);
        // The entry is whole before the index says so.
        core::sync::atomic::fence(core::sync::atomic::Ordering::Release);
        self.ring
            .write(core::mem::offset_of!(KvmCoalescedMmioRing, last), &next);
        true
    }

    /// A write to device memory; false if nothing is registered there.
    #[inline]
    pub(crate) fn mmio_write(&self, gpa: u64, data: &[u8]) -> bool {
        self.memory.has(gpa) && self.write(Space::Memory, gpa, data)
    }

    /// A write to a port.
    #[inline]
    pub(crate) fn port_write(&self, port: u64, data: &[u8]) -> bool {
        self.ports.has(port) && self.write(Space::Port, port, data)
    }

    /// Is anything registered at a port?
    pub(crate) fn has_port(&self, port: u64) -> bool {
        let r = self.registered.read();
        r.at(Space::Port, port).next().is_some()
            || r.zones
                .iter()
                .any(|z| z.pio != 0 && port.wrapping_sub(z.addr) < u64::from(z.size))
    }
}

/// Drops what nobody sees any more. Waits end in the order in which they were begun.
fn forget(fading: &mut KVec<Retired<Registered>>) {
    while fading.first().is_some_and(Retired::is_over) {
        let _ = fading.remove(0);
    }
}

/// KVM_IOEVENTFD.
pub(crate) fn ioeventfd(vm: &VmBase, k: &KvmIoeventfd) -> Result<isize> {
    let remove = k.flags & abi::KVM_IOEVENTFD_FLAG_DEASSIGN != 0;
    let matched = k.flags & abi::KVM_IOEVENTFD_FLAG_DATAMATCH != 0;
    // What cannot be added is not there to be removed: ENOENT then.
    if !remove {
        check_ioeventfd(k)?;
    }
    let e = Event {
        space: if k.flags & abi::KVM_IOEVENTFD_FLAG_PIO != 0 {
            Space::Port
        } else if k.flags & abi::KVM_IOEVENTFD_FLAG_VIRTIO_CCW_NOTIFY != 0 {
            Space::Ccw
        } else {
            Space::Memory
        },
        addr: k.addr,
        len: k.len,
        datamatch: matched.then_some(k.datamatch),
        fd: Arc::new(EventFd::from_fd(k.fd)?, GFP_KERNEL_ACCOUNT)?,
    };
    let bus = &vm.bus;
    let mut fading = bus.lock.lock();
    let now = bus.registered.read();
    if remove {
        let new = now.copy(|o| !o.same(&e), None)?;
        if new.events.len() == now.events.len() {
            return Err(ENOENT);
        }
        drop(now);
        bus.remove(&mut fading, new);
    } else {
        if now.at(e.space, e.addr).any(|o| o.clashes(&e)) {
            return Err(EEXIST);
        }
        let new = now.copy(|_| true, Some(&e))?;
        drop(now);
        bus.add(&mut fading, new);
    }
    Ok(0)
}

/// What an ioeventfd can be. EINVAL for anything else.
fn check_ioeventfd(k: &KvmIoeventfd) -> Result {
    if k.flags & !abi::KVM_IOEVENTFD_VALID_FLAG_MASK != 0 || !matches!(k.len, 0 | 1 | 2 | 4 | 8) {
        return Err(EINVAL);
    }
    if k.addr.checked_add(u64::from(k.len)).is_none() {
        return Err(EINVAL);
    }
    if k.len == 0 && k.flags & abi::KVM_IOEVENTFD_FLAG_DATAMATCH != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// KVM_REGISTER_COALESCED_MMIO and KVM_UNREGISTER_COALESCED_MMIO. Removing what is not there is
/// fine.
pub(crate) fn coalesced(vm: &VmBase, z: &KvmCoalescedMmioZone, add: bool) -> Result<isize> {
    if z.pio > 1 {
        return Err(EINVAL);
    }
    let bus = &vm.bus;
    let mut fading = bus.lock.lock();
    let mut new = bus.registered.read().copy(|_| true, None)?;
    if add {
        if new.zones.len() >= MAX {
            return Err(ENOSPC);
        }
        new.zones.push(*z, GFP_KERNEL_ACCOUNT)?;
        bus.add(&mut fading, new);
    } else {
        // KVM: every zone that the one named lies in goes.
        new.zones.retain(|o| {
            let off = z.addr.wrapping_sub(o.addr);
            !(o.pio == z.pio
                && off < u64::from(o.size)
                && off.wrapping_add(u64::from(z.size)) <= u64::from(o.size))
        });
        bus.remove(&mut fading, new);
    }
    Ok(0)
}
