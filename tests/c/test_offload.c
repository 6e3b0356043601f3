/*
 * test_offload.c - segment.c and coalesce.c: each rule as a case, and both as each other's inverse.
 */
#include "check.h"

#include "coalesce.h"
#include "l4.h"
#include "segment.h"

#define SOURCE 0x64600102u
#define DESTINATION 0x64600203u
#define PACKET_MAX 1500u
#define PACKETS_MAX 200u

/** struct spec - what a test packet is made from; the rest is fixed
 * @sequence: TCP
 * @options:  bytes of TCP options
 * @payload:  bytes
 * @port:     source port: the flow
 * @id:       IP id
 * @fragment: IP flags and offset
 * @proto:    IP_PROTO_TCP or IP_PROTO_UDP
 * @flags:    TCP
 */
struct spec {
	uint32_t sequence;
	uint32_t options;
	uint32_t payload;
	uint16_t port;
	uint16_t id;
	uint16_t fragment;
	uint8_t proto;
	uint8_t flags;
};

/** header_bytes() - IP and L4 header of a spec */
static uint32_t header_bytes(const struct spec *spec)
{
	return IP_HEADER_MIN +
	       (spec->proto == IP_PROTO_UDP ? UDP_HEADER : TCP_HEADER_MIN + spec->options);
}

/** checksum_field() - where the L4 checksum of a packet is */
static uint8_t *checksum_field(uint8_t *packet, uint8_t proto)
{
	return packet + IP_HEADER_MIN +
	       (proto == IP_PROTO_UDP ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM);
}

/** seal() - compute both checksums; returns the parsed header */
static struct ip_header seal(uint8_t *packet, uint32_t length)
{
	struct ip_header header = {0};
	uint8_t *field = checksum_field(packet, packet[IP_OFF_PROTO]);
	uint32_t l4_length = length - IP_HEADER_MIN;
	uint64_t sum;
	uint16_t check;

	put16(packet + IP_OFF_CHECKSUM, 0);
	put16(packet + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, packet, IP_HEADER_MIN)));
	put16(field, 0);
	sum = checksum_pseudo(get32(packet + IP_OFF_SOURCE), get32(packet + IP_OFF_DESTINATION),
			      packet[IP_OFF_PROTO], l4_length);
	check = (uint16_t)~checksum_fold(checksum_add(sum, packet + IP_HEADER_MIN, l4_length));
	put16(field, check == 0 && packet[IP_OFF_PROTO] == IP_PROTO_UDP ? 0xffff : check);
	CHECK_EQ(ip_parse(packet, length, &header), IP_OK);
	return header;
}

/** build() - make a packet; its payload depends on the flow and on its place in the stream */
static struct ip_header build(uint8_t *packet, const struct spec *spec)
{
	uint32_t headers = header_bytes(spec), length = headers + spec->payload;
	uint8_t *l4 = packet + IP_HEADER_MIN;

	memset(packet, 0, headers);
	packet[0] = 0x45;
	put16(packet + IP_OFF_LENGTH, (uint16_t)length);
	put16(packet + IP_OFF_ID, spec->id);
	put16(packet + IP_OFF_FRAGMENT, spec->fragment);
	packet[IP_OFF_TTL] = 63;
	packet[IP_OFF_PROTO] = spec->proto;
	put32(packet + IP_OFF_SOURCE, SOURCE);
	put32(packet + IP_OFF_DESTINATION, DESTINATION);
	put16(l4, spec->port);
	put16(l4 + 2, 5001);
	if (spec->proto == IP_PROTO_UDP) {
		put16(l4 + UDP_OFF_LENGTH, (uint16_t)(UDP_HEADER + spec->payload));
	} else {
		put32(l4 + TCP_OFF_SEQUENCE, spec->sequence);
		put32(l4 + TCP_OFF_ACK, 77);
		l4[TCP_OFF_DATA_OFFSET] = (uint8_t)((TCP_HEADER_MIN + spec->options) / 4 << 4);
		l4[TCP_OFF_FLAGS] = spec->flags;
		put16(l4 + TCP_OFF_WINDOW, 502);
		memset(l4 + TCP_HEADER_MIN, 1, spec->options);
	}
	for (uint32_t i = 0; i < spec->payload; i++)
		packet[headers + i] = (uint8_t)(spec->port + (spec->sequence + i) * 7);
	return seal(packet, length);
}

/** batch_new() - an empty coalesce that joins both protocols */
static struct coalesce *batch_new(void)
{
	struct coalesce *c = calloc(1, sizeof(*c));

	if (!c)
		abort();
	c->tcp = c->udp = true;
	return c;
}

/** join_two() - add two packets; true if they became one entry */
static bool join_two(uint8_t *a, uint32_t a_length, uint8_t *b, uint32_t b_length)
{
	struct coalesce *c = batch_new();
	struct ip_header header = {0};
	bool joined;

	CHECK_EQ(ip_parse(a, a_length, &header), IP_OK);
	coalesce_add(c, a, &header, 0);
	CHECK_EQ(ip_parse(b, b_length, &header), IP_OK);
	coalesce_add(c, b, &header, 0);
	joined = c->entry_count == 1;
	CHECK_EQ(c->entries[0].count, joined ? 2 : 1);
	free(c);
	return joined;
}

/** struct rule - a second packet that differs from the one that would continue the first */
struct rule {
	const char *name;
	struct spec first;
	struct spec second;
	bool joins;
};

/* Continues the first packet, but for what a rule changes. */
#define TCP_1 .proto = IP_PROTO_TCP, .port = 1, .payload = 100
#define TCP_2 .proto = IP_PROTO_TCP, .port = 1, .id = 1
#define UDP_1 .proto = IP_PROTO_UDP, .port = 1, .payload = 100
#define UDP_2 .proto = IP_PROTO_UDP, .port = 1, .id = 1
#define NEXT .sequence = 100
#define ACK .flags = TCP_ACK
#define FULL .payload = 100

/** test_join_rules() - each rule about what may be joined, and the case that just may */
static void test_join_rules(void)
{
	static const struct rule rules[] = {
		{"TCP goes on", {TCP_1, ACK}, {TCP_2, ACK, NEXT, FULL}, true},
		{"shorter", {TCP_1, ACK}, {TCP_2, ACK, NEXT, .payload = 1}, true},
		{"longer", {TCP_1, ACK}, {TCP_2, ACK, NEXT, .payload = 101}, false},
		{"PSH at the end", {TCP_1, ACK}, {TCP_2, .flags = 0x18, NEXT, FULL}, true},
		{"after PSH", {TCP_1, .flags = 0x18}, {TCP_2, ACK, NEXT, FULL}, false},
		{"a gap", {TCP_1, ACK}, {TCP_2, ACK, .sequence = 101, FULL}, false},
		{"a repeat", {TCP_1, ACK}, {TCP_2, ACK, FULL}, false},
		{"pure ACK", {TCP_1, ACK}, {TCP_2, ACK, NEXT}, false},
		{"after a pure ACK",
		 {.proto = IP_PROTO_TCP, .port = 1, ACK},
		 {TCP_2, ACK, FULL},
		 false},
		{"no ACK", {TCP_1, ACK}, {TCP_2, NEXT, FULL}, false},
		{"FIN", {TCP_1, ACK}, {TCP_2, .flags = 0x11, NEXT, FULL}, false},
		{"SYN", {TCP_1, ACK}, {TCP_2, .flags = 0x12, NEXT, FULL}, false},
		{"RST", {TCP_1, ACK}, {TCP_2, .flags = 0x14, NEXT, FULL}, false},
		{"URG", {TCP_1, ACK}, {TCP_2, .flags = 0x30, NEXT, FULL}, false},
		{"ECE", {TCP_1, ACK}, {TCP_2, .flags = 0x50, NEXT, FULL}, false},
		{"CWR", {TCP_1, ACK}, {TCP_2, .flags = 0x90, NEXT, FULL}, false},
		{"same options",
		 {TCP_1, ACK, .options = 12},
		 {TCP_2, ACK, NEXT, FULL, .options = 12},
		 true},
		{"other options", {TCP_1, ACK}, {TCP_2, ACK, NEXT, FULL, .options = 12}, false},
		{"other flow",
		 {TCP_1, ACK},
		 {.proto = IP_PROTO_TCP, .port = 2, .id = 1, ACK, NEXT, FULL},
		 false},
		{"an id left out",
		 {TCP_1, ACK},
		 {.proto = IP_PROTO_TCP, .port = 1, .id = 2, ACK, NEXT, FULL},
		 false},
		{"an id left out, but DF",
		 {TCP_1, ACK, .fragment = IP_FLAG_DF},
		 {.proto = IP_PROTO_TCP,
		  .port = 1,
		  .id = 9,
		  ACK,
		  NEXT,
		  FULL,
		  .fragment = IP_FLAG_DF},
		 true},
		{"DF on one only",
		 {TCP_1, ACK},
		 {TCP_2, ACK, NEXT, FULL, .fragment = IP_FLAG_DF},
		 false},
		{"UDP", {UDP_1}, {UDP_2, FULL}, true},
		{"shorter UDP", {UDP_1}, {UDP_2, .payload = 99}, true},
		{"longer UDP", {UDP_1}, {UDP_2, .payload = 101}, false},
		{"empty UDP", {UDP_1}, {UDP_2}, false},
		{"a first fragment",
		 {UDP_1, .fragment = IP_FLAG_MF},
		 {UDP_2, FULL, .fragment = IP_FLAG_MF},
		 false},
		{"later fragments", {UDP_1, .fragment = 9}, {UDP_2, FULL, .fragment = 9}, false},
		{"TCP, then UDP", {TCP_1, ACK}, {UDP_2, FULL}, false},
	};

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		uint8_t first[PACKET_MAX], second[PACKET_MAX];
		uint32_t first_length = build(first, &rules[i].first).total_length;
		uint32_t second_length = build(second, &rules[i].second).total_length;

		if (!CHECK_EQ(join_two(first, first_length, second, second_length), rules[i].joins))
			fprintf(stderr, "  in case: %s\n", rules[i].name);
	}
}

/** test_join_fields() - any header byte that a superpacket has only once keeps packets apart */
static void test_join_fields(void)
{
	static const struct spec one = {TCP_1, ACK}, two = {TCP_2, ACK, NEXT, FULL};
	static const size_t fields[] = {IP_OFF_TOS,	     IP_OFF_TTL,
					IP_OFF_SOURCE,	     IP_OFF_DESTINATION,
					20 + TCP_OFF_ACK,    20 + TCP_OFF_WINDOW,
					20 + TCP_OFF_URGENT, 20 + TCP_OFF_DATA_OFFSET};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		uint8_t first[PACKET_MAX], second[PACKET_MAX];

		build(first, &one);
		build(second, &two);
		second[fields[i]]++;
		seal(second, 140);
		if (!CHECK(!join_two(first, 140, second, 140)))
			fprintf(stderr, "  in field %zu\n", fields[i]);
	}
}

/** test_damaged() - a wrong L4 checksum must not be made good by joining */
static void test_damaged(void)
{
	static const struct spec one = {UDP_1}, two = {UDP_2, FULL};
	uint8_t packets[2][PACKET_MAX];

	for (size_t bad = 0; bad < 2; bad++) {
		build(packets[0], &one);
		build(packets[1], &two);
		packets[bad][60] ^= 1;
		CHECK(!join_two(packets[0], 128, packets[1], 128));
	}
	/* Nor may a datagram without a checksum get one. */
	build(packets[1], &two);
	put16(packets[1] + 20 + UDP_OFF_CHECKSUM, 0);
	CHECK(!join_two(packets[0], 128, packets[1], 128));
}

/** test_fragment_barrier() - what follows a fragment joins nothing that came before it */
static void test_fragment_barrier(void)
{
	static const struct spec specs[] = {
		{TCP_1, ACK},
		{.proto = IP_PROTO_TCP, .port = 9, .fragment = 5, FULL},
		{TCP_2, ACK, NEXT, FULL},
		{.proto = IP_PROTO_TCP, .port = 1, .id = 2, ACK, .sequence = 200, FULL},
	};
	static uint8_t packets[4][PACKET_MAX];
	struct coalesce *c = batch_new();

	for (size_t i = 0; i < 4; i++) {
		struct ip_header header = build(packets[i], &specs[i]);

		coalesce_add(c, packets[i], &header, 0);
	}
	CHECK_EQ(c->entry_count, 3);
	CHECK_EQ(c->entries[2].count, 2);
	free(c);
}

/** test_routes_apart() - packets of two peers are never one entry, nor when a protocol is off */
static void test_routes_apart(void)
{
	static const struct spec one = {UDP_1}, two = {UDP_2, FULL};
	uint8_t first[PACKET_MAX], second[PACKET_MAX];
	struct ip_header a = build(first, &one), b = build(second, &two);
	struct coalesce *c = batch_new();

	coalesce_add(c, first, &a, 0);
	coalesce_add(c, second, &b, 1);
	CHECK_EQ(c->entry_count, 2);
	coalesce_reset(c);
	c->udp = false;
	coalesce_add(c, first, &a, 0);
	coalesce_add(c, second, &b, 0);
	CHECK_EQ(c->entry_count, 2);
	free(c);
}

/** test_limits() - 64 pieces and 65,535 bytes, and a batch that says when it is full */
static void test_limits(void)
{
	static uint8_t packets[COALESCE_ENTRIES + 1][PACKET_MAX];
	struct coalesce *c = batch_new();
	struct spec spec = {TCP_1, ACK};

	for (uint16_t i = 0; i < 130; i++) {
		struct ip_header header;

		spec.id = i;
		spec.sequence = i * 100u;
		header = build(packets[i], &spec);
		coalesce_add(c, packets[i], &header, 0);
	}
	CHECK_EQ(c->entry_count, 3);
	CHECK_EQ(c->entries[0].count, COALESCE_SEGMENTS);
	CHECK_EQ(c->entries[2].count, 2);
	coalesce_reset(c);
	spec.payload = 1460;
	for (uint16_t i = 0; i < 50; i++) {
		struct ip_header header;

		spec.id = i;
		spec.sequence = i * 1460u;
		header = build(packets[i], &spec);
		coalesce_add(c, packets[i], &header, 0);
	}
	CHECK_EQ(c->entry_count, 2);
	CHECK_EQ(c->entries[0].count, 44);
	CHECK_EQ(c->entries[0].bytes, 40 + 44 * 1460);
	coalesce_reset(c);
	for (uint16_t i = 0; !coalesce_is_full(c); i++) {
		struct spec alone = {.proto = IP_PROTO_UDP, .port = i};
		struct ip_header header = build(packets[i], &alone);

		coalesce_add(c, packets[i], &header, 0);
	}
	CHECK_EQ(c->entry_count, COALESCE_ENTRIES);
	free(c);
}

/** gather() - the bytes that would be written to the TUN for an entry */
static uint32_t gather(const struct coalesce *c, const struct coalesce_entry *entry, uint8_t *out)
{
	uint32_t length = 0;

	for (uint32_t i = entry->first; i != COALESCE_NONE; i = c->pieces[i].next) {
		uint32_t skip = length ? entry->header_length : 0;

		memcpy(out + length, c->pieces[i].packet + skip, c->pieces[i].length - skip);
		length += c->pieces[i].length - skip;
	}
	return length;
}

/** check_cut() - cut a superpacket; its segments must be the packets it was joined from */
static void check_cut(const struct vnet_hdr *vnet, const uint8_t *super, uint32_t length,
		      const struct coalesce *c, const struct coalesce_entry *entry)
{
	struct ip_header header = {0};
	struct segment_plan plan = {0};
	uint32_t piece = entry->first;

	CHECK_EQ(ip_parse(super, length, &header), IP_OK);
	CHECK_EQ(header.total_length, length);
	if (!CHECK(segment_make_plan(vnet, super, &header, &plan)) ||
	    !CHECK_EQ(plan.count, entry->count))
		return;
	for (uint32_t i = 0; i < plan.count; i++) {
		uint32_t payload = segment_payload_length(&plan, i);
		uint8_t segment[PACKET_MAX];

		segment_build_header(&plan, super, &header, i, segment);
		memcpy(segment + plan.header_length,
		       super + plan.header_length + (size_t)i * plan.size, payload);
		check_bytes("segment", segment, plan.header_length + payload,
			    c->pieces[piece].packet, c->pieces[piece].length);
		piece = c->pieces[piece].next;
	}
}

/** random_stream() - packets of a few flows, mostly such that they can be joined */
static uint32_t random_stream(struct spec *specs, uint64_t *random)
{
	uint32_t count = 1 + check_random(random) % PACKETS_MAX, sequence[4] = {0};
	uint16_t id[4] = {0};

	for (uint32_t i = 0; i < count; i++) {
		uint32_t flow = check_random(random) % 4, dice = check_random(random);
		struct spec *spec = &specs[i];

		*spec = (struct spec){
			.proto = flow % 2 ? IP_PROTO_UDP : IP_PROTO_TCP,
			.port = (uint16_t)flow,
			.sequence = sequence[flow],
			.flags = dice % 16 == 0 ? TCP_ACK | TCP_PSH : TCP_ACK,
			.options = flow == 2 ? 12 : 0,
			.payload = dice % 9 == 0 ? dice % 1000 : 1000,
			.id = id[flow]++,
		};
		if (dice % 50 == 1)
			spec->fragment = IP_FLAG_MF;
		if (dice % 50 == 2)
			spec->flags = TCP_ACK | TCP_FIN;
		sequence[flow] += spec->payload;
	}
	return count;
}

/**
 * test_inverse() - join random streams, cut the result, get the same packets in the same order
 *
 * And coalesce_restore() puts the first packet back as it was.
 */
static void test_inverse(void)
{
	static uint8_t packets[PACKETS_MAX][PACKET_MAX], originals[PACKETS_MAX][PACKET_MAX];
	static uint8_t super[IP_PACKET_MAX];
	static struct spec specs[PACKETS_MAX];
	struct coalesce *c = batch_new();
	uint32_t joined = 0;
	uint64_t random = 3;

	for (int round = 0; round < 200; round++) {
		uint32_t count = random_stream(specs, &random), seen = 0;

		for (uint32_t i = 0; i < count; i++) {
			struct ip_header header = build(packets[i], &specs[i]);

			memcpy(originals[i], packets[i], header.total_length);
			coalesce_add(c, packets[i], &header, 0);
		}
		for (uint32_t e = 0; e < c->entry_count; e++) {
			const struct coalesce_entry *entry = &c->entries[e];
			uint8_t saved[SEGMENT_HEADER_MAX];
			struct vnet_hdr vnet;
			uint32_t length;

			seen += entry->count;
			coalesce_finish(c, entry, &vnet, saved);
			if (entry->count == 1) {
				CHECK_EQ(vnet.gso_type, VNET_GSO_NONE);
				continue;
			}
			joined += entry->count;
			length = gather(c, entry, super);
			CHECK_EQ(length, entry->bytes);
			coalesce_restore(c, entry, saved);
			check_cut(&vnet, super, length, c, entry);
		}
		CHECK_EQ(seen, count);
		for (uint32_t i = 0; i < count; i++)
			check_bytes("restored", packets[i], get16(packets[i] + IP_OFF_LENGTH),
				    originals[i], get16(originals[i] + IP_OFF_LENGTH));
		coalesce_reset(c);
	}
	/* A batch that never joins anything would pass all of the above. */
	CHECK(joined > 1000);
	free(c);
}

/** test_order() - within a flow the packets of all entries, in order, are those that came in */
static void test_order(void)
{
	static uint8_t packets[PACKETS_MAX][PACKET_MAX];
	static struct spec specs[PACKETS_MAX];
	struct coalesce *c = batch_new();
	uint64_t random = 5;

	for (int round = 0; round < 200; round++) {
		uint32_t count = random_stream(specs, &random);
		uint32_t next[4] = {0};

		for (uint32_t i = 0; i < count; i++) {
			struct ip_header header = build(packets[i], &specs[i]);

			coalesce_add(c, packets[i], &header, 0);
		}
		for (uint32_t e = 0; e < c->entry_count; e++) {
			for (uint32_t p = c->entries[e].first; p != COALESCE_NONE;
			     p = c->pieces[p].next) {
				const uint8_t *packet = c->pieces[p].packet;
				uint32_t flow = get16(packet + IP_HEADER_MIN);

				CHECK_EQ(get16(packet + IP_OFF_ID), next[flow]++);
			}
		}
		coalesce_reset(c);
	}
	free(c);
}

/** test_plan_refused() - superpackets that cannot be one */
static void test_plan_refused(void)
{
	static const struct spec tcp = {TCP_1, ACK}, udp = {UDP_1};
	struct vnet_hdr vnet = {.gso_type = VNET_GSO_TCPV4, .gso_size = 10};
	struct ip_header header;
	struct segment_plan plan;
	uint8_t packet[PACKET_MAX];

	header = build(packet, &tcp);
	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	CHECK_EQ(plan.count, 10);
	vnet.gso_type = VNET_GSO_TCPV4 | VNET_GSO_ECN;
	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	vnet.gso_size = 0;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	vnet.gso_size = 10;
	vnet.gso_type = VNET_GSO_UDP_L4;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	vnet.gso_type = 3; /* UFO, which nobody may send us */
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	vnet.gso_type = VNET_GSO_TCPV4;
	packet[20 + TCP_OFF_DATA_OFFSET] = 0x40;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	packet[20 + TCP_OFF_DATA_OFFSET] = 0xf0;
	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	header.total_length = 80;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	header.total_length = 39;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	header = build(packet, &udp);
	vnet.gso_type = VNET_GSO_UDP_L4;
	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	header.fragment = IP_FLAG_MF;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
	header.fragment = 1;
	CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
}

/** test_tcp_flags() - FIN and PSH on the last segment only, CWR on the first only */
static void test_tcp_flags(void)
{
	static const struct spec spec = {TCP_1, .flags = 0x99 | TCP_ACK};
	static const uint8_t want[] = {0x90, 0x10, 0x19};
	struct vnet_hdr vnet = {.gso_type = VNET_GSO_TCPV4 | VNET_GSO_ECN, .gso_size = 40};
	struct segment_plan plan;
	uint8_t packet[PACKET_MAX], out[SEGMENT_HEADER_MAX];
	struct ip_header header = build(packet, &spec);

	CHECK(segment_make_plan(&vnet, packet, &header, &plan));
	CHECK_EQ(plan.count, 3);
	for (uint32_t i = 0; i < 3; i++) {
		segment_build_header(&plan, packet, &header, i, out);
		CHECK_EQ(out[20 + TCP_OFF_FLAGS], want[i]);
		CHECK_EQ(get32(out + 20 + TCP_OFF_SEQUENCE), i * 40);
	}
	CHECK_EQ(segment_payload_length(&plan, 2), 20);
}

/** test_complete_checksum() - a single packet whose checksum was left to us */
static void test_complete_checksum(void)
{
	static const struct spec spec = {UDP_1};
	struct vnet_hdr vnet = {.flags = VNET_NEEDS_CSUM, .csum_start = 20, .csum_offset = 6};
	uint8_t packet[PACKET_MAX], want[PACKET_MAX];

	build(want, &spec);
	memcpy(packet, want, 128);
	put16(packet + 26, checksum_fold(checksum_pseudo(SOURCE, DESTINATION, IP_PROTO_UDP, 108)));
	CHECK(segment_complete_checksum(&vnet, packet, 128));
	check_bytes("completed", packet, 128, want, 128);
	vnet.csum_offset = 106;
	CHECK(segment_complete_checksum(&vnet, packet, 128));
	vnet.csum_offset = 107;
	CHECK(!segment_complete_checksum(&vnet, packet, 128));
	vnet = (struct vnet_hdr){.csum_start = 65535, .csum_offset = 65535};
	CHECK(!segment_complete_checksum(&vnet, packet, 128));
}

int main(void)
{
	test_join_rules();
	test_join_fields();
	test_damaged();
	test_fragment_barrier();
	test_routes_apart();
	test_limits();
	test_inverse();
	test_order();
	test_plan_refused();
	test_tcp_flags();
	test_complete_checksum();
	return check_result("test_offload");
}
