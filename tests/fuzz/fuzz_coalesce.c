/*
 * fuzz_coalesce.c - libFuzzer target for coalesce.c: any packets, joined and cut again, are the
 * same packets, and those of one flow stay in order.
 *
 * An input is a list of packets, each behind two bytes of length. Header and L4 checksums are set
 * right, else hardly anything would be joined; a packet may ask to keep its own.
 */
#include "coalesce.h"
#include "l4.h"
#include "require.h"

#define PACKETS_MAX 64u
#define KEEP_CHECKSUM 0x8000u

/** struct original - a packet as it was added
 * @packet: what coalesce.c works on
 * @copy:   as it was
 * @length: of both
 */
struct original {
	uint8_t *packet;
	uint8_t *copy;
	uint32_t length;
};

/** mend() - set both checksums right, where there is a field for them */
static void mend(uint8_t *packet, uint32_t length)
{
	uint32_t header_length = (uint32_t)(packet[0] & 0x0f) * 4, l4_length, offset;
	uint8_t proto = packet[IP_OFF_PROTO];
	uint16_t check;

	if (header_length < IP_HEADER_MIN || header_length > length)
		return;
	packet[0] = (uint8_t)(0x40 | (packet[0] & 0x0f));
	put16(packet + IP_OFF_LENGTH, (uint16_t)length);
	put16(packet + IP_OFF_CHECKSUM, 0);
	put16(packet + IP_OFF_CHECKSUM,
	      (uint16_t)~checksum_fold(checksum_add(0, packet, header_length)));
	l4_length = length - header_length;
	offset = header_length + (proto == IP_PROTO_UDP ? UDP_OFF_CHECKSUM : TCP_OFF_CHECKSUM);
	if ((proto != IP_PROTO_UDP && proto != IP_PROTO_TCP) || offset + 2 > length)
		return;
	put16(packet + offset, 0);
	check = (uint16_t)~checksum_fold(
		checksum_add(checksum_pseudo(get32(packet + IP_OFF_SOURCE),
					     get32(packet + IP_OFF_DESTINATION), proto, l4_length),
			     packet + header_length, l4_length));
	put16(packet + offset, check == 0 && proto == IP_PROTO_UDP ? 0xffff : check);
}

/** find() - which of the packets that were added a piece is */
static const struct original *find(const struct original *originals, uint32_t count,
				   const uint8_t *packet)
{
	for (uint32_t i = 0; i < count; i++)
		if (originals[i].packet == packet)
			return &originals[i];
	abort();
}

/** same_sum() - 0x0000 and 0xffff are the same sum; a sender may have chosen either (RFC 1071) */
static void same_sum(uint8_t *segment, const uint8_t *copy, size_t at)
{
	if (get16(segment + at) == 0 && get16(copy + at) == 0xffff)
		put16(segment + at, 0xffff);
}

/** same() - a segment is the original; with DF the id may differ, and with it the checksum */
static void same(uint8_t *segment, uint32_t length, const struct original *original)
{
	const uint8_t *copy = original->copy;

	REQUIRE(length == original->length);
	if (get16(copy + IP_OFF_FRAGMENT) & IP_FLAG_DF) {
		memcpy(segment + IP_OFF_ID, copy + IP_OFF_ID, 2);
		memcpy(segment + IP_OFF_CHECKSUM, copy + IP_OFF_CHECKSUM, 2);
	}
	same_sum(segment, copy, IP_OFF_CHECKSUM);
	if (copy[IP_OFF_PROTO] == IP_PROTO_TCP)
		same_sum(segment, copy, IP_HEADER_MIN + TCP_OFF_CHECKSUM);
	REQUIRE(memcmp(segment, copy, length) == 0);
}

/** cut() - what the kernel does with a superpacket */
static void cut(const struct coalesce *c, const struct coalesce_entry *entry,
		const struct original *originals, uint32_t count)
{
	uint8_t saved[SEGMENT_HEADER_MAX], *super = malloc(entry->bytes), *segment;
	struct segment_plan plan;
	struct ip_header header;
	struct vnet_hdr vnet;
	uint32_t length = 0, piece = entry->first;

	REQUIRE(super);
	coalesce_finish(c, entry, &vnet, saved);
	for (uint32_t i = entry->first; i != COALESCE_NONE; i = c->pieces[i].next) {
		uint32_t skip = length ? entry->header_length : 0;
		uint32_t bytes = c->pieces[i].length - skip;

		REQUIRE(length + bytes <= entry->bytes);
		memcpy(super + length, c->pieces[i].packet + skip, bytes);
		length += bytes;
	}
	coalesce_restore(c, entry, saved);
	REQUIRE(length == entry->bytes && ip_parse(super, length, &header) == IP_OK);
	REQUIRE(segment_make_plan(&vnet, super, &header, &plan) && plan.count == entry->count);
	segment = malloc(plan.header_length + plan.size);
	REQUIRE(segment);
	for (uint32_t i = 0; i < plan.count; i++) {
		uint32_t payload = segment_payload_length(&plan, i);

		segment_build_header(&plan, super, &header, i, segment);
		memcpy(segment + plan.header_length,
		       super + plan.header_length + (size_t)i * plan.size, payload);
		same(segment, plan.header_length + payload,
		     find(originals, count, c->pieces[piece].packet));
		piece = c->pieces[piece].next;
	}
	free(segment);
	free(super);
}

/** is_fragment() - of which the flow is not known */
static bool is_fragment(const struct original *original)
{
	return get16(original->copy + IP_OFF_FRAGMENT) & (IP_FLAG_MF | IP_FRAGMENT_OFFSET);
}

/** ports_of() - where the ports of a whole packet are, or NULL */
static const uint8_t *ports_of(const struct original *original)
{
	uint8_t proto = original->copy[IP_OFF_PROTO];

	if (proto != IP_PROTO_TCP && proto != IP_PROTO_UDP)
		return NULL;
	return bytes_at(original->copy, original->length, (size_t)(original->copy[0] & 0x0f) * 4,
			4);
}

/** keep_order() - whether two packets must: same flow, or one is a fragment */
static bool keep_order(const struct original *a, const struct original *b)
{
	const uint8_t *a_ports = ports_of(a), *b_ports = ports_of(b);

	if (is_fragment(a) || is_fragment(b))
		return true;
	return a_ports && b_ports && a->copy[IP_OFF_PROTO] == b->copy[IP_OFF_PROTO] &&
	       memcmp(a->copy + IP_OFF_SOURCE, b->copy + IP_OFF_SOURCE, 8) == 0 &&
	       memcmp(a_ports, b_ports, 4) == 0;
}

/** check_order() - the entries hold each packet once, those of a flow as they came */
static void check_order(const struct coalesce *c, const struct original *originals, uint32_t count)
{
	const struct original *written[PACKETS_MAX];
	uint32_t seen = 0;

	for (uint32_t e = 0; e < c->entry_count; e++) {
		for (uint32_t i = c->entries[e].first; i != COALESCE_NONE; i = c->pieces[i].next) {
			REQUIRE(seen < count);
			written[seen] = find(originals, count, c->pieces[i].packet);
			for (uint32_t before = 0; before < seen; before++)
				REQUIRE(written[before] < written[seen] ||
					(written[before] != written[seen] &&
					 !keep_order(written[before], written[seen])));
			seen++;
		}
	}
	REQUIRE(seen == count);
}

/** LLVMFuzzerTestOneInput() - one input */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct coalesce c;
	struct original originals[PACKETS_MAX];
	uint32_t count = 0;

	c.tcp = c.udp = true;
	while (size >= 2 && count < PACKETS_MAX) {
		uint16_t word = get16(data);
		uint32_t length = word & 0x07ff;
		struct original *original = &originals[count];
		struct ip_header header;

		data += 2;
		size -= 2;
		if (length > size || length < IP_HEADER_MIN)
			break;
		*original = (struct original){malloc(length), malloc(length), length};
		REQUIRE(original->packet && original->copy);
		memcpy(original->packet, data, length);
		if (!(word & KEEP_CHECKSUM))
			mend(original->packet, length);
		memcpy(original->copy, original->packet, length);
		data += length;
		size -= length;
		if (ip_parse(original->packet, length, &header) == IP_OK &&
		    header.total_length == length) {
			coalesce_add(&c, original->packet, &header, 0);
			count++;
		} else {
			free(original->packet);
			free(original->copy);
		}
	}
	for (uint32_t e = 0; e < c.entry_count; e++)
		if (c.entries[e].count > 1)
			cut(&c, &c.entries[e], originals, count);
	check_order(&c, originals, count);
	coalesce_reset(&c);
	for (uint32_t i = 0; i < count; i++) {
		REQUIRE(memcmp(originals[i].packet, originals[i].copy, originals[i].length) == 0);
		free(originals[i].packet);
		free(originals[i].copy);
	}
	return 0;
}
