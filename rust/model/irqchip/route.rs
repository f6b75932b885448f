// SPDX-License-Identifier: GPL-2.0

//! GSI routing: which chip pins or message a GSI stands for (`KVM_SET_GSI_ROUTING`).
//!
//! A table is built once from the entries of user space, into storage of the caller, and never
//! changed: a new table replaces it. The routes lie in one array, grouped by GSI, and a second
//! array says where each group ends, so that a look-up is two loads and no search.
//!
//! ```
//! use model::irqchip::route::{build, measure, Route, RouteRules, RoutingTable, DEFAULT_ROUTING};
//!
//! let size = measure(&DEFAULT_ROUTING).unwrap();
//! let mut ends = vec![0; size.gsis];
//! let mut routes = vec![Route::default(); size.routes];
//! let rules = RouteRules { chips: true, ids32: false };
//! let pins = build(&DEFAULT_ROUTING, rules, &mut ends, &mut routes).unwrap();
//! let table = RoutingTable::new(&ends, &routes);
//! assert_eq!(table.lookup(9), [Route::IoApic(9), Route::Pic(9)]);
//! assert_eq!(pins.pic_gsi(9), Some(9));
//! ```

use super::ioapic::IOAPIC_PINS;
use super::pic::PIC_PINS;
use crate::abi::KvmIrqRoutingEntry;
use crate::abi::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};
use crate::abi::{KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_MSI_VALID_DEVID};
use crate::nospec::clamp;
use crate::x86::apic::{Message, Trigger};
use crate::x86::msi::Msi;

/// Routes in a table, and GSIs: the value of `KVM_CAP_IRQ_ROUTING`.
pub const MAX_ROUTES: usize = 4096;

/// Routes of one GSI: a pin of each of the three chips, or one message.
pub const MAX_ROUTES_PER_GSI: usize = 3;

/// What a GSI leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// A pin of the 8259 pair, 0 to 15.
    Pic(u8),
    /// A pin of the IOAPIC.
    IoApic(u8),
    /// A message. x86 has no use for the device id.
    Msi {
        /// Address and data.
        msi: Msi,
        /// The device that sends it, if user space named one.
        devid: Option<u32>,
    },
}

impl Default for Route {
    /// A filler for storage.
    fn default() -> Self {
        Route::Pic(0)
    }
}

/// What a VM allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRules {
    /// The PIC and the IOAPIC are in the kernel: false for a split irqchip.
    pub chips: bool,
    /// MSIs carry 32-bit destinations (KVM_X2APIC_API_USE_32BIT_IDS).
    pub ids32: bool,
}

/// Why a table is refused. All but [`RouteError::Storage`] are `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// More than [`MAX_ROUTES`] entries.
    TooMany,
    /// A GSI is [`MAX_ROUTES`] or more.
    Gsi,
    /// Unknown flags of an entry.
    Flags,
    /// An unknown type, or chips where there are none in the kernel.
    Kind,
    /// No such chip.
    Chip,
    /// The chip has no such pin.
    Pin,
    /// Reserved bits of a message address.
    Message,
    /// A GSI has two routes to one chip, or a message and something else.
    Duplicate,
    /// The caller's storage does not have the measured size.
    Storage,
}

/// The storage a table needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingSize {
    /// Length of `ends`: the highest GSI in use, plus 1.
    pub gsis: usize,
    /// Length of `routes`.
    pub routes: usize,
}

/// The GSIs that chip pins belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinGsis {
    pic: [u16; PIC_PINS as usize],
    ioapic: [u16; IOAPIC_PINS as usize],
}

const NO_GSI: u16 = u16::MAX;

impl Default for PinGsis {
    fn default() -> Self {
        Self::new()
    }
}

impl PinGsis {
    /// No pin belongs to a GSI.
    pub const fn new() -> Self {
        PinGsis {
            pic: [NO_GSI; PIC_PINS as usize],
            ioapic: [NO_GSI; IOAPIC_PINS as usize],
        }
    }

    /// The GSI of a pin of the 8259 pair; of several, the one whose entry came last.
    pub fn pic_gsi(&self, pin: u8) -> Option<u32> {
        Self::gsi(&self.pic, pin)
    }

    /// The GSI of a pin of the IOAPIC; of several, the one whose entry came last.
    pub fn ioapic_gsi(&self, pin: u8) -> Option<u32> {
        Self::gsi(&self.ioapic, pin)
    }

    fn gsi(pins: &[u16], pin: u8) -> Option<u32> {
        pins.get(usize::from(pin))
            .filter(|gsi| **gsi != NO_GSI)
            .map(|gsi| u32::from(*gsi))
    }

    fn set(&mut self, route: Route, gsi: u16) {
        let slot = match route {
            Route::Pic(pin) => self.pic.get_mut(usize::from(pin)),
            Route::IoApic(pin) => self.ioapic.get_mut(usize::from(pin)),
            Route::Msi { .. } => None,
        };
        if let Some(slot) = slot {
            *slot = gsi;
        }
    }
}

/// A built table.
#[derive(Clone, Copy, Debug)]
pub struct RoutingTable<'a> {
    /// For each GSI the end of its group in `routes`, which starts where the one before it ends.
    ends: &'a [u16],
    routes: &'a [Route],
}

impl<'a> RoutingTable<'a> {
    /// The table that [`build`] put into `ends` and `routes`.
    pub const fn new(ends: &'a [u16], routes: &'a [Route]) -> Self {
        RoutingTable { ends, routes }
    }

    /// The routes of a GSI, at most [`MAX_ROUTES_PER_GSI`], in the order user space gave them.
    pub fn lookup(&self, gsi: u32) -> &'a [Route] {
        self.group(gsi).unwrap_or(&[])
    }

    /// Level-triggered messages of the GSIs below `pins`: those that a user-space IOAPIC with that
    /// many pins sends, whose EOIs it must hear of (`KVM_CAP_SPLIT_IRQCHIP`).
    pub fn level_messages(
        &self,
        pins: u32,
        ids32: bool,
    ) -> impl Iterator<Item = (u32, Message)> + 'a {
        let table = *self;
        let gsis = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        (0..pins.min(gsis)).filter_map(move |gsi| match table.lookup(gsi) {
            [Route::Msi { msi, .. }] => {
                let message = msi.decode(ids32);
                (message.trigger == Trigger::Level).then_some((gsi, message))
            }
            _ => None,
        })
    }

    fn group(&self, gsi: u32) -> Option<&'a [Route]> {
        let gsi = usize::try_from(gsi).ok()?;
        let end = *self.ends.get(gsi)?;
        let start = match gsi.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.routes.get(usize::from(start)..usize::from(end))
    }
}

/// The storage that a table of `entries` needs, before they are looked at more closely.
pub fn measure(entries: &[KvmIrqRoutingEntry]) -> Result<RoutingSize, RouteError> {
    if entries.len() > MAX_ROUTES {
        return Err(RouteError::TooMany);
    }
    let mut gsis = 0;
    for entry in entries {
        gsis = gsis.max(usize::from(checked_gsi(entry)?).saturating_add(1));
    }
    Ok(RoutingSize {
        gsis,
        routes: entries.len(),
    })
}

/// Checks `entries` and builds a table in `ends` and `routes`, whose lengths are those that
/// [`measure`] returned. After an error their contents are of no use.
pub fn build(
    entries: &[KvmIrqRoutingEntry],
    rules: RouteRules,
    ends: &mut [u16],
    routes: &mut [Route],
) -> Result<PinGsis, RouteError> {
    let size = measure(entries)?;
    if ends.len() != size.gsis || routes.len() != size.routes {
        return Err(RouteError::Storage);
    }

    // Count the routes of each GSI,
    ends.fill(0);
    for entry in entries {
        let count = slot(ends, entry.gsi)?;
        if usize::from(*count) == MAX_ROUTES_PER_GSI {
            return Err(RouteError::Duplicate);
        }
        *count = count.saturating_add(1);
    }
    // let each count become the start of its group,
    let mut start = 0u16;
    for end in ends.iter_mut() {
        let count = *end;
        *end = start;
        start = start.saturating_add(count);
    }
    // and advance it to the end while the group is filled.
    let mut pins = PinGsis::new();
    for entry in entries {
        let route = checked_route(entry, rules)?;
        let end = slot(ends, entry.gsi)?;
        *routes
            .get_mut(usize::from(*end))
            .ok_or(RouteError::Storage)? = route;
        *end = end.saturating_add(1);
        pins.set(route, checked_gsi(entry)?);
    }

    let table = RoutingTable::new(ends, routes);
    for gsi in 0..u32::try_from(ends.len()).unwrap_or(0) {
        match table.lookup(gsi) {
            [a, b] if clash(a, b) => return Err(RouteError::Duplicate),
            [a, b, c] if clash(a, b) || clash(a, c) || clash(b, c) => {
                return Err(RouteError::Duplicate)
            }
            _ => {}
        }
    }
    Ok(pins)
}

/// Whether one GSI cannot have both routes: a message stands alone, and each chip is reached once.
fn clash(a: &Route, b: &Route) -> bool {
    match (a, b) {
        (Route::Pic(a), Route::Pic(b)) => (*a < 8) == (*b < 8),
        (Route::Pic(_), Route::IoApic(_)) | (Route::IoApic(_), Route::Pic(_)) => false,
        _ => true,
    }
}

fn slot(ends: &mut [u16], gsi: u32) -> Result<&mut u16, RouteError> {
    let len = ends.len();
    usize::try_from(gsi)
        .ok()
        .filter(|gsi| *gsi < len)
        .and_then(|gsi| ends.get_mut(clamp(gsi, len)))
        .ok_or(RouteError::Storage)
}

fn checked_gsi(entry: &KvmIrqRoutingEntry) -> Result<u16, RouteError> {
    u16::try_from(entry.gsi)
        .ok()
        .filter(|gsi| usize::from(*gsi) < MAX_ROUTES)
        .ok_or(RouteError::Gsi)
}

fn checked_route(entry: &KvmIrqRoutingEntry, rules: RouteRules) -> Result<Route, RouteError> {
    let known = match entry.type_ {
        KVM_IRQ_ROUTING_MSI => KVM_MSI_VALID_DEVID,
        _ => 0,
    };
    if entry.flags & !known != 0 {
        return Err(RouteError::Flags);
    }
    let [first, second, third, fourth, ..] = entry.u;
    match entry.type_ {
        KVM_IRQ_ROUTING_IRQCHIP if rules.chips => chip_route(first, second),
        KVM_IRQ_ROUTING_MSI => {
            let msi = Msi {
                address_lo: first,
                address_hi: second,
                data: third,
            };
            if !msi.is_valid(rules.ids32) {
                return Err(RouteError::Message);
            }
            let devid = (entry.flags & KVM_MSI_VALID_DEVID != 0).then_some(fourth);
            Ok(Route::Msi { msi, devid })
        }
        _ => Err(RouteError::Kind),
    }
}

fn chip_route(chip: u32, pin: u32) -> Result<Route, RouteError> {
    let pin = u8::try_from(pin).map_err(|_| RouteError::Pin)?;
    let (route, pins) = match chip {
        KVM_IRQCHIP_PIC_MASTER => (Route::Pic(pin), PIC_PINS / 2),
        KVM_IRQCHIP_PIC_SLAVE => (Route::Pic(pin.wrapping_add(8)), PIC_PINS / 2),
        KVM_IRQCHIP_IOAPIC => (Route::IoApic(pin), IOAPIC_PINS),
        _ => return Err(RouteError::Chip),
    };
    if pin < pins {
        Ok(route)
    } else {
        Err(RouteError::Pin)
    }
}

const fn default_entry(gsi: u32, chip: u32, pin: u32) -> KvmIrqRoutingEntry {
    KvmIrqRoutingEntry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        flags: 0,
        pad: 0,
        u: [chip, pin, 0, 0, 0, 0, 0, 0],
    }
}

/// The table of a VM with all chips in the kernel before user space sets one: GSI `n` is pin `n` of
/// the IOAPIC, and for `n` below 16 of the 8259 pair. GSI 0 is IOAPIC pin 0: moving the timer to
/// pin 2, as PCs wire it, is up to user space. A split irqchip starts with an empty table.
pub static DEFAULT_ROUTING: [KvmIrqRoutingEntry; 40] = {
    let mut entries = [default_entry(0, KVM_IRQCHIP_IOAPIC, 0); 40];
    let mut rest: &mut [KvmIrqRoutingEntry] = &mut entries;
    let mut gsi = 0;
    while gsi < IOAPIC_PINS as u32 {
        if let [entry, tail @ ..] = rest {
            *entry = default_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi);
            rest = tail;
        }
        if gsi < PIC_PINS as u32 {
            let chip = if gsi < 8 {
                KVM_IRQCHIP_PIC_MASTER
            } else {
                KVM_IRQCHIP_PIC_SLAVE
            };
            if let [entry, tail @ ..] = rest {
                *entry = default_entry(gsi, chip, gsi & 7);
                rest = tail;
            }
        }
        gsi = gsi.saturating_add(1);
    }
    entries
};

#[cfg(test)]
mod tests;
