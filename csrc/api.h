/*
 * api.h - the boundary between Python and the C core.
 *
 * cffi's cdef() reads this file as it is and the C files include it, so it has no include guard,
 * no preprocessor line and no system include: include <stdint.h> before it, and include it once
 * (dataplane.h does). IPv4 addresses are in host byte order throughout. Every int result is 0 (or
 * a count) on success and -errno on failure.
 */

/* Directions: whose counters. */
enum { TNL_OUTBOUND = 1, TNL_INBOUND = 2 };

/* Roles of the threads inside tnl_run(): the main thread serves outbound always, and inbound unless
 * the helper does. */
enum { TNL_MAIN = 1, TNL_HELPER = 2 };

/* When the helper serves inbound: TNL_THREADS_AUTO, only under load. */
enum { TNL_THREADS_ONE = 1, TNL_THREADS_TWO = 2, TNL_THREADS_AUTO = 3 };

/* Capabilities of the descriptors handed to tnl_create(); the rungs are combinations of them. */
enum {
	TNL_UDP_SEGMENT = 1, /* sends may carry UDP_SEGMENT */
	TNL_UDP_GRO = 2,     /* UDP_GRO is set on the socket */
	TNL_VNET_HDR = 4,    /* the TUN was opened with IFF_VNET_HDR */
	TNL_TSO = 8,	     /* TUN_F_TSO4 is set, and coalesced TCP may be written */
	TNL_USO = 16	     /* TUN_F_USO4 is set, and coalesced UDP may be written */
};

/* --source-check: ARCHITECTURE.md, Admission. */
enum { TNL_SOURCE_OFF = 0, TNL_SOURCE_PEER = 1, TNL_SOURCE_STRICT = 2 };

/**
 * struct tnl_options - what an engine is made with; all descriptors are borrowed and non-blocking
 * @tun_fd:       the TUN device
 * @udp_fd:       the bound UDP socket
 * @stop_fd:      an eventfd; once readable, every tnl_run() returns 0
 * @main_fd:      an eventfd that wakes the main thread
 * @helper_fd:    an eventfd that wakes the helper
 * @threads:      TNL_THREADS_*; but for TNL_THREADS_ONE a helper must run
 * @batch:        packets per system call, 1..64 (1 is rung "syscall")
 * @features:     TNL_UDP_SEGMENT | ...
 * @max_segments: segments of one UDP_SEGMENT send (kernel limit, probed)
 * @icmp_rate:    ICMP errors per second and direction
 * @spin_us:      a thread that serves both directions looks for the next packet this long before
 *                it sleeps, where it may expect one soon (wait.h); 0: never
 */
struct tnl_options {
	int32_t tun_fd;
	int32_t udp_fd;
	int32_t stop_fd;
	int32_t main_fd;
	int32_t helper_fd;
	uint32_t threads;
	uint32_t batch;
	uint32_t features;
	uint32_t max_segments;
	uint32_t icmp_rate;
	uint32_t spin_us;
};

/**
 * struct tnl_route - one peer's subnet
 * @subnet:     base address
 * @public_ip:  the peer's underlay address
 * @path_mtu:   largest outer IP packet that reaches it, 0: mtu of the snapshot + 28
 * @prefix_len: 1..32
 */
struct tnl_route {
	uint32_t subnet;
	uint32_t public_ip;
	uint16_t path_mtu;
	uint8_t prefix_len;
	uint8_t reserved;
};

/** struct tnl_prefix - an address range (--allow-source) */
struct tnl_prefix {
	uint32_t address;
	uint32_t prefix_len;
};

/**
 * struct tnl_snapshot - everything the packet path decides by; copied by the callee
 * @network, @network_len: the overlay network
 * @subnet, @subnet_len:   the own lease
 * @tun_address:           source of our ICMP errors
 * @mtu:                   of the TUN
 * @port:                  UDP port, also the only legal outer source port
 * @source_check:          TNL_SOURCE_*
 * @routes, @own_addresses, @allow_sources: arrays with their counts; may be NULL when 0
 */
struct tnl_snapshot {
	uint32_t network;
	uint32_t network_len;
	uint32_t subnet;
	uint32_t subnet_len;
	uint32_t tun_address;
	uint32_t mtu;
	uint32_t port;
	uint32_t source_check;
	const struct tnl_route *routes;
	uint32_t route_count;
	const uint32_t *own_addresses;
	uint32_t own_address_count;
	const struct tnl_prefix *allow_sources;
	uint32_t allow_source_count;
};

/** struct tnl_peer_counters - inner packets and bytes exchanged with one peer */
struct tnl_peer_counters {
	uint64_t tx_packets;
	uint64_t tx_bytes;
	uint64_t rx_packets;
	uint64_t rx_bytes;
};

/**
 * struct tnl_gauges - what the engine really does now
 * @threads:          1 or 2 threads move packets
 * @segments:         packets per UDP_SEGMENT message; 1 after a downgrade
 * @tcp, @udp:        whether received packets of that protocol are joined for the TUN
 * @downgrades_udp:   runs that the kernel refused as one message
 * @downgrades_tun:   superpackets that the TUN refused
 */
struct tnl_gauges {
	uint32_t threads;
	uint32_t segments;
	uint32_t tcp;
	uint32_t udp;
	uint64_t downgrades_udp;
	uint64_t downgrades_tun;
};

struct tnl_engine;

/* Counters live in memory of the caller, so they outlive an engine: an array of
 * tnl_counter_count(TNL_OUTBOUND) + tnl_counter_count(TNL_INBOUND) words, outbound first. */
uint32_t tnl_counter_count(int direction);
const char *tnl_counter_name(int direction, uint32_t index);

int tnl_create(const struct tnl_options *options, const struct tnl_snapshot *snapshot,
	       uint64_t *counters, struct tnl_engine **out);
int tnl_publish(struct tnl_engine *engine, const struct tnl_snapshot *snapshot);
int tnl_peer_counters(struct tnl_engine *engine, struct tnl_peer_counters *out, uint32_t count);
int tnl_run(struct tnl_engine *engine, int role);
void tnl_gauges(const struct tnl_engine *engine, struct tnl_gauges *out);
void tnl_free(struct tnl_engine *engine);

/* The route table alone, for tests and the lookup benchmark. */
struct tnl_routes;
int tnl_routes_new(const struct tnl_snapshot *snapshot, struct tnl_routes **out);
int32_t tnl_routes_lookup(const struct tnl_routes *table, uint32_t address);
uint32_t tnl_routes_lookup_many(const struct tnl_routes *table, const uint32_t *addresses,
				uint32_t count);
void tnl_routes_free(struct tnl_routes *table);
