/*
 * Runs devrx_placement.cuh on the CPU, on streams and frames that the Rust tests write to standard input as u64s, and says what it did as u64s on standard output.
 *
 *   1, rule (8), deadline, bodies, count, then (number, name, now) each: places them. For each: 1, verdict, and what closed.
 *      A closed frame: 2, its number, restarts, end, then for each place the name + 1, or 0. At the end what is open is closed, and 3, the counters.
 *   2, bytes, then the bytes of a frame, eight in a word: finds UDP. 4, found, end, length.
 */
#include <devrx_placement.cuh>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool get(void *to, size_t words)
{
    return fread(to, 8, words, stdin) == words;
}

static void put(devrx_u64 word)
{
    fwrite(&word, 8, 1, stdout);
}

/* Names of packets are in chunk and start, so that gathering a frame must find them. */
static void drain(devrx_window *w)
{
    devrx_closed closed;
    while (devrx_next_frame(w, &closed)) {
        put(2);
        put(closed.number);
        put(closed.restarts);
        put(closed.end);
        devrx_u64 placed = 0;
        for (devrx_u64 i = 0; i < w->rule.frame_packets; i++) {
            const devrx_place *place = devrx_place_at(w, closed.body, i);
            put(place ? (devrx_u64)place->chunk + 1 : 0);
            placed += place != NULL;
        }
        if (placed != w->bodies[closed.body].placed)
            exit(3);
        devrx_reuse(w, closed.body);
    }
}

static int stream()
{
    devrx_u64 head[11];
    if (!get(head, 11))
        return 1;
    devrx_rule rule;
    memcpy(&rule, head, sizeof rule);
    const devrx_u32 bodies = (devrx_u32)head[9];
    void *memory = malloc(devrx_window_bytes(&rule, bodies));
    devrx_window w;
    if (devrx_window_open(&w, &rule, head[8], bodies, memory) != 0)
        return 1;
    for (devrx_u64 i = 0; i < head[10]; i++) {
        devrx_u64 packet[3];
        if (!get(packet, 3))
            return 1;
        devrx_reading reading = {};
        reading.sequence = packet[0];
        reading.place.chunk = (devrx_u32)packet[1];
        put(1);
        put(devrx_place_packet(&w, &reading, packet[2]));
        devrx_expire(&w, packet[2]);
        drain(&w);
    }
    devrx_close_all(&w, DEVRX_END_FLUSHED);
    drain(&w);
    if (w.spares != w.frames)
        return 4;
    put(3);
    fwrite(&w.counters, sizeof w.counters, 1, stdout);
    free(memory);
    return 0;
}

static int frame()
{
    devrx_u64 length;
    static devrx_u64 words[512];
    if (!get(&length, 1) || length > sizeof words || !get(words, (length + 7) / 8))
        return 1;
    /* Of the right size, so that a byte too far is seen. */
    devrx_u8 *bytes = (devrx_u8 *)malloc(length ? length : 1);
    memcpy(bytes, words, length);
    const devrx_pieces pieces = {bytes, NULL, (devrx_u32)length, 0};
    devrx_u32 end = 0, data = 0;
    const int found = devrx_find_udp(&pieces, &end, &data);
    put(4);
    put((devrx_u64)found);
    put(found ? end : 0);
    put(found ? data : 0);
    free(bytes);
    return 0;
}

int main()
{
    devrx_u64 what;
    while (get(&what, 1)) {
        const int failed = what == 1 ? stream() : frame();
        if (failed)
            return failed;
    }
    return 0;
}
