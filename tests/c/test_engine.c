/*
 * test_engine.c - the engine packet by packet, on each rung and in each threading mode.
 */
#include "bed.h"

#define GOLDEN_IN "45000020000100004011af07646001026460020303e807d0000c000061626364"
#define GOLDEN_OUT "45000020000100003f11b007646001026460020303e807d0000c000061626364"
#define NO_ROUTE_IN "45000020000100004011a801646001026460090903e807d0000c000061626364"
#define NO_ROUTE_ANSWER                                                                            \
	"45000038000000000801e80364600100646001020300f13b00000000"                                 \
	"45000020000100004011a801646001026460090903e807d0000c0000"

/** test_golden() - flannel's vectors through the engine */
static void test_golden(const struct mode *mode)
{
	uint8_t packet[64], want[64], got[2048] = {0};
	size_t want_length;
	struct bed bed;

	bed_start(&bed, mode);
	to_tun(&bed, packet, from_hex(GOLDEN_IN, packet, sizeof(packet)));
	want_length = from_hex(GOLDEN_OUT, want, sizeof(want));
	check_bytes("to the peer", got, receive(bed.peer, got, sizeof(got)), want, want_length);
	to_tun(&bed, packet, from_hex(NO_ROUTE_IN, packet, sizeof(packet)));
	want_length = from_hex(NO_ROUTE_ANSWER, want, sizeof(want));
	check_bytes("net unreachable", got, from_tun(&bed, got, sizeof(got)), want, want_length);
	bed_end(&bed);
	CHECK_EQ(word(&bed, OUT_packets_read), 2);
	CHECK_EQ(word(&bed, OUT_packets_written), 1);
	CHECK_EQ(word(&bed, OUT_drop_no_route), 1);
	CHECK_EQ(word(&bed, OUT_icmp_sent_net_unreachable), 1);
	CHECK_EQ(bed.workers[0].result, 0);
	CHECK_EQ(bed.workers[1].result, 0);
}

/** test_inbound() - the mirror image: the other direction's packet, its padding cut off */
static void test_inbound(const struct mode *mode)
{
	uint8_t packet[64], got[2048] = {0};
	struct bed bed;

	bed_start(&bed, mode);
	packet_to(packet, 0x64600102, 32, 0);
	put32(packet + IP_OFF_SOURCE, 0x64600203);
	put16(packet + IP_OFF_CHECKSUM, 0);
	put16(packet + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, packet, IP_HEADER_MIN)));
	memset(packet + 32, 0xee, 32);
	from_peer(&bed, packet, 64);
	CHECK_EQ(from_tun(&bed, got, sizeof(got)), 32);
	ip_decrement_ttl(packet);
	check_bytes("to the TUN", got, 32, packet, 32);
	/* An empty datagram is too short, and not the end of anything. */
	from_peer(&bed, packet, 0);
	from_peer(&bed, packet, 64);
	CHECK_EQ(from_tun(&bed, got, sizeof(got)), 32);
	bed_end(&bed);
	CHECK_EQ(in_word(&bed, IN_packets_written), 2);
	CHECK_EQ(in_word(&bed, IN_drop_too_short), 1);
}

/** test_hostile() - random bytes, and good packets with one random byte wrong */
static void test_hostile(const struct mode *mode)
{
	uint64_t random = mode->batch, sent = 0;
	struct bed bed;

	bed_start(&bed, mode);
	for (int i = 0; i < 2000; i++) {
		uint8_t packet[256];
		uint16_t length = (uint16_t)(check_random(&random) % sizeof(packet));

		for (size_t at = 0; at < sizeof(packet); at++)
			packet[at] = (uint8_t)check_random(&random);
		if (i % 2) {
			length = 64;
			packet_to(packet, 0x64600103, length, 0);
			packet[check_random(&random) % 20] = (uint8_t)check_random(&random);
		}
		from_peer(&bed, packet, length);
		if (length)
			to_tun(&bed, packet, length);
		sent += length != 0;
		/* The pair's queue is short and the socket's buffer too: do not outrun them. */
		if (i % 50 == 49)
			CHECK(wait_for(&bed, OUTBOUND_COUNTER_COUNT + IN_packets_read,
				       (uint64_t)i + 1));
	}
	CHECK(wait_for(&bed, OUT_packets_read, sent));
	bed_end(&bed);
	/* Sources are container 1's or noise: an own source, never a peer's. */
	CHECK_EQ(in_word(&bed, IN_packets_written), 0);
}

/** test_refused_destination() - costs its own packets, and not the neighbours in the batch */
static void test_refused_destination(const struct mode *mode)
{
	uint8_t packet[100], got[2048] = {0};
	struct bed bed;

	bed_start(&bed, mode);
	for (int i = 0; i < 30; i++) {
		packet_to(packet, i % 3 ? 0x64600305 : 0x64600205, 100, 0);
		to_tun(&bed, packet, sizeof(packet));
	}
	for (int i = 0; i < 10; i++)
		CHECK_EQ(receive(bed.peer, got, sizeof(got)), 100);
	CHECK(wait_for(&bed, OUT_drop_send_failed, 20));
	bed_end(&bed);
	CHECK_EQ(word(&bed, OUT_packets_written), 10);
	CHECK_EQ(word(&bed, OUT_drop_send_failed), 20);
}

/** test_too_big() - DF and over the path MTU is told; without DF the kernel may fragment */
static void test_too_big(const struct mode *mode)
{
	uint8_t packet[1472], got[2048] = {0};
	struct bed bed;

	bed_start(&bed, mode);
	packet_to(packet, 0x64600405, 1373, IP_FLAG_DF);
	to_tun(&bed, packet, 1373);
	CHECK_EQ(from_tun(&bed, got, sizeof(got)), 56);
	CHECK_EQ(get32(got + 24), 1372);
	packet_to(packet, 0x64600405, 1372, IP_FLAG_DF);
	to_tun(&bed, packet, 1372);
	CHECK_EQ(receive(bed.peer, got, sizeof(got)), 1372);
	packet_to(packet, 0x64600405, 1400, 0);
	to_tun(&bed, packet, 1400);
	CHECK_EQ(receive(bed.peer, got, sizeof(got)), 1400);
	bed_end(&bed);
	CHECK_EQ(word(&bed, OUT_drop_too_big), 1);
	CHECK_EQ(word(&bed, OUT_icmp_sent_fragmentation_needed), 1);
}

/** test_publish() - snapshots swapped under traffic: no use after free, no packet unaccounted */
static void test_publish(const struct mode *mode)
{
	struct tnl_peer_counters peers[3];
	uint8_t packet[64], got[2048] = {0};
	struct tnl_snapshot snapshot;
	struct bed bed;

	bed_start(&bed, mode);
	packet_to(packet, 0x64600205, sizeof(packet), 0);
	for (uint32_t i = 0; i < 2000; i++) {
		to_tun(&bed, packet, sizeof(packet));
		snapshot = snapshot_of(&bed, 1 + i % 3);
		CHECK_EQ(tnl_publish(bed.engine, &snapshot), 0);
		while (recv(bed.peer, got, sizeof(got), 0) > 0)
			;
	}
	CHECK(wait_for(&bed, OUT_packets_read, 2000));
	snapshot = snapshot_of(&bed, 3);
	snapshot.port = 0;
	CHECK_EQ(tnl_publish(bed.engine, &snapshot), -EINVAL);
	CHECK_EQ(tnl_peer_counters(bed.engine, peers, 3), 2);
	CHECK(wait_for(&bed, OUT_packets_written, 2000));
	CHECK_EQ(tnl_peer_counters(bed.engine, peers, 1), 1);
	CHECK_EQ(peers[0].tx_packets, 2000);
	CHECK_EQ(peers[0].tx_bytes, 2000 * sizeof(packet));
	bed_end(&bed);
}

/**
 * test_tun_gone() - the other end of the pair closes, as a deleted TUN: an error, not a spin
 *
 * The helper never reads the TUN: it must take poll's word for it.
 */
static void test_tun_gone(const struct mode *mode)
{
	struct bed bed;

	bed_start(&bed, mode);
	bed_halt(&bed);
	shutdown(bed.tun, SHUT_RDWR);
	/* It can be run again and again, to the same end, by each thread on its own. */
	for (int i = 0; i < 2; i++) {
		bed_run(&bed);
		bed_join(&bed);
		for (size_t role = 0; role < bed_workers(&bed); role++)
			CHECK_EQ(bed.workers[role].result, -ENODEV);
	}
	bed_run(&bed);
	bed_end(&bed);
}

/** test_both_ways() - a packet there and a packet back, tables swapped in between */
static void test_both_ways(const struct mode *mode)
{
	uint8_t packet[64], got[2048] = {0};
	struct tnl_gauges gauges;
	struct bed bed;

	bed_start(&bed, mode);
	for (int i = 0; i < 200; i++) {
		struct tnl_snapshot snapshot = snapshot_of(&bed, 3);

		packet_to(packet, 0x64600205, sizeof(packet), 0);
		to_tun(&bed, packet, sizeof(packet));
		CHECK_EQ(tnl_publish(bed.engine, &snapshot), 0);
		CHECK_EQ(receive(bed.peer, got, sizeof(got)), sizeof(packet));
		put32(got + IP_OFF_SOURCE, 0x64600205);
		put32(got + IP_OFF_DESTINATION, 0x64600102);
		put16(got + IP_OFF_CHECKSUM, 0);
		put16(got + IP_OFF_CHECKSUM,
		      (uint16_t)~checksum_fold(checksum_add(0, got, IP_HEADER_MIN)));
		from_peer(&bed, got, sizeof(packet));
		CHECK_EQ(from_tun(&bed, got, sizeof(got)), sizeof(packet));
	}
	/* One packet per wake-up is no load: auto stays with one thread. */
	tnl_gauges(bed.engine, &gauges);
	CHECK_EQ(gauges.threads, mode->threads == TNL_THREADS_TWO ? 2 : 1);
	bed_end(&bed);
	CHECK_EQ(word(&bed, OUT_packets_written), 200);
	CHECK_EQ(in_word(&bed, IN_packets_written), 200);
}

/** test_refused_options() - what cannot run is -EINVAL, and leaks nothing */
static void test_refused_options(void)
{
	struct bed bed = {.port = 8285};
	struct tnl_snapshot snapshot = snapshot_of(&bed, 3);
	struct tnl_options options = {.batch = 0, .max_segments = 1};

	CHECK_EQ(tnl_create(&options, &snapshot, bed.counters, &bed.engine), -EINVAL);
	options.batch = 65;
	CHECK_EQ(tnl_create(&options, &snapshot, bed.counters, &bed.engine), -EINVAL);
	options.batch = 64;
	options.features = TNL_UDP_SEGMENT;
	options.max_segments = 129;
	CHECK_EQ(tnl_create(&options, &snapshot, bed.counters, &bed.engine), -EINVAL);
	options.max_segments = 128;
	snapshot.port = 0;
	CHECK_EQ(tnl_create(&options, &snapshot, bed.counters, &bed.engine), -EINVAL);
	CHECK(bed.engine == NULL);
	tnl_free(NULL);
}

int main(void)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		const struct mode *mode = &modes[i];

		test_golden(mode);
		test_inbound(mode);
		test_hostile(mode);
		test_refused_destination(mode);
		test_too_big(mode);
		test_publish(mode);
		test_tun_gone(mode);
		test_both_ways(mode);
	}
	test_refused_options();
	/* Else the program was linked without --wrap. */
	CHECK(allocations > 0);
	return check_result("test_engine");
}
