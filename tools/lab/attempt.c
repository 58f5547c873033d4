// SPDX-License-Identifier: GPL-2.0-or-later
/* One attempt to use a device by the plain system calls, without mount(8)'s politeness:
 *
 *   attempt mount    DEV DIR TYPE [ro]                mount(2)
 *   attempt fsconfig DEV DIR TYPE [ro | KEY=VALUE]    fsopen, fsconfig, fsmount, move_mount
 *   attempt open     DEV                              open(2) for writing
 *   attempt swapon   DEV                              swapon(2)
 *
 * Prints "ok" or the name of the step and the errno, so that a refusal can be told from another failure.
 * Exit: 0 it was allowed, 1 it was refused with EBUSY, 2 it could not be tried, 3 it failed with another errno. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SET_FLAG = 0, SET_STRING = 1, CMD_CREATE = 6, MOVE_EMPTY_PATH = 4 }; /* include/uapi/linux/mount.h */

static int outcome(const char *step, int error)
{
	if (!error) {
		puts("ok");
		return 0;
	}
	printf("%s: errno %d (%s)\n", step, error, strerror(error));
	return error == EBUSY ? 1 : 3;
}

static int new_api(const char *dev, const char *dir, const char *type, char *option)
{
	int fs = syscall(SYS_fsopen, type, 0), mnt, ro = !strcmp(option, "ro");
	char *value = strchr(option, '=');

	if (fs < 0)
		return outcome("fsopen", errno) ? 2 : 2;
	if (syscall(SYS_fsconfig, fs, SET_STRING, "source", dev, 0))
		return outcome("fsconfig source", errno);
	if (ro && syscall(SYS_fsconfig, fs, SET_FLAG, "ro", NULL, 0))
		return outcome("fsconfig ro", errno);
	if (value)
		*value++ = 0;
	if (value && syscall(SYS_fsconfig, fs, SET_STRING, option, value, 0))
		return outcome("fsconfig option", errno);
	if (syscall(SYS_fsconfig, fs, CMD_CREATE, NULL, NULL, 0))
		return outcome("fsconfig create", errno);
	mnt = syscall(SYS_fsmount, fs, 0, ro ? 1 : 0);
	if (mnt < 0)
		return outcome("fsmount", errno);
	if (syscall(SYS_move_mount, mnt, "", AT_FDCWD, dir, MOVE_EMPTY_PATH))
		return outcome("move_mount", errno);
	return outcome("", 0);
}

int main(int argc, char **argv)
{
	int ro = argc > 5 && !strcmp(argv[5], "ro");

	if (argc > 4 && !strcmp(argv[1], "mount"))
		return outcome("mount", mount(argv[2], argv[3], argv[4], ro ? MS_RDONLY : 0, NULL) ? errno : 0);
	if (argc > 4 && !strcmp(argv[1], "fsconfig"))
		return new_api(argv[2], argv[3], argv[4], argc > 5 ? argv[5] : "");
	if (argc > 2 && !strcmp(argv[1], "open"))
		return outcome("open", open(argv[2], O_WRONLY) < 0 ? errno : 0);
	if (argc > 2 && !strcmp(argv[1], "swapon"))
		return outcome("swapon", swapon(argv[2], 0) ? errno : 0);
	fprintf(stderr, "usage: attempt mount|fsconfig DEV DIR TYPE [ro | KEY=VALUE] | attempt open|swapon DEV\n");
	return 2;
}
