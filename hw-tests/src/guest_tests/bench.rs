//! Measurements, which `cargo xtask bench guest` runs; see [`crate::bench`]. What they find is on lines that begin with [`FOUND`].

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_client::{AttachOptions, Attachment, Client};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::Test;
use crate::bench::marks::{CLIENT_BEGINS, CLIENT_ENDS, Section, mark};
use crate::bench::peer::PLUGINS;
use crate::daemon::Daemon;
use crate::guest::machine::{E810_ALONE, FAST};
use crate::guest::message::Frames;
use crate::inside::{CAPTURES, Host};
use crate::trust::prepare::BENCH;
use crate::trust::tools::{Mode, firmware};

/// How lines with results begin.
pub const FOUND: &str = "found ";

/// Counting instructions, with the plugin.
pub const COUNTS: &[Test] = &[
    Test::new("instructions_of_dpdk", dpdk_static)
        .on(FAST)
        .limit(150),
    Test::new("instructions_of_dpdk_in_shared_libraries", dpdk_shared)
        .on(FAST)
        .limit(150),
    Test::new("instructions_of_devrx", devrx_any)
        .on(FAST)
        .limit(150),
    Test::new("instructions_of_devrx_with_a_rule", devrx_rule)
        .on(FAST)
        .limit(150),
];
/// Rates, without it.
pub const RATES: &[Test] = &[
    Test::new("rate_of_dpdk", dpdk_rate).on(FAST).limit(120),
    Test::new("rate_of_devrx", devrx_rate).on(FAST).limit(120),
];

/// Counting instructions with the model of the E810.
pub const ICE_COUNTS: &[Test] = &[
    Test::new("instructions_of_dpdks_net_ice", ice_dpdk)
        .on(E810_ALONE)
        .limit(150),
    Test::new(
        "instructions_of_dpdks_net_ice_with_headers_split",
        ice_dpdk_split,
    )
    .on(E810_ALONE)
    .limit(150),
    Test::new("instructions_of_devrx_on_the_e810", ice_devrx)
        .on(E810_ALONE)
        .limit(150),
    Test::new(
        "instructions_of_devrx_on_the_e810_with_a_rule",
        ice_devrx_rule,
    )
    .on(E810_ALONE)
    .limit(150),
];

/// The NIC that is received with.
fn nic(host: &Host) -> Result<&'static str> {
    Ok(host.machine().nics.first().context("no NIC")?.id)
}

/// Packets in a round: all in the NIC's ring before anybody looks.
pub const ROUND: u32 = 512;
const ROUNDS: u32 = 15;
/// Buffers that net_ice's vector code gives the NIC in a call (`ICE_RXQ_REARM_THRESH` in DPDK's `ice_rxtx.h`).
const REARMED: u32 = 64;
/// UDP payload of a frame of 60 bytes.
const PAYLOAD: usize = 18;
/// Chunks of devrx's region.
const CHUNKS: u32 = 8192;
/// Descriptors, of both.
const RING: u32 = 4096;
/// Packets a second to try.
const LADDER: [u32; 12] = [
    25_000, 50_000, 75_000, 100_000, 150_000, 200_000, 250_000, 300_000, 350_000, 400_000, 450_000,
    500_000,
];
/// A rate that loses is tried as often before it counts as too fast: the machine below has other things to do, too.
const TRIES: u32 = 3;

fn frames(count: u32) -> Frames {
    Frames::Numbered {
        port: 5000,
        first: 0,
        count: count.into(),
        payload: PAYLOAD,
    }
}

/// Puts a round's frames into the ring of a NIC that nobody looks at now.
fn fill(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    host.inject(nic, frames(ROUND), Some(20_000))?;
    host.injected(nic, Duration::from_secs(5))?;
    // The model is a process of its own, which has to get its turn.
    let settled = if host.machine().has_e810() { 200 } else { 20 };
    std::thread::sleep(Duration::from_millis(settled));
    Ok(())
}

/// Which DPDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Debian 12's, linked statically.
    Static,
    /// Debian 12's, in shared libraries.
    Shared,
    /// Debian 13's, in shared libraries, on an E810.
    Ice,
    /// The same with headers split off.
    IceSplit,
}

/// DPDK's side, `bench/dpdk_rx.c`; dropping it kills it.
struct Dpdk {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Dpdk {
    fn start(host: &Host, kind: Kind) -> Result<Self> {
        let nic = nic(host)?;
        // Where it keeps its own files; and it loads no plugin from below a folder that everybody may write.
        std::fs::create_dir_all("/var/run")?;
        std::fs::set_permissions("/", std::fs::Permissions::from_mode(0o755))?;
        let mut command = if kind == Kind::Shared {
            let mut loader = Command::new(format!("{CAPTURES}/ld-linux-x86-64.so.2"));
            loader.args(["--library-path", CAPTURES]);
            loader.arg(format!("{CAPTURES}/dpdk_rx_shared"));
            for plugin in PLUGINS {
                loader
                    .arg("-d")
                    .arg(format!("{CAPTURES}/librte_{plugin}.so"));
            }
            loader
        } else if kind == Kind::Static {
            Command::new(format!("{CAPTURES}/dpdk_rx"))
        } else {
            firmware(Mode::Full)?;
            let mut command = Command::new(BENCH);
            if kind == Kind::IceSplit {
                command.env("DEVRX_DPDK_SPLIT", "1");
            }
            command
        };
        command.args([
            "-l",
            "0",
            "-n",
            "1",
            "--iova-mode=va",
            "--in-memory",
            "--log-level=error",
            "-a",
        ]);
        command.arg(host.pci(nic)?);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        let mut dpdk = Self { child, to, from };
        loop {
            let line = dpdk.line()?;
            if line == "ready" {
                return Ok(dpdk);
            }
            ensure!(!line.starts_with("failed"), "DPDK: {line}");
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.from.read_line(&mut line)? > 0, "DPDK's side has ended");
        Ok(line.trim_end().to_owned())
    }

    fn say(&mut self, command: &str) -> Result<()> {
        Ok(writeln!(self.to, "{command}")?)
    }

    /// The number that the answer ends with.
    fn answer(&mut self) -> Result<u64> {
        let line = self.line()?;
        let number = line
            .split(' ')
            .next_back()
            .and_then(|word| word.parse().ok());
        number.with_context(|| format!("DPDK: {line}"))
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn dpdk_static(host: &mut Host) -> Result<()> {
    dpdk(
        host,
        Kind::Static,
        [(Section::DpdkStatic32, 32), (Section::DpdkStatic256, 256)],
    )
}

fn dpdk_shared(host: &mut Host) -> Result<()> {
    dpdk(
        host,
        Kind::Shared,
        [(Section::DpdkShared32, 32), (Section::DpdkShared256, 256)],
    )
}

fn ice_dpdk(host: &mut Host) -> Result<()> {
    dpdk(
        host,
        Kind::Ice,
        [(Section::DpdkIce32, 32), (Section::DpdkIce256, 256)],
    )
}

fn ice_dpdk_split(host: &mut Host) -> Result<()> {
    dpdk(
        host,
        Kind::IceSplit,
        [
            (Section::DpdkIceSplit32, 32),
            (Section::DpdkIceSplit256, 256),
        ],
    )
}

/// Calls after a round's packets that find nothing, in which net_ice's vector code makes up for the buffers it owes the NIC (`bench/dpdk_rx.c`).
fn more_calls(kind: Kind, burst: u32) -> u32 {
    if kind == Kind::Ice {
        (ROUND / REARMED).saturating_sub(ROUND / burst)
    } else {
        0
    }
}

fn dpdk(host: &mut Host, kind: Kind, bursts: [(Section, u32); 2]) -> Result<()> {
    let mut dpdk = Dpdk::start(host, kind)?;
    for (section, burst) in bursts {
        section.begin();
        let more = more_calls(kind, burst);
        for round in 0..ROUNDS {
            fill(host)?;
            dpdk.say(&format!("round {ROUND} {burst} {more}"))?;
            let received = dpdk.answer()?;
            ensure!(
                received == u64::from(ROUND),
                "round {round}: {received} of {ROUND} packets were in the ring"
            );
        }
        Section::Nothing.begin();
    }
    Ok(())
}

/// devrx with header split, and its client in this process.
fn devrx(host: &mut Host, rule: &str) -> Result<(Daemon, Client, Attachment)> {
    let nic = nic(host)?;
    if host.machine().has_e810() {
        firmware(Mode::Full)?;
    }
    let pci = host.pci(nic)?;
    let daemon = Daemon::start_here(&[&format!("vfio:{pci}")])?;
    let mut client = Client::connect(daemon.socket())?;
    let mut options = AttachOptions::new("bench", pci, 0)
        .memory("udmabuf")
        .size(u64::from(CHUNKS) * 2048)
        .chunk(2048)
        .flow(rule)
        .wake(64, 200);
    options.request.ring = RING;
    let mut attachment = client.attach(&options)?;
    for warning in attachment.warnings() {
        println!("warning: {warning}");
    }
    // The link comes up, and every chunk and every entry of the rings is used once: first touches of pages are not what is counted.
    let count = 2 * CHUNKS;
    host.inject(nic, frames(count), Some(20_000))?;
    let received = receive(&mut attachment, count.into(), Duration::from_secs(2))?;
    ensure!(
        received >= u64::from(count) * 3 / 4,
        "only {received} of {count} packets came"
    );
    host.injected(nic, Duration::from_secs(5))?;
    Ok((daemon, client, attachment))
}

/// Receives until so many packets came, or none for a while; counts them.
fn receive(attachment: &mut Attachment, wanted: u64, quiet: Duration) -> Result<u64> {
    let mut received = 0;
    while received < wanted {
        let batch = attachment.recv(Some(quiet))?;
        if batch.is_empty() {
            break;
        }
        received += batch.len() as u64;
    }
    Ok(received)
}

fn devrx_any(host: &mut Host) -> Result<()> {
    count_devrx(host, "any", Section::DevrxAny)
}

fn devrx_rule(host: &mut Host) -> Result<()> {
    count_devrx(host, "udp,dst-port=5000", Section::DevrxRule)
}

fn ice_devrx(host: &mut Host) -> Result<()> {
    count_devrx(host, "any", Section::DevrxAny)
}

fn ice_devrx_rule(host: &mut Host) -> Result<()> {
    count_devrx(host, "udp,dst-port=5000", Section::DevrxRule)
}

fn count_devrx(host: &mut Host, rule: &str, section: Section) -> Result<()> {
    let (daemon, _client, mut attachment) = devrx(host, rule)?;
    let pid = daemon.pid();
    section.begin();
    for round in 0..ROUNDS {
        // The worker stands still while the ring fills, and the client while the worker works: one CPU has them all.
        kill(pid, Signal::SIGSTOP)?;
        let filled = fill(host);
        kill(pid, Signal::SIGCONT)?;
        filled?;
        std::thread::sleep(Duration::from_millis(100));
        let (received, bytes) = take(&mut attachment)?;
        ensure!(
            received == ROUND && bytes == u64::from(ROUND) * PAYLOAD as u64,
            "round {round}: {received} of {ROUND} packets, {bytes} bytes of payload"
        );
    }
    Section::Nothing.begin();
    Ok(())
}

/// The client's work on a round whose packets are all there: each looked at, all given back.
fn take(attachment: &mut Attachment) -> Result<(u32, u64)> {
    let (mut received, mut bytes, mut empty) = (0, 0, 0);
    mark::<CLIENT_BEGINS>();
    while received < ROUND && empty < 1000 {
        let batch = attachment.poll()?;
        if batch.is_empty() {
            empty += 1;
        }
        for packet in &batch {
            received += 1;
            bytes += packet.payload_len() as u64;
        }
    }
    mark::<CLIENT_ENDS>();
    Ok((received, bytes))
}

/// How long nothing may come until what was sent counts as lost. Longer than a guest stands still where its host is busy.
const QUIET: Duration = Duration::from_millis(300);

/// Climbs the ladder until a rate loses packets each time; `once` sends so many at a rate and says how many came, the late ones too: they must not be taken for the next attempt's.
fn climb(who: &str, mut once: impl FnMut(u32, u32) -> Result<u64>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(90);
    let mut best = 0;
    let mut lost = json!(null);
    'ladder: for rate in LADDER {
        for attempt in 1..=TRIES {
            if Instant::now() > end {
                bail!("not done in time");
            }
            // Half a second of it.
            let count = rate / 2;
            let received = once(rate, count)?;
            println!("{who}: {rate} a second: {received} of {count}");
            if received == u64::from(count) {
                best = rate;
                break;
            }
            if attempt == TRIES {
                lost = json!({ "rate": rate, "sent": count, "received": received });
                break 'ladder;
            }
        }
    }
    println!(
        "{FOUND}{}",
        json!({ "who": who, "lossless": best, "next": lost })
    );
    Ok(())
}

fn dpdk_rate(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    let mut dpdk = Dpdk::start(host, Kind::Static)?;
    climb("dpdk", |rate, count| {
        dpdk.say(&format!("rate {count} {}", QUIET.as_millis()))?;
        host.inject(nic, frames(count), Some(rate))?;
        let received = dpdk.answer()?;
        host.injected(nic, Duration::from_secs(10))?;
        dpdk.say(&format!("rest {}", QUIET.as_millis()))?;
        Ok(received + dpdk.answer()?)
    })
}

fn devrx_rate(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    let (_daemon, _client, mut attachment) = devrx(host, "any")?;
    climb("devrx", |rate, count| {
        host.inject(nic, frames(count), Some(rate))?;
        let received = receive(&mut attachment, count.into(), QUIET)?;
        host.injected(nic, Duration::from_secs(10))?;
        Ok(received + receive(&mut attachment, u64::MAX, QUIET)?)
    })
}
