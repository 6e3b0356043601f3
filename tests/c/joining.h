/*
 * joining.h - packets go into a batch, come out as the receiver's stack would get them, and are
 * compared: for the tests of coalesce.c.
 */
#ifndef TNL_TEST_JOINING_H
#define TNL_TEST_JOINING_H

#include "check.h"
#include "coalesce.h"
#include "l4.h"
#include "packets.h"

#define CASE_PACKETS 8
#define STEP 100u

/**
 * struct piece - one packet of a case; all zero is the first packet of the flow
 * @n:         place in the flow: sequence number, id and payload begin where packet @n - 1 ended
 * @payload:   bytes; 0: STEP
 * @empty:     no payload at all
 * @udp, @icmp: instead of TCP
 * @df:        DF is set
 * @fragment:  further bits of the fragment word
 * @flags:     TCP flags besides ACK
 * @no_ack:    ACK is not set
 * @change:    what else differs from the flow
 * @by:        and by how much
 */
struct piece {
	uint32_t n;
	uint32_t payload;
	bool empty;
	bool udp;
	bool icmp;
	bool df;
	uint16_t fragment;
	uint8_t flags;
	bool no_ack;
	enum {
		NOTHING,
		ID,
		SEQUENCE,
		ACK,
		WINDOW,
		URGENT,
		TIMESTAMP,
		TCP_OPTIONS,
		RESERVED,
		TOS,
		TTL,
		IP_OPTIONS,
		SOURCE,
		DESTINATION,
		SOURCE_PORT,
		DESTINATION_PORT,
		PORTS,
		ROUTE,
		NO_CHECKSUM,
		ZERO_SUM,
		DAMAGE,
		UDP_LENGTH,
		DATA_OFFSET,
	} change;
	uint32_t by;
};

/**
 * struct join_case - packets in the order of arrival, and the entry that each must be in
 * @entries: one digit for each packet; entries are written in the order of their digits
 */
struct join_case {
	const char *name;
	struct piece pieces[CASE_PACKETS];
	const char *entries;
};

static struct coalesce batch;
static uint8_t store[8u << 20];

/** put_checksum() - make the L4 checksum of a built packet right again */
static inline void put_checksum(uint8_t *packet, size_t length)
{
	size_t ip = (size_t)(packet[0] & 15) * 4;
	uint8_t *field =
		packet + ip + (packet[9] == PROTO_UDP ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM);

	packet_put16(field, 0);
	packet_put16(field, (uint16_t)~packet_sum(packet_pseudo(packet, length - ip), packet + ip,
						  length - ip));
}

/** spec_change() - apply what differs from the flow */
static inline void spec_change(const struct piece *piece, struct packet_spec *spec)
{
	uint32_t by = piece->by;

	spec->id = (uint16_t)(spec->id + (piece->change == ID ? by : 0));
	spec->sequence += piece->change == SEQUENCE ? by : 0;
	spec->ack += piece->change == ACK ? by : 0;
	spec->window = (uint16_t)(spec->window + (piece->change == WINDOW ? by : 0));
	spec->urgent = (uint16_t)(piece->change == URGENT ? by : 0);
	spec->timestamp = piece->change == TIMESTAMP ? by : 0;
	spec->tcp_options = (uint8_t)(piece->change == TCP_OPTIONS ? by : 0);
	if (piece->change == TIMESTAMP)
		spec->tcp_options = 12;
	spec->reserved = (uint8_t)(piece->change == RESERVED ? by : 0);
	spec->tos = (uint8_t)(piece->change == TOS ? by : 0);
	spec->ttl = (uint8_t)(spec->ttl - (piece->change == TTL ? by : 0));
	spec->ip_options = (uint8_t)(piece->change == IP_OPTIONS ? by : 0);
	spec->source += piece->change == SOURCE ? by : 0;
	spec->destination += piece->change == DESTINATION ? by : 0;
	spec->source_port = (uint16_t)(spec->source_port + (piece->change == SOURCE_PORT ? by : 0));
	spec->destination_port =
		(uint16_t)(spec->destination_port + (piece->change == DESTINATION_PORT ? by : 0));
	if (piece->change == PORTS) {
		spec->source_port = (uint16_t)(by >> 16);
		spec->destination_port = (uint16_t)by;
	}
	spec->no_checksum = piece->change == NO_CHECKSUM || piece->change == ZERO_SUM;
}

/** piece_build() - make the packet of a piece; returns its length */
static inline size_t piece_build(const struct piece *piece, uint8_t *out)
{
	struct packet_spec spec = {
		.source = 0x64600203,
		.destination = 0x64600102,
		.source_port = 80,
		.destination_port = 40000,
		.sequence = 0xffffff38u + piece->n * STEP,
		.ack = 5000,
		.window = 500,
		.at = piece->n * STEP,
		.payload = piece->payload ? piece->payload : STEP,
		.id = (uint16_t)(7 + piece->n),
		.fragment = (uint16_t)((piece->df ? IP_FLAG_DF : 0) | piece->fragment),
		.ttl = 63,
		.proto = piece->icmp  ? PROTO_ICMP
			 : piece->udp ? PROTO_UDP
				      : PROTO_TCP,
		.flags = (uint8_t)((piece->no_ack ? 0 : FLAG_ACK) | piece->flags),
	};
	size_t length;

	if (piece->empty)
		spec.payload = 0;
	spec_change(piece, &spec);
	length = packet_build(&spec, out);
	if (piece->change == DAMAGE)
		out[length - 1] ^= 0x10;
	if (piece->change == ZERO_SUM) {
		packet_put16(out + 28, 0);
		packet_put16(out + 28, (uint16_t)~packet_sum(packet_pseudo(out, length - 20),
							     out + 20, length - 20));
	}
	if (piece->change == DATA_OFFSET)
		out[32] = (uint8_t)(piece->by << 4);
	if (piece->change == UDP_LENGTH)
		packet_put16(out + 24, piece->by);
	if (piece->change == DATA_OFFSET || piece->change == UDP_LENGTH)
		put_checksum(out, length);
	return length;
}

/** batch_add() - what the inbound direction does with one packet */
static inline void batch_add(uint8_t *packet, size_t length, int32_t route)
{
	struct ip_header header = {0};

	if (ip_parse(packet, length, &header) != IP_OK)
		abort();
	coalesce_add(&batch, packet, &header, route);
}

/** entry_of() - the entry that a packet went into */
static inline uint32_t entry_of(const uint8_t *packet)
{
	for (uint32_t i = 0; i < batch.entry_count; i++)
		for (uint32_t at = batch.entries[i].first; at != COALESCE_NONE;
		     at = batch.pieces[at].next)
			if (batch.pieces[at].packet == packet)
				return i;
	return COALESCE_NONE;
}

/**
 * entry_bytes() - finish an entry and gather what would be written
 *
 * Return: length
 */
static inline size_t entry_bytes(const struct coalesce_entry *entry, struct vnet_hdr *vnet,
				 uint8_t *out)
{
	uint8_t saved[SEGMENT_HEADER_MAX];
	size_t length = 0;

	coalesce_finish(&batch, entry, vnet, saved);
	for (uint32_t at = entry->first; at != COALESCE_NONE; at = batch.pieces[at].next) {
		const struct coalesce_piece *piece = &batch.pieces[at];
		uint32_t skip = length ? entry->header_length : 0;

		memcpy(out + length, piece->packet + skip, piece->length - skip);
		length += piece->length - skip;
	}
	if (entry->count > 1)
		coalesce_restore(&batch, entry, saved);
	return length;
}

/** check_super() - a superpacket says about itself what the kernel must know */
static inline void check_super(const struct coalesce_entry *entry, const struct vnet_hdr *vnet,
			       const uint8_t *packet, size_t length)
{
	const struct coalesce_piece *first = &batch.pieces[entry->first];
	const struct coalesce_piece *last = &batch.pieces[entry->last];
	bool udp = packet[9] == PROTO_UDP;
	struct ip_header header = {0};

	CHECK_EQ(ip_parse(packet, length, &header), IP_OK);
	CHECK_EQ(header.total_length, length);
	CHECK_EQ(entry->bytes, length);
	CHECK_EQ(vnet->flags, VNET_NEEDS_CSUM);
	CHECK_EQ(vnet->gso_type, udp ? VNET_GSO_UDP_L4 : VNET_GSO_TCPV4);
	CHECK_EQ(vnet->hdr_len, udp ? 28 : 20 + (packet[32] >> 4) * 4);
	CHECK_EQ(vnet->gso_size, first->length - vnet->hdr_len);
	CHECK_EQ(vnet->csum_start, 20);
	CHECK_EQ(vnet->csum_offset, udp ? 6 : 16);
	/* The pseudo header's sum, not complemented: the kernel adds the rest. */
	CHECK_EQ(get16(packet + 20 + vnet->csum_offset), packet_pseudo(packet, length - 20));
	if (udp)
		CHECK_EQ(get16(packet + 24), length - 20);
	else
		CHECK_EQ(packet[33], first->packet[33] | last->packet[33]);
}

/** without_id() - make two packets with DF comparable: their ids have no meaning (RFC 6864) */
static inline void without_id(uint8_t *packet)
{
	if (!(get16(packet + 6) & IP_FLAG_DF))
		return;
	packet_put16(packet + 4, 0);
	packet_ip_checksum(packet);
}

/** struct sink - the packets of a batch, as the receiver's stack would get them */
struct sink {
	uint8_t *packets[COALESCE_PIECES];
	size_t lengths[COALESCE_PIECES];
	uint32_t count;
};

static struct sink sink;
static uint8_t sink_store[8u << 20];

/** sink_put() - take one packet */
static inline uint8_t *sink_put(size_t length)
{
	size_t used = 0;

	if (sink.count)
		used = (size_t)(sink.packets[sink.count - 1] - sink_store) +
		       sink.lengths[sink.count - 1];
	if (sink.count == COALESCE_PIECES || used + length > sizeof(sink_store))
		abort();
	sink.packets[sink.count] = sink_store + used;
	sink.lengths[sink.count] = length;
	return sink.packets[sink.count++];
}

/** sink_cut() - what the kernel does with an entry that is written */
static inline void sink_cut(const struct coalesce_entry *entry)
{
	static uint8_t packet[IP_PACKET_MAX];
	struct segment_plan plan = {.count = 1};
	struct ip_header header = {0};
	struct vnet_hdr vnet;
	size_t length = entry_bytes(entry, &vnet, packet);

	if (entry->count == 1) {
		CHECK_EQ(vnet.gso_type, VNET_GSO_NONE);
		/* "Checked" only when it was; then the receiver does not look again. */
		CHECK_EQ(vnet.flags, entry->verified ? VNET_DATA_VALID : 0);
		memcpy(sink_put(length), packet, length);
		return;
	}
	check_super(entry, &vnet, packet, length);
	CHECK_EQ(ip_parse(packet, length, &header), IP_OK);
	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	CHECK_EQ(plan.count, entry->count);
	for (uint32_t i = 0; i < plan.count; i++) {
		uint32_t payload = segment_payload_length(&plan, i);
		uint8_t *out = sink_put(plan.header_length + payload);

		segment_build_header(&plan, packet, &header, i, out);
		memcpy(out + plan.header_length,
		       packet + plan.header_length + (size_t)i * plan.size, payload);
	}
}

/** sink_batch() - cut all entries, in the order in which they would be written */
static inline void sink_batch(void)
{
	sink.count = 0;
	for (uint32_t i = 0; i < batch.entry_count; i++)
		sink_cut(&batch.entries[i]);
}

/** check_same() - one packet that came out against the one that went in */
static inline void check_same(const char *name, const uint8_t *got, size_t got_length,
			      const uint8_t *want, size_t want_length)
{
	static uint8_t a[IP_PACKET_MAX], b[IP_PACKET_MAX];

	memcpy(a, got, got_length);
	memcpy(b, want, want_length);
	without_id(a);
	without_id(b);
	check_bytes(name, a, got_length, b, want_length);
}

/** run_case() - one named case */
static inline void run_case(const struct join_case *c)
{
	size_t count = strlen(c->entries), lengths[CASE_PACKETS];
	uint8_t *packets[CASE_PACKETS], *at = store;
	uint64_t failures = check_state.failures;
	uint32_t n = 0;

	coalesce_reset(&batch);
	batch.tcp = batch.udp = true;
	for (size_t i = 0; i < count; i++) {
		packets[i] = at;
		lengths[i] = piece_build(&c->pieces[i], at);
		at += lengths[i];
		batch_add(packets[i], lengths[i],
			  c->pieces[i].change == ROUTE ? (int32_t)c->pieces[i].by : 0);
	}
	for (size_t i = 0; i < count; i++)
		CHECK_EQ(entry_of(packets[i]), hex_digit(c->entries[i]));
	sink_batch();
	CHECK_EQ(sink.count, count);
	for (char entry = '0'; n < sink.count; entry++)
		for (size_t i = 0; i < count && n < sink.count; i++)
			if (c->entries[i] == entry) {
				check_same(c->name, sink.packets[n], sink.lengths[n], packets[i],
					   lengths[i]);
				n++;
			}
	if (failures != check_state.failures)
		fprintf(stderr, "  in: %s\n", c->name);
}

#endif
