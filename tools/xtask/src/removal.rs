//! Taking protections out, one at a time, and expecting the test that claims them to go red.
//!
//! `*sabotage*.toml` files anywhere in the workspace list the removals; `devrx_sabotage::removed` is where the code asks.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::build::Program;
use crate::lane::Tally;
use crate::tests_run::Counter;
use crate::{root, shell};

/// How long one test may take; a protection whose removal makes a test hang has been noticed too.
const LIMIT: Duration = Duration::from_secs(120);

/// Which build shows a removal.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The loom models.
    Loom,
    /// Ordinary tests.
    Plain,
    /// Tests with a kernel.
    Netns,
}

/// A protection, and the test that claims it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Removal {
    /// The name the code asks `devrx_sabotage::removed` for.
    pub name: String,
    /// The package whose tests claim it.
    #[serde(rename = "crate")]
    pub package: String,
    /// The build that shows it.
    pub lane: Kind,
    /// The test, as a libtest filter.
    pub test: String,
    /// What the protection is, for the reader.
    #[serde(default, rename = "what")]
    _what: String,
}

impl Removal {
    /// What the report calls it.
    fn title(&self) -> String {
        format!("{} without {:?}", self.package, self.name)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    removal: Vec<Removal>,
}

/// Every removal of one kind in the workspace.
pub fn list(kind: Kind) -> Result<Vec<Removal>> {
    let mut found = Vec::new();
    search(root(), &mut found)?;
    found.retain(|removal| removal.lane == kind);
    Ok(found)
}

fn search(dir: &Path, found: &mut Vec<Removal>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(dir)
        .with_context(|| format!("cannot read {}", dir.display()))?
        .collect::<Result<_, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !name.starts_with("target") && name != "node_modules" {
                search(&entry.path(), found)?;
            }
        } else if name.contains("sabotage") && name.ends_with(".toml") {
            let text = std::fs::read_to_string(entry.path())?;
            let file: File = toml::from_str(&text)
                .with_context(|| format!("{} is not a list of removals", entry.path().display()))?;
            found.extend(file.removal);
        }
    }
    Ok(())
}

/// How many tests with nothing in common but the machine run side by side.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The packages the removals concern, each once.
pub fn packages(removals: &[Removal]) -> Vec<String> {
    let mut names: Vec<String> = removals
        .iter()
        .map(|removal| removal.package.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Runs each removal's test without and with the protection taken out, `at_once` of them side by side. `env` is set for every run.
pub fn run(
    removals: &[Removal],
    programs: &[Program],
    env: &[(&str, &str)],
    at_once: usize,
    tally: &mut Tally,
) -> Result<()> {
    // Several removals may share a test; one green run is enough for all of them.
    let mut firsts: BTreeMap<Key<'_>, &Removal> = BTreeMap::new();
    for removal in removals {
        firsts.entry(key(removal)).or_insert(removal);
    }
    let firsts: Vec<_> = firsts.into_iter().collect();
    let greens: BTreeMap<Key<'_>, Result<(), Unfit>> =
        side_by_side(&firsts, at_once, |(key, removal)| {
            Ok((*key, whole(removal, programs, env)?))
        })
        .into_iter()
        .collect::<Result<_>>()?;
    let verdicts = side_by_side(removals, at_once, |removal| {
        let start = Instant::now();
        let verdict = match &greens[&key(removal)] {
            Err(unfit) => Err(unfit.clone()),
            Ok(()) => {
                let without = attempt(removal, programs, env, true)?;
                if without.red {
                    Ok(without.hung)
                } else {
                    Err(Unfit::Wrong(format!(
                        "{} stays green without it",
                        removal.test
                    )))
                }
            }
        };
        match &verdict {
            Ok(hung) => println!(
                "{}: red, as it must be ({}{}), {}",
                removal.title(),
                removal.test,
                if *hung { ", which hung" } else { "" },
                shell::took(start)
            ),
            Err(Unfit::Wrong(why)) => println!("{}: NOT NOTICED: {why}", removal.title()),
            Err(Unfit::Skipped(_)) => {}
        }
        anyhow::Ok(verdict)
    });
    for (removal, verdict) in removals.iter().zip(verdicts) {
        match verdict? {
            Err(Unfit::Skipped(why)) => tally.skip(&removal.title(), &why),
            noticed => tally.check(&removal.title(), noticed.is_ok()),
        }
    }
    Ok(())
}

/// Why nothing can be said with a test, or what it says.
#[derive(Clone)]
enum Unfit {
    /// It skipped itself: this machine lacks something.
    Skipped(String),
    /// It does not run, or fails, or stays green.
    Wrong(String),
}

/// The package and the test that a removal is about.
type Key<'a> = (&'a str, &'a str);

fn key(removal: &Removal) -> Key<'_> {
    (&removal.package, &removal.test)
}

/// What `work` makes of each item, in their order, by `at_once` threads.
fn side_by_side<T: Sync, R: Send>(
    items: &[T],
    at_once: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let one_after_another = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return done;
            };
            done.push((at, work(item)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.max(1))
            .map(|_| scope.spawn(one_after_another))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Runs a removal's test with nothing taken out: it must run, and pass.
fn whole(
    removal: &Removal,
    programs: &[Program],
    env: &[(&str, &str)],
) -> Result<Result<(), Unfit>> {
    let test = &removal.test;
    let wrong = |why: String| Err(Unfit::Wrong(why));
    Ok(match attempt(removal, programs, env, false)? {
        Outcome { ran: 0, .. } => wrong(format!("no test of {} matches {test:?}", removal.package)),
        Outcome { red: true, .. } => wrong(format!("{test} fails with nothing taken out")),
        Outcome { ran, skips, .. } => match skips.first() {
            Some(reason) if skips.len() as u64 >= ran => {
                Err(Unfit::Skipped(format!("{test} skipped itself: {reason}")))
            }
            _ => Ok(()),
        },
    })
}

/// What the test programs of a package came to.
#[derive(Default)]
struct Outcome {
    ran: u64,
    red: bool,
    hung: bool,
    skips: Vec<String>,
}

fn attempt(
    removal: &Removal,
    programs: &[Program],
    env: &[(&str, &str)],
    take_out: bool,
) -> Result<Outcome> {
    let mut whole = Outcome::default();
    for program in programs
        .iter()
        .filter(|program| program.package == removal.package)
    {
        let mut command = program.command();
        command
            .arg(&removal.test)
            .args(["--test-threads=1", "--nocapture"])
            .envs(env.iter().copied());
        if take_out {
            command.env("DEVRX_SABOTAGE", &removal.name);
        } else {
            command.env_remove("DEVRX_SABOTAGE");
        }
        let done = shell::run_quietly(&mut command, LIMIT)?;
        // Not from the result line: a test that aborts leaves none.
        let ran: u64 = done
            .output
            .lines()
            .filter_map(|line| {
                line.strip_prefix("running ")?
                    .split(' ')
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .sum();
        whole.ran += ran;
        whole.red |= ran > 0 && !done.success;
        whole.hung |= done.hung;
        let mut counter = Counter::default();
        done.output.lines().for_each(|line| counter.see(line));
        whole.skips.extend_from_slice(counter.skips());
        if !take_out && ran > 0 && !done.success {
            println!("{}", done.output);
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once_and_results_keep_their_order() {
        let items: Vec<usize> = (0..100).collect();
        for at_once in [0, 1, 3, 200] {
            let calls = AtomicUsize::new(0);
            let results = side_by_side(&items, at_once, |item| {
                calls.fetch_add(1, Ordering::Relaxed);
                item * 2
            });
            assert!(results.iter().copied().eq((0..200).step_by(2)));
            assert_eq!(calls.into_inner(), 100);
        }
    }
}
