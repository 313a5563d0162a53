/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Frames from numbered packets by a persistent kernel: it reads the numbers where the payload is, places packets, gathers each frame in one piece, and gives the chunks back. Each packet
 * begins with its number (8 bytes, network byte order); a frame has so many packets of so many bytes of data. The kernel adds up each frame's bytes.
 *
 *   nvcc placement.cu $(pkg-config --cflags --libs devrx) -o placement
 *   c++ -x c++ placement.cu -x none $(pkg-config --cflags --libs devrx) -o placement     without a GPU: a thread of the CPU plays it
 *
 *   devrx attach --name camera --nic eth0 --queue 0 --memory memfd --size 64M --flow udp,dst-port=5000 --polls-refill
 *   ./placement camera 64 1024
 */
#include "device.h"
#include <devrx_placement.cuh>

/* Most frames that are told of. */
#define MOST 4096

/* What is told of a frame. */
struct report {
    devrx_u64 number, sum;
    devrx_u32 end, missing;
};

/* What the host finds when the kernel has ended. */
struct findings {
    devrx_counters counters;
    devrx_u64 frames;
    devrx_u32 failed, reserved;
    report reports[MOST];
};

/* What the kernel is given. */
struct task {
    const void *daemon;
    void *client;
    const void *region;
    devrx_u32 chunk_size, bodies;
    devrx_rule rule;
    devrx_stream stream;
    void *window;   /* devrx_window_bytes of it */
    devrx_u8 *frame; /* frame_packets * place_bytes */
};

/* What is done with a frame: each of the threads reads its part. */
struct add_up {
    findings *out;

    DEVRX_METHOD void operator()(const devrx_closed &closed, devrx_u32 missing, const devrx_u8 *frame, devrx_u32 thread, devrx_u32 threads)
    {
        const devrx_u64 at = out->frames % MOST;
        devrx_u64 sum = 0;
        for (devrx_u64 byte = thread; byte < size; byte += threads)
            sum += frame[byte];
        DEVRX_SYNC();
#if DEVRX_ON_DEVICE
        atomicAdd(&out->reports[at].sum, sum);
#else
        out->reports[at].sum += sum;
#endif
        if (thread == 0) {
            out->reports[at].number = closed.number;
            out->reports[at].end = closed.end;
            out->reports[at].missing = missing;
            out->frames += 1;
        }
        DEVRX_SYNC();
    }
    devrx_u64 size;
};

/* What each thread does. */
DEVRX_FN void place(devrx_placing *p, devrx_window *w, const task *t, findings *out)
{
    if (DEVRX_THREAD == 0) {
        out->failed = devrx_queue_open(&p->queue, t->daemon, t->client, t->region, t->chunk_size, 0) ||
                      devrx_window_open(w, &t->rule, DEVRX_NO_DEADLINE, t->bodies, t->window);
    }
    DEVRX_SYNC();
    if (out->failed)
        return;
    add_up work = {out, t->rule.frame_packets * t->stream.place_bytes};
    devrx_serve_frames(p, w, &t->stream, t->frame, 0, work, nullptr, 0);
    if (DEVRX_THREAD == 0) {
        out->counters = w->counters;
        out->failed = p->queue.fault;
    }
}

extern "C" __global__ void placement(task t, findings *out)
{
    __shared__ devrx_placing p;
    __shared__ devrx_window w;
    place(&p, &w, &t, out);
}

/* The rest runs on the host. */
#if !defined(__CUDACC_RTC__)
#include <devrx.h>

static void run(task t, const devrx_shared &shared, devrx_u64 region_size, findings *out)
{
    findings *there = (findings *)device_zeroed(sizeof *there);
    t.daemon = device_registered(shared.daemon_memory, shared.daemon_size, true);
    t.client = device_registered(shared.client_memory, shared.client_size, false);
    t.region = device_registered(t.region, region_size, true);
    t.window = device_zeroed(devrx_window_bytes(&t.rule, t.bodies));
    t.frame = (devrx_u8 *)device_zeroed(t.rule.frame_packets * t.stream.place_bytes);
    device_run("placement", placement, t, there);
    device_read(out, there, sizeof *out);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        std::fprintf(stderr, "usage: %s ATTACHMENT PACKETS-OF-A-FRAME BYTES-OF-DATA [OPEN-FRAMES]\n", argv[0]);
        return 2;
    }
    devrx_error error = {0, ""};
    devrx_attachment *rx;
    devrx_shared shared;
    uint64_t size = 0;
    if (devrx_open(DEVRX_ABI_VERSION, nullptr, argv[1], &rx, &error) < 0 || devrx_shared_memory(rx, &shared, &error) < 0) {
        std::fprintf(stderr, "placement: %s\n", error.message);
        return 1;
    }
    if (!shared.polls_refill)
        std::fprintf(stderr, "placement: nobody here can wake the daemon, and it does not look for chunks by itself; attach with --polls-refill\n");
    task t = {};
    t.region = devrx_region(rx, &size);
    t.chunk_size = shared.chunk_size;
    const devrx_u64 packets = std::strtoull(argv[2], nullptr, 10), window = argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 4;
    /* A number of 64 bits that rises by 1; devrx_client::placement::PlacementOptions::rule has what else there is, and the same reach. */
    t.rule = {0xffffffffffffffffull, 0, 1, packets, window, 64 * packets * window > 65536 ? 64 * packets * window : 65536,
              4 * packets * window > 1024 ? 4 * packets * window : 1024, 2, 0};
    t.stream = {0, 8, 0, 8, (devrx_u32)std::strtoul(argv[3], nullptr, 10), 0};
    t.bodies = (devrx_u32)(2 * window + 1);
    if (packets == 0 || window == 0 || t.stream.place_bytes == 0 || packets * window >= shared.chunks || !t.region) {
        std::fprintf(stderr, "placement: the open frames must take fewer chunks than the attachment's %u, and the region be one that a CPU can map\n", shared.chunks);
        return 1;
    }
    static findings found;
    run(t, shared, size, &found);
    if (found.failed) {
        std::fprintf(stderr, "placement: the rings are not as they should be\n");
        return 1;
    }
    for (devrx_u64 i = 0; i < found.frames && i < MOST; i++) {
        const report &r = found.reports[i];
        std::printf("frame %llu: end %u, %u missing, adds up to %llu\n", r.number, r.end, r.missing, r.sum);
    }
    const devrx_counters &c = found.counters;
    std::printf("%llu packets: %llu placed, %llu late, %llu duplicate, %llu out of range, %llu oversize, %llu unreadable; %llu missing\n", c.packets, c.placed, c.late,
                c.duplicate, c.out_of_range, c.oversize, c.unreadable, c.missing);
    devrx_close(rx);
    return 0;
}
#endif
