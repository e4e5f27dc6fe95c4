// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: how many calls. Out: reads of a file and sends over TCP in sizes that
 * nobody else uses, by threads on all CPUs; sizes follow from a seed.
 *
 *	sizes CALLS
 *
 * A size is LEAST or more and below MOST; a read gets as much as it asks for.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LEAST	20000
#define MOST	120000
#define THREADS	4

static int calls, file;

#define CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			fprintf(stderr, "sizes: line %d: %s: %s\n", __LINE__,	\
				#condition, strerror(errno));			\
			exit(1);						\
		}								\
	} while (0)

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return LEAST + (*seed >> 8) % (MOST - LEAST);
}

static void *reader(void *number)
{
	unsigned int seed = 1 + (long)number;
	char *buffer = malloc(MOST);
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET((long)number % sysconf(_SC_NPROCESSORS_ONLN), &one);
	CHECK(buffer && !sched_setaffinity(0, sizeof(one), &one));
	for (int i = 0; i < calls; i++) {
		ssize_t size = next(&seed);

		CHECK(pread(file, buffer, size, 0) == size);
	}
	free(buffer);
	return NULL;
}

static void *receiver(void *socket)
{
	char *buffer = malloc(MOST);

	while (recv((int)(long)socket, buffer, MOST, 0) > 0)
		;
	free(buffer);
	return NULL;
}

static void sends(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	int listening = socket(AF_INET, SOCK_STREAM, 0), from = socket(AF_INET, SOCK_STREAM, 0), to;
	unsigned int seed = 99;
	pthread_t thread;
	char *buffer = calloc(1, MOST);

	CHECK(buffer && !bind(listening, (void *)&address, sizeof(address)) && !listen(listening, 1));
	CHECK(!getsockname(listening, (void *)&address, &length) && !connect(from, (void *)&address, length));
	to = accept(listening, NULL, NULL);
	CHECK(to >= 0 && !pthread_create(&thread, NULL, receiver, (void *)(long)to));
	for (int i = 0; i < calls; i++) {
		ssize_t size = next(&seed);

		CHECK(send(from, buffer, size, 0) == size);
	}
	shutdown(from, SHUT_WR);
	pthread_join(thread, NULL);
	free(buffer);
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];

	calls = argc == 2 ? atoi(argv[1]) : 0;
	if (calls <= 0) {
		fprintf(stderr, "usage: sizes CALLS\n");
		return 64;
	}
	file = open("/tmp/sizes", O_RDWR | O_CREAT, 0600);
	CHECK(file >= 0 && !ftruncate(file, MOST));
	for (long i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&thread[i], NULL, reader, (void *)i));
	sends();
	for (long i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	return 0;
}
