//! What a guest is made of. Both sides read this: the host to start QEMU, the guest to know which device is where.

/// Bytes of memory behind the ivshmem device's BAR 2.
pub const BAR: u64 = 16 << 20;
/// The ivshmem device; its BAR 2 is the memory that [`super::message::Request::BarRead`] reads from the host's side.
pub const IVSHMEM: &str = "0000:00:03.0";
/// The qxl device, whose video memory stands in for a GPU's.
pub const QXL: &str = "0000:00:05.0";

/// The name of the virtio port that is the control channel.
pub const CONTROL: &str = "devrx.control";

/// A guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// Its name in reports.
    pub name: &'static str,
    /// Its network interfaces.
    pub nics: &'static [Nic],
    /// Whether it has the qxl device.
    pub qxl: bool,
    /// Which NICs are joined: what one sends arrives at the other, and is seen on the way.
    pub cables: &'static [(&'static str, &'static str)],
    /// CPUs. More than one only on the newest kernel: see `qemu`.
    pub cpus: u32,
    /// Memory, in MiB.
    pub memory: u32,
    /// Pages of 2 MiB set aside.
    pub hugepages: u32,
    /// More arguments for QEMU.
    pub arguments: &'static [&'static str],
    /// More words for the kernel's command line.
    pub append: &'static [&'static str],
}

/// A network interface of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nic {
    /// What tests call it.
    pub id: &'static str,
    /// What it is.
    pub model: Model,
    /// How frames reach it.
    pub backend: Backend,
    /// Its slot on the bus. An 82576 also takes the slots 16 and 17 above it, for its virtual functions.
    pub slot: u8,
}

/// The device a NIC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// Intel 82576. Bound to the driver that each test asks for.
    Igb,
    /// virtio-net behind the IOMMU, as AF_XDP's zero-copy needs it; always Linux's own, up, and called as [`Nic::id`] says.
    Virtio,
    /// The model of the Intel E810 ([`super::card`]), in a process of its own. Bound to the driver that each test asks for.
    E810,
    /// virtio-net for the far end of a cable: plain, not behind the IOMMU, always Linux's own, and called as [`Nic::id`] says.
    Peer,
}

/// How frames travel between a NIC and this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// A datagram a frame. Nothing is lost: the sender waits while the NIC has no descriptors. Up to some 60 000 frames a second.
    Datagram,
    /// A stream of frames, each after its length. Several times faster, but what the NIC cannot take is lost: pace it.
    Stream,
}

impl Nic {
    /// Its PCI address in the guest.
    #[must_use]
    pub fn pci(&self) -> String {
        format!("0000:00:{:02x}.0", self.slot)
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        [0x52, 0x54, 0, 0, 0, self.slot]
    }
}

/// The machine that serves most tests: two 82576, device memory of two kinds, and a virtio NIC.
pub const STANDARD: Machine = Machine {
    name: "standard",
    nics: &[
        Nic {
            id: "igb0",
            model: Model::Igb,
            backend: Backend::Datagram,
            slot: 1,
        },
        Nic {
            id: "igb1",
            model: Model::Igb,
            backend: Backend::Datagram,
            slot: 6,
        },
        Nic {
            id: "virtio0",
            model: Model::Virtio,
            backend: Backend::Datagram,
            slot: 4,
        },
    ],
    qxl: true,
    cables: &[],
    cpus: 1,
    memory: 1024,
    hugepages: 64,
    arguments: &[],
    append: &[],
};

/// The standard machine with the fast, lossy backend at its first 82576: for rates.
pub const FAST: Machine = Machine {
    name: "fast",
    nics: &[Nic {
        id: "igb0",
        model: Model::Igb,
        backend: Backend::Stream,
        slot: 1,
    }],
    qxl: false,
    ..STANDARD
};

/// An E810 by the model, joined by a cable to a plain NIC, which tests put into a network namespace of its own. Two CPUs, because Linux's ice has as many
/// queues as there are CPUs; and DMA is translated, in Linux's own use too.
pub const E810: Machine = Machine {
    name: "E810",
    nics: &[
        Nic {
            id: "ice0",
            model: Model::E810,
            backend: Backend::Datagram,
            slot: 1,
        },
        Nic {
            id: "peer0",
            model: Model::Peer,
            backend: Backend::Datagram,
            slot: 4,
        },
    ],
    cables: &[("ice0", "peer0")],
    cpus: 2,
    append: &["iommu=nopt"],
    ..STANDARD
};

/// An E810 by the model and nothing else, with one CPU: for counting instructions.
pub const E810_ALONE: Machine = Machine {
    name: "E810, one CPU",
    nics: &[Nic {
        id: "ice0",
        model: Model::E810,
        backend: Backend::Datagram,
        slot: 1,
    }],
    qxl: false,
    ..STANDARD
};

impl Machine {
    /// The NIC that tests call `id`.
    #[must_use]
    pub fn nic(&self, id: &str) -> Option<&'static Nic> {
        self.nics.iter().find(|nic| nic.id == id)
    }

    /// The NIC at the other end of this one's cable.
    #[must_use]
    pub fn far_end(&self, id: &str) -> Option<&'static Nic> {
        let ends = self.cables.iter().flat_map(|(a, b)| [(a, b), (b, a)]);
        let mut far = ends.filter(|(near, _)| **near == id);
        far.next().and_then(|(_, far)| self.nic(far))
    }

    /// Whether it has the modelled E810, which needs a newer QEMU.
    #[must_use]
    pub fn has_e810(&self) -> bool {
        self.nics.iter().any(|nic| nic.model == Model::E810)
    }
}
