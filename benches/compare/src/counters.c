/* What both sides of the bench are measured by: allocations of the process, and system calls of a thread and of those it
   starts. */

#include <linux/perf_event.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

static _Atomic uint64_t allocations;

void *malloc(size_t size)
{
	allocations++;
	return __libc_malloc(size);
}

void *calloc(size_t count, size_t size)
{
	allocations++;
	return __libc_calloc(count, size);
}

void *realloc(void *memory, size_t size)
{
	allocations++;
	return __libc_realloc(memory, size);
}

uint64_t c_allocations(void)
{
	return allocations;
}

/* A descriptor that counts how often this thread and those that it starts from now on meet a tracepoint, or -1. */
int c_count_tracepoint(uint64_t id)
{
	struct perf_event_attr attributes;

	memset(&attributes, 0, sizeof attributes);
	attributes.size = sizeof attributes;
	attributes.type = PERF_TYPE_TRACEPOINT;
	attributes.config = id;
	attributes.inherit = 1;
	return (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);
}
