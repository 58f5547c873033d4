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

	if (!t->depth && !t->open_depth && !t->permit_ns && !t->late_refusal && !t->gate_dev)
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

/* A gate has let this task through to dev: the lease must not go before the open has ended. */
static __always_inline void hold_for_open(__u32 dev)
{
	struct enf_task *t = this_task_made();

	if (!t)
		return;
	if (t->gate_dev)
		add_inflight(t->gate_dev, -1); /* an earlier open never came to its end (fanotify refused it, say) */
	t->gate_dev = dev;
	add_inflight(dev, 1);
}

static __always_inline int push_open(__u32 claim, __u32 dev)
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
	if (dev && t->gate_dev == dev) {
		t->opens[i].dev = dev; /* counted already by hold_for_open() */
		t->gate_dev = 0;
	}
	return 0;
}

static __always_inline int pop_open(void)
{
	struct enf_task *t = this_task();
	struct enf_open *o;

	if (!t || !t->open_depth)
		return 0;
	o = top_open(t);
	if (o && o->dev)
		add_inflight(o->dev, -1);
	t->open_depth--;
	drop_idle_task(t);
	return 0;
}

#endif
