//! Unprivileged users get what the configuration allows them, and nothing of anybody else.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{Output, run};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};

/// The user `nobody`.
const NOBODY: &str = "65534";

const CONFIG: &str = r#"
[socket]
mode = "0666"

[[memory_regions]]
name = "roots"
kind = "memfd"
num_bufs = 512
buf_size = "4096"

[[interfaces]]
address = "afxdp:dx0"

[[interfaces.rx.queues]]
name = "from-the-file"
id = 1
memory_regions = ["roots"]

[[interfaces.rx.flows]]
match = "udp,dst-port=6000"
action = { queue = 1 }

[[policy]]
uid = 65534
nics = ["dx0"]
queues = 0
max_memory = "2M"
persist = true
"#;

/// Runs a devrx command line as `nobody`, with a copy of the binary it can reach.
fn as_nobody(daemon: &Daemon, line: &str) -> Result<Output> {
    let copy = daemon.folder().join("devrx");
    if !copy.exists() {
        std::fs::copy(lane::binary()?, &copy)?;
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755))?;
    }
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            NOBODY,
            "--regid",
            NOBODY,
            "--clear-groups",
            "--pdeathsig",
            "KILL",
            "--",
        ])
        .arg(copy);
    command
        .args(line.split_whitespace())
        .env("DEVRX_SOCKET", daemon.socket())
        .current_dir("/");
    run(&mut command, Duration::from_secs(10))
}

fn denied(daemon: &Daemon, line: &str) -> Result<()> {
    let output = as_nobody(daemon, line)?;
    ensure!(!output.status.success(), "nobody may `devrx {line}`");
    ensure!(
        output.stderr.contains("policy") || output.stderr.contains("65534"),
        "`devrx {line}`: {}",
        output.stderr
    );
    Ok(())
}

#[test]
fn an_unprivileged_user_gets_what_its_rule_allows_and_no_more() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start_with(&link, Some(CONFIG))?;
        let attach = |name: &str, queue: u32, size: &str| {
            format!(
                "attach --name {name} --nic dx0 --queue {queue} --memory memfd --size {size} --flow udp,dst-port=5000"
            )
        };
        denied(&daemon, &attach("theirs", 0, "2M"))
            .context("more memory than allowed: rings and header slots count")?;
        denied(&daemon, &attach("theirs", 1, "512k")).context("a queue that is not allowed")?;
        denied(&daemon, "detach from-the-file").context("somebody else's attachment")?;
        denied(&daemon, "recv from-the-file --count 1 --timeout 1")
            .context("somebody else's packets")?;
        denied(&daemon, "flow add from-the-file any").context("somebody else's rules")?;

        let output = as_nobody(&daemon, &attach("theirs", 0, "1M"))?;
        ensure!(
            output.status.success(),
            "refused, though a rule allows it: {output:?}"
        );
        Sender::start(&link, Traffic::paced(5000, 100, 5000).on(0))?.finish()?;
        let output = as_nobody(&daemon, "recv theirs --count 100 --timeout 5")?;
        ensure!(
            output.status.success(),
            "nobody cannot receive its own packets: {output:?}"
        );
        let output = as_nobody(&daemon, "detach theirs")?;
        ensure!(
            output.status.success(),
            "nobody cannot detach its own: {output:?}"
        );
        daemon.check_sums()?;
        Ok(())
    });
}

#[test]
fn a_configuration_file_makes_attachments_at_start() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start_with(&link, Some(CONFIG))?;
        let entry = daemon.stats()?.attachment("from-the-file")?;
        ensure!(
            entry.count("chunks")? == 512 && entry.count("queue")? == 1,
            "{}",
            entry.json()
        );
        let recv = daemon.recv("from-the-file", "--count 200 --timeout 5")?;
        Sender::start(&link, Traffic::paced(6000, 200, 5000).on(1))?.finish()?;
        ensure!(
            recv.wait(Duration::from_secs(8))?.status.success(),
            "nothing arrives"
        );
        daemon.detach_and_check("from-the-file")?;
        Ok(())
    });
}

#[test]
fn without_a_rule_an_unprivileged_user_gets_nothing() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for line in [
            "attach --name x --nic dx0 --queue 0 --memory memfd --size 1M --flow any",
            "stats",
        ] {
            let output = as_nobody(&daemon, line)?;
            ensure!(!output.status.success(), "nobody may `devrx {line}`");
            ensure!(
                output.stderr.contains("devrx.sock"),
                "`devrx {line}`: {}",
                output.stderr
            );
        }
        Ok(())
    });
}
