//! What the kernel says about a GPU without any library: the size of its windows on the PCI bus, and its driver.

use std::path::Path;

/// Where the kernel shows PCI functions.
pub const SYSFS: &str = "/sys/bus/pci/devices";

/// The size of a BAR, bytes; 0 for one that the function does not have. `None` where there is no such function.
///
/// `address` is as CUDA and HIP give it (`0000:3B:00.0`); the kernel writes it in small letters.
#[must_use]
pub fn bar_size(sysfs: &Path, address: &str, bar: usize) -> Option<u64> {
    let address = address.to_ascii_lowercase();
    if !address
        .chars()
        .all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.')
    {
        return None;
    }
    let text = std::fs::read_to_string(sysfs.join(address).join("resource")).ok()?;
    parse_bar(&text, bar)
}

/// One line a BAR: first byte, last byte and flags, in hexadecimal (Documentation/PCI/sysfs-pci.rst).
fn parse_bar(text: &str, bar: usize) -> Option<u64> {
    let mut words = text
        .lines()
        .nth(bar)?
        .split_whitespace()
        .map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let (first, last) = (words.next()??, words.next()??);
    if last == 0 {
        return Some(0);
    }
    last.checked_sub(first)?.checked_add(1)
}

/// The version of NVIDIA's kernel module, as `/proc/driver/nvidia/version` has it in its first line; `None` where it is not loaded.
#[must_use]
pub fn nvidia_module() -> Option<String> {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").ok()?;
    Some(module_version(&text))
}

/// The first word of the line that looks like a version: the words before it differ between the flavours of the module.
fn module_version(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.split_whitespace()
        .find(|word| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.'))
        .unwrap_or("unknown")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_bars() {
        let text = "0x00000000f2000000 0x00000000f2ffffff 0x0000000000040200\n\
                    0x0000004000000000 0x0000007fffffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\n";
        assert_eq!(parse_bar(text, 0), Some(16 << 20));
        assert_eq!(parse_bar(text, 1), Some(256 << 30));
        assert_eq!(parse_bar(text, 2), Some(0));
        assert_eq!(parse_bar(text, 3), None);
        assert_eq!(parse_bar("nonsense", 0), None);
        let dir = std::env::temp_dir();
        assert_eq!(bar_size(&dir, "../etc", 0), None);
        assert_eq!(bar_size(&dir, "0000:00:1f.9", 0), None);
    }

    #[test]
    fn versions_of_the_module() {
        let closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version:";
        assert_eq!(module_version(closed), "550.54.15");
        let open = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  610.12  Release Build";
        assert_eq!(module_version(open), "610.12");
        assert_eq!(module_version(""), "unknown");
    }
}
