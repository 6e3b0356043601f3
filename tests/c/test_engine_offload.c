/*
 * test_engine_offload.c - the engine's superpackets, both ways, and a kernel that refuses them.
 */
#include "bed.h"

/* A packet of any size, behind its vnet header. */
static uint8_t frame[VNET_HDR_BYTES + IP_PACKET_MAX];

/**
 * check_segments() - read what a superpacket became from the peer's socket, and check it
 * @bed:     engine
 * @spec:    the superpacket
 * @size:    payload of each segment but the last
 * @written: packets_written when all of it is sent
 *
 * Return: how many arrived; the peer's buffer has room for a few hundred
 */
static uint32_t check_segments(const struct bed *bed, const struct packet_spec *spec, uint32_t size,
			       uint64_t written)
{
	uint8_t want[ANY_PACKET], got[ANY_PACKET];
	uint32_t arrived = 0, next = 0;

	for (bool all = false; !all;) {
		ssize_t length;

		/* Loopback delivers before the sender counts. */
		all = word(bed, OUT_packets_written) == written ||
		      !wait_for(bed, OUT_packets_written, word(bed, OUT_packets_written) + 1);
		while ((length = recv(bed->peer, got, sizeof(got), MSG_DONTWAIT)) > 0) {
			struct packet_spec part = *spec;
			uint32_t n = get32(got + 24) / size;

			CHECK(n >= next);
			next = n + 1;
			part.partial = 0;
			part.ttl = 63;
			part.id = (uint16_t)n;
			part.at = part.sequence = n * size;
			part.payload =
				spec->payload - part.at < size ? spec->payload - part.at : size;
			check_bytes("segment", got, (size_t)length, want,
				    packet_build(&part, want));
			arrived++;
		}
	}
	return arrived;
}

static const struct mode offload_mode = {
	.batch = 64, .threads = TNL_THREADS_ONE, .features = OFFLOAD};

/** super_out() - a superpacket from container 1 to the peer */
static struct packet_spec super_out(uint32_t payload)
{
	return (struct packet_spec){.source = 0x64600102,
				    .destination = 0x64600205,
				    .source_port = 40000,
				    .destination_port = 80,
				    .ttl = 64,
				    .proto = PROTO_TCP,
				    .flags = FLAG_ACK,
				    .payload = payload,
				    .partial = 1};
}

/** super_send() - hand it to the engine, to be cut at @size */
static void super_send(const struct bed *bed, const struct packet_spec *spec, uint16_t size)
{
	struct vnet_hdr vnet = {.flags = VNET_NEEDS_CSUM,
				.gso_type = VNET_GSO_TCPV4,
				.hdr_len = 40,
				.gso_size = size,
				.csum_start = 20,
				.csum_offset = 16};
	size_t length = VNET_HDR_BYTES + packet_build(spec, frame + VNET_HDR_BYTES);

	memcpy(frame, &vnet, VNET_HDR_BYTES);
	if (send(bed->tun, frame, length, 0) != (ssize_t)length)
		abort();
}

/** from_peer_segments() - so many segments of the stream, sent to the engine */
static void from_peer_segments(const struct bed *bed, uint32_t count)
{
	for (uint32_t n = 0; n < count; n++) {
		struct packet_spec spec = segment_in(n);
		uint8_t packet[ANY_PACKET];

		from_peer(bed, packet, packet_build(&spec, packet));
	}
}

/** test_superpacket_out() - a container's TSO packet goes to the peer as runs of its segments */
static void test_superpacket_out(uint32_t segments, uint16_t size, uint32_t payload, uint32_t runs)
{
	struct packet_spec spec = super_out(payload);
	uint32_t count = (payload + size - 1) / size;
	struct mode mode = offload_mode;
	struct tnl_gauges gauges;
	struct bed bed;

	mode.segments = segments;
	bed_start(&bed, &mode);
	/* Twice: large packets go plain the first time, to learn the path MTU. */
	for (uint32_t i = 1; i <= 2; i++) {
		uint32_t arrived;

		super_send(&bed, &spec, size);
		arrived = check_segments(&bed, &spec, size, (uint64_t)i * count);
		CHECK(arrived == count || arrived > 100);
	}
	tnl_gauges(bed.engine, &gauges);
	bed_end(&bed);
	CHECK_EQ(gauges.downgrades_udp, 0);
	CHECK_EQ(word(&bed, OUT_superpackets_read), 2);
	CHECK_EQ(word(&bed, OUT_superpackets_written), runs);
	CHECK_EQ(word(&bed, OUT_packets_written), 2 * count);
	CHECK_EQ(word(&bed, OUT_bytes_written), 2 * (payload + 40 * count));
}

/** test_superpacket_in() - a sender's segments reach the pair as one superpacket */
static void test_superpacket_in(const struct mode *mode)
{
	struct vnet_hdr vnet = {0};
	struct bed bed;

	bed_start(&bed, mode);
	bed_halt(&bed);
	from_peer_segments(&bed, 20);
	/* All of them wait now: one turn joins them. */
	bed_run(&bed);
	CHECK_EQ(receive(bed.tun, frame, sizeof(frame)), VNET_HDR_BYTES + 40 + 20000);
	memcpy(&vnet, frame, VNET_HDR_BYTES);
	CHECK_EQ(vnet.gso_type, VNET_GSO_TCPV4);
	CHECK_EQ(vnet.gso_size, 1000);
	bed_end(&bed);
	CHECK_EQ(in_word(&bed, IN_packets_written), 20);
	CHECK_EQ(in_word(&bed, IN_superpackets_written), 1);
	CHECK_EQ(in_word(&bed, IN_syscalls_written), 1);
	CHECK_EQ(in_word(&bed, IN_batch_read_32), 1);
	CHECK_EQ(in_word(&bed, IN_batch_written_32), 1);
}

/** struct run_refusal - an errno for runs, and what it must lead to
 * @segments:   packets per message afterwards
 * @downgrades: for two superpackets
 * @lost:       packets of them
 */
struct run_refusal {
	int error;
	uint32_t segments;
	uint32_t downgrades;
	uint32_t lost;
};

/**
 * test_runs_refused() - EIO ends runs for good, EINVAL and EMSGSIZE only this one; the packets go
 * one by one. Other errors would befall them one by one too.
 */
static void test_runs_refused(void)
{
	static const struct run_refusal refusals[] = {
		{.error = EIO, .segments = 1, .downgrades = 1},
		{.error = EINVAL, .segments = 63, .downgrades = 2},
		{.error = EMSGSIZE, .segments = 63, .downgrades = 2},
		{.error = EPERM, .segments = 63, .lost = 42},
	};
	struct packet_spec spec = super_out(20001);

	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		const struct run_refusal *c = &refusals[i];
		uint32_t arrived = 0, written = 0;
		struct tnl_gauges gauges;
		struct bed bed;

		refuse_runs = c->error;
		bed_start(&bed, &offload_mode);
		for (uint32_t n = 1; n <= 2; n++) {
			super_send(&bed, &spec, 1000);
			written += c->lost ? 0 : 21;
			CHECK(wait_for(&bed, OUT_packets_read, (uint64_t)n * 21));
			arrived += check_segments(&bed, &spec, 1000, written);
		}
		CHECK(wait_for(&bed, OUT_drop_send_failed, c->lost));
		tnl_gauges(bed.engine, &gauges);
		bed_end(&bed);
		refuse_runs = 0;
		CHECK_EQ(arrived, 42 - c->lost);
		CHECK_EQ(gauges.segments, c->segments);
		CHECK_EQ(gauges.downgrades_udp, c->downgrades);
		CHECK_EQ(word(&bed, OUT_drop_send_failed), c->lost);
		CHECK_EQ(word(&bed, OUT_superpackets_written), 0);
		CHECK(word(&bed, OUT_batch_written_0) >= c->downgrades);
	}
}

/**
 * test_frames_refused() - a TUN that takes no superpackets gets the packets, as they came
 *
 * EINVAL is about superpackets, of one protocol; anything else is about the TUN.
 */
static void test_frames_refused(void)
{
	static const int errors[] = {EINVAL, ENOBUFS};

	for (size_t i = 0; i < 2; i++) {
		uint32_t arrive = errors[i] == EINVAL ? 20 : 0;
		uint8_t want[ANY_PACKET], got[ANY_PACKET];
		struct tnl_gauges gauges;
		struct bed bed;

		refuse_frames = errors[i];
		bed_start(&bed, &offload_mode);
		bed_halt(&bed);
		from_peer_segments(&bed, 20);
		bed_run(&bed);
		for (uint32_t n = 0; n < arrive; n++) {
			struct packet_spec spec = segment_in(n);

			spec.ttl--;
			check_bytes("refused whole", got, from_tun(&bed, got, sizeof(got)), want,
				    packet_build(&spec, want));
		}
		CHECK(wait_for(&bed, OUTBOUND_COUNTER_COUNT + IN_drop_write_failed, 20 - arrive));
		tnl_gauges(bed.engine, &gauges);
		bed_end(&bed);
		refuse_frames = 0;
		CHECK_EQ(gauges.tcp, !arrive);
		CHECK_EQ(gauges.udp, 1);
		CHECK_EQ(gauges.downgrades_tun, arrive ? 1 : 0);
		CHECK_EQ(in_word(&bed, IN_packets_written), arrive);
		CHECK_EQ(in_word(&bed, IN_drop_write_failed), 20 - arrive);
		CHECK_EQ(in_word(&bed, IN_superpackets_written), 0);
		CHECK_EQ(in_word(&bed, IN_batch_written_0), 1);
		CHECK_EQ(in_word(&bed, IN_batch_written_1), arrive);
	}
}

int main(void)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		if (modes[i].features & TNL_TSO)
			test_superpacket_in(&modes[i]);
	test_superpacket_out(63, 1432, 65495, 2);
	test_superpacket_out(128, 1000, 20001, 2);
	test_superpacket_out(63, 48, 65495, 44);
	/* A limit that no kernel has, and the most segments that it could be asked to cut. */
	test_superpacket_out(2, 48, 65495, 0);
	test_runs_refused();
	test_frames_refused();
	/* Else the program was linked without --wrap. */
	CHECK(allocations > 0);
	return check_result("test_engine_offload");
}
