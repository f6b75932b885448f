/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The whole border between C and Rust: every function the Rust crates call that is not in the
 * kernel crate's own bindings. Each is a few lines in rust/host/shim, holds no policy, and takes
 * kernel structures as opaque pointers. Functions without the prefix kvmrs_ are exports of the
 * kernel, declared here because the kernel crate's bindings do not have them.
 */
#ifndef KVM_RS_SHIM_H
#define KVM_RS_SHIM_H

#include <linux/entry-virt.h>
#include <linux/fs.h>
#include <linux/irq_work.h>
#include <linux/mm_types.h>
#include <linux/rcuwait.h>
#include <linux/spinlock_types.h>
#include <linux/srcu.h>
#include <linux/syscore_ops.h>
#include <linux/tracepoint-defs.h>
#include <linux/types.h>
#include <linux/user-return-notifier.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <asm/cpufeature.h>

#include "vendor_params.h"

/* ---- files (shim/file.c) ---- */

/* Makes an anonymous-inode file with extra f_mode bits; takes a reference on fops->owner. */
struct file *anon_inode_getfile_fmode(const char *name, const struct file_operations *fops,
				      void *priv, int flags, fmode_t f_mode);
/* noop_llseek() under an address of our own: its presence in a fops marks a file as ours. */
loff_t kvmrs_llseek(struct file *file, loff_t offset, int whence);
/* FMODE_PREAD, which is a cast and so invisible to bindgen. */
fmode_t kvmrs_fmode_pread(void);

/* ---- the files of guest_memfd (shim/gmem.c) ---- */

struct fs_context;
struct mempolicy;
struct shared_policy;

/* generic_file_open() under an address of our own: its presence in a fops marks a file as ours. */
int kvmrs_gmem_open(struct inode *inode, struct file *file);
/* Fills in a pseudo file system of these operations: 0 or -ENOMEM. */
int kvmrs_gmem_fs(struct fs_context *fc, const struct super_operations *ops);
/* Pages of the mapping come from anywhere, stay where they are, and are not read by the kernel. */
void kvmrs_gmem_mapping(struct address_space *mapping);
/* Whether a mount has at most two references; sleeps. */
int may_umount(struct vfsmount *mnt);
/* The folio of a page of the file, locked and referenced; -ENOENT. */
struct folio *kvmrs_filemap_lock(struct address_space *mapping, unsigned long index);
/* The same, made after this policy (or NULL) if it is not there; -ENOMEM. */
struct folio *kvmrs_filemap_create(struct address_space *mapping, unsigned long index,
				   struct mempolicy *policy);
/* Whether it is one page; its place in the file; whether its memory is broken. */
unsigned long kvmrs_folio_index(struct folio *folio);
bool kvmrs_folio_small(struct folio *folio);
bool kvmrs_folio_poisoned(struct folio *folio);
/* Makes a new one zeros. It is locked and one page. */
void kvmrs_folio_fill(struct folio *folio);

/* Memory policies of the pages of a file: none yet, or NULL without memory. */
struct shared_policy *kvmrs_policy_new(void);
void kvmrs_policy_free(struct shared_policy *sp);
/* That of one page, to be put, or NULL. */
struct mempolicy *kvmrs_policy_lookup(struct shared_policy *sp, unsigned long index);
void kvmrs_policy_put(struct mempolicy *policy);
/* Sets that of the pages an area maps. */
int kvmrs_policy_set(struct shared_policy *sp, struct vm_area_struct *vma, struct mempolicy *policy);
/* The page of the file that an address of an area maps. */
unsigned long kvmrs_vma_index(struct vm_area_struct *vma, unsigned long addr);

/* ---- memory (shim/mem.c) ---- */

/* Takes a reference on a page. */
void kvmrs_get_page(struct page *page);
/* Drops a reference on a page. */
void kvmrs_put_page(struct page *page);
/* Marks a page accessed, and dirty if asked, unless it is reserved. */
void kvmrs_page_mark(struct page *page, bool dirty);
/* The frame number of a page. */
unsigned long kvmrs_page_to_pfn(struct page *page);
/* Whether a frame is device memory, to be mapped uncached in the guest. */
bool kvmrs_pfn_is_mmio(unsigned long pfn);
/* Accounts `pages` pages from `kva` on as secondary page tables (negative: no more). */
void kvmrs_account_table(unsigned long kva, int pages);
/* Level (1, 2 or 3) at which the current mm maps `hva`, 0 if it does not, as for the kernel's own. */
int kvmrs_host_level(unsigned long hva);

/* ---- the current process's memory (shim/user.c) ---- */

/* Compare-exchange: 0 stored, 1 differed (*old updated), -EFAULT. May fault the page in. */
int kvmrs_cmpxchg_user8(unsigned long hva, u8 *old, u8 new_);
int kvmrs_cmpxchg_user16(unsigned long hva, u16 *old, u16 new_);
int kvmrs_cmpxchg_user32(unsigned long hva, u32 *old, u32 new_);
int kvmrs_cmpxchg_user64(unsigned long hva, u64 *old, u64 new_);

/* A word of user memory as it was read, and which of its bits count. */
struct kvmrs_seen {
	u64 hva;
	u64 value;
	u64 mask;
};
/* Whether `n` words, known to be user memory, still are what they were. May fault pages in. */
bool kvmrs_user_unchanged(const struct kvmrs_seen *s, unsigned long n);

/* Maps zeroed memory into the current process and says where, or a negative error. */
long kvmrs_map_memory(unsigned long len);
/* Unmaps it. */
void kvmrs_unmap_memory(unsigned long hva, unsigned long len);

/* ---- locks (shim/lock.c) ---- */

/* Initialises the MMU lock; all of them share one lockdep class. */
void kvmrs_rwlock_init(rwlock_t *lock);

/* Makes an SRCU domain of this lockdep class; -ENOMEM. */
int kvmrs_srcu_init(struct srcu_struct *srcu, const char *name, struct lock_class_key *key);
/* Enters its read side; what to leave it with. */
int kvmrs_srcu_read_lock(struct srcu_struct *srcu);
void kvmrs_srcu_read_unlock(struct srcu_struct *srcu, int index);
/* Waits for all readers there are. */
void kvmrs_srcu_wait(struct srcu_struct *srcu);
unsigned long kvmrs_srcu_begin_wait(struct srcu_struct *srcu);
bool kvmrs_srcu_waited(struct srcu_struct *srcu, unsigned long cookie);
/* The domain ends; it has no readers. */
void kvmrs_srcu_destroy(struct srcu_struct *srcu);

/* ---- CPUs and the scheduler (shim/sched.c) ---- */

/* Thread flags: work that must be done before the guest is entered; a wish to schedule; a signal. */
enum kvmrs_thread_flags {
	KVMRS_GUEST_WORK = XFER_TO_GUEST_MODE_WORK,
	KVMRS_NEED_RESCHED = _TIF_NEED_RESCHED | _TIF_NEED_RESCHED_LAZY,
	KVMRS_SIGNAL = _TIF_SIGPENDING | _TIF_NOTIFY_SIGNAL,
};
/* Takes or drops this CPU's reference on an extension (an X86_FEATURE_ number). */
int x86_virt_get_ref(int feat);
void x86_virt_put_ref(int feat);
/* The one hook that is called on each CPU when the machine goes down hard. */
void x86_virt_register_emergency_callback(void (*callback)(void));
void x86_virt_unregister_emergency_callback(void (*callback)(void));
/* The machine is going down: faults of virtualization instructions are expected. */
extern bool virt_rebooting;
/* Hooks of suspend, resume and shutdown. */
void register_syscore(struct syscore *syscore);
void unregister_syscore(struct syscore *syscore);
/* Calls `func` on every online CPU with interrupts off, and waits. */
void kvmrs_on_each_cpu(void (*func)(void *info), void *info);
/* The slow half of preempt_enable(): the count is zero, schedules if wanted. */
void kvmrs_preempt_check_resched(void);
/* local_irq_disable() and local_irq_enable() of kernels that trace them. */
void kvmrs_irq_disable(void);
void kvmrs_irq_enable(void);
/* The reschedule IPI: makes a CPU leave guest mode. */
void kvmrs_kick_cpu(int cpu);
/* The interrupt that tells the hardware of a guest to look for posted interrupts. */
#define KVMRS_NOTIFICATION 0xf2
void kvmrs_notify_cpu(int cpu);
/* Whether the current task, about to be switched out, could go on running. */
bool kvmrs_current_runnable(void);
/* Begins a wait on `w`: wakers find the current task. */
void kvmrs_rcuwait_prepare(struct rcuwait *w);
/* Initialises an rcuwait: nobody waits. */
void kvmrs_rcuwait_init(struct rcuwait *w);
/* set_current_state(TASK_INTERRUPTIBLE): a full barrier after the store. */
void kvmrs_set_interruptible(void);
/* Whether this CPU's run queue has nothing else to run. */
bool single_task_running(void);
/* Lets others run if the scheduler wants it. */
void kvmrs_cond_resched(void);
/* Does the work that thread flags ask for before a guest entry: 0 or -EINTR. */
int xfer_to_guest_mode_handle_work(void);
/* Flushes deferred RCU wakeups on nohz_full CPUs; interrupts are off. */
void kvmrs_xfer_prepare(void);
/* Whether the machine has nohz_full CPUs. */
extern bool tick_nohz_full_running;
/* What rseq wants to know when KVM_RUN returns to user space. */
void kvmrs_rseq_userspace_exit(void);

/* Blocks the signals of `mask`, and keeps the mask of before; leave brings it back. */
void kvmrs_sigmask_enter(u64 mask);
void kvmrs_sigmask_leave(void);
/* SIGBUS to the current task for broken memory at `hva`. */
void kvmrs_send_mceerr(unsigned long hva, int shift);
/* Whether the current task has a capability, and notes that it was used. */
bool capable(int cap);
/* Gives the current task's time to the task of `pid`: > 0 done, 0 could not, -ESRCH nobody to. */
int kvmrs_yield_to(struct pid *pid);
/* The thread id of the current task as a counted pid. */
struct pid *kvmrs_current_pid(void);

/* ---- CPU state (shim/cpu.c) ---- */

/* Reads an MSR: 0, or -EIO if it does not exist. */
int kvmrs_rdmsr_safe(u32 msr, u64 *value);
/* The same of some CPU; -ENXIO if it is not online. May sleep. */
int kvmrs_rdmsr_on(unsigned int cpu, u32 msr, u64 *value);
/* Writes an MSR: 0, or -EIO if it or the value is refused. */
int kvmrs_wrmsr_safe(u32 msr, u64 value);
/* Whether the current task's FPU registers are a guest's (fpu_swap_kvm_fpstate). */
bool kvmrs_fpu_is_guest(void);
/*
 * Copies register `n` of the guest whose FPU the current task has to `m`, or from it: MM for 8
 * bytes, XMM for 16, YMM for 32. -EBUSY if the task has none, -EINVAL if the CPU lacks the
 * register, -EFAULT if an x87 exception waits (MM only).
 */
int kvmrs_fpu_vec(unsigned int n, unsigned int bytes, void *m, bool write);
/* FNINIT (0), FNSTCW (1) or FNSTSW (2) on the x87 of that guest; -EBUSY as above. */
int kvmrs_fpu_x87(int op, u16 *word);
/* Reloads the host's hardware breakpoints; interrupts are off. */
void hw_breakpoint_restore(void);
/* Whether the CPU has a bug or feature number, and alternatives have not disabled it. */
bool kvmrs_cpu_has(unsigned int bit);
/* The kernel's numbers for that, of which many are macros that bindgen does not see. */
enum {
	KVMRS_CPU_APERFMPERF = X86_FEATURE_APERFMPERF,
	KVMRS_CPU_ARAT = X86_FEATURE_ARAT,
	KVMRS_CPU_ARCH_CAPABILITIES = X86_FEATURE_ARCH_CAPABILITIES,
	KVMRS_CPU_LS_CFG_SSBD = X86_FEATURE_LS_CFG_SSBD,
	KVMRS_CPU_RTM = X86_FEATURE_RTM,
	KVMRS_CPU_SELFSNOOP = X86_FEATURE_SELFSNOOP,
	KVMRS_CPU_SPLIT_LOCK_DETECT = X86_FEATURE_SPLIT_LOCK_DETECT,
	KVMRS_CPU_TSA_FILL_NO = X86_FEATURE_TSA_FILL_NO,
	KVMRS_CPU_TSA_L1_NO = X86_FEATURE_TSA_L1_NO,
	KVMRS_CPU_TSA_SQ_NO = X86_FEATURE_TSA_SQ_NO,
	KVMRS_CPU_BUG_EIBRS_PBRSB = X86_BUG_EIBRS_PBRSB,
	KVMRS_CPU_BUG_GDS = X86_BUG_GDS,
	KVMRS_CPU_BUG_ITS = X86_BUG_ITS,
	KVMRS_CPU_BUG_MDS = X86_BUG_MDS,
	KVMRS_CPU_BUG_MELTDOWN = X86_BUG_CPU_MELTDOWN,
	KVMRS_CPU_BUG_MONITOR = X86_BUG_MONITOR,
	KVMRS_CPU_BUG_NULL_SEG = X86_BUG_NULL_SEG,
	KVMRS_CPU_BUG_RFDS = X86_BUG_RFDS,
	KVMRS_CPU_BUG_SMT_RSB = X86_BUG_SMT_RSB,
	KVMRS_CPU_BUG_SPEC_STORE_BYPASS = X86_BUG_SPEC_STORE_BYPASS,
	KVMRS_CPU_BUG_TAA = X86_BUG_TAA,
};
/* And for the words that features are in, 32 each. */
enum {
	KVMRS_WORD_1_EDX = CPUID_1_EDX,
	KVMRS_WORD_1_ECX = CPUID_1_ECX,
	KVMRS_WORD_7_EBX = CPUID_7_0_EBX,
	KVMRS_WORD_7_ECX = CPUID_7_ECX,
	KVMRS_WORD_7_EDX = CPUID_7_EDX,
	KVMRS_WORD_7_1_EAX = CPUID_7_1_EAX,
	KVMRS_WORD_D_1_EAX = CPUID_D_1_EAX,
	KVMRS_WORD_80000001_ECX = CPUID_8000_0001_ECX,
	KVMRS_WORD_80000001_EDX = CPUID_8000_0001_EDX,
	KVMRS_WORD_80000008_EBX = CPUID_8000_0008_EBX,
	KVMRS_WORD_8000000A_EDX = CPUID_8000_000A_EDX,
	KVMRS_WORD_80000021_EAX = CPUID_8000_0021_EAX,
};
/* Number of CPUs online now. */
unsigned int kvmrs_num_online_cpus(void);
/* Whether several threads of one core are, or may come, online. */
bool kvmrs_smt_possible(void);
/* The CPU's local APIC id. */
u32 kvmrs_cpu_apicid(int cpu);
/* The NUMA node of a CPU. */
int kvmrs_cpu_node(int cpu);
/* Whether the TSC is known not to be a usable clock. */
bool kvmrs_tsc_unstable(void);
/* Calls `on_user_return` when this CPU next returns to user space; atomic context. */
void user_return_notifier_register(struct user_return_notifier *urn);
void user_return_notifier_unregister(struct user_return_notifier *urn);
/* Whether this CPU's MSRs of user mode are `who`'s from now on: they have one owner at a time. */
bool kvmrs_uret_claim(const void *who);
/* They have none, if they were `who`'s. */
void kvmrs_uret_release(const void *who);
/* The host's decisions about CPU bugs that concern guests. */
extern bool itlb_multihit_kvm_mitigation;
/* Whether microcode mitigates GDS. */
bool gds_ucode_mitigated(void);

/* ---- time, work and events (shim/event.c) ---- */

/* Initialises a work item. */
void kvmrs_init_work(struct work_struct *work, void (*func)(struct work_struct *work));
/* Initialises a work item that is queued after a delay. */
void kvmrs_init_delayed_work(struct delayed_work *work, void (*func)(struct work_struct *work));
/* Makes `wait` the only receiver of an eventfd's signals; *signaled if one is pending now. */
int kvmrs_eventfd_watch(struct file *file, struct wait_queue_entry *wait, bool *signaled);
/* What the timekeeper says: a clock is offset + (base + ((tsc - last) & mask) * mult >> shift). */
struct kvmrs_clock {
	u64 cycle_last;
	u64 mask;
	u64 base;
	u64 offset;
	u32 mult;
	u32 shift;
};
struct kvmrs_gtod {
	struct kvmrs_clock mono;
	struct kvmrs_clock raw;
	s64 offs_boot;
	u64 wall_sec;
	bool tsc;
};
/*
 * Follows the timekeeper: `changed` is called inside its update, with interrupts off, `suspending` before
 * the machine is suspended.
 */
int kvmrs_gtod_start(void (*changed)(bool tsc, bool stepped), void (*suspending)(void));
/* Ends that, once it began; no call is running when this returns. */
void kvmrs_gtod_stop(void);
/* A consistent copy of the last state. */
void kvmrs_gtod_read(struct kvmrs_gtod *out);

/* ---- tracepoints (shim/trace.c) ---- */

/* What kvm_exit records. */
struct kvmrs_trace_exit {
	u64 reason;
	u64 rip;
	u64 info1;
	u64 info2;
	u32 intr_info;
	u32 error_code;
	u32 vcpu_id;
	bool svm;
};
extern struct tracepoint __tracepoint_kvm_entry;
extern struct tracepoint __tracepoint_kvm_exit;
extern struct tracepoint __tracepoint_kvm_pio;
extern struct tracepoint __tracepoint_kvm_mmio;
extern struct tracepoint __tracepoint_kvm_msr;
extern struct tracepoint __tracepoint_kvm_cpuid;
extern struct tracepoint __tracepoint_kvm_inj_virq;
extern struct tracepoint __tracepoint_kvm_page_fault;
extern struct tracepoint __tracepoint_kvm_set_irq;
extern struct tracepoint __tracepoint_kvm_msi_set_irq;
/* Each records one event; to be called while the tracepoint is on. */
void kvmrs_trace_entry(u32 vcpu_id, u64 rip);
void kvmrs_trace_exit(const struct kvmrs_trace_exit *x);
void kvmrs_trace_pio(bool write, u32 port, u32 size, u32 count, u32 val);
void kvmrs_trace_mmio(u32 type, u32 len, u64 gpa, u64 val);
void kvmrs_trace_msr(bool write, u32 index, u64 value, bool fault);
void kvmrs_trace_cpuid(u32 leaf, u32 subleaf, const u32 *regs);
void kvmrs_trace_inj_virq(u32 vector, bool soft, bool again);
void kvmrs_trace_page_fault(u32 vcpu_id, u64 rip, u64 gpa, u64 error_code);
void kvmrs_trace_set_irq(u32 gsi, int level);
void kvmrs_trace_msi(u64 address, u64 data);

/* ---- parameters (shim/params.c) ---- */

/* The module's parameters; what they mean is with their definitions. */
extern int kvmrs_param_checked;
extern bool kvmrs_param_ignore_msrs;
extern bool kvmrs_param_report_ignored_msrs;
extern unsigned int kvmrs_param_min_timer_period_us;
extern unsigned int kvmrs_param_tsc_tolerance_ppm;
extern bool kvmrs_param_enable_vmware_backdoor;
extern int kvmrs_param_force_emulation_prefix;
extern bool kvmrs_param_mitigate_smt_rsb;
extern bool kvmrs_param_lapic_timer_advance;
extern bool kvmrs_param_vector_hashing;
extern bool kvmrs_param_enable_pmu;
extern bool kvmrs_param_eager_page_split;
extern bool kvmrs_param_tdp_mmu;
extern bool kvmrs_param_mmio_caching;
extern bool kvmrs_param_flush_on_reuse;
extern bool kvmrs_param_enable_virt_at_load;
extern bool kvmrs_param_allow_unsafe_mappings;
extern unsigned int kvmrs_param_halt_poll_ns;
extern unsigned int kvmrs_param_halt_poll_ns_grow;
extern unsigned int kvmrs_param_halt_poll_ns_grow_start;
extern unsigned int kvmrs_param_halt_poll_ns_shrink;
extern unsigned int kvmrs_param_nx_huge_pages_recovery_ratio;
extern unsigned int kvmrs_param_nx_huge_pages_recovery_period_ms;
extern int kvmrs_param_pi_inject_timer;
extern int kvmrs_param_nx_huge_pages;
/* Writes to the log that an access to an MSR was ignored, as report_ignored_msrs says. */
void kvmrs_ignored_msr(bool write, u32 index, u64 data);
/* Those of the thin modules, as they are set (and, after a hand-over, in effect). */
extern struct kvmrs_svm_params kvmrs_svm_params;
extern struct kvmrs_vmx_params kvmrs_vmx_params;
/*
 * Who probes again when a thin module hands parameters over; and who hears that what nx_huge_pages says
 * has changed, or is asked whether it may go off for good. NULL: nobody. Waits for a call.
 */
void kvmrs_on_params(int (*hand_over)(int feature), int (*nx)(bool changed));

/* ---- entry (rust/virt) ---- */

#include "vmenter.h"

#endif /* KVM_RS_SHIM_H */
