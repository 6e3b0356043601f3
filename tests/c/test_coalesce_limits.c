/*
 * test_coalesce_limits.c - how large a superpacket and a batch become, and flows that look alike.
 */
#include "joining.h"

/** struct limit_case - @count packets of @payload bytes must become entries of these counts */
struct limit_case {
	const char *name;
	bool udp;
	uint32_t payload;
	uint32_t count;
	uint32_t want[3];
};

static const struct limit_case limit_cases[] = {
	{"64 segments", false, 100, 64, {64}},
	{"65 segments", false, 100, 65, {64, 1}},
	{"129 segments", true, 1, 129, {64, 64, 1}},
	{"Ethernet's MSS", false, 1460, 50, {44, 6}},
	/* 65,535 less an Ethernet header and a VLAN tag, or a bridge would have it cut again. */
	{"65,517 bytes of TCP", false, 1597, 41, {41}},
	{"65,558 bytes of TCP", false, 1598, 41, {40, 1}},
	{"65,517 bytes of UDP", true, 1523, 43, {43}},
	{"65,560 bytes of UDP", true, 1524, 43, {42, 1}},
	{"65,535 bytes of TCP", false, 13099, 5, {4, 1}},
	{"65,532 bytes of UDP", true, 1424, 46, {45, 1}},
	{"two halves and a byte", true, 32754, 2, {1, 1}},
};

/** test_limits() - 64 segments, and 65,517 bytes, whichever comes first */
static void test_limits(void)
{
	for (size_t i = 0; i < sizeof(limit_cases) / sizeof(limit_cases[0]); i++) {
		const struct limit_case *c = &limit_cases[i];
		uint64_t failures = check_state.failures;
		size_t used = 0;

		coalesce_reset(&batch);
		batch.tcp = batch.udp = true;
		for (uint32_t n = 0; n < c->count; n++) {
			struct piece piece = {.udp = c->udp, .payload = c->payload};
			size_t length;

			piece.change = SEQUENCE;
			piece.by = n * c->payload;
			length = piece_build(&piece, store + used);
			packet_put16(store + used + 4, n);
			packet_ip_checksum(store + used);
			batch_add(store + used, length, 0);
			used += length;
		}
		for (uint32_t n = 0; n < 3 && c->want[n]; n++)
			CHECK_EQ(batch.entries[n].count, c->want[n]);
		sink_batch();
		CHECK_EQ(sink.count, c->count);
		CHECK_EQ((size_t)(sink.packets[sink.count - 1] - sink_store) +
				 sink.lengths[sink.count - 1],
			 used);
		check_bytes(c->name, sink_store, used, store, used);
		if (failures != check_state.failures)
			fprintf(stderr, "  in: %s\n", c->name);
	}
}

/** test_full() - a batch says in time that it is full; reset makes it empty */
static void test_full(void)
{
	struct piece alone = {.icmp = true};
	size_t length = piece_build(&alone, store), used = 0;

	coalesce_reset(&batch);
	batch.tcp = batch.udp = true;
	for (uint32_t n = 0; n < COALESCE_ENTRIES; n++) {
		CHECK(!coalesce_is_full(&batch));
		batch_add(store, length, 0);
	}
	CHECK(coalesce_is_full(&batch));
	coalesce_reset(&batch);
	for (uint32_t n = 0; n < COALESCE_PIECES; n++) {
		struct piece piece = {.n = n};

		CHECK(!coalesce_is_full(&batch));
		length = piece_build(&piece, store + used);
		batch_add(store + used, length, 0);
		used += length;
	}
	CHECK_EQ(batch.entry_count, COALESCE_PIECES / COALESCE_SEGMENTS);
	CHECK(coalesce_is_full(&batch));
	coalesce_reset(&batch);
	CHECK(!coalesce_is_full(&batch));
	/* Nothing of the last batch is left to join. */
	alone = (struct piece){.n = COALESCE_PIECES};
	batch_add(store, piece_build(&alone, store), 0);
	CHECK_EQ(batch.entry_count, 1);
	CHECK_EQ(batch.entries[0].count, 1);
}

/** test_buckets() - flows that share a bucket lose superpackets, never order */
static void test_buckets(void)
{
	uint32_t shared = 0, apart = 0;

	for (uint32_t by = 1; by <= 2000; by++) {
		struct piece other = {.change = SOURCE_PORT, .by = by};
		struct join_case c = {"a shared bucket", {{0}, other, {.n = 1}, other}, "010"};

		c.pieces[3].n = 1;
		coalesce_reset(&batch);
		batch.tcp = true;
		batch_add(store, piece_build(&c.pieces[0], store), 0);
		batch_add(store + 200, piece_build(&other, store + 200), 0);
		if (batch.entries[0].hash % COALESCE_BUCKETS ==
		    batch.entries[1].hash % COALESCE_BUCKETS) {
			CHECK(batch.entries[0].hash != batch.entries[1].hash);
			c.entries = "0123";
			shared++;
		} else {
			c.entries = "0101";
			apart++;
		}
		run_case(&c);
	}
	CHECK(shared > 0);
	CHECK(apart > shared);
}

/** struct hashed - the hash of a flow
 * @value: what sets the flow apart: its destination, or both of its ports
 */
struct hashed {
	uint32_t hash;
	uint32_t value;
};

/** hashed_order() - for qsort() */
static int hashed_order(const void *a, const void *b)
{
	const struct hashed *x = a, *y = b;

	return x->hash < y->hash ? -1 : x->hash > y->hash;
}

#define HASHED (1u << 19)

/** test_equal_hashes() - flows with all 32 bits of the hash in common are told apart */
static void test_equal_hashes(bool ports)
{
	struct piece piece = {.empty = true, .change = DAMAGE};
	struct hashed *table = calloc(HASHED, sizeof(*table));
	size_t length = piece_build(&piece, store);
	uint64_t random = 32;
	uint32_t pairs = 0;

	if (!table)
		abort();
	for (uint32_t i = 0; i < HASHED; i++) {
		table[i].value = check_random(&random);
		packet_put32(store + (ports ? 20 : 16), table[i].value);
		packet_ip_checksum(store);
		coalesce_reset(&batch);
		batch_add(store, length, 0);
		table[i].hash = batch.entries[0].hash;
	}
	qsort(table, HASHED, sizeof(*table), hashed_order);
	for (uint32_t i = 1; i < HASHED; i++) {
		struct join_case c = {"equal hashes", {{0}, {.n = 1}, {.n = 2}}, "012"};

		if (table[i - 1].hash != table[i].hash || table[i - 1].value == table[i].value)
			continue;
		for (int n = 0; n < 3; n++) {
			c.pieces[n].change = ports ? PORTS : DESTINATION;
			c.pieces[n].by = table[i - (n == 1)].value - (ports ? 0 : 0x64600102);
		}
		run_case(&c);
		CHECK_EQ(batch.entries[0].hash, batch.entries[1].hash);
		pairs++;
	}
	CHECK(pairs > 0);
	free(table);
}

int main(void)
{
	test_limits();
	test_full();
	test_buckets();
	test_equal_hashes(false);
	test_equal_hashes(true);
	return check_result("test_coalesce_limits");
}
