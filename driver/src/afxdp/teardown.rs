//! The end of a socket: giving its queue back, and proving that it is.

use std::io;
use std::time::{Duration, Instant};

use devrx_provider::page_size;

use super::bpf::grace_period;
use super::memory::RingMemory;
use super::xsk_sys::{BindFlags, RingKind, Socket};
use crate::DriverError;

/// How long the kernel is given to take a queue back from the socket before: 7 to 28 ms are usual, seconds were seen.
pub(super) const TEARDOWN: Duration = Duration::from_secs(5);
/// After so long it is said that a queue is waited for.
const SLOW: Duration = Duration::from_secs(2);
/// How a queue is asked whether it is free: by options that every kernel and every driver takes. (Before Linux 6.6 there is no
/// multi-buffer, and asking for it is EINVAL: a queue would never be proven free. In copy mode no MTU is too large.)
const PROBE: BindFlags = BindFlags {
    zero_copy: false,
    multi_buffer: false,
};

/// Closes a socket, and sees to it that the kernel frees its queue soon.
///
/// The kernel does that after `close` has returned: it frees an AF_XDP socket after an RCU grace period (`SOCK_RCU_FREE`, net/xdp/xsk.c), and a worker takes the
/// queue back then (net/xdp/xsk_buff_pool.c). 20 ms are usual; on two processors that also compiled, one round in a hundred took more than a second, and one
/// 14 s (Linux 6.18). Waiting for a grace period asks the kernel for one: in the same test the longest took 1.8 s then. Where processes start all the time it made no difference.
pub(super) fn close(socket: Socket) {
    drop(socket);
    hurry();
}

/// Where it fails, the kernel takes its time.
fn hurry() {
    if let Err(error) = grace_period() {
        tracing::debug!(%error, "a grace period cannot be waited for");
    }
}

/// Binds a socket to a queue that another may have had until just now: `EBUSY` is not the last word.
pub(super) fn bind_patiently(
    socket: &Socket,
    ifindex: u32,
    queue: u32,
    flags: BindFlags,
) -> io::Result<()> {
    let start = Instant::now();
    let mut said = false;
    loop {
        match socket.bind(ifindex, queue, flags) {
            Err(error)
                if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < TEARDOWN =>
            {
                if !said && start.elapsed() >= SLOW {
                    said = true;
                    tracing::warn!(
                        ifindex,
                        queue,
                        "the queue is taken still: by another program, or by a socket that is closed and that the kernel has not freed yet; \
                         waiting {} s in all",
                        TEARDOWN.as_secs()
                    );
                }
                // The one before may have been another process's, which is gone.
                hurry();
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

/// Waits until the queue is free: the driver has taken a closed zero-copy socket's chunks out of its hardware then, which the kernel does
/// after `close` has returned (net/xdp/xsk_buff_pool.c:xp_clear_dev frees the queue after the driver has let go). Known by binding another
/// socket to it, with memory of its own.
///
/// `EBUSY` at the end has two causes that cannot be told apart: the driver has not let go, or it has, and another program was
/// faster than this.
pub(super) fn wait_until_free(ifindex: u32, queue: u32) -> io::Result<()> {
    let page = usize::try_from(page_size()).map_err(io::Error::other)?;
    let memory = RingMemory::anonymous(page)?;
    let socket = Socket::new()?;
    socket.register_umem(memory.base().as_ptr(), page as u64, 2048)?;
    for ring in [RingKind::Fill, RingKind::Completion, RingKind::Rx] {
        socket.set_ring(ring, 2)?;
    }
    let bound = bind_patiently(&socket, ifindex, queue, PROBE);
    // It has the queue itself now.
    close(socket);
    match bound {
        // An interface that is gone has no queue.
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// What [`wait_until_free`] failed with, and what to do.
pub(super) fn not_free(ifindex: u32, queue: u32, error: io::Error) -> DriverError {
    let name = nix::net::if_::if_indextoname(ifindex)
        .map_or_else(|_| "IF".into(), |name| name.to_string_lossy().into_owned());
    let fix = if error.raw_os_error() == Some(libc::EBUSY) {
        format!(
            "queue {queue} of {name} is still taken after {} s: either another program has bound it since (`ss --xdp -p` shows which; \
             end it), or the NIC has not let go and may still write the region (`ip link set {name} down` makes it); keep the region \
             until the queue can be stopped",
            TEARDOWN.as_secs()
        )
    } else {
        format!(
            "it is not known whether the NIC still writes the region (`ip link set {name} down` makes it let go); keep the region until \
             the queue can be stopped"
        )
    };
    DriverError::sys("taking the queue back from the NIC", error, fix)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn socket_on(ifindex: u32) -> (Socket, RingMemory) {
        let memory = RingMemory::anonymous(4096).unwrap();
        let socket = Socket::new().unwrap();
        socket
            .register_umem(memory.base().as_ptr(), 4096, 2048)
            .unwrap();
        for ring in [RingKind::Fill, RingKind::Completion, RingKind::Rx] {
            socket.set_ring(ring, 2).unwrap();
        }
        bind_patiently(&socket, ifindex, 0, PROBE).unwrap();
        (socket, memory)
    }

    /// The proof that a NIC has let go: not while there is a socket, and soon after it was closed.
    #[test]
    fn a_queue_is_free_when_its_socket_is_gone() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: not root: AF_XDP sockets need it");
            return;
        }
        let thread = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let lo = nix::net::if_::if_nametoindex("lo").unwrap();
            let held = socket_on(lo);
            let error = wait_until_free(lo, 0).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
            // Here it is another program's, for all that this one knows.
            let text = not_free(lo, 0, error).to_string();
            for part in ["another program", "ss --xdp -p", "ip link set lo down"] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert!(!text.contains("  "), "{text}");
            drop(held);
            let start = Instant::now();
            wait_until_free(lo, 0).unwrap();
            assert!(start.elapsed() < TEARDOWN);
            assert!(
                wait_until_free(99, 0).is_ok(),
                "an interface that is gone writes nowhere"
            );
        });
        thread.join().unwrap();
    }

    /// Again and again, as who detaches and attaches does, while processes come and go: the queue is never free at once, and never refused.
    #[test]
    fn a_closed_sockets_queue_is_had_again() {
        if !nix::unistd::Uid::effective().is_root() {
            eprintln!("skipped: not root: AF_XDP sockets need it");
            return;
        }
        let over = AtomicBool::new(false);
        let churn = || {
            while !over.load(Ordering::Relaxed) {
                std::process::Command::new("true").status().unwrap();
            }
        };
        let rounds = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let lo = nix::net::if_::if_nametoindex("lo").unwrap();
            let mut held = socket_on(lo);
            for _ in 0..100 {
                close(held.0);
                held = socket_on(lo);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(churn);
            let done = scope.spawn(rounds).join();
            over.store(true, Ordering::Relaxed);
            done.unwrap();
        });
    }

    /// net/xdp/xsk.c of Linux 6.1 (Debian 12) refuses every option but these.
    #[test]
    fn the_proof_asks_for_nothing_that_older_kernels_do_not_know() {
        let known =
            libc::XDP_SHARED_UMEM | libc::XDP_COPY | libc::XDP_ZEROCOPY | libc::XDP_USE_NEED_WAKEUP;
        assert_eq!(PROBE.bits() & !known, 0);
        assert_eq!(PROBE.bits() & libc::XDP_COPY, libc::XDP_COPY);
    }
}
