//! Holds `devrx.cuh` to the layout of `devrx-proto`, by a C++ compiler on the CPU; and compiles the kernels for a GPU, where NVRTC is.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use devrx_client::CompletionFlags;
use devrx_client::proto::completion::Completion;
use devrx_client::proto::layout::{self, Layout, LayoutParams};
use devrx_client::proto::refill::RefillEntry;
use devrx_client::proto::ring::Entry;

mod support;

/// A C++ compiler, strict, that finds the header.
fn cxx() -> Command {
    let mut cxx = Command::new("c++");
    let include = format!("-I{}", support::here().join("include").display());
    cxx.args([
        "-std=c++11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-function",
        "-Werror",
        &include,
    ]);
    cxx
}

/// Builds a program and runs it: it must agree.
fn run(source: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, program) = (folder.path().join("held.cpp"), folder.path().join("held"));
    std::fs::write(&file, source).expect("written");
    support::check(cxx().arg(&file).arg("-o").arg(&program));
    support::check(&mut Command::new(&program));
}

#[test]
fn the_header_is_valid_cpp() {
    let header = support::here().join("include/devrx.cuh");
    support::check(
        cxx()
            .args(["-Wpedantic", "-fsyntax-only", "-x", "c++"])
            .arg(header),
    );
    for file in [
        "include/devrx_placement.cuh",
        "examples/persistent.cu",
        "examples/placement.cu",
        "examples/stream.cu",
        "examples/bandwidth.cu",
    ] {
        let file = support::here().join(file);
        for mode in ["-DDEVRX_ON_A_CPU", "-DDEVRX_DRIVER_API"] {
            support::check(cxx().args([mode, "-fsyntax-only", "-x", "c++"]).arg(&file));
        }
    }
}

#[test]
fn constants_and_entries_are_those_of_the_rings() {
    let mut text = String::from("#include <devrx.h>\n#include <devrx.cuh>\n#include <stddef.h>\n");
    let flags = [
        ("DEVRX_SPLIT", CompletionFlags::SPLIT),
        ("DEVRX_MORE", CompletionFlags::MORE),
        ("DEVRX_CSUM_GOOD", CompletionFlags::CSUM_GOOD),
        ("DEVRX_CSUM_BAD", CompletionFlags::CSUM_BAD),
        ("DEVRX_ERROR", CompletionFlags::ERROR),
        ("DEVRX_VLAN", CompletionFlags::VLAN),
        ("DEVRX_HASH", CompletionFlags::HASH),
        ("DEVRX_TIMESTAMP_SW", CompletionFlags::TIMESTAMP_SW),
        ("DEVRX_TIMESTAMP_HW", CompletionFlags::TIMESTAMP_HW),
    ];
    let named = flags
        .iter()
        .fold(CompletionFlags::empty(), |all, (_, flag)| all | *flag);
    assert_eq!(named, CompletionFlags::all(), "every flag is in the header");
    let constants = [
        ("DEVRX_LAYOUT_MAGIC", u64::from(layout::MAGIC)),
        ("DEVRX_LAYOUT_VERSION", layout::VERSION.into()),
        ("DEVRX_LINE", layout::LINE),
        ("DEVRX_PAGE", layout::PAGE),
        ("DEVRX_STATE", layout::STATE),
        ("DEVRX_COUNTER_BYTES", layout::COUNTERS * 8),
        ("DEVRX_MIN_ENTRIES", layout::MIN_COMPLETIONS.into()),
        ("DEVRX_COMPLETION_BYTES", Completion::SIZE as u64),
        ("DEVRX_REFILL_BYTES", RefillEntry::SIZE as u64),
        ("sizeof(devrx_completion)", Completion::SIZE as u64),
    ];
    let flags = flags.iter().map(|(name, flag)| (*name, flag.bits().into()));
    for (name, value) in constants.into_iter().chain(flags) {
        writeln!(text, "static_assert({name} == {value}u, \"{name}\");").expect("a string");
    }
    // An entry, as the daemon writes it, is read field by field; and a return is written as the daemon reads it.
    let entry = Completion {
        chunk: 0x0403_0201,
        generation: 0x0605,
        flow: 0x0807,
        offset: 0x0a09,
        length: 0x0c0b,
        header_length: 0x0e0d,
        vlan: 0x100f,
        rss_hash: 0x1413_1211,
        flags: 0x1817_1615,
        timestamp: 0x201f_1e1d_1c1b_1a19,
    };
    let words = entry.to_words().map(|word| format!("{word}ull")).join(", ");
    let [back] = RefillEntry::new(entry.chunk, entry.generation).to_words();
    write!(
        text,
        "int main() {{
            devrx_u64 ring[64] = {{}}, refills[16] = {{}};
            const devrx_u64 words[4] = {{{words}}};
            devrx_queue q = {{}};
            q.completions = (const devrx_u8 *)ring;
            q.refills = (devrx_u8 *)refills;
            q.completion_mask = q.refill_mask = 15;
            q.head = q.refill = 14;
            for (int i = 0; i < 4; i++)
                ring[4 * (17 & 15) + i] = words[i];
            const devrx_completion e = devrx_peek(&q, 3);
            devrx_give_back(&q, 5, e.chunk, e.generation);
            return !(e.chunk == {}u && e.generation == {} && e.flow == {} && e.offset == {} && e.length == {} && e.header_length == {}
                && e.vlan == {} && e.rss_hash == {}u && e.flags == {}u && e.timestamp == {}ull && refills[3] == {back}ull);
        }}\n",
        entry.chunk, entry.generation, entry.flow, entry.offset, entry.length, entry.header_length, entry.vlan, entry.rss_hash, entry.flags,
        entry.timestamp
    )
    .expect("a string");
    run(&text);
}

#[test]
fn everything_lies_where_the_daemon_puts_it() {
    let mut rows = String::new();
    // Powers of two and their neighbours, the smallest and the largest.
    for (queues, completions, chunks, header_slot) in [
        (1, 16, 1, 64),
        (1, 16, 16, 64),
        (1, 64, 17, 256),
        (3, 128, 100, 192),
        (2, 4096, 4095, 256),
        (8, 4096, 4096, 256),
        (8, 4096, 4097, 1024),
        (64, 16384, 65537, 4096),
        (1, 1 << 20, 1 << 24, 64),
    ] {
        let params = LayoutParams {
            queues,
            completions,
            chunks,
            header_slot,
        };
        let layout = Layout::new(&params).expect("it can be");
        for queue in [0, queues / 2, queues - 1, queues] {
            let words = layout
                .header_words()
                .map(|word| format!("{word}u"))
                .join(", ");
            let place = layout.queue(queue).map(|place| {
                [
                    place.completion_producer,
                    place.completions,
                    place.completion_consumer,
                    place.refill_producer,
                    place.refills,
                    layout.headers(),
                    layout.headers() + u64::from(chunks - 1) * u64::from(header_slot),
                ]
            });
            let offsets = place
                .unwrap_or_default()
                .map(|offset| format!("{offset}ull"))
                .join(", ");
            let there = u8::from(place.is_some());
            writeln!(
                rows,
                "{{{{{words}}}, {queue}, {there}, {chunks}u, {}ull, {{{offsets}}}}},",
                layout.client_size()
            )
            .expect("a string");
        }
    }
    run(&format!(
        "#include <devrx.cuh>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        struct row {{ devrx_u32 words[7], queue, there, chunks; devrx_u64 client_size, offsets[7]; }};
        static const row rows[] = {{{rows}}};
        int main() {{
            for (const row &row : rows) {{
                devrx_u8 *daemon = (devrx_u8 *)calloc(1, 4096), *client = (devrx_u8 *)calloc(1, row.client_size);
                memcpy(daemon, row.words, sizeof row.words);
                if (row.there) {{
                    devrx_store32(client + row.offsets[2], 77);
                    devrx_store32(client + row.offsets[3], 99);
                }}
                devrx_queue q;
                if (devrx_queue_open(&q, daemon, client, 0, 4096, row.queue) != !row.there)
                    return 1;
                devrx_completion last = {{}};
                last.chunk = row.chunks - 1;
                if (row.there) {{
                    const devrx_u64 found[7] = {{(devrx_u64)(q.completion_producer - daemon), (devrx_u64)(q.completions - daemon),
                        (devrx_u64)(q.completion_consumer - client), (devrx_u64)(q.refill_producer - client), (devrx_u64)(q.refills - client),
                        (devrx_u64)(q.headers - daemon), (devrx_u64)(devrx_header(&q, &last) - daemon)}};
                    if (memcmp(found, row.offsets, sizeof found) || q.completion_mask + 1 != row.words[3] || q.refill_mask + 1 != row.words[6]
                        || q.head != 77 || q.tail != 77 || q.refill != 99) {{
                        printf(\"row %d\\n\", (int)(&row - rows));
                        return 2;
                    }}
                }}
                daemon[4] += 1;
                if (devrx_queue_open(&q, daemon, client, 0, 4096, row.queue) == 0)
                    return 3;
                free(daemon);
                free(client);
            }}
            return 0;
        }}\n"
    ));
}

/// What the daemon writes is not believed where it cannot be: an index out of range is a fault, and nothing is read.
#[test]
fn an_impossible_index_is_a_fault() {
    run("#include <devrx.cuh>
        int main() {
            devrx_u32 producer = 5;
            devrx_queue q = {};
            q.completion_producer = (const devrx_u8 *)&producer;
            q.completion_mask = 15;
            if (devrx_available(&q) != 5 || q.fault)
                return 1;
            producer = 16;
            if (devrx_available(&q) != 16 || q.fault)
                return 2;
            producer = 17;
            if (devrx_available(&q) != 16 || !q.fault)
                return 3;
            q.fault = 0;
            producer = 4; /* backwards */
            return devrx_available(&q) == 16 && q.fault ? 0 : 4;
        }\n");
}

/// NVRTC: what `DEVRX_NVRTC` names, or what the loader finds.
fn nvrtc() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("DEVRX_NVRTC") {
        return Some(path.into());
    }
    let names = ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"];
    let cache = Command::new("/sbin/ldconfig")
        .arg("-p")
        .output()
        .ok()?
        .stdout;
    let cache = String::from_utf8_lossy(&cache).into_owned();
    names
        .into_iter()
        .find(|name| cache.contains(&format!("{name} ")))
        .map(PathBuf::from)
}

/// The real compiler, which needs no GPU. `membar.sys` is how PTX spells the fence; `ld.global.nc` would read what an earlier packet left in a cache.
#[test]
fn the_kernels_compile_for_a_gpu() {
    let Some(library) = nvrtc() else {
        println!(
            "skipped: there is no NVRTC; name its libnvrtc.so in DEVRX_NVRTC (`pip install nvidia-cuda-nvrtc-cu12` has one)"
        );
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let tool = folder.path().join("nvrtc");
    let source = support::here().join("tests/nvrtc.c");
    support::check(support::cc().arg(source).arg("-o").arg(&tool).arg("-ldl"));
    let include = format!("-I{}", support::here().join("include").display());
    let examples = format!("-I{}", support::here().join("examples").display());
    for (kernel, entry) in [
        ("examples/persistent.cu", "persistent"),
        ("examples/placement.cu", "placement"),
        ("examples/stream.cu", "add_up"),
        ("examples/gather.cu", "gather"),
        ("examples/bandwidth.cu", "add_words"),
    ] {
        for architecture in ["compute_75", "compute_90"] {
            let mut command = Command::new(&tool);
            command.arg(&library).arg(support::here().join(kernel));
            command.args([
                &format!("--gpu-architecture={architecture}"),
                "--std=c++11",
                &include,
                &examples,
            ]);
            let ptx = String::from_utf8(support::check(&mut command).stdout).expect("text");
            assert!(ptx.contains(&format!(".entry {entry}(")), "{kernel}: {ptx}");
            if matches!(entry, "add_up" | "gather" | "add_words") {
                // They read what was there before they began.
                continue;
            }
            assert!(
                ptx.matches("membar.sys").count() >= 4,
                "{kernel}: the fences are gone"
            );
            assert!(
                ptx.contains("ld.volatile.u64") && ptx.contains("st.volatile.u64"),
                "{kernel}: {ptx}"
            );
            assert!(
                !ptx.contains("ld.global.nc"),
                "{kernel} reads through a cache that is not coherent"
            );
        }
    }
}
