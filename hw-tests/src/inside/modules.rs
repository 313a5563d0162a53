//! Kernel modules, from the lists that the host made.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

/// Where the modules and their lists are.
const FOLDER: &str = "/lib/devrx";

/// Loads a module and what it needs; one that is there already is left alone.
pub fn load(module: &str) -> Result<()> {
    let list = Path::new(FOLDER).join(format!("{module}.list"));
    let list = std::fs::read_to_string(list)
        .with_context(|| format!("module {module} is not among those the guest has"))?;
    for name in list.lines() {
        let file = File::open(Path::new(FOLDER).join(name))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("load {name}")),
        }
    }
    Ok(())
}

/// Unloads a module, which nothing may use.
pub fn unload(module: &str) -> Result<()> {
    let name = std::ffi::CString::new(module.replace('-', "_"))?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK).with_context(|| format!("unload {module}"))
}
