/*
 * test_engine.c - the whole packet path on a pair of sockets, under the sanitizers.
 *
 *     test <- SOCK_SEQPACKET pair -> engine <- UDP on loopback -> peer
 *
 * The pair stands for the TUN: it keeps packets apart and does not block. Each test runs on each
 * rung and in each threading mode, and asserts conservation, and that a running engine allocates
 * nothing. It must be linked with --wrap for malloc, calloc and realloc, to count, for sendmmsg and
 * writev, to play a kernel that refuses superpackets, and for recvmmsg, to play a slow one.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "counters.h"
#include "dataplane.h"
#include "ip.h"
#include "packets.h"
#include "udp_batch.h"
#include "vnet.h"

#define OWN_IP 0x7f000001u
#define PEER_IP 0x7f000002u
/* Nobody may send here without SO_BROADCAST: a destination that the kernel refuses. */
#define REFUSED_IP 0xffffffffu
#define PATIENCE_MS 10000
#define ANY_PACKET 2048u
#define COUNTERS (OUTBOUND_COUNTER_COUNT + INBOUND_COUNTER_COUNT)

#define GOLDEN_IN "45000020000100004011af07646001026460020303e807d0000c000061626364"
#define GOLDEN_OUT "45000020000100003f11b007646001026460020303e807d0000c000061626364"
#define NO_ROUTE_IN "45000020000100004011a801646001026460090903e807d0000c000061626364"
#define NO_ROUTE_ANSWER                                                                            \
	"45000038000000000801e80364600100646001020300f13b00000000"                                 \
	"45000020000100004011a801646001026460090903e807d0000c0000"

/* Calls of the allocator: from anywhere, and from threads inside tnl_run(). */
static uint64_t allocations, engine_allocations;
static _Thread_local bool inside_engine;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);

/** count_allocation() - note one call of the allocator */
static void count_allocation(void)
{
	__atomic_add_fetch(inside_engine ? &engine_allocations : &allocations, 1, __ATOMIC_RELAXED);
}

/** __wrap_malloc() - what the linker puts in place of malloc() */
void *__wrap_malloc(size_t size)
{
	count_allocation();
	return __real_malloc(size);
}

/** __wrap_calloc() - what the linker puts in place of calloc() */
void *__wrap_calloc(size_t count, size_t size)
{
	count_allocation();
	return __real_calloc(count, size);
}

/** __wrap_realloc() - what the linker puts in place of realloc() */
void *__wrap_realloc(void *old, size_t size)
{
	count_allocation();
	return __real_realloc(old, size);
}

/* What superpackets are refused with: none when zero. Set while no engine runs. */
static int refuse_runs, refuse_frames;

/* Each receive takes so much longer. Set while no engine runs. */
static int receive_ms;

int __real_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout);
int __real_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __real_writev(int fd, const struct iovec *iovs, int count);
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags);
ssize_t __wrap_writev(int fd, const struct iovec *iovs, int count);

/** __wrap_sendmmsg() - as the kernel: stop at the message that is refused, fail if it is the first
 */
int __wrap_sendmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags)
{
	for (unsigned int i = 0; refuse_runs && i < count; i++)
		if (messages[i].msg_hdr.msg_controllen)
			count = i;
	if (count)
		return __real_sendmmsg(fd, messages, count, flags);
	errno = refuse_runs;
	return -1;
}

/** __wrap_recvmmsg() - as the kernel, but slower */
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags,
		    struct timespec *timeout)
{
	if (receive_ms)
		poll(NULL, 0, receive_ms);
	return __real_recvmmsg(fd, messages, count, flags, timeout);
}

/** __wrap_writev() - refuse what says that it is a superpacket */
ssize_t __wrap_writev(int fd, const struct iovec *iovs, int count)
{
	const struct vnet_hdr *vnet = iovs[0].iov_base;

	if (!refuse_frames || count < 2 || vnet->gso_type == VNET_GSO_NONE)
		return __real_writev(fd, iovs, count);
	errno = refuse_frames;
	return -1;
}

/** struct mode - how an engine runs
 * @batch:    packets per system call
 * @threads:  TNL_THREADS_*
 * @features: TNL_UDP_SEGMENT | ...
 * @segments: of one UDP_SEGMENT message; 0: 63
 */
struct mode {
	uint32_t batch;
	uint32_t threads;
	uint32_t features;
	uint32_t segments;
};

#define GSO (TNL_UDP_SEGMENT | TNL_UDP_GRO)
#define OFFLOAD (GSO | TNL_VNET_HDR | TNL_TSO | TNL_USO)

static const struct mode modes[] = {
	{.batch = 1, .threads = TNL_THREADS_ONE},
	{.batch = 64, .threads = TNL_THREADS_ONE},
	{.batch = 64, .threads = TNL_THREADS_ONE, .features = GSO},
	{.batch = 64, .threads = TNL_THREADS_ONE, .features = OFFLOAD},
	{.batch = 1, .threads = TNL_THREADS_TWO},
	{.batch = 64, .threads = TNL_THREADS_TWO, .features = OFFLOAD},
	{.batch = 64, .threads = TNL_THREADS_AUTO},
	{.batch = 64, .threads = TNL_THREADS_AUTO, .features = OFFLOAD},
};

/** struct worker - a thread inside tnl_run()
 * @engine: to run
 * @role:   TNL_MAIN or TNL_HELPER
 * @result: what tnl_run() returned
 */
struct worker {
	pthread_t thread;
	struct tnl_engine *engine;
	int role;
	int result;
};

/** struct bed - an engine and both of its ends
 * @tun:      our end of the pair
 * @peer:     UDP socket of the peer
 * @options:  with the engine's descriptors
 * @port:     UDP port of both
 * @counters: all words, outbound first
 * @workers:  main, and the helper unless the mode has one thread only
 */
struct bed {
	int tun;
	int peer;
	struct tnl_options options;
	uint16_t port;
	uint64_t counters[COUNTERS];
	struct tnl_engine *engine;
	struct worker workers[2];
};

static const struct tnl_route all_routes[] = {
	{.subnet = 0x64600200, .prefix_len = 24, .public_ip = PEER_IP},
	{.subnet = 0x64600300, .prefix_len = 24, .public_ip = REFUSED_IP},
	{.subnet = 0x64600400, .prefix_len = 24, .public_ip = PEER_IP, .path_mtu = 1400},
};

/** snapshot_of() - node 1's view */
static struct tnl_snapshot snapshot_of(const struct bed *bed, uint32_t route_count)
{
	static const uint32_t own[] = {OWN_IP, 0x64600101, 0x64600100};

	return (struct tnl_snapshot){
		.network = 0x64600000,
		.network_len = 16,
		.subnet = 0x64600100,
		.subnet_len = 24,
		.tun_address = 0x64600100,
		.mtu = 1472,
		.port = bed->port,
		.source_check = TNL_SOURCE_PEER,
		.routes = all_routes,
		.route_count = route_count,
		.own_addresses = own,
		.own_address_count = 3,
	};
}

/** bind_udp() - a UDP socket; ends the program on failure but for a busy port */
static int bind_udp(uint32_t address, uint16_t *port)
{
	struct sockaddr_in name = {
		.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(address)};
	socklen_t length = sizeof(name);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		abort();
	if (bind(fd, (const struct sockaddr *)&name, sizeof(name))) {
		if (errno != EADDRINUSE)
			abort();
		close(fd);
		return -1;
	}
	if (getsockname(fd, (struct sockaddr *)&name, &length))
		abort();
	*port = ntohs(name.sin_port);
	return fd;
}

/** worker_run() - body of a worker */
static void *worker_run(void *argument)
{
	struct worker *worker = argument;

	inside_engine = true;
	worker->result = tnl_run(worker->engine, worker->role);
	inside_engine = false;
	return NULL;
}

/** bed_workers() - how many threads the mode has */
static size_t bed_workers(const struct bed *bed)
{
	return bed->options.threads == TNL_THREADS_ONE ? 1 : 2;
}

/** bed_run() - start the engine's threads */
static void bed_run(struct bed *bed)
{
	for (size_t i = 0; i < bed_workers(bed); i++) {
		struct worker *worker = &bed->workers[i];

		*worker = (struct worker){.engine = bed->engine,
					  .role = i == 0 ? TNL_MAIN : TNL_HELPER};
		if (pthread_create(&worker->thread, NULL, worker_run, worker))
			abort();
	}
}

/** bed_join() - wait for the engine's threads */
static void bed_join(struct bed *bed)
{
	for (size_t i = 0; i < bed_workers(bed); i++)
		if (pthread_join(bed->workers[i].thread, NULL))
			abort();
}

/** bed_halt() - end the engine's threads, so that they can be started otherwise */
static void bed_halt(struct bed *bed)
{
	uint64_t word = 1;

	/* Both threads poll the same eventfd; it stays readable for the second. */
	if (write(bed->options.stop_fd, &word, sizeof(word)) != sizeof(word))
		abort();
	bed_join(bed);
	if (read(bed->options.stop_fd, &word, sizeof(word)) != sizeof(word))
		abort();
}

/** bed_bind() - the two UDP sockets, on one port */
static void bed_bind(struct bed *bed)
{
	int on = 1;

	do {
		bed->port = 0;
		bed->peer = bind_udp(PEER_IP, &bed->port);
		bed->options.udp_fd = bind_udp(OWN_IP, &bed->port);
		if (bed->options.udp_fd < 0)
			close(bed->peer);
	} while (bed->options.udp_fd < 0);
	if (bed->options.features & TNL_UDP_GRO &&
	    setsockopt(bed->options.udp_fd, SOL_UDP, UDP_GRO, &on, sizeof(on)))
		abort();
}

/** bed_start() - make all of it, and run */
static void bed_start(struct bed *bed, const struct mode *mode)
{
	struct tnl_snapshot snapshot;
	int pair[2];

	*bed = (struct bed){.tun = -1};
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair))
		abort();
	bed->tun = pair[0];
	bed->options = (struct tnl_options){.tun_fd = pair[1],
					    .stop_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					    .main_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					    .helper_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					    .threads = mode->threads,
					    .batch = mode->batch,
					    .features = mode->features,
					    .max_segments = mode->segments ? mode->segments : 63,
					    .icmp_rate = 100};
	bed_bind(bed);
	snapshot = snapshot_of(bed, 3);
	if (tnl_create(&bed->options, &snapshot, bed->counters, &bed->engine))
		abort();
	bed_run(bed);
}

/** word() - a counter, while the engine runs or after */
static uint64_t word(const struct bed *bed, uint32_t index)
{
	return __atomic_load_n(&bed->counters[index], __ATOMIC_RELAXED);
}

/** in_word() - a counter of the inbound direction */
static uint64_t in_word(const struct bed *bed, enum inbound_counter index)
{
	return word(bed, OUTBOUND_COUNTER_COUNT + index);
}

/** check_conservation() - read = written + dropped, in one direction */
static void check_conservation(const struct bed *bed, int direction)
{
	uint32_t first = direction == TNL_OUTBOUND ? 0 : OUTBOUND_COUNTER_COUNT;
	uint64_t left = 0;

	for (uint32_t i = 0; i < tnl_counter_count(direction); i++) {
		const char *name = tnl_counter_name(direction, i);

		if (strcmp(name, "packets_read") == 0)
			left += word(bed, first + i);
		else if (strcmp(name, "packets_written") == 0 || strncmp(name, "drop_", 5) == 0)
			left -= word(bed, first + i);
	}
	CHECK_EQ(left, 0);
}

/** bed_end() - stop, check what must hold after any test, release */
static void bed_end(struct bed *bed)
{
	bed_halt(bed);
	check_conservation(bed, TNL_OUTBOUND);
	check_conservation(bed, TNL_INBOUND);
	CHECK_EQ(engine_allocations, 0);
	tnl_free(bed->engine);
	/* Borrowed means that they are still open. */
	CHECK_EQ(close(bed->options.tun_fd), 0);
	CHECK_EQ(close(bed->options.udp_fd), 0);
	CHECK_EQ(close(bed->options.stop_fd), 0);
	CHECK_EQ(close(bed->options.main_fd), 0);
	CHECK_EQ(close(bed->options.helper_fd), 0);
	close(bed->tun);
	close(bed->peer);
}

/** receive() - wait for one packet; 0 when none came in time */
static size_t receive(int fd, uint8_t *out, size_t room)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	ssize_t length;

	if (poll(&wait, 1, PATIENCE_MS) != 1)
		return 0;
	length = recv(fd, out, room, 0);
	return length < 0 ? 0 : (size_t)length;
}

/** from_peer() - send one datagram to the engine as the peer does */
static void from_peer(const struct bed *bed, const uint8_t *packet, size_t length)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(bed->port),
				 .sin_addr.s_addr = htonl(OWN_IP)};

	if (sendto(bed->peer, packet, length, 0, (const struct sockaddr *)&to, sizeof(to)) !=
	    (ssize_t)length)
		abort();
}

/** vnet_bytes() - what comes before each packet on the pair */
static size_t vnet_bytes(const struct bed *bed)
{
	return bed->options.features & TNL_VNET_HDR ? VNET_HDR_BYTES : 0;
}

/** to_tun() - hand the engine one packet, behind a vnet header where there is one */
static void to_tun(const struct bed *bed, const uint8_t *packet, size_t length)
{
	struct pollfd wait = {.fd = bed->tun, .events = POLLOUT};
	uint8_t frame[VNET_HDR_BYTES + ANY_PACKET] = {0};
	size_t before = vnet_bytes(bed);

	if (length > ANY_PACKET)
		abort();
	memcpy(frame + before, packet, length);
	if (poll(&wait, 1, PATIENCE_MS) != 1 ||
	    send(bed->tun, frame, before + length, 0) != (ssize_t)(before + length))
		abort();
}

/** from_tun() - wait for one packet from the engine; its vnet header says "no superpacket" */
static size_t from_tun(const struct bed *bed, uint8_t *out, size_t room)
{
	uint8_t frame[VNET_HDR_BYTES + ANY_PACKET];
	size_t before = vnet_bytes(bed);
	size_t length = receive(bed->tun, frame, sizeof(frame));

	if (length < before || length - before > room)
		return 0;
	if (before)
		CHECK_EQ(frame[1], VNET_GSO_NONE);
	memcpy(out, frame + before, length - before);
	return length - before;
}

/** wait_for() - until a counter has reached a value */
static bool wait_for(const struct bed *bed, uint32_t index, uint64_t value)
{
	for (int i = 0; i < PATIENCE_MS && word(bed, index) < value; i++)
		poll(NULL, 0, 1);
	return word(bed, index) >= value;
}

/** packet_to() - a UDP packet of @length bytes from container 1 */
static void packet_to(uint8_t *packet, uint32_t destination, uint16_t length, uint16_t fragment)
{
	memset(packet, 0, length);
	packet[0] = 0x45;
	put16(packet + IP_OFF_LENGTH, length);
	put16(packet + IP_OFF_FRAGMENT, fragment);
	packet[IP_OFF_TTL] = 64;
	packet[IP_OFF_PROTO] = IP_PROTO_UDP;
	put32(packet + IP_OFF_SOURCE, 0x64600102);
	put32(packet + IP_OFF_DESTINATION, destination);
	put16(packet + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, packet, IP_HEADER_MIN)));
}

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
	uint64_t until = monotonic_ns() + PATIENCE_MS * 1000000ull;
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
}

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

/** segment_in() - the @n-th segment of a stream from the peer to container 1 */
static struct packet_spec segment_in(uint32_t n)
{
	return (struct packet_spec){.source = 0x64600205,
				    .destination = 0x64600102,
				    .source_port = 80,
				    .destination_port = 40000,
				    .ttl = 64,
				    .proto = PROTO_TCP,
				    .flags = FLAG_ACK,
				    .payload = 1000,
				    .at = n * 1000,
				    .sequence = n * 1000,
				    .id = (uint16_t)n};
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
		while (recv(bed.tun, frame, sizeof(frame), MSG_DONTWAIT) > 0)
			;
	}
	CHECK_EQ(threads_now(&bed), 2);
	bed_end(&bed);
	receive_ms = 0;
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
	}
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
		test_load(mode);
		if (mode->features & TNL_TSO)
			test_superpacket_in(mode);
	}
	test_superpacket_out(63, 1432, 65495, 2);
	test_superpacket_out(128, 1000, 20001, 2);
	test_superpacket_out(63, 48, 65495, 44);
	/* A limit that no kernel has, and the most segments that it could be asked to cut. */
	test_superpacket_out(2, 48, 65495, 0);
	test_long_turns();
	test_runs_refused();
	test_frames_refused();
	test_refused_options();
	/* Else the program was linked without --wrap. */
	CHECK(allocations > 0);
	return check_result("test_engine");
}
