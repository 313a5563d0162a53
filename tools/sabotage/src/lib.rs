//! Takes named protections out of a test build.
//!
//! A test that cannot fail is a defect. Every protection that a loom model, a property test or a hostile-client test claims to
//! check asks [`removed`] before it acts. In a normal build that is the constant `false` and costs nothing. In a build with
//! `--cfg devrx_sabotage` the environment variable `DEVRX_SABOTAGE` names the protection to leave out, and `cargo xtask test`
//! runs each test once for each name and expects it to go red.

/// Whether the protection called `name` is taken out of this run. Constant `false` without `--cfg devrx_sabotage`.
///
/// # Example
///
/// ```
/// if !devrx_sabotage::removed("range-check") {
///     // the check
/// }
/// ```
#[cfg(not(devrx_sabotage))]
#[inline(always)]
#[must_use]
pub const fn removed(_name: &str) -> bool {
    false
}

/// Whether the protection called `name` is taken out of this run: it is the value of `DEVRX_SABOTAGE`, read once.
#[cfg(devrx_sabotage)]
#[must_use]
pub fn removed(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("DEVRX_SABOTAGE").ok())
        .as_deref()
        == Some(name)
}
