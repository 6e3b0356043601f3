/*
 * routes.c - see routes.h. Allocates when a table is built, never when it is read.
 */
#include "routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A path MTU below this is a forged or broken ICMP message: IPv4 hosts must take 576 bytes. */
#define PATH_MTU_MIN 576u
#define OUTER_HEADERS 28u

/**
 * route_hash_init() - make an empty table for up to @count keys
 * @hash:  to fill in
 * @count: keys that will be inserted
 *
 * Return: 0 or -ENOMEM
 */
static int route_hash_init(struct route_hash *hash, uint32_t count)
{
	uint32_t size = 8;
	uint32_t shift = 29;

	for (; size < (uint64_t)count * 2; size *= 2)
		shift--;
	hash->slots = malloc(sizeof(*hash->slots) * size);
	if (!hash->slots)
		return -ENOMEM;
	for (uint32_t i = 0; i < size; i++)
		hash->slots[i] = (struct route_slot){0, NO_ROUTE};
	hash->mask = size - 1;
	hash->shift = shift;
	return 0;
}

/**
 * route_hash_insert() - add a key; the first of two equal keys stays
 * @hash:  table with room
 * @key:   masked prefix or address
 * @index: 0 or more
 */
static void route_hash_insert(struct route_hash *hash, uint32_t key, int32_t index)
{
	for (uint32_t at = route_hash_start(hash, key);; at++) {
		struct route_slot *slot = &hash->slots[at & hash->mask];

		if (slot->index == NO_ROUTE) {
			*slot = (struct route_slot){key, index};
			return;
		}
		if (slot->key == key)
			return;
	}
}

/**
 * routes_build_levels() - one hash table for each prefix length in use, longest first
 * @table: with its routes copied
 *
 * Return: 0, -ENOMEM, or -EINVAL for a prefix length outside 1..32
 */
static int routes_build_levels(struct tnl_routes *table)
{
	uint32_t count[33] = {0};
	uint32_t level_of[33] = {0};

	for (uint32_t i = 0; i < table->snapshot.route_count; i++) {
		if (table->routes[i].prefix_len < 1 || table->routes[i].prefix_len > 32)
			return -EINVAL;
		count[table->routes[i].prefix_len]++;
	}
	for (uint32_t len = 32; len >= 1; len--) {
		struct route_level *level = &table->levels[table->level_count];

		if (!count[len])
			continue;
		level->netmask = prefix_mask(len);
		if (route_hash_init(&level->hash, count[len]))
			return -ENOMEM;
		level_of[len] = table->level_count++;
	}
	for (uint32_t i = 0; i < table->snapshot.route_count; i++) {
		const struct tnl_route *route = &table->routes[i];
		struct route_level *level = &table->levels[level_of[route->prefix_len]];

		route_hash_insert(&level->hash, route->subnet & level->netmask, (int32_t)i);
		route_hash_insert(&table->outer, route->public_ip, (int32_t)i);
	}
	return 0;
}

/**
 * routes_copy() - duplicate an array, also an empty one
 * @from:  first element; may be NULL when @bytes is 0
 * @bytes: size
 *
 * Return: heap copy, never NULL but when memory is short
 */
static void *routes_copy(const void *from, size_t bytes)
{
	void *to = malloc(bytes ? bytes : 1);

	if (to && bytes)
		memcpy(to, from, bytes);
	return to;
}

/**
 * tnl_routes_new() - compile a snapshot
 * @snapshot: copied; the caller may free its arrays
 * @out:      the table, to be freed by tnl_routes_free()
 *
 * Return: 0, -ENOMEM or -EINVAL
 */
int tnl_routes_new(const struct tnl_snapshot *snapshot, struct tnl_routes **out)
{
	struct tnl_routes *table;
	int error;

	if (snapshot->network_len > 32 || snapshot->subnet_len > 32 || snapshot->port == 0 ||
	    snapshot->port > 65535 || snapshot->route_count > INT32_MAX / 2)
		return -EINVAL;
	table = calloc(1, sizeof(*table));
	if (!table)
		return -ENOMEM;
	table->snapshot = *snapshot;
	table->routes =
		routes_copy(snapshot->routes, sizeof(*table->routes) * snapshot->route_count);
	table->allow_sources =
		routes_copy(snapshot->allow_sources,
			    sizeof(*table->allow_sources) * snapshot->allow_source_count);
	table->counters = calloc(snapshot->route_count + 1, sizeof(*table->counters));
	table->probed_ns = calloc(snapshot->route_count + 1, sizeof(*table->probed_ns));
	table->base = calloc(snapshot->route_count + 1, sizeof(*table->base));
	error = -ENOMEM;
	if (!table->routes || !table->allow_sources || !table->counters || !table->base ||
	    !table->probed_ns || route_hash_init(&table->outer, snapshot->route_count) ||
	    route_hash_init(&table->own, snapshot->own_address_count))
		goto fail;
	for (uint32_t i = 0; i < snapshot->own_address_count; i++)
		route_hash_insert(&table->own, snapshot->own_addresses[i], 0);
	error = routes_build_levels(table);
	if (error)
		goto fail;
	table->snapshot.routes = table->routes;
	table->snapshot.allow_sources = table->allow_sources;
	table->snapshot.own_addresses = NULL;
	*out = table;
	return 0;
fail:
	tnl_routes_free(table);
	return error;
}

/**
 * tnl_routes_free() - release a table; NULL is fine
 * @table: no thread may read it any more
 */
void tnl_routes_free(struct tnl_routes *table)
{
	if (!table)
		return;
	for (uint32_t i = 0; i < table->level_count; i++)
		free(table->levels[i].hash.slots);
	free(table->outer.slots);
	free(table->own.slots);
	free(table->routes);
	free(table->allow_sources);
	free(table->counters);
	free(table->base);
	free(table->probed_ns);
	free(table);
}

/**
 * tnl_routes_lookup() - longest prefix match
 * @table:   compiled snapshot
 * @address: inner destination
 *
 * Return: index into the snapshot's routes, or NO_ROUTE (-1)
 */
int32_t tnl_routes_lookup(const struct tnl_routes *table, uint32_t address)
{
	for (uint32_t i = 0; i < table->level_count; i++) {
		const struct route_level *level = &table->levels[i];
		int32_t found = route_hash_find(&level->hash, address & level->netmask);

		if (found != NO_ROUTE)
			return found;
	}
	return NO_ROUTE;
}

/**
 * tnl_routes_lookup_many() - many lookups in one call, for the benchmark
 * @table:     compiled snapshot
 * @addresses: inner destinations
 * @count:     how many
 *
 * Return: how many of them have a route
 */
uint32_t tnl_routes_lookup_many(const struct tnl_routes *table, const uint32_t *addresses,
				uint32_t count)
{
	uint32_t found = 0;

	for (uint32_t i = 0; i < count; i++)
		found += tnl_routes_lookup(table, addresses[i]) != NO_ROUTE;
	return found;
}

/**
 * routes_has_peer() - whether an outer source is the public IP of a live peer
 * @table:     compiled snapshot
 * @public_ip: outer source
 *
 * Return: true if so
 */
bool routes_has_peer(const struct tnl_routes *table, uint32_t public_ip)
{
	return route_hash_find(&table->outer, public_ip) != NO_ROUTE;
}

/**
 * routes_find_source() - the peer's route that an inner source belongs to
 * @table:     compiled snapshot
 * @source:    inner source
 * @public_ip: outer source; 0: any peer will do (--allow-source, --source-check=off)
 *
 * One public IP may hold several leases, and leases may overlap: any covering one with the right
 * public IP is good, not just the longest.
 *
 * Return: route index, or NO_ROUTE
 */
int32_t routes_find_source(const struct tnl_routes *table, uint32_t source, uint32_t public_ip)
{
	for (uint32_t i = 0; i < table->level_count; i++) {
		const struct route_level *level = &table->levels[i];
		int32_t found = route_hash_find(&level->hash, source & level->netmask);

		if (found != NO_ROUTE &&
		    (public_ip == 0 || table->routes[found].public_ip == public_ip))
			return found;
	}
	return NO_ROUTE;
}

/**
 * routes_allows_source() - whether --allow-source names an outer source
 * @table:     compiled snapshot
 * @public_ip: outer source
 *
 * Return: true if so
 */
bool routes_allows_source(const struct tnl_routes *table, uint32_t public_ip)
{
	for (uint32_t i = 0; i < table->snapshot.allow_source_count; i++) {
		const struct tnl_prefix *prefix = &table->allow_sources[i];

		if (prefix_covers(prefix->address, prefix->prefix_len, public_ip))
			return true;
	}
	return false;
}

/**
 * routes_path_mtu() - the largest inner packet that reaches a peer unfragmented
 * @table: compiled snapshot
 * @route: index
 *
 * Return: bytes of the inner packet
 */
uint32_t routes_path_mtu(const struct tnl_routes *table, int32_t route)
{
	uint32_t path = table->routes[route].path_mtu;
	uint32_t mtu = table->snapshot.mtu;

	if (path >= PATH_MTU_MIN && path - OUTER_HEADERS < mtu)
		return path - OUTER_HEADERS;
	return mtu;
}

/** bump() - add to a word that one thread writes and others read */
static void bump(uint64_t *word, uint64_t n)
{
	__atomic_store_n(word, *word + n, __ATOMIC_RELAXED);
}

/**
 * routes_count_tx() - count inner packets sent to a peer (outbound thread only)
 * @table:   compiled snapshot
 * @route:   index
 * @packets: inner packets
 * @bytes:   inner bytes
 */
void routes_count_tx(const struct tnl_routes *table, int32_t route, uint64_t packets,
		     uint64_t bytes)
{
	bump(&table->counters[route].tx_packets, packets);
	bump(&table->counters[route].tx_bytes, bytes);
}

/**
 * routes_count_rx() - count inner packets received from a peer (inbound thread only)
 * @table:   compiled snapshot
 * @route:   index
 * @packets: inner packets
 * @bytes:   inner bytes
 */
void routes_count_rx(const struct tnl_routes *table, int32_t route, uint64_t packets,
		     uint64_t bytes)
{
	bump(&table->counters[route].rx_packets, packets);
	bump(&table->counters[route].rx_bytes, bytes);
}

/**
 * routes_read_counters() - what a peer has exchanged since it appeared
 * @table: live or retired
 * @route: index
 * @out:   the sums
 */
void routes_read_counters(const struct tnl_routes *table, uint32_t route,
			  struct tnl_peer_counters *out)
{
	const struct tnl_peer_counters *live = &table->counters[route];

	*out = table->base[route];
	out->tx_packets += __atomic_load_n(&live->tx_packets, __ATOMIC_RELAXED);
	out->tx_bytes += __atomic_load_n(&live->tx_bytes, __ATOMIC_RELAXED);
	out->rx_packets += __atomic_load_n(&live->rx_packets, __ATOMIC_RELAXED);
	out->rx_bytes += __atomic_load_n(&live->rx_bytes, __ATOMIC_RELAXED);
}

/**
 * routes_carry() - let the counters and path probes of peers that stay go on in the next table
 * @from: retired: nobody uses it any more
 * @to:   the live table; its base is the publisher's own, a probe at this very moment may be
 *        forgotten
 */
void routes_carry(const struct tnl_routes *from, struct tnl_routes *to)
{
	for (uint32_t i = 0; i < from->snapshot.route_count; i++) {
		const struct tnl_route *route = &from->routes[i];
		uint32_t netmask = prefix_mask(route->prefix_len);
		int32_t next = NO_ROUTE;

		for (uint32_t l = 0; l < to->level_count; l++)
			if (to->levels[l].netmask == netmask)
				next = route_hash_find(&to->levels[l].hash,
						       route->subnet & netmask);
		if (next == NO_ROUTE || to->routes[next].public_ip != route->public_ip)
			continue;
		routes_read_counters(from, i, &to->base[next]);
		__atomic_store_n(&to->probed_ns[next], from->probed_ns[i], __ATOMIC_RELAXED);
	}
}
