// SPDX-License-Identifier: GPL-2.0-only
/* file: a path in, its bytes out. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fail.h"
#include "file.h"

/* Read until @room is full or the file ends. Returns how many, or -1. */
static long read_up_to(int file, void *bytes, size_t room)
{
	size_t used = 0;
	ssize_t got = 1;

	while (used < room && got) {
		got = read(file, (uint8_t *)bytes + used, room - used);
		if (got < 0 && errno != EINTR)
			return -1;
		used += got > 0 ? (size_t)got : 0;
	}
	return (long)used;
}

int file_read(const char *path, size_t limit, uint8_t **ret, size_t *size)
{
	struct stat info;
	int file, code;
	long got;

	*ret = NULL;
	*size = 0;
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &info)) {
		code = fail(EXIT_NO_INPUT, "%s: %s", path, strerror(errno));
		goto close;
	}
	if (!S_ISREG(info.st_mode)) {
		code = fail(EXIT_NO_INPUT, "%s: not a file", path);
		goto close;
	}
	if ((uint64_t)info.st_size > limit) {
		code = fail(EXIT_DATA, "%s: %" PRIu64 " bytes are more than a bundle has",
			    path, (uint64_t)info.st_size);
		goto close;
	}
	*ret = malloc((size_t)info.st_size + 1);
	if (!*ret) {
		code = fail(EXIT_IO, "%s: no memory for %" PRIu64 " bytes",
			    path, (uint64_t)info.st_size);
		goto close;
	}
	got = read_up_to(file, *ret, (size_t)info.st_size);
	if (got < 0) {
		code = fail(EXIT_IO, "%s: %s", path, strerror(errno));
		free(*ret);
		*ret = NULL;
		goto close;
	}
	*size = (size_t)got;
	code = 0;
close:
	if (file >= 0)
		close(file);
	return code;
}

long file_peek(const char *path, char *ret, size_t room)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	long got;

	if (file < 0)
		return -1;
	got = read_up_to(file, ret, room - 1);
	close(file);
	if (got >= 0)
		ret[got] = 0;
	return got;
}

int file_line(const char *path, char *ret, size_t room)
{
	if (file_peek(path, ret, room) < 0)
		return -1;
	ret[strcspn(ret, "\n")] = 0;
	return 0;
}
