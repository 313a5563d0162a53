//! Where a function is on the PCI buses.

use std::fmt;
use std::str::FromStr;

use crate::DriverError;

/// The address of a PCI function: domain, bus, device, function (PCI Local Bus Specification 3.0, 3.2.2.3.2).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PciAddress {
    /// The domain (segment): 16 bits on most machines, 32 behind Intel VMD.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device: 0 to 31.
    pub device: u8,
    /// The function: 0 to 7.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

impl FromStr for PciAddress {
    type Err = DriverError;

    /// Reads `0000:01:00.0`, or `01:00.0` in domain 0. Digits are hexadecimal.
    fn from_str(text: &str) -> Result<Self, DriverError> {
        parse(text).ok_or_else(|| DriverError::BadConfig {
            what: "PCI address",
            value: format!("{text:?}"),
            why: "write it as `devrx nic list` and lspci -D do: domain:bus:device.function in hexadecimal, such as \
                  0000:01:00.0; the domain can be left out where it is 0"
                .to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (domain, bus) = match rest.rsplit_once(':') {
        Some((domain, bus)) => (hex(domain, 4..=8)?, bus),
        None => (0, rest),
    };
    let address = PciAddress {
        domain,
        bus: u8::try_from(hex(bus, 2..=2)?).ok()?,
        device: u8::try_from(hex(device, 2..=2)?).ok()?,
        function: u8::try_from(hex(function, 1..=1)?).ok()?,
    };
    (address.device < 32 && address.function < 8).then_some(address)
}

/// Just digits: `from_str_radix` takes a sign too.
fn hex(text: &str, digits: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    (plain && digits.contains(&text.len()))
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_as_lspci_does() {
        for (text, written) in [
            ("0000:01:00.0", "0000:01:00.0"),
            ("01:00.0", "0000:01:00.0"),
            ("af:1F.7", "0000:af:1f.7"),
            ("10000:e1:00.1", "10000:e1:00.1"),
        ] {
            let address: PciAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse::<PciAddress>().unwrap(), address);
        }
    }

    #[test]
    fn anything_else_is_refused_and_told_what_one_looks_like() {
        for text in [
            "",
            "eth0",
            "1:00.0",
            "01:00",
            "01:20.0",
            "01:00.8",
            "0000:01:00.0 ",
            "000:01:00.0",
            "0000:01:00.+1",
            "+000:01:00.0",
            "0:0000:01:00.0",
            "../0:01:00.0",
            "123456789:01:00.0",
        ] {
            let error = text.parse::<PciAddress>().unwrap_err().to_string();
            assert!(error.contains("0000:01:00.0"), "{text}: {error}");
        }
    }
}
