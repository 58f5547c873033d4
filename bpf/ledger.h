/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Ledger: what is in use, so that a lease outlives the use.  Counted by struct file, in hooks that cannot be skipped. */
#ifndef LEDGER_H
#define LEDGER_H

#include "verdict.h"

static __always_inline void report_use(__u32 kind, __u32 dev, __u32 mode, __u64 file, bool holder)
{
	struct enf_event *e = new_event(kind);

	if (!e)
		return; /* counted as lost; user space reads the ledger itself, an event only wakes it */
	e->dev = dev;
	e->mode = mode;
	e->object = file;
	e->flags = holder ? ENF_EVENT_HOLDER : 0;
	bpf_ringbuf_submit(e, 0);
}

SEC("lsm/file_free_security")
int BPF_PROG(uncount_file, struct file *file)
{
	__u64 key = (__u64)file;
	struct enf_use *use = bpf_map_lookup_elem(&uses, &key);
	struct enf_ledger *l;
	__u32 dev, mode;
	bool holder;

	if (!use)
		return 0; /* not a file that was counted */
	dev = use->dev;
	mode = use->mode;
	holder = use->has_holder;
	if (bpf_map_delete_elem(&uses, &key))
		return 0; /* it was counted once, so it is uncounted once */
	l = bpf_map_lookup_elem(&ledger, &dev);
	if (l && __sync_fetch_and_add(&l->uses, -1) <= 1)
		report_use(ENF_EV_USE_END, dev, mode, key, holder);
	return 0;
}

SEC("fentry/bdev_add")
int BPF_PROG(forget_at_birth, struct block_device *bdev, dev_t dev)
{
	__u32 number = dev, disk;
	struct block_device *whole = BPF_CORE_READ(bdev, bd_disk, part0);
	struct enf_guard *g, inherited = {};

	bpf_map_delete_elem(&guard, &number); /* a reused number has no identity: born unknown */
	if (whole && whole != bdev) {
		disk = BPF_CORE_READ(whole, bd_dev);
		g = bpf_map_lookup_elem(&guard, &disk);
		if (g) {
			inherited = *g;
			inherited.token = 0;
			if (inherited.state == ENF_LIVE || inherited.state == ENF_CLOSING)
				inherited.state = ENF_FREE; /* the disk's lease is not the partition's: a gate asks */
			bpf_map_update_elem(&guard, &number, &inherited, BPF_ANY);
		}
	}
	report_use(ENF_EV_DEVICE_ADDED, number, 0, 0, false);
	return 0;
}

#endif
