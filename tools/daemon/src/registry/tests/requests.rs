//! What a request asks for, and what it gets.

use super::*;

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
    let said = [
        asked(0, None),
        asked(1, None),
        asked(2, Some(Timestamps::Software)),
        asked(3, Some(Timestamps::Nic)),
    ]
    .map(|wanted| attach(&mut registry, &wanted).unwrap().timestamps);
    let (software, nic) = (Timestamps::Software, Timestamps::Nic);
    assert_eq!(said, [software, nic, software, nic]);
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

#[test]
fn who_asks_for_looks_at_its_refill_ring_is_told_that_it_gets_them() {
    let (_wire, mut registry) = registry(1, "");
    for polls_refill in [false, true] {
        let wanted = AttachRequest {
            polls_refill,
            ..request("a", 0)
        };
        let reply = attach(&mut registry, &wanted).unwrap();
        assert_eq!(reply.polls_refill, polls_refill);
        // Whoever opens it later, too.
        let (opened, _) = registry.open(&ROOT, SESSION, "a").unwrap();
        assert_eq!(opened.polls_refill, polls_refill);
        registry.detach(&ROOT, "a").unwrap();
    }
    registry.shut_down();
}

#[test]
fn what_no_layout_can_have_is_refused_before_memory_is_taken() {
    let (_, mut registry) = registry(2, "");
    // 4 TiB: a host that was asked for it would end programs to find it.
    let all = AttachRequest {
        size: 1 << 42,
        ..request("a", 0)
    };
    let says = "1 to 16777216 are possible; choose larger chunks or a smaller region";
    refused(&mut registry, &all, FailureCode::Invalid, says);
    registry.shut_down();
}

#[test]
fn policy_counts_what_an_attachment_takes() {
    // 50 chunks on three queues: one has 17, and each of their rings 32 entries.
    let wanted = AttachRequest {
        queue_last: 2,
        size: 50 * 4096,
        ..request("a", 0)
    };
    let (_, mut first) = registry(3, "");
    attach(&mut first, &wanted).unwrap();
    let takes = first.attachments["a"].size();
    first.shut_down();
    let user = Peer { uid: 1000, ..ROOT };
    for (limit, fits) in [(takes, true), (takes - 1, false)] {
        let rule = format!(
            "[[policy]]\nuid = 1000\nnics = [\"rx0\"]\nqueues = \"0-2\"\nmax_memory = {limit}\n"
        );
        let (_, mut registry) = registry(3, &rule);
        let made = registry.attach(&user, SESSION, &wanted, None);
        assert_eq!(made.is_ok(), fits, "{:?}", made.err());
        registry.shut_down();
    }
}
