/*
 * wait.h - how a thread waits for packets: asleep, or awake for a moment when that pays.
 *
 * A sleep costs more than it seems: the sender's CPU must wake ours, ours must leave its idle
 * state, and on a virtual machine both go through the hypervisor. So a thread that may expect the
 * next packet soon looks for it for a while, giving the CPU to whoever wants it between two looks,
 * and sleeps only then. It may, in two cases:
 *
 * - Answers. Lone packets come in turn from either side (out, in, out, in), each soon after the
 *   other. A round trip meets four sleeps in two daemons, most of what a ping-pong takes.
 * - A load. The last turns moved many packets each, soon after each other: a bulk transfer whose
 *   sender, receiver and two daemons share the CPUs, and sleep for moments while another works.
 *   Here nobody waits for a single packet, and a look is a system call: they are further apart.
 *
 * A stream of lone packets never spins, nor does an idle daemon. A spin in vain ends it for a
 * while.
 */
#ifndef TNL_WAIT_H
#define TNL_WAIT_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

/* What took so many spins, with all sleeps on its way, would not come within one. */
#define WAIT_NEAR_SPINS 2u
/* Packets of a turn that are a load. */
#define WAIT_LOAD_PACKETS 32u
#define WAIT_LOAD_GAP_NS 8000u
/* Turns without a spin after one in vain. A packet of a ping-pong can be late for hundreds of
 * others; the pace of a load is found out anew soon. */
#define WAIT_HOLD_OFF 256u
#define WAIT_LOAD_HOLD_OFF 16u

/**
 * enum wait_spin - how a wait begins
 * @WAIT_ASLEEP: with a sleep
 * @WAIT_ANSWER: looking without a pause
 * @WAIT_LOAD:   looking every WAIT_LOAD_GAP_NS
 */
enum wait_spin { WAIT_ASLEEP, WAIT_ANSWER, WAIT_LOAD };

/**
 * struct waiter - the waiting of one thread
 * @spin_ns:   longest spin; 0: none
 * @slept_ns:  spent waiting so far, but for a wait that goes on; read by other threads
 * @since_ns:  when the wait that goes on began, or 0; read by other threads
 * @waited_ns: length of the last wait
 * @missed:    the spin in vain that the last wait began with, or WAIT_ASLEEP
 * @before:    direction of the last lone packet, or 0
 * @hold_off:  turns until a spin may be tried again
 * @spin:      how the next wait begins
 */
struct waiter {
	uint64_t spin_ns;
	uint64_t slept_ns;
	uint64_t since_ns;
	uint64_t waited_ns;
	enum wait_spin missed;
	int before;
	uint32_t hold_off;
	enum wait_spin spin;
};

int wait_poll(struct waiter *w, struct pollfd *fds, nfds_t count, int timeout_ms, uint64_t *calls);
void wait_learn(struct waiter *w, uint64_t out, uint64_t in);
uint64_t wait_slept_ns(const struct waiter *w, uint64_t now_ns);

#endif
