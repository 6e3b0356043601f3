/*
 * ip.c - see ip.h. Nothing here knows a file descriptor, so all of it is tested without a kernel.
 */
#include "ip.h"

#include <string.h>

/* Four sums of 32-bit words with room for their carries; the compiler makes of it what the machine
 * has (two registers of 16 bytes where there are none of 32). */
typedef uint64_t lanes __attribute__((vector_size(32)));

/**
 * checksum_lanes() - sum whole blocks of 64 bytes
 * @data:   any alignment
 * @blocks: how many; at most 2^30, so that no lane overflows
 *
 * Return: sum of their 32-bit words
 */
static inline __attribute__((always_inline)) uint64_t checksum_lanes(const uint8_t *data,
								     size_t blocks)
{
	lanes low = {0}, high = {0}, sum;

	for (; blocks; blocks--, data += 64) {
		lanes a, b;

		memcpy(&a, data, 32);
		memcpy(&b, data + 32, 32);
		low += (a & 0xffffffffu) + (b & 0xffffffffu);
		high += (a >> 32) + (b >> 32);
	}
	sum = low + high;
	return sum[0] + sum[1] + sum[2] + sum[3];
}

#ifdef __x86_64__
/** checksum_avx2() - checksum_lanes() for a machine with AVX2 */
static __attribute__((target("avx2"))) uint64_t checksum_avx2(const uint8_t *data, size_t blocks)
{
	return checksum_lanes(data, blocks);
}
#endif

/**
 * checksum_blocks() - checksum_lanes() as fast as this machine can
 * @data:   any alignment
 * @blocks: of 64 bytes
 *
 * Return: sum of their 32-bit words
 */
static uint64_t checksum_blocks(const uint8_t *data, size_t blocks)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("avx2"))
		return checksum_avx2(data, blocks);
#endif
	return checksum_lanes(data, blocks);
}

/**
 * checksum_add() - add bytes to a one's complement sum (RFC 1071)
 * @sum:    sum so far, in native byte order (RFC 1071, 2(B): byte order does not matter until
 *          the end)
 * @data:   any alignment
 * @length: bytes; an odd length is padded with a zero byte, so only the last part may be odd
 *
 * The carries collect in the upper half of 64-bit sums of 32-bit words.
 *
 * Return: the new sum, to be folded by checksum_fold()
 */
uint64_t checksum_add(uint64_t sum, const uint8_t *data, size_t length)
{
	if (length >= 64) {
		sum += checksum_blocks(data, length / 64);
		data += length & ~(size_t)63;
		length &= 63;
	}
	while (length >= 4) {
		uint32_t word;

		memcpy(&word, data, 4);
		sum += word;
		data += 4;
		length -= 4;
	}
	if (length) {
		uint8_t tail[4] = {0, 0, 0, 0};
		uint32_t word;

		memcpy(tail, data, length);
		memcpy(&word, tail, 4);
		sum += word;
	}
	return sum;
}

/**
 * checksum_fold() - fold a sum to the 16 bits that a header carries, not yet complemented
 * @sum: what checksum_add() and checksum_pseudo() returned
 *
 * Return: one's complement sum in host byte order; a packet that carries its checksum gives 0xffff
 */
uint16_t checksum_fold(uint64_t sum)
{
	uint8_t bytes[2];
	uint16_t native;

	sum = (sum >> 32) + (sum & 0xffffffffu);
	sum = (sum >> 32) + (sum & 0xffffffffu);
	sum = (sum >> 16) + (sum & 0xffffu);
	sum = (sum >> 16) + (sum & 0xffffu);
	native = (uint16_t)sum;
	memcpy(bytes, &native, 2);
	return get16(bytes);
}

/**
 * checksum_pseudo() - sum of the pseudo header of TCP and UDP (RFC 793, RFC 768)
 * @source:      host byte order
 * @destination: host byte order
 * @proto:       protocol number
 * @length:      bytes of the TCP or UDP header and payload
 *
 * Return: a sum to start checksum_add() with
 */
uint64_t checksum_pseudo(uint32_t source, uint32_t destination, uint8_t proto, size_t length)
{
	uint8_t pseudo[12];

	put32(pseudo, source);
	put32(pseudo + 4, destination);
	pseudo[8] = 0;
	pseudo[9] = proto;
	put16(pseudo + 10, (uint16_t)length);
	return checksum_add(0, pseudo, sizeof(pseudo));
}

/**
 * ip_parse() - validate an IPv4 header and read its fields
 * @data:   the packet
 * @length: bytes available; more than the total length is padding and is ignored
 * @out:    filled only when the verdict is IP_OK
 *
 * Return: IP_OK or the reason to drop, in the order of RFC 1812, 5.2.2
 */
enum ip_verdict ip_parse(const uint8_t *data, size_t length, struct ip_header *out)
{
	const uint8_t *p = bytes_at(data, length, 0, IP_HEADER_MIN);
	size_t header_length, total_length;

	if (!p)
		return IP_TOO_SHORT;
	if (p[0] >> 4 != 4)
		return IP_NOT_IPV4;
	header_length = (size_t)(p[0] & 0x0f) * 4;
	if (header_length < IP_HEADER_MIN || !bytes_at(data, length, 0, header_length))
		return IP_BAD_HEADER_LENGTH;
	total_length = get16(p + IP_OFF_LENGTH);
	if (total_length < header_length || !bytes_at(data, length, 0, total_length))
		return IP_BAD_LENGTH;
	if (checksum_fold(checksum_add(0, p, header_length)) != 0xffff)
		return IP_BAD_CHECKSUM;
	out->source = get32(p + IP_OFF_SOURCE);
	out->destination = get32(p + IP_OFF_DESTINATION);
	out->header_length = (uint16_t)header_length;
	out->total_length = (uint16_t)total_length;
	out->fragment = get16(p + IP_OFF_FRAGMENT);
	out->id = get16(p + IP_OFF_ID);
	out->tos = p[IP_OFF_TOS];
	out->ttl = p[IP_OFF_TTL];
	out->proto = p[IP_OFF_PROTO];
	return IP_OK;
}

/**
 * ip_decrement_ttl() - take one from the TTL and patch the header checksum
 * @header: a header that ip_parse() accepted, TTL at least 1
 *
 * RFC 1624, equation 3: HC' = ~(~HC + ~m + m'), where m is the word of TTL and protocol. Equation
 * 3 and not RFC 1141's shortcut, which can turn a checksum of 0x0000 into 0xffff.
 */
void ip_decrement_ttl(uint8_t *header)
{
	uint32_t before = get16(header + IP_OFF_TTL);
	uint32_t after = before - 0x0100u;
	uint32_t sum = (uint32_t)(uint16_t)~get16(header + IP_OFF_CHECKSUM);

	sum += (~before & 0xffffu) + after;
	sum = (sum & 0xffffu) + (sum >> 16);
	sum = (sum & 0xffffu) + (sum >> 16);
	header[IP_OFF_TTL]--;
	put16(header + IP_OFF_CHECKSUM, (uint16_t)~sum);
}

/**
 * ip_is_martian_source() - addresses that no packet on a network may come from
 * @address: host byte order
 *
 * RFC 1812, 5.3.7 and RFC 6890: this network, loopback, link local, multicast, reserved and the
 * limited broadcast.
 *
 * Return: true if a packet from @address must be dropped
 */
bool ip_is_martian_source(uint32_t address)
{
	uint32_t first = address >> 24;

	return first == 0 || first == 127 || first >= 224 || address >> 16 == 0xa9fe;
}
