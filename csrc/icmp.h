/*
 * icmp.h - ICMP errors about packets that cannot go on (RFC 792, RFC 1122, RFC 1812).
 *
 * Pure but for the clock that the caller passes in. Where an error travels is not decided here:
 * outbound.c writes it to the TUN, inbound.c sends it back to the peer.
 */
#ifndef TNL_ICMP_H
#define TNL_ICMP_H

#include "ip.h"

#define ICMP_HEADER 8u
/* An IP header, an ICMP header, the longest quoted header and eight bytes behind it. */
#define ICMP_ERROR_MAX (IP_HEADER_MIN + ICMP_HEADER + 60u + 8u)

/** struct icmp_error - which error to build
 * @type:   ICMP type (3 unreachable, 11 time exceeded)
 * @code:   ICMP code
 * @ttl:    TTL of the error packet itself
 * @mtu:    next-hop MTU (RFC 1191) for 3/4, else 0
 * @source: address that the error comes from, host byte order
 */
struct icmp_error {
	uint8_t type;
	uint8_t code;
	uint8_t ttl;
	uint16_t mtu;
	uint32_t source;
};

/** struct icmp_bucket - a token bucket; zeroed but for @rate it starts full
 * @rate:    tokens per second, and the most that it holds
 * @used_ns: "debt": how many nanoseconds' worth of tokens are out
 * @last_ns: when the bucket was looked at last
 */
struct icmp_bucket {
	uint32_t rate;
	uint64_t used_ns;
	uint64_t last_ns;
};

bool icmp_may_answer(const uint8_t *packet, const struct ip_header *header);
bool icmp_bucket_take(struct icmp_bucket *bucket, uint64_t now_ns);
size_t icmp_build_error(uint8_t out[ICMP_ERROR_MAX], const struct icmp_error *error,
			const uint8_t *packet, const struct ip_header *header);

#endif
