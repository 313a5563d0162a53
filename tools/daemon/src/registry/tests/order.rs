//! The order of steps in which an attachment is made and ends, also where one of them fails.

use super::*;

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
