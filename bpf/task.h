/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one task is in the middle of: nested vfs_get_tree calls, nested block device opens, and the permit that
 * sb_mount left for the superblock of the same mount(2).  If the table is full, marks would be lost and the guard
 * would take a real open for a permission check: then it becomes strict everywhere and raises an alarm. */
#ifndef TASK_H
#define TASK_H

#include "maps.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

static __always_inline __u64 task_start_ns(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();

	return BPF_CORE_READ(me, start_boottime);
}

static __always_inline struct enf_event *new_event(__u32 kind)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	struct enf_event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	__u64 id = bpf_get_current_pid_tgid();

	if (!e) {
		COUNT(events_lost);
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->kind = kind;
	e->at_ns = bpf_ktime_get_boot_ns();
	e->tid = id;
	e->tgid = id >> 32;
	e->uid = bpf_get_current_uid_gid();
	e->start_ns = BPF_CORE_READ(me, start_boottime);
	e->mount_ns = BPF_CORE_READ(me, nsproxy, mnt_ns, ns.inum);
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	return e;
}

static __always_inline void alarm(__u32 what, __u32 dev)
{
	struct enf_event *e = new_event(ENF_EV_ALARM);

	COUNT(alarms);
	if (!e)
		return;
	e->mode = what;
	e->dev = dev;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void become_strict(__u32 why)
{
	struct enf_config *c = the_config();

	if (c)
		c->strict = 1;
	alarm(why, 0);
}

static __always_inline struct enf_task *this_task(void)
{
	__u32 tid = bpf_get_current_pid_tgid();
	struct enf_task *t = bpf_map_lookup_elem(&tasks, &tid);

	return t && t->start_ns == task_start_ns() ? t : NULL;
}

static __always_inline struct enf_task *this_task_made(void)
{
	__u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct enf_task *t = this_task(), *blank;

	if (t)
		return t;
	blank = bpf_map_lookup_elem(&blank_task, &zero);
	if (!blank || bpf_map_update_elem(&tasks, &tid, blank, BPF_ANY)) {
		become_strict(ENF_ALARM_TASKS_FULL);
		return NULL;
	}
	t = bpf_map_lookup_elem(&tasks, &tid);
	if (t)
		t->start_ns = task_start_ns();
	return t;
}

static __always_inline void drop_idle_task(struct enf_task *t)
{
	__u32 tid = bpf_get_current_pid_tgid();

	if (!t->depth && !t->open_depth && !t->permit_ns && !t->late_refusal && !t->carrier_arg && !t->heartbeat_dev)
		bpf_map_delete_elem(&tasks, &tid);
}

static __always_inline struct enf_frame *top_frame(struct enf_task *t)
{
	__u32 i;

	if (!t || !t->depth || t->depth > ENF_FRAMES)
		return NULL;
	i = t->depth - 1;
	barrier_var(i); /* keep the bound where the verifier sees it */
	return &t->frames[i & (ENF_FRAMES - 1)];
}

static __always_inline struct enf_open *top_open(struct enf_task *t)
{
	__u32 i;

	if (!t || !t->open_depth || t->open_depth > ENF_OPENS)
		return NULL;
	i = t->open_depth - 1;
	barrier_var(i);
	return &t->opens[i & (ENF_OPENS - 1)];
}

static __always_inline void add_inflight(__u32 dev, __s64 n)
{
	struct enf_ledger *l = ledger_of(dev);

	if (l)
		__sync_fetch_and_add(&l->inflight, n);
}

static __always_inline int push_open(__u32 claim)
{
	struct enf_task *t = this_task_made();
	__u32 i;

	if (!t)
		return 0;
	i = t->open_depth++;
	if (i >= ENF_OPENS) {
		become_strict(ENF_ALARM_NESTED_TOO_DEEP);
		return 0;
	}
	barrier_var(i);
	i &= ENF_OPENS - 1;
	t->opens[i].claim = claim;
	t->opens[i].dev = 0;
	return 0;
}

/* One more open file of a device.  The count goes up first: if the file cannot be kept, the count stays up for ever,
 * and so does the lease. */
static __always_inline bool count_file(struct file *file, __u32 dev, __u32 mode, bool holder)
{
	struct enf_use use = { .dev = dev, .mode = mode, .has_holder = holder };
	struct enf_ledger *l = ledger_of(dev);
	__u64 key = (__u64)file;

	if (!l) {
		alarm(ENF_ALARM_USES_FULL, dev);
		return false;
	}
	__sync_fetch_and_add(&l->uses, 1);
	__sync_fetch_and_add(&l->opened, 1);
	use.since_ns = bpf_ktime_get_boot_ns();
	use.tgid = bpf_get_current_pid_tgid() >> 32;
	if (bpf_map_update_elem(&uses, &key, &use, BPF_NOEXIST))
		alarm(ENF_ALARM_USES_FULL, dev);
	return true;
}

/* True in an fsconfig(2) that sets an option, which is every command before FSCONFIG_CMD_CREATE. */
static __always_inline bool sets_option(void)
{
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());

	return BPF_CORE_READ(regs, orig_ax) == NR_FSCONFIG && (__u32)BPF_CORE_READ(regs, si) < FSCONFIG_CMD_CREATE;
}

/* True in the very table load that the daemon has called a carrier's: multipath has every path open for writing on
 * every node for ever.  Nothing is written through it that does not come by the map, and that is guarded itself. */
static __always_inline bool loads_carrier(struct enf_task *t)
{
	struct pt_regs *regs;

	if (!t || !t->carrier_arg)
		return false;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return BPF_CORE_READ(regs, orig_ax) == NR_IOCTL && (BPF_CORE_READ(regs, si) & 0xff) == DM_TABLE_LOAD_CMD &&
	       (BPF_CORE_READ(regs, si) >> 8 & 0xff) == DM_IOCTL && BPF_CORE_READ(regs, dx) == t->carrier_arg;
}

/* True while mount.ocfs2 hands the heartbeat its device: a write(2) to configfs (o2hb_region_dev_store(),
 * fs/ocfs2/cluster/heartbeat.c) by the very task that was let open that device for nothing else. */
static __always_inline bool starts_heartbeat(struct enf_task *t, __u32 dev)
{
	struct pt_regs *regs;

	if (!t || t->heartbeat_dev != dev)
		return false;
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	return BPF_CORE_READ(regs, orig_ax) == NR_WRITE;
}

/* What this task is in the middle of, by its system call.  Opens and permission checks of files all come by the
 * file_open hook; everything else that reaches the guard is the kernel itself opening a device.  System call numbers
 * cannot be missed, which a mark set by a tracing program can: a preempted one makes the next one be skipped. */
enum { OTHER = 0, OPENS_FILES = 1, MOUNTS = 2 };

static __always_inline int syscall_class(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	struct pt_regs *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	__u32 nr = BPF_CORE_READ(regs, orig_ax);

	if (BPF_CORE_READ(me, flags) & PF_IO_WORKER)
		return OPENS_FILES;
	if (BPF_CORE_READ(me, thread_info.status) & TS_COMPAT) { /* arch/x86/entry/syscalls/syscall_32.tbl */
		switch (nr) {
		case 5: case 8: case 33: case 87: case 295: case 307: case 342: case 426: case 437: case 439:
			return OPENS_FILES; /* open creat access swapon openat faccessat open_by_handle_at io_uring_enter openat2 faccessat2 */
		case 21: case 431:
			return MOUNTS; /* mount fsconfig */
		}
		return OTHER;
	}
	switch (nr & ~X32_BIT) { /* arch/x86/entry/syscalls/syscall_64.tbl */
	case 2: case 85: case 21: case 167: case 257: case 269: case 304: case 426: case 437: case 439:
		return OPENS_FILES; /* the same, in the same order */
	case 165: case 431:
		return MOUNTS;
	}
	return OTHER;
}

#endif
