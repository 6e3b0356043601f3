/*
 * fuzz_coalesce.c - libFuzzer target for coalesce.c: whatever arrives, cutting what was joined
 * gives back the packets that arrived, each once and each flow in order.
 *
 * An input is a list of packets to make of a few fields and to damage at one place, so that most of
 * them belong to each other: see struct step.
 */
#include <stdlib.h>
#include <string.h>

#include "coalesce.h"
#include "l4.h"

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

#define PACKETS_MAX 128u
#define STEP_BYTES 6u
#define FLOWS 4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** struct packet - one packet as it arrived
 * @original: untouched copy of @bytes
 * @taken:    it has come out
 */
struct packet {
	uint8_t *bytes;
	uint8_t *original;
	uint32_t length;
	bool taken;
};

/** struct flow - where a flow has got to */
struct flow {
	uint32_t sequence;
	uint16_t id;
};

static struct coalesce batch;
static struct packet packets[PACKETS_MAX];
static struct flow flows[FLOWS];
static uint32_t packet_count;

/** sum_l4() - put the right L4 checksum in */
static void sum_l4(uint8_t *packet, uint32_t ip, uint32_t length, uint32_t offset)
{
	uint64_t sum =
		checksum_pseudo(get32(packet + IP_OFF_SOURCE), get32(packet + IP_OFF_DESTINATION),
				packet[IP_OFF_PROTO], length - ip);
	uint16_t check;

	put16(packet + ip + offset, 0);
	check = (uint16_t)~checksum_fold(checksum_add(sum, packet + ip, length - ip));
	/* TCP's is never computed as all ones, UDP's never as zero. */
	put16(packet + ip + offset,
	      packet[IP_OFF_PROTO] == IP_PROTO_UDP && !check ? 0xffff : check);
}

/**
 * build() - make the next packet of a flow
 * @step: flow and header lengths; TCP flags or checksum; fragment bits and DF; payload; where to
 *        damage it (0: nowhere); with what
 */
static void build(const uint8_t step[STEP_BYTES])
{
	struct flow *flow = &flows[step[0] % FLOWS];
	bool udp = step[0] % 2;
	uint32_t ip = step[0] & 0x40 ? 24 : 20;
	uint32_t l4 = udp ? UDP_HEADER : step[0] & 0x80 ? 32 : 20;
	uint32_t length = ip + l4 + step[3];
	struct packet *packet = &packets[packet_count];
	uint8_t *p = calloc(1, length), *tcp = p + ip;

	REQUIRE(p);
	p[0] = (uint8_t)(0x40 | ip / 4);
	put16(p + IP_OFF_LENGTH, (uint16_t)length);
	put16(p + IP_OFF_ID, flow->id++);
	put16(p + IP_OFF_FRAGMENT, (uint16_t)((step[2] & 0xf0) << 8 | (step[2] & 3)));
	p[IP_OFF_TTL] = (uint8_t)(60 + (step[2] >> 2 & 1));
	p[IP_OFF_PROTO] = udp ? IP_PROTO_UDP : IP_PROTO_TCP;
	p[IP_OFF_TOS] = step[2] >> 3 & 1;
	put32(p + IP_OFF_SOURCE, 0x64600203);
	put32(p + IP_OFF_DESTINATION, 0x64600102);
	put16(tcp, 80);
	put16(tcp + 2, step[0] % FLOWS);
	memset(tcp + l4, (int)packet_count, step[3]);
	if (udp) {
		put16(tcp + UDP_OFF_LENGTH, (uint16_t)(l4 + step[3]));
		if (step[1] != 1)
			sum_l4(p, ip, length, UDP_OFF_CHECKSUM);
	} else {
		put32(tcp + TCP_OFF_SEQUENCE, flow->sequence);
		tcp[TCP_OFF_DATA_OFFSET] = (uint8_t)(l4 / 4 << 4);
		tcp[TCP_OFF_FLAGS] = step[1];
		sum_l4(p, ip, length, TCP_OFF_CHECKSUM);
		flow->sequence += step[3];
	}
	if (step[4])
		p[IP_HEADER_MIN + step[4] % (length - IP_HEADER_MIN)] ^= step[5];
	put16(p + IP_OFF_CHECKSUM, 0);
	put16(p + IP_OFF_CHECKSUM, (uint16_t)~checksum_fold(checksum_add(0, p, ip)));
	*packet = (struct packet){.bytes = p, .original = malloc(length), .length = length};
	REQUIRE(packet->original);
	memcpy(packet->original, p, length);
	packet_count++;
}

/** is_fragment() - of which the flow is not known */
static bool is_fragment(const uint8_t *packet)
{
	return get16(packet + IP_OFF_FRAGMENT) & (IP_FLAG_MF | IP_FRAGMENT_OFFSET);
}

/** keep_order() - whether two packets must: same flow, or one is a fragment */
static bool keep_order(const uint8_t *a, const uint8_t *b)
{
	size_t a_ports = (size_t)(a[0] & 15) * 4, b_ports = (size_t)(b[0] & 15) * 4;

	return is_fragment(a) || is_fragment(b) ||
	       (a[IP_OFF_PROTO] == b[IP_OFF_PROTO] && memcmp(a + a_ports, b + b_ports, 4) == 0);
}

/** same() - equal but for the id of a packet with DF, which has no meaning (RFC 6864) */
static bool same(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	bool df = get16(b + IP_OFF_FRAGMENT) & IP_FLAG_DF;

	for (uint32_t i = 0; i < length; i++) {
		bool id = i == IP_OFF_ID || i == IP_OFF_ID + 1;
		bool sum = i == IP_OFF_CHECKSUM || i == IP_OFF_CHECKSUM + 1;

		if (a[i] != b[i] && !(df && (id || sum)))
			return false;
	}
	return true;
}

/** take() - a packet has come out: it is the oldest of its flow that has not yet */
static void take(const uint8_t *out, uint32_t length)
{
	uint32_t i = 0;

	while (i < packet_count && (packets[i].taken || !keep_order(packets[i].original, out)))
		i++;
	REQUIRE(i < packet_count);
	REQUIRE(packets[i].length == length && same(out, packets[i].original, length));
	packets[i].taken = true;
	for (uint32_t k = 0; is_fragment(out) && k < i; k++)
		REQUIRE(packets[k].taken);
}

/** cut() - what the kernel does with a superpacket */
static void cut(const struct vnet_hdr *vnet, const uint8_t *super, uint32_t length, uint32_t count)
{
	struct segment_plan plan = {.count = 0};
	struct ip_header header;

	REQUIRE(ip_parse(super, length, &header) == IP_OK && header.total_length == length);
	REQUIRE(segment_make_plan(vnet, super, &header, &plan) && plan.count == count);
	REQUIRE(count <= COALESCE_SEGMENTS);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t payload = segment_payload_length(&plan, i);
		uint8_t *out = malloc(plan.header_length + payload);

		REQUIRE(out);
		segment_build_header(&plan, super, &header, i, out);
		memcpy(out + plan.header_length, super + plan.header_length + (size_t)i * plan.size,
		       payload);
		take(out, plan.header_length + payload);
		free(out);
	}
}

/** write_entry() - finish an entry, gather it, cut it, put its header back */
static void write_entry(const struct coalesce_entry *entry)
{
	uint8_t saved[SEGMENT_HEADER_MAX], *super = calloc(1, entry->bytes);
	uint32_t length = 0;
	struct vnet_hdr vnet;

	REQUIRE(super);
	coalesce_finish(&batch, entry, &vnet, saved);
	for (uint32_t at = entry->first; at != COALESCE_NONE; at = batch.pieces[at].next) {
		const struct coalesce_piece *piece = &batch.pieces[at];
		uint32_t skip = length ? entry->header_length : 0;

		REQUIRE(length + piece->length - skip <= entry->bytes);
		memcpy(super + length, piece->packet + skip, piece->length - skip);
		length += piece->length - skip;
	}
	REQUIRE(length == entry->bytes);
	if (entry->count == 1) {
		REQUIRE(vnet.gso_type == VNET_GSO_NONE);
		take(super, length);
	} else {
		cut(&vnet, super, length, entry->count);
		coalesce_restore(&batch, entry, saved);
	}
	free(super);
}

/** LLVMFuzzerTestOneInput() - one input: a list of steps */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	packet_count = 0;
	memset(flows, 0, sizeof(flows));
	coalesce_reset(&batch);
	batch.tcp = batch.udp = true;
	for (; size >= STEP_BYTES && packet_count < PACKETS_MAX;
	     data += STEP_BYTES, size -= STEP_BYTES) {
		struct packet *packet = &packets[packet_count];
		struct ip_header header;

		build(data);
		REQUIRE(ip_parse(packet->bytes, packet->length, &header) == IP_OK);
		coalesce_add(&batch, packet->bytes, &header, 0);
	}
	for (uint32_t i = 0; i < batch.entry_count; i++)
		write_entry(&batch.entries[i]);
	for (uint32_t i = 0; i < packet_count; i++) {
		REQUIRE(packets[i].taken);
		REQUIRE(memcmp(packets[i].bytes, packets[i].original, packets[i].length) == 0);
		free(packets[i].bytes);
		free(packets[i].original);
	}
	return 0;
}
