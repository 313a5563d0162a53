//! The model as a PCI device of a virtual machine: a server of the vfio-user protocol, a wire, and a line to control it.
//!
//! QEMU from 10.1 on has the other side (`-device vfio-user-pci`). The protocol is described in QEMU's `docs/interop/vfio-user.rst`; its messages carry the
//! structures of Linux's `include/uapi/linux/vfio.h`. One client at a time, one message after the other; what the guest's memory is arrives as file
//! descriptors, so the memory must be shared (`memory-backend-memfd,share=on`). Behind a virtual IOMMU the maps come and go page by page, and an access
//! outside of them is refused and counted.
//!
//! The wire is a datagram a frame, as QEMU's own `-netdev dgram` with Unix sockets has it.

mod channel;
mod control;
mod interrupts;
mod memory;
mod session;
mod wire;

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

pub use control::Control;
pub use interrupts::Vectors;
pub use memory::{GuestMemory, Mapping};
pub use wire::Wire;

use crate::E810;

/// The model with its memory and interrupts, for one client after the other.
#[derive(Debug)]
pub struct Server {
    card: Arc<E810>,
    memory: Arc<GuestMemory>,
    vectors: Arc<Vectors>,
}

impl Server {
    /// A server of this card, which has its memory and interrupts from the client from now on.
    #[must_use]
    pub fn new(card: Arc<E810>) -> Self {
        let (memory, vectors) = (
            Arc::new(GuestMemory::default()),
            Arc::new(Vectors::default()),
        );
        card.set_memory(memory.clone());
        card.set_interrupts(vectors.clone());
        Self {
            card,
            memory,
            vectors,
        }
    }

    /// The memory that the client gave.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Waits for a client and serves it until it goes.
    ///
    /// # Errors
    ///
    /// What the socket says, or that the client broke the protocol so that nothing it says later can be understood.
    pub fn serve_one(&self, listener: &UnixListener) -> io::Result<()> {
        let (stream, _) = listener.accept()?;
        self.serve(stream)
    }

    /// Serves a client until it goes.
    ///
    /// # Errors
    ///
    /// As [`Server::serve_one`].
    pub fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let mut session = session::Session::new(&self.card, &self.memory, &self.vectors, stream);
        let end = session.run();
        // A client that is gone has no memory and takes no interrupts.
        self.vectors.clear();
        self.memory.clear();
        end
    }
}
