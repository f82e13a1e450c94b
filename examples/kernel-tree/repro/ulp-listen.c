// SPDX-License-Identifier: GPL-2.0-only
/*
 * ulp-listen - listen on a socket that carries the TLS ULP
 *
 * The TLS ULP can be had on a connected socket only. Connect, ask for
 * it, let go of the peer and listen: a kernel that keeps ULPs without a
 * clone operation from listening says EINVAL, and all is well. One that
 * does not gives each accepted socket the ULP, but no reference to its
 * module.
 *
 * Exits with 0 if the kernel did either; with 1 if something else went
 * wrong, which says nothing.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef TCP_ULP
#define TCP_ULP 31
#endif

#define CHILDREN 4	/* from the third on, module_put() warns */

static int fail(const char *what)
{
	fprintf(stderr, "ulp-listen: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct sockaddr_in loopback(unsigned short port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};

	return address;
}

static int listener(unsigned short port)
{
	struct sockaddr_in address = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) || listen(fd, CHILDREN))
		return -1;
	return fd;
}

int main(void)
{
	struct sockaddr_in plain = loopback(4433), tls = loopback(4434);
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int client[CHILDREN], child[CHILDREN];
	int server = listener(4433), fd = socket(AF_INET, SOCK_STREAM, 0);

	if (server < 0 || fd < 0)
		return fail("socket");
	if (connect(fd, (struct sockaddr *)&plain, sizeof(plain)))
		return fail("connect");
	if (setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")))
		return fail("TCP_ULP");
	if (connect(fd, &none, sizeof(none)))
		return fail("disconnect");
	if (bind(fd, (struct sockaddr *)&tls, sizeof(tls)))
		return fail("bind");
	if (listen(fd, CHILDREN)) {
		if (errno != EINVAL)
			return fail("listen");
		puts("ulp-listen: the kernel does not let it listen");
		return 0;
	}
	for (int i = 0; i < CHILDREN; i++) {
		client[i] = socket(AF_INET, SOCK_STREAM, 0);
		if (client[i] < 0 || connect(client[i], (struct sockaddr *)&tls, sizeof(tls)))
			return fail("connect to the ULP's listener");
		child[i] = accept(fd, NULL, NULL);
		if (child[i] < 0)
			return fail("accept");
	}
	for (int i = 0; i < CHILDREN; i++)
		close(child[i]);
	puts("ulp-listen: children came and went");
	return 0;
}
