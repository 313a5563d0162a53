/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * devrx.cuh: the rings of an attachment, for code that runs on a GPU. No library is called: completions are read, and chunks given back, by loads
 * and stores of the two memories that daemon and client share, which the host has registered with the GPU. docs/src/gpu-rings.md has the layout
 * and the order of loads and stores.
 *
 * Compiles with nvcc, NVRTC and hipcc, and with any C++11 compiler of the GNU kind (gcc, clang), where a thread of the CPU plays the GPU. Includes nothing.
 *
 * One consumer at a time uses a queue: a thread block, or a thread. A GPU cannot wake the daemon, so the attachment is made with --polls-refill.
 */
#ifndef DEVRX_CUH
#define DEVRX_CUH

#if defined(__CUDACC__) || defined(__HIPCC__)
#define DEVRX_FN static inline __host__ __device__
#define DEVRX_METHOD __host__ __device__
#else
#define DEVRX_FN static inline
#define DEVRX_METHOD
#endif
#if defined(__CUDA_ARCH__) || defined(__HIP_DEVICE_COMPILE__)
#define DEVRX_ON_DEVICE 1
#else
#define DEVRX_ON_DEVICE 0
#endif

typedef unsigned char devrx_u8;
typedef unsigned short devrx_u16;
typedef unsigned int devrx_u32;
typedef unsigned long long devrx_u64;

/* What the daemon-written memory begins with: this, then the version of the layout. */
#define DEVRX_LAYOUT_MAGIC 0x78727664u
#define DEVRX_LAYOUT_VERSION 1u

/* Bytes of a cache line; of a page. */
#define DEVRX_LINE 64u
#define DEVRX_PAGE 4096u
/* Where the state is in the daemon-written memory; not 0: the attachment has ended. */
#define DEVRX_STATE 64u
/* Bytes of counters of a queue. */
#define DEVRX_COUNTER_BYTES 512u
/* Bytes of an entry of a completion ring; of a refill ring. */
#define DEVRX_COMPLETION_BYTES 32u
#define DEVRX_REFILL_BYTES 8u
/* Fewest entries of a ring. */
#define DEVRX_MIN_ENTRIES 16u

/* devrx_completion.flags. Bits without a name are to be ignored. */
#define DEVRX_SPLIT (1u << 0)        /* the header was split off: it is in the header slot, and not in the payload */
#define DEVRX_MORE (1u << 1)         /* the packet goes on in the next completion; the first one has what is known of it */
#define DEVRX_CSUM_GOOD (1u << 2)    /* the NIC checked the checksums and found them right */
#define DEVRX_CSUM_BAD (1u << 3)     /* the NIC checked the checksums and found one wrong */
#define DEVRX_ERROR (1u << 4)        /* the NIC received the packet with an error */
#define DEVRX_VLAN (1u << 5)         /* vlan holds the tag that the NIC took off the frame */
#define DEVRX_HASH (1u << 6)         /* rss_hash is valid */
#define DEVRX_TIMESTAMP_SW (1u << 7) /* timestamp was taken by software (CLOCK_REALTIME) */
#define DEVRX_TIMESTAMP_HW (1u << 8) /* timestamp was taken by the NIC (its own clock) */

/* A filled chunk, as it lies in the completion ring. */
typedef struct devrx_completion {
    devrx_u32 chunk;         /* its index in the region, and that of its header slot */
    devrx_u16 generation;    /* to be given back with it */
    devrx_u16 flow;          /* the number of the flow rule that matched */
    devrx_u16 offset;        /* where the payload begins in the chunk, in bytes */
    devrx_u16 length;        /* bytes of payload in the chunk; may be 0 */
    devrx_u16 header_length; /* bytes of header in the header slot */
    devrx_u16 vlan;          /* the VLAN tag (TCI), with DEVRX_VLAN */
    devrx_u32 rss_hash;      /* with DEVRX_HASH */
    devrx_u32 flags;         /* DEVRX_SPLIT, ... */
    devrx_u64 timestamp;     /* nanoseconds; which clock, say the flags */
} devrx_completion;

/* --- loads, stores and fences ---------------------------------------------------------------------------------------------------------------- */

/*
 * Words that the other side writes are loaded and stored whole: on a GPU as volatile, which is relaxed at system scope there (PTX ISA, memory consistency
 * model); on a CPU as relaxed atomics. The fence orders them with everything else, for the whole system, and lets no thread go on with what its cache
 * held before.
 */
DEVRX_FN devrx_u32 devrx_load32(const void *at)
{
#if DEVRX_ON_DEVICE
    return *(const volatile devrx_u32 *)at;
#else
    return __atomic_load_n((const devrx_u32 *)at, __ATOMIC_RELAXED);
#endif
}

DEVRX_FN devrx_u64 devrx_load64(const void *at)
{
#if DEVRX_ON_DEVICE
    return *(const volatile devrx_u64 *)at;
#else
    return __atomic_load_n((const devrx_u64 *)at, __ATOMIC_RELAXED);
#endif
}

DEVRX_FN void devrx_store32(void *at, devrx_u32 value)
{
#if DEVRX_ON_DEVICE
    *(volatile devrx_u32 *)at = value;
#else
    __atomic_store_n((devrx_u32 *)at, value, __ATOMIC_RELAXED);
#endif
}

DEVRX_FN void devrx_store64(void *at, devrx_u64 value)
{
#if DEVRX_ON_DEVICE
    *(volatile devrx_u64 *)at = value;
#else
    __atomic_store_n((devrx_u64 *)at, value, __ATOMIC_RELAXED);
#endif
}

DEVRX_FN void devrx_fence(void)
{
#if DEVRX_ON_DEVICE
    __threadfence_system();
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* --- a queue --------------------------------------------------------------------------------------------------------------------------------- */

/* The client's ends of one queue's rings. Filled by devrx_queue_open; belongs to the consumer alone. */
typedef struct devrx_queue {
    const devrx_u8 *state;
    const devrx_u8 *completion_producer; /* written by the daemon */
    const devrx_u8 *completions;         /* written by the daemon */
    const devrx_u8 *headers;             /* written by the daemon */
    devrx_u8 *completion_consumer;       /* written here */
    devrx_u8 *refill_producer;           /* written here */
    devrx_u8 *refills;                   /* written here */
    const devrx_u8 *region;              /* NULL: payload is not read here */
    devrx_u32 completion_mask;           /* entries of the ring - 1 */
    devrx_u32 refill_mask;
    devrx_u32 chunks;
    devrx_u32 chunk_size;
    devrx_u32 header_slot;
    devrx_u32 head;   /* completions before this index were read, and given free by devrx_advance */
    devrx_u32 tail;   /* completions before this index are there, as of the last look */
    devrx_u32 refill; /* refill entries before this index were written, and shown by devrx_publish */
    devrx_u32 fault;  /* not 0: the daemon wrote an index that cannot be */
} devrx_queue;

DEVRX_FN devrx_u64 devrx_round_up(devrx_u64 size, devrx_u64 to)
{
    return (size + to - 1) / to * to;
}

/* Entries of a refill ring: a power of two, with room for every chunk. */
DEVRX_FN devrx_u32 devrx_refill_entries(devrx_u32 chunks)
{
    devrx_u32 entries = DEVRX_MIN_ENTRIES;
    while (entries < chunks)
        entries *= 2;
    return entries;
}

/* From one queue to the next in the daemon-written memory; in the client-written. */
DEVRX_FN devrx_u64 devrx_daemon_stride(devrx_u32 completions)
{
    return devrx_round_up(3 * DEVRX_LINE + DEVRX_COUNTER_BYTES + (devrx_u64)completions * DEVRX_COMPLETION_BYTES, DEVRX_PAGE);
}

DEVRX_FN devrx_u64 devrx_client_stride(devrx_u32 refills)
{
    return devrx_round_up(3 * DEVRX_LINE + (devrx_u64)refills * DEVRX_REFILL_BYTES, DEVRX_PAGE);
}

/*
 * Takes the client's ends of queue `number` (counted from 0 within the attachment). The pointers are those by which the caller reaches the daemon-written
 * memory (for reading), the client-written (for reading and writing), and the region (NULL where it does not read payload). It begins where the last consumer
 * stood, as the shared memory says. 0: done. Else it is no such memory, of another version, or has no such queue.
 */
DEVRX_FN int devrx_queue_open(devrx_queue *q, const void *daemon_memory, void *client_memory, const void *region, devrx_u32 chunk_size, devrx_u32 number)
{
    const devrx_u8 *daemon = (const devrx_u8 *)daemon_memory;
    devrx_u8 *client = (devrx_u8 *)client_memory;
    if (devrx_load32(daemon) != DEVRX_LAYOUT_MAGIC || devrx_load32(daemon + 4) != DEVRX_LAYOUT_VERSION)
        return 1;
    devrx_u32 queues = devrx_load32(daemon + 8);
    devrx_u32 completions = devrx_load32(daemon + 12);
    devrx_u32 chunks = devrx_load32(daemon + 16);
    devrx_u32 header_slot = devrx_load32(daemon + 20);
    devrx_u32 refills = devrx_refill_entries(chunks);
    if (number >= queues || completions < DEVRX_MIN_ENTRIES || (completions & (completions - 1)) != 0 || devrx_load32(daemon + 24) != refills)
        return 1;
    const devrx_u8 *written = daemon + DEVRX_PAGE + number * devrx_daemon_stride(completions);
    devrx_u8 *ours = client + number * devrx_client_stride(refills);
    q->state = daemon + DEVRX_STATE;
    q->completion_producer = written;
    q->completions = written + 3 * DEVRX_LINE + DEVRX_COUNTER_BYTES;
    q->headers = daemon + DEVRX_PAGE + queues * devrx_daemon_stride(completions);
    q->completion_consumer = ours;
    q->refill_producer = ours + 2 * DEVRX_LINE;
    q->refills = ours + 3 * DEVRX_LINE;
    q->region = (const devrx_u8 *)region;
    q->completion_mask = completions - 1;
    q->refill_mask = refills - 1;
    q->chunks = chunks;
    q->chunk_size = chunk_size;
    q->header_slot = header_slot;
    q->head = q->tail = devrx_load32(q->completion_consumer);
    q->refill = devrx_load32(q->refill_producer);
    q->fault = 0;
    return 0;
}

/* Looks at the producer's index, and answers how many completions there are to read. What they say was written, payload and headers included, is to be seen then. */
DEVRX_FN devrx_u32 devrx_available(devrx_queue *q)
{
    devrx_u32 tail = devrx_load32(q->completion_producer);
    devrx_fence();
    /* A right index lies between the last one seen and a full ring. */
    if (tail - q->tail <= q->completion_mask + 1 - (q->tail - q->head))
        q->tail = tail;
    else
        q->fault = 1;
    return q->tail - q->head;
}

/* Whether the attachment has ended: nothing more comes than what is there. Look at this first, then at devrx_available. */
DEVRX_FN int devrx_ended(const devrx_queue *q)
{
    int ended = devrx_load32(q->state) != 0;
    devrx_fence();
    return ended;
}

/* The completion `ahead` of the oldest (0: the oldest), which is less than what devrx_available answered. For any thread of the consumer. */
DEVRX_FN devrx_completion devrx_peek(const devrx_queue *q, devrx_u32 ahead)
{
    const devrx_u8 *at = q->completions + (devrx_u64)((q->head + ahead) & q->completion_mask) * DEVRX_COMPLETION_BYTES;
    devrx_u64 words[4];
    for (int i = 0; i < 4; i++)
        words[i] = devrx_load64(at + 8 * i);
    devrx_completion entry;
    entry.chunk = (devrx_u32)words[0];
    entry.generation = (devrx_u16)(words[0] >> 32);
    entry.flow = (devrx_u16)(words[0] >> 48);
    entry.offset = (devrx_u16)words[1];
    entry.length = (devrx_u16)(words[1] >> 16);
    entry.header_length = (devrx_u16)(words[1] >> 32);
    entry.vlan = (devrx_u16)(words[1] >> 48);
    entry.rss_hash = (devrx_u32)words[2];
    entry.flags = (devrx_u32)(words[2] >> 32);
    entry.timestamp = words[3];
    return entry;
}

/* Whether a completion lies within region and header slot. The daemon writes no other; a program that does not trust it asks. */
DEVRX_FN int devrx_in_range(const devrx_queue *q, const devrx_completion *entry)
{
    return entry->chunk < q->chunks && (devrx_u32)entry->offset + entry->length <= q->chunk_size && entry->header_length <= q->header_slot;
}

/* Where its payload lies: `length` bytes. */
DEVRX_FN const devrx_u8 *devrx_payload(const devrx_queue *q, const devrx_completion *entry)
{
    return q->region + (devrx_u64)entry->chunk * q->chunk_size + entry->offset;
}

/* Where its header lies: `header_length` bytes. */
DEVRX_FN const devrx_u8 *devrx_header(const devrx_queue *q, const devrx_completion *entry)
{
    return q->headers + (devrx_u64)entry->chunk * q->header_slot;
}

/* Gives the `count` oldest completions free: the daemon may overwrite them. Their chunks stay with the consumer until they are given back. */
DEVRX_FN void devrx_advance(devrx_queue *q, devrx_u32 count)
{
    devrx_fence();
    q->head += count;
    devrx_store32(q->completion_consumer, q->head);
}

/*
 * Writes a chunk that is given back, as the entry `ahead` of those to be shown next (0: the first). For any thread of the consumer; each its own. The ring has room for
 * every chunk there is. Nothing of the chunk or its header slot may be read any more once it is shown.
 */
DEVRX_FN void devrx_give_back(const devrx_queue *q, devrx_u32 ahead, devrx_u32 chunk, devrx_u16 generation)
{
    devrx_u8 *at = q->refills + (devrx_u64)((q->refill + ahead) & q->refill_mask) * DEVRX_REFILL_BYTES;
    devrx_store64(at, (devrx_u64)chunk | (devrx_u64)generation << 32);
}

/* Shows the daemon `count` chunks written by devrx_give_back. Once a batch: in a thread block by one thread, behind a barrier. */
DEVRX_FN void devrx_publish(devrx_queue *q, devrx_u32 count)
{
    devrx_fence();
    q->refill += count;
    devrx_store32(q->refill_producer, q->refill);
}

/* --- a loop ---------------------------------------------------------------------------------------------------------------------------------- */

#if DEVRX_ON_DEVICE
#define DEVRX_THREAD threadIdx.x
#define DEVRX_THREADS blockDim.x
#define DEVRX_LANES 32u
#define DEVRX_SYNC() __syncthreads()
#else
#define DEVRX_THREAD 0u
#define DEVRX_THREADS 1u
#define DEVRX_LANES 1u
#define DEVRX_SYNC() ((void)0)
#endif
/* What a thread does that found nothing, so as not to ask for the next word at once. May be defined before this is included. */
#ifndef DEVRX_PAUSE
#if DEVRX_ON_DEVICE && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 700
#define DEVRX_PAUSE() __nanosleep(200)
#else
#define DEVRX_PAUSE() ((void)0)
#endif
#endif
/* Most completions taken at once. */
#define DEVRX_BATCH 256u

/* What the threads of a block share while they serve a queue: a __shared__ variable on a GPU. */
typedef struct devrx_serving {
    devrx_queue queue;
    devrx_u32 count;
    devrx_u32 over;
} devrx_serving;

#ifdef __cplusplus
/*
 * Serves a queue until the attachment ends, until the word at `stop` (NULL: none) is not 0, or until `limit` completions (0: no limit) were taken. All threads of a block call
 * it, a multiple of 32 of them, after one of them has opened s->queue and a barrier. A group of 32 threads takes a completion:
 *
 *     work(entry, header, payload, lane, lanes)
 *
 * is called by each of them. A chunk goes back when all of its block's threads are through the batch. Answers how many completions were taken.
 */
template <class Work>
DEVRX_FN devrx_u64 devrx_serve(devrx_serving *s, Work &work, const void *stop, devrx_u64 limit)
{
    const devrx_u32 lane = DEVRX_THREAD % DEVRX_LANES, group = DEVRX_THREAD / DEVRX_LANES, groups = DEVRX_THREADS / DEVRX_LANES;
    devrx_u64 taken = 0;
    for (;;) {
        if (DEVRX_THREAD == 0) {
            /* In this order: what was published before the end is taken. */
            const int ended = devrx_ended(&s->queue);
            devrx_u32 count = devrx_available(&s->queue);
            if (count > DEVRX_BATCH)
                count = DEVRX_BATCH;
            if (limit && count > limit - taken)
                count = (devrx_u32)(limit - taken);
            if (count == 0)
                DEVRX_PAUSE();
            s->count = count;
            s->over = (ended && count == 0) || (limit && taken == limit) || (stop && devrx_load32(stop) != 0) || s->queue.fault;
        }
        DEVRX_SYNC();
        const devrx_u32 count = s->count;
        if (s->over)
            break;
        for (devrx_u32 at = group; at < count; at += groups) {
            const devrx_completion entry = devrx_peek(&s->queue, at);
            work(entry, devrx_header(&s->queue, &entry), devrx_payload(&s->queue, &entry), lane, DEVRX_LANES);
            if (lane == 0)
                devrx_give_back(&s->queue, at, entry.chunk, entry.generation);
        }
        DEVRX_SYNC();
        if (DEVRX_THREAD == 0 && count > 0) {
            devrx_advance(&s->queue, count);
            devrx_publish(&s->queue, count);
        }
        taken += count;
        DEVRX_SYNC();
    }
    return taken;
}
#endif

#endif
