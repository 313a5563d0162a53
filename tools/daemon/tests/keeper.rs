//! The keeper, as a process: it holds memory until the daemon is gone, and not until something less.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use devrx_daemon::keeper::{self, Keeper};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set for processes that play a part in another test.
const PART: &str = "DEVRX_TEST_PART";

/// This program as a process that plays a part: the keeper, or a daemon that has one.
fn play(part: &str) -> Vec<std::ffi::OsString> {
    let program = std::env::current_exe().unwrap();
    let (set, name) = (format!("{PART}={part}"), format!("{part}_process"));
    let arguments = [
        "--exact",
        name.as_str(),
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ];
    let mut words = vec!["env".into(), set.into(), program.into()];
    words.extend(arguments.map(Into::into));
    words
}

fn plays(part: &str) -> bool {
    std::env::var(PART).is_ok_and(|played| played == part)
}

#[test]
#[ignore = "a part that other tests start"]
fn keeper_process() {
    if plays("keeper") {
        let code = keeper::main();
        std::process::exit(if code == std::process::ExitCode::SUCCESS {
            0
        } else {
            1
        });
    }
}

/// A daemon with a memfd in its keeper's hands. Says the keeper's process, then does what it is told on standard input.
#[test]
#[ignore = "a part that other tests start"]
fn daemon_process() {
    if !plays("daemon") {
        return;
    }
    let mut keeper = Keeper::start_as(play("keeper")).unwrap();
    let memory = memfd_create("held-memory", MFdFlags::MFD_CLOEXEC).unwrap();
    keeper
        .hold("a region", &[memory.as_fd(), memory.as_fd()])
        .unwrap();
    println!("keeper {}", keeper.pid().unwrap());
    let mut order = String::new();
    std::io::stdin().read_line(&mut order).unwrap();
    if order.trim() == "farewell" {
        keeper.farewell();
        println!("done");
        return;
    }
    // As when everything but the process ends: sockets closed, nothing said.
    drop(keeper);
    println!("closed");
    std::thread::sleep(Duration::from_secs(30));
}

struct Daemon {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    keeper: i32,
}

impl Daemon {
    fn start() -> Self {
        let words = play("daemon");
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Self {
            child,
            input,
            output,
            keeper: 0,
        };
        daemon.keeper = daemon.hear("keeper ").parse().unwrap();
        wait_for("the keeper has the memory", || held(daemon.keeper) == 2);
        daemon
    }

    /// The rest of the next line that starts so; the test harness's own lines are passed over.
    fn hear(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "it says no {start:?}"
            );
            // The harness begins a line before the test does.
            if let Some(at) = line.find(start) {
                return line[at + start.len()..].trim().to_owned();
            }
        }
    }

    fn tell(&mut self, what: &str) {
        writeln!(self.input, "{what}").unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How many descriptors of the memory a process has; 0 if it is gone.
fn held(pid: i32) -> usize {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return 0;
    };
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("held-memory"))
        .count()
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn gone(pid: i32) -> bool {
    // A zombie has let go of everything; who reaps it is another matter.
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[test]
fn memory_is_held_until_the_daemon_is_gone() {
    let mut daemon = Daemon::start();
    daemon.tell("close");
    daemon.hear("closed");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        held(daemon.keeper),
        2,
        "a closed socket is not the daemon's end"
    );
    kill(Pid::from_raw(daemon.keeper), Signal::SIGINT).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(
        held(daemon.keeper),
        2,
        "what a terminal sends to all of a group is not meant for it"
    );
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    wait_for("the keeper ends after the daemon", || gone(daemon.keeper));
}

#[test]
fn a_killed_daemon_leaves_no_keeper_behind() {
    let mut daemon = Daemon::start();
    daemon.child.kill().unwrap();
    daemon.child.wait().unwrap();
    wait_for("the keeper ends after the daemon", || gone(daemon.keeper));
}

#[test]
fn a_farewell_ends_the_keeper() {
    let mut daemon = Daemon::start();
    daemon.tell("farewell");
    daemon.hear("done");
    assert!(gone(daemon.keeper));
}

fn shows_death(keeper: &Keeper) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let watch = keeper.watch().expect("watched");
    poll(
        &mut [PollFd::new(watch, PollFlags::POLLIN)],
        PollTimeout::ZERO,
    )
    .unwrap()
        == 1
}

/// An order that is lost must not leave a keeper with a list that is wrong: one that does not read is ended, and the next gets all.
#[test]
fn a_keeper_that_does_not_read_is_replaced() {
    let mut keeper = Keeper::start_as(vec!["sleep".into(), "600".into()]).unwrap();
    // Until its socket is full.
    for more in 0..100 {
        keeper.rules((0..5000 + more).map(|at| (1, at)).collect());
        if shows_death(&keeper) {
            break;
        }
    }
    wait_for("its end shows", || shows_death(&keeper));
}

#[test]
fn a_keeper_that_dies_is_replaced_and_gets_everything() {
    let mut keeper = Keeper::start_as(play("keeper")).unwrap();
    let memory = memfd_create("held-memory", MFdFlags::MFD_CLOEXEC).unwrap();
    let other = File::open("/dev/null").unwrap();
    let first = keeper.hold("one", &[memory.as_fd()]).unwrap();
    keeper
        .hold("two", &[memory.as_fd(), other.as_fd()])
        .unwrap();
    let pid = |keeper: &Keeper| i32::try_from(keeper.pid().unwrap()).unwrap();
    let old = pid(&keeper);
    wait_for("it holds both", || held(old) == 2);
    kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
    wait_for("its death shows", || shows_death(&keeper));
    while let Some(pause) = keeper.mend() {
        assert!(pause <= Duration::from_secs(1));
        std::thread::sleep(pause);
    }
    let new = pid(&keeper);
    assert_ne!(new, old);
    wait_for("the new one holds both", || held(new) == 2);
    keeper.release(first);
    wait_for("it lets go of one", || held(new) == 1);
    assert_eq!(keeper.restarts(), 1);
    keeper.farewell();
    assert!(gone(new));
}
