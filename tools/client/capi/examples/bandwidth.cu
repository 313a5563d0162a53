/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Is it better to read packets where they are, in registered host memory, or to copy them to the GPU first? This says so for one machine: a kernel reads every byte of payload in
 * chunks of 4096 bytes, over PCIe; beside that, the same amount is copied by cudaMemcpy, and copied and then read in the GPU's memory. The copy has the best of conditions: its
 * bytes lie together. The three are measured in turns, and what counts are their ratios.
 *
 *   nvcc bandwidth.cu -I../include -o bandwidth && ./bandwidth [MEBIBYTES [ROUNDS]]
 *   c++ -x c++ bandwidth.cu -I../include -o bandwidth     without a GPU: whether every byte is read
 */
#include "stream.h"
#include <devrx.cuh>

#define BANDWIDTH_CHUNK 4096
#define BANDWIDTH_BLOCKS 256

/* Adds up the words of `count` pieces of `length` bytes, each `stride` bytes behind the one before. Each block says what it found. */
extern "C" __global__ void add_words(const devrx_u8 *memory, devrx_u64 stride, devrx_u64 length, devrx_u64 count, devrx_u64 *out)
{
#if DEVRX_ON_DEVICE
    const devrx_u64 group = (blockIdx.x * blockDim.x + threadIdx.x) / DEVRX_LANES, groups = gridDim.x * blockDim.x / DEVRX_LANES;
#else
    const devrx_u64 group = 0, groups = 1;
#endif
    devrx_u64 mine = 0;
    for (devrx_u64 at = group; at < count; at += groups) {
        const devrx_u64 *words = (const devrx_u64 *)(memory + at * stride);
        for (devrx_u64 word = DEVRX_THREAD % DEVRX_LANES; word < length / 8; word += DEVRX_LANES)
            mine += words[word];
    }
#if DEVRX_ON_DEVICE
    __shared__ devrx_u64 together;
    if (threadIdx.x == 0)
        together = 0;
    __syncthreads();
    atomicAdd(&together, mine);
    __syncthreads();
    if (threadIdx.x == 0)
        out[blockIdx.x] = together;
#else
    *out = mine;
#endif
}

/* The rest runs on the host. */
#if !defined(__CUDACC_RTC__)
#include <algorithm>
#include <sys/mman.h>
#include <time.h>
#include <vector>

#if defined(__CUDACC__) || defined(DEVRX_DRIVER_API)
static const bool MEASURED = true;
#else
static const bool MEASURED = false;
#endif

static double now()
{
    timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static double median(std::vector<double> of)
{
    std::sort(of.begin(), of.end());
    return of[of.size() / 2];
}

struct bench {
    device_stream stream;
    devrx_u64 *found;

    /* Has the kernel read the pieces; how long that took. */
    double read(const void *memory, devrx_u64 stride, devrx_u64 length, devrx_u64 count, devrx_u64 want)
    {
        std::memset(found, 0, BANDWIDTH_BLOCKS * sizeof *found);
        const double begin = now();
        stream.run("add_words", BANDWIDTH_BLOCKS, add_words, (const devrx_u8 *)memory, stride, length, count, found);
        const device_stream::mark_type mark = stream.mark();
        while (!stream.passed(mark)) {
        }
        const double took = now() - begin;
        devrx_u64 sum = 0;
        for (int block = 0; block < BANDWIDTH_BLOCKS; block++)
            sum += found[block];
        if (sum != want)
            device_fail("bandwidth", "the kernel read other bytes than are there");
        return took;
    }
};

/* What the kernel should find. */
static devrx_u64 sum_of(const devrx_u8 *memory, devrx_u64 stride, devrx_u64 length, devrx_u64 count)
{
    devrx_u64 sum = 0;
    for (devrx_u64 at = 0; at < count; at++) {
        for (devrx_u64 byte = 0; byte < length; byte += 8) {
            devrx_u64 word;
            std::memcpy(&word, memory + at * stride + byte, 8);
            sum += word;
        }
    }
    return sum;
}

int main(int argc, char **argv)
{
    const devrx_u64 size = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256) << 20;
    const int rounds = argc > 2 ? std::atoi(argv[2]) : 11;
    if (size == 0 || rounds < 1) {
        std::fprintf(stderr, "usage: %s [MEBIBYTES [ROUNDS]]\n", argv[0]);
        return 2;
    }
    devrx_u8 *region = (devrx_u8 *)mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED)
        device_fail("bandwidth", "there is not so much memory");
    devrx_u64 state = 88172645463325252ull;
    for (devrx_u64 at = 0; at < size; at += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::memcpy(region + at, &state, 8);
    }
    const void *there = device_registered(region, size, false);
    void *copy = device_zeroed(size);
    bench b;
    b.found = (devrx_u64 *)device_shared(BANDWIDTH_BLOCKS * sizeof *b.found);
    const devrx_u64 count = size / BANDWIDTH_CHUNK;
    for (devrx_u64 payload : {64, 512, 1408, 4096}) {
        const devrx_u64 bytes = count * payload;
        const devrx_u64 apart = sum_of(region, BANDWIDTH_CHUNK, payload, count), together = sum_of(region, payload, payload, count);
        std::vector<double> in_place, copied, both;
        for (int round = 0; round < rounds; round++) {
            in_place.push_back(b.read(there, BANDWIDTH_CHUNK, payload, count, apart));
            const double begin = now();
            device_write(copy, region, bytes);
            copied.push_back(now() - begin);
            both.push_back(copied.back() + b.read(copy, payload, payload, count, together));
        }
        const double rate = (double)bytes / 1e9, a = rate / median(in_place), c = rate / median(copied), e = rate / median(both);
        if (MEASURED)
            std::printf("%4llu bytes of payload: in place %.2f GB/s, copied %.2f GB/s, copied and read %.2f GB/s; in place by copied %.2f, by copied and read %.2f\n",
                        payload, a, c, e, a / c, a / e);
        else
            std::printf("%4llu bytes of payload: every byte was read, in place and from a copy; there is no GPU, so nothing is measured\n", payload);
    }
    return 0;
}
#endif
