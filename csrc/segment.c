/*
 * segment.c - see segment.h.
 */
#include "segment.h"

#include <string.h>

#include "l4.h"

/**
 * segment_l4_length() - length of the L4 header of a superpacket
 * @gso_type: VNET_GSO_*, without the ECN bit
 * @packet:   the superpacket
 * @header:   its IP fields
 *
 * Return: bytes, or 0 when the packet is not what @gso_type says
 */
static uint32_t segment_l4_length(uint8_t gso_type, const uint8_t *packet,
				  const struct ip_header *header)
{
	const uint8_t *l4;
	uint32_t length;

	if (gso_type == VNET_GSO_UDP_L4 && header->proto == IP_PROTO_UDP)
		return UDP_HEADER;
	if (gso_type != VNET_GSO_TCPV4 || header->proto != IP_PROTO_TCP)
		return 0;
	l4 = bytes_at(packet, header->total_length, header->header_length, TCP_HEADER_MIN);
	if (!l4)
		return 0;
	length = (uint32_t)(l4[TCP_OFF_DATA_OFFSET] >> 4) * 4;
	return length >= TCP_HEADER_MIN ? length : 0;
}

/**
 * segment_make_plan() - check a superpacket and decide how to cut it
 * @vnet:   what the kernel says about it
 * @packet: the superpacket
 * @header: its fields, as read by ip_parse()
 * @plan:   result
 *
 * Return: false when the superpacket is malformed
 */
bool segment_make_plan(const struct vnet_hdr *vnet, const uint8_t *packet,
		       const struct ip_header *header, struct segment_plan *plan)
{
	uint8_t gso_type = vnet->gso_type & (uint8_t)~VNET_GSO_ECN;
	uint32_t l4_length = segment_l4_length(gso_type, packet, header);

	if (!l4_length || !vnet->gso_size || header->fragment & (IP_FRAGMENT_OFFSET | IP_FLAG_MF))
		return false;
	plan->l4_offset = header->header_length;
	plan->header_length = header->header_length + l4_length;
	/* A superpacket without payload is no superpacket. */
	if (plan->header_length >= header->total_length)
		return false;
	plan->payload = header->total_length - plan->header_length;
	plan->size = vnet->gso_size;
	plan->count = (plan->payload + plan->size - 1) / plan->size;
	plan->checksum = vnet->flags & VNET_NEEDS_CSUM || gso_type == VNET_GSO_TCPV4 ||
			 get16(packet + plan->l4_offset + UDP_OFF_CHECKSUM) != 0;
	return plan->count <= SEGMENTS_MAX;
}

/**
 * segment_payload_length() - payload bytes of one segment
 * @plan:  how the superpacket is cut
 * @index: of the segment
 *
 * Return: @plan->size, or less for the last
 */
uint32_t segment_payload_length(const struct segment_plan *plan, uint32_t index)
{
	uint32_t before = index * plan->size;

	return plan->payload - before < plan->size ? plan->payload - before : plan->size;
}

/**
 * segment_patch_tcp() - what differs between the TCP headers of segments (RFC 9293, RFC 3168)
 * @plan:  how the superpacket is cut
 * @tcp:   copy of the superpacket's TCP header
 * @index: of the segment
 */
static void segment_patch_tcp(const struct segment_plan *plan, uint8_t *tcp, uint32_t index)
{
	put32(tcp + TCP_OFF_SEQUENCE, get32(tcp + TCP_OFF_SEQUENCE) + index * plan->size);
	/* PSH and FIN are about the end of the data: only the last segment says them. */
	if (index + 1 < plan->count)
		tcp[TCP_OFF_FLAGS] &= (uint8_t) ~(TCP_FIN | TCP_PSH);
	/* CWR answers one ECN echo, once: only the first segment says it. */
	if (index > 0)
		tcp[TCP_OFF_FLAGS] &= (uint8_t)~TCP_CWR;
}

/**
 * segment_build_header() - make IP and L4 header of one segment
 * @plan:   how the superpacket is cut
 * @packet: the superpacket, TTL already decremented
 * @header: its fields
 * @index:  of the segment
 * @out:    room for @plan->header_length bytes
 *
 * IP ids count up from the superpacket's, as the kernel's own segmentation does.
 */
void segment_build_header(const struct segment_plan *plan, const uint8_t *packet,
			  const struct ip_header *header, uint32_t index, uint8_t *out)
{
	uint32_t length = segment_payload_length(plan, index);
	uint32_t l4_length = plan->header_length - plan->l4_offset;
	const uint8_t *payload = packet + plan->header_length + (size_t)index * plan->size;
	uint8_t *l4 = out + plan->l4_offset;
	bool udp = header->proto == IP_PROTO_UDP;
	uint8_t *field = l4 + (udp ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM);
	uint64_t sum;
	uint16_t check;

	memcpy(out, packet, plan->header_length);
	put16(out + IP_OFF_LENGTH, (uint16_t)(plan->header_length + length));
	put16(out + IP_OFF_ID, (uint16_t)(header->id + index));
	put16(out + IP_OFF_CHECKSUM, 0);
	put16(out + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, out, plan->l4_offset)));
	if (udp)
		put16(l4 + UDP_OFF_LENGTH, (uint16_t)(UDP_HEADER + length));
	else
		segment_patch_tcp(plan, l4, index);
	if (!plan->checksum)
		return;
	put16(field, 0);
	sum = checksum_pseudo(header->source, header->destination, header->proto,
			      l4_length + length);
	sum = checksum_add(sum, l4, l4_length);
	check = (uint16_t)~checksum_fold(checksum_add(sum, payload, length));
	/* RFC 768: a computed zero is sent as all ones; zero means "no checksum". */
	put16(field, udp && check == 0 ? 0xffff : check);
}

/**
 * segment_complete_checksum() - finish the checksum that the kernel left to the device
 * @vnet:   with VNET_NEEDS_CSUM
 * @packet: a single packet, whose checksum field holds the pseudo header's sum
 * @length: of the packet
 *
 * Return: false when csum_start or csum_offset point outside the packet
 */
bool segment_complete_checksum(const struct vnet_hdr *vnet, uint8_t *packet, uint32_t length)
{
	uint32_t at = (uint32_t)vnet->csum_start + vnet->csum_offset;
	uint16_t check;

	if (vnet->csum_start > length || !bytes_at(packet, length, at, 2))
		return false;
	check = (uint16_t)~checksum_fold(
		checksum_add(0, packet + vnet->csum_start, length - vnet->csum_start));
	/* As the kernel's skb_checksum_help(): never zero, which UDP would read as "none". */
	put16(packet + at, check == 0 ? 0xffff : check);
	return true;
}
