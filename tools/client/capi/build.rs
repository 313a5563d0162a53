//! Gives the shared library its name for the loader: it holds for one version of the interface.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // The number is that of DEVRX_ABI_VERSION; tests/header.rs compares them.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdevrx.so.1");
}
