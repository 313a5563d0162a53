//! AF_XDP where the NIC writes into the region itself: no copy is made, and the numbers say so.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Driver, Test};
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest::message::Frames;
use crate::inside::Host;
use crate::stats::Stats;
use crate::{frame, pcap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new(
        "virtio_receives_without_a_copy_where_linux_offers_it",
        virtio,
    )
    .limit(60),
    Test::new(
        "linuxs_igb_receives_without_a_copy_where_linux_offers_it",
        igb,
    )
    .igb(Driver::Linux)
    .limit(60),
];

/// UDP port of the frames.
const PORT: u16 = 5000;
/// How many chunks the region has.
const CHUNKS: u64 = 1024;
/// How many frames are sent: more than there are chunks, so that these come round.
const FRAMES: u64 = 3000;
/// Frames a second.
const RATE: u32 = 2000;
/// UDP payload bytes of a frame.
const PAYLOAD: usize = 1000;

/// Linux 6.12's virtio_net has the code, but does not offer it (drivers/net/virtio_net.c: virtnet_probe sets no
/// NETDEV_XDP_ACT_XSK_ZEROCOPY, so net/xdp/xsk_buff_pool.c answers EOPNOTSUPP); 7.3's does.
fn virtio(host: &mut Host) -> Result<()> {
    without_a_copy(host, "virtio0")
}

/// Linux's igb has it since 6.14 (drivers/net/ethernet/intel/igb/igb_xsk.c).
fn igb(host: &mut Host) -> Result<()> {
    without_a_copy(host, "igb0")
}

/// Whether this kernel's drivers offer zero-copy.
fn offered() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers = release
        .split(['.', '-', '+'])
        .map_while(|number| number.parse().ok());
    Ok(numbers.collect::<Vec<u32>>() >= vec![6, 14])
}

/// Where zero-copy is offered, it must be had when asked for; where not, it must be refused, and `auto` must say that it copies.
fn without_a_copy(host: &mut Host, nic: &str) -> Result<()> {
    let daemon = Daemon::start_here(&[&format!("afxdp:{nic}")])?;
    let attach = |mode: &str| {
        format!(
            "attach --name zero --nic {nic} --queue 0 --memory memfd --size {} --chunk 4096 --zero-copy {mode} \
             --flow udp,dst-port={PORT}",
            CHUNKS * 4096
        )
    };
    let offered = offered()?;
    if offered {
        daemon.ok(&attach("zero-copy"))?;
    } else {
        let why = daemon.refused(&attach("zero-copy"))?;
        println!("refused: {}", why.trim());
        ensure!(
            why.contains("no zero-copy AF_XDP"),
            "refused for another reason: {why}"
        );
        daemon.ok(&attach("auto"))?;
    }
    let stats = receive(host, &daemon, nic)?;
    let entry = stats.attachment("zero")?;
    ensure!(
        entry.json()["zero_copy"] == offered,
        "zero_copy should be {offered}: {}",
        entry.json()
    );
    let copied = if offered { 0 } else { FRAMES * PAYLOAD as u64 };
    ensure!(
        entry.count("payload_bytes_copied")? == copied,
        "payload_bytes_copied should be {copied}: {}",
        entry.json()
    );
    // Numbers that add up, although the NIC may drop what AF_XDP cannot count, which `exact` says.
    let queue = stats.queue(0)?;
    ensure!(
        queue.count("packets")? == FRAMES
            && queue.count("delivered")? + queue.drops()? == FRAMES
            && queue.json()["exact"] == !offered,
        "{FRAMES} frames were sent: {}",
        queue.json()
    );
    ensure!(
        entry.count("delivered")? == FRAMES && entry.count("returned")? == FRAMES,
        "{FRAMES} frames were received: {}",
        entry.json()
    );
    daemon.detach("zero")?;
    let mut ended = daemon.stats()?;
    wait_for("the attachment ends", Duration::from_secs(5), || {
        ended = daemon.stats()?;
        Ok(!ended.alive("zero"))
    })?;
    let entry = ended.attachment("zero")?;
    ensure!(
        entry.count("in_flight")? == 0 && entry.count("hold")? == entry.count("release")?,
        "not all chunks came back: {}",
        entry.json()
    );
    Ok(())
}

/// Sends the frames, checks each byte of what arrived, and answers with the statistics.
fn receive(host: &mut Host, daemon: &Daemon, nic: &str) -> Result<Stats> {
    let mac = host.machine().nic(nic).context("no such NIC")?.mac();
    let file = daemon.folder().join("zero.pcap");
    let recv = daemon.recv(
        "zero",
        &format!(
            "--count {FRAMES} --timeout 30 --json --pcap {}",
            file.display()
        ),
    )?;
    let frames = Frames::Numbered {
        port: PORT,
        first: 0,
        count: FRAMES,
        payload: PAYLOAD,
    };
    host.inject(nic, frames, Some(RATE))?;
    let sent = host.injected(nic, Duration::from_secs(20))?;
    ensure!(sent == FRAMES, "QEMU took {sent} of {FRAMES} frames");
    let output = recv.wait(Duration::from_secs(35))?;
    println!("devrx recv --json: {}", output.stdout.trim());
    let mut stats = daemon.stats()?;
    // The last chunks are given back when recv has ended.
    wait_for("all chunks are given back", Duration::from_secs(5), || {
        stats = daemon.stats()?;
        Ok(stats.attachment("zero")?.count("returned")? >= FRAMES)
    })
    .ok();
    println!("devrx stats --json: {}", stats.0);
    ensure!(output.status.success(), "recv failed: {output:?}");
    whole(&file, mac)?;
    Ok(stats)
}

/// Every frame is there, whole and in order.
fn whole(file: &Path, mac: [u8; 6]) -> Result<()> {
    let frames = pcap::read(file)?;
    ensure!(
        frames.len() as u64 == FRAMES,
        "{} of {FRAMES} frames arrived",
        frames.len()
    );
    for (want, bytes) in (0..).zip(&frames) {
        let number = frame::check_to(mac, bytes, PORT)?;
        ensure!(number == want, "frame {number} came where {want} was due");
    }
    Ok(())
}
