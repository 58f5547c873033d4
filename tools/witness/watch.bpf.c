/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The mount family of system calls, seen from their two ends: what was asked for, and what came of it.
 *
 * The tracepoints of every system call's entry and exit, because those of single calls do not see 32-bit programs
 * (arch_trace_is_compat_syscall, arch/x86/include/asm/ftrace.h); and by perf, which runs a program with preemption off:
 * as raw tracepoints they can be preempted (seen on 7.3), and are skipped meanwhile on that CPU (__bpf_trace_run,
 * kernel/trace/bpf_trace.c). A call of another family costs two comparisons.
 *
 * By perf a program is skipped only while the CPU is in the middle of somebody's bpf(2) (trace_call_bpf, same file).
 * Therefore either end suffices: an exit without an entry is described by the registers that it still has, and an entry
 * without an exit is passed on, its outcome unknown, once its thread makes another call.
 *
 * Compiled by BCC against tools/witness/headers, never against a kernel's: struct pt_regs and the head of struct
 * thread_info below are all that is taken from the kernel. */

struct registers { /* struct pt_regs, arch/x86/include/asm/ptrace.h: part of the ABI of ptrace(2) */
	u64 r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp, ss;
};

struct thread_head { /* struct thread_info, arch/x86/include/asm/thread_info.h: the head of struct task_struct */
	u64 flags, syscall_work;
	u32 status;
};

struct entered { /* raw_syscalls/sys_enter/format below events/ of tracefs, and sys_exit */
	u64 common;
	s64 id;
	u64 args[6];
};

struct left {
	u64 common;
	s64 id, ret;
};

#define __always_inline inline __attribute__((always_inline))
#define TS_COMPAT 2 /* this system call came by the 32-bit entry */
#define X32_BIT 0x40000000
#define TEXT 256
#define FSCONFIG_SET_STRING 1
#define SEEN_ENTRY 1
#define SEEN_EXIT 2

struct call { /* watch.py reads it by the same layout */
	u64 enter_ns, exit_ns; /* boot clock */
	u64 args[6];
	s64 ret;
	u32 tgid, tid, uid, nr; /* nr: as in the 64-bit table */
	u32 compat, unread; /* unread: bit N is set if text N could not be read */
	u32 seen, padding; /* which of its ends */
	char comm[16];
	char text[3][TEXT];
};

BPF_ARRAY(blank, struct call, 1);
BPF_HASH(running, u64, struct call, 2048);
BPF_ARRAY(lost, u64, 1);
BPF_RINGBUF_OUTPUT(calls, 512); /* pages: two thousand calls */

enum { MOUNT = 165, UMOUNT2 = 166, PIVOT_ROOT = 155, OPEN_TREE = 428, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, FSPICK,
       MOUNT_SETATTR = 442 };

static __always_inline u32 in_the_64_bit_table(u64 nr, bool compat)
{
	if (!compat)
		nr &= ~(u64)X32_BIT;
	else if (nr == 21)
		return MOUNT;
	else if (nr == 22 || nr == 52) /* umount(2) without flags, and umount2(2) */
		return UMOUNT2;
	else if (nr == 217)
		return PIVOT_ROOT;
	else if (nr < OPEN_TREE)
		return 0; /* from 403 on both tables are one */
	if (nr == MOUNT || nr == UMOUNT2 || nr == PIVOT_ROOT || nr == MOUNT_SETATTR || (nr >= OPEN_TREE && nr <= FSPICK))
		return nr;
	return 0;
}

static __always_inline bool by_the_32_bit_entry(void)
{
	u32 status = 0;

	bpf_probe_read_kernel(&status, sizeof(status), &((struct thread_head *)bpf_get_current_task())->status);
	return status & TS_COMPAT;
}

static __always_inline void count_lost(void)
{
	int zero = 0;
	u64 *count = lost.lookup(&zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

static __always_inline void read_text(struct call *c, u32 which, u64 from)
{
	if (!from)
		return; /* NULL, which the calls allow in places: an empty text */
	if (bpf_probe_read_user_str(c->text[which], TEXT, (void *)from) < 0)
		c->unread |= 1 << which;
}

/* Options of a mount may hold passwords, so neither mount(2)'s data nor any value of fsconfig(2) but the source. */
static __always_inline bool names_the_source(const char *key)
{
	return key[0] == 's' && key[1] == 'o' && key[2] == 'u' && key[3] == 'r' && key[4] == 'c' && key[5] == 'e' && !key[6];
}

static __always_inline void read_texts(struct call *c)
{
	switch (c->nr) {
	case MOUNT: /* source, target, type */
		read_text(c, 0, c->args[0]);
		read_text(c, 1, c->args[1]);
		read_text(c, 2, c->args[2]);
		break;
	case PIVOT_ROOT:
		read_text(c, 0, c->args[0]);
		read_text(c, 1, c->args[1]);
		break;
	case UMOUNT2:
	case FSOPEN:
		read_text(c, 0, c->args[0]);
		break;
	case OPEN_TREE:
	case FSPICK:
	case MOUNT_SETATTR:
		read_text(c, 0, c->args[1]);
		break;
	case MOVE_MOUNT:
		read_text(c, 0, c->args[1]);
		read_text(c, 1, c->args[3]);
		break;
	case FSCONFIG:
		read_text(c, 0, c->args[2]);
		if ((u32)c->args[1] == FSCONFIG_SET_STRING && names_the_source(c->text[0]))
			read_text(c, 1, c->args[3]);
		break;
	}
}

static __always_inline void pass_on(struct call *c)
{
	c->exit_ns = bpf_ktime_get_boot_ns();
	if (calls.ringbuf_output(c, sizeof(*c), 0))
		count_lost();
}

/* A place for the thread's call, described; NULL if there is no room. */
static __always_inline struct call *begun(u64 id, u64 raw_nr, u32 nr, bool compat)
{
	struct registers r = {};
	struct call *c;
	int zero = 0;

	c = running.lookup(&id);
	if (c)
		pass_on(c); /* its exit was skipped */
	c = blank.lookup(&zero);
	if (!c)
		return NULL;
	if (running.update(&id, c)) {
		count_lost();
		return NULL;
	}
	c = running.lookup(&id);
	if (!c)
		return NULL;
	bpf_probe_read_kernel(&r, sizeof(r), (void *)bpf_task_pt_regs(bpf_get_current_task_btf()));
	c->args[0] = compat ? (u32)r.bx : r.di;
	c->args[1] = compat ? (u32)r.cx : r.si;
	c->args[2] = compat ? (u32)r.dx : r.dx;
	c->args[3] = compat ? (u32)r.si : r.r10;
	c->args[4] = compat ? (u32)r.di : r.r8;
	c->args[5] = compat ? (u32)r.bp : r.r9;
	if (compat && raw_nr == 22)
		c->args[1] = 0; /* umount(2) has no flags */
	c->tgid = id >> 32;
	c->tid = id;
	c->uid = bpf_get_current_uid_gid();
	c->nr = nr;
	c->compat = compat;
	bpf_get_current_comm(c->comm, sizeof(c->comm));
	read_texts(c);
	return c;
}

int tracepoint__raw_syscalls__sys_enter(struct entered *ctx)
{
	bool compat = by_the_32_bit_entry();
	u32 nr = in_the_64_bit_table(ctx->id, compat);
	struct call *c;

	if (!nr)
		return 0;
	c = begun(bpf_get_current_pid_tgid(), ctx->id, nr, compat);
	if (!c)
		return 0;
	c->seen = SEEN_ENTRY;
	c->enter_ns = bpf_ktime_get_boot_ns();
	return 0;
}

int tracepoint__raw_syscalls__sys_exit(struct left *ctx)
{
	bool compat = by_the_32_bit_entry();
	u32 nr = in_the_64_bit_table(ctx->id, compat);
	u64 id = bpf_get_current_pid_tgid();
	struct call *c;

	if (!nr)
		return 0;
	c = running.lookup(&id);
	if (!c || c->nr != nr)
		c = begun(id, ctx->id, nr, compat); /* its entry was skipped, or was before the watch */
	if (!c)
		return 0;
	c->seen |= SEEN_EXIT;
	c->ret = ctx->ret;
	if (c->unread) { /* its pages were not there at the entry; the kernel has fetched them by now */
		c->unread = 0;
		read_texts(c);
	}
	pass_on(c);
	running.delete(&id);
	return 0;
}
