/*
 * loop.c - the poll loops of the main thread and of the helper, and who owns inbound.
 *
 * Load is judged by sleep: a main thread that hardly sleeps any more, and not because others have
 * its CPU, has too much to do, and hands inbound to the helper. When both together sleep so much
 * that one would do, inbound goes back. A second thread costs wake-ups, so packets alone are no
 * reason for one: a receiver that empties its socket with time to spare does better alone.
 */
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include "counters.h"
#include "inbound.h"
#include "outbound.h"
#include "wait.h"

/* The main thread looks this often whether to hand inbound over, the helper whether to return it.
 */
#define BUSY_WINDOW_NS (4ull * 1000 * 1000)
#define IDLE_WINDOW_NS (20ull * 1000 * 1000)
#define IDLE_WINDOW_MS 20
/* A main thread that sleeps less than this share of a window has too much to do. One that had the
 * CPU for less than a quarter of it only waits for its turn: a second thread would wait beside it.
 */
#define BUSY_SLEEP_SHARE 8u
#define BUSY_CPU_SHARE 4u
/* Two threads that work less than this much of a window, together, are one too many; the gap
 * between the two keeps it from flapping. In hundredths. */
#define IDLE_WORK_PERCENT 60u

enum { POLL_STOP, POLL_WAKE, POLL_TUN, POLL_UDP, POLL_COUNT };

/** struct window - a stretch of time in which sleep is measured
 * @since_ns: when it began
 * @main_ns:  slept by the main thread until then
 * @helper_ns: slept by the helper until then
 * @cpu_ns:   CPU time of the thread that began it
 */
struct window {
	uint64_t since_ns;
	uint64_t main_ns;
	uint64_t helper_ns;
	uint64_t cpu_ns;
};

/**
 * window_begin() - begin a window
 * @engine: engine
 * @now_ns: clock
 *
 * Return: the window
 */
static struct window window_begin(const struct tnl_engine *engine, uint64_t now_ns)
{
	struct timespec cpu = {0};

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	return (struct window){
		.since_ns = now_ns,
		.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec,
		.main_ns = wait_slept_ns(&engine->waiters[0], now_ns),
		.helper_ns = wait_slept_ns(&engine->waiters[1], now_ns),
	};
}

/**
 * inbound_owner() - which thread serves inbound now
 * @engine: engine
 *
 * Return: TNL_MAIN or TNL_HELPER
 */
int inbound_owner(const struct tnl_engine *engine)
{
	return __atomic_load_n(&engine->inbound_owner, __ATOMIC_ACQUIRE);
}

/**
 * inbound_hand_over() - give inbound to the other thread; only the owner may call it
 * @engine: engine
 * @to:     TNL_MAIN or TNL_HELPER
 */
static void inbound_hand_over(struct tnl_engine *engine, int to)
{
	int fd = to == TNL_MAIN ? engine->options.main_fd : engine->options.helper_fd;
	uint64_t one = 1;

	__atomic_store_n(&engine->inbound_owner, to, __ATOMIC_RELEASE);
	/* An eventfd refuses only when its counter would overflow: then it is readable anyway. */
	if (write(fd, &one, sizeof(one)) < 0)
		return;
}

/** struct thread - one of the two threads
 * @engine:  engine
 * @waiter:  how it waits
 * @polls:   its counter of system calls spent waiting
 * @wake_fd: wakes it
 * @fds:     polled
 */
struct thread {
	struct tnl_engine *engine;
	struct waiter *waiter;
	uint64_t *polls;
	int wake_fd;
	struct pollfd fds[POLL_COUNT];
};

/**
 * thread_wait() - wait for work
 * @t:          thread
 * @tun_events: wanted of the TUN
 * @udp_events: wanted of the socket
 * @timeout_ms: as for poll
 *
 * Return: 1 to go on, 0 when a stop was asked for, -errno
 */
static int thread_wait(struct thread *t, short tun_events, short udp_events, int timeout_ms)
{
	const struct tnl_options *options = &t->engine->options;
	struct pollfd *fds = t->fds;
	uint64_t calls = 0, value;
	int ready;

	fds[POLL_STOP] = (struct pollfd){.fd = options->stop_fd, .events = POLLIN};
	fds[POLL_WAKE] = (struct pollfd){.fd = t->wake_fd, .events = POLLIN};
	fds[POLL_TUN] = (struct pollfd){.fd = options->tun_fd, .events = tun_events};
	fds[POLL_UDP] = (struct pollfd){.fd = options->udp_fd, .events = udp_events};
	if (!udp_events)
		fds[POLL_UDP].fd = -1;
	ready = wait_poll(t->waiter, fds, POLL_COUNT, timeout_ms, &calls);
	count(t->polls, 0, calls);
	if (ready < 0)
		return ready;
	/* Whoever wrote first made it readable; it must wait again. */
	if (fds[POLL_WAKE].revents & POLLIN && read(t->wake_fd, &value, sizeof(value)) < 0)
		fds[POLL_WAKE].revents = 0;
	return fds[POLL_STOP].revents ? 0 : 1;
}

/**
 * tun_is_gone() - whether poll says that the TUN was deleted
 * @fds: polled
 *
 * That shows as POLLERR without POLLIN: a loop that only looks at POLLIN spins for ever.
 *
 * Return: true if so
 */
static bool tun_is_gone(const struct pollfd *fds)
{
	return fds[POLL_TUN].revents & (POLLERR | POLLHUP | POLLNVAL);
}

/**
 * main_judge() - hand inbound to the helper when one thread has too much to do
 * @engine: engine
 * @window: current window; begun again when it is over
 */
static void main_judge(struct tnl_engine *engine, struct window *window)
{
	uint64_t now_ns = monotonic_ns();
	uint64_t elapsed_ns = now_ns - window->since_ns;
	struct window next;

	if (elapsed_ns < BUSY_WINDOW_NS)
		return;
	next = window_begin(engine, now_ns);
	if ((next.main_ns - window->main_ns) * BUSY_SLEEP_SHARE < elapsed_ns &&
	    (next.cpu_ns - window->cpu_ns) * BUSY_CPU_SHARE > elapsed_ns)
		inbound_hand_over(engine, TNL_HELPER);
	*window = next;
}

/**
 * main_turns() - one turn of each direction that has work
 * @t:       the main thread
 * @both:    it serves inbound too
 * @blocked: outbound waits for POLLOUT; updated
 *
 * Return: 0 or -ENODEV when the TUN was deleted
 */
static int main_turns(struct thread *t, bool both, bool *blocked)
{
	struct tnl_engine *engine = t->engine;
	uint64_t *out = &engine->outbound->counters[OUT_packets_read];
	uint64_t *in = &engine->inbound->counters[IN_packets_read];
	uint64_t out_before = *out, in_before = both ? *in : 0;

	if (t->fds[POLL_TUN].revents & POLLIN || (*blocked && t->fds[POLL_UDP].revents & POLLOUT)) {
		enum turn_result result = outbound_turn(engine->outbound);

		if (result == TURN_GONE)
			return -ENODEV;
		*blocked = result == TURN_BLOCKED;
	}
	if (both && t->fds[POLL_UDP].revents & (POLLIN | POLLERR))
		inbound_turn(engine->inbound);
	if (both)
		wait_learn(t->waiter, *out - out_before, *in - in_before);
	return tun_is_gone(t->fds) ? -ENODEV : 0;
}

/**
 * main_run() - outbound always, inbound while this thread owns it
 * @engine: engine
 *
 * Return: 0 after a stop, -ENODEV when the TUN was deleted, -errno of poll
 */
static int main_run(struct tnl_engine *engine)
{
	struct thread t = {.engine = engine,
			   .waiter = &engine->waiters[0],
			   .polls = &engine->outbound->counters[OUT_syscalls_poll],
			   .wake_fd = engine->options.main_fd};
	struct window window = window_begin(engine, monotonic_ns());
	bool blocked = false;
	int more = 1;

	if (engine->options.threads == TNL_THREADS_TWO)
		inbound_hand_over(engine, TNL_HELPER);
	while (more > 0) {
		bool both = inbound_owner(engine) == TNL_MAIN;
		short udp_events = (short)((both ? POLLIN : 0) | (blocked ? POLLOUT : 0));
		int error;

		more = thread_wait(&t, blocked ? 0 : POLLIN, udp_events, -1);
		if (more <= 0)
			break;
		error = main_turns(&t, both, &blocked);
		if (error)
			return error;
		if (both && engine->options.threads == TNL_THREADS_AUTO)
			main_judge(engine, &window);
	}
	return more;
}

/**
 * helper_judge() - hand inbound back when one thread would do
 * @engine: engine, inbound owned by the helper
 * @window: current window; begun again when it is over
 *
 * Return: true when inbound was handed back
 */
static bool helper_judge(struct tnl_engine *engine, struct window *window)
{
	uint64_t now_ns = monotonic_ns();
	uint64_t elapsed_ns = now_ns - window->since_ns;
	struct window next;
	uint64_t slept_ns;

	if (elapsed_ns < IDLE_WINDOW_NS)
		return false;
	next = window_begin(engine, now_ns);
	slept_ns = next.main_ns - window->main_ns + next.helper_ns - window->helper_ns;
	*window = next;
	if (slept_ns * 100 < (200 - IDLE_WORK_PERCENT) * elapsed_ns)
		return false;
	inbound_hand_over(engine, TNL_MAIN);
	return true;
}

/**
 * helper_serve() - inbound, until the load is gone
 * @t: the helper, which owns inbound
 *
 * Return: 1 when inbound was handed back, 0 after a stop, -ENODEV, -errno of poll
 */
static int helper_serve(struct thread *t)
{
	bool automatic = t->engine->options.threads == TNL_THREADS_AUTO;
	struct window window = window_begin(t->engine, monotonic_ns());

	for (;;) {
		int more = thread_wait(t, 0, POLLIN, automatic ? IDLE_WINDOW_MS : -1);

		if (more <= 0)
			return more;
		if (t->fds[POLL_UDP].revents & (POLLIN | POLLERR))
			inbound_turn(t->engine->inbound);
		if (tun_is_gone(t->fds))
			return -ENODEV;
		if (automatic && helper_judge(t->engine, &window))
			return 1;
	}
}

/**
 * helper_run() - sleep until inbound is handed over, serve it, sleep again
 * @engine: engine
 *
 * Return: 0 after a stop, -ENODEV when the TUN was deleted, -errno of poll
 */
static int helper_run(struct tnl_engine *engine)
{
	struct thread t = {.engine = engine,
			   .waiter = &engine->waiters[1],
			   .polls = &engine->inbound->counters[IN_syscalls_poll],
			   .wake_fd = engine->options.helper_fd};
	int more = 1;

	while (more > 0) {
		if (inbound_owner(engine) == TNL_HELPER) {
			more = helper_serve(&t);
		} else {
			more = thread_wait(&t, 0, 0, -1);
			if (more > 0 && tun_is_gone(t.fds))
				more = -ENODEV;
		}
	}
	return more;
}

/**
 * tnl_run() - move packets until stopped; called with the GIL released
 * @engine: engine
 * @role:   TNL_MAIN or TNL_HELPER; one thread each
 *
 * Return: 0 after a stop, -ENODEV when the TUN was deleted, -errno of poll
 */
int tnl_run(struct tnl_engine *engine, int role)
{
	int result;

	if (role == TNL_HELPER)
		return helper_run(engine);
	result = main_run(engine);
	outbound_stop(engine->outbound);
	return result;
}
