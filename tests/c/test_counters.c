/*
 * test_counters.c - which bucket a system call is counted in, by the packets that it moved.
 */
#include "check.h"

#include "counters.h"

/** struct batch_case - the first and the last number of packets of a bucket
 * @bucket: its word
 */
struct batch_case {
	uint32_t first;
	uint32_t last;
	enum outbound_counter bucket;
};

static const struct batch_case batch_cases[] = {
	{0, 0, OUT_batch_read_0},
	{1, 1, OUT_batch_read_1},
	{2, 2, OUT_batch_read_2},
	{3, 4, OUT_batch_read_4},
	{5, 8, OUT_batch_read_8},
	{9, 16, OUT_batch_read_16},
	{17, 32, OUT_batch_read_32},
	{33, 64, OUT_batch_read_64},
	{65, 128, OUT_batch_read_128},
	{129, 256, OUT_batch_read_256},
	{257, 512, OUT_batch_read_512},
	{513, 1024, OUT_batch_read_1024},
	{1025, 2048, OUT_batch_read_2048},
	{2049, 4096, OUT_batch_read_4096},
	{4097, UINT32_MAX, OUT_batch_read_more},
};
#define BATCH_CASES (sizeof(batch_cases) / sizeof(batch_cases[0]))

/** test_bucket() - a call is counted once, in its bucket and nowhere else */
static void test_bucket(uint32_t packets, enum outbound_counter bucket)
{
	uint64_t counters[OUTBOUND_COUNTER_COUNT] = {0};

	count_batch(counters, OUT_batch_read_0, packets);
	for (uint32_t i = 0; i < OUTBOUND_COUNTER_COUNT; i++)
		CHECK_EQ(counters[i], i == bucket ? 1 : 0);
}

int main(void)
{
	for (size_t i = 0; i < BATCH_CASES; i++) {
		test_bucket(batch_cases[i].first, batch_cases[i].bucket);
		test_bucket(batch_cases[i].last, batch_cases[i].bucket);
	}
	CHECK_EQ(BATCH_LAST + 1, BATCH_CASES);
	CHECK_EQ(IN_batch_written_more - IN_batch_written_0, BATCH_LAST);
	return check_result("test_counters");
}
