use super::*;

fn peer(uid: u32, groups: &[u32]) -> Peer {
    Peer {
        pid: 1,
        uid,
        groups: groups.to_vec(),
    }
}

fn ask() -> Ask<'static> {
    Ask {
        nic: "eth0",
        alias: Some("rx0"),
        queues: 1..=2,
        kind: "memfd",
        size: 1 << 20,
        persist: false,
        tune: false,
    }
}

fn policy(rules: &str) -> Policy {
    let config = crate::Config::parse(rules).expect("rules");
    Policy::new(&config.policy, 500).expect("resolved")
}

const RULE: &str = "[[policy]]\nuid = 1000\nnics = [\"eth0\"]\nqueues = \"1-3\"\nmax_memory = \"2MiB\"\nmax_attachments = 2\n";

#[test]
fn the_default_is_no_and_the_message_is_a_rule_that_works() {
    let none = policy("");
    let stranger = peer(1000, &[1000]);
    for master in [peer(0, &[]), peer(500, &[])] {
        assert!(none.may_attach(&master, &ask(), Usage::default()).is_ok());
    }
    let denied = none
        .may_attach(&stranger, &ask(), Usage::default())
        .expect_err("denied")
        .to_string();
    let rule = &denied[denied.rfind("[[policy]]").expect("a rule in the message")..];
    assert!(
        policy(rule)
            .may_attach(&stranger, &ask(), Usage::default())
            .is_ok(),
        "the suggested rule allows it: {rule}"
    );
}

#[test]
fn every_limit_of_a_rule_holds() {
    let policy = policy(RULE);
    let user = peer(1000, &[]);
    let none = Usage::default();
    assert!(policy.may_attach(&user, &ask(), none).is_ok());
    let refused = |ask: Ask<'_>, usage: Usage, says: &str| {
        let error = policy
            .may_attach(&user, &ask, usage)
            .expect_err(says)
            .to_string();
        assert!(error.contains(says), "{says}: {error}");
    };
    refused(
        Ask {
            nic: "eth1",
            alias: None,
            ..ask()
        },
        none,
        "eth1",
    );
    refused(
        Ask {
            queues: 0..=1,
            ..ask()
        },
        none,
        "queues 1-3",
    );
    refused(
        Ask {
            queues: 3..=4,
            ..ask()
        },
        none,
        "queues 1-3",
    );
    refused(
        Ask {
            kind: "hugetlb",
            ..ask()
        },
        none,
        "hugetlb",
    );
    refused(
        Ask {
            tune: true,
            ..ask()
        },
        none,
        "tune = true",
    );
    refused(
        Ask {
            size: (2 << 20) + 1,
            ..ask()
        },
        none,
        "2097152 bytes",
    );
    refused(
        ask(),
        Usage {
            memory: (1 << 20) + 1,
            attachments: 1,
        },
        "in use",
    );
    refused(
        Ask {
            size: u64::MAX,
            ..ask()
        },
        Usage {
            memory: 1,
            attachments: 1,
        },
        "in use",
    );
    refused(
        ask(),
        Usage {
            memory: 0,
            attachments: 2,
        },
        "2 attachments",
    );
    refused(
        Ask {
            persist: true,
            ..ask()
        },
        none,
        "outlive",
    );
    assert!(
        policy
            .may_attach(&peer(1001, &[1000]), &ask(), none)
            .is_err(),
        "a gid is not a uid"
    );
}

#[test]
fn groups_and_aliases_are_honoured() {
    let policy = policy(
        "[[policy]]\ngid = 77\nnics = [\"rx0\"]\n[[policy]]\nuid = 1000\nattachments = [\"stream\"]\n",
    );
    assert!(
        policy
            .may_attach(&peer(1000, &[5, 77]), &ask(), Usage::default())
            .is_ok()
    );
    assert!(
        policy
            .may_attach(&peer(1000, &[5]), &ask(), Usage::default())
            .is_err()
    );
    let user = peer(1000, &[]);
    assert!(policy.may_use(&user, 0, "stream").is_ok());
    assert!(policy.may_use(&user, 1000, "own").is_ok());
    assert!(policy.may_use(&peer(0, &[]), 1000, "own").is_ok());
    let denied = policy
        .may_use(&user, 0, "other")
        .expect_err("not named")
        .to_string();
    assert!(denied.contains("attachments = [\"other\"]"), "{denied}");
}

#[test]
fn names_are_short_and_plain() {
    for fine in ["a", "stream-1", "eth0.3", "x.y_z"] {
        assert!(check_name(fine).is_ok(), "{fine}");
    }
    let long = "x".repeat(MAX_NAME + 1);
    for wrong in ["", ".", "-x", "a/b", "a b", "a\n", "ä", "a\0", &long] {
        assert!(check_name(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn memory_of_a_device_is_allowed_by_name() {
    let user = peer(1000, &[]);
    let ask = Ask {
        kind: "pci:0000:03:00.0/2",
        ..ask()
    };
    let allowed = |kinds: &str| {
        policy(&format!("{RULE}kinds = [{kinds}]\n"))
            .may_attach(&user, &ask, Usage::default())
            .map_err(|denied| denied.to_string())
    };
    for kinds in ["\"pci\"", "\"memfd\", \"pci:0000:03:00.0/2\""] {
        allowed(kinds).expect(kinds);
    }
    for kinds in ["\"*\"", "\"dmabuf\", \"client\"", "\"pci:0000:03:00.0/0\""] {
        let denied = allowed(kinds).expect_err(kinds);
        let line = "kinds = [\"pci:0000:03:00.0/2\"]";
        assert!(denied.contains(line), "the rule to write: {denied}");
    }
    for wrong in [
        "\"pci:03:00.0/2\"",
        "\"pci:0000:03:00.0\"",
        "\"memfd:1\"",
        "\"cuda:\"",
        "\"hip:01\"",
    ] {
        let text = format!("{RULE}kinds = [{wrong}]\n");
        assert!(crate::Config::parse(&text).is_err(), "{wrong}");
    }
}

#[test]
fn memory_of_a_gpu_is_allowed_by_name() {
    let user = peer(1000, &[]);
    let gpu = Ask {
        kind: "cuda:1",
        ..ask()
    };
    let allowed = |kinds: &str| {
        policy(&format!("{RULE}kinds = [{kinds}]\n"))
            .may_attach(&user, &gpu, Usage::default())
            .map_err(|denied| denied.to_string())
    };
    for kinds in ["\"cuda\"", "\"memfd\", \"cuda:1\""] {
        allowed(kinds).expect(kinds);
    }
    for kinds in ["\"*\"", "\"hip\", \"pci\"", "\"cuda:0\""] {
        let denied = allowed(kinds).expect_err(kinds);
        assert!(denied.contains("kinds = [\"cuda:1\"]"), "{denied}");
    }
}

/// A refusal goes into the log.
#[test]
fn the_clients_words_break_no_line() {
    let forged = Ask {
        kind: "x\nWARN forged",
        ..ask()
    };
    for rules in ["", RULE] {
        let error = policy(rules)
            .may_attach(&peer(1000, &[]), &forged, Usage::default())
            .expect_err("denied")
            .to_string();
        assert!(!error.contains("\nWARN"), "{error}");
    }
}
