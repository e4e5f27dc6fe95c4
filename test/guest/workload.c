// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a number of rounds, or -t SECONDS. Out: every kernel path that the guest
 * tests count, walked the same number of times in each round: files, pipes,
 * eventfd, poll and epoll, TCP, UDP and unix sockets, fork, exec and wait,
 * threads and futexes, memory, signals, timers, scheduling.
 *
 * Invariant: a round makes the same system calls with the same arguments
 * whatever the round before did, leaves nothing behind, and any call that does
 * not do what it should ends the program with a line that names it.
 * Left out: measuring. How often a kernel function runs may still differ from
 * run to run (wakeups, retries); the judge never needs it to be the same.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 8192

static char block[BLOCK];
static char folder[64];

#define CHECK(condition)							\
	do {									\
		if (!(condition)) {						\
			fprintf(stderr, "workload: line %d: %s: %s\n", __LINE__, \
				#condition, strerror(errno));			\
			exit(1);						\
		}								\
	} while (0)

static void files(void)
{
	char path[96], other[96];
	struct stat st;

	snprintf(path, sizeof(path), "%s/a", folder);
	snprintf(other, sizeof(other), "%s/b", folder);
	for (int i = 0; i < 20; i++) {
		int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

		CHECK(fd >= 0);
		CHECK(write(fd, block, BLOCK) == BLOCK);
		CHECK(pwrite(fd, block, 100, BLOCK) == 100);
		CHECK(lseek(fd, 0, SEEK_SET) == 0);
		CHECK(read(fd, block, BLOCK) == BLOCK);
		CHECK(pread(fd, block, 10, 5) == 10);
		CHECK(fstat(fd, &st) == 0 && st.st_size == BLOCK + 100);
		CHECK(ftruncate(fd, 10) == 0);
		CHECK(fsync(fd) == 0);
		CHECK(fchmod(fd, 0644) == 0);
		CHECK(close(fd) == 0);
		CHECK(stat(path, &st) == 0 && st.st_size == 10);
		CHECK(rename(path, other) == 0);
		CHECK(access(path, F_OK) == -1 && errno == ENOENT);
		CHECK(link(other, path) == 0);
		CHECK(unlink(path) == 0);
		CHECK(symlink(other, path) == 0);
		CHECK(unlink(path) == 0);
		CHECK(unlink(other) == 0);
		CHECK(mkdir(path, 0700) == 0);
		CHECK(rmdir(path) == 0);
	}
}

static void pipes(void)
{
	int fd[2];

	CHECK(pipe(fd) == 0);
	for (int i = 0; i < 50; i++) {
		CHECK(write(fd[1], block, 600) == 600);
		CHECK(read(fd[0], block, BLOCK) == 600);
	}
	int copy = dup(fd[0]);

	CHECK(copy >= 0 && close(copy) == 0);
	CHECK(fcntl(fd[0], F_SETFL, O_NONBLOCK) == 0);
	CHECK(read(fd[0], block, 1) == -1 && errno == EAGAIN);
	CHECK(close(fd[0]) == 0 && close(fd[1]) == 0);
}

static void polling(void)
{
	int ev = eventfd(0, EFD_NONBLOCK);
	int tm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	int ep = epoll_create1(0);
	struct epoll_event want = { .events = EPOLLIN }, got;
	struct itimerspec soon = { .it_value.tv_nsec = 1000 };
	unsigned long long value = 1;

	CHECK(ev >= 0 && tm >= 0 && ep >= 0);
	CHECK(epoll_ctl(ep, EPOLL_CTL_ADD, ev, &want) == 0);
	for (int i = 0; i < 20; i++) {
		struct pollfd both[2] = { { ev, POLLIN, 0 }, { tm, POLLIN, 0 } };
		fd_set set;
		struct timeval none = { 0, 0 };

		CHECK(poll(both, 2, 0) == 0);
		CHECK(epoll_wait(ep, &got, 1, 0) == 0);
		CHECK(write(ev, &value, 8) == 8);
		CHECK(epoll_wait(ep, &got, 1, -1) == 1);
		FD_ZERO(&set);
		FD_SET(ev, &set);
		CHECK(select(ev + 1, &set, NULL, NULL, &none) == 1);
		CHECK(read(ev, &value, 8) == 8 && value == 1);
		CHECK(timerfd_settime(tm, 0, &soon, NULL) == 0);
		CHECK(poll(both, 2, -1) == 1);
		CHECK(read(tm, &value, 8) == 8);
		value = 1;
	}
	CHECK(epoll_ctl(ep, EPOLL_CTL_DEL, ev, NULL) == 0);
	CHECK(close(ep) == 0 && close(tm) == 0 && close(ev) == 0);
}

static void tcp(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t length = sizeof(at);
	int on = 1;
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(listener >= 0);
	CHECK(bind(listener, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(listen(listener, 4) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&at, &length) == 0);
	for (int i = 0; i < 5; i++) {
		int client = socket(AF_INET, SOCK_STREAM, 0);
		int server;

		CHECK(client >= 0);
		CHECK(connect(client, (struct sockaddr *)&at, sizeof(at)) == 0);
		server = accept(listener, NULL, NULL);
		CHECK(server >= 0);
		CHECK(setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
		for (int j = 0; j < 10; j++) {
			CHECK(send(client, block, 1000, 0) == 1000);
			CHECK(recv(server, block, 1000, MSG_WAITALL) == 1000);
			CHECK(write(server, block, 500) == 500);
			CHECK(recv(client, block, 500, MSG_WAITALL) == 500);
		}
		CHECK(shutdown(client, SHUT_WR) == 0);
		CHECK(recv(server, block, 1, 0) == 0);
		CHECK(close(client) == 0 && close(server) == 0);
	}
	CHECK(close(listener) == 0);
}

static void udp(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	socklen_t length = sizeof(at);
	int receiver = socket(AF_INET, SOCK_DGRAM, 0);
	int sender = socket(AF_INET, SOCK_DGRAM, 0);

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(receiver >= 0 && sender >= 0);
	CHECK(bind(receiver, (struct sockaddr *)&at, sizeof(at)) == 0);
	CHECK(getsockname(receiver, (struct sockaddr *)&at, &length) == 0);
	for (int i = 0; i < 40; i++) {
		CHECK(sendto(sender, block, 300, 0, (struct sockaddr *)&at, sizeof(at)) == 300);
		CHECK(recvfrom(receiver, block, BLOCK, 0, NULL, NULL) == 300);
	}
	CHECK(recv(receiver, block, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
	CHECK(close(receiver) == 0 && close(sender) == 0);
}

static void local(void)
{
	int fd[2];

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fd) == 0);
	for (int i = 0; i < 40; i++) {
		CHECK(send(fd[0], block, 700, 0) == 700);
		CHECK(recv(fd[1], block, 700, MSG_WAITALL) == 700);
	}
	CHECK(close(fd[0]) == 0 && close(fd[1]) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, fd) == 0);
	for (int i = 0; i < 20; i++) {
		CHECK(send(fd[0], block, 50, 0) == 50);
		CHECK(recv(fd[1], block, BLOCK, 0) == 50);
	}
	CHECK(close(fd[0]) == 0 && close(fd[1]) == 0);
}

static void memory(void)
{
	const size_t size = 64 * 4096;
	char *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char path[96];
	int fd;

	CHECK(at != MAP_FAILED);
	for (size_t i = 0; i < size; i += 4096)
		at[i] = 1;
	CHECK(mprotect(at + 4096, 8192, PROT_READ) == 0);
	CHECK(mprotect(at + 4096, 8192, PROT_READ | PROT_WRITE) == 0);
	CHECK(madvise(at, size / 2, MADV_DONTNEED) == 0);
	for (size_t i = 0; i < size; i += 4096)
		at[i] = 2;
	CHECK(munmap(at + 4096, 4096) == 0);
	CHECK(munmap(at, size) == 0);

	char *heap = sbrk(0);

	CHECK(brk(heap + 16 * 4096) == 0);
	memset(heap, 3, 16 * 4096);
	CHECK(brk(heap) == 0);

	snprintf(path, sizeof(path), "%s/m", folder);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	CHECK(fd >= 0 && ftruncate(fd, 8 * 4096) == 0);
	at = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(at != MAP_FAILED);
	for (int i = 0; i < 8; i++)
		at[i * 4096] = 4;
	CHECK(msync(at, 8 * 4096, MS_SYNC) == 0);
	CHECK(munmap(at, 8 * 4096) == 0);
	CHECK(close(fd) == 0 && unlink(path) == 0);
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	(void)number;
	signals++;
}

static void signalling(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t set, pending;

	CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
	CHECK(sigaction(SIGALRM, &action, NULL) == 0);
	signals = 0;
	for (int i = 0; i < 20; i++) {
		CHECK(kill(getpid(), SIGUSR1) == 0);
		CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0);
	}
	CHECK(signals == 40);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(kill(getpid(), SIGUSR1) == 0);
	CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
	CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
	CHECK(signals == 41);

	struct itimerval soon = { .it_value.tv_usec = 2000 };

	sigaddset(&set, SIGALRM);
	sigdelset(&set, SIGUSR1);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
	CHECK(sigwaitinfo(&set, NULL) == SIGALRM);
	CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
}

static void processes(const char *self)
{
	char *const arguments[] = { (char *)self, "-x", NULL };
	int status;

	for (int i = 0; i < 5; i++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			block[0]++;
			_exit(7);
		}
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	}
	for (int i = 0; i < 2; i++) {
		pid_t child = vfork();

		CHECK(child >= 0);
		if (child == 0) {
			execv(self, arguments);
			_exit(99);
		}
		CHECK(waitpid(child, &status, 0) == child);
		CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
	}
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		pause();
		_exit(0);
	}
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;

/* Two threads take turns, so that each waits and wakes the other. */
static void *taking_turns(void *argument)
{
	int me = argument != NULL;

	for (int i = 0; i < 30; i++) {
		pthread_mutex_lock(&lock);
		while (turn != me)
			pthread_cond_wait(&turned, &lock);
		turn = !me;
		pthread_cond_broadcast(&turned);
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t one, two;

	turn = 0;
	CHECK(pthread_create(&one, NULL, taking_turns, NULL) == 0);
	CHECK(pthread_create(&two, NULL, taking_turns, &lock) == 0);
	CHECK(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0);
}

static void scheduling(void)
{
	cpu_set_t all, one;
	struct timespec nap = { 0, 20000 };
	struct sched_param param = { 0 };

	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		/* Offline by now, where a test takes CPUs away. */
		CHECK(sched_setaffinity(0, sizeof(one), &one) == 0 || errno == EINVAL);
		CHECK(sched_yield() == 0);
	}
	CHECK(sched_setaffinity(0, sizeof(all), &all) == 0);
	for (int i = 0; i < 5; i++)
		CHECK(nanosleep(&nap, NULL) == 0);
	CHECK(sched_getparam(0, &param) == 0);
	CHECK(sched_setscheduler(0, SCHED_BATCH, &param) == 0);
	CHECK(sched_setscheduler(0, SCHED_OTHER, &param) == 0);
	for (int i = 0; i < 50; i++) {
		syscall(SYS_getppid);
		syscall(SYS_time, NULL);
		syscall(SYS_getpgid, 0);
		syscall(SYS_getpriority, 0, 0);
	}
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
	double seconds = 0;
	long rounds = 1, done = 0;

	if (argc == 2 && !strcmp(argv[1], "-x"))
		return 3;
	if (argc == 3 && !strcmp(argv[1], "-t"))
		seconds = atof(argv[2]);
	else if (argc == 2)
		rounds = atol(argv[1]);
	if (argc > 3 || rounds < 1 || seconds < 0) {
		fprintf(stderr, "usage: workload [ROUNDS | -t SECONDS]\n");
		return 64;
	}
	snprintf(folder, sizeof(folder), "/tmp/workload.%d", (int)getpid());
	CHECK(mkdir(folder, 0700) == 0);
	double end = now() + seconds;

	while (seconds > 0 ? now() < end : done < rounds) {
		files();
		pipes();
		polling();
		tcp();
		udp();
		local();
		memory();
		signalling();
		processes("/proc/self/exe");
		threads();
		scheduling();
		done++;
	}
	CHECK(rmdir(folder) == 0);
	printf("workload: %ld rounds\n", done);
	return 0;
}
