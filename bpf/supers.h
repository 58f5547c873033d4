/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Superblocks: none on a guarded device is handed out, attached or made writable without a live lease. */
#ifndef SUPERS_H
#define SUPERS_H

#include "ledger.h"

/* A superblock on a guarded device without a live lease is neither handed out nor attached. */
static __always_inline int check_superblock(struct super_block *sb)
{
	struct block_device *bdev = BPF_CORE_READ(sb, s_bdev);
	struct enf_guard *g;
	__u32 dev;

	if (!bdev || !enforcing())
		return 0; /* no device of its own: the gate has judged it */
	dev = BPF_CORE_READ(bdev, bd_dev);
	g = bpf_map_lookup_elem(&guard, &dev);
	if (!g || g->state == ENF_UNGUARDED || g->state == ENF_UNKNOWN || g->flags & ENF_GUARD_AUDIT || live(g))
		return 0; /* unguarded, only watched, or ours; an unknown one could not have been opened */
	alarm(ENF_ALARM_UNLEASED_SUPERBLOCK, dev);
	return bounded(g->error ? g->error : -EBUSY);
}

SEC("lsm.s/sb_kern_mount")
int BPF_PROG(check_kern_mount, struct super_block *sb, int ret)
{
	struct enf_task *t = this_task();
	int late;

	if (ret)
		return ret; /* another module has refused already */
	if (t && t->late_refusal) {
		late = t->late_refusal;
		t->late_refusal = 0;
		drop_idle_task(t);
		alarm(ENF_ALARM_REFUSED_BUT_MOUNTED, 0);
		return bounded(late); /* refused, but it joined a live superblock */
	}
	return check_superblock(sb);
}

SEC("lsm/move_mount")
int BPF_PROG(check_move_mount, const struct path *from_path, const struct path *to_path, int ret)
{
	if (ret)
		return ret; /* another module has refused already */
	return check_superblock(BPF_CORE_READ(from_path, mnt, mnt_sb));
}

SEC("lsm.s/sb_remount")
int BPF_PROG(check_remount, struct super_block *sb, void *mnt_opts, int ret)
{
	if (ret)
		return ret; /* another module has refused already */
	if (!(sb->s_flags & SB_RDONLY))
		return 0; /* it is writable already: a remount takes away or changes nothing that matters */
	return check_superblock(sb); /* s_umount is held: the table decides, nobody is asked */
}

SEC("lsm.s/sb_umount")
int BPF_PROG(note_umount, struct vfsmount *mnt, int flags, int ret)
{
	struct super_block *sb = mnt->mnt_sb;
	struct block_device *bdev = BPF_CORE_READ(sb, s_bdev);
	struct enf_guard *g;
	struct enf_event *e;
	__u32 dev;

	if (ret)
		return ret; /* another module has refused already */
	if (!bdev)
		return 0; /* no device of its own */
	dev = BPF_CORE_READ(bdev, bd_dev);
	g = bpf_map_lookup_elem(&guard, &dev);
	if (!g || g->state == ENF_UNGUARDED)
		return 0; /* nothing of ours */
	e = new_event(ENF_EV_UMOUNT);
	if (e) {
		e->dev = dev;
		e->intent = new_intent();
		e->mode = flags;
		bpf_probe_read_kernel_str(e->fstype, sizeof(e->fstype), BPF_CORE_READ(sb, s_type, name));
		bpf_ringbuf_submit(e, 0);
	}
	return 0; /* an umount is never refused for want of an answer */
}

SEC("lsm/sb_free_security")
int BPF_PROG(note_super_gone, struct super_block *sb)
{
	__u64 key = (__u64)sb;
	struct enf_super *s = bpf_map_lookup_elem(&supers, &key);
	__u32 dev;

	if (!s)
		return 0; /* never mounted, or without a device */
	dev = s->dev;
	bpf_map_delete_elem(&supers, &key);
	report_use(ENF_EV_SB_GONE, dev, 0, key, false);
	return 0;
}

#endif
