/*
 * counters.h - the names of all counters, and the one way to count.
 *
 * Each direction has an array of 64-bit words in memory that Python owns. One thread at a time
 * writes a direction's words (it owns the direction), anybody may read them at any moment: a
 * relaxed store is enough, and no locked instruction is spent per packet.
 *
 * Conservation, at rest, in each direction: packets_read == packets_written + sum of drop_*.
 */
#ifndef TNL_COUNTERS_H
#define TNL_COUNTERS_H

#include <stdint.h>

#define OUTBOUND_COUNTERS(X)                                                                       \
	X(packets_read)                                                                            \
	X(bytes_read)                                                                              \
	X(packets_written)                                                                         \
	X(bytes_written)                                                                           \
	X(superpackets_read)                                                                       \
	X(superpackets_written)                                                                    \
	X(syscalls_read)                                                                           \
	X(syscalls_written)                                                                        \
	X(syscalls_poll)                                                                           \
	X(icmp_sent_net_unreachable)                                                               \
	X(icmp_sent_time_exceeded)                                                                 \
	X(icmp_sent_fragmentation_needed)                                                          \
	X(icmp_suppressed)                                                                         \
	X(drop_too_short)                                                                          \
	X(drop_not_ipv4)                                                                           \
	X(drop_bad_header_length)                                                                  \
	X(drop_bad_length)                                                                         \
	X(drop_bad_checksum)                                                                       \
	X(drop_own_subnet)                                                                         \
	X(drop_own_peer)                                                                           \
	X(drop_no_route)                                                                           \
	X(drop_ttl_expired)                                                                        \
	X(drop_too_big)                                                                            \
	X(drop_send_failed)                                                                        \
	X(drop_stopped)

#define INBOUND_COUNTERS(X)                                                                        \
	X(packets_read)                                                                            \
	X(bytes_read)                                                                              \
	X(packets_written)                                                                         \
	X(bytes_written)                                                                           \
	X(superpackets_read)                                                                       \
	X(superpackets_written)                                                                    \
	X(syscalls_read)                                                                           \
	X(syscalls_written)                                                                        \
	X(syscalls_poll)                                                                           \
	X(icmp_sent_time_exceeded)                                                                 \
	X(icmp_suppressed)                                                                         \
	X(drop_too_short)                                                                          \
	X(drop_not_ipv4)                                                                           \
	X(drop_bad_header_length)                                                                  \
	X(drop_bad_length)                                                                         \
	X(drop_bad_checksum)                                                                       \
	X(drop_truncated)                                                                          \
	X(drop_outer_source)                                                                       \
	X(drop_outer_port)                                                                         \
	X(drop_own_source)                                                                         \
	X(drop_spoofed_source)                                                                     \
	X(drop_martian_source)                                                                     \
	X(drop_outside_source)                                                                     \
	X(drop_foreign_destination)                                                                \
	X(drop_ttl_expired)                                                                        \
	X(drop_write_failed)

#define OUTBOUND_ENUM(name) OUT_##name,
#define INBOUND_ENUM(name) IN_##name,

enum outbound_counter { OUTBOUND_COUNTERS(OUTBOUND_ENUM) OUTBOUND_COUNTER_COUNT };
enum inbound_counter { INBOUND_COUNTERS(INBOUND_ENUM) INBOUND_COUNTER_COUNT };

/**
 * count() - add to a word that only this thread writes
 * @counters: the words of this thread's direction
 * @index:    which one
 * @n:        how much
 */
static inline void count(uint64_t *counters, unsigned int index, uint64_t n)
{
	__atomic_store_n(&counters[index], counters[index] + n, __ATOMIC_RELAXED);
}

#endif
