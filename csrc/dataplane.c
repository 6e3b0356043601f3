/*
 * dataplane.c - see dataplane.h: create, publish, free. The loop is in loop.c.
 */
#include "dataplane.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#include "counters.h"
#include "inbound.h"
#include "outbound.h"
#include "routes.h"

/** monotonic_ns() - CLOCK_MONOTONIC in nanoseconds */
uint64_t monotonic_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/**
 * turn_enter() - begin a turn
 * @engine: engine
 * @gate:   of the direction
 *
 * The sequence becomes odd before the table is loaded, in one order for all threads: a publisher
 * that has swapped the table and then sees an even number knows that the next turn loads the new
 * one.
 *
 * Return: the table to use until turn_leave()
 */
const struct tnl_routes *turn_enter(struct tnl_engine *engine, struct turn_gate *gate)
{
	__atomic_store_n(&gate->seq, gate->seq + 1, __ATOMIC_SEQ_CST);
	return __atomic_load_n(&engine->routes, __ATOMIC_SEQ_CST);
}

/**
 * turn_leave() - end a turn; the table must not be used any more
 * @gate: of the direction
 */
void turn_leave(struct turn_gate *gate)
{
	__atomic_store_n(&gate->seq, gate->seq + 1, __ATOMIC_RELEASE);
}

/**
 * turn_wait() - wait until a direction has left the turn that it may be in
 * @gate: of the direction
 *
 * A turn never blocks, so this takes a fraction of a millisecond at most.
 */
static void turn_wait(struct turn_gate *gate)
{
	uint64_t seq = __atomic_load_n(&gate->seq, __ATOMIC_SEQ_CST);

	if (!(seq & 1))
		return;
	while (__atomic_load_n(&gate->seq, __ATOMIC_ACQUIRE) == seq)
		sched_yield();
}

static const char *const outbound_names[] = {
#define NAME(name) #name,
	OUTBOUND_COUNTERS(NAME)};
static const char *const inbound_names[] = {INBOUND_COUNTERS(NAME)};

/**
 * tnl_counter_count() - number of counters of a direction
 * @direction: TNL_OUTBOUND or TNL_INBOUND
 *
 * Return: words that the direction uses
 */
uint32_t tnl_counter_count(int direction)
{
	return direction == TNL_OUTBOUND ? OUTBOUND_COUNTER_COUNT : INBOUND_COUNTER_COUNT;
}

/**
 * tnl_counter_name() - name of a counter
 * @direction: TNL_OUTBOUND or TNL_INBOUND
 * @index:     0 .. tnl_counter_count() - 1
 *
 * Return: static string, or NULL past the end
 */
const char *tnl_counter_name(int direction, uint32_t index)
{
	if (index >= tnl_counter_count(direction))
		return NULL;
	return direction == TNL_OUTBOUND ? outbound_names[index] : inbound_names[index];
}

/**
 * tnl_create() - make an engine on borrowed descriptors
 * @options:  copied
 * @snapshot: first routes, copied
 * @counters: words of the caller, see api.h; they must outlive the engine
 * @out:      the engine, to be freed by tnl_free()
 *
 * Return: 0, -EINVAL or -ENOMEM
 */
int tnl_create(const struct tnl_options *options, const struct tnl_snapshot *snapshot,
	       uint64_t *counters, struct tnl_engine **out)
{
	struct tnl_engine *engine;
	int error;

	if (options->batch < 1 || options->batch > BATCH_MAX)
		return -EINVAL;
	if (options->features & TNL_UDP_SEGMENT &&
	    (options->max_segments < 1 || options->max_segments > 128))
		return -EINVAL;
	engine = calloc(1, sizeof(*engine));
	if (!engine)
		return -ENOMEM;
	engine->options = *options;
	engine->inbound_owner = TNL_MAIN;
	engine->waiters[0].spin_ns = options->spin_us * 1000ull;
	error = tnl_routes_new(snapshot, &engine->routes);
	if (!error)
		error = outbound_new(engine, counters, &engine->outbound);
	if (!error)
		error = inbound_new(engine, counters + OUTBOUND_COUNTER_COUNT, &engine->inbound);
	if (error) {
		tnl_free(engine);
		return error;
	}
	*out = engine;
	return 0;
}

/**
 * tnl_free() - release an engine that no thread runs any more; NULL is fine
 * @engine: engine; its descriptors stay open, they are the caller's
 */
void tnl_free(struct tnl_engine *engine)
{
	if (!engine)
		return;
	outbound_free(engine->outbound);
	inbound_free(engine->inbound);
	tnl_routes_free(engine->routes);
	free(engine);
}

/**
 * tnl_publish() - swap the whole snapshot between two turns
 * @engine:   engine, running or not; one publisher at a time
 * @snapshot: copied
 *
 * Return: 0, or -EINVAL or -ENOMEM with the old table still in force
 */
int tnl_publish(struct tnl_engine *engine, const struct tnl_snapshot *snapshot)
{
	struct tnl_routes *next, *old = engine->routes;
	int error = tnl_routes_new(snapshot, &next);

	if (error)
		return error;
	next->generation = ++engine->generation;
	__atomic_store_n(&engine->routes, next, __ATOMIC_SEQ_CST);
	turn_wait(&engine->gates[0]);
	turn_wait(&engine->gates[1]);
	routes_carry(old, next);
	tnl_routes_free(old);
	return 0;
}

/**
 * tnl_peer_counters() - read the counters of each route of the last snapshot
 * @engine: engine; call from the publishing thread
 * @out:    in the order of the snapshot's routes
 * @count:  room in @out
 *
 * Return: how many were filled in
 */
int tnl_peer_counters(struct tnl_engine *engine, struct tnl_peer_counters *out, uint32_t count)
{
	const struct tnl_routes *table = engine->routes;

	if (count > table->snapshot.route_count)
		count = table->snapshot.route_count;
	for (uint32_t i = 0; i < count; i++)
		routes_read_counters(table, i, &out[i]);
	return (int)count;
}

/**
 * tnl_gauges() - what the engine really does now
 * @engine: engine, running or not
 * @out:    filled in
 */
void tnl_gauges(const struct tnl_engine *engine, struct tnl_gauges *out)
{
	const struct tun_batch *tun = &engine->inbound->tun;
	const struct udp_batch *udp = &engine->outbound->batch;

	out->threads = inbound_owner(engine) == TNL_HELPER ? 2 : 1;
	out->segments = __atomic_load_n(&udp->max_segments, __ATOMIC_RELAXED);
	out->tcp = __atomic_load_n(&tun->coalesce.tcp, __ATOMIC_RELAXED);
	out->udp = __atomic_load_n(&tun->coalesce.udp, __ATOMIC_RELAXED);
	out->downgrades_udp = __atomic_load_n(&udp->downgrades, __ATOMIC_RELAXED);
	out->downgrades_tun = __atomic_load_n(&tun->downgrades, __ATOMIC_RELAXED);
}
