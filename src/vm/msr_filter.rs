// SPDX-License-Identifier: GPL-2.0

//! The MSR filter of a VM (KVM_X86_SET_MSR_FILTER). Replaced as a whole under `kvm->lock`, read
//! under `kvm->srcu`.

use super::VmBase;
use crate::vcpu::shared::Request;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering;
use host::srcu_box::SrcuBox;
use host::srcu_box::SrcuDomain;
use kernel::prelude::*;
use kernel::sync::Arc;
use model::abi::compat::KvmMsrFilter32;
use model::abi::KvmMsrFilter;
use model::policy::msr::filter;
use model::policy::msr::filter::FilterRange;

/// A range with its bitmap.
struct Range {
    flags: u32,
    base: u32,
    count: u32,
    bitmap: KVVec<u64>,
}

/// A filter, immutable once published.
struct Filter {
    default_allow: bool,
    ranges: KVec<Range>,
}

/// Where a VM has its filter.
pub(crate) struct MsrFilter {
    /// There is one: without, an access need not enter the domain.
    present: AtomicBool,
    filter: SrcuBox<Filter>,
}

impl MsrFilter {
    /// Everything is allowed.
    pub(super) fn new(domain: Arc<SrcuDomain>) -> Result<Self> {
        let all = Filter {
            default_allow: true,
            ranges: KVec::new(),
        };
        Ok(Self {
            present: AtomicBool::new(false),
            filter: SrcuBox::new(domain, KBox::new(all, GFP_KERNEL_ACCOUNT)?),
        })
    }

    /// May the guest access an MSR?
    #[inline]
    pub(crate) fn allows(&self, index: u32, write: bool) -> bool {
        !self.present.load(Ordering::Acquire) || self.ask(index, write)
    }

    #[inline(never)]
    fn ask(&self, index: u32, write: bool) -> bool {
        let f = self.filter.read();
        let ranges = f.ranges.iter().map(|r| FilterRange {
            flags: r.flags,
            base: r.base,
            count: r.count,
            bitmap: &r.bitmap,
        });
        filter::allowed(index, write, f.default_allow, ranges)
    }
}

/// KVM_X86_SET_MSR_FILTER. EINVAL for a filter that cannot be; then the old one stays.
#[inline(never)]
pub(crate) fn set(vm: &VmBase, arg: usize) -> Result<isize> {
    let user = host::uaccess::read_user_vec::<KvmMsrFilter>(arg, 1)?;
    install(vm, user.first().ok_or(EFAULT)?)
}

/// The same of a 32-bit process.
#[inline(never)]
pub(crate) fn set_32(vm: &VmBase, arg: usize) -> Result<isize> {
    let user = host::uaccess::read_user_vec::<KvmMsrFilter32>(arg, 1)?;
    let mut wide = KBox::new(KvmMsrFilter::zeroed(), GFP_KERNEL)?;
    user.first().ok_or(EFAULT)?.widen(&mut wide);
    install(vm, &wide)
}

fn install(vm: &VmBase, user: &KvmMsrFilter) -> Result<isize> {
    let default_allow = filter::check(user).map_err(|_| EINVAL)?;
    let mut ranges = KVec::new();
    for r in &user.ranges {
        let words = filter::words(r).map_err(|_| EINVAL)?;
        if words == 0 {
            continue;
        }
        // CAST: a user address.
        let bitmap = host::uaccess::read_user_vec::<u64>(r.bitmap as usize, words)?;
        ranges.push(
            Range {
                flags: r.flags,
                base: r.base,
                count: r.nmsrs,
                bitmap,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
    }
    let new = KBox::new(
        Filter {
            default_allow,
            ranges,
        },
        GFP_KERNEL_ACCOUNT,
    )?;
    let old = {
        let _setup = vm.setup.lock();
        let old = vm.msr_filter.filter.publish(new);
        vm.msr_filter.present.store(true, Ordering::Release);
        old
    };
    drop(old.wait());
    // What is passed through follows the filter.
    vm.request_all(Request::Traps);
    Ok(0)
}
