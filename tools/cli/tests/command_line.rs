//! The forms of the command line, its errors, and its JSON, against the real program.
#![expect(clippy::unwrap_used, reason = "in a test that is how a failure shows")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use devrx_proto::socket::Listener;
use serde_json::Value;

const DEVRX: &str = env!("CARGO_BIN_EXE_devrx");

fn devrx(line: &str) -> Output {
    Command::new(DEVRX)
        .args(line.split_whitespace())
        .env("DEVRX_SOCKET", "/nonexistent/devrx.sock")
        .output()
        .unwrap()
}

fn root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `line` as in `devrx ... | head -0`, stderr closed too if `deaf`, and checks that the program ends as others do of a closed pipe.
fn without_a_reader(line: &str, socket: &Path, deaf: bool) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let errors = if deaf {
        writer.try_clone().unwrap().into()
    } else {
        Stdio::piped()
    };
    let output = Command::new(DEVRX)
        .args(line.split_whitespace())
        .arg("--socket")
        .arg(socket)
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(141), "{line}: {said}");
    assert!(
        said.lines().all(|line| line.starts_with("note: ")),
        "{line}: {said}"
    );
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let nowhere = Path::new("/nonexistent/devrx.sock");
    for line in ["doctor", "doctor --json", "nic list", "nic list --json"] {
        without_a_reader(line, nowhere, false);
        without_a_reader(line, nowhere, true);
    }
    let Some(daemon) = Daemon::start() else {
        return;
    };
    for line in [
        "attach --name one --nic lo --queue 0 --memory memfd --size 2M",
        "flow add one udp,dst-port=9",
        "flow list",
        "recv one --timeout 0.1",
        "recv one --timeout 0.1 --json",
        "stats",
        "stats --watch",
        "stats --openmetrics",
        "flow del one 0",
        "detach one",
    ] {
        without_a_reader(line, &daemon.socket, line.len() % 2 == 0);
    }
}

#[test]
fn a_full_disk_is_a_fault() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = Command::new(DEVRX)
        .args(["nic", "list", "--json"])
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("standard output") && said.contains("No space"),
        "{said}"
    );
}

#[test]
fn every_form_of_the_design_is_understood() {
    for line in [
        "doctor --help",
        "nic list --help",
        "nic bind 0000:03:00.0 --force --help",
        "nic unbind 0000:03:00.0 --help",
        "run --nic afxdp:eth0 --nic vfio:0000:03:00.0 --config f.toml --socket s --help",
        "attach --name a --nic eth0 --queue 0-3 --memory memfd --size 64M --chunk 4096 --flow any --flow udp,dst-port=5000 --help",
        "detach a --help",
        "flow add a any --help",
        "flow del a any --help",
        "flow list a --help",
        "recv a --count 5 --timeout 1 --pcap f --help",
        "send --interface eth0 --pcap f --count 5 --rate 10 --help",
        "send --interface eth0 --udp 10.0.0.1:5 --size 10 --help",
        "send --nic vfio:0000:03:00.0 --pcap f --count 5 --rate 10 --help",
        "selftest vfio:0000:03:00.0 --help",
        "stats a --watch --help",
        "demo --pcap f --seconds 3 --help",
        "bench --help",
    ] {
        let output = devrx(line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
    }
}

#[test]
fn wrong_lines_are_refused_with_what_was_wrong() {
    for (line, word) in [
        ("frobnicate", "frobnicate"),
        ("run", "--nic"),
        (
            "attach --name a --nic e --queue 3-1 --memory memfd --size 1M",
            "3-1",
        ),
        (
            "attach --name a --nic e --queue x --memory memfd --size 1M",
            "x",
        ),
        (
            "attach --name a --nic e --queue 0 --memory memfd --size 1Q",
            "1Q",
        ),
        (
            "attach --name a --nic e --queue 0 --memory marble --size 1M",
            "marble",
        ),
        (
            "attach --name a --nic e --queue 0 --memory cuda --size 1M",
            "cuda:INDEX",
        ),
        (
            "attach --name a --nic e --queue 0 --memory memfd --size 1M --chunk 0",
            "chunk",
        ),
        ("send --interface e", "--pcap"),
        ("send --interface e --udp 10.0.0.1:5", "--size"),
        (
            "send --interface e --pcap f --udp 10.0.0.1:5 --size 1",
            "--udp",
        ),
        (
            "send --interface nosuch0 --udp 10.0.0.1:5 --size 10 --count 1",
            "nosuch0",
        ),
        (
            "send --interface lo --pcap /nonexistent.pcap",
            "/nonexistent.pcap",
        ),
        (
            "send --interface lo --udp 10.0.0.1:5 --size 10 --rate 0",
            "--rate",
        ),
        ("send --udp 10.0.0.1:5 --size 10", "--interface"),
        (
            "send --nic vfio:ff:1f.7 --interface e --udp 10.0.0.1:5 --size 10",
            "--interface",
        ),
        ("send --nic afxdp:eth0 --udp 10.0.0.1:5 --size 10", "vfio:"),
        (
            "send --nic vfio:ff:1f.7 --udp 10.0.0.1:5 --size 10",
            "0000:ff:1f.7",
        ),
        ("selftest", "<NIC>"),
        ("selftest eth0", "domain:bus:device.function"),
        ("selftest afxdp:eth0", "Linux drives"),
        ("selftest vfio:ff:1f.7", "no PCI function"),
        ("recv a --timeout=-1", "timeout"),
        ("demo --pcap /nonexistent.pcap", "/nonexistent.pcap"),
        ("nic bind", "<PCI>"),
        ("nic bind eth0", "domain:bus:device.function"),
        ("nic bind 0000:ff:1f.7", "no PCI function"),
        ("nic bind --force 0000:ff:1f.7", "devrx nic list"),
        ("nic unbind ff:1f.7", "0000:ff:1f.7"),
        ("nic unbind --force ff:1f.7", "--force"),
        ("bench", "cargo xtask bench"),
        ("doctor --log =x=", "--log"),
    ] {
        let output = devrx(line);
        let said = stderr(&output);
        assert!(!output.status.success(), "{line} was accepted");
        assert_ne!(output.status.code(), Some(101), "{line} panicked: {said}");
        assert!(said.contains(word), "{line} does not say {word:?}: {said}");
    }
}

#[test]
fn without_a_daemon_every_client_says_so() {
    for line in [
        "detach a",
        "flow list",
        "flow add a any",
        "recv a",
        "stats --json",
        "attach --name a --nic e --queue 0 --memory memfd --size 1M",
    ] {
        let output = devrx(line);
        let said = stderr(&output);
        assert!(
            !output.status.success()
                && said.contains("/nonexistent/devrx.sock")
                && said.contains("devrx run"),
            "{line}: {said}"
        );
    }
}

#[test]
fn the_first_signal_ends_a_command_that_waits_for_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("devrx.sock");
    let listener = Listener::bind(&socket, 0o600).unwrap();
    for line in [
        "attach --name a --nic e --queue 0 --memory memfd --size 1M",
        "detach a",
        "flow list",
        "stats",
        "nic list",
    ] {
        let mut child = Command::new(DEVRX)
            .args(line.split_whitespace())
            .arg("--socket")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It has connected, and is never answered.
        let connection = listener.accept().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
        // Treated as Ctrl-C is, which a shell without job control has its background ignore.
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let status = loop {
            match child.try_wait().unwrap() {
                None if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
                None => {
                    child.kill().unwrap();
                    break child.wait().unwrap();
                }
                Some(status) => break status,
            }
        };
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{line}: {status}");
        drop(connection);
    }
}

#[test]
fn doctor_prints_a_fix_for_every_no() {
    let output = devrx("doctor --json");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"].as_bool().unwrap(), output.status.success());
    let checks = report["checks"].as_array().unwrap();
    assert!(checks.len() >= 10);
    let mut possible = true;
    for check in checks {
        let ok = check["ok"].as_bool().unwrap();
        assert_eq!(ok, check["fix"].as_str().unwrap().is_empty(), "{check}");
        possible &= ok || !check["required"].as_bool().unwrap();
    }
    assert_eq!(report["ok"].as_bool().unwrap(), possible);
    assert!(report["interfaces"].is_array());
    let vfio: Vec<&str> = checks
        .iter()
        .filter(|check| check["required_by_vfio"] == true)
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    for name in ["kernel", "memlock", "iommu", "vfio_pci", "vfio"] {
        assert!(vfio.contains(&name), "{name} is not among {vfio:?}");
    }
    let groups = std::fs::read_dir("/sys/kernel/iommu_groups")
        .is_ok_and(|mut entries| entries.next().is_some());
    let iommu = checks
        .iter()
        .find(|check| check["name"] == "iommu")
        .unwrap();
    assert_eq!(iommu["ok"], groups);
    // Every network controller that the kernel shows, and no other function.
    let network = std::fs::read_dir("/sys/bus/pci/devices").map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| {
                std::fs::read_to_string(entry.path().join("class"))
                    .is_ok_and(|class| class.starts_with("0x02"))
            })
            .count()
    });
    assert_eq!(report["functions"].as_array().unwrap().len(), network);
}

/// A daemon in a network namespace of its own; it ends when its standard input does.
struct Daemon {
    child: Child,
    socket: PathBuf,
    ready: Value,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// None where this test is not run by root.
    fn start() -> Option<Self> {
        if !root() {
            eprintln!("skipped: not root (network namespaces and AF_XDP need it)");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("devrx.sock");
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" run --json --until-stdin-closes --nic afxdp:lo --socket \"$1\"", DEVRX])
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|_| panic!("no JSON line when ready, but {line:?}"));
        Some(Self {
            child,
            socket,
            ready,
            _folder: folder,
        })
    }

    fn ok(&self, line: &str) -> Value {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{line} printed no JSON: {output:?}"))
    }

    fn run(&self, line: &str) -> Output {
        Command::new(DEVRX)
            .args(line.split_whitespace())
            .arg("--socket")
            .arg(&self.socket)
            .output()
            .unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        if !std::thread::panicking() {
            assert!(status.success(), "the daemon ended with {status}");
            assert!(!self.socket.exists(), "the socket stayed");
        }
    }
}

#[test]
fn json_of_every_client_command() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    assert_eq!(daemon.ready["ready"], true);
    assert_eq!(daemon.ready["pid"], daemon.child.id());
    let attached = daemon.ok("attach --json --name one --nic lo --queue 0 --memory memfd --size 2M --flow udp,dst-port=7");
    assert_eq!(attached["name"], "one");
    let added = daemon.ok("flow add --json one udp,dst-port=9");
    assert_eq!(added["flow"]["name"], "one");
    let flows = daemon.ok("flow list --json one");
    assert_eq!(flows["flows"].as_array().unwrap().len(), 2);
    assert_eq!(
        daemon.ok("flow del --json one udp,dst-port=7")["removed"],
        true
    );
    let rules: Vec<_> = daemon.ok("flow list --json")["flows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|flow| flow["rule"].clone())
        .collect();
    assert_eq!(rules, ["udp,dst-port=9"]);
    assert!(
        !daemon.run("flow del one udp,dst-port=7").status.success(),
        "a rule that is gone was removed"
    );

    let received = daemon.ok("recv --json one --timeout 0.3");
    assert_eq!(received["packets"], 0);
    let short = daemon.run("recv --json one --timeout 0.3 --count 1");
    assert!(
        !short.status.success(),
        "fewer packets than asked for is no success"
    );

    let stats = daemon.ok("stats --json");
    for (list, keys) in [
        ("nics", &["nic", "driver", "packets", "drops", "exact"][..]),
        (
            "queues",
            &[
                "nic",
                "queue",
                "packets",
                "bytes",
                "delivered",
                "drops",
                "exact",
            ],
        ),
        (
            "attachments",
            &[
                "name",
                "nic",
                "queue",
                "memory",
                "chunks",
                "delivered",
                "returned",
                "hold",
                "release",
                "in_flight",
                "drops",
                "payload_bytes_copied",
            ],
        ),
    ] {
        let entry = &stats[list][0];
        for key in keys {
            assert!(entry.get(key).is_some(), "{list}: no {key} in {entry}");
        }
    }
    assert_eq!(stats["attachments"][0]["name"], "one");
    assert_eq!(
        daemon.ok("stats --json one")["attachments"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert!(!daemon.run("stats --json nobody").status.success());
    let metrics = String::from_utf8(daemon.run("stats --openmetrics").stdout).unwrap();
    assert!(
        metrics.trim_end().ends_with("# EOF"),
        "no OpenMetrics: {metrics}"
    );
    assert!(
        String::from_utf8(daemon.run("stats").stdout)
            .unwrap()
            .contains("attachment one")
    );

    let nics = daemon.ok("nic list --json");
    assert_eq!(nics["daemon"]["nics"][0]["nic"], "lo");
    assert_eq!(nics["daemon"]["running"], true);

    assert_eq!(daemon.ok("detach --json one")["detached"], true);
    assert!(!daemon.run("detach one").status.success(), "detached twice");
}
