/*
 * tun_batch.c - see tun_batch.h.
 */
#include "tun_batch.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "counters.h"

/**
 * tun_batch_init() - prepare an empty batch
 * @batch:    to fill in; zeroed memory
 * @fd:       the TUN, borrowed
 * @features: TNL_*
 * @counters: of the inbound direction
 */
void tun_batch_init(struct tun_batch *batch, int fd, uint32_t features, uint64_t *counters)
{
	batch->fd = fd;
	batch->vnet = features & TNL_VNET_HDR;
	batch->counters = counters;
	batch->coalesce.tcp = features & TNL_TSO;
	batch->coalesce.udp = features & TNL_USO;
}

/**
 * tun_batch_write() - one write
 * @batch:     batch
 * @iovs:      vnet header first if the TUN has one
 * @iov_count: of @iovs
 * @packets:   that they hold
 *
 * Return: 0 or the errno
 */
static int tun_batch_write(struct tun_batch *batch, const struct iovec *iovs, int iov_count,
			   uint32_t packets)
{
	ssize_t written;

	do {
		written = writev(batch->fd, iovs, iov_count);
		count(batch->counters, IN_syscalls_written, 1);
		count_batch(batch->counters, IN_batch_written_0, written < 0 ? 0 : packets);
	} while (written < 0 && errno == EINTR);
	return written < 0 ? errno : 0;
}

/**
 * tun_batch_account() - count what the kernel took, or did not
 * @batch:   batch
 * @table:   current table
 * @route:   of the peer, or NO_ROUTE
 * @packets: inner packets
 * @bytes:   inner bytes
 * @error:   of the write
 */
static void tun_batch_account(struct tun_batch *batch, const struct tnl_routes *table,
			      int32_t route, uint32_t packets, uint32_t bytes, int error)
{
	if (error) {
		count(batch->counters, IN_drop_write_failed, packets);
		return;
	}
	count(batch->counters, IN_packets_written, packets);
	count(batch->counters, IN_bytes_written, bytes);
	if (route != NO_ROUTE)
		routes_count_rx(table, route, packets, bytes);
}

/**
 * tun_batch_write_pieces() - write the packets of an entry one by one
 * @batch: batch
 * @table: current table
 * @entry: with the original headers in place
 */
static void tun_batch_write_pieces(struct tun_batch *batch, const struct tnl_routes *table,
				   const struct coalesce_entry *entry)
{
	struct vnet_hdr vnet = {0};

	for (uint32_t i = entry->first; i != COALESCE_NONE; i = batch->coalesce.pieces[i].next) {
		const struct coalesce_piece *piece = &batch->coalesce.pieces[i];
		struct iovec iovs[2] = {{&vnet, VNET_HDR_BYTES}, {piece->packet, piece->length}};

		tun_batch_account(batch, table, entry->route, 1, piece->length,
				  tun_batch_write(batch, iovs, 2, 1));
	}
}

/**
 * tun_batch_write_entry() - write one entry as one packet
 * @batch: batch
 * @table: current table
 * @entry: entry
 */
static void tun_batch_write_entry(struct tun_batch *batch, const struct tnl_routes *table,
				  const struct coalesce_entry *entry)
{
	const struct coalesce_piece *piece = &batch->coalesce.pieces[entry->first];
	struct iovec iovs[COALESCE_SEGMENTS + 1];
	uint8_t saved[SEGMENT_HEADER_MAX];
	struct vnet_hdr vnet;
	int used = 0, error;

	coalesce_finish(&batch->coalesce, entry, &vnet, saved);
	iovs[used++] = (struct iovec){&vnet, VNET_HDR_BYTES};
	iovs[used++] = (struct iovec){piece->packet, piece->length};
	for (uint32_t i = piece->next; i != COALESCE_NONE; i = piece->next) {
		piece = &batch->coalesce.pieces[i];
		iovs[used++] = (struct iovec){piece->packet + entry->header_length,
					      piece->length - entry->header_length};
	}
	error = tun_batch_write(batch, iovs, used, entry->count);
	if (error == EINVAL && entry->count > 1) {
		coalesce_restore(&batch->coalesce, entry, saved);
		if (entry->proto == IP_PROTO_TCP)
			__atomic_store_n(&batch->coalesce.tcp, false, __ATOMIC_RELAXED);
		else
			__atomic_store_n(&batch->coalesce.udp, false, __ATOMIC_RELAXED);
		__atomic_store_n(&batch->downgrades, batch->downgrades + 1, __ATOMIC_RELAXED);
		tun_batch_write_pieces(batch, table, entry);
		return;
	}
	tun_batch_account(batch, table, entry->route, entry->count, entry->inner_bytes, error);
	if (!error && entry->count > 1)
		count(batch->counters, IN_superpackets_written, 1);
}

/**
 * tun_batch_flush() - write everything, in the order of arrival within each flow
 * @batch: batch
 * @table: current table
 */
void tun_batch_flush(struct tun_batch *batch, const struct tnl_routes *table)
{
	for (uint32_t i = 0; i < batch->coalesce.entry_count; i++)
		tun_batch_write_entry(batch, table, &batch->coalesce.entries[i]);
	coalesce_reset(&batch->coalesce);
}

/**
 * tun_batch_add() - write an admitted packet, or collect it
 * @batch:  batch
 * @table:  current table
 * @route:  of the peer that sent it, or NO_ROUTE
 * @packet: TTL already decremented; stays in place until the flush
 * @header: its fields
 */
void tun_batch_add(struct tun_batch *batch, const struct tnl_routes *table, int32_t route,
		   uint8_t *packet, const struct ip_header *header)
{
	struct iovec iov = {packet, header->total_length};

	if (!batch->vnet) {
		tun_batch_account(batch, table, route, 1, header->total_length,
				  tun_batch_write(batch, &iov, 1, 1));
		return;
	}
	if (coalesce_is_full(&batch->coalesce))
		tun_batch_flush(batch, table);
	coalesce_add(&batch->coalesce, packet, header, route);
}
