// SPDX-License-Identifier: GPL-2.0-only
/* Exceptions of the processor, BUG, WARN and panic. */
#include <linux/bug.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/objtool.h>
#include "mishap.h"

struct thing {
	char head[0x38];
	int member;
};

static struct thing *volatile nothing;
static const unsigned long readonly = 1;
static volatile int zero;

static noinline void mishap_null_read(void)
{
	pr_info("%d\n", READ_ONCE(nothing->member));
}

static noinline void mishap_null_write(void)
{
	WRITE_ONCE(nothing->member, 1);
}

static noinline void mishap_null_call(void)
{
	void (*volatile function)(void) = NULL;

	function();
}

static noinline void mishap_non_canonical(void)
{
	int *volatile p = (int *)0xdead4ead00000000;

	WRITE_ONCE(*p, 1);
}

static noinline void mishap_poison(void)
{
	struct thing *volatile p = (struct thing *)0x6b6b6b6b6b6b6b6b;

	WRITE_ONCE(p->member, 1);
}

static noinline void mishap_unmapped(void)
{
	char *volatile p = (char *)0xffffc8ffdeadb000;

	WRITE_ONCE(*p, 1);
}

static noinline void mishap_write_readonly(void)
{
	WRITE_ONCE(*(unsigned long *)&readonly, 2);
}

static noinline void mishap_user_access(void)
{
	unsigned long address = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
					MAP_ANONYMOUS | MAP_PRIVATE, 0);

	clear_user((void __user *)address, PAGE_SIZE);
	WRITE_ONCE(*(int *)address, 1);
}

static noinline void mishap_user_exec(void)
{
	unsigned long address = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
					MAP_ANONYMOUS | MAP_PRIVATE, 0);
	void (*volatile function)(void) = (void (*)(void))address;

	clear_user((void __user *)address, PAGE_SIZE);
	function();
}

static noinline void mishap_divide(void)
{
	pr_info("%d\n", 1000 / zero);
}

static noinline void mishap_unknown_instruction(void)
{
	asm volatile(".byte 0x0f, 0xff");
}

static noinline void mishap_int3(void)
{
	asm volatile("int3");
}

static noinline void mishap_double_fault(void)
{
	asm volatile("movabs $0xffffc8ffdeadb000, %%rsp\n\t"
		     "push $1" ::: "memory");
}
STACK_FRAME_NON_STANDARD(mishap_double_fault);

static noinline int mishap_recursion(volatile int depth)
{
	volatile char frame[256];

	frame[depth & 255] = depth;
	return mishap_recursion(depth + 1) + frame[depth & 255];
}

static noinline void mishap_stack_overflow(void)
{
	pr_info("%d\n", mishap_recursion(1));
}

static noinline void mishap_stack_canary(void)
{
	volatile char frame[32];
	volatile char *p = frame;
	int i;

	for (i = 0; i < 96; i++)
		p[i] = 0x41;
}

static noinline void mishap_impossible(void)
{
	BUG();
}

static noinline void mishap_gone(void)
{
	WARN(1, "%d of %d things are gone\n", 3, 4);
}

static noinline void mishap_not_so(void)
{
	WARN_ON_ONCE(zero == 0);
}

static noinline void mishap_not_so_twice(void)
{
	WARN_ON(zero == 0);
	WARN_ON(zero == 0);
}

static noinline void mishap_give_up(void)
{
	panic("mishap: %d things are gone", 4);
}

static noinline void mishap_dump_stack(void)
{
	dump_stack();
}

const struct mishap mishap_faults[] = {
	{"null-read", mishap_null_read},
	{"null-write", mishap_null_write},
	{"null-call", mishap_null_call},
	{"non-canonical", mishap_non_canonical},
	{"poison", mishap_poison},
	{"unmapped", mishap_unmapped},
	{"write-readonly", mishap_write_readonly},
	{"user-access", mishap_user_access},
	{"user-exec", mishap_user_exec},
	{"divide", mishap_divide},
	{"unknown-instruction", mishap_unknown_instruction},
	{"int3", mishap_int3},
	{"double-fault", mishap_double_fault},
	{"stack-overflow", mishap_stack_overflow},
	{"stack-canary", mishap_stack_canary},
	{"impossible", mishap_impossible},
	{"gone", mishap_gone},
	{"not-so", mishap_not_so},
	{"not-so-twice", mishap_not_so_twice},
	{"give-up", mishap_give_up},
	{"dump-stack", mishap_dump_stack},
	{},
};
