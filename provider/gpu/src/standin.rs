//! Builds the stand-in of a driver's library that plays it for the tests of what is refused. Only tests use this.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `standin/NAME.c` with definitions such as `ATTRIBUTE_124=0`, into a folder; the path of the library.
///
/// # Panics
///
/// When there is no C compiler (`cc`), or it refuses.
#[must_use]
pub fn build(dir: &Path, name: &str, definitions: &[&str]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("standin/{name}.c"));
    let library = dir.join(format!("lib{name}-standin.so"));
    let output = Command::new("cc")
        .args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .arg(&library)
        .args(
            definitions
                .iter()
                .map(|definition| format!("-D{definition}")),
        )
        .arg(&source)
        .output()
        .expect("cc starts: apt-get install gcc");
    assert!(
        output.status.success(),
        "{}: {}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    library
}

/// How much a stand-in was not given back of what it gave: 0 when everything was.
///
/// # Panics
///
/// When it is no stand-in.
#[must_use]
pub fn held(library: &Path) -> i32 {
    crate::library::Library::open(library, "")
        .expect("it was built")
        .standin_held()
}
