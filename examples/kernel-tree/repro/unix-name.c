// SPDX-License-Identifier: GPL-2.0-only
/*
 * unix-name - ask a listening Unix socket for its name when a client has come and gone
 *
 * A socket that is accepted shares its address with the one that
 * listens. If it does not count itself among the users of the address,
 * then the address goes when the first of them does.
 *
 * Exits with 0 if all calls did what they should; with 1 if not, which
 * says nothing.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int fail(const char *what)
{
	fprintf(stderr, "unix-name: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(void)
{
	/* An abstract name: it begins with a zero, and there is no file. */
	struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "\0ktriage-unix-name" }, told;
	socklen_t size = sizeof(told);
	int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0), child;

	if (server < 0 || client < 0)
		return fail("socket");
	if (bind(server, (struct sockaddr *)&name, sizeof(name)) || listen(server, 1))
		return fail("bind and listen");
	if (connect(client, (struct sockaddr *)&name, sizeof(name)))
		return fail("connect");
	child = accept(server, NULL, NULL);
	if (child < 0)
		return fail("accept");
	close(child);
	close(client);
	if (getsockname(server, (struct sockaddr *)&told, &size))
		return fail("getsockname");
	puts("unix-name: the name is still there");
	return 0;
}
