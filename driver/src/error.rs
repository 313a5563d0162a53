//! What can go wrong with a NIC.

use std::io;

use devrx_provider::ProviderError;

/// Why a NIC refused or failed. The text says what failed, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// There is no such NIC, or it is not one this driver can take.
    #[error("cannot use {nic}: {why}")]
    NoNic {
        /// Its name as it was given.
        nic: String,
        /// Why not, and what to do.
        why: String,
    },
    /// A queue number the NIC does not have.
    #[error(
        "{nic} has no queue {queue}: it has {queues}, numbered from 0; pick one of those, or ask for more with `ethtool -L`"
    )]
    NoQueue {
        /// The NIC.
        nic: String,
        /// The number asked for.
        queue: u32,
        /// How many there are.
        queues: u32,
    },
    /// The queue is taken.
    #[error("queue {queue} of {nic} is in use: {why}")]
    QueueBusy {
        /// The NIC.
        nic: String,
        /// The queue.
        queue: u32,
        /// By what, and what to do.
        why: String,
    },
    /// The queue is not open.
    #[error("queue {queue} of {nic} is not open; open it before flows are added to it")]
    QueueClosed {
        /// The NIC.
        nic: String,
        /// The queue.
        queue: u32,
    },
    /// A parameter outside what this NIC takes.
    #[error("{what} {value} cannot be used: {why}")]
    BadConfig {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: String,
        /// The rule it breaks and what to use instead.
        why: String,
    },
    /// The memory cannot serve this NIC.
    #[error("the memory cannot be used on {nic}: {why}")]
    UnfitMemory {
        /// The NIC.
        nic: String,
        /// Why, and what to use instead.
        why: String,
    },
    /// The NIC cannot do this.
    #[error("{nic} ({driver}) cannot {what}: {why}")]
    Unsupported {
        /// The NIC.
        nic: String,
        /// Its driver.
        driver: String,
        /// What was asked.
        what: &'static str,
        /// Why not, and what to do instead.
        why: String,
    },
    /// A flow rule was refused.
    #[error("flow rule `{rule}` on queue {queue} of {nic}: {why}")]
    Flow {
        /// The NIC.
        nic: String,
        /// The queue.
        queue: u32,
        /// The rule, as it is written.
        rule: String,
        /// Why, and what to do.
        why: String,
    },
    /// The NIC's firmware did not do what it was asked.
    #[error("the firmware of {nic} failed: {what}; {fix}")]
    Firmware {
        /// The NIC.
        nic: String,
        /// The command, and its answer.
        what: String,
        /// What to do.
        fix: String,
    },
    /// The memory provider refused.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// A system call failed.
    #[error("{call} failed ({source}): {fix}")]
    Sys {
        /// The system call, with its option.
        call: &'static str,
        /// What the kernel answered.
        source: io::Error,
        /// What to do about it.
        fix: String,
    },
}

impl DriverError {
    /// A failed system call, `fix` saying what to do.
    pub(crate) fn sys(call: &'static str, source: io::Error, fix: impl Into<String>) -> Self {
        Self::Sys {
            call,
            source,
            fix: fix.into(),
        }
    }
}
