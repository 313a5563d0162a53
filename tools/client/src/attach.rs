//! What an attachment is to be.

use std::os::fd::OwnedFd;

use devrx_proto::message::{AttachRequest, Lifetime, Timestamps, Unsplit, ZeroCopy};

/// What to attach, and how. See [`AttachRequest`] for all there is; [`request`](Self::request) is it.
#[derive(Debug, Default)]
pub struct AttachOptions {
    /// The request, as it is sent.
    pub request: AttachRequest,
    /// The memory, if the client brings its own.
    pub memory: Option<OwnedFd>,
}

impl AttachOptions {
    /// An attachment called `name` on one queue of a NIC, in daemon-made shared memory of 64 MiB, for no packet yet: add flows.
    #[must_use]
    pub fn new(name: impl Into<String>, nic: impl Into<String>, queue: u32) -> Self {
        let request = AttachRequest {
            name: name.into(),
            nic: nic.into(),
            queue_first: queue,
            queue_last: queue,
            size: 64 << 20,
            ..AttachRequest::default()
        };
        Self {
            request,
            memory: None,
        }
    }

    /// The last queue: the attachment has all from the first to it.
    #[must_use]
    pub fn last_queue(mut self, queue: u32) -> Self {
        self.request.queue_last = queue;
        self
    }

    /// The kind of memory: `memfd`, `hugetlb`, `udmabuf`, `pci:0000:03:00.0/2`, `cuda:0`, ...
    #[must_use]
    pub fn memory(mut self, kind: impl Into<String>) -> Self {
        self.request.memory = kind.into();
        self
    }

    /// The client's own memory: a dma-buf (`dmabuf`), or a memfd sealed against shrinking (`memfd`).
    ///
    /// A dma-buf of device memory is not mapped to be read here: what reads it is the device. Whoever handed it over may map its own descriptor
    /// where the exporter allows that. Never announce reading to it (`DMA_BUF_IOCTL_SYNC` with `READ`) while it is attached: amdgpu and xe answer
    /// by moving the memory out of VRAM, and the NIC goes on writing to where it was.
    #[must_use]
    pub fn own_memory(mut self, kind: impl Into<String>, fd: OwnedFd) -> Self {
        self.request.memory = kind.into();
        self.memory = Some(fd);
        self
    }

    /// Bytes of the region.
    #[must_use]
    pub fn size(mut self, bytes: u64) -> Self {
        self.request.size = bytes;
        self
    }

    /// Bytes of a chunk. Not said: what suits the NIC.
    #[must_use]
    pub fn chunk(mut self, bytes: u32) -> Self {
        self.request.chunk = bytes;
        self
    }

    /// Adds a flow rule: `any`, `udp,dst-port=5000`, ...
    #[must_use]
    pub fn flow(mut self, rule: impl Into<String>) -> Self {
        self.request.flows.push(rule.into());
        self
    }

    /// When to wake a client that waits: after so many completions, or so many microseconds after the first.
    #[must_use]
    pub fn wake(mut self, batch: u32, timeout_us: u32) -> Self {
        self.request.wake_batch = batch;
        self.request.wake_timeout_us = Some(timeout_us);
        self
    }

    /// How long the attachment lives.
    #[must_use]
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.request.lifetime = lifetime;
        self
    }

    /// Whether headers are split off.
    #[must_use]
    pub fn split(mut self, split: bool) -> Self {
        self.request.split = split;
        self
    }

    /// How many bytes behind the headers go to the header slot as well, such as a sequence number behind UDP. NICs that split in hardware cut
    /// at the protocol, and refuse all but 0.
    #[must_use]
    pub fn split_extra(mut self, bytes: u32) -> Self {
        self.request.split_extra = bytes;
        self
    }

    /// What becomes of packets that cannot be split.
    #[must_use]
    pub fn unsplit(mut self, unsplit: Unsplit) -> Self {
        self.request.unsplit = Some(unsplit);
        self
    }

    /// Whose clock says when packets came.
    #[must_use]
    pub fn timestamps(mut self, timestamps: Timestamps) -> Self {
        self.request.timestamps = Some(timestamps);
        self
    }

    /// With or without a copy.
    #[must_use]
    pub fn zero_copy(mut self, zero_copy: ZeroCopy) -> Self {
        self.request.zero_copy = zero_copy;
        self
    }
}
