/*
 * coalesce.c - see coalesce.h.
 */
#include "coalesce.h"

#include <string.h>

#include "l4.h"

/** struct candidate - what decides whether a packet may be joined
 * @header_length: IP and L4 header
 * @payload:       bytes of payload
 * @sequence:      TCP sequence number
 * @push:          PSH is set
 */
struct candidate {
	uint32_t header_length;
	uint32_t payload;
	uint32_t sequence;
	bool push;
};

/**
 * coalesce_reset() - forget all entries; their packets are free to be overwritten
 * @c: batch
 */
void coalesce_reset(struct coalesce *c)
{
	for (uint32_t i = 0; i < c->entry_count; i++)
		c->buckets[c->entries[i].hash % COALESCE_BUCKETS] = 0;
	c->entry_count = 0;
	c->piece_count = 0;
	c->barrier = 0;
}

/**
 * coalesce_is_full() - whether the entries must be written before another packet is added
 * @c: batch
 *
 * Return: true if so
 */
bool coalesce_is_full(const struct coalesce *c)
{
	return c->entry_count == COALESCE_ENTRIES || c->piece_count == COALESCE_PIECES;
}

/**
 * coalesce_hash() - hash of a flow
 * @packet: with a header of 20 bytes at least
 * @header: its fields
 * @ports:  source and destination port, or 0
 *
 * Return: 32 bits; equal hashes are told apart by comparing the headers
 */
static uint32_t coalesce_hash(const struct ip_header *header, uint32_t ports)
{
	uint64_t key = ((uint64_t)header->source << 32 | header->destination) * 0x9e3779b97f4a7c15u;

	key ^= ((uint64_t)ports << 8 | header->proto) * 0xc2b2ae3d27d4eb4fu;
	return (uint32_t)((key * 0x9e3779b97f4a7c15u) >> 32);
}

/**
 * coalesce_tcp_candidate() - whether a TCP packet may be joined
 * @packet: validated IP packet, ihl 5, no fragment
 * @header: its fields
 * @out:    filled in when it may
 *
 * Data with ACK and perhaps PSH, nothing else: every other flag changes the connection's state or
 * (CWR, ECE, URG) is about this very packet.
 *
 * Return: true if it may
 */
static bool coalesce_tcp_candidate(const uint8_t *packet, const struct ip_header *header,
				   struct candidate *out)
{
	const uint8_t *tcp =
		bytes_at(packet, header->total_length, header->header_length, TCP_HEADER_MIN);
	uint32_t length;

	if (!tcp || (tcp[TCP_OFF_FLAGS] & (uint8_t)~TCP_PSH) != TCP_ACK)
		return false;
	length = (uint32_t)(tcp[TCP_OFF_DATA_OFFSET] >> 4) * 4;
	/* The low bits of the data offset byte are reserved, but for AE (accurate ECN). */
	if (length < TCP_HEADER_MIN || tcp[TCP_OFF_DATA_OFFSET] & 0x0f)
		return false;
	out->header_length = header->header_length + length;
	if (out->header_length >= header->total_length)
		return false;
	out->payload = header->total_length - out->header_length;
	out->sequence = get32(tcp + TCP_OFF_SEQUENCE);
	out->push = tcp[TCP_OFF_FLAGS] & TCP_PSH;
	return true;
}

/**
 * coalesce_udp_candidate() - whether a UDP packet may be joined
 * @packet: validated IP packet, ihl 5, no fragment
 * @header: its fields
 * @out:    filled in when it may
 *
 * A datagram without checksum (RFC 768: zero) stays alone: the kernel would add one.
 *
 * Return: true if it may
 */
static bool coalesce_udp_candidate(const uint8_t *packet, const struct ip_header *header,
				   struct candidate *out)
{
	const uint8_t *udp =
		bytes_at(packet, header->total_length, header->header_length, UDP_HEADER);

	if (!udp || get16(udp + UDP_OFF_CHECKSUM) == 0)
		return false;
	out->header_length = header->header_length + UDP_HEADER;
	if (out->header_length >= header->total_length ||
	    get16(udp + UDP_OFF_LENGTH) != header->total_length - header->header_length)
		return false;
	out->payload = header->total_length - out->header_length;
	out->sequence = 0;
	out->push = false;
	return true;
}

/**
 * coalesce_candidate() - whether a packet may be joined with others at all
 * @c:      batch
 * @packet: validated
 * @header: its fields
 * @out:    filled in when it may
 *
 * The L4 checksum is verified here: NEEDS_CSUM makes the kernel compute a new one, which would
 * turn a damaged packet into a good one.
 *
 * Return: true if it may
 */
static bool coalesce_candidate(const struct coalesce *c, const uint8_t *packet,
			       const struct ip_header *header, struct candidate *out)
{
	uint32_t l4_length = (uint32_t)header->total_length - header->header_length;
	uint64_t sum;

	/* IP options are about each packet. */
	if (header->header_length != IP_HEADER_MIN)
		return false;
	if (header->proto == IP_PROTO_TCP) {
		if (!c->tcp || !coalesce_tcp_candidate(packet, header, out))
			return false;
	} else if (header->proto == IP_PROTO_UDP) {
		if (!c->udp || !coalesce_udp_candidate(packet, header, out))
			return false;
	} else {
		return false;
	}
	sum = checksum_pseudo(header->source, header->destination, header->proto, l4_length);
	return checksum_fold(checksum_add(sum, packet + header->header_length, l4_length)) ==
	       0xffff;
}

/**
 * coalesce_same_flow() - whether two packets agree in all that a superpacket has only once
 * @entry:  open entry
 * @first:  its first packet
 * @packet: candidate
 * @length: IP and L4 header length of the candidate
 *
 * Same addresses, protocol, TOS (DSCP and ECN), TTL and DF; same ports; TCP also the same ack,
 * window and options (thereby equal timestamps).
 *
 * Return: true if they agree
 */
static bool coalesce_same_flow(const struct coalesce_entry *entry, const uint8_t *first,
			       const uint8_t *packet, uint32_t length)
{
	const uint8_t *a = first + entry->l4_offset;
	const uint8_t *b = packet + entry->l4_offset;

	if (length != entry->header_length || first[IP_OFF_TOS] != packet[IP_OFF_TOS] ||
	    first[IP_OFF_FRAGMENT] != packet[IP_OFF_FRAGMENT] ||
	    memcmp(first + IP_OFF_TTL, packet + IP_OFF_TTL, 2) != 0 ||
	    memcmp(first + IP_OFF_SOURCE, packet + IP_OFF_SOURCE, 8) != 0 || memcmp(a, b, 4) != 0)
		return false;
	if (entry->proto == IP_PROTO_UDP)
		return true;
	return memcmp(a + TCP_OFF_ACK, b + TCP_OFF_ACK, 4) == 0 &&
	       memcmp(a + TCP_OFF_WINDOW, b + TCP_OFF_WINDOW, 2) == 0 &&
	       memcmp(a + TCP_OFF_URGENT, b + TCP_OFF_URGENT,
		      length - entry->l4_offset - TCP_OFF_URGENT) == 0;
}

/**
 * coalesce_joins() - whether a candidate continues an entry
 * @c:         batch
 * @entry:     newest entry of the flow
 * @packet:    candidate
 * @header:    its fields
 * @candidate: its sizes
 *
 * Return: true if it does
 */
static bool coalesce_joins(const struct coalesce *c, const struct coalesce_entry *entry,
			   const uint8_t *packet, const struct ip_header *header,
			   const struct candidate *candidate)
{
	const uint8_t *first = c->pieces[entry->first].packet;

	if (!entry->open || entry->count >= COALESCE_SEGMENTS ||
	    entry->bytes + candidate->payload > COALESCE_BYTES || candidate->payload > entry->size)
		return false;
	if (!coalesce_same_flow(entry, first, packet, candidate->header_length))
		return false;
	/* With DF the id has no meaning (RFC 6864); without it the ids must go on as they would
	 * when the kernel cuts the superpacket. */
	if (!(header->fragment & IP_FLAG_DF) && header->id != entry->next_id)
		return false;
	return entry->proto == IP_PROTO_UDP || candidate->sequence == entry->next_sequence;
}

/**
 * coalesce_append() - add a piece to an entry
 * @c:      batch
 * @entry:  entry
 * @packet: piece
 * @header: its fields
 */
static void coalesce_append(struct coalesce *c, struct coalesce_entry *entry, uint8_t *packet,
			    const struct ip_header *header)
{
	uint32_t piece = c->piece_count++;

	c->pieces[piece] = (struct coalesce_piece){
		.packet = packet, .next = COALESCE_NONE, .length = header->total_length};
	if (entry->count++)
		c->pieces[entry->last].next = piece;
	else
		entry->first = piece;
	entry->last = piece;
	entry->inner_bytes += header->total_length;
	entry->next_id = (uint16_t)(header->id + 1);
}

/**
 * coalesce_open() - begin an entry
 * @c:      batch, not full
 * @packet: its first piece
 * @header: its fields
 * @hash:   of its flow
 * @route:  of the peer
 *
 * Return: the entry, closed
 */
static struct coalesce_entry *coalesce_open(struct coalesce *c, uint8_t *packet,
					    const struct ip_header *header, uint32_t hash,
					    int32_t route)
{
	struct coalesce_entry *entry = &c->entries[c->entry_count++];

	*entry = (struct coalesce_entry){
		.bytes = header->total_length,
		.l4_offset = header->header_length,
		.hash = hash,
		.proto = header->proto,
		.route = route,
	};
	c->buckets[hash % COALESCE_BUCKETS] = (uint16_t)c->entry_count;
	coalesce_append(c, entry, packet, header);
	return entry;
}

/**
 * coalesce_add() - add a packet: to the newest entry of its flow, or as an entry of its own
 * @c:      batch, not full
 * @packet: admitted, TTL decremented; must stay in place until coalesce_reset()
 * @header: its fields (@header->ttl is not looked at)
 * @route:  of the peer
 */
void coalesce_add(struct coalesce *c, uint8_t *packet, const struct ip_header *header,
		  int32_t route)
{
	bool fragment = header->fragment & (IP_FRAGMENT_OFFSET | IP_FLAG_MF);
	const uint8_t *ports = bytes_at(packet, header->total_length, header->header_length, 4);
	bool has_ports = header->proto == IP_PROTO_TCP || header->proto == IP_PROTO_UDP;
	uint32_t hash = coalesce_hash(header, ports && has_ports && !fragment ? get32(ports) : 0);
	uint32_t newest = c->buckets[hash % COALESCE_BUCKETS];
	struct coalesce_entry *entry = newest ? &c->entries[newest - 1] : NULL;
	struct candidate candidate;

	if (fragment || !coalesce_candidate(c, packet, header, &candidate)) {
		coalesce_open(c, packet, header, hash, route);
		/* The flow of a fragment is not known: nothing may overtake it. */
		if (fragment)
			c->barrier = c->entry_count;
		return;
	}
	if (entry && newest > c->barrier && entry->hash == hash && entry->route == route &&
	    coalesce_joins(c, entry, packet, header, &candidate)) {
		coalesce_append(c, entry, packet, header);
		entry->bytes += candidate.payload;
	} else {
		entry = coalesce_open(c, packet, header, hash, route);
		entry->header_length = candidate.header_length;
		entry->size = candidate.payload;
		entry->verified = true;
		entry->open = true;
	}
	entry->next_sequence = candidate.sequence + candidate.payload;
	/* Nothing can come after a shorter packet, and PSH ends a superpacket. */
	if (candidate.payload < entry->size || candidate.push)
		entry->open = false;
}

/**
 * coalesce_finish() - turn the first packet's header into the superpacket's
 * @c:     batch
 * @entry: to be written
 * @vnet:  filled in
 * @saved: the first packet's headers before they were changed, for coalesce_restore()
 *
 * The L4 checksum field gets the pseudo header's sum; the kernel finishes it for each segment.
 */
void coalesce_finish(const struct coalesce *c, const struct coalesce_entry *entry,
		     struct vnet_hdr *vnet, uint8_t saved[SEGMENT_HEADER_MAX])
{
	uint8_t *first = c->pieces[entry->first].packet;
	const uint8_t *last = c->pieces[entry->last].packet;
	uint8_t *l4 = first + entry->l4_offset;
	bool udp = entry->proto == IP_PROTO_UDP;
	uint32_t offset = udp ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM;
	uint32_t l4_length = entry->bytes - entry->l4_offset;

	*vnet = (struct vnet_hdr){.flags = entry->verified ? VNET_DATA_VALID : 0};
	if (entry->count == 1)
		return;
	memcpy(saved, first, entry->header_length);
	put16(first + IP_OFF_LENGTH, (uint16_t)entry->bytes);
	put16(first + IP_OFF_CHECKSUM, 0);
	put16(first + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, first, entry->l4_offset)));
	if (udp)
		put16(l4 + UDP_OFF_LENGTH, (uint16_t)l4_length);
	else
		l4[TCP_OFF_FLAGS] |= last[entry->l4_offset + TCP_OFF_FLAGS] & TCP_PSH;
	put16(l4 + offset, checksum_fold(checksum_pseudo(get32(first + IP_OFF_SOURCE),
							 get32(first + IP_OFF_DESTINATION),
							 entry->proto, l4_length)));
	vnet->flags = VNET_NEEDS_CSUM;
	vnet->gso_type = udp ? VNET_GSO_UDP_L4 : VNET_GSO_TCPV4;
	vnet->hdr_len = (uint16_t)entry->header_length;
	vnet->gso_size = (uint16_t)entry->size;
	vnet->csum_start = (uint16_t)entry->l4_offset;
	vnet->csum_offset = (uint16_t)offset;
}

/**
 * coalesce_restore() - undo coalesce_finish(), when the kernel refused the superpacket
 * @c:     batch
 * @entry: of more than one piece
 * @saved: from coalesce_finish()
 */
void coalesce_restore(const struct coalesce *c, const struct coalesce_entry *entry,
		      const uint8_t saved[SEGMENT_HEADER_MAX])
{
	memcpy(c->pieces[entry->first].packet, saved, entry->header_length);
}
