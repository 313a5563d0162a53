//! An attachment gets the packets its flow rules match and no other; the kernel keeps everything else.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::run_ok;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{IPV4, IPV6, Link, LinkSpec};
use devrx_hw_tests::neighbour::all_of;
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{capture, frame, lane, pcap};

/// For every rule: of a capture that was made with the rules in mind, exactly the frames it matches arrive. Among them: a port
/// rule matches no fragment but the first, an address rule matches all.
#[test]
fn each_rule_takes_exactly_its_frames() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let capture = capture::scapy_file("rules")?;
        let frames = pcap::read(&capture)?;
        let rules = capture::rules()?;
        ensure!(
            rules.len() >= 10,
            "rules.json has only {} rules",
            rules.len()
        );
        for (rule, matched) in &rules {
            takes(
                &daemon,
                &link,
                &[rule],
                &frames,
                matched.iter().copied().collect(),
            )
            .with_context(|| format!("rule {rule}"))?;
        }
        // Several rules of one attachment: any of them will do.
        let names = ["udp,dst-port=5000", "ip,src=10.77.0.0/16", "arp"];
        let union = names
            .iter()
            .flat_map(|name| rules[*name].iter().copied())
            .collect();
        takes(&daemon, &link, &names, &frames, union).context("three rules")
    });
}

fn takes(
    daemon: &Daemon,
    link: &Link,
    rules: &[&str],
    frames: &[Vec<u8>],
    matched: BTreeSet<usize>,
) -> Result<()> {
    let want: Vec<Vec<u8>> = matched
        .into_iter()
        .map(|index| frames[index].clone())
        .collect();
    daemon.attach("rules", "0", 256, 4096, rules)?;
    let (recv, file) = daemon.recv_pcap("rules", want.len(), 3)?;
    daemon.send(link, &capture::scapy_file("rules")?, 4000)?;
    recv.wait(Duration::from_secs(6))?;
    let stats = daemon.detach_and_check("rules")?;
    pcap::compare(&want, &pcap::read(&file)?)?;
    let packets = stats.attachment("rules")?.count("delivered")?;
    ensure!(
        packets == want.len() as u64,
        "{} frames match, {packets} were delivered",
        want.len()
    );
    Ok(())
}

#[test]
fn tcp_and_ping_go_on_through_the_kernel_beside_an_attachment() {
    lane::test(|| {
        // Offloads as the kernel sets them: this is how interfaces are used.
        let link = Link::new(LinkSpec {
            mtu: 1500,
            addresses: true,
            offloads: true,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        const WANTED: usize = 2000;
        daemon.attach("port", "0", 4096, 4096, &["udp,dst-port=5000"])?;
        let (recv, file) = daemon.recv_pcap("port", WANTED * 2, 20)?;
        // A kernel socket on the port of the attachment hears nothing; one on another port hears all.
        let (deaf, hears) = link.near.enter(|| {
            let sockets = (
                UdpSocket::bind((IPV4[0], 5000))?,
                UdpSocket::bind((IPV4[0], 5001))?,
            );
            sockets
                .0
                .set_read_timeout(Some(Duration::from_millis(100)))?;
            sockets.1.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(sockets)
        })?;
        let udp = link.far.spawn(|| {
            let sockets = [
                UdpSocket::bind((IPV4[1], 4000))?,
                UdpSocket::bind((IPV6[1], 4000))?,
            ];
            for number in 0..WANTED {
                let payload = vec![number as u8; 8 + number % 1400];
                for (socket, near) in sockets.iter().zip([IPV4[0], IPV6[0]]) {
                    socket.send_to(&payload, (near, 5000))?;
                }
                if number % 100 == 0 {
                    sockets[0].send_to(&payload, (IPV4[0], 5001))?;
                }
                if number % 8 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            Ok(())
        })?;
        for (address, port) in [(IPV4[0], 7000), (IPV6[0], 7001)] {
            capture::tcp_transfer(&link, address.parse::<IpAddr>()?, port, 20 << 20)
                .context("TCP beside the attachment")?;
        }
        for address in [IPV4[0], IPV6[0]] {
            let mut ping = link.far.command("ping");
            let ping = run_ok(
                ping.args([
                    "-n", "-c", "10", "-i", "0.01", "-W", "2", "-s", "2000", address,
                ]),
                Duration::from_secs(10),
            )?;
            ensure!(
                ping.stdout.contains(" 0% packet loss"),
                "ping beside the attachment: {}",
                ping.stdout
            );
        }
        devrx_hw_tests::namespace::join(udp)?;
        let output = recv.wait(Duration::from_secs(25))?;
        let frames = pcap::read(&file)?;
        for (index, frame) in frames.iter().enumerate() {
            ensure!(
                frame::is_udp_to(frame, 5000),
                "frame {index} is not UDP to port 5000: {frame:02x?}"
            );
        }
        // What TCP's bursts push out of the pair's own ring nobody here can take; all that came is delivered.
        let queue = daemon.stats()?.queue(0)?;
        let (came, lost) = (queue.count("packets")?, link.lost()?);
        ensure!(
            frames.len() as u64 == came && came <= WANTED as u64 * 2,
            "{} of {came} datagrams arrived: {output:?}, {}",
            frames.len(),
            queue.json()
        );
        println!("{came} datagrams came to the queue; the cable lost {lost} frames");
        ensure!(
            came + lost >= WANTED as u64 * 2,
            "{came} of {} datagrams came to the queue, and the cable lost {lost} frames: {output:?}",
            WANTED * 2
        );
        ensure!(
            deaf.recv(&mut [0; 2000]).is_err(),
            "a datagram of the attachment also reached the kernel"
        );
        let others = WANTED.div_ceil(100) as u64;
        let heard = (0..others).take_while(|_| hears.recv(&mut [0; 2000]).is_ok());
        let heard = heard.count() as u64;
        ensure!(
            heard > 0 && heard + lost >= others,
            "{heard} of {others} datagrams to another port were heard, and the cable lost {lost} frames"
        );
        daemon.detach_and_check("port")?;
        Ok(())
    });
}

/// With nothing attached, or nothing any more, a daemon changes nothing for the kernel.
#[test]
fn detached_ports_are_the_kernels_again() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            addresses: true,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        let socket = link.near.enter(|| {
            let socket = UdpSocket::bind((IPV4[0], 5000))?;
            socket.set_read_timeout(Some(Duration::from_millis(500)))?;
            Ok(socket)
        })?;
        let send = || {
            link.far
                .enter(|| Ok(UdpSocket::bind((IPV4[1], 4000))?.send_to(b"hello", (IPV4[0], 5000))?))
        };
        for round in 0..3 {
            send()?;
            socket
                .recv(&mut [0; 100])
                .with_context(|| format!("round {round}: before attach"))?;
            daemon.attach("port", "0", 64, 4096, &["udp,dst-port=5000"])?;
            send()?;
            ensure!(
                socket.recv(&mut [0; 100]).is_err(),
                "round {round}: the kernel got an attached packet"
            );
            daemon.detach_and_check("port")?;
        }
        send()?;
        socket.recv(&mut [0; 100]).context("after detach")?;
        Ok(())
    });
}

/// Rules are added and removed while packets come: what they say is so at once, and other rules' packets are not lost meanwhile.
#[test]
fn rules_change_under_traffic_without_loss_for_the_others() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("flows", "0", 8192, 4096, &["udp,dst-port=5000"])?;
        let (count, changes) = (12_000, 10);
        let (recv, file) = daemon.recv_pcap("flows", 1_000_000, 5)?;
        let steady = Sender::start(&link, Traffic::paced(5000, count, 4000))?;
        for change in 0..changes {
            daemon.ok("flow add flows udp,dst-port=5001")?;
            let listed = daemon.ok("flow list flows --json")?.stdout;
            ensure!(
                listed.contains("5001"),
                "change {change}: added, but not listed: {listed}"
            );
            let during = daemon.stats()?.queue(0)?.count("packets")?;
            Sender::start(&link, Traffic::paced(5001, 100, 10_000))?.finish()?;
            daemon.ok("flow del flows udp,dst-port=5001")?;
            ensure!(
                daemon.stats()?.queue(0)?.count("packets")? >= during + 100,
                "change {change}: its packets were not taken"
            );
            // After `del` has returned, not one more.
            Sender::start(&link, Traffic::paced(5001, 50, 10_000))?.finish()?;
        }
        steady.finish()?;
        recv.wait(Duration::from_secs(12))?;
        let (first, second): (Vec<_>, Vec<_>) = pcap::read(&file)?
            .into_iter()
            .partition(|bytes| frame::is_udp_to(bytes, 5000));
        all_of(&first, 5000, count).context("the rule that stayed")?;
        ensure!(
            second.len() == changes * 100,
            "the rule that came and went took {} of {} frames",
            second.len(),
            changes * 100
        );
        daemon.refused("flow del flows udp,dst-port=5001")?;
        daemon.refused("flow add flows nonsense")?;
        daemon.detach_and_check("flows")?;
        Ok(())
    });
}
