/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What every hook that may refuse stands on: is the gate in force, is it ourselves, is the lease live. */
#ifndef VERDICT_H
#define VERDICT_H

#include "ask.h"
#include "decide.h"

/* The verifier wants to see [-4095, 0]; what lies outside is nonsense and refuses. */
static __always_inline int bounded(int error)
{
	long e = error;

	barrier_var(e);
	if (e > 0 || e < -4095)
		return -EPERM;
	return e;
}

static __always_inline bool enforcing(void)
{
	struct enf_config *c = the_config();

	return c && c->enforce;
}

static __always_inline bool is_self(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 start_ticks = BPF_CORE_READ(me, group_leader, start_boottime) / NSEC_PER_TICK;

#pragma unroll
	for (__u32 i = 0; i < ENF_SELVES; i++) {
		__u32 slot = i;
		struct enf_self *s = bpf_map_lookup_elem(&selves, &slot);

		if (s && s->tgid == tgid && s->start_ticks == start_ticks)
			return true;
	}
	return false;
}

/* After an answer the table is asked once more: a permit that waited for its caller may be old. */
static __always_inline bool usable(__u32 dev, bool cluster)
{
	struct enf_guard *g = bpf_map_lookup_elem(&guard, &dev);
	struct enf_config *c = the_config();

	if (!g)
		return c && c->unknown_allow;
	if (g->state == ENF_UNGUARDED || g->flags & ENF_GUARD_AUDIT)
		return true;
	if (!enf_covers(g->flags, cluster))
		return false;
	return enf_live(g->state, g->flags, bpf_ktime_get_boot_ns(), node_deadline_ns());
}

static __always_inline bool live(const struct enf_guard *g)
{
	return enf_live(g->state, g->flags, bpf_ktime_get_boot_ns(), node_deadline_ns());
}

#endif
