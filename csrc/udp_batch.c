/*
 * udp_batch.c - see udp_batch.h for the words and for what is atomic.
 */
#include "udp_batch.h"

#include <errno.h>
#include <netinet/udp.h>
#include <string.h>

#include "counters.h"

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif

/**
 * udp_batch_init() - prepare an empty batch
 * @batch:        to fill in
 * @fd:           the UDP socket, borrowed
 * @capacity:     runs per system call, 1..BATCH_MAX
 * @max_segments: packets per run; 1: UDP_SEGMENT is not used
 * @counters:     of the outbound direction
 */
void udp_batch_init(struct udp_batch *batch, int fd, uint32_t capacity, uint32_t max_segments,
		    uint64_t *counters)
{
	memset(batch, 0, sizeof(*batch));
	batch->fd = fd;
	batch->capacity = capacity;
	batch->max_segments = max_segments;
	batch->counters = counters;
}

/**
 * udp_batch_is_full() - whether the batch must be flushed before anything is added
 * @batch: batch
 *
 * Return: true when there may be no room for a superpacket
 */
bool udp_batch_is_full(const struct udp_batch *batch)
{
	return batch->count >= batch->capacity || batch->iov_used + SUPERPACKET_IOVS > BATCH_IOVS;
}

/**
 * udp_batch_extends() - whether a packet may join the last run
 * @batch:  batch
 * @route:  of the packet
 * @length: of the packet
 * @iovs:   that it consists of
 *
 * Nothing can follow a shorter packet within a run: the kernel cuts at equal sizes.
 *
 * Return: true if it may
 */
static bool udp_batch_extends(const struct udp_batch *batch, int32_t route, uint32_t length,
			      uint32_t iovs)
{
	const struct udp_run *last;

	if (batch->count == 0 || batch->max_segments == 1)
		return false;
	last = &batch->runs[batch->count - 1];
	return !last->closed && !last->plain && last->route == route && last->packet_iovs == iovs &&
	       length <= last->segment_size && last->packets < batch->max_segments &&
	       last->bytes + length <= RUN_BYTES_MAX;
}

/**
 * udp_batch_open() - begin a run; the batch is not full
 * @batch:        batch
 * @table:        the table that @route belongs to
 * @route:        of the peer
 * @destination:  inner destination
 * @segment_size: size of all its packets but the last
 *
 * Return: the empty run
 */
struct udp_run *udp_batch_open(struct udp_batch *batch, const struct tnl_routes *table,
			       int32_t route, uint32_t destination, uint32_t segment_size)
{
	struct udp_run *run = &batch->runs[batch->count];

	*run = (struct udp_run){
		.destination = destination,
		.route = route,
		.segment_size = segment_size,
		.first_iov = batch->iov_used,
		.packet_iovs = 1,
	};
	batch->generation = table->generation;
	batch->addresses[batch->count] = (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)table->snapshot.port),
		.sin_addr.s_addr = htonl(table->routes[route].public_ip),
	};
	batch->count++;
	return run;
}

/**
 * udp_batch_join() - the run that a packet belongs to: the last one, or a new one
 * @batch:       batch
 * @table:       the table that @route belongs to
 * @route:       of the peer
 * @destination: inner destination
 * @length:      of the packet
 * @iovs:        that it consists of
 *
 * Return: the run, with the packet counted; its bytes are to be appended
 */
struct udp_run *udp_batch_join(struct udp_batch *batch, const struct tnl_routes *table,
			       int32_t route, uint32_t destination, uint32_t length, uint32_t iovs)
{
	struct udp_run *run;

	if (udp_batch_extends(batch, route, length, iovs)) {
		run = &batch->runs[batch->count - 1];
		run->closed = length < run->segment_size;
	} else {
		run = udp_batch_open(batch, table, route, destination, length);
		run->packet_iovs = iovs;
	}
	run->packets++;
	return run;
}

/**
 * udp_batch_append() - add bytes to the last run
 * @batch:  batch
 * @run:    the last run
 * @data:   must stay in place until the batch is flushed
 * @length: bytes
 */
void udp_batch_append(struct udp_batch *batch, struct udp_run *run, void *data, uint32_t length)
{
	batch->iovs[batch->iov_used++] = (struct iovec){data, length};
	run->iov_count++;
	run->bytes += length;
}

/**
 * udp_batch_add() - add one packet; the batch is not full
 * @batch:       batch
 * @table:       the table that @route belongs to
 * @route:       of the peer
 * @destination: inner destination
 * @packet:      must stay in place until the batch is flushed
 * @length:      bytes
 * @alone:       shares no message with others: it must be fragmented, or probe the path
 */
void udp_batch_add(struct udp_batch *batch, const struct tnl_routes *table, int32_t route,
		   uint32_t destination, uint8_t *packet, uint32_t length, bool alone)
{
	struct udp_run *run;

	if (alone) {
		run = udp_batch_open(batch, table, route, destination, length);
		run->packets = 1;
		run->closed = true;
	} else {
		run = udp_batch_join(batch, table, route, destination, length, 1);
	}
	udp_batch_append(batch, run, packet, length);
}

/**
 * udp_batch_prepare() - fill in the message of one run
 * @batch: batch
 * @index: of the run
 */
static void udp_batch_prepare(struct udp_batch *batch, uint32_t index)
{
	const struct udp_run *run = &batch->runs[index];
	struct msghdr *message = &batch->messages[index].msg_hdr;
	union segment_control *control = &batch->controls[index];

	*message = (struct msghdr){
		.msg_name = &batch->addresses[index],
		.msg_namelen = sizeof(batch->addresses[index]),
		.msg_iov = &batch->iovs[run->first_iov],
		.msg_iovlen = run->iov_count,
	};
	if (run->packets > 1) {
		uint16_t size = (uint16_t)run->segment_size;

		control->header = (struct cmsghdr){
			.cmsg_len = CMSG_LEN(sizeof(size)),
			.cmsg_level = SOL_UDP,
			.cmsg_type = UDP_SEGMENT,
		};
		memcpy(CMSG_DATA(&control->header), &size, sizeof(size));
		message->msg_control = control;
		message->msg_controllen = sizeof(*control);
	}
}

/**
 * udp_batch_account() - count packets that the kernel took
 * @batch:   batch
 * @table:   current table
 * @run:     they belong to
 * @packets: how many
 * @bytes:   inner bytes of them
 */
static void udp_batch_account(struct udp_batch *batch, const struct tnl_routes *table,
			      const struct udp_run *run, uint32_t packets, uint32_t bytes)
{
	count(batch->counters, OUT_packets_written, packets);
	count(batch->counters, OUT_bytes_written, bytes);
	routes_count_tx(table, run->route, packets, bytes);
}

/**
 * udp_batch_shift() - take packets off the front of a run
 * @batch:   batch
 * @run:     the run
 * @packets: how many leave it
 *
 * Return: inner bytes of them
 */
static uint32_t udp_batch_shift(struct udp_batch *batch, struct udp_run *run, uint32_t packets)
{
	uint32_t iovs = packets * run->packet_iovs, bytes = 0;

	for (uint32_t i = 0; i < iovs; i++)
		bytes += (uint32_t)batch->iovs[run->first_iov + i].iov_len;
	run->first_iov += iovs;
	run->iov_count -= iovs;
	run->packets -= packets;
	run->bytes -= bytes;
	return bytes;
}

/**
 * udp_batch_send_plain() - send what is left of a run as one datagram per message
 * @batch: batch
 * @table: current table
 * @index: of the run
 *
 * Packets that were sent or given up leave the run, so it can be called again after POLLOUT.
 *
 * Return: false when the socket takes no more now
 */
static bool udp_batch_send_plain(struct udp_batch *batch, const struct tnl_routes *table,
				 uint32_t index)
{
	struct udp_run *run = &batch->runs[index];
	struct mmsghdr messages[BATCH_MAX];

	while (run->packets) {
		uint32_t packets = run->packets < BATCH_MAX ? run->packets : BATCH_MAX;
		int done;

		for (uint32_t i = 0; i < packets; i++)
			messages[i] = (struct mmsghdr){
				.msg_hdr.msg_name = &batch->addresses[index],
				.msg_hdr.msg_namelen = sizeof(batch->addresses[index]),
				.msg_hdr.msg_iov =
					&batch->iovs[run->first_iov + i * run->packet_iovs],
				.msg_hdr.msg_iovlen = run->packet_iovs,
			};
		done = sendmmsg(batch->fd, messages, packets, 0);
		count(batch->counters, OUT_syscalls_written, 1);
		count_batch(batch->counters, OUT_batch_written_0, done > 0 ? (uint32_t)done : 0);
		if (done > 0) {
			uint32_t bytes = udp_batch_shift(batch, run, (uint32_t)done);

			udp_batch_account(batch, table, run, (uint32_t)done, bytes);
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			return false;
		} else if (errno != EINTR) {
			udp_batch_shift(batch, run, 1);
			count(batch->counters, OUT_drop_send_failed, 1);
		}
	}
	return true;
}

/**
 * udp_batch_refused() - deal with a run that the kernel refused
 * @batch: batch
 * @error: errno of the refusal
 *
 * EIO means that the egress device cannot checksum segments: no run will ever pass, so runs end
 * here for good. EINVAL and EMSGSIZE are about this run (its size no longer fits the path).
 */
static void udp_batch_refused(struct udp_batch *batch, int error)
{
	struct udp_run *run = &batch->runs[batch->sent];

	if (run->packets > 1 && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
		if (error == EIO)
			__atomic_store_n(&batch->max_segments, 1, __ATOMIC_RELAXED);
		__atomic_store_n(&batch->downgrades, batch->downgrades + 1, __ATOMIC_RELAXED);
		run->plain = true;
		return;
	}
	count(batch->counters, OUT_drop_send_failed, run->packets);
	batch->sent++;
}

/**
 * udp_batch_resolve() - find the peers of left-over runs again after a table swap
 * @batch: batch
 * @table: current table
 *
 * A run whose peer has left ends here; one whose subnet has moved goes to the new holder.
 */
static void udp_batch_resolve(struct udp_batch *batch, const struct tnl_routes *table)
{
	if (batch->generation == table->generation)
		return;
	for (uint32_t i = batch->sent; i < batch->count; i++) {
		struct udp_run *run = &batch->runs[i];

		run->route = tnl_routes_lookup(table, run->destination);
		if (run->route == NO_ROUTE ||
		    routes_is_own(table, table->routes[run->route].public_ip)) {
			count(batch->counters,
			      run->route == NO_ROUTE ? OUT_drop_no_route : OUT_drop_own_peer,
			      run->packets);
			/* Sent packet by packet, it is none. */
			run->packets = 0;
			run->plain = true;
			continue;
		}
		batch->addresses[i].sin_addr.s_addr = htonl(table->routes[run->route].public_ip);
	}
	batch->generation = table->generation;
}

/**
 * udp_batch_send() - hand the runs up to the next plain one to the kernel
 * @batch: batch
 * @table: current table
 *
 * Return: false when the socket takes no more now
 */
static bool udp_batch_send(struct udp_batch *batch, const struct tnl_routes *table)
{
	uint32_t end = batch->sent, packets = 0;
	int done;

	for (; end < batch->count && !batch->runs[end].plain; end++)
		udp_batch_prepare(batch, end);
	done = sendmmsg(batch->fd, &batch->messages[batch->sent], end - batch->sent, 0);
	count(batch->counters, OUT_syscalls_written, 1);
	for (int i = 0; i < done; i++) {
		const struct udp_run *run = &batch->runs[batch->sent++];

		packets += run->packets;
		udp_batch_account(batch, table, run, run->packets, run->bytes);
		if (run->packets > 1)
			count(batch->counters, OUT_superpackets_written, 1);
	}
	count_batch(batch->counters, OUT_batch_written_0, packets);
	if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return false;
	if (done < 0 && errno != EINTR)
		udp_batch_refused(batch, errno);
	return true;
}

/**
 * udp_batch_flush() - send everything
 * @batch: batch
 * @table: current table
 *
 * Return: true when the batch is empty again, false when the socket takes no more now (call again
 *         after POLLOUT; nothing may be added before)
 */
bool udp_batch_flush(struct udp_batch *batch, const struct tnl_routes *table)
{
	udp_batch_resolve(batch, table);
	while (batch->sent < batch->count) {
		if (!batch->runs[batch->sent].plain) {
			if (!udp_batch_send(batch, table))
				return false;
		} else if (udp_batch_send_plain(batch, table, batch->sent)) {
			batch->sent++;
		} else {
			return false;
		}
	}
	batch->count = batch->sent = batch->iov_used = 0;
	return true;
}

/**
 * udp_batch_discard() - give up what is left, when the engine stops
 * @batch: batch
 */
void udp_batch_discard(struct udp_batch *batch)
{
	for (uint32_t i = batch->sent; i < batch->count; i++)
		count(batch->counters, OUT_drop_stopped, batch->runs[i].packets);
	batch->count = batch->sent = batch->iov_used = 0;
}
