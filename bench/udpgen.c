/*
 * udpgen.c - send and count small UDP datagrams, many per system call.
 *
 *   udpgen recv PORT                               count until nothing came for half a second after
 *                                                  SIGTERM, or for ten seconds
 *   udpgen send ADDRESS PORT SIZE SECONDS [PPS [SEED]]
 *                                                  send as fast as possible, or PPS per second;
 *                                                  SIGTERM ends it early
 *   udpgen echo PORT                               send every datagram back, for an hour at most
 *   udpgen ping ADDRESS PORT SIZE SECONDS          one datagram at a time: round trips
 *
 * SIZE is a figure or a range (64-127): then sizes are random, the same ones for the same SEED (0
 * unless given), so that nothing on the way can join the datagrams. What is larger than the MTU
 * leaves in fragments.
 *
 * Each datagram begins with a 64-bit sequence number and its length in 32 bits, in host byte order
 * (both ends run on one machine); a pattern follows. The receiver keeps one bit per number, so it
 * tells loss from duplication, counts a datagram as reordered when a higher number came before it,
 * and as malformed when it is not, byte for byte, what was sent. Both print one line of JSON; the
 * receiver first prints "ready" once its socket is bound. The histogram of ping is a list of [upper
 * bound in us, count].
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define SIZE_MAX_BYTES 16384
/* No power of two: slots would share their cache lines' sets. */
#define SLOT (SIZE_MAX_BYTES + 128)
#define HEADER 12
#define RCVBUF (8 << 20)
#define IDLE_MS 500
#define MAX_SEQ (UINT64_C(1) << 32)
/* Each bound of the histogram is 1/16 octave (4.4 %) above the one below it. */
#define BOUND_STEP 1.0442737824274138
/* Nobody waits for a generator longer than this, whatever becomes of its other end. */
#define GRACE_S 10
#define LISTEN_S 3600

/** struct tally - what the receiver has seen so far */
struct tally {
	uint64_t received, duplicates, reordered, malformed, highest;
	uint64_t capacity; /* bits in @seen */
	uint8_t *seen;
	double first, last; /* seconds, CLOCK_MONOTONIC */
};

static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what)
{
	fprintf(stderr, "udpgen: %s: %s\n", what, strerror(errno));
	exit(1);
}

/** reserve() - make room for bit @seq, doubling */
static void reserve(struct tally *tally, uint64_t seq)
{
	uint64_t capacity = tally->capacity ? tally->capacity : 1 << 20;

	if (seq < tally->capacity)
		return;
	while (capacity <= seq)
		capacity *= 2;
	tally->seen = realloc(tally->seen, capacity / 8);
	if (!tally->seen)
		die("realloc");
	memset(tally->seen + tally->capacity / 8, 0, (capacity - tally->capacity) / 8);
	tally->capacity = capacity;
}

/** fill() - what stands behind the header of every datagram */
static void fill(uint8_t *slot)
{
	for (uint32_t i = HEADER; i < SLOT; i++)
		slot[i] = (uint8_t)(i * 2654435761u >> 24);
}

/** stamp() - number a datagram of @length bytes */
static void stamp(uint8_t *slot, uint64_t seq, size_t length)
{
	uint32_t word = (uint32_t)length;

	memcpy(slot, &seq, sizeof(seq));
	memcpy(slot + sizeof(seq), &word, sizeof(word));
}

/** count() - enter one datagram of @length bytes into the tally; @want is a filled slot */
static void count(struct tally *tally, const uint8_t *data, size_t length, const uint8_t *want)
{
	uint32_t word = 0;
	uint64_t seq = MAX_SEQ;

	if (length >= HEADER) {
		memcpy(&seq, data, sizeof(seq));
		memcpy(&word, data + sizeof(seq), sizeof(word));
	}
	if (seq >= MAX_SEQ || word != length ||
	    memcmp(data + HEADER, want + HEADER, length - HEADER) != 0) {
		tally->malformed++;
		return;
	}
	reserve(tally, seq);
	if (tally->seen[seq / 8] & (1 << seq % 8)) {
		tally->duplicates++;
		return;
	}
	tally->seen[seq / 8] |= (uint8_t)(1 << seq % 8);
	tally->received++;
	if (tally->received > 1 && seq < tally->highest)
		tally->reordered++;
	else
		tally->highest = seq;
}

static void set_buffer(int fd, int forced, int plain)
{
	int size = RCVBUF;

	if (setsockopt(fd, SOL_SOCKET, forced, &size, sizeof(size)) < 0 &&
	    setsockopt(fd, SOL_SOCKET, plain, &size, sizeof(size)) < 0)
		die("socket buffer");
}

static int receive(uint16_t port)
{
	static uint8_t slots[BATCH][SLOT], want[SLOT];
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct mmsghdr messages[BATCH] = {0};
	struct iovec vectors[BATCH];
	struct tally tally = {0};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		die("socket");
	set_buffer(fd, SO_RCVBUFFORCE, SO_RCVBUF);
	if (bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		die("bind");
	for (int i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){slots[i], SLOT};
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	fill(want);
	signal(SIGTERM, end);
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		/* On a crowded machine the sender may pause, or be slow to start. */
		int ready = poll(&entry, 1, ended ? IDLE_MS : 20 * IDLE_MS);
		int got;

		if (ready < 0 && errno != EINTR)
			die("poll");
		if (ready == 0)
			break;
		got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
		if (got <= 0)
			continue;
		tally.last = now();
		if (tally.first == 0)
			tally.first = tally.last;
		for (int i = 0; i < got; i++)
			count(&tally, slots[i], messages[i].msg_len, want);
	}
	printf("{\"received\": %" PRIu64 ", \"duplicates\": %" PRIu64 ", \"reordered\": %" PRIu64
	       ", \"malformed\": %" PRIu64 ", \"seconds\": %.6f}\n",
	       tally.received, tally.duplicates, tally.reordered, tally.malformed,
	       tally.last - tally.first);
	free(tally.seen);
	close(fd);
	return 0;
}

/** connect_to() - a UDP socket to the other end */
static int connect_to(const char *address, uint16_t port)
{
	struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		die("socket");
	set_buffer(fd, SO_SNDBUFFORCE, SO_SNDBUF);
	if (inet_pton(AF_INET, address, &peer.sin_addr) != 1)
		die("address");
	if (connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		die("connect");
	return fd;
}

/** random_of() - splitmix64: the same sizes in every run with one seed */
static uint64_t random_of(uint64_t number)
{
	uint64_t z = (number + 1) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static int send_all(const char *address, uint16_t port, size_t size, size_t spread, double seconds,
		    double pps, uint64_t seed)
{
	static uint8_t slots[BATCH][SLOT];
	struct mmsghdr messages[BATCH] = {0};
	struct iovec vectors[BATCH];
	uint64_t seq = 0, failed = 0;
	double begin, until;
	uint64_t first = random_of(seed);
	int fd = connect_to(address, port);

	for (int i = 0; i < BATCH; i++) {
		fill(slots[i]);
		vectors[i] = (struct iovec){slots[i], size};
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	begin = now();
	until = begin + seconds;
	signal(SIGTERM, end);
	for (double t = begin; t < until && !ended; t = now()) {
		unsigned int batch = BATCH;
		int sent;

		if (pps > 0) {
			double due = (t - begin) * pps - (double)seq;

			if (due < 1) {
				usleep(100);
				continue;
			}
			batch = due < BATCH ? (unsigned int)due : BATCH;
		}
		for (unsigned int i = 0; i < batch; i++) {
			uint64_t number = seq + i;

			vectors[i].iov_len = size + random_of(first + number) % spread;
			stamp(slots[i], number, vectors[i].iov_len);
		}
		sent = sendmmsg(fd, messages, batch, 0);
		/* A refused datagram is one that did not arrive: its number is used up. */
		if (sent <= 0) {
			failed++;
			seq++;
			continue;
		}
		seq += (uint64_t)sent;
	}
	printf("{\"sent\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"seconds\": %.6f}\n", seq, failed,
	       now() - begin);
	close(fd);
	return 0;
}

static _Noreturn void echo(uint16_t port)
{
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port)};
	struct sockaddr_in from;
	uint8_t data[SLOT];
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (fd < 0)
		die("socket");
	if (bind(fd, (struct sockaddr *)&local, sizeof(local)) < 0)
		die("bind");
	puts("ready");
	fflush(stdout);
	for (;;) {
		socklen_t length = sizeof(from);
		ssize_t got =
			recvfrom(fd, data, sizeof(data), 0, (struct sockaddr *)&from, &length);

		if (got >= 0)
			sendto(fd, data, (size_t)got, 0, (struct sockaddr *)&from, length);
	}
}

static int by_size(const void *a, const void *b)
{
	const double *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/** at() - the value below which @share of the sorted values lie */
static double at(const double *rtt, size_t count, double share)
{
	return count ? rtt[(size_t)((double)count * share)] : 0;
}

/** print_rtt() - one line of JSON about @count sorted round trips in microseconds */
static void print_rtt(const double *rtt, size_t count, size_t lost)
{
	const char *comma = "";
	double bound = 1, sum = 0;

	for (size_t i = 0; i < count; i++)
		sum += rtt[i];
	printf("{\"count\": %zu, \"lost\": %zu, \"rtt_us_min\": %.1f, \"rtt_us_p50\": %.1f, "
	       "\"rtt_us_p90\": %.1f, \"rtt_us_p99\": %.1f, \"rtt_us_p999\": %.1f, "
	       "\"rtt_us_max\": %.1f, \"rtt_us_mean\": %.1f, \"histogram\": [",
	       count, lost, at(rtt, count, 0), at(rtt, count, 0.5), at(rtt, count, 0.9),
	       at(rtt, count, 0.99), at(rtt, count, 0.999), count ? rtt[count - 1] : 0.0,
	       count ? sum / (double)count : 0.0);
	for (size_t i = 0, first = 0; i < count; first = i) {
		while (rtt[i] > bound)
			bound *= BOUND_STEP;
		while (i < count && rtt[i] <= bound)
			i++;
		printf("%s[%.2f, %zu]", comma, bound, i - first);
		comma = ", ";
	}
	puts("]}");
}

/** ping() - round trips, one at a time; a lost one is given up after IDLE_MS */
static int ping(const char *address, uint16_t port, size_t size, double seconds)
{
	size_t capacity = 1 << 20, count = 0, lost = 0;
	double *rtt = malloc(capacity * sizeof(*rtt));
	int fd = connect_to(address, port);
	uint8_t data[SLOT] = {0};
	double begin = now();

	if (!rtt)
		die("malloc");
	for (uint64_t seq = 1; now() - begin < seconds && count < capacity; seq++) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		double sent = now();
		uint64_t back = 0;

		memcpy(data, &seq, sizeof(seq));
		if (send(fd, data, size, 0) < 0)
			die("send");
		while (back != seq && poll(&entry, 1, IDLE_MS) > 0)
			if (recv(fd, data, sizeof(data), 0) >= (ssize_t)sizeof(back))
				memcpy(&back, data, sizeof(back));
		if (back == seq)
			rtt[count++] = (now() - sent) * 1e6;
		else
			lost++;
	}
	qsort(rtt, count, sizeof(*rtt), by_size);
	print_rtt(rtt, count, lost);
	free(rtt);
	close(fd);
	return 0;
}

/** sizes() - parse SIZE or SIZE-SIZE; 0 when it is neither */
static size_t sizes(const char *text, size_t *spread)
{
	char *rest;
	long low = strtol(text, &rest, 10);
	long high = *rest == '-' ? strtol(rest + 1, &rest, 10) : low;

	if (*rest || low < HEADER || high < low || high > SIZE_MAX_BYTES)
		return 0;
	*spread = (size_t)(high - low) + 1;
	return (size_t)low;
}

int main(int argc, char **argv)
{
	size_t spread = 1;

	alarm(argc > 5 ? (unsigned int)atof(argv[5]) + GRACE_S : LISTEN_S);
	if (argc == 3 && !strcmp(argv[1], "echo"))
		echo((uint16_t)atoi(argv[2]));
	if (argc == 6 && !strcmp(argv[1], "ping") && sizes(argv[4], &spread))
		return ping(argv[2], (uint16_t)atoi(argv[3]), sizes(argv[4], &spread),
			    atof(argv[5]));
	if (argc == 3 && !strcmp(argv[1], "recv"))
		return receive((uint16_t)atoi(argv[2]));
	if (argc >= 6 && argc <= 8 && !strcmp(argv[1], "send")) {
		size_t size = sizes(argv[4], &spread);

		if (size)
			return send_all(argv[2], (uint16_t)atoi(argv[3]), size, spread,
					atof(argv[5]), argc > 6 ? atof(argv[6]) : 0,
					argc > 7 ? strtoull(argv[7], NULL, 10) : 0);
	}
	fprintf(stderr,
		"usage: udpgen recv PORT | udpgen send ADDRESS PORT SIZE SECONDS [PPS [SEED]]\n"
		"       udpgen echo PORT | udpgen ping ADDRESS PORT SIZE SECONDS\n"
		"SIZE: %d to %d bytes, or a range such as 64-127\n",
		HEADER, SIZE_MAX_BYTES);
	return 2;
}
