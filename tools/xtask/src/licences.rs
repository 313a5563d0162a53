//! Licences and sources of the dependencies: by cargo-deny where it is installed; the same two rules by `cargo metadata` always.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lane::Tally;
use crate::{root, shell};

/// Checks every package of the lock file against `deny.toml`.
pub fn check(tally: &mut Tally) -> Result<()> {
    let text =
        std::fs::read_to_string(root().join("deny.toml")).context("cannot read deny.toml")?;
    let rules: toml::Value = toml::from_str(&text).context("deny.toml is not TOML")?;
    let allowed: Vec<&str> = rules["licenses"]["allow"]
        .as_array()
        .context("deny.toml allows no licence")?
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let output = shell::cargo()
        .args([
            "metadata",
            "--locked",
            "--format-version=1",
            "--all-features",
        ])
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")?;
    let mut problems = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = format!(
            "{} {}",
            package["name"].as_str().unwrap_or("?"),
            package["version"].as_str().unwrap_or("?")
        );
        match package["license"].as_str() {
            Some(expression) if permits(expression, &allowed) => {}
            Some(expression) => problems.push(format!(
                "{name}: its licence {expression:?} is not allowed by deny.toml"
            )),
            None => problems.push(format!("{name}: it names no licence")),
        }
        // A package without a source is one of the workspace's own; everything else comes from the registry, not from a repository.
        if package["source"]
            .as_str()
            .is_some_and(|source| !source.starts_with("registry+"))
        {
            problems.push(format!("{name}: it does not come from the registry"));
        }
    }
    for problem in &problems {
        println!("{problem}");
    }
    tally.check(
        "licences and sources of the dependencies",
        problems.is_empty(),
    );
    if shell::has_cargo("deny") {
        let ok = shell::run(shell::cargo().args([
            "deny",
            "--all-features",
            "check",
            "bans",
            "licenses",
            "sources",
        ]))?;
        tally.check("cargo deny check", ok);
    } else {
        tally.skip(
            "cargo deny check",
            "cargo-deny is not installed (cargo install --locked cargo-deny)",
        );
    }
    Ok(())
}

/// Whether an SPDX expression can be met with the allowed licences alone. `/` is an old way to write `OR`.
fn permits(expression: &str, allowed: &[&str]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&words, &mut at, allowed) && at == words.len()
}

fn either(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at, allowed);
    }
    met
}

fn both(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(&word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if word == "(" {
        let met = either(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn expressions_are_judged_as_spdx_means_them() {
        let allowed = [
            "MIT",
            "Apache-2.0",
            "Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ];
        assert!(permits("MIT OR Apache-2.0", &allowed));
        assert!(permits("MIT/GPL-2.0", &allowed));
        assert!(permits("(MIT OR GPL-2.0) AND Unicode-3.0", &allowed));
        assert!(permits(
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
            &allowed
        ));
        assert!(!permits("GPL-2.0", &allowed));
        assert!(!permits("MIT AND GPL-2.0", &allowed));
        assert!(!permits("(MIT OR Apache-2.0) AND GPL-2.0", &allowed));
        assert!(!permits("", &allowed));
    }
}
