/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Note: what a mount is about, per task and nesting level.  Tracing programs, so they never sleep and may be
 * skipped; see enforcer.bpf.c for why that is safe. */
#ifndef NOTE_H
#define NOTE_H

#include "task.h"

/* A name of up to eight characters as one number. */
#define WORD(a, b, c, d, e, f, g, h)                                                                             \
	((__u64)a | (__u64)b << 8 | (__u64)c << 16 | (__u64)d << 24 | (__u64)e << 32 | (__u64)f << 40 |         \
	 (__u64)g << 48 | (__u64)h << 56)

SEC("fentry/vfs_get_tree")
int BPF_PROG(note_get_tree, struct fs_context *fc)
{
	struct enf_task *t = this_task_made();
	struct enf_frame *f;
	__u64 name;
	__u32 i;

	if (!t)
		return 0; /* strict mode is on */
	if (!t->depth)
		t->late_refusal = 0; /* of an earlier mount that nobody came to undo */
	i = t->depth++;
	if (i >= ENF_FRAMES) {
		become_strict(ENF_ALARM_NESTED_TOO_DEEP);
		return 0;
	}
	barrier_var(i);
	f = &t->frames[i & (ENF_FRAMES - 1)];
	__builtin_memset(f, 0, sizeof(*f));
	f->fc = (__u64)fc;
	f->fs_flags = fc->fs_type->fs_flags;
	f->flags = fc->sb_flags & SB_RDONLY ? ENF_FRAME_READ_ONLY : 0;
	bpf_probe_read_kernel_str(f->fstype, sizeof(f->fstype), fc->fs_type->name);
	name = *(__u64 *)f->fstype;
	if (name == WORD('b', 't', 'r', 'f', 's', 0, 0, 0) || name == WORD('b', 'c', 'a', 'c', 'h', 'e', 'f', 's'))
		f->flags |= ENF_FRAME_OPENS_EARLY;
	return 0;
}

SEC("fexit/lookup_bdev")
int BPF_PROG(note_lookup, const char *pathname, dev_t *dev, int ret)
{
	struct enf_frame *f = top_frame(this_task());

	if (f && !ret && !f->dev)
		bpf_probe_read_kernel(&f->dev, sizeof(f->dev), dev);
	return 0;
}

SEC("fexit/vfs_get_tree")
int BPF_PROG(note_got_tree, struct fs_context *fc, int ret)
{
	struct enf_task *t = this_task();
	struct enf_frame *f = top_frame(t);
	struct enf_super made = {};
	struct super_block *sb;
	struct enf_event *e;
	__u64 key;

	if (!t || !t->depth)
		return 0;
	if (f && f->fs_flags & FS_REQUIRES_DEV) {
		sb = ret ? NULL : BPF_CORE_READ(fc, root, d_sb);
		if (sb) {
			key = (__u64)sb;
			made.dev = BPF_CORE_READ(sb, s_bdev) ? BPF_CORE_READ(sb, s_bdev, bd_dev) : BPF_CORE_READ(sb, s_dev);
			made.since_ns = bpf_ktime_get_boot_ns();
			__builtin_memcpy(made.fstype, f->fstype, sizeof(made.fstype));
			bpf_map_update_elem(&supers, &key, &made, BPF_NOEXIST); /* facts for people; uses hold the lease */
			if (f->refused) /* it joined a superblock that was there: sb_kern_mount undoes it */
				t->late_refusal = f->refused;
		}
		e = new_event(ENF_EV_MOUNT_DONE);
		if (e) {
			e->intent = f->intent ? f->intent : new_intent();
			e->dev = made.dev ? made.dev : f->dev;
			e->error = ret;
			e->object = (__u64)sb;
			e->flags = f->flags & ENF_FRAME_ASKED ? 0 : ENF_EVENT_JOINED;
			__builtin_memcpy(e->fstype, f->fstype, sizeof(e->fstype));
			bpf_ringbuf_submit(e, 0);
		}
	}
	t->depth--;
	drop_idle_task(t);
	return 0;
}

/* Keys that name a device beyond the source: fs/xfs/xfs_super.c, fs/ext4/super.c, fs/btrfs/super.c, fs/erofs/super.c.
 * And those by which a cluster filesystem is mounted without its cluster: fs/gfs2/ops_fstype.c, fs/ocfs2/super.c. */
static __always_inline bool matters(const char *key)
{
	__u64 word, second;

	__builtin_memcpy(&word, key, 8);
	__builtin_memcpy(&second, key + 8, 8);

	return (word == WORD('l', 'o', 'g', 'd', 'e', 'v', 0, 0) && !second) ||
	       (word == WORD('r', 't', 'd', 'e', 'v', 0, 0, 0) && !second) ||
	       (word == WORD('d', 'e', 'v', 'i', 'c', 'e', 0, 0) && !second) ||
	       (word == WORD('d', 'e', 'g', 'r', 'a', 'd', 'e', 'd') && !second) ||
	       word == WORD('l', 'o', 'c', 'k', 'p', 'r', 'o', 't') || word == WORD('l', 'o', 'c', 'k', 't', 'a', 'b', 'l') ||
	       word == WORD('h', 'o', 's', 't', 'd', 'a', 't', 'a') || word == WORD('n', 'o', 'c', 'l', 'u', 's', 't', 'e') ||
	       word == WORD('h', 'e', 'a', 'r', 't', 'b', 'e', 'a') ||
	       (word == WORD('j', 'o', 'u', 'r', 'n', 'a', 'l', '_'));
}

static __always_inline void keep_param(__u64 fc, struct fs_parameter *param)
{
	struct enf_params *p = bpf_map_lookup_elem(&params, &fc), *blank;
	struct enf_param *slot;
	__u32 zero = 0, at;

	if (!p) {
		blank = bpf_map_lookup_elem(&blank_params, &zero);
		if (!blank || bpf_map_update_elem(&params, &fc, blank, BPF_NOEXIST))
			return; /* not kept: the guard refuses a device that nobody leased */
		p = bpf_map_lookup_elem(&params, &fc);
		if (!p)
			return;
	}
	at = p->used++;
	if (at >= ENF_PARAMS)
		return; /* user space sees that there were more */
	barrier_var(at);
	slot = &p->slots[at & (ENF_PARAMS - 1)];
	bpf_probe_read_kernel_str(slot->key, sizeof(slot->key), param->key);
	if (bpf_probe_read_kernel_str(slot->value, sizeof(slot->value), param->string) == sizeof(slot->value))
		p->used = ENF_PARAMS + 1; /* cut: as good as too many */
}

SEC("lsm/fs_context_parse_param")
int BPF_PROG(note_param, struct fs_context *fc, struct fs_parameter *param, int ret)
{
	char key[16] = {};

	bpf_probe_read_kernel_str(key, sizeof(key), param->key);
	if (matters(key))
		keep_param((__u64)fc, param);
	return 0; /* no opinion: the hook's own default, -ENOPARAM, follows (bpf_lsm_fs_context_parse_param) */
}

SEC("fentry/put_fs_context")
int BPF_PROG(forget_params, struct fs_context *fc)
{
	__u64 key = (__u64)fc;

	bpf_map_delete_elem(&params, &key); /* skipped: a later context here asks for a device too many */
	return 0;
}

SEC("lsm/task_free")
int BPF_PROG(note_task_gone, struct task_struct *task)
{
	__u32 tid = BPF_CORE_READ(task, pid);
	struct enf_task *t = bpf_map_lookup_elem(&tasks, &tid);

	if (!t || t->start_ns != BPF_CORE_READ(task, start_boottime))
		return 0;
	bpf_map_delete_elem(&tasks, &tid);
	return 0;
}

#endif
