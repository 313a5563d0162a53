//! Making a socket over a share of a region.

use std::io;

use devrx_provider::{MapWay, page_size};

use super::ring::{Consumer, Desc, Producer};
use super::teardown::{TEARDOWN, bind_patiently};
use super::xsk_sys::{BindFlags, RingKind, Socket};
use crate::{DriverError, QueueConfig, ZeroCopy};

/// Entries of the completion ring, which a socket that only receives must have all the same.
const COMPLETIONS: u32 = 64;
/// What XDP puts before a frame in a chunk (`XDP_PACKET_HEADROOM`), bytes.
pub(super) const HEADROOM: u32 = 256;
/// What zero-copy multi-buffer keeps at a chunk's end, bytes.
const TAILROOM: u32 = 320;
/// The umem: where a provider's share lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    /// Bytes from the region's start.
    pub base: usize,
    /// Bytes.
    pub len: usize,
    /// Bytes in a chunk.
    pub chunk: u32,
}

/// A bound socket with its rings.
pub(super) struct Bound {
    pub rx: Consumer<Desc>,
    pub fill: Producer<u64>,
    pub socket: Socket,
    pub zero_copy: bool,
    pub multi_buffer: bool,
}

/// Checks that the memory can be a umem (net/xdp/xdp_umem.c): one page-aligned range, chunks of 2048 bytes or one page.
pub(super) fn share(nic: &str, config: &QueueConfig) -> Result<Share, DriverError> {
    let unfit = |why: String| DriverError::UnfitMemory {
        nic: nic.to_owned(),
        why,
    };
    let region = config.provider.region();
    let chunks = config.provider.chunks();
    let chunk = region.chunk_size();
    if chunk != 2048 && chunk != 4096 || u64::from(chunk) > page_size() {
        return Err(unfit(format!(
            "AF_XDP takes chunks of 2048 or 4096 bytes, not {chunk}; use `--chunk 4096`"
        )));
    }
    let mapping = region
        .mapping()
        .filter(|mapping| mapping.writable() && config.provider.ways().contains(&MapWay::HostAddress))
        .ok_or_else(|| {
            let kind = region.kind();
            unfit(format!(
                "AF_XDP writes ordinary host memory only, which the kernel can pin, and {kind} is none; use `--memory memfd` or `hugetlb`"
            ))
        })?;
    let place =
        |chunk: u32| usize::try_from(u64::from(chunk) * u64::from(region.chunk_size())).ok();
    let (Some(base), Some(end)) = (place(chunks.start), place(chunks.end)) else {
        return Err(unfit(
            "it does not fit this machine's address space".to_owned(),
        ));
    };
    if chunks.is_empty() || end > mapping.len() {
        return Err(unfit(format!(
            "the share of chunks {} to {} is empty or outside the region",
            chunks.start, chunks.end
        )));
    }
    if !(base as u64).is_multiple_of(page_size()) {
        return Err(unfit(format!(
            "the share begins at byte {base}, not at a page; use chunks of 4096 bytes or another number of queues"
        )));
    }
    Ok(Share {
        base,
        len: end - base,
        chunk,
    })
}

/// Opens a socket on queue `queue`: its umem is `share`, its rings have `config.ring` (fill) and `rx_ring` entries.
pub(super) fn bind(
    nic: &str,
    ifindex: u32,
    queue: u32,
    mtu: u32,
    share: Share,
    rx_ring: u32,
    config: &QueueConfig,
) -> Result<Bound, DriverError> {
    let socket = Socket::new().map_err(|error| {
        let fix = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => "run as root or with CAP_NET_RAW and CAP_NET_ADMIN",
            Some(libc::EAFNOSUPPORT) => "use a kernel with CONFIG_XDP_SOCKETS",
            _ => "see the kernel's log",
        };
        DriverError::sys("socket(AF_XDP)", error, fix)
    })?;
    let region = config.provider.region();
    let mapping = region.mapping().ok_or_else(|| DriverError::UnfitMemory {
        nic: nic.to_owned(),
        why: "it is not mapped".to_owned(),
    })?;
    // Within the mapping: `share` has checked.
    let address = mapping.as_ptr().wrapping_add(share.base);
    socket
        .register_umem(address, share.len as u64, share.chunk)
        .map_err(|error| umem_error(nic, share.len, error))?;
    let ring = |error| {
        DriverError::sys(
            "setsockopt(XDP_*_RING)",
            error,
            "use a smaller `ring`, a power of two",
        )
    };
    socket.set_ring(RingKind::Fill, config.ring).map_err(ring)?;
    socket
        .set_ring(RingKind::Completion, COMPLETIONS)
        .map_err(ring)?;
    socket.set_ring(RingKind::Rx, rx_ring).map_err(ring)?;
    let map = |error| {
        DriverError::sys(
            "mmap of an AF_XDP ring",
            error,
            "free memory, or use a smaller `ring`",
        )
    };
    let rx = socket.map_rx(rx_ring).map_err(map)?;
    let fill = socket.map_fill(config.ring).map_err(map)?;

    let mut last = io::Error::from_raw_os_error(libc::EOPNOTSUPP);
    for flags in modes(config.zero_copy, mtu, share.chunk) {
        match bind_patiently(&socket, ifindex, queue, flags) {
            Ok(()) => {
                if config.busy_poll {
                    let fix = "use Linux 5.11 or newer, or switch busy polling off";
                    socket.prefer_busy_poll(20, 64).map_err(|error| {
                        DriverError::sys("setsockopt(SO_PREFER_BUSY_POLL)", error, fix)
                    })?;
                }
                let zero_copy = socket.is_zero_copy().unwrap_or(flags.zero_copy);
                return Ok(Bound {
                    rx,
                    fill,
                    socket,
                    zero_copy,
                    multi_buffer: flags.multi_buffer,
                });
            }
            Err(error) => {
                let busy = error.raw_os_error() == Some(libc::EBUSY);
                last = error;
                if busy {
                    // Another mode would not help, and has been waited for long enough.
                    break;
                }
            }
        }
    }
    Err(bind_error(nic, queue, config.zero_copy, last))
}

/// What to try, in order.
fn modes(wanted: ZeroCopy, mtu: u32, chunk: u32) -> Vec<BindFlags> {
    let zero = |multi_buffer| BindFlags {
        zero_copy: true,
        multi_buffer,
    };
    let copy = |multi_buffer| BindFlags {
        zero_copy: false,
        multi_buffer,
    };
    // Ethernet header, two VLAN tags.
    let single = mtu + 22 <= chunk - HEADROOM - TAILROOM;
    let mut modes = Vec::new();
    if wanted != ZeroCopy::Copy {
        modes.push(zero(true));
        if single {
            modes.push(zero(false));
        }
    }
    if wanted != ZeroCopy::ZeroCopy {
        // Before Linux 6.6 there is no multi-buffer: longer frames are then dropped, and counted.
        modes.extend([copy(true), copy(false)]);
    }
    modes
}

fn umem_error(nic: &str, len: usize, error: io::Error) -> DriverError {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => DriverError::sys(
            "setsockopt(XDP_UMEM_REG)",
            error,
            format!(
                "{len} bytes are more than this process may lock; raise RLIMIT_MEMLOCK (`ulimit -l unlimited`, LimitMEMLOCK=infinity in a \
                 systemd unit), or grant CAP_IPC_LOCK"
            ),
        ),
        Some(libc::EFAULT) => DriverError::UnfitMemory {
            nic: nic.to_owned(),
            why: "the kernel cannot pin it (EFAULT from XDP_UMEM_REG): a mapping of device memory or of a dma-buf, or a read-only one; use \
                  `--memory memfd` or `hugetlb`"
                .to_owned(),
        },
        Some(libc::ENOMEM) => DriverError::sys("setsockopt(XDP_UMEM_REG)", error, format!("free memory: {len} bytes are to be pinned")),
        _ => DriverError::sys("setsockopt(XDP_UMEM_REG)", error, "see the kernel's log (`dmesg`)"),
    }
}

fn bind_error(nic: &str, queue: u32, wanted: ZeroCopy, error: io::Error) -> DriverError {
    let nic = nic.to_owned();
    match error.raw_os_error() {
        Some(libc::EBUSY) => DriverError::QueueBusy {
            nic,
            queue,
            why: format!(
                "another program has an AF_XDP socket on it (EBUSY for {} s); `ss --xdp -p` shows which; where it shows none, the kernel has \
                 not freed it yet: try again",
                TEARDOWN.as_secs()
            ),
        },
        Some(libc::EOPNOTSUPP) if wanted == ZeroCopy::ZeroCopy => DriverError::Unsupported {
            nic,
            driver: "afxdp".to_owned(),
            what: "receive without a copy",
            why: "its Linux driver has no zero-copy AF_XDP, or not with frames of more than one chunk; let the kernel copy (zero_copy = \
                  \"auto\"), or use a smaller MTU"
                .to_owned(),
        },
        Some(libc::EINVAL) => DriverError::sys(
            "bind(AF_XDP)",
            error,
            format!("queue {queue} may have gone (`ethtool -l {nic}`), or the driver refuses these options: try without zero-copy"),
        ),
        Some(libc::ENETDOWN) => DriverError::sys("bind(AF_XDP)", error, format!("`ip link set {nic} up`")),
        _ => DriverError::sys("bind(AF_XDP)", error, "see the kernel's log (`dmesg`)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_copy_is_tried_first_and_only_where_asked() {
        let tried = |wanted, mtu, chunk| {
            modes(wanted, mtu, chunk)
                .iter()
                .map(|m| (m.zero_copy, m.multi_buffer))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            tried(ZeroCopy::Auto, 1500, 2048),
            [(true, true), (false, true), (false, false)]
        );
        assert_eq!(
            tried(ZeroCopy::Auto, 1400, 2048),
            [(true, true), (true, false), (false, true), (false, false)]
        );
        assert_eq!(
            tried(ZeroCopy::Copy, 1500, 4096),
            [(false, true), (false, false)]
        );
        assert_eq!(tried(ZeroCopy::ZeroCopy, 9000, 4096), [(true, true)]);
    }

    #[test]
    fn a_locked_memory_limit_is_explained() {
        let text =
            umem_error("eth0", 4096, io::Error::from_raw_os_error(libc::ENOBUFS)).to_string();
        assert!(
            text.contains("RLIMIT_MEMLOCK") && text.contains("ulimit -l"),
            "{text}"
        );
    }
}
