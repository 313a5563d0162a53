/* Counts the instructions that a guest executes, by marker: a plugin for QEMU's translator (plugin API version 4, QEMU 10.0; or 7, QEMU 11).
 *
 * A marker is an eight-byte no-operation, 0f 1f 84 00 ID 00 54 51, that does nothing where this plugin is not loaded. Each time the guest
 * executes one, a line goes to the file named by `out=`:
 *
 *     mark ID VCPU TOTAL DELTA
 *
 * all decimal: instructions since the start, and since the last marker, on that virtual CPU. Kernel instructions count too. A marker is one
 * instruction itself.
 *
 * With `profile=ID`, the instructions of programs (not the kernel's) between two markers of that id are counted by address, those of all such
 * stretches that took at most `limit=` instructions are added up, and the sums written at the end:
 *
 *     stretches COUNT
 *     at ADDRESS-IN-HEXADECIMAL COUNT
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* QEMU 11 asks for version 7 of the interface: callbacks get what they were registered with instead of the plugin's number. The rest of what is used here is
 * as in the header of QEMU 10, so that one does for both. */
#ifdef API
#define qemu_plugin_register_vcpu_tb_trans_cb otherwise_in_version_4
#define qemu_plugin_register_atexit_cb otherwise_in_version_4_too
#include <qemu-plugin.h>
#undef qemu_plugin_register_vcpu_tb_trans_cb
#undef qemu_plugin_register_atexit_cb
QEMU_PLUGIN_API void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(struct qemu_plugin_tb *, void *), void *);
QEMU_PLUGIN_API void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, void (*)(void *), void *);
#else
#include <qemu-plugin.h>
#define API QEMU_PLUGIN_VERSION
#endif

QEMU_PLUGIN_EXPORT int qemu_plugin_version = API;

enum { VCPUS = 8, MARKER = 8, BUCKETS = 1 << 16 };

/* An instruction of a program. `pending` counts since the last marker that delimits stretches. */
struct place {
    uint64_t address, pending, sum;
    struct place *next, *touched;
};

static FILE *out;
static qemu_plugin_u64 count;
static uint64_t last[VCPUS];
static int profiled = -1;
static uint64_t limit = 200000, since, stretches;
static struct place *buckets[BUCKETS], *touched;

static void delimit(uint64_t total)
{
    int whole = since != 0 && total - since <= limit;

    for (struct place *place = touched; place; place = place->touched) {
        if (whole)
            place->sum += place->pending;
        place->pending = 0;
    }
    touched = NULL;
    stretches += (uint64_t)whole;
    since = total;
}

static void on_marker(unsigned int vcpu, void *data)
{
    int id = (int)(uintptr_t)data;
    uint64_t total = qemu_plugin_u64_get(count, vcpu);
    uint64_t *before = &last[vcpu % VCPUS];

    fprintf(out, "mark %d %u %" PRIu64 " %" PRIu64 "\n", id, vcpu, total, total - *before);
    *before = total;
    if (id == profiled)
        delimit(total);
}

static void on_place(unsigned int vcpu, void *data)
{
    struct place *place = data;

    (void)vcpu;
    if (place->pending++ == 0) {
        place->touched = touched;
        touched = place;
    }
}

/* The same address is the same place, also when it is translated again. */
static struct place *place_of(uint64_t address)
{
    struct place **bucket = &buckets[(address ^ address >> 16) % BUCKETS];
    struct place *place;

    for (place = *bucket; place; place = place->next)
        if (place->address == address)
            return place;
    place = calloc(1, sizeof(*place));
    if (!place)
        abort();
    place->address = address;
    place->next = *bucket;
    return *bucket = place;
}

static void translate(struct qemu_plugin_tb *block)
{
    static const unsigned char marker[MARKER] = {0x0f, 0x1f, 0x84, 0x00, 0, 0x00, 0x54, 0x51};
    size_t instructions = qemu_plugin_tb_n_insns(block);

    for (size_t i = 0; i < instructions; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(block, i);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        unsigned char bytes[MARKER];
        uintptr_t id;

        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, QEMU_PLUGIN_INLINE_ADD_U64, count, 1);
        if (profiled >= 0 && address >> 63 == 0)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_place, QEMU_PLUGIN_CB_NO_REGS, place_of(address));
        if (qemu_plugin_insn_size(insn) != MARKER || qemu_plugin_insn_data(insn, bytes, MARKER) != MARKER)
            continue;
        id = bytes[4];
        bytes[4] = 0;
        if (memcmp(bytes, marker, MARKER) == 0)
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_marker, QEMU_PLUGIN_CB_NO_REGS, (void *)id);
    }
}

static void finish(void)
{
    if (profiled >= 0) {
        fprintf(out, "stretches %" PRIu64 "\n", stretches);
        for (size_t i = 0; i < BUCKETS; i++)
            for (struct place *place = buckets[i]; place; place = place->next)
                if (place->sum)
                    fprintf(out, "at %" PRIx64 " %" PRIu64 "\n", place->address, place->sum);
    }
    fclose(out);
}

#if API >= 7
static void on_translation(struct qemu_plugin_tb *block, void *data)
{
    (void)data;
    translate(block);
}

static void at_exit(void *data)
{
    (void)data;
    finish();
}

static void listen(qemu_plugin_id_t plugin)
{
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, on_translation, NULL);
    qemu_plugin_register_atexit_cb(plugin, at_exit, NULL);
}
#else
static void on_translation(qemu_plugin_id_t plugin, struct qemu_plugin_tb *block)
{
    (void)plugin;
    translate(block);
}

static void at_exit(qemu_plugin_id_t plugin, void *data)
{
    (void)plugin;
    (void)data;
    finish();
}

static void listen(qemu_plugin_id_t plugin)
{
    qemu_plugin_register_vcpu_tb_trans_cb(plugin, on_translation);
    qemu_plugin_register_atexit_cb(plugin, at_exit, NULL);
}
#endif

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t plugin, const qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (strncmp(argv[i], "out=", 4) == 0)
            out = fopen(argv[i] + 4, "w");
        else if (strncmp(argv[i], "profile=", 8) == 0)
            profiled = atoi(argv[i] + 8);
        else if (strncmp(argv[i], "limit=", 6) == 0)
            limit = strtoull(argv[i] + 6, NULL, 10);
        else {
            fprintf(stderr, "mark: unknown argument %s\n", argv[i]);
            return -1;
        }
    }
    if (!out) {
        fprintf(stderr, "mark: no file to write to: out=FILE is missing, or the file cannot be made\n");
        return -1;
    }
    count = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
    listen(plugin);
    return 0;
}
