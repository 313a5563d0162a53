/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * A persistent kernel: it takes packets from the completion ring and gives their chunks back, with no call of a library and no CPU in the loop. It counts
 * packets and adds up their bytes, until so many chunks were taken, or the attachment ends.
 *
 *   nvcc persistent.cu $(pkg-config --cflags --libs devrx) -o persistent
 *   c++ -x c++ persistent.cu -x none $(pkg-config --cflags --libs devrx) -o persistent     without a GPU: a thread of the CPU plays it
 *
 *   devrx attach --name camera --nic eth0 --queue 0 --memory memfd --size 64M --flow udp,dst-port=5000 --polls-refill
 *   ./persistent camera 1000
 */
#include "device.h"
#include <devrx.cuh>

/* What the threads find. */
struct totals {
    devrx_u64 chunks, packets, header_bytes, payload_bytes, payload_sum;
    devrx_u64 weighted; /* each byte times its place in its chunk, counted from 1: two that changed places are seen */
};

/* What is done with a chunk: each of the lanes reads its part of the payload. */
struct add_up {
    totals mine;

    DEVRX_METHOD void operator()(const devrx_completion &entry, const devrx_u8 *, const devrx_u8 *payload, devrx_u32 lane, devrx_u32 lanes)
    {
        for (devrx_u32 at = lane; at < entry.length; at += lanes) {
            mine.payload_sum += payload[at];
            mine.weighted += (devrx_u64)payload[at] * (at + 1);
        }
        if (lane == 0) {
            mine.chunks += 1;
            mine.packets += (entry.flags & DEVRX_MORE) == 0;
            mine.header_bytes += entry.header_length;
            mine.payload_bytes += entry.length;
        }
    }
};

/* How a thread's findings join those of the others. */
DEVRX_FN void join(devrx_u64 *sum, devrx_u64 part)
{
#if DEVRX_ON_DEVICE
    atomicAdd(sum, part);
#else
    *sum += part;
#endif
}

/* What each thread does. `out` begins as zeros. */
DEVRX_FN void consume(devrx_serving *s, const void *daemon, void *client, const void *region, devrx_u32 chunk_size, devrx_u64 limit, totals *out, int *failed)
{
    if (DEVRX_THREAD == 0)
        *failed = devrx_queue_open(&s->queue, daemon, client, region, chunk_size, 0);
    DEVRX_SYNC();
    if (*failed)
        return;
    add_up work = {};
    devrx_serve(s, work, nullptr, limit);
    join(&out->chunks, work.mine.chunks);
    join(&out->packets, work.mine.packets);
    join(&out->header_bytes, work.mine.header_bytes);
    join(&out->payload_bytes, work.mine.payload_bytes);
    join(&out->payload_sum, work.mine.payload_sum);
    join(&out->weighted, work.mine.weighted);
    if (DEVRX_THREAD == 0)
        *failed = (int)s->queue.fault;
}

extern "C" __global__ void persistent(const void *daemon, void *client, const void *region, devrx_u32 chunk_size, devrx_u64 limit, totals *out, int *failed)
{
    __shared__ devrx_serving s;
    consume(&s, daemon, client, region, chunk_size, limit, out, failed);
}

/* The rest runs on the host. */
#if !defined(__CUDACC_RTC__)
#include <devrx.h>

static int run(const devrx_shared &shared, const void *region, devrx_u64 size, devrx_u64 limit, totals *out)
{
    int result;
    totals *sums = (totals *)device_zeroed(sizeof *sums);
    int *failed = (int *)device_zeroed(sizeof *failed);
    device_run("persistent", persistent, device_registered(shared.daemon_memory, shared.daemon_size, true),
               device_registered(shared.client_memory, shared.client_size, false), device_registered(region, size, true), shared.chunk_size, limit, sums,
               failed);
    device_read(out, sums, sizeof *out);
    device_read(&result, failed, sizeof result);
    return result;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s ATTACHMENT [CHUNKS]\n", argv[0]);
        return 2;
    }
    devrx_u64 limit = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0, size = 0;
    devrx_error error = {0, ""};
    devrx_attachment *rx;
    devrx_shared shared;
    if (devrx_open(DEVRX_ABI_VERSION, nullptr, argv[1], &rx, &error) < 0 || devrx_shared_memory(rx, &shared, &error) < 0) {
        std::fprintf(stderr, "persistent: %s\n", error.message);
        return 1;
    }
    if (!shared.polls_refill)
        std::fprintf(stderr, "persistent: nobody here can wake the daemon, and it does not look for chunks by itself; attach with --polls-refill\n");
    uint64_t bytes = 0;
    const void *region = devrx_region(rx, &bytes);
    size = bytes;
    if (!region) {
        std::fprintf(stderr, "persistent: the region is no memory that a CPU can map: give the kernel the device's own pointer to it\n");
        return 1;
    }
    totals found = {};
    if (run(shared, region, size, limit, &found) != 0) {
        std::fprintf(stderr, "persistent: the rings are not as they should be\n");
        return 1;
    }
    std::printf("%llu packets in %llu chunks, %llu bytes of header, %llu of payload, which adds up to %llu, by place to %llu\n", found.packets, found.chunks, found.header_bytes,
                found.payload_bytes, found.payload_sum, found.weighted);
    devrx_close(rx);
    return 0;
}
#endif
