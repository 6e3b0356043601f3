/*
 * coalesce.h - packets of one flow, received one by one, become one superpacket for the TUN.
 *
 * The mirror image of segment.h: what a sender's kernel cut (or never joined) is handed to our
 * kernel as one packet of up to 64 KiB, so that routing, bridging and the container's TCP run once
 * and not 45 times. Our kernel cuts it again where a device needs that, so the receiver's TCP or
 * UDP sees the same bytes and the same datagram boundaries.
 *
 * Glossary
 *   piece   one packet as received.
 *   entry   one or more pieces that will be written to the TUN as one packet.
 *   flow    addresses, protocol and ports.
 *
 * Why no flow is ever reordered: entries are written in the order in which they were opened, and a
 * piece may only join the newest entry of its flow. A piece that is no candidate (SYN, FIN, a pure
 * ACK, another size...) opens an entry of its own that nothing joins, so what came before it in its
 * flow stays before it. A fragment has no ports, so its flow is not known: nothing that follows
 * joins anything that came before it.
 *
 * Pure: no descriptor, no allocation, tested without a kernel.
 */
#ifndef TNL_COALESCE_H
#define TNL_COALESCE_H

#include "ip.h"
#include "segment.h"
#include "vnet.h"

/* A TUN takes 128 segments of UDP; GRO in the kernel stops at 64, and so do we. */
#define COALESCE_SEGMENTS 64u
/* The kernel takes the offloads from a packet that reaches 64 KiB with its Ethernet header and a
 * VLAN tag (net/core/dev.c, gso_features_check()): it would cut it before the container's veth. */
#define COALESCE_BYTES (IP_PACKET_MAX - 18u)
#define COALESCE_ENTRIES 1024u
#define COALESCE_PIECES 4096u
#define COALESCE_BUCKETS 1024u
#define COALESCE_NONE 0xffffffffu

/** struct coalesce_piece - one packet of an entry
 * @packet: start of its IP header
 * @next:   piece of the same entry, or COALESCE_NONE
 * @length: total length
 */
struct coalesce_piece {
	uint8_t *packet;
	uint32_t next;
	uint32_t length;
};

/** struct coalesce_entry - what will be one write
 * @first:         first piece
 * @last:          last piece
 * @count:         pieces
 * @bytes:         total length of the superpacket
 * @header_length: IP and L4 header of each piece
 * @l4_offset:     where the L4 header begins
 * @size:          payload bytes of each piece but the last
 * @next_sequence: TCP sequence number that would continue the entry
 * @next_id:       IP id that would continue it
 * @hash:          of the flow
 * @proto:         protocol
 * @open:          a piece may join
 * @verified:      the L4 checksum was found good
 * @route:         of the peer, for the caller
 * @inner_bytes:   sum of the pieces' lengths
 */
struct coalesce_entry {
	uint32_t first;
	uint32_t last;
	uint32_t count;
	uint32_t bytes;
	uint32_t header_length;
	uint32_t l4_offset;
	uint32_t size;
	uint32_t next_sequence;
	uint16_t next_id;
	uint32_t hash;
	uint8_t proto;
	bool open;
	bool verified;
	int32_t route;
	uint32_t inner_bytes;
};

/** struct coalesce - the entries of one batch
 * @entries:     in the order in which they will be written
 * @entry_count: how many
 * @pieces:      of all entries
 * @piece_count: how many
 * @buckets:     flow hash -> newest entry + 1 of a flow with that hash, or 0
 * @barrier:     entries below it take no more pieces
 * @tcp, @udp:   whether to join packets of that protocol
 */
struct coalesce {
	struct coalesce_entry entries[COALESCE_ENTRIES];
	uint32_t entry_count;
	struct coalesce_piece pieces[COALESCE_PIECES];
	uint32_t piece_count;
	uint16_t buckets[COALESCE_BUCKETS];
	uint32_t barrier;
	bool tcp;
	bool udp;
};

void coalesce_reset(struct coalesce *c);
bool coalesce_is_full(const struct coalesce *c);
void coalesce_add(struct coalesce *c, uint8_t *packet, const struct ip_header *header,
		  int32_t route);
void coalesce_finish(const struct coalesce *c, const struct coalesce_entry *entry,
		     struct vnet_hdr *vnet, uint8_t saved[SEGMENT_HEADER_MAX]);
void coalesce_restore(const struct coalesce *c, const struct coalesce_entry *entry,
		      const uint8_t saved[SEGMENT_HEADER_MAX]);

#endif
