//! The program attached to an interface. Whether it takes the right frames is tested in tests/xdp_program.rs.

use super::program::{Target, XDP_PASS, XDP_REDIRECT, generate};
use super::steering::{load, wait, wait_by_map};
use super::*;
use crate::DriverError;
use crate::afxdp::xsk_sys::Socket;
use crate::flow::{FlowRule, Rules};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

/// Runs `test` in a network namespace of its own with a veth pair of 4 queues, or says why not. The namespace ends with its thread.
fn with_veth(test: impl FnOnce(u32) + Send + 'static) {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: attaching XDP programs needs root");
        return;
    }
    std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let add = "link add devrx-a numrxqueues 4 numtxqueues 4 type veth peer name devrx-b numrxqueues 4 numtxqueues 4";
        if !ip(add) {
            eprintln!("skipped: `ip {add}` failed; install iproute2, and the veth module");
            return;
        }
        test(nix::net::if_::if_nametoindex("devrx-a").unwrap());
    })
    .join()
    .unwrap();
}

fn ip(arguments: &str) -> bool {
    std::process::Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .is_ok_and(|status| status.success())
}

/// A UDP frame to port 5000.
fn udp() -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[12..15].copy_from_slice(&[8, 0, 0x45]);
    frame[17] = 40;
    frame[23] = 17;
    frame[36..38].copy_from_slice(&5000u16.to_be_bytes());
    frame
}

fn rule(text: &str) -> Vec<(u16, FlowRule)> {
    vec![(7, text.parse().unwrap())]
}

/// The program that `steering` has attached, once more, to run it by hand.
fn verdict(steering: &Steering, ifindex: u32, queue: u32) -> u32 {
    let queues: Vec<(u32, Vec<FlowRule>)> = (0..4)
        .map(|queue| {
            (
                queue,
                steering
                    .rules(queue)
                    .iter()
                    .map(|(_, rule)| *rule)
                    .collect(),
            )
        })
        .collect();
    let (sockets, counters) = steering.maps();
    let insns = generate(&queues, Target::Redirect { sockets, counters }).unwrap();
    let program = load(&insns, steering.frags()).unwrap();
    sys::prog_test_run(program.as_fd(), &udp(), Some((ifindex, queue)), 1)
        .unwrap()
        .action
}

#[test]
fn a_taken_packet_goes_to_its_queues_socket_and_is_counted() {
    with_veth(|ifindex| {
        let mut steering = Steering::attach(ifindex, 4, None).unwrap();
        assert_eq!(
            (steering.mode(), steering.frags(), steering.warnings()),
            (XdpMode::Driver, true, vec![])
        );
        assert_eq!(verdict(&steering, ifindex, 2), XDP_PASS, "no rule");

        steering
            .set_rules([(2, rule("udp,dst-port=5000"))])
            .unwrap();
        assert_eq!(verdict(&steering, ifindex, 2), XDP_PASS, "no socket");
        assert_eq!(
            steering.matched(2),
            0,
            "only what went to a socket is counted"
        );

        let socket = Socket::new().unwrap();
        steering.insert_socket(2, socket.as_fd()).unwrap();
        for _ in 0..5 {
            assert_eq!(verdict(&steering, ifindex, 2), XDP_REDIRECT);
        }
        assert_eq!(
            verdict(&steering, ifindex, 1),
            XDP_PASS,
            "the rule is on another queue"
        );
        assert_eq!(
            [0, 1, 2, 3, 4].map(|queue| steering.matched(queue)),
            [0, 0, 5, 0, 0]
        );

        steering
            .set_rules([(2, rule("udp,dst-port=5001"))])
            .unwrap();
        assert_eq!(
            verdict(&steering, ifindex, 2),
            XDP_PASS,
            "the rule is another"
        );

        steering.set_rules([(2, rule("any"))]).unwrap();
        steering.remove_socket(2).unwrap();
        steering.remove_socket(2).unwrap();
        assert_eq!(
            verdict(&steering, ifindex, 2),
            XDP_PASS,
            "the socket is gone"
        );
        assert_eq!(steering.matched(2), 5);
    });
}

/// One list for several queues: each packet goes to the socket of the queue it came in on, and is counted there.
#[test]
fn queues_that_share_rules_have_their_own_sockets_and_counts() {
    with_veth(|ifindex| {
        let mut steering = Steering::attach(ifindex, 4, None).unwrap();
        let rules = rule("udp,dst-port=5000");
        steering
            .set_rules([0, 1, 3].map(|queue| (queue, rules.clone())))
            .unwrap();
        let sockets = [0, 3].map(|queue| (queue, Socket::new().unwrap()));
        for (queue, socket) in &sockets {
            steering.insert_socket(*queue, socket.as_fd()).unwrap();
        }
        for (queue, times, expected) in [
            (0, 2, XDP_REDIRECT),
            (1, 3, XDP_PASS),
            (2, 1, XDP_PASS),
            (3, 5, XDP_REDIRECT),
        ] {
            for _ in 0..times {
                assert_eq!(verdict(&steering, ifindex, queue), expected, "{queue}");
            }
        }
        assert_eq!(
            [0, 1, 2, 3].map(|queue| steering.matched(queue)),
            [2, 0, 0, 5]
        );
    });
}

/// `lists` lists as long as may be, no two alike.
fn full(lists: usize) -> Vec<Rules> {
    let rule = |n: usize| (n as u16, format!("udp,dst-port={n}").parse().unwrap());
    (0..lists)
        .map(|list| {
            let first = list * MAX_RULES_PER_QUEUE;
            (first..first + MAX_RULES_PER_QUEUE).map(rule).collect()
        })
        .collect()
}

#[test]
fn a_list_that_several_queues_have_counts_once() {
    with_veth(|ifindex| {
        let mut steering = Steering::attach(ifindex, 256, None).unwrap();
        let lists = full(MAX_RULES / MAX_RULES_PER_QUEUE + 1);
        let (more, most) = lists.split_last().unwrap();
        // 8 queues for each list; one more queue for the first.
        let queues = most
            .iter()
            .flat_map(|list| std::iter::repeat_n(list.clone(), 8));
        steering.set_rules((0..).zip(queues)).unwrap();
        steering.set_rules([(200, most[0].clone())]).unwrap();
        // One rule too many.
        let error = steering.set_rules([(210, more[..1].to_vec())]).unwrap_err();
        let text = error.to_string();
        for part in [
            "flow rules 1025 cannot",
            "can have 1024",
            "64 for queues 0-7 and 200, 64 for queues 8-15,",
            "for the queues of 11 more",
            "devrx flow del",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("  "), "{text}");
        assert_eq!(steering.rules(210), []);
        // Full as it is, a rule can be taken from a list, or put in the place of another; all queues of it at once.
        let shorter = most[1][1..].to_vec();
        steering
            .set_rules((8..16).map(|queue| (queue, shorter.clone())))
            .unwrap();
        steering.set_rules([(210, more[..1].to_vec())]).unwrap();
    });
}

#[test]
fn the_program_leaves_the_interface_with_its_owner() {
    with_veth(|ifindex| {
        let attached = || {
            let output = std::process::Command::new("ip")
                .args(["link", "show", "devrx-a"])
                .output()
                .unwrap();
            String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
        };
        let steering = Steering::attach(ifindex, 4, Some(XdpMode::Generic)).unwrap();
        assert_eq!(steering.mode(), XdpMode::Generic);
        assert!(attached());
        let DriverError::Sys { fix, .. } =
            Steering::attach(ifindex, 4, Some(XdpMode::Generic)).unwrap_err()
        else {
            panic!("a second program is refused by the system")
        };
        assert!(fix.contains("another XDP program"), "{fix}");
        drop(steering);
        let give_up = Instant::now() + Duration::from_secs(5);
        while attached() && Instant::now() < give_up {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!attached());
    });
}

#[test]
fn what_cannot_be_set_is_refused_and_changes_nothing() {
    with_veth(|ifindex| {
        assert!(matches!(
            Steering::attach(ifindex, 0, None),
            Err(DriverError::BadConfig { .. })
        ));
        let most = Steering::attach(ifindex, MAX_QUEUES, None).unwrap();
        assert_eq!(
            (most.matched(MAX_QUEUES - 1), most.matched(MAX_QUEUES)),
            (0, 0)
        );
        drop(most);
        assert!(matches!(
            Steering::attach(ifindex, MAX_QUEUES + 1, None),
            Err(DriverError::BadConfig { .. })
        ));
        let mut steering = Steering::attach(ifindex, 4, None).unwrap();
        steering.set_rules([(0, rule("udp"))]).unwrap();
        let many = |count| vec![(0, "udp,dst-port=1".parse::<FlowRule>().unwrap()); count];
        assert!(matches!(
            steering.set_rules([(4, vec![])]),
            Err(DriverError::BadConfig { what: "queue", .. })
        ));
        assert!(matches!(
            steering.set_rules([(0, many(MAX_RULES_PER_QUEUE + 1))]),
            Err(DriverError::BadConfig { .. })
        ));
        assert_eq!(steering.rules(0), rule("udp"));
        steering
            .set_rules((0..4).map(|queue| (queue, many(MAX_RULES_PER_QUEUE))))
            .unwrap();
        let pipe = std::io::pipe().unwrap();
        assert!(matches!(
            steering.insert_socket(0, pipe.0.as_fd()),
            Err(DriverError::Sys { .. })
        ));
        // The interface goes away: the swap fails, and the rules that are reported are those that were.
        assert!(ip("link del devrx-a"));
        assert!(matches!(
            steering.set_rules([(1, vec![])]),
            Err(DriverError::Sys { .. })
        ));
        assert_eq!(steering.rules(1).len(), MAX_RULES_PER_QUEUE);
    });
}

#[test]
fn the_verifiers_log_is_in_the_error() {
    with_veth(|_| {
        let mut asm = asm::Asm::new();
        asm.alu_reg(asm::Op::Mov, asm::Reg::R0, asm::Reg::R5);
        asm.exit();
        let error = load(&asm.finish().unwrap(), true).unwrap_err().to_string();
        assert!(error.contains("R5 !read_ok"), "{error}");
    });
}

/// Loads a program for a rule, with the rights its process has.
#[test]
#[ignore = "started by a_missing_right_is_named"]
fn load_with_fewer_rights() {
    let rules = vec!["udp,dst-port=5000".parse().unwrap()];
    let sockets = sys::map_create(sys::MapKind::Xsk, 4, 1, 0, None, "test").unwrap();
    let counters = sys::map_create(sys::MapKind::Array, 64, 1, 0, None, "test").unwrap();
    let target = Target::Redirect {
        sockets: sockets.as_raw_fd(),
        counters: counters.as_raw_fd(),
    };
    let insns = generate(&[(0, rules)], target).unwrap();
    println!(
        "answer: {:?}",
        load(&insns, true).map_err(|e| e.to_string())
    );
}

#[test]
fn a_missing_right_is_named() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: loading BPF programs needs root");
        return;
    }
    let answer = |without: &str| {
        let output = std::process::Command::new("setpriv")
            .arg(format!("--bounding-set={without}"))
            .arg(format!("--inh-caps={without}"))
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "afxdp::bpf::tests::load_with_fewer_rights"])
            .args(["--ignored", "--nocapture"])
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: no `setpriv`; install util-linux");
            return None;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Some(text.split("answer: ").nth(1).expect(&text).to_owned())
    };
    if let Some(enough) = answer("-sys_admin") {
        assert!(enough.starts_with("Ok"), "{enough}");
        let text = answer("-sys_admin,-perfmon").unwrap();
        assert!(
            text.contains("CAP_PERFMON") && !text.contains("report"),
            "{text}"
        );
    }
}

#[test]
fn both_ways_to_wait_for_running_programs_work() {
    with_veth(|_| {
        grace_period().unwrap();
        wait_by_map().unwrap();
    });
}

/// With one CPU membarrier does not wait, and with full dynticks CPUs there is none.
#[test]
fn membarrier_is_relied_on_only_where_it_waits() {
    for (cpus, offered, expected) in [
        (1, true, "map"),
        (0, true, "map"),
        (2, true, "membarrier"),
        (8, false, "map"),
    ] {
        let last = std::cell::Cell::new("");
        let membarrier = || {
            last.set("membarrier");
            if offered {
                Ok(())
            } else {
                Err(std::io::Error::from_raw_os_error(libc::EINVAL))
            }
        };
        let map = || {
            last.set("map");
            Ok(())
        };
        wait(cpus, membarrier, map).unwrap();
        assert_eq!(last.get(), expected, "{cpus} CPUs, offered: {offered}");
    }
}
