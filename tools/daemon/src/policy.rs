//! Who may do what. A peer is known by what the kernel says of its socket (`SO_PEERCRED`, `SO_PEERGROUPS`; unix(7)), never by what
//! it says itself. Root and the daemon's own user may do everything; everybody else what a `[[policy]]` rule allows; the default is
//! no, with the rule to write.

use std::ops::RangeInclusive;

use nix::unistd::{Group, User};

use crate::attachment::{BarName, GpuName};
use crate::config::PolicyRule;

/// Memory of one user where a rule does not say: 256 MiB.
pub const DEFAULT_MAX_MEMORY: u64 = 256 << 20;
/// Attachments of one user where a rule does not say.
pub const DEFAULT_MAX_ATTACHMENTS: u32 = 16;
/// Longest name of an attachment, bytes.
pub const MAX_NAME: usize = 64;

/// The kinds of memory a rule may name; a BAR can be named by itself, `pci:0000:03:00.0/2`, and so can a GPU, `cuda:0`.
const KINDS: &[&str] = &[
    "memfd", "hugetlb", "udmabuf", "dmabuf", "client", "pci", "cuda", "hip",
];

/// Who is at the other end of a session.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its process, for messages only: it may have passed the socket on.
    pub pid: i32,
    /// Its user when it connected.
    pub uid: u32,
    /// Its groups when it connected.
    pub groups: Vec<u32>,
}

/// What an attach asks for, as far as policy looks.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// The NIC's interface name or PCI address.
    pub nic: &'a str,
    /// The user's own name for it.
    pub alias: Option<&'a str>,
    /// The queues.
    pub queues: RangeInclusive<u32>,
    /// Kind of memory; `client` for memory the client brings, `pci:BDF/BAR` for a BAR, `cuda:INDEX` or `hip:INDEX` for a GPU's.
    pub kind: &'a str,
    /// Bytes: region, rings and header slots.
    pub size: u64,
    /// Outlives the session.
    pub persist: bool,
    /// Asks for processors or busy polling.
    pub tune: bool,
}

/// What a user has already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Bytes of all its attachments.
    pub memory: u64,
    /// Its attachments.
    pub attachments: u32,
}

/// A refusal: what was not allowed, why, and the rule that would allow it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Denied(pub String);

#[derive(Debug)]
struct Rule {
    who: Who,
    text: PolicyRule,
}

#[derive(Clone, Copy, Debug)]
enum Who {
    Uid(u32),
    Gid(u32),
}

/// The rules, with names resolved to numbers.
#[derive(Debug)]
pub struct Policy {
    own_uid: u32,
    rules: Vec<Rule>,
}

/// Checks what can be wrong with rules.
///
/// # Errors
///
/// What is wrong with which rule.
pub fn check_rules(rules: &[PolicyRule]) -> Result<(), String> {
    rules.iter().try_for_each(|rule| who_of(rule).map(drop))
}

fn who_of(rule: &PolicyRule) -> Result<Who, String> {
    if let Some(unknown) = rule
        .kinds
        .iter()
        .flatten()
        .find(|kind| *kind != "*" && !KINDS.contains(&kind.as_str()) && !is_device(kind))
    {
        return Err(format!(
            "[[policy]] kinds: {unknown:?} is no kind of memory; expected one of {}",
            KINDS.join(", ")
        ));
    }
    match (rule.uid, rule.gid, &rule.user, &rule.group) {
        (Some(uid), None, None, None) => Ok(Who::Uid(uid)),
        (None, Some(gid), None, None) => Ok(Who::Gid(gid)),
        (None, None, Some(user), None) => match User::from_name(user) {
            Ok(Some(user)) => Ok(Who::Uid(user.uid.as_raw())),
            _ => Err(format!(
                "[[policy]] user = {user:?}: no such user on this system"
            )),
        },
        (None, None, None, Some(group)) => match Group::from_name(group) {
            Ok(Some(group)) => Ok(Who::Gid(group.gid.as_raw())),
            _ => Err(format!(
                "[[policy]] group = {group:?}: no such group on this system"
            )),
        },
        _ => Err("[[policy]] must have exactly one of uid, gid, user, group".into()),
    }
}

/// Whether a kind is one BAR or one GPU, spelled as requests are compared with it.
fn is_device(kind: &str) -> bool {
    matches!(BarName::parse(kind), Some(Ok(bar)) if bar.text() == kind)
        || matches!(GpuName::parse(kind), Some(Ok(_)))
}

/// Whether a rule allows a kind of memory. `*` stands for memory that is the daemon's or the client's own: to have a NIC write into another
/// device is always allowed by name.
fn allows(kinds: &[String], kind: &str) -> bool {
    let listed = |name: &str| kinds.iter().any(|one| one == name);
    if let Some((device @ ("pci" | "cuda" | "hip"), _)) = kind.split_once(':')
        && !devrx_sabotage::removed("policy-pci")
    {
        return listed(device) || listed(kind);
    }
    listed("*") || listed(kind)
}

/// Checks a name that a client or the configuration chose: it appears in messages, metrics and thread names.
///
/// # Errors
///
/// What is wrong with it and what would be right.
pub fn check_name(name: &str) -> Result<(), String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let wrong = name.is_empty()
        || name.len() > MAX_NAME
        || name.starts_with(['.', '-'])
        || !name.chars().all(fine);
    if wrong && !devrx_sabotage::removed("attach-name") {
        return Err(format!(
            "{name:.80?} is not a name; use 1 to {MAX_NAME} letters, digits and -_. characters, not starting with '.' or '-'"
        ));
    }
    Ok(())
}

impl Policy {
    /// Resolves rules.
    ///
    /// # Errors
    ///
    /// As [`check_rules`].
    pub fn new(rules: &[PolicyRule], own_uid: u32) -> Result<Self, String> {
        let rules = rules
            .iter()
            .map(|text| {
                Ok(Rule {
                    who: who_of(text)?,
                    text: text.clone(),
                })
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { own_uid, rules })
    }

    /// Whether no rule is needed.
    #[must_use]
    pub fn is_master(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.own_uid
    }

    fn rules_for<'a>(&'a self, peer: &'a Peer) -> impl Iterator<Item = &'a PolicyRule> {
        self.rules
            .iter()
            .filter(|rule| match rule.who {
                Who::Uid(uid) => peer.uid == uid,
                Who::Gid(gid) => peer.groups.contains(&gid),
            })
            .map(|rule| &rule.text)
    }

    /// Whether `peer`, which has `usage` already, may attach what it asks for. One rule must allow all of it.
    ///
    /// # Errors
    ///
    /// [`Denied`], with the rule to write.
    pub fn may_attach(&self, peer: &Peer, ask: &Ask<'_>, usage: Usage) -> Result<(), Denied> {
        if self.is_master(peer) || devrx_sabotage::removed("policy-attach") {
            return Ok(());
        }
        let mut closest = None;
        for rule in self.rules_for(peer) {
            match objection(rule, ask, usage) {
                None => return Ok(()),
                Some(found) => closest = closest.or(Some(found)),
            }
        }
        let why =
            closest.unwrap_or_else(|| "no [[policy]] rule names this user or its groups".into());
        // The client's words, which the log gets as well.
        let kind = ask.kind.escape_debug();
        let (first, last) = (ask.queues.start(), ask.queues.end());
        let queues = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        Err(Denied(format!(
            "uid {} may not attach {} bytes of {kind} memory to queue {queues} of {}: {why}. To allow it, write into the daemon's configuration:\n\
             [[policy]]\nuid = {}\nnics = [{:?}]\nqueues = {queues:?}\nkinds = [{:?}]\nmax_memory = {}{}",
            peer.uid,
            ask.size,
            ask.nic,
            peer.uid,
            ask.nic,
            ask.kind,
            usage.memory.saturating_add(ask.size),
            [
                (ask.persist, "\npersist = true"),
                (ask.tune, "\ntune = true")
            ]
            .iter()
            .filter_map(|(asked, line)| asked.then_some(*line))
            .collect::<String>(),
        )))
    }

    /// Whether `peer` may consume, change or end the attachment `name` of `owner`.
    ///
    /// # Errors
    ///
    /// [`Denied`], with the rule to write.
    pub fn may_use(&self, peer: &Peer, owner: u32, name: &str) -> Result<(), Denied> {
        if self.is_master(peer) || peer.uid == owner || devrx_sabotage::removed("policy-use") {
            return Ok(());
        }
        if self
            .rules_for(peer)
            .any(|rule| rule.attachments.iter().any(|one| one == "*" || one == name))
        {
            return Ok(());
        }
        Err(Denied(format!(
            "uid {} may not use the attachment {name:?} of uid {owner}. To allow it, write into the daemon's configuration:\n\
             [[policy]]\nuid = {}\nattachments = [{name:?}]",
            peer.uid, peer.uid
        )))
    }
}

/// What speaks against `ask` under `rule`.
fn objection(rule: &PolicyRule, ask: &Ask<'_>, usage: Usage) -> Option<String> {
    let named = |list: &[String], name: &str| list.iter().any(|one| one == "*" || one == name);
    if !named(&rule.nics, ask.nic) && !ask.alias.is_some_and(|alias| named(&rule.nics, alias)) {
        return Some(format!("its rule does not name the NIC {}", ask.nic));
    }
    if let Some(queues) = &rule.queues
        && !(queues.contains(ask.queues.start()) && queues.contains(ask.queues.end()))
    {
        return Some(format!(
            "its rule allows queues {}-{}",
            queues.start(),
            queues.end()
        ));
    }
    let kinds: &[String] = rule.kinds.as_deref().unwrap_or(&[]);
    if !(allows(kinds, ask.kind) || (rule.kinds.is_none() && ask.kind == "memfd")) {
        return Some(format!(
            "its rule does not allow {} memory",
            ask.kind.escape_debug()
        ));
    }
    let limit = rule.max_memory.unwrap_or(DEFAULT_MAX_MEMORY);
    if usage
        .memory
        .checked_add(ask.size)
        .is_none_or(|sum| sum > limit)
    {
        return Some(format!(
            "its rule allows {limit} bytes, {} of which are in use; this would take {} (rings and header slots included)",
            usage.memory, ask.size
        ));
    }
    let limit = rule.max_attachments.unwrap_or(DEFAULT_MAX_ATTACHMENTS);
    if usage.attachments >= limit {
        return Some(format!(
            "its rule allows {limit} attachments, and it has them"
        ));
    }
    if ask.tune && !rule.tune && !devrx_sabotage::removed("policy-tune") {
        return Some(
            "its rule does not allow choosing processors or busy polling (tune = true)".into(),
        );
    }
    if ask.persist && !rule.persist {
        return Some("its rule does not allow attachments that outlive their session".into());
    }
    None
}

#[cfg(test)]
mod tests;
