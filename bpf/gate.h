/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Gate: the hooks that sleep until the daemon has answered; the only places from which a lease can be acquired. */
#ifndef GATE_H
#define GATE_H

#include "verdict.h"

static __always_inline __u32 fs_handling(const char *name)
{
	struct enf_fstype_key key = {};
	__u32 *how;

	__builtin_memcpy(&key, name, sizeof(key));
#pragma unroll
	for (int i = 0; i < ENF_FSTYPE_BYTES; i++) /* "fuse.sshfs" is type fuse: get_fs_type(), fs/filesystems.c */
		if (key.name[i] == '.' || (i && !key.name[i - 1]))
			key.name[i] = 0;
	how = bpf_map_lookup_elem(&fstypes, &key);
	return how ? *how : 0;
}

static __always_inline void remember_gate(__u64 intent, bool no_answer)
{
	struct enf_task *t = this_task_made();

	if (!t)
		return;
	t->gate_intent = intent;
	t->gate_no_answer = no_answer;
}

static __always_inline void leave_permit(struct enf_ask *a, __u64 intent, __u32 dev, __u32 flags)
{
	struct enf_task *t = this_task_made();

	if (!t)
		return;
	t->permit_intent = intent;
	t->permit_ns = bpf_ktime_get_boot_ns();
	t->permit_dev = dev;
	t->permit_flags = flags;
	__builtin_memcpy(t->permit_fstype, a->fstype, sizeof(t->permit_fstype));
}

/* CAP_SYS_ADMIN in the initial user namespace, which every mount of a block device takes. */
static __always_inline bool may_mount_devices(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();

	return !BPF_CORE_READ(me, cred, user_ns, parent) && BPF_CORE_READ(me, cred, cap_effective.val) & 1ULL << CAP_SYS_ADMIN;
}

SEC("lsm.s/sb_mount")
int BPF_PROG(gate_sb_mount, const char *dev_name, const struct path *path, const char *type, unsigned long flags, void *data, int ret)
{
	struct enf_task *t;
	struct enf_ask *a;
	__u32 how;
	int error = 0, answer;
	long n;

	if (ret)
		return ret; /* another module has refused already */
	if (!enforcing())
		return 0; /* switched off by the administrator */
	t = this_task();
	if (t)
		t->depth = t->open_depth = 0; /* what an earlier, skipped note has left behind */
	if (!may_mount_devices())
		return 0; /* the kernel refuses a device to it by itself (mount_capable, fs/super.c): no lease for the asking */
	if (flags & (MS_REMOUNT | MS_BIND | MS_MOVE | MS_PROPAGATION))
		return 0; /* no new superblock: nothing new touches a disk */
	if (!type)
		return 0; /* the kernel answers EINVAL itself (do_new_mount, fs/namespace.c) */
	a = new_ask(ENF_OP_SB_MOUNT);
	if (!a)
		return 0; /* no room to ask: sb_alloc_security and the guard stand behind this hook */
	bpf_probe_read_kernel_str(a->fstype, sizeof(a->fstype), type);
	how = fs_handling(a->fstype);
	if (how == ENF_FS_PASS) {
		COUNT(passed_types);
		leave_permit(a, 0, 0, ENF_PERMIT_PASS);
		drop_ask();
		return 0; /* a type that touches no device, and no rule names it */
	}
	n = bpf_probe_read_kernel_str(a->source, sizeof(a->source), dev_name);
	a->flags = (n == sizeof(a->source) ? ENF_ASK_SOURCE_CUT : 0) | (flags & MS_RDONLY ? ENF_ASK_READ_ONLY : 0);
	if (data && bpf_probe_read_kernel_str(a->options, sizeof(a->options), data) == sizeof(a->options))
		a->flags |= ENF_ASK_OPTIONS_CUT;
	a->mount_flags = flags;
	if (bpf_d_path((struct path *)path, a->target, sizeof(a->target)) < 0)
		a->target[0] = 0; /* too long: its tail must not pass for the whole */
	answer = put_ask(a);
	if (answer == INTERRUPTED) {
		error = interrupted();
	} else if (answer == NO_ANSWER) {
		error = how == ENF_FS_ASK_DENY_DEAD ? -EBUSY : 0; /* 0: the guard refuses guarded devices by itself */
		report_no_answer(a, error);
		if (!error)
			leave_permit(a, a->intent, 0, ENF_PERMIT_NO_ANSWER);
	} else {
		error = a->reply.verdict;
		if (!error)
			leave_permit(a, a->reply.intent, a->reply.dev, a->reply.flags & ENF_REPLY_CLUSTER ? ENF_PERMIT_CLUSTER : 0);
	}
	drop_ask();
	return bounded(error); /* 0: permitted, and the guard checks the dev_t again */
}

static __always_inline bool permit_fresh(struct enf_task *t)
{
	return t->permit_ns && bpf_ktime_get_boot_ns() - t->permit_ns < 60000000000ULL;
}

static __always_inline bool take_permit(struct enf_task *t, struct enf_frame *f)
{
	bool dead = t->permit_flags & ENF_PERMIT_NO_ANSWER;
	bool same = permit_fresh(t) && (dead || t->permit_dev == f->dev);

#pragma unroll
	for (int i = 0; i < ENF_FSTYPE_BYTES / 8; i++)
		if (((__u64 *)t->permit_fstype)[i] != ((__u64 *)f->fstype)[i])
			same = false;
	if (same) {
		f->intent = t->permit_intent;
		f->flags |= ENF_FRAME_ASKED | (dead ? ENF_FRAME_NO_ANSWER : 0) |
			    (t->permit_flags & ENF_PERMIT_CLUSTER ? ENF_FRAME_CLUSTER : 0);
	}
	t->permit_ns = 0;
	return same;
}

static __always_inline bool early_usable(struct enf_frame *f)
{
	if (f->early_used > ENF_EARLY)
		return false; /* more than can be followed */
#pragma unroll
	for (__u32 i = 0; i < ENF_EARLY; i++)
		if (i < f->early_used && !usable(f->early[i], false))
			return false;
	return true;
}

SEC("lsm.s/sb_alloc_security")
int BPF_PROG(gate_sb_alloc, struct super_block *sb, int ret)
{
	struct enf_task *t = this_task();
	struct enf_frame *f = top_frame(t);
	struct enf_config *c;
	struct fs_context *fc;
	struct enf_ask *a;
	bool has_dev, permitted;
	int error, answer;
	__u32 how;
	long n;

	if (ret)
		return ret; /* another module has refused already */
	if (!enforcing())
		return 0; /* switched off by the administrator */
	if (!t || !f) {
		if (t && permit_fresh(t)) {
			t->permit_ns = 0;
			return 0; /* its note was skipped, but sb_mount has asked; the guard checks each dev_t */
		}
		COUNT(notes_skipped);
		c = the_config();
		if (c && !c->types_asked)
			return 0; /* its note was skipped: the guard claims, and refuses, every device without a lease */
		return -EAGAIN; /* perhaps a type that a rule names: this one try fails, the next will do */
	}
	has_dev = f->fs_flags & FS_REQUIRES_DEV;
	how = fs_handling(f->fstype);
	if (!has_dev && how != ENF_FS_ASK && how != ENF_FS_ASK_DENY_DEAD) {
		COUNT(passed_types);
		t->permit_ns = 0;
		f->flags |= ENF_FRAME_ASKED;
		return 0; /* a type that touches no device, and no rule names it; should it open one, the guard is strict */
	}
	permitted = take_permit(t, f);
	if (f->refused)
		return bounded(f->refused); /* the guard has refused one of its devices, and said so */
	if (permitted) {
		if (!early_usable(f))
			return -EBUSY; /* it has opened a device that is not leased; the guard could not refuse it yet */
		return 0; /* sb_mount has asked for this very mount; the guard checks each dev_t */
	}
	a = new_ask(ENF_OP_SB_ALLOC);
	if (!a) {
		f->flags |= ENF_FRAME_ASKED;
		return has_dev ? 0 : -EBUSY; /* no room to ask: the guard decides, and where there is none, refuse */
	}
	fc = (void *)f->fc;
	f->intent = a->intent;
	__builtin_memcpy(a->fstype, f->fstype, sizeof(a->fstype));
	n = bpf_probe_read_kernel_str(a->source, sizeof(a->source), BPF_CORE_READ(fc, source));
	a->dev = f->dev;
	a->arg = f->fc;
	a->flags = (n == sizeof(a->source) ? ENF_ASK_SOURCE_CUT : 0) | (has_dev ? ENF_ASK_REQUIRES_DEV : 0) |
		   (f->flags & ENF_FRAME_READ_ONLY ? ENF_ASK_READ_ONLY : 0) | (f->flags & ENF_FRAME_OPENED ? ENF_ASK_OPENED : 0);
	answer = put_ask(a);
	error = answer == ANSWERED ? a->reply.verdict : answer == INTERRUPTED ? -EINTR : 0;
	if (answer == ANSWERED) {
		f->intent = a->reply.intent;
		f->flags |= a->reply.flags & ENF_REPLY_CLUSTER ? ENF_FRAME_CLUSTER : 0;
	}
	if (answer == NO_ANSWER) {
		f->flags |= ENF_FRAME_NO_ANSWER;
		if (!has_dev && how == ENF_FS_ASK_DENY_DEAD)
			error = -EBUSY;
		report_no_answer(a, error);
	}
	drop_ask();
	f->flags |= ENF_FRAME_ASKED;
	if (!error && !early_usable(f))
		error = -EBUSY; /* it has opened a device that is not leased; the guard could not refuse it yet */
	error = bounded(error);
	if (!error)
		return 0; /* permitted, or left to the guard, which knows each dev_t */
	f->refused = error;
	if (!has_dev || f->flags & ENF_FRAME_OPENED)
		return bounded(error); /* no device open follows that could carry the errno: the caller sees ENOMEM */
	return 0; /* noted: the guard delivers the errno at the device open, before anything is read */
}

SEC("lsm.s/file_open")
int BPF_PROG(gate_file_open, struct file *file, int ret)
{
	bool write = file->f_mode & FMODE_WRITE, exclusive = file->f_flags & O_EXCL;
	struct enf_config *c = the_config();
	struct enf_guard *g;
	struct enf_ask *a;
	__u32 dev, state, audit;
	int error, answer;
	bool counted, cluster;
	struct enf_task *t;

	if (ret)
		return ret; /* another module has refused already */
	if ((file->f_inode->i_mode & S_IFMT) != S_IFBLK || !c)
		return 0; /* not a block device (the table of one element is always there) */
	if (!write && !exclusive && (file->f_flags & O_ACCMODE) != O_ACCMODE)
		return 0; /* a plain read claims nothing */
	if (!write && is_self())
		return 0; /* the daemon's own look whether a device is still claimed */
	dev = file->f_inode->i_rdev;
	/* counted before it is judged: the daemon says CLOSING first and reads the count then, so one of both sees the
	 * other; a refused file is uncounted when it is freed */
	counted = count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);
	if (!c->enforce)
		return 0; /* switched off by the administrator */
	g = bpf_map_lookup_elem(&guard, &dev);
	state = g ? g->state : ENF_UNKNOWN;
	audit = g ? g->flags & ENF_GUARD_AUDIT : 0;
	if (state == ENF_UNGUARDED)
		return 0; /* no rule speaks of it, or the system lives on it */
	if (!counted && !audit)
		return -EBUSY; /* no room to count it: a lease might go while it is open */
	if (g && live(g) && enf_covers(g->flags, false))
		return 0; /* the lease is ours already */
	a = new_ask(ENF_OP_FILE_OPEN);
	if (!a)
		return audit ? 0 : -EBUSY; /* no room to ask for a guarded device */
	a->dev = dev;
	a->flags = (write ? 0 : ENF_ASK_READ_ONLY) | (exclusive ? ENF_ASK_EXCLUSIVE : 0);
	answer = put_ask(a);
	if (answer == INTERRUPTED) {
		error = interrupted();
	} else if (answer == NO_ANSWER) {
		if (audit || (state == ENF_UNKNOWN && c->unknown_allow))
			error = 0; /* the policy lets it pass without an answer */
		else if (state == ENF_UNKNOWN)
			error = -EAGAIN; /* nobody has said yet what this device is */
		else
			error = g && g->error ? g->error : -EBUSY;
		report_no_answer(a, error);
	} else {
		error = a->reply.verdict;
		cluster = a->reply.flags & ENF_REPLY_CLUSTER;
		t = cluster && !error ? this_task_made() : NULL;
		if (t)
			t->heartbeat_dev = dev;
		if (!error && !usable(dev, cluster))
			error = -EBUSY; /* the permit came too late: what it stood for has been given back since */
	}
	drop_ask();
	return bounded(error); /* 0: permitted, under a lease that this count keeps */
}

static __always_inline void forget_identity(__u32 dev)
{
	struct enf_event *e;

	bpf_map_delete_elem(&guard, &dev);
	e = new_event(ENF_EV_DEVICE_CHANGED);
	if (!e)
		return;
	e->dev = dev;
	bpf_ringbuf_submit(e, 0);
}

static __always_inline void note_loop(struct file *file, unsigned int cmd)
{
	__u32 dev = file->f_inode->i_rdev;

	if ((file->f_inode->i_mode & S_IFMT) != S_IFBLK || dev >> 20 != LOOP_MAJOR)
		return;
	if (cmd == LOOP_SET_FD || cmd == LOOP_CHANGE_FD || cmd == LOOP_CONFIGURE || cmd == LOOP_CLR_FD)
		forget_identity(dev); /* what lies below is about to change: unknown until classified again */
}

/* How many have a device open, for the daemon that looks: exact where counts of ours may be left over. */
static __always_inline void note_openers(struct file *file)
{
	__u32 dev = file->f_inode->i_rdev;
	struct inode *inode = file->f_mapping->host;
	struct block_device *bdev = (void *)inode - bpf_core_field_offset(struct bdev_inode, vfs_inode);
	struct enf_ledger *l = ledger_of(dev);

	if (!l)
		return;
	l->openers = BPF_CORE_READ(bdev, bd_openers.counter);
	l->looks++;
}

SEC("lsm.s/file_ioctl")
int BPF_PROG(gate_file_ioctl, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	struct enf_task *t;
	struct enf_ask *a;
	int error = 0, answer;

	if (ret)
		return ret; /* another module has refused already */
	note_loop(file, cmd);
	if (cmd == BLKSSZGET && (file->f_inode->i_mode & S_IFMT) == S_IFBLK && is_self())
		note_openers(file);
	if ((file->f_inode->i_mode & S_IFMT) != S_IFCHR || file->f_inode->i_rdev != DM_CONTROL_DEV)
		return 0; /* neither loop nor device-mapper */
	if ((cmd >> 8 & 0xff) != DM_IOCTL || (cmd & 0xff) != DM_TABLE_LOAD_CMD)
		return 0; /* only a table load opens lower devices (drivers/md/dm-ioctl.c) */
	t = this_task();
	if (t)
		t->open_depth = t->carrier_arg = 0; /* what an earlier load, or a skipped mark, has left behind */
	if (!enforcing())
		return 0; /* switched off by the administrator */
	a = new_ask(ENF_OP_FILE_IOCTL);
	if (!a)
		return 0; /* no room to ask: the guard refuses each lower device without a live lease */
	a->cmd = cmd;
	a->arg = arg;
	answer = put_ask(a);
	if (answer == INTERRUPTED)
		error = interrupted();
	else if (answer == NO_ANSWER)
		report_no_answer(a, 0); /* the guard refuses each lower device without a live lease */
	else
		error = a->reply.verdict;
	remember_gate(a->intent, answer == NO_ANSWER);
	t = this_task();
	if (t && answer == ANSWERED && !error && a->reply.flags & ENF_REPLY_CARRIER)
		t->carrier_arg = arg;
	drop_ask();
	return bounded(error); /* 0: permitted; the guard checks each lower device */
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(gate_file_ioctl_compat, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	if (ret)
		return ret; /* another module has refused already */
	note_loop(file, cmd);
	return 0; /* cannot sleep, so cannot ask: a 32-bit table load works under a lease that is live, or not at all */
}

#endif
