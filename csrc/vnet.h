/*
 * vnet.h - the header that a TUN with IFF_VNET_HDR puts before each packet (virtio 1.2, 5.1.6).
 *
 * Own names: Debian 12's kernel headers do not know USO yet. A TUN uses the legacy layout: ten
 * bytes in the host's byte order.
 */
#ifndef TNL_VNET_H
#define TNL_VNET_H

#include <stdint.h>

#define VNET_NEEDS_CSUM 1u /* the L4 checksum holds the pseudo header's sum only */
#define VNET_DATA_VALID 2u /* the L4 checksum has been verified */
#define VNET_GSO_NONE 0u
#define VNET_GSO_TCPV4 1u
#define VNET_GSO_UDP_L4 5u
#define VNET_GSO_ECN 0x80u

/**
 * struct vnet_hdr - offload state of one packet
 * @flags:       VNET_NEEDS_CSUM or VNET_DATA_VALID
 * @gso_type:    VNET_GSO_*
 * @hdr_len:     bytes of IP and L4 header
 * @gso_size:    payload bytes of each segment but the last
 * @csum_start:  where the L4 header begins
 * @csum_offset: of the checksum field within it
 */
struct vnet_hdr {
	uint8_t flags;
	uint8_t gso_type;
	uint16_t hdr_len;
	uint16_t gso_size;
	uint16_t csum_start;
	uint16_t csum_offset;
};

#define VNET_HDR_BYTES 10u
_Static_assert(sizeof(struct vnet_hdr) == VNET_HDR_BYTES, "legacy virtio_net_hdr");

#endif
