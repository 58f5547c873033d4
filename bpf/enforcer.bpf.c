// SPDX-License-Identifier: GPL-2.0-or-later
/* The kernel half of mount-enforcer: one object, attached whole or not at all.
 *
 *   note    fentry/fexit vfs_get_tree, fexit lookup_bdev     what a mount is about, per task and nesting level
 *   gate    lsm.s sb_mount, sb_alloc_security, file_open,    sleeps until the daemon has answered; the only place
 *           file_ioctl                                       from which a lease can be acquired
 *   guard   cgroup/dev, fentry/fexit bdev_file_open_by_dev   knows exact dev_t, never sleeps, trusts only the table
 *   ledger  file_open, file_free_security, superblocks       what is in use, so that a lease outlives the use
 *
 * A tracing program that is preempted makes the same program be skipped for the next task on that CPU (seen on 6.18,
 * within seconds).  So no refusal and no count hangs on one alone: claims by files are judged and counted in LSM
 * hooks, opens inside the kernel are counted by the guard before a mark may correct it, and a mark that was skipped
 * leaves a count too high or one try refused, never the other way.  sb_alloc_security's own error
 * would reach the caller as ENOMEM, so its refusal is noted and delivered by the guard at the device open. */
#include "ask.h"
#include "decide.h"

char LICENSE[] SEC("license") = "GPL";

const struct enf_event *abi_event __attribute__((unused)); /* keeps the ring buffer's record in the BTF */

/* ---- note ---------------------------------------------------------------------------------------------- */

SEC("fentry/vfs_get_tree")
int BPF_PROG(note_get_tree, struct fs_context *fc)
{
	struct enf_task *t = this_task_made();
	struct enf_frame *f;
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

/* The verifier wants to see [-4095, 0]; what lies outside is nonsense and refuses. */
static __always_inline int bounded(int error)
{
	long e = error;

	barrier_var(e);
	if (e > 0 || e < -4095)
		return -EPERM;
	return e;
}

/* ---- gate ---------------------------------------------------------------------------------------------- */

static __always_inline bool enforcing(void)
{
	struct enf_config *c = the_config();

	return c && c->enforce;
}

static __always_inline bool is_self(void)
{
	struct enf_config *c = the_config();
	struct task_struct *me = (void *)bpf_get_current_task();
	__u32 tgid = bpf_get_current_pid_tgid() >> 32;
	__u64 start_ticks = BPF_CORE_READ(me, group_leader, start_boottime) / NSEC_PER_TICK;

	if (!c)
		return false;
#pragma unroll
	for (int i = 0; i < ENF_SELVES; i++)
		if (c->selves[i].tgid == tgid && c->selves[i].start_ticks == start_ticks)
			return true;
	return false;
}

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
		drop_ask();
		return 0; /* a type that touches no device, and no rule names it */
	}
	n = bpf_probe_read_kernel_str(a->source, sizeof(a->source), dev_name);
	a->flags = (n == sizeof(a->source) ? ENF_ASK_SOURCE_CUT : 0) | (flags & MS_RDONLY ? ENF_ASK_READ_ONLY : 0);
	a->mount_flags = flags;
	bpf_d_path((struct path *)path, a->target, sizeof(a->target));
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
			leave_permit(a, a->reply.intent, a->reply.dev, 0);
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
		f->flags |= ENF_FRAME_ASKED | (dead ? ENF_FRAME_NO_ANSWER : 0);
	}
	t->permit_ns = 0;
	return same;
}

SEC("lsm.s/sb_alloc_security")
int BPF_PROG(gate_sb_alloc, struct super_block *sb, int ret)
{
	struct enf_task *t = this_task();
	struct enf_frame *f = top_frame(t);
	struct fs_context *fc;
	struct enf_ask *a;
	int error, answer;
	bool has_dev;
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
		alarm(ENF_ALARM_NO_FRAME, 0);
		return -EAGAIN; /* its note was skipped and nobody was asked: this one try fails, the next will do */
	}
	has_dev = f->fs_flags & FS_REQUIRES_DEV;
	how = fs_handling(f->fstype);
	if (!has_dev && how != ENF_FS_ASK && how != ENF_FS_ASK_DENY_DEAD) {
		COUNT(passed_types);
		f->flags |= ENF_FRAME_ASKED;
		return 0; /* a type that touches no device, and no rule names it; should it open one, the guard is strict */
	}
	if (take_permit(t, f)) {
		if (f->flags & ENF_FRAME_NO_ANSWER && f->flags & ENF_FRAME_OPENED)
			return -EBUSY; /* nobody answered, and its devices are open already: the guard cannot decide */
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
	a->flags = (n == sizeof(a->source) ? ENF_ASK_SOURCE_CUT : 0) | (has_dev ? ENF_ASK_REQUIRES_DEV : 0) |
		   (f->flags & ENF_FRAME_READ_ONLY ? ENF_ASK_READ_ONLY : 0) | (f->flags & ENF_FRAME_OPENED ? ENF_ASK_OPENED : 0);
	answer = put_ask(a);
	error = answer == ANSWERED ? a->reply.verdict : answer == INTERRUPTED ? -EINTR : 0;
	if (answer == ANSWERED)
		f->intent = a->reply.intent;
	if (answer == NO_ANSWER) {
		f->flags |= ENF_FRAME_NO_ANSWER;
		if (!has_dev && how == ENF_FS_ASK_DENY_DEAD)
			error = -EBUSY;
		else if (f->flags & ENF_FRAME_OPENED)
			error = -EBUSY; /* its devices are open already, so the guard cannot be the one to decide */
		report_no_answer(a, error);
	}
	drop_ask();
	f->flags |= ENF_FRAME_ASKED;
	error = bounded(error);
	if (!error)
		return 0; /* permitted, or left to the guard, which knows each dev_t */
	f->refused = error;
	if (!has_dev || f->flags & ENF_FRAME_OPENED)
		return bounded(error); /* no device open follows that could carry the errno: the caller sees ENOMEM */
	return 0; /* noted: the guard delivers the errno at the device open, before anything is read */
}

static __always_inline bool live(const struct enf_guard *g)
{
	return enf_live(g->state, g->flags, bpf_ktime_get_boot_ns(), node_deadline_ns());
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
	count_file(file, dev, write ? BLK_OPEN_WRITE : 0, exclusive);
	if (!c->enforce)
		return 0; /* switched off by the administrator */
	g = bpf_map_lookup_elem(&guard, &dev);
	state = g ? g->state : ENF_UNKNOWN;
	audit = g ? g->flags & ENF_GUARD_AUDIT : 0;
	if (state == ENF_UNGUARDED)
		return 0; /* no rule speaks of it, or the system lives on it */
	if (g && live(g))
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

SEC("lsm.s/file_ioctl")
int BPF_PROG(gate_file_ioctl, struct file *file, unsigned int cmd, unsigned long arg, int ret)
{
	struct enf_ask *a;
	int error = 0, answer;

	if (ret)
		return ret; /* another module has refused already */
	note_loop(file, cmd);
	if ((file->f_inode->i_mode & S_IFMT) != S_IFCHR || file->f_inode->i_rdev != DM_CONTROL_DEV)
		return 0; /* neither loop nor device-mapper */
	if ((cmd >> 8 & 0xff) != DM_IOCTL || (cmd & 0xff) != DM_TABLE_LOAD_CMD)
		return 0; /* only a table load opens lower devices (drivers/md/dm-ioctl.c) */
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

/* ---- ledger: events ------------------------------------------------------------------------------------ */

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

/* ---- guard --------------------------------------------------------------------------------------------- */

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
	__u32 access = ctx->access_type >> 16, dev = ctx->major << 20 | ctx->minor;
	struct enf_config *c = the_config();
	struct enf_question q = {};
	struct enf_frame *f;
	struct enf_guard *g;
	struct enf_task *t;
	struct enf_open *o;
	int error, what;

	if ((ctx->access_type & 0xffff) != BPF_DEVCG_DEV_BLOCK || !(access & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)))
		return 1; /* not a block device, or only the making of a node */
	if (!c || !c->enforce)
		return 1; /* switched off by the administrator */
	t = this_task();
	o = top_open(t);
	f = top_frame(t);
	if (!o && !f && !c->strict && opens_files())
		return 1; /* a file is opened or looked at: the file_open hook judges, and counts, every claim */
	if (!(access & BPF_DEVCG_ACC_WRITE) && !f && is_self())
		return 1; /* the daemon's own look whether a device is still claimed */
	g = bpf_map_lookup_elem(&guard, &dev);
	q.state = g ? g->state : ENF_UNKNOWN;
	q.guard_flags = g ? g->flags : 0;
	q.now_ns = bpf_ktime_get_boot_ns();
	q.deadline_ns = node_deadline_ns();
	q.in_mount = !!f;
	q.claim = f || (o && o->claim) || access & BPF_DEVCG_ACC_WRITE; /* unmarked reads: inotify and the like */
	q.asked = f && f->flags & ENF_FRAME_ASKED;
	q.refused = f && f->refused;
	q.unknown_allow = c->unknown_allow;
	what = enf_decide(&q);
	if (what == ENF_WOULD_REFUSE && !(f && q.asked && !(f->flags & ENF_FRAME_NO_ANSWER)))
		report_guard(ENF_EV_GUARD_WOULD, dev, &q, t, f, 0, access & BPF_DEVCG_ACC_WRITE);
	if (what == ENF_PASS_BEFORE_ASK && f)
		f->flags |= ENF_FRAME_OPENED;
	if (what != ENF_REFUSE) {
		if (q.claim && (!o || !o->dev)) {
			add_inflight(dev, 1);
			if (o)
				o->dev = dev;
		}
		return 1; /* argued in enf_decide() */
	}
	error = q.refused ? f->refused : q.state == ENF_UNKNOWN ? -EAGAIN : g && g->error ? g->error : -EBUSY;
	COUNT(guard_refused);
	if (!q.refused)
		report_guard(ENF_EV_GUARD_REFUSED, dev, &q, t, f, error, access & BPF_DEVCG_ACC_WRITE);
	bpf_set_retval(bounded(error));
	return 0;
}

/* ---- ledger -------------------------------------------------------------------------------------------- */

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
