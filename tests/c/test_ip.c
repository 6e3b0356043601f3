/*
 * test_ip.c - ip.c: checksums against a naive sum, the decrement for every checksum and TTL, and
 * the table of malformed headers.
 */
#include "check.h"
#include "ip.h"

#define GOLDEN_IN "45000020000100004011af07646001026460020303e807d0000c000061626364"
#define GOLDEN_OUT "45000020000100003f11b007646001026460020303e807d0000c000061626364"

/** naive_sum() - RFC 1071 as its text has it: 16 bits at a time, end-around carry at once */
static uint16_t naive_sum(const uint8_t *data, size_t length)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/** seal() - set the right header checksum */
static void seal(uint8_t *header, size_t length)
{
	put16(header + IP_OFF_CHECKSUM, 0);
	put16(header + IP_OFF_CHECKSUM, (uint16_t)~naive_sum(header, length));
}

/** test_checksum_add() - every length and alignment up to a few blocks, and the longest */
static void test_checksum_add(void)
{
	static uint8_t data[IP_PACKET_MAX + 1];
	uint64_t random = 1;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)check_random(&random);
	for (size_t at = 0; at < 8; at++)
		for (size_t length = 0; length <= 100; length++)
			CHECK_EQ(checksum_fold(checksum_add(0, data + at, length)),
				 naive_sum(data + at, length));
	CHECK_EQ(checksum_fold(checksum_add(0, data, sizeof(data))), naive_sum(data, sizeof(data)));
	/* All carries at once. */
	memset(data, 0xff, sizeof(data));
	for (size_t length = 0; length <= 100; length++)
		CHECK_EQ(checksum_fold(checksum_add(0, data, length)), naive_sum(data, length));
	CHECK_EQ(checksum_fold(checksum_add(0, data, sizeof(data))), 0xffff);
	CHECK_EQ(checksum_fold(checksum_add(checksum_add(0, data, 20), data, 40)), 0xffff);
}

/** test_checksum_pseudo() - against the bytes of RFC 768's pseudo header */
static void test_checksum_pseudo(void)
{
	static const uint8_t pseudo[] = {100, 96, 1, 2, 100, 96, 2, 3, 0, 17, 0xff, 0xe3};

	CHECK_EQ(checksum_fold(checksum_pseudo(0x64600102, 0x64600203, IP_PROTO_UDP, 0xffe3)),
		 naive_sum(pseudo, sizeof(pseudo)));
}

/** test_decrement_golden() - what flannel's proxy makes of its packet */
static void test_decrement_golden(void)
{
	uint8_t packet[32], want[32];

	from_hex(GOLDEN_IN, packet, sizeof(packet));
	from_hex(GOLDEN_OUT, want, sizeof(want));
	ip_decrement_ttl(packet);
	check_bytes("golden decrement", packet, sizeof(packet), want, sizeof(want));
}

/**
 * test_decrement_all() - all 65,536 checksums with all TTLs above 0
 *
 * A header can have any checksum but 0xffff: the identification is chosen so that it has. 0xffff
 * is the other zero of one's complement: a receiver accepts it where 0x0000 is right, so it comes
 * from broken senders. The patch must give what a fresh sum gives, which never is 0xffff.
 */
static void test_decrement_all(void)
{
	for (uint32_t checksum = 0; checksum <= 0xffff; checksum++) {
		for (uint32_t ttl = 1; ttl <= 255; ttl++) {
			uint8_t header[IP_HEADER_MIN] = {0x45, 0, 0, 20};
			uint8_t want[IP_HEADER_MIN];

			header[IP_OFF_TTL] = (uint8_t)ttl;
			header[IP_OFF_PROTO] = IP_PROTO_UDP;
			put32(header + IP_OFF_SOURCE, 0x64600102);
			put32(header + IP_OFF_DESTINATION, 0x64600203);
			put16(header + IP_OFF_CHECKSUM, (uint16_t)checksum);
			put16(header + IP_OFF_ID, (uint16_t)~naive_sum(header, sizeof(header)));

			memcpy(want, header, sizeof(want));
			want[IP_OFF_TTL]--;
			seal(want, sizeof(want));
			ip_decrement_ttl(header);
			/* Quick when right: this runs 16.7 million times under a sanitizer. */
			check_state.checks++;
			if (memcmp(header, want, sizeof(want)) != 0)
				check_bytes("decrement", header, sizeof(header), want,
					    sizeof(want));
		}
	}
}

/** struct header_case - a change to the golden packet, and the verdict on it */
struct header_case {
	const char *name;
	size_t length;
	uint8_t first_byte;
	uint16_t total_length;
	enum ip_verdict verdict;
};

/** test_parse_table() - each way to be malformed, at both of its edges */
static void test_parse_table(void)
{
	static const struct header_case cases[] = {
		{"whole", 32, 0x45, 32, IP_OK},
		{"padding is ignored", 32, 0x45, 31, IP_OK},
		{"header only", 20, 0x45, 20, IP_OK},
		{"empty", 0, 0x45, 32, IP_TOO_SHORT},
		{"one byte", 1, 0x45, 32, IP_TOO_SHORT},
		{"19 bytes", 19, 0x45, 19, IP_TOO_SHORT},
		{"version 6", 32, 0x65, 32, IP_NOT_IPV4},
		{"version 0", 32, 0x05, 32, IP_NOT_IPV4},
		{"version 5", 32, 0x55, 32, IP_NOT_IPV4},
		{"version 15", 32, 0xf5, 32, IP_NOT_IPV4},
		{"header of 0", 32, 0x40, 32, IP_BAD_HEADER_LENGTH},
		{"header of 16", 32, 0x44, 32, IP_BAD_HEADER_LENGTH},
		{"options to the last byte", 32, 0x48, 32, IP_OK},
		{"options past the end", 32, 0x49, 32, IP_BAD_HEADER_LENGTH},
		{"header of 60", 32, 0x4f, 32, IP_BAD_HEADER_LENGTH},
		{"length 0", 32, 0x45, 0, IP_BAD_LENGTH},
		{"length below the header", 32, 0x45, 19, IP_BAD_LENGTH},
		{"length below the options", 32, 0x47, 27, IP_BAD_LENGTH},
		{"length one too much", 32, 0x45, 33, IP_BAD_LENGTH},
		{"length 65535", 32, 0x45, 65535, IP_BAD_LENGTH},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct header_case *c = &cases[i];
		/* On the heap, to the byte: a read past the end is an ASan report. */
		uint8_t *packet = malloc(c->length ? c->length : 1);
		uint8_t full[64] = {0};
		struct ip_header header;
		size_t header_length = (size_t)(c->first_byte & 0x0f) * 4;

		if (!packet)
			abort();
		from_hex(GOLDEN_IN, full, sizeof(full));
		full[0] = c->first_byte;
		put16(full + IP_OFF_LENGTH, c->total_length);
		seal(full, header_length);
		memcpy(packet, full, c->length);
		if (!CHECK_EQ(ip_parse(packet, c->length, &header), c->verdict))
			fprintf(stderr, "  in case: %s\n", c->name);
		free(packet);
	}
}

/** test_parse_checksum() - every single wrong bit of a header is noticed */
static void test_parse_checksum(void)
{
	for (size_t bit = 8; bit < (size_t)IP_HEADER_MIN * 8; bit++) {
		uint8_t packet[32];
		struct ip_header header;
		enum ip_verdict verdict;

		from_hex(GOLDEN_IN, packet, sizeof(packet));
		packet[bit / 8] = (uint8_t)(packet[bit / 8] ^ 0x80u >> bit % 8);
		verdict = ip_parse(packet, sizeof(packet), &header);
		/* A wrong length may show as a length before it shows as a checksum. */
		CHECK(verdict == IP_BAD_CHECKSUM ||
		      (bit / 16 == IP_OFF_LENGTH / 2 && verdict == IP_BAD_LENGTH));
	}
}

/** test_parse_fields() - each field lands where it belongs, in host byte order */
static void test_parse_fields(void)
{
	uint8_t packet[24] = {0x46, 0xb8, 0, 24, 0x12, 0x34, 0x60, 0x07, 200, 6};
	struct ip_header header;

	put32(packet + IP_OFF_SOURCE, 0x0a000001);
	put32(packet + IP_OFF_DESTINATION, 0xc0a80102);
	seal(packet, sizeof(packet));
	CHECK_EQ(ip_parse(packet, sizeof(packet), &header), IP_OK);
	CHECK_EQ(header.source, 0x0a000001);
	CHECK_EQ(header.destination, 0xc0a80102);
	CHECK_EQ(header.header_length, 24);
	CHECK_EQ(header.total_length, 24);
	CHECK_EQ(header.fragment, IP_FLAG_DF | IP_FLAG_MF | 7);
	CHECK_EQ(header.id, 0x1234);
	CHECK_EQ(header.tos, 0xb8);
	CHECK_EQ(header.ttl, 200);
	CHECK_EQ(header.proto, IP_PROTO_TCP);
}

/** test_martians() - both edges of each range */
static void test_martians(void)
{
	static const struct {
		uint32_t address;
		bool martian;
	} cases[] = {
		{0x00000000, true},  {0x00ffffff, true},  {0x01000000, false}, {0x0a000001, false},
		{0x7effffff, false}, {0x7f000001, true},  {0x7fffffff, true},  {0x80000000, false},
		{0xa9fdffff, false}, {0xa9fe0000, true},  {0xa9feffff, true},  {0xa9ff0000, false},
		{0xac100001, false}, {0xc0a80001, false}, {0xdfffffff, false}, {0xe0000000, true},
		{0xefffffff, true},  {0xf0000000, true},  {0xffffffff, true},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		CHECK_EQ(ip_is_martian_source(cases[i].address), cases[i].martian);
}

/** test_bytes_at() - sums that wrap around must not slip through */
static void test_bytes_at(void)
{
	static const uint8_t data[8] = {0};

	CHECK(bytes_at(data, 8, 0, 8) == data);
	CHECK(bytes_at(data, 8, 8, 0) == data + 8);
	CHECK(bytes_at(data, 8, 7, 2) == NULL);
	CHECK(bytes_at(data, 8, 9, 0) == NULL);
	CHECK(bytes_at(data, 8, 1, SIZE_MAX) == NULL);
	CHECK(bytes_at(data, 8, SIZE_MAX, 2) == NULL);
}

int main(void)
{
	test_checksum_add();
	test_checksum_pseudo();
	test_decrement_golden();
	test_decrement_all();
	test_parse_table();
	test_parse_checksum();
	test_parse_fields();
	test_martians();
	test_bytes_at();
	return check_result("test_ip");
}
