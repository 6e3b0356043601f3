/*
 * test_coalesce.c - which packets become one superpacket, which stay alone, and that cutting it
 * again gives the same packets in the same order.
 */
#include "joining.h"

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
	static uint8_t before[IP_PACKET_MAX];

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

int main(void)
{
	for (size_t i = 0; i < sizeof(join_cases) / sizeof(join_cases[0]); i++)
		run_case(&join_cases[i]);
	test_untouched();
	test_switched_off();
	return check_result("test_coalesce");
}
