/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What kernel programs and user space both speak: enforcer/kernel/abi.py mirrors every struct here, and a test
 * holds each offset against the BTF of the object.  Natural alignment, explicit padding, no packed structs. */
#ifndef ENFORCER_H
#define ENFORCER_H

#define ENF_ABI 8

#define ENF_PATH_BYTES 1024 /* a longer source or target is flagged, not guessed: PATH_MAX would cost 8 KiB a task */
#define ENF_FSTYPE_BYTES 32 /* longest name in /proc/filesystems is under 16 */
#define ENF_COMM_BYTES 16   /* TASK_COMM_LEN, include/linux/sched.h */
#define ENF_FRAMES 4        /* vfs_get_tree nests: btrfs subvolume, automount inside the path walk */
#define ENF_OPENS 4         /* block device opens nest: a driver's open that opens its lower device */
#define ENF_EARLY 16        /* members of one filesystem that are opened before its ask */
#define ENF_PARAMS 8        /* options of one mount that name devices; btrfs may list members */
#define ENF_SELVES 4        /* enforcerd, keeper, and their successors during an upgrade */

enum enf_op { /* which gate asks */
	ENF_OP_SB_MOUNT = 1,
	ENF_OP_SB_ALLOC = 2,
	ENF_OP_FILE_OPEN = 3,
	ENF_OP_FILE_IOCTL = 4,
};

enum enf_state { /* of one dev_t in the guard table */
	ENF_UNKNOWN = 0, /* born, or changed its identity, and not yet classified */
	ENF_FREE = 1,    /* guarded, no lease of ours: a gate must ask */
	ENF_LIVE = 2,    /* guarded, our lease is live until its deadline */
	ENF_CLOSING = 3, /* guarded, being given back: nothing new may start */
	ENF_ELSEWHERE = 4, /* guarded, known to be held by another node */
	ENF_UNGUARDED = 5, /* no rule speaks of it, or the system lives on it */
};

enum enf_guard_flag {
	ENF_GUARD_AUDIT = 1,    /* report what would have been refused, refuse nothing */
	ENF_GUARD_DEADLINE = 2, /* LIVE only while the node's deadline has not passed */
	ENF_GUARD_CLUSTER = 4,  /* LIVE for a cluster filesystem alone, which other nodes may have mounted too */
};

enum enf_fs_handling { /* value of the fstypes table */
	ENF_FS_PASS = 1,          /* can touch no device of concern: no upcall */
	ENF_FS_ASK = 2,           /* a rule names it */
	ENF_FS_ASK_DENY_DEAD = 3, /* a rule names it, and without an answer it is refused */
};

enum enf_ask_flag {
	ENF_ASK_SOURCE_CUT = 1, /* the source string did not fit */
	ENF_ASK_READ_ONLY = 2,
	ENF_ASK_REQUIRES_DEV = 4,
	ENF_ASK_EXCLUSIVE = 8, /* open with O_EXCL */
	ENF_ASK_OPTIONS_CUT = 32, /* so did not the options */
	ENF_ASK_OPENED = 16,   /* the type opened devices before it could ask (btrfs before 7.x) */
};

enum enf_event_kind {
	ENF_EV_GUARD_REFUSED = 1, /* the guard said no without, or against, an ask */
	ENF_EV_GUARD_WOULD = 2,   /* the same for a device in audit mode */
	ENF_EV_USE_BEGIN = 3, /* a file inside the kernel now has it open */
	ENF_EV_USE_END = 4, /* the last counted open of a dev_t ended */
	ENF_EV_DEVICE_ADDED = 5,
	ENF_EV_DEVICE_CHANGED = 6, /* a loop device is about to get another backing file */
	ENF_EV_MOUNT_DONE = 7,     /* vfs_get_tree returned; error holds its return value */
	ENF_EV_SB_GONE = 8,
	ENF_EV_UMOUNT = 9,
	ENF_EV_NO_ANSWER = 10, /* a gate asked and nobody answered: the fail-mode decided */
	ENF_EV_ALARM = 11,     /* something that must not happen did; mode holds enum enf_alarm */
};

enum enf_alarm {
	ENF_ALARM_TASKS_FULL = 1,
	ENF_ALARM_NO_FRAME = 2,
	ENF_ALARM_UNLEASED_SUPERBLOCK = 3,
	ENF_ALARM_USES_FULL = 4,
	ENF_ALARM_REFUSED_BUT_MOUNTED = 5,
	ENF_ALARM_NESTED_TOO_DEEP = 6,
};

enum enf_event_flag {
	ENF_EVENT_FAIL_MODE = 1, /* the intent's ask had no answer */
	ENF_EVENT_IN_MOUNT = 2,
	ENF_EVENT_WRITE = 4,
	ENF_EVENT_HOLDER = 8,
	ENF_EVENT_JOINED = 16, /* the mount found a superblock that was live already */
};

struct enf_reply { /* value of the extended attribute that answers an ask */
	__u64 nonce;
	__u64 intent; /* the intent that the answer belongs to: a restarted syscall joins its first ask */
	__s32 verdict; /* 0 or -errno */
	__u32 dev; /* sb_mount: the dev_t that the source was resolved to, or 0 */
	__u32 flags; /* enum enf_reply_flag */
	__u32 pad;
};

enum enf_reply_flag {
	ENF_REPLY_CARRIER = 1, /* table load: its opens of lower devices need no lease and are no use */
	ENF_REPLY_CLUSTER = 2, /* permitted as the mount of a cluster filesystem, or as its heartbeat */
};

struct enf_ask {
	__u64 nonce;
	__u64 intent;
	__u64 asked_ns; /* boot clock */
	__u64 start_ns; /* start of the task, boot clock: tells a reused TID apart */
	__u64 cgroup_id;
	__u64 arg; /* ioctl: user pointer; sb_alloc_security: key of its element in params */
	__u64 mount_flags;
	__u32 op;
	__u32 tid;
	__u32 tgid;
	__u32 uid;
	__u32 dev; /* 0: not known to the gate */
	__u32 cmd; /* ioctl */
	__s32 syscall_nr;
	__u32 mount_ns;
	__u32 flags;
	__u32 pad;
	char comm[ENF_COMM_BYTES];
	char fstype[ENF_FSTYPE_BYTES];
	char source[ENF_PATH_BYTES];
	char target[ENF_PATH_BYTES];
	char options[ENF_PATH_BYTES]; /* mount(2): its data */
	struct enf_reply reply;
};

struct enf_param {
	char key[16];
	char value[240];
};

struct enf_params { /* what names further devices, collected while a filesystem context is configured */
	__u32 used; /* more than ENF_PARAMS: something did not fit */
	__u32 pad;
	struct enf_param slots[ENF_PARAMS];
};

struct enf_event {
	__u64 at_ns;
	__u64 intent;
	__u64 start_ns;
	__u64 cgroup_id;
	__u64 object; /* struct file * or struct super_block *, as a key only */
	__u32 kind;
	__u32 tid;
	__u32 tgid;
	__u32 uid;
	__u32 dev;
	__u32 mode;
	__s32 error;
	__u32 state;
	__u32 flags;
	__s32 syscall_nr;
	__u32 mount_ns;
	__u32 pad;
	char comm[ENF_COMM_BYTES];
	char fstype[ENF_FSTYPE_BYTES];
};

struct enf_guard { /* written by user space, except that the kernel forgets or copies it at birth of a device */
	__u32 state;
	__u32 flags;
	__s32 error; /* -errno for a refusal */
	__u32 generation;
	__u64 token;
	__u64 resource; /* user space's own number of the resource, for people */
};

struct enf_ledger { /* written by the kernel only */
	__s64 uses;     /* files open, or about to be, for writing or with a holder */
	__s64 inflight; /* opens inside the kernel that the guard let pass and that have not returned yet */
	__u64 opened;   /* all that ever were counted */
	__u32 openers;  /* of the block device, our own look among them, when enforcerd looked last */
	__u32 looks;    /* how often it has */
};

struct enf_use {
	__u32 dev;
	__u32 mode; /* blk_mode_t */
	__u64 since_ns;
	__u32 tgid;
	__u32 has_holder;
};

struct enf_super {
	__u32 dev;
	__u32 flags;
	__u64 since_ns;
	char fstype[ENF_FSTYPE_BYTES];
};

struct enf_self {
	__u64 start_ticks; /* start on the boot clock in USER_HZ, as /proc/PID/stat shows it */
	__u32 tgid;
	__u32 pad;
};

struct enf_config {
	__u32 abi;
	__u32 anchor_pid;
	__u64 anchor_ino;
	__u32 anchor_dev;
	__u32 strict;        /* guard strict everywhere: a mark may have been missed */
	__u32 unknown_allow; /* what an unclassified device gets while nobody answers */
	__u32 enforce;       /* 0: everything passes, nothing is asked, all is counted (start, detach) */
	__u32 types_asked;   /* some type without a device is asked for */
	__u32 pad;
};

struct enf_deadline { /* written by the keeper only */
	__u64 deadline_ns; /* boot clock; 0: no session, nothing with ENF_GUARD_DEADLINE is live */
	__u64 renewed_ns;
};

struct enf_stats {
	__u64 next_intent;
	__u64 asks;
	__u64 no_answer;
	__u64 events_lost;
	__u64 guard_refused;
	__u64 alarms;
	__u64 notes_skipped; /* superblocks whose note was skipped: the guard decided alone */
	__u64 passed_types; /* superblocks of types that pass without an upcall */
};

struct enf_frame { /* one vfs_get_tree of one task */
	__u64 fc;
	__u64 intent;
	__u32 dev; /* from lookup_bdev */
	__u32 fs_flags;
	__u32 flags;
	__s32 refused; /* -errno to be delivered at the device open */
	char fstype[ENF_FSTYPE_BYTES];
	__u32 early[ENF_EARLY]; /* devices that were opened before the ask */
	__u32 early_used;
	__u32 pad;
};

enum enf_frame_flag {
	ENF_FRAME_ASKED = 1,
	ENF_FRAME_OPENED = 2, /* a device was opened before the ask */
	ENF_FRAME_NO_ANSWER = 4,
	ENF_FRAME_READ_ONLY = 8,
	ENF_FRAME_OPENS_EARLY = 16, /* a type that may open its members before it can ask */
	ENF_FRAME_CLUSTER = 32, /* permitted as the mount of a cluster filesystem */
};

enum enf_permit_flag {
	ENF_PERMIT_PASS = 2, /* a type that passes without an ask */
	ENF_PERMIT_CLUSTER = 4, /* of a cluster filesystem */
	ENF_PERMIT_NO_ANSWER = 1, /* sb_mount asked and nobody answered: the guard decides */
};

struct enf_open { /* one open of a block device inside the kernel, of one task */
	__u32 claim;
	__u32 dev; /* counted in flight for this dev_t, or 0 */
};

struct enf_task {
	__u64 start_ns;
	__u32 depth;
	__u32 open_depth;
	struct enf_frame frames[ENF_FRAMES];
	struct enf_open opens[ENF_OPENS];
	__u64 permit_intent; /* left by sb_mount for the sb_alloc_security of the same mount(2) */
	__u64 permit_ns;
	__u32 permit_dev;
	__u32 permit_flags;
	char permit_fstype[ENF_FSTYPE_BYTES];
	__u64 carrier_arg; /* user pointer of the table load that was answered with ENF_REPLY_CARRIER */
	__u64 gate_intent; /* last gate of this task, so that the guard's refusal joins its record */
	__s32 late_refusal;
	__u32 gate_no_answer;
	__u32 heartbeat_dev; /* o2cb: this task was let open it for writing only to hand it to the heartbeat; or 0 */
	__u32 pad;
};

#endif
