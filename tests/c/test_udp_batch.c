/*
 * test_udp_batch.c - a batch that the socket takes no more of, and what becomes of it when the
 * routes change meanwhile. The sockets are real.
 */
#include "check.h"

#include <arpa/inet.h>
#include <errno.h>
#include <unistd.h>

#include "counters.h"
#include "routes.h"
#include "udp_batch.h"

#define NEW_IP 0x7f000002u
#define OWN_IP 0x7f000003u
#define OLD_IP 0x7f000004u
#define DESTINATION 0x64600203u

/** struct moved - where the peer is when the socket takes packets again
 * @name:      for the reader
 * @public_ip: of the peer's subnet in the next table; 0: it has left
 * @arrive:    datagrams at NEW_IP
 * @no_route, @own_peer: dropped, by reason
 */
struct moved {
	const char *name;
	uint32_t public_ip;
	uint64_t arrive;
	uint64_t no_route;
	uint64_t own_peer;
};

/** table_of() - routes with one peer, or none */
static struct tnl_routes *table_of(uint32_t public_ip, uint16_t port, uint64_t generation)
{
	static const uint32_t own[] = {OWN_IP};
	struct tnl_route route = {.subnet = 0x64600200, .prefix_len = 24, .public_ip = public_ip};
	struct tnl_snapshot snapshot = {.network = 0x64600000,
					.network_len = 16,
					.subnet = 0x64600100,
					.subnet_len = 24,
					.mtu = 1472,
					.port = port,
					.routes = &route,
					.route_count = public_ip ? 1 : 0,
					.own_addresses = own,
					.own_address_count = 1};
	struct tnl_routes *table;

	if (tnl_routes_new(&snapshot, &table))
		abort();
	table->generation = generation;
	return table;
}

/** listen_at() - a UDP socket */
static int listen_at(uint32_t address, uint16_t *port)
{
	struct sockaddr_in name = {
		.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(address)};
	socklen_t length = sizeof(name);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&name, sizeof(name)) ||
	    getsockname(fd, (struct sockaddr *)&name, &length))
		abort();
	*port = ntohs(name.sin_port);
	return fd;
}

/** test_moved() - what is left over goes where the new table says, or is counted */
static void test_moved(const struct moved *c)
{
	static struct udp_batch batch;
	uint64_t counters[OUTBOUND_COUNTER_COUNT] = {0};
	uint8_t packets[3][100] = {{0}}, got[200];
	struct tnl_peer_counters peer = {0};
	struct tnl_routes *before, *after;
	uint64_t arrived = 0;
	uint16_t port = 0;
	int sender, receiver = listen_at(NEW_IP, &port);

	sender = listen_at(0x7f000001u, &(uint16_t){0});
	before = table_of(OLD_IP, port, 1);
	after = table_of(c->public_ip, port, 2);
	udp_batch_init(&batch, sender, 64, 1, counters);
	for (int i = 0; i < 3; i++)
		udp_batch_add(&batch, before, 0, DESTINATION, packets[i], sizeof(packets[i]),
			      false);
	/* The flush that met a full socket has returned; its first packet had gone. */
	batch.sent = 1;
	count(counters, OUT_packets_written, 1);
	CHECK(udp_batch_flush(&batch, after));
	while (recv(receiver, got, sizeof(got), 0) == (ssize_t)sizeof(packets[0]))
		arrived++;
	CHECK_EQ(arrived, c->arrive);
	CHECK_EQ(counters[OUT_packets_written], 1 + c->arrive);
	CHECK_EQ(counters[OUT_drop_no_route], c->no_route);
	CHECK_EQ(counters[OUT_drop_own_peer], c->own_peer);
	if (c->public_ip)
		routes_read_counters(after, 0, &peer);
	CHECK_EQ(peer.tx_packets, c->arrive);
	tnl_routes_free(before);
	tnl_routes_free(after);
	close(sender);
	close(receiver);
}

int main(void)
{
	static const struct moved cases[] = {
		{"the subnet has another holder", NEW_IP, 2, 0, 0},
		{"the peer has left", 0, 0, 2, 0},
		{"the holder is this host", OWN_IP, 0, 0, 2},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t failures = check_state.failures;

		test_moved(&cases[i]);
		if (check_state.failures != failures)
			printf("  in: %s\n", cases[i].name);
	}
	return check_result("test_udp_batch");
}
