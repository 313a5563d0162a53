//! Interrupts of an open function: MSI-X for queues, and what the kernel has to say about the device.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use vfio_bindings::bindings::vfio as uapi;

use super::owned::Owned;
use crate::DriverError;

const ERROR: u64 = 1;
const REQUEST: u64 = 2;

/// Which notices are armed, and an epoll that is readable once one has come. Notices stay: what they are about does not pass.
#[derive(Debug)]
pub(super) struct Trouble {
    epoll: Epoll,
    // The kernel writes them, and the epoll watches them, as long as they are open.
    _eventfds: Vec<EventFd>,
}

impl Trouble {
    /// Arms the error interrupt (an uncorrectable error that AER reports) and the request interrupt (somebody unbinds or unplugs the device),
    /// where the device has them. `None` where it has neither.
    pub(super) fn arm(owned: &Owned) -> Result<Option<Self>, DriverError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|error| no_descriptor("epoll_create1", error))?;
        let mut eventfds = Vec::new();
        for (index, notice) in [
            (uapi::VFIO_PCI_ERR_IRQ_INDEX, ERROR),
            (uapi::VFIO_PCI_REQ_IRQ_INDEX, REQUEST),
        ] {
            if owned.irqs(index) == 0 {
                continue;
            }
            let eventfd = eventfd()?;
            owned.set_irqs(index, &[eventfd.as_fd()])?;
            epoll
                .add(&eventfd, EpollEvent::new(EpollFlags::EPOLLIN, notice))
                .map_err(|error| no_descriptor("epoll_ctl", error))?;
            eventfds.push(eventfd);
        }
        Ok((!eventfds.is_empty()).then_some(Self {
            epoll,
            _eventfds: eventfds,
        }))
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// What has come, in words for whoever must end what uses the device `name`; `None` while nothing has.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        match self.notices() {
            (true, _) => Some(format!(
                "{name} reported an error that cannot be corrected (AER; `dmesg` names it): end what uses it, and reset the slot or \
                 power the machine off and on before using it again"
            )),
            (false, true) => Some(format!(
                "somebody is unbinding or unplugging {name}: the kernel waits until it is let go of"
            )),
            (false, false) => None,
        }
    }

    /// What has come: an error, a request.
    fn notices(&self) -> (bool, bool) {
        let mut events = [EpollEvent::empty(); 2];
        let count = self
            .epoll
            .wait(&mut events, EpollTimeout::ZERO)
            .unwrap_or(0);
        let has = |notice| events[..count].iter().any(|event| event.data() == notice);
        (has(ERROR), has(REQUEST))
    }
}

/// The MSI-X vectors.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    /// The kernel refuses to disarm what is not armed.
    armed: bool,
}

impl Vectors {
    /// Arms vectors 0 to `count`, exclusive; what was armed before is disarmed.
    pub(super) fn arm(&mut self, owned: &Owned, count: u32) -> Result<Vec<OwnedFd>, DriverError> {
        let have = owned.irqs(uapi::VFIO_PCI_MSIX_IRQ_INDEX);
        if count > have {
            return Err(DriverError::BadConfig {
                what: "number of MSI-X vectors",
                value: count.to_string(),
                why: format!("{} has {have}", owned.name()),
            });
        }
        // First all off: the kernel changes the number of vectors in use only from none.
        self.disarm(owned)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let eventfds: Vec<EventFd> = (0..count).map(|_| eventfd()).collect::<Result<_, _>>()?;
        let borrowed: Vec<BorrowedFd<'_>> = eventfds.iter().map(AsFd::as_fd).collect();
        owned.set_irqs(uapi::VFIO_PCI_MSIX_IRQ_INDEX, &borrowed)?;
        self.armed = true;
        Ok(eventfds.into_iter().map(OwnedFd::from).collect())
    }

    /// Takes all vectors off.
    pub(super) fn disarm(&mut self, owned: &Owned) -> Result<(), DriverError> {
        if self.armed {
            owned.set_irqs(uapi::VFIO_PCI_MSIX_IRQ_INDEX, &[])?;
            self.armed = false;
        }
        Ok(())
    }
}

/// Takes off the notices.
pub(super) fn disarm_trouble(owned: &Owned) -> Result<(), DriverError> {
    for index in [uapi::VFIO_PCI_ERR_IRQ_INDEX, uapi::VFIO_PCI_REQ_IRQ_INDEX] {
        if owned.irqs(index) > 0 {
            owned.set_irqs(index, &[])?;
        }
    }
    Ok(())
}

fn eventfd() -> Result<EventFd, DriverError> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|error| no_descriptor("eventfd", error))
}

fn no_descriptor(call: &'static str, error: nix::errno::Errno) -> DriverError {
    DriverError::sys(
        call,
        error.into(),
        "the process or the machine has no descriptors left: raise RLIMIT_NOFILE, or close attachments",
    )
}
