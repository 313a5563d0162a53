//! Streams whose packets carry a sequence number: frames instead of packets.
//!
//! A sender numbers its packets, and so many of them make a frame. Packets are lost, overtake each other, and come twice. The placement puts
//! each to its place, `(frame, index) -> chunks`, and hands frames out in order: when all packets are there, when the time is over, or
//! when a later frame needs the place. Nothing is copied for it: the payload stays in its chunks, and the frame holds them until it is dropped.
//! [`Frame::copy_into`] gathers a frame where it is wanted in one piece; [`Frame::pieces_into`] says what a device has to copy for that, and
//! [`Frame::in_place`] when nothing.
//!
//! ```no_run
//! use devrx_client::Client;
//! use devrx_client::placement::{FrameReceiver, PlacementOptions};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let camera = Client::connect(Client::default_path())?.open("camera")?;
//! // A number of 4 bytes behind the UDP header, then 1024 bytes of data; 256 packets a frame.
//! let options = PlacementOptions::new(256, 1024).sequence(0, 4).window(8).deadline(Duration::from_millis(20));
//! let mut frames = FrameReceiver::new(camera, &options)?;
//! let mut image = vec![0; 256 * 1024];
//! while let Some(frame) = frames.recv(Some(Duration::from_secs(5)))? {
//!     let missing = frame.copy_into(&mut image, 0)?;
//!     println!("frame {}: {missing} packets are missing", frame.number());
//! }
//! println!("{:?}", frames.stats());
//! # Ok(())
//! # }
//! ```
//!
//! # Where the number is
//!
//! At a fixed offset behind the UDP header. Where the split reaches that far (`split_extra` of the attachment), it lies in the header slot,
//! and the payload may be memory that no CPU reads. Where the header ends at UDP, it lies in the payload, and is read there if this process can; else
//! the packet counts as unreadable. [`rule::step`] is all there is to know of a number once it is read, made to be written again for a GPU.

mod bin;
#[cfg(test)]
mod device_tests;
#[cfg(test)]
mod edge_tests;
mod frame;
mod options;
mod pieces;
mod receiver;
pub mod rule;
mod stats;
mod stream;
#[cfg(test)]
mod tests;
mod udp;
mod window;

pub use frame::Frame;
pub use options::{ByteOrder, PlacementError, PlacementOptions};
pub use pieces::{FILL, FROM_HEADERS, FROM_REGION, Piece};
pub use receiver::FrameReceiver;
pub use stats::{PlacementStats, Verdict};
pub use stream::Placement;
pub use window::FrameEnd;
