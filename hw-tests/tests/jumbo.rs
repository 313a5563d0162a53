//! Frames longer than a chunk: several chunks, one packet, delivered whole or not at all.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::ensure;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{IPV4, Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane, pcap};
use nix::sys::signal::Signal;

#[test]
fn datagrams_of_the_kernel_at_mtu_9000_arrive_whole() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            addresses: true,
            offloads: true,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        for chunk in [2048, 4096] {
            daemon.attach("jumbo", "0", 4096, chunk, &["udp,dst-port=5000"])?;
            let (recv, file) = daemon.recv_pcap("jumbo", 300, 5)?;
            link.far.enter(|| {
                let socket = UdpSocket::bind((IPV4[1], 4000))?;
                for number in 0..300_usize {
                    socket.send_to(&vec![number as u8; 8972 - number * 7], (IPV4[0], 5000))?;
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(())
            })?;
            recv.wait(Duration::from_secs(8))?;
            let frames = pcap::read(&file)?;
            ensure!(
                frames.len() == 300,
                "{} of 300 arrived in chunks of {chunk}",
                frames.len()
            );
            for (number, bytes) in frames.iter().enumerate() {
                ensure!(frame::is_udp_to(bytes, 5000), "frame {number} is another");
                let payload = &bytes[frame::HEADERS..];
                ensure!(
                    payload.len() == 8972 - number * 7,
                    "frame {number} has {} bytes",
                    bytes.len()
                );
                ensure!(
                    payload.iter().all(|byte| *byte == number as u8),
                    "frame {number} is damaged"
                );
            }
            daemon.detach_and_check("jumbo")?;
        }
        Ok(())
    });
}

/// When chunks run out in the middle of packets, each packet is dropped as a whole, and counted once.
#[test]
fn packets_of_several_chunks_are_dropped_whole_when_chunks_run_out() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        // 9014 bytes in chunks of 2048 take 6; 100 chunks are 16 packets and a rest that fits none.
        daemon.attach("rest", "0", 100, 2048, &["udp,dst-port=5000"])?;
        let (recv, file) = daemon.recv_pcap("rest", 100_000, 3)?;
        recv.signal(Signal::SIGSTOP)?;
        let traffic = Traffic {
            payload: 8972,
            ..Traffic::paced(5000, 200, 2000)
        };
        Sender::start(&link, traffic)?.finish()?;
        let queue = daemon.check_sums()?.queue(0)?;
        ensure!(
            queue.count("packets")? == 200,
            "200 packets, whatever their chunks: {}",
            queue.json()
        );
        let kept = queue.count("delivered")?;
        ensure!((10..=16).contains(&kept), "{}", queue.json());
        recv.signal(Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(300));
        Sender::start(&link, traffic)?.finish()?;
        recv.wait(Duration::from_secs(8))?;
        let frames = pcap::read(&file)?;
        for bytes in &frames {
            ensure!(bytes.len() == 9014, "a frame of {} bytes", bytes.len());
            frame::check(bytes, 5000)?;
        }
        ensure!(
            frames.len() as u64 > kept + 100,
            "{} frames after {kept}: the queue did not recover",
            frames.len()
        );
        daemon.detach_and_check("rest")?;
        Ok(())
    });
}
