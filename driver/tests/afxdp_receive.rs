//! Real frames through a veth pair into a region: split, over several chunks, asleep and awake.

mod support;

use devrx_driver::{Flows, Link, Nic, RxFlags, RxQueue, Statistics};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::packet_socket::PacketSocket;
use support::{Setup, Wanted, in_namespace, open_nic, udp};

#[test]
fn header_and_payload_are_split_and_every_byte_arrives() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        assert_eq!(
            (nic.name(), nic.driver(), nic.queues()),
            ("rx0", "afxdp/veth", 1)
        );
        let mut setup = Setup::new(&mut nic, Wanted::default());
        assert!(
            nic.add_flow(0..=0, 7, &"udp,dst-port=5000".parse().unwrap())
                .unwrap()
                .iter()
                .all(|note| note.contains("fragment"))
        );
        setup.queue.refill(&mut setup.pool);
        let socket = PacketSocket::new("tx0");
        let sent: Vec<_> = (0..2000)
            .map(|number| udp(5000, number, (number as usize * 7) % 1473))
            .collect();
        let mut frames = Vec::new();
        for burst in sent.chunks(50) {
            burst.iter().for_each(|frame| socket.send(frame));
            // Another port: not ours.
            socket.send(&udp(5001, 0, 100));
            frames.extend(setup.receive(burst.len()));
        }
        assert_eq!(frames.len(), sent.len());
        for (frame, sent) in frames.iter().zip(&sent) {
            assert_eq!(frame.header, sent[..42], "Ethernet, IPv4 and UDP");
            assert_eq!(frame.payload, sent[42..]);
            assert_eq!(frame.first.flags, RxFlags::SPLIT | RxFlags::TIMESTAMP_SW);
            assert_eq!(frame.first.flow, 7);
        }
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        let age = now - frames[1999].first.timestamp;
        assert!(age < 10_000_000_000, "a timestamp {age} ns old");
        let rest = setup.finish(&mut nic, 2000);
        assert!(rest.is_empty());
        assert_eq!(nic.queue_packets(0), 2000);
        assert!(nic.statistics().unwrap().packets >= 2000);
        assert!(nic.link().unwrap().up && nic.link().unwrap().mtu == 1500);
    });
}

#[test]
fn jumbo_frames_spread_over_chunks() {
    for (chunk, parts) in [(4096, 3), (2048, 6)] {
        in_namespace(9000, 1, move || {
            let mut nic = open_nic();
            let mut setup = Setup::new(
                &mut nic,
                Wanted {
                    chunk,
                    ..Wanted::default()
                },
            );
            nic.add_flow(0..=0, 0, &"any".parse().unwrap()).unwrap();
            setup.queue.refill(&mut setup.pool);
            let socket = PacketSocket::new("tx0");
            // 9014 bytes: MTU 9000 and an Ethernet header.
            for number in 0..200 {
                let size = if number % 3 == 0 {
                    9014 - 42
                } else {
                    (number as usize * 331) % 8900
                };
                let sent = udp(5000, number, size);
                socket.send(&sent);
                let frames = setup.receive(1);
                assert_eq!(frames.len(), 1, "frame {number}");
                assert!(frames[0].whole() == sent, "frame {number} of {size}");
                assert_eq!(frames[0].header.len(), 42);
                if size == 9014 - 42 {
                    assert_eq!(frames[0].parts, parts);
                    assert!(frames[0].first.flags.contains(RxFlags::MORE));
                }
            }
            setup.finish(&mut nic, 200);
        });
    }
}

#[test]
fn unsplittable_frames_arrive_whole() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let mut setup = Setup::new(&mut nic, Wanted::default());
        nic.add_flow(0..=0, 0, &"any".parse().unwrap()).unwrap();
        setup.queue.refill(&mut setup.pool);
        let socket = PacketSocket::new("tx0");
        let mut bad = udp(5000, 0, 100);
        bad[14] = 0x65; // IPv4 by ether type, version 6
        socket.send(&bad);
        let mut arp = vec![0xff; 6];
        arp.extend([2, 0, 0, 0, 0, 1, 8, 6]);
        arp.extend([0x55; 46]);
        socket.send(&arp);
        let frames = setup.receive(2);
        assert_eq!(frames.len(), 2);
        assert_eq!((frames[0].header.len(), frames[0].whole()), (0, bad));
        assert!(!frames[0].first.flags.contains(RxFlags::SPLIT));
        assert_eq!((frames[1].header.len(), frames[1].whole()), (14, arp));
        assert_eq!(setup.queue.counters().unsplit, 1);
        setup.finish(&mut nic, 2);
    });
}

#[test]
fn a_sleeper_is_woken() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let mut setup = Setup::new(&mut nic, Wanted::default());
        nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
        setup.queue.refill(&mut setup.pool);
        let wait = |queue: &devrx_driver::afxdp::AfXdpQueue, milliseconds: u16| {
            let mut fds = [PollFd::new(queue.wait_fd(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::from(milliseconds)).unwrap()
        };
        assert!(setup.queue.arm());
        assert_eq!(wait(&setup.queue, 20), 0, "nothing to wake for");
        PacketSocket::new("tx0").send(&udp(5000, 0, 10));
        assert_eq!(wait(&setup.queue, 2000), 1);
        assert!(!setup.queue.arm(), "there is work");
        assert_eq!(setup.receive(1).len(), 1);
        assert!(setup.queue.arm());
        setup.queue.stop().unwrap();
        assert_eq!(wait(&setup.queue, 2000), 1, "the end wakes");
        setup.finish(&mut nic, 1);
    });
}

#[test]
fn busy_polling_receives_too() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let mut setup = Setup::new(
            &mut nic,
            Wanted {
                busy_poll: true,
                ..Wanted::default()
            },
        );
        nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
        setup.queue.refill(&mut setup.pool);
        let socket = PacketSocket::new("tx0");
        for number in 0..100 {
            socket.send(&udp(5000, number, 100));
        }
        let frames = setup.receive(100);
        assert_eq!(frames.len(), 100);
        setup.finish(&mut nic, 100);
    });
}
