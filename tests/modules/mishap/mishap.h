/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MISHAP_H
#define MISHAP_H

/* A crash that can be asked for by name; the function is what its report should name. */
struct mishap {
	const char *name;
	void (*happen)(void);
};

extern const struct mishap mishap_counts[], mishap_faults[], mishap_locks[], mishap_memory[],
	mishap_objects[], mishap_stuck[];

#endif
