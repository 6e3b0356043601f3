/*
 * test_routes.c - routes.c against the obvious: a walk over the whole list.
 */
#include "check.h"
#include "routes.h"

#include <errno.h>

#define ROUTES_MAX 300u

/** snapshot_of() - a snapshot with routes and nothing else */
static struct tnl_snapshot snapshot_of(const struct tnl_route *routes, uint32_t count)
{
	return (struct tnl_snapshot){
		.network = 0x0a000000,
		.network_len = 8,
		.subnet = 0x0a000100,
		.subnet_len = 24,
		.tun_address = 0x0a000100,
		.mtu = 1472,
		.port = 8285,
		.source_check = TNL_SOURCE_PEER,
		.routes = routes,
		.route_count = count,
	};
}

/** compile() - tnl_routes_new() that must succeed */
static struct tnl_routes *compile(const struct tnl_snapshot *snapshot)
{
	struct tnl_routes *table = NULL;

	if (tnl_routes_new(snapshot, &table))
		abort();
	return table;
}

/** brute_force() - longest prefix match as a definition: look at every route */
static int32_t brute_force(const struct tnl_route *routes, uint32_t count, uint32_t address)
{
	int32_t best = NO_ROUTE;

	for (uint32_t i = 0; i < count; i++) {
		if ((address ^ routes[i].subnet) & prefix_mask(routes[i].prefix_len))
			continue;
		if (best == NO_ROUTE || routes[i].prefix_len > routes[best].prefix_len)
			best = (int32_t)i;
	}
	return best;
}

/** brute_force_source() - any covering route with this public IP; 0: any */
static bool brute_force_source(const struct tnl_route *routes, uint32_t count, uint32_t source,
			       uint32_t public_ip)
{
	for (uint32_t i = 0; i < count; i++)
		if (((source ^ routes[i].subnet) & prefix_mask(routes[i].prefix_len)) == 0 &&
		    (public_ip == 0 || routes[i].public_ip == public_ip))
			return true;
	return false;
}

/** random_routes() - distinct prefixes, crowded so that they overlap; few public IPs, so shared */
static uint32_t random_routes(struct tnl_route *routes, uint64_t *random)
{
	uint32_t wanted = check_random(random) % ROUTES_MAX, count = 0;

	for (uint32_t i = 0; i < wanted; i++) {
		uint8_t prefix_len = (uint8_t)(1 + check_random(random) % 32);
		uint32_t subnet = 0x0a000000 | (check_random(random) & 0x00030f0f);
		bool known = false;

		subnet &= prefix_mask(prefix_len);
		for (uint32_t j = 0; j < count; j++)
			known |= routes[j].subnet == subnet && routes[j].prefix_len == prefix_len;
		if (known)
			continue;
		routes[count++] = (struct tnl_route){
			.subnet = subnet,
			.prefix_len = prefix_len,
			.public_ip = 0xac100000 + check_random(random) % 40,
		};
	}
	return count;
}

/** random_address() - mostly where the routes are */
static uint32_t random_address(uint64_t *random)
{
	uint32_t address = check_random(random);

	return address & 0x80000000 ? address : 0x0a000000 | (address & 0x00030f0f);
}

/** test_lookup() - random tables, random addresses, the same answers as the walk */
static void test_lookup(void)
{
	static struct tnl_route routes[ROUTES_MAX];
	uint64_t random = 7;

	for (int round = 0; round < 200; round++) {
		uint32_t count = random_routes(routes, &random);
		struct tnl_snapshot snapshot = snapshot_of(routes, count);
		struct tnl_routes *table = compile(&snapshot);

		for (int i = 0; i < 300; i++) {
			uint32_t address = random_address(&random);
			uint32_t public_ip = 0xac100000 + check_random(&random) % 45;
			int32_t route = tnl_routes_lookup(table, address);
			bool known = false;

			CHECK_EQ(route, brute_force(routes, count, address));
			CHECK_EQ(tnl_routes_lookup_many(table, &address, 1), route != NO_ROUTE);
			CHECK_EQ(routes_find_source(table, address, public_ip) != NO_ROUTE,
				 brute_force_source(routes, count, address, public_ip));
			CHECK_EQ(routes_find_source(table, address, 0) != NO_ROUTE,
				 brute_force_source(routes, count, address, 0));
			for (uint32_t j = 0; j < count; j++)
				known |= routes[j].public_ip == public_ip;
			CHECK_EQ(routes_has_peer(table, public_ip), known);
		}
		tnl_routes_free(table);
	}
}

/** test_copies() - the caller's arrays may go away */
static void test_copies(void)
{
	struct tnl_route *routes = calloc(2, sizeof(*routes));
	uint32_t *own = calloc(1, sizeof(*own));
	struct tnl_prefix *allowed = calloc(1, sizeof(*allowed));
	struct tnl_snapshot snapshot;
	struct tnl_routes *table;

	if (!routes || !own || !allowed)
		abort();
	routes[0] =
		(struct tnl_route){.subnet = 0x0a000200, .prefix_len = 24, .public_ip = 0xac100001};
	routes[1] =
		(struct tnl_route){.subnet = 0x0a000300, .prefix_len = 24, .public_ip = 0xac100002};
	own[0] = 0xac1000ff;
	allowed[0] = (struct tnl_prefix){.address = 0xc6336400, .prefix_len = 24};
	snapshot = snapshot_of(routes, 2);
	snapshot.own_addresses = own;
	snapshot.own_address_count = 1;
	snapshot.allow_sources = allowed;
	snapshot.allow_source_count = 1;
	table = compile(&snapshot);
	memset(routes, 0, 2 * sizeof(*routes));
	memset(own, 0, sizeof(*own));
	memset(allowed, 0, sizeof(*allowed));
	free(routes);
	free(own);
	free(allowed);
	CHECK_EQ(tnl_routes_lookup(table, 0x0a000205), 0);
	CHECK_EQ(tnl_routes_lookup(table, 0x0a0003ff), 1);
	CHECK_EQ(tnl_routes_lookup(table, 0x0a000400), NO_ROUTE);
	CHECK(routes_is_own(table, 0xac1000ff));
	CHECK(!routes_is_own(table, 0xac100001));
	CHECK(!routes_is_own(table, 0));
	CHECK(routes_allows_source(table, 0xc63364ff));
	CHECK(!routes_allows_source(table, 0xc6336500));
	tnl_routes_free(table);
}

/** test_empty() - a cluster of one: nothing is found, nothing loops */
static void test_empty(void)
{
	struct tnl_snapshot snapshot = snapshot_of(NULL, 0);
	struct tnl_routes *table = compile(&snapshot);

	CHECK_EQ(tnl_routes_lookup(table, 0x0a000200), NO_ROUTE);
	CHECK(!routes_has_peer(table, 0));
	CHECK(!routes_is_own(table, 0));
	CHECK(!routes_allows_source(table, 0x0a000200));
	tnl_routes_free(table);
	tnl_routes_free(NULL);
}

/** test_refused() - what cannot be a snapshot is -EINVAL, and leaks nothing */
static void test_refused(void)
{
	struct tnl_route route = {.subnet = 0x0a000200, .prefix_len = 24, .public_ip = 1};
	struct tnl_snapshot good = snapshot_of(&route, 1), bad;
	struct tnl_routes *table = NULL;

	route.prefix_len = 0;
	CHECK_EQ(tnl_routes_new(&good, &table), -EINVAL);
	route.prefix_len = 33;
	CHECK_EQ(tnl_routes_new(&good, &table), -EINVAL);
	route.prefix_len = 24;
	bad = good;
	bad.port = 0;
	CHECK_EQ(tnl_routes_new(&bad, &table), -EINVAL);
	bad.port = 65536;
	CHECK_EQ(tnl_routes_new(&bad, &table), -EINVAL);
	bad = good;
	bad.network_len = 33;
	CHECK_EQ(tnl_routes_new(&bad, &table), -EINVAL);
	bad = good;
	bad.subnet_len = 33;
	CHECK_EQ(tnl_routes_new(&bad, &table), -EINVAL);
	CHECK(table == NULL);
}

/** test_path_mtu() - what the path says, unless it is absurd or says more than the TUN */
static void test_path_mtu(void)
{
	static const struct {
		uint16_t path;
		uint32_t inner;
	} cases[] = {
		{0, 1472},    {68, 1472},   {575, 1472},  {576, 548},	 {1400, 1372},
		{1499, 1471}, {1500, 1472}, {1501, 1472}, {65535, 1472},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct tnl_route route = {.subnet = 0x0a000200,
					  .prefix_len = 24,
					  .public_ip = 1,
					  .path_mtu = cases[i].path};
		struct tnl_snapshot snapshot = snapshot_of(&route, 1);
		struct tnl_routes *table = compile(&snapshot);

		CHECK_EQ(routes_path_mtu(table, 0), cases[i].inner);
		tnl_routes_free(table);
	}
}

/** test_carry() - counters follow a peer that stays, not a subnet that changed hands */
static void test_carry(void)
{
	static const struct tnl_route before[] = {
		{.subnet = 0x0a000200, .prefix_len = 24, .public_ip = 1},
		{.subnet = 0x0a000300, .prefix_len = 24, .public_ip = 2},
		{.subnet = 0x0a000400, .prefix_len = 24, .public_ip = 3},
	};
	static const struct tnl_route after[] = {
		{.subnet = 0x0a000300, .prefix_len = 24, .public_ip = 2},
		{.subnet = 0x0a000200, .prefix_len = 24, .public_ip = 9},
		{.subnet = 0x0a000400, .prefix_len = 25, .public_ip = 3},
	};
	static const uint64_t want[] = {5, 0, 0};
	struct tnl_snapshot first = snapshot_of(before, 3), second = snapshot_of(after, 3);
	struct tnl_routes *old = compile(&first), *next = compile(&second);

	for (int32_t i = 0; i < 3; i++) {
		routes_count_tx(old, i, 5, 500);
		routes_count_rx(old, i, 5, 500);
		old->probed_ns[i] = 7;
	}
	routes_carry(old, next);
	tnl_routes_free(old);
	for (uint32_t i = 0; i < 3; i++) {
		struct tnl_peer_counters counters;

		routes_read_counters(next, i, &counters);
		CHECK_EQ(counters.tx_packets, want[i]);
		CHECK_EQ(counters.tx_bytes, want[i] * 100);
		CHECK_EQ(counters.rx_packets, want[i]);
		CHECK_EQ(counters.rx_bytes, want[i] * 100);
		CHECK_EQ(next->probed_ns[i], want[i] ? 7 : 0);
	}
	tnl_routes_free(next);
}

int main(void)
{
	test_lookup();
	test_copies();
	test_empty();
	test_refused();
	test_path_mtu();
	test_carry();
	return check_result("test_routes");
}
