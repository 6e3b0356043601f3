/*
 * loop.c - the poll loops of the main thread and of the helper, and who owns inbound.
 *
 * Load is judged by packets per wake-up, not by packets per second: a ping-pong of 20,000 round
 * trips a second moves one packet per wake-up and wants one thread; a transfer finds dozens waiting
 * each time and wants two.
 */
#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "counters.h"
#include "inbound.h"
#include "outbound.h"

/* The main thread looks this often whether to hand inbound over, the helper whether to return it.
 */
#define BUSY_WINDOW_NS (1000ull * 1000)
#define IDLE_WINDOW_NS (20ull * 1000 * 1000)
#define IDLE_WINDOW_MS 20
/* At least so many packets per window, and so many per wake-up, are a load for two threads. */
#define BUSY_PACKETS 128u
#define BUSY_PER_WAKEUP 8u
/* Fewer per wake-up than this are none; the gap between the two keeps it from flapping. */
#define IDLE_PER_WAKEUP 3u

enum { POLL_STOP, POLL_WAKE, POLL_TUN, POLL_UDP, POLL_COUNT };

/** struct load - what both directions had done when a window began
 * @since_ns: start of the window
 * @packets:  read in both directions until then
 * @wakeups:  of both directions until then
 */
struct load {
	uint64_t since_ns;
	uint64_t packets;
	uint64_t wakeups;
};

/**
 * load_read() - read the sums of both directions
 * @engine: engine
 * @now_ns: clock
 *
 * Return: a load that a later one can be compared with
 */
static struct load load_read(const struct tnl_engine *engine, uint64_t now_ns)
{
	const uint64_t *out = engine->outbound->counters;
	const uint64_t *in = engine->inbound->counters;

	return (struct load){
		.since_ns = now_ns,
		.packets = __atomic_load_n(&out[OUT_packets_read], __ATOMIC_RELAXED) +
			   __atomic_load_n(&in[IN_packets_read], __ATOMIC_RELAXED),
		.wakeups = __atomic_load_n(&out[OUT_syscalls_poll], __ATOMIC_RELAXED) +
			   __atomic_load_n(&in[IN_syscalls_poll], __ATOMIC_RELAXED),
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

/**
 * wake_drain() - make a wake-up descriptor wait again
 * @fds: polled
 */
static void wake_drain(const struct pollfd *fds)
{
	uint64_t value;

	if (fds[POLL_WAKE].revents & POLLIN && read(fds[POLL_WAKE].fd, &value, sizeof(value)) < 0)
		return;
}

/**
 * loop_poll() - wait for work
 * @engine:     engine
 * @fds:        filled in
 * @wake_fd:    of this thread
 * @tun_events: wanted of the TUN
 * @udp_events: wanted of the socket
 * @timeout_ms: as for poll
 *
 * Return: 1 to go on, 0 when a stop was asked for, -errno
 */
static int loop_poll(const struct tnl_engine *engine, struct pollfd *fds, int wake_fd,
		     short tun_events, short udp_events, int timeout_ms)
{
	fds[POLL_STOP] = (struct pollfd){.fd = engine->options.stop_fd, .events = POLLIN};
	fds[POLL_WAKE] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
	fds[POLL_TUN] = (struct pollfd){.fd = engine->options.tun_fd, .events = tun_events};
	fds[POLL_UDP] = (struct pollfd){.fd = engine->options.udp_fd, .events = udp_events};
	if (!udp_events)
		fds[POLL_UDP].fd = -1;
	while (poll(fds, POLL_COUNT, timeout_ms) < 0)
		if (errno != EINTR)
			return -errno;
	wake_drain(fds);
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
 * main_judge() - hand inbound to the helper when there is load for two threads
 * @engine: engine
 * @window: current window; begun again when it is over
 */
static void main_judge(struct tnl_engine *engine, struct load *window)
{
	uint64_t now_ns = monotonic_ns();
	uint64_t elapsed_ns = now_ns - window->since_ns;
	uint64_t packets;
	struct load now;

	if (elapsed_ns < BUSY_WINDOW_NS)
		return;
	now = load_read(engine, now_ns);
	packets = now.packets - window->packets;
	/* A rate, since a window may be long: by sleep (no load) or by one long turn (a heavy one).
	 */
	if (packets * BUSY_WINDOW_NS >= BUSY_PACKETS * elapsed_ns &&
	    packets >= BUSY_PER_WAKEUP * (now.wakeups - window->wakeups))
		inbound_hand_over(engine, TNL_HELPER);
	*window = now;
}

/**
 * main_run() - outbound always, inbound while this thread owns it
 * @engine: engine
 *
 * Return: 0 after a stop, -ENODEV when the TUN was deleted, -errno of poll
 */
static int main_run(struct tnl_engine *engine)
{
	uint64_t *polls = &engine->outbound->counters[OUT_syscalls_poll];
	struct load window = load_read(engine, monotonic_ns());
	struct pollfd fds[POLL_COUNT];
	bool blocked = false;

	if (engine->options.threads == TNL_THREADS_TWO)
		inbound_hand_over(engine, TNL_HELPER);
	for (;;) {
		bool both = inbound_owner(engine) == TNL_MAIN;
		short udp_events = (short)((both ? POLLIN : 0) | (blocked ? POLLOUT : 0));
		int more = loop_poll(engine, fds, engine->options.main_fd, blocked ? 0 : POLLIN,
				     udp_events, -1);

		if (more <= 0)
			return more;
		count(polls, 0, 1);
		if (fds[POLL_TUN].revents & POLLIN ||
		    (blocked && fds[POLL_UDP].revents & POLLOUT)) {
			enum turn_result result = outbound_turn(engine->outbound);

			if (result == TURN_GONE)
				return -ENODEV;
			blocked = result == TURN_BLOCKED;
		}
		if (both && fds[POLL_UDP].revents & (POLLIN | POLLERR))
			inbound_turn(engine->inbound);
		if (tun_is_gone(fds))
			return -ENODEV;
		if (both && engine->options.threads == TNL_THREADS_AUTO)
			main_judge(engine, &window);
	}
}

/**
 * helper_serve() - inbound, until the load is gone
 * @engine: engine, inbound owned by the helper
 *
 * Return: 1 when inbound was handed back, 0 after a stop, -ENODEV, -errno of poll
 */
static int helper_serve(struct tnl_engine *engine)
{
	int timeout_ms = engine->options.threads == TNL_THREADS_AUTO ? IDLE_WINDOW_MS : -1;
	uint64_t *polls = &engine->inbound->counters[IN_syscalls_poll];
	struct load window = load_read(engine, monotonic_ns());
	struct pollfd fds[POLL_COUNT];

	for (;;) {
		int more = loop_poll(engine, fds, engine->options.helper_fd, 0, POLLIN, timeout_ms);
		uint64_t now_ns;

		if (more <= 0)
			return more;
		count(polls, 0, 1);
		if (fds[POLL_UDP].revents & (POLLIN | POLLERR))
			inbound_turn(engine->inbound);
		if (tun_is_gone(fds))
			return -ENODEV;
		if (timeout_ms < 0)
			continue;
		now_ns = monotonic_ns();
		if (now_ns - window.since_ns >= IDLE_WINDOW_NS) {
			struct load now = load_read(engine, now_ns);

			if (now.packets - window.packets <
			    IDLE_PER_WAKEUP * (now.wakeups - window.wakeups)) {
				inbound_hand_over(engine, TNL_MAIN);
				return 1;
			}
			window = now;
		}
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
	struct pollfd fds[POLL_COUNT];
	int more = 1;

	while (more > 0) {
		if (inbound_owner(engine) == TNL_HELPER) {
			more = helper_serve(engine);
		} else {
			more = loop_poll(engine, fds, engine->options.helper_fd, 0, 0, -1);
			if (more > 0 && tun_is_gone(fds))
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
