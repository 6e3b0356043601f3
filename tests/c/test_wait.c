/*
 * test_wait.c - when a thread looks for the next packet awake, and what that costs in calls.
 */
#include "check.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "dataplane.h"
#include "wait.h"

#define SPIN_NS (100ull * 1000)
#define OUT 1u
#define IN 2u

/** struct step - what one wait brought
 * @packets: OUT, IN, both, or 0 for more than one of a direction
 * @near:    the wait was short
 * @missed:  it began with a spin in vain
 * @spin:    wanted: the next wait begins with a spin
 */
struct step {
	unsigned int packets;
	bool near;
	bool missed;
	bool spin;
};

/** play() - let a waiter learn a row of waits */
static void play(const char *name, const struct step *steps, size_t count)
{
	struct waiter w = {.spin_ns = SPIN_NS};

	for (size_t i = 0; i < count; i++) {
		uint64_t failures = check_state.failures;
		const struct step *step = &steps[i];

		w.waited_ns = step->near ? SPIN_NS : 3 * SPIN_NS;
		w.missed = step->missed;
		if (step->packets == 0)
			wait_learn(&w, 2, 0);
		else
			wait_learn(&w, step->packets & OUT ? 1 : 0, step->packets & IN ? 1 : 0);
		CHECK_EQ(w.spin, step->spin);
		if (check_state.failures != failures)
			printf("  in: %s, step %zu\n", name, i);
	}
}

/** test_learn() - only lone packets from either side in turn, soon after each other, are worth it
 */
static void test_learn(void)
{
	static const struct step ping_pong[] = {
		{OUT, true, false, false}, {IN, true, false, true},  {OUT, true, false, true},
		{IN, false, false, false}, {OUT, true, false, true}, {IN, true, false, true},
	};
	static const struct step stream[] = {
		{OUT, true, false, false},
		{OUT, true, false, false},
		{OUT, true, false, false},
	};
	static const struct step load[] = {
		{OUT, true, false, false}, {IN, true, false, true},	   {0, true, false, false},
		{OUT, true, false, false}, {OUT | IN, true, false, false}, {IN, true, false, false},
		{OUT, true, false, true},
	};

	play("ping-pong", ping_pong, sizeof(ping_pong) / sizeof(ping_pong[0]));
	play("stream", stream, sizeof(stream) / sizeof(stream[0]));
	play("load", load, sizeof(load) / sizeof(load[0]));
}

/** test_hold_off() - a spin in vain ends it for a while */
static void test_hold_off(void)
{
	struct waiter w = {.spin_ns = SPIN_NS};
	uint32_t packets = 0;

	wait_learn(&w, 1, 0);
	wait_learn(&w, 0, 1);
	CHECK(w.spin);
	w.missed = true;
	wait_learn(&w, 1, 0);
	CHECK(!w.spin);
	w.missed = false;
	while (!w.spin && packets < 10 * WAIT_HOLD_OFF) {
		packets++;
		wait_learn(&w, packets % 2 ? 0 : 1, packets % 2);
	}
	CHECK_EQ(packets, WAIT_HOLD_OFF);
}

/** test_none() - without a spin allowed there is none */
static void test_none(void)
{
	struct waiter w = {0};

	for (int i = 0; i < 10; i++) {
		wait_learn(&w, i % 2 ? 1 : 0, i % 2 ? 0 : 1);
		CHECK(!w.spin);
	}
}

/** test_poll() - what is there is found by one call; nothing is looked for, then slept for */
static void test_poll(void)
{
	int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);
	struct pollfd fds = {.fd = fd, .events = POLLIN};
	struct waiter w = {.spin_ns = SPIN_NS};
	uint64_t calls = 0, value, began;

	for (int spin = 0; spin < 2; spin++) {
		w.spin = spin;
		calls = 0;
		CHECK_EQ(wait_poll(&w, &fds, 1, -1, &calls), 1);
		CHECK_EQ(calls, 1);
		CHECK(!w.missed);
		CHECK_EQ(w.since_ns, 0);
	}
	CHECK_EQ(read(fd, &value, sizeof(value)), sizeof(value));
	w.spin = false;
	calls = 0;
	CHECK_EQ(wait_poll(&w, &fds, 1, 1, &calls), 0);
	CHECK_EQ(calls, 1);
	CHECK(!w.missed);
	w.spin = true;
	calls = 0;
	began = w.slept_ns;
	CHECK_EQ(wait_poll(&w, &fds, 1, 1, &calls), 0);
	CHECK(w.missed);
	CHECK(calls > 2);
	CHECK(w.waited_ns >= SPIN_NS);
	CHECK_EQ(w.slept_ns, began + w.waited_ns);
	CHECK_EQ(wait_slept_ns(&w, monotonic_ns()), w.slept_ns);
	w.since_ns = 100;
	CHECK_EQ(wait_slept_ns(&w, 150), w.slept_ns + 50);
	close(fd);
}

int main(void)
{
	test_learn();
	test_hold_off();
	test_none();
	test_poll();
	return check_result("test_wait");
}
