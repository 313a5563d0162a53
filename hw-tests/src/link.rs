//! Two namespaces joined by a veth pair: the daemon takes queues of one end, traffic comes from the other.

use anyhow::{Context, Result};

use crate::namespace::Namespace;

/// The daemon's interface, in [`Link::near`].
pub const NEAR_IF: &str = "dx0";
/// The traffic source's interface, in [`Link::far`].
pub const FAR_IF: &str = "px0";
/// The daemon's side's MAC address.
pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
/// The traffic source's MAC address.
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0a];
/// IPv4 addresses: near, far (with [`LinkSpec::addresses`]).
pub const IPV4: [&str; 2] = ["10.77.0.1", "10.77.0.2"];
/// IPv6 addresses: near, far (with [`LinkSpec::addresses`]).
pub const IPV6: [&str; 2] = ["fd77::1", "fd77::2"];

/// How to make a link.
#[derive(Debug, Clone, Copy)]
pub struct LinkSpec {
    /// Receive and transmit queues of both ends. With two or more, the CPU a sender runs on picks the queue: CPU n, queue n.
    pub queues: u32,
    /// MTU of both ends.
    pub mtu: u32,
    /// Give both ends addresses, and let the kernel speak ARP and IPv6. Without, not a frame moves that a test did not send.
    pub addresses: bool,
    /// Segmentation and checksum offloads as the kernel sets them; otherwise off, so that every frame is as it would be on a wire.
    pub offloads: bool,
}

impl Default for LinkSpec {
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 9000,
            addresses: false,
            offloads: false,
        }
    }
}

/// The two namespaces, up and joined.
#[derive(Debug)]
pub struct Link {
    /// Where the daemon runs.
    pub near: Namespace,
    /// Where traffic comes from.
    pub far: Namespace,
}

impl Link {
    /// Makes the namespaces and the pair, and waits until both ends are up.
    pub fn new(spec: LinkSpec) -> Result<Self> {
        let link = Self {
            near: Namespace::new("near")?,
            far: Namespace::new("far")?,
        };
        let LinkSpec { queues, mtu, .. } = spec;
        let end = format!("numrxqueues {queues} numtxqueues {queues} mtu {mtu}");
        crate::command::sh(&format!(
            "ip -n {} link add {NEAR_IF} {end} address {} type veth peer name {FAR_IF} {end} address {} netns {}",
            link.near.name(),
            mac(NEAR_MAC),
            mac(FAR_MAC),
            link.far.name()
        ))?;
        for (side, (namespace, interface)) in link.ends().into_iter().enumerate() {
            link.prepare(spec, side, namespace, interface)?;
        }
        for (namespace, interface) in link.ends() {
            crate::command::wait_for(
                "the link comes up",
                std::time::Duration::from_secs(5),
                || {
                    Ok(namespace
                        .sh(&format!("ip -o link show {interface}"))?
                        .stdout
                        .contains("state UP"))
                },
            )?;
        }
        Ok(link)
    }

    /// Frames that the pair itself has lost on their way to the near end: each direction has a ring of 256, and what finds it full is gone before
    /// anybody sees it (drivers/net/veth.c, `VETH_RING_SIZE`).
    pub fn lost(&self) -> Result<u64> {
        let shown = self
            .far
            .sh(&format!("ip -j -s link show dev {FAR_IF}"))?
            .stdout;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        shown[0]["stats64"]["tx"]["dropped"]
            .as_u64()
            .with_context(|| format!("ip counts no drops: {shown}"))
    }

    fn ends(&self) -> [(&Namespace, &'static str); 2] {
        [(&self.near, NEAR_IF), (&self.far, FAR_IF)]
    }

    fn prepare(
        &self,
        spec: LinkSpec,
        side: usize,
        namespace: &Namespace,
        interface: &str,
    ) -> Result<()> {
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{interface}");
        if spec.addresses {
            namespace.write(&format!("{ipv6}/accept_dad"), "0")?;
            namespace.write(&format!("{ipv6}/router_solicitations"), "0")?;
        } else {
            namespace.write(&format!("{ipv6}/disable_ipv6"), "1")?;
            namespace.sh(&format!("ip link set {interface} arp off"))?;
        }
        if !spec.offloads {
            namespace.sh(&format!("ethtool -K {interface} tso off gso off gro off tx off rx off sg off txvlan off rxvlan off"))?;
        }
        if spec.queues > 1 {
            for queue in 0..spec.queues {
                let path = format!("/sys/class/net/{interface}/queues/tx-{queue}/xps_cpus");
                namespace.write(&path, &format!("{:x}", 1_u64 << queue))?;
            }
        }
        namespace.sh(&format!("ip link set {interface} up"))?;
        if spec.addresses {
            namespace.sh(&format!("ip address add {}/24 dev {interface}", IPV4[side]))?;
            namespace.sh(&format!(
                "ip address add {}/64 dev {interface} nodad",
                IPV6[side]
            ))?;
        }
        Ok(())
    }
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}
