//! Holds `devrx.h` and the library together: every function, struct and constant is written here once, and compared by the Rust compiler
//! with the library, and by a C compiler with the header.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_int, c_void};
use std::fmt::Write as _;
use std::mem::offset_of;
use std::process::Command;

use devrx::{
    AttachmentHandle, BatchHandle, Error, FrameHandle, FrameInfo, FrameStats, FramesHandle, Packet,
    Piece, Placement, Segment, SharedMemory, Stats,
};

mod support;

/// A type's name in C.
trait C {
    fn name() -> String;
}

macro_rules! c_types {
    ($($rust:ty => $c:literal),* $(,)?) => {
        $(impl C for $rust {
            fn name() -> String {
                $c.into()
            }
        })*
    };
}

c_types! {
    () => "void", c_int => "int", u32 => "uint32_t", u64 => "uint64_t", i64 => "int64_t", usize => "size_t", u8 => "uint8_t",
    c_char => "char", c_void => "void", AttachmentHandle => "devrx_attachment", BatchHandle => "devrx_batch",
    Error => "devrx_error", Packet => "devrx_packet", Segment => "devrx_segment", Stats => "devrx_stats", SharedMemory => "devrx_shared",
    FramesHandle => "devrx_frames", FrameHandle => "devrx_frame", Placement => "devrx_placement",
    FrameInfo => "devrx_frame_info", FrameStats => "devrx_frame_stats", Piece => "devrx_piece",
}

impl<T: C> C for *mut T {
    fn name() -> String {
        format!("{} *", T::name())
    }
}

impl<T: C> C for *const T {
    fn name() -> String {
        format!("{} const *", T::name())
    }
}

/// Declares functions as C does. The coercion is the Rust compiler's comparison; the text is for the C compiler's.
macro_rules! functions {
    ($text:ident, $names:ident; $(fn $name:ident($($argument:ty),*) -> $result:ty;)*) => {
        $(
            let _: unsafe extern "C" fn($($argument),*) -> $result = devrx::$name;
            let arguments: Vec<String> = vec![$(<$argument>::name()),*];
            let arguments = if arguments.is_empty() { "void".into() } else { arguments.join(", ") };
            writeln!($text, "{} {}({arguments});", <$result>::name(), stringify!($name)).expect("a string");
            $names.insert(stringify!($name).to_owned());
        )*
    };
}

macro_rules! layouts {
    ($text:ident; $($rust:ident $c:literal { $($field:ident),* })*) => {
        $(
            writeln!($text, "_Static_assert(sizeof({0}) == {1} && _Alignof({0}) == {2}, \"{0}\");", $c, size_of::<$rust>(), align_of::<$rust>())
                .expect("a string");
            let whole = [$(field_size(|value: &$rust| &value.$field)),*].iter().sum::<usize>();
            assert_eq!(whole, size_of::<$rust>(), "{} has all of its fields here, and no padding", $c);
            $(
                let size = field_size(|value: &$rust| &value.$field);
                writeln!($text, "_Static_assert(offsetof({0}, {1}) == {2} && sizeof((({0} *)0)->{1}) == {size}, \"{0}.{1}\");", $c,
                    stringify!($field), offset_of!($rust, $field)).expect("a string");
            )*
        )*
    };
}

fn field_size<T, F>(_: impl Fn(&T) -> &F) -> usize {
    size_of::<F>()
}

macro_rules! constants {
    ($text:ident; $($name:ident)*) => {
        $(writeln!($text, "_Static_assert({0} == {1}, \"{0}\");", stringify!($name), devrx::$name).expect("a string");)*
    };
}

/// What the library has, for a C compiler; and the names of its functions.
fn declarations() -> (String, BTreeSet<String>) {
    let mut text = String::from("#include <devrx.h>\n");
    let mut names = BTreeSet::new();
    functions! { text, names;
        fn devrx_abi_version() -> u32;
        fn devrx_version() -> *const c_char;
        fn devrx_open(u32, *const c_char, *const c_char, *mut *mut AttachmentHandle, *mut Error) -> c_int;
        fn devrx_close(*mut AttachmentHandle) -> ();
        fn devrx_recv(*mut AttachmentHandle, i64, *mut *mut BatchHandle, *mut Error) -> i64;
        fn devrx_batch_packet(*const BatchHandle, usize, *mut Packet, *mut Error) -> c_int;
        fn devrx_batch_segment(*const BatchHandle, usize, usize, *mut Segment, *mut Error) -> c_int;
        fn devrx_batch_header(*const BatchHandle, usize, *mut u8, usize, *mut Error) -> i64;
        fn devrx_batch_payload(*const BatchHandle, usize, *mut u8, usize, *mut Error) -> i64;
        fn devrx_batch_give_back_packet(*mut AttachmentHandle, *mut BatchHandle, usize, *mut Error) -> i64;
        fn devrx_batch_give_back(*mut AttachmentHandle, *mut BatchHandle, *mut Error) -> i64;
        fn devrx_region(*mut AttachmentHandle, *mut u64) -> *const c_void;
        fn devrx_region_fd(*mut AttachmentHandle) -> c_int;
        fn devrx_export_fd(*mut AttachmentHandle) -> c_int;
        fn devrx_wake_fd(*mut AttachmentHandle) -> c_int;
        fn devrx_arm(*mut AttachmentHandle) -> c_int;
        fn devrx_disarm(*mut AttachmentHandle) -> ();
        fn devrx_shared_memory(*mut AttachmentHandle, *mut SharedMemory, *mut Error) -> c_int;
        fn devrx_read_stats(*mut AttachmentHandle, *mut Stats, *mut Error) -> c_int;
        fn devrx_placement_init(*mut Placement, u32, u32) -> ();
        fn devrx_frames_open(u32, *const c_char, *const c_char, *const Placement, *mut *mut FramesHandle, *mut Error) -> c_int;
        fn devrx_frames_close(*mut FramesHandle) -> ();
        fn devrx_frames_recv(*mut FramesHandle, i64, *mut *mut FrameHandle, *mut Error) -> c_int;
        fn devrx_frames_flush(*mut FramesHandle) -> ();
        fn devrx_frames_read_stats(*mut FramesHandle, *mut FrameStats, *mut Error) -> c_int;
        fn devrx_frame_read(*const FrameHandle, *mut FrameInfo, *mut Error) -> c_int;
        fn devrx_frame_has(*const FrameHandle, usize) -> c_int;
        fn devrx_frame_segment(*const FrameHandle, usize, usize, *mut Segment, *mut Error) -> c_int;
        fn devrx_frame_copy(*const FrameHandle, *mut u8, usize, u8, *mut Error) -> i64;
        fn devrx_frame_pieces(*const FrameHandle, *mut Piece, usize, *mut Error) -> i64;
        fn devrx_frame_in_place(*const FrameHandle, *mut u64, *mut Error) -> c_int;
        fn devrx_frame_drop(*mut FrameHandle) -> ();
    }
    layouts! { text;
        Error "devrx_error" { code, message }
        Packet "devrx_packet" {
            timestamp, payload_offset, payload_length, segments, flags, rss_hash, header_length, vlan, flow, queue
        }
        Segment "devrx_segment" { offset, length, chunk, generation, reserved }
        Placement "devrx_placement" {
            stride, first, deadline_us, frame_packets, place_bytes, window, data_offset, offset, width, little_endian, reserved
        }
        FrameInfo "devrx_frame_info" { number, restarts, size, places, missing, end, reserved }
        FrameStats "devrx_frame_stats" {
            packets, placed, late, duplicate, out_of_range, oversize, unreadable, restarts, frames_complete, frames_incomplete,
            frames_missed, missing
        }
        Piece "devrx_piece" { from, to, length, source }
        SharedMemory "devrx_shared" {
            daemon_memory, daemon_size, client_memory, client_size, queues, chunk_size, chunks, polls_refill
        }
        Stats "devrx_stats" {
            packets, bytes, delivered, completions, returned, dropped, refused, payload_bytes_copied, held
        }
    }
    constants! { text;
        DEVRX_ABI_VERSION DEVRX_MESSAGE_SIZE DEVRX_SPLIT DEVRX_CSUM_GOOD DEVRX_CSUM_BAD DEVRX_ERROR DEVRX_VLAN DEVRX_HASH
        DEVRX_TIMESTAMP_SW DEVRX_TIMESTAMP_HW DEVRX_FRAME_COMPLETE DEVRX_FRAME_EXPIRED DEVRX_FRAME_PUSHED DEVRX_FRAME_RESTARTED
        DEVRX_FRAME_FLUSHED DEVRX_FROM_REGION DEVRX_FROM_HEADERS DEVRX_FILL
    }
    (text, names)
}

#[test]
fn the_header_says_what_the_library_is() {
    let (text, _) = declarations();
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("declarations.c");
    std::fs::write(&source, &text).expect("written");
    let include = format!("-I{}", support::here().join("include").display());
    support::check(
        support::cc()
            .args(["-std=c11", "-fsyntax-only", &include])
            .arg(&source),
    );
    // And what it says of one more function is seen to be wrong.
    let wrong = text.replace(
        "int devrx_arm(devrx_attachment *)",
        "int devrx_arm(devrx_batch *)",
    );
    assert_ne!(wrong, text);
    std::fs::write(&source, wrong).expect("written");
    let mut cc = support::cc();
    cc.args(["-std=c11", "-fsyntax-only", &include])
        .arg(&source);
    assert!(!cc.output().expect("cc runs").status.success());
}

#[test]
fn the_header_is_valid_cpp() {
    let header = support::here().join("include/devrx.h");
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++"]);
    support::check(cc.arg(header));
}

#[test]
fn the_library_exports_these_functions_and_no_others() {
    let (_, names) = declarations();
    let library = support::build_folder().join("libdevrx.so");
    let output = support::check(
        Command::new("nm")
            .args(["-D", "--defined-only"])
            .arg(library),
    );
    let exported: BTreeSet<String> = String::from_utf8(output.stdout)
        .expect("text")
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect();
    assert_eq!(exported, names);
    let header = std::fs::read_to_string(support::here().join("include/devrx.h")).expect("there");
    for name in &names {
        assert!(header.contains(&format!("{name}(")), "{name} is declared");
    }
}

#[test]
fn flags_are_those_of_the_rings() {
    use devrx_client::CompletionFlags;
    for (flag, bit) in [
        (CompletionFlags::SPLIT, devrx::DEVRX_SPLIT),
        (CompletionFlags::CSUM_GOOD, devrx::DEVRX_CSUM_GOOD),
        (CompletionFlags::CSUM_BAD, devrx::DEVRX_CSUM_BAD),
        (CompletionFlags::ERROR, devrx::DEVRX_ERROR),
        (CompletionFlags::VLAN, devrx::DEVRX_VLAN),
        (CompletionFlags::HASH, devrx::DEVRX_HASH),
        (CompletionFlags::TIMESTAMP_SW, devrx::DEVRX_TIMESTAMP_SW),
        (CompletionFlags::TIMESTAMP_HW, devrx::DEVRX_TIMESTAMP_HW),
    ] {
        assert_eq!(flag.bits(), bit);
    }
}

#[test]
fn the_loader_knows_the_library_by_its_interface() {
    let library = support::build_folder().join("libdevrx.so");
    let output = support::check(Command::new("readelf").arg("-d").arg(library));
    let text = String::from_utf8(output.stdout).expect("text");
    let name = format!("[libdevrx.so.{}]", devrx::DEVRX_ABI_VERSION);
    assert!(text.contains(&name), "{text}");
}
