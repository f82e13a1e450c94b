// SPDX-License-Identifier: GPL-2.0-only
/*
 * ulp-storm: put a server whose sockets carry a TCP ULP under load, and kill
 * it under load.
 *
 *	ulp-storm [-u ulp] [-c clients] [-w wave] [-k requests] [-t ms] [-p port]
 *
 * Three processes.  The server attaches the ULP to its listening socket, so
 * that the kernel clones it into every child, and answers requests from one
 * epoll loop.  The clients' process holds -c connections open at once, sends
 * one request after the other on each, and opens a connection anew after -k
 * requests.  The parent reads the ULP's statistics now and then, as a monitor
 * would, kills the server with SIGKILL once all clients have been connected for
 * -t milliseconds, and waits until both others are gone and their sockets with
 * them.
 *
 * Connections are opened anew in waves of -w, and the waves are spread evenly
 * over the time of a connection: with -w times -k equal to -c, one wave for each
 * request that every client sends.  Nothing here is random: what the kill hits
 * depends on how far the scheduler has let each process come.
 *
 * Exits with 0 when the storm took place, whatever it broke in the kernel.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

#define EVENTS		64
#define MONITOR_MS	10
#define GIVE_UP_MS	15000
#define SPARE_FILES	64
#define STATS		"/proc/net/ulp_tally"

static const char request[] = "GET /tally HTTP/1.1\r\nHost: storm\r\n\r\n";
static const char reply[] = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntally\n";

static const char *ulp = "tally";
static unsigned int clients = 256;
static unsigned int wave = 4;
static unsigned int per_connection = 64;
static unsigned int storm_ms = 150;
static struct sockaddr_in address = {
	.sin_family = AF_INET,
	.sin_port = 0,
	.sin_addr.s_addr = 0,
};

/* Shared by the three processes; each field has one writer. */
static struct {
	volatile unsigned long accepted;
	volatile unsigned long answered;
} *count;

static void watch(int epfd, int op, int fd, unsigned int events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };

	if (epoll_ctl(epfd, op, fd, &ev))
		err(1, "epoll_ctl");
}

static int listener(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;

	if (fd < 0)
		err(1, "socket");
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, ulp, strlen(ulp)))
		err(1, "TCP_ULP %s", ulp);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)))
		err(1, "bind");
	if (listen(fd, 2 * clients))
		err(1, "listen");
	return fd;
}

static void answer(int fd)
{
	char buf[4096];
	ssize_t n = recv(fd, buf, sizeof(buf), 0);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		close(fd);
	else if (send(fd, reply, sizeof(reply) - 1, MSG_NOSIGNAL) > 0)
		count->answered++;
}

/* The first request has mostly come by the time that its child is accepted. */
static void accept_all(int epfd, int lfd)
{
	int fd;

	while ((fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
		count->accepted++;
		watch(epfd, EPOLL_CTL_ADD, fd, EPOLLIN);
		answer(fd);
	}
}

static void serve(int lfd)
{
	struct epoll_event ev[EVENTS];
	int epfd = epoll_create1(0), n, i;

	watch(epfd, EPOLL_CTL_ADD, lfd, EPOLLIN);
	for (;;) {
		n = epoll_wait(epfd, ev, EVENTS, -1);
		accept_all(epfd, lfd);
		for (i = 0; i < n; i++)
			if (ev[i].data.fd != lfd)
				answer(ev[i].data.fd);
	}
}

/* left[fd]: the requests that the connection fd has still to send. */
static void dial(int epfd, unsigned int *left, unsigned int requests)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (fd < 0)
		err(1, "socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) && errno != EINPROGRESS)
		_exit(0);	/* the server is gone */
	left[fd] = requests;
	watch(epfd, EPOLL_CTL_ADD, fd, EPOLLOUT);
}

static void ask(int epfd, unsigned int *left, int fd, unsigned int events)
{
	char buf[4096];

	if (events & EPOLLIN) {
		if (recv(fd, buf, sizeof(buf), 0) <= 0)
			_exit(0);
		if (!left[fd]) {
			close(fd);
			dial(epfd, left, per_connection);
			return;
		}
	} else {
		watch(epfd, EPOLL_CTL_MOD, fd, EPOLLIN);
	}
	left[fd]--;
	if (send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL) < 0)
		_exit(0);
}

static void load(void)
{
	struct epoll_event ev[EVENTS];
	unsigned int *left = calloc(clients + SPARE_FILES, sizeof(*left)), c;
	int epfd = epoll_create1(0), n, i;

	if (!left)
		err(1, "calloc");
	/* The first connections of a wave end together, and so do all after them. */
	for (c = 0; c < clients; c++)
		dial(epfd, left, 1 + c / wave * wave * per_connection / clients);
	for (;;) {
		n = epoll_wait(epfd, ev, EVENTS, -1);
		for (i = 0; i < n; i++)
			ask(epfd, left, ev[i].data.fd, ev[i].events);
	}
}

static pid_t spawn(void (*job)(int), int arg)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		job(arg);
		_exit(0);
	}
	return pid;
}

static void load_job(int lfd)
{
	close(lfd);
	load();
}

static unsigned int number(const char *text)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (*end || !value || value > 60000)
		errx(2, "%s: not a number from 1 to 60000", text);
	return value;
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* What a monitor does: read the statistics and throw them away. */
static void read_stats(void)
{
	char buf[4096];
	int fd = open(STATS, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	while (read(fd, buf, sizeof(buf)) > 0)
		;
	close(fd);
}

static void loopback_up(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr))
		err(1, "lo");
	close(fd);
}

int main(int argc, char **argv)
{
	unsigned int port = 1337;
	struct rlimit files;
	pid_t server, crowd;
	long start;
	int opt, lfd;

	while ((opt = getopt(argc, argv, "u:c:w:k:t:p:")) != -1) {
		switch (opt) {
		case 'u': ulp = optarg; break;
		case 'c': clients = number(optarg); break;
		case 'w': wave = number(optarg); break;
		case 'k': per_connection = number(optarg); break;
		case 't': storm_ms = number(optarg); break;
		case 'p': port = number(optarg); break;
		default:
			errx(2, "usage: ulp-storm [-u ulp] [-c clients] [-w wave] [-k requests] [-t ms] [-p port]");
		}
	}
	address.sin_port = htons(port);
	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	files.rlim_cur = files.rlim_max = clients + SPARE_FILES;
	if (setrlimit(RLIMIT_NOFILE, &files))
		err(1, "setrlimit");
	count = mmap(NULL, sizeof(*count), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (count == MAP_FAILED)
		err(1, "mmap");

	loopback_up();
	lfd = listener();
	server = spawn(serve, lfd);
	crowd = spawn(load_job, lfd);
	close(lfd);

	start = now_ms();
	while (count->accepted < clients && now_ms() - start < GIVE_UP_MS)
		poll(NULL, 0, 1);
	if (count->accepted < clients)
		errx(1, "only %lu of %u clients came through", count->accepted, clients);
	for (start = now_ms(); now_ms() - start < (long)storm_ms; poll(NULL, 0, MONITOR_MS))
		read_stats();
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	kill(crowd, SIGKILL);
	waitpid(crowd, NULL, 0);
	printf("ulp-storm: %lu connections, %lu requests, server killed after %u ms of full load\n",
	       count->accepted, count->answered, storm_ms);
	return 0;
}
