//! The keeper process.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use devrx_proto::socket::Stream;

use crate::aside::{self, Aside};

use super::wire::{self, Order, Unread};

/// What the keeper holds.
#[derive(Debug, Default)]
struct Held {
    daemon: Option<OwnedFd>,
    regions: BTreeMap<u64, (String, Vec<OwnedFd>)>,
    rules: Vec<(u32, u32)>,
    farewell: bool,
    aside: Aside,
}

impl Held {
    fn obey(&mut self, order: Order, fds: Vec<OwnedFd>) {
        match order {
            Order::Daemon => self.daemon = fds.into_iter().next(),
            Order::Hold { id, what } => {
                self.regions.insert(id, (what, fds));
            }
            Order::Drop { id } => {
                // A client can make a dma-buf slow to close, and the next order is not to wait for that.
                let (_, fds) = self.regions.remove(&id).unwrap_or_default();
                if !fds.iter().all(|fd| aside::is_memfd(fd.as_fd())) {
                    self.aside.close_fds(fds);
                }
            }
            Order::Rules { rules } => self.rules = rules,
            Order::Farewell => self.farewell = true,
        }
    }
}

/// Runs the keeper. Its socket is standard input. Returns when the daemon is gone, or has said farewell.
#[must_use]
pub fn main() -> ExitCode {
    settle();
    let socket = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => Stream::from_fd(socket),
        Err(error) => {
            eprintln!("devrx keeper: {error}; only the daemon starts a keeper");
            return ExitCode::FAILURE;
        }
    };
    match keep(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devrx keeper: {error}; only the daemon starts a keeper");
            ExitCode::FAILURE
        }
    }
}

/// Leaves the daemon's terminal and takes no signal that means the daemon: who ends the daemon must not end its keeper first.
fn settle() {
    // Fails only for the leader of a process group, which leaves nothing to do.
    let _ = nix::unistd::setsid();
    use Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM};
    for signal in [SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM] {
        crate::sys::ignore_signal(signal);
    }
    let _ = nix::sys::prctl::set_name(c"devrx-keeper");
    let _ = nix::unistd::chdir("/");
}

fn keep(socket: Stream) -> std::io::Result<()> {
    let mut held = Held::default();
    let mut open = true;
    loop {
        // With the socket closed and no pidfd there is nothing to wait for and nothing to be trusted: let go.
        let alone = held.daemon.is_none() || devrx_sabotage::removed("keeper-waits");
        if held.farewell || (!open && alone) {
            return Ok(());
        }
        let mut waits = Vec::with_capacity(2);
        if let Some(daemon) = &held.daemon {
            waits.push(PollFd::new(daemon.as_fd(), PollFlags::POLLIN));
        }
        if open {
            waits.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |wait: &PollFd<'_>| wait.revents().is_some_and(|events| !events.is_empty());
        let gone = held.daemon.is_some() && waits.first().is_some_and(ready);
        let said = open && waits.last().is_some_and(ready);
        drop(waits);
        // What the daemon said before it died comes first.
        if said {
            match wire::receive(&socket) {
                Ok(Some((order, fds))) => held.obey(order, fds),
                Ok(None) => open = false,
                Err(error @ Unread::Nonsense(_)) => eprintln!("devrx keeper: {error}"),
                // A socket that cannot be read any more tells nothing new; what is held stays held until the daemon is gone.
                Err(error @ Unread::Socket(_)) => {
                    eprintln!("devrx keeper: {error}");
                    open = false;
                }
            }
            continue;
        }
        if gone {
            if !held.regions.is_empty() || !held.rules.is_empty() {
                clean_up(&held);
            }
            return Ok(());
        }
    }
}

/// The daemon is gone without farewell: its NIC queues died with it; what the kernel kept is removed, then the memory goes.
fn clean_up(held: &Held) {
    let names = held
        .regions
        .values()
        .map(|(what, _)| what.as_str())
        .collect::<Vec<_>>()
        .join(", ");
    eprintln!(
        "devrx keeper: the daemon is gone; letting go of {} region(s): {names}",
        held.regions.len()
    );
    for (interface, location) in &held.rules {
        if let Err(error) = devrx_driver::afxdp::remove_leftover_rule(*interface, *location) {
            eprintln!(
                "devrx keeper: ntuple rule {location} of interface {interface} could not be removed ({error}); remove it with `ethtool -N IFNAME delete {location}`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn orders_are_obeyed() {
        let mut held = Held::default();
        held.obey(
            Order::Hold {
                id: 1,
                what: "one".into(),
            },
            vec![fd(), fd()],
        );
        held.obey(
            Order::Hold {
                id: 2,
                what: "two".into(),
            },
            vec![fd()],
        );
        held.obey(Order::Drop { id: 1 }, vec![]);
        held.obey(Order::Drop { id: 9 }, vec![]);
        held.obey(
            Order::Rules {
                rules: vec![(3, 4)],
            },
            vec![],
        );
        assert_eq!(held.regions.keys().copied().collect::<Vec<_>>(), [2]);
        assert_eq!(held.rules, [(3, 4)]);
        assert!(!held.farewell);
    }
}
