//! The page pool of one receive queue.
//!
//! Owner cache, recycle ring, provider as the slow path; one reference count a chunk, where idle is exactly one; a second count
//! for what a client owns, with a generation for every delivery. The owner (the queue's thread) has the [`Pool`]; everybody else
//! reaches it through a [`PoolHandle`].

mod error;

pub use error::Refusal;
