/*
 * test_icmp.c - icmp.c: flannel's error byte for byte, who may be answered, and how often.
 */
#include "check.h"
#include "icmp.h"

#define PACKET "45000020000100004011a801646001026460090903e807d0000c000061626364"
#define ANSWER                                                                                     \
	"45000038000000000801e80364600100646001020300f13b00000000"                                 \
	"45000020000100004011a801646001026460090903e807d0000c0000"
#define SECOND 1000000000u

/** parse() - ip_parse() of a packet that must be good */
static struct ip_header parse(const uint8_t *packet, size_t length)
{
	struct ip_header header = {0};

	CHECK_EQ(ip_parse(packet, length, &header), IP_OK);
	return header;
}

/** check_sums() - an ICMP packet whose IP and ICMP checksums are both right */
static void check_sums(const uint8_t *packet, size_t length)
{
	struct ip_header header = parse(packet, length);

	CHECK_EQ(header.total_length, length);
	CHECK_EQ(header.proto, IP_PROTO_ICMP);
	CHECK_EQ(checksum_fold(checksum_add(0, packet + 20, length - 20)), 0xffff);
}

/** test_golden() - net unreachable, captured from flannel's proxy */
static void test_golden(void)
{
	struct icmp_error error = {.type = 3, .ttl = 8, .source = 0x64600100};
	uint8_t packet[32], want[ICMP_ERROR_MAX], got[ICMP_ERROR_MAX];
	size_t want_length = from_hex(ANSWER, want, sizeof(want));
	struct ip_header header;
	size_t length;

	from_hex(PACKET, packet, sizeof(packet));
	header = parse(packet, sizeof(packet));
	CHECK(icmp_may_answer(packet, &header));
	length = icmp_build_error(got, &error, packet, &header);
	check_bytes("net unreachable", got, length, want, want_length);
}

/** test_fragmentation_needed() - RFC 1191: the next-hop MTU is in the last two bytes */
static void test_fragmentation_needed(void)
{
	struct icmp_error error = {
		.type = 3, .code = 4, .ttl = 64, .mtu = 1372, .source = 0x64600100};
	uint8_t packet[32], got[ICMP_ERROR_MAX];
	struct ip_header header;
	size_t length;

	from_hex(PACKET, packet, sizeof(packet));
	header = parse(packet, sizeof(packet));
	length = icmp_build_error(got, &error, packet, &header);
	check_sums(got, length);
	CHECK_EQ(length, 56);
	CHECK_EQ(got[IP_OFF_TTL], 64);
	CHECK_EQ(got[20], 3);
	CHECK_EQ(got[21], 4);
	CHECK_EQ(get32(got + 24), 1372);
}

/** test_quote() - header and eight bytes are quoted, with options, and never more than there is */
static void test_quote(void)
{
	struct icmp_error error = {.type = 11, .ttl = 64, .source = 0x64600100};

	for (size_t options = 0; options <= 40; options += 4) {
		for (size_t payload = 0; payload <= 12; payload++) {
			size_t header_length = 20 + options, total = header_length + payload;
			size_t quoted = header_length + (payload < 8 ? payload : 8);
			/* On the heap, to the byte: quoting too much is an ASan report. */
			uint8_t *packet = calloc(1, total);
			uint8_t got[ICMP_ERROR_MAX];
			struct ip_header header;
			size_t length;

			if (!packet)
				abort();
			memset(packet + 20, 1, total - 20);
			packet[0] = (uint8_t)(0x40 | header_length / 4);
			put16(packet + IP_OFF_LENGTH, (uint16_t)total);
			packet[IP_OFF_TTL] = 1;
			packet[IP_OFF_PROTO] = IP_PROTO_UDP;
			put32(packet + IP_OFF_SOURCE, 0x64600102);
			put32(packet + IP_OFF_DESTINATION, 0x64600203);
			put16(packet + IP_OFF_CHECKSUM,
			      (uint16_t)~checksum_fold(checksum_add(0, packet, header_length)));
			header = parse(packet, total);
			length = icmp_build_error(got, &error, packet, &header);
			CHECK_EQ(length, 28 + quoted);
			check_sums(got, length);
			check_bytes("quote", got + 28, length - 28, packet, quoted);
			CHECK_EQ(get32(got + IP_OFF_DESTINATION), 0x64600102);
			free(packet);
		}
	}
}

#define SOURCE 0x64600102u
#define DESTINATION 0x64600203u

/** header_of() - a small packet's fields */
static struct ip_header header_of(uint8_t proto, uint32_t source, uint32_t destination,
				  uint16_t fragment)
{
	return (struct ip_header){.source = source,
				  .destination = destination,
				  .header_length = 20,
				  .total_length = 28,
				  .fragment = fragment,
				  .ttl = 1,
				  .proto = proto};
}

/** test_may_answer() - one case for each rule of RFC 1122, 3.2.2, and its neighbour that may */
static void test_may_answer(void)
{
	static const struct {
		const char *name;
		uint32_t source;
		uint32_t destination;
		uint16_t fragment;
		bool may;
	} cases[] = {
		{"plain", SOURCE, DESTINATION, 0, true},
		{"first fragment", SOURCE, DESTINATION, IP_FLAG_MF, true},
		{"DF", SOURCE, DESTINATION, IP_FLAG_DF, true},
		{"second fragment", SOURCE, DESTINATION, IP_FLAG_MF | 1, false},
		{"last fragment", SOURCE, DESTINATION, IP_FRAGMENT_OFFSET, false},
		{"to the last unicast address", SOURCE, 0xdfffffff, 0, true},
		{"to a multicast group", SOURCE, 0xe0000001, 0, false},
		{"to everybody", SOURCE, 0xffffffff, 0, false},
		{"from nobody", 0, DESTINATION, 0, false},
		{"from loopback", 0x7f000001, DESTINATION, 0, false},
		{"from a multicast group", 0xe0000001, DESTINATION, 0, false},
		{"from everybody", 0xffffffff, DESTINATION, 0, false},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t packet[28] = {0};
		struct ip_header header = header_of(IP_PROTO_UDP, cases[i].source,
						    cases[i].destination, cases[i].fragment);

		if (!CHECK_EQ(icmp_may_answer(packet, &header), cases[i].may))
			fprintf(stderr, "  in case: %s\n", cases[i].name);
	}
}

/** test_may_answer_icmp() - queries are answered, errors and unknown types never */
static void test_may_answer_icmp(void)
{
	static const uint8_t queries[] = {0, 8, 9, 10, 13, 14, 15, 16, 17, 18};

	for (unsigned int type = 0; type <= 255; type++) {
		struct ip_header header = header_of(IP_PROTO_ICMP, SOURCE, DESTINATION, 0);
		uint8_t packet[28] = {0};
		bool query = memchr(queries, (int)type, sizeof(queries)) != NULL;

		packet[20] = (uint8_t)type;
		if (!CHECK_EQ(icmp_may_answer(packet, &header), query))
			fprintf(stderr, "  in case: ICMP type %u\n", type);
		/* Without a type byte nobody can tell that it is no error. */
		header.total_length = 20;
		CHECK_EQ(icmp_may_answer(packet, &header), false);
	}
}

/** test_bucket() - a burst of one second's worth, then the rate, and no more after a long rest */
static void test_bucket(void)
{
	struct icmp_bucket bucket = {.rate = 100};
	uint64_t now = 5 * (uint64_t)SECOND;
	uint32_t taken = 0;

	for (int i = 0; i < 1000; i++)
		taken += icmp_bucket_take(&bucket, now);
	CHECK_EQ(taken, 100);
	now += SECOND / 100 - 1;
	CHECK(!icmp_bucket_take(&bucket, now));
	now += 1;
	CHECK(icmp_bucket_take(&bucket, now));
	CHECK(!icmp_bucket_take(&bucket, now));
	now += 3600 * (uint64_t)SECOND;
	taken = 0;
	for (int i = 0; i < 1000; i++)
		taken += icmp_bucket_take(&bucket, now);
	CHECK_EQ(taken, 100);
	/* Ten seconds of a storm: the rate, whatever comes in. */
	taken = 0;
	for (int i = 0; i < 100000; i++)
		taken += icmp_bucket_take(&bucket, now += SECOND / 10000);
	CHECK(taken >= 999 && taken <= 1001);
}

/** test_bucket_off() - rate 0 sends nothing, and divides by nothing */
static void test_bucket_off(void)
{
	struct icmp_bucket bucket = {.rate = 0};

	CHECK(!icmp_bucket_take(&bucket, SECOND));
}

int main(void)
{
	test_golden();
	test_fragmentation_needed();
	test_quote();
	test_may_answer();
	test_may_answer_icmp();
	test_bucket();
	test_bucket_off();
	return check_result("test_icmp");
}
