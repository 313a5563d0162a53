//! Captures made by other people's tools, once a process: scapy, and tcpdump watching real programs talk.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{Process, run_ok, wait_for};
use crate::link::{FAR_IF, IPV4, IPV6, Link, LinkSpec};
use crate::namespace::join;
use nix::sys::signal::Signal;

/// The captures scapy makes (captures/make.py), `rules` apart.
pub const SCAPY: [&str; 8] = [
    "vlan",
    "extensions6",
    "fragments",
    "arp",
    "tcp",
    "others",
    "sizes",
    "malformed",
];

/// The folder of scapy's captures, made on first use.
pub fn scapy() -> Result<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let folder = tempfile::Builder::new()
        .prefix(&crate::lane::temporary("captures"))
        .tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures/make.py");
    // Debian's own interpreter: that is where the package python3-scapy is.
    run_ok(
        Command::new("/usr/bin/python3")
            .arg(script)
            .arg(folder.path()),
        Duration::from_secs(60),
    )?;
    Ok(FOLDER.get_or_init(|| folder.keep()))
}

/// One of scapy's captures.
pub fn scapy_file(name: &str) -> Result<PathBuf> {
    Ok(scapy()?.join(format!("{name}.pcap")))
}

/// For each flow rule, the frames of `rules.pcap` it matches, as the maker of the frames knows.
pub fn rules() -> Result<BTreeMap<String, Vec<usize>>> {
    let text = std::fs::read_to_string(scapy()?.join("rules.json"))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let rules = json["rules"]
        .as_object()
        .context("rules.json has no rules")?;
    let index =
        |value: &serde_json::Value| value.as_u64().and_then(|index| usize::try_from(index).ok());
    let indices = |list: &serde_json::Value| {
        list.as_array()
            .map(|list| list.iter().filter_map(index).collect())
    };
    rules
        .iter()
        .map(|(rule, list)| Ok((rule.clone(), indices(list).context("not a list")?)))
        .collect()
}

/// Starts tcpdump on the far end of a link, and returns when it listens.
pub fn tcpdump(link: &Link, file: &Path, more: &[&str]) -> Result<Process> {
    let mut command = link.far.command("tcpdump");
    command
        .args(["-i", FAR_IF, "-Z", "root", "-s", "0", "-U"])
        .args(["--immediate-mode"])
        .args(more)
        .arg("-w")
        .arg(file);
    let tcpdump = Process::start(&mut command)?;
    wait_for("tcpdump listens", Duration::from_secs(10), || {
        Ok(tcpdump.written().1.contains("listening on"))
    })?;
    Ok(tcpdump)
}

/// What tcpdump saw of pings (with fragments, over IPv4 and IPv6), ARP, a TCP session and UDP on a link without a daemon.
pub fn real_traffic(folder: &Path) -> Result<PathBuf> {
    let link = Link::new(LinkSpec {
        mtu: 1500,
        addresses: true,
        ..LinkSpec::default()
    })?;
    let file = folder.join("real.pcap");
    // Room for a whole transfer.
    let tcpdump = tcpdump(&link, &file, &["-B", "16384"])?;
    for (address, size) in [
        (IPV4[0], "56"),
        (IPV4[0], "4000"),
        (IPV6[0], "56"),
        (IPV6[0], "5000"),
    ] {
        let mut ping = link.far.command("ping");
        run_ok(
            ping.args([
                "-n", "-c", "3", "-i", "0.02", "-W", "2", "-s", size, address,
            ]),
            Duration::from_secs(10),
        )?;
    }
    for address in [IPV4[0], IPV6[0]] {
        tcp_transfer(&link, address.parse::<std::net::IpAddr>()?, 7000, 300_000)?;
    }
    link.far.enter(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        for size in [0, 1, 18, 500, 1472, 3000] {
            socket.send_to(&vec![7; size], (IPV4[0], 9))?;
        }
        Ok(())
    })?;
    std::thread::sleep(Duration::from_millis(100));
    tcpdump.signal(Signal::SIGINT)?;
    tcpdump.wait(Duration::from_secs(5))?;
    Ok(file)
}

/// Sends `bytes` from the far end to the near end over TCP and the same back, checking every byte.
pub fn tcp_transfer(link: &Link, near: std::net::IpAddr, port: u16, bytes: usize) -> Result<()> {
    let address = SocketAddr::new(near, port);
    let (ready, listening) = std::sync::mpsc::channel();
    let server = link.near.spawn(move || {
        let listener = TcpListener::bind(address)?;
        ready.send(()).ok();
        let (mut stream, _) = listener.accept()?;
        limit(&stream)?;
        let mut buffer = vec![0; 64 << 10];
        let mut left = bytes;
        while left > 0 {
            let count = stream.read(&mut buffer).context("the server's read")?;
            anyhow::ensure!(count > 0, "the connection ended {left} bytes early");
            stream
                .write_all(&buffer[..count])
                .context("the server's write")?;
            left -= count;
        }
        Ok(())
    })?;
    // A server that cannot listen drops its end; the connection below then says so.
    listening.recv_timeout(Duration::from_secs(5)).ok();
    let client = link.far.spawn(move || {
        let mut stream =
            TcpStream::connect_timeout(&address, Duration::from_secs(5)).context("connect")?;
        limit(&stream)?;
        let mut reader = stream.try_clone()?;
        let writer = std::thread::spawn(move || -> Result<()> {
            let block: Vec<u8> = (0..64 << 10).map(|at: usize| (at % 251) as u8).collect();
            let mut sent = 0;
            while sent < bytes {
                let at = sent % block.len();
                let count = (block.len() - at).min(bytes - sent);
                stream
                    .write_all(&block[at..at + count])
                    .context("the client's write")?;
                sent += count;
            }
            Ok(())
        });
        let mut buffer = vec![0; 64 << 10];
        let mut received = 0;
        while received < bytes {
            let count = reader.read(&mut buffer).context("the client's read")?;
            anyhow::ensure!(
                count > 0,
                "the connection ended early, after {received} bytes"
            );
            let right =
                |(at, byte): (usize, &u8)| *byte == (((received + at) % (64 << 10)) % 251) as u8;
            anyhow::ensure!(
                buffer[..count].iter().enumerate().all(right),
                "TCP delivered a wrong byte"
            );
            received += count;
        }
        join(writer)
    })?;
    join(client)?;
    join(server)
}

fn limit(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    stream.set_write_timeout(Some(Duration::from_secs(15)))?;
    Ok(())
}
