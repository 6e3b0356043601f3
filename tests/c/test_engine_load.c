/*
 * test_engine_load.c - the engine under load: order, route swaps, and who serves inbound.
 */
#include "bed.h"

#include "udp_batch.h"

/** struct publisher - swaps route tables as fast as it can
 * @bed:  of the engine
 * @stop: set by the test
 * @done: swaps
 */
struct publisher {
	struct bed *bed;
	pthread_t thread;
	bool stop;
	uint64_t done;
};

/** publisher_run() - body of the publisher; the first route is always there */
static void *publisher_run(void *argument)
{
	struct publisher *publisher = argument;

	while (!__atomic_load_n(&publisher->stop, __ATOMIC_RELAXED)) {
		struct tnl_snapshot snapshot =
			snapshot_of(publisher->bed, 1 + (uint32_t)(publisher->done % 3));

		if (tnl_publish(publisher->bed->engine, &snapshot))
			abort();
		__atomic_store_n(&publisher->done, publisher->done + 1, __ATOMIC_RELAXED);
		poll(NULL, 0, 1);
	}
	return NULL;
}

/** struct load - numbered packets in both directions
 * @sent:     the last number given out
 * @from_tun: the last number that came in order out of the pair, then out of the peer's socket
 * @from_udp: likewise
 * @arrived:  how many came
 */
struct load {
	uint32_t sent;
	uint32_t from_tun;
	uint32_t from_udp;
	uint64_t arrived;
};

/** load_take() - everything that waits at one end; numbers may be missing but never go back */
static void load_take(struct load *load, int fd, size_t before, uint32_t *newest)
{
	uint8_t got[VNET_HDR_BYTES + ANY_PACKET];

	while (recv(fd, got, sizeof(got), MSG_DONTWAIT) > 0) {
		uint32_t number = get32(got + before + 28);

		CHECK(number > *newest);
		*newest = number;
		load->arrived++;
	}
}

/** load_burst() - a wake-up's worth of packets in each direction; full queues may drop them */
static void load_burst(struct bed *bed, struct load *load, uint32_t count)
{
	size_t before = vnet_bytes(bed);
	uint8_t frame[VNET_HDR_BYTES + 64] = {0};
	uint8_t *packet = frame + before;

	for (uint32_t i = 0; i < count; i++) {
		packet_to(packet, 0x64600205, 64, 0);
		put32(packet + 28, ++load->sent);
		send(bed->tun, frame, before + 64, MSG_DONTWAIT);
		put32(packet + IP_OFF_SOURCE, 0x64600205);
		put32(packet + IP_OFF_DESTINATION, 0x64600102);
		from_peer(bed, packet, 64);
	}
	load_take(load, bed->tun, before, &load->from_tun);
	load_take(load, bed->peer, 0, &load->from_udp);
}

/** threads_now() - what the engine says */
static uint32_t threads_now(const struct bed *bed)
{
	struct tnl_gauges gauges;

	tnl_gauges(bed->engine, &gauges);
	return gauges.threads;
}

/** wait_for_threads() - until the engine says that so many move packets */
static bool wait_for_threads(const struct bed *bed, uint32_t threads)
{
	for (int i = 0; i < PATIENCE_MS && threads_now(bed) != threads; i++)
		poll(NULL, 0, 1);
	return threads_now(bed) == threads;
}

/** load_round() - fifty bursts, and in mode auto as many as it takes; true if two threads served */
static bool load_round(struct bed *bed, struct load *load)
{
	bool automatic = bed->options.threads == TNL_THREADS_AUTO;
	/* On a crowded machine the engine rarely has a CPU long enough to be judged. */
	uint64_t until = monotonic_ns() + 6ull * PATIENCE_MS * 1000000ull;
	bool two = false;

	for (int bursts = 0; bursts < 50 || (automatic && !two && monotonic_ns() < until);
	     bursts++) {
		load_burst(bed, load, 64);
		two |= threads_now(bed) == 2;
	}
	return two;
}

/**
 * test_load() - tables swapped under traffic in both directions; nothing is overtaken
 *
 * In mode auto inbound goes over to the helper under load and comes back without, three times.
 */
static void test_load(const struct mode *mode)
{
	struct publisher publisher = {0};
	struct load load = {0};
	struct bed bed;

	/* So that the engine is what has too much to do, and not whoever feeds it. */
	receive_ms = mode->threads == TNL_THREADS_AUTO ? 1 : 0;
	bed_start(&bed, mode);
	publisher.bed = &bed;
	if (pthread_create(&publisher.thread, NULL, publisher_run, &publisher))
		abort();
	for (int round = 0; round < 3; round++) {
		bool two = load_round(&bed, &load);

		CHECK(mode->threads != TNL_THREADS_AUTO || two);
		CHECK(mode->threads != TNL_THREADS_ONE || !two);
		CHECK(wait_for_threads(&bed, mode->threads == TNL_THREADS_TWO ? 2 : 1));
	}
	for (int i = 0; i < PATIENCE_MS; i++) {
		if (__atomic_load_n(&publisher.done, __ATOMIC_RELAXED) > 3)
			break;
		poll(NULL, 0, 1);
	}
	__atomic_store_n(&publisher.stop, true, __ATOMIC_RELAXED);
	if (pthread_join(publisher.thread, NULL))
		abort();
	CHECK(publisher.done > 3);
	CHECK(load.arrived > 100);
	/* Halting in the middle of a load must lose nothing uncounted either. */
	load_burst(&bed, &load, 64);
	bed_end(&bed);
	receive_ms = 0;
}

/** from_peer_run() - 63 packets in one message, which our socket takes as one */
static void from_peer_run(const struct bed *bed)
{
	union segment_control control;
	uint8_t packets[63 * 140], *at = packets;
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(bed->port),
				 .sin_addr.s_addr = htonl(OWN_IP)};
	struct iovec iov = {packets, sizeof(packets)};
	struct msghdr message = {.msg_name = &to,
				 .msg_namelen = sizeof(to),
				 .msg_iov = &iov,
				 .msg_iovlen = 1,
				 .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	uint16_t size = 140;

	for (uint32_t n = 0; n < 63; n++) {
		struct packet_spec spec = segment_in(n);

		spec.payload = 100;
		spec.sequence = n * 100;
		at += packet_build(&spec, at);
	}
	memset(&control, 0, sizeof(control));
	control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(size)),
					  .cmsg_level = SOL_UDP,
					  .cmsg_type = UDP_SEGMENT};
	memcpy(CMSG_DATA(&control.header), &size, sizeof(size));
	if (sendmsg(bed->peer, &message, 0) != (ssize_t)sizeof(packets))
		abort();
}

/** test_long_turns() - a load so heavy that a turn lasts long is a load for two threads too */
static void test_long_turns(void)
{
	static const struct mode mode = {
		.batch = 64, .threads = TNL_THREADS_AUTO, .features = OFFLOAD};
	uint64_t until = monotonic_ns() + PATIENCE_MS * 1000000ull;
	int room = 1 << 20;
	uint8_t got[64];
	struct bed bed;

	receive_ms = 3;
	bed_start(&bed, &mode);
	if (setsockopt(bed.options.udp_fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room)))
		abort();
	while (threads_now(&bed) < 2 && monotonic_ns() < until) {
		uint64_t want = in_word(&bed, IN_packets_read) + 63;

		for (int run = 0; run < 40; run++)
			from_peer_run(&bed);
		CHECK(wait_for(&bed, OUTBOUND_COUNTER_COUNT + IN_packets_read, want));
		/* What comes out is not looked at, but must not stand in the way. */
		while (recv(bed.tun, got, sizeof(got), MSG_DONTWAIT) > 0)
			;
	}
	CHECK_EQ(threads_now(&bed), 2);
	bed_end(&bed);
	receive_ms = 0;
}

int main(void)
{
	for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
		test_load(&modes[i]);
	test_long_turns();
	/* Else the program was linked without --wrap. */
	CHECK(allocations > 0);
	return check_result("test_engine_load");
}
