/*
 * outbound.h - overlay -> underlay: from the TUN to the UDP socket.
 */
#ifndef TNL_OUTBOUND_H
#define TNL_OUTBOUND_H

#include "dataplane.h"
#include "icmp.h"
#include "segment.h"
#include "udp_batch.h"

/* Packets of one batch lie here, one behind the other, until they are sent. Reading stops at
 * ARENA_SOFT: behind it there is always room for a superpacket and the headers of its segments.
 * Three superpackets and more in a batch let the end of one and the start of the next share a
 * message. */
#define ARENA_SOFT (192u * 1024)
#define ARENA_BYTES                                                                                \
	(ARENA_SOFT + VNET_HDR_BYTES + IP_PACKET_MAX + SEGMENTS_MAX * SEGMENT_HEADER_MAX + 256u)

/**
 * struct outbound - state of the outbound direction
 * @engine:   that it belongs to
 * @counters: its words
 * @bucket:   rate limit of ICMP errors
 * @now_ns:   clock at the start of the turn
 * @used:     bytes of @arena that hold packets of @batch
 * @batch:    what is about to be sent
 * @arena:    packets as read
 */
struct outbound {
	struct tnl_engine *engine;
	uint64_t *counters;
	struct icmp_bucket bucket;
	uint64_t now_ns;
	uint32_t used;
	struct udp_batch batch;
	uint8_t arena[ARENA_BYTES];
};

/** struct frame - what one read of the TUN gave
 * @vnet:    zero when the TUN has no vnet header
 * @packet:  in the arena
 * @length:  bytes
 * @header:  its fields
 * @packets: inner packets that it stands for
 * @bytes:   inner bytes that it stands for
 * @largest: length of the largest inner packet
 */
struct frame {
	struct vnet_hdr vnet;
	uint8_t *packet;
	uint32_t length;
	struct ip_header header;
	uint32_t packets;
	uint32_t bytes;
	uint32_t largest;
};

int outbound_new(struct tnl_engine *engine, uint64_t *counters, struct outbound **out);
enum turn_result outbound_turn(struct outbound *o);
void outbound_stop(struct outbound *o);
void outbound_free(struct outbound *o);
void outbound_invalid(struct outbound *o, enum ip_verdict verdict);
int32_t outbound_route(struct outbound *o, const struct tnl_routes *table,
		       const struct frame *frame);

#endif
