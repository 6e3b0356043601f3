/*
 * fuzz_ip.c - libFuzzer target for ip.c: whatever the bytes, ip_parse() reads none past the end,
 * and what it accepts has the properties that the packet path builds on.
 */
#include "ip.h"
#include "require.h"

/** naive_sum() - RFC 1071, 16 bits at a time */
static uint16_t naive_sum(const uint8_t *data, size_t length)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++) {
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)sum;
}

/** decrement() - the patched checksum is the one that a fresh sum gives */
static void decrement(const uint8_t *data, const struct ip_header *before)
{
	struct ip_header after;
	uint8_t *copy = malloc(before->total_length);

	REQUIRE(copy);
	memcpy(copy, data, before->total_length);
	ip_decrement_ttl(copy);
	REQUIRE(ip_parse(copy, before->total_length, &after) == IP_OK);
	REQUIRE(after.ttl == before->ttl - 1);
	REQUIRE(after.source == before->source && after.destination == before->destination);
	REQUIRE(memcmp(copy + 12, data + 12, before->total_length - 12u) == 0);
	free(copy);
}

/** LLVMFuzzerTestOneInput() - one input */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct ip_header header;
	enum ip_verdict verdict = ip_parse(data, size, &header);

	REQUIRE(checksum_fold(checksum_add(0, data, size)) == naive_sum(data, size));
	REQUIRE((size < IP_HEADER_MIN) == (verdict == IP_TOO_SHORT));
	if (verdict != IP_OK)
		return 0;
	REQUIRE(data[0] >> 4 == 4);
	REQUIRE(header.header_length >= IP_HEADER_MIN && header.header_length <= 60);
	REQUIRE(header.header_length <= header.total_length && header.total_length <= size);
	REQUIRE(naive_sum(data, header.header_length) == 0xffff);
	ip_is_martian_source(header.source);
	if (header.ttl)
		decrement(data, &header);
	return 0;
}
