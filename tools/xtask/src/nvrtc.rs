//! NVRTC, NVIDIA's compiler as a library: it makes code for a GPU where there is none. NVIDIA publishes it as a Python package.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{packages, shell};

/// The package. 85 MB; whichever is published under that name must be this one.
const REQUIREMENT: &str = "nvidia-cuda-nvrtc-cu12==12.9.86 \
    --hash=sha256:210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4\n";
/// The library in it.
const LIBRARY: &str = "nvidia/cuda_nvrtc/lib/libnvrtc.so.12";

/// The variable that names the library to the tests.
pub const VARIABLE: &str = "DEVRX_NVRTC";

/// Where the library is: what the variable says, or fetched once and kept beside what the guests are made of. Else the reason why there is none.
pub fn ensure() -> Result<Result<PathBuf, String>> {
    if let Some(path) = std::env::var_os(VARIABLE) {
        return Ok(Ok(path.into()));
    }
    if !cfg!(target_arch = "x86_64") {
        return Ok(Err(
            "NVRTC is fetched for x86-64 only; name one in DEVRX_NVRTC".into(),
        ));
    }
    let folder = cache().join("nvrtc");
    let library = folder.join(LIBRARY);
    if library.is_file() {
        return Ok(Ok(library));
    }
    if let Some(missing) = packages::ensure(&[("python3", "python3"), ("pip3", "python3-pip")])? {
        return Ok(Err(missing));
    }
    shell::step("fetching NVRTC, to compile the kernels (85 MB, once)");
    let temporary = folder.with_extension("part");
    std::fs::remove_dir_all(&temporary).ok();
    std::fs::create_dir_all(&temporary)
        .with_context(|| format!("cannot make {}", temporary.display()))?;
    let wanted = temporary.join("requirements.txt");
    std::fs::write(&wanted, REQUIREMENT)?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
    ])
    .args([
        "--only-binary",
        ":all:",
        "--timeout",
        "15",
        "--retries",
        "1",
        "--dest",
    ])
    .arg(&temporary)
    .arg("--requirement")
    .arg(&wanted);
    if !shell::run(&mut pip)? {
        std::fs::remove_dir_all(&temporary).ok();
        return Ok(Err(
            "NVRTC could not be fetched; name one in DEVRX_NVRTC".into()
        ));
    }
    for entry in std::fs::read_dir(&temporary)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "whl") {
            let mut unpack = Command::new("python3");
            unpack
                .args(["-m", "zipfile", "-e"])
                .arg(&path)
                .arg(&temporary);
            if !shell::run(&mut unpack)? {
                return Ok(Err("NVRTC could not be unpacked".into()));
            }
            std::fs::remove_file(path)?;
        }
    }
    std::fs::remove_dir_all(&folder).ok();
    std::fs::rename(&temporary, &folder)?;
    Ok(if library.is_file() {
        Ok(library)
    } else {
        Err(format!("the package has no {LIBRARY}"))
    })
}

/// Where what was fetched is kept.
fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()));
    let base = std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), Into::into);
    base.join("devrx")
}
