/*
 * udp_batch.h - collects encapsulated packets and sends them with as few system calls as allowed.
 *
 * Glossary, from small to large:
 *   packet   one inner IP packet: the whole payload of one datagram.
 *   run      consecutive packets to one peer with equal sizes, of which the last may be shorter.
 *            On the wire a run is one datagram per packet. Where the socket takes UDP_SEGMENT it is
 *            handed to the kernel as one message.
 *   batch    the runs of one system call (sendmmsg).
 *
 * What is atomic: a packet is sent whole or not at all. A run that the kernel refuses as one
 * message is sent again packet by packet. A destination that the kernel rejects costs only its own
 * packets: sendmmsg stops there, that run is counted and skipped, the rest goes on. Packets leave
 * in the order in which they were added.
 */
#ifndef TNL_UDP_BATCH_H
#define TNL_UDP_BATCH_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "routes.h"
#include "segment.h"

/* A batch that is not full takes the most finely cut superpacket: SEGMENTS_MAX segments of two
 * iovecs each, in runs of at least 63 (the limit of UDP_SEGMENT before Linux 6.9). */
#define SUPERPACKET_IOVS (2u * SEGMENTS_MAX)
#define SUPERPACKET_RUNS (SEGMENTS_MAX / 63u + 1)
#define BATCH_RUNS (BATCH_MAX + SUPERPACKET_RUNS)
#define BATCH_IOVS (BATCH_MAX + 2u * SUPERPACKET_IOVS)
/* The kernel takes a UDP payload of 65,507 bytes, but splits what is over 65,480 in a GSO send. */
#define RUN_BYTES_MAX 65480u

/**
 * struct udp_run - one message of a batch
 * @destination:  an inner destination of the run: finds the peer again if the table changed
 * @route:        of the peer, valid in the table of @generation
 * @packets:      in this run
 * @bytes:        inner bytes in this run
 * @segment_size: size of all packets but the last
 * @first_iov:    index into the batch's iovecs
 * @iov_count:    how many iovecs
 * @packet_iovs:  iovecs per packet
 * @closed:       a shorter packet ended the run
 * @plain:        goes packet by packet: the kernel refused it as one message, or the path must be
 *                probed
 */
struct udp_run {
	uint32_t destination;
	int32_t route;
	uint32_t packets;
	uint32_t bytes;
	uint32_t segment_size;
	uint32_t first_iov;
	uint32_t iov_count;
	uint32_t packet_iovs;
	bool closed;
	bool plain;
};

/** union segment_control - room for one UDP_SEGMENT control message, aligned as cmsghdr */
union segment_control {
	struct cmsghdr header;
	uint8_t bytes[CMSG_SPACE(sizeof(uint16_t))];
};

/**
 * struct udp_batch - see the glossary
 * @fd:           the UDP socket, borrowed
 * @capacity:     runs per system call
 * @max_segments: packets per run; 1: no UDP_SEGMENT
 * @counters:     of the outbound direction
 * @generation:   of the table that the routes of all runs belong to
 * @count:        runs held
 * @sent:         of them already sent (the rest waits for POLLOUT)
 * @iov_used:     of @iovs
 * @downgrades:   runs that the kernel refused as one message
 */
struct udp_batch {
	int fd;
	uint32_t capacity;
	uint32_t max_segments;
	uint64_t *counters;
	uint64_t generation;
	uint32_t count;
	uint32_t sent;
	uint32_t iov_used;
	uint64_t downgrades;
	struct udp_run runs[BATCH_RUNS];
	struct mmsghdr messages[BATCH_RUNS];
	struct sockaddr_in addresses[BATCH_RUNS];
	union segment_control controls[BATCH_RUNS];
	struct iovec iovs[BATCH_IOVS];
};

void udp_batch_init(struct udp_batch *batch, int fd, uint32_t capacity, uint32_t max_segments,
		    uint64_t *counters);
bool udp_batch_is_full(const struct udp_batch *batch);
struct udp_run *udp_batch_open(struct udp_batch *batch, const struct tnl_routes *table,
			       int32_t route, uint32_t destination, uint32_t segment_size);
struct udp_run *udp_batch_join(struct udp_batch *batch, const struct tnl_routes *table,
			       int32_t route, uint32_t destination, uint32_t length, uint32_t iovs);
void udp_batch_append(struct udp_batch *batch, struct udp_run *run, void *data, uint32_t length);
void udp_batch_add(struct udp_batch *batch, const struct tnl_routes *table, int32_t route,
		   uint32_t destination, uint8_t *packet, uint32_t length, bool alone);
bool udp_batch_flush(struct udp_batch *batch, const struct tnl_routes *table);
void udp_batch_discard(struct udp_batch *batch);

#endif
