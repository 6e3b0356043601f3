/*
 * inbound.h - underlay -> overlay: from the UDP socket to the TUN.
 */
#ifndef TNL_INBOUND_H
#define TNL_INBOUND_H

#include "dataplane.h"
#include "icmp.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "tun_batch.h"

/* A slot takes any datagram. The stride is not 64 KiB: equal low address bits of all slots would
 * fall on the same few cache sets. */
#define SLOT_BYTES 65536u
#define SLOT_STRIDE (SLOT_BYTES + 576u)

/** union gro_control - room for one UDP_GRO control message, aligned as cmsghdr */
union gro_control {
	struct cmsghdr header;
	uint8_t bytes[CMSG_SPACE(sizeof(int))];
};

/**
 * struct inbound - state of the inbound direction
 * @engine:    that it belongs to
 * @counters:  its words
 * @bucket:    rate limit of ICMP errors
 * @messages:  one per slot
 * @addresses: outer sources
 * @controls:  UDP_GRO sizes
 * @iovs:      one per slot
 * @slots:     datagrams as received
 * @tun:       packets about to be written
 */
struct inbound {
	struct tnl_engine *engine;
	uint64_t *counters;
	struct icmp_bucket bucket;
	struct mmsghdr messages[BATCH_MAX];
	struct sockaddr_in addresses[BATCH_MAX];
	union gro_control controls[BATCH_MAX];
	struct iovec iovs[BATCH_MAX];
	uint8_t *slots;
	struct tun_batch tun;
};

int inbound_new(struct tnl_engine *engine, uint64_t *counters, struct inbound **out);
enum turn_result inbound_turn(struct inbound *in);
void inbound_free(struct inbound *in);

#endif
