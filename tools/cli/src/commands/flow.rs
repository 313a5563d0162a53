//! `devrx flow add | del | list`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use devrx_client::proto::message::FlowInfo;
use devrx_driver::flow::FlowRule;

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
                    match find(&flows, rule) {
                        Some(id) => id,
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

/// The number of a rule. It is compared by what it says: a daemon lists rules in its own words, whatever order and spelling they were written in.
fn find(flows: &[FlowInfo], rule: &str) -> Option<u16> {
    let wanted = rule.parse::<FlowRule>().ok();
    let same = |listed: &str| wanted.is_some() && listed.parse::<FlowRule>().ok() == wanted;
    // By its text as well: a later daemon may have rules that this program does not understand.
    flows
        .iter()
        .find(|flow| flow.rule == rule || same(&flow.rule))
        .map(|flow| flow.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_found_as_it_was_written() {
        let flow = |id, rule: &str| FlowInfo {
            name: "a".into(),
            id,
            rule: rule.into(),
        };
        let listed = |rule: &str| rule.parse::<FlowRule>().unwrap().to_string();
        let flows = [
            flow(3, &listed("udp,dst-port=5000,src=10.0.0.0/8")),
            flow(4, &listed("ether-type=0x88f7")),
            flow(9, "of,another=version"),
        ];
        for (rule, id) in [
            ("udp,dst-port=5000,src=10.0.0.0/8", Some(3)),
            ("src=10.0.0.0/8,udp,dst-port=5000", Some(3)),
            ("ether-type=0x88F7", Some(4)),
            ("of,another=version", Some(9)),
            ("udp,dst-port=5001,src=10.0.0.0/8", None),
            ("no,such=thing", None),
        ] {
            assert_eq!(find(&flows, rule), id, "{rule}");
        }
    }
}
