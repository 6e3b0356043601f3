/*
 * packets.h - TCP and UDP packets for the tests, built field by field and with checksums of their
 * own: nothing of the code under test takes part.
 */
#ifndef TNL_TEST_PACKETS_H
#define TNL_TEST_PACKETS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PROTO_ICMP 1u
#define PROTO_TCP 6u
#define PROTO_UDP 17u
#define FLAG_FIN 0x01u
#define FLAG_SYN 0x02u
#define FLAG_RST 0x04u
#define FLAG_PSH 0x08u
#define FLAG_ACK 0x10u
#define FLAG_URG 0x20u
#define FLAG_ECE 0x40u
#define FLAG_CWR 0x80u

/**
 * struct packet_spec - what a packet shall be
 * @fragment:     flags and offset, as on the wire
 * @ip_options:   bytes of no-operation options, a multiple of 4
 * @tcp_options:  bytes of options, a multiple of 4; they begin like a timestamp option
 * @timestamp:    goes into the options, when there are 12 bytes or more
 * @reserved:     low bits of TCP's data offset byte
 * @payload:      bytes of payload
 * @at:           where in its stream the payload begins: decides what is in it
 * @no_checksum:  UDP checksum zero
 * @partial:      the L4 checksum is the pseudo header's sum only (VNET_NEEDS_CSUM)
 */
struct packet_spec {
	uint32_t source;
	uint32_t destination;
	uint32_t sequence;
	uint32_t ack;
	uint32_t timestamp;
	uint32_t payload;
	uint32_t at;
	uint16_t source_port;
	uint16_t destination_port;
	uint16_t id;
	uint16_t fragment;
	uint16_t window;
	uint16_t urgent;
	uint8_t tos;
	uint8_t ttl;
	uint8_t proto;
	uint8_t flags;
	uint8_t ip_options;
	uint8_t tcp_options;
	uint8_t reserved;
	uint8_t no_checksum;
	uint8_t partial;
};

/** packet_put16() - network byte order */
static inline void packet_put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/** packet_put32() - network byte order */
static inline void packet_put32(uint8_t *p, uint32_t value)
{
	packet_put16(p, value >> 16);
	packet_put16(p + 2, value);
}

/** packet_sum() - RFC 1071, 16 bits at a time; @sum so far; an odd length only at the end */
static inline uint16_t packet_sum(uint32_t sum, const uint8_t *data, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)sum;
}

/** packet_pseudo() - sum of the pseudo header of the packet's L4 part */
static inline uint16_t packet_pseudo(const uint8_t *packet, size_t l4_length)
{
	uint8_t tail[4] = {0, packet[9], (uint8_t)(l4_length >> 8), (uint8_t)l4_length};

	return packet_sum(packet_sum(0, packet + 12, 8), tail, 4);
}

/** packet_ip_checksum() - put the right header checksum in */
static inline void packet_ip_checksum(uint8_t *packet)
{
	packet_put16(packet + 10, 0);
	packet_put16(packet + 10, (uint16_t)~packet_sum(0, packet, (size_t)(packet[0] & 15) * 4));
}

/** packet_payload() - the byte at one place of a stream; no two stretches look alike */
static inline uint8_t packet_payload(uint32_t at)
{
	return (uint8_t)(at * 7 + (at >> 8) * 13 + (at >> 16));
}

/** packet_header_length() - IP and L4 header of a spec */
static inline size_t packet_header_length(const struct packet_spec *spec)
{
	size_t l4 = 8;

	if (spec->proto == PROTO_TCP)
		l4 = 20u + spec->tcp_options;
	return 20u + spec->ip_options + l4;
}

/** packet_build_tcp() - the TCP header but for its checksum */
static inline void packet_build_tcp(const struct packet_spec *spec, uint8_t *tcp)
{
	packet_put32(tcp + 4, spec->sequence);
	packet_put32(tcp + 8, spec->ack);
	tcp[12] = (uint8_t)((5 + spec->tcp_options / 4) << 4 | spec->reserved);
	tcp[13] = spec->flags;
	packet_put16(tcp + 14, spec->window);
	packet_put16(tcp + 18, spec->urgent);
	/* RFC 7323: two no-operations, kind 8, length 10, value, echo reply. */
	memset(tcp + 20, 1, spec->tcp_options);
	if (spec->tcp_options >= 12) {
		tcp[22] = 8;
		tcp[23] = 10;
		packet_put32(tcp + 24, spec->timestamp);
		packet_put32(tcp + 28, ~spec->timestamp);
	}
}

/** packet_build() - make a packet of a spec; returns its length */
static inline size_t packet_build(const struct packet_spec *spec, uint8_t *out)
{
	size_t header = packet_header_length(spec), ip = 20u + spec->ip_options;
	size_t length = header + spec->payload;
	uint8_t *l4 = out + ip, *field = l4 + 2;

	memset(out, 0, header);
	out[0] = (uint8_t)(0x40 + ip / 4);
	out[1] = spec->tos;
	packet_put16(out + 2, (uint32_t)length);
	packet_put16(out + 4, spec->id);
	packet_put16(out + 6, spec->fragment);
	out[8] = spec->ttl;
	out[9] = spec->proto;
	packet_put32(out + 12, spec->source);
	packet_put32(out + 16, spec->destination);
	memset(out + 20, 1, spec->ip_options);
	packet_ip_checksum(out);
	for (uint32_t i = 0; i < spec->payload; i++)
		out[header + i] = packet_payload(spec->at + i);
	if (spec->proto == PROTO_TCP || spec->proto == PROTO_UDP) {
		packet_put16(l4, spec->source_port);
		packet_put16(l4 + 2, spec->destination_port);
	}
	if (spec->proto == PROTO_TCP) {
		packet_build_tcp(spec, l4);
		field = l4 + 16;
	} else if (spec->proto == PROTO_UDP) {
		packet_put16(l4 + 4, (uint32_t)(length - ip));
		field = l4 + 6;
	} else {
		l4[0] = 8;
	}
	if (spec->partial) {
		packet_put16(field, packet_pseudo(out, length - ip));
	} else if (!spec->no_checksum) {
		uint32_t pseudo = spec->proto == PROTO_ICMP ? 0 : packet_pseudo(out, length - ip);
		uint16_t check = (uint16_t)~packet_sum(pseudo, l4, length - ip);

		packet_put16(field, spec->proto == PROTO_UDP && check == 0 ? 0xffff : check);
	}
	return length;
}

#endif
