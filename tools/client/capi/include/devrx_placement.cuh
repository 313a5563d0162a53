/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * devrx_placement.cuh: frames from numbered packets, for code that runs on a GPU: where the number lies in payload that only the GPU can read. The same rule, window and
 * counters as devrx_client::placement (docs/src/placement.md), which is the reference: both are run on the same streams, and must say the same.
 *
 * Packets are read by many threads (devrx_read_packet), placed by one (devrx_place_packet), and frames gathered by many (devrx_gather). Memory is the caller's, given once:
 * nothing is allocated. A packet takes one chunk here; one of several chunks counts as unreadable.
 */
#ifndef DEVRX_PLACEMENT_CUH
#define DEVRX_PLACEMENT_CUH

#include "devrx.cuh"

/* No body, no deadline. */
#define DEVRX_NO_BODY 0xffffffffu
#define DEVRX_NO_DEADLINE 0xffffffffffffffffull

/* What became of a packet. */
#define DEVRX_PLACED 0u
#define DEVRX_LATE 1u
#define DEVRX_DUPLICATE 2u
#define DEVRX_OUT_OF_RANGE 3u
#define DEVRX_OVERSIZE 4u
#define DEVRX_UNREADABLE 5u
#define DEVRX_NO_ROOM 6u /* nothing: take closed frames first (devrx_next_frame, devrx_reuse), then try again */

/* Why a frame was closed. The numbers are those of devrx.h. */
#define DEVRX_END_COMPLETE 0u
#define DEVRX_END_EXPIRED 1u
#define DEVRX_END_PUSHED 2u
#define DEVRX_END_RESTARTED 3u
#define DEVRX_END_FLUSHED 4u

/* What a stream's numbers mean: devrx_client::placement::rule::Rule, which says what must hold. */
typedef struct devrx_rule {
    devrx_u64 mask, first, stride, frame_packets, window, ahead, behind;
    devrx_u32 restart_after, reserved;
} devrx_rule;

/* Where a stream is: devrx_client::placement::rule::Cursor. Begins as zeros. */
typedef struct devrx_cursor {
    devrx_u64 head, strange;
    devrx_u32 strange_run, started;
} devrx_cursor;

/* --- the rule ------------------------------------------------------------------------------------------------------------------------------- */

#define DEVRX_STEP_PLACE 0
#define DEVRX_STEP_RESTART 1
#define DEVRX_STEP_LATE 2
#define DEVRX_STEP_STRANGE 3
#define DEVRX_STEP_STRAY 4

/* What is to be done with a packet. */
typedef struct devrx_step {
    int what;
    devrx_u64 moved; /* PLACE: frames that the window moves by */
    devrx_u64 slot;  /* PLACE: the open frame after that, counted from the oldest; LATE: how many frames before the oldest */
    devrx_u64 index; /* PLACE, RESTART: the place in it */
} devrx_step;

/* The frame a stream begins in, and the place. 0: the number is between two packets'. */
DEVRX_FN int devrx_start(const devrx_rule *rule, devrx_u64 sequence, devrx_cursor *cursor, devrx_u64 *index)
{
    devrx_u64 number = (sequence - rule->first) & rule->mask;
    if (number % rule->stride != 0)
        return 0;
    devrx_u64 packet = number / rule->stride;
    cursor->head = packet / rule->frame_packets;
    cursor->strange = 0;
    cursor->strange_run = 0;
    cursor->started = 1;
    *index = packet - cursor->head * rule->frame_packets;
    return 1;
}

/* How many strange packets there were in a row, this one included, within a window of one another. */
DEVRX_FN devrx_u32 devrx_strange_run(const devrx_rule *rule, const devrx_cursor *cursor, devrx_u64 sequence, devrx_u64 span)
{
    devrx_u64 up = (sequence - cursor->strange) & rule->mask, down = (cursor->strange - sequence) & rule->mask;
    if (cursor->strange_run == 0 || (up < down ? up : down) >= span * rule->window)
        return 1;
    /* A duplicate is no second witness. */
    if (up == 0 || cursor->strange_run == 0xffffffffu)
        return cursor->strange_run;
    return cursor->strange_run + 1;
}

/* Where `sequence` belongs. `cursor` is where the stream is; then, where it is after it. */
DEVRX_FN devrx_step devrx_rule_step(const devrx_rule *rule, devrx_cursor *cursor, devrx_u64 sequence)
{
    devrx_step step = {DEVRX_STEP_PLACE, 0, 0, 0};
    sequence &= rule->mask;
    if (cursor->started == 0) {
        if (!devrx_start(rule, sequence, cursor, &step.index))
            step.what = DEVRX_STEP_STRAY;
        return step;
    }
    const devrx_u64 span = rule->stride * rule->frame_packets;
    const devrx_u64 begin = rule->first + cursor->head * span;
    const devrx_u64 ahead = (sequence - begin) & rule->mask, behind = (begin - sequence) & rule->mask;
    if (ahead < rule->ahead) {
        if (ahead % rule->stride != 0) {
            step.what = DEVRX_STEP_STRAY;
            return step;
        }
        const devrx_u64 packet = ahead / rule->stride, frame = packet / rule->frame_packets;
        step.index = packet - frame * rule->frame_packets;
        step.moved = frame + 1 > rule->window ? frame + 1 - rule->window : 0;
        step.slot = frame - step.moved;
        cursor->head += step.moved;
        cursor->strange_run = 0;
        return step;
    }
    if (behind <= rule->behind) {
        if (behind % rule->stride != 0) {
            step.what = DEVRX_STEP_STRAY;
            return step;
        }
        const devrx_u64 packets = behind / rule->stride;
        step.what = DEVRX_STEP_LATE;
        step.slot = packets / rule->frame_packets + (packets % rule->frame_packets != 0);
        cursor->strange_run = 0;
        return step;
    }
    const devrx_u32 run = devrx_strange_run(rule, cursor, sequence, span);
    if (run >= rule->restart_after && devrx_start(rule, sequence, cursor, &step.index)) {
        step.what = DEVRX_STEP_RESTART;
        return step;
    }
    cursor->strange = sequence;
    cursor->strange_run = run;
    step.what = DEVRX_STEP_STRANGE;
    return step;
}

/* --- a packet -------------------------------------------------------------------------------------------------------------------------------- */

/* Where the number lies, and the data. */
typedef struct devrx_stream {
    devrx_u32 offset;        /* how many bytes behind the UDP header the number begins */
    devrx_u32 width;         /* its bytes, 1 to 8 */
    devrx_u32 little_endian; /* 0: network byte order */
    devrx_u32 data_offset;   /* how many bytes behind the UDP header the data begins */
    devrx_u32 place_bytes;   /* most bytes of data of a packet */
    devrx_u32 reserved;
} devrx_stream;

/* A packet's data: where it is, for devrx_gather. */
typedef struct devrx_place {
    devrx_u32 chunk;
    devrx_u16 generation;
    devrx_u16 offset;        /* of the payload in the chunk */
    devrx_u16 header_length; /* bytes of the frame that lie in the header slot */
    devrx_u16 reserved;
    devrx_u32 start;  /* which byte of the frame is the first of the data */
    devrx_u32 length; /* bytes of data */
} devrx_place;

/* A packet that was read: its number and data, or why it has none. */
typedef struct devrx_reading {
    devrx_u64 sequence;
    devrx_u64 timestamp; /* of the packet, in nanoseconds; for who places it */
    devrx_place place;
    devrx_u32 verdict; /* DEVRX_PLACED: to be placed; DEVRX_OVERSIZE, DEVRX_UNREADABLE */
    devrx_u32 reserved;
} devrx_reading;

/* A frame as two pieces: what lies in the header slot, and what lies in the chunk. */
typedef struct devrx_pieces {
    const devrx_u8 *header, *payload;
    devrx_u32 header_length, length;
} devrx_pieces;

DEVRX_FN devrx_u32 devrx_byte(const devrx_pieces *frame, devrx_u32 at)
{
    return at < frame->header_length ? frame->header[at] : frame->payload[at - frame->header_length];
}

/* Two bytes at `at` of the `have` that may be looked at, in network byte order; -1: they are not there. */
DEVRX_FN int devrx_two_bytes(const devrx_pieces *frame, devrx_u32 have, devrx_u32 at)
{
    return at + 2 > have ? -1 : (int)(devrx_byte(frame, at) << 8 | devrx_byte(frame, at + 1));
}

/*
 * The end of a frame's UDP header, which begins within its first 256 bytes, and the bytes behind it by its length field. 0: none, cut off, or a fragment. Before it
 * may lie what header split knows: two VLAN tags, IPv4 options, IPv6 extension headers.
 */
DEVRX_FN int devrx_find_udp(const devrx_pieces *frame, devrx_u32 *end, devrx_u32 *length)
{
    const devrx_u32 whole = frame->header_length ? frame->header_length : frame->length, have = whole < 256 ? whole : 256;
    devrx_u32 at = 12;
    int kind = devrx_two_bytes(frame, have, at);
    for (int tags = 0; tags < 2 && (kind == 0x8100 || kind == 0x88a8 || kind == 0x9100); tags++) {
        at += 4;
        kind = devrx_two_bytes(frame, have, at);
    }
    at += 2;
    if (kind == 0x0800) {
        if (at + 20 > have)
            return 0;
        const devrx_u32 first = devrx_byte(frame, at), words = first & 15;
        /* More fragments, or an offset. */
        const int fragment = (devrx_two_bytes(frame, have, at + 6) & 0x3fff) != 0;
        if (first >> 4 != 4 || words < 5 || devrx_byte(frame, at + 9) != 17 || fragment)
            return 0;
        at += 4 * words;
    } else if (kind == 0x86dd) {
        if (at + 40 > have || devrx_byte(frame, at) >> 4 != 6)
            return 0;
        devrx_u32 next = devrx_byte(frame, at + 6);
        at += 40;
        for (int headers = 0; next != 17; headers++) {
            devrx_u32 size;
            if (next == 0 || next == 43 || next == 60 || next == 135 || next == 139 || next == 140) {
                if (at + 2 > have)
                    return 0;
                size = 8 * (devrx_byte(frame, at + 1) + 1);
            } else if (next == 51) {
                if (at + 2 > have)
                    return 0;
                size = 4 * (devrx_byte(frame, at + 1) + 2);
            } else if (next == 44) {
                const int fragment = devrx_two_bytes(frame, have, at + 2);
                if (fragment < 0 || (fragment & 0xfff9) != 0)
                    return 0;
                size = 8;
            } else {
                return 0;
            }
            if (at >= have)
                return 0;
            next = devrx_byte(frame, at);
            at += size;
            /* The ninth may be UDP and nothing else. */
            if (headers == 8)
                return 0;
        }
    } else {
        return 0;
    }
    const int bytes = devrx_two_bytes(frame, have, at + 4);
    if (bytes < 8 || devrx_two_bytes(frame, have, at + 6) < 0)
        return 0;
    *end = at + 8;
    *length = (devrx_u32)bytes - 8;
    return 1;
}

/* Reads a packet's number, and where its data is. For any thread, each another packet. */
DEVRX_FN devrx_reading devrx_read_packet(const devrx_stream *stream, const devrx_completion *entry, const devrx_u8 *header, const devrx_u8 *payload)
{
    devrx_reading found = {0, entry->timestamp, {entry->chunk, entry->generation, entry->offset, entry->header_length, 0, 0, 0}, DEVRX_UNREADABLE, 0};
    const devrx_pieces frame = {header, payload, entry->header_length, entry->length};
    devrx_u32 end, length;
    if ((entry->flags & (DEVRX_ERROR | DEVRX_CSUM_BAD | DEVRX_MORE)) != 0 || !devrx_find_udp(&frame, &end, &length))
        return found;
    /* A datagram that was cut off somewhere has no whole data. */
    if (end + length > frame.header_length + frame.length || stream->data_offset > length || stream->offset + stream->width > length)
        return found;
    for (devrx_u32 i = 0; i < stream->width; i++) {
        const devrx_u64 byte = devrx_byte(&frame, end + stream->offset + i);
        found.sequence |= byte << 8 * (stream->little_endian ? i : stream->width - 1 - i);
    }
    found.place.start = end + stream->data_offset;
    found.place.length = length - stream->data_offset;
    found.verdict = found.place.length > stream->place_bytes ? DEVRX_OVERSIZE : DEVRX_PLACED;
    return found;
}

/* --- the window ------------------------------------------------------------------------------------------------------------------------------ */

/* What a frame is made of, beside its places and its bitmap. */
typedef struct devrx_body {
    devrx_u64 opened; /* when its first packet came, in nanoseconds */
    devrx_u32 placed;
    devrx_u32 reserved;
} devrx_body;

/* A frame that was closed. */
typedef struct devrx_closed {
    devrx_u64 number;   /* goes on where the sequence numbers wrap */
    devrx_u64 restarts; /* how often the stream had started again before it */
    devrx_u32 body;
    devrx_u32 end; /* DEVRX_END_COMPLETE, ... */
} devrx_closed;

/* What became of packets (the sum of placed to unreadable is packets) and frames. The fields are those of devrx_frame_stats in devrx.h. */
typedef struct devrx_counters {
    devrx_u64 packets, placed, late, duplicate, out_of_range, oversize, unreadable, restarts, frames_complete, frames_incomplete, frames_missed, missing;
} devrx_counters;

/* The open frames of a stream. Filled by devrx_window_open; used by one thread at a time. */
typedef struct devrx_window {
    devrx_rule rule;
    devrx_cursor cursor;
    devrx_counters counters;
    devrx_u64 deadline; /* nanoseconds from a frame's first packet on; DEVRX_NO_DEADLINE */
    devrx_u64 history;  /* bit i: the frame i + 1 before the oldest open one was complete */
    devrx_u32 oldest;
    devrx_u32 frames; /* bodies there are */
    devrx_u32 spares;
    devrx_u32 closed_first, closed_count;
    devrx_u32 words; /* of a frame's bitmap */
    devrx_u32 *slots; /* [rule.window]: bodies of the open frames, a ring */
    devrx_u32 *spare; /* [frames] */
    devrx_closed *closed; /* [frames], a ring */
    devrx_body *bodies;   /* [frames] */
    devrx_u64 *present;   /* [frames * words]: bit i % 64 of word i / 64: place i is taken */
    devrx_place *places;  /* [frames * rule.frame_packets] */
} devrx_window;

DEVRX_FN devrx_u32 devrx_bitmap_words(const devrx_rule *rule)
{
    return (devrx_u32)((rule->frame_packets + 63) / 64);
}

/* Bytes of memory that a window with `frames` bodies takes: at least the open frames and one more; closed ones keep theirs until devrx_reuse. */
DEVRX_FN devrx_u64 devrx_window_bytes(const devrx_rule *rule, devrx_u32 frames)
{
    const devrx_u64 body = sizeof(devrx_body) + sizeof(devrx_closed) + 8ull * devrx_bitmap_words(rule) + sizeof(devrx_place) * rule->frame_packets + 4;
    return devrx_round_up(frames * body + 4 * rule->window, 8);
}

/* Lays a window out in `memory`, of devrx_window_bytes bytes, at a multiple of 8. 0: done; else there are too few frames. */
DEVRX_FN int devrx_window_open(devrx_window *w, const devrx_rule *rule, devrx_u64 deadline, devrx_u32 frames, void *memory)
{
    if (frames <= rule->window)
        return 1;
    const devrx_window empty = {};
    *w = empty;
    w->rule = *rule;
    w->deadline = deadline;
    w->frames = w->spares = frames;
    w->words = devrx_bitmap_words(rule);
    devrx_u8 *at = (devrx_u8 *)memory;
    w->closed = (devrx_closed *)at;
    at += sizeof(devrx_closed) * (devrx_u64)frames;
    w->bodies = (devrx_body *)at;
    at += sizeof(devrx_body) * (devrx_u64)frames;
    w->present = (devrx_u64 *)at;
    at += 8ull * w->words * frames;
    w->places = (devrx_place *)at;
    at += sizeof(devrx_place) * rule->frame_packets * frames;
    w->spare = (devrx_u32 *)at;
    at += 4ull * frames;
    w->slots = (devrx_u32 *)at;
    for (devrx_u32 i = 0; i < frames; i++) {
        w->spare[i] = i;
        w->bodies[i].placed = 0;
    }
    for (devrx_u64 i = 0; i < (devrx_u64)w->words * frames; i++)
        w->present[i] = 0;
    for (devrx_u64 i = 0; i < rule->window; i++)
        w->slots[i] = DEVRX_NO_BODY;
    return 0;
}

DEVRX_FN devrx_u64 devrx_add(devrx_u64 a, devrx_u64 b)
{
    return a + b < a ? 0xffffffffffffffffull : a + b;
}

/* The ring's place of the open frame `slot`, counted from the oldest. */
DEVRX_FN devrx_u32 devrx_slot(const devrx_window *w, devrx_u32 slot)
{
    const devrx_u32 at = w->oldest + slot;
    return at < w->rule.window ? at : at - (devrx_u32)w->rule.window;
}

DEVRX_FN int devrx_full(const devrx_window *w, devrx_u32 body)
{
    return body != DEVRX_NO_BODY && w->bodies[body].placed == w->rule.frame_packets;
}

/* Notes frames that the window passed without a packet. */
DEVRX_FN void devrx_miss(devrx_window *w, devrx_u64 frames)
{
    const devrx_u64 places = w->rule.frame_packets;
    w->history = frames < 64 ? w->history << frames : 0;
    w->counters.frames_missed = devrx_add(w->counters.frames_missed, frames);
    w->counters.missing = devrx_add(w->counters.missing, frames > 0xffffffffffffffffull / places ? 0xffffffffffffffffull : frames * places);
}

/* Closes the oldest frame, or notes that there is nothing of it. */
DEVRX_FN void devrx_close_oldest(devrx_window *w, devrx_u32 end)
{
    const devrx_u32 at = w->oldest, body = w->slots[at];
    const devrx_u64 number = w->cursor.head;
    w->oldest = devrx_slot(w, 1);
    w->cursor.head = number + 1;
    w->slots[at] = DEVRX_NO_BODY;
    if (body == DEVRX_NO_BODY) {
        devrx_miss(w, 1);
        return;
    }
    const int complete = devrx_full(w, body);
    w->history = w->history << 1 | (devrx_u64)complete;
    if (complete) {
        w->counters.frames_complete += 1;
        end = DEVRX_END_COMPLETE;
    } else {
        w->counters.frames_incomplete += 1;
        w->counters.missing = devrx_add(w->counters.missing, w->rule.frame_packets - w->bodies[body].placed);
    }
    /* There are as many places as bodies. */
    devrx_closed *closed = &w->closed[(w->closed_first + w->closed_count) % w->frames];
    closed->number = number;
    closed->restarts = w->counters.restarts;
    closed->body = body;
    closed->end = end;
    w->closed_count += 1;
}

/* Closes the oldest frames that are complete. */
DEVRX_FN void devrx_close_complete(devrx_window *w)
{
    while (devrx_full(w, w->slots[w->oldest]))
        devrx_close_oldest(w, DEVRX_END_COMPLETE);
}

/* Moves the window by `frames`. */
DEVRX_FN void devrx_move(devrx_window *w, devrx_u64 frames, devrx_u32 end)
{
    if (frames == 0)
        return;
    const devrx_u64 open = frames < w->rule.window ? frames : w->rule.window;
    for (devrx_u64 i = 0; i < open; i++)
        devrx_close_oldest(w, end);
    w->cursor.head += frames - open;
    devrx_miss(w, frames - open);
    devrx_close_complete(w);
}

/* Closes all frames up to the last that has a packet. */
DEVRX_FN void devrx_close_all(devrx_window *w, devrx_u32 end)
{
    devrx_u32 open = (devrx_u32)w->rule.window;
    while (open > 0 && w->slots[devrx_slot(w, open - 1)] == DEVRX_NO_BODY)
        open -= 1;
    devrx_move(w, open, end);
}

/* Closes the frames whose time is over, and those before them. `now` is the caller's clock in nanoseconds. */
DEVRX_FN void devrx_expire(devrx_window *w, devrx_u64 now)
{
    if (w->deadline == DEVRX_NO_DEADLINE)
        return;
    devrx_u32 over = (devrx_u32)w->rule.window;
    for (; over > 0; over--) {
        const devrx_u32 body = w->slots[devrx_slot(w, over - 1)];
        if (body != DEVRX_NO_BODY) {
            const devrx_u64 opened = w->bodies[body].opened;
            if ((now > opened ? now - opened : 0) >= w->deadline)
                break;
        }
    }
    devrx_move(w, over, DEVRX_END_EXPIRED);
}

DEVRX_FN devrx_u32 devrx_settle(devrx_window *w, const devrx_reading *packet, devrx_u64 now)
{
    devrx_cursor cursor = w->cursor;
    const devrx_step step = devrx_rule_step(&w->rule, &cursor, packet->sequence);
    devrx_u64 slot = step.slot;
    if (step.what == DEVRX_STEP_LATE) {
        w->cursor = cursor;
        /* What comes for a frame that left complete can only be a duplicate. */
        return slot <= 64 && (w->history >> (slot - 1) & 1) != 0 ? DEVRX_DUPLICATE : DEVRX_LATE;
    }
    if (step.what == DEVRX_STEP_STRANGE || step.what == DEVRX_STEP_STRAY) {
        w->cursor = cursor;
        return DEVRX_OUT_OF_RANGE;
    }
    if (step.what == DEVRX_STEP_RESTART) {
        devrx_close_all(w, DEVRX_END_RESTARTED);
        w->history = 0;
        w->counters.restarts += 1;
        slot = 0;
    } else if (step.moved > 0) {
        devrx_move(w, step.moved, DEVRX_END_PUSHED);
        /* What was complete behind the frames that were pushed out has gone with them, and moved the window on. */
        slot -= w->cursor.head - cursor.head;
        cursor.head = w->cursor.head;
    }
    w->cursor = cursor;
    const devrx_u32 at = devrx_slot(w, (devrx_u32)slot);
    if (w->slots[at] == DEVRX_NO_BODY) {
        w->spares -= 1;
        w->slots[at] = w->spare[w->spares];
        w->bodies[w->slots[at]].opened = now;
    }
    const devrx_u32 body = w->slots[at];
    devrx_u64 *word = &w->present[(devrx_u64)body * w->words + step.index / 64];
    const devrx_u64 bit = 1ull << (step.index % 64);
    if ((*word & bit) != 0)
        return DEVRX_DUPLICATE;
    *word |= bit;
    w->places[body * w->rule.frame_packets + step.index] = packet->place;
    w->bodies[body].placed += 1;
    if (devrx_full(w, body))
        devrx_close_complete(w);
    return DEVRX_PLACED;
}

/*
 * Puts a packet to its place, and counts it. DEVRX_PLACED: the frame holds its chunk. DEVRX_NO_ROOM: nothing was done. Any other: the chunk is to be given back. By one thread, in the
 * order of arrival. `now` is the caller's clock in nanoseconds.
 */
DEVRX_FN devrx_u32 devrx_place_packet(devrx_window *w, const devrx_reading *packet, devrx_u64 now)
{
    if (w->spares == 0)
        return DEVRX_NO_ROOM;
    const devrx_u32 verdict = packet->verdict == DEVRX_PLACED ? devrx_settle(w, packet, now) : packet->verdict;
    devrx_counters *counters = &w->counters;
    counters->packets += 1;
    if (verdict == DEVRX_PLACED)
        counters->placed += 1;
    else if (verdict == DEVRX_LATE)
        counters->late += 1;
    else if (verdict == DEVRX_DUPLICATE)
        counters->duplicate += 1;
    else if (verdict == DEVRX_OUT_OF_RANGE)
        counters->out_of_range += 1;
    else if (verdict == DEVRX_OVERSIZE)
        counters->oversize += 1;
    else
        counters->unreadable += 1;
    return verdict;
}

/* The next closed frame, in order: 1, and *out is it. 0: none. */
DEVRX_FN int devrx_next_frame(devrx_window *w, devrx_closed *out)
{
    if (w->closed_count == 0)
        return 0;
    *out = w->closed[w->closed_first];
    w->closed_first = (w->closed_first + 1) % w->frames;
    w->closed_count -= 1;
    return 1;
}

/* Whether place `index` of a body is taken, and where its packet lies (NULL: it is missing). */
DEVRX_FN const devrx_place *devrx_place_at(const devrx_window *w, devrx_u32 body, devrx_u64 index)
{
    const int taken = (w->present[(devrx_u64)body * w->words + index / 64] >> (index % 64) & 1) != 0;
    return taken ? &w->places[body * w->rule.frame_packets + index] : 0;
}

/* Takes a closed frame's body back, when it was gathered and its chunks were given back. */
DEVRX_FN void devrx_reuse(devrx_window *w, devrx_u32 body)
{
    for (devrx_u32 i = 0; i < w->words; i++)
        w->present[(devrx_u64)body * w->words + i] = 0;
    w->bodies[body].placed = 0;
    w->spare[w->spares] = body;
    w->spares += 1;
}

/* --- gathering ------------------------------------------------------------------------------------------------------------------------------- */

/* Copies `length` bytes by `lanes` threads, of which this is `lane`: eight at a time where both sides allow it. */
DEVRX_FN void devrx_copy(devrx_u8 *out, const devrx_u8 *from, devrx_u32 length, devrx_u32 lane, devrx_u32 lanes)
{
    devrx_u32 done = 0;
    if ((((devrx_u64)out | (devrx_u64)from) & 7) == 0) {
        for (devrx_u32 word = lane; word < length / 8; word += lanes)
            ((devrx_u64 *)out)[word] = ((const devrx_u64 *)from)[word];
        done = length / 8 * 8;
    }
    for (devrx_u32 at = done + lane; at < length; at += lanes)
        out[at] = from[at];
}

/*
 * Gathers one place of a frame: its data, then `fill` to the place's end; all `fill` where the packet is missing. `headers` and `region` are where header slots and chunks lie
 * (devrx_queue.headers, .region). `lanes` threads do it together, this one is `lane`.
 */
DEVRX_FN void devrx_gather_place(const devrx_place *place, devrx_u8 *out, devrx_u32 place_bytes, devrx_u8 fill, const devrx_queue *q, devrx_u32 lane, devrx_u32 lanes)
{
    devrx_u32 done = 0;
    if (place) {
        /* The data may begin in the header slot, and end in the chunk. */
        const devrx_u32 end = place->start + place->length;
        if (place->start < place->header_length) {
            const devrx_u32 until = end < place->header_length ? end : place->header_length;
            const devrx_u8 *slot = q->headers + (devrx_u64)place->chunk * q->header_slot;
            done = until - place->start;
            devrx_copy(out, slot + place->start, done, lane, lanes);
        }
        const devrx_u8 *payload = q->region + (devrx_u64)place->chunk * q->chunk_size + place->offset;
        devrx_copy(out + done, payload + (place->start + done - place->header_length), place->length - done, lane, lanes);
        done = place->length;
    }
    for (devrx_u32 at = done + lane; at < place_bytes; at += lanes)
        out[at] = fill;
}

/* Gathers the frame with this body in `out`, place_bytes a place: `groups` groups of `lanes` threads do it together; this thread is `lane` of `group`. */
DEVRX_FN void devrx_gather(const devrx_window *w, devrx_u32 body, devrx_u8 *out, devrx_u32 place_bytes, devrx_u8 fill, const devrx_queue *q, devrx_u32 group,
                           devrx_u32 groups, devrx_u32 lane, devrx_u32 lanes)
{
    for (devrx_u64 index = group; index < w->rule.frame_packets; index += groups)
        devrx_gather_place(devrx_place_at(w, body, index), out + index * place_bytes, place_bytes, fill, q, lane, lanes);
}

/* --- gathering what the CPU has placed ---------------------------------------------------------------------------------------------------------- */

/* One copy of those that gather a frame: devrx_client::placement::Piece, and devrx_frame_pieces of devrx.h. */
#ifndef DEVRX_PIECE
#define DEVRX_PIECE
#define DEVRX_FROM_REGION 0u  /* devrx_piece.source: the region */
#define DEVRX_FROM_HEADERS 1u /* the daemon-written memory, where header slots are */
#define DEVRX_FILL 2u         /* nothing: the frame is filled there */
typedef struct devrx_piece {
    devrx_u64 from;   /* offset of its first byte in its source */
    devrx_u64 to;     /* its place in the frame in one piece */
    devrx_u32 length; /* how many bytes */
    devrx_u32 source; /* DEVRX_FROM_REGION, ... */
} devrx_piece;
#endif

/*
 * Gathers a frame in `out` by its pieces: `groups` groups of `lanes` threads do it together, this thread is `lane` of `group`. `region` and `daemon` are what this device has the region and
 * the daemon-written memory at; the latter may be NULL where no piece is from there.
 */
DEVRX_FN void devrx_gather_pieces(const devrx_piece *pieces, devrx_u64 count, devrx_u8 *out, devrx_u8 fill, const void *region, const void *daemon, devrx_u32 group,
                                  devrx_u32 groups, devrx_u32 lane, devrx_u32 lanes)
{
    for (devrx_u64 at = group; at < count; at += groups) {
        const devrx_piece piece = pieces[at];
        devrx_u8 *to = out + piece.to;
        if (piece.source == DEVRX_FILL) {
            for (devrx_u32 byte = lane; byte < piece.length; byte += lanes)
                to[byte] = fill;
        } else {
            const void *from = piece.source == DEVRX_FROM_HEADERS ? daemon : region;
            devrx_copy(to, (const devrx_u8 *)from + piece.from, piece.length, lane, lanes);
        }
    }
}

/* --- a loop ---------------------------------------------------------------------------------------------------------------------------------- */

/* How many bits are set. */
DEVRX_FN devrx_u32 devrx_bits(devrx_u64 word)
{
#if DEVRX_ON_DEVICE
    return (devrx_u32)__popcll(word);
#else
    return (devrx_u32)__builtin_popcountll(word);
#endif
}

/* Writes the returns of a frame's chunks, as the entries from `ahead` on; answers how many. `threads` threads do it together, this one is `thread`. */
DEVRX_FN devrx_u32 devrx_give_back_frame(const devrx_window *w, devrx_u32 body, const devrx_queue *q, devrx_u32 ahead, devrx_u32 thread, devrx_u32 threads)
{
    const devrx_u64 *present = &w->present[(devrx_u64)body * w->words];
    devrx_u32 before = 0;
    for (devrx_u32 word = 0; word < w->words; word++) {
        for (devrx_u32 bit = thread; bit < 64; bit += threads) {
            if ((present[word] >> bit & 1) != 0) {
                const devrx_place *place = &w->places[body * w->rule.frame_packets + 64ull * word + bit];
                const devrx_u32 rank = devrx_bits(present[word] & ((1ull << bit) - 1));
                devrx_give_back(q, ahead + before + rank, place->chunk, place->generation);
            }
        }
        before += devrx_bits(present[word]);
    }
    return before;
}

/* What the threads of a block share while they serve a stream: a __shared__ variable on a GPU. */
typedef struct devrx_placing {
    devrx_queue queue;
    devrx_closed closed;
    devrx_u32 count; /* completions of this round */
    devrx_u32 next;  /* of them, the first that is not placed yet */
    devrx_u32 returns;
    devrx_u32 have; /* there is a closed frame */
    devrx_u32 over;
    devrx_u32 reserved;
    devrx_reading readings[DEVRX_BATCH];
} devrx_placing;

#ifdef __cplusplus
/*
 * Serves a stream until the attachment ends, until the word at `stop` (NULL: none) is not 0, or until `limit` packets (0: no limit) were looked at; then all open frames are closed. All threads
 * of a block call it, a multiple of 32 of them, after one of them has opened p->queue and *w, and a barrier. Packets are read by all threads, placed by one; a frame that is
 * closed is gathered at `out` by all, and
 *
 *     work(closed, missing, out, thread, threads)
 *
 * is called by each of them; when all are through, its chunks go back. The clock is that of the packets' timestamps: a frame's time is over when a packet comes that is so much later.
 */
template <class Work>
DEVRX_FN void devrx_serve_frames(devrx_placing *p, devrx_window *w, const devrx_stream *stream, devrx_u8 *out, devrx_u8 fill, Work &work, const void *stop, devrx_u64 limit)
{
    const devrx_u32 lane = DEVRX_THREAD % DEVRX_LANES, group = DEVRX_THREAD / DEVRX_LANES, groups = DEVRX_THREADS / DEVRX_LANES;
    devrx_u64 taken = 0;
    for (;;) {
        if (DEVRX_THREAD == 0) {
            const int ended = devrx_ended(&p->queue);
            devrx_u32 count = devrx_available(&p->queue);
            if (count > DEVRX_BATCH)
                count = DEVRX_BATCH;
            if (limit && count > limit - taken)
                count = (devrx_u32)(limit - taken);
            if (count == 0)
                DEVRX_PAUSE();
            p->over = (ended && count == 0) || (limit && taken == limit) || (stop && devrx_load32(stop) != 0) || p->queue.fault;
            p->count = p->over ? 0 : count;
            p->next = p->returns = 0;
        }
        DEVRX_SYNC();
        for (devrx_u32 at = DEVRX_THREAD; at < p->count; at += DEVRX_THREADS) {
            const devrx_completion entry = devrx_peek(&p->queue, at);
            p->readings[at] = devrx_read_packet(stream, &entry, devrx_header(&p->queue, &entry), devrx_payload(&p->queue, &entry));
        }
        DEVRX_SYNC();
        for (;;) {
            if (DEVRX_THREAD == 0) {
                while (p->next < p->count) {
                    const devrx_reading *reading = &p->readings[p->next];
                    const devrx_u32 verdict = devrx_place_packet(w, reading, reading->timestamp);
                    if (verdict == DEVRX_NO_ROOM)
                        break;
                    if (verdict != DEVRX_PLACED)
                        devrx_give_back(&p->queue, p->returns++, reading->place.chunk, reading->place.generation);
                    devrx_expire(w, reading->timestamp);
                    p->next += 1;
                }
                if (p->over)
                    devrx_close_all(w, DEVRX_END_FLUSHED);
                p->have = (devrx_u32)devrx_next_frame(w, &p->closed);
            }
            DEVRX_SYNC();
            if (!p->have)
                break;
            const devrx_u32 body = p->closed.body;
            devrx_gather(w, body, out, stream->place_bytes, fill, &p->queue, group, groups, lane, DEVRX_LANES);
            DEVRX_SYNC();
            work(p->closed, (devrx_u32)(w->rule.frame_packets - w->bodies[body].placed), out, DEVRX_THREAD, DEVRX_THREADS);
            devrx_give_back_frame(w, body, &p->queue, p->returns, DEVRX_THREAD, DEVRX_THREADS);
            DEVRX_SYNC();
            if (DEVRX_THREAD == 0) {
                p->returns += w->bodies[body].placed;
                devrx_reuse(w, body);
            }
        }
        if (DEVRX_THREAD == 0) {
            if (p->count > 0)
                devrx_advance(&p->queue, p->count);
            if (p->returns > 0)
                devrx_publish(&p->queue, p->returns);
        }
        taken += p->count;
        const devrx_u32 over = p->over;
        DEVRX_SYNC();
        if (over)
            break;
    }
}
#endif

#endif
