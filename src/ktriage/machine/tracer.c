// SPDX-License-Identifier: GPL-2.0-only
/*
 * Records trace events in a guest and hands them to the host as they come.
 *
 *	tracer start	set a tracing instance up and stream it in the background
 *	tracer stop	send what is left, and end
 *
 * /ktriage/trace says what to do, a line each; PATH is relative to the instance:
 *
 *	write PATH TEXT		write TEXT and a newline to PATH
 *	append PATH TEXT	the same, added to what is there
 *	send NAME PATH		send the file PATH as NAME
 *	listen for modules	say where each module is put, as it is loaded
 *
 * The host gets raw pages of the ring buffer, for text would cost the guest many times as much as recording
 * does. They go to the virtio port "ktriage.trace". What is said there are lines; LENGTH raw bytes
 * follow "page" and "file":
 *
 *	page CPU LENGTH			what trace_pipe_raw gave, without the zeroes at the end
 *	file NAME LENGTH		a file's content
 *	module NAME ADDRESS SECTION	where a module that was just loaded has its code; at least one line each
 *	error TEXT
 *	end
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing/"
#define INSTANCE TRACING "instances/ktriage/"
#define GROUP "ktriage"
#define CONFIG "/ktriage/trace"
#define PID_FILE "/run/ktriage-tracer"
#define PORT "ktriage.trace"
#define CPUS 64
#define BLOCK 65536
#define TICK_MS 100
#define NAMES_MS 400
#define MISSED_STORED (1u << 30)
#define LENGTH_MASK 0xfffffu
#define HEADER 16

static int port = -1, pages[CPUS], uevents = -1;
static volatile sig_atomic_t stopping;
static char block[BLOCK], out[BLOCK];
static size_t out_size;

/* Each write is an exit to the host, so what there is to say is said at once. */
static void flush(void)
{
	const char *p = out;

	while (out_size) {
		ssize_t n = write(port, p, out_size);

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			_exit(1);
		if (n > 0) {
			p += n;
			out_size -= n;
		}
	}
}

static void send_all(const void *data, size_t size)
{
	const char *p = data;

	while (size) {
		size_t n = sizeof(out) - out_size;

		if (n > size)
			n = size;
		memcpy(out + out_size, p, n);
		out_size += n;
		p += n;
		size -= n;
		if (out_size == sizeof(out))
			flush();
	}
}

static void say(const char *format, ...)
{
	char line[1024];
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

static void fail(const char *what, const char *why)
{
	say("error %s: %s", what, why);
	flush();
	fprintf(stderr, "tracer: %s: %s\n", what, why);
	exit(1);
}

static void open_port(void)
{
	DIR *dir = opendir("/sys/class/virtio-ports");
	struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		char path[300], name[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(name, sizeof(name), file) && !strncmp(name, PORT "\n", sizeof(PORT))) {
			snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
			port = open(path, O_RDWR | O_CLOEXEC);
		}
		fclose(file);
	}
	if (port < 0) {
		fprintf(stderr, "tracer: no port " PORT "\n");
		exit(1);
	}
}

/* Files of proc and sysfs have no length before they are read. */
static void send_file(const char *name, const char *path)
{
	size_t size = 0, room = 1 << 20;
	char *data = malloc(room);
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	while (fd >= 0 && data) {
		ssize_t n = read(fd, data + size, room - size);

		if (n <= 0)
			break;
		size += n;
		if (size == room)
			data = realloc(data, room *= 2);
	}
	if (fd >= 0)
		close(fd);
	if (!data)
		fail(path, "no memory");
	say("file %s %zu", name, size);
	send_all(data, size);
	free(data);
}

/* The last complaint: "[ 1.2] trace_kprobe: error: ..." (Documentation/trace/ftrace.rst, "error_log"). */
static void complain(const char *path, const char *text, const char *why)
{
	char line[256], last[256] = "";
	FILE *log = fopen(TRACING "error_log", "re");

	while (log && fgets(line, sizeof(line), log)) {
		char *found = strstr(line, "error: ");

		if (found)
			snprintf(last, sizeof(last), "%.*s", (int)strcspn(found + 7, "\n"), found + 7);
	}
	say("error %s: %s: %s: %s", path, text, why, last);
	flush();
	fprintf(stderr, "tracer: %s: %s: %s: %s\n", path, text, why, last);
	exit(1);
}

/* Others are not even woken up for (Documentation/networking/filter.rst). */
static void listen_for_modules(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x61646440, 0, 3), /* "add@" */
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x2f6d6f64, 0, 1), /* "/mod" */
		BPF_STMT(BPF_RET | BPF_K, 0xffff),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog filter = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};

	uevents = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
	if (uevents < 0)
		return;
	setsockopt(uevents, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof(filter));
	if (bind(uevents, (struct sockaddr *)&address, sizeof(address))) {
		close(uevents);
		uevents = -1;
	}
}

static void configure(void)
{
	char line[1024], verb[16], name[256], path[300];
	FILE *config = fopen(CONFIG, "re");

	if (!config)
		fail(CONFIG, strerror(errno));
	while (fgets(line, sizeof(line), config)) {
		int rest = 0, fd;

		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "%15s %255s %n", verb, name, &rest) < 2 || !rest)
			continue;
		if (!strcmp(verb, "listen")) {
			listen_for_modules();
			continue;
		}
		if (!strcmp(verb, "send")) {
			send_file(name, line + rest);
			continue;
		}
		snprintf(path, sizeof(path), "%s%s", *name == '/' ? "" : INSTANCE, name);
		fd = open(path, O_WRONLY | O_CLOEXEC | (strcmp(verb, "append") ? 0 : O_APPEND));
		if (fd < 0)
			complain(path, line + rest, strerror(errno));
		strcat(line, "\n");
		if (write(fd, line + rest, strlen(line + rest)) < 0) {
			int error = errno;

			line[strcspn(line, "\n")] = 0;
			complain(path, line + rest, strerror(error));
		}
		close(fd);
	}
	fclose(config);
}

static void open_pages(void)
{
	char path[128];

	for (int cpu = 0; cpu < CPUS; cpu++) {
		snprintf(path, sizeof(path), INSTANCE "per_cpu/cpu%d/trace_pipe_raw", cpu);
		pages[cpu] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	}
}

/* A page says itself how much of it is used (rb_page in kernel/trace/ring_buffer.c). */
static size_t used(size_t size)
{
	uint64_t commit;
	size_t length;

	memcpy(&commit, block + 8, sizeof(commit));
	length = HEADER + (commit & LENGTH_MASK) + (commit & MISSED_STORED ? 8 : 0);
	return length < size ? length : size;
}

static int drain(void)
{
	int found = 0;

	for (int cpu = 0; cpu < CPUS; cpu++) {
		size_t page = getpagesize();
		ssize_t n;

		while (pages[cpu] >= 0 && (n = read(pages[cpu], block, page)) > HEADER) {
			size_t length = used(n);

			say("page %d %zu", cpu, length);
			send_all(block, length);
			found = 1;
		}
	}
	return found;
}

static int read_address(const char *path, char *address, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = read(fd, address, size - 1);
	close(fd);
	address[n > 0 ? n : 0] = 0;
	address[strcspn(address, "\n")] = 0;
	return n > 0;
}

/* Only what may stand in a stack, and no look into the folder: this is done while the module's init runs. */
static void loaded(const char *name)
{
	static const char *const sections[] = {".text", ".text.unlikely", ".init.text", ".exit.text"};
	char path[200], address[32];
	int found = 0;

	for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
		snprintf(path, sizeof(path), "/sys/module/%.120s/sections/%s", name, sections[i]);
		if (read_address(path, address, sizeof(address))) {
			say("module %s %s %s", name, address, sections[i]);
			found = 1;
		}
	}
	if (!found)
		say("module %s 0 -", name);
}

/* Messages are "ACTION@DEVPATH", then strings KEY=VALUE (lib/kobject_uevent.c). */
static void hear(void)
{
	static const char added[] = "add@/module/";
	char message[4096];
	ssize_t n;

	while ((n = recv(uevents, message, sizeof(message) - 1, MSG_DONTWAIT)) > 0) {
		message[n] = 0;
		if (!strncmp(message, added, sizeof(added) - 1))
			loaded(message + sizeof(added) - 1);
	}
}

static long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void stop(int signal)
{
	(void)signal;
	stopping = 1;
}

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "tracer: %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void send_stats(void)
{
	char name[32], path[128];

	for (int cpu = 0; cpu < CPUS; cpu++) {
		if (pages[cpu] < 0)
			continue;
		snprintf(name, sizeof(name), "stats%d", cpu);
		snprintf(path, sizeof(path), INSTANCE "per_cpu/cpu%d/stats", cpu);
		send_file(name, path);
	}
}

/* The host takes events when they have waited for a tick: the buffer has room for many more. */
static void stream(void)
{
	struct pollfd wait = {.fd = uevents, .events = POLLIN};
	long named = 0, next = now_ms() + TICK_MS, now;

	while (!stopping) {
		now = now_ms();
		if (now < next) {
			poll(&wait, 1, next - now);
			hear();
			continue;
		}
		next = now + TICK_MS;
		if (drain() && now - named > NAMES_MS) {
			send_file("names", TRACING "saved_cmdlines");
			named = now;
		}
		flush();
	}
	write_file(INSTANCE "tracing_on", "0");
	hear();
	drain();
	send_file("names", TRACING "saved_cmdlines");
	send_stats();
	say("end");
	flush();
}

static int begin(void)
{
	char text[32];
	pid_t child;

	open_port();
	if (mkdir(INSTANCE, 0700) && errno != EEXIST)
		fail(INSTANCE, strerror(errno));
	configure();
	open_pages();
	flush();
	signal(SIGTERM, stop);
	child = fork();
	if (child < 0)
		fail("fork", strerror(errno));
	if (child) {
		snprintf(text, sizeof(text), "%d", child);
		write_file(PID_FILE, text);
		return 0;
	}
	setsid();
	stream();
	return 0;
}

/* "p:GROUP/NAME FUNCTION ...", as they were made; a kretprobe's "r" may have a number after it. */
static void remove_probes(void)
{
	char line[1024], name[256], command[300];
	FILE *probes = fopen(TRACING "kprobe_events", "re");

	while (probes && fgets(line, sizeof(line), probes)) {
		int fd = open(TRACING "kprobe_events", O_WRONLY | O_APPEND | O_CLOEXEC);

		if (sscanf(line, "%*[^:]:" GROUP "/%255s", name) == 1) {
			snprintf(command, sizeof(command), "-:" GROUP "/%s\n", name);
			if (fd >= 0 && write(fd, command, strlen(command)) < 0)
				fprintf(stderr, "tracer: %s: %s\n", name, strerror(errno));
		}
		if (fd >= 0)
			close(fd);
	}
	if (probes)
		fclose(probes);
}

static int end(void)
{
	FILE *file = fopen(PID_FILE, "re");
	int pid = 0;

	if (!file || fscanf(file, "%d", &pid) != 1 || pid <= 1 || kill(pid, SIGTERM))
		return 1;
	while (!kill(pid, 0))
		usleep(1000);
	fclose(file);
	rmdir(INSTANCE);
	remove_probes();
	return 0;
}

int main(int argc, char **argv)
{
	return argc > 1 && !strcmp(argv[1], "stop") ? end() : begin();
}
