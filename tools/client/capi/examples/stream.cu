/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The common way to use a GPU: batches are received by the CPU, handed to a CUDA stream, and given back when the stream has passed them. Meanwhile the next ones are received.
 * The kernel reads the payload where it is, and adds up its bytes.
 *
 *   nvcc stream.cu $(pkg-config --cflags --libs devrx) -o stream
 *   c++ -x c++ stream.cu -x none $(pkg-config --cflags --libs devrx) -o stream     without a GPU: a thread of the CPU is the stream
 *
 *   devrx attach --name camera --nic eth0 --queue 0 --memory memfd --size 64M --flow udp,dst-port=5000
 *   ./stream camera 1000
 */
#include "stream.h"
#include <devrx.cuh>

/* Most pieces of payload of a batch. */
#define PIECES 1024
/* Batches with the GPU at once, at most. */
#define SLOTS 64
/* Blocks of threads that share a batch. */
#define BLOCKS 8

/* A piece of payload in the region. */
struct piece {
    devrx_u64 offset;
    devrx_u32 length, reserved;
};

struct totals {
    devrx_u64 bytes, sum;
    devrx_u64 weighted; /* each byte times its place in its piece, counted from 1 */
};

/* Each group of lanes takes a piece; each block says in `out`, which the CPU reads, what it found. */
extern "C" __global__ void add_up(const devrx_u8 *region, const piece *pieces, devrx_u32 count, totals *out)
{
#if DEVRX_ON_DEVICE
    const devrx_u32 group = (blockIdx.x * blockDim.x + threadIdx.x) / DEVRX_LANES, groups = gridDim.x * blockDim.x / DEVRX_LANES;
#else
    const devrx_u32 group = 0, groups = 1;
#endif
    __shared__ totals together;
    if (DEVRX_THREAD == 0)
        together = {0, 0, 0};
    DEVRX_SYNC();
    totals mine = {0, 0, 0};
    for (devrx_u32 at = group; at < count; at += groups) {
        for (devrx_u32 byte = DEVRX_THREAD % DEVRX_LANES; byte < pieces[at].length; byte += DEVRX_LANES) {
            const devrx_u8 value = region[pieces[at].offset + byte];
            mine.bytes += 1;
            mine.sum += value;
            mine.weighted += (devrx_u64)value * (byte + 1);
        }
    }
#if DEVRX_ON_DEVICE
    atomicAdd(&together.bytes, mine.bytes);
    atomicAdd(&together.sum, mine.sum);
    atomicAdd(&together.weighted, mine.weighted);
    __syncthreads();
    if (threadIdx.x == 0)
        out[blockIdx.x] = together;
#else
    *out = mine;
#endif
}

/* The rest runs on the host. */
#if !defined(__CUDACC_RTC__)
#include <devrx.h>
#include <cerrno>

/* A batch that the GPU has. */
struct slot {
    devrx_batch *batch;
    piece *pieces;
    totals *found; /* [BLOCKS] */
    device_stream::mark_type mark;
};

int main(int argc, char **argv)
{
    if (argc < 3) {
        std::fprintf(stderr, "usage: %s ATTACHMENT PACKETS\n", argv[0]);
        return 2;
    }
    const devrx_u64 most = std::strtoull(argv[2], nullptr, 10);
    devrx_error error = {0, ""};
    devrx_attachment *rx;
    uint64_t size = 0;
    if (devrx_open(DEVRX_ABI_VERSION, nullptr, argv[1], &rx, &error) < 0)
        device_fail("stream", error.message);
    const void *mapped = devrx_region(rx, &size);
    if (!mapped)
        device_fail("stream", "the region is no memory that a CPU can map: give the kernel the device's own pointer to it");
    const devrx_u8 *region = (const devrx_u8 *)device_registered(mapped, size, true);
    device_stream stream;
    static slot slots[SLOTS];
    for (slot &s : slots) {
        s.pieces = (piece *)device_shared(PIECES * sizeof(piece));
        s.found = (totals *)device_shared(BLOCKS * sizeof(totals));
    }
    totals all = {0, 0, 0};
    devrx_u64 packets = 0, first = 0, next = 0, together = 0;
    bool ended = false;
    while ((packets < most && !ended) || first < next) {
        /* Batches that the stream has passed go back, oldest first. */
        while (first < next && stream.passed(slots[first % SLOTS].mark)) {
            const slot &s = slots[first++ % SLOTS];
            for (int block = 0; block < BLOCKS; block++) {
                all.bytes += s.found[block].bytes;
                all.sum += s.found[block].sum;
                all.weighted += s.found[block].weighted;
            }
            devrx_batch_give_back(rx, s.batch, nullptr);
        }
        if (packets >= most || ended || next - first == SLOTS)
            continue;
        slot &s = slots[next % SLOTS];
        /* With something on its way, the wait is short. */
        const int64_t count = devrx_recv(rx, first < next ? 100 : 1000000, &s.batch, &error);
        if (count == -ESHUTDOWN) {
            ended = true;
            continue;
        }
        if (count < 0)
            device_fail("stream", error.message);
        if (count == 0)
            continue;
        devrx_u32 pieces = 0;
        for (int64_t i = 0; i < count; i++) {
            devrx_segment segment;
            for (size_t n = 0; pieces < PIECES && devrx_batch_segment(s.batch, (size_t)i, n, &segment, nullptr) == 0; n++)
                s.pieces[pieces++] = {segment.offset, segment.length, 0};
        }
        stream.run("add_up", BLOCKS, add_up, region, s.pieces, pieces, s.found);
        s.mark = stream.mark();
        next += 1;
        packets += (devrx_u64)count;
        if (next - first > together)
            together = next - first;
    }
    std::printf("%llu packets, %llu bytes of payload, which add up to %llu, by place to %llu\n", packets, all.bytes, all.sum, all.weighted);
    std::fprintf(stderr, "%llu batches, at most %llu at once with the stream\n", next, together);
    devrx_close(rx);
    return 0;
}
#endif
