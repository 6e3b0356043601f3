/*
 * bed.h - the whole packet path on a pair of sockets, for the engine's tests.
 *
 *     test <- SOCK_SEQPACKET pair -> engine <- UDP on loopback -> peer
 *
 * The pair stands for the TUN: it keeps packets apart and does not block. Each test asserts
 * conservation, and that a running engine allocates nothing. Programs that include it are linked
 * with wrap.c.
 */
#ifndef TNL_TEST_BED_H
#define TNL_TEST_BED_H

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
#include "vnet.h"
#include "wrap.h"

#define OWN_IP 0x7f000001u
#define PEER_IP 0x7f000002u
/* Nobody may send here without SO_BROADCAST: a destination that the kernel refuses. */
#define REFUSED_IP 0xffffffffu
#define PATIENCE_MS 10000
#define ANY_PACKET 2048u
#define COUNTERS (OUTBOUND_COUNTER_COUNT + INBOUND_COUNTER_COUNT)

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
static inline struct tnl_snapshot snapshot_of(const struct bed *bed, uint32_t route_count)
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
static inline int bind_udp(uint32_t address, uint16_t *port)
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
static inline void *worker_run(void *argument)
{
	struct worker *worker = argument;

	inside_engine = true;
	worker->result = tnl_run(worker->engine, worker->role);
	inside_engine = false;
	return NULL;
}

/** bed_workers() - how many threads the mode has */
static inline size_t bed_workers(const struct bed *bed)
{
	return bed->options.threads == TNL_THREADS_ONE ? 1 : 2;
}

/** bed_run() - start the engine's threads */
static inline void bed_run(struct bed *bed)
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
static inline void bed_join(struct bed *bed)
{
	for (size_t i = 0; i < bed_workers(bed); i++)
		if (pthread_join(bed->workers[i].thread, NULL))
			abort();
}

/** bed_halt() - end the engine's threads, so that they can be started otherwise */
static inline void bed_halt(struct bed *bed)
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
static inline void bed_bind(struct bed *bed)
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
static inline void bed_start(struct bed *bed, const struct mode *mode)
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
static inline uint64_t word(const struct bed *bed, uint32_t index)
{
	return __atomic_load_n(&bed->counters[index], __ATOMIC_RELAXED);
}

/** in_word() - a counter of the inbound direction */
static inline uint64_t in_word(const struct bed *bed, enum inbound_counter index)
{
	return word(bed, OUTBOUND_COUNTER_COUNT + index);
}

/** check_conservation() - read = written + dropped, in one direction */
static inline void check_conservation(const struct bed *bed, int direction)
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

/** check_batches() - each system call of an operation is in one bucket */
static inline void check_batches(const struct bed *bed, uint32_t syscalls, uint32_t first)
{
	uint64_t left = word(bed, syscalls);

	for (uint32_t i = 0; i <= BATCH_LAST; i++)
		left -= word(bed, first + i);
	CHECK_EQ(left, 0);
}

/** bed_end() - stop, check what must hold after any test, release */
static inline void bed_end(struct bed *bed)
{
	bed_halt(bed);
	check_conservation(bed, TNL_OUTBOUND);
	check_conservation(bed, TNL_INBOUND);
	check_batches(bed, OUT_syscalls_read, OUT_batch_read_0);
	check_batches(bed, OUT_syscalls_written, OUT_batch_written_0);
	check_batches(bed, OUTBOUND_COUNTER_COUNT + IN_syscalls_read,
		      OUTBOUND_COUNTER_COUNT + IN_batch_read_0);
	check_batches(bed, OUTBOUND_COUNTER_COUNT + IN_syscalls_written,
		      OUTBOUND_COUNTER_COUNT + IN_batch_written_0);
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
static inline size_t receive(int fd, uint8_t *out, size_t room)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	ssize_t length;

	if (poll(&wait, 1, PATIENCE_MS) != 1)
		return 0;
	length = recv(fd, out, room, 0);
	return length < 0 ? 0 : (size_t)length;
}

/** from_peer() - send one datagram to the engine as the peer does */
static inline void from_peer(const struct bed *bed, const uint8_t *packet, size_t length)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
				 .sin_port = htons(bed->port),
				 .sin_addr.s_addr = htonl(OWN_IP)};

	if (sendto(bed->peer, packet, length, 0, (const struct sockaddr *)&to, sizeof(to)) !=
	    (ssize_t)length)
		abort();
}

/** vnet_bytes() - what comes before each packet on the pair */
static inline size_t vnet_bytes(const struct bed *bed)
{
	return bed->options.features & TNL_VNET_HDR ? VNET_HDR_BYTES : 0;
}

/** to_tun() - hand the engine one packet, behind a vnet header where there is one */
static inline void to_tun(const struct bed *bed, const uint8_t *packet, size_t length)
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
static inline size_t from_tun(const struct bed *bed, uint8_t *out, size_t room)
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
static inline bool wait_for(const struct bed *bed, uint32_t index, uint64_t value)
{
	for (int i = 0; i < PATIENCE_MS && word(bed, index) < value; i++)
		poll(NULL, 0, 1);
	return word(bed, index) >= value;
}

/** packet_to() - a UDP packet of @length bytes from container 1 */
static inline void packet_to(uint8_t *packet, uint32_t destination, uint16_t length,
			     uint16_t fragment)
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

/** segment_in() - the @n-th segment of a stream from the peer to container 1 */
static inline struct packet_spec segment_in(uint32_t n)
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

#endif
