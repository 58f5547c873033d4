/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All tables.  Hash tables are preallocated: a sleeping program may hold a pointer to its own element, and no
 * memory is asked for in a hook. */
#ifndef MAPS_H
#define MAPS_H

#include "kernel_types.h"
#include "enforcer.h"
#include <bpf/bpf_helpers.h>

#define TABLE(name_, type_, entries_, key_, value_)                                                              \
	struct {                                                                                                 \
		__uint(type, type_);                                                                             \
		__uint(max_entries, entries_);                                                                   \
		__type(key, key_);                                                                               \
		__type(value, value_);                                                                           \
	} name_ SEC(".maps")

struct enf_fstype_key { char name[ENF_FSTYPE_BYTES]; };

TABLE(config, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_config);
TABLE(selves, BPF_MAP_TYPE_ARRAY, ENF_SELVES, __u32, struct enf_self);	/* one element per writer */
TABLE(stats, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_stats);
TABLE(deadline, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_deadline);
TABLE(guard, BPF_MAP_TYPE_HASH, 32768, __u32, struct enf_guard);	/* by dev_t */
TABLE(ledger, BPF_MAP_TYPE_HASH, 32768, __u32, struct enf_ledger);	/* by dev_t */
TABLE(uses, BPF_MAP_TYPE_HASH, 32768, __u64, struct enf_use);		/* by struct file * */
TABLE(supers, BPF_MAP_TYPE_HASH, 8192, __u64, struct enf_super);	/* by struct super_block * */
TABLE(fstypes, BPF_MAP_TYPE_HASH, 1024, struct enf_fstype_key, __u32);	/* enum enf_fs_handling */
TABLE(tasks, BPF_MAP_TYPE_HASH, 8192, __u32, struct enf_task);		/* by TID: cgroup/dev has no task storage */
TABLE(asks, BPF_MAP_TYPE_HASH, 4096, __u32, struct enf_ask);		/* by TID */
TABLE(params, BPF_MAP_TYPE_LRU_HASH, 1024, __u64, struct enf_params);	/* by struct fs_context * */
TABLE(blank_params, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_params);
TABLE(blank_ask, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_ask);		/* zeroes; too large for the stack */
TABLE(blank_task, BPF_MAP_TYPE_ARRAY, 1, __u32, struct enf_task);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

static __always_inline struct enf_config *the_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&config, &zero);
}

static __always_inline struct enf_stats *the_stats(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&stats, &zero);
}

#define COUNT(field_)                                                                                            \
	do {                                                                                                     \
		struct enf_stats *s_ = the_stats();                                                              \
		if (s_)                                                                                          \
			__sync_fetch_and_add(&s_->field_, 1);                                                    \
	} while (0)

static __always_inline __u64 new_intent(void)
{
	struct enf_stats *s = the_stats();

	return s ? __sync_fetch_and_add(&s->next_intent, 1) + 1 : 0;
}

static __always_inline __u64 node_deadline_ns(void)
{
	__u32 zero = 0;
	struct enf_deadline *d = bpf_map_lookup_elem(&deadline, &zero);

	return d ? d->deadline_ns : 0;
}

static __always_inline struct enf_ledger *ledger_of(__u32 dev)
{
	struct enf_ledger *l = bpf_map_lookup_elem(&ledger, &dev), none = {};

	if (l)
		return l;
	bpf_map_update_elem(&ledger, &dev, &none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&ledger, &dev);
}

#endif
