// SPDX-License-Identifier: GPL-2.0-or-later
/* A writer past every cache: opens a device, or a file that it makes, and writes stamps until it is told to end.
 *
 *   stamp PATH NODE PATIENCE_MS PERIOD_MS COUNT
 *
 * Tries to open for so long as it is patient, then writes a block of 4 KiB that says who wrote it and which one it is,
 * each PERIOD_MS, COUNT of them or (0) until SIGTERM. Never below 1 MiB, where labels and superblocks are.
 * Prints "open" once it is. Exit: 0 it ended as told, 1 it was refused (the errno is printed), 4 a write failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, SLOTS = 512, FIRST = 256 };
static volatile sig_atomic_t told;

static void end(int number)
{
	(void)number;
	told = 1;
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int main(int argc, char **argv)
{
	static char block[BLOCK] __attribute__((aligned(BLOCK)));
	struct sigaction action = { .sa_handler = end };
	long until, period, count, seq;
	struct stat st;
	int fd, flags;

	if (argc != 6)
		return 2;
	sigaction(SIGTERM, &action, NULL);
	until = now_ms() + atol(argv[3]);
	period = atol(argv[4]);
	count = atol(argv[5]);
	flags = O_RDWR | O_DIRECT | (stat(argv[1], &st) ? O_CREAT : 0);
	while ((fd = open(argv[1], flags, 0600)) < 0) {
		if (now_ms() > until || told) {
			printf("refused: errno %d (%s)\n", errno, strerror(errno));
			return 1;
		}
		pause_ms(200);
	}
	puts("open");
	fflush(stdout);
	for (seq = 0; !told && (!count || seq < count); seq++) {
		off_t at = (off_t)(FIRST + seq % SLOTS) * BLOCK;

		memset(block, 0, BLOCK);
		snprintf(block, BLOCK, "%s %ld\n", argv[2], seq);
		if (pwrite(fd, block, BLOCK, at) != BLOCK) {
			printf("write: errno %d (%s)\n", errno, strerror(errno));
			return 4;
		}
		if (period)
			pause_ms(period);
	}
	return 0;
}
