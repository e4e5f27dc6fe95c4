// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: how many rounds. Out: system calls of fs/read_write.c that a shell does
 * not make, in ways that its lines tell apart: vectors of one and several
 * pieces, of none and of too many, offsets inside, at the end and negative,
 * files that are closed, that may not be read or not be written, pipes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#define CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			fprintf(stderr, "readwrite: line %d: %s: %s\n",		\
				__LINE__, #condition, strerror(errno));		\
			exit(1);						\
		}								\
	} while (0)
#define FAILS(call, with)	CHECK((call) == -1 && errno == (with))

static char bytes[3][4096];
static struct iovec pieces[2000];

static void round_of(int in, int out, int only, const int *ends, int number)
{
	off_t at = 0;

	for (int n = 1; n <= 3; n++) {
		CHECK(preadv(in, pieces, n, 0) == 4096 * n);
		CHECK(pwritev(out, pieces, n, 100) == 4096 * n);
	}
	CHECK(preadv(in, pieces, 0, 0) == 0);
	CHECK(preadv(in, pieces, 1, 1 << 20) == 0);
	CHECK(preadv2(in, pieces, 2, -1, 0) >= 0);
	FAILS(preadv(in, pieces, 1025, 0), EINVAL);
	FAILS(preadv(in, pieces, 1, -5), EINVAL);
	FAILS(preadv(9999, pieces, 1, 0), EBADF);
	FAILS(preadv(only, pieces, 1, 0), EBADF);
	FAILS(pwritev(in, pieces, 1, 0), EBADF);
	FAILS(preadv(ends[0], pieces, 1, 0), ESPIPE);
	CHECK(sendfile(out, in, &at, 5000) == 5000 && at == 5000);
	if (number % 3 == 0)
		CHECK(sendfile(ends[1], in, NULL, 100) >= 0 && read(ends[0], bytes, 100) >= 0);
	FAILS(sendfile(out, only, NULL, 10), EBADF);
	FAILS(sendfile(9999, in, NULL, 10), EBADF);
	at = -1;
	FAILS(sendfile(out, in, &at, 10), EINVAL);
	CHECK(lseek(in, 0, SEEK_SET) == 0 && lseek(out, 0, SEEK_SET) == 0);
	if (number % 2)
		CHECK(copy_file_range(in, NULL, out, NULL, 3000, 0) == 3000);
	FAILS(copy_file_range(in, NULL, in, NULL, 3000, 7), EINVAL);
	FAILS(copy_file_range(only, NULL, out, NULL, 10, 0), EBADF);
	FAILS(ftruncate(in, 0), EINVAL);
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1, ends[2], in, out, only;

	for (size_t i = 0; i < sizeof(pieces) / sizeof(*pieces); i++)
		pieces[i] = (struct iovec){ bytes[i % 3], sizeof(bytes[0]) };
	in = open("/tmp/readwrite.in", O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(in >= 0 && !ftruncate(in, 20000) && !close(in));
	in = open("/tmp/readwrite.in", O_RDONLY);
	out = open("/tmp/readwrite.out", O_RDWR | O_CREAT | O_TRUNC, 0600);
	only = open("/tmp/readwrite.only", O_WRONLY | O_CREAT | O_TRUNC, 0600);
	CHECK(in >= 0 && out >= 0 && only >= 0 && !pipe2(ends, O_NONBLOCK));
	for (int i = 0; i < rounds; i++)
		round_of(in, out, only, ends, i);
	return 0;
}
