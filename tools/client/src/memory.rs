//! Reading headers and payload.

use std::sync::Arc;

use devrx_proto::layout::Layout;
use devrx_proto::shm::Shm;

use crate::{ClientError, Held};

/// The memory of an attachment, to read headers and payload of chunks that are held. Cheap to clone, and free to move between
/// threads.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(crate) layout: Layout,
    pub(crate) daemon: Arc<Shm>,
    /// Or why a CPU cannot read it.
    pub(crate) region: Result<Arc<Shm>, Arc<str>>,
    pub(crate) kind: Arc<str>,
}

impl Memory {
    /// The region, if this process can read it. None: its memory is not a CPU's to read, or the kernel refuses to map it;
    /// [`copy_payload_to`](Self::copy_payload_to) says which.
    #[must_use]
    pub fn region(&self) -> Option<&Arc<Shm>> {
        self.region.as_ref().ok()
    }

    /// Appends a held chunk's payload to `out`.
    ///
    /// # Errors
    /// This process cannot read the region.
    pub fn copy_payload_to(&self, held: &Held, out: &mut Vec<u8>) -> Result<(), ClientError> {
        self.append_region(held.offset(), held.len(), out)
    }

    /// Copies a held chunk's header to `out`, as much as fits; answers how many bytes.
    pub fn copy_header(&self, held: &Held, out: &mut [u8]) -> usize {
        self.header(held.chunk, held.header_len(), out)
    }

    pub(crate) fn append_region(
        &self,
        offset: u64,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), ClientError> {
        let region = self.readable()?;
        if region.append_to(offset, len, out) {
            Ok(())
        } else {
            Err(outside(offset, len))
        }
    }

    pub(crate) fn copy_region(&self, offset: u64, out: &mut [u8]) -> Result<(), ClientError> {
        let region = self.readable()?;
        if region.copy_out(offset, out) {
            Ok(())
        } else {
            Err(outside(offset, out.len()))
        }
    }

    pub(crate) fn header(&self, chunk: u32, len: usize, out: &mut [u8]) -> usize {
        let len = len.min(out.len());
        match self.layout.header_slot(chunk) {
            Some(slot) if self.daemon.copy_out(slot, &mut out[..len]) => len,
            _ => 0,
        }
    }

    /// Copies `out.len()` bytes of a chunk's header slot, from byte `at` on. `false`: that is outside of the slot.
    pub(crate) fn header_at(&self, chunk: u32, at: usize, out: &mut [u8]) -> bool {
        let fits = at + out.len() <= self.layout.params().header_slot as usize;
        let slot = self.layout.header_slot(chunk).filter(|_| fits);
        slot.is_some_and(|slot| self.daemon.copy_out(slot + at as u64, out))
    }

    fn readable(&self) -> Result<&Arc<Shm>, ClientError> {
        self.region
            .as_ref()
            .map_err(|reason| ClientError::NotReadable {
                memory: self.kind.to_string(),
                reason: reason.to_string(),
            })
    }
}

fn outside(offset: u64, len: usize) -> ClientError {
    ClientError::broken(format!("{len} bytes at {offset} are outside of the region"))
}
