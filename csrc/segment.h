/*
 * segment.h - one superpacket from the TUN becomes the packets that the wire carries.
 *
 * A container's TCP hands the kernel up to 64 KiB at once (TSO), a UDP program that uses
 * UDP_SEGMENT likewise (USO). The kernel passes such a superpacket on uncut when the TUN says that
 * it can cut. Cutting needs new headers only: each segment is [header][slice of the payload], and
 * the slices stay where they are.
 *
 * Pure: no descriptor, no allocation, tested without a kernel.
 */
#ifndef TNL_SEGMENT_H
#define TNL_SEGMENT_H

#include "ip.h"
#include "vnet.h"

/* The kernel's smallest TCP MSS is 48 (tcp_min_snd_mss): more segments cannot be. */
#define SEGMENTS_MAX 1366u
/* An IPv4 and a TCP header, both with all options. */
#define SEGMENT_HEADER_MAX 120u

/**
 * struct segment_plan - how a superpacket will be cut
 * @header_length: bytes of IP and L4 header, the same in each segment
 * @l4_offset:     where the L4 header begins
 * @payload:       payload bytes of the superpacket
 * @size:          payload bytes of each segment but the last
 * @count:         number of segments
 * @checksum:      false: a UDP superpacket without checksum stays without
 */
struct segment_plan {
	uint32_t header_length;
	uint32_t l4_offset;
	uint32_t payload;
	uint32_t size;
	uint32_t count;
	bool checksum;
};

bool segment_make_plan(const struct vnet_hdr *vnet, const uint8_t *packet,
		       const struct ip_header *header, struct segment_plan *plan);
uint32_t segment_payload_length(const struct segment_plan *plan, uint32_t index);
void segment_build_header(const struct segment_plan *plan, const uint8_t *packet,
			  const struct ip_header *header, uint32_t index, uint8_t *out);
bool segment_complete_checksum(const struct vnet_hdr *vnet, uint8_t *packet, uint32_t length);

#endif
