/*
 * inbound.c - underlay -> overlay, in the order in which a packet meets the functions.
 *
 *   1. inbound_turn()      receives datagrams until the socket is empty or the budget is spent
 *   2. inbound_datagram()  cuts what UDP_GRO joined into the datagrams that were sent
 *   3. inbound_packet()    admits or drops: the rules of ARCHITECTURE.md in order, a counter each
 *   4. inbound_answer()    tells the inner sender of an expired TTL, by a datagram to the peer
 *   5. tun_batch_add()     writes the packet to the TUN, or joins it with its neighbours first
 *   6. tun_batch_flush()   writes what was joined
 */
#include "inbound.h"

#include <errno.h>
#include <netinet/udp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counters.h"

#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define TTL_ICMP 64u

/** struct outer - where a datagram came from
 * @public_ip: outer source address, host byte order
 * @port:      outer source port, host byte order
 */
struct outer {
	uint32_t public_ip;
	uint16_t port;
};

/**
 * inbound_new() - make the inbound direction
 * @engine:   that it belongs to
 * @counters: its words
 * @out:      result
 *
 * The slots are only touched as far as datagrams reach: most of the memory never becomes resident.
 *
 * Return: 0 or -ENOMEM
 */
int inbound_new(struct tnl_engine *engine, uint64_t *counters, struct inbound **out)
{
	struct inbound *in = calloc(1, sizeof(*in));

	if (!in)
		return -ENOMEM;
	in->engine = engine;
	in->counters = counters;
	in->bucket.rate = engine->options.icmp_rate;
	tun_batch_init(&in->tun, engine->options.tun_fd, engine->options.features, counters);
	in->slots = malloc((size_t)SLOT_STRIDE * engine->options.batch);
	if (!in->slots) {
		free(in);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < engine->options.batch; i++) {
		in->iovs[i] = (struct iovec){in->slots + (size_t)SLOT_STRIDE * i, SLOT_BYTES};
		in->messages[i].msg_hdr = (struct msghdr){
			.msg_name = &in->addresses[i],
			.msg_iov = &in->iovs[i],
			.msg_iovlen = 1,
			.msg_control = &in->controls[i],
		};
	}
	*out = in;
	return 0;
}

/**
 * inbound_free() - release the direction; NULL is fine
 * @in: direction
 */
void inbound_free(struct inbound *in)
{
	if (!in)
		return;
	free(in->slots);
	free(in);
}

/**
 * inbound_answer() - send Time Exceeded to the inner sender, by way of the peer
 * @in:     direction
 * @table:  current table
 * @outer:  where the datagram came from
 * @packet: the packet
 * @header: its fields
 *
 * Not through the TUN: with ip_forward off the kernel would not route it back.
 */
static void inbound_answer(struct inbound *in, const struct tnl_routes *table,
			   const struct outer *outer, const uint8_t *packet,
			   const struct ip_header *header)
{
	struct icmp_error error = {
		.type = 11, .ttl = TTL_ICMP, .source = table->snapshot.tun_address};
	struct sockaddr_in peer = {
		.sin_family = AF_INET,
		.sin_port = htons(outer->port),
		.sin_addr.s_addr = htonl(outer->public_ip),
	};
	uint8_t answer[ICMP_ERROR_MAX];
	size_t length;

	if (!icmp_may_answer(packet, header) || !icmp_bucket_take(&in->bucket, monotonic_ns())) {
		count(in->counters, IN_icmp_suppressed, 1);
		return;
	}
	length = icmp_build_error(answer, &error, packet, header);
	if (sendto(in->engine->options.udp_fd, answer, length, MSG_DONTWAIT,
		   (const struct sockaddr *)&peer, sizeof(peer)) == (ssize_t)length)
		count(in->counters, IN_icmp_sent_time_exceeded, 1);
	else
		count(in->counters, IN_icmp_suppressed, 1);
}

/**
 * inbound_invalid() - count a payload that is no valid IPv4 packet
 * @in:      direction
 * @verdict: what ip_parse() found
 */
static void inbound_invalid(struct inbound *in, enum ip_verdict verdict)
{
	static const enum inbound_counter reasons[] = {
		[IP_TOO_SHORT] = IN_drop_too_short,
		[IP_NOT_IPV4] = IN_drop_not_ipv4,
		[IP_BAD_HEADER_LENGTH] = IN_drop_bad_header_length,
		[IP_BAD_LENGTH] = IN_drop_bad_length,
		[IP_BAD_CHECKSUM] = IN_drop_bad_checksum,
	};

	count(in->counters, reasons[verdict], 1);
}

/**
 * inbound_admit() - the admission rules, in order
 * @table:  current table
 * @outer:  where the datagram came from
 * @header: inner header
 * @route:  set to the peer's route, for its counters; NO_ROUTE when no peer has it
 *
 * Return: 0 to admit, else the counter of the rule that dropped it
 */
static enum inbound_counter inbound_admit(const struct tnl_routes *table, const struct outer *outer,
					  const struct ip_header *header, int32_t *route)
{
	const struct tnl_snapshot *snapshot = &table->snapshot;
	bool any_peer = true;

	if (snapshot->source_check != TNL_SOURCE_OFF) {
		any_peer = routes_allows_source(table, outer->public_ip);
		if (!any_peer && !routes_has_peer(table, outer->public_ip))
			return IN_drop_outer_source;
		/* flannel always sends from the port; a masqueraded container of a peer's host
		 * does not. */
		if (outer->port != snapshot->port)
			return IN_drop_outer_port;
	}
	/* accept_local=1 makes the kernel take its own addresses as a source: the check is ours. */
	if (routes_is_own(table, header->source))
		return IN_drop_own_source;
	if (prefix_covers(snapshot->subnet, snapshot->subnet_len, header->source))
		return IN_drop_spoofed_source;
	if (prefix_covers(snapshot->network, snapshot->network_len, header->source)) {
		*route = routes_find_source(table, header->source, any_peer ? 0 : outer->public_ip);
		if (*route == NO_ROUTE)
			return IN_drop_spoofed_source;
	} else {
		if (ip_is_martian_source(header->source))
			return IN_drop_martian_source;
		if (snapshot->source_check == TNL_SOURCE_STRICT)
			return IN_drop_outside_source;
		*route = route_hash_find(&table->outer, outer->public_ip);
	}
	if (!prefix_covers(snapshot->subnet, snapshot->subnet_len, header->destination))
		return IN_drop_foreign_destination;
	return 0;
}

/**
 * inbound_packet() - admit and deliver one inner packet, or drop it
 * @in:     direction
 * @table:  current table
 * @outer:  where the datagram came from
 * @packet: the payload
 * @length: its length; what follows the IP packet is trimmed
 */
static void inbound_packet(struct inbound *in, const struct tnl_routes *table,
			   const struct outer *outer, uint8_t *packet, uint32_t length)
{
	struct ip_header header;
	enum ip_verdict verdict = ip_parse(packet, length, &header);
	enum inbound_counter reason;
	int32_t route = NO_ROUTE;

	count(in->counters, IN_packets_read, 1);
	count(in->counters, IN_bytes_read, verdict == IP_OK ? header.total_length : length);
	if (verdict != IP_OK) {
		inbound_invalid(in, verdict);
		return;
	}
	reason = inbound_admit(table, outer, &header, &route);
	if (reason) {
		count(in->counters, reason, 1);
		return;
	}
	if (header.ttl <= 1) {
		count(in->counters, IN_drop_ttl_expired, 1);
		inbound_answer(in, table, outer, packet, &header);
		return;
	}
	ip_decrement_ttl(packet);
	tun_batch_add(&in->tun, table, route, packet, &header);
}

/**
 * inbound_segment_size() - what UDP_GRO says about a message
 * @message: as received
 * @length:  bytes received
 *
 * Return: size of all datagrams but the last; @length when nothing was joined
 */
static uint32_t inbound_segment_size(struct msghdr *message, uint32_t length)
{
	struct cmsghdr *control;

	for (control = CMSG_FIRSTHDR(message); control; control = CMSG_NXTHDR(message, control)) {
		int size;

		if (control->cmsg_level != SOL_UDP || control->cmsg_type != UDP_GRO)
			continue;
		memcpy(&size, CMSG_DATA(control), sizeof(size));
		if (size > 0)
			return (uint32_t)size;
	}
	return length;
}

/**
 * inbound_datagram() - handle one received message
 * @in:    direction
 * @table: current table
 * @index: of the slot
 */
static void inbound_datagram(struct inbound *in, const struct tnl_routes *table, uint32_t index)
{
	struct msghdr *message = &in->messages[index].msg_hdr;
	uint32_t left = in->messages[index].msg_len;
	uint8_t *packet = in->slots + (size_t)SLOT_STRIDE * index;
	uint32_t segment = inbound_segment_size(message, left);
	struct outer outer = {
		.public_ip = ntohl(in->addresses[index].sin_addr.s_addr),
		.port = ntohs(in->addresses[index].sin_port),
	};

	/* Without UDP_GRO's control message nobody knows where the datagrams of a message begin. */
	if (message->msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		count(in->counters, IN_packets_read, 1);
		count(in->counters, IN_bytes_read, left);
		count(in->counters, IN_drop_truncated, 1);
		return;
	}
	if (left > segment)
		count(in->counters, IN_superpackets_read, 1);
	/* An empty datagram is a packet too: one that is too short. */
	do {
		uint32_t length = left < segment ? left : segment;

		inbound_packet(in, table, &outer, packet, length);
		packet += length;
		left -= length;
	} while (left);
}

/**
 * inbound_move() - the body of a turn
 * @in:    direction
 * @table: current table
 *
 * Return: how the turn ended
 */
static enum turn_result inbound_move(struct inbound *in, const struct tnl_routes *table)
{
	uint32_t batch = in->engine->options.batch;
	uint32_t moved = 0;

	while (moved < TURN_BUDGET) {
		uint64_t before = in->counters[IN_packets_read];
		int received;

		for (uint32_t i = 0; i < batch; i++) {
			in->messages[i].msg_hdr.msg_namelen = sizeof(in->addresses[i]);
			in->messages[i].msg_hdr.msg_controllen = sizeof(in->controls[i]);
		}
		received = recvmmsg(in->engine->options.udp_fd, in->messages, batch, MSG_DONTWAIT,
				    NULL);
		count(in->counters, IN_syscalls_read, 1);
		for (int i = 0; i < received; i++)
			inbound_datagram(in, table, (uint32_t)i);
		count_batch(in->counters, IN_batch_read_0,
			    (uint32_t)(in->counters[IN_packets_read] - before));
		if (received < 0)
			return TURN_DRAINED;
		tun_batch_flush(&in->tun, table);
		moved += (uint32_t)received;
		if ((uint32_t)received < batch)
			return TURN_DRAINED;
	}
	return TURN_MORE;
}

/**
 * inbound_turn() - move datagrams until the socket is empty or the budget is spent
 * @in: direction, owned by the calling thread
 *
 * Return: how the turn ended
 */
enum turn_result inbound_turn(struct inbound *in)
{
	struct turn_gate *gate = &in->engine->gates[1];
	const struct tnl_routes *table = turn_enter(in->engine, gate);
	enum turn_result result = inbound_move(in, table);

	turn_leave(gate);
	return result;
}
