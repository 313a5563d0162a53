//! Clients that lie in the rings and take their memory away cost themselves their attachment at most. The daemon goes on, says what it refused, and a
//! neighbour on another queue loses nothing.

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::session::{Delivered, Session};
use devrx_proto::message::{AttachRequest, Request};
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use attack::{Garbage, attachment, beside_a_neighbour, memfd};

mod attack;

#[test]
fn forged_stale_and_repeated_returns_are_refused_and_counted() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("hostile", "0", 64, 4096, &["udp,dst-port=5000"])?;
        let mut session = Session::start(&daemon.socket())?;
        let consumer = session.open("hostile")?;
        let send = |count| Sender::start(&link, Traffic::paced(5000, count, 5000).on(0))?.finish();
        send(10)?;
        wait_for("ten completions", Duration::from_secs(2), || {
            Ok(consumer.produced()? == 10)
        })?;
        let got = (0..10)
            .map(|index| consumer.completion(index))
            .collect::<Result<Vec<_>>>()?;
        consumer.consumed(10)?;
        let undelivered = (0..64)
            .find(|chunk| got.iter().all(|one| one.chunk != *chunk))
            .context("all delivered?")?;
        let entries = [
            got[0],
            got[0], // repeated
            Delivered {
                generation: got[1].generation.wrapping_add(1),
                ..got[1]
            }, // not its generation
            Delivered {
                chunk: u32::MAX,
                generation: 0,
            }, // no such chunk
            Delivered {
                chunk: 64,
                generation: got[2].generation,
            }, // one past the end
            Delivered {
                chunk: undelivered,
                generation: 0,
            }, // not with the client
            got[3],
        ];
        consumer.give_back(0, &entries)?;
        wait_for("five refusals are counted", Duration::from_secs(3), || {
            send(1)?;
            Ok(daemon.stats()?.attachment("hostile")?.refused() >= 5)
        })?;
        let entry = daemon.check_sums()?.attachment("hostile")?;
        ensure!(
            entry.refused() == 5 && entry.count("returned")? == 2,
            "{}",
            entry.json()
        );
        // The pool still has every chunk once: as many packets fit as chunks are free, and not one more.
        send(200)?;
        let stats = daemon.check_sums()?;
        let with_client = stats.attachment("hostile")?.count("with_client")?;
        ensure!((50..=64).contains(&with_client), "{}", stats.0);
        let mut chunks: Vec<u32> = (10..consumer.produced()?)
            .map(|index| Ok(consumer.completion(index)?.chunk))
            .collect::<Result<_>>()?;
        chunks.extend(
            got.iter()
                .enumerate()
                .filter(|(index, _)| ![0, 3].contains(index))
                .map(|(_, one)| one.chunk),
        );
        chunks.sort_unstable();
        let count = chunks.len();
        chunks.dedup();
        ensure!(
            chunks.len() == count,
            "a chunk was delivered while the client held it"
        );
        drop(session);
        wait_for("all comes back", Duration::from_secs(1), || {
            Ok(daemon
                .stats()?
                .attachment("hostile")?
                .count("with_client")?
                == 0)
        })?;
        daemon.detach_and_check("hostile")?;
        Ok(())
    });
}

#[test]
fn random_bytes_in_the_rings_hurt_nobody_else() {
    beside_a_neighbour(5, |link, daemon, neighbour| {
        let flood = Sender::start(
            link,
            Traffic {
                rate: Some(30_000),
                ..Traffic::flood(5000)
            }
            .on(0),
        )?;
        let mut garbage = Garbage(0xfeed_beef_dead_cafe);
        let mut refused = 0;
        for round in 0.. {
            if !neighbour.busy() || round == 8 {
                break;
            }
            if !daemon.stats()?.alive("hostile") {
                daemon.attach("hostile", "0", 256, 4096, &["udp,dst-port=5000"])?;
            }
            let mut session = Session::start(&daemon.socket())?;
            let consumer = session.open("hostile")?;
            let size = usize::try_from(consumer.layout.client_size())?;
            let queue = consumer.queue()?;
            for step in 0..40 {
                match (round + step) % 4 {
                    0 => consumer
                        .client_memory
                        .write_all_at(&garbage.bytes(size), 0)?,
                    1 => {
                        // Plausible indices, implausible entries.
                        let entries = garbage.bytes(256 * 8);
                        consumer
                            .client_memory
                            .write_all_at(&entries, queue.refills)?;
                        let index = consumer.opened.queues[0]
                            .refill_start
                            .wrapping_add(200 + step);
                        consumer
                            .client_memory
                            .write_all_at(&index.to_le_bytes(), queue.refill_producer)?;
                    }
                    2 => {
                        for offset in [
                            queue.completion_consumer,
                            queue.sleeping,
                            queue.refill_producer,
                        ] {
                            let value = garbage.next() as u32;
                            consumer
                                .client_memory
                                .write_all_at(&value.to_le_bytes(), offset)?;
                        }
                    }
                    _ => {
                        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE
                            | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                        fallocate(&consumer.client_memory, flags, 0, i64::try_from(size)?)?;
                    }
                }
                consumer.kick()?;
                std::thread::sleep(Duration::from_millis(3));
            }
            // What the daemon writes, a client cannot: not by write, not by punching holes, not by shrinking.
            ensure!(
                consumer.daemon_memory.write_at(&[0; 64], 0).is_err(),
                "a client wrote the daemon's memory"
            );
            ensure!(
                consumer.daemon_memory.set_len(0).is_err(),
                "a client shrank the daemon's memory"
            );
            ensure!(
                consumer.client_memory.set_len(0).is_err(),
                "a client shrank the memory the daemon reads"
            );
            if let Some(region) = &consumer.region {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                ensure!(
                    fallocate(region, flags, 0, 4096).is_err(),
                    "a client punched a hole into the daemon's region"
                );
                ensure!(
                    region.set_len(0).is_err(),
                    "a client shrank the daemon's region"
                );
            }
            refused = refused.max(daemon.stats()?.attachment("hostile")?.refused());
            drop(session);
        }
        flood.stop()?;
        ensure!(
            refused > 0,
            "nothing of all this garbage was refused and counted"
        );
        Ok(())
    });
}

/// A client's own memory with holes punched into it while packets arrive: a sealed file cannot shrink, but it can lose its pages.
#[test]
fn holes_in_a_clients_own_memory_hurt_nobody_else() {
    beside_a_neighbour(4, |link, daemon, neighbour| {
        let size = 1 << 20;
        let memory = memfd(size, SealFlag::F_SEAL_SHRINK)?;
        let mut session = Session::start(&daemon.socket())?;
        let request = AttachRequest {
            memory_fd: true,
            ..attachment("hostile", size)
        };
        session.ask(&Request::Attach(Box::new(request)), &[memory.as_fd()])?;
        let consumer = session.open("hostile")?;
        let flood = Sender::start(
            link,
            Traffic {
                rate: Some(20_000),
                ..Traffic::flood(5000)
            }
            .on(0),
        )?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let mut read = 0;
        while neighbour.busy() && daemon.stats()?.alive("hostile") {
            fallocate(&memory, flags, 0, i64::try_from(size)?)?;
            // Honest otherwise, so that packets keep coming into the holes.
            let produced = consumer.produced()?;
            let entries = (read..produced)
                .map(|index| consumer.completion(index))
                .collect::<Result<Vec<_>>>()?;
            consumer.consumed(produced)?;
            consumer.give_back(read, &entries)?;
            read = produced;
            std::thread::sleep(Duration::from_millis(20));
        }
        flood.stop()?;
        ensure!(
            read > 100,
            "only {read} packets came into the client's memory"
        );
        drop(session);
        wait_for(
            "the attachment ends with its session",
            Duration::from_secs(2),
            || Ok(!daemon.stats()?.alive("hostile")),
        )?;
        Ok(())
    });
}

/// The eventfds are shared: a client can make writing its own block. That must hold up neither the daemon nor the end of the
/// attachment.
#[test]
fn a_client_that_blocks_its_wake_event_holds_nobody_up() {
    beside_a_neighbour(4, |link, daemon, _| {
        daemon.attach("hostile", "0", 256, 4096, &["udp,dst-port=5000"])?;
        let mut session = Session::start(&daemon.socket())?;
        let consumer = session.open("hostile")?;
        let wake = consumer.queues[0].wake.as_fd().try_clone_to_owned()?;
        fcntl(&wake, FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
        nix::unistd::write(&wake, &(u64::MAX - 1).to_ne_bytes())?;
        // It says that it sleeps, so that the daemon wants to wake it.
        consumer
            .client_memory
            .write_all_at(&1_u32.to_le_bytes(), consumer.queue()?.sleeping)?;
        Sender::start(link, Traffic::paced(5000, 500, 5000).on(0))?.finish()?;
        let start = std::time::Instant::now();
        daemon.stats().context("while a worker may be stuck")?;
        // A daemon that has noticed has ended the attachment by itself, and says why.
        if daemon.stats()?.alive("hostile") {
            daemon.detach("hostile")?;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(4),
            "stats and detach took {:?}",
            start.elapsed()
        );
        drop(session);
        Ok(())
    });
}
