//! `devrx selftest`: a NIC sends to itself, and every byte is looked for where it belongs.
//!
//! The NIC is opened here, not by the daemon, and loops back what it sends, so that no cable, link partner or second machine has a part in it.
//! The code is the same as the daemon's: queue, pool, header split.

mod checks;
mod frames;
mod report;
mod rig;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Args;
use devrx_driver::device::Device;
use devrx_driver::ice::{IceNic, IceOptions, PackageSource};
use devrx_driver::igb::{IgbNic, IgbOptions};
use devrx_driver::vfio::{Function, Options, PciAddress};
use devrx_driver::{DriverError, Nic, Owned};

use crate::functions;
use report::Report;

/// How long the link may take: a PHY in loopback half a second, a negotiation 3 s.
const LINK_PATIENCE: Duration = Duration::from_secs(6);

/// What to test.
#[derive(Args)]
pub struct SelftestArgs {
    /// The NIC, bound to vfio-pci and in no other use: vfio:PCI, or just its PCI address.
    #[arg(value_parser = nic)]
    nic: PciAddress,

    /// The package (DDP) of a NIC that takes one (E810); default: the distribution's, in /lib/firmware/intel/ice/ddp.
    #[arg(long, value_name = "FILE")]
    package: Option<PathBuf>,
}

/// Reads `vfio:0000:03:00.0` or `0000:03:00.0`.
///
/// # Errors
/// What is neither.
pub fn nic(text: &str) -> Result<PciAddress, String> {
    if text.starts_with("afxdp:") {
        return Err(format!(
            "{text} is a NIC that Linux drives; this needs one that devrx owns, as in vfio:0000:03:00.0"
        ));
    }
    let address = text.strip_prefix("vfio:").unwrap_or(text);
    address
        .parse()
        .map_err(|error: devrx_driver::DriverError| error.to_string())
}

/// Runs the command.
///
/// # Errors
/// A NIC that cannot be opened, and every check that did not hold.
pub fn run(args: &SelftestArgs, json: bool) -> Result<()> {
    let device = Function::open(args.nic, &Options::default())
        .with_context(|| format!("cannot open {}", args.nic))?;
    let package = args.package.clone();
    let package = package.map_or(PackageSource::System, PackageSource::File);
    let report = examine(device, package, json)?;
    if json {
        say!("{}", serde_json::to_string(&report)?)?;
    }
    if report.ok {
        return Ok(());
    }
    let failed = report.checks.iter().filter(|check| !check.ok);
    let failed: Vec<&str> = failed.map(|check| check.name).collect();
    bail!(
        "{} did not pass: {}; do not receive with it before this is understood",
        args.nic,
        failed.join(", ")
    )
}

/// Everything, on a device.
///
/// # Errors
/// What [`say!`] answers.
fn examine<D: Device>(device: Arc<D>, package: PackageSource, quiet: bool) -> Result<Report> {
    let known = functions::known(device.id());
    let is_ice = matches!(known, Some(("ice", _)));
    let part = known.map(|(_, part)| part);
    let name = device.address().to_owned();
    if !quiet {
        let part = part.as_deref().unwrap_or("unknown part");
        say!("{name}, {part}: self-test in loopback")?;
    }
    let mut report = Report::new(name, part, quiet);
    let whole = if is_ice {
        ice(device, package, &mut report)?
    } else {
        let vectors = device.vectors();
        let nic = IgbNic::open(device, IgbOptions::default());
        let nic = report.check("open", opened(nic, vectors))?;
        nic.map_or(Ok(false), |nic| all(nic, &mut report))?
    };
    report.end(whole)?;
    Ok(report)
}

/// An E810; whether nothing had to be left out.
fn ice<D: Device>(device: Arc<D>, package: PackageSource, report: &mut Report) -> Result<bool> {
    let vectors = device.vectors();
    let mut options = IceOptions::default();
    options.package = package;
    let nic = report.check("open", opened(IceNic::open(device, options), vectors))?;
    let Some(nic) = nic else {
        return Ok(false);
    };
    // Without one nothing is split, and so nothing can be seen to lie in its place.
    let loaded = match nic.package() {
        Some(name) => Ok((format!("headers are found by {name}"), ())),
        None => Err(anyhow!(
            "{}",
            nic.warnings()
                .pop()
                .unwrap_or_else(|| "it has none".to_owned())
        )),
    };
    match report.check("package", loaded)? {
        Some(()) => all(nic, report),
        None => Ok(false),
    }
}

fn opened<N: Owned>(nic: Result<N, DriverError>, vectors: u32) -> Result<(String, N)> {
    let nic = nic?;
    let found = format!(
        "reset and initialized; {} receive queues, {vectors} interrupt vectors",
        nic.queues()
    );
    Ok((found, nic))
}

/// Whether nothing had to be left out.
fn all<N: Owned>(mut nic: N, report: &mut Report) -> Result<bool> {
    let looped = loopback(&mut nic);
    if report.check("loopback", looped)?.is_none() {
        return Ok(false);
    }
    let sender = nic.transmitter().map_err(Into::into);
    let sender = sender.map(|sender| ("a queue to send from".to_owned(), sender));
    let Some(mut sender) = report.check("transmit", sender)? else {
        return Ok(false);
    };
    checks::split(&mut nic, &mut sender, report)?;
    checks::policies(&mut nic, &mut sender, report)?;
    let woken = checks::interrupts(&mut nic, &mut sender);
    report.check("interrupts", woken)?;
    let counted = checks::counters(&mut nic, &mut sender);
    report.check("counters", counted)?;
    drop(sender);
    let ended = nic.set_loopback(false).map_err(Into::into);
    let ended = ended.map(|()| ("loopback is off again".to_owned(), ()));
    report.check("end", ended)?;
    Ok(true)
}

fn loopback<N: Owned>(nic: &mut N) -> Result<(String, ())> {
    nic.set_loopback(true)?;
    let start = Instant::now();
    while !nic.hears_itself()? {
        ensure!(
            start.elapsed() < LINK_PATIENCE,
            "no link after {LINK_PATIENCE:?}, although the NIC is told to hear itself; see whether its port is disabled by the firmware"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let link = nic.link()?;
    let speed = link.speed.filter(|_| link.up);
    let speed = speed.map_or_else(String::new, |speed| format!(" at {speed} Mbit/s"));
    Ok((format!("the NIC hears itself{speed}"), ()))
}

#[cfg(test)]
mod tests {
    use devrx_driver::ice::model::{Fault, IceModel, Personality, small_package};
    use devrx_driver::igb::model::IgbModel;

    use super::*;

    #[test]
    fn the_model_passes() {
        let report = examine(IgbModel::new(0x10c9), PackageSource::None, true).unwrap();
        assert!(report.ok, "{:#?}", report.checks);
        assert_eq!(report.part.as_deref(), Some("82576 copper"));
        let names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
        for name in [
            "open",
            "split_udp_ipv4",
            "unsplit_drop",
            "interrupts",
            "counters",
        ] {
            assert!(names.contains(&name), "{names:?}");
        }
    }

    #[test]
    fn a_nic_that_is_gone_does_not_pass() {
        let model = IgbModel::new(0x10c9);
        model.set_fault(devrx_driver::igb::model::Fault {
            gone: true,
            ..Default::default()
        });
        let report = examine(model, PackageSource::None, true).unwrap();
        assert!(!report.ok);
        assert_eq!((report.checks.len(), report.checks[0].name), (1, "open"));
    }

    fn e810() -> Arc<IceModel> {
        IceModel::new(Personality {
            vectors: 5,
            ..Personality::default()
        })
    }

    fn examine_e810(model: &Arc<IceModel>) -> Report {
        let package = PackageSource::Bytes(small_package().into());
        examine(Arc::clone(model), package, true).unwrap()
    }

    fn failed(report: &Report) -> Vec<&str> {
        let failed = report.checks.iter().filter(|check| !check.ok);
        failed.map(|check| check.name).collect()
    }

    #[test]
    fn the_model_of_the_e810_passes() {
        let model = e810();
        let report = examine_e810(&model);
        assert!(report.ok, "{:#?}", report.checks);
        assert_eq!(report.part.as_deref(), Some("E810-C for QSFP"));
        let names: Vec<&str> = report.checks.iter().map(|check| check.name).collect();
        for name in ["package", "split_vlan_ipv6", "unsplit_overflow", "counters"] {
            assert!(names.contains(&name), "{names:?}");
        }
        // Everything stayed within the card, and nothing of it is left.
        assert!(model.card().sent().is_empty());
        assert_eq!(model.card().refusals(), [""; 0]);
        assert_eq!((model.mapped(), model.dma_faults()), (0, 0));
    }

    /// A check that no fault of the card makes fail shows nothing.
    #[test]
    fn an_e810_that_does_something_wrong_does_not_pass() {
        let faults = [
            (Fault::SwappedBuffers, "split_udp_ipv4"),
            (Fault::WrongHeaderLength, "split_tcp_ipv6"),
            (Fault::SplitOffByOne, "split_udp_ipv6"),
            (Fault::WrongPacketLength, "split_vlan_ipv4"),
            (Fault::Hbo, "split_tcp_ipv4"),
            (Fault::NoSph, "split_udp_ipv4"),
            (Fault::ReceiveError, "split_udp_ipv4"),
            (Fault::NoDoneBit, "no_split"),
            (Fault::LostInterrupt, "interrupts"),
            (Fault::TransmitLost, "split_udp_ipv4"),
            (Fault::TransmitGarbled, "no_split"),
            (Fault::NoLoopback, "counters"),
            (Fault::NoTransmitReport, "split_vlan_ipv6"),
            (Fault::FailCommand(0x0620), "loopback"),
            (Fault::FailCommand(0x0c30), "transmit"),
            (Fault::FailCommand(0x0210), "transmit"),
            (Fault::Gone, "open"),
        ];
        // Each waits most of the time.
        std::thread::scope(|scope| {
            for (fault, check) in faults {
                scope.spawn(move || {
                    let model = e810();
                    model.set_fault(fault);
                    let report = examine_e810(&model);
                    assert!(!report.ok, "{fault}");
                    let checks = &report.checks;
                    assert!(failed(&report).contains(&check), "{fault}: {checks:#?}");
                });
            }
        });
    }

    #[test]
    fn an_e810_without_a_package_does_not_pass_and_says_what_to_install() {
        let report = examine(e810(), PackageSource::None, true).unwrap();
        assert_eq!(failed(&report), ["package"]);
        let found = &report.checks[1].found;
        assert!(found.contains("firmware-intel-misc"), "{found}");
    }

    #[test]
    fn nics_are_named_by_address_or_as_for_run() {
        let address: PciAddress = "0000:03:00.0".parse().unwrap();
        assert_eq!(nic("vfio:0000:03:00.0"), Ok(address));
        assert_eq!(nic("03:00.0"), Ok(address));
        assert!(nic("afxdp:eth0").unwrap_err().contains("Linux drives"));
        assert!(nic("eth0").is_err());
    }
}
