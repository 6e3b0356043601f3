/*
 * fuzz_segment.c - libFuzzer target for segment.c: whatever the vnet header and the superpacket
 * say, nothing outside the superpacket is read, and a plan that was accepted cuts it into good
 * packets that hold its payload, all of it, once.
 *
 * An input is a vnet header and an IP packet whose header checksum is set right first.
 */
#include "require.h"
#include "segment.h"

/** cut() - build each segment, and parse it as a receiver does */
static void cut(const struct segment_plan *plan, const uint8_t *packet,
		const struct ip_header *header)
{
	uint32_t done = 0;

	REQUIRE(plan->count >= 1 && plan->count <= SEGMENTS_MAX);
	REQUIRE(plan->header_length <= SEGMENT_HEADER_MAX);
	REQUIRE(plan->header_length + plan->payload == header->total_length);
	for (uint32_t i = 0; i < plan->count; i++) {
		uint32_t payload = segment_payload_length(plan, i);
		uint32_t length = plan->header_length + payload;
		uint32_t l4_length = length - plan->l4_offset;
		uint8_t *out = malloc(length);
		struct ip_header built;

		REQUIRE(out && payload && payload <= plan->size);
		segment_build_header(plan, packet, header, i, out);
		memcpy(out + plan->header_length, packet + plan->header_length + done, payload);
		REQUIRE(ip_parse(out, length, &built) == IP_OK);
		REQUIRE(built.total_length == length && built.ttl == header->ttl);
		REQUIRE(built.source == header->source && built.destination == header->destination);
		REQUIRE(!plan->checksum ||
			checksum_fold(checksum_add(checksum_pseudo(built.source, built.destination,
								   built.proto, l4_length),
						   out + plan->l4_offset, l4_length)) == 0xffff);
		done += payload;
		free(out);
	}
	REQUIRE(done == plan->payload);
}

/** LLVMFuzzerTestOneInput() - one input */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct segment_plan plan;
	struct ip_header header;
	struct vnet_hdr vnet;
	uint8_t *packet;
	size_t header_length;

	if (size < VNET_HDR_BYTES + IP_HEADER_MIN)
		return 0;
	memcpy(&vnet, data, VNET_HDR_BYTES);
	size -= VNET_HDR_BYTES;
	packet = malloc(size);
	REQUIRE(packet);
	memcpy(packet, data + VNET_HDR_BYTES, size);
	header_length = (size_t)(packet[0] & 0x0f) * 4;
	if (header_length >= IP_HEADER_MIN && header_length <= size) {
		put16(packet + IP_OFF_CHECKSUM, 0);
		put16(packet + IP_OFF_CHECKSUM,
		      (uint16_t)~checksum_fold(checksum_add(0, packet, header_length)));
	}
	if (ip_parse(packet, size, &header) == IP_OK) {
		if (segment_make_plan(&vnet, packet, &header, &plan))
			cut(&plan, packet, &header);
		segment_complete_checksum(&vnet, packet, header.total_length);
	}
	free(packet);
	return 0;
}
