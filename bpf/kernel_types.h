/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The few kernel types that the programs look into, by name.  Kept by hand instead of a generated vmlinux.h of
 * 150,000 lines: CO-RE relocates every access against the running kernel's BTF, so only the names and the fields
 * used here count, and a reader sees at once what the programs depend on.  A field that a kernel lacks makes the
 * load fail, by name. */
#ifndef KERNEL_TYPES_H
#define KERNEL_TYPES_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

typedef __u32 dev_t;
typedef __u16 umode_t;
typedef __u32 fmode_t;
typedef __u32 blk_mode_t;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct file_system_type { const char *name; int fs_flags; };
struct gendisk;
typedef struct { int counter; } atomic_t;
struct block_device { dev_t bd_dev; struct gendisk *bd_disk; atomic_t bd_openers; };
struct gendisk { struct block_device *part0; };
struct super_block { dev_t s_dev; unsigned long s_flags; struct file_system_type *s_type; struct block_device *s_bdev; };
struct dentry { struct super_block *d_sb; };
struct vfsmount { struct super_block *mnt_sb; };
struct path { struct vfsmount *mnt; struct dentry *dentry; };
struct inode { umode_t i_mode; dev_t i_rdev; unsigned long i_ino; struct super_block *i_sb; };
struct bdev_inode { struct block_device bdev; struct inode vfs_inode; }; /* block/bdev.c */
struct address_space { struct inode *host; };
struct file { fmode_t f_mode; unsigned int f_flags; struct inode *f_inode; struct address_space *f_mapping; };
struct fs_context { struct file_system_type *fs_type; struct dentry *root; const char *source; unsigned int sb_flags; };
struct fs_parameter { const char *key; char *string; };
struct blk_holder_ops;

typedef struct { unsigned long sig[1]; } sigset_t;
struct sigpending { sigset_t signal; };
struct signal_struct { struct sigpending shared_pending; };
struct ns_common { unsigned int inum; };
struct mnt_namespace { struct ns_common ns; };
struct nsproxy { struct mnt_namespace *mnt_ns; };
typedef struct { __u64 val; } kernel_cap_t;
struct user_namespace { struct user_namespace *parent; };
struct cred { kernel_cap_t cap_effective; struct user_namespace *user_ns; };
struct thread_info { __u32 status; };
struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int pid;
	int tgid;
	__u64 start_boottime;
	unsigned long jobctl;
	struct task_struct *group_leader;
	struct signal_struct *signal;
	struct sigpending pending;
	sigset_t blocked;
	struct nsproxy *nsproxy;
	const struct cred *cred;
};
struct pt_regs { unsigned long orig_ax, si, dx; };

#pragma clang attribute pop

/* include/linux/fs.h, include/uapi/linux/fs.h, include/uapi/linux/mount.h, include/uapi/linux/stat.h */
#define FMODE_WRITE 0x2
#define FS_REQUIRES_DEV 1
#define SB_RDONLY 1
#define MS_RDONLY 1
#define MS_REMOUNT 32
#define MS_BIND 4096
#define MS_MOVE 8192
#define MS_PROPAGATION ((1 << 17) | (1 << 18) | (1 << 19) | (1 << 20)) /* unbindable, private, slave, shared */
#define S_IFMT 0170000
#define S_IFCHR 0020000
#define S_IFBLK 0060000
#define O_ACCMODE 3
#define O_EXCL 0200
#define BLK_OPEN_WRITE (1 << 1) /* include/linux/blkdev.h */

#define CAP_SYS_ADMIN 21 /* include/uapi/linux/capability.h */
#define PF_IO_WORKER 0x10 /* include/linux/sched.h */
#define TS_COMPAT 2	  /* arch/x86/include/asm/thread_info.h: in a 32-bit system call */
#define X32_BIT 0x40000000

#define NSEC_PER_TICK 10000000 /* USER_HZ is 100 on every architecture: include/asm-generic/param.h */

#define EPERM 1
#define EINTR 4
#define EAGAIN 11
#define EBUSY 16
#define ERESTARTSYS 512 /* include/linux/errno.h */

#define BLKSSZGET 0x1268 /* include/uapi/linux/fs.h */

#define LOOP_MAJOR 7 /* include/uapi/linux/major.h, loop.h */
#define LOOP_SET_FD 0x4C00
#define LOOP_CLR_FD 0x4C01
#define LOOP_CHANGE_FD 0x4C06
#define LOOP_CONFIGURE 0x4C0A
#define DM_CONTROL_DEV ((10 << 20) | 236) /* MISC_MAJOR, MAPPER_CTRL_MINOR: include/linux/miscdevice.h */
#define DM_IOCTL 0xfd			  /* include/uapi/linux/dm-ioctl.h */
#define DM_TABLE_LOAD_CMD 9
#define NR_WRITE 1
#define NR_IOCTL 16 /* arch/x86/entry/syscalls/syscall_64.tbl */
#define NR_FSCONFIG 431
#define FSCONFIG_CMD_CREATE 6 /* include/uapi/linux/mount.h */

#endif
