//! What the daemon shall do: the configuration file and the command line, merged and checked before anything is touched.

mod file;
mod flows;
mod plan;
mod units;

use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use devrx_proto::DEFAULT_SOCKET;
pub use file::{Limits, PolicyRule, PollMode};
pub use plan::{PlannedAttachment, QueueSettings};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: std::io::Error,
    },
    /// The file is not what a configuration is. The text names line, key and what is expected.
    #[error("the configuration {path} is refused: {text}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, key, expectation.
        text: String,
    },
    /// Each part is fine, together they are not.
    #[error("{0}")]
    Conflict(String),
    /// A NIC is not written as one.
    #[error(
        "{0:?} is not a NIC; write afxdp:IFNAME, as in afxdp:eth0, or vfio:PCI, as in vfio:0000:03:00.0"
    )]
    NicSpec(String),
}

/// A NIC as the command line and the file name it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum NicSpec {
    /// `afxdp:IFNAME`: queues of a NIC that Linux drives.
    AfXdp(String),
    /// `vfio:PCI`: a whole NIC, by PCI address.
    Vfio(String),
}

impl NicSpec {
    /// The interface name or PCI address: how clients name the NIC.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::AfXdp(name) | Self::Vfio(name) => name,
        }
    }
}

impl fmt::Display for NicSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AfXdp(name) => write!(f, "afxdp:{name}"),
            Self::Vfio(address) => write!(f, "vfio:{address}"),
        }
    }
}

impl FromStr for NicSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::NicSpec(text.to_owned());
        let (kind, name) = text.split_once(':').ok_or_else(wrong)?;
        if name.is_empty() || name.contains(['/', '\0']) || name.contains(char::is_whitespace) {
            return Err(wrong());
        }
        match kind {
            // IFNAMSIZ, include/uapi/linux/if.h: 16 with the terminating zero.
            "afxdp" if name.len() < 16 => Ok(Self::AfXdp(name.to_owned())),
            // One spelling, whichever the user has: 03:00.0 is 0000:03:00.0.
            "vfio" => name
                .parse::<devrx_driver::vfio::PciAddress>()
                .map(|address| Self::Vfio(address.to_string()))
                .map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

/// One NIC the daemon shall serve.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// Which.
    pub spec: NicSpec,
    /// A name of the user's own, which clients may use as well.
    pub alias: Option<String>,
    /// Settings of its queues, for attachments that do not say otherwise.
    pub queues: Vec<QueueSettings>,
    /// The package (DDP) of a NIC that takes one; the distribution's if none.
    pub package: Option<PathBuf>,
    /// Whether it takes frames to any address; its driver's default if none.
    pub promiscuous: Option<bool>,
    /// Whether it takes VLAN tags out of frames; its driver's default if none.
    pub vlan_strip: Option<bool>,
}

/// Everything the daemon is told.
#[derive(Debug, Default)]
pub struct Config {
    /// Path of the Unix socket; [`DEFAULT_SOCKET`] if none.
    pub socket: Option<PathBuf>,
    /// Permissions of the socket.
    pub socket_mode: u32,
    /// The group the socket is given to.
    pub socket_group: Option<String>,
    /// The NICs to serve.
    pub nics: Vec<NicConfig>,
    /// Attachments made at start.
    pub attachments: Vec<PlannedAttachment>,
    /// What others than root may do.
    pub policy: Vec<PolicyRule>,
    /// What the daemon as a whole puts up with.
    pub limits: Limits,
    /// Whose dma-bufs are taken.
    pub dmabuf: devrx_provider::dmabuf::Policy,
    /// Where GPUs are had.
    pub gpus: crate::attachment::Gpus,
    /// The program that is the keeper, with its arguments; this program with the argument `keeper` if none. For a daemon within another
    /// program.
    pub keeper: Option<Vec<OsString>>,
    /// A byte is written here once clients can connect.
    pub ready: Option<OwnedFd>,
}

impl Config {
    /// Reads a configuration file; without one, the defaults.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming file, line and key.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::from_file(file::File::default());
        };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|error| match error {
            ConfigError::Conflict(text) => ConfigError::Syntax {
                path: path.to_owned(),
                text,
            },
            other => other,
        })
    }

    /// Reads a configuration from text.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Conflict`] with line and key.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: file::File =
            toml::from_str(text).map_err(|e| ConfigError::Conflict(e.to_string()))?;
        Self::from_file(file)
    }

    fn from_file(file: file::File) -> Result<Self, ConfigError> {
        let (nics, attachments) = plan::plan(&file)?;
        crate::policy::check_rules(&file.policy).map_err(ConfigError::Conflict)?;
        Ok(Self {
            socket: file.socket.path,
            socket_mode: file.socket.mode,
            socket_group: file.socket.group,
            nics,
            attachments,
            policy: file.policy,
            limits: file.limits,
            dmabuf: file.dmabuf.policy(),
            gpus: file.gpu.gpus().map_err(ConfigError::Conflict)?,
            keeper: None,
            ready: None,
        })
    }

    /// Adds what the command line says: NICs that the file does not have, and the socket, which goes before the file's.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NicSpec`]; [`ConfigError::Conflict`] when there is no NIC at all.
    pub fn merge_cli(
        &mut self,
        nics: &[String],
        socket: Option<PathBuf>,
    ) -> Result<(), ConfigError> {
        for text in nics {
            let spec: NicSpec = text.parse()?;
            if !self.nics.iter().any(|nic| nic.spec == spec) {
                if self.nics.iter().any(|nic| nic.spec.name() == spec.name()) {
                    return Err(ConfigError::Conflict(format!(
                        "{} is given twice, in two ways; keep one",
                        spec.name()
                    )));
                }
                self.nics.push(NicConfig {
                    spec,
                    alias: None,
                    queues: Vec::new(),
                    package: None,
                    promiscuous: None,
                    vlan_strip: None,
                });
            }
        }
        if self.nics.is_empty() {
            return Err(ConfigError::Conflict(
                "no NIC to serve: give --nic afxdp:IFNAME, or [[interfaces]] in the configuration"
                    .into(),
            ));
        }
        if socket.is_some() {
            self.socket = socket;
        }
        Ok(())
    }

    /// Where the socket is.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(DEFAULT_SOCKET))
    }
}

#[cfg(test)]
mod tests;
