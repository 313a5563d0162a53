//! libdevrx: the devrx client for C. `include/devrx.h` documents it, and `tests/header.rs` holds the two together: every
//! function, struct and constant, by the Rust compiler on this side and by a C compiler on the other. `docs/src/c-abi.md` shows its use.
//!
//! Nothing is global: what belongs to an attachment lies behind its handle, and messages go to a buffer of the caller's. A panic never leaves
//! the library: it becomes an error, and the handle it happened to is not used again.

mod attachment;
mod batch;
mod error;
mod frames;
mod types;

pub use attachment::*;
pub use batch::*;
pub use error::{DEVRX_MESSAGE_SIZE, Error};
pub use frames::*;
pub use types::*;
