/*
 * wait.h - how a thread waits for packets: asleep, or awake for a moment when that pays.
 *
 * A sleep costs more than it seems: the sender's CPU must wake ours, ours must leave its idle
 * state, and on a virtual machine both go through the hypervisor. A round trip meets four such
 * sleeps in two daemons, most of what a ping-pong takes. So after a lone packet whose answer has
 * come quickly before, the thread looks for the next one for a while, giving the CPU to whoever
 * wants it between two looks, and sleeps only then.
 *
 * What "pays" means: lone packets that come in turn from either side (out, in, out, in), each soon
 * after the other. A stream of one direction never spins, nor does a load (many packets per
 * wake-up), nor an idle daemon. A spin in vain ends it for WAIT_HOLD_OFF packets.
 */
#ifndef TNL_WAIT_H
#define TNL_WAIT_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

/* An answer that took so many spins, with all sleeps on its way, would not come within one. */
#define WAIT_NEAR_SPINS 2u
#define WAIT_HOLD_OFF 256u

/**
 * struct waiter - the waiting of one thread
 * @spin_ns:   longest spin; 0: none
 * @slept_ns:  spent waiting so far, but for a wait that goes on; read by other threads
 * @since_ns:  when the wait that goes on began, or 0; read by other threads
 * @waited_ns: length of the last wait
 * @missed:    the last wait began with a spin in vain
 * @before:    direction of the last lone packet, or 0
 * @hold_off:  lone packets until a spin may be tried again
 * @spin:      the next wait begins with a spin
 */
struct waiter {
	uint64_t spin_ns;
	uint64_t slept_ns;
	uint64_t since_ns;
	uint64_t waited_ns;
	bool missed;
	int before;
	uint32_t hold_off;
	bool spin;
};

int wait_poll(struct waiter *w, struct pollfd *fds, nfds_t count, int timeout_ms, uint64_t *calls);
void wait_learn(struct waiter *w, uint64_t out, uint64_t in);
uint64_t wait_slept_ns(const struct waiter *w, uint64_t now_ns);

#endif
