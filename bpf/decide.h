/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guard's decision as a pure function, so that it can be compiled for the host and held against its model in
 * enforcer/kernel/decide.py: same inputs, same answer. */
#ifndef DECIDE_H
#define DECIDE_H

#include "enforcer.h"

enum enf_decision {
	ENF_PASS = 0,
	ENF_REFUSE = 1,
	ENF_WOULD_REFUSE = 2,
	ENF_PASS_BEFORE_ASK = 3, /* passes now, the ask of the same mount follows before anything is written */
};

struct enf_question {
	__u32 state;
	__u32 guard_flags;
	__u64 now_ns;
	__u64 deadline_ns;
	__u32 claim;	 /* write, holder, or any open inside a mount */
	__u32 in_mount;
	__u32 asked;	 /* in_mount: sb_alloc_security has been answered */
	__u32 refused;	 /* in_mount: and the answer was no */
	__u32 unknown_allow;
	__u32 early;	 /* in_mount: of a type that may open before it can ask */
	__u32 cluster;	 /* the open of a cluster filesystem that was permitted as such */
	__u32 pad;
};

static inline __attribute__((always_inline)) int enf_live(__u32 state, __u32 guard_flags, __u64 now_ns, __u64 deadline_ns)
{
	if (state != ENF_LIVE)
		return 0;
	return !(guard_flags & ENF_GUARD_DEADLINE) || now_ns < deadline_ns;
}

/* A lease that other nodes may have too covers what works under their common lock manager, and nothing else. */
static inline __attribute__((always_inline)) int enf_covers(__u32 guard_flags, __u32 cluster)
{
	return !(guard_flags & ENF_GUARD_CLUSTER) || cluster;
}

static inline __attribute__((always_inline)) int enf_decide(const struct enf_question *q)
{
	if (q->in_mount && q->refused)
		return ENF_REFUSE; /* the verdict was no: this open is where the caller hears of it */
	if (!q->claim)
		return ENF_PASS; /* a plain read harms nobody: blkid and udev do it all day */
	if (q->state == ENF_UNGUARDED)
		return ENF_PASS; /* no rule speaks of it, or the system lives on it */
	if (enf_live(q->state, q->guard_flags, q->now_ns, q->deadline_ns) && enf_covers(q->guard_flags, q->cluster))
		return ENF_PASS; /* the lease is ours and its deadline has not passed */
	if (q->in_mount && q->early && !q->asked && q->state != ENF_ELSEWHERE)
		return ENF_PASS_BEFORE_ASK; /* btrfs before 7.x: sb_alloc_security checks all of them after the ask */
	if (q->state == ENF_UNKNOWN && q->unknown_allow)
		return ENF_PASS; /* the policy says so: unknown = "allow" */
	if (q->guard_flags & ENF_GUARD_AUDIT)
		return ENF_WOULD_REFUSE; /* the rule only watches */
	return ENF_REFUSE; /* guarded and no live lease of ours */
}

#endif
