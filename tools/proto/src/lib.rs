//! What the devrx daemon and its clients share: control messages and the rings in shared memory.
//!
//! | module | what it holds |
//! |---|---|
//! | [`socket`] | a `SOCK_SEQPACKET` Unix socket that carries whole messages and file descriptors |
//! | [`message`] | the messages: a 16-byte header and a JSON body |
//! | [`stats`] | the object that `devrx stats --json` prints |
//! | [`drops`] | the names of the reasons for which packets are dropped |
//! | [`layout`] | where everything lies in the two memfds of an attachment |
//! | [`shm`] | those memfds: made, sealed, mapped, read and written |
//! | [`completion`], [`refill`] | the entries of the two rings |
//! | [`ring`] | the rings: producer and consumer, the two sleep protocols |
//! | [`wake`] | when a daemon wakes a client that sleeps |
//! | [`endpoints`] | what one consumer of an attachment gets: memfds and eventfds |
//! | [`event`] | eventfds |
//!
//! Nothing here trusts the other side: an index, a length or a message that cannot be right is a typed error or a counted
//! fault, never a panic and never an access out of range.

#[cfg(not(target_endian = "little"))]
compile_error!("the shared-memory layout is little-endian, and so must the host be");

pub mod completion;
pub mod drops;
pub mod endpoints;
pub mod event;
pub mod layout;
mod memfd;
pub mod message;
pub mod refill;
pub mod ring;
pub mod shm;
pub mod socket;
pub mod stats;
pub mod wake;

/// The socket a daemon listens on when nothing else was said.
pub const DEFAULT_SOCKET: &str = "/run/devrx/devrx.sock";

/// The environment variable that names the daemon's socket.
pub const SOCKET_ENV: &str = "DEVRX_SOCKET";
