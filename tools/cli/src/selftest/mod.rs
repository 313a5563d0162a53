//! `devrx selftest`: a NIC sends to itself, and every byte is looked for where it belongs.
//!
//! The NIC is opened here, not by the daemon, and loops back what it sends, so that no cable, link partner or second machine has a part in it.
//! The code is the same as the daemon's: queue, pool, header split.

mod checks;
mod frames;
mod report;
mod rig;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use devrx_driver::device::Device;
use devrx_driver::igb::{IgbNic, IgbOptions};
use devrx_driver::vfio::{Function, Options, PciAddress};
use devrx_driver::{Link, Nic};

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
    let report = examine(device, json)?;
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
fn examine<D: Device>(device: Arc<D>, quiet: bool) -> Result<Report> {
    let part = functions::known(device.id()).map(|(_, part)| part);
    let name = device.address().to_owned();
    if !quiet {
        let part = part.as_deref().unwrap_or("unknown part");
        say!("{name}, {part}: self-test in loopback")?;
    }
    let mut report = Report::new(name, part, quiet);
    let whole = all(device, &mut report)?;
    report.end(whole)?;
    Ok(report)
}

/// Whether nothing had to be left out.
fn all<D: Device>(device: Arc<D>, report: &mut Report) -> Result<bool> {
    let vectors = device.vectors();
    if let Some(("ice", part)) = functions::known(device.id()) {
        bail!(
            "{} is an {part}, and devrx does not send through those yet, which the self-test needs; attach to it and send from the other side instead",
            device.address()
        );
    }
    let opened = IgbNic::open(device, IgbOptions::default());
    let opened = opened.map_err(Into::into).map(|nic| {
        let found = format!(
            "reset and initialized; {} receive queues, {vectors} interrupt vectors",
            nic.queues()
        );
        (found, nic)
    });
    let Some(mut nic) = report.check("open", opened)? else {
        return Ok(false);
    };
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

fn loopback<D: Device>(nic: &mut IgbNic<D>) -> Result<(String, ())> {
    nic.set_loopback(true)?;
    let start = Instant::now();
    loop {
        let link = nic.link()?;
        if link.up {
            let speed = link
                .speed
                .map_or_else(String::new, |speed| format!(" at {speed} Mbit/s"));
            return Ok((format!("the NIC hears itself{speed}"), ()));
        }
        ensure!(
            start.elapsed() < LINK_PATIENCE,
            "no link after {LINK_PATIENCE:?}, although the NIC is told to hear itself; see whether its port is disabled by the firmware"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use devrx_driver::igb::model::IgbModel;

    use super::*;

    #[test]
    fn the_model_passes() {
        let report = examine(IgbModel::new(0x10c9), true).unwrap();
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
        let report = examine(model, true).unwrap();
        assert!(!report.ok);
        assert_eq!((report.checks.len(), report.checks[0].name), (1, "open"));
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
