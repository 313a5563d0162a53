//! `devrx flow add | del | list`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use super::{connect, warn};

/// What to do with flow rules.
#[derive(Subcommand)]
pub enum FlowCommand {
    /// Add a rule to an attachment.
    Add {
        /// The attachment's name.
        name: String,
        /// The rule: `any`, `udp,dst-port=5000`, `ip,src=10.0.0.0/8`, `ether-type=0x88f7`, `vlan=100,udp`, `dst-mac=52:54:00:00:00:11`, ...
        rule: String,
    },
    /// Remove a rule from an attachment.
    Del {
        /// The attachment's name.
        name: String,
        /// The rule as it was written, or its number in `flow list`.
        rule: String,
    },
    /// List the rules of one attachment, or of all.
    List {
        /// The attachment's name.
        name: Option<String>,
    },
}

/// Runs the command.
///
/// # Errors
/// What the daemon answers.
pub fn run(command: &FlowCommand, socket: &Path, json: bool) -> Result<()> {
    let mut client = connect(socket)?;
    match command {
        FlowCommand::Add { name, rule } => {
            let reply = client.flow_add(name, rule)?;
            warn(&reply.warnings);
            if json {
                say!("{}", serde_json::to_string(&reply)?)?;
            } else {
                say!("{} {} {}", reply.flow.name, reply.flow.id, reply.flow.rule)?;
            }
        }
        FlowCommand::Del { name, rule } => {
            let id = match rule.parse::<u16>() {
                Ok(id) => id,
                Err(_) => {
                    let flows = client.flow_list(Some(name))?;
                    let same = flows.iter().find(|flow| flow.rule == *rule);
                    match same {
                        Some(flow) => flow.id,
                        None => bail!(
                            "{name} has no rule {rule:?}; `devrx flow list {name}` shows its rules and their numbers"
                        ),
                    }
                }
            };
            let warnings = client
                .flow_del(name, id)
                .with_context(|| format!("cannot remove rule {rule} of {name}"))?;
            warn(&warnings);
            if json {
                say!(
                    "{}",
                    serde_json::json!({ "name": name, "id": id, "removed": true, "warnings": warnings })
                )?;
            } else {
                say!("removed rule {id} of {name}")?;
            }
        }
        FlowCommand::List { name } => {
            let flows = client.flow_list(name.as_deref())?;
            if json {
                say!("{}", serde_json::json!({ "flows": flows }))?;
            } else {
                for flow in &flows {
                    say!("{:<16} {:>3}  {}", flow.name, flow.id, flow.rule)?;
                }
            }
        }
    }
    Ok(())
}
