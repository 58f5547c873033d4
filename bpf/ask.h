/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The upcall: read one extended attribute of the anchor's executable.  That file lives on a FUSE mount that
 * enforcerd serves, so the read is the question and its value the verdict.  Nothing that goes wrong here ever
 * permits: every failure is "no answer", and the caller's fail-mode decides. */
#ifndef ASK_H
#define ASK_H

#include "task.h"

extern int bpf_get_file_xattr(struct file *file, const char *name__str, struct bpf_dynptr *value_p) __ksym;
extern struct task_struct *bpf_task_from_pid(__s32 pid) __ksym;
extern void bpf_task_release(struct task_struct *p) __ksym;
extern struct file *bpf_get_task_exe_file(struct task_struct *task) __ksym;
extern void bpf_put_file(struct file *file) __ksym;

enum { ANSWERED = 0, NO_ANSWER = 1, INTERRUPTED = 2 };

static __always_inline struct enf_ask *new_ask(__u32 op)
{
	__u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct task_struct *me = (void *)bpf_get_current_task();
	struct enf_ask *blank = bpf_map_lookup_elem(&blank_ask, &zero), *a;
	struct pt_regs *regs;

	if (!blank || bpf_map_update_elem(&asks, &tid, blank, BPF_ANY))
		return NULL;
	a = bpf_map_lookup_elem(&asks, &tid);
	if (!a)
		return NULL;
	a->op = op;
	a->nonce = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32();
	a->intent = new_intent();
	a->asked_ns = bpf_ktime_get_boot_ns();
	a->tid = tid;
	a->tgid = bpf_get_current_pid_tgid() >> 32;
	a->uid = bpf_get_current_uid_gid();
	a->start_ns = BPF_CORE_READ(me, start_boottime);
	a->mount_ns = BPF_CORE_READ(me, nsproxy, mnt_ns, ns.inum);
	a->cgroup_id = bpf_get_current_cgroup_id();
	regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	a->syscall_nr = BPF_CORE_READ(regs, orig_ax);
	bpf_get_current_comm(a->comm, sizeof(a->comm));
	return a;
}

static __always_inline void drop_ask(void)
{
	__u32 tid = bpf_get_current_pid_tgid();

	bpf_map_delete_elem(&asks, &tid);
}

/* Sleeps.  Returns ANSWERED with the verdict in a->reply, or says why there is none.  A function of its own, so that
 * the dynptr has a stack frame of its own: the verifier lets nothing else use its slot. */
static __noinline int put_ask(struct enf_ask *a)
{
	struct enf_config *c = the_config();
	struct task_struct *anchor;
	struct bpf_dynptr value;
	struct file *exe;
	int len = -EPERM;

	COUNT(asks);
	if (!c || !c->anchor_pid)
		return NO_ANSWER;
	anchor = bpf_task_from_pid(c->anchor_pid);
	if (!anchor)
		return NO_ANSWER;
	exe = bpf_get_task_exe_file(anchor);
	if (exe) {
		/* a reused pid runs another file: then nobody is asked */
		if (BPF_CORE_READ(exe, f_inode, i_ino) == c->anchor_ino &&
		    BPF_CORE_READ(exe, f_inode, i_sb, s_dev) == c->anchor_dev) {
			bpf_dynptr_from_mem(&a->reply, sizeof(a->reply), 0, &value);
			len = bpf_get_file_xattr(exe, "user.enforcer.ask", &value);
		}
		bpf_put_file(exe);
	}
	bpf_task_release(anchor);
	if (len == sizeof(a->reply) && a->reply.nonce == a->nonce && a->reply.verdict <= 0 && a->reply.verdict >= -4095)
		return ANSWERED;
	return len == -EINTR ? INTERRUPTED : NO_ANSWER;
}

/* -ERESTARTSYS only while a signal is really pending, else 512 would reach the caller: the kernel turns it into a
 * restart or into EINTR on the way through arch_do_signal_or_restart().  jobctl holds stop and freezer traps. */
static __always_inline int interrupted(void)
{
	struct task_struct *me = (void *)bpf_get_current_task();
	unsigned long pending = BPF_CORE_READ(me, pending.signal.sig[0]) | BPF_CORE_READ(me, signal, shared_pending.signal.sig[0]);

	pending &= ~BPF_CORE_READ(me, blocked.sig[0]);
	return pending || BPF_CORE_READ(me, jobctl) ? -ERESTARTSYS : -EINTR;
}

static __always_inline void report_no_answer(struct enf_ask *a, int error)
{
	struct enf_event *e;

	COUNT(no_answer);
	e = new_event(ENF_EV_NO_ANSWER);
	if (!e)
		return;
	e->intent = a->intent;
	e->dev = a->dev;
	e->error = error;
	e->mode = a->op;
	e->syscall_nr = a->syscall_nr;
	__builtin_memcpy(e->fstype, a->fstype, sizeof(e->fstype));
	bpf_ringbuf_submit(e, 0);
}

#endif
