//! The generated XDP program in the kernel, by BPF_PROG_TEST_RUN, against [`FlowRule::matches`] of what [`parse`] found.
//!
//! The programs are generated with [`Target::Test`]: their verdict names the rule that took the frame, which says more than
//! whether one did, and needs no socket, without which `bpf_redirect_map` would answer `XDP_PASS` to everything. The rest of the
//! program is the same, instruction for instruction. What a program does with its verdict is tested in `afxdp::bpf::tests`.
#![expect(clippy::unwrap_used, reason = "test helpers panic")]

mod common;

use devrx_driver::afxdp::bpf::program::{TEST_VERDICT, Target, XDP_PASS, generate};
use devrx_driver::afxdp::bpf::{MAX_QUEUES, MAX_RULES, MAX_RULES_PER_QUEUE, sys};
use devrx_driver::flow::{FlowRule, first_match};
use devrx_driver::packet::parse;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Says so if this cannot run here.
fn skipped() -> bool {
    let skip = !nix::unistd::Uid::effective().is_root();
    if skip {
        eprintln!("skipped: loading BPF programs needs root");
    }
    skip
}

/// Runs `test` with the index of a veth interface of `queues` queues, in a network namespace of a thread's own, which ends with it.
fn in_namespace(queues: u32, test: impl FnOnce(u32) + Send + 'static) {
    if skipped() {
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let n = format!("numrxqueues {queues} numtxqueues {queues}");
        let made = std::process::Command::new("ip")
            .args(format!("link add devrx-q {n} type veth peer name devrx-p {n}").split(' '))
            .status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!(
                "skipped: `ip link add ... type veth` failed; install iproute2, and the veth module"
            );
            return;
        }
        test(nix::net::if_::if_nametoindex("devrx-q").unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn load(queues: &[(u32, Vec<FlowRule>)]) -> OwnedFd {
    let insns = generate(queues, Target::Test).unwrap();
    sys::prog_load(&insns, c"MIT", sys::BPF_F_XDP_HAS_FRAGS, &mut []).unwrap_or_else(|error| {
        let mut log = vec![0; 16 << 20];
        let _ = sys::prog_load(&insns, c"MIT", sys::BPF_F_XDP_HAS_FRAGS, &mut log);
        let text = String::from_utf8_lossy(&log);
        let text = text.trim_end_matches('\0');
        panic!("{error}\n{}", &text[text.len().saturating_sub(3000)..]);
    })
}

/// Instructions the verifier followed, over all paths.
fn verified(program: &OwnedFd) -> u64 {
    let text =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("verified_insns:"))
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// Compares the two for one frame, as if it came in `from` interface and queue; says whether a rule took it.
fn check(program: &OwnedFd, rules: &[FlowRule], frame: &[u8], from: Option<(u32, u32)>) -> bool {
    let numbered: Vec<(u16, FlowRule)> = rules.iter().map(|rule| (0, *rule)).collect();
    let parsed = parse(frame, frame.len());
    let expected = first_match(&numbered, &parsed.key)
        .map_or(XDP_PASS, |position| TEST_VERDICT + position as u32);
    let verdict = sys::prog_test_run(program.as_fd(), frame, from, 1)
        .unwrap()
        .action;
    let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
    assert_eq!(
        verdict, expected,
        "rules {rules:?}, from {from:?}, frame {parsed:?} {frame:02x?}"
    );
    expected != XDP_PASS
}

/// Frames that test runs take: the kernel wants an Ethernet header, and we one buffer.
fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let frame = common::frame().prop_map(|mut frame| {
        frame.resize(frame.len().clamp(14, 3000), 0);
        frame
    });
    prop::collection::vec(frame, 60)
}

#[test]
fn the_program_takes_what_the_rules_take() {
    if skipped() {
        return;
    }
    let rules = prop_oneof![
        prop::collection::vec(common::rule(), 1..3),
        prop::collection::vec(common::rule(), 1..20)
    ];
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let (seen, taken) = (Cell::new(0u32), Cell::new(0u32));
    TestRunner::new(config)
        .run(&(rules, frames()), |(rules, frames)| {
            let program = load(&[(0, rules.clone())]);
            for frame in frames {
                let took = check(&program, &rules, &frame, None);
                seen.set(seen.get() + 1);
                taken.set(taken.get() + u32::from(took));
            }
            Ok(())
        })
        .unwrap();
    // Rules that never meet a frame would prove nothing.
    let (seen, taken) = (seen.get(), taken.get());
    assert!(
        taken > seen / 10 && taken < seen * 9 / 10,
        "{taken} of {seen} frames taken"
    );
}

/// The same where queues share lists: queues that lie side by side or apart, with one list, another, or none.
#[test]
fn queues_that_share_rules_take_what_the_rules_take() {
    in_namespace(9, |ifindex| {
        let rules = || prop::collection::vec(common::rule(), 1..8);
        let lists = prop::collection::vec(0..3usize, 9);
        let config = ProptestConfig {
            cases: 100,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let seen = Cell::new([0u32; 2]);
        TestRunner::new(config)
            .run(
                &((rules(), rules()), lists, frames()),
                |((one, other), lists, frames)| {
                    let of = |queue: u32| match lists[queue as usize] {
                        0 => vec![],
                        1 => one.clone(),
                        _ => other.clone(),
                    };
                    let queues: Vec<_> = (0..9).map(|queue| (queue, of(queue))).collect();
                    let program = load(&queues);
                    for (number, frame) in (0..).zip(frames) {
                        let queue = number % 9;
                        let took = check(&program, &of(queue), &frame, Some((ifindex, queue)));
                        let mut count = seen.get();
                        count[usize::from(took)] += 1;
                        seen.set(count);
                    }
                    Ok(())
                },
            )
            .unwrap();
        let [left, taken] = seen.get();
        assert!(left > 500 && taken > 500, "{taken} taken, {left} left");
    });
}

/// As many rules as may be make a program longer than a jump reaches.
#[test]
fn the_last_of_the_most_rules_takes_its_packets() {
    in_namespace(64, |ifindex| {
        let lists = MAX_RULES / MAX_RULES_PER_QUEUE;
        let port = |list: usize, n: usize| (list * MAX_RULES_PER_QUEUE + n) as u16;
        let queues: Vec<(u32, Vec<FlowRule>)> = (0..64)
            .map(|queue| {
                let rule = |n| {
                    let port = port(queue % lists, n);
                    // The longest there are, that take the frame sent.
                    format!(
                        "dst-mac=2:0:0:0:0:1,vlan=1,inner-vlan=2,ip6,src=fd00::/127,dst=fd00::2/127,udp,src-port=0-{port},dst-port={port}"
                    )
                };
                let rules = (0..MAX_RULES_PER_QUEUE).map(|n| rule(n).parse().unwrap());
                (queue as u32, rules.collect())
            })
            .collect();
        let length = generate(&queues, Target::Test).unwrap().len();
        assert!(length > 0x8000, "{length}: no jump is far");
        let program = load(&queues);
        let (_, _, mut frame) = common::corpus()
            .into_iter()
            .find(|(name, ..)| *name == "udp6")
            .unwrap();
        frame.splice(12..12, [0x81, 0, 0, 1, 0x81, 0, 0, 2]);
        let mut taken = 0;
        for (queue, rules) in &queues {
            for list in 0..lists {
                for n in [0, 31, MAX_RULES_PER_QUEUE - 1] {
                    let port = port(list, n).to_be_bytes();
                    frame[62..64].copy_from_slice(&port);
                    frame[64..66].copy_from_slice(&port);
                    taken += u32::from(check(&program, rules, &frame, Some((ifindex, *queue))));
                }
            }
        }
        assert_eq!(taken, 64 * 3);
    });
}

/// Every rule kind alone (so every depth of the walk is generated) over the corpus, whole and cut off.
#[test]
fn each_kind_of_rule_takes_the_same_of_the_corpus() {
    if skipped() {
        return;
    }
    let rules = [
        "any",
        "dst-mac=02:00:00:00:00:01",
        "dst-mac=01:80:c2:00:00:0e",
        "dst-mac=01:80:c2:00:00:0e,ether-type=0x88cc",
        "dst-mac=02:00:00:00:00:01,udp,dst-port=5000",
        "vlan=100",
        "inner-vlan=7",
        "vlan=100,inner-vlan=7",
        "arp",
        "ip",
        "ip6",
        "ether-type=0x88f7",
        "ether-type=0x8847",
        "udp",
        "tcp",
        "proto=89",
        "proto=50",
        "proto=58",
        "proto=1",
        "ip,udp",
        "ip6,tcp",
        "src=10.0.0.1",
        "dst=10.0.0.0/8",
        "src=fd00::1",
        "dst=fd00::/8",
        "src=fd00::1,dst=fd00::2",
        "src=0.0.0.0/0",
        "dst=::/0",
        "dst-port=5000",
        "src-port=80",
        "udp,dst-port=5000-5010",
        "tcp,src-port=0-80",
        "ip6,udp,dst-port=4990-5000",
        "vlan=100,inner-vlan=7,udp,dst-port=5000",
        "src=10.0.0.0/31,udp,src-port=4999,dst-port=5000",
    ];
    let mut taken = 0;
    for rule in rules {
        let rules: [FlowRule; 1] = [rule.parse().unwrap()];
        let program = load(&[(0, rules.to_vec())]);
        let before = taken;
        for (_, split, frame) in common::corpus() {
            let split = usize::from(split);
            taken += u32::from(rules[0].matches(&parse(&frame, frame.len()).key));
            for length in [
                frame.len(),
                split,
                split - 1,
                split - 4,
                33,
                53,
                40,
                18,
                17,
                14,
            ] {
                check(
                    &program,
                    &rules,
                    &frame[..length.clamp(14, frame.len())],
                    None,
                );
            }
        }
        assert!(taken > before, "no frame of the corpus is taken by {rule}");
    }
}

/// Rules that are hard on the verifier: as many as may be, each as long as can be, sharing values so that paths part late.
#[test]
fn the_verifier_takes_as_many_rules_as_are_promised() {
    if skipped() {
        return;
    }
    let mut worst = 0;
    let kinds: [&dyn Fn(usize) -> String; 4] = [
        &|n| {
            format!(
                "src=fd00::1:{:x}/127,dst=fd00:0:0:{:x}::2,src-port={n}-{},dst-port={}-9000",
                n * 2,
                n % 7,
                3000 + n,
                n + 1
            )
        },
        &|n| {
            format!(
                "vlan={},inner-vlan={},dst=10.{}.0.0/17,src=10.0.{}.0/25,udp,dst-port={n}",
                n % 8,
                n / 8,
                n % 4,
                n % 16
            )
        },
        &|n| {
            [
                format!("tcp,dst-port={n}"),
                format!("udp,src-port={n}-{}", n * 2),
                format!("proto={}", n + 90),
                "arp,vlan=5".into(),
            ][n % 4]
                .clone()
        },
        &|n| {
            format!(
                "{},vlan={},{},src-port={}-{},dst-port={}",
                ["ip", "ip6"][n % 2],
                n % 3,
                ["udp", "tcp"][n / 2 % 2],
                n % 5,
                n % 5 + 100,
                n / 4
            )
        },
    ];
    for kind in kinds {
        let rules: Vec<FlowRule> = (0..MAX_RULES_PER_QUEUE)
            .map(|n| kind(n).parse().unwrap_or_else(|e| panic!("{e}")))
            .collect();
        // Each list of its own, by its order; each for two queues that do not lie side by side.
        let lists = MAX_RULES / MAX_RULES_PER_QUEUE;
        let queues: Vec<(u32, Vec<FlowRule>)> = (0..2 * lists)
            .map(|queue| {
                let mut rules = rules.clone();
                rules.rotate_left(queue % lists);
                (queue as u32 * 3, rules)
            })
            .collect();
        let start = std::time::Instant::now();
        let program = load(&queues);
        let took = start.elapsed();
        worst = worst.max(verified(&program));
        println!(
            "{}: {} instructions, {} followed, loaded in {took:?}",
            rules[1],
            generate(&queues, Target::Test).unwrap().len(),
            verified(&program)
        );
        // Queues that share a list cost the verifier next to nothing.
        let many: Vec<_> = (0..MAX_QUEUES)
            .map(|queue| (queue, rules.clone()))
            .collect();
        let (one, all) = (load(&many[..1]), load(&many));
        assert!(verified(&all) < verified(&one) + 20, "{}", verified(&all));
    }
    // A rule on each of many queues, all different; a list for every other queue of all there can be.
    let rule = |n: u32| vec![format!("udp,dst-port={n}").parse().unwrap()];
    let queues: Vec<(u32, Vec<FlowRule>)> = (0..MAX_RULES as u32)
        .map(|queue| (queue, rule(queue)))
        .collect();
    worst = worst.max(verified(&load(&queues)));
    let queues: Vec<(u32, Vec<FlowRule>)> = (0..MAX_QUEUES)
        .map(|queue| (queue, rule(queue % 2)))
        .collect();
    worst = worst.max(verified(&load(&queues)));
    println!("worst: {worst}");
    // Linux gives up at a million; keep well away, since versions differ in how well they merge paths.
    assert!(worst < 250_000, "{worst}");
}

/// Each queue has its own rules.
#[test]
fn queues_do_not_mix() {
    in_namespace(9, |ifindex| {
        // Rules at some queues, none at others, none at the last.
        let with_rules = [0u32, 1, 3, 4, 5, 7];
        let queues: Vec<(u32, Vec<FlowRule>)> = with_rules
            .iter()
            .map(|queue| {
                (
                    *queue,
                    (0..=*queue)
                        .map(|n| format!("dst-port={}", 5000 + 10 * n).parse().unwrap())
                        .collect(),
                )
            })
            .collect();
        let program = load(&queues);
        let udp = |port: u16| {
            let (_, _, mut frame) = common::corpus()
                .into_iter()
                .find(|(name, ..)| *name == "udp4")
                .unwrap();
            frame[36..38].copy_from_slice(&port.to_be_bytes());
            frame
        };
        for queue in 0..9 {
            for n in 0..9 {
                let verdict = sys::prog_test_run(
                    program.as_fd(),
                    &udp(5000 + 10 * n),
                    Some((ifindex, queue)),
                    1,
                )
                .unwrap()
                .action;
                let takes = with_rules.contains(&queue) && u32::from(n) <= queue;
                assert_eq!(
                    verdict,
                    if takes {
                        TEST_VERDICT + u32::from(n)
                    } else {
                        XDP_PASS
                    },
                    "queue {queue}, rule {n}"
                );
            }
        }
    });
}

/// Later fragments go by address, never by port.
#[test]
fn port_rules_leave_later_fragments() {
    if skipped() {
        return;
    }
    for (rule, takes) in [
        ("dst-port=0-65535", [true, false, false]),
        ("src=10.0.0.1", [true; 3]),
        ("ip,udp", [true; 3]),
    ] {
        let program = load(&[(0, vec![rule.parse().unwrap()])]);
        let frames = common::corpus()
            .into_iter()
            .filter(|(name, ..)| name.starts_with("fragment4-"));
        let verdicts: Vec<bool> = frames
            .map(|(_, _, frame)| {
                sys::prog_test_run(program.as_fd(), &frame, None, 1)
                    .unwrap()
                    .action
                    == TEST_VERDICT
            })
            .collect();
        assert_eq!(verdicts, takes, "{rule}");
    }
}

/// What the program costs a packet: `cargo test -p devrx-driver --test xdp_program -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, not a test"]
fn cost_of_a_packet() {
    if skipped() {
        return;
    }
    let last = |rules: usize| -> Vec<FlowRule> {
        (0..rules)
            .map(|n| {
                format!("udp,dst-port={}", 5000 + rules - 1 - n)
                    .parse()
                    .unwrap()
            })
            .collect()
    };
    for (what, rules) in [
        ("no rule", vec![]),
        ("any", last(1).into_iter().map(|_| FlowRule::ANY).collect()),
        ("1 rule", last(1)),
        ("8 rules, the last takes it", last(8)),
        ("64 rules, the last takes it", last(64)),
    ] {
        let program = load(&[(0, rules)]);
        for name in ["udp4", "qinq-udp4", "udp6", "udp6-all", "arp"] {
            let (_, _, frame) = common::corpus()
                .into_iter()
                .find(|(other, ..)| *other == name)
                .unwrap();
            let verdict = sys::prog_test_run(program.as_fd(), &frame, None, 1_000_000).unwrap();
            println!(
                "{what:28} {name:10} {:3} ns, verdict {}",
                verdict.nanoseconds, verdict.action
            );
        }
    }
}
