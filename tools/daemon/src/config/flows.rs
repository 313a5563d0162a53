//! `match` of a flow: a table of fields (`{ udp_dst = 5000 }`), or a rule as the command line takes it
//! (`"udp,dst-port=5000"`). Both become a rule's text.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// A flow's match as a rule's text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Match(pub String);

/// The fields a table may have: name in the file, and what it becomes in a rule.
const FIELDS: &[(&str, Part)] = &[
    ("eth_dst", Part::Text("dst-mac")),
    ("ether_type", Part::Hex("ether-type")),
    ("vlan", Part::Value("vlan")),
    ("ip_src", Part::Address("src")),
    ("ip_dst", Part::Address("dst")),
    ("protocol", Part::Value("proto")),
    ("udp_src", Part::Port("udp", "src-port")),
    ("udp_dst", Part::Port("udp", "dst-port")),
    ("tcp_src", Part::Port("tcp", "src-port")),
    ("tcp_dst", Part::Port("tcp", "dst-port")),
];

#[derive(Clone, Copy)]
enum Part {
    Hex(&'static str),
    Value(&'static str),
    /// Text that is written into the rule as it is.
    Text(&'static str),
    /// An IPv4 or IPv6 address or prefix.
    Address(&'static str),
    /// A port, and the protocol it is a port of.
    Port(&'static str, &'static str),
}

impl<'de> Deserialize<'de> for Match {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Match;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a table such as { udp_dst = 5000 }, or a rule such as \"udp,dst-port=5000\"",
                )
            }
            fn visit_str<E: de::Error>(self, rule: &str) -> Result<Match, E> {
                Ok(Match(rule.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Match, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, toml::Value>()? {
                    fields.push((key, value));
                }
                rule_of(&fields).map(Match).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// The rule that says what a table says.
fn rule_of(fields: &[(String, toml::Value)]) -> Result<String, String> {
    if fields.is_empty() {
        return Err("an empty match; write match = \"any\" for every packet".into());
    }
    let mut protocol: Option<&str> = None;
    let mut parts = Vec::new();
    let mut addressed = None;
    // In the order of FIELDS, so that equal tables give equal rules.
    for (name, part) in FIELDS {
        let Some((_, value)) = fields.iter().find(|(key, _)| key == name) else {
            continue;
        };
        match part {
            Part::Hex(key) => parts.push(format!("{key}={:#06x}", integer(name, value, 0xffff)?)),
            Part::Value(key) => parts.push(format!("{key}={}", integer(name, value, 0xffff)?)),
            Part::Text(key) => {
                let text = value
                    .as_str()
                    .ok_or_else(|| format!("{name} must be text, such as \"52:54:00:00:00:11\""))?;
                parts.push(format!("{key}={text}"));
            }
            Part::Address(key) => {
                let text = value
                    .as_str()
                    .ok_or_else(|| format!("{name} must be text, such as \"10.0.0.0/8\""))?;
                let family = if text.contains(':') { "ipv6" } else { "ip" };
                if addressed.is_some_and(|known| known != family) {
                    return Err(
                        "ip_src and ip_dst are of different IP versions; no packet can match"
                            .into(),
                    );
                }
                addressed = Some(family);
                parts.push(format!("{key}={text}"));
            }
            Part::Port(of, key) => {
                if protocol.is_some_and(|known| known != *of) {
                    return Err(
                        "ports of both udp and tcp; no packet can match: write two flows".into(),
                    );
                }
                protocol = Some(of);
                parts.push(format!("{key}={}", integer(name, value, 0xffff)?));
            }
        }
    }
    if let Some((unknown, _)) = fields
        .iter()
        .find(|(key, _)| !FIELDS.iter().any(|(name, _)| name == key))
    {
        let known = FIELDS
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(format!(
            "unknown field `{unknown}` in match, expected one of {known}"
        ));
    }
    let mut heads = Vec::new();
    heads.extend(addressed);
    heads.extend(protocol);
    Ok(heads
        .into_iter()
        .map(str::to_owned)
        .chain(parts)
        .collect::<Vec<_>>()
        .join(","))
}

fn integer(name: &str, value: &toml::Value, max: i64) -> Result<i64, String> {
    match value.as_integer() {
        Some(number) if (0..=max).contains(&number) => Ok(number),
        _ => Err(format!("{name} must be a whole number from 0 to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        #[derive(serde::Deserialize)]
        struct Holder {
            #[serde(rename = "match")]
            matches: Match,
        }
        toml::from_str::<Holder>(text)
            .map(|holder| holder.matches.0)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn tables_become_rules_the_driver_takes() {
        for (table, rule) in [
            ("match = { udp_dst = 5000 }", "udp,dst-port=5000"),
            (
                "match = { udp_dst = 5000, ip_src = \"10.0.0.0/8\" }",
                "ip,udp,src=10.0.0.0/8,dst-port=5000",
            ),
            ("match = { ether_type = 0x88f7 }", "ether-type=0x88f7"),
            (
                "match = { eth_dst = \"52:54:00:00:00:11\", udp_dst = 5 }",
                "udp,dst-mac=52:54:00:00:00:11,dst-port=5",
            ),
            ("match = \"any\"", "any"),
        ] {
            assert_eq!(parse(table).as_deref(), Ok(rule), "{table}");
        }
    }

    #[test]
    fn wrong_tables_are_answered_with_the_key() {
        for (table, says) in [
            ("match = {}", "empty match"),
            ("match = { udp_dst = 70000 }", "udp_dst"),
            ("match = { udp_dest = 1 }", "udp_dest"),
            ("match = { udp_dst = 1, tcp_dst = 2 }", "two flows"),
            (
                "match = { ip_src = \"::1\", ip_dst = \"10.0.0.1\" }",
                "different IP versions",
            ),
        ] {
            let error = parse(table).expect_err(table);
            assert!(error.contains(says), "{table}: {error}");
        }
    }
}
