/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * libdevrx: receive packets that a devrx daemon delivers into shared or device memory.
 *
 * Results: 0 or more is success; a negative value is an errno, negated, and the error struct (may be NULL) says what failed, why, and
 * what to do. The most common:
 *
 *   -ESHUTDOWN        the attachment has ended, and everything that came before was received
 *   -ECONNREFUSED     the daemon cannot be reached
 *   -ENOENT           there is no attachment of that name
 *   -EBUSY, -EACCES   it has a consumer; the policy does not allow it
 *   -EOPNOTSUPP       the payload lies in memory that this process cannot read
 *   -EPROTO           the daemon wrote what cannot be
 *   -EPROTONOSUPPORT  the program was compiled for another version of this interface
 *   -EINVAL           an argument is wrong
 *   -ENOTRECOVERABLE  a defect in the library; close the handle
 *
 * A handle is used by one thread at a time. There is no global state. Structs and constants do not change within one DEVRX_ABI_VERSION.
 */
#ifndef DEVRX_H
#define DEVRX_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of this interface. It rises when a program must be compiled anew. */
#define DEVRX_ABI_VERSION 1u

/* devrx_packet.flags. Bits without a name are to be ignored. */
#define DEVRX_SPLIT (1u << 0)        /* the header was split off: it is in the header slot, and not in the payload */
#define DEVRX_CSUM_GOOD (1u << 2)    /* the NIC checked the checksums and found them right */
#define DEVRX_CSUM_BAD (1u << 3)     /* the NIC checked the checksums and found one wrong */
#define DEVRX_ERROR (1u << 4)        /* the NIC received the packet with an error */
#define DEVRX_VLAN (1u << 5)         /* vlan holds the tag that the NIC took off the frame */
#define DEVRX_HASH (1u << 6)         /* rss_hash is valid */
#define DEVRX_TIMESTAMP_SW (1u << 7) /* timestamp is when the daemon took the packet from its ring */
#define DEVRX_TIMESTAMP_HW (1u << 8) /* timestamp is when the packet arrived, by the NIC's clock, converted to CLOCK_REALTIME */

/* Bytes of a message, its closing 0 included. */
#define DEVRX_MESSAGE_SIZE 508

/* What failed. Filled where a function fails; else it stays as it was. */
typedef struct devrx_error {
    int code;                         /* the errno, positive */
    char message[DEVRX_MESSAGE_SIZE]; /* UTF-8, closed by 0; cut where it is too long */
} devrx_error;

/* An attachment that this program consumes. */
typedef struct devrx_attachment devrx_attachment;
/* Packets that were received, and their chunks until they are given back. */
typedef struct devrx_batch devrx_batch;

/* A packet of a batch. */
typedef struct devrx_packet {
    uint64_t timestamp;      /* nanoseconds since 1970 (CLOCK_REALTIME); who took it, say the flags; 0 without */
    uint64_t payload_offset; /* where its payload begins in the region, in bytes: that of its first segment */
    uint32_t payload_length; /* bytes of payload, of all segments */
    uint32_t segments;       /* how many chunks it takes, one segment of payload each */
    uint32_t flags;          /* DEVRX_SPLIT, ... */
    uint32_t rss_hash;       /* with DEVRX_HASH */
    uint16_t header_length;  /* bytes of header that were split off */
    uint16_t vlan;           /* the VLAN tag (TCI), with DEVRX_VLAN */
    uint16_t flow;           /* the number of the flow rule that matched */
    uint16_t queue;          /* the queue it came from, counted from 0 within the attachment */
} devrx_packet;

/* A piece of a packet's payload, in one chunk. */
typedef struct devrx_segment {
    uint64_t offset;      /* where it begins in the region, in bytes */
    uint32_t length;      /* bytes of it; may be 0 */
    uint32_t chunk;       /* the chunk's index in the region */
    uint16_t generation;  /* the generation it was delivered under */
    uint16_t reserved[3]; /* 0 */
} devrx_segment;

/* Numbers of an attachment: sums over its queues, as the daemon last wrote them. */
typedef struct devrx_stats {
    uint64_t packets;              /* packets the NIC counted */
    uint64_t bytes;                /* bytes of packets delivered */
    uint64_t delivered;            /* packets delivered */
    uint64_t completions;          /* chunks delivered */
    uint64_t returned;             /* chunks given back */
    uint64_t dropped;              /* packets dropped, for any reason */
    uint64_t refused;              /* returns the daemon refused */
    uint64_t payload_bytes_copied; /* payload bytes that a CPU copied */
    uint64_t held;                 /* chunks this program received and did not give back; a number that only grows is a leak */
} devrx_stats;

/* The memories that daemon and client share, as this process maps them: for code that consumes the rings itself, such as device code (devrx.cuh). */
typedef struct devrx_shared {
    const void *daemon_memory; /* the daemon-written memory: for reading */
    uint64_t daemon_size;
    void *client_memory; /* the client-written memory: for reading and writing */
    uint64_t client_size;
    uint32_t queues;     /* how many the attachment has */
    uint32_t chunk_size; /* bytes of a chunk */
    uint32_t chunks;     /* chunks of the region */
    uint32_t polls_refill; /* 1: the daemon looks at the refill rings by itself (`devrx attach --polls-refill`). 0: who gives chunks back has to kick */
} devrx_shared;

/* The version of the interface that the library has. devrx_open compares it. */
uint32_t devrx_abi_version(void);

/* The library's version, as text that lives as long as it. */
const char *devrx_version(void);

/*
 * Becomes the consumer of the attachment `name`, which exists (`devrx attach`). `abi_version` is DEVRX_ABI_VERSION. `socket` is the daemon's
 * socket; NULL: that of the environment variable DEVRX_SOCKET, or the default. Fills *out; NULL where it fails.
 */
int devrx_open(uint32_t abi_version, const char *socket, const char *name, devrx_attachment **out, devrx_error *error);

/* Ends the consumption. Chunks that were not given back go back with it. Batches that are left are freed with devrx_batch_give_back(NULL, ...). */
void devrx_close(devrx_attachment *attachment);

/*
 * Receives the next packets. Answers how many, and *out is their batch; where there are none, 0 and NULL. Waits for `timeout_us`
 * microseconds at most; 0: not at all; negative: as long as it takes. Several batches may be held at once.
 */
int64_t devrx_recv(devrx_attachment *attachment, int64_t timeout_us, devrx_batch **out, devrx_error *error);

/* What is known of packet `index`. */
int devrx_batch_packet(const devrx_batch *batch, size_t index, devrx_packet *out, devrx_error *error);

/* Segment `segment` of packet `index`: where its payload is, for a packet of several chunks. */
int devrx_batch_segment(const devrx_batch *batch, size_t index, size_t segment, devrx_segment *out, devrx_error *error);

/* Copies the header of packet `index`, as much as `size` takes. Answers how many bytes. */
int64_t devrx_batch_header(const devrx_batch *batch, size_t index, uint8_t *out, size_t size, devrx_error *error);

/* Copies the payload of packet `index`, as much as `size` takes. Answers how many bytes. */
int64_t devrx_batch_payload(const devrx_batch *batch, size_t index, uint8_t *out, size_t size, devrx_error *error);

/* Gives the chunks of packet `index` back before the rest of its batch. Answers how many. */
int64_t devrx_batch_give_back_packet(devrx_attachment *attachment, devrx_batch *batch, size_t index, devrx_error *error);

/*
 * Gives a batch's chunks back, and ends the batch; where it fails, the batch is still there. Answers how many chunks. Chunks not given back
 * are chunks that no packet can be received into. `batch` may be NULL. `attachment` is NULL where it was closed: then the batch is only freed.
 */
int64_t devrx_batch_give_back(devrx_attachment *attachment, devrx_batch *batch, devrx_error *error);

/*
 * The region as this process maps it, read-only, and its bytes: payload lies at the offsets of packets and segments. NULL: it cannot be
 * read here. Until a chunk is given back nobody should write to it; a daemon or a NIC that breaks this can, so check what was read, not
 * what will be read.
 */
const void *devrx_region(devrx_attachment *attachment, uint64_t *size);

/* The region's descriptor, to map it elsewhere. It belongs to the handle. */
int devrx_region_fd(devrx_attachment *attachment);

/*
 * What the region was exported as: of memory of the kind cuda the descriptor that cuMemImportFromShareableHandle takes (CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
 * the allocation is the region's size, rounded up to what cuMemGetAllocationGranularity says), of the kind udmabuf a dma-buf. -EOPNOTSUPP: nothing.
 * It belongs to the handle.
 */
int devrx_export_fd(devrx_attachment *attachment);

/*
 * The memories that daemon and client share. They stay mapped until devrx_close. Who consumes the rings there must not use devrx_recv, devrx_arm, and
 * the batches of this handle: one consumer at a time, and the handle does not see what others took.
 */
int devrx_shared_memory(devrx_attachment *attachment, devrx_shared *out, devrx_error *error);

/*
 * Waiting in an event loop: if devrx_arm answers 1, poll() devrx_wake_fd for POLLIN, then devrx_disarm, then devrx_recv with timeout 0. If it
 * answers 0 there are packets: do not wait. The descriptor belongs to the handle and stays the same.
 */
int devrx_wake_fd(devrx_attachment *attachment);
int devrx_arm(devrx_attachment *attachment);
void devrx_disarm(devrx_attachment *attachment);

/* The numbers. */
int devrx_read_stats(devrx_attachment *attachment, devrx_stats *out, devrx_error *error);

/*
 * Frames: a stream whose packets carry a sequence number, received as frames instead of packets. Packets are put to their places in the open
 * frames, and frames come in order: complete, or when their time is over, or when a later frame needs the place.
 */

/* devrx_frame_info.end */
#define DEVRX_FRAME_COMPLETE 0u  /* all packets are there */
#define DEVRX_FRAME_EXPIRED 1u   /* its time was over */
#define DEVRX_FRAME_PUSHED 2u    /* a packet of a later frame moved the window */
#define DEVRX_FRAME_RESTARTED 3u /* the stream started again */
#define DEVRX_FRAME_FLUSHED 4u   /* devrx_frames_flush, or the attachment's end */

/* How a numbered stream is cut into frames. Filled by devrx_placement_init, then changed. */
typedef struct devrx_placement {
    uint64_t stride;        /* from one packet's number to the next one's: 1 */
    uint64_t first;         /* the number of the first packet of a frame: 0 */
    uint64_t deadline_us;   /* how long a frame waits from its first packet on, in microseconds; 0: no limit */
    uint32_t frame_packets; /* packets of a frame */
    uint32_t place_bytes;   /* most bytes of data of a packet */
    uint32_t window;        /* frames open at once: 4 */
    int32_t data_offset;    /* how many bytes behind the UDP header the data begins; negative: behind the number */
    uint16_t offset;        /* how many bytes behind the UDP header the number begins: 0 */
    uint8_t width;          /* bytes of the number, 1 to 8: 8 */
    uint8_t little_endian;  /* 0: network byte order */
    uint8_t reserved[4];    /* 0 */
} devrx_placement;

/* What is known of a frame. */
typedef struct devrx_frame_info {
    uint64_t number;   /* goes on where the sequence numbers wrap */
    uint64_t restarts; /* how often the stream had started again before it */
    uint64_t size;     /* its bytes in one piece: places * place_bytes */
    uint32_t places;
    uint32_t missing; /* places without a packet */
    uint32_t end;     /* DEVRX_FRAME_COMPLETE, ... */
    uint32_t reserved;
} devrx_frame_info;

/* What became of packets (the sum of placed to unreadable is packets) and frames. */
typedef struct devrx_frame_stats {
    uint64_t packets;
    uint64_t placed;
    uint64_t late;         /* the frame had left the window incomplete */
    uint64_t duplicate;    /* the place was taken */
    uint64_t out_of_range; /* too far from the window, or between two numbers */
    uint64_t oversize;     /* more data than place_bytes */
    uint64_t unreadable;   /* damaged, a fragment, no UDP, no number, or the number lies where this process cannot read */
    uint64_t restarts;     /* how often the stream started again */
    uint64_t frames_complete;
    uint64_t frames_incomplete;
    uint64_t frames_missed; /* frames without a single packet; they are not handed out */
    uint64_t missing;       /* places without a packet in closed and missed frames */
} devrx_frame_stats;

/* One copy of those that gather a frame; devrx_gather_pieces of devrx_placement.cuh does them. */
#ifndef DEVRX_PIECE
#define DEVRX_PIECE
#define DEVRX_FROM_REGION 0u  /* devrx_piece.source: the region */
#define DEVRX_FROM_HEADERS 1u /* the daemon-written memory, where header slots are */
#define DEVRX_FILL 2u         /* nothing: the frame is filled there */
typedef struct devrx_piece {
    uint64_t from;   /* offset of its first byte in its source */
    uint64_t to;     /* its place in the frame in one piece */
    uint32_t length; /* how many bytes */
    uint32_t source; /* DEVRX_FROM_REGION, ... */
} devrx_piece;
#endif

typedef struct devrx_frames devrx_frames;
typedef struct devrx_frame devrx_frame;

/* Fills in what most streams are: as noted at the fields. */
void devrx_placement_init(devrx_placement *out, uint32_t frame_packets, uint32_t place_bytes);

/* As devrx_open; the attachment is received as frames. -EINVAL: the placement contradicts itself, or the attachment has too few chunks. */
int devrx_frames_open(uint32_t abi_version, const char *socket, const char *name, const devrx_placement *placement, devrx_frames **out,
                      devrx_error *error);

/* Ends the consumption. Frames that are left can be read, and are dropped with devrx_frame_drop. */
void devrx_frames_close(devrx_frames *frames);

/* Receives the next frame: 1, and *out is the frame. 0: none within `timeout_us` microseconds (negative: as long as it takes), also while packets that
 * complete no frame keep coming. */
int devrx_frames_recv(devrx_frames *frames, int64_t timeout_us, devrx_frame **out, devrx_error *error);

/* Closes all open frames; they are received next. */
void devrx_frames_flush(devrx_frames *frames);

/* The counters. */
int devrx_frames_read_stats(devrx_frames *frames, devrx_frame_stats *out, devrx_error *error);

/* What is known of a frame. A frame may be read and dropped by another thread than the one that receives. */
int devrx_frame_read(const devrx_frame *frame, devrx_frame_info *out, devrx_error *error);

/* Whether place `index` has its packet: 1 or 0. */
int devrx_frame_has(const devrx_frame *frame, size_t index);

/* Where in the region the data of place `index` lies, for a device: piece `segment` of it, from 0 on. -EINVAL: there is none. */
int devrx_frame_segment(const devrx_frame *frame, size_t index, size_t segment, devrx_segment *out, devrx_error *error);

/* Gathers a frame in `out`, `fill` where packets are missing or shorter than their place. Answers how many are missing. */
int64_t devrx_frame_copy(const devrx_frame *frame, uint8_t *out, size_t size, uint8_t fill, devrx_error *error);

/*
 * What a device has to copy to gather a frame in one launch: pieces that cover each of its bytes once, in order. Writes the first `room` of them, and answers how
 * many there are: at most two a place, and one more for each chunk beyond its packet's first.
 */
int64_t devrx_frame_pieces(const devrx_frame *frame, devrx_piece *pieces, size_t room, devrx_error *error);

/* Whether the frame lies in the region in one piece already, so that nothing has to be copied: 1, and *offset is where; or 0. */
int devrx_frame_in_place(const devrx_frame *frame, uint64_t *offset, devrx_error *error);

/* Ends a frame: its chunks go back. Until then no packet can be received into them. */
void devrx_frame_drop(devrx_frame *frame);

#ifdef __cplusplus
}
#endif

#endif
