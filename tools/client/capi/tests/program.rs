//! The C example, as a user builds it, against a small daemon: linked both ways, and under valgrind.

use std::path::{Path, PathBuf};
use std::process::Command;

use common::daemon;
use common::wire::{send, udp};

#[path = "../../tests/common/mod.rs"]
mod common;
mod support;

const PACKETS: u64 = 3_000;

fn data(position: u64) -> Vec<u8> {
    (0..60 + position % 900)
        .map(|at| (position + 3 * at) as u8)
        .collect()
}

/// Builds the example, with more arguments for the linker.
fn build(prefix: &Path, link: &[String]) -> PathBuf {
    let program = prefix.join("recv");
    let mut cc = support::cc();
    cc.arg(support::here().join("examples/recv.c"))
        .args(support::pkg_config(prefix, &["--cflags"]))
        .args(link)
        .arg("-o")
        .arg(&program);
    support::check(&mut cc);
    program
}

/// Runs a program that receives all there is, and compares what it says.
fn receive(mut command: Command, prefix: &Path) {
    let frames: Vec<_> = (0..PACKETS).map(|position| udp(&data(position))).collect();
    let sum: u64 = (0..PACKETS).flat_map(data).map(u64::from).sum();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 42));
    let output = support::check(
        command
            .arg("camera")
            .env("DEVRX_SOCKET", &path)
            .env("LD_LIBRARY_PATH", prefix.join("lib")),
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        format!(
            "{PACKETS} packets, {} bytes of header, payload adds up to {sum}, 0 chunks held\n",
            42 * PACKETS
        )
    );
    assert_eq!(daemon.join().expect("no panic"), (PACKETS, PACKETS));
}

#[test]
fn the_example_links_to_the_shared_library() {
    let prefix = support::install();
    let program = build(
        prefix.path(),
        &support::pkg_config(prefix.path(), &["--libs"]),
    );
    receive(Command::new(program), prefix.path());
}

#[test]
fn the_example_links_to_the_static_library() {
    let prefix = support::install();
    std::fs::remove_file(prefix.path().join("lib/libdevrx.so")).expect("it was installed");
    let libs = support::pkg_config(prefix.path(), &["--static", "--libs"]);
    let program = build(prefix.path(), &libs);
    let needed = support::check(Command::new("readelf").arg("-d").arg(&program)).stdout;
    assert!(!String::from_utf8_lossy(&needed).contains("devrx"));
    receive(Command::new(program), prefix.path());
}

#[test]
fn the_example_is_clean_under_valgrind() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: there is no valgrind (apt install valgrind)");
        return;
    }
    let prefix = support::install();
    let program = build(
        prefix.path(),
        &support::pkg_config(prefix.path(), &["--libs"]),
    );
    let mut valgrind = Command::new("valgrind");
    valgrind.args([
        "--quiet",
        "--error-exitcode=9",
        "--leak-check=full",
        "--show-leak-kinds=all",
        "--errors-for-leak-kinds=all",
        "--track-fds=yes",
    ]);
    valgrind.arg(program);
    receive(valgrind, prefix.path());
}

#[test]
fn a_daemon_that_is_not_there_is_said_in_words() {
    let prefix = support::install();
    let program = build(
        prefix.path(),
        &support::pkg_config(prefix.path(), &["--libs"]),
    );
    let output = Command::new(program)
        .arg("camera")
        .env("DEVRX_SOCKET", "/nonexistent/devrx.sock")
        .env("LD_LIBRARY_PATH", prefix.path().join("lib"))
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.starts_with("recv: cannot talk to the devrx daemon") && text.contains("No such file"),
        "{text}"
    );
}
