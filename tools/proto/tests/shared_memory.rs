//! Shared memory is sealed, allocated, and of the size that was said; what one side writes the other cannot.

use devrx_proto::shm::{Access, Shm, ShmError};
use std::os::fd::AsFd;

mod common;

#[test]
fn memory_that_could_shrink_is_refused() {
    let fd = nix::sys::memfd::memfd_create("test", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING)
        .unwrap();
    nix::unistd::ftruncate(&fd, 4096).unwrap();
    assert!(matches!(
        Shm::map(fd.as_fd(), 4096, Access::ReadOnly),
        Err(ShmError::Unsealed)
    ));
}

#[test]
fn memory_of_another_size_is_refused() {
    let (fd, _) = Shm::create_client_written("test", 4096).unwrap();
    let error = Shm::map(fd.as_fd(), 8192, Access::ReadOnly).unwrap_err();
    assert!(matches!(
        error,
        ShmError::Size {
            expected: 8192,
            actual: 4096
        }
    ));
}

/// A daemon maps its header slots once more before the seals are set, and only then.
#[test]
fn a_further_mapping_is_made_before_the_seals() {
    let made =
        Shm::create_daemon_written_with("test", 8192, |fd| Shm::map(fd, 8192, Access::ReadWrite));
    let (fd, first, second) = made.unwrap();
    assert!(second.copy_in(4096, b"slot"));
    let mut out = [0; 4];
    assert!(first.copy_out(4096, &mut out));
    assert_eq!(&out, b"slot");
    assert!(Shm::map(fd.as_fd(), 8192, Access::ReadWrite).is_err());
    assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    let seals = nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_WRITE);
    assert!(
        nix::fcntl::fcntl(&fd, seals).is_err(),
        "the seals are sealed"
    );
    let failed =
        Shm::create_daemon_written_with("test", 8192, |_| Err::<(), _>(ShmError::ReadOnly));
    assert!(matches!(failed, Err(ShmError::ReadOnly)));
}

/// What is shared is there before it is touched: 512-byte blocks of the file, nothing written yet.
#[test]
fn shared_memory_is_allocated_when_it_is_made() {
    let size = 1 << 20;
    let daemon = Shm::create_daemon_written("test", size).unwrap();
    let client = Shm::create_client_written("test", size).unwrap();
    for (fd, shm) in [daemon, client] {
        let stat = nix::sys::stat::fstat(&fd).unwrap();
        assert!(stat.st_blocks as u64 * 512 >= size, "{}", stat.st_blocks);
        let mut out = vec![1; size as usize];
        assert!(shm.copy_out(0, &mut out) && out.iter().all(|byte| *byte == 0));
    }
}

/// The seals are the kernel's to keep: nobody else writes the daemon's memfd, or resizes either.
#[test]
fn daemon_written_memory_is_read_only_to_others() {
    let (fd, daemon) = Shm::create_daemon_written("test", 4096).unwrap();
    assert!(daemon.copy_in(5, b"dvrx"));
    assert!(Shm::map(fd.as_fd(), 4096, Access::ReadWrite).is_err());
    assert!(nix::unistd::write(&fd, b"x").is_err());
    assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    let view = Shm::map(fd.as_fd(), 4096, Access::ReadOnly).unwrap();
    let mut out = [0; 4];
    assert!(view.copy_out(5, &mut out));
    assert_eq!(&out, b"dvrx");
    assert!(!view.copy_in(0, b"x") && view.word_to_write(0).is_err() && !view.store_u64(0, 1));
    assert!(!view.copy_out(4093, &mut out) && !view.copy_out(u64::MAX, &mut out));
}
