//! Where the package is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::file::Package;
use super::unpack::plain;
use crate::ice::options::PackageSource;

/// Where distributions put it, the administrator's own first.
const FOLDERS: [&str; 2] = [
    "/lib/firmware/updates/intel/ice/ddp",
    "/lib/firmware/intel/ice/ddp",
];
/// No package is larger than a few megabytes.
const MOST: u64 = 64 << 20;

/// What was found.
pub(super) enum Found {
    /// A package; and whether it is what the user asked for.
    Package(Arc<Package>, bool),
    /// None; why.
    Nothing(String),
    /// What the user asked for is none.
    Bad(String),
}

/// Finds the package.
pub(super) fn find(source: &PackageSource) -> Found {
    match source {
        PackageSource::System => system(&FOLDERS.map(PathBuf::from)),
        PackageSource::File(path) => {
            read(path).map_or_else(Found::Bad, |p| Found::Package(p, true))
        }
        PackageSource::Bytes(bytes) => Package::parse(Arc::clone(bytes)).map_or_else(
            |why| Found::Bad(format!("the package cannot be used: {why}")),
            |package| Found::Package(Arc::new(package), true),
        ),
        PackageSource::None => Found::Nothing("no package was to be used".to_owned()),
    }
}

fn read(path: &Path) -> Result<Arc<Package>, String> {
    let cannot = |why: String| format!("the package {} cannot be used: {why}", path.display());
    let len = std::fs::metadata(path).map_err(|error| cannot(error.to_string()))?;
    if len.len() > MOST {
        return Err(cannot(format!("it has {} bytes", len.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| cannot(error.to_string()))?;
    let bytes = plain(bytes, MOST).map_err(cannot)?;
    Package::parse(bytes.into()).map(Arc::new).map_err(cannot)
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    names
}

/// A package's name without what packing adds to it.
fn unpacked(name: &str) -> &str {
    [".zst", ".xz"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

/// `ice-1.3.41.0.pkg` as numbers, packed or not; names of other packages (`ice_comms-...`) are none.
fn version(name: &str) -> Option<Vec<u32>> {
    let numbers = unpacked(name).strip_prefix("ice-")?.strip_suffix(".pkg")?;
    numbers
        .split('.')
        .map(|number| number.parse().ok())
        .collect()
}

fn system(folders: &[PathBuf]) -> Found {
    let mut bad = None;
    for folder in folders {
        let names = names(folder);
        let mut candidates: Vec<String> = names
            .iter()
            .filter(|name| unpacked(name) == "ice.pkg")
            .cloned()
            .collect();
        let mut versions: Vec<_> = names
            .iter()
            .filter_map(|name| version(name).map(|version| (version, name)))
            .collect();
        versions.sort();
        candidates.extend(versions.into_iter().rev().map(|(_, name)| name.clone()));
        for name in candidates {
            match read(&folder.join(name)) {
                Ok(package) => return Found::Package(package, false),
                Err(why) => bad = bad.or(Some(why)),
            }
        }
    }
    Found::Nothing(bad.unwrap_or_else(|| {
        format!(
            "there is no package in {}",
            folders[folders.len() - 1].display()
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ice::package::file::tests::made;

    #[test]
    fn the_file_that_linux_takes_comes_first_then_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("updates"), folder.path().to_owned()];
        let Found::Nothing(why) = system(&folders) else {
            panic!("nothing is there");
        };
        assert!(why.contains("there is no package"), "{why}");
        // What a distribution packed is taken, if it can be unpacked.
        let packed = folder.path().join("ice.pkg.zst");
        std::fs::write(&packed, [0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3]).unwrap();
        let Found::Nothing(why) = system(&folders) else {
            panic!("nothing of use is there");
        };
        assert!(why.contains("cannot be unpacked (zstd)"), "{why}");
        std::fs::remove_file(packed).unwrap();
        let bytes = made(&[vec![(16, vec![1; 8])]]);
        std::fs::write(folder.path().join("ice-1.3.9.0.pkg"), &bytes).unwrap();
        std::fs::write(folder.path().join("ice-1.3.10.0.pkg"), b"broken").unwrap();
        std::fs::write(folder.path().join("ice_comms-1.3.55.0.pkg"), &bytes).unwrap();
        // The newest is broken, so the next is taken.
        assert!(matches!(system(&folders), Found::Package(_, false)));
        assert_eq!(version("ice-1.3.10.0.pkg"), Some(vec![1, 3, 10, 0]));
        assert_eq!(version("ice-1.3.10.0.pkg.xz"), Some(vec![1, 3, 10, 0]));
        assert_eq!(version("ice_comms-1.3.55.0.pkg"), None);
    }

    #[test]
    fn what_was_asked_for_is_not_replaced() {
        let source = PackageSource::File("/nowhere/ice.pkg".into());
        let Found::Bad(why) = find(&source) else {
            panic!("it is not there");
        };
        assert!(why.contains("/nowhere/ice.pkg"), "{why}");
    }
}
