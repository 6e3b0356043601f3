/*
 * fuzz_icmp.c - libFuzzer target for icmp.c: about any packet that ip_parse() accepts an error can
 * be built; it is a good packet, quotes what it is about, and is never itself answered.
 *
 * Checksums are set right first, else hardly an input would come past ip_parse().
 */
#include "icmp.h"
#include "require.h"

/** answer() - build one error about a good packet, and look at it */
static void answer(const struct icmp_error *error, const uint8_t *packet,
		   const struct ip_header *header)
{
	uint8_t *out = malloc(ICMP_ERROR_MAX);
	size_t quoted = header->header_length + 8u;
	struct ip_header built;
	size_t length;

	REQUIRE(out);
	if (quoted > header->total_length)
		quoted = header->total_length;
	length = icmp_build_error(out, error, packet, header);
	REQUIRE(length == IP_HEADER_MIN + ICMP_HEADER + quoted);
	REQUIRE(ip_parse(out, length, &built) == IP_OK);
	REQUIRE(built.total_length == length && built.proto == IP_PROTO_ICMP);
	REQUIRE(built.source == error->source && built.destination == header->source);
	REQUIRE(built.ttl == error->ttl && built.fragment == 0);
	REQUIRE(out[20] == error->type && out[21] == error->code);
	REQUIRE(checksum_fold(checksum_add(0, out + 20, length - 20)) == 0xffff);
	REQUIRE(memcmp(out + 28, packet, quoted) == 0);
	/* RFC 1122: no error about an error, or two hosts could keep each other busy. */
	REQUIRE(!icmp_may_answer(out, &built));
	free(out);
}

/** LLVMFuzzerTestOneInput() - one input: type of error, then the packet */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct icmp_error errors[] = {
		{.type = 3, .code = 0, .ttl = 8, .source = 0x64600100},
		{.type = 11, .code = 0, .ttl = 64, .source = 0x64600100},
		{.type = 3, .code = 4, .ttl = 64, .mtu = 1372, .source = 0x64600100},
	};
	struct ip_header header;
	uint8_t *packet;
	size_t header_length;

	if (size < 1 + IP_HEADER_MIN)
		return 0;
	packet = malloc(size - 1);
	REQUIRE(packet);
	memcpy(packet, data + 1, size - 1);
	header_length = (size_t)(packet[0] & 0x0f) * 4;
	if (header_length >= IP_HEADER_MIN && header_length <= size - 1) {
		put16(packet + IP_OFF_CHECKSUM, 0);
		put16(packet + IP_OFF_CHECKSUM,
		      (uint16_t)~checksum_fold(checksum_add(0, packet, header_length)));
	}
	if (ip_parse(packet, size - 1, &header) == IP_OK) {
		icmp_may_answer(packet, &header);
		answer(&errors[data[0] % 3], packet, &header);
	}
	free(packet);
	return 0;
}
