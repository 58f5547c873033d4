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
#include "note.h"
#include "gate.h"
#include "guard.h"
#include "ledger.h"
#include "supers.h"

char LICENSE[] SEC("license") = "GPL";

/* Every constant that user space mirrors, so that its test can read them from the BTF. */
struct enf_constants {
	enum enf_op op;
	enum enf_state state;
	enum enf_guard_flag guard_flag;
	enum enf_reply_flag reply_flag;
	enum enf_fs_handling fs_handling;
	enum enf_ask_flag ask_flag;
	enum enf_event_kind event_kind;
	enum enf_alarm alarm;
	enum enf_event_flag event_flag;
};

const struct enf_constants *abi_constants __attribute__((unused));
const struct enf_event *abi_event __attribute__((unused)); /* keeps the ring buffer's record in the BTF */
