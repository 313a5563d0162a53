//! Packets that find no chunk or no room are counted, and none is lost at the end.

mod support;

use devrx_driver::afxdp::{AfXdpNic, AfXdpOptions};
use devrx_driver::{Flows, RxQueue};
use std::time::{Duration, Instant};
use support::packet_socket::PacketSocket;
use support::{Setup, Wanted, in_namespace, open_nic, udp};

#[test]
fn starved_of_chunks_every_packet_is_counted() {
    for size in [64, 8900] {
        in_namespace(9000, 1, move || {
            let mut nic = open_nic();
            // 64 chunks and nobody who gives back.
            let mut setup = Setup::new(
                &mut nic,
                Wanted {
                    chunks: 64,
                    ring: 64,
                    ..Wanted::default()
                },
            );
            nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
            assert_eq!(setup.queue.refill(&mut setup.pool), 64);
            let socket = PacketSocket::new("tx0");
            for number in 0..500 {
                socket.send(&udp(5000, number, size));
            }
            std::thread::sleep(Duration::from_millis(50));
            let counters = setup.queue.counters();
            let parts = if size > 3840 { 3 } else { 1 };
            assert_eq!(counters.no_descriptor, 500 - 64 / parts, "{counters:?}");
            let frames = setup.receive(64);
            assert_eq!(frames.len() as u64, 64 / parts);
            // It recovers.
            setup.queue.refill(&mut setup.pool);
            socket.send(&udp(5000, 1000, size));
            assert_eq!(setup.receive(1).len(), 1);
            setup.finish(&mut nic, 64 / parts + 1);
            assert_eq!(nic.queue_packets(0), 501);
        });
    }
}

#[test]
fn a_full_rx_ring_is_counted() {
    for size in [64, 8900] {
        in_namespace(9000, 1, move || {
            let options = AfXdpOptions {
                rx_ring: Some(16),
                ..AfXdpOptions::default()
            };
            let mut nic = AfXdpNic::open("rx0", options).unwrap();
            let mut setup = Setup::new(&mut nic, Wanted::default());
            nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
            setup.queue.refill(&mut setup.pool);
            let socket = PacketSocket::new("tx0");
            for number in 0..300 {
                socket.send(&udp(5000, number, size));
            }
            std::thread::sleep(Duration::from_millis(50));
            let counters = setup.queue.counters();
            let fit = if size > 3840 { 16 / 3 } else { 16 };
            assert_eq!(
                (counters.rx_ring_full, counters.no_descriptor),
                (300 - fit, 0),
                "{counters:?}"
            );
            let frames = setup.receive(fit as usize);
            setup.finish(&mut nic, frames.len() as u64);
            assert_eq!(nic.queue_packets(0), 300);
        });
    }
}

#[test]
fn what_arrived_before_the_end_is_not_lost_under_load() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        for round in 0..5 {
            let before = nic.queue_packets(0);
            let mut setup = Setup::new(
                &mut nic,
                Wanted {
                    ring: 128,
                    chunks: 128,
                    ..Wanted::default()
                },
            );
            nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
            setup.queue.refill(&mut setup.pool);
            let stop = std::sync::atomic::AtomicBool::new(false);
            let mut received = 0;
            std::thread::scope(|scope| {
                let socket = PacketSocket::new("tx0");
                let stop = &stop;
                scope.spawn(move || {
                    let mut number = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        socket.send(&udp(5000, number, 200));
                        number += 1;
                    }
                });
                let end = Instant::now() + Duration::from_millis(100);
                let mut frames = Vec::new();
                while Instant::now() < end {
                    setup.queue.refill(&mut setup.pool);
                    setup.poll_into(&mut frames);
                    received += frames.len() as u64;
                    frames.clear();
                }
                // Under fire: the sum still holds, see `finish_from`.
                setup.finish_from(&mut nic, received, before);
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            assert!(received > 100, "round {round}: {received}");
        }
    });
}
