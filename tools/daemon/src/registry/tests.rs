//! Attach, detach and everything between, on a NIC in plain memory.

use devrx_proto::message::FailureCode;
use devrx_proto::ring::{ClientQueue, Start};
use devrx_proto::shm::{Access, Shm};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::AsFd;

use super::*;
use crate::testing::{FakeNic, Wire, wait_for};

const ROOT: Peer = Peer {
    pid: 1,
    uid: 0,
    groups: Vec::new(),
};
const SESSION: SessionId = SessionId(100);

fn registry(queues: u32, config: &str) -> (Wire, Registry) {
    let wire = Wire::default();
    let config = Config::parse(config).expect("configuration");
    let slot = NicSlot::new(
        Box::new(FakeNic::new(&wire, queues)),
        Some("rx0".into()),
        Vec::new(),
    );
    // Reads what it is told and drops it; ends with its socket.
    let keeper = Keeper::start_as(vec!["cat".into()]).expect("a process that reads");
    let control = Arc::new(Event::new().unwrap());
    (
        wire,
        Registry::new(&config, vec![slot], keeper, control).unwrap(),
    )
}

fn request(name: &str, queue: u32) -> AttachRequest {
    AttachRequest {
        name: name.into(),
        nic: "fake0".into(),
        queue_first: queue,
        queue_last: queue,
        size: 1 << 20,
        chunk: 4096,
        flows: vec!["any".into()],
        ..AttachRequest::default()
    }
}

fn attach(registry: &mut Registry, request: &AttachRequest) -> Result<AttachReply, Refused> {
    registry
        .attach(&ROOT, SESSION, request, None)
        .map(|(reply, _)| reply)
}

fn refused(registry: &mut Registry, request: &AttachRequest, code: FailureCode, says: &str) {
    let refused = attach(registry, request).expect_err(says);
    assert_eq!(refused.code, code, "{refused}");
    assert!(refused.message.contains(says), "{refused}");
}

#[test]
fn an_attachment_ends_in_the_order_that_keeps_memory_safe() {
    let (wire, mut registry) = registry(4, "");
    let reply = attach(
        &mut registry,
        &AttachRequest {
            queue_last: 1,
            ..request("two", 0)
        },
    )
    .unwrap();
    assert_eq!(reply.warnings, ["a note"]);
    assert_eq!(
        wire.take_log(),
        ["open 0", "open 1", "add 0/0", "add 1/0"],
        "flows last"
    );
    registry.detach(&ROOT, "two").unwrap();
    let log = wire.take_log();
    assert_eq!(log[..2], ["close 0", "close 1"], "steering first: {log:?}");
    for queue in 0..2 {
        let at = |what: &str| {
            log.iter()
                .position(|entry| *entry == format!("{what} {queue}"))
                .expect(what)
        };
        assert!(
            at("stop") < at("reclaim") && at("reclaim") < at("drop"),
            "{log:?}"
        );
    }
    let stats = registry.stats(Some("two")).unwrap();
    let row = &stats.attachments[0];
    assert_eq!(
        (row.state.as_str(), row.in_flight, row.hold),
        ("ended", 0, row.release)
    );
    assert!(row.hold > 0 && row.reason.contains("uid 0"), "{row:?}");
    // The queues are as good as new.
    attach(&mut registry, &request("two", 1)).unwrap();
    assert_eq!(
        registry.stats(Some("two")).unwrap().attachments.len(),
        1,
        "the name stands for the new one"
    );
    registry.shut_down();
}

#[test]
fn a_step_that_fails_leaves_nothing_behind() {
    let (wire, mut registry) = registry(2, "");
    let wanted = AttachRequest {
        queue_last: 1,
        flows: vec!["any".into(), "udp".into()],
        ..request("a", 0)
    };
    for step in 0..2 {
        wire.lock().refuse_flow = Some(step);
        refused(
            &mut registry,
            &wanted,
            FailureCode::Invalid,
            "the test says so",
        );
        let log = wire.take_log();
        for queue in 0..2 {
            assert!(
                log.contains(&format!("drop {queue}")),
                "step {step}: {log:?}"
            );
        }
        let closed = log.iter().filter(|entry| entry.starts_with("close"));
        assert_eq!(closed.count(), 2, "rules go with the queues: {log:?}");
    }
    wire.lock().refuse_open = Some(1);
    refused(
        &mut registry,
        &wanted,
        FailureCode::Busy,
        "the test says so",
    );
    assert_eq!(
        wire.take_log()
            .iter()
            .filter(|entry| *entry == "drop 0")
            .count(),
        1
    );
    wire.lock().refuse_open = None;
    for cpu in [1 << 20, u32::MAX] {
        let absurd = AttachRequest {
            cpu: Some(cpu),
            ..wanted.clone()
        };
        refused(&mut registry, &absurd, FailureCode::Invalid, "processor");
    }
    // Fails after everything was checked but before anything was touched.
    for (wrong, code, says) in [
        (
            AttachRequest {
                size: 1000,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "page size",
        ),
        (
            AttachRequest {
                chunk: 1024,
                ..wanted.clone()
            },
            FailureCode::Unsupported,
            "1024",
        ),
        (
            AttachRequest {
                memory: "cuda:0".into(),
                ..wanted.clone()
            },
            FailureCode::Unsupported,
            "cuda:0",
        ),
        (
            AttachRequest {
                memory: "dmabuf".into(),
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "handed over",
        ),
        (
            AttachRequest {
                header_slot: 100,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "header slot",
        ),
        (
            AttachRequest {
                split_extra: 256,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "256 bytes behind the header do not fit a header slot of 256",
        ),
        (
            AttachRequest {
                split_extra: 8,
                split: false,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "headers are not to be split off",
        ),
        (
            AttachRequest {
                ring: 1000,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "power of two",
        ),
        (
            AttachRequest {
                flows: vec!["nonsense".into()],
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "nonsense",
        ),
        (
            AttachRequest {
                name: "a/b".into(),
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "letters",
        ),
        (
            AttachRequest {
                nic: "eth9".into(),
                ..wanted.clone()
            },
            FailureCode::NotFound,
            "fake0",
        ),
        (
            AttachRequest {
                queue_last: 2,
                ..wanted.clone()
            },
            FailureCode::NotFound,
            "2 receive queue",
        ),
        (
            AttachRequest {
                queue_first: 1,
                queue_last: 0,
                ..wanted.clone()
            },
            FailureCode::Invalid,
            "smaller",
        ),
    ] {
        refused(&mut registry, &wrong, code, says);
    }
    assert!(
        wire.take_log()
            .iter()
            .all(|entry| !entry.starts_with("open"))
    );
    let stats = registry.stats(None).unwrap();
    assert!(stats.attachments.is_empty());
    attach(&mut registry, &wanted).unwrap();
    registry.shut_down();
}

#[test]
fn what_is_taken_is_refused_naming_the_owner() {
    let (_, mut registry) = registry(4, "");
    attach(
        &mut registry,
        &AttachRequest {
            queue_last: 2,
            ..request("first", 1)
        },
    )
    .unwrap();
    refused(
        &mut registry,
        &request("first", 0),
        FailureCode::Busy,
        "devrx detach first",
    );
    for (from, to) in [(0, 1), (2, 2), (2, 3), (0, 3)] {
        let overlap = AttachRequest {
            queue_last: to,
            ..request("second", from)
        };
        refused(
            &mut registry,
            &overlap,
            FailureCode::Busy,
            "\"first\" of uid 0",
        );
    }
    attach(&mut registry, &request("second", 3)).unwrap();
    registry.shut_down();
}

#[test]
fn one_consumer_at_a_time_and_the_next_after_it() {
    let (wire, mut registry) = registry(1, "");
    let persist = AttachRequest {
        lifetime: Lifetime::Daemon,
        ..request("a", 0)
    };
    attach(&mut registry, &persist).unwrap();
    // Nobody consumes yet: packets wait.
    wire.send(0, 5, 1);
    let (opened, endpoints) = registry.open(&ROOT, SessionId(1), "a").unwrap();
    let busy = registry
        .open(&Peer { pid: 2, ..ROOT }, SessionId(2), "a")
        .expect_err("taken");
    assert!(
        busy.code == FailureCode::Busy && busy.message.contains("process 1"),
        "{busy}"
    );
    let layout = devrx_proto::layout::Layout::new(&opened.layout).unwrap();
    let map = |opened: &Opened, endpoints: &Endpoints, start: Start| {
        let daemon = Shm::map(
            endpoints.daemon_memory.as_fd(),
            layout.daemon_size(),
            Access::ReadOnly,
        )
        .unwrap();
        let client = Shm::map(
            endpoints.client_memory.as_fd(),
            layout.client_size(),
            Access::ReadWrite,
        )
        .unwrap();
        assert!(
            Shm::map(
                endpoints.daemon_memory.as_fd(),
                layout.daemon_size(),
                Access::ReadWrite
            )
            .is_err(),
            "read-only"
        );
        assert_eq!(opened.queues[0].start(), start);
        ClientQueue::new(&layout, 0, &daemon, &client, start).unwrap()
    };
    let mut first = map(&opened, &endpoints, Start::default());
    wait_for("what waited is there", || {
        first.completions.available() == 5
    });
    // The first dies with everything; it did not give back anything.
    registry.session_ended(SessionId(1));
    let row = registry.stats(Some("a")).unwrap().attachments.remove(0);
    assert_eq!(
        (row.state.as_str(), row.with_client, row.delivered),
        ("idle", 0, 5)
    );
    let (opened, endpoints) = registry.open(&ROOT, SessionId(2), "a").unwrap();
    let mut second = map(
        &opened,
        &endpoints,
        Start {
            completion: 5,
            refill: 0,
        },
    );
    wire.send(0, 3, 1);
    wait_for("the second gets the next", || {
        second.completions.available() == 3
    });
    assert!(
        registry.close(&ROOT, SessionId(1), "a").is_err(),
        "not its consumer"
    );
    registry.close(&ROOT, SessionId(2), "a").unwrap();
    registry.open(&ROOT, SessionId(2), "a").unwrap();
    registry.shut_down();
}

#[test]
fn what_lives_with_a_session_ends_with_it() {
    let (_, mut registry) = registry(3, "");
    attach(&mut registry, &request("mine", 0)).unwrap();
    attach(
        &mut registry,
        &AttachRequest {
            lifetime: Lifetime::Daemon,
            open: true,
            ..request("kept", 1)
        },
    )
    .unwrap();
    registry
        .attach(&ROOT, SessionId(7), &request("other", 2), None)
        .unwrap();
    registry.open(&ROOT, SessionId(7), "mine").unwrap();
    registry.session_ended(SESSION);
    let alive: Vec<_> = registry
        .attachments
        .values()
        .map(|a| (a.name.as_str(), a.consumer.is_some()))
        .collect();
    assert_eq!(alive, [("kept", false), ("other", false)]);
    let news = registry.take_news();
    assert!(
        matches!(news.as_slice(), [(SessionId(7), message::Event::Ended { name, .. })] if name == "mine"),
        "{news:?}"
    );
    registry.shut_down();
}

#[test]
fn others_may_what_the_policy_says() {
    let rules = "[[policy]]\nuid = 1000\nnics = [\"rx0\"]\nqueues = 0\nkinds = [\"memfd\", \"client\"]\nmax_memory = \"2MiB\"\n";
    let (_, mut registry) = registry(2, rules);
    let user = Peer {
        pid: 5,
        uid: 1000,
        groups: vec![1000],
    };
    let denied = |result: Result<(AttachReply, Option<Endpoints>), Refused>| {
        assert_eq!(result.expect_err("denied").code, FailureCode::Denied);
    };
    denied(registry.attach(&user, SESSION, &request("a", 1), None));
    denied(registry.attach(
        &user,
        SESSION,
        &AttachRequest {
            lifetime: Lifetime::Daemon,
            ..request("a", 0)
        },
        None,
    ));
    denied(registry.attach(
        &user,
        SESSION,
        &AttachRequest {
            size: 2 << 20,
            ..request("a", 0)
        },
        None,
    ));
    registry
        .attach(&user, SESSION, &request("a", 0), None)
        .unwrap();
    let stranger = Peer {
        pid: 6,
        uid: 1001,
        groups: vec![1001],
    };
    denied(registry.attach(&stranger, SESSION, &request("b", 1), None));
    assert_eq!(
        registry
            .open(&stranger, SESSION, "a")
            .expect_err("not its own")
            .code,
        FailureCode::Denied
    );
    assert_eq!(
        registry
            .detach(&stranger, "a")
            .expect_err("not its own")
            .code,
        FailureCode::Denied
    );
    assert_eq!(
        registry
            .flow_add(&stranger, "a", "udp")
            .expect_err("not its own")
            .code,
        FailureCode::Denied
    );
    registry.detach(&user, "a").unwrap();
    registry.shut_down();
}

#[test]
fn a_range_of_all_queue_numbers_is_refused() {
    let (_, mut registry) = registry(2, "");
    let all = AttachRequest {
        queue_last: u32::MAX,
        ..request("a", 0)
    };
    refused(&mut registry, &all, FailureCode::NotFound, "queue");
    registry.shut_down();
}

#[test]
fn memory_a_client_brings_must_be_sealed() {
    let (_, mut registry) = registry(1, "");
    let wanted = AttachRequest {
        memory_fd: true,
        ..request("a", 0)
    };
    let memfd = |seals: SealFlag| {
        let fd = memfd_create("test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::ftruncate(&fd, 1 << 20).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).unwrap();
        fd
    };
    let open = registry
        .attach(&ROOT, SESSION, &wanted, Some(memfd(SealFlag::empty())))
        .expect_err("unsealed");
    assert!(open.code == FailureCode::Invalid, "{open}");
    let null = std::fs::File::open("/dev/null").unwrap().into();
    registry
        .attach(&ROOT, SESSION, &wanted, Some(null))
        .expect_err("no memory at all");
    registry
        .attach(
            &ROOT,
            SESSION,
            &wanted,
            Some(memfd(SealFlag::F_SEAL_SHRINK)),
        )
        .unwrap();
    registry.shut_down();
}

#[test]
fn sums_hold_over_several_attachments_of_a_queue() {
    let (wire, mut registry) = registry(2, "");
    let wanted = AttachRequest {
        size: 64 * 4096,
        ..request("a", 0)
    };
    for round in 1..=3u64 {
        attach(&mut registry, &wanted).unwrap();
        // More than the region has chunks, and nobody consumes: some are delivered, the others dropped.
        wire.send(0, 100, 1);
        wait_for("they arrived", || wire.waiting(0) == 0);
        let stats = registry.stats(None).unwrap();
        let queue = &stats.queues[0];
        assert_eq!(queue.packets, 100 * round);
        assert_eq!(
            queue.packets,
            queue.delivered + queue.drops.values().sum::<u64>()
        );
        assert_eq!(queue.delivered, 64 * round);
        assert_eq!(
            (stats.nics[0].packets, stats.nics[0].exact),
            (queue.packets, true)
        );
        assert_eq!(stats.attachments[0].delivered, 64, "its own only");
        registry.detach(&ROOT, "a").unwrap();
        let stats = registry.stats(None).unwrap();
        assert_eq!(
            stats.queues[0].packets,
            stats.queues[0].delivered + stats.queues[0].drops.values().sum::<u64>()
        );
    }
    assert!(registry.stats(Some("nobody")).is_err());
    registry.shut_down();
}

#[test]
fn flow_rules_come_and_go() {
    let (wire, mut registry) = registry(2, "");
    attach(
        &mut registry,
        &AttachRequest {
            queue_last: 1,
            ..request("a", 0)
        },
    )
    .unwrap();
    let added = registry.flow_add(&ROOT, "a", "udp,dst-port=5000").unwrap();
    assert_eq!(
        (added.flow.id, added.warnings.as_slice()),
        (1, ["a note".to_owned()].as_slice())
    );
    wire.take_log();
    wire.lock().refuse_flow = Some(0);
    registry.flow_add(&ROOT, "a", "tcp").expect_err("refused");
    assert_eq!(wire.take_log(), [""; 0], "nothing has changed");
    registry.flow_del(&ROOT, "a", 1).unwrap();
    assert!(registry.flow_del(&ROOT, "a", 1).is_err(), "gone");
    let rules = registry.flow_list(None).unwrap();
    assert_eq!(rules.iter().map(|flow| flow.id).collect::<Vec<_>>(), [0]);
    assert!(registry.flow_list(Some("b")).is_err());
    registry.shut_down();
}

#[test]
fn what_becomes_of_unsplit_packets_is_the_requests_word_then_the_configurations() {
    use devrx_proto::message::Unsplit;
    let (wire, mut registry) = registry(3, "");
    let configured = Config::parse(
        "[[interfaces]]\naddress = \"afxdp:fake0\"\n[[interfaces.rx.queues]]\nids = \"1-2\"\nunsplit = \"drop\"",
    );
    registry.nics[0].settings = configured.unwrap().nics.remove(0).queues;
    let asked = |queue, unsplit| AttachRequest {
        unsplit,
        ..request(&format!("q{queue}"), queue)
    };
    attach(&mut registry, &asked(0, None)).unwrap();
    attach(&mut registry, &asked(1, None)).unwrap();
    attach(&mut registry, &asked(2, Some(Unsplit::Header))).unwrap();
    let opened: Vec<_> = wire.take_log();
    let opened: Vec<_> = opened
        .iter()
        .filter(|what| what.starts_with("open"))
        .collect();
    assert_eq!(opened, ["open 0", "open 1 Drop", "open 2 Header"]);
    registry.shut_down();
}

/// A client from before there was a choice says nothing of it.
#[test]
fn whose_timestamps_is_the_requests_word_then_the_configurations() {
    use devrx_proto::message::Timestamps;
    let (wire, mut registry) = registry(4, "");
    let configured = Config::parse(
        "[[interfaces]]\naddress = \"afxdp:fake0\"\n[[interfaces.rx.queues]]\nids = \"1-2\"\ntimestamps = \"nic\"",
    );
    registry.nics[0].settings = configured.unwrap().nics.remove(0).queues;
    let asked = |queue, timestamps| AttachRequest {
        timestamps,
        ..request(&format!("q{queue}"), queue)
    };
    attach(&mut registry, &asked(0, None)).unwrap();
    attach(&mut registry, &asked(1, None)).unwrap();
    attach(&mut registry, &asked(2, Some(Timestamps::Software))).unwrap();
    attach(&mut registry, &asked(3, Some(Timestamps::Nic))).unwrap();
    let opened: Vec<_> = wire.take_log();
    let opened: Vec<_> = opened
        .iter()
        .filter(|what| what.starts_with("open"))
        .collect();
    assert_eq!(
        opened,
        ["open 0", "open 1 stamped", "open 2", "open 3 stamped"]
    );
    registry.shut_down();
}

/// The kernel lets a function be unplugged or unbound only once its file is closed; so it is, and the numbers stay.
#[test]
fn a_nic_that_fails_is_let_go_of_after_its_queues() {
    let (wire, mut registry) = registry(2, "");
    attach(&mut registry, &request("one", 0)).unwrap();
    attach(&mut registry, &request("two", 1)).unwrap();
    wire.send(1, 5, 1);
    wait_for("five packets", || {
        registry.stats(Some("two")).unwrap().attachments[0].delivered == 5
    });
    wire.take_log();
    wire.lock().fault = Some("it was unplugged".into());
    registry.sweep();
    // On a thread of its own: the kernel may take long.
    let mut log = Vec::new();
    wait_for("the NIC is dropped", || {
        log.extend(wire.take_log());
        log.last().is_some_and(|last| last == "drop the NIC")
    });
    for queue in 0..2 {
        assert!(log.contains(&format!("drop {queue}")), "{log:?}");
    }
    let stats = registry.stats(None).unwrap();
    assert!(
        stats.attachments.iter().all(|row| row.state == "ended"
            && row.reason == "it was unplugged"
            && row.in_flight == 0),
        "{stats:?}"
    );
    assert_eq!(
        (
            stats.nics[0].nic.as_str(),
            stats.nics[0].packets,
            stats.nics[0].exact
        ),
        ("fake0", 5, false)
    );
    assert!(registry.nic_infos()[0].gone);
    refused(
        &mut registry,
        &request("one", 0),
        FailureCode::NotFound,
        "it was unplugged",
    );
    registry.sweep();
    registry.shut_down();
}

#[test]
fn a_functions_memory_is_one_attachments() {
    let (wire, mut registry) = registry(2, "");
    let bar = |memory: &str| AttachRequest {
        memory: memory.into(),
        ..request("b", 1)
    };
    attach(&mut registry, &request("a", 0)).unwrap();
    // There is no device here to make it of.
    registry.attachments.get_mut("a").unwrap().memory = "pci:0000:ff:1f.7/2".into();
    wire.take_log();
    let busy = "that of the attachment \"a\" of uid 0";
    for word in ["pci:0000:ff:1f.7/2", "pci:ff:1f.7/2", "pci:ff:1f.7/0"] {
        refused(&mut registry, &bar(word), FailureCode::Busy, busy);
    }
    let invalid = FailureCode::Invalid;
    refused(&mut registry, &bar("pci:ff:1f.7"), invalid, "names no BAR");
    // Another function's is free, but there is no such function.
    let other = bar("pci:0000:ff:1f.6/0");
    refused(&mut registry, &other, FailureCode::NotFound, "0000:ff:1f.6");
    registry.leaked.push("pci:0000:ff:1f.6/2".into());
    refused(
        &mut registry,
        &other,
        FailureCode::Busy,
        "not be proven stopped",
    );
    assert!(wire.take_log().is_empty(), "no queue was opened for it");
    registry.shut_down();
}
