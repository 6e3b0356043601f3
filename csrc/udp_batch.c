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

/* The kernel takes a UDP payload of 65,507 bytes, but splits what is over 65,480 in a GSO send. */
#define RUN_BYTES_MAX 65480u

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
 * udp_batch_has_room() - whether one more packet or superpacket fits
 * @batch: batch
 * @iovs:  iovecs that it needs
 *
 * Return: false when the batch must be flushed first
 */
bool udp_batch_has_room(const struct udp_batch *batch, uint32_t iovs)
{
	return batch->count < batch->capacity && batch->iov_used + iovs <= BATCH_IOVS;
}

/**
 * udp_batch_extends() - whether a packet may join the last run
 * @batch:  batch
 * @route:  of the packet
 * @length: of the packet
 *
 * Nothing can follow a shorter packet within a run: the kernel cuts at equal sizes.
 *
 * Return: true if it may
 */
static bool udp_batch_extends(const struct udp_batch *batch, int32_t route, uint32_t length)
{
	const struct udp_run *last;

	if (batch->count == 0 || batch->max_segments == 1)
		return false;
	last = &batch->runs[batch->count - 1];
	return !last->closed && last->route == route && last->packet_iovs == 1 &&
	       length <= last->segment_size && last->packets < batch->max_segments &&
	       last->bytes + length <= RUN_BYTES_MAX;
}

/**
 * udp_batch_add() - add one packet; the caller has checked for room
 * @batch:       batch
 * @table:       the table that @route belongs to
 * @route:       of the peer
 * @destination: inner destination
 * @packet:      must stay in place until the batch is flushed
 * @length:      bytes
 */
void udp_batch_add(struct udp_batch *batch, const struct tnl_routes *table, int32_t route,
		   uint32_t destination, uint8_t *packet, uint32_t length)
{
	struct udp_run *run;

	batch->generation = table->generation;
	batch->iovs[batch->iov_used] = (struct iovec){packet, length};
	if (udp_batch_extends(batch, route, length)) {
		run = &batch->runs[batch->count - 1];
		run->closed = length < run->segment_size;
	} else {
		run = &batch->runs[batch->count];
		*run = (struct udp_run){
			.destination = destination,
			.route = route,
			.segment_size = length,
			.first_iov = batch->iov_used,
			.packet_iovs = 1,
		};
		batch->addresses[batch->count] = (struct sockaddr_in){
			.sin_family = AF_INET,
			.sin_port = htons((uint16_t)table->snapshot.port),
			.sin_addr.s_addr = htonl(table->routes[route].public_ip),
		};
		batch->count++;
	}
	batch->iov_used++;
	run->iov_count++;
	run->packets++;
	run->bytes += length;
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
	if (run->route != NO_ROUTE)
		routes_count_tx(table, run->route, packets, bytes);
}

/**
 * udp_batch_send_plain() - send what is left of a run packet by packet
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

	while (run->packets) {
		struct msghdr message = {
			.msg_name = &batch->addresses[index],
			.msg_namelen = sizeof(batch->addresses[index]),
			.msg_iov = &batch->iovs[run->first_iov],
			.msg_iovlen = run->packet_iovs,
		};
		uint32_t length = 0;
		ssize_t sent = sendmsg(batch->fd, &message, 0);

		count(batch->counters, OUT_syscalls_written, 1);
		if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return false;
		if (sent < 0 && errno == EINTR)
			continue;
		for (uint32_t i = 0; i < run->packet_iovs; i++)
			length += (uint32_t)batch->iovs[run->first_iov + i].iov_len;
		if (sent < 0)
			count(batch->counters, OUT_drop_send_failed, 1);
		else
			udp_batch_account(batch, table, run, 1, length);
		run->first_iov += run->packet_iovs;
		run->iov_count -= run->packet_iovs;
		run->bytes -= length;
		run->packets--;
	}
	return true;
}

/**
 * udp_batch_refused() - deal with a run that the kernel refused
 * @batch: batch
 * @table: current table
 * @error: errno of the refusal
 *
 * EIO means that the egress device cannot checksum segments: no run will ever pass, so runs end
 * here for good. EINVAL and EMSGSIZE are about this run (its size no longer fits the path).
 *
 * Return: false when the socket takes no more now
 */
static bool udp_batch_refused(struct udp_batch *batch, const struct tnl_routes *table, int error)
{
	struct udp_run *run = &batch->runs[batch->sent];

	if (run->packets > 1 && (error == EIO || error == EINVAL || error == EMSGSIZE)) {
		if (error == EIO)
			batch->max_segments = 1;
		run->closed = true;
		batch->plain = true;
		return udp_batch_send_plain(batch, table, batch->sent);
	}
	count(batch->counters, OUT_drop_send_failed, run->packets);
	return true;
}

/**
 * udp_batch_resolve() - find the peers of left-over runs again after a table swap
 * @batch: batch
 * @table: current table
 */
static void udp_batch_resolve(struct udp_batch *batch, const struct tnl_routes *table)
{
	if (batch->generation == table->generation)
		return;
	for (uint32_t i = batch->sent; i < batch->count; i++)
		batch->runs[i].route = tnl_routes_lookup(table, batch->runs[i].destination);
	batch->generation = table->generation;
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
	if (batch->plain && !udp_batch_send_plain(batch, table, batch->sent))
		return false;
	if (batch->plain) {
		batch->plain = false;
		batch->sent++;
	}
	for (uint32_t i = batch->sent; i < batch->count; i++)
		udp_batch_prepare(batch, i);
	while (batch->sent < batch->count) {
		int done = sendmmsg(batch->fd, &batch->messages[batch->sent],
				    batch->count - batch->sent, 0);

		count(batch->counters, OUT_syscalls_written, 1);
		for (int i = 0; i < done; i++) {
			const struct udp_run *run = &batch->runs[batch->sent++];

			udp_batch_account(batch, table, run, run->packets, run->bytes);
			if (run->packets > 1)
				count(batch->counters, OUT_superpackets_written, 1);
		}
		if (done >= 0 || errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return false;
		if (!udp_batch_refused(batch, table, errno))
			return false;
		batch->plain = false;
		batch->sent++;
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
	batch->plain = false;
}
