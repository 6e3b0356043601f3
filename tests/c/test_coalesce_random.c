/*
 * test_coalesce_random.c - segment(coalesce(x)) = x for random traffic, and no flow is reordered.
 */
#include "joining.h"

#define RANDOM_PACKETS 200
#define RANDOM_FLOWS 5

/** struct random_flow - where a flow has got to */
struct random_flow {
	struct packet_spec spec;
	uint32_t size;
};

/** random_spec() - the next packet of a flow: mostly what a bulk transfer sends, sometimes not */
static struct packet_spec random_spec(struct random_flow *flow, uint64_t *random)
{
	uint32_t odd = check_random(random) % 40;
	struct packet_spec *next = &flow->spec, spec;

	if (odd == 0)
		flow->size = 1 + check_random(random) % 1460;
	if (odd == 1)
		next->ack += 100;
	if (odd == 2)
		next->timestamp++;
	if (odd == 3)
		next->fragment ^= IP_FLAG_DF;
	if (odd == 4)
		next->id = (uint16_t)check_random(random);
	if (odd == 5)
		next->tos ^= 3;
	if (odd == 6)
		next->ttl ^= 1;
	spec = *next;
	spec.payload = flow->size;
	if (odd == 7)
		spec.payload = check_random(random) % flow->size;
	if (odd == 8 && spec.proto == PROTO_TCP)
		spec.flags = (uint8_t)check_random(random);
	if (odd == 9)
		spec.flags |= FLAG_PSH;
	if (odd == 10)
		spec.ip_options = 4;
	if (odd == 11)
		spec.fragment |= (uint16_t)(check_random(random) & (IP_FLAG_MF | 3));
	if (odd == 12 && spec.proto == PROTO_UDP)
		spec.no_checksum = 1;
	next->sequence += spec.payload;
	next->at += spec.payload;
	next->id++;
	return spec;
}

/** packet_is_fragment() - of which the flow is not known */
static bool packet_is_fragment(const uint8_t *packet)
{
	return get16(packet + 6) & (IP_FLAG_MF | IP_FRAGMENT_OFFSET);
}

/** same_order() - whether two packets must keep their order: same flow, or one is a fragment */
static bool same_order(const uint8_t *a, const uint8_t *b)
{
	size_t ports = (size_t)(a[0] & 15) * 4, other = (size_t)(b[0] & 15) * 4;

	if (packet_is_fragment(a) || packet_is_fragment(b))
		return true;
	return memcmp(a + 12, b + 12, 8) == 0 && a[9] == b[9] &&
	       memcmp(a + ports, b + other, 4) == 0;
}

/**
 * check_permutation() - what came out is what went in, and nothing that belongs together changed
 * places
 *
 * Each packet that comes out must be the first of its flow that has not come out yet, and no
 * fragment before it may be left.
 */
static void check_permutation(uint8_t *const *packets, const size_t *lengths, uint32_t count)
{
	bool taken[RANDOM_PACKETS] = {false};

	CHECK_EQ(sink.count, count);
	for (uint32_t n = 0; n < sink.count && n < count; n++) {
		uint32_t i = 0;

		while (i < count && (taken[i] || !same_order(packets[i], sink.packets[n])))
			i++;
		if (!CHECK(i < count))
			return;
		check_same("random", sink.packets[n], sink.lengths[n], packets[i], lengths[i]);
		taken[i] = true;
		/* Everything before a fragment is out before it. */
		for (uint32_t k = 0; packet_is_fragment(packets[i]) && k < i; k++)
			CHECK(taken[k]);
	}
}

/** test_random() - segment(coalesce(x)) == x, and a fair part of it was joined */
static void test_random(void)
{
	static uint8_t originals[RANDOM_PACKETS * 1600];
	uint8_t *packets[RANDOM_PACKETS];
	size_t lengths[RANDOM_PACKETS];
	uint64_t random = 8285, joined = 0, all = 0;

	for (int round = 0; round < 300; round++) {
		struct random_flow flows[RANDOM_FLOWS];
		size_t used = 0;

		coalesce_reset(&batch);
		batch.tcp = batch.udp = true;
		for (uint32_t f = 0; f < RANDOM_FLOWS; f++) {
			flows[f].size = 1 + check_random(&random) % 1460;
			flows[f].spec = (struct packet_spec){
				.source = 0x64600203 + f / 2,
				.destination = 0x64600102,
				.source_port = 80,
				.destination_port = (uint16_t)(40000 + f),
				.sequence = check_random(&random),
				.id = (uint16_t)check_random(&random),
				.fragment = f % 2 ? IP_FLAG_DF : 0,
				.ttl = 63,
				.proto = f % 3 == 2 ? PROTO_UDP : PROTO_TCP,
				.flags = FLAG_ACK,
				.tcp_options = f % 2 ? 12 : 0,
			};
		}
		for (uint32_t i = 0; i < RANDOM_PACKETS; i++) {
			uint32_t f = check_random(&random) % RANDOM_FLOWS;
			struct packet_spec spec = random_spec(&flows[f], &random);

			packets[i] = originals + used;
			lengths[i] = packet_build(&spec, packets[i]);
			/* A bit may fall over behind the IP header. */
			if (check_random(&random) % 50 == 0) {
				uint32_t bit = check_random(&random) %
					       (uint32_t)(8 * (lengths[i] - 24 - spec.ip_options));

				packets[i][24 + spec.ip_options + bit / 8] ^=
					(uint8_t)(1u << bit % 8);
			}
			memcpy(store + used, packets[i], lengths[i]);
			batch_add(store + used, lengths[i], 0);
			used += lengths[i];
		}
		sink_batch();
		check_permutation(packets, lengths, RANDOM_PACKETS);
		/* coalesce_restore() put every header back. */
		check_bytes("restored", store, used, originals, used);
		joined += RANDOM_PACKETS - batch.entry_count;
		all += RANDOM_PACKETS;
	}
	CHECK(joined > all / 4);
}

int main(void)
{
	test_random();
	return check_result("test_coalesce_random");
}
