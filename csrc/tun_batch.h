/*
 * tun_batch.h - the way into the TUN: one write per packet, or per superpacket.
 *
 * Without a vnet header every packet is written at once. With it, packets are collected, joined
 * (coalesce.h) and written by tun_batch_flush(), which must be called before the buffers that they
 * lie in are used again.
 *
 * What is atomic: a packet is written whole or not at all. A superpacket that the kernel refuses
 * (EINVAL) is written again packet by packet, and joining that protocol ends for good.
 */
#ifndef TNL_TUN_BATCH_H
#define TNL_TUN_BATCH_H

#include "coalesce.h"
#include "routes.h"

/**
 * struct tun_batch - what is about to be written
 * @fd:         the TUN, borrowed
 * @vnet:       it was opened with IFF_VNET_HDR
 * @counters:   of the inbound direction
 * @downgrades: superpackets that the kernel refused
 * @coalesce:   packets of this batch
 */
struct tun_batch {
	int fd;
	bool vnet;
	uint64_t *counters;
	uint64_t downgrades;
	struct coalesce coalesce;
};

void tun_batch_init(struct tun_batch *batch, int fd, uint32_t features, uint64_t *counters);
void tun_batch_add(struct tun_batch *batch, const struct tnl_routes *table, int32_t route,
		   uint8_t *packet, const struct ip_header *header);
void tun_batch_flush(struct tun_batch *batch, const struct tnl_routes *table);

#endif
