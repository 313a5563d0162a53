//! The *guest* lane: a QEMU guest with 82576 NICs behind an IOMMU, Debian's kernels, and the real `devrx` in it.
//!
//! QEMU's TCG interprets the guest, so no KVM is needed. Packages come from Debian ([`packages`], [`kernel`]); the first file
//! system is made here ([`initramfs`]); `devrx-guest` is its `/init` ([`crate::inside`]) and runs tests one after another, each in
//! a process of its own. Over a virtio port tests ask the host ([`control`]) to send frames, to show those that came
//! out, to look at the memory behind a PCI BAR, to pull a cable.
//!
//! # Adding a test
//!
//! Write `fn name(host: &mut Host) -> anyhow::Result<()>` in a file of `src/guest_tests/`, put `Test::new("name", name)` into the
//! file's `TESTS`, and the file's `TESTS` into `guest_tests::all`. The name is a sentence, unlike all others. Then
//! `cargo xtask guest --filter name` runs it.
//!
//! * It starts with the 82576s at vfio-pci, or where [`Test::igb`](crate::guest_tests::Test::igb) says, on
//!   [`machine::STANDARD`] or the machine that [`Test::on`](crate::guest_tests::Test::on) names. `host.pci("igb0")` is an
//!   address, [`machine::IVSHMEM`] that of the device whose BAR 2 the host can look into, [`machine::QXL`] that of the GPU
//!   stand-in (its module is not loaded: `inside::modules::load("qxl")`).
//! * The program is [`crate::inside::DEVRX`]; [`crate::daemon::Daemon::start_here`] starts it as a daemon.
//! * [`Host`](crate::inside::Host) has what the host can do: `inject`, `injected`, `seen`, `bar_read`, `bar_sum`, `set_link`.
//!   [`message::Frames`] says which frames: numbered ones, or a capture of `captures/make.py`, which the guest has in
//!   [`crate::inside::CAPTURES`].
//! * An error or a panic fails it, [`crate::inside::skip`] skips it. When it ends, every process of the guest but the first is
//!   killed; modules, files in `/tmp` and settings of the kernel stay for the next test, so a test that changes them puts them back.
//! * One CPU runs it all: a busy loop starves the daemon. Time there is 10 to 30 times slower than outside: measure order, not speed.

pub mod card;
pub mod control;
pub mod initramfs;
pub mod inject;
pub mod kernel;
pub mod machine;
pub mod message;
pub mod outcome;
pub mod packages;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod trixie;

/// What the guest prints first: what is on the console before it comes from the firmware and the kernel.
pub const MARK: &str = "devrx-guest: here";
