/*
 * routes.h - an immutable table of everything the packet path decides by.
 *
 * Built once per snapshot, then only read, but for the per-peer counters. A lookup probes one hash
 * table per prefix length in use, longest first: its cost depends on how many different lengths
 * there are (one or two in a real network), not on the number of peers.
 */
#ifndef TNL_ROUTES_H
#define TNL_ROUTES_H

#include <stdbool.h>
#include <stdint.h>

#include "dataplane.h"

#define NO_ROUTE (-1)

/** struct route_slot - one slot of an open-addressing hash table
 * @key:   a masked prefix or an address
 * @index: of the route, or NO_ROUTE for an empty slot
 */
struct route_slot {
	uint32_t key;
	int32_t index;
};

/** struct route_hash - a hash table of 2^n slots, at most half full
 * @slots: the slots
 * @mask:  number of slots - 1
 * @shift: 32 - n
 */
struct route_hash {
	struct route_slot *slots;
	uint32_t mask;
	uint32_t shift;
};

/** struct route_level - the routes of one prefix length
 * @netmask: of this length
 * @hash:    masked prefix -> route
 */
struct route_level {
	uint32_t netmask;
	struct route_hash hash;
};

/** struct tnl_routes - the compiled snapshot
 * @snapshot:    scalars of the snapshot; its pointers point into this table's own copies
 * @generation:  differs between any two tables of one engine
 * @level_count: prefix lengths in use
 * @levels:      longest first
 * @outer:       public IP -> first route that has it
 * @own:         the host's own addresses
 * @routes:      the routes, in the order of the snapshot
 * @counters:    per route, counted while this table is live
 * @probed_ns:   per route, when outbound last sent a full-size datagram that learns the path MTU
 * @base:        per route, what earlier tables had counted; written by the publisher alone
 */
struct tnl_routes {
	struct tnl_snapshot snapshot;
	uint64_t generation;
	uint32_t level_count;
	struct route_level levels[32];
	struct route_hash outer;
	struct route_hash own;
	struct tnl_route *routes;
	struct tnl_prefix *allow_sources;
	struct tnl_peer_counters *counters;
	uint64_t *probed_ns;
	struct tnl_peer_counters *base;
};

/** prefix_mask() - netmask of a prefix length 0..32 */
static inline uint32_t prefix_mask(uint32_t prefix_len)
{
	return prefix_len ? ~0u << (32 - prefix_len) : 0;
}

/** prefix_covers() - whether an address lies in a prefix */
static inline bool prefix_covers(uint32_t prefix, uint32_t prefix_len, uint32_t address)
{
	return ((address ^ prefix) & prefix_mask(prefix_len)) == 0;
}

/** route_hash_start() - Fibonacci hashing: the upper bits depend on every bit of the key */
static inline uint32_t route_hash_start(const struct route_hash *hash, uint32_t key)
{
	return (key * 2654435769u) >> hash->shift;
}

/** route_hash_find() - look a key up
 * @hash: table
 * @key:  masked prefix or address
 *
 * Return: the index stored with @key, or NO_ROUTE
 */
static inline int32_t route_hash_find(const struct route_hash *hash, uint32_t key)
{
	for (uint32_t at = route_hash_start(hash, key);; at++) {
		const struct route_slot *slot = &hash->slots[at & hash->mask];

		if (slot->index == NO_ROUTE || slot->key == key)
			return slot->index;
	}
}

/** routes_is_own() - whether an address is one of this host's own */
static inline bool routes_is_own(const struct tnl_routes *table, uint32_t address)
{
	return route_hash_find(&table->own, address) != NO_ROUTE;
}

bool routes_has_peer(const struct tnl_routes *table, uint32_t public_ip);
int32_t routes_find_source(const struct tnl_routes *table, uint32_t source, uint32_t public_ip);
bool routes_allows_source(const struct tnl_routes *table, uint32_t public_ip);
uint32_t routes_path_mtu(const struct tnl_routes *table, int32_t route);
void routes_count_tx(const struct tnl_routes *table, int32_t route, uint64_t packets,
		     uint64_t bytes);
void routes_count_rx(const struct tnl_routes *table, int32_t route, uint64_t packets,
		     uint64_t bytes);
void routes_carry(const struct tnl_routes *from, struct tnl_routes *to);
void routes_read_counters(const struct tnl_routes *table, uint32_t route,
			  struct tnl_peer_counters *out);

#endif
