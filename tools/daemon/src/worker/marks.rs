//! Markers for counting instructions.
//!
//! A build with `--cfg devrx_bench_marks` has a no-operation of eight bytes between the phases of the worker's loop, which the TCG plugin of
//! `cargo xtask bench guest` (hw-tests/bench/mark.c) knows again. In a normal build there is nothing.
#![cfg_attr(
    all(devrx_bench_marks, target_arch = "x86_64"),
    expect(
        unsafe_code,
        reason = "one instruction that does nothing, in a build for measurements only"
    )
)]

/// Before the queue is polled.
pub(super) const LOOK: u8 = 16;
/// Packets were polled, and their completions are written.
pub(super) const RECEIVED: u8 = 17;
/// They are published.
pub(super) const PUBLISHED: u8 = 19;
/// Returned chunks were taken back, and chunks posted.
pub(super) const REFILLED: u8 = 20;
/// The counters are in shared memory.
pub(super) const COUNTED: u8 = 21;

/// A marker: `0f 1f 84 00 ID 00 54 51`.
#[cfg(all(devrx_bench_marks, target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn mark<const ID: u8>() {
    // SAFETY: a no-operation.
    unsafe {
        std::arch::asm!(
            ".byte 0x0f, 0x1f, 0x84, 0x00, {id}, 0x00, 0x54, 0x51",
            id = const ID,
            options(nostack, preserves_flags)
        );
    }
}

/// Nothing.
#[cfg(not(all(devrx_bench_marks, target_arch = "x86_64")))]
#[inline(always)]
pub(super) const fn mark<const ID: u8>() {}
