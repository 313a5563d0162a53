//! Memory that vanishes under a mapping, for real. In a process of its own, since it handles SIGBUS.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]
#![expect(unsafe_code, reason = "provokes a fault outside of every mapping")]

use std::os::fd::{AsFd, OwnedFd};

use devrx_provider::{Mapping, RegionSpec, guard, memfd, page_size};
use nix::sys::memfd::{MFdFlags, memfd_create};

fn file(pages: u64) -> OwnedFd {
    let fd = memfd_create(c"lost", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
    nix::unistd::ftruncate(&fd, (pages * page_size()) as i64).unwrap();
    fd
}

#[test]
fn a_truncated_file_poisons_its_own_mapping_only() {
    guard::install().unwrap();
    guard::install().unwrap();
    let page = page_size() as usize;
    let (cut, whole) = (file(8), file(8));
    let (a, b) = (
        Mapping::map_shared(cut.as_fd(), 0, 8 * page, true).unwrap(),
        Mapping::map_shared(whole.as_fd(), 0, 8 * page, true).unwrap(),
    );
    let pattern = vec![0x5a; 8 * page];
    assert!(a.copy_in(0, &pattern) && b.copy_in(0, &pattern));
    let before = guard::survived();

    // What no seal would allow; region kinds insist on the seal.
    nix::unistd::ftruncate(&cut, 2 * page as i64).unwrap();
    assert!(!a.poisoned());
    let mut out = vec![1; 8 * page];
    assert!(a.copy_out(0, &mut out));
    assert!(a.poisoned(), "the mapping says that pages were lost");
    assert!(
        out[..2 * page].iter().all(|&byte| byte == 0x5a),
        "what is there is read"
    );
    assert!(
        out[2 * page..].iter().all(|&byte| byte == 0),
        "what is lost reads as zeros"
    );
    assert_eq!(guard::survived() - before, 6, "one fault a page");

    // Writes are survived, too, and a word across the edge of the file.
    assert!(a.copy_in(3 * page - 3, &[9; 8]));
    let mut word = [0; 8];
    assert!(a.copy_out(2 * page - 4, &mut word));
    assert_eq!(word, [0x5a, 0x5a, 0x5a, 0x5a, 0, 0, 0, 0]);

    assert!(!b.poisoned(), "the neighbour is unharmed");
    assert!(b.copy_out(0, &mut out));
    assert_eq!(out, pattern);

    // The place in the table is used again, clean.
    drop(a);
    let again = Mapping::map_shared(whole.as_fd(), 0, page, false).unwrap();
    assert!(!again.poisoned());
}

#[test]
fn what_others_mapped_can_be_watched() {
    guard::install().unwrap();
    let page = page_size() as usize;
    let fd = file(4);
    let len = std::num::NonZeroUsize::new(4 * page).unwrap();
    let (prot, flags) = (
        nix::sys::mman::ProtFlags::PROT_READ,
        nix::sys::mman::MapFlags::MAP_SHARED,
    );
    // SAFETY: a new mapping at a place of the kernel's choice; unmapped with the process.
    let at = unsafe { nix::sys::mman::mmap(None, len, prot, flags, &fd, 0) }.unwrap();
    let at = at.as_ptr().cast::<u8>();
    // SAFETY: the whole mapping, which stays, and to which there is no reference.
    let watch = unsafe { guard::Watch::new(at, 4 * page) }.unwrap();
    nix::unistd::ftruncate(&fd, page as i64).unwrap();
    // SAFETY: inside the mapping.
    assert_eq!(unsafe { at.read_volatile() }, 0);
    assert!(!watch.poisoned(), "that page is there");
    // SAFETY: inside the mapping; the page is lost, and the handler puts another.
    assert_eq!(unsafe { at.add(3 * page).read_volatile() }, 0);
    assert!(watch.poisoned());
}

#[test]
fn many_threads_lose_pages_at_once() {
    guard::install().unwrap();
    let page = page_size() as usize;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for _ in 0..50 {
                    let fd = file(4);
                    let mapping = Mapping::map_shared(fd.as_fd(), 0, 4 * page, true).unwrap();
                    assert!(mapping.copy_in(0, &vec![7; 4 * page]));
                    nix::unistd::ftruncate(&fd, page as i64).unwrap();
                    let mut out = vec![1; 4 * page];
                    assert!(mapping.copy_out(0, &mut out));
                    assert!(mapping.poisoned());
                    assert!(
                        out[..page].iter().all(|&byte| byte == 7)
                            && out[page..].iter().all(|&byte| byte == 0)
                    );
                }
            });
        }
    });
}

/// A hole in a sealed file is no lost page: the kernel fills it with zeros when there is memory for that.
#[test]
fn a_hole_reads_as_zeros() {
    guard::install().unwrap();
    let page = page_size() as usize;
    let fd = file(4);
    nix::fcntl::fcntl(
        &fd,
        nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_SHRINK),
    )
    .unwrap();
    assert!(nix::unistd::ftruncate(&fd, 0).is_err(), "the seal holds");
    let client = fd.try_clone().unwrap();
    let region = memfd::adopt(
        fd,
        RegionSpec {
            size: 4 * page as u64,
            chunk_size: 4096,
        },
    )
    .unwrap();
    let mapping = region.mapping().unwrap();
    assert!(mapping.copy_in(0, &vec![7; 4 * page]));
    let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(&client, flags, page as i64, page as i64).unwrap();
    let mut out = vec![1; 4 * page];
    assert!(mapping.copy_out(0, &mut out));
    assert!(!mapping.poisoned());
    assert!(out[page..2 * page].iter().all(|&byte| byte == 0));
    assert_eq!(out.iter().filter(|&&byte| byte == 7).count(), 3 * page);
}

/// What is not a lost page of a mapping still ends the process: a signal that somebody sends, and a fault elsewhere.
#[test]
fn any_other_sigbus_still_kills() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "DEVRX_TEST_SIGBUS";
    match std::env::var(CHILD).as_deref() {
        Ok("sent") => {
            guard::install().unwrap();
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGBUS).unwrap();
            std::process::exit(0);
        }
        Ok("fault") => {
            guard::install().unwrap();
            fault_elsewhere();
            std::process::exit(0);
        }
        _ => {}
    }
    for how in ["sent", "fault"] {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "any_other_sigbus_still_kills"])
            .env(CHILD, how)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(nix::libc::SIGBUS), "{how}: {status}");
    }
}

/// Reads memory that is not there, through a mapping that is no [`Mapping`].
fn fault_elsewhere() {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap};
    let len = std::num::NonZeroUsize::new(page_size() as usize).unwrap();
    // SAFETY: a new mapping at an address of the kernel's choice; the read below raises SIGBUS, which is what it is for.
    unsafe {
        let at = mmap(
            None,
            len,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            file(0),
            0,
        )
        .unwrap();
        at.cast::<u8>().read_volatile();
    }
}
