// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's first process. It brings the guest up, says "ready" on the
 * control line (ttyS1) and waits there: that is where the guest is saved.
 * Whoever restores it sends one line,
 *
 *	go EPOCH_NS SEED_HEX BYTES
 *
 * and this process sets the clock, reseeds the kernel's random numbers,
 * unpacks the payload (a tar archive in the first BYTES of the first virtio
 * disk) and follows /ktriage/plan:
 *
 *	file NAME PATH	send what PATH holds
 *	step NAME	run "sh /ktriage/NAME", say how it ended
 *	must NAME	the same, and follow the plan no further if it failed
 *
 * What it says are lines; only after "file NAME LENGTH" come LENGTH raw bytes.
 * What the steps print goes to ttyS2, what the kernel prints to ttyS0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <net/if.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define DISK "/dev/vda"
#define PLAN "/ktriage/plan"
#define SEED_MAX 256

static int control = -1;

static void send_all(const void *data, size_t size)
{
	const char *p = data;

	while (size) {
		ssize_t n = write(control, p, size);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return;
		if (n > 0) {
			p += n;
			size -= n;
		}
	}
}

static void say(const char *format, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, format);
	n = vsnprintf(line, sizeof(line) - 1, format, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	send_all(line, n);
}

static long long now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000LL + ts.tv_nsec / 1000;
}

static int open_serial(const char *path)
{
	struct termios t;
	int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (fd < 0)
		return -1;
	if (!tcgetattr(fd, &t)) {
		cfmakeraw(&t);
		cfsetspeed(&t, B115200);
		tcsetattr(fd, TCSANOW, &t);
	}
	return fd;
}

static void mount_all(void)
{
	static const char *const mounts[][3] = {
		{"proc", "/proc", "proc"},	{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"}, {"tmpfs", "/tmp", "tmpfs"},
		{"tmpfs", "/run", "tmpfs"},	{"debugfs", "/sys/kernel/debug", "debugfs"},
		{"tracefs", "/sys/kernel/tracing", "tracefs"},
	};

	for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
		mkdir(mounts[i][1], 0755);
		mount(mounts[i][0], mounts[i][1], mounts[i][2], 0, NULL);
	}
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", 0, NULL);
	mkdir("/dev/shm", 01777);
	mount("tmpfs", "/dev/shm", "tmpfs", 0, NULL);
}

/* The list was made by depmod's order on the host; a driver that is missing shows later. */
static void load_modules(void)
{
	char path[512];
	FILE *list = fopen("/etc/ktriage/modules", "re");

	if (!list)
		return;
	while (fgets(path, sizeof(path), list)) {
		int fd;

		path[strcspn(path, "\n")] = 0;
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd < 0)
			continue;
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			fprintf(stderr, "ktriage: %s: %s\n", path, strerror(errno));
		close(fd);
	}
	fclose(list);
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "ktriage: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void set_sysctls(void)
{
	char line[256];
	FILE *list = fopen("/etc/ktriage/sysctl", "re");

	if (!list)
		return;
	while (fgets(line, sizeof(line), list)) {
		char *value = strchr(line, '=');

		line[strcspn(line, "\n")] = 0;
		if (value) {
			*value++ = 0;
			write_file(line, value);
		}
	}
	fclose(list);
}

static void loopback_up(void)
{
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0) {
		ioctl(fd, SIOCSIFFLAGS, &ifr);
		close(fd);
	}
}

static int read_line(char *line, size_t size)
{
	size_t n = 0;

	while (n + 1 < size) {
		char c;
		ssize_t got = read(control, &c, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return -1;
		if (c == '\n')
			break;
		line[n++] = c;
	}
	line[n] = 0;
	return 0;
}

static void reseed(const char *hex)
{
	struct {
		struct rand_pool_info info;
		unsigned char bytes[SEED_MAX];
	} pool = {0};
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	size_t n = 0;

	for (; n < SEED_MAX && hex[2 * n] && hex[2 * n + 1]; n++)
		sscanf(hex + 2 * n, "%2hhx", &pool.bytes[n]);
	pool.info.entropy_count = n * 8;
	pool.info.buf_size = n;
	if (fd < 0)
		return;
	/* RNDRESEEDCRNG since v4.17 (d848e5f8e1eb): without it the pool is mixed in only minutes later. */
	if (ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		say("warn reseed: %s", strerror(errno));
	close(fd);
}

static void set_clock(long long epoch_ns)
{
	struct timespec ts = {.tv_sec = epoch_ns / 1000000000, .tv_nsec = epoch_ns % 1000000000};

	if (clock_settime(CLOCK_REALTIME, &ts))
		say("warn clock: %s", strerror(errno));
}

/* As the first process it also reaps what the steps leave behind. */
static int wait_for(pid_t child)
{
	for (;;) {
		int status;
		pid_t pid = waitpid(-1, &status, 0);

		if (pid == child)
			return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
		if (pid < 0 && errno != EINTR)
			return -1;
	}
}

static pid_t start(char *const argv[], int in)
{
	static char *const environment[] = {"PATH=/bin:/sbin", "HOME=/", "TERM=dumb", NULL};
	pid_t child = fork();

	if (!child) {
		int out = open("/dev/ttyS2", O_RDWR | O_NOCTTY);

		setsid();
		signal(SIGPIPE, SIG_DFL);
		dup2(in >= 0 ? in : open("/dev/null", O_RDONLY), 0);
		if (out >= 0) {
			dup2(out, 1);
			dup2(out, 2);
		}
		execve(argv[0], argv, environment);
		_exit(127);
	}
	return child;
}

/* Through a pipe: tar would read the disk to its end. */
static int unpack(long long bytes)
{
	static char data[1 << 16];
	char *argv[] = {"/bin/busybox", "tar", "-xf", "-", "-C", "/", NULL};
	int disk = open(DISK, O_RDONLY | O_CLOEXEC), ends[2];
	pid_t child;

	if (disk < 0 || pipe2(ends, O_CLOEXEC))
		return -1;
	child = start(argv, ends[0]);
	close(ends[0]);
	while (bytes > 0) {
		ssize_t n = read(disk, data, bytes < (long long)sizeof(data) ? (size_t)bytes : sizeof(data));

		if (n <= 0 || write(ends[1], data, n) != n)
			break;
		bytes -= n;
	}
	close(ends[1]);
	close(disk);
	return child < 0 || bytes ? -1 : wait_for(child);
}

static int step(const char *name)
{
	char path[300];
	char *argv[] = {"/bin/sh", path, NULL};
	long long began = now_us();
	pid_t child;
	int code;

	snprintf(path, sizeof(path), "/ktriage/%s", name);
	say("start %s", name);
	child = start(argv, -1);
	code = child < 0 ? -1 : wait_for(child);
	say("exit %s %d %lld", name, code, now_us() - began);
	return code;
}

static void send_file(const char *name, const char *path)
{
	static char data[1 << 20];
	size_t size = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && size < sizeof(data)) {
		ssize_t n = read(fd, data + size, sizeof(data) - size);

		if (n <= 0)
			break;
		size += n;
	}
	if (fd >= 0)
		close(fd);
	say("file %s %zu", name, size);
	send_all(data, size);
}

static void follow_plan(void)
{
	char line[512], verb[16], name[128], path[256];
	FILE *plan = fopen(PLAN, "re");

	if (!plan) {
		say("warn no plan: %s", strerror(errno));
		return;
	}
	while (fgets(line, sizeof(line), plan)) {
		int words = sscanf(line, "%15s %127s %255s", verb, name, path);

		if (words == 3 && !strcmp(verb, "file"))
			send_file(name, path);
		else if (words >= 2 && !strcmp(verb, "step"))
			step(name);
		else if (words >= 2 && !strcmp(verb, "must") && step(name))
			break;
	}
	fclose(plan);
}

int main(void)
{
	char line[1024], seed[2 * SEED_MAX + 1];
	long long epoch_ns, bytes;
	int out;

	signal(SIGPIPE, SIG_IGN);
	mount_all();
	load_modules();
	set_sysctls();
	loopback_up();
	control = open_serial("/dev/ttyS1");
	if (control < 0) {
		fprintf(stderr, "ktriage: /dev/ttyS1: %s\n", strerror(errno));
		reboot(RB_POWER_OFF);
	}
	/* Kept open: the last close of a tty resets it. */
	out = open_serial("/dev/ttyS2");
	(void)out;
	say("ready");
	while (!read_line(line, sizeof(line))) {
		if (sscanf(line, "go %lld %512s %lld", &epoch_ns, seed, &bytes) != 3)
			continue;
		say("awake");
		set_clock(epoch_ns);
		reseed(seed);
		if (unpack(bytes))
			say("warn the payload did not unpack");
		follow_plan();
		say("done");
	}
	for (;;)
		pause();
}
