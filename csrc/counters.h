/*
 * counters.h - the names of all counters, and the one way to count.
 *
 * Each direction has an array of 64-bit words in memory that Python owns. One thread at a time
 * writes a direction's words (it owns the direction), anybody may read them at any moment: a
 * relaxed store is enough, and no locked instruction is spent per packet.
 *
 * Conservation, at rest, in each direction: packets_read == packets_written + sum of drop_*. And
 * for each operation, read or written: the sum of batch_* == syscalls_*.
 */
#ifndef TNL_COUNTERS_H
#define TNL_COUNTERS_H

#include <stdint.h>

/* System calls by the number of packets that they moved: 0 (they failed), 1, 2, up to 4, 8 ...
 * 4096, and more. What they moved in all is packets_read or packets_written. */
#define BATCH_COUNTERS(X, operation)                                                               \
	X(batch_##operation##_0)                                                                   \
	X(batch_##operation##_1)                                                                   \
	X(batch_##operation##_2)                                                                   \
	X(batch_##operation##_4)                                                                   \
	X(batch_##operation##_8)                                                                   \
	X(batch_##operation##_16)                                                                  \
	X(batch_##operation##_32)                                                                  \
	X(batch_##operation##_64)                                                                  \
	X(batch_##operation##_128)                                                                 \
	X(batch_##operation##_256)                                                                 \
	X(batch_##operation##_512)                                                                 \
	X(batch_##operation##_1024)                                                                \
	X(batch_##operation##_2048)                                                                \
	X(batch_##operation##_4096)                                                                \
	X(batch_##operation##_more)

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
	X(drop_stopped)                                                                            \
	BATCH_COUNTERS(X, read)                                                                    \
	BATCH_COUNTERS(X, written)

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
	X(drop_write_failed)                                                                       \
	BATCH_COUNTERS(X, read)                                                                    \
	BATCH_COUNTERS(X, written)

#define OUTBOUND_ENUM(name) OUT_##name,
#define INBOUND_ENUM(name) IN_##name,

enum outbound_counter { OUTBOUND_COUNTERS(OUTBOUND_ENUM) OUTBOUND_COUNTER_COUNT };
enum inbound_counter { INBOUND_COUNTERS(INBOUND_ENUM) INBOUND_COUNTER_COUNT };

/* Of the 15 buckets of an operation, the one for more than 4096 packets. */
#define BATCH_LAST ((unsigned int)(OUT_batch_read_more - OUT_batch_read_0))

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

/**
 * count_batch() - count a system call by the number of packets that it moved
 * @counters: the words of this thread's direction
 * @first:    batch_*_0 of the operation
 * @packets:  how many; 0: it failed
 */
static inline void count_batch(uint64_t *counters, unsigned int first, uint32_t packets)
{
	unsigned int bucket =
		packets < 2 ? packets : 33u - (unsigned int)__builtin_clz(packets - 1);

	count(counters, first + (bucket < BATCH_LAST ? bucket : BATCH_LAST), 1);
}

#endif
