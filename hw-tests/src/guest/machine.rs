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
    /// Its PCIe root ports.
    pub ports: &'static [RootPort],
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
    /// Its slot on the root bus, or its function behind a port. On the root bus an 82576 also takes the slots 16 and 17 above it, for its virtual functions.
    pub slot: u8,
    /// The root port that it is behind, if it is not on the root bus.
    pub port: Option<RootPort>,
}

/// A PCIe root port, which the guest's own driver can power off and on (`pciehp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootPort {
    /// What QEMU calls it.
    pub id: &'static str,
    /// Its slot on the root bus.
    pub slot: u8,
    /// The bus behind it, and the number of its physical slot. Buses are numbered in the order of the ports' slots.
    pub bus: u8,
    /// Whether it keeps what is behind it apart (ACS). Without that all of it is one IOMMU group.
    pub isolates: bool,
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
        match self.port {
            None => format!("0000:00:{:02x}.0", self.slot),
            Some(port) => format!("0000:{:02x}:00.{}", port.bus, self.slot),
        }
    }

    /// Its MAC address.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let bus = self.port.map_or(0, |port| port.bus);
        [0x52, 0x54, 0, 0, bus, self.slot]
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
            port: None,
        },
        Nic {
            id: "igb1",
            model: Model::Igb,
            backend: Backend::Datagram,
            slot: 6,
            port: None,
        },
        Nic {
            id: "virtio0",
            model: Model::Virtio,
            backend: Backend::Datagram,
            slot: 4,
            port: None,
        },
    ],
    ports: &[],
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
        port: None,
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
            port: None,
        },
        Nic {
            id: "peer0",
            model: Model::Peer,
            backend: Backend::Datagram,
            slot: 4,
            port: None,
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
        port: None,
    }],
    qxl: false,
    ..STANDARD
};

/// A port whose NIC can be pulled while the machine runs.
const PULLED: RootPort = RootPort {
    id: "pulled",
    slot: 8,
    bus: 1,
    isolates: true,
};
/// A port that makes one IOMMU group of what is behind it.
const LUMPED: RootPort = RootPort {
    id: "lumped",
    slot: 9,
    bus: 2,
    isolates: false,
};

const fn igb(id: &'static str, port: Option<RootPort>, slot: u8) -> Nic {
    Nic {
        id,
        model: Model::Igb,
        backend: Backend::Datagram,
        slot,
        port,
    }
}

/// Four 82576: `igb0` can be pulled, `igb1` is as on the standard machine, and `igb2` and `igb3` are two functions of one IOMMU group. Linux's pciehp sees to the
/// slots, as on a real machine, not the firmware.
pub const HOTPLUG: Machine = Machine {
    name: "hotplug",
    nics: &[
        igb("igb0", Some(PULLED), 0),
        igb("igb1", None, 6),
        igb("igb2", Some(LUMPED), 0),
        igb("igb3", Some(LUMPED), 1),
    ],
    ports: &[PULLED, LUMPED],
    qxl: false,
    arguments: &[
        "-global",
        "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off",
    ],
    ..STANDARD
};

/// An E810 by the model that can be pulled.
pub const E810_HOTPLUG: Machine = Machine {
    name: "E810, hotplug",
    nics: &[Nic {
        id: "ice0",
        model: Model::E810,
        backend: Backend::Datagram,
        slot: 0,
        port: Some(PULLED),
    }],
    ports: &[PULLED],
    arguments: HOTPLUG.arguments,
    ..E810_ALONE
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
