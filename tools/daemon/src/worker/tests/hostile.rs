//! Clients that write what cannot be, or take their memory away, end alone.

use super::*;

#[test]
fn impossible_indices_end_the_attachment() {
    for which in 0..2 {
        // A ring that fills, so that the worker looks at the client's index.
        let mut rig = Rig::new(Setup {
            completions: 16,
            ..Setup::default()
        });
        let place = rig.layout.queue(0).unwrap();
        let word = [place.refill_producer, place.completion_consumer][which];
        rig.client_memory
            .word_to_write(word)
            .unwrap()
            .store(0x4000_0000);
        rig.wire.send(0, 64, 1);
        rig.settle();
        rig.wire.send(0, 64, 1);
        rig.settle();
        wait_for("control is told", || rig.handle.fault().is_some());
        assert!(
            rig.handle
                .fault()
                .is_some_and(|why| why.contains("indices"))
        );
        let rung = poll(
            &mut [PollFd::new(rig.control.as_fd(), PollFlags::POLLIN)],
            PollTimeout::ZERO,
        )
        .unwrap();
        assert_eq!(rung, 1, "control was rung");
        assert!(rig.end().index_faults > 0);
    }
}

/// A region of huge pages, one of which its client takes out, when no other is left: the next access of the CPU raises SIGBUS.
#[test]
fn a_client_that_takes_its_memory_away_ends_alone() {
    use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const SIZE: i64 = 2 << 20;
    let before = std::fs::read_to_string(PAGES).unwrap_or_default();
    let count: u32 = before.trim().parse().unwrap_or(0);
    if std::fs::write(PAGES, (count + 1).to_string()).is_err() {
        eprintln!("skipped: huge pages cannot be reserved here (root is needed)");
        return;
    }
    devrx_provider::guard::install().unwrap();
    let adopted = (|| {
        let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let fd = memfd_create("test", flags).ok()?;
        nix::unistd::ftruncate(&fd, SIZE).ok()?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).ok()?;
        let spec = RegionSpec {
            size: SIZE.cast_unsigned(),
            chunk_size: 4096,
        };
        Some((memfd::adopt(fd.try_clone().ok()?, spec).ok()?, fd))
    })();
    let Some((region, fd)) = adopted else {
        std::fs::write(PAGES, &before).unwrap();
        eprintln!("skipped: no huge page could be had");
        return;
    };
    let mut rig = Rig::over(
        region,
        Setup {
            chunks: 512,
            ..Setup::default()
        },
    );
    rig.wire.send(0, 4, 1);
    rig.settle();
    assert_eq!(rig.handle.fault(), None);
    // The page is there, as it is once a NIC has written to it.
    let touched = rig
        .provider
        .region()
        .mapping()
        .unwrap()
        .copy_in(0, &[7; 64]);
    assert!(touched);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&fd, punch, 0, SIZE).unwrap();
    std::fs::write(PAGES, &before).unwrap();
    // What a driver does when it looks at a header.
    let mut bytes = [1; 64];
    let mapping = rig.provider.region().mapping().unwrap();
    assert!(mapping.copy_out(0, &mut bytes));
    if !mapping.poisoned() {
        eprintln!("skipped: another huge page was free");
        rig.end();
        return;
    }
    assert_eq!(bytes, [0; 64]);
    rig.wire.send(0, 4, 1);
    rig.settle();
    wait_for("control is told", || rig.handle.fault().is_some());
    assert!(rig.handle.fault().is_some_and(|why| why.contains("pages")));
    rig.end();
}

/// A consumer whose rings lose a page: the attachment ends, and says why.
#[test]
fn rings_that_lose_a_page_end_the_attachment() {
    devrx_provider::guard::install().unwrap();
    let mut rig = Rig::new(Setup::default());
    rig.wire.send(0, 4, 1);
    rig.settle();
    assert_eq!(rig.handle.fault(), None);
    let (mut fresh, memory, ..) = side();
    fresh.watched = Arc::new(Watched::with_a_lost_page(&memory));
    rig.handle.change_consumer(fresh).expect("answered");
    wait_for("control is told", || rig.handle.fault().is_some());
    assert!(rig.handle.fault().is_some_and(|why| why.contains("rings")));
    rig.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a client writes into its rings and words, the worker lives, refuses, and accounts for every packet and chunk.
    #[test]
    fn random_bytes_from_a_client_cost_nothing_but_its_attachment(
        steps in proptest::collection::vec((0u8..6, any::<u32>(), any::<u16>()), 1..60)
    ) {
        let mut rig = Rig::new(Setup::default());
        let place = rig.layout.queue(0).unwrap();
        let mut held: Vec<Completion> = Vec::new();
        let mut honest = 0u64;
        for (what, a, b) in steps {
            match what {
                0 => rig.wire.send(0, (a % 40) as usize, 1 + (b % 3) as usize),
                1 => held.extend(rig.receive()),
                2 => {
                    // Good returns, as far as the ring has room for them.
                    let back: Vec<_> = held.drain(..).map(|c| RefillEntry::new(c.chunk, c.generation)).collect();
                    honest += rig.client.refills.push_some(&back) as u64;
                    rig.client.refills.publish();
                }
                3 => {
                    rig.client.refills.push_some(&[RefillEntry::new(a, b), RefillEntry::new(a % 64, b), RefillEntry::new(a % 64, b)]);
                    rig.client.refills.publish();
                }
                4 => {
                    let words = [place.completion_consumer, place.sleeping, place.refill_producer];
                    let word = rig.client_memory.word_to_write(words[a as usize % 3]).unwrap();
                    word.store(if b % 2 == 0 { a } else { b.into() });
                }
                _ => {
                    rig.numbers();
                }
            }
        }
        rig.settle();
        let numbers = rig.end();
        prop_assert!(numbers.returned <= numbers.completions);
        // Guessing a generation is possible; being credited for more than was delivered is not.
        prop_assert!(honest == 0 || numbers.completions > 0);
    }
}
