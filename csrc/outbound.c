/*
 * outbound.c - overlay -> underlay, in the order in which a packet meets the functions.
 *
 *   1. outbound_turn()     reads packets from the TUN until it is empty or the budget is spent
 *   2. outbound_frame()    takes the vnet header off: one packet, or a superpacket of many
 *   3. outbound_route()    looks the peer up and decides; who is refused is told (outbound_route.c)
 *   4. outbound_packet()   makes a packet the payload of a datagram to the peer
 *      outbound_cut()      makes a superpacket a run of datagrams: new headers, payload in place
 *   5. udp_batch_flush()   sends the batch
 *
 * Packets of a batch lie in an arena, densely, in the order of arrival. A superpacket counts as its
 * segments everywhere.
 */
#include "outbound.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counters.h"

#define PACKET_ALIGN 64u
/* UDP_SEGMENT sends leave without DF and learn no path MTU: one run goes plain this often. */
#define PATH_PROBE_NS (10ull * 1000 * 1000 * 1000)

/**
 * outbound_new() - make the outbound direction
 * @engine:   that it belongs to
 * @counters: its words
 * @out:      result
 *
 * Return: 0 or -ENOMEM
 */
int outbound_new(struct tnl_engine *engine, uint64_t *counters, struct outbound **out)
{
	const struct tnl_options *options = &engine->options;
	uint32_t segments = options->features & TNL_UDP_SEGMENT ? options->max_segments : 1;
	struct outbound *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	o->engine = engine;
	o->counters = counters;
	o->bucket.rate = options->icmp_rate;
	udp_batch_init(&o->batch, options->udp_fd, options->batch, segments, counters);
	*out = o;
	return 0;
}

/**
 * outbound_probes_path() - whether a packet must go plain so that the kernel learns the path MTU
 * @o:      direction
 * @table:  current table
 * @route:  of the peer
 * @length: of the packet; only one near the known MTU can learn anything
 *
 * Return: true once in PATH_PROBE_NS for each active peer
 */
static bool outbound_probes_path(struct outbound *o, const struct tnl_routes *table, int32_t route,
				 uint32_t length)
{
	uint64_t *probed_ns = &table->probed_ns[route];
	uint64_t before_ns = __atomic_load_n(probed_ns, __ATOMIC_RELAXED);

	if (length < routes_path_mtu(table, route) / 8 * 7 ||
	    (before_ns && o->now_ns - before_ns < PATH_PROBE_NS))
		return false;
	__atomic_store_n(probed_ns, o->now_ns, __ATOMIC_RELAXED);
	return true;
}

/**
 * outbound_packet() - put one packet into the batch; it lies at the end of the arena
 * @o:     direction
 * @table: current table
 * @route: of the peer
 * @frame: the packet
 */
static void outbound_packet(struct outbound *o, const struct tnl_routes *table, int32_t route,
			    const struct frame *frame)
{
	uint32_t length = frame->header.total_length;
	bool alone = length > routes_path_mtu(table, route) ||
		     (o->batch.max_segments > 1 && outbound_probes_path(o, table, route, length));

	ip_decrement_ttl(frame->packet);
	udp_batch_add(&o->batch, table, route, frame->header.destination, frame->packet, length,
		      alone);
	o->used = (uint32_t)(frame->packet - o->arena) + length;
}

/**
 * outbound_cut() - put a superpacket into the batch as runs of [header][payload slice]
 * @o:     direction
 * @table: current table
 * @route: of the peer
 * @frame: the superpacket, at the end of the arena
 * @plan:  how to cut it
 *
 * The headers are built behind the superpacket. A run ends where the kernel's limits on segments
 * and bytes of one message are reached: a superpacket of 64 KiB is a little more than one run, and
 * what is over begins the run that the next superpacket to the same peer goes on with.
 */
static void outbound_cut(struct outbound *o, const struct tnl_routes *table, int32_t route,
			 const struct frame *frame, const struct segment_plan *plan)
{
	uint8_t *out = frame->packet + frame->length;
	uint8_t *payload = frame->packet + plan->header_length;
	uint32_t limit = o->batch.max_segments;
	bool plain = limit == 1 || frame->largest > routes_path_mtu(table, route) ||
		     outbound_probes_path(o, table, route, frame->largest);
	struct udp_run *run = NULL;

	if (limit > RUN_BYTES_MAX / frame->largest)
		limit = RUN_BYTES_MAX / frame->largest;
	/* More runs than a batch has room for: only where the kernel takes fewer segments than any
	 * known one does. */
	plain = plain || plan->count > limit * SUPERPACKET_RUNS;
	if (plain) {
		run = udp_batch_open(&o->batch, table, route, frame->header.destination,
				     frame->largest);
		run->packet_iovs = 2;
		run->packets = plan->count;
		run->plain = true;
	}
	ip_decrement_ttl(frame->packet);
	for (uint32_t i = 0; i < plan->count; i++) {
		uint32_t length = segment_payload_length(plan, i);

		if (!plain)
			run = udp_batch_join(&o->batch, table, route, frame->header.destination,
					     plan->header_length + length, 2);
		segment_build_header(plan, frame->packet, &frame->header, i, out);
		udp_batch_append(&o->batch, run, out, plan->header_length);
		udp_batch_append(&o->batch, run, payload, length);
		out += plan->header_length;
		payload += length;
	}
	o->used = (uint32_t)(out - o->arena);
}

/**
 * outbound_parse() - take a frame apart: vnet header, IP header, cutting plan
 * @o:     direction
 * @frame: @packet and @length are what was read; the rest is filled in
 * @plan:  of a superpacket; @plan->count is 1 for a single packet
 *
 * Return: false when the frame was dropped, counted
 */
static bool outbound_parse(struct outbound *o, struct frame *frame, struct segment_plan *plan)
{
	enum ip_verdict verdict = IP_TOO_SHORT;

	plan->count = 1;
	if (o->engine->options.features & TNL_VNET_HDR && frame->length >= VNET_HDR_BYTES) {
		memcpy(&frame->vnet, frame->packet, VNET_HDR_BYTES);
		frame->packet += VNET_HDR_BYTES;
		frame->length -= VNET_HDR_BYTES;
	}
	verdict = ip_parse(frame->packet, frame->length, &frame->header);
	if (verdict == IP_OK && frame->vnet.gso_type != VNET_GSO_NONE &&
	    !segment_make_plan(&frame->vnet, frame->packet, &frame->header, plan))
		verdict = IP_BAD_LENGTH;
	if (verdict == IP_OK && plan->count == 1 && frame->vnet.flags & VNET_NEEDS_CSUM &&
	    !segment_complete_checksum(&frame->vnet, frame->packet, frame->header.total_length))
		verdict = IP_BAD_LENGTH;
	frame->packets = verdict == IP_OK ? plan->count : 1;
	frame->bytes = verdict == IP_OK ? frame->header.total_length : frame->length;
	frame->largest = frame->bytes;
	if (frame->packets > 1) {
		frame->bytes += (plan->count - 1) * plan->header_length;
		frame->largest = plan->header_length + plan->size;
		count(o->counters, OUT_superpackets_read, 1);
	}
	count_batch(o->counters, OUT_batch_read_0, frame->packets);
	count(o->counters, OUT_packets_read, frame->packets);
	count(o->counters, OUT_bytes_read, frame->bytes);
	if (verdict != IP_OK)
		outbound_invalid(o, verdict);
	return verdict == IP_OK;
}

/**
 * outbound_frame() - take what one read gave into the batch, or drop it
 * @o:      direction
 * @table:  current table
 * @data:   at the end of the arena
 * @length: bytes read
 */
static void outbound_frame(struct outbound *o, const struct tnl_routes *table, uint8_t *data,
			   uint32_t length)
{
	struct frame frame = {.packet = data, .length = length};
	struct segment_plan plan;
	int32_t route;

	if (!outbound_parse(o, &frame, &plan))
		return;
	route = outbound_route(o, table, &frame);
	if (route == NO_ROUTE)
		return;
	if (plan.count == 1)
		outbound_packet(o, table, route, &frame);
	else
		outbound_cut(o, table, route, &frame, &plan);
	o->used = (o->used + PACKET_ALIGN - 1) & ~(PACKET_ALIGN - 1);
}

/**
 * outbound_flush() - send the batch and empty the arena
 * @o:     direction
 * @table: current table
 *
 * Return: false when the socket takes no more now
 */
static bool outbound_flush(struct outbound *o, const struct tnl_routes *table)
{
	if (!udp_batch_flush(&o->batch, table))
		return false;
	o->used = 0;
	return true;
}

/**
 * outbound_read_failed() - what a failed read of the TUN means
 * @error: errno
 *
 * Return: TURN_DRAINED for an empty queue (or a device that is down), TURN_GONE for a deleted
 *         device: read gives EBADFD, or EFAULT when it was asleep in the kernel meanwhile
 */
static enum turn_result outbound_read_failed(int error)
{
	if (error == EAGAIN || error == EWOULDBLOCK || error == EIO)
		return TURN_DRAINED;
	return TURN_GONE;
}

/**
 * outbound_move() - the body of a turn
 * @o:     direction
 * @table: current table
 *
 * Return: how the turn ended
 */
static enum turn_result outbound_move(struct outbound *o, const struct tnl_routes *table)
{
	size_t room = VNET_HDR_BYTES + IP_PACKET_MAX;

	if (!outbound_flush(o, table))
		return TURN_BLOCKED;
	for (uint32_t budget = TURN_BUDGET; budget; budget--) {
		uint8_t *data = o->arena + o->used;
		ssize_t length = read(o->engine->options.tun_fd, data, room);

		count(o->counters, OUT_syscalls_read, 1);
		if (length <= 0)
			count_batch(o->counters, OUT_batch_read_0, 0);
		if (length < 0) {
			int error = errno;

			if (error == EINTR)
				continue;
			if (!outbound_flush(o, table))
				return TURN_BLOCKED;
			return outbound_read_failed(error);
		}
		if (length == 0)
			return TURN_GONE;
		outbound_frame(o, table, data, (uint32_t)length);
		if ((udp_batch_is_full(&o->batch) || o->used > ARENA_SOFT) &&
		    !outbound_flush(o, table))
			return TURN_BLOCKED;
	}
	return outbound_flush(o, table) ? TURN_MORE : TURN_BLOCKED;
}

/**
 * outbound_turn() - move packets until the TUN is empty or the budget is spent
 * @o: direction, owned by the calling thread
 *
 * Return: how the turn ended
 */
enum turn_result outbound_turn(struct outbound *o)
{
	struct turn_gate *gate = &o->engine->gates[0];
	const struct tnl_routes *table = turn_enter(o->engine, gate);
	enum turn_result result;

	o->now_ns = monotonic_ns();
	result = outbound_move(o, table);
	turn_leave(gate);
	return result;
}

/**
 * outbound_stop() - count what will not be sent any more
 * @o: direction
 */
void outbound_stop(struct outbound *o)
{
	udp_batch_discard(&o->batch);
	o->used = 0;
}

/**
 * outbound_free() - release the direction; NULL is fine
 * @o: direction
 */
void outbound_free(struct outbound *o)
{
	free(o);
}
