/*
 * outbound.h - overlay -> underlay: from the TUN to the UDP socket.
 */
#ifndef TNL_OUTBOUND_H
#define TNL_OUTBOUND_H

#include "dataplane.h"
#include "icmp.h"
#include "udp_batch.h"

/* Packets of one batch lie one behind the other here until they are sent. */
#define ARENA_BYTES (256u * 1024)

/**
 * struct outbound - state of the outbound direction
 * @engine:   that it belongs to
 * @counters: its words
 * @bucket:   rate limit of ICMP errors
 * @used:     bytes of @arena that hold packets of @batch
 * @batch:    what is about to be sent
 * @arena:    packets as read
 */
struct outbound {
	struct tnl_engine *engine;
	uint64_t *counters;
	struct icmp_bucket bucket;
	uint32_t used;
	struct udp_batch batch;
	uint8_t arena[ARENA_BYTES];
};

int outbound_new(struct tnl_engine *engine, uint64_t *counters, struct outbound **out);
enum turn_result outbound_turn(struct outbound *o);
void outbound_stop(struct outbound *o);
void outbound_free(struct outbound *o);

#endif
