/*
 * check.h - the least that a test program needs: each test says what it expected, the program's
 * exit status says whether all of it came true.
 */
#ifndef TNL_TEST_CHECK_H
#define TNL_TEST_CHECK_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A broken loop would print millions of lines. */
#define FAILURES_SHOWN 20u

/** struct check_state - what has been checked so far
 * @checks:   how many
 * @failures: how many of them were false
 */
struct check_state {
	uint64_t checks;
	uint64_t failures;
};

static struct check_state check_state;

/** check_at() - the function behind CHECK_EQ */
static inline bool check_at(const char *file, int line, const char *what, int64_t got, int64_t want)
{
	check_state.checks++;
	if (got == want)
		return true;
	if (++check_state.failures <= FAILURES_SHOWN)
		fprintf(stderr, "%s:%d: %s is %" PRId64 " (0x%" PRIx64 "), not %" PRId64 "\n", file,
			line, what, got, (uint64_t)got, want);
	return false;
}

#define CHECK_EQ(got, want) check_at(__FILE__, __LINE__, #got, (int64_t)(got), (int64_t)(want))
#define CHECK(condition) check_at(__FILE__, __LINE__, #condition, !!(condition), 1)

/** check_bytes() - compare two byte strings and show both where they differ */
static inline bool check_bytes(const char *what, const uint8_t *got, size_t got_length,
			       const uint8_t *want, size_t want_length)
{
	check_state.checks++;
	if (got_length == want_length && memcmp(got, want, want_length) == 0)
		return true;
	if (++check_state.failures > FAILURES_SHOWN)
		return false;
	fprintf(stderr, "%s\n  got  ", what);
	for (size_t i = 0; i < got_length; i++)
		fprintf(stderr, "%02x", got[i]);
	fprintf(stderr, "\n  want ");
	for (size_t i = 0; i < want_length; i++)
		fprintf(stderr, "%02x", want[i]);
	fputc('\n', stderr);
	return false;
}

/** hex_digit() - value of one digit; ends the program on anything else */
static inline uint8_t hex_digit(char digit)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = digit ? strchr(digits, digit) : NULL;

	if (!at)
		abort();
	return (uint8_t)(at - digits);
}

/** from_hex() - read lower case hex digits into @out; returns the number of bytes */
static inline size_t from_hex(const char *hex, uint8_t *out, size_t room)
{
	size_t length = strlen(hex) / 2;

	if (length > room)
		abort();
	for (size_t i = 0; i < length; i++)
		out[i] = (uint8_t)(hex_digit(hex[2 * i]) << 4 | hex_digit(hex[2 * i + 1]));
	return length;
}

/** check_random() - xorshift64*: the same numbers in each run, so that a failure comes again */
static inline uint32_t check_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (uint32_t)(*state * 2685821657736338717u >> 32);
}

/** check_result() - what main() returns */
static inline int check_result(const char *name)
{
	printf("%s: %" PRIu64 " checks, %" PRIu64 " failed\n", name, check_state.checks,
	       check_state.failures);
	return check_state.failures || !check_state.checks;
}

#endif
