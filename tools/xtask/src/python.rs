//! The Python package: its wheel, and its tests.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::lane::Tally;
use crate::tests_run::Counter;
use crate::{packages, root, shell, target};

/// What makes a virtual environment: Debian's Python lacks it.
const NEEDS: &[packages::Need] = &[("python3", "python3")];
const VENV: &str = "python3-venv";

/// `cargo xtask wheel`: builds the wheel and says where it is.
pub fn wheel() -> Result<bool> {
    let tools = match environment()? {
        Ok(tools) => tools,
        Err(missing) => bail!("{missing}"),
    };
    let wheel = build(&tools)?;
    println!("wheel: {}", wheel.display());
    // Not into Debian's own Python, which refuses.
    println!(
        "install it: python3 -m venv ENV && ENV/bin/pip install {}",
        wheel.display()
    );
    Ok(true)
}

/// `cargo xtask wheel --test`: the package's part of the netns lane.
pub fn alone() -> Result<bool> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("network namespaces and AF_XDP sockets need root; run this as root");
    }
    shell::step("building devrx (release)");
    if !shell::run(shell::cargo().args(["build", "--locked", "--release", "--package", "devrx"]))? {
        bail!("the build failed; its messages are above");
    }
    let program = target().join("release/devrx");
    let mut tally = Tally::default();
    test(&program.to_string_lossy(), &mut tally)?;
    println!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    Ok(tally.failed == 0 && tally.passed > 0)
}

/// Tests the package with `program`, the real daemon. Where Python or its packages are not to be had, that is said and counts as skipped.
pub fn test(program: &str, tally: &mut Tally) -> Result<()> {
    shell::step("netns: the Python package");
    let tools = match environment()? {
        Ok(tools) => tools,
        Err(missing) => {
            tally.skip("python", &missing);
            return Ok(());
        }
    };
    let wheel = build(&tools)?;
    let installed = shell::run(
        tools
            .command("pip")
            .args(["install", "--quiet", "--no-index", "--no-deps"])
            .args(["--force-reinstall"])
            .arg(&wheel),
    )?;
    if !installed {
        bail!("pip cannot install {}", wheel.display());
    }
    let folder = root().join("tools/python");
    let mut counter = Counter::default();
    let ok = shell::run_seeing(
        tools
            .command("python")
            .args(["-m", "pytest", "tests"])
            .current_dir(&folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DEVRX_BIN", program),
        |line| counter.see(line),
    )?;
    counter.add_to(tally, "python", ok);
    Ok(())
}

/// A virtual environment with what builds and tests the package.
struct Tools(PathBuf);

impl Tools {
    fn command(&self, program: &str) -> Command {
        Command::new(self.0.join("bin").join(program))
    }
}

/// The environment: as it is where it was made for these requirements, else a new one. Or why there is none.
fn environment() -> Result<std::result::Result<Tools, String>> {
    if let Some(missing) = packages::ensure(NEEDS)? {
        return Ok(Err(missing));
    }
    let requirements = root().join("tools/python/requirements.txt");
    let wanted = std::fs::read_to_string(&requirements)
        .with_context(|| format!("cannot read {}", requirements.display()))?;
    let tools = Tools(target().join("python/venv"));
    // Written last: an environment that was only half made has none.
    let mark = tools.0.join("requirements.txt");
    if std::fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        return Ok(Ok(tools));
    }
    shell::step("making a Python environment");
    let can = |module: &str| {
        let mut look = Command::new("python3");
        look.args(["-c", &format!("import {module}")]);
        shell::run(look.stderr(std::process::Stdio::null()))
    };
    if !can("ensurepip, venv")?
        && let Some(missing) = packages::install("Python's venv", &[VENV])?
    {
        return Ok(Err(missing));
    }
    if !can("sys; assert sys.version_info >= (3, 11)")? {
        return Ok(Err(
            "Python 3.11 or later is needed, and python3 is older".into()
        ));
    }
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&tools.0);
    if !shell::run(&mut make)? {
        bail!("python3 -m venv cannot make {}", tools.0.display());
    }
    let got = shell::run(
        tools
            .command("pip")
            .args(["install", "--quiet", "--requirement"])
            .arg(&requirements),
    )?;
    if !got {
        return Ok(Err(format!(
            "pip cannot get what {} names: it needs a package index",
            requirements.display()
        )));
    }
    std::fs::write(&mark, wanted)?;
    Ok(Ok(tools))
}

/// Builds the wheel.
fn build(tools: &Tools) -> Result<PathBuf> {
    shell::step("building the Python wheel");
    // Emptied, so that what is found there is what was built.
    let out = target().join("wheels");
    if out.exists() {
        std::fs::remove_dir_all(&out)?;
    }
    let mut maturin = tools.command("maturin");
    maturin
        .args(["build", "--release", "--locked", "--interpreter"])
        .arg(tools.0.join("bin/python"))
        .arg("--manifest-path")
        .arg(root().join("tools/python/Cargo.toml"))
        .arg("--out")
        .arg(&out)
        .current_dir(root());
    shell::without_cargo(&mut maturin);
    if !shell::run(&mut maturin)? {
        bail!("maturin did not build the wheel; its messages are above");
    }
    let mut wheels = Vec::new();
    for entry in std::fs::read_dir(&out)? {
        wheels.push(entry?.path());
    }
    match &wheels[..] {
        [wheel] => Ok(wheel.clone()),
        _ => bail!("{} has {} wheels in it", out.display(), wheels.len()),
    }
}
