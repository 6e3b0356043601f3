/*
 * udpgen.c - send and count small UDP datagrams, many per system call.
 *
 *   udpgen recv PORT                               count until nothing came for half a second
 *   udpgen send ADDRESS PORT SIZE SECONDS [PPS]    send as fast as possible, or PPS per second
 *   udpgen echo PORT                               send every datagram back, until killed
 *   udpgen ping ADDRESS PORT SIZE SECONDS          one datagram at a time: round trips
 *
 * SIZE is a figure or a range (64-127): then sizes vary from one datagram to the next, so that
 * nothing on the way can join them.
 *
 * Each datagram begins with a 64-bit sequence number in host byte order (both ends run on one
 * machine). The receiver keeps one bit per number, so it tells loss from duplication, and counts a
 * datagram as reordered when a higher number came before it. Both print one line of JSON; the
 * receiver first prints "ready" once its socket is bound.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define SLOT 2048
#define RCVBUF (8 << 20)
#define IDLE_MS 500
#define MAX_SEQ (UINT64_C(1) << 32)

/** struct tally - what the receiver has seen so far */
struct tally {
	uint64_t received, duplicates, reordered, malformed, highest;
	uint64_t capacity; /* bits in @seen */
	uint8_t *seen;
	double first, last; /* seconds, CLOCK_MONOTONIC */
};

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

/** count() - enter one datagram of @length bytes into the tally */
static void count(struct tally *tally, const uint8_t *data, size_t length)
{
	uint64_t seq;

	if (length < sizeof(seq)) {
		tally->malformed++;
		return;
	}
	memcpy(&seq, data, sizeof(seq));
	if (seq >= MAX_SEQ) {
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
	static uint8_t slots[BATCH][SLOT];
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
	puts("ready");
	fflush(stdout);
	for (;;) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		/* Before the first datagram the sender may still be starting. */
		int ready = poll(&entry, 1, tally.received ? IDLE_MS : 20 * IDLE_MS);
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
			count(&tally, slots[i], messages[i].msg_len);
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

static int send_all(const char *address, uint16_t port, size_t size, size_t spread, double seconds,
		    double pps)
{
	static uint8_t slots[BATCH][SLOT];
	struct mmsghdr messages[BATCH] = {0};
	struct iovec vectors[BATCH];
	uint64_t seq = 0, failed = 0;
	double begin, end;
	int fd = connect_to(address, port);

	for (int i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){slots[i], size};
		messages[i].msg_hdr.msg_iov = &vectors[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	begin = now();
	end = begin + seconds;
	for (double t = begin; t < end; t = now()) {
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

			memcpy(slots[i], &number, sizeof(number));
			/* Knuth's hash: sizes that look random and are the same in every run. */
			vectors[i].iov_len = size + (number * 2654435761u >> 16) % spread;
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
	const float *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/** ping() - round trips, one at a time; a lost one is given up after IDLE_MS */
static int ping(const char *address, uint16_t port, size_t size, double seconds)
{
	size_t capacity = 1 << 20, count = 0, lost = 0;
	float *rtt = malloc(capacity * sizeof(*rtt));
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
			rtt[count++] = (float)((now() - sent) * 1e6);
		else
			lost++;
	}
	qsort(rtt, count, sizeof(*rtt), by_size);
	printf("{\"count\": %zu, \"lost\": %zu, \"rtt_us_min\": %.1f, \"rtt_us_p50\": %.1f, "
	       "\"rtt_us_p99\": %.1f}\n",
	       count, lost, count ? rtt[0] : 0.0, count ? rtt[count / 2] : 0.0,
	       count ? rtt[count * 99 / 100] : 0.0);
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

	if (*rest || low < 8 || high < low || high > SLOT)
		return 0;
	*spread = (size_t)(high - low) + 1;
	return (size_t)low;
}

int main(int argc, char **argv)
{
	size_t spread = 1;

	if (argc == 3 && !strcmp(argv[1], "echo"))
		echo((uint16_t)atoi(argv[2]));
	if (argc == 6 && !strcmp(argv[1], "ping") && sizes(argv[4], &spread))
		return ping(argv[2], (uint16_t)atoi(argv[3]), sizes(argv[4], &spread),
			    atof(argv[5]));
	if (argc == 3 && !strcmp(argv[1], "recv"))
		return receive((uint16_t)atoi(argv[2]));
	if ((argc == 6 || argc == 7) && !strcmp(argv[1], "send")) {
		size_t size = sizes(argv[4], &spread);

		if (size)
			return send_all(argv[2], (uint16_t)atoi(argv[3]), size, spread,
					atof(argv[5]), argc == 7 ? atof(argv[6]) : 0);
	}
	fprintf(stderr,
		"usage: udpgen recv PORT | udpgen send ADDRESS PORT SIZE SECONDS [PPS]\n"
		"       udpgen echo PORT | udpgen ping ADDRESS PORT SIZE SECONDS\n"
		"SIZE: 8-%d bytes, or a range such as 64-127\n",
		SLOT);
	return 2;
}
