//! The ioctls of linux/ethtool.h and linux/sockios.h that tell what an interface is and set its receive rules.

#![expect(unsafe_code, reason = "ioctls with structures that no crate has")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Bytes of an interface name with its terminator.
const NAME: usize = libc::IFNAMSIZ;

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GRXRINGS: u32 = 0x2d;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETHTOOL_GLINKSETTINGS: u32 = 0x4c;

/// `ETH_FLAG_RXVLAN`: the NIC takes VLAN tags out of received frames.
pub(super) const FLAG_RX_VLAN: u32 = 1 << 8;
/// `ETH_FLAG_NTUPLE`: receive rules are switched on.
pub(super) const FLAG_NTUPLE: u32 = 1 << 27;
/// `RX_CLS_LOC_SPECIAL` in the table size: the driver picks locations itself.
pub(super) const LOCATION_SPECIAL: u64 = 0x8000_0000;
/// `RX_CLS_LOC_ANY`: it shall.
pub(super) const LOCATION_ANY: u32 = 0xffff_ffff;

/// `struct ethtool_flow_ext`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct FlowExt {
    pub padding: [u8; 2],
    pub dest: [u8; 6],
    /// Big endian, as all below.
    pub vlan_etype: [u8; 2],
    pub vlan_tci: [u8; 2],
    pub data: [u8; 8],
}

/// `struct ethtool_rx_flow_spec`; the unions as the bytes they are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct FlowSpec {
    pub flow_type: u32,
    pub value: [u8; 52],
    pub value_ext: FlowExt,
    pub mask: [u8; 52],
    pub mask_ext: FlowExt,
    pub ring_cookie: u64,
    pub location: u32,
}

impl FlowSpec {
    pub(super) const fn new(flow_type: u32, queue: u32) -> Self {
        const EXT: FlowExt = FlowExt {
            padding: [0; 2],
            dest: [0; 6],
            vlan_etype: [0; 2],
            vlan_tci: [0; 2],
            data: [0; 8],
        };
        Self {
            flow_type,
            value: [0; 52],
            value_ext: EXT,
            mask: [0; 52],
            mask_ext: EXT,
            ring_cookie: queue as u64,
            location: LOCATION_ANY,
        }
    }
}

/// The most rules [`Ethtool::rules`] lists.
const MAX_RULES: usize = 8192;

/// `struct ethtool_rxnfc` with room for a list of locations.
#[repr(C)]
struct RxNfc<const N: usize> {
    cmd: u32,
    flow_type: u32,
    data: u64,
    spec: FlowSpec,
    rule_count: u32,
    locations: [u32; N],
}

impl<const N: usize> RxNfc<N> {
    const fn new(cmd: u32) -> Self {
        Self {
            cmd,
            flow_type: 0,
            data: 0,
            spec: FlowSpec::new(0, 0),
            rule_count: 0,
            locations: [0; N],
        }
    }
}

const _: () = {
    assert!(size_of::<FlowExt>() == 20);
    assert!(size_of::<FlowSpec>() == 168 && std::mem::offset_of!(FlowSpec, ring_cookie) == 152);
    assert!(std::mem::offset_of!(RxNfc<1>, locations) == 188 && size_of::<RxNfc<1>>() == 192);
    assert!(
        std::mem::offset_of!(LinkSettings, mask_words) == 15
            && std::mem::offset_of!(LinkSettings, masks) == 48
    );
    assert!(size_of::<DriverInfo>() == 196 && size_of::<Channels>() == 36);
};

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    rest: [u8; 64],
}

/// `struct ethtool_channels`.
#[derive(Default)]
#[repr(C)]
struct Channels {
    cmd: u32,
    /// max_rx, max_tx, max_other, max_combined.
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_value`.
#[derive(Default)]
#[repr(C)]
struct Value {
    cmd: u32,
    data: u32,
}

/// `struct ethtool_link_settings` with its masks.
#[repr(C)]
struct LinkSettings {
    cmd: u32,
    speed: u32,
    bytes: [u8; 7],
    /// Negative in the answer to a wrong size: what it should be.
    mask_words: i8,
    more: [u8; 32],
    masks: [u32; 3 * 127],
}

/// A socket to ask through, of the network namespace it was made in.
#[derive(Debug)]
pub(super) struct Ethtool(OwnedFd);

impl Ethtool {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn request(name: &str) -> io::Result<libc::ifreq> {
        if name.len() >= NAME || name.is_empty() {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: integers and pointers; zero is valid for both.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        Ok(request)
    }

    fn ioctl(&self, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the kernel reads and writes `request` and what its data pointer, if any, names; callers below pass structures at least as
        // large as the command says.
        let rc =
            unsafe { libc::ioctl(self.0.as_raw_fd(), number as _, std::ptr::from_mut(request)) };
        if rc < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// One ethtool command; `T` begins with its number and is what the kernel expects for it.
    fn ethtool<T>(&self, name: &str, command: &mut T) -> io::Result<()> {
        let mut request = Self::request(name)?;
        request.ifr_ifru.ifru_data = std::ptr::from_mut(command).cast();
        self.ioctl(libc::SIOCETHTOOL as libc::c_ulong, &mut request)
    }

    /// The driver's name and where the device is (a PCI address, mostly; empty if nowhere).
    pub(super) fn driver(&self, name: &str) -> io::Result<(String, String)> {
        let mut info = DriverInfo {
            cmd: ETHTOOL_GDRVINFO,
            driver: [0; 32],
            version: [0; 32],
            firmware: [0; 32],
            bus: [0; 32],
            rest: [0; 64],
        };
        self.ethtool(name, &mut info)?;
        let text = |bytes: &[u8]| {
            String::from_utf8_lossy(bytes.split(|&byte| byte == 0).next().unwrap_or_default())
                .into_owned()
        };
        Ok((text(&info.driver), text(&info.bus)))
    }

    /// Receive queues in use, by either of the two ways drivers answer.
    pub(super) fn rx_queues(&self, name: &str) -> io::Result<u32> {
        let mut channels = Channels {
            cmd: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        if self.ethtool(name, &mut channels).is_ok() && channels.rx + channels.combined > 0 {
            return Ok(channels.rx + channels.combined);
        }
        let mut rings = RxNfc::<1>::new(ETHTOOL_GRXRINGS);
        self.ethtool(name, &mut rings)?;
        u32::try_from(rings.data).map_err(io::Error::other)
    }

    /// The feature flags (`ETH_FLAG_*`).
    pub(super) fn flags(&self, name: &str) -> io::Result<u32> {
        let mut value = Value {
            cmd: ETHTOOL_GFLAGS,
            data: 0,
        };
        self.ethtool(name, &mut value).map(|()| value.data)
    }

    /// Whether the link is up.
    pub(super) fn link(&self, name: &str) -> io::Result<bool> {
        let mut value = Value {
            cmd: ETHTOOL_GLINK,
            data: 0,
        };
        self.ethtool(name, &mut value).map(|()| value.data != 0)
    }

    /// Megabits a second, if known.
    pub(super) fn speed(&self, name: &str) -> io::Result<Option<u32>> {
        let mut settings = LinkSettings {
            cmd: ETHTOOL_GLINKSETTINGS,
            speed: 0,
            bytes: [0; 7],
            mask_words: 0,
            more: [0; 32],
            masks: [0; 3 * 127],
        };
        self.ethtool(name, &mut settings)?;
        if settings.mask_words < 0 {
            settings.mask_words = -settings.mask_words;
            settings.cmd = ETHTOOL_GLINKSETTINGS;
            self.ethtool(name, &mut settings)?;
        }
        // SPEED_UNKNOWN is all ones.
        Ok((settings.speed != u32::MAX && settings.speed != 0).then_some(settings.speed))
    }

    /// The largest L3 packet, bytes.
    pub(super) fn mtu(&self, name: &str) -> io::Result<u32> {
        let mut request = Self::request(name)?;
        self.ioctl(libc::SIOCGIFMTU as libc::c_ulong, &mut request)?;
        // SAFETY: the kernel filled in this member.
        Ok(unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
    }

    /// Whether the interface is administratively up.
    pub(super) fn is_up(&self, name: &str) -> io::Result<bool> {
        let mut request = Self::request(name)?;
        self.ioctl(libc::SIOCGIFFLAGS as libc::c_ulong, &mut request)?;
        // SAFETY: the kernel filled in this member.
        Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }) & libc::IFF_UP != 0)
    }

    /// The size of the NIC's table of receive rules, with [`LOCATION_SPECIAL`], and how many are set. Fails where the NIC has none.
    pub(super) fn rule_table(&self, name: &str) -> io::Result<(u64, u32)> {
        let mut count = RxNfc::<1>::new(ETHTOOL_GRXCLSRLCNT);
        self.ethtool(name, &mut count)?;
        Ok((count.data, count.rule_count))
    }

    /// The size of the table, and the locations in use.
    pub(super) fn rules(&self, name: &str) -> io::Result<(u64, Vec<u32>)> {
        let (_, rules) = self.rule_table(name)?;
        let mut all = Box::new(RxNfc::<MAX_RULES>::new(ETHTOOL_GRXCLSRLALL));
        all.rule_count = rules.min(MAX_RULES as u32);
        self.ethtool(name, &mut *all)?;
        let used = all
            .locations
            .get(..all.rule_count as usize)
            .unwrap_or_default()
            .to_vec();
        Ok((all.data, used))
    }

    /// Sets a rule; returns where it is.
    pub(super) fn insert_rule(&self, name: &str, spec: FlowSpec) -> io::Result<u32> {
        let mut insert = RxNfc::<1>::new(ETHTOOL_SRXCLSRLINS);
        insert.spec = spec;
        self.ethtool(name, &mut insert)?;
        Ok(insert.spec.location)
    }

    /// Removes the rule at a location.
    pub(super) fn delete_rule(&self, name: &str, location: u32) -> io::Result<()> {
        let mut delete = RxNfc::<1>::new(ETHTOOL_SRXCLSRLDEL);
        delete.spec.location = location;
        self.ethtool(name, &mut delete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_answers() {
        let ethtool = Ethtool::new().unwrap();
        assert!(ethtool.mtu("lo").unwrap() >= 1280);
        assert!(ethtool.is_up("lo").is_ok());
        assert_eq!(
            ethtool.mtu("devrx-none").unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
        assert!(ethtool.mtu("a-name-longer-than-any").is_err());
        assert!(
            ethtool.rule_table("lo").is_err(),
            "the loopback interface has no receive rules"
        );
    }
}
