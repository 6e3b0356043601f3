/*
 * outbound.c - overlay -> underlay, in the order in which a packet meets the functions.
 *
 *   1. outbound_turn()     reads packets from the TUN until it is empty or the budget is spent
 *   2. outbound_packet()   validates, looks the peer up, decides
 *   3. outbound_answer()   tells the sender by an ICMP error through the TUN why a packet ends here
 *   4. udp_batch_add()     makes the packet the payload of a datagram to the peer
 *   5. udp_batch_flush()   sends the batch
 *
 * Packets of a batch lie in an arena, densely, in the order of arrival.
 */
#include "outbound.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "counters.h"

/* flannel's net unreachable leaves with TTL 8 (udp-amd64/proxy.c); ours go further. */
#define TTL_NET_UNREACHABLE 8u
#define TTL_ICMP 64u
#define PACKET_ALIGN 64u

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
 * outbound_answer() - send an ICMP error about a packet to its sender, through the TUN
 * @o:       direction
 * @error:   which error
 * @counter: OUT_icmp_sent_*
 * @packet:  the packet
 * @header:  its fields
 *
 * The kernel delivers it to a container or to a host program alike. It takes a packet whose source
 * is the TUN's own address only with accept_local=1.
 */
static void outbound_answer(struct outbound *o, const struct icmp_error *error,
			    enum outbound_counter counter, const uint8_t *packet,
			    const struct ip_header *header)
{
	uint8_t answer[ICMP_ERROR_MAX];
	size_t length;

	if (!icmp_may_answer(packet, header) || !icmp_bucket_take(&o->bucket, monotonic_ns())) {
		count(o->counters, OUT_icmp_suppressed, 1);
		return;
	}
	length = icmp_build_error(answer, error, packet, header);
	if (write(o->engine->options.tun_fd, answer, length) == (ssize_t)length)
		count(o->counters, counter, 1);
	else
		count(o->counters, OUT_icmp_suppressed, 1);
}

/**
 * outbound_invalid() - count a packet that is no valid IPv4
 * @o:       direction
 * @verdict: what ip_parse() found
 */
static void outbound_invalid(struct outbound *o, enum ip_verdict verdict)
{
	static const enum outbound_counter reasons[] = {
		[IP_TOO_SHORT] = OUT_drop_too_short,
		[IP_NOT_IPV4] = OUT_drop_not_ipv4,
		[IP_BAD_HEADER_LENGTH] = OUT_drop_bad_header_length,
		[IP_BAD_LENGTH] = OUT_drop_bad_length,
		[IP_BAD_CHECKSUM] = OUT_drop_bad_checksum,
	};

	count(o->counters, reasons[verdict], 1);
}

/**
 * outbound_route() - find the peer and decide whether a packet may go there
 * @o:      direction
 * @table:  current table
 * @packet: the packet
 * @header: its fields
 *
 * The order is flannel's and the kernel's: route first, then TTL, then size.
 *
 * Return: route index, or NO_ROUTE when the packet ended here, counted
 */
static int32_t outbound_route(struct outbound *o, const struct tnl_routes *table,
			      const uint8_t *packet, const struct ip_header *header)
{
	const struct tnl_snapshot *snapshot = &table->snapshot;
	struct icmp_error error = {.ttl = TTL_ICMP, .source = snapshot->tun_address};
	uint32_t mtu;
	int32_t route;

	if (prefix_covers(snapshot->subnet, snapshot->subnet_len, header->destination)) {
		count(o->counters, OUT_drop_own_subnet, 1);
		return NO_ROUTE;
	}
	route = tnl_routes_lookup(table, header->destination);
	if (route == NO_ROUTE) {
		count(o->counters, OUT_drop_no_route, 1);
		error.type = 3;
		error.ttl = TTL_NET_UNREACHABLE;
		outbound_answer(o, &error, OUT_icmp_sent_net_unreachable, packet, header);
		return NO_ROUTE;
	}
	if (routes_is_own(table, table->routes[route].public_ip)) {
		count(o->counters, OUT_drop_own_peer, 1);
		return NO_ROUTE;
	}
	if (header->ttl <= 1) {
		count(o->counters, OUT_drop_ttl_expired, 1);
		error.type = 11;
		outbound_answer(o, &error, OUT_icmp_sent_time_exceeded, packet, header);
		return NO_ROUTE;
	}
	mtu = routes_path_mtu(table, route);
	if (header->fragment & IP_FLAG_DF && header->total_length > mtu) {
		count(o->counters, OUT_drop_too_big, 1);
		error.type = 3;
		error.code = 4;
		error.mtu = (uint16_t)mtu;
		outbound_answer(o, &error, OUT_icmp_sent_fragmentation_needed, packet, header);
		return NO_ROUTE;
	}
	return route;
}

/**
 * outbound_packet() - take one packet from the end of the arena into the batch, or drop it
 * @o:      direction
 * @table:  current table
 * @packet: in the arena
 * @length: bytes read
 */
static void outbound_packet(struct outbound *o, const struct tnl_routes *table, uint8_t *packet,
			    uint32_t length)
{
	struct ip_header header;
	enum ip_verdict verdict = ip_parse(packet, length, &header);
	int32_t route;

	count(o->counters, OUT_packets_read, 1);
	count(o->counters, OUT_bytes_read, verdict == IP_OK ? header.total_length : length);
	if (verdict != IP_OK) {
		outbound_invalid(o, verdict);
		return;
	}
	route = outbound_route(o, table, packet, &header);
	if (route == NO_ROUTE)
		return;
	ip_decrement_ttl(packet);
	udp_batch_add(&o->batch, table, route, header.destination, packet, header.total_length);
	o->used += (header.total_length + PACKET_ALIGN - 1) & ~(PACKET_ALIGN - 1);
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
	if (!outbound_flush(o, table))
		return TURN_BLOCKED;
	for (uint32_t budget = TURN_BUDGET; budget; budget--) {
		uint8_t *packet;
		ssize_t length;

		if ((!udp_batch_has_room(&o->batch, 1) || o->used + IP_PACKET_MAX > ARENA_BYTES) &&
		    !outbound_flush(o, table))
			return TURN_BLOCKED;
		packet = o->arena + o->used;
		length = read(o->engine->options.tun_fd, packet, IP_PACKET_MAX);
		count(o->counters, OUT_syscalls_read, 1);
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
		outbound_packet(o, table, packet, (uint32_t)length);
		if (o->batch.capacity == 1 && !outbound_flush(o, table))
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
	enum turn_result result = outbound_move(o, table);

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
