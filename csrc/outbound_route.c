/*
 * outbound_route.c - which peer an outbound packet goes to, or why it ends here and who is told.
 */
#include <string.h>
#include <unistd.h>

#include "counters.h"
#include "outbound.h"

/* flannel's net unreachable leaves with TTL 8 (udp-amd64/proxy.c); ours go further. */
#define TTL_NET_UNREACHABLE 8u
#define TTL_ICMP 64u

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
	uint8_t answer[VNET_HDR_BYTES + ICMP_ERROR_MAX] = {0};
	size_t before = o->engine->options.features & TNL_VNET_HDR ? VNET_HDR_BYTES : 0;
	size_t length;

	if (!icmp_may_answer(packet, header) || !icmp_bucket_take(&o->bucket, monotonic_ns())) {
		count(o->counters, OUT_icmp_suppressed, 1);
		return;
	}
	length = before + icmp_build_error(answer + before, error, packet, header);
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
void outbound_invalid(struct outbound *o, enum ip_verdict verdict)
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
 * @o:     direction
 * @table: current table
 * @frame: packet or superpacket
 *
 * The order is flannel's and the kernel's: route first, then TTL, then size. One error tells about
 * a whole superpacket.
 *
 * Return: route index, or NO_ROUTE when the packet ended here, counted
 */
int32_t outbound_route(struct outbound *o, const struct tnl_routes *table,
		       const struct frame *frame)
{
	const struct tnl_snapshot *snapshot = &table->snapshot;
	const struct ip_header *header = &frame->header;
	struct icmp_error error = {.ttl = TTL_ICMP, .source = snapshot->tun_address};
	uint32_t mtu;
	int32_t route;

	if (prefix_covers(snapshot->subnet, snapshot->subnet_len, header->destination)) {
		count(o->counters, OUT_drop_own_subnet, frame->packets);
		return NO_ROUTE;
	}
	route = tnl_routes_lookup(table, header->destination);
	if (route == NO_ROUTE) {
		count(o->counters, OUT_drop_no_route, frame->packets);
		error.type = 3;
		error.ttl = TTL_NET_UNREACHABLE;
		outbound_answer(o, &error, OUT_icmp_sent_net_unreachable, frame->packet, header);
		return NO_ROUTE;
	}
	if (routes_is_own(table, table->routes[route].public_ip)) {
		count(o->counters, OUT_drop_own_peer, frame->packets);
		return NO_ROUTE;
	}
	if (header->ttl <= 1) {
		count(o->counters, OUT_drop_ttl_expired, frame->packets);
		error.type = 11;
		outbound_answer(o, &error, OUT_icmp_sent_time_exceeded, frame->packet, header);
		return NO_ROUTE;
	}
	mtu = routes_path_mtu(table, route);
	if (header->fragment & IP_FLAG_DF && frame->largest > mtu) {
		count(o->counters, OUT_drop_too_big, frame->packets);
		error.type = 3;
		error.code = 4;
		error.mtu = (uint16_t)mtu;
		outbound_answer(o, &error, OUT_icmp_sent_fragmentation_needed, frame->packet,
				header);
		return NO_ROUTE;
	}
	return route;
}
