// SPDX-License-Identifier: GPL-2.0-only
/* wait: a time in, whether a signal came before it out. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
#include "wait.h"

#define SECOND_NS	1000000000ull

static sigset_t ending;
static int ended;

void wait_begin(void)
{
	static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action;
	size_t i;

	sigemptyset(&ending);
	for (i = 0; i < sizeof(signals) / sizeof(*signals); i++) {
		/*
		 * What nohup, or a shell for a job in the background, has
		 * ignored stays so: a blocked signal would be kept for us.
		 */
		if (!sigaction(signals[i], NULL, &action) &&
		    action.sa_handler == SIG_IGN)
			continue;
		sigaddset(&ending, signals[i]);
	}
	sigprocmask(SIG_BLOCK, &ending, NULL);
	/* Whoever reads our output may go; what we hold must not. */
	signal(SIGPIPE, SIG_IGN);
}

uint64_t wait_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

int wait_until(uint64_t until, const char *left)
{
	int shown = left && isatty(STDERR_FILENO);
	struct timespec pause;
	uint64_t now, ns;

	while (!ended && (now = wait_now()) < until) {
		ns = until - now;
		if (shown)
			fprintf(stderr, "\r\033[K%s%" PRIu64 " s left", left,
				(uint64_t)((ns + SECOND_NS - 1) / SECOND_NS));
		if (ns > SECOND_NS)
			ns = SECOND_NS;
		pause.tv_sec = (time_t)(ns / SECOND_NS);
		pause.tv_nsec = (long)(ns % SECOND_NS);
		if (sigtimedwait(&ending, NULL, &pause) > 0)
			ended = 1;
		else if (errno != EAGAIN && errno != EINTR)
			break;
	}
	if (shown)
		fputs("\r\033[K", stderr);
	return ended;
}
