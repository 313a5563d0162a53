//! Real frames through a veth pair into a region.

mod support;

use std::time::{Duration, Instant};

use devrx_driver::afxdp::{AfXdpNic, AfXdpOptions, discover};
use devrx_driver::{
    DriverError, Flows, Link, NO_FLOW, Nic, RxBatch, RxFlags, RxQueue, Statistics, Timestamps,
    ZeroCopy,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use support::{PacketSocket, Setup, Wanted, config, in_namespace, ip, open_nic, run, udp};

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

#[test]
fn several_rules_name_their_packets() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let mut setup = Setup::new(
            &mut nic,
            Wanted {
                split: false,
                ..Wanted::default()
            },
        );
        nic.add_flow(0..=0, 3, &"udp,dst-port=5003".parse().unwrap())
            .unwrap();
        nic.add_flow(0..=0, 1, &"udp,dst-port=5000-5010".parse().unwrap())
            .unwrap();
        assert!(matches!(
            nic.add_flow(0..=0, 1, &"udp".parse().unwrap()),
            Err(DriverError::Flow { .. })
        ));
        let reserved = nic
            .add_flow(0..=0, NO_FLOW, &"udp".parse().unwrap())
            .unwrap_err()
            .to_string();
        assert!(
            reserved.contains("id 65535 is reserved") && !reserved.contains("already"),
            "{reserved}"
        );
        setup.queue.refill(&mut setup.pool);
        let socket = PacketSocket::new("tx0");
        for port in [5003, 5000, 6000, 5003] {
            socket.send(&udp(port, 0, 100));
        }
        let frames = setup.receive(3);
        assert_eq!(
            frames
                .iter()
                .map(|frame| frame.first.flow)
                .collect::<Vec<_>>(),
            [3, 1, 3]
        );
        assert!(
            frames.iter().all(|frame| frame.header.is_empty()),
            "not asked to split"
        );
        nic.remove_flow(0..=0, 3).unwrap();
        assert!(nic.remove_flow(0..=0, 3).is_err());
        socket.send(&udp(5003, 0, 100));
        assert_eq!(setup.receive(1)[0].first.flow, 1);
        // With packets in the ring, the last rule goes.
        socket.send(&udp(5004, 0, 100));
        std::thread::sleep(Duration::from_millis(20));
        nic.remove_flow(0..=0, 1).unwrap();
        assert_eq!(setup.receive(1)[0].first.flow, NO_FLOW);
        setup.finish(&mut nic, 5);
    });
}

#[test]
fn a_closed_queue_opens_again_at_once() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        for _ in 0..5 {
            let setup = Setup::new(&mut nic, Wanted::default());
            setup.finish(&mut nic, 0);
        }
        // Another one on the same interface and queue is refused, and told why.
        let setup = Setup::new(&mut nic, Wanted::default());
        let (second, _) = config(Wanted::default());
        assert!(matches!(
            nic.open_queue(0, second),
            Err(DriverError::QueueBusy { .. })
        ));
        let (second, _) = config(Wanted::default());
        assert!(matches!(
            nic.open_queue(1, second),
            Err(DriverError::NoQueue { queues: 1, .. })
        ));
        setup.finish(&mut nic, 0);
        // The interface itself: the program goes with the value.
        assert!(run("ip", "link show rx0").contains("xdp"));
        drop(nic);
        // A program that another test is just starting may have the link's descriptor until it runs.
        let gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            !run("ip", "link show rx0").contains("xdp")
        });
        assert!(gone);
        drop(open_nic());
    });
}

#[test]
fn two_queues_have_their_own_sockets_and_packets() {
    in_namespace(1500, 2, || {
        let mut nic = open_nic();
        assert_eq!(nic.queues(), 2);
        let mut first = Setup::new(&mut nic, Wanted::default());
        let mut second = Setup::new(
            &mut nic,
            Wanted {
                index: 1,
                ..Wanted::default()
            },
        );
        for queue in [0, 1] {
            let notes = nic
                .add_flow(queue..=queue, 0, &"udp,dst-port=5000".parse().unwrap())
                .unwrap();
            assert!(
                notes
                    .iter()
                    .any(|note| note.contains("will not arrive") && note.contains("ethtool -L")),
                "{notes:?}"
            );
        }
        first.queue.refill(&mut first.pool);
        second.queue.refill(&mut second.pool);
        let socket = PacketSocket::new("tx0");
        for number in 0..200 {
            let mut frame = udp(5000, number, 100);
            // Source ports apart: the flow's hash takes the transmit queue, and veth the receive queue of the same number.
            frame[34..36].copy_from_slice(&(number as u16).to_be_bytes());
            socket.send(&frame);
        }
        let a = first.receive(200);
        let b = second.receive(200 - a.len());
        assert_eq!(a.len() + b.len(), 200);
        assert!(a.len() > 20 && b.len() > 20, "{} and {}", a.len(), b.len());
        let a = first.finish(&mut nic, a.len() as u64).len() + a.len();
        assert_eq!(nic.queue_packets(0), a as u64);
        second.finish(&mut nic, b.len() as u64);
    });
}

#[test]
fn a_rule_goes_to_a_range_of_queues_or_to_none() {
    in_namespace(1500, 3, || {
        let mut nic = open_nic();
        let first = Setup::new(&mut nic, Wanted::default());
        let any = "any".parse().unwrap();
        // Queue 1 is not open: queue 0 must not keep the rule either.
        nic.add_flow(0..=1, 0, &any).expect_err("queue 1 is closed");
        nic.remove_flow(0..=0, 0).expect_err("queue 0 has no rule");
        let second = Setup::new(
            &mut nic,
            Wanted {
                index: 1,
                ..Wanted::default()
            },
        );
        let notes = nic.add_flow(0..=1, 0, &any).unwrap();
        assert_eq!(notes.len(), 1, "queue 2 is not of the range: {notes:?}");
        assert!(notes[0].contains("other queues than 0-1"), "{notes:?}");
        let third = Setup::new(
            &mut nic,
            Wanted {
                index: 2,
                ..Wanted::default()
            },
        );
        let notes = nic.add_flow(0..=2, 1, &any).unwrap();
        assert_eq!(notes, [""; 0], "every queue: all of it arrives");
        nic.remove_flow(0..=2, 1).unwrap();
        for setup in [first, second, third] {
            setup.finish(&mut nic, 0);
        }
    });
}

/// However many queues an attachment has, it can have as many rules as one queue; and each is one change to the program.
#[test]
fn many_queues_can_have_as_many_rules_as_one() {
    in_namespace(1500, 20, || {
        let mut nic = open_nic();
        let setups: Vec<Setup> = (0..20)
            .map(|index| {
                let wanted = Wanted {
                    index,
                    chunks: 64,
                    ring: 32,
                    ..Wanted::default()
                };
                Setup::new(&mut nic, wanted)
            })
            .collect();
        let rule = |id: u16| format!("udp,dst-port={}", 5000 + id).parse().unwrap();
        for id in 0..64 {
            nic.add_flow(0..=19, id, &rule(id)).unwrap();
        }
        let error = nic.add_flow(0..=19, 64, &rule(64)).unwrap_err().to_string();
        assert!(error.contains("a queue can have 64"), "{error}");
        // A queue of them on its own has a rule less: the others keep it.
        nic.remove_flow(7..=7, 3).unwrap();
        nic.remove_flow(0..=19, 3)
            .expect_err("queue 7 has it no more");
        nic.remove_flow(8..=19, 3).unwrap();
        nic.remove_flow(0..=6, 3).unwrap();
        nic.add_flow(0..=19, 64, &rule(64)).unwrap();
        for setup in setups {
            setup.finish(&mut nic, 0);
        }
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
fn unfit_memory_is_refused_with_the_reason() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        for (wanted, word) in [
            (
                Wanted {
                    chunk: 1024,
                    ..Wanted::default()
                },
                "2048 or 4096",
            ),
            (
                Wanted {
                    chunk: 8192,
                    ..Wanted::default()
                },
                "2048 or 4096",
            ),
            (
                Wanted {
                    ring: 100,
                    ..Wanted::default()
                },
                "power of two",
            ),
        ] {
            let (config, _) = config(wanted);
            let error = nic.open_queue(0, config).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let (mut small, _) = config(Wanted::default());
        small.headers.slot_size = 300;
        assert!(
            nic.open_queue(0, small)
                .unwrap_err()
                .to_string()
                .contains("header slots")
        );
        let (mut stamped, _) = config(Wanted::default());
        stamped.timestamps = Timestamps::Nic;
        let error = nic.open_queue(0, stamped).unwrap_err().to_string();
        assert!(error.contains("AF_XDP hands over no timestamps"), "{error}");
        let (mut zero, _) = config(Wanted::default());
        zero.zero_copy = ZeroCopy::ZeroCopy;
        let error = nic.open_queue(0, zero).unwrap_err();
        assert!(
            matches!(error, DriverError::Unsupported { .. }),
            "veth has no zero-copy: {error}"
        );
        assert!(matches!(
            nic.add_flow(0..=0, 0, &"udp".parse().unwrap()),
            Err(DriverError::QueueClosed { .. })
        ));
        assert!(matches!(
            AfXdpNic::open("none0", AfXdpOptions::default()),
            Err(DriverError::NoNic { .. })
        ));
        let found = discover().unwrap();
        let rx0 = found
            .iter()
            .find(|interface| interface.name == "rx0")
            .unwrap();
        assert_eq!(
            (
                rx0.driver.as_str(),
                rx0.queues,
                rx0.mtu,
                rx0.up,
                rx0.pci.as_deref()
            ),
            ("veth", 1, 1500, true, None)
        );
        // Where the kernel tells (Linux 6.3): its own XDP, no zero-copy.
        assert!(
            rx0.native_xdp != Some(false) && rx0.zero_copy != Some(true),
            "{rx0:?}"
        );
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

#[test]
fn the_kernel_keeps_what_no_rule_takes() {
    in_namespace(1500, 1, || {
        // The other end moves to a namespace of its own, kept by a thread.
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let keeper = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
            tell.send(nix::unistd::gettid()).unwrap();
            ended.recv().ok();
        });
        let there = format!(
            "/proc/{}/task/{}/ns/net",
            std::process::id(),
            told.recv().unwrap()
        );
        ip(&format!("link set tx0 netns {there}"));
        run(
            "nsenter",
            &format!("--net={there} ip addr add 10.9.0.2/24 dev tx0"),
        );
        run("nsenter", &format!("--net={there} ip link set tx0 up"));
        ip("addr add 10.9.0.1/24 dev rx0");
        let mut nic = open_nic();
        let mut setup = Setup::new(&mut nic, Wanted::default());
        nic.add_flow(0..=0, 0, &"udp,dst-port=5000".parse().unwrap())
            .unwrap();
        setup.queue.refill(&mut setup.pool);
        let ping = run("ping", "-c 20 -i 0.01 -W 2 10.9.0.2");
        assert!(ping.contains("20 received"), "{ping}");
        let mut batch = RxBatch::new();
        assert_eq!(setup.queue.poll(&mut batch), 0, "none of it came here");
        setup.finish(&mut nic, 0);
        assert_eq!(nic.queue_packets(0), 0);
        end.send(()).ok();
        keeper.join().unwrap();
    });
}

#[test]
fn a_tag_in_the_frame_stays_there() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let mut setup = Setup::new(&mut nic, Wanted::default());
        nic.add_flow(0..=0, 9, &"vlan=5,udp".parse().unwrap())
            .unwrap();
        setup.queue.refill(&mut setup.pool);
        let sent = udp(5000, 1, 100);
        let tagged = [&sent[..12], &[0x81, 0, 0, 5], &sent[12..]].concat();
        let socket = PacketSocket::new("tx0");
        socket.send(&sent);
        socket.send(&tagged);
        let frames = setup.receive(1);
        assert_eq!((frames[0].whole(), frames[0].header.len()), (tagged, 46));
        assert!(!frames[0].first.flags.contains(RxFlags::VLAN));
        assert_eq!(frames[0].first.flow, 9);
        assert!(setup.finish(&mut nic, 1).is_empty());
    });
}

/// What the warning says is so, and so is its fix.
#[test]
fn tags_outside_the_frame_are_warned_of() {
    in_namespace(1500, 1, || {
        let mut nic = open_nic();
        let warnings = nic.warnings();
        let fix = "ethtool -K PEER txvlan off";
        assert!(
            warnings.iter().any(|warning| warning.contains(fix)),
            "{warnings:?}"
        );
        let arguments = "link add link tx0 name tag0 type vlan id 5".split(' ');
        if !std::process::Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success()
        {
            eprintln!("skipped: this kernel has no VLAN interfaces (8021q)");
            return;
        }
        ip("link set tag0 up");
        let mut setup = Setup::new(&mut nic, Wanted::default());
        nic.add_flow(0..=0, 0, &"udp".parse().unwrap()).unwrap();
        nic.add_flow(0..=0, 1, &"vlan=5".parse().unwrap()).unwrap();
        setup.queue.refill(&mut setup.pool);
        let sent = udp(5000, 1, 100);
        let socket = PacketSocket::new("tag0");
        socket.send(&sent);
        assert_eq!(
            setup.receive(1)[0].whole(),
            sent,
            "the tag is not in the frame"
        );
        run("ethtool", "-K tx0 txvlan off");
        socket.send(&sent);
        let tagged = [&sent[..12], &[0x81, 0, 0, 5], &sent[12..]].concat();
        assert_eq!(setup.receive(1)[0].whole(), tagged, "now it is");
        setup.finish(&mut nic, 2);
    });
}
