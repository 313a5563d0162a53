//! `libdevrx`, installed as a user installs it, and programs that a bare compiler links to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::run_ok;

/// How long a compiler may take.
const COMPILER: Duration = Duration::from_secs(30);

/// An installed library.
#[derive(Debug)]
pub struct Sdk {
    prefix: TempDir,
}

/// The package of the library.
#[must_use]
pub fn capi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tools/client/capi")
}

impl Sdk {
    /// Installs the libraries that cargo built beside the test that calls this.
    pub fn install() -> Result<Self> {
        let prefix = tempfile::Builder::new()
            .prefix(&crate::lane::temporary("sdk"))
            .tempdir()?;
        let test = std::env::current_exe()?;
        let mut script = Command::new(capi().join("install.sh"));
        script
            .arg(test.parent().context("the test lies in a folder")?)
            .arg(prefix.path());
        run_ok(&mut script, COMPILER)?;
        Ok(Self { prefix })
    }

    /// The folder it is installed in.
    #[must_use]
    pub fn prefix(&self) -> &Path {
        self.prefix.path()
    }

    /// Compiles and links `source` with nothing but `compiler` (`cc`, `c++`) and what pkg-config says.
    pub fn build(&self, compiler: &str, options: &[&str], source: &Path) -> Result<PathBuf> {
        let program = self
            .prefix()
            .join(source.file_stem().context("a source file has a name")?);
        let mut pkg_config = Command::new("pkg-config");
        pkg_config
            .args(["--cflags", "--libs", "devrx"])
            .env("PKG_CONFIG_PATH", self.prefix().join("lib/pkgconfig"));
        let flags = run_ok(&mut pkg_config, COMPILER)?.stdout;
        let mut command = Command::new(compiler);
        command
            .args(["-Wall", "-Wextra", "-Werror"])
            .args(options)
            .arg(source)
            .args(flags.split_whitespace())
            .arg("-o")
            .arg(&program);
        run_ok(&mut command, COMPILER)?;
        Ok(program)
    }

    /// A command that finds the library and the daemon.
    #[must_use]
    pub fn command(&self, program: &Path, socket: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .env("LD_LIBRARY_PATH", self.prefix().join("lib"))
            .env("DEVRX_SOCKET", socket);
        command
    }
}
