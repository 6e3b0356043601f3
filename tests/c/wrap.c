/*
 * wrap.c - see wrap.h. A program that has it must be linked with --wrap for malloc, calloc,
 * realloc, sendmmsg, recvmmsg and writev.
 */
#include "wrap.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "vnet.h"

uint64_t allocations, engine_allocations;
_Thread_local bool inside_engine;
int refuse_runs, refuse_frames;
int receive_ms;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

/** count_allocation() - note one call of the allocator */
static void count_allocation(void)
{
	__atomic_add_fetch(inside_engine ? &engine_allocations : &allocations, 1, __ATOMIC_RELAXED);
}

/** __wrap_malloc() - what the linker puts in place of malloc() */
void *__wrap_malloc(size_t size)
{
	count_allocation();
	return __real_malloc(size);
}

/** __wrap_calloc() - what the linker puts in place of calloc() */
void *__wrap_calloc(size_t count, size_t size)
{
	count_allocation();
	return __real_calloc(count, size);
}

/** __wrap_realloc() - what the linker puts in place of realloc() */
void *__wrap_realloc(void *old, size_t size)
{
	count_allocation();
	return __real_realloc(old, size);
}

int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout);
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __real_writev(int fd, const struct iovec *iovs, int count);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __wrap_writev(int fd, const struct iovec *iovs, int count);

/** __wrap_sendmmsg() - as the kernel: stop at the message that is refused, fail if it is the first
 */
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	for (unsigned int i = 0; refuse_runs && i < count; i++)
		if (messages[i].msg_hdr.msg_controllen)
			count = i;
	if (count)
		return __real_sendmmsg(fd, messages, count, flags);
	errno = refuse_runs;
	return -1;
}

/** __wrap_recvmmsg() - as the kernel, but slower */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout)
{
	struct timespec cpu;
	double until = 0;

	/* By work, not by sleep: that is what load is judged by. */
	for (bool first = true; receive_ms; first = false) {
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
		if (first)
			until = (double)cpu.tv_sec * 1e3 + (double)cpu.tv_nsec / 1e6 + receive_ms;
		else if ((double)cpu.tv_sec * 1e3 + (double)cpu.tv_nsec / 1e6 >= until)
			break;
	}
	return __real_recvmmsg(fd, messages, count, flags, timeout);
}

/** __wrap_writev() - refuse what says that it is a superpacket */
ssize_t __wrap_writev(int fd, const struct iovec *iovs, int count)
{
	const struct vnet_hdr *vnet = iovs[0].iov_base;

	if (!refuse_frames || count < 2 || vnet->gso_type == VNET_GSO_NONE)
		return __real_writev(fd, iovs, count);
	errno = refuse_frames;
	return -1;
}
