/*
 * ip.h - the IPv4 header (RFC 791): read, validate, decrement.
 *
 * Pure: no I/O, no allocation. All packet bytes are reached through bytes_at(), which refuses to
 * look past the end. Header fields come out of ip_parse() in host byte order; nothing else reads
 * a raw header.
 */
#ifndef TNL_IP_H
#define TNL_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IP_HEADER_MIN 20u
#define IP_PACKET_MAX 65535u
#define IP_PROTO_ICMP 1u
#define IP_PROTO_TCP 6u
#define IP_PROTO_UDP 17u

/* Offsets within the header. */
#define IP_OFF_TOS 1u
#define IP_OFF_LENGTH 2u
#define IP_OFF_ID 4u
#define IP_OFF_FRAGMENT 6u
#define IP_OFF_TTL 8u
#define IP_OFF_PROTO 9u
#define IP_OFF_CHECKSUM 10u
#define IP_OFF_SOURCE 12u
#define IP_OFF_DESTINATION 16u

#define IP_FLAG_DF 0x4000u
#define IP_FLAG_MF 0x2000u
#define IP_FRAGMENT_OFFSET 0x1fffu

/** enum ip_verdict - what ip_parse() found; anything but IP_OK is a drop counter's reason */
enum ip_verdict {
	IP_OK,
	IP_TOO_SHORT,
	IP_NOT_IPV4,
	IP_BAD_HEADER_LENGTH,
	IP_BAD_LENGTH,
	IP_BAD_CHECKSUM,
};

/**
 * struct ip_header - the fields that the packet path decides by, host byte order
 * @source:        inner source address
 * @destination:   inner destination address
 * @header_length: bytes, 20..60
 * @total_length:  bytes of header and payload; what follows in the buffer is padding
 * @fragment:      flags and offset, as on the wire
 * @id:            identification
 * @tos:           DSCP and ECN
 * @ttl:           time to live
 * @proto:         protocol number
 */
struct ip_header {
	uint32_t source;
	uint32_t destination;
	uint16_t header_length;
	uint16_t total_length;
	uint16_t fragment;
	uint16_t id;
	uint8_t tos;
	uint8_t ttl;
	uint8_t proto;
};

/**
 * bytes_at() - the one bounds-checked way into packet bytes
 * @data:   start of the packet
 * @length: its length
 * @offset: where the wanted bytes begin
 * @wanted: how many are wanted
 *
 * Return: pointer to @wanted readable bytes, or NULL when the packet ends before
 */
static inline const uint8_t *bytes_at(const uint8_t *data, size_t length, size_t offset,
				      size_t wanted)
{
	if (offset > length || wanted > length - offset)
		return NULL;
	return data + offset;
}

/** get16() - read 16 bits in network byte order */
static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)((unsigned int)p[0] << 8 | p[1]);
}

/** get32() - read 32 bits in network byte order */
static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/** put16() - write 16 bits in network byte order */
static inline void put16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

/** put32() - write 32 bits in network byte order */
static inline void put32(uint8_t *p, uint32_t value)
{
	put16(p, (uint16_t)(value >> 16));
	put16(p + 2, (uint16_t)value);
}

uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t length);
uint16_t checksum_fold(uint64_t sum);
uint64_t checksum_pseudo(uint32_t source, uint32_t destination, uint8_t proto, size_t length);
enum ip_verdict ip_parse(const uint8_t *data, size_t length, struct ip_header *out);
void ip_decrement_ttl(uint8_t *header);
bool ip_is_martian_source(uint32_t address);

#endif
