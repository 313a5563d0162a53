//! Which queue takes which packets of a veth pair, and what the kernel keeps.

mod support;

use devrx_driver::{DriverError, Flows, NO_FLOW, Nic, RxBatch, RxFlags, RxQueue};
use std::time::Duration;
use support::packet_socket::PacketSocket;
use support::{Setup, Wanted, in_namespace, ip, open_nic, run, udp};

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
