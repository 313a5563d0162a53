//! Clients that lie, garble, hoard and never read cost themselves their attachment at most. The daemon goes on, says what it
//! refused, and a neighbour on another queue loses nothing.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::neighbour::Neighbour;
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::session::{Delivered, Session, connect};
use devrx_proto::message::{AttachRequest, Hello, NameRequest, Reply, Request, StatsRequest};
use devrx_proto::socket::SocketError;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Random numbers good enough to be garbage, the same every run (xorshift).
struct Garbage(u64);

impl Garbage {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }
}

/// Runs `attack` beside a neighbour, then checks that the daemon lives, serves, and that the neighbour and the sums are whole.
fn beside_a_neighbour(seconds: u32, attack: impl FnOnce(&Link, &Daemon, &Neighbour) -> Result<()>) {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let mut daemon = Daemon::start(&link)?;
        let neighbour = Neighbour::start(&daemon, &link, seconds)?;
        attack(&link, &daemon, &neighbour)?;
        ensure!(daemon.running()?, "the daemon died");
        neighbour.finish(&daemon)?;
        // Queue 0 is as good as new.
        if daemon.stats()?.alive("hostile") {
            daemon.detach_and_check("hostile")?;
        }
        daemon.attach("after", "0", 256, 4096, &["any"])?;
        let (recv, _) = daemon.recv_pcap("after", 500, 5)?;
        Sender::start(&link, Traffic::paced(5000, 500, 5000).on(0))?.finish()?;
        ensure!(
            recv.wait(Duration::from_secs(8))?.status.success(),
            "queue 0 does not work after the attack"
        );
        daemon.detach_and_check("after")?;
        ensure!(daemon.running()?, "the daemon died");
        Ok(())
    });
}

#[test]
fn garbage_on_the_control_socket_is_refused() {
    beside_a_neighbour(3, |_, daemon, _| {
        let before = descriptors(daemon)?.len();
        let mut garbage = Garbage(0x1234_5678_9abc_def1);
        let socket = daemon.socket();
        let hello = Request::Hello(Hello {
            client: "hostile".into(),
        })
        .encode(1)?;
        let stats = Request::Stats(StatsRequest { name: None }).encode(2)?;
        // Random bytes, as a first message and after a good hello.
        for round in 0..150 {
            let stream = connect(&socket)?;
            if round % 2 == 1 {
                stream.send(&hello, &[])?;
            }
            let length = 1 + usize::try_from(garbage.next() % 300)?;
            let mut message = garbage.bytes(length);
            if round % 3 == 0 {
                // With a good header, so that more of it is looked at.
                let header = stats.len().min(16).min(message.len());
                message[..header].copy_from_slice(&stats[..header]);
            }
            stream.send(&message, &[]).ok();
        }
        // Every beginning of a good message, and what is longer than the longest.
        for length in 0..hello.len() {
            connect(&socket)?.send(&hello[..length], &[]).ok();
        }
        let long = connect(&socket)?;
        long.send(&garbage.bytes(190_000), &[]).ok();
        long.send(&vec![b'['; 150_000], &[]).ok();
        // Descriptors where none belong, few and as many as a message holds.
        let null = File::open("/dev/null")?;
        for count in [1, 2, 64, 131] {
            let stream = connect(&socket)?;
            stream.send(&hello, &vec![null.as_fd(); count]).ok();
            stream.send(&stats, &vec![null.as_fd(); count]).ok();
        }
        raw_fds(&socket, &stats, 253)?;
        // Each of these alone is refused in words, or by the end of the connection; a good request in the same place is answered.
        let answer = |message: &[u8], fds: usize| -> Result<bool> {
            let stream = connect(&socket)?;
            stream.send(&hello, &[])?;
            stream.recv()?.context("hello is not answered")?;
            stream.send(message, &vec![null.as_fd(); fds])?;
            let Ok(Some(received)) = stream.recv() else {
                return Ok(false);
            };
            let (_, reply) = Reply::decode(&received.bytes, received.fds.len())?;
            Ok(!matches!(reply, Reply::Failure(_)))
        };
        ensure!(answer(&stats, 0)?, "a good request is refused");
        ensure!(
            !answer(&stats, 1)?,
            "a request with a descriptor too many is taken"
        );
        let announcing = |fds: u16| [&stats[..12], &fds.to_le_bytes(), &stats[14..]].concat();
        ensure!(
            !answer(&announcing(1), 1)?,
            "a request that takes no descriptor is taken with one"
        );
        ensure!(
            !answer(&announcing(1), 0)?,
            "a descriptor is announced, and missing"
        );
        ensure!(
            !answer(&[&stats[..], b"   "].concat(), 0)?,
            "a request with bytes behind it is taken"
        );
        ensure!(
            !answer(&stats[..stats.len() - 1], 0)?,
            "a cut-off request is taken"
        );
        ensure!(
            !answer(&[b"dvrx", &stats[4..]].concat(), 0)?,
            "another protocol is taken"
        );
        // Before hello, and nothing at all.
        connect(&socket)?.send(&stats, &[])?;
        let idle: Vec<_> = (0..100).map_while(|_| connect(&socket).ok()).collect();
        daemon.stats().context("with 100 idle connections")?;
        drop(idle);
        let counters = daemon.stats()?.0["daemon"].clone();
        let malformed = counters["malformed_messages"].as_u64().unwrap_or(0);
        ensure!(
            malformed >= 50,
            "of all this garbage {malformed} messages were counted: {counters}"
        );
        let mut open = Vec::new();
        wait_for(
            "the daemon closes what it was sent",
            Duration::from_secs(3),
            || {
                open = descriptors(daemon)?;
                Ok(open.len() < before + 10)
            },
        )
        .with_context(|| format!("{before} descriptors before, now {}: {open:?}", open.len()))?;
        Ok(())
    });
}

/// What the daemon's descriptors lead to.
fn descriptors(daemon: &Daemon) -> Result<Vec<String>> {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?;
    let links = folder
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    Ok(links.map(|link| link.display().to_string()).collect())
}

/// Sends more descriptors than the protocol's own sender would.
fn raw_fds(socket: &std::path::Path, message: &[u8], count: usize) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (stream, null) = (connect(socket)?, File::open("/dev/null")?);
    let fds = vec![null.as_raw_fd(); count];
    let parts = [std::io::IoSlice::new(message)];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(
        stream.as_fd().as_raw_fd(),
        &parts,
        &control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
    .ok();
    Ok(())
}

#[test]
fn a_client_that_never_reads_its_socket_holds_nobody_up() {
    beside_a_neighbour(3, |_, daemon, neighbour| {
        let session = Session::start(&daemon.socket())?;
        session.stream().set_nonblocking(true)?;
        let request = Request::Stats(StatsRequest { name: None }).encode(7)?;
        let mut sent = 0;
        while neighbour.busy() {
            match session.stream().send(&request, &[]) {
                Ok(()) => sent += 1,
                // Full: until the daemon has read some. Going on until it has had enough is what fills its own side.
                Err(SocketError::WouldBlock) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                // Hung up on.
                Err(_) => break,
            }
            ensure!(
                sent < 5_000_000,
                "the daemon took five million requests whose answers nobody reads"
            );
        }
        for _ in 0..5 {
            daemon
                .stats()
                .context("while another client does not read")?;
        }
        Ok(())
    });
}

fn attachment(name: &str, size: u64) -> AttachRequest {
    AttachRequest {
        name: name.into(),
        nic: NEAR_IF.into(),
        memory: "memfd".into(),
        size,
        chunk: 4096,
        flows: vec!["udp,dst-port=5000".into()],
        ..AttachRequest::default()
    }
}

fn memfd(size: u64, seals: SealFlag) -> Result<OwnedFd> {
    let fd = memfd_create(
        "hostile",
        MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC,
    )?;
    File::from(fd.try_clone()?).set_len(size)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// Each of these is no memory a daemon may receive into: it could shrink, is too small, or is no memory at all.
#[test]
fn memory_that_cannot_be_trusted_is_refused() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let mut daemon = Daemon::start(&link)?;
        let mut session = Session::start(&daemon.socket())?;
        let size = 1 << 20;
        let (pipe, _other_end) = nix::unistd::pipe()?;
        let file: OwnedFd = tempfile::tempfile()?.into();
        let sealed = memfd(size, SealFlag::F_SEAL_SHRINK)?;
        let read_only: OwnedFd = File::open(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&sealed)
        ))?
        .into();
        let wrong = [
            ("unsealed", memfd(size, SealFlag::empty())?),
            (
                "sealed against growing only",
                memfd(size, SealFlag::F_SEAL_GROW)?,
            ),
            ("too small", memfd(size - 4096, SealFlag::F_SEAL_SHRINK)?),
            ("empty", memfd(0, SealFlag::F_SEAL_SHRINK)?),
            (
                "sealed against writing",
                memfd(size, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_WRITE)?,
            ),
            ("opened for reading", read_only),
            ("a pipe", pipe),
            ("a file", file),
            ("a device", File::open("/dev/null")?.into()),
        ];
        for (what, fd) in &wrong {
            for memory in ["memfd", "dmabuf"] {
                let request = AttachRequest {
                    memory_fd: true,
                    memory: memory.into(),
                    ..attachment("wrong", size)
                };
                let said = session
                    .refused(&Request::Attach(Box::new(request)), &[fd.as_fd()])
                    .with_context(|| format!("{what} as {memory}"))?;
                ensure!(
                    said.len() > 20,
                    "{what} as {memory}: refused without a reason: {said:?}"
                );
            }
        }
        // A good one is taken, and a session that ends takes its attachment with it.
        let request = AttachRequest {
            memory_fd: true,
            ..attachment("right", size)
        };
        session.ask(&Request::Attach(Box::new(request)), &[sealed.as_fd()])?;
        ensure!(daemon.stats()?.alive("right"), "{}", daemon.stats()?.0);
        drop(session);
        wait_for(
            "the attachment ends with its session",
            Duration::from_secs(2),
            || Ok(!daemon.stats()?.alive("right")),
        )?;
        daemon.check_sums()?;
        ensure!(daemon.running()?);
        Ok(())
    });
}

#[test]
fn requests_with_absurd_numbers_are_refused() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let mut daemon = Daemon::start(&link)?;
        let mut session = Session::start(&daemon.socket())?;
        let base = || attachment("absurd", 1 << 20);
        let absurd = [
            AttachRequest {
                size: u64::MAX,
                ..base()
            },
            AttachRequest {
                size: 1 << 62,
                chunk: 4096,
                ..base()
            },
            AttachRequest {
                chunk: u32::MAX,
                ..base()
            },
            AttachRequest { chunk: 1, ..base() },
            AttachRequest {
                queue_first: 1,
                queue_last: 0,
                ..base()
            },
            AttachRequest {
                queue_last: u32::MAX,
                ..base()
            },
            AttachRequest {
                queue_first: u32::MAX,
                queue_last: u32::MAX,
                ..base()
            },
            AttachRequest {
                header_slot: u32::MAX,
                ..base()
            },
            AttachRequest {
                header_slot: 7,
                ..base()
            },
            AttachRequest {
                ring: u32::MAX,
                ..base()
            },
            AttachRequest { ring: 3, ..base() },
            AttachRequest {
                split_extra: u32::MAX,
                ..base()
            },
            AttachRequest {
                cpu: Some(1 << 20),
                ..base()
            },
            AttachRequest {
                name: String::new(),
                ..base()
            },
            AttachRequest {
                name: "../../etc".into(),
                ..base()
            },
            AttachRequest {
                name: "x".repeat(10_000),
                ..base()
            },
            AttachRequest {
                nic: "\0".into(),
                ..base()
            },
            AttachRequest {
                flows: vec!["any".into(); 5000],
                ..base()
            },
            AttachRequest {
                flows: vec!["udp,".repeat(5000)],
                ..base()
            },
        ];
        for request in absurd {
            let text = format!("{request:.300?}");
            session
                .refused(&Request::Attach(Box::new(request)), &[])
                .with_context(|| text)?;
        }
        for name in ["nobody", "", "\u{1f980}"] {
            session.refused(&Request::Detach(NameRequest { name: name.into() }), &[])?;
            session.refused(&Request::Close(NameRequest { name: name.into() }), &[])?;
        }
        ensure!(daemon.running()?);
        daemon.attach("fine", "0", 64, 4096, &["any"])?;
        daemon.detach_and_check("fine")?;
        Ok(())
    });
}

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
