// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: nothing. Out: calls of vfs_read() that take a known time, told apart from
 * all others by how much they ask for:
 *
 *	WAITING + i   reads of an empty pipe, until somebody writes to it a time
 *	              later that is in the middle of a power of two of ns
 *	WORKING       reads of zeros that keep a CPU busy, while threads that do
 *	              the same all the time want it too
 *
 * Left out: measuring.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define WAITING		70001
#define WORKING		(24u << 20)
#define WORKS		25
#define HOGS		4

/* 1.5 times 2^24, 2^25 and 2^27 ns. */
static const struct {
	long ns;
	int times;
} wait_for[] = { { 25165824, 50 }, { 50331648, 22 }, { 201326592, 8 } };

#define CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			fprintf(stderr, "spans: line %d: %s: %s\n", __LINE__,	\
				#condition, strerror(errno));			\
			exit(1);						\
		}								\
	} while (0)

static int ends[2];
static char bytes[WAITING + 8];
static atomic_int go, stop;

static void *write_later(void *unused)
{
	(void)unused;
	for (size_t i = 0; i < sizeof(wait_for) / sizeof(*wait_for); i++) {
		for (int n = 0; n < wait_for[i].times; n++) {
			struct timespec wait = { 0, wait_for[i].ns };

			while (!atomic_exchange(&go, 0))
				usleep(100);
			CHECK(!nanosleep(&wait, NULL));
			CHECK(write(ends[1], "x", 1) == 1);
		}
	}
	return NULL;
}

static void *want_cpu(void *unused)
{
	(void)unused;
	while (!stop)
		;
	return NULL;
}

int main(void)
{
	pthread_t writer, hog[HOGS];
	char *zeros = mmap(NULL, WORKING, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	int zero = open("/dev/zero", O_RDONLY);

	CHECK(zeros != MAP_FAILED && zero >= 0 && !pipe(ends));
	CHECK(!pthread_create(&writer, NULL, write_later, NULL));
	for (size_t i = 0; i < sizeof(wait_for) / sizeof(*wait_for); i++) {
		for (int n = 0; n < wait_for[i].times; n++) {
			go = 1;
			CHECK(read(ends[0], bytes, WAITING + i) == 1);
		}
	}
	pthread_join(writer, NULL);
	for (int i = 0; i < HOGS; i++)
		CHECK(!pthread_create(&hog[i], NULL, want_cpu, NULL));
	for (int i = 0; i < WORKS; i++)
		CHECK(read(zero, zeros, WORKING) == WORKING);
	stop = 1;
	for (int i = 0; i < HOGS; i++)
		pthread_join(hog[i], NULL);
	return 0;
}
