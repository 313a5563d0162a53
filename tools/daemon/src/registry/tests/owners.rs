//! Who has a queue, a name, a consumer, memory; and what others may do.

use super::*;

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
