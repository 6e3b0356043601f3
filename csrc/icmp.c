/*
 * icmp.c - see icmp.h.
 */
#include "icmp.h"

#include <string.h>

#define NS_PER_SECOND 1000000000u

/**
 * icmp_is_query() - ICMP types that are no errors (RFC 792, RFC 950, RFC 1256)
 * @type: ICMP type
 *
 * Whatever is not known to be a query is treated as an error, as Linux does.
 *
 * Return: true if an error may be sent about a message of this type
 */
static bool icmp_is_query(uint8_t type)
{
	switch (type) {
	case 0:	 /* echo reply */
	case 8:	 /* echo request */
	case 9:	 /* router advertisement */
	case 10: /* router solicitation */
	case 13: /* timestamp, and its reply */
	case 14:
	case 15: /* information request, and its reply */
	case 16:
	case 17: /* address mask request, and its reply */
	case 18:
		return true;
	default:
		return false;
	}
}

/**
 * icmp_may_answer() - whether RFC 1122, 3.2.2 allows an error about this packet
 * @packet: the packet, as accepted by ip_parse()
 * @header: its fields
 *
 * Never about an ICMP error, a fragment other than the first, a multicast or broadcast
 * destination, or a source that is not one host.
 *
 * Return: true if an error may be sent
 */
bool icmp_may_answer(const uint8_t *packet, const struct ip_header *header)
{
	if (header->fragment & IP_FRAGMENT_OFFSET)
		return false;
	if (header->destination >> 28 >= 0xe)
		return false;
	if (ip_is_martian_source(header->source))
		return false;
	if (header->proto == IP_PROTO_ICMP) {
		const uint8_t *type =
			bytes_at(packet, header->total_length, header->header_length, 1);

		return type && icmp_is_query(*type);
	}
	return true;
}

/**
 * icmp_bucket_take() - take one token
 * @bucket: rate limit of one direction
 * @now_ns: monotonic clock
 *
 * Return: true if an error may be sent now
 */
bool icmp_bucket_take(struct icmp_bucket *bucket, uint64_t now_ns)
{
	uint64_t passed = now_ns - bucket->last_ns;
	uint64_t price;

	if (bucket->rate == 0)
		return false;
	price = NS_PER_SECOND / bucket->rate;
	bucket->last_ns = now_ns;
	bucket->used_ns = bucket->used_ns > passed ? bucket->used_ns - passed : 0;
	if (bucket->used_ns + price > NS_PER_SECOND)
		return false;
	bucket->used_ns += price;
	return true;
}

/**
 * icmp_build_error() - make an ICMP error as flannel's proxy does
 * @out:    room for it
 * @error:  which error
 * @packet: the packet it is about, as accepted by ip_parse()
 * @header: its fields
 *
 * Quotes the header and the first eight bytes behind it (RFC 792); id 0, TOS 0 and no DF.
 *
 * Return: bytes written to @out
 */
size_t icmp_build_error(uint8_t out[ICMP_ERROR_MAX], const struct icmp_error *error,
			const uint8_t *packet, const struct ip_header *header)
{
	size_t quoted = (size_t)header->header_length + 8;
	uint8_t *icmp = out + IP_HEADER_MIN;
	size_t length;

	if (quoted > header->total_length)
		quoted = header->total_length;
	length = IP_HEADER_MIN + ICMP_HEADER + quoted;
	memset(out, 0, IP_HEADER_MIN + ICMP_HEADER);

	icmp[0] = error->type;
	icmp[1] = error->code;
	put16(icmp + 6, error->mtu);
	memcpy(icmp + ICMP_HEADER, packet, quoted);
	put16(icmp + 2, (uint16_t)~checksum_fold(checksum_add(0, icmp, ICMP_HEADER + quoted)));

	out[0] = 0x45;
	put16(out + IP_OFF_LENGTH, (uint16_t)length);
	out[IP_OFF_TTL] = error->ttl;
	out[IP_OFF_PROTO] = IP_PROTO_ICMP;
	put32(out + IP_OFF_SOURCE, error->source);
	put32(out + IP_OFF_DESTINATION, header->source);
	put16(out + IP_OFF_CHECKSUM, (uint16_t)~checksum_fold(checksum_add(0, out, IP_HEADER_MIN)));
	return length;
}
