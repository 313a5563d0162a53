/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Receives an attachment's packets, and sums up their payload.
 *
 *   cc -Wall -Wextra -Werror recv.c $(pkg-config --cflags --libs devrx) -o recv
 *   devrx attach --name camera --nic eth0 --queue 0 --memory memfd --size 64M --flow udp,dst-port=5000
 *   ./recv camera 1000
 */
#include <devrx.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t checksum;

/* Adds up a payload where it lies, and compares it with the same bytes copied out. */
static int look(devrx_attachment *rx, const devrx_batch *batch, size_t index, devrx_error *error)
{
    static uint8_t copy[65536];
    devrx_packet packet;
    uint64_t size;
    uint64_t sum = 0;
    uint64_t sum_of_copy = 0;
    const volatile uint8_t *region = devrx_region(rx, &size);

    int result = devrx_batch_packet(batch, index, &packet, error);
    if (result < 0)
        return result;
    int64_t length = devrx_batch_payload(batch, index, copy, sizeof copy, error);
    if (length < 0)
        return (int)length;
    for (int64_t i = 0; i < length; i++)
        sum_of_copy += copy[i];

    for (size_t i = 0; region && i < packet.segments; i++) {
        devrx_segment segment;
        result = devrx_batch_segment(batch, index, i, &segment, error);
        if (result < 0)
            return result;
        for (uint32_t at = 0; at < segment.length; at++)
            sum += region[segment.offset + at];
    }
    if (region && sum != sum_of_copy) {
        fprintf(stderr, "packet %zu reads differently when it is copied\n", index);
        exit(1);
    }
    checksum += sum_of_copy;
    return 0;
}

/* Waits as an event loop does. */
static void wait_for_packets(devrx_attachment *rx, int milliseconds)
{
    if (devrx_arm(rx) == 1) {
        struct pollfd fd = {.fd = devrx_wake_fd(rx), .events = POLLIN, .revents = 0};
        poll(&fd, 1, milliseconds);
        devrx_disarm(rx);
    }
}

int main(int argc, char **argv)
{
    devrx_error error = {0, ""};
    devrx_attachment *rx;
    uint64_t packets = 0;
    uint64_t headers = 0;

    if (argc < 2) {
        fprintf(stderr, "usage: %s ATTACHMENT [PACKETS]\n", argv[0]);
        return 2;
    }
    uint64_t most = argc > 2 ? strtoull(argv[2], NULL, 10) : UINT64_MAX;

    if (devrx_open(DEVRX_ABI_VERSION, NULL, argv[1], &rx, &error) < 0) {
        fprintf(stderr, "recv: %s\n", error.message);
        return 1;
    }
    while (packets < most) {
        devrx_batch *batch;
        int64_t count = devrx_recv(rx, 0, &batch, &error);
        if (count == -ESHUTDOWN)
            break;
        if (count < 0) {
            fprintf(stderr, "recv: %s\n", error.message);
            return 1;
        }
        for (int64_t i = 0; i < count; i++) {
            uint8_t header[256];
            int64_t length = devrx_batch_header(batch, (size_t)i, header, sizeof header, &error);
            if (length < 0 || look(rx, batch, (size_t)i, &error) < 0) {
                fprintf(stderr, "recv: %s\n", error.message);
                return 1;
            }
            headers += (uint64_t)length;
            packets++;
        }
        devrx_batch_give_back(rx, batch, NULL);
        if (count == 0)
            wait_for_packets(rx, 1000);
    }

    devrx_stats stats;
    if (devrx_read_stats(rx, &stats, &error) < 0) {
        fprintf(stderr, "recv: %s\n", error.message);
        return 1;
    }
    printf("%" PRIu64 " packets, %" PRIu64 " bytes of header, payload adds up to %" PRIu64 ", %" PRIu64 " chunks held\n", packets,
           headers, checksum, stats.held);
    devrx_close(rx);
    return 0;
}
