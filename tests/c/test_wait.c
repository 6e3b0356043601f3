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
#define LOAD 4u

/** struct step - what one wait brought
 * @packets: OUT, IN, both, LOAD, or 0 for a little less than a load
 * @near:    the wait was short
 * @missed:  the spin in vain that it began with
 * @spin:    wanted: how the next wait begins
 */
struct step {
	unsigned int packets;
	bool near;
	enum wait_spin missed;
	enum wait_spin spin;
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
		if (step->packets == LOAD)
			wait_learn(&w, WAIT_LOAD_PACKETS / 2, WAIT_LOAD_PACKETS / 2);
		else if (step->packets == 0)
			wait_learn(&w, WAIT_LOAD_PACKETS - 1, 0);
		else
			wait_learn(&w, step->packets & OUT ? 1 : 0, step->packets & IN ? 1 : 0);
		CHECK_EQ(w.spin, step->spin);
		if (check_state.failures != failures)
			printf("  in: %s, step %zu\n", name, i);
	}
}

/** test_learn() - lone packets from either side in turn are worth it, and many packets at once,
 *  soon after each other
 */
static void test_learn(void)
{
	static const struct step ping_pong[] = {
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP}, {IN, true, WAIT_ASLEEP, WAIT_ANSWER},
		{OUT, true, WAIT_ASLEEP, WAIT_ANSWER}, {IN, false, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT, true, WAIT_ASLEEP, WAIT_ANSWER}, {IN, true, WAIT_ASLEEP, WAIT_ANSWER},
	};
	static const struct step stream[] = {
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP},
	};
	static const struct step few[] = {
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP}, {IN, true, WAIT_ASLEEP, WAIT_ANSWER},
		{0, true, WAIT_ASLEEP, WAIT_ASLEEP},   {OUT, true, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT | IN, true, WAIT_ASLEEP, 0},      {IN, true, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT, true, WAIT_ASLEEP, WAIT_ANSWER},
	};
	static const struct step load[] = {
		{LOAD, true, WAIT_ASLEEP, WAIT_LOAD},  {LOAD, false, WAIT_ASLEEP, WAIT_ASLEEP},
		{LOAD, true, WAIT_ASLEEP, WAIT_LOAD},  {0, true, WAIT_ASLEEP, WAIT_ASLEEP},
		{OUT, true, WAIT_ASLEEP, WAIT_ASLEEP}, {LOAD, true, WAIT_ASLEEP, WAIT_LOAD},
		{IN, true, WAIT_ASLEEP, WAIT_ASLEEP},  {OUT, true, WAIT_ASLEEP, WAIT_ANSWER},
	};

	play("ping-pong", ping_pong, sizeof(ping_pong) / sizeof(ping_pong[0]));
	play("stream", stream, sizeof(stream) / sizeof(stream[0]));
	play("few", few, sizeof(few) / sizeof(few[0]));
	play("load", load, sizeof(load) / sizeof(load[0]));
}

/** test_hold_off() - a spin in vain ends it for a while */
static void test_hold_off(void)
{
	struct waiter w = {.spin_ns = SPIN_NS};
	uint32_t turns = 0;

	wait_learn(&w, 1, 0);
	wait_learn(&w, 0, 1);
	CHECK_EQ(w.spin, WAIT_ANSWER);
	w.missed = WAIT_ANSWER;
	wait_learn(&w, 1, 0);
	CHECK_EQ(w.spin, WAIT_ASLEEP);
	w.missed = WAIT_ASLEEP;
	while (!w.spin && turns < 10 * WAIT_HOLD_OFF) {
		turns++;
		wait_learn(&w, turns % 2 ? 0 : 1, turns % 2);
	}
	CHECK_EQ(turns, WAIT_HOLD_OFF);
	w.missed = WAIT_LOAD;
	wait_learn(&w, WAIT_LOAD_PACKETS, 0);
	CHECK_EQ(w.spin, WAIT_ASLEEP);
	w.missed = WAIT_ASLEEP;
	for (turns = 0; !w.spin && turns < 10 * WAIT_HOLD_OFF; turns++)
		wait_learn(&w, 0, WAIT_LOAD_PACKETS);
	CHECK_EQ(turns, WAIT_LOAD_HOLD_OFF);
	CHECK_EQ(w.spin, WAIT_LOAD);
}

/** test_none() - without a spin allowed there is none */
static void test_none(void)
{
	struct waiter w = {0};

	for (int i = 0; i < 10; i++) {
		wait_learn(&w, i % 2 ? 1 : 0, i % 2 ? 0 : 1);
		CHECK(!w.spin);
		wait_learn(&w, WAIT_LOAD_PACKETS, 0);
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

	for (enum wait_spin spin = WAIT_ASLEEP; spin <= WAIT_LOAD; spin++) {
		w.spin = spin;
		calls = 0;
		CHECK_EQ(wait_poll(&w, &fds, 1, -1, &calls), 1);
		CHECK_EQ(calls, 1);
		CHECK_EQ(w.missed, WAIT_ASLEEP);
		CHECK_EQ(w.since_ns, 0);
	}
	CHECK_EQ(read(fd, &value, sizeof(value)), sizeof(value));
	w.spin = WAIT_ASLEEP;
	calls = 0;
	CHECK_EQ(wait_poll(&w, &fds, 1, 1, &calls), 0);
	CHECK_EQ(calls, 1);
	CHECK_EQ(w.missed, WAIT_ASLEEP);
	for (enum wait_spin spin = WAIT_ANSWER; spin <= WAIT_LOAD; spin++) {
		w.spin = spin;
		calls = 0;
		began = w.slept_ns;
		CHECK_EQ(wait_poll(&w, &fds, 1, 1, &calls), 0);
		CHECK_EQ(w.missed, spin);
		CHECK(calls > 2);
		/* The first look, two calls for each further one, and the sleep at the end. */
		if (spin == WAIT_LOAD)
			CHECK(calls <= 2 + 2 * (SPIN_NS / WAIT_LOAD_GAP_NS + 1));
		CHECK(w.waited_ns >= SPIN_NS);
		CHECK_EQ(w.slept_ns, began + w.waited_ns);
		CHECK_EQ(wait_slept_ns(&w, monotonic_ns()), w.slept_ns);
	}
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
