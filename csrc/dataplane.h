/*
 * dataplane.h - the engine: two directions, one poll loop, and the swap of route tables.
 *
 * Theory of operation
 *   An engine has two directions, outbound and inbound. Each is owned by exactly one thread at any
 *   moment. The main thread owns outbound for ever. Inbound has an owner that only the owner
 *   changes: under load the main thread hands it to the helper, and the helper hands it back when
 *   the load is gone. One thread has the better latency and costs less, two carry more. As nobody
 *   else touches a direction and an owner finishes its turn first, no packet is lost or overtaken
 *   by a hand-over. A direction works in turns: poll says
 *   that its descriptor is readable, the turn moves packets until the descriptor is drained or the
 *   turn's budget is spent, so neither direction starves the other nor the stop signal.
 *
 *   Route tables are immutable. tnl_publish() swaps the pointer, then waits until no direction is
 *   inside a turn that began before the swap; then nobody reads the old table and it is freed.
 *   Nothing that outlives a turn points into a table.
 */
#ifndef TNL_DATAPLANE_H
#define TNL_DATAPLANE_H

#include <stdbool.h>
#include <stdint.h>

#pragma GCC visibility push(default)
#include "api.h"
#pragma GCC visibility pop

/* Packets per system call at the most, and packets per direction and turn. */
#define BATCH_MAX 64u
#define TURN_BUDGET 256u

/** enum turn_result - how a turn ended
 * @TURN_DRAINED: nothing more to read now
 * @TURN_MORE:    the budget is spent, more is waiting
 * @TURN_BLOCKED: the socket takes no more; wait for POLLOUT
 * @TURN_GONE:    the TUN was deleted
 */
enum turn_result { TURN_DRAINED, TURN_MORE, TURN_BLOCKED, TURN_GONE };

/** struct turn_gate - lets a publisher see whether a direction is inside a turn
 * @seq: odd inside a turn
 */
struct turn_gate {
	uint64_t seq;
};

#include "wait.h"

struct tnl_routes;
struct outbound;
struct inbound;

/**
 * struct tnl_engine - one packet path
 * @options:  as given
 * @routes:   current table, swapped atomically
 * @generation: of the newest table
 * @gates:    outbound, inbound
 * @inbound_owner: TNL_MAIN or TNL_HELPER; written by the owner only
 * @waiters:  of the main thread and of the helper
 * @outbound: state of the outbound direction
 * @inbound:  state of the inbound direction
 */
struct tnl_engine {
	struct tnl_options options;
	struct tnl_routes *routes;
	uint64_t generation;
	struct turn_gate gates[2];
	int inbound_owner;
	struct waiter waiters[2];
	struct outbound *outbound;
	struct inbound *inbound;
};

const struct tnl_routes *turn_enter(struct tnl_engine *engine, struct turn_gate *gate);
void turn_leave(struct turn_gate *gate);
uint64_t monotonic_ns(void);
int inbound_owner(const struct tnl_engine *engine);

#endif
