//! Memory of a GPU, made to be given away: as a dma-buf, and as a descriptor that CUDA imports.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::sys::{AllocationProp, Sys};
use super::{Attribute, Context, HostMemory};
use crate::{Access, GpuError};

/// Memory of a GPU, in this process's view of it. Dropping it ends the view; the memory itself stays as long as a descriptor of it does,
/// or another process's import.
#[derive(Debug)]
pub struct Allocation {
    context: Context,
    memory: u64,
    address: u64,
    /// Whole units of the driver's.
    bytes: usize,
    mapped: bool,
}

impl Allocation {
    /// Allocates memory of the context's GPU that other devices may write, filled with zeros. It is rounded up to what the driver
    /// hands out (2 MiB, usually).
    ///
    /// # Errors
    ///
    /// When the GPU cannot export memory, or has none left.
    pub fn new(context: &Context, bytes: u64) -> Result<Self, GpuError> {
        let device = context.device();
        for attribute in [Attribute::VirtualMemory, Attribute::PosixHandle] {
            if !device.can(attribute)? {
                return Err(GpuError::Unsupported(format!(
                    "cuda:{} cannot make memory that another process imports ({attribute:?} is 0): use host memory (memfd), registered with the GPU",
                    device.index()
                )));
            }
        }
        let rdma = device.can(Attribute::RdmaWithVirtualMemory)?;
        let ordinal = device.index().cast_signed();
        let prop = AllocationProp::of_device(ordinal, rdma);
        let mut made = context.with(|sys| {
            let bytes = round_up(sys, bytes, &prop)?;
            let memory = sys.create(bytes, &prop)?;
            Ok(Self::holding(context, memory, bytes))
        })?;
        made.map(ordinal)?;
        made.fill(0)?;
        Ok(made)
    }

    /// Takes part in memory that another process exported with [`export`](Self::export): the same bytes, at an address of this process's.
    ///
    /// # Errors
    ///
    /// When it is no such descriptor, of another GPU, or smaller.
    pub fn import(context: &Context, fd: BorrowedFd<'_>, bytes: u64) -> Result<Self, GpuError> {
        let device = context.device();
        let rdma = device.can(Attribute::RdmaWithVirtualMemory)?;
        let ordinal = device.index().cast_signed();
        let prop = AllocationProp::of_device(ordinal, rdma);
        let mut imported = context.with(|sys| {
            let bytes = round_up(sys, bytes, &prop)?;
            let memory = sys.import(fd)?;
            Ok(Self::holding(context, memory, bytes))
        })?;
        imported.map(ordinal)?;
        Ok(imported)
    }

    fn holding(context: &Context, memory: u64, bytes: usize) -> Self {
        Self {
            context: context.clone(),
            memory,
            address: 0,
            bytes,
            mapped: false,
        }
    }

    fn map(&mut self, ordinal: i32) -> Result<(), GpuError> {
        // What was done when a step fails is undone by `drop`.
        let context = self.context.clone();
        context.with(|sys| {
            self.address = sys.reserve(self.bytes)?;
            sys.map(self.address, self.bytes, self.memory)?;
            self.mapped = true;
            sys.allow(self.address, self.bytes, ordinal)
        })
    }

    /// Where kernels of this process find it.
    #[must_use]
    pub fn device_address(&self) -> u64 {
        self.address
    }

    /// Bytes, with what it was rounded up by.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Its GPU's context.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// A descriptor that CUDA in another process imports ([`import`](Self::import)). Who has it can read and write all of the memory,
    /// which lives as long as the descriptor.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn export(&self) -> Result<OwnedFd, GpuError> {
        self.context.with(|sys| sys.export(self.memory))
    }

    /// The first `bytes` as a dma-buf; they are whole pages of the host's.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn export_dmabuf(&self, bytes: u64) -> Result<OwnedFd, GpuError> {
        let len = self.range(0, usize::try_from(bytes).unwrap_or(usize::MAX))?;
        self.context.with(|sys| sys.dmabuf(self.address, len))
    }

    /// Fills all of it; it is filled when it returns.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn fill(&self, byte: u8) -> Result<(), GpuError> {
        self.context.with(|sys| {
            sys.fill(self.address, byte, self.bytes)?;
            // The call only begins it. What is still being filled would go over what a NIC writes.
            sys.synchronize()
        })
    }

    /// Copies bytes into it; they are there when it returns.
    ///
    /// # Errors
    ///
    /// Outside of it; what the driver answers.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), GpuError> {
        self.range(offset, from.len())?;
        self.context.with(|sys| {
            sys.copy_to(self.address + offset as u64, from)?;
            sys.synchronize()
        })
    }

    /// Copies bytes out of it.
    ///
    /// # Errors
    ///
    /// Outside of it; what the driver answers.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result<(), GpuError> {
        self.range(offset, to.len())?;
        self.context
            .with(|sys| sys.copy_from(to, self.address + offset as u64))
    }

    /// Has the GPU copy host memory into it: what it reads there is what its kernels would.
    ///
    /// # Errors
    ///
    /// Outside of either; what the driver answers.
    pub fn copy_from(
        &self,
        to: usize,
        host: &HostMemory,
        from: usize,
        len: usize,
    ) -> Result<(), GpuError> {
        self.range(to, len)?;
        let from = host.at(from, len)?;
        self.context
            .with(|sys| sys.copy(self.address + to as u64, from, len))
    }

    /// Has the GPU copy it to host memory.
    ///
    /// # Errors
    ///
    /// Outside of either, and memory that it may only read; what the driver answers.
    pub fn copy_to(
        &self,
        from: usize,
        host: &HostMemory,
        to: usize,
        len: usize,
    ) -> Result<(), GpuError> {
        if host.access() == Access::Read {
            return Err(GpuError::Unsupported(
                "this memory was registered to be read only".into(),
            ));
        }
        self.range(from, len)?;
        let to = host.at(to, len)?;
        self.context
            .with(|sys| sys.copy(to, self.address + from as u64, len))
    }

    fn range(&self, offset: usize, len: usize) -> Result<usize, GpuError> {
        match offset.checked_add(len) {
            Some(end) if end <= self.bytes => Ok(len),
            _ => Err(GpuError::Unsupported(format!(
                "{len} bytes from {offset} on are outside of memory of {} bytes",
                self.bytes
            ))),
        }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // A context that is broken (a reset GPU) takes its memory with it.
        let _ = self.context.with(|sys| {
            if self.mapped {
                sys.unmap(self.address, self.bytes);
            }
            if self.address != 0 {
                sys.unreserve(self.address, self.bytes);
            }
            sys.release(self.memory);
            Ok(())
        });
    }
}

/// A size in whole units of the driver's.
fn round_up(sys: &Sys, bytes: u64, prop: &AllocationProp) -> Result<usize, GpuError> {
    let unit = sys.granularity(prop)?.max(1);
    usize::try_from(bytes)
        .ok()
        .filter(|&bytes| bytes > 0)
        .and_then(|bytes| bytes.checked_next_multiple_of(unit))
        .ok_or_else(|| GpuError::Unsupported(format!("{bytes} bytes of a GPU's memory: ask for at least one, and for what an address can name")))
}
