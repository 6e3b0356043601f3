/*
 * wait.c - see wait.h.
 */
#include "wait.h"

#include <errno.h>
#include <sched.h>

#include "dataplane.h"

/**
 * wait_pause() - keep the CPU, but do little with it
 * @ns: how long
 */
static void wait_pause(uint64_t ns)
{
	uint64_t until = monotonic_ns() + ns;

	while (monotonic_ns() < until) {
#if defined(__x86_64__) || defined(__i386__)
		__builtin_ia32_pause();
#elif defined(__aarch64__)
		__asm__ volatile("yield");
#endif
	}
}

/**
 * wait_spin() - look for work again and again, for a moment
 * @w:     of the calling thread; says how
 * @fds:   polled
 * @count: of @fds
 * @until: clock when it is over
 * @calls: increased by the number of system calls
 *
 * Return: as poll(): 0 when the moment is over
 */
static int wait_spin(const struct waiter *w, struct pollfd *fds, nfds_t count, uint64_t until,
		     uint64_t *calls)
{
	int ready = poll(fds, count, 0);

	++*calls;
	while (ready == 0 && monotonic_ns() < until) {
		if (w->spin == WAIT_LOAD)
			wait_pause(WAIT_LOAD_GAP_NS);
		/* Who sends the next packet may need this very CPU. */
		sched_yield();
		ready = poll(fds, count, 0);
		*calls += 2;
	}
	return ready;
}

/**
 * wait_poll() - poll(), spinning first when that pays
 * @w:          of the calling thread
 * @fds:        polled
 * @count:      of @fds
 * @timeout_ms: as for poll()
 * @calls:      increased by the number of system calls
 *
 * Return: as poll(), but -errno; goes on after a signal
 */
int wait_poll(struct waiter *w, struct pollfd *fds, nfds_t count, int timeout_ms, uint64_t *calls)
{
	uint64_t from = monotonic_ns();
	int ready = 0;

	__atomic_store_n(&w->since_ns, from, __ATOMIC_RELAXED);
	if (w->spin)
		ready = wait_spin(w, fds, count, from + w->spin_ns, calls);
	w->missed = ready == 0 ? w->spin : WAIT_ASLEEP;
	while (ready == 0) {
		ready = poll(fds, count, timeout_ms);
		++*calls;
		if (ready == 0)
			break;
		if (ready < 0 && errno == EINTR)
			ready = 0;
	}
	w->waited_ns = monotonic_ns() - from;
	__atomic_store_n(&w->slept_ns, w->slept_ns + w->waited_ns, __ATOMIC_RELAXED);
	__atomic_store_n(&w->since_ns, 0, __ATOMIC_RELAXED);
	return ready < 0 ? -errno : ready;
}

/**
 * wait_learn() - decide how the next wait begins, by what the last one brought
 * @w:   of the calling thread
 * @out: packets read from the TUN since the last wait
 * @in:  packets read from the socket
 */
void wait_learn(struct waiter *w, uint64_t out, uint64_t in)
{
	bool lone = out + in == 1, load = out + in >= WAIT_LOAD_PACKETS;
	int direction = out ? TNL_OUTBOUND : TNL_INBOUND;
	bool in_turn = lone && w->before && w->before != direction;

	w->before = lone ? direction : 0;
	w->spin = WAIT_ASLEEP;
	if (!lone && !load)
		return;
	if (w->missed)
		w->hold_off = w->missed == WAIT_LOAD ? WAIT_LOAD_HOLD_OFF : WAIT_HOLD_OFF;
	else if (w->hold_off)
		w->hold_off--;
	if (w->hold_off || w->waited_ns >= WAIT_NEAR_SPINS * w->spin_ns)
		return;
	if (load)
		w->spin = WAIT_LOAD;
	else if (in_turn)
		w->spin = WAIT_ANSWER;
}

/**
 * wait_slept_ns() - time that a thread has spent waiting
 * @w:      of any thread
 * @now_ns: clock
 *
 * Return: nanoseconds since the thread began; a little off while the thread falls asleep or wakes
 */
uint64_t wait_slept_ns(const struct waiter *w, uint64_t now_ns)
{
	uint64_t since_ns = __atomic_load_n(&w->since_ns, __ATOMIC_RELAXED);
	uint64_t slept_ns = __atomic_load_n(&w->slept_ns, __ATOMIC_RELAXED);

	return since_ns && since_ns < now_ns ? slept_ns + (now_ns - since_ns) : slept_ns;
}
