use super::*;

const FULL: &str = r#"
[socket]
path = "/tmp/devrx.sock"
mode = "0660"
group = "devrx"

[[memory_regions]]
name = "payload"
kind = "memfd"
num_bufs = 4096
buf_size = "4KiB"

[[interfaces]]
name = "rx0"
address = "afxdp:eth0"

[[interfaces.rx.queues]]
name = "stream"
id = 0
cpu_core = 2
batch_size = 32
timeout_us = 100
poll_mode = "busy"
memory_regions = ["payload"]
header_slot = 256
split_extra = 8
unsplit = "drop"
timestamps = "nic"

[[interfaces.rx.queues]]
ids = "1-3"
poll_mode = "sleep"

[[interfaces.rx.flows]]
name = "data"
match = { udp_dst = 5000 }
action = { queue = "stream" }

[[interfaces.rx.flows]]
match = "udp,dst-port=5001"
action = { queue = 0 }

[[policy]]
uid = 1000
nics = ["eth0"]
queues = "1-3"
kinds = ["memfd", "hugetlb"]
max_memory = "64MiB"
persist = true
"#;

#[test]
fn the_words_of_the_file_reach_the_plan() {
    let config = Config::parse(FULL).expect("accepted");
    assert_eq!(config.socket_path(), Path::new("/tmp/devrx.sock"));
    assert_eq!(config.socket_mode, 0o660);
    let [attachment] = config.attachments.as_slice() else {
        panic!("one attachment: {:?}", config.attachments)
    };
    assert_eq!(
        (attachment.name.as_str(), attachment.nic.as_str()),
        ("stream", "eth0")
    );
    assert_eq!((attachment.size, attachment.chunk), (4096 * 4096, 4096));
    assert_eq!(attachment.flows, ["udp,dst-port=5000", "udp,dst-port=5001"]);
    assert_eq!(attachment.settings.poll_mode, PollMode::Busy);
    assert_eq!(attachment.settings.split_extra, Some(8));
    let unsplit = attachment.settings.unsplit;
    assert_eq!(unsplit, Some(devrx_proto::message::Unsplit::Drop));
    let timestamps = attachment.settings.timestamps;
    assert_eq!(timestamps, Some(devrx_proto::message::Timestamps::Nic));
    assert_eq!(config.nics[0].queues[1].queues, 1..=3);
    assert_eq!(config.nics[0].queues[1].poll_mode, PollMode::Sleep);
    assert_eq!(config.policy[0].max_memory, Some(64 << 20));
}

/// Each mistake, and what the message must name.
#[test]
fn mistakes_are_named() {
    for (from, to, says) in [
        ("cpu_core = 2", "cpu_cores = 2", "cpu_cores"),
        ("[socket]", "[sockets]", "sockets"),
        ("mode = \"0660\"", "mode = \"0999\"", "octal"),
        ("poll_mode = \"busy\"", "poll_mode = \"fast\"", "fast"),
        (
            "unsplit = \"drop\"",
            "unsplit = \"lose\"",
            "`deliver`, `drop`",
        ),
        (
            "timestamps = \"nic\"",
            "timestamps = \"wire\"",
            "`software` or `nic`",
        ),
        ("buf_size = \"4KiB\"", "buf_size = \"4KB\"", "4KB"),
        ("[\"payload\"]", "[\"payloads\"]", "payloads"),
        ("[\"payload\"]", "[\"payload\", \"payload\"]", "one"),
        ("ids = \"1-3\"", "ids = \"0-3\"", "queue 0"),
        ("ids = \"1-3\"", "ids = [1, 3]", "does not follow"),
        ("ids = \"1-3\"", "cpu_core = 1", "no id"),
        ("{ queue = \"stream\" }", "{ queue = 1 }", "memory_regions"),
        ("{ queue = \"stream\" }", "{ queues = 1 }", "queues"),
        (
            "udp,dst-port=5001",
            "udp,dst-port=nine",
            "udp,dst-port=nine",
        ),
        ("uid = 1000", "", "uid"),
        ("uid = 1000", "uid = 1000\ngid = 5", "one of"),
        (
            "kinds = [\"memfd\", \"hugetlb\"]",
            "kinds = [\"vram\"]",
            "vram",
        ),
        ("afxdp:eth0", "eth0", "afxdp:IFNAME"),
        ("name = \"stream\"", "name = \"../stream\"", "../stream"),
    ] {
        let text = FULL.replace(from, to);
        assert_ne!(text, FULL, "{from} is in the file");
        let error = Config::parse(&text).expect_err(to).to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
}

#[test]
fn the_command_line_adds_to_the_file() {
    let mut config = Config::parse(FULL).expect("accepted");
    config
        .merge_cli(
            &["afxdp:eth0".into(), "afxdp:eth1".into()],
            Some("/tmp/other.sock".into()),
        )
        .expect("merged");
    assert_eq!(
        config
            .nics
            .iter()
            .map(|nic| nic.spec.name())
            .collect::<Vec<_>>(),
        ["eth0", "eth1"]
    );
    assert_eq!(config.socket_path(), Path::new("/tmp/other.sock"));
    assert!(
        config.merge_cli(&["vfio:eth0".into()], None).is_err(),
        "one NIC in two ways"
    );

    let mut nothing = Config::load(None).expect("defaults");
    assert!(
        nothing
            .merge_cli(&[], None)
            .expect_err("no NIC")
            .to_string()
            .contains("--nic")
    );
    assert_eq!(nothing.socket_path(), Path::new(DEFAULT_SOCKET));
    for wrong in [
        "eth0",
        "afxdp:",
        "afxdp:a-name-far-too-long",
        "xdp:eth0",
        "afxdp:et h0",
    ] {
        assert!(wrong.parse::<NicSpec>().is_err(), "{wrong:?}");
    }
}

#[test]
fn dma_bufs_that_may_move_are_for_the_administrator_to_allow() {
    let load = |text: &str| Config::parse(text).map(|config| config.dmabuf);
    assert!(!load("").unwrap().allow_unpinned);
    let policy = load("[dmabuf]\nallow_unpinned = true\npinned = [\"mine\"]").unwrap();
    assert!(policy.allow_unpinned && policy.pinned == ["mine"]);
    assert!(load("[dmabuf]\nallow = true").is_err());
}

#[test]
fn libraries_of_gpus_are_named_by_their_whole_paths() {
    let gpus = Config::parse("").unwrap().gpus;
    assert_eq!(gpus, crate::attachment::Gpus::default());
    let gpus = Config::parse("[gpu]\nlibcuda = \"/opt/nvidia/libcuda.so.1\"\n")
        .unwrap()
        .gpus;
    assert_eq!(gpus.cuda.library, Some("/opt/nvidia/libcuda.so.1".into()));
    for (wrong, word) in [
        ("libcuda = \"libcuda.so.1\"", "whole path"),
        ("libamdhip = \"/opt/rocm/lib/libamdhip64.so\"", "name both"),
        ("libcudart = \"/usr/lib/libcudart.so\"", "libcudart"),
    ] {
        let error = Config::parse(&format!("[gpu]\n{wrong}\n")).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn what_only_an_owner_sets_is_refused_where_linux_drives_the_nic() {
    let owned = |more: &str| format!("[[interfaces]]\naddress = \"vfio:03:00.0\"\n{more}");
    let config = Config::parse(&owned(
        "promiscuous = false\nvlan_strip = true\n[[interfaces.rx.queues]]\nid = 0\nmoderation_us = 50\n",
    ))
    .expect("accepted");
    let nic = &config.nics[0];
    assert_eq!((nic.promiscuous, nic.vlan_strip), (Some(false), Some(true)));
    assert_eq!(nic.queues[0].moderation_us, Some(50));
    for (line, command) in [
        ("promiscuous = true", "ip link set eth0 promisc on"),
        ("vlan_strip = false", "ethtool -K eth0 rxvlan on"),
        (
            "[[interfaces.rx.queues]]\nid = 0\nmoderation_us = 0",
            "ethtool -C eth0 rx-usecs N",
        ),
    ] {
        let text = owned(line).replace("vfio:03:00.0", "afxdp:eth0");
        let error = Config::parse(&text).unwrap_err().to_string();
        assert!(error.contains(command), "{line}: {error}");
    }
}
