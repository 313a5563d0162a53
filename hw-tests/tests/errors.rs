//! What cannot be done is refused with exit status and words: what, why, and what to do. And nothing is left of it.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use devrx_hw_tests::command::run;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};

#[test]
fn every_refusal_names_what_was_wrong() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let attach = |rest: &str| format!("attach --name x {rest}");
        let good = "--nic dx0 --queue 0 --memory memfd --size 1M";
        // (command line, words the error must hold, one of each group separated by `|`)
        let lines: [(String, &[&str]); 28] = [
            (
                attach(&format!("{good} --flow any --chunk 1024")),
                &["1024"],
            ),
            (
                attach(&format!("{good} --flow udp,dst-port=99999")),
                &["99999"],
            ),
            (
                attach(&format!("{good} --flow udp,dst-prt=5")),
                &["dst-prt"],
            ),
            (attach(&format!("{good} --flow bogus")), &["bogus"]),
            (attach(&format!("{good} --flow any,udp")), &["any"]),
            (attach(&format!("{good} --flow tcp,udp")), &["protocol"]),
            (
                attach(&format!("{good} --flow ip,src=10.0.0.0/99")),
                &["10.0.0.0/99"],
            ),
            (
                attach(&format!("{good} --flow ip,src=fd77::1")),
                &["fd77::1"],
            ),
            (attach(&format!("{good} --flow vlan=5000")), &["5000"]),
            (
                attach(&format!("{good} --flow any --chunk 1000")),
                &["1000"],
            ),
            (
                attach(&format!("{good} --flow any --chunk 8192")),
                &["8192", "4096"],
            ),
            (attach(&format!("{good} --flow any --chunk 0")), &["chunk"]),
            (
                attach("--nic dx0 --queue 0 --memory memfd --size 0 --flow any"),
                &["size"],
            ),
            (
                attach("--nic dx0 --queue 0 --memory memfd --size 5000 --flow any"),
                &["5000|size"],
            ),
            (
                attach("--nic dx0 --queue 0 --memory memfd --size 64T --flow any"),
                &["size|memory"],
            ),
            (
                attach("--nic dx0 --queue 0 --memory marble --size 1M --flow any"),
                &["marble"],
            ),
            (
                attach("--nic dx0 --queue 0 --memory cuda:0 --size 1M --flow any"),
                &[
                    "cuda:0 is memory of a GPU",
                    "writes host memory alone",
                    "VFIO",
                    "cuMemHostRegister",
                ],
            ),
            (
                attach("--nic dx0 --queue 0 --memory hip:3 --size 1M --flow any"),
                &["hip:3 is memory of a GPU", "memfd", "hipHostRegister"],
            ),
            (
                attach("--nic dx0 --queue 0 --memory cuda:x --size 1M --flow any"),
                &["cuda:INDEX"],
            ),
            (
                attach("--nic nosuch0 --queue 0 --memory memfd --size 1M --flow any"),
                &["nosuch0"],
            ),
            (
                attach("--nic dx0 --queue 7 --memory memfd --size 1M --flow any"),
                &["7"],
            ),
            (
                attach("--nic dx0 --queue 3-1 --memory memfd --size 1M --flow any"),
                &["3-1"],
            ),
            (
                attach("--nic dx0 --queue x --memory memfd --size 1M --flow any"),
                &["x"],
            ),
            ("detach nobody".into(), &["nobody"]),
            ("recv nobody --timeout 1".into(), &["nobody"]),
            ("stats nobody --json".into(), &["nobody"]),
            (
                "send --interface nosuch0 --udp 10.0.0.1:5 --size 10 --count 1".into(),
                &["nosuch0"],
            ),
            ("frobnicate".into(), &["frobnicate"]),
        ];
        let mut wrong = Vec::new();
        for (line, words) in &lines {
            match daemon.refused(line) {
                Err(error) => wrong.push(format!("{error:#}")),
                Ok(said) => {
                    let missing = words
                        .iter()
                        .find(|group| !group.split('|').any(|word| said.contains(word)));
                    if let Some(word) = missing {
                        wrong.push(format!("`devrx {line}` does not say {word:?}: {said}"));
                    }
                }
            }
        }
        ensure!(
            wrong.is_empty(),
            "{} of {} refusals:\n{}",
            wrong.len(),
            lines.len(),
            wrong.join("\n")
        );
        // Nothing is left of what was refused.
        let stats = daemon.stats()?;
        ensure!(
            !stats.alive("x"),
            "a refused attachment is there: {}",
            stats.0
        );
        daemon.attach("x", "0", 256, 4096, &["any"])?;
        daemon.detach_and_check("x")?;
        Ok(())
    });
}

#[test]
fn without_a_daemon_clients_say_so() {
    lane::test(|| {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("none.sock");
        for line in [
            "stats --json",
            "detach x",
            "recv x",
            "attach --name x --nic dx0 --queue 0 --memory memfd --size 1M --flow any",
        ] {
            let mut command = Command::new(lane::binary()?);
            command
                .args(line.split_whitespace())
                .env("DEVRX_SOCKET", &socket);
            let output = run(&mut command, Duration::from_secs(5))?;
            ensure!(
                !output.status.success(),
                "`devrx {line}` succeeded without a daemon"
            );
            ensure!(
                output.stderr.contains("none.sock"),
                "`devrx {line}` does not name the socket: {}",
                output.stderr
            );
            ensure!(
                output.stderr.contains("devrx run"),
                "`devrx {line}` does not say what to do: {}",
                output.stderr
            );
        }
        Ok(())
    });
}

#[test]
fn a_daemon_that_cannot_run_says_why() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("devrx.sock");
        for (nic, words) in [
            ("afxdp:nosuch0", "nosuch0"),
            ("teapot:dx0", "teapot"),
            ("afxdp:", "afxdp"),
            ("dx0", "dx0"),
        ] {
            let mut command = link.near.command(lane::binary()?);
            command.args(["run", "--nic", nic, "--socket"]).arg(&socket);
            let output = run(&mut command, Duration::from_secs(5))?;
            ensure!(!output.status.success(), "--nic {nic} was accepted");
            ensure!(
                output.stderr.contains(words),
                "--nic {nic}: {}",
                output.stderr
            );
        }
        // A second daemon on the same socket, or the same interface, is refused; the first goes on.
        let mut daemon = Daemon::start(&link)?;
        let second = folder.path().join("second.sock");
        for (path, word) in [(daemon.socket(), "devrx.sock"), (second, NEAR_IF)] {
            let mut command = link.near.command(lane::binary()?);
            command
                .args(["run", "--nic", &format!("afxdp:{NEAR_IF}"), "--socket"])
                .arg(&path);
            let output = run(&mut command, Duration::from_secs(5))?;
            ensure!(
                !output.status.success(),
                "a second daemon with socket {} was accepted",
                path.display()
            );
            ensure!(
                output.stderr.contains(word),
                "{word} is not named: {}",
                output.stderr
            );
        }
        ensure!(daemon.running()?, "the first daemon ended");
        daemon.attach("still", "0", 64, 4096, &["any"])?;
        daemon.detach_and_check("still")?;
        Ok(())
    });
}
