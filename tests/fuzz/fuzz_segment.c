/*
 * fuzz_segment.c - libFuzzer target for segment.c: whatever the kernel says about a superpacket,
 * nothing is read or written outside of it, and what comes of it are good packets that carry the
 * same payload once.
 *
 * The checksum of the IP header is set right first, else hardly an input would come past
 * ip_parse().
 */
#include <stdlib.h>
#include <string.h>

#include "l4.h"
#include "segment.h"

#define REQUIRE(condition)                                                                         \
	do {                                                                                       \
		if (!(condition))                                                                  \
			abort();                                                                   \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/** check_segment() - one segment is a good packet: lengths, checksums, and what it says */
static void check_segment(const struct segment_plan *plan, const uint8_t *packet,
			  const struct ip_header *header, uint32_t index)
{
	uint32_t payload = segment_payload_length(plan, index);
	uint32_t length = plan->header_length + payload;
	/* Exactly as large as it may be: the sanitizer sees a byte too many. */
	uint8_t *out = malloc(length);
	uint8_t *l4 = out + plan->l4_offset;
	struct ip_header built;
	uint64_t sum;

	REQUIRE(out);
	REQUIRE(payload > 0 && payload <= plan->size);
	segment_build_header(plan, packet, header, index, out);
	memcpy(out + plan->header_length, packet + plan->header_length + (size_t)index * plan->size,
	       payload);
	REQUIRE(ip_parse(out, length, &built) == IP_OK);
	REQUIRE(built.total_length == length && built.id == (uint16_t)(header->id + index));
	REQUIRE(built.source == header->source && built.destination == header->destination);
	REQUIRE(built.fragment == header->fragment && built.tos == header->tos);
	REQUIRE(built.ttl == header->ttl && built.proto == header->proto);
	if (built.proto == IP_PROTO_UDP)
		REQUIRE(get16(l4 + UDP_OFF_LENGTH) == UDP_HEADER + payload);
	else
		REQUIRE(get32(l4 + TCP_OFF_SEQUENCE) ==
			get32(packet + plan->l4_offset + TCP_OFF_SEQUENCE) + index * plan->size);
	sum = checksum_pseudo(built.source, built.destination, built.proto,
			      length - plan->l4_offset);
	if (plan->checksum)
		REQUIRE(checksum_fold(checksum_add(sum, l4, length - plan->l4_offset)) == 0xffff);
	else
		REQUIRE(get16(l4 + UDP_OFF_CHECKSUM) == 0);
	free(out);
}

/** cut() - all segments of a plan */
static void cut(const struct segment_plan *plan, const uint8_t *packet,
		const struct ip_header *header)
{
	uint32_t payload = 0;

	REQUIRE(plan->count >= 1 && plan->count <= SEGMENTS_MAX);
	REQUIRE(plan->header_length <= SEGMENT_HEADER_MAX);
	for (uint32_t i = 0; i < plan->count; i++) {
		check_segment(plan, packet, header, i);
		REQUIRE(i + 1 == plan->count || segment_payload_length(plan, i) == plan->size);
		payload += segment_payload_length(plan, i);
	}
	REQUIRE(plan->header_length + payload == header->total_length);
}

/** LLVMFuzzerTestOneInput() - one input: vnet header, then the packet */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct segment_plan plan = {.count = 0};
	struct ip_header header;
	struct vnet_hdr vnet;
	uint8_t *packet;
	size_t length, header_length;

	if (size < VNET_HDR_BYTES + IP_HEADER_MIN)
		return 0;
	memcpy(&vnet, data, VNET_HDR_BYTES);
	length = size - VNET_HDR_BYTES;
	packet = malloc(length);
	REQUIRE(packet);
	memcpy(packet, data + VNET_HDR_BYTES, length);
	header_length = (size_t)(packet[0] & 0x0f) * 4;
	if (header_length >= IP_HEADER_MIN && header_length <= length) {
		put16(packet + IP_OFF_CHECKSUM, 0);
		put16(packet + IP_OFF_CHECKSUM,
		      (uint16_t)~checksum_fold(checksum_add(0, packet, header_length)));
	}
	if (ip_parse(packet, length, &header) == IP_OK) {
		if (segment_make_plan(&vnet, packet, &header, &plan))
			cut(&plan, packet, &header);
		segment_complete_checksum(&vnet, packet, header.total_length);
	}
	free(packet);
	return 0;
}
