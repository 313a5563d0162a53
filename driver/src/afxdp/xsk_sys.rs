//! The AF_XDP socket calls (linux/if_xdp.h, net/xdp/xsk.c), each with what its errors mean.

#![expect(
    unsafe_code,
    reason = "socket options and addresses that libc has no safe form of"
)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use super::memory::RingMemory;
use super::ring::{Consumer, Desc, Entry, Offsets, Producer};

/// Which ring of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum RingKind {
    Rx,
    Fill,
    Completion,
}

/// The options of a bind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BindFlags {
    pub zero_copy: bool,
    pub multi_buffer: bool,
}

impl BindFlags {
    /// As `sxdp_flags` has them.
    pub(super) const fn bits(self) -> u16 {
        let mode = if self.zero_copy {
            libc::XDP_ZEROCOPY
        } else {
            libc::XDP_COPY
        };
        let frames = if self.multi_buffer {
            libc::XDP_USE_SG
        } else {
            0
        };
        libc::XDP_USE_NEED_WAKEUP | mode | frames
    }
}

/// `struct xdp_statistics`, what concerns reception. Packets.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Statistics {
    /// No chunk in the fill ring (copy mode), or larger than what can be received.
    pub dropped: u64,
    /// No room in the rx ring.
    pub ring_full: u64,
    /// Addresses in the fill ring that are outside the umem.
    pub invalid_fill: u64,
    /// Times the fill ring was found empty.
    pub fill_empty: u64,
}

/// An AF_XDP socket.
#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Socket {
    /// A socket of the calling thread's network namespace. Needs CAP_NET_RAW.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn set<T: Copy>(&self, level: i32, option: i32, value: &T) -> io::Result<()> {
        let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `len` bytes of `value`.
        let rc = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                len,
            )
        };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Reads an option; returns how many bytes of `value` the kernel filled.
    fn get<T: Copy>(&self, option: i32, value: &mut T) -> io::Result<usize> {
        let mut len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `len` bytes to `value`; the structures used here take any bits.
        let rc = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_XDP,
                option,
                std::ptr::from_mut(value).cast(),
                &raw mut len,
            )
        };
        if rc == 0 {
            Ok(len as usize)
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Makes `len` bytes at `address` the socket's umem, in chunks of `chunk` bytes. The kernel pins the pages: it never writes to
    /// memory that was unmapped. Errors: `ENOBUFS` RLIMIT_MEMLOCK (xdp_umem.c:xdp_umem_account_pages), `EFAULT` memory that cannot
    /// be pinned, `EINVAL` sizes, `ENOMEM`.
    pub(super) fn register_umem(&self, address: *mut u8, len: u64, chunk: u32) -> io::Result<()> {
        // SAFETY: integers only; zero is what unset fields must be.
        let mut umem: libc::xdp_umem_reg = unsafe { mem::zeroed() };
        umem.addr = address as u64;
        umem.len = len;
        umem.chunk_size = chunk;
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, &umem)
    }

    /// Sets the number of entries of a ring: a power of two.
    pub(super) fn set_ring(&self, ring: RingKind, entries: u32) -> io::Result<()> {
        let option = match ring {
            RingKind::Rx => libc::XDP_RX_RING,
            RingKind::Fill => libc::XDP_UMEM_FILL_RING,
            RingKind::Completion => libc::XDP_UMEM_COMPLETION_RING,
        };
        self.set(libc::SOL_XDP, option, &entries)
    }

    fn offsets(&self) -> io::Result<libc::xdp_mmap_offsets> {
        // SAFETY: integers only.
        let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
        let filled = self.get(libc::XDP_MMAP_OFFSETS, &mut offsets)?;
        if filled < size_of::<libc::xdp_mmap_offsets>() {
            return Err(io::Error::other(
                "this kernel's rings have no flags (older than Linux 5.4)",
            ));
        }
        Ok(offsets)
    }

    fn map<T: Entry>(
        &self,
        at: &libc::xdp_ring_offset,
        page: u64,
        entries: u32,
    ) -> io::Result<(Arc<RingMemory>, Offsets)> {
        let number = |n: u64| usize::try_from(n).map_err(io::Error::other);
        let offsets = Offsets {
            producer: number(at.producer)?,
            consumer: number(at.consumer)?,
            flags: number(at.flags)?,
            entries: number(at.desc)?,
        };
        let len = offsets.entries + entries as usize * size_of::<T>();
        let memory = RingMemory::map(
            self.as_fd(),
            libc::off_t::try_from(page).map_err(io::Error::other)?,
            len,
        )?;
        Ok((Arc::new(memory), offsets))
    }

    /// Maps the receive ring, made before by [`set_ring`](Self::set_ring).
    pub(super) fn map_rx(&self, entries: u32) -> io::Result<Consumer<Desc>> {
        let (memory, offsets) = self.map::<Desc>(
            &self.offsets()?.rx,
            libc::XDP_PGOFF_RX_RING.cast_unsigned(),
            entries,
        )?;
        Consumer::new(memory, offsets, entries)
            .ok_or_else(|| io::Error::other("the kernel's receive ring does not fit its mapping"))
    }

    /// Maps the fill ring, made before by [`set_ring`](Self::set_ring).
    pub(super) fn map_fill(&self, entries: u32) -> io::Result<Producer<u64>> {
        let (memory, offsets) =
            self.map::<u64>(&self.offsets()?.fr, libc::XDP_UMEM_PGOFF_FILL_RING, entries)?;
        Producer::new(memory, offsets, entries)
            .ok_or_else(|| io::Error::other("the kernel's fill ring does not fit its mapping"))
    }

    /// Binds to a queue. Errors: `EBUSY` the queue has a socket, or had one until just now (teardown is deferred); `EOPNOTSUPP` the
    /// driver has no zero-copy, or no multi-buffer with it; `EINVAL` no such queue; `ENODEV`; `ENETDOWN`.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, flags: BindFlags) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP.cast_unsigned() as u16,
            sxdp_flags: flags.bits(),
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
        // SAFETY: the kernel reads `len` bytes of `address`.
        let rc =
            unsafe { libc::bind(self.0.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) };
        if rc == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Whether the bound socket is zero-copy (`XDP_OPTIONS`).
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let mut options = libc::xdp_options { flags: 0 };
        self.get(libc::XDP_OPTIONS, &mut options)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// The kernel's counters.
    pub(super) fn statistics(&self) -> io::Result<Statistics> {
        // SAFETY: integers only.
        let mut s: libc::xdp_statistics = unsafe { mem::zeroed() };
        self.get(libc::XDP_STATISTICS, &mut s)?;
        Ok(Statistics {
            dropped: s.rx_dropped,
            ring_full: s.rx_ring_full,
            invalid_fill: s.rx_invalid_descs,
            fill_empty: s.rx_fill_ring_empty_descs,
        })
    }

    /// Lets system calls on this socket run the NIC's receive work, and prefers that to interrupts (Linux 5.11).
    pub(super) fn prefer_busy_poll(&self, microseconds: i32, budget: i32) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1_i32)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, &microseconds)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &budget)
    }

    /// Wakes the NIC's driver so that it looks at the fill ring, or runs its receive work when busy polling. Failures are of no
    /// consequence: the next call tries again.
    #[inline]
    pub(super) fn kick(&self) {
        // SAFETY: no memory is passed.
        unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
    }
}
