//! Building test programs once, so that each can be run many times.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{root, shell, target};

/// What to build.
#[derive(Default)]
pub struct Build<'a> {
    /// The packages.
    pub packages: &'a [String],
    /// More compiler flags, such as `--cfg loom`.
    pub flags: &'a str,
    /// The folder in the target directory to build in, for flags that differ from the ordinary build.
    pub folder: &'a str,
    /// Whether to optimise.
    pub release: bool,
    /// Whether to build the packages' programs too.
    pub bins: bool,
}

/// A test program that was built.
pub struct Program {
    /// The package it tests.
    pub package: String,
    /// The name of the target: the library's, or the file's in `tests/`.
    pub target: String,
    /// The program.
    pub path: PathBuf,
    /// The package's folder, which tests are run in.
    pub dir: PathBuf,
}

/// What a build made.
pub struct Built {
    /// The test programs.
    pub tests: Vec<Program>,
    /// The packages' own programs.
    pub bins: Vec<PathBuf>,
}

impl Program {
    /// A command that runs the program the way `cargo test` does.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.dir)
            .env("CARGO_MANIFEST_DIR", &self.dir);
        command
    }
}

impl Build<'_> {
    /// Builds, showing the compiler's messages.
    pub fn run(&self) -> Result<Built> {
        let mut command = shell::cargo();
        command.args([
            "build",
            "--locked",
            "--tests",
            "--message-format=json-render-diagnostics",
            "--target-dir",
        ]);
        command.arg(target().join(self.folder));
        for package in self.packages {
            command.args(["--package", package]);
        }
        if self.bins {
            command.arg("--bins");
        }
        if self.release {
            command.arg("--release");
        }
        if !self.flags.is_empty() {
            let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
            command.env("RUSTFLAGS", format!("{inherited} {}", self.flags).trim());
        }
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        if !output.status.success() {
            bail!(
                "{} did not build{}",
                self.packages.join(", "),
                if self.flags.is_empty() {
                    String::new()
                } else {
                    format!(" with {}", self.flags)
                }
            );
        }
        let mut built = Built {
            tests: Vec::new(),
            bins: Vec::new(),
        };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let Ok(message) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let (Some(path), Some(manifest)) = (
                message["executable"].as_str(),
                message["manifest_path"].as_str(),
            ) else {
                continue;
            };
            if message["profile"]["test"].as_bool() == Some(true) {
                let dir = Path::new(manifest).parent().unwrap_or(root()).to_path_buf();
                let target = message["target"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                built.tests.push(Program {
                    package: package_name(Path::new(manifest))?,
                    target,
                    path: path.into(),
                    dir,
                });
            } else {
                built.bins.push(path.into());
            }
        }
        Ok(built)
    }
}

fn workspace() -> Result<toml::Value> {
    let path = root().join("Cargo.toml");
    Ok(toml::from_str(&std::fs::read_to_string(&path)?)?)
}

/// The version of Rust that the workspace is written for.
pub fn rust_version() -> Result<String> {
    let workspace = workspace()?;
    let version = workspace["workspace"]["package"]["rust-version"].as_str();
    Ok(version
        .context("Cargo.toml has no rust-version")?
        .to_owned())
}

/// The version of the compiler that cargo uses here: 1.95.0.
pub fn compiler_version() -> Result<String> {
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(compiler)
        .arg("--version")
        .output()
        .context("cannot start rustc")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.split_whitespace().nth(1);
    Ok(version
        .context("rustc does not say its version")?
        .to_owned())
}

/// The `Cargo.toml` files of the workspace's members.
pub fn manifests() -> Result<Vec<PathBuf>> {
    let workspace = workspace()?;
    let members = workspace["workspace"]["members"]
        .as_array()
        .context("Cargo.toml has no workspace members")?;
    Ok(members
        .iter()
        .filter_map(toml::Value::as_str)
        .map(|member| root().join(member).join("Cargo.toml"))
        .collect())
}

/// The name of the package that a `Cargo.toml` describes.
pub fn package_name(manifest: &Path) -> Result<String> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    let value: toml::Value =
        toml::from_str(&text).with_context(|| format!("{} is not TOML", manifest.display()))?;
    Ok(value["package"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}
