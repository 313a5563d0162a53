//! Clients that garble what they send, ask for the absurd, offer memory that cannot be trusted, and never read: refused with a reason, and a neighbour loses
//! nothing.

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::session::{Session, connect};
use devrx_proto::message::{AttachRequest, Hello, NameRequest, Reply, Request, StatsRequest};
use devrx_proto::socket::SocketError;
use nix::fcntl::SealFlag;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use attack::{Garbage, attachment, beside_a_neighbour, memfd, slow};

mod attack;

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
        slow::send_raw(&connect(&socket)?, &stats, &[null.as_raw_fd(); 253]).ok();
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
