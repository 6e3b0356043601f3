/*
 * test_segment.c - one superpacket becomes exactly the packets that its sender would have sent
 * without offload. The expected packets are built field by field (packets.h).
 */
#include "check.h"
#include "l4.h"
#include "packets.h"
#include "segment.h"

#define TCP_BASE                                                                                   \
	.source = 0x64600102, .destination = 0x64600203, .source_port = 40000,                     \
	.destination_port = 80, .sequence = 1000, .ack = 2000, .window = 500, .id = 7, .ttl = 63,  \
	.proto = PROTO_TCP
#define UDP_BASE                                                                                   \
	.source = 0x64600102, .destination = 0x64600203, .source_port = 40000,                     \
	.destination_port = 53, .id = 7, .ttl = 63, .proto = PROTO_UDP

/**
 * struct cut_case - a superpacket and what must come of it
 * @super:    the superpacket
 * @gso_type: VNET_GSO_*
 * @size:     gso_size
 * @plain:    the kernel did not say NEEDS_CSUM
 * @count:    segments
 * @last:     payload of the last
 * @flags:    TCP flags of the first, of those in between, of the last
 */
struct cut_case {
	const char *name;
	struct packet_spec super;
	uint8_t gso_type;
	uint16_t size;
	bool plain;
	uint32_t count;
	uint32_t last;
	uint8_t flags[3];
};

#define ACK3                                                                                       \
	{                                                                                          \
		FLAG_ACK, FLAG_ACK, FLAG_ACK                                                       \
	}

static const struct cut_case cut_cases[] = {
	{"three equal segments",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 4344},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 3,
	 1448,
	 ACK3},
	{"the last is shorter",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 3000},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 3,
	 104,
	 ACK3},
	{"one byte more than one",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 1449},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 2,
	 1,
	 ACK3},
	{"exactly one",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 1448},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 1,
	 1448,
	 ACK3},
	{"less than one",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 1},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 1,
	 1,
	 ACK3},
	{"odd sizes",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 1000},
	 VNET_GSO_TCPV4,
	 333,
	 false,
	 4,
	 1,
	 ACK3},
	{"PSH: the last only",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_PSH, .payload = 400},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 4,
	 100,
	 {FLAG_ACK, FLAG_ACK, FLAG_ACK | FLAG_PSH}},
	{"FIN: the last only",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_FIN, .payload = 400},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 4,
	 100,
	 {FLAG_ACK, FLAG_ACK, FLAG_ACK | FLAG_FIN}},
	{"PSH and FIN of a single segment stay",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_FIN | FLAG_PSH, .payload = 100},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 1,
	 100,
	 {0, 0, FLAG_ACK | FLAG_FIN | FLAG_PSH}},
	{"CWR: the first only",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_CWR, .payload = 400},
	 VNET_GSO_TCPV4 | VNET_GSO_ECN,
	 100,
	 false,
	 4,
	 100,
	 {FLAG_ACK | FLAG_CWR, FLAG_ACK, FLAG_ACK}},
	{"CWR of a single segment stays",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_CWR, .payload = 9},
	 VNET_GSO_TCPV4 | VNET_GSO_ECN,
	 100,
	 false,
	 1,
	 9,
	 {0, 0, FLAG_ACK | FLAG_CWR}},
	{"ECE: all of them",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_ECE, .payload = 400},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 4,
	 100,
	 {FLAG_ACK | FLAG_ECE, FLAG_ACK | FLAG_ECE, FLAG_ACK | FLAG_ECE}},
	{"CWR, ECE, PSH and FIN together",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_CWR | FLAG_ECE | FLAG_PSH | FLAG_FIN, .payload = 300},
	 VNET_GSO_TCPV4 | VNET_GSO_ECN,
	 100,
	 false,
	 3,
	 100,
	 {FLAG_ACK | FLAG_CWR | FLAG_ECE, FLAG_ACK | FLAG_ECE,
	  FLAG_ACK | FLAG_ECE | FLAG_PSH | FLAG_FIN}},
	{"URG and its pointer: as they were",
	 {TCP_BASE, .flags = FLAG_ACK | FLAG_URG, .urgent = 5, .payload = 300},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 3,
	 100,
	 {FLAG_ACK | FLAG_URG, FLAG_ACK | FLAG_URG, FLAG_ACK | FLAG_URG}},
	{"the accurate ECN bit: as it was",
	 {TCP_BASE, .flags = FLAG_ACK, .reserved = 1, .payload = 300},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 3,
	 100,
	 ACK3},
	{"timestamps in each",
	 {TCP_BASE, .flags = FLAG_ACK, .tcp_options = 12, .timestamp = 0x1234567, .payload = 3000},
	 VNET_GSO_TCPV4,
	 1448,
	 false,
	 3,
	 104,
	 ACK3},
	{"40 bytes of TCP options",
	 {TCP_BASE, .flags = FLAG_ACK, .tcp_options = 40, .payload = 3000},
	 VNET_GSO_TCPV4,
	 1000,
	 false,
	 3,
	 1000,
	 ACK3},
	{"IP options in each",
	 {TCP_BASE, .flags = FLAG_ACK, .ip_options = 8, .payload = 3000},
	 VNET_GSO_TCPV4,
	 1000,
	 false,
	 3,
	 1000,
	 ACK3},
	{"60 bytes of IP and 60 of TCP header",
	 {TCP_BASE, .flags = FLAG_ACK, .ip_options = 40, .tcp_options = 40, .payload = 3000},
	 VNET_GSO_TCPV4,
	 1000,
	 false,
	 3,
	 1000,
	 ACK3},
	{"the sequence number wraps",
	 {TCP_BASE, .flags = FLAG_ACK, .at = 0xffffff00 - 1000, .payload = 1000},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 10,
	 100,
	 ACK3},
	{"DF, TOS and ECN in each",
	 {TCP_BASE, .flags = FLAG_ACK, .fragment = IP_FLAG_DF, .tos = 0xb9, .payload = 300},
	 VNET_GSO_TCPV4,
	 100,
	 false,
	 3,
	 100,
	 ACK3},
	{"without NEEDS_CSUM TCP gets checksums all the same",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 300},
	 VNET_GSO_TCPV4,
	 100,
	 true,
	 3,
	 100,
	 ACK3},
	{"the kernel's smallest MSS, the largest packet",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = 65495},
	 VNET_GSO_TCPV4,
	 48,
	 false,
	 1365,
	 23,
	 ACK3},
	{"as many segments as there can be",
	 {TCP_BASE, .flags = FLAG_ACK, .payload = SEGMENTS_MAX},
	 VNET_GSO_TCPV4,
	 1,
	 false,
	 SEGMENTS_MAX,
	 1,
	 ACK3},
	{"UDP: lengths", {UDP_BASE, .payload = 3000}, VNET_GSO_UDP_L4, 1400, false, 3, 200, {0}},
	{"UDP: equal sizes", {UDP_BASE, .payload = 128}, VNET_GSO_UDP_L4, 1, false, 128, 1, {0}},
	{"UDP: one datagram", {UDP_BASE, .payload = 77}, VNET_GSO_UDP_L4, 77, false, 1, 77, {0}},
	{"UDP: DF and IP options",
	 {UDP_BASE, .fragment = IP_FLAG_DF, .ip_options = 4, .payload = 300},
	 VNET_GSO_UDP_L4,
	 100,
	 false,
	 3,
	 100,
	 {0}},
	{"UDP: with a checksum, but not NEEDS_CSUM",
	 {UDP_BASE, .payload = 300},
	 VNET_GSO_UDP_L4,
	 100,
	 true,
	 3,
	 100,
	 {0}},
	{"UDP: no checksum stays none",
	 {UDP_BASE, .no_checksum = 1, .payload = 300},
	 VNET_GSO_UDP_L4,
	 100,
	 true,
	 3,
	 100,
	 {0}},
	{"UDP: the largest packet",
	 {UDP_BASE, .payload = 65507},
	 VNET_GSO_UDP_L4,
	 32754,
	 false,
	 2,
	 32753,
	 {0}},
};

static uint8_t super[IP_PACKET_MAX], want[IP_PACKET_MAX], got[IP_PACKET_MAX + SEGMENT_HEADER_MAX];

/** vnet_of() - what the kernel would say about a superpacket */
static struct vnet_hdr vnet_of(const struct packet_spec *spec, uint8_t gso_type, uint16_t size,
			       bool plain)
{
	return (struct vnet_hdr){
		.flags = plain ? 0 : VNET_NEEDS_CSUM,
		.gso_type = gso_type,
		.hdr_len = (uint16_t)packet_header_length(spec),
		.gso_size = size,
		.csum_start = (uint16_t)(20 + spec->ip_options),
		.csum_offset = spec->proto == PROTO_UDP ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM,
	};
}

/** check_segment() - one segment against a packet built from scratch */
static void check_segment(const struct cut_case *c, const struct packet_spec *spec,
			  const struct ip_header *header, const struct segment_plan *plan,
			  uint32_t index)
{
	bool last = index + 1 == c->count;
	struct packet_spec part = *spec;
	size_t length;

	part.partial = 0;
	part.payload = last ? c->last : c->size;
	part.at += index * c->size;
	part.sequence += index * c->size;
	part.id = (uint16_t)(part.id + index);
	part.flags = c->flags[last ? 2 : index == 0 ? 0 : 1];
	length = packet_build(&part, want);
	/* No byte past the header may be touched: the next header lies there. */
	memset(got, 0xee, sizeof(got));
	segment_build_header(plan, super, header, index, got);
	CHECK_EQ(got[plan->header_length], 0xee);
	memcpy(got + plan->header_length, super + plan->header_length + (size_t)index * plan->size,
	       segment_payload_length(plan, index));
	check_bytes(c->name, got, plan->header_length + segment_payload_length(plan, index), want,
		    length);
}

/** test_cut() - all named cases; ids and sequence numbers also from just below their end */
static void test_cut(void)
{
	static const uint16_t ids[] = {7, 0xfffe};

	for (size_t i = 0; i < 2 * sizeof(cut_cases) / sizeof(cut_cases[0]); i++) {
		const struct cut_case *c = &cut_cases[i / 2];
		struct packet_spec spec = c->super;
		struct segment_plan plan = {0};
		struct ip_header header = {0};
		struct vnet_hdr vnet;
		size_t length;

		spec.id = ids[i % 2];
		spec.partial = !c->plain;
		spec.sequence = i % 2 ? 0xffffff9cu : 0x10000;
		length = packet_build(&spec, super);
		vnet = vnet_of(&spec, c->gso_type, c->size, c->plain);
		CHECK_EQ(ip_parse(super, length, &header), IP_OK);
		if (!CHECK(segment_make_plan(&vnet, super, &header, &plan)) ||
		    !CHECK_EQ(plan.count, c->count) ||
		    !CHECK_EQ(plan.header_length, packet_header_length(&spec)) ||
		    !CHECK(plan.header_length <= SEGMENT_HEADER_MAX)) {
			fprintf(stderr, "  in: %s\n", c->name);
			continue;
		}
		for (uint32_t n = 0; n < c->count; n++)
			check_segment(c, &spec, &header, &plan, n);
	}
}

/** struct refusal - a superpacket that is none; the packet is changed at one place
 * @at, @value: byte to change, unless @at is 0
 */
struct refusal {
	const char *name;
	struct packet_spec spec;
	uint8_t gso_type;
	uint16_t size;
	uint16_t at;
	uint8_t value;
};

static const struct refusal refusals[] = {
	{"gso_size 0", {TCP_BASE, .payload = 300}, VNET_GSO_TCPV4, 0, 0, 0},
	{"TCP that is UDP", {UDP_BASE, .payload = 300}, VNET_GSO_TCPV4, 100, 0, 0},
	{"UDP that is TCP", {TCP_BASE, .payload = 300}, VNET_GSO_UDP_L4, 100, 0, 0},
	{"ICMP", {TCP_BASE, .payload = 300}, VNET_GSO_TCPV4, 100, 9, 1},
	{"UFO, of old", {UDP_BASE, .payload = 300}, 3, 100, 0, 0},
	{"TCP over IPv6", {TCP_BASE, .payload = 300}, 4, 100, 0, 0},
	{"ECN alone", {TCP_BASE, .payload = 300}, VNET_GSO_ECN, 100, 0, 0},
	{"a first fragment", {TCP_BASE, .fragment = IP_FLAG_MF, .payload = 300}, 1, 100, 0, 0},
	{"a later fragment", {UDP_BASE, .fragment = 1, .payload = 300}, 5, 100, 0, 0},
	{"TCP without payload", {TCP_BASE}, VNET_GSO_TCPV4, 100, 0, 0},
	{"UDP without payload", {UDP_BASE}, VNET_GSO_UDP_L4, 100, 0, 0},
	{"a TCP header of 16 bytes", {TCP_BASE, .payload = 300}, VNET_GSO_TCPV4, 100, 32, 0x40},
	{"TCP options past the end", {TCP_BASE, .payload = 39}, VNET_GSO_TCPV4, 100, 32, 0xf0},
	{"TCP options to the end", {TCP_BASE, .payload = 40}, VNET_GSO_TCPV4, 100, 32, 0xf0},
	{"one segment too many", {TCP_BASE, .payload = SEGMENTS_MAX + 1}, VNET_GSO_TCPV4, 1, 0, 0},
	{"65,507 segments", {UDP_BASE, .payload = 65507}, VNET_GSO_UDP_L4, 1, 0, 0},
};

/** test_refused() - malformed superpackets get no plan */
static void test_refused(void)
{
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct refusal *c = &refusals[i];
		struct vnet_hdr vnet = vnet_of(&c->spec, c->gso_type, c->size, false);
		size_t length = packet_build(&c->spec, super);
		struct segment_plan plan = {0};
		struct ip_header header = {0};

		if (c->at)
			super[c->at] = c->value;
		packet_ip_checksum(super);
		CHECK_EQ(ip_parse(super, length, &header), IP_OK);
		if (!CHECK(!segment_make_plan(&vnet, super, &header, &plan)))
			fprintf(stderr, "  in: %s\n", c->name);
	}
}

/** test_short_l4() - an L4 header that ends early, in a buffer with nothing behind it */
static void test_short_l4(void)
{
	static const uint8_t types[] = {VNET_GSO_TCPV4, VNET_GSO_UDP_L4};

	for (size_t i = 0; i < 2; i++) {
		uint32_t full = i ? UDP_HEADER : TCP_HEADER_MIN;

		for (uint32_t l4 = 0; l4 <= full; l4++) {
			struct vnet_hdr vnet = {.gso_type = types[i], .gso_size = 1};
			uint8_t *packet = calloc(1, 20 + l4);
			struct segment_plan plan;
			struct ip_header header;

			if (!packet)
				abort();
			packet[0] = 0x45;
			packet_put16(packet + 2, 20 + l4);
			packet[9] = i ? PROTO_UDP : PROTO_TCP;
			packet_ip_checksum(packet);
			CHECK_EQ(ip_parse(packet, 20 + l4, &header), IP_OK);
			CHECK(!segment_make_plan(&vnet, packet, &header, &plan));
			free(packet);
		}
	}
}

/** test_computed_zero() - a UDP checksum that comes out as zero is sent as all ones (RFC 768) */
static void test_computed_zero(void)
{
	struct packet_spec spec = {UDP_BASE, .payload = 200, .partial = 1};
	struct vnet_hdr vnet = vnet_of(&spec, VNET_GSO_UDP_L4, 100, false);
	struct segment_plan plan = {0};
	struct ip_header header = {0};
	size_t length = packet_build(&spec, super);
	uint16_t check;

	CHECK_EQ(ip_parse(super, length, &header), IP_OK);
	CHECK(segment_make_plan(&vnet, super, &header, &plan));
	packet_put16(super + 128, 0);
	segment_build_header(&plan, super, &header, 1, got);
	/* What the sum lacks to all ones goes into the payload. */
	memcpy(&check, got + 26, 2);
	memcpy(super + 128, &check, 2);
	segment_build_header(&plan, super, &header, 1, got);
	CHECK_EQ(get16(got + 26), 0xffff);
	/* TCP has no such rule. */
	spec.proto = PROTO_TCP;
	spec.flags = FLAG_ACK;
	vnet = vnet_of(&spec, VNET_GSO_TCPV4, 100, false);
	length = packet_build(&spec, super);
	CHECK_EQ(ip_parse(super, length, &header), IP_OK);
	CHECK(segment_make_plan(&vnet, super, &header, &plan));
	packet_put16(super + 140, 0);
	segment_build_header(&plan, super, &header, 1, got);
	memcpy(&check, got + 36, 2);
	memcpy(super + 140, &check, 2);
	segment_build_header(&plan, super, &header, 1, got);
	CHECK_EQ(get16(got + 36), 0);
}

/** test_complete() - single packets whose checksum was left to the device */
static void test_complete(void)
{
	struct packet_spec specs[] = {
		{TCP_BASE, .flags = FLAG_ACK, .payload = 0},
		{TCP_BASE, .flags = FLAG_SYN, .tcp_options = 20},
		{TCP_BASE, .flags = FLAG_ACK, .payload = 1447, .ip_options = 4},
		{UDP_BASE, .payload = 0},
		{UDP_BASE, .payload = 33},
	};

	for (size_t i = 0; i < sizeof(specs) / sizeof(specs[0]); i++) {
		struct vnet_hdr vnet = vnet_of(&specs[i], VNET_GSO_NONE, 0, false);
		size_t length = packet_build(&specs[i], want);

		specs[i].partial = 1;
		CHECK_EQ(packet_build(&specs[i], super), length);
		CHECK(segment_complete_checksum(&vnet, super, (uint32_t)length));
		check_bytes("completed", super, length, want, length);
	}
}

/** struct csum_case - where the kernel says the checksum is, in a packet of 40 bytes */
struct csum_case {
	const char *name;
	uint16_t start;
	uint16_t offset;
	bool good;
};

static const struct csum_case csum_cases[] = {
	{"the last two bytes", 20, 18, true},
	{"half past the end", 20, 19, false},
	{"past the end", 20, 20, false},
	{"far past the end", 20, 0xffff, false},
	{"start at the end", 40, 0, false},
	{"start past the end", 41, 0, false},
	{"both wrap 16 bits", 0xffff, 0xffff, false},
	{"at the start", 0, 0, true},
};

/** test_complete_bounds() - csum_start and csum_offset from the kernel are not believed */
static void test_complete_bounds(void)
{
	for (size_t i = 0; i < sizeof(csum_cases) / sizeof(csum_cases[0]); i++) {
		const struct csum_case *c = &csum_cases[i];
		struct vnet_hdr vnet = {
			.flags = VNET_NEEDS_CSUM, .csum_start = c->start, .csum_offset = c->offset};
		uint8_t *packet = calloc(1, 40);

		if (!packet)
			abort();
		if (!CHECK_EQ(segment_complete_checksum(&vnet, packet, 40), c->good))
			fprintf(stderr, "  in: %s\n", c->name);
		/* Zeros sum up to zero: the checksum is all ones, never zero. */
		if (c->good)
			CHECK_EQ(get16(packet + c->start + c->offset), 0xffff);
		free(packet);
	}
}

int main(void)
{
	test_cut();
	test_refused();
	test_short_l4();
	test_computed_zero();
	test_complete();
	test_complete_bounds();
	return check_result("test_segment");
}
