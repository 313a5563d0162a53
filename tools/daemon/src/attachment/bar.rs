//! `pci:BDF/BAR`: a BAR of another function as memory.

use std::os::fd::{AsFd, BorrowedFd};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devrx_driver::DriverError;
use devrx_driver::vfio::peer::{self, BarMemory, PeerWatch};
use devrx_driver::vfio::{Options, PciAddress};
use devrx_proto::message::FailureCode;
use devrx_provider::{Region, RegionSpec, pci};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::error::Refused;

/// How long a function may be taken by a keeper that lets go of it.
const PATIENCE: Duration = Duration::from_millis(500);

/// What the word begins with.
const KIND: &str = "pci:";

/// A BAR of a function, by its one spelling: two requests for the same BAR say the same.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BarName {
    address: PciAddress,
    bar: u32,
    text: String,
}

impl BarName {
    /// Reads `pci:0000:03:00.0/2`; `None` where the word is of another kind of memory.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and how it is written.
    pub fn parse(word: &str) -> Option<Result<Self, String>> {
        let rest = match word.strip_prefix(KIND) {
            Some(rest) => rest,
            None if word == "pci" => "",
            None => return None,
        };
        let wrong = || {
            format!(
                "{word:.60?} names no BAR; write pci:ADDRESS/BAR with a BAR from 0 to 5, such as pci:0000:03:00.0/2"
            )
        };
        Some((|| {
            let (address, bar) = rest.split_once('/').ok_or_else(wrong)?;
            let address = PciAddress::from_str(address).map_err(|_| wrong())?;
            let bar = match bar.as_bytes() {
                [digit @ b'0'..=b'5'] => u32::from(digit - b'0'),
                _ => return Err(wrong()),
            };
            Ok(Self {
                address,
                bar,
                text: format!("{KIND}{address}/{bar}"),
            })
        })())
    }

    /// The word, spelled in full.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the function is the one that somebody names so.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        name.parse()
            .is_ok_and(|address: PciAddress| address == self.address)
    }

    /// Whether a kind of memory is a BAR of the same function.
    #[must_use]
    pub fn shares_function(&self, memory: &str) -> bool {
        Self::parse(memory)
            .is_some_and(|other| other.is_ok_and(|other| other.address == self.address))
    }

    fn open(&self) -> Result<BarMemory, DriverError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match peer::open_bar(self.address, self.bar, &Options::default()) {
                // A keeper that was told to let go of it a moment ago has it open still.
                Err(DriverError::Sys { source, .. })
                    if source.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                opened => return opened,
            }
        }
    }

    /// Opens the function, and makes a region of the BAR's first bytes.
    ///
    /// # Errors
    ///
    /// When it is not bound to vfio-pci, another process has it, or the BAR is none or too small.
    pub(super) fn region(
        &self,
        spec: RegionSpec,
        lenders: &Lenders,
    ) -> Result<(Region, Lender), Refused> {
        let memory = self.open()?;
        let lender = lenders.watch(memory.watch())?;
        // What is larger than the BAR is refused below.
        let len = spec.size.min(memory.size());
        Ok((pci::region(memory.into_bar(len)?, spec)?, lender))
    }
}

/// The functions whose BARs are memory of attachments. One of them may be wanted back, and whoever wants it waits.
#[derive(Clone, Debug)]
pub struct Lenders(Arc<Epoll>);

impl Lenders {
    /// None yet.
    ///
    /// # Errors
    ///
    /// When there are no descriptors left.
    pub fn new() -> nix::Result<Self> {
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map(|epoll| Self(Arc::new(epoll)))
    }

    fn watch(&self, watch: PeerWatch) -> Result<Lender, Refused> {
        if let Some(fd) = watch.fd() {
            self.0
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .map_err(|error| {
                    Refused::new(
                        FailureCode::Exhausted,
                        format!("epoll_ctl: {error}; raise `sysctl fs.epoll.max_user_watches`, or free memory"),
                    )
                })?;
        }
        let lenders = self.0.clone();
        Ok(Lender { watch, lenders })
    }
}

/// Readable as long as one is wanted back.
impl AsFd for Lenders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// One of them. Watched while it is kept, which keeps the function open.
#[derive(Debug)]
pub(super) struct Lender {
    watch: PeerWatch,
    lenders: Arc<Epoll>,
}

impl Lender {
    /// Why its memory must be given up.
    pub(super) fn trouble(&self) -> Option<String> {
        self.watch.trouble()
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        // The function may stay open, as the owner of memory that was leaked: nobody could do what it asks for.
        if let Some(fd) = self.watch.fd()
            && let Err(error) = self.lenders.delete(fd)
        {
            tracing::error!(%error, "a function whose memory is in no use is watched still");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bar_has_one_spelling() {
        for word in ["pci:0000:03:00.0/2", "pci:03:00.0/2"] {
            let name = BarName::parse(word).unwrap().unwrap();
            assert_eq!(name.text(), "pci:0000:03:00.0/2");
            assert!(name.is_of("03:00.0") && !name.is_of("0000:03:00.1") && !name.is_of("eth0"));
        }
        for other in ["memfd", "pcie", "pcix:03:00.0/2"] {
            assert!(BarName::parse(other).is_none(), "{other}");
        }
    }

    #[test]
    fn what_names_no_bar_is_refused() {
        for bad in [
            "pci",
            "pci:",
            "pci:0000:03:00.0",
            "pci:0000:03:00.0/",
            "pci:0000:03:00.0/6",
            "pci:0000:03:00.0/+2",
            "pci:0000:03:00.0/02",
            "pci:0000:03:00.0/2/2",
            "pci:0000:03:00.0/2 ",
            "pci:0000:03:20.0/2",
            "pci:../../3/2",
            "pci:eth0/2",
        ] {
            let error = BarName::parse(bad).expect("of this kind").unwrap_err();
            assert!(error.contains("pci:0000:03:00.0/2"), "{bad}: {error}");
        }
    }
}
