/*
 * test_coalesce.c - which packets become one superpacket, which stay alone, and that cutting it
 * again gives the same packets in the same order.
 */
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

/* A packet that must stay alone stands in for packet 1, and the true packet 1 follows: it would
 * continue packet 0, but must not overtake what came between. */
#define ALONE(...)                                                                                 \
	{                                                                                          \
		{0}, {.n = 1, __VA_ARGS__}, {.n = 1},                                              \
		{                                                                                  \
			.n = 2                                                                     \
		}                                                                                  \
	}
#define ALONE_UDP(...)                                                                             \
	{                                                                                          \
		{.udp = true}, {.n = 1, .udp = true, __VA_ARGS__}, {.n = 1, .udp = true},          \
		{                                                                                  \
			.n = 2, .udp = true                                                        \
		}                                                                                  \
	}
/* Packet 1 differs, packet 2 is like packet 0: neither may join across the difference. */
#define DIFFERS(...)                                                                               \
	{                                                                                          \
		{0}, {.n = 1, __VA_ARGS__},                                                        \
		{                                                                                  \
			.n = 2                                                                     \
		}                                                                                  \
	}
#define DIFFERS_UDP(...)                                                                           \
	{                                                                                          \
		{.udp = true}, {.n = 1, .udp = true, __VA_ARGS__},                                 \
		{                                                                                  \
			.n = 2, .udp = true                                                        \
		}                                                                                  \
	}

/* Packet 1 is in a flow of its own, and the true packet 1 joins packet 0. */
#define OTHER_FLOW(...)                                                                            \
	{                                                                                          \
		{0}, {.n = 1, __VA_ARGS__},                                                        \
		{                                                                                  \
			.n = 1                                                                     \
		}                                                                                  \
	}

static const struct join_case join_cases[] = {
	{"adjacent data", {{0}, {.n = 1}, {.n = 2}}, "000"},
	{"a shorter one joins and closes", {{0}, {.n = 1, .payload = 99}, {.n = 2}}, "001"},
	{"a longer one begins anew",
	 {{0}, {.n = 1, .payload = 101}, {.n = 2, .change = SEQUENCE, .by = 1}},
	 "011"},
	{"PSH joins and closes", {{0}, {.n = 1, .flags = FLAG_PSH}, {.n = 2}, {.n = 3}}, "0011"},
	{"PSH on the first closes", {{.flags = FLAG_PSH}, {.n = 1}, {.n = 2}}, "011"},
	{"a hole in the sequence", {{0}, {.n = 2}, {.n = 3}}, "011"},
	{"a retransmission", {{0}, {.n = 1}, {.n = 1}, {.n = 2}}, "0011"},
	{"reordered on the way", {{.n = 1}, {.n = 0}, {.n = 2}}, "012"},
	{"one byte is missing", DIFFERS(.change = SEQUENCE, .by = 1), "012"},
	{"FIN", ALONE(.flags = FLAG_FIN), "0122"},
	{"SYN", ALONE(.flags = FLAG_SYN), "0122"},
	{"RST", ALONE(.flags = FLAG_RST), "0122"},
	{"URG", ALONE(.flags = FLAG_URG), "0122"},
	{"ECE", ALONE(.flags = FLAG_ECE), "0122"},
	{"CWR", ALONE(.flags = FLAG_CWR), "0122"},
	{"no ACK", ALONE(.no_ack = true), "0122"},
	{"PSH without ACK", ALONE(.no_ack = true, .flags = FLAG_PSH), "0122"},
	{"FIN comes first", {{.flags = FLAG_FIN}, {.n = 1}, {.n = 2}}, "011"},
	{"a pure ACK", ALONE(.empty = true), "0122"},
	{"an acknowledgement of more", DIFFERS(.change = ACK, .by = 1), "012"},
	{"another window", DIFFERS(.change = WINDOW, .by = 1), "012"},
	{"an urgent pointer without URG", DIFFERS(.change = URGENT, .by = 1), "012"},
	{"equal timestamps",
	 {{.change = TIMESTAMP, .by = 5}, {.n = 1, .change = TIMESTAMP, .by = 5}},
	 "00"},
	{"another timestamp",
	 {{.change = TIMESTAMP, .by = 5}, {.n = 1, .change = TIMESTAMP, .by = 6}},
	 "01"},
	{"options appear", DIFFERS(.change = TCP_OPTIONS, .by = 4), "012"},
	{"40 bytes of options",
	 {{.change = TCP_OPTIONS, .by = 40}, {.n = 1, .change = TCP_OPTIONS, .by = 40}},
	 "00"},
	{"the accurate ECN bit", ALONE(.change = RESERVED, .by = 1), "0122"},
	{"a reserved bit", ALONE(.change = RESERVED, .by = 8), "0122"},
	{"a TCP header too short", ALONE(.change = DATA_OFFSET, .by = 4), "0122"},
	{"a TCP header past the end", ALONE(.change = DATA_OFFSET, .by = 15, .payload = 39),
	 "0122"},
	{"a TCP header to the end", ALONE(.change = DATA_OFFSET, .by = 15, .payload = 40), "0122"},
	{"TCP headers too short that agree",
	 {{.change = DATA_OFFSET, .by = 4, .payload = 96},
	  {.n = 1, .change = DATA_OFFSET, .by = 4, .payload = 96}},
	 "01"},
	{"another DSCP", DIFFERS(.change = TOS, .by = 0x20), "012"},
	{"congestion experienced", DIFFERS(.change = TOS, .by = 3), "012"},
	{"another TTL", DIFFERS(.change = TTL, .by = 1), "012"},
	{"DF appears", DIFFERS(.df = true), "012"},
	{"DF, ids go on", {{.df = true}, {.n = 1, .df = true}}, "00"},
	{"DF, ids jump: no meaning (RFC 6864)",
	 {{.df = true}, {.n = 1, .df = true, .change = ID, .by = 9}},
	 "00"},
	{"DF, ids stay", {{.df = true}, {.n = 1, .df = true, .change = ID, .by = 0xffff}}, "00"},
	{"no DF, ids jump", DIFFERS(.change = ID, .by = 1), "012"},
	{"no DF, ids stay", DIFFERS(.change = ID, .by = 0xffff), "012"},
	{"no DF, ids wrap",
	 {{.change = ID, .by = 0xfff8}, {.n = 1, .change = ID, .by = 0xfff8}},
	 "00"},
	{"the reserved bit of the fragment word", DIFFERS(.fragment = 0x8000), "012"},
	{"IP options", ALONE(.change = IP_OPTIONS, .by = 4), "0122"},
	{"a damaged checksum", ALONE(.change = DAMAGE), "0122"},
	{"damage in the first", {{.change = DAMAGE}, {.n = 1}, {.n = 2}}, "011"},
	{"a first fragment of the flow", ALONE(.fragment = IP_FLAG_MF), "0122"},
	{"a later fragment", ALONE(.fragment = 2), "0122"},
	{"a fragment of whichever flow", ALONE(.fragment = 2, .change = SOURCE, .by = 7), "0122"},
	{"a fragment of UDP between TCP", ALONE(.fragment = IP_FLAG_MF, .udp = true), "0122"},
	{"a fragment of ICMP", ALONE(.fragment = IP_FLAG_MF, .icmp = true), "0122"},
	{"a fragment, for all flows",
	 {{0},
	  {.change = SOURCE, .by = 1},
	  {.n = 9, .fragment = 3},
	  {.n = 1},
	  {.n = 1, .change = SOURCE, .by = 1},
	  {.n = 2}},
	 "012343"},
	{"flows take turns",
	 {{0},
	  {.change = SOURCE_PORT, .by = 1},
	  {.n = 1},
	  {.n = 1, .change = SOURCE_PORT, .by = 1},
	  {.n = 2}},
	 "01010"},
	{"what is alone in one flow does not bother another",
	 {{0},
	  {.change = SOURCE_PORT, .by = 1, .flags = 0, .empty = true},
	  {.n = 1},
	  {.icmp = true},
	  {.n = 2}},
	 "01020"},
	{"another source", OTHER_FLOW(.change = SOURCE, .by = 1), "010"},
	{"another destination", OTHER_FLOW(.change = DESTINATION, .by = 1), "010"},
	{"another source port", OTHER_FLOW(.change = SOURCE_PORT, .by = 1), "010"},
	{"another destination port", OTHER_FLOW(.change = DESTINATION_PORT, .by = 1), "010"},
	{"the same ports of the other protocol", OTHER_FLOW(.udp = true), "010"},
	{"another peer", DIFFERS(.change = ROUTE, .by = 1), "012"},
	{"ICMP", {{.icmp = true}, {.n = 1, .icmp = true}}, "01"},
	{"UDP: equal sizes", {{.udp = true}, {.n = 1, .udp = true}, {.n = 2, .udp = true}}, "000"},
	{"UDP: a shorter one joins and closes", DIFFERS_UDP(.payload = 1), "001"},
	{"UDP: a longer one begins anew", DIFFERS_UDP(.payload = 101), "011"},
	{"UDP: an empty datagram", ALONE_UDP(.empty = true), "0122"},
	{"UDP: no checksum", ALONE_UDP(.change = NO_CHECKSUM), "0122"},
	{"UDP: no checksum at all",
	 {{.udp = true, .change = NO_CHECKSUM}, {.n = 1, .udp = true, .change = NO_CHECKSUM}},
	 "01"},
	{"UDP: no checksum, where zero would be the right sum", ALONE_UDP(.change = ZERO_SUM),
	 "0122"},
	{"UDP: a damaged checksum", ALONE_UDP(.change = DAMAGE), "0122"},
	{"UDP: shorter than its IP packet", ALONE_UDP(.change = UDP_LENGTH, .by = 90), "0122"},
	{"UDP: longer than its IP packet", ALONE_UDP(.change = UDP_LENGTH, .by = 109), "0122"},
	{"UDP: no DF, ids jump", DIFFERS_UDP(.change = ID, .by = 1), "012"},
	{"UDP: DF, ids jump",
	 {{.udp = true, .df = true}, {.n = 1, .udp = true, .df = true, .change = ID, .by = 3}},
	 "00"},
	{"UDP: another TOS", DIFFERS_UDP(.change = TOS, .by = 2), "012"},
	{"UDP: another TTL", DIFFERS_UDP(.change = TTL, .by = 1), "012"},
	{"UDP: IP options", ALONE_UDP(.change = IP_OPTIONS, .by = 8), "0122"},
	{"UDP: a fragment", ALONE_UDP(.fragment = 1), "0122"},
	{"UDP: another port",
	 {{.udp = true},
	  {.n = 1, .udp = true, .change = DESTINATION_PORT, .by = 1},
	  {.n = 1, .udp = true}},
	 "010"},
};

static struct coalesce batch;
static uint8_t store[8u << 20], before[IP_PACKET_MAX];

/** put_checksum() - make the L4 checksum of a built packet right again */
static void put_checksum(uint8_t *packet, size_t length)
{
	size_t ip = (size_t)(packet[0] & 15) * 4;
	uint8_t *field =
		packet + ip + (packet[9] == PROTO_UDP ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM);

	packet_put16(field, 0);
	packet_put16(field, (uint16_t)~packet_sum(packet_pseudo(packet, length - ip), packet + ip,
						  length - ip));
}

/** spec_change() - apply what differs from the flow */
static void spec_change(const struct piece *piece, struct packet_spec *spec)
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
static size_t piece_build(const struct piece *piece, uint8_t *out)
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
static void batch_add(uint8_t *packet, size_t length, int32_t route)
{
	struct ip_header header = {0};

	if (ip_parse(packet, length, &header) != IP_OK)
		abort();
	coalesce_add(&batch, packet, &header, route);
}

/** entry_of() - the entry that a packet went into */
static uint32_t entry_of(const uint8_t *packet)
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
static size_t entry_bytes(const struct coalesce_entry *entry, struct vnet_hdr *vnet, uint8_t *out)
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
static void check_super(const struct coalesce_entry *entry, const struct vnet_hdr *vnet,
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
static void without_id(uint8_t *packet)
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
static uint8_t *sink_put(size_t length)
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
static void sink_cut(const struct coalesce_entry *entry)
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
static void sink_batch(void)
{
	sink.count = 0;
	for (uint32_t i = 0; i < batch.entry_count; i++)
		sink_cut(&batch.entries[i]);
}

/** check_same() - one packet that came out against the one that went in */
static void check_same(const char *name, const uint8_t *got, size_t got_length, const uint8_t *want,
		       size_t want_length)
{
	static uint8_t a[IP_PACKET_MAX], b[IP_PACKET_MAX];

	memcpy(a, got, got_length);
	memcpy(b, want, want_length);
	without_id(a);
	without_id(b);
	check_bytes(name, a, got_length, b, want_length);
}

/** run_case() - one named case */
static void run_case(const struct join_case *c)
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

/** test_untouched() - what is alone is written bit by bit as it came, its wrong checksum too */
static void test_untouched(void)
{
	static const struct piece pieces[] = {
		{.change = DAMAGE},
		{.udp = true, .change = DAMAGE},
		{.udp = true, .change = NO_CHECKSUM},
		{.fragment = IP_FLAG_MF},
		{.icmp = true},
		{.flags = FLAG_FIN},
		{0},
		{.udp = true},
	};

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		uint8_t saved[SEGMENT_HEADER_MAX];
		struct vnet_hdr vnet;
		size_t length = piece_build(&pieces[i], store);

		memcpy(before, store, length);
		coalesce_reset(&batch);
		batch.tcp = batch.udp = true;
		batch_add(store, length, 3);
		coalesce_finish(&batch, &batch.entries[0], &vnet, saved);
		check_bytes("untouched", store, length, before, length);
		CHECK_EQ(batch.entries[0].route, 3);
		CHECK_EQ(batch.entries[0].inner_bytes, length);
		CHECK_EQ(vnet.gso_type, VNET_GSO_NONE);
		/* Nobody looked at the FIN's checksum, so it may not be called good. */
		CHECK_EQ(vnet.flags, i < 6 ? 0 : VNET_DATA_VALID);
	}
}

/** test_switched_off() - a protocol that the TUN refused is left alone, the other is not */
static void test_switched_off(void)
{
	for (int off = 0; off < 2; off++)
		for (int udp = 0; udp < 2; udp++) {
			size_t length = 0, used = 0;

			coalesce_reset(&batch);
			batch.tcp = off == 1;
			batch.udp = off == 0;
			for (uint32_t n = 0; n < 3; n++) {
				struct piece piece = {.n = n, .udp = udp};

				length = piece_build(&piece, store + used);
				batch_add(store + used, length, 0);
				used += length;
			}
			CHECK_EQ(batch.entry_count, off == udp ? 3 : 1);
			CHECK_EQ(batch.entries[0].inner_bytes, off == udp ? length : used);
		}
}

/** struct limit_case - @count packets of @payload bytes must become entries of these counts */
struct limit_case {
	const char *name;
	bool udp;
	uint32_t payload;
	uint32_t count;
	uint32_t want[3];
};

static const struct limit_case limit_cases[] = {
	{"64 segments", false, 100, 64, {64}},
	{"65 segments", false, 100, 65, {64, 1}},
	{"129 segments", true, 1, 129, {64, 64, 1}},
	{"Ethernet's MSS", false, 1460, 50, {44, 6}},
	{"65,535 bytes of TCP", false, 13099, 5, {5}},
	{"65,540 bytes of TCP", false, 13100, 5, {4, 1}},
	{"65,535 bytes of UDP", true, 5039, 13, {13}},
	{"65,548 bytes of UDP", true, 5040, 13, {12, 1}},
	{"two halves and a byte", true, 32754, 2, {1, 1}},
};

/** test_limits() - 64 segments, and 65,535 bytes, whichever comes first */
static void test_limits(void)
{
	for (size_t i = 0; i < sizeof(limit_cases) / sizeof(limit_cases[0]); i++) {
		const struct limit_case *c = &limit_cases[i];
		uint64_t failures = check_state.failures;
		size_t used = 0;

		coalesce_reset(&batch);
		batch.tcp = batch.udp = true;
		for (uint32_t n = 0; n < c->count; n++) {
			struct piece piece = {.udp = c->udp, .payload = c->payload};
			size_t length;

			piece.change = SEQUENCE;
			piece.by = n * c->payload;
			length = piece_build(&piece, store + used);
			packet_put16(store + used + 4, n);
			packet_ip_checksum(store + used);
			batch_add(store + used, length, 0);
			used += length;
		}
		for (uint32_t n = 0; n < 3 && c->want[n]; n++)
			CHECK_EQ(batch.entries[n].count, c->want[n]);
		sink_batch();
		CHECK_EQ(sink.count, c->count);
		CHECK_EQ((size_t)(sink.packets[sink.count - 1] - sink_store) +
				 sink.lengths[sink.count - 1],
			 used);
		check_bytes(c->name, sink_store, used, store, used);
		if (failures != check_state.failures)
			fprintf(stderr, "  in: %s\n", c->name);
	}
}

/** test_full() - a batch says in time that it is full; reset makes it empty */
static void test_full(void)
{
	struct piece alone = {.icmp = true};
	size_t length = piece_build(&alone, store), used = 0;

	coalesce_reset(&batch);
	batch.tcp = batch.udp = true;
	for (uint32_t n = 0; n < COALESCE_ENTRIES; n++) {
		CHECK(!coalesce_is_full(&batch));
		batch_add(store, length, 0);
	}
	CHECK(coalesce_is_full(&batch));
	coalesce_reset(&batch);
	for (uint32_t n = 0; n < COALESCE_PIECES; n++) {
		struct piece piece = {.n = n};

		CHECK(!coalesce_is_full(&batch));
		length = piece_build(&piece, store + used);
		batch_add(store + used, length, 0);
		used += length;
	}
	CHECK_EQ(batch.entry_count, COALESCE_PIECES / COALESCE_SEGMENTS);
	CHECK(coalesce_is_full(&batch));
	coalesce_reset(&batch);
	CHECK(!coalesce_is_full(&batch));
	/* Nothing of the last batch is left to join. */
	alone = (struct piece){.n = COALESCE_PIECES};
	batch_add(store, piece_build(&alone, store), 0);
	CHECK_EQ(batch.entry_count, 1);
	CHECK_EQ(batch.entries[0].count, 1);
}

/** test_buckets() - flows that share a bucket lose superpackets, never order */
static void test_buckets(void)
{
	uint32_t shared = 0, apart = 0;

	for (uint32_t by = 1; by <= 2000; by++) {
		struct piece other = {.change = SOURCE_PORT, .by = by};
		struct join_case c = {"a shared bucket", {{0}, other, {.n = 1}, other}, "010"};

		c.pieces[3].n = 1;
		coalesce_reset(&batch);
		batch.tcp = true;
		batch_add(store, piece_build(&c.pieces[0], store), 0);
		batch_add(store + 200, piece_build(&other, store + 200), 0);
		if (batch.entries[0].hash % COALESCE_BUCKETS ==
		    batch.entries[1].hash % COALESCE_BUCKETS) {
			CHECK(batch.entries[0].hash != batch.entries[1].hash);
			c.entries = "0123";
			shared++;
		} else {
			c.entries = "0101";
			apart++;
		}
		run_case(&c);
	}
	CHECK(shared > 0);
	CHECK(apart > shared);
}

/** struct hashed - the hash of a flow
 * @value: what sets the flow apart: its destination, or both of its ports
 */
struct hashed {
	uint32_t hash;
	uint32_t value;
};

/** hashed_order() - for qsort() */
static int hashed_order(const void *a, const void *b)
{
	const struct hashed *x = a, *y = b;

	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

#define HASHED (1u << 19)

/** test_equal_hashes() - flows with all 32 bits of the hash in common are told apart */
static void test_equal_hashes(bool ports)
{
	struct piece piece = {.empty = true, .change = DAMAGE};
	struct hashed *table = calloc(HASHED, sizeof(*table));
	size_t length = piece_build(&piece, store);
	uint64_t random = 32;
	uint32_t pairs = 0;

	if (!table)
		abort();
	for (uint32_t i = 0; i < HASHED; i++) {
		table[i].value = check_random(&random);
		packet_put32(store + (ports ? 20 : 16), table[i].value);
		packet_ip_checksum(store);
		coalesce_reset(&batch);
		batch_add(store, length, 0);
		table[i].hash = batch.entries[0].hash;
	}
	qsort(table, HASHED, sizeof(*table), hashed_order);
	for (uint32_t i = 1; i < HASHED; i++) {
		struct join_case c = {"equal hashes", {{0}, {.n = 1}, {.n = 2}}, "012"};

		if (table[i - 1].hash != table[i].hash || table[i - 1].value == table[i].value)
			continue;
		for (int n = 0; n < 3; n++) {
			c.pieces[n].change = ports ? PORTS : DESTINATION;
			c.pieces[n].by = table[i - (n == 1)].value - (ports ? 0 : 0x64600102);
		}
		run_case(&c);
		CHECK_EQ(batch.entries[0].hash, batch.entries[1].hash);
		pairs++;
	}
	CHECK(pairs > 0);
	free(table);
}

#define RANDOM_PACKETS 200
#define RANDOM_FLOWS 5

/** struct random_flow - where a flow has got to */
struct random_flow {
	struct packet_spec spec;
	uint32_t size;
};

/** random_spec() - the next packet of a flow: mostly what a bulk transfer sends, sometimes not */
static struct packet_spec random_spec(struct random_flow *flow, uint64_t *random)
{
	uint32_t odd = check_random(random) % 40;
	struct packet_spec *next = &flow->spec, spec;

	if (odd == 0)
		flow->size = 1 + check_random(random) % 1460;
	if (odd == 1)
		next->ack += 100;
	if (odd == 2)
		next->timestamp++;
	if (odd == 3)
		next->fragment ^= IP_FLAG_DF;
	if (odd == 4)
		next->id = (uint16_t)check_random(random);
	if (odd == 5)
		next->tos ^= 3;
	if (odd == 6)
		next->ttl ^= 1;
	spec = *next;
	spec.payload = flow->size;
	if (odd == 7)
		spec.payload = check_random(random) % flow->size;
	if (odd == 8 && spec.proto == PROTO_TCP)
		spec.flags = (uint8_t)check_random(random);
	if (odd == 9)
		spec.flags |= FLAG_PSH;
	if (odd == 10)
		spec.ip_options = 4;
	if (odd == 11)
		spec.fragment |= (uint16_t)(check_random(random) & (IP_FLAG_MF | 3));
	if (odd == 12 && spec.proto == PROTO_UDP)
		spec.no_checksum = 1;
	next->sequence += spec.payload;
	next->at += spec.payload;
	next->id++;
	return spec;
}

/** packet_is_fragment() - of which the flow is not known */
static bool packet_is_fragment(const uint8_t *packet)
{
	return get16(packet + 6) & (IP_FLAG_MF | IP_FRAGMENT_OFFSET);
}

/** same_order() - whether two packets must keep their order: same flow, or one is a fragment */
static bool same_order(const uint8_t *a, const uint8_t *b)
{
	size_t ports = (size_t)(a[0] & 15) * 4, other = (size_t)(b[0] & 15) * 4;

	if (packet_is_fragment(a) || packet_is_fragment(b))
		return true;
	return memcmp(a + 12, b + 12, 8) == 0 && a[9] == b[9] &&
	       memcmp(a + ports, b + other, 4) == 0;
}

/**
 * check_permutation() - what came out is what went in, and nothing that belongs together changed
 * places
 *
 * Each packet that comes out must be the first of its flow that has not come out yet, and no
 * fragment before it may be left.
 */
static void check_permutation(uint8_t *const *packets, const size_t *lengths, uint32_t count)
{
	bool taken[RANDOM_PACKETS] = {false};

	CHECK_EQ(sink.count, count);
	for (uint32_t n = 0; n < sink.count && n < count; n++) {
		uint32_t i = 0;

		while (i < count && (taken[i] || !same_order(packets[i], sink.packets[n])))
			i++;
		if (!CHECK(i < count))
			return;
		check_same("random", sink.packets[n], sink.lengths[n], packets[i], lengths[i]);
		taken[i] = true;
		/* Everything before a fragment is out before it. */
		for (uint32_t k = 0; packet_is_fragment(packets[i]) && k < i; k++)
			CHECK(taken[k]);
	}
}

/** test_random() - segment(coalesce(x)) == x, and a fair part of it was joined */
static void test_random(void)
{
	static uint8_t originals[RANDOM_PACKETS * 1600];
	uint8_t *packets[RANDOM_PACKETS];
	size_t lengths[RANDOM_PACKETS];
	uint64_t random = 8285, joined = 0, all = 0;

	for (int round = 0; round < 300; round++) {
		struct random_flow flows[RANDOM_FLOWS];
		size_t used = 0;

		coalesce_reset(&batch);
		batch.tcp = batch.udp = true;
		for (uint32_t f = 0; f < RANDOM_FLOWS; f++) {
			flows[f].size = 1 + check_random(&random) % 1460;
			flows[f].spec = (struct packet_spec){
				.source = 0x64600203 + f / 2,
				.destination = 0x64600102,
				.source_port = 80,
				.destination_port = (uint16_t)(40000 + f),
				.sequence = check_random(&random),
				.id = (uint16_t)check_random(&random),
				.fragment = f % 2 ? IP_FLAG_DF : 0,
				.ttl = 63,
				.proto = f % 3 == 2 ? PROTO_UDP : PROTO_TCP,
				.flags = FLAG_ACK,
				.tcp_options = f % 2 ? 12 : 0,
			};
		}
		for (uint32_t i = 0; i < RANDOM_PACKETS; i++) {
			uint32_t f = check_random(&random) % RANDOM_FLOWS;
			struct packet_spec spec = random_spec(&flows[f], &random);

			packets[i] = originals + used;
			lengths[i] = packet_build(&spec, packets[i]);
			/* A bit may fall over behind the IP header. */
			if (check_random(&random) % 50 == 0) {
				uint32_t bit = check_random(&random) %
					       (uint32_t)(8 * (lengths[i] - 24 - spec.ip_options));

				packets[i][24 + spec.ip_options + bit / 8] ^=
					(uint8_t)(1u << bit % 8);
			}
			memcpy(store + used, packets[i], lengths[i]);
			batch_add(store + used, lengths[i], 0);
			used += lengths[i];
		}
		sink_batch();
		check_permutation(packets, lengths, RANDOM_PACKETS);
		/* coalesce_restore() put every header back. */
		check_bytes("restored", store, used, originals, used);
		joined += RANDOM_PACKETS - batch.entry_count;
		all += RANDOM_PACKETS;
	}
	CHECK(joined > all / 4);
}

int main(void)
{
	for (size_t i = 0; i < sizeof(join_cases) / sizeof(join_cases[0]); i++)
		run_case(&join_cases[i]);
	test_untouched();
	test_switched_off();
	test_limits();
	test_full();
	test_buckets();
	test_equal_hashes(false);
	test_equal_hashes(true);
	test_random();
	return check_result("test_coalesce");
}
