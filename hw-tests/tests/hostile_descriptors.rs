//! Clients whose descriptors are slow, to close or to be asked about: nobody else waits for them.

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::session::{Session, connect};
use devrx_proto::message::{AttachRequest, NameRequest, Request, StatsRequest};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use attack::attachment;
use attack::slow::{Held, lingering, send_raw};

mod attack;

/// Runs `attack`, then has another client answered: at once, where the attacker's descriptors take a minute or for ever.
fn others_are_served(daemon: &Daemon, attack: &str) -> Result<()> {
    let start = Instant::now();
    daemon.stats().with_context(|| attack.to_owned())?;
    ensure!(start.elapsed() < Duration::from_secs(10), "{attack}");
    Ok(())
}

/// Does something that is all there before the daemon looks: a descriptor that is closed here after it is closed there is slow here.
fn while_stopped<T>(daemon: &Daemon, what: impl FnOnce() -> Result<T>) -> Result<T> {
    kill(daemon.pid(), Signal::SIGSTOP)?;
    let done = what();
    kill(daemon.pid(), Signal::SIGCONT)?;
    done
}

fn stats() -> Result<Vec<u8>> {
    Ok(Request::Stats(StatsRequest { name: None }).encode(2)?)
}

#[test]
fn an_epoll_that_is_held_holds_nobody_up() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let epoll = Held::epoll()?.0;
        let Some(held) = Held::new(&epoll)? else {
            return Ok(());
        };
        // Before any hello.
        let stream = connect(&daemon.socket())?;
        send_raw(&stream, &stats()?, &[epoll.as_raw_fd()])?;
        others_are_served(&daemon, "an epoll was handed over that is held")?;
        drop(held);
        Ok(())
    });
}

#[test]
fn a_consumers_events_in_an_epoll_that_is_held_hold_nobody_up() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        let mut session = Session::start(&daemon.socket())?;
        let epoll = Held::epoll()?;
        // One consumer ends as such, the other with its attachment.
        for (queue, name) in (0..).zip(["closed", "ended"]) {
            let request = AttachRequest {
                queue_first: queue,
                queue_last: queue,
                ..attachment(name, 1 << 20)
            };
            session.ask(&Request::Attach(Box::new(request)), &[])?;
            // Closed here again: the daemon has the last of them, and the epoll sees them still.
            for queue in session.open(name)?.queues {
                for event in [queue.wake, queue.kick] {
                    epoll.add(event, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
                }
            }
        }
        let Some(held) = Held::new(&epoll.0)? else {
            return Ok(());
        };
        let name = |name: &str| NameRequest { name: name.into() };
        for request in [
            Request::Close(name("closed")),
            Request::Detach(name("ended")),
            Request::Detach(name("closed")),
        ] {
            session.ask(&request, &[])?;
            others_are_served(&daemon, &format!("after {request:?}"))?;
        }
        drop(held);
        Ok(())
    });
}

/// As many descriptors as Linux lets anybody send, twice what a message may carry; the last of them is slow to close.
#[test]
fn more_descriptors_than_a_message_carries_hold_nobody_up() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let null = File::open("/dev/null")?;
        let (slow, _peer) = lingering()?;
        let mut fds = vec![null.as_raw_fd(); 252];
        fds.push(slow.as_raw_fd());
        let _stream = while_stopped(&daemon, || {
            let stream = connect(&daemon.socket())?;
            send_raw(&stream, &stats()?, &fds)?;
            drop(slow);
            Ok(stream)
        })?;
        others_are_served(&daemon, "253 descriptors came at once")
    });
}

#[test]
fn a_refused_connection_that_is_slow_to_close_holds_nobody_up() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let config = "[limits]\nsessions = 2\n[[interfaces]]\naddress = \"afxdp:dx0\"\n";
        let daemon = Daemon::start_with(&link, Some(config))?;
        let mut sessions = Vec::new();
        wait_for("the limit is reached", Duration::from_secs(5), || {
            sessions.extend(Session::start(&daemon.socket()));
            Ok(sessions.len() == 2)
        })?;
        let (slow, _peer) = lingering()?;
        let stream = while_stopped(&daemon, || {
            let stream = connect(&daemon.socket())?;
            stream.send(&stats()?, &[slow.as_fd()])?;
            drop(slow);
            Ok(stream)
        })?;
        // The end of the connection, or what there was unread.
        ensure!(
            !matches!(stream.recv(), Ok(Some(_))),
            "a third connection is answered"
        );
        sessions.clear();
        wait_for("sessions end", Duration::from_secs(5), || {
            Ok(Session::start(&daemon.socket()).is_ok())
        })?;
        // Too many for the program that asks would be an error: it retries.
        wait_for("others are served", Duration::from_secs(5), || {
            Ok(daemon.stats().is_ok())
        })?;
        Ok(())
    });
}

#[test]
fn connections_that_nobody_accepted_keep_no_daemon_from_ending() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        // The daemon may accept one before it sees the signal.
        let waiting = while_stopped(&daemon, || {
            let mut waiting = Vec::new();
            for _ in 0..3 {
                let (slow, peer) = lingering()?;
                let stream = connect(&daemon.socket())?;
                stream.send(&stats()?, &[slow.as_fd()])?;
                waiting.push((stream, peer));
            }
            kill(daemon.pid(), Signal::SIGTERM)?;
            Ok(waiting)
        })?;
        let socket = daemon.socket();
        let (_, _folder) = daemon.end(Signal::SIGTERM, Duration::from_secs(10))?;
        ensure!(!socket.exists(), "the socket's path stays");
        drop(waiting);
        Ok(())
    });
}
