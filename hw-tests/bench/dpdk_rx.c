/* The peer of `cargo xtask bench guest`: DPDK's driver, received with as DPDK's users do, by rx_burst and free_bulk on one core.
 *
 * Takes DPDK's own arguments, then commands on standard input, each answered with one line on standard output:
 *
 *     round PACKETS BURST MORE receives so many packets, which have all arrived, between two markers, and calls MORE times again; answers `round RECEIVED`
 *     rate PACKETS QUIET       receives until so many came, or none for QUIET milliseconds after the first; answers `rate RECEIVED`
 *     rest QUIET               receives what is still to come, until none came for QUIET milliseconds; answers `rest RECEIVED`
 *     quit
 *
 * With DEVRX_DPDK_SPLIT in its environment it has the NIC split the headers of UDP over IPv4 off, into buffers of their own.
 *
 * At first it prints `ready` once the link is up. Markers: see mark.c.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

enum { DESCRIPTORS = 4096, BUFFERS = 16384, CACHE = 256, MOST = 256, PORT = 0, QUEUE = 0 };

#define MARK(id) __asm__ volatile(".byte 0x0f, 0x1f, 0x84, 0x00, " #id ", 0x00, 0x54, 0x51" ::: "memory")

static void fail(const char *what, int error)
{
    printf("failed: %s: %s\n", what, rte_strerror(error < 0 ? -error : error));
    exit(1);
}

static struct rte_mempool *make_pool(const char *name)
{
    struct rte_mempool *pool = rte_pktmbuf_pool_create(name, BUFFERS, CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);

    if (!pool)
        fail("a pool of buffers", rte_errno);
    return pool;
}

/* A queue that splits: the header is the first segment, the payload the second. */
static int split_queue(struct rte_mempool *pool)
{
    union rte_eth_rxseg segments[2];
    struct rte_eth_rxconf configuration;
    struct rte_eth_dev_info info;
    int error = rte_eth_dev_info_get(PORT, &info);

    if (error < 0)
        return error;
    memset(segments, 0, sizeof(segments));
    segments[0].split.mp = make_pool("headers");
    segments[0].split.proto_hdr = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4_EXT_UNKNOWN | RTE_PTYPE_L4_UDP;
    segments[1].split.mp = pool;
    configuration = info.default_rxconf;
    configuration.rx_seg = segments;
    configuration.rx_nseg = 2;
    configuration.offloads = RTE_ETH_RX_OFFLOAD_BUFFER_SPLIT;
    return rte_eth_rx_queue_setup(PORT, QUEUE, DESCRIPTORS, SOCKET_ID_ANY, &configuration, NULL);
}

static void start(void)
{
    struct rte_eth_conf configuration;
    int split = getenv("DEVRX_DPDK_SPLIT") != NULL;
    struct rte_mempool *pool = make_pool("rx");
    struct rte_eth_link link = {0};
    int error;

    memset(&configuration, 0, sizeof(configuration));
    if (split)
        configuration.rxmode.offloads = RTE_ETH_RX_OFFLOAD_BUFFER_SPLIT;
    if (rte_eth_dev_count_avail() == 0)
        fail("no device was found", ENODEV);
    if ((error = rte_eth_dev_configure(PORT, 1, 1, &configuration)) < 0)
        fail("configuring the device", error);
    error = split ? split_queue(pool) : rte_eth_rx_queue_setup(PORT, QUEUE, DESCRIPTORS, SOCKET_ID_ANY, NULL, pool);
    if (error < 0)
        fail("a receive queue", error);
    if ((error = rte_eth_tx_queue_setup(PORT, QUEUE, 512, SOCKET_ID_ANY, NULL)) < 0)
        fail("a transmit queue", error);
    if ((error = rte_eth_dev_start(PORT)) < 0)
        fail("starting the device", error);
    if ((error = rte_eth_promiscuous_enable(PORT)) < 0)
        fail("promiscuous mode", error);
    for (int wait = 0; wait < 500 && !link.link_status; wait++) {
        if ((error = rte_eth_link_get_nowait(PORT, &link)) < 0)
            fail("the state of the link", error);
        rte_delay_us_sleep(10000);
    }
    if (!link.link_status)
        fail("the link stays down", ETIMEDOUT);
}

/* Ends early when nothing comes for a while: then packets were lost, and the answer says so.
 *
 * `more`: calls that find nothing. net_ice's vector code gives the NIC no more than 64 buffers a call, however many packets the call takes: after bursts of
 * more than that it owes the NIC the rest, which the calls of the next packets do not make up for either. Those calls come in a program that polls all the time;
 * here they are made before the round ends, so that the round has all of its cost, and the ring is as full as before it.
 */
static unsigned int one_round(unsigned int packets, uint16_t burst, unsigned int more)
{
    struct rte_mbuf *buffers[MOST];
    unsigned int received = 0, empty = 0;

    MARK(1);
    while (received < packets && empty < 1000000) {
        uint16_t got = rte_eth_rx_burst(PORT, QUEUE, buffers, burst);

        if (got == 0) {
            empty++;
            continue;
        }
        rte_pktmbuf_free_bulk(buffers, got);
        received += got;
    }
    for (; more > 0; more--) {
        uint16_t got = rte_eth_rx_burst(PORT, QUEUE, buffers, burst);

        rte_pktmbuf_free_bulk(buffers, got);
        received += got;
    }
    MARK(2);
    return received;
}

/* `first`: milliseconds to wait for the first packet. */
static uint64_t rate(uint64_t packets, uint64_t first, uint64_t quiet)
{
    struct rte_mbuf *buffers[MOST];
    uint64_t millisecond = rte_get_tsc_hz() / 1000, patience = quiet * millisecond, received = 0;
    uint64_t deadline = rte_get_tsc_cycles() + first * millisecond;

    while (received < packets) {
        uint16_t got = rte_eth_rx_burst(PORT, QUEUE, buffers, 32);

        if (got > 0) {
            rte_pktmbuf_free_bulk(buffers, got);
            received += got;
            deadline = rte_get_tsc_cycles() + patience;
        } else if (rte_get_tsc_cycles() > deadline) {
            break;
        }
    }
    return received;
}

int main(int argc, char **argv)
{
    char line[128];
    unsigned int packets, burst, more;
    unsigned long long many, quiet;
    int error = rte_eal_init(argc, argv);

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (error < 0)
        fail("DPDK's start", rte_errno);
    start();
    puts("ready");
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "round %u %u %u", &packets, &burst, &more) == 3 && burst > 0 && burst <= MOST)
            printf("round %u\n", one_round(packets, (uint16_t)burst, more));
        else if (sscanf(line, "rate %llu %llu", &many, &quiet) == 2)
            printf("rate %llu\n", (unsigned long long)rate(many, 10000, quiet));
        else if (sscanf(line, "rest %llu", &quiet) == 1)
            printf("rest %llu\n", (unsigned long long)rate(UINT64_MAX, quiet, quiet));
        else if (strcmp(line, "quit\n") == 0)
            break;
        else
            printf("failed: unknown command: %s", line);
    }
    rte_eth_dev_stop(PORT);
    rte_eal_cleanup();
    return 0;
}
