//! The book in `docs/`: built with mdBook where it is installed, otherwise its table of contents and links are checked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::lane::Tally;
use crate::{root, shell};

/// Checks the book.
pub fn check(tally: &mut Tally) -> Result<()> {
    let docs = root().join("docs");
    if !docs.join("book.toml").exists() {
        tally.skip("book", "docs/book.toml is not there yet");
        return Ok(());
    }
    let problems = problems(&docs.join("src"))?;
    for problem in &problems {
        println!("{problem}");
    }
    tally.check("book: contents and links", problems.is_empty());
    if shell::has("mdbook") || shell::has_cargo("mdbook") {
        tally.check(
            "book: mdbook build",
            shell::run(Command::new("mdbook").arg("build").arg(&docs))?,
        );
    } else {
        tally.skip(
            "book: mdbook build",
            "mdbook is not installed (cargo install mdbook)",
        );
    }
    Ok(())
}

/// Files that SUMMARY.md does not name, and links to files that are not there.
fn problems(src: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut pages = Vec::new();
    collect(src, &mut pages)?;
    let summary = std::fs::read_to_string(src.join("SUMMARY.md")).unwrap_or_default();
    let listed: Vec<PathBuf> = links(&summary).map(|link| src.join(link)).collect();
    for page in &pages {
        if page.file_name().is_some_and(|name| name != "SUMMARY.md") && !listed.contains(page) {
            problems.push(format!("{}: SUMMARY.md does not name it", page.display()));
        }
        let text = std::fs::read_to_string(page)?;
        for link in links(&text) {
            let to = page.parent().unwrap_or(src).join(link);
            if !to.exists() {
                problems.push(format!(
                    "{}: the link to {link} leads nowhere",
                    page.display()
                ));
            }
        }
    }
    Ok(problems)
}

fn collect(dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), pages)?;
        } else if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "md")
        {
            pages.push(entry.path());
        }
    }
    Ok(())
}

/// The targets of `[text](target)` that are files: no address, no bare anchor, nothing inside a code fence or a code span.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines()
        .filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .flat_map(|line| line.split('`').step_by(2))
        .flat_map(|prose| prose.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.split('#').next().unwrap_or_default())
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"))
}

#[cfg(test)]
mod tests {
    use super::links;

    #[test]
    fn only_files_outside_code_are_links() {
        let text = "[a](a.md) [b](b.md#there) [c](https://example.org) [d](#here) `[e](e.md)`\n```\n[f](f.md)\n```\n[g](g.md)";
        assert_eq!(links(text).collect::<Vec<_>>(), ["a.md", "b.md", "g.md"]);
    }
}
