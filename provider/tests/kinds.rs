//! The kinds of memory against the running kernel. What needs something the machine lacks says so and checks the refusal instead.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use devrx_provider::{
    ChunkIndex, MapWay, MemoryKind, MemoryProvider, ProviderError, QueueNeeds, Region,
    RegionProvider, RegionSpec, dmabuf, hugetlb, memfd, page_size, udmabuf,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const SPEC: RegionSpec = RegionSpec {
    size: 1 << 20,
    chunk_size: 2048,
};

const NEEDS: QueueNeeds = QueueNeeds {
    min_chunk: 2048,
    max_chunk: 4096,
    chunk_multiple: 1024,
    cpu_reads_payload: true,
    ways: &[MapWay::HostAddress],
};

fn client_file(size: u64, seals: SealFlag) -> OwnedFd {
    let fd = memfd_create(
        c"client",
        MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
    )
    .unwrap();
    nix::unistd::ftruncate(&fd, size as i64).unwrap();
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    fd
}

fn text(result: Result<Region, ProviderError>) -> String {
    result.expect_err("refused").to_string()
}

/// Opens a descriptor anew, as a process that was given it can.
fn reopen(fd: impl AsFd, write: bool) -> std::io::Result<File> {
    File::options()
        .read(true)
        .write(write)
        .open(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

#[test]
fn our_memfd_can_only_be_read_by_those_it_is_given_to() {
    let region = memfd::create("ours", SPEC).unwrap();
    assert_eq!(
        (region.kind(), region.size(), region.chunks()),
        (MemoryKind::Memfd, 1 << 20, 512)
    );
    assert!(region.mapping().unwrap().copy_in(4096, b"payload"));
    let len = 1 << 20;
    let given = region.shareable().unwrap().try_clone_to_owned().unwrap();
    let reader = devrx_provider::Mapping::map_shared(given.as_fd(), 0, len, false).unwrap();
    let mut out = [0; 7];
    assert!(reader.copy_out(4096, &mut out));
    assert_eq!(&out, b"payload");
    assert!(
        devrx_provider::Mapping::map_shared(given.as_fd(), 0, len, true).is_err(),
        "no writable mapping"
    );
    assert!(nix::unistd::write(&given, b"x").is_err(), "no write");
    assert!(nix::unistd::ftruncate(&given, 0).is_err(), "no shrinking");
    assert!(
        nix::unistd::ftruncate(&given, 2 << 20).is_err(),
        "no growing"
    );
    let punch = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
        | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    assert!(
        nix::fcntl::fallocate(&given, punch, 0, 4096).is_err(),
        "no holes"
    );
    assert!(
        fcntl(&given, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).is_err(),
        "no further seals"
    );
    let again = reopen(&given, true).unwrap();
    assert!(
        devrx_provider::Mapping::map_shared(again.as_fd(), 0, len, true).is_err(),
        "nor by opening it anew"
    );
    assert!(region.mapping().unwrap().copy_in(0, b"still writable here"));
}

#[test]
fn sizes_that_no_region_can_have_are_refused() {
    let create = |size, chunk_size| memfd::create("sizes", RegionSpec { size, chunk_size });
    for (size, chunk) in [
        (0, 2048),
        (4095, 2048),
        (1 << 20, 0),
        (1 << 20, 63),
        (1 << 20, 100),
        (1 << 20, 65536),
        (4096, 8192),
        (u64::MAX, 2048),
        (1 << 62, 64),
    ] {
        let error = create(size, chunk).unwrap_err();
        assert!(
            matches!(error, ProviderError::BadSize { .. }),
            "{size} {chunk}: {error}"
        );
        assert!(
            error.to_string().contains("use "),
            "the way out is named: {error}"
        );
    }
    let odd = create(12288, 5120).unwrap();
    assert_eq!(
        (
            odd.chunks(),
            odd.offset_of(ChunkIndex(1)),
            odd.offset_of(ChunkIndex(2))
        ),
        (2, Some(5120), None)
    );
    assert_eq!(
        (odd.chunk_at(5121), odd.chunk_at(10239), odd.chunk_at(10240)),
        (Some((ChunkIndex(1), 1)), Some((ChunkIndex(1), 5119)), None)
    );
    assert_eq!(odd.chunk_at(u64::MAX), None);
}

#[test]
fn client_memory_is_adopted_when_it_cannot_shrink() {
    let fd = client_file(2 << 20, SealFlag::F_SEAL_SHRINK);
    let client = fd.try_clone().unwrap();
    let region = memfd::adopt(fd, SPEC).unwrap();
    let view = devrx_provider::Mapping::map_shared(client.as_fd(), 0, 1 << 20, true).unwrap();
    assert!(region.mapping().unwrap().copy_in(100, b"seen by both"));
    let mut out = [0; 12];
    assert!(view.copy_out(100, &mut out));
    assert_eq!(&out, b"seen by both");
}

#[test]
fn an_unsealed_file_is_refused() {
    let why = text(memfd::adopt(client_file(1 << 20, SealFlag::empty()), SPEC));
    assert!(why.contains("F_SEAL_SHRINK"), "{why}");
    let why = text(memfd::adopt(
        client_file(1 << 20, SealFlag::F_SEAL_GROW),
        SPEC,
    ));
    assert!(why.contains("F_SEAL_SHRINK"), "{why}");
}

#[test]
fn a_file_too_small_is_refused() {
    let why = text(memfd::adopt(
        client_file((1 << 20) - 4096, SealFlag::F_SEAL_SHRINK),
        SPEC,
    ));
    assert!(why.contains("1044480"), "{why}");
}

#[test]
fn other_descriptors_are_refused() {
    let shrink = SealFlag::F_SEAL_SHRINK;
    let why = text(memfd::adopt(
        client_file(1 << 20, shrink | SealFlag::F_SEAL_WRITE),
        SPEC,
    ));
    assert!(why.contains("F_SEAL_WRITE"), "{why}");
    let why = text(memfd::adopt(
        client_file(1 << 20, shrink | SealFlag::F_SEAL_FUTURE_WRITE),
        SPEC,
    ));
    assert!(why.contains("F_SEAL_WRITE"), "{why}");
    let others: [OwnedFd; 3] = [
        File::open("/dev/null").unwrap().into(),
        tempfile::tempfile().unwrap().into(),
        nix::unistd::pipe().unwrap().0,
    ];
    for fd in others {
        let why = text(memfd::adopt(fd.try_clone().unwrap(), SPEC));
        assert!(
            why.contains("memfd") || why.contains("F_SEAL_SHRINK"),
            "{why}"
        );
        let why = text(dmabuf::adopt(fd, SPEC, &dmabuf::Policy::default()));
        assert!(why.contains("no dma-buf"), "{why}");
    }
    let why = text(dmabuf::adopt(
        client_file(1 << 20, shrink),
        SPEC,
        &dmabuf::Policy::default(),
    ));
    assert!(why.contains("no dma-buf"), "{why}");
    // A read-only descriptor of a good file cannot be mapped for a NIC to write.
    let read_only = reopen(client_file(1 << 20, shrink), false).unwrap();
    let why = text(memfd::adopt(read_only.into(), SPEC));
    assert!(why.contains("not open for reading and writing"), "{why}");
}

#[test]
fn huge_pages_or_the_command_that_reserves_them() {
    let page = hugetlb::default_page_size().unwrap();
    let spec = RegionSpec {
        size: page,
        chunk_size: 4096,
    };
    match hugetlb::create("huge", spec) {
        Ok(region) => {
            assert_eq!(region.kind(), MemoryKind::Hugetlb);
            assert!(region.mapping().unwrap().copy_in(12345, b"huge"));
            let given = region.shareable().unwrap().try_clone_to_owned().unwrap();
            assert!(
                devrx_provider::Mapping::map_shared(given.as_fd(), 0, page as usize, true).is_err()
            );
        }
        Err(error) => {
            eprintln!("no huge pages reserved here; only the refusal was checked: {error}");
            assert!(
                matches!(error, ProviderError::Unavailable { .. }),
                "{error}"
            );
            assert!(error.to_string().contains("nr_hugepages"), "{error}");
        }
    }
    let small = RegionSpec {
        size: page_size(),
        chunk_size: 4096,
    };
    assert!(text(hugetlb::create("huge", small)).contains(&page.to_string()));
    let many = RegionSpec {
        size: page << 20,
        chunk_size: 4096,
    };
    let why = text(hugetlb::create("huge", many));
    assert!(
        why.contains("echo 1048576 >") || why.contains("nr_hugepages"),
        "{why}"
    );
    let strange = RegionSpec {
        size: 1 << 30,
        chunk_size: 4096,
    };
    assert!(text(hugetlb::create_sized("huge", strange, 1 << 14)).contains("this machine has"));
    assert!(hugetlb::create_sized("huge", strange, 12345).is_err());
}

#[test]
fn a_udmabuf_or_a_clear_refusal() {
    match udmabuf::create("exported", SPEC) {
        Ok(region) => {
            let export = region.export_fd().expect("a second identity");
            assert_eq!(dmabuf::exporter(export).unwrap(), "udmabuf");
            assert_eq!(dmabuf::size(export).unwrap(), SPEC.size);
            assert!(region.mapping().unwrap().copy_in(8192, b"both"));
            let own = export.try_clone_to_owned().unwrap();
            let other = dmabuf::adopt(own, SPEC, &dmabuf::Policy::default()).unwrap();
            let mut out = [0; 4];
            dmabuf::sync_start(other.mapped_fd(), dmabuf::Access::Read).unwrap();
            assert!(other.mapping().unwrap().copy_out(8192, &mut out));
            dmabuf::sync_end(other.mapped_fd(), dmabuf::Access::Read).unwrap();
            assert_eq!(&out, b"both");
            dmabuf::set_name(other.mapped_fd(), "x\nexp_name:\tnvidia").unwrap();
            assert_eq!(
                dmabuf::exporter(other.mapped_fd()).unwrap(),
                "udmabuf",
                "a name cannot spell another exporter"
            );
            let error = RegionProvider::whole(Arc::new(other))
                .init(&NEEDS)
                .unwrap_err()
                .to_string();
            assert!(error.contains("memfd"), "the way out is named: {error}");
        }
        Err(error) => {
            eprintln!("no udmabuf here; only the refusal was checked: {error}");
            assert!(
                matches!(error, ProviderError::Unavailable { .. }),
                "{error}"
            );
            let error = error.to_string();
            assert!(
                error.contains("modprobe udmabuf") || error.contains("root"),
                "{error}"
            );
        }
    }
}

#[test]
fn exporters_that_may_move_memory_need_the_administrator() {
    let mut policy = dmabuf::Policy::default();
    policy.check("nv_dmabuf").unwrap();
    for name in ["drm", "amdgpu", "xe", "qxl"] {
        assert!(
            policy
                .check(name)
                .unwrap_err()
                .to_string()
                .contains("allow_unpinned")
        );
    }
    let unknown = policy.check("somebody").unwrap_err().to_string();
    assert!(
        unknown.contains("\"somebody\"") && unknown.contains("nv_dmabuf"),
        "{unknown}"
    );
    policy.allow_unpinned = true;
    policy.check("drm").unwrap();
    assert!(policy.check("somebody").is_err());
}

#[test]
fn dmabuf_calls_on_other_descriptors_fail_cleanly() {
    let fd = client_file(4096, SealFlag::empty());
    assert!(dmabuf::sync_start(fd.as_fd(), dmabuf::Access::Write).is_err());
    assert!(dmabuf::export_sync_file(fd.as_fd(), dmabuf::Access::Read).is_err());
    assert!(dmabuf::import_sync_file(fd.as_fd(), dmabuf::Access::Read, fd.as_fd()).is_err());
    assert!(dmabuf::set_name(fd.as_fd(), "name").is_err());
    let long = dmabuf::set_name(fd.as_fd(), &"n".repeat(32)).unwrap_err();
    assert_eq!(long.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn shares_are_disjoint_whole_pages_and_all_of_it() {
    for chunk_size in [64, 1024, 2048, 3072, 4096, 5120, 32768] {
        let region = Arc::new(
            memfd::create(
                "split",
                RegionSpec {
                    size: 1 << 20,
                    chunk_size,
                },
            )
            .unwrap(),
        );
        for queues in 1..9 {
            let Ok(shares) = RegionProvider::split(Arc::clone(&region), queues) else {
                assert!(
                    chunk_size == 5120 && queues > 10 || u64::from(queues) * 32768 * 4 > 1 << 20,
                    "{chunk_size} {queues}"
                );
                continue;
            };
            let mut next = 0;
            for share in &shares {
                let chunks = share.chunks();
                assert_eq!(chunks.start, next);
                assert!(!chunks.is_empty());
                assert!(
                    region
                        .offset_of(ChunkIndex(chunks.start))
                        .unwrap()
                        .is_multiple_of(page_size())
                );
                next = chunks.end;
            }
            assert_eq!(next, region.chunks());
            let sizes: Vec<_> = shares
                .iter()
                .map(|share| share.chunks().len() as u64 * u64::from(chunk_size))
                .collect();
            let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(
                most - least <= 2 * page_size() * u64::from(chunk_size),
                "{sizes:?}"
            );
        }
        let error = RegionProvider::split(Arc::clone(&region), 100_000)
            .unwrap_err()
            .to_string();
        assert!(error.contains("fewer queues"), "{error}");
        assert!(RegionProvider::split(region, 0).is_err());
    }
}

#[test]
fn a_provider_hands_out_each_chunk_once() {
    let region = Arc::new(memfd::create("once", SPEC).unwrap());
    let shares = RegionProvider::split(region, 2).unwrap();
    let provider = &shares[1];
    let mut got = Vec::new();
    while provider.alloc(&mut got, 64) > 0 {}
    let mut sorted: Vec<u32> = got.iter().map(|chunk| chunk.0).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, provider.chunks().collect::<Vec<_>>());
    assert_eq!(provider.alloc(&mut got, 0), 0);
    provider.release(&got[..10]);
    // Again, and chunks of the other share, and of none.
    provider.release(&got[..10]);
    provider.release(&[ChunkIndex(0), ChunkIndex(u32::MAX)]);
    assert_eq!(provider.free(), 10);
    let stats = provider.stats();
    assert_eq!(
        (stats.allocated, stats.released, stats.refused),
        (256, 10, 12)
    );
    assert_eq!((stats.short, stats.empty), (1, 1));
    let mut again = Vec::new();
    assert_eq!(provider.alloc(&mut again, 64), 10);
    assert_eq!(provider.stats().short, 2);
}

#[test]
fn a_queue_gets_memory_that_suits_it_and_nobody_else_has() {
    let provider = |chunk_size| {
        RegionProvider::whole(Arc::new(
            memfd::create(
                "needs",
                RegionSpec {
                    size: 1 << 20,
                    chunk_size,
                },
            )
            .unwrap(),
        ))
    };
    let fits = provider(2048);
    fits.init(&NEEDS).unwrap();
    assert!(matches!(fits.init(&NEEDS), Err(ProviderError::InUse)));
    let mut chunk = Vec::new();
    fits.alloc(&mut chunk, 1);
    fits.uninstall();
    assert!(
        matches!(fits.init(&NEEDS), Err(ProviderError::InUse)),
        "chunks are out: a NIC may write them"
    );
    fits.release(&chunk);
    fits.uninstall();
    fits.init(&NEEDS).unwrap();
    for chunk_size in [1024, 8192, 2048 + 64] {
        let error = provider(chunk_size).init(&NEEDS).unwrap_err();
        assert!(matches!(error, ProviderError::Unfit(_)), "{error}");
        assert!(error.to_string().contains("2048 to 4096 bytes"), "{error}");
    }
    let type1 = QueueNeeds {
        ways: &[MapWay::PfnAddress],
        ..NEEDS
    };
    let error = provider(2048).init(&type1).unwrap_err().to_string();
    assert!(
        error.contains("PFN-mapped address") && error.contains("host address"),
        "{error}"
    );
}
