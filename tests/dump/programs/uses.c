// SPDX-License-Identifier: GPL-2.0-only
/*
 * Holds things open: "uses WHAT ARGUMENT..." takes one use of something that
 * belongs to a module, goes into the background and keeps it. It exits with 0
 * once the use is taken.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <linux/if_alg.h>
#include <linux/if_tun.h>
#include <linux/perf_event.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <poll.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

static const char *arg(char **argv, int n)
{
	for (int i = 0; i <= n; i++)
		if (!argv[i])
			errx(2, "argument %d is missing", n);
	return argv[n];
}

static int num(char **argv, int n)
{
	return strtol(arg(argv, n), NULL, 0);
}

static int must(int result, const char *what)
{
	if (result < 0)
		err(1, "%s", what);
	return result;
}

/* A connected pair over the loopback; the listener stays open, too. */
static int tcp_pair(int *client)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(to);
	int listener = must(socket(AF_INET, SOCK_STREAM, 0), "socket");

	must(bind(listener, (void *)&to, size), "bind");
	must(listen(listener, 8), "listen");
	must(getsockname(listener, (void *)&to, &size), "getsockname");
	*client = must(socket(AF_INET, SOCK_STREAM, 0), "socket");
	must(connect(*client, (void *)&to, sizeof(to)), "connect");
	return must(accept(listener, NULL, NULL), "accept");
}

static void open_file(char **argv)
{
	must(open(arg(argv, 0), argv[1] ? num(argv, 1) : O_RDWR), argv[0]);
}

static void a_socket(char **argv)
{
	must(socket(num(argv, 0), num(argv, 1), num(argv, 2)), "socket");
}

static void many_sockets(char **argv)
{
	struct rlimit limit = {1 << 20, 1 << 20};
	int count = num(argv, 0), client;

	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = 0; i < count; i++)
		tcp_pair(&client);
}

static void many_files(char **argv)
{
	struct rlimit limit = {1 << 20, 1 << 20};

	setrlimit(RLIMIT_NOFILE, &limit);
	for (int i = num(argv, 0); i > 0; i--)
		must(open(arg(argv, 1), O_RDONLY), argv[1]);
}

static void many_tasks(char **argv)
{
	for (int i = num(argv, 0); i > 0; i--)
		if (!must(fork(), "fork"))
			for (;;)
				pause();
}

static void ulp(char **argv)
{
	const char *name = arg(argv, 0);
	int client;

	tcp_pair(&client);
	must(setsockopt(client, IPPROTO_TCP, TCP_ULP, name, strlen(name) + 1), "TCP_ULP");
}

static void congestion(char **argv)
{
	const char *name = arg(argv, 0);
	int client;

	tcp_pair(&client);
	must(setsockopt(client, IPPROTO_TCP, TCP_CONGESTION, name, strlen(name)), "TCP_CONGESTION");
}

static void alg(char **argv)
{
	struct sockaddr_alg to = {.salg_family = AF_ALG};
	int parent = must(socket(AF_ALG, SOCK_SEQPACKET, 0), "AF_ALG");

	strcpy((char *)to.salg_type, arg(argv, 0));
	strcpy((char *)to.salg_name, arg(argv, 1));
	must(bind(parent, (void *)&to, sizeof(to)), "bind");
	if (!strcmp(argv[0], "skcipher"))
		must(setsockopt(parent, SOL_ALG, ALG_SET_KEY, "0123456789abcdef", 16), "ALG_SET_KEY");
	must(accept(parent, NULL, NULL), "accept");
}

static void ldisc(char **argv)
{
	int number = num(argv, 0), master = must(open("/dev/ptmx", O_RDWR | O_NOCTTY), "/dev/ptmx");
	int unlock = 0, slave;
	char name[64];

	must(ioctl(master, TIOCSPTLCK, &unlock), "TIOCSPTLCK");
	must(ioctl(master, TIOCGPTN, &slave), "TIOCGPTN");
	snprintf(name, sizeof(name), "/dev/pts/%d", slave);
	slave = must(open(name, O_RDWR | O_NOCTTY), name);
	must(ioctl(slave, TIOCSETD, &number), "TIOCSETD");
}

static void tun(char **argv)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	int fd = must(open("/dev/net/tun", O_RDWR), "/dev/net/tun");

	strncpy(request.ifr_name, arg(argv, 0), IFNAMSIZ - 1);
	must(ioctl(fd, TUNSETIFF, &request), "TUNSETIFF");
	if (argv[1] && !strcmp(argv[1], "persist")) {
		must(ioctl(fd, TUNSETPERSIST, 1), "TUNSETPERSIST");
		close(fd);
	}
}

static void vsock(char **argv)
{
	struct sockaddr_vm to = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL, .svm_port = 4242};
	int listener = must(socket(AF_VSOCK, SOCK_STREAM, 0), "AF_VSOCK"), client;

	(void)argv;
	must(bind(listener, (void *)&to, sizeof(to)), "bind");
	must(listen(listener, 1), "listen");
	client = must(socket(AF_VSOCK, SOCK_STREAM, 0), "AF_VSOCK");
	must(connect(client, (void *)&to, sizeof(to)), "connect");
	must(accept(listener, NULL, NULL), "accept");
}

static void in_flight(char **argv)
{
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fd = must(open(arg(argv, 0), O_RDWR), argv[0]), ends[2];

	must(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), "socketpair");
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	must(sendmsg(ends[0], &message, 0), "sendmsg");
	close(fd);
}

static void mapped(char **argv)
{
	int fd = must(open(arg(argv, 0), O_RDONLY), argv[0]);

	if (mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED)
		err(1, "mmap");
	close(fd);
}

/* A child that sleeps in poll(2) on so many pipes: the call has a reference to each. */
static void polling(char **argv)
{
	static struct pollfd fds[1024];
	int count = num(argv, 0), ends[2];

	for (int i = 0; i < count && i < 1024; i++) {
		must(pipe(ends), "pipe");
		fds[i] = (struct pollfd){.fd = ends[0], .events = POLLIN};
	}
	if (!must(fork(), "fork"))
		for (;;)
			poll(fds, count, -1);
	usleep(200000);
}

static void directory(char **argv)
{
	must(chdir(arg(argv, 0)), argv[0]);
}

static void rooted(char **argv)
{
	must(chroot(arg(argv, 0)), argv[0]);
}

static void fuse(char **argv)
{
	char options[128];
	int fd = must(open("/dev/fuse", O_RDWR), "/dev/fuse");

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	must(mount("fuse", arg(argv, 0), "fuse", 0, options), "mount");
}

static int dm_ioctl(int control, unsigned long request, struct dm_ioctl *io, const char *name)
{
	io->version[0] = DM_VERSION_MAJOR;
	io->data_size = 16384;
	io->data_start = sizeof(*io);
	strncpy(io->name, name, sizeof(io->name) - 1);
	return must(ioctl(control, request, io), name);
}

/* uses dm NAME TYPE SECTORS PARAMETERS; without TYPE the device gets no table. */
static void dm(char **argv)
{
	static union {
		struct dm_ioctl io;
		char space[16384];
	} data;
	struct dm_target_spec *spec = (void *)(data.space + sizeof(data.io));
	int control = must(open("/dev/mapper/control", O_RDWR), "/dev/mapper/control");
	const char *name = arg(argv, 0);

	dm_ioctl(control, DM_DEV_CREATE, &data.io, name);
	if (argv[1]) {
		memset(&data, 0, sizeof(data));
		data.io.target_count = 1;
		strncpy(spec->target_type, argv[1], sizeof(spec->target_type) - 1);
		spec->length = num(argv, 2);
		strcpy((char *)(spec + 1), argv[3] ? argv[3] : "");
		spec->next = sizeof(*spec) + 512;
		dm_ioctl(control, DM_TABLE_LOAD, &data.io, name);
		memset(&data, 0, sizeof(data));
		dm_ioctl(control, DM_DEV_SUSPEND, &data.io, name);
	}
	close(control);
}

/* uses tracepoint ID: a perf event on a tracepoint. */
static void tracepoint(char **argv)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_TRACEPOINT,
		.size = sizeof(attr),
		.config = num(argv, 0),
		.sample_period = 1,
	};

	must(syscall(SYS_perf_event_open, &attr, -1, 0, -1, 0), "perf_event_open");
}

static const struct {
	const char *name;
	void (*use)(char **argv);
} uses[] = {
	{"open", open_file},	   {"socket", a_socket},     {"sockets", many_sockets}, {"files", many_files},
	{"tasks", many_tasks},	   {"ulp", ulp},	     {"congestion", congestion}, {"alg", alg},
	{"ldisc", ldisc},	   {"tun", tun},	     {"vsock", vsock},		 {"in-flight", in_flight},
	{"mapped", mapped},	   {"directory", directory}, {"rooted", rooted},	 {"fuse", fuse},
	{"poll", polling},	   {"dm", dm},		   {"tracepoint", tracepoint},
};

int main(int argc, char **argv)
{
	int ends[2];
	char code = 1;

	if (argc < 2)
		errx(2, "use what?");
	must(pipe(ends), "pipe");
	if (must(fork(), "fork")) {
		close(ends[1]);
		return read(ends[0], &code, 1) == 1 ? 0 : 1;
	}
	close(ends[0]);
	for (size_t i = 0; i < sizeof(uses) / sizeof(uses[0]); i++) {
		if (strcmp(argv[1], uses[i].name))
			continue;
		prctl(PR_SET_NAME, argv[1]);
		uses[i].use(argv + 2);
		must(write(ends[1], "", 1), "write");
		close(ends[1]);
		for (;;)
			pause();
	}
	errx(2, "%s: no such use", argv[1]);
}
