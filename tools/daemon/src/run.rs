//! From configuration to service, and back in order.

use std::fs::DirBuilder;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use devrx_proto::event::Event;
use devrx_proto::socket::Listener;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::aside::Aside;
use crate::config::Config;
use crate::control::Control;
use crate::keeper::Keeper;
use crate::nic::NicSlot;
use crate::registry::Registry;
use crate::shutdown::Shutdown;

/// Runs the daemon until `shutdown`.
///
/// # Errors
///
/// What keeps it from serving: a NIC, the socket, an attachment of the configuration.
pub fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    if config.nics.is_empty() {
        bail!("no NIC to serve: give --nic afxdp:IFNAME, or [[interfaces]] in the configuration");
    }
    devrx_provider::guard::install().context("installing the handler for lost pages (SIGBUS)")?;
    raise_descriptors();
    let keeper = match &config.keeper {
        Some(program) => Keeper::start_as(program.clone()),
        None => Keeper::start(),
    };
    let keeper = keeper.context("the keeper, which holds memory should this process be killed")?;
    // The socket before the NICs: a second daemon must fail before it touches the first one's.
    let listener = listen(&config)?;
    let result = serve(config, &shutdown, &listener, keeper);
    // The path goes here. What lies in connections that nobody accepted may be slow to close: the end of the process takes that.
    Aside::default().close(listener.into_fd());
    result
}

fn serve(
    config: Config,
    shutdown: &Shutdown,
    listener: &Listener,
    keeper: Keeper,
) -> anyhow::Result<()> {
    let mut nics = Vec::with_capacity(config.nics.len());
    for nic in &config.nics {
        let slot = NicSlot::open(nic).with_context(|| format!("serving {}", nic.spec))?;
        for warning in slot.nic.warnings() {
            tracing::warn!(nic = slot.nic.name(), "{warning}");
        }
        tracing::info!(
            nic = slot.nic.name(),
            driver = slot.nic.driver(),
            queues = slot.nic.queues(),
            "serving"
        );
        nics.push(slot);
    }
    let doorbell = Arc::new(Event::new()?);
    for slot in &mut nics {
        slot.nic.set_alarm(doorbell.as_fd().try_clone_to_owned()?);
    }
    let mut registry =
        Registry::new(&config, nics, keeper, doorbell.clone()).map_err(anyhow::Error::msg)?;
    for plan in &config.attachments {
        let warnings = registry.attach_planned(plan).with_context(|| {
            format!("the configured attachment {:?} on {}", plan.name, plan.nic)
        })?;
        for warning in warnings {
            tracing::warn!(name = plan.name, "{warning}");
        }
    }
    let mut control = Control::new(listener, shutdown, doorbell, &mut registry)?;
    tracing::info!(socket = %listener.path().display(), "ready");
    if let Some(ready) = &config.ready {
        // Who waits may have gone away; that is its business.
        let _ = nix::unistd::write(ready, b"\n");
    }
    drop(config);
    let result = control.run(&mut registry);
    tracing::info!("ending");
    drop(control);
    registry.shut_down();
    result
}

fn listen(config: &Config) -> anyhow::Result<Listener> {
    let path = config.socket_path();
    if let Some(directory) = path.parent()
        && !directory.as_os_str().is_empty()
        && !directory.exists()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .with_context(|| format!("creating {} for the socket", directory.display()))?;
    }
    let listener = Listener::bind(path, config.socket_mode)
        .with_context(|| format!("listening at {}", path.display()))?;
    if let Some(group) = &config.socket_group {
        give_to_group(path, group)?;
    }
    Ok(listener)
}

fn give_to_group(path: &Path, name: &str) -> anyhow::Result<()> {
    let group = nix::unistd::Group::from_name(name)?
        .with_context(|| format!("[socket] group = {name:?}: no such group on this system; create it with `groupadd {name}`"))?;
    nix::unistd::chown(path, None, Some(group.gid))
        .with_context(|| format!("giving {} to the group {name}", path.display()))
}

/// Every attachment takes a dozen descriptors, and the keeper as many of its own: as many as the system allows.
fn raise_descriptors() {
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most, most)
    {
        tracing::debug!(%error, "the limit on open files stays as it is");
    }
}
