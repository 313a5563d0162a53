//! The library, installed into a folder, and a C compiler for it.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test program uses what it needs"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// This package's folder.
pub fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo put the libraries: beside the test program.
pub fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("a path");
    program.parent().expect("a folder").to_path_buf()
}

/// Installs the library as a user would.
pub fn install() -> tempfile::TempDir {
    let prefix = tempfile::tempdir().expect("a folder");
    let mut script = Command::new(here().join("install.sh"));
    check(script.arg(build_folder()).arg(prefix.path()));
    prefix
}

/// Runs a command to its successful end.
pub fn check(command: &mut Command) -> Output {
    let output = command.output().expect("it starts");
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The C compiler, strict.
pub fn cc() -> Command {
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Wextra", "-Werror"]);
    cc
}

/// What pkg-config answers for the library installed at `prefix`.
pub fn pkg_config(prefix: &Path, arguments: &[&str]) -> Vec<String> {
    let mut command = Command::new("pkg-config");
    command.args(arguments).arg("devrx");
    command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
    let output = check(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    text.split_whitespace().map(str::to_owned).collect()
}
