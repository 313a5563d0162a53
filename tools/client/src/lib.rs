//! The devrx client: make attachments, receive packets in batches, give chunks back.
//!
//! ```no_run
//! use devrx_client::{AttachOptions, Client};
//!
//! # fn main() -> Result<(), devrx_client::ClientError> {
//! let mut client = Client::connect("/run/devrx/devrx.sock")?;
//! let options = AttachOptions::new("camera", "eth0", 0).size(64 << 20).flow("udp,dst-port=5000");
//! let mut camera = client.attach(&options)?;
//! let mut payload = Vec::new();
//! loop {
//!     let batch = camera.recv(None)?;
//!     for packet in &batch {
//!         payload.clear();
//!         packet.copy_payload_to(&mut payload)?;
//!         println!("{} bytes of header, {} of payload", packet.header_len(), payload.len());
//!     }
//!     // The batch ends here, and its chunks go back.
//! }
//! # }
//! ```
//!
//! # Where a packet is
//!
//! The header, if it was split off, lies in host memory and can be copied out ([`Packet::copy_header`]). The payload lies in the
//! region: [`Packet::segments`] says where, as offsets that hold for every mapping of it, a GPU's included.
//! [`Packet::copy_payload_to`] copies it out where the region can be read by the CPU. There is no `&[u8]` into either: a NIC
//! or another process may write there.
//!
//! # Giving back
//!
//! A chunk belongs to the client from its delivery until it is given back. A [`Batch`] gives back everything when it is dropped,
//! except what was taken with [`Packet::hold`]: that is given back with [`Attachment::give_back`], at any time, from wherever
//! the attachment is. Chunks not given back are chunks that packets cannot be received into:
//! a [`Held`] that is dropped is lost until the attachment closes. [`Attachment::held`] counts what is out.
//!
//! # For a GPU, or another language
//!
//! [`Attachment::layout`], [`Attachment::daemon_memory`], [`Attachment::client_memory`] and [`Attachment::region_fd`] (with
//! [`Attachment::export_fd`], where another driver imports it) are all it takes to consume the rings without this crate; [`devrx_proto::layout`] and [`devrx_proto::ring`] say how.

mod attach;
mod attachment;
mod batch;
mod control;
mod error;
mod held;
mod in_flight;
mod memory;
mod packet;
pub mod placement;
mod session;

pub use attach::AttachOptions;
pub use attachment::{Attachment, QueueInfo};
pub use batch::{Batch, Packets};
pub use control::Client;
pub use devrx_proto as proto;
pub use devrx_proto::completion::CompletionFlags;
pub use error::ClientError;
pub use held::Held;
pub use in_flight::{InFlight, InFlightError, Mark};
pub use memory::Memory;
pub use packet::{Header, Packet, Segment};
