/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Guard: knows exact device numbers, never sleeps, trusts only the table. */
#ifndef GUARD_H
#define GUARD_H

#include "ledger.h"

SEC("fentry/bdev_file_open_by_dev")
int BPF_PROG(mark_open_by_dev, dev_t dev, blk_mode_t mode, void *holder, const struct blk_holder_ops *hops)
{
	return push_open(holder || mode & BLK_OPEN_WRITE);
}

SEC("fexit/bdev_file_open_by_dev")
int BPF_PROG(unmark_open_by_dev, dev_t dev, blk_mode_t mode, void *holder, const struct blk_holder_ops *hops, struct file *ret)
{
	struct enf_task *t = this_task();
	struct enf_open *o = top_open(t);

	if (!t || !t->open_depth)
		return 0;
	if (o && o->dev) {
		if ((__u64)ret < (__u64)-4095) { /* not ERR_PTR(), include/linux/err.h */
			count_file(ret, o->dev, mode, holder);
			report_use(ENF_EV_USE_BEGIN, o->dev, mode, (__u64)ret, holder);
		}
		add_inflight(o->dev, -1); /* skipped: it stays up, and the lease with it, until user space has looked */
	}
	t->open_depth--;
	drop_idle_task(t);
	return 0;
}

static __always_inline void report_guard(__u32 kind, __u32 dev, const struct enf_question *q, struct enf_task *t, struct enf_frame *f, int error, bool write)
{
	struct enf_event *e = new_event(kind);
	bool unanswered;

	if (!e)
		return;
	e->dev = dev;
	e->error = error;
	e->state = q->state;
	unanswered = (f && f->flags & ENF_FRAME_NO_ANSWER) || (t && t->gate_no_answer);
	e->intent = unanswered ? (f && f->intent ? f->intent : t ? t->gate_intent : 0) : new_intent();
	e->flags = (f ? ENF_EVENT_IN_MOUNT : 0) | (write ? ENF_EVENT_WRITE : 0) |
		   (unanswered ? ENF_EVENT_FAIL_MODE : 0);
	if (f)
		__builtin_memcpy(e->fstype, f->fstype, sizeof(e->fstype));
	bpf_ringbuf_submit(e, 0);
}

SEC("cgroup/dev")
int guard_device(struct bpf_cgroup_dev_ctx *ctx)
{
	__u32 access = ctx->access_type >> 16, dev = ctx->major << 20 | ctx->minor, slot;
	bool write = access & BPF_DEVCG_ACC_WRITE;
	struct enf_config *c = the_config();
	struct enf_question q = {};
	struct enf_frame *f;
	struct enf_guard *g;
	struct enf_task *t;
	struct enf_open *o;
	int error, what, class;

	if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_BLOCK || !(access & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)))
		return 1; /* not a block device, or only the making of a node */
	if (!c)
		return 1; /* cannot be: a table of one element */
	t = this_task();
	o = top_open(t);
	f = top_frame(t);
	class = syscall_class();
	if (!c->strict && class == OPENS_FILES)
		return 1; /* a file is opened or looked at: the file_open hook judges, and counts, every claim; what an
			   * earlier, skipped mark has left with this thread means nothing here */
	if (!write && !f && is_self())
		return 1; /* the daemon's own look whether a device is still claimed */
	if (!f && class == MOUNTS && sets_option())
		return 1; /* fsconfig(2) names a member: btrfs reads its superblock and closes it before the call ends */
	if (!f && class == OTHER && loads_carrier(t))
		return 1; /* multipath takes a path: what uses the map is judged, and counted, by the map's own number */
	/* an unmarked read is inotify and the like, but inside a mount it is a mount whose marks were skipped */
	q.claim = f || write || (o && o->claim) || (!o && class == MOUNTS);
	if (q.claim && (!o || !o->dev)) { /* counted before it is judged, as in file_open */
		add_inflight(dev, 1);
		if (o)
			o->dev = dev;
	}
	if (!c->enforce)
		return 1; /* switched off by the administrator */
	g = bpf_map_lookup_elem(&guard, &dev);
	q.state = g ? g->state : ENF_UNKNOWN;
	q.guard_flags = g ? g->flags : 0;
	q.now_ns = bpf_ktime_get_boot_ns();
	q.deadline_ns = node_deadline_ns();
	q.in_mount = !!f;
	q.asked = f && f->flags & ENF_FRAME_ASKED;
	q.early = f && f->flags & ENF_FRAME_OPENS_EARLY;
	q.refused = f && f->refused;
	q.cluster = f ? f->flags & ENF_FRAME_CLUSTER && f->dev == dev : class == OTHER && starts_heartbeat(t, dev);
	q.unknown_allow = c->unknown_allow;
	what = enf_decide(&q);
	if (what == ENF_WOULD_REFUSE && !(f && q.asked && !(f->flags & ENF_FRAME_NO_ANSWER)))
		report_guard(ENF_EV_GUARD_WOULD, dev, &q, t, f, 0, write);
	if (what == ENF_PASS_BEFORE_ASK && f) {
		f->flags |= ENF_FRAME_OPENED;
		slot = f->early_used++;
		if (slot < ENF_EARLY) {
			barrier_var(slot);
			f->early[slot & (ENF_EARLY - 1)] = dev;
		}
	}
	if (what != ENF_REFUSE)
		return 1; /* argued in enf_decide() */
	if (q.claim && (!o || o->dev == dev)) {
		add_inflight(dev, -1);
		if (o)
			o->dev = 0;
	}
	error = q.refused ? f->refused : q.state == ENF_UNKNOWN ? -EAGAIN : g && g->error ? g->error : -EBUSY;
	COUNT(guard_refused);
	if (!q.refused)
		report_guard(ENF_EV_GUARD_REFUSED, dev, &q, t, f, error, write);
	if (f && q.early && !q.asked)
		f->refused = error; /* btrfs would go on without this member, to an ask of its own: the mount is refused */
	bpf_set_retval(bounded(error));
	return 0;
}

#endif
