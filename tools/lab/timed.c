// SPDX-License-Identifier: GPL-2.0-or-later
/* How long single system calls take, one line each: nanoseconds, errno (0: it worked).
 *
 *   timed mount    N SOURCE DIR TYPE   mount(2); what it mounted is unmounted outside the time
 *   timed getxattr N FILE NAME         fgetxattr(2)
 *
 * Exit: 0 it was tried N times, 2 it could not be tried. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/xattr.h>
#include <time.h>

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int main(int argc, char **argv)
{
	int mounts = argc == 6 && !strcmp(argv[1], "mount"), fd = -1;
	char value[64];

	if (!mounts && (argc != 5 || strcmp(argv[1], "getxattr") || (fd = open(argv[3], O_RDONLY)) < 0)) {
		fprintf(stderr, "usage: timed mount N SOURCE DIR TYPE | timed getxattr N FILE NAME (%s)\n", strerror(errno));
		return 2;
	}
	for (int left = atoi(argv[2]); left > 0; left--) {
		long long began = now(), ended;
		int failed;

		errno = 0;
		if (mounts)
			failed = mount(argv[3], argv[4], argv[5], 0, NULL) ? errno : 0;
		else
			failed = fgetxattr(fd, argv[4], value, sizeof(value)) < 0 ? errno : 0;
		ended = now();
		printf("%lld %d\n", ended - began, failed);
		if (mounts && !failed && umount2(argv[4], 0)) {
			perror("umount2");
			return 2;
		}
	}
	return 0;
}
