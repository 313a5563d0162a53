/* DPDK's net_ice on the E810 model: two receive queues that part each packet's headers from its payload. The model lane runs it in a guest.
 *
 * Takes DPDK's own arguments, then `-- stamps` where packets are to be stamped by the card's clock, then commands on standard input:
 *
 *     receive PACKETS QUIET                      polls until so many packets came, or none for QUIET milliseconds; one line for each
 *                                                `packet QUEUE SEGMENTS FIRST HASH STAMP BYTES` (FIRST: bytes of the first segment; HASH and BYTES in
 *                                                hexadecimal; STAMP in nanoseconds, 0 for none), then `received PACKETS`
 *     clock                                      what the card's clock shows: `clock NANOSECONDS`
 *     rule SOURCE DESTINATION FROM TO QUEUE      steers UDP packets of these IPv4 addresses (in hexadecimal) and ports to a queue; `rule ok`, or why not
 *     flush                                      takes all rules away; `flush ok`
 *     send BYTES                                 sends one frame (in hexadecimal); `sent 1`
 *     quit
 *
 * At first, once the link is up, it prints `ready KEY`, the hash's key in hexadecimal.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>

enum { DESCRIPTORS = 256, BUFFERS = 2047, PORT = 0, QUEUES = 2, BURST = 32 };

static struct rte_mempool *headers, *payloads;
/* Where a packet's stamp is, and what says that there is one. */
static int stamp_at = -1;
static uint64_t stamp_flag;

static void fail(const char *what, int error)
{
    printf("failed: %s: %s\n", what, rte_strerror(error < 0 ? -error : error));
    exit(1);
}

static void queue(uint16_t index, struct rte_eth_dev_info *info)
{
    union rte_eth_rxseg segments[2];
    struct rte_eth_rxconf configuration = info->default_rxconf;
    int error;

    memset(segments, 0, sizeof(segments));
    segments[0].split.mp = headers;
    segments[0].split.proto_hdr = RTE_PTYPE_L2_ETHER | RTE_PTYPE_L3_IPV4_EXT_UNKNOWN | RTE_PTYPE_L4_UDP;
    segments[1].split.mp = payloads;
    configuration.rx_seg = segments;
    configuration.rx_nseg = 2;
    configuration.offloads = RTE_ETH_RX_OFFLOAD_BUFFER_SPLIT | RTE_ETH_RX_OFFLOAD_RSS_HASH;
    if (stamp_at >= 0)
        configuration.offloads |= RTE_ETH_RX_OFFLOAD_TIMESTAMP;
    if ((error = rte_eth_rx_queue_setup(PORT, index, DESCRIPTORS, SOCKET_ID_ANY, &configuration, NULL)) < 0)
        fail("a receive queue", error);
    if ((error = rte_eth_tx_queue_setup(PORT, index, DESCRIPTORS, SOCKET_ID_ANY, NULL)) < 0)
        fail("a transmit queue", error);
}

static void start(int stamps)
{
    struct rte_eth_conf configuration;
    struct rte_eth_dev_info info;
    struct rte_eth_link link = {0};
    int error;

    headers = rte_pktmbuf_pool_create("headers", BUFFERS, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    payloads = rte_pktmbuf_pool_create("payloads", BUFFERS, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    if (!headers || !payloads)
        fail("a pool of buffers", rte_errno);
    if (rte_eth_dev_count_avail() == 0)
        fail("no device was found", ENODEV);
    if ((error = rte_eth_dev_info_get(PORT, &info)) < 0)
        fail("what the device can do", error);
    memset(&configuration, 0, sizeof(configuration));
    configuration.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
    configuration.rxmode.offloads = RTE_ETH_RX_OFFLOAD_BUFFER_SPLIT | RTE_ETH_RX_OFFLOAD_RSS_HASH;
    if (stamps && (error = rte_mbuf_dyn_rx_timestamp_register(&stamp_at, &stamp_flag)) < 0)
        fail("a place for stamps", error);
    if (stamps)
        configuration.rxmode.offloads |= RTE_ETH_RX_OFFLOAD_TIMESTAMP;
    configuration.rx_adv_conf.rss_conf.rss_hf = RTE_ETH_RSS_NONFRAG_IPV4_UDP & info.flow_type_rss_offloads;
    if ((error = rte_eth_dev_configure(PORT, QUEUES, QUEUES, &configuration)) < 0)
        fail("configuring the device", error);
    for (uint16_t index = 0; index < QUEUES; index++)
        queue(index, &info);
    if ((error = rte_eth_dev_start(PORT)) < 0)
        fail("starting the device", error);
    if (stamps && (error = rte_eth_timesync_enable(PORT)) < 0)
        fail("starting the card's clock", error);
    for (int wait = 0; wait < 500 && !link.link_status; wait++) {
        if ((error = rte_eth_link_get_nowait(PORT, &link)) < 0)
            fail("the state of the link", error);
        rte_delay_us_sleep(10000);
    }
    if (!link.link_status)
        fail("the link stays down", ETIMEDOUT);
}

static void ready(void)
{
    static uint8_t key[64];
    struct rte_eth_rss_conf hash = {.rss_key = key, .rss_key_len = sizeof(key)};
    struct rte_eth_dev_info info;
    int error = rte_eth_dev_rss_hash_conf_get(PORT, &hash);

    if (error < 0 || (error = rte_eth_dev_info_get(PORT, &info)) < 0)
        fail("the key of the hash", error);
    printf("ready ");
    for (unsigned int at = 0; at < info.hash_key_size && at < sizeof(key); at++)
        printf("%02x", key[at]);
    putchar('\n');
}

static void show(uint16_t index, const struct rte_mbuf *packet)
{
    uint64_t stamp = 0;

    if (stamp_at >= 0 && packet->ol_flags & stamp_flag)
        stamp = *RTE_MBUF_DYNFIELD(packet, stamp_at, const uint64_t *);
    printf("packet %u %u %u %08x %" PRIu64 " ", index, packet->nb_segs, packet->data_len, packet->hash.rss, stamp);
    for (const struct rte_mbuf *segment = packet; segment; segment = segment->next) {
        const unsigned char *bytes = rte_pktmbuf_mtod(segment, const unsigned char *);

        for (uint16_t at = 0; at < segment->data_len; at++)
            printf("%02x", bytes[at]);
    }
    putchar('\n');
}

static void receive(unsigned int packets, unsigned int quiet)
{
    struct rte_mbuf *buffers[BURST];
    uint64_t patience = quiet * rte_get_tsc_hz() / 1000, deadline = rte_get_tsc_cycles() + patience;
    unsigned int received = 0;

    while (received < packets && rte_get_tsc_cycles() < deadline) {
        for (uint16_t index = 0; index < QUEUES; index++) {
            uint16_t got = rte_eth_rx_burst(PORT, index, buffers, BURST);

            for (uint16_t at = 0; at < got; at++) {
                show(index, buffers[at]);
                rte_pktmbuf_free(buffers[at]);
            }
            received += got;
            if (got > 0)
                deadline = rte_get_tsc_cycles() + patience;
        }
    }
    printf("received %u\n", received);
}

static void rule(uint32_t source, uint32_t destination, uint16_t from, uint16_t to, uint16_t index)
{
    struct rte_flow_attr attributes = {.ingress = 1};
    struct rte_flow_item_ipv4 ip, ip_mask;
    struct rte_flow_item_udp udp, udp_mask;
    struct rte_flow_action_queue queue = {.index = index};
    struct rte_flow_error error = {0};
    struct rte_flow_item pattern[] = {
        {.type = RTE_FLOW_ITEM_TYPE_ETH},
        {.type = RTE_FLOW_ITEM_TYPE_IPV4, .spec = &ip, .mask = &ip_mask},
        {.type = RTE_FLOW_ITEM_TYPE_UDP, .spec = &udp, .mask = &udp_mask},
        {.type = RTE_FLOW_ITEM_TYPE_END},
    };
    struct rte_flow_action actions[] = {
        {.type = RTE_FLOW_ACTION_TYPE_QUEUE, .conf = &queue},
        {.type = RTE_FLOW_ACTION_TYPE_END},
    };

    memset(&ip, 0, sizeof(ip));
    memset(&ip_mask, 0, sizeof(ip_mask));
    memset(&udp, 0, sizeof(udp));
    memset(&udp_mask, 0, sizeof(udp_mask));
    ip.hdr.src_addr = rte_cpu_to_be_32(source);
    ip.hdr.dst_addr = rte_cpu_to_be_32(destination);
    ip_mask.hdr.src_addr = ip_mask.hdr.dst_addr = UINT32_MAX;
    udp.hdr.src_port = rte_cpu_to_be_16(from);
    udp.hdr.dst_port = rte_cpu_to_be_16(to);
    udp_mask.hdr.src_port = udp_mask.hdr.dst_port = UINT16_MAX;
    if (rte_flow_create(PORT, &attributes, pattern, actions, &error))
        puts("rule ok");
    else
        printf("rule refused: %s\n", error.message ? error.message : rte_strerror(rte_errno));
}

static void send_frame(const char *hexadecimal)
{
    struct rte_mbuf *packet = rte_pktmbuf_alloc(payloads);
    size_t length = strlen(hexadecimal) / 2;
    unsigned char *bytes = packet ? (unsigned char *)rte_pktmbuf_append(packet, (uint16_t)length) : NULL;

    if (!bytes)
        fail("a buffer to send", ENOMEM);
    for (size_t at = 0; at < length; at++) {
        unsigned int byte = 0;

        sscanf(hexadecimal + 2 * at, "%2x", &byte);
        bytes[at] = (unsigned char)byte;
    }
    printf("sent %u\n", rte_eth_tx_burst(PORT, 0, &packet, 1));
}

static void show_clock(void)
{
    struct timespec time = {0};
    int error = rte_eth_timesync_read_time(PORT, &time);

    if (error < 0)
        fail("reading the card's clock", error);
    printf("clock %" PRIu64 "\n", (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec);
}

int main(int argc, char **argv)
{
    static char line[8192], frame[8192];
    unsigned int packets, quiet, source, destination, from, to, index;
    int error = rte_eal_init(argc, argv);

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (error < 0)
        fail("DPDK's start", rte_errno);
    start(argc - error > 1 && strcmp(argv[error + 1], "stamps") == 0);
    ready();
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "receive %u %u", &packets, &quiet) == 2) {
            receive(packets, quiet);
        } else if (sscanf(line, "rule %x %x %u %u %u", &source, &destination, &from, &to, &index) == 5) {
            rule(source, destination, (uint16_t)from, (uint16_t)to, (uint16_t)index);
        } else if (strcmp(line, "flush\n") == 0) {
            error = rte_flow_flush(PORT, NULL);
            printf("flush %s\n", error ? rte_strerror(-error) : "ok");
        } else if (sscanf(line, "send %8000s", frame) == 1) {
            send_frame(frame);
        } else if (strcmp(line, "clock\n") == 0) {
            show_clock();
        } else if (strcmp(line, "quit\n") == 0) {
            break;
        } else {
            printf("failed: unknown command: %s", line);
        }
    }
    rte_eth_dev_stop(PORT);
    rte_eth_dev_close(PORT);
    rte_eal_cleanup();
    return 0;
}
