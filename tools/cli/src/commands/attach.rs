//! `devrx attach`.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use devrx_client::AttachOptions;
use devrx_proto::message::{AttachRequest, Lifetime, Timestamps, Unsplit, ZeroCopy};

use super::{connect, warn};
use crate::{size, sys};

/// After so long without an answer that is said.
const SLOW: Duration = Duration::from_secs(2);

/// What to attach, and to what.
#[derive(Args)]
pub struct AttachArgs {
    /// The attachment's name: letters, digits, `-`, `_` and `.`.
    #[arg(long)]
    name: String,
    /// The NIC, by the interface name or PCI address given to `run`.
    #[arg(long)]
    nic: String,
    /// The queue, or a range of queues.
    #[arg(long, value_name = "N[-M]", value_parser = size::queues)]
    queue: (u32, u32),
    /// The memory: memfd, hugetlb, udmabuf, dmabuf:FD, dmabuf:PID:FD, cuda:INDEX, hip:INDEX, pci:BDF/BAR.
    #[arg(long, value_name = "KIND")]
    memory: String,
    /// How much memory, for example 64M.
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    size: u64,
    /// The size of a chunk [default: what suits the NIC].
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    chunk: Option<u64>,
    /// Packets to receive: `any`, `udp,dst-port=5000`, `ip,src=10.0.0.0/8`, ...; may be given several times.
    #[arg(long, value_name = "RULE")]
    flow: Vec<String>,
    /// Entries of the NIC's receive ring [default: what suits the NIC].
    #[arg(long, value_name = "N")]
    ring: Option<u32>,
    /// The size of a header slot [default: 256].
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    header_slot: Option<u64>,
    /// Wake a sleeping client after this many packets ...
    #[arg(long, value_name = "N")]
    wake_batch: Option<u32>,
    /// ... or this many microseconds after the first.
    #[arg(long, value_name = "US")]
    wake_timeout: Option<u32>,
    /// Leave the headers where the payload is.
    #[arg(long)]
    no_split: bool,
    /// So many bytes behind the headers go to the header slot as well, such as a sequence number behind UDP (AF_XDP only).
    #[arg(long, value_name = "BYTES", value_parser = size::bytes, conflicts_with = "no_split")]
    split_extra: Option<u64>,
    /// What becomes of packets whose header cannot be split off [default: deliver].
    #[arg(long, value_enum, conflicts_with = "no_split")]
    unsplit: Option<UnsplitMode>,
    /// Whose clock says when packets came [default: software].
    #[arg(long, value_enum)]
    timestamps: Option<TimestampMode>,
    /// Whether the kernel may or must receive without a copy.
    #[arg(long, value_enum, default_value_t = CopyMode::Auto)]
    zero_copy: CopyMode,
    /// Ask the kernel for busy polling.
    #[arg(long)]
    busy_poll: bool,
    /// Pin the queue's thread to this CPU; the threads of a range take the CPUs after it.
    #[arg(long, value_name = "CPU")]
    cpu: Option<u32>,
    /// The client cannot kick (a GPU returns the chunks): look at its rings every millisecond.
    #[arg(long)]
    polls_refill: bool,
}

/// ARP and other frames without an IP header, and headers longer than a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum UnsplitMode {
    /// Whole, where the payload is; in memory that no CPU reads only the rule `any` takes them.
    Deliver,
    /// Not at all: dropped and counted as `unsplit`.
    Drop,
    /// As many of their first bytes in the header slot as it holds.
    Header,
}

/// Either way a packet carries nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum TimestampMode {
    /// The daemon's, when a packet is taken from its ring.
    Software,
    /// The NIC's, when the packet arrived; refused where the NIC cannot say.
    Nic,
}

/// Whether AF_XDP copies.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum CopyMode {
    /// Without a copy where the NIC can.
    Auto,
    /// Always with a copy.
    Copy,
    /// Without a copy, or refuse.
    #[value(name = "zero-copy", alias = "on")]
    ZeroCopy,
}

/// Runs the command.
///
/// # Errors
/// What the daemon answers, and memory that cannot be named this way.
pub fn run(args: &AttachArgs, socket: &Path, json: bool) -> Result<()> {
    let (memory, fd) = memory(&args.memory)?;
    let request = AttachRequest {
        name: args.name.clone(),
        nic: args.nic.clone(),
        queue_first: args.queue.0,
        queue_last: args.queue.1,
        memory,
        size: args.size,
        chunk: small("--chunk", args.chunk)?,
        flows: args.flow.clone(),
        header_slot: small("--header-slot", args.header_slot)?,
        ring: args.ring.unwrap_or(0),
        wake_batch: args.wake_batch.unwrap_or(0),
        wake_timeout_us: args.wake_timeout,
        lifetime: Lifetime::Daemon,
        polls_refill: args.polls_refill,
        split: !args.no_split,
        // None at all is what 0 says, too.
        split_extra: args.split_extra.map_or(Ok(0), |bytes| {
            u32::try_from(bytes).with_context(|| {
                format!("--split-extra {bytes}: a header slot has 4096 bytes at most")
            })
        })?,
        unsplit: args.unsplit.map(|mode| match mode {
            UnsplitMode::Deliver => Unsplit::Deliver,
            UnsplitMode::Drop => Unsplit::Drop,
            UnsplitMode::Header => Unsplit::Header,
        }),
        timestamps: args.timestamps.map(|mode| match mode {
            TimestampMode::Software => Timestamps::Software,
            TimestampMode::Nic => Timestamps::Nic,
        }),
        zero_copy: match args.zero_copy {
            CopyMode::Auto => ZeroCopy::Auto,
            CopyMode::Copy => ZeroCopy::Copy,
            CopyMode::ZeroCopy => ZeroCopy::ZeroCopy,
        },
        busy_poll: args.busy_poll,
        cpu: args.cpu,
        ..AttachRequest::default()
    };
    let options = AttachOptions {
        request,
        memory: fd,
    };
    let slow = || {
        tell!(
            "note: the daemon has not answered for {} s; it waits for a queue that is taken still, by another program or because the kernel has not \
             freed it yet (its log says so), or is busy with other requests",
            SLOW.as_secs()
        );
    };
    let mut client = connect(socket)?;
    let reply = noting(SLOW, slow, || client.create(&options))?;
    warn(&reply.warnings);
    if args.flow.is_empty() {
        tell!(
            "note: no flow rule yet, so nothing arrives; `devrx flow add {} RULE`",
            args.name
        );
    }
    if json {
        say!("{}", serde_json::to_string(&reply)?)?;
    } else {
        say!(
            "attached {}; receive with `devrx recv {}`",
            reply.name,
            reply.name
        )?;
    }
    Ok(())
}

/// Does `work`, and says so by `slow` where that takes longer than `limit`.
fn noting<T>(limit: Duration, slow: impl FnOnce() + Send, work: impl FnOnce() -> T) -> T {
    let (done, waiting) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                slow();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// A size that the protocol holds in 32 bits; there, 0 stands for none.
fn small(option: &str, bytes: Option<u64>) -> Result<u32> {
    match bytes {
        None => Ok(0),
        Some(0) => bail!(
            "{option} 0: a chunk or slot of no bytes holds nothing; leave the option out for the default"
        ),
        Some(bytes) => u32::try_from(bytes)
            .with_context(|| format!("{option} {bytes}: 4 GiB and more make no sense here")),
    }
}

/// Splits the memory's kind from the file descriptor that goes with it.
fn memory(text: &str) -> Result<(String, Option<OwnedFd>)> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    let number = |part: &str| {
        part.parse::<i32>()
            .ok()
            .filter(|&number| number >= 0)
            .with_context(|| format!("--memory {text}: {part:?} is no number"))
    };
    match kind {
        "memfd" | "hugetlb" | "udmabuf" if rest.is_empty() => Ok((kind.to_owned(), None)),
        // The daemon has the function or the GPU, and says what is wrong with the name.
        "pci" | "cuda" | "hip" if !rest.is_empty() => Ok((text.to_owned(), None)),
        "dmabuf" if !rest.is_empty() => {
            let fd = match rest.split_once(':') {
                Some((pid, fd)) => sys::fd_of(number(pid)?, number(fd)?)
                    .with_context(|| format!("--memory {text}: cannot take that descriptor; it takes the right to trace the process (ptrace(2))"))?,
                None => sys::inherited_fd(number(rest)?)
                    .with_context(|| format!("--memory {text}: this process has no such descriptor; let the shell pass it on, or use dmabuf:PID:FD"))?,
            };
            Ok((kind.to_owned(), Some(fd)))
        }
        "cuda" | "hip" => bail!("--memory {text}: which GPU? write {kind}:INDEX, counted from 0"),
        _ => bail!(
            "--memory {text}: no such kind of memory; use memfd, hugetlb, udmabuf, cuda:INDEX, hip:INDEX, pci:BDF/BAR, dmabuf:FD or dmabuf:PID:FD"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_said_while_it_does() {
        let (sender, said) = mpsc::channel();
        let slow = || sender.send(()).unwrap();
        // It goes on when it has been said, and only then.
        noting(Duration::from_millis(1), slow, || said.recv().unwrap());
        let mut quick = true;
        noting(Duration::from_secs(60), || quick = false, || ());
        assert!(quick);
    }

    #[test]
    fn kinds_of_memory() {
        assert!(memory("memfd").unwrap().1.is_none());
        assert_eq!(memory("dmabuf:0").unwrap().0, "dmabuf");
        assert!(memory("dmabuf:0").unwrap().1.is_some());
        let pci = "pci:0000:03:00.0/2";
        assert_eq!(memory(pci).unwrap().0, pci);
        assert_eq!(memory("cuda:0").unwrap().0, "cuda:0");
        for bad in [
            "",
            "memfd:1",
            "dmabuf",
            "dmabuf:x",
            "dmabuf:-1",
            "dmabuf:1:x",
            "cuda",
            "hip:",
            "pci",
            "pci:",
            "floppy",
        ] {
            assert!(memory(bad).is_err(), "{bad:?} was taken");
        }
    }
}
